"""The recommender speaks the user's ids, by a language model that learned the circle."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from recsys.embeddings.text import item_texts
from recsys.errors import DataError, ModelError
from recsys.llm.backbone import train_text_tokenizer
from recsys.llm.config import FinetuneConfig, LoraConfig, TrainingConfig
from recsys.ranking.recommender import Answer, FittedRecommender, RankedItem, Request
from tests.llm.fakes import llama
from tests.ranking.fakes import CONFIG, NUM_ITEMS, SCRATCH, cycle, finetuned, generative_recommender, ids
from tests.ranking.trained import Trained


@pytest.fixture(scope="module")
def recommender(trained: Trained) -> FittedRecommender:
    return generative_recommender(cycle(), ids(cycle()), trained.folders["finetune"])


def answer(recommender: FittedRecommender, *history: str, k: int = 10, exclude_seen: bool | None = None) -> Answer:
    return recommender.recommend([Request(history, k, exclude_seen=exclude_seen)])[0]


def items(recommender: FittedRecommender, *history: str, k: int = 10) -> list[str]:
    return [item.item_id for item in answer(recommender, *history, k=k).items]


def test_the_next_item_of_the_circle_is_recommended_first(recommender: FittedRecommender) -> None:
    for start in range(NUM_ITEMS):
        history = [f"item {(start + step) % NUM_ITEMS}" for step in range(4)]
        first = answer(recommender, *history, k=3).items[0]
        assert first.item_id == f"item {(start + 4) % NUM_ITEMS}"
        assert first.title == first.item_id.replace("item", "Thing")
        assert first.source_scores == {"generative": first.score}


def test_scores_fall_and_seen_items_stay_out(recommender: FittedRecommender) -> None:
    found = answer(recommender, "item 1", "item 2", k=50).items
    assert len({r.item_id for r in found}) == len(found)
    assert sorted(r.item_id for r in found) == sorted(f"item {i}" for i in range(NUM_ITEMS) if i not in (1, 2))
    assert all(a.score >= b.score for a, b in pairwise(found))
    everything = answer(recommender, "item 1", "item 2", k=50, exclude_seen=False).items
    assert len(everything) == NUM_ITEMS
    assert {r.item_id: r.score for r in found}.items() <= {
        r.item_id: pytest.approx(r.score, abs=1e-5) for r in everything
    }.items()


def test_an_empty_history_is_answered(recommender: FittedRecommender) -> None:
    assert len(items(recommender, k=4)) == 4


def test_the_policy_of_the_recommender_holds_where_a_request_does_not_say(recommender: FittedRecommender) -> None:
    repeating = FittedRecommender(cycle().catalog, recommender.ensemble, max_history=20, exclude_seen=False)
    history = ("item 1", "item 2")
    assert len(answer(repeating, *history, k=50).items) == NUM_ITEMS
    assert len(answer(repeating, *history, k=50, exclude_seen=True).items) == NUM_ITEMS - 2


def test_what_lies_beyond_the_window_is_not_looked_at_and_stays_out(
    recommender: FittedRecommender, trained: Trained
) -> None:
    short = generative_recommender(cycle(), ids(cycle()), trained.folders["finetune"], max_history=2)
    found = items(short, "item 9", "item 1", "item 2", k=50)
    recent = items(recommender, "item 1", "item 2", k=50)
    assert found == [item for item in recent if item != "item 9"]


def test_unknown_ids_are_ignored_and_named(recommender: FittedRecommender) -> None:
    found = answer(recommender, "nothing", "item 1", "no one", "item 2")
    assert found.notices[0].item_ids == ("nothing", "no one")
    assert found.items == answer(recommender, "item 1", "item 2").items
    assert answer(recommender, "nothing").items == answer(recommender).items
    request = Request(("item 1", "item 2"), exclude=("nothing", "item 3"))
    codes = [notice.code for notice in recommender.recommend([request])[0].notices]
    assert "unknown-items" not in codes, "only the history is reported"


def test_an_impossible_k_is_refused(recommender: FittedRecommender) -> None:
    with pytest.raises(DataError, match="k=0"):
        answer(recommender, "item 1", k=0)
    with pytest.raises(DataError, match="k=0"):
        recommender.recommend([Request(("item 1",), 3), Request(("item 1",), 0)])


def test_answers_come_in_the_order_of_the_requests_whatever_their_k(recommender: FittedRecommender) -> None:
    requests = [Request(("item 1",), 3), Request(("item 5",), 9), Request(("item 3",), 3), Request((), 9)]
    together = recommender.recommend(requests)
    assert [len(found.items) for found in together] == [3, 9, 3, 9]
    for request, found in zip(requests, together, strict=True):
        alone = recommender.recommend([request])[0].items
        assert [i.item_id for i in found.items] == [i.item_id for i in alone]
        assert [i.score for i in found.items] == pytest.approx([i.score for i in alone], abs=1e-4)


def test_an_item_is_shown_with_its_title_and_tokens(recommender: FittedRecommender) -> None:
    named = FittedRecommender(
        cycle().catalog, recommender.ensemble, max_history=20, exclude_seen=True, tokens=lambda item: (f"<a_{item}>",)
    )
    assert named.item(3, 0.5, {"x": 1.0}) == RankedItem("item 3", "Thing 3", 0.5, {"x": 1.0}, ("<a_3>",))
    assert answer(named, "item 1", k=1).items[0].tokens == ("<a_2>",)


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
def test_a_pretrained_checkpoint_is_trained_and_ranked_alike(tied: bool, tmp_path: Path) -> None:
    dataset = cycle()
    tokenizer = train_text_tokenizer(item_texts(dataset.catalog), 300)
    llama(len(tokenizer), tied=tied).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    config = FinetuneConfig(
        pretrained=str(tmp_path / "base"),
        lora=LoraConfig(epochs=60, learning_rate=1e-2, batch_tokens=256, validate_every=10, dropout=0),
    )
    finetuned(dataset, ids(dataset), folder=tmp_path / "tuned", config=config)
    assert not (tmp_path / "tuned" / "backbone").exists(), "a pretrained model is named, not copied"
    recommender, hits = generative_recommender(dataset, ids(dataset), tmp_path / "tuned"), 0
    for start in range(NUM_ITEMS):
        history = [f"item {(start + step) % NUM_ITEMS}" for step in range(4)]
        hits += items(recommender, *history, k=1) == [f"item {(start + 4) % NUM_ITEMS}"]
    assert hits >= 6, "by chance it would be one"


def test_a_pretrained_name_that_is_none_is_one_clear_line(tmp_path: Path) -> None:
    config = FinetuneConfig(pretrained=str(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match=r"finetune\.pretrained=.*nowhere") as raised:
        finetuned(cycle(), ids(cycle()), folder=tmp_path, config=config)
    assert "\n" not in str(raised.value)


def test_the_global_generator_decides_nothing(tmp_path: Path) -> None:
    dataset = cycle()
    update = {"training": TrainingConfig(epochs=1, batch_tokens=512), "lora": LoraConfig(epochs=1, batch_tokens=512)}
    config = CONFIG.model_copy(update=update | {"scratch": SCRATCH.model_copy(update={"dropout": 0.2})})

    def scores(global_seed: int) -> list[float]:
        with torch.random.fork_rng():
            torch.manual_seed(global_seed)
            folder = finetuned(dataset, ids(dataset), folder=tmp_path / str(global_seed), config=config)
        made = generative_recommender(dataset, ids(dataset), folder)
        return [item.score for item in answer(made, "item 1", "item 2").items]

    assert scores(1) == scores(2)
