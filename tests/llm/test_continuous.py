"""Continuous prompts: one pass gives every prefix's condition, and no condition knows its target."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.histories import TrainingSequence
from recsys.errors import ArtifactError
from recsys.llm.attention import PADDING, Branches, branch_masks
from recsys.llm.backbone import encode_text
from recsys.llm.conditions import ConditionedBatch, sequential_rows
from recsys.llm.connector import Connector
from recsys.llm.continuous import ContinuousLayout, ContinuousPrompts, ContinuousTexts, collate, continuous_batches
from recsys.llm.continuous_conditions import ContinuousConditions, continuous_query_conditions
from recsys.llm.heads import LanguageModelLoss
from recsys.llm.storage import LanguageModel
from recsys.tables import Histories
from tests.decoding.backbones import SUPPORTED, backbone
from tests.llm.fakes import TITLES, language_model, semantic_ids

MADE = language_model()
IDS = semantic_ids()
LATENTS = np.random.default_rng(0).standard_normal((6, 2, 8)).astype(np.float32)
LAYOUT = ContinuousLayout(MADE.layout.size, 2)
# Titles of as many tokens each, so that another target changes no length.
TEXTS = ContinuousTexts(titles=[f"{c}" for c in "abcdef"], answers=[f"x{c}" for c in "abcdef"])
KINDS = pytest.mark.parametrize("titles", [True, False])


def _prompts(*, titles: bool = True, made: LanguageModel = MADE, texts: ContinuousTexts = TEXTS) -> ContinuousPrompts:
    return ContinuousPrompts(made, LAYOUT, texts if titles else texts._replace(titles=None))


def _connector() -> Connector:
    return Connector.for_model(MADE, LATENTS, seed=1)


def _module() -> ContinuousConditions:
    return ContinuousConditions(MADE, _connector()).eval()


def _histories(*lists: list[int]) -> Histories:
    return Histories.from_lists([f"u{n}" for n in range(len(lists))], list(lists))


def _trained(prompts: ContinuousPrompts, *lists: list[int]) -> ConditionedBatch:
    sequences = [np.array(items) for items in lists]
    batch = collate(
        [prompts.row(items) for items in sequences], sequential_rows(MADE, IDS, list(map(TrainingSequence, sequences)))
    )
    with torch.no_grad():
        found: ConditionedBatch = _module()(*batch)
    return found


@settings(max_examples=10, deadline=None)
@given(st.lists(st.lists(st.integers(0, 5), min_size=2, max_size=7), min_size=1, max_size=3), st.booleans())
def test_one_pass_gives_the_query_condition_of_every_prefix(lists: list[list[int]], titles: bool) -> None:
    prompts = _prompts(titles=titles)
    found = _trained(prompts, *lists)
    prefixes = [items[:t] for items in lists for t in range(len(items))]
    asked = continuous_query_conditions(_module(), prompts, _histories(*prefixes), window=50)
    assert found.targets.tolist() == [item for items in lists for item in items]
    torch.testing.assert_close(found.states, asked, atol=1e-5, rtol=1e-5)


@KINDS
@pytest.mark.parametrize("position", range(5))
def test_no_condition_sees_its_target(titles: bool, position: int) -> None:
    """Another item, id and words, leaves the conditions before it equal, bit for bit."""
    items = [0, 3, 1, 5, 2]
    other = items.copy()
    other[position] = 4
    first, second = _trained(_prompts(titles=titles), items), _trained(_prompts(titles=titles), other)
    assert torch.equal(first.states[: position + 1], second.states[: position + 1])
    assert all(
        not torch.equal(a, b) for a, b in zip(first.states[position + 1 :], second.states[position + 1 :], strict=True)
    )


def test_words_of_the_last_target_of_any_length_reach_no_condition() -> None:
    long = TEXTS._replace(answers=["", "a", "b c d", "e f g h i j k", "l m", "n"])
    states = [_trained(_prompts(texts=long), [0, 3, last]).states for last in range(6)]
    for other in states[1:]:
        torch.testing.assert_close(other, states[0], atol=1e-6, rtol=1e-6)


@KINDS
def test_the_texts_loss_is_that_of_a_plain_sequence(titles: bool) -> None:
    prompts, module, items = _prompts(titles=titles), _module(), [2, 0, 4]
    answer = prompts.answer(4)
    assert answer == [*encode_text(MADE.tokenizer, "xe"), MADE.tokenizer.eos_token_id]
    prompt = prompts.prompt(np.array(items[:-1]))
    targets = torch.tensor([[-100] * (len(prompt) - 1) + answer])
    codes = sequential_rows(MADE, IDS, [TrainingSequence(np.array(items))])
    with torch.no_grad():
        text = module.loss.losses(module.hidden(torch.tensor([prompt + answer[:-1]])), targets)
        row = torch.tensor([codes[0].row.tokens])
        asked = row[:, 1:].masked_fill(row[:, 1:] < MADE.layout.base, -100)
        code = LanguageModelLoss(MADE.model, MADE.layout)(row[:, :-1], asked)
    found = _trained(prompts, items).language_model
    assert (found.num_text, found.num_code) == (len(answer), 9)
    torch.testing.assert_close(found.mean(), text.plus(code).mean())


def test_an_item_without_text_has_no_answer() -> None:
    for texts in (TEXTS._replace(answers=[""] * 6), TEXTS._replace(answers=None)):
        prompts = _prompts(texts=texts)
        assert prompts.answer(4) == []
        assert set(prompts.row(np.array([2, 0, 4])).targets) == {-100}


def test_an_item_is_its_latents_between_two_special_tokens_behind_its_title() -> None:
    prompt = _prompts().prompt(np.array([2]))
    base = MADE.layout.size
    assert (LAYOUT.begin, LAYOUT.end, LAYOUT.preference, LAYOUT.first_latent) == (base, base + 1, base + 2, base + 3)
    tail = [LAYOUT.begin, LAYOUT.first_latent + 4, LAYOUT.first_latent + 5, LAYOUT.end, LAYOUT.preference]
    assert prompt[-6:] == encode_text(MADE.tokenizer, "c") + tail
    assert _prompts(titles=False).prompt(np.array([2]))[-6:] != prompt[-6:]


def test_no_text_tokenizes_into_a_special_token() -> None:
    texts = ContinuousTexts(titles=["<item> <pref> </item> <a_1>"] * 6)
    prompt, without = (_prompts(texts=texts, titles=titles).prompt(np.array([0])) for titles in (True, False))
    assert len(prompt) > len(without)
    assert [token for token in prompt if token >= MADE.layout.base] == without[-5:]


def test_latents_come_as_large_as_the_models_own_embeddings() -> None:
    connector = _connector()
    embedding = MADE.model.get_input_embeddings()
    made = connector(torch.arange(LAYOUT.first_latent, LAYOUT.first_latent + 12).unsqueeze(0), embedding)
    words = embedding.weight[: MADE.layout.base]
    size = made.square().mean(-1).sqrt()
    torch.testing.assert_close(size, words.square().mean().sqrt().expand_as(size), rtol=1e-3, atol=0)
    ids = torch.tensor([[3, MADE.layout.base, LAYOUT.preference, 5]])
    assert torch.equal(connector(ids, embedding)[0, [0, 1, 3]], embedding(ids[0, [0, 1, 3]]))
    special = connector(torch.tensor([[LAYOUT.begin, LAYOUT.end, LAYOUT.preference]]), embedding)[0]
    torch.testing.assert_close(special, connector.special)
    torch.testing.assert_close(special.square().mean().sqrt(), words.square().mean().sqrt(), rtol=0.3, atol=0)


@pytest.mark.parametrize("max_tokens", range(26, 46))
def test_over_long_histories_lose_their_oldest_items_never_the_answer(max_tokens: int) -> None:
    """No more of them than leave room for `<pref>` and the longest answer, of 8 tokens and its end."""
    short = MADE._replace(config=MADE.config.model_copy(update={"max_tokens": max_tokens}))
    prompts, items = _prompts(made=short), np.array([0, 3, 1, 5, 2, 4, 0])
    row = prompts.row(items)
    item_tokens = len(prompts.prompt(items[:1])) - len(prompts.prompt(items[:0]))
    rest = max_tokens - len(prompts.prompt(items[:0])) - 9
    assert len(row.items) - 1 == min(max(rest // item_tokens, 1), 6)
    assert row.items.tolist() == items[-len(row.items) :].tolist()
    assert [t for t in row.targets if t >= 0] == prompts.answer(0)


@pytest.mark.parametrize("name", sorted(SUPPORTED))
def test_a_branch_is_read_like_a_sequence_by_every_supported_backbone(name: str) -> None:
    model, rows = backbone(name), torch.arange(12)
    tokens = torch.cat([rows, torch.tensor([50, 50, 51, 7])]).unsqueeze(0)
    branches = Branches(
        torch.tensor([[*range(12), 5, 12, 13, 0]]),
        torch.tensor([[*range(1, 13), 5, 12, 12, 0]]),
        torch.tensor([[*[0] * 12, 1, 2, 2, PADDING]]),
    )
    decoder: Any = model.base_model
    with torch.no_grad():
        found = decoder(
            input_ids=tokens, attention_mask=branch_masks(decoder, branches), position_ids=branches.positions
        ).last_hidden_state[0]
        short = decoder(input_ids=torch.tensor([[*range(5), 50]])).last_hidden_state[0]
        long = decoder(input_ids=torch.tensor([[*range(12), 50, 51]])).last_hidden_state[0]
    torch.testing.assert_close(found[12], short[-1], atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(found[[*range(12), 13, 14]], long, atol=2e-4, rtol=1e-3)


def test_an_epochs_batches_depend_on_seed_and_epoch_alone() -> None:
    sequences = [np.array([i % 6, (i + 1) % 6, (i + 2) % 6]) for i in range(20)]
    prompts, codes = _prompts(), sequential_rows(MADE, IDS, list(map(TrainingSequence, sequences)))
    rows = [prompts.row(items) for items in sequences]

    def tokens(epoch: int) -> list[list[list[int]]]:
        return [b.tokens.tolist() for b in continuous_batches(rows, codes, batch_tokens=90, seed=0, epoch=epoch)]

    assert tokens(1) == tokens(1) != tokens(2)


def test_a_connector_comes_back_bit_for_bit_and_a_damaged_one_is_refused(tmp_path: Any) -> None:
    connector = _connector()
    connector.save(tmp_path)
    loaded = Connector.load(tmp_path, LAYOUT, LATENTS)
    ids = torch.tensor([[3, LAYOUT.begin, LAYOUT.first_latent, LAYOUT.preference]])
    embedding = MADE.model.get_input_embeddings()
    assert torch.equal(loaded(ids, embedding), connector(ids, embedding))
    with pytest.raises(ArtifactError, match=r"connector\.safetensors"):
        Connector.load(tmp_path, LAYOUT, LATENTS[:, :, :4])
    with pytest.raises(ArtifactError, match=r"connector\.safetensors"):
        Connector.load(tmp_path / "none", LAYOUT, LATENTS)


def test_titles_and_answers_are_capped() -> None:
    long = ContinuousTexts(
        titles=[f"{title} " * 40 for title in TITLES], answers=[f"{title} " * 40 for title in TITLES]
    )
    prompts = _prompts(texts=long)
    added = len(prompts.prompt(np.array([0]))) - len(_prompts(texts=long, titles=False).prompt(np.array([0])))
    assert added == 8
    assert len(prompts.answer(0)) == 9  # with the end token
