"""What every baseline must do, on data whose right answer is known by construction."""

from collections.abc import Callable

import numpy as np
import pytest

from recsys.baselines.base import ScoringModel
from recsys.baselines.config import SasrecConfig
from recsys.baselines.item_knn import fit_item_knn
from recsys.baselines.popularity import fit_popularity
from recsys.baselines.sasrec_training import fit_sasrec
from recsys.errors import DataError
from recsys.tables import CandidateFilter, Histories, TopItems

Fit = Callable[[Histories, int], ScoringModel]


def _sasrec(histories: Histories, num_items: int) -> ScoringModel:
    config = SasrecConfig(
        hidden_size=8, num_heads=1, num_layers=1, dropout=0.0, max_length=4, epochs=2, batch_tokens=64
    )
    return fit_sasrec(histories, num_items, config, seed=0)


FITS: dict[str, Fit] = {"popularity": fit_popularity, "item-knn": fit_item_knn, "sasrec": _sasrec}


@pytest.fixture(params=FITS)
def fit(request: pytest.FixtureRequest) -> Fit:
    return FITS[request.param]


def histories_of(*sequences: list[int]) -> Histories:
    return Histories.from_lists([f"u{n}" for n in range(len(sequences))], sequences)


def unseen(model: ScoringModel, histories: Histories, k: int) -> TopItems:
    """The ranking of what each history has not."""
    return model.rank(histories, k=k, candidates=CandidateFilter.unseen(histories))


TRAIN = histories_of([0, 1, 2], [1, 2, 3], [2, 3, 4], [2, 0, 1], [3, 2])


def test_shapes_types_and_order(fit: Fit) -> None:
    top = fit(TRAIN, 6).rank(TRAIN, k=4)
    assert top.items.shape == top.scores.shape == (5, 4)
    assert (top.items.dtype, top.scores.dtype) == (np.int64, np.float32)
    assert (np.diff(top.scores, axis=1) <= 0).all()
    assert all(len(set(row)) == 4 for row in top.items.tolist())


def test_seen_items_are_excluded_only_on_request(fit: Fit) -> None:
    model = fit(TRAIN, 6)
    without, everything = unseen(model, TRAIN, 6), model.rank(TRAIN, k=6)
    for user in range(len(TRAIN)):
        assert not set(without.items[user]) & set(TRAIN[user])
        assert set(everything.items[user]) == set(range(6))


def test_items_before_the_window_are_not_read_and_stay_excluded(fit: Fit) -> None:
    model = fit(TRAIN, 6)
    whole, recent = histories_of([5, 0, 1]), histories_of([0, 1])
    found = model.rank(whole.last(2), k=6, candidates=CandidateFilter.unseen(whole))
    expected = unseen(model, recent, 6)
    kept = np.isin(expected.items[0], [2, 3, 4])
    assert found.items[0, :3].tolist() == expected.items[0, kept].tolist()
    np.testing.assert_array_equal(found.scores[0, :3], expected.scores[0, kept])
    assert (found.items[0, 3:] == -1).all()


def test_k_above_the_catalogue_is_padded(fit: Fit) -> None:
    top = unseen(fit(TRAIN, 6), histories_of([0, 1]), 9)
    assert set(top.items[0, :4]) == {2, 3, 4, 5}
    assert (top.items[0, 4:] == -1).all()
    assert np.isneginf(top.scores[0, 4:]).all()


def test_an_empty_history_gets_the_most_popular(fit: Fit) -> None:
    top = unseen(fit(TRAIN, 6), histories_of([], [0, 1]), 6)
    assert top.items[0].tolist() == [2, 1, 3, 0, 4, 5]
    assert set(top.items[1, :4]) == {2, 3, 4, 5}


def test_no_histories_give_no_rows(fit: Fit) -> None:
    assert unseen(fit(TRAIN, 6), histories_of(), 3).items.shape == (0, 3)


def test_one_item(fit: Fit) -> None:
    model = fit(histories_of([0, 0], [0]), 1)
    assert model.rank(histories_of([0]), k=1).items.tolist() == [[0]]
    assert unseen(model, histories_of([0]), 1).items.tolist() == [[-1]]


def test_ranking_twice_and_apart_gives_the_same(fit: Fit) -> None:
    model = fit(TRAIN, 6)
    together = model.rank(TRAIN, k=6).items
    apart = [model.rank(TRAIN.take(np.array([u])), k=6).items[0] for u in range(len(TRAIN))]
    assert (together == np.stack(apart)).all()


def test_histories_of_another_catalogue_are_refused(fit: Fit) -> None:
    model = fit(TRAIN, 6)
    with pytest.raises(DataError, match=r"item indices 7\.\.7, allowed 0\.\.5"):
        model.rank(histories_of([7]), k=1)
    with pytest.raises(DataError, match=r"allowed 0\.\.2"):
        fit(TRAIN, 3)


def test_what_is_not_allowed_is_never_ranked_and_exclusions_are_by_request(fit: Fit) -> None:
    allowed = np.array([True, False, True, True, False, True])
    candidates = CandidateFilter([np.array([0]), np.array([], np.int64)], allowed)
    top = fit(TRAIN, 6).rank(histories_of([0, 1], [2]), k=6, candidates=candidates)
    assert [sorted(row) for row in top.items.tolist()] == [[-1, -1, -1, 2, 3, 5], [-1, -1, 0, 2, 3, 5]]
    assert (np.isneginf(top.scores) == (top.items < 0)).all()
