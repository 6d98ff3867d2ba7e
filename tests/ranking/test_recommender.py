"""The recommender speaks the user's ids, learns what it is shown, and the quickstart of the README runs as written."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from recsys.embeddings.text import item_texts
from recsys.errors import DataError, ModelError
from recsys.llm.backbone import train_text_tokenizer
from recsys.llm.config import FinetuneConfig, LoraConfig, TrainingConfig
from recsys.llm.storage import load_language_model
from recsys.recommender import Recommender
from tests.llm.fakes import llama
from tests.rankers.fakes import CODEBOOKS, CONFIG, NUM_ITEMS, SCRATCH, cycle, ids


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("model")


@pytest.fixture(scope="module")
def recommender(folder: Path) -> Recommender:
    dataset = cycle()
    return Recommender.fit(dataset, ids(dataset), CODEBOOKS, folder=folder, config=CONFIG)


def test_the_next_item_of_the_circle_is_recommended_first(recommender: Recommender) -> None:
    for start in range(NUM_ITEMS):
        history = [f"item {(start + step) % NUM_ITEMS}" for step in range(4)]
        first = recommender.recommend(history, k=3)[0]
        assert first.item_id == f"item {(start + 4) % NUM_ITEMS}"
        assert first.title == first.item_id.replace("item", "Thing")


def test_scores_fall_and_seen_items_stay_out(recommender: Recommender) -> None:
    history = ["item 1", "item 2"]
    found = recommender.recommend(history, k=50)
    assert [r.item_id for r in found] == sorted({r.item_id for r in found}, key=[r.item_id for r in found].index)
    assert sorted(r.item_id for r in found) == sorted(f"item {i}" for i in range(NUM_ITEMS) if i not in (1, 2))
    assert all(a.score >= b.score for a, b in pairwise(found))
    everything = recommender.recommend(history, k=50, exclude_seen=False)
    assert len(everything) == NUM_ITEMS
    assert {r.item_id: r.score for r in found}.items() <= {
        r.item_id: pytest.approx(r.score, abs=1e-5) for r in everything
    }.items()


def test_what_is_loaded_recommends_what_was_trained(recommender: Recommender, folder: Path, tmp_path: Path) -> None:
    dataset = cycle()
    dataset.save(tmp_path)
    ids(dataset).save(tmp_path / "semantic_ids.parquet")
    loaded = Recommender.load(tmp_path, tmp_path, folder)
    assert loaded.recommend(["item 3"], k=5) == recommender.recommend(["item 3"], k=5)


def test_an_empty_history_is_answered(recommender: Recommender) -> None:
    assert len(recommender.recommend([], k=4)) == 4


def test_what_lies_beyond_the_window_is_not_looked_at_and_stays_out(recommender: Recommender, folder: Path) -> None:
    dataset = cycle()
    short = Recommender.generative(dataset.catalog, ids(dataset), load_language_model(folder), history=2)
    found = short.recommend(["item 9", "item 1", "item 2"], k=50)
    recent = recommender.recommend(["item 1", "item 2"], k=50)
    assert [r.item_id for r in found] == [r.item_id for r in recent if r.item_id != "item 9"]


def test_unknown_ids_and_impossible_k_are_refused(recommender: Recommender) -> None:
    with pytest.raises(DataError, match="'nothing'"):
        recommender.recommend(["nothing"])
    with pytest.raises(DataError, match="k=0"):
        recommender.recommend(["item 1"], k=0)


@pytest.mark.parametrize("tied", [True, False])
def test_a_pretrained_checkpoint_takes_the_same_road(tied: bool, tmp_path: Path) -> None:
    dataset = cycle()
    tokenizer = train_text_tokenizer(item_texts(dataset.catalog), 300)
    llama(len(tokenizer), tied=tied).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    config = FinetuneConfig(
        pretrained=str(tmp_path / "base"),
        lora=LoraConfig(epochs=60, lr=1e-2, batch_tokens=256, validate_every=10, dropout=0),
    )
    made = Recommender.fit(dataset, ids(dataset), CODEBOOKS, folder=tmp_path / "tuned", config=config)
    assert not (tmp_path / "tuned" / "backbone").exists(), "a pretrained model is named, not copied"
    hits = 0
    for start in range(NUM_ITEMS):
        history = [f"item {(start + step) % NUM_ITEMS}" for step in range(4)]
        hits += made.recommend(history, k=1)[0].item_id == f"item {(start + 4) % NUM_ITEMS}"
    assert hits >= 6, "by chance it would be one"


def test_a_pretrained_name_that_is_none_is_one_clear_line(tmp_path: Path) -> None:
    dataset = cycle()
    config = FinetuneConfig(pretrained=str(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match=r"finetune\.pretrained=.*nowhere") as raised:
        Recommender.fit(dataset, ids(dataset), CODEBOOKS, folder=tmp_path, config=config)
    assert "\n" not in str(raised.value)


def test_the_global_generator_decides_nothing(tmp_path: Path) -> None:
    dataset = cycle()
    update = {"training": TrainingConfig(epochs=1, batch_tokens=512), "lora": LoraConfig(epochs=1, batch_tokens=512)}
    config = CONFIG.model_copy(update=update | {"scratch": SCRATCH.model_copy(update={"dropout": 0.2})})

    def scores(global_seed: int) -> list[float]:
        with torch.random.fork_rng():
            torch.manual_seed(global_seed)
            folder = tmp_path / str(global_seed)
            made = Recommender.fit(dataset, ids(dataset), CODEBOOKS, folder=folder, config=config)
        return [r.score for r in made.recommend(["item 1", "item 2"])]

    assert scores(1) == scores(2)
