"""Weights of interactions in the baselines, against naive sums; equal ones change nothing, and 0 is no target."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.baselines.config import SasrecConfig
from recsys.baselines.item_knn import fit_item_knn
from recsys.baselines.popularity import fit_popularity
from recsys.baselines.sasrec_training import collate, fit_sasrec, training_windows
from recsys.errors import DataError
from recsys.tables import Histories
from recsys.training.softmax import CHUNK_ROWS, softmax_loss

NUM_ITEMS = 6
SMALL = SasrecConfig(hidden_size=16, num_heads=1, num_layers=1, dropout=0.2, max_length=4, epochs=4, batch_tokens=60)
Events = list[list[tuple[int, float]]]
events = st.lists(
    st.lists(st.tuples(st.integers(0, NUM_ITEMS - 1), st.sampled_from([0, 0.2, 1, 3])), max_size=7),
    min_size=1,
    max_size=7,
)


def histories_of(users: Events) -> Histories:
    plain = Histories.from_lists([f"u{n}" for n in range(len(users))], [[item for item, _ in user] for user in users])
    weights = np.array([weight for user in users for _, weight in user], np.float32)
    return Histories(plain.user_ids, plain.indptr, plain.items, weights)


def unweighted(histories: Histories) -> Histories:
    return Histories(histories.user_ids, histories.indptr, histories.items)


def with_weight(histories: Histories, weight: float) -> Histories:
    weights = np.full(len(histories.items), weight, np.float32)
    return Histories(histories.user_ids, histories.indptr, histories.items, weights)


@settings(deadline=None, max_examples=40)
@given(events)
def test_popularity_is_the_sum_of_weights(users: Events) -> None:
    expected = np.zeros(NUM_ITEMS)
    for user in users:
        for item, weight in user:
            expected[item] += weight
    counts = fit_popularity(histories_of(users), NUM_ITEMS).counts
    assert counts.dtype == np.float32
    np.testing.assert_allclose(counts, expected, rtol=1e-6)
    plain = unweighted(histories_of(users))
    np.testing.assert_array_equal(
        fit_popularity(with_weight(plain, 1), NUM_ITEMS).counts, fit_popularity(plain, NUM_ITEMS).counts
    )


@settings(deadline=None, max_examples=40)
@given(events, st.sampled_from([0.0, 3.0]))
def test_similarities_are_of_weighted_users(users: Events, shrinkage: float) -> None:
    weights = np.zeros((len(users), NUM_ITEMS))
    for number, user in enumerate(users):
        for item, weight in user:
            weights[number, item] = max(weights[number, item], weight)
    common, sizes = weights.T @ weights, np.sqrt(np.square(weights).sum(axis=0))
    expected = np.divide(common, np.outer(sizes, sizes) + shrinkage, out=np.zeros_like(common), where=common > 0)
    np.fill_diagonal(expected, 0)
    found = fit_item_knn(histories_of(users), NUM_ITEMS, shrinkage=shrinkage).similarity.toarray()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@settings(deadline=None, max_examples=20)
@given(events)
def test_equal_weights_leave_item_knn_as_it_is(users: Events) -> None:
    plain = unweighted(histories_of(users))
    one, other = (fit_item_knn(train, NUM_ITEMS) for train in (plain, with_weight(plain, 1)))
    np.testing.assert_array_equal(one.similarity.toarray(), other.similarity.toarray())
    np.testing.assert_array_equal(one.fallback, other.fallback)


def test_the_weighted_softmax_is_a_weighted_sum_of_cross_entropies() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = CHUNK_ROWS + 9
    hidden, items = (torch.randn(n, 5, generator=generator, requires_grad=True) for n in (rows, 7))
    targets, weights = torch.randint(0, 7, (rows,), generator=generator), torch.rand(rows, generator=generator)
    weights[::5] = 0
    loss = softmax_loss(hidden, items, targets, weights=weights)
    naive = sum(w * F.cross_entropy(h @ items.T, t) for h, t, w in zip(hidden, targets, weights, strict=True)) / rows
    torch.testing.assert_close(loss, naive)
    ours, theirs = (torch.autograd.grad(value, (hidden, items), retain_graph=True) for value in (loss, naive))
    torch.testing.assert_close(ours, theirs)


@settings(deadline=None, max_examples=40)
@given(events)
def test_targets_of_sasrec_carry_their_weights_and_those_of_zero_are_none(users: Events) -> None:
    histories = histories_of(users)
    expected = [weight for user in users for _, weight in user[1:] if weight > 0]
    steps = [(item, weight) for user in users for item, weight in user[1:] if weight > 0]
    if not expected:
        if any(len(user) > 1 for user in users):
            with pytest.raises(DataError, match="all training interactions weigh 0"):
                training_windows(histories, 4)
        return
    batch = collate(training_windows(histories, 4))
    assert batch.weights is not None
    assert int(batch.mask.sum()) == len(batch.targets) == len(batch.weights) == len(expected)
    assert float(batch.weights.mean()) == pytest.approx(1, rel=1e-5)
    found = zip(batch.targets.tolist(), (batch.weights * np.mean(expected)).tolist(), strict=True)
    assert sorted((item, round(weight, 3)) for item, weight in found) == sorted(steps)


def test_an_event_of_weight_zero_is_still_in_the_history() -> None:
    (window,) = training_windows(histories_of([[(0, 1), (1, 0), (2, 5)]]), 4)
    batch = collate([window])
    assert batch.items.tolist() == [[0, 1]]
    assert batch.mask.tolist() == [[False, True]]
    assert batch.targets.tolist() == [2]


def _walks(step_weights: dict[int, float]) -> Histories:
    """Users who go by each of the steps, at each of ten items."""
    return histories_of(
        [
            [((start + step * n) % 10, weight) for n in range(4)]
            for start in range(10)
            for step, weight in step_weights.items()
        ]
    )


def test_equal_weights_of_any_size_train_the_same_sasrec() -> None:
    walks = _walks({1: 1})
    plain = fit_sasrec(unweighted(walks), 10, SMALL, seed=0)
    ones = fit_sasrec(walks, 10, SMALL, seed=0)
    np.testing.assert_array_equal(plain.vectors, ones.vectors)
    np.testing.assert_array_equal(plain.counts, ones.counts)
    fifths = fit_sasrec(with_weight(walks, 0.2), 10, SMALL, seed=0)
    np.testing.assert_allclose(plain.vectors, fifths.vectors, atol=1e-5)


@pytest.mark.parametrize("rare", [0, 0.02])
def test_sasrec_follows_the_heavier_events(rare: float) -> None:
    config = SMALL.model_copy(update={"epochs": 60, "dropout": 0.0, "learning_rate": 0.01})
    for heavy, light in ((1, 3), (3, 1)):
        model = fit_sasrec(_walks({heavy: 1, light: rare}), 10, config, seed=0)
        starts = Histories.from_lists([str(n) for n in range(10)], [[n] for n in range(10)])
        first = model.rank(starts, k=1).items[:, 0]
        assert (first == (np.arange(10) + heavy) % 10).mean() >= 0.9


def test_weights_belong_to_a_checkpoint(tmp_path: Path) -> None:
    walks = _walks({1: 1, 3: 0.1})
    first = fit_sasrec(walks, 10, SMALL, seed=0, work=tmp_path)
    again = fit_sasrec(unweighted(walks), 10, SMALL, seed=0, work=tmp_path)
    assert not np.array_equal(first.vectors, again.vectors)
