"""A batch of requests: rankers see a window of each history, exclusions cover all of it, work is shared."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.ranking.query import RankingBatch
from recsys.tables import CandidateFilter, Histories


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.integers(0, 9), max_size=8), max_size=5), st.integers(1, 9))
def test_the_window_is_cut_but_the_whole_history_excluded(lists: list[list[int]], window: int) -> None:
    whole = Histories.from_lists([f"u{n}" for n in range(len(lists))], lists)
    batch = RankingBatch.build(whole, max_history=window)
    assert len(batch) == len(lists)
    assert batch.histories.user_ids == whole.user_ids
    assert [batch.histories[row].tolist() for row in range(len(batch))] == [items[-window:] for items in lists]
    mask = batch.candidates.mask(len(batch), 10)
    assert mask is not None
    assert [set(np.flatnonzero(~row).tolist()) for row in mask] == [set(items) for items in lists]


def test_a_given_filter_alone_decides() -> None:
    whole = Histories.from_lists(["u"], [[1, 2]])
    candidates = CandidateFilter([np.array([5])])
    assert RankingBatch.build(whole, max_history=1, candidates=candidates).candidates is candidates
    assert RankingBatch.build(whole, max_history=1, exclude_seen=False).candidates.mask(1, 9) is None


def test_what_rankers_share_is_computed_once() -> None:
    batch = RankingBatch.build(Histories.from_lists(["u"], [[1]]), max_history=1)
    computed = []

    def compute() -> np.ndarray:
        computed.append(1)
        return np.ones((1, 2), np.float32)

    first = batch.shared("states", compute)
    assert batch.shared("states", compute) is first
    assert computed == [1]
    batch.share("states", np.zeros((1, 2), np.float32))
    assert batch.shared("states", compute) is first, "others have read it already"
    by_product = np.zeros((1, 3), np.float32)
    batch.share("others", by_product)
    assert batch.shared("others", compute) is by_product
    assert computed == [1]


def test_batches_share_nothing_with_each_other() -> None:
    histories = Histories.from_lists(["u"], [[1]])
    first, second = (RankingBatch.build(histories, max_history=1) for _ in range(2))
    first.share("states", np.zeros((1, 1), np.float32))
    assert second.shared("states", lambda: np.ones((1, 1), np.float32)).item() == 1
    assert first.rankings is not second.rankings
