"""Disliked items are in no ranking of their user, under any policy."""

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.baselines.popularity import Popularity
from recsys.ranking.base import ScoreRanker
from recsys.ranking.config import FusionConfig
from recsys.ranking.query import RankingBatch
from recsys.ranking.recommender import FittedRecommender, Request
from recsys.ranking.registry import POPULARITY
from recsys.ranking.tuning import assemble
from recsys.tables import SEEN_KEPT, SEEN_LEFT_OUT, Catalog, Histories

users = st.lists(
    st.tuples(st.lists(st.integers(0, 5), max_size=5), st.lists(st.integers(0, 5), max_size=5)), min_size=1
)


@settings(deadline=None, max_examples=50)
@given(users)
def test_items_are_excluded_under_both_policies(lists: list[tuple[list[int], list[int]]]) -> None:
    histories = Histories.from_lists([str(n) for n in range(len(lists))], [history for history, _ in lists])
    disliked = [np.array(items, dtype=np.int64) for _, items in lists]
    batches = RankingBatch.under_policies(histories, max_history=2, excluded=disliked)
    for policy, seen in ((SEEN_KEPT, False), (SEEN_LEFT_OUT, True)):
        mask = batches[policy].candidates.mask(len(lists), 6)
        assert mask is not None
        for row, (history, items) in zip(mask, lists, strict=True):
            assert set(np.flatnonzero(~row).tolist()) == {*items, *(history if seen else ())}


def test_answers_leave_a_users_dislikes_out() -> None:
    catalog = Catalog(pl.DataFrame({"item_id": list("abcdef")}))
    ranker = ScoreRanker(Popularity(np.arange(6, 0, -1).astype(np.float32)))
    recommender = FittedRecommender(
        catalog,
        assemble({POPULARITY: ranker}, FusionConfig(sources=(POPULARITY,)), None),
        max_history=5,
        exclude_seen=True,
        dislikes={"ann": ("b", "d", "withdrawn")},
    )

    def answer(user: str | None, exclude_seen: bool) -> list[str]:
        request = Request(("a",), 6, user, exclude=("f",), exclude_seen=exclude_seen)
        return [item.item_id for item in recommender.recommend([request])[0]]

    assert answer("ann", exclude_seen=True) == ["c", "e"]
    assert answer("ann", exclude_seen=False) == ["a", "c", "e"]
    assert answer("bob", exclude_seen=False) == answer(None, exclude_seen=False) == ["a", "b", "c", "d", "e"]
