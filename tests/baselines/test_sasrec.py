"""SASRec: it learns an order known by construction, resumes exactly, and validation only chooses what ranks."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from recsys.baselines import sasrec_training
from recsys.baselines.config import SasrecConfig
from recsys.baselines.sasrec import Sasrec, SasrecModel
from recsys.baselines.sasrec_training import batches, collate, fit_sasrec, training_windows
from recsys.errors import ArtifactError, DataError
from recsys.tables import CandidateFilter, Histories, Queries

T = TypeVar("T")
SMALL = SasrecConfig(
    hidden_size=16, num_heads=2, num_layers=1, dropout=0.2, max_length=6, epochs=4, batch_tokens=60, validate_every=2
)


class Recorder:
    """A tracker that keeps metrics."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, int], float] = {}

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        self.values |= {(name, step): value for name, value in values.items()}

    def track(self, iterable: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
        return iterable


def cycles(num_items: int, lengths: Iterable[int]) -> Histories:
    sequences = [[(start + step) % num_items for step in range(length)] for start, length in enumerate(lengths)]
    return Histories.from_lists([f"u{n}" for n in range(len(sequences))], sequences)


def test_it_learns_what_follows_what() -> None:
    config = SMALL.model_copy(update={"dropout": 0.0, "epochs": 40, "learning_rate": 0.02})
    model = fit_sasrec(cycles(10, [5] * 30), 10, config, seed=0)
    histories = cycles(10, [3] * 10)
    top = model.rank(histories, k=1, candidates=CandidateFilter.unseen(histories))
    assert top.items[:, 0].tolist() == [(start + 3) % 10 for start in range(10)]


def test_a_history_longer_than_max_length_counts_by_its_newest_items() -> None:
    model = fit_sasrec(cycles(10, [5] * 10), 10, SMALL, seed=0)
    long = cycles(10, [25])
    whole, recent = (model.rank(h, k=10) for h in (long, long.last(SMALL.max_length)))
    assert whole.items.tolist() == recent.items.tolist()
    assert (model.rank(long, k=10, candidates=CandidateFilter.unseen(long)).items == -1).all()


def test_the_oldest_item_within_max_length_still_counts() -> None:
    model = fit_sasrec(cycles(10, [5] * 10), 10, SMALL, seed=0)
    long = cycles(10, [9])
    scores = [model.scores(long.last(length)) for length in (SMALL.max_length - 1, SMALL.max_length, 9)]
    assert not np.allclose(scores[0], scores[1], atol=1e-4)
    np.testing.assert_array_equal(scores[1], scores[2])


def test_windows_cover_every_step_once() -> None:
    histories = Histories.from_lists(["a", "b", "c", "d"], [list(range(12)), [1], [], [3, 4]])
    windows = training_windows(histories, 5)
    steps = [
        pair for window in windows for pair in zip(window.items[:-1].tolist(), window.items[1:].tolist(), strict=True)
    ]
    assert sorted(steps) == sorted([*zip(range(11), range(1, 12), strict=True), (3, 4)])
    assert max(len(window.items) for window in windows) == 6


def test_batches_hold_each_window_once_within_the_budget() -> None:
    windows = training_windows(cycles(30, np.random.default_rng(1).integers(2, 12, size=60).tolist()), 20)
    seen = []
    for rows in batches(windows, 40, np.random.default_rng(0)):
        batch = collate([windows[row] for row in rows])
        assert batch.items.numel() <= 40
        assert int(batch.mask.sum()) == len(batch.targets)
        seen += batch.items[:, 0].tolist()
    assert sorted(seen) == sorted(int(window.items[0]) for window in windows)


def test_padding_changes_nothing_before_it() -> None:
    model = SasrecModel(10, SMALL).eval()
    items = torch.tensor([[1, 2, 3]])
    padded = torch.tensor([[1, 2, 3, 9, 9]])
    torch.testing.assert_close(model(padded)[:, :3], model(items))


def test_validation_chooses_what_ranks_and_never_the_vectors() -> None:
    train = cycles(10, [2, 5, 7, 9] * 5)
    targets = np.array([int(train[u][-1] + 1) % 10 for u in range(len(train))])
    recorder = Recorder()
    with_queries = fit_sasrec(train, 10, SMALL, seed=0, queries=Queries(train, targets), tracker=recorder)
    shuffled = fit_sasrec(train, 10, SMALL, seed=0, queries=Queries(train, targets[::-1].copy()))
    without = fit_sasrec(train, 10, SMALL, seed=0)
    assert (with_queries.vectors == without.vectors).all()
    assert (shuffled.vectors == without.vectors).all()
    assert [key for key in recorder.values if "validation" in key[0]] == [
        ("sasrec/validation_ndcg@10", 2),
        ("sasrec/validation_ndcg@10", 4),
    ]
    assert [step for name, step in recorder.values if name == "sasrec/loss"] == [1, 2, 3, 4]


def test_how_long_validation_lets_training_last_does_not_reach_the_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SMALL.model_copy(update={"epochs": 12, "validate_every": 1, "patience": 2, "vector_epochs": 4})
    train = cycles(10, [5] * 12)
    queries = Queries(train, np.zeros(12, dtype=np.int64))
    found: dict[int, Sasrec] = {}
    for best in (1, 4, 7):
        figures = iter([-abs(epoch - best) for epoch in range(1, 13)])
        monkeypatch.setattr(sasrec_training, "_ndcg", lambda *_, figures=figures: next(figures))
        model = fit_sasrec(train, 10, config, seed=0, queries=queries)
        assert model.progress is not None
        assert (model.progress.best_epoch, model.progress.settled) == (best, True)
        found[model.progress.epoch] = model
    assert list(found) == [4, 6, 9], "at least as long as the vectors need"
    alone = fit_sasrec(train, 10, config.model_copy(update={"epochs": 4}), seed=0)
    assert all(np.array_equal(model.vectors, alone.vectors) for model in found.values())
    assert len({model.model.items.weight.detach().numpy().tobytes() for model in found.values()}) == 3


def test_the_best_epoch_ranks_though_a_worse_one_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = iter([0.9, 0.1])
    monkeypatch.setattr(sasrec_training, "_ndcg", lambda *_: next(figures))
    train = cycles(10, [5] * 12)
    model = fit_sasrec(train, 10, SMALL, seed=0, queries=Queries(train, np.zeros(12, dtype=np.int64)))
    half = fit_sasrec(train, 10, SMALL.model_copy(update={"epochs": 2}), seed=0)
    assert torch.equal(model.model.items.weight, half.model.items.weight)
    assert not np.array_equal(model.vectors, half.vectors)


def test_saved_and_loaded_ranks_the_same(tmp_path: Path) -> None:
    train = cycles(10, [5] * 12)
    model = fit_sasrec(train, 10, SMALL, seed=0)
    model.save(tmp_path / "sasrec")
    loaded = Sasrec.load(tmp_path / "sasrec")
    before, after = (m.rank(train, k=5, candidates=CandidateFilter.unseen(train)) for m in (model, loaded))
    assert (before.items == after.items).all()
    assert (before.scores == after.scores).all()
    assert (model.vectors == loaded.vectors).all()
    assert loaded.config == SMALL


def test_training_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    fit_sasrec(cycles(10, [5] * 4), 10, SMALL, seed=0)
    assert torch.equal(before, torch.random.get_rng_state())


def test_what_cannot_be_used_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of 3 histories has two items or more"):
        fit_sasrec(cycles(10, [1, 0, 1]), 10, SMALL, seed=0)
    with pytest.raises(ArtifactError, match=r"sasrec\.json cannot be read"):
        Sasrec.load(tmp_path)
    with pytest.raises(ValidationError, match="num_heads=3 does not divide hidden_size=64"):
        SasrecConfig(num_heads=3)


def test_items_with_proxies_are_scored_and_read_as_their_proxies() -> None:
    model = fit_sasrec(cycles(12, [6] * 12), 12, SMALL, seed=0)
    proxies = np.arange(12)
    proxies[[4, 7]] = 9, -1
    changed = model.with_proxies(proxies)
    histories = Histories.from_lists(["a", "b", "c"], [[3, 9], [3, 4], [3]])
    scores = changed.scores(histories)
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-5)
    np.testing.assert_allclose(scores[:, 4], scores[:, 9], rtol=1e-5)
    others = np.delete(np.arange(12), [4, 7])
    np.testing.assert_allclose(scores[:, 7], scores[:, others].mean(axis=1), rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(scores[[0, 2]][:, others], model.scores(histories)[[0, 2]][:, others])
    np.testing.assert_array_equal(changed.vectors[4], model.vectors[9])
    assert not np.array_equal(model.vectors[4], model.vectors[9]), "the model itself is as it was"
