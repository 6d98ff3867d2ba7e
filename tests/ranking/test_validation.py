"""How validation users score a ranker."""

import numpy as np
import pytest

from recsys.ranking.query import RankingBatch
from recsys.ranking.validation import ValidationUsers
from recsys.tables import Histories, Queries, TopItems


class Ascending:
    """Ranks items by their index, whoever asks."""

    def rank(self, batch: RankingBatch, k: int) -> TopItems:
        items = np.tile(np.arange(k), (len(batch), 1))
        return TopItems(items, -items.astype(np.float32))


@pytest.mark.parametrize(("target", "ndcg"), [(0, 1), (9, 1 / np.log2(11)), (10, 0)])
def test_a_target_counts_among_the_first_ten(target: int, ndcg: float) -> None:
    queries = Queries(Histories.from_lists(["u"], [[3]]), np.array([target]))
    assert ValidationUsers.sample(queries, users=1, seed=0, exclude_seen=True).ndcg(Ascending()) == pytest.approx(ndcg)
