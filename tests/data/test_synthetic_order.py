"""The generated dataset is a function of its seed, looks like a catalogue, and ranks the models in the known order."""

import numpy as np
import pytest

from recsys.baselines.base import ScoringModel
from recsys.baselines.config import SasrecConfig
from recsys.baselines.item_knn import fit_item_knn
from recsys.baselines.popularity import fit_popularity
from recsys.baselines.sasrec_training import fit_sasrec
from recsys.data.config import SyntheticConfig
from recsys.data.dataset import Dataset, load_dataset
from recsys.data.histories import queries, training_histories
from recsys.data.synthetic import generate
from recsys.tables import TEST, CandidateFilter

SMALL = SyntheticConfig(num_users=1000, num_items=256, num_interactions=10_000)
TINY = SyntheticConfig(num_users=60, num_items=90, num_interactions=700)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_dataset("synthetic", synthetic=SMALL)


def hit_rate(model: ScoringModel, dataset: Dataset) -> float:
    users = queries(dataset.interactions, dataset.catalog, split=TEST, max_history=20)
    top = model.rank(users.histories, k=10, candidates=CandidateFilter.unseen(users.histories))
    return float((top.items == users.targets[:, None]).any(axis=1).mean())


@pytest.mark.slow
def test_models_rank_in_the_known_order(dataset: Dataset) -> None:
    training, size = training_histories(dataset.interactions, dataset.catalog), len(dataset.catalog)
    popularity = hit_rate(fit_popularity(training, size), dataset)
    knn = hit_rate(fit_item_knn(training, size), dataset)
    config = SasrecConfig(
        hidden_size=32, num_layers=1, num_heads=1, dropout=0.2, epochs=20, learning_rate=5e-3, batch_tokens=1024
    )
    sasrec = hit_rate(fit_sasrec(training, size, config, seed=0), dataset)
    assert popularity * 1.3 < knn
    assert knn * 1.1 < sasrec


def test_the_seed_decides_everything() -> None:
    first, again, other = (generate(TINY, seed=seed) for seed in (1, 1, 2))
    assert first.interactions.equals(again.interactions)
    assert first.items is not None
    assert again.items is not None
    assert first.items.equals(again.items)
    assert not first.interactions.equals(other.interactions)


def test_popularity_is_skewed_and_no_user_buys_an_item_twice(dataset: Dataset) -> None:
    counts = np.sort(dataset.interactions.frame["item_id"].value_counts()["count"].to_numpy())[::-1]
    assert counts[: len(counts) // 5].sum() > 0.4 * counts.sum()
    assert dataset.interactions.frame.select("user_id", "item_id").is_unique().all()
    assert len(dataset.interactions) == dataset.card["rows"] - dataset.card["outside_k_core"]


def test_texts_read_like_a_catalogue(dataset: Dataset) -> None:
    items = dataset.catalog.frame
    assert items.columns == ["item_id", "title", "brand", "categories", "description"]
    assert items["title"].n_unique() == items.height
    assert items["categories"].str.split(" > ").list.len().is_between(2, 3).all()
    assert 0 < items["description"].null_count() < 0.1 * items.height
