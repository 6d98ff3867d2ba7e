"""Rows whose items take one position: every item is predicted as the decoder will write it, and as a whole."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from recsys.decoding.beam import decode_all
from recsys.instructions.examples import Example
from recsys.llm import item_loss
from recsys.llm.collation import epoch_batches
from recsys.llm.item_loss import ItemLoss, ItemLosses, ItemLossWeights, code_distributions
from recsys.llm.item_rows import branched, branched_form, collate
from recsys.llm.storage import LanguageModel
from recsys.tokenization.trie import Trie
from recsys.training.softmax import Terms
from tests.llm.fakes import item_table, language_model, semantic_ids
from tests.llm.naive import code_logits, embedded, naive_written, scores_of, writing_states

HISTORIES = [(0, 3, 1), (5,), (2, 4, 2, 2, 0), (1, 1)]
WEIGHTS = [(0.5, 1.0, 2.0), (), (0.0, 1.0, 0.0, 3.0, 1.0), (0.0, 1.0)]
ALONE = ItemLossWeights(0.7)
TEXT = [Example("item_to_id", item=2, text="red pot"), Example("id_to_item", item=4, text="blue lid")]


def reading_items(**kind: bool) -> LanguageModel:
    return language_model(**kind)._replace(items=item_table())


def naive_item(model: LanguageModel, prompt: list[int], history: tuple[int, ...], item: int) -> torch.Tensor:
    assert model.items is not None
    state = model.model.base_model(inputs_embeds=embedded(model, prompt).unsqueeze(0)).last_hidden_state[:, -1]
    scores = scores_of(model, state, history)
    return F.cross_entropy(scores, torch.tensor([item]))


def loss_of(model: LanguageModel, examples: list[Example], weights: ItemLossWeights = ALONE) -> tuple[ItemLosses, Any]:
    renderer = model.renderer(semantic_ids())
    assert model.items is not None
    module = ItemLoss(model.model, model.layout, model.items, weights)
    batch = collate([branched(renderer.render(example, 0), renderer) for example in examples])
    return module(*batch), module


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("scratch", [True, False])
def test_items_are_predicted_as_by_one_pass_for_each(weighted: bool, scratch: bool) -> None:
    model = reading_items(scratch=scratch)
    renderer = model.renderer(semantic_ids())
    given = WEIGHTS if weighted else [()] * len(HISTORIES)
    examples = [Example("sequential", history=h, weights=w) for h, w in zip(HISTORIES, given, strict=True)]
    found, module = loss_of(model, examples)
    written, items, count = [], [], 0
    for history, weights in zip(HISTORIES, given, strict=True):
        for place, item in enumerate(history):
            weight = weights[place] if weights else 1.0
            if weight == 0:
                continue
            prompt = renderer.prompt(history[:place])
            written.append(weight * naive_written(model, prompt, renderer.code_tokens[item]).sum())
            items.append(weight * naive_item(model, prompt, history[:place], item))
            count += 1
    torch.testing.assert_close(found.written.code, torch.stack(written).sum())
    assert found.written.num_code == 3 * count
    torch.testing.assert_close(found.item, torch.stack(items).sum() / count)
    torch.testing.assert_close(found.mean(), found.written.mean() + 0.7 * found.item)
    expected = torch.stack(written).sum() / (3 * count) + 0.7 * torch.stack(items).sum() / count
    parameters = dict(module.named_parameters())
    ours = torch.autograd.grad(found.mean(), list(parameters.values()), allow_unused=True)
    theirs = torch.autograd.grad(expected, list(parameters.values()), allow_unused=True)
    for name, mine, naive in zip(parameters, ours, theirs, strict=True):
        torch.testing.assert_close(mine, naive, atol=1e-5, rtol=1e-4, msg=name)


def test_text_is_read_and_written_beside_items() -> None:
    model = reading_items()
    renderer = model.renderer(semantic_ids())
    history = [Example("sequential", history=HISTORIES[0])]
    alone, _ = loss_of(model, history)
    both, _ = loss_of(model, [*history, *TEXT])
    assert both.written.num_code == alone.written.num_code + 3
    row = renderer.render(TEXT[0], 0)
    prompt = row.tokens[: row.answer]
    naive = naive_written(model, prompt, renderer.code_tokens[2]).sum()
    torch.testing.assert_close(both.written.code, alone.written.code + naive)
    torch.testing.assert_close(both.item, (3 * alone.item + naive_item(model, prompt, (), 2)) / 4)
    assert renderer.first_item is not None
    assert renderer.first_item + 4 in renderer.render(TEXT[1], 0).tokens, "an item that is read is one token"
    assert both.written.num_text > 0
    only, module = loss_of(model, TEXT[1:])
    assert float(only.item.detach()) == 0
    only.mean().backward()  # type: ignore[no-untyped-call]
    missing = [name for name, tensor in module.items.named_parameters() if tensor.grad is None]
    assert missing == [], "every process of several has a gradient of every parameter"


@pytest.mark.parametrize("head", [{}, {"logits_scaling": 0.3}, {"final_logit_softcapping": 0.5}])
@torch.no_grad()
def test_the_beam_search_writes_what_was_trained(head: dict[str, float]) -> None:
    model = reading_items()
    for name, value in head.items():
        setattr(model.model.config, name, value)
    found_loss, _ = loss_of(model, [Example("sequential", history=HISTORIES[0])])
    code_tokens = model.renderer(semantic_ids()).code_tokens
    histories = [(model.renderer(semantic_ids()).prompt(HISTORIES[0][:n]), HISTORIES[0][n]) for n in range(3)]
    expected = sum(naive_written(model, prompt, code_tokens[item]).sum() for prompt, item in histories)
    torch.testing.assert_close(found_loss.written.code, expected)
    renderer, ids = model.renderer(semantic_ids()), semantic_ids()
    prompts = [renderer.prompt(history) for history in HISTORIES]
    trie = Trie.build(ids.codes, ids.num_codes)
    base = model.layout.base
    (found,) = decode_all(model.model, prompts, trie=trie, base=base, beams=6, batch_size=3, reader=model.reader).tops
    for row, prompt in enumerate(prompts):
        scores = np.array([-float(naive_written(model, prompt, renderer.code_tokens[item]).sum()) for item in range(6)])
        order = np.argsort(-scores, kind="stable")
        np.testing.assert_array_equal(found.items[row], order)
        np.testing.assert_allclose(found.scores[row], scores[order], atol=1e-4)


def test_a_model_that_has_decoded_can_be_trained_on() -> None:
    model = reading_items()
    prompts = [model.renderer(semantic_ids()).prompt(HISTORIES[0])]
    trie = Trie.build(semantic_ids().codes, 4)
    decode_all(model.model, prompts, trie=trie, base=model.layout.base, beams=2, batch_size=1, reader=model.reader)
    found, module = loss_of(model, [Example("sequential", history=HISTORIES[0])])
    found.mean().backward()  # type: ignore[no-untyped-call]
    assert all(bool(module.items.rows.grad[item].any()) for item in HISTORIES[0])


def test_a_prompt_has_one_position_an_item_and_loses_the_oldest() -> None:
    model = reading_items()
    renderer = model.renderer(semantic_ids())
    assert len(renderer.prompt((1, 2, 3))) == len(renderer.prompt(())) + 3
    short = model._replace(config=model.config.model_copy(update={"max_tokens": len(renderer.prompt(())) + 2}))
    assert short.renderer(semantic_ids()).prompt((1, 2, 3))[-2:] == renderer.prompt((2, 3))[-2:]
    assert len(short.renderer(semantic_ids()).prompt((1, 2, 3))) == len(renderer.prompt(())) + 2


def test_epochs_have_the_rows_of_the_other_collation() -> None:
    examples = {"sequential": [Example("sequential", history=h) for h in HISTORIES], "item_to_id": TEXT[:1]}
    weights = {"sequential": 1.0, "item_to_id": 2.0}
    model = reading_items()
    settings: dict[str, Any] = {"batch_tokens": 64, "seed": 1, "epoch": 2}
    renderer = model.renderer(semantic_ids())
    found, again = (
        epoch_batches(examples, renderer, weights, form=branched_form(renderer), **settings) for _ in range(2)
    )
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(found, again, strict=True))
    assert sorted(item for batch in found for item in batch.items.tolist()) == sorted([*sum(HISTORIES, ()), 2, 2])
    assert max(batch.tokens.numel() for batch in found) <= 64
    plain = epoch_batches(examples, language_model().renderer(semantic_ids()), weights, **settings)
    targets, others = (sum(int((b.targets >= 0).sum()) for b in batches) for batches in (found, plain))
    assert targets == others, "every code and every text token is predicted once, either way"


@pytest.mark.parametrize("weighted", [False, True])
def test_codes_learn_the_distribution_of_the_items_behind_the_codes_before(
    weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_loss, "CHUNK_ROWS", 4)
    model = reading_items()
    renderer, ids = model.renderer(semantic_ids()), semantic_ids()
    given = WEIGHTS if weighted else [()] * len(HISTORIES)
    examples = [Example("sequential", history=h, weights=w) for h, w in zip(HISTORIES, given, strict=True)]
    found, _ = loss_of(model, examples, ItemLossWeights(0.7, 0.4))
    total, count = torch.zeros(()), 0
    assert model.items is not None
    for history, weights in zip(HISTORIES, given, strict=True):
        for place, item in enumerate(history):
            weight = weights[place] if weights else 1.0
            if weight == 0:
                continue
            prompt, written = renderer.prompt(history[:place]), renderer.code_tokens[item]
            hidden = writing_states(model, prompt, written)
            scores = scores_of(model, hidden[0][None], history[:place])[0]
            for level, state in enumerate(hidden):
                agreeing = [i for i in range(6) if (ids.codes[i, :level] == ids.codes[item, :level]).all()]
                shares = scores[agreeing].detach().softmax(0)
                expected = torch.zeros(4).index_add_(0, torch.from_numpy(ids.codes[agreeing, level]), shares)
                logits = code_logits(model, state, ids.codes[item, :level].tolist())
                total = total - weight * (expected * logits.log_softmax(0)).sum()
                count += 1
    torch.testing.assert_close(found.distilled, total)
    text, _ = loss_of(model, TEXT[1:])
    both, _ = loss_of(model, [*examples, *TEXT[1:]], ItemLossWeights(0.7, 0.4))
    mean = (0.6 * found.written.code + 0.4 * total + text.written.text) / (count + text.written.num_text)
    torch.testing.assert_close(both.mean(), mean + 0.7 * found.item, msg="text is learned in full")


def test_a_distribution_is_one_where_every_item_is_far() -> None:
    states, vectors = torch.tensor([[300.0]]), torch.tensor([[1.0], [-1.0], [-1.0]])
    none = torch.zeros(0, dtype=torch.int64)
    codes = torch.tensor([[0, 3], [1, 2], [1, 3]])
    found = code_distributions(states, vectors, Terms(none, none, none, torch.zeros(1)), codes, torch.tensor([1]), 2)
    torch.testing.assert_close(found, [torch.tensor([[1.0, 0.0]])] * 2)


def test_under_autocast_sums_over_the_catalogue_stay_in_fp32() -> None:
    model, weights = reading_items(), ItemLossWeights(1.0, 0.5)
    examples = [Example("sequential", history=history) for history in HISTORIES]
    exact, _ = loss_of(model, examples, weights)
    with torch.autocast("cpu", torch.bfloat16):
        found, module = loss_of(model, examples, weights)
    found.mean().backward()  # type: ignore[no-untyped-call]
    assert (found.item.dtype, module.items.rows.grad.dtype) == (torch.float32, torch.float32)
    for ours, reference in ((found.item, exact.item), (found.distilled, exact.distilled)):
        torch.testing.assert_close(ours, reference, rtol=0.02, atol=0)
