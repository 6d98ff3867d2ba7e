"""Several rankers on the same requests, and the one ranking that is made of them.

Loops over a dict of rankers and knows none of them by name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Self

from recsys.ranking.base import Ranker, ReducibleRanker
from recsys.ranking.fusion import FUSED, Fusion
from recsys.ranking.query import RankingBatch
from recsys.ranking.stopwatch import Stopwatch
from recsys.tables import Policy, TopItems


class Ensemble:
    """Ranks by every ranker, and by the fusion of some.

    Args:
        rankers: by source, in the order of ranking.
        sources: those that are fused; where there is one alone, its ranking is the answer.
        fusions: method and weights under each policy; without any all sources have the same weight.
        depth: ranks of each source that take part in the fusion, more where more items are asked for.
    """

    def __init__(
        self, rankers: Mapping[str, Ranker], *, sources: Collection[str], fusions: Mapping[Policy, Fusion], depth: int
    ) -> None:
        self.rankers = dict(rankers)
        self.sources = tuple(source for source in sources if source in rankers)
        self._fusions, self._depth = dict(fusions), depth

    def __repr__(self) -> str:
        return f"<Ensemble ({', '.join(self.rankers)}; answers with {self.answer})>"

    @property
    def answer(self) -> str:
        """The source of the ranking that is the answer."""
        return FUSED if len(self.sources) > 1 else self.sources[0]

    def depth(self, k: int) -> int:
        """How many items are ranked where `k` are asked for, so that most requests can be ranked together."""
        return max(k, self._depth)

    def rank(self, batch: RankingBatch, k: int, *, stopwatch: Stopwatch | None = None) -> dict[str, TopItems]:
        """Every ranker's ranking, deep enough to be fused, and last the fused one, `k` long."""
        watch, depth = stopwatch or Stopwatch(), self.depth(k)
        for source, ranker in self.rankers.items():
            with watch(source):
                batch.rankings[source] = ranker.rank(batch, depth)
        found = dict(batch.rankings)
        if self.answer == FUSED:
            with watch(FUSED):
                found[FUSED] = self._fuse(found, batch.policy, k)
        return found

    def _fuse(self, rankings: Mapping[str, TopItems], policy: Policy, k: int) -> TopItems:
        """One ranking of several, by the weights that were tuned under their policy."""
        parts = {source: rankings[source].first(self.depth(k)) for source in self.sources}
        fusion = self._fusions.get(policy, Fusion("reciprocal-rank", {}))
        return fusion.among(parts).fuse(parts, k)

    def only(self, sources: Collection[str]) -> Self:
        """Of some rankers alone; the fusion's weights stay."""
        kept = {source: ranker for source, ranker in self.rankers.items() if source in sources}
        served = [source for source in self.sources if source in kept]
        return type(self)(kept, sources=served or kept, fusions=self._fusions, depth=self._depth)

    def reduced(self) -> Self:
        """With cheaper versions of the rankers that have one."""
        cheaper = {
            source: ranker.reduced() if isinstance(ranker, ReducibleRanker) else ranker
            for source, ranker in self.rankers.items()
        }
        return type(self)(cheaper, sources=self.sources, fusions=self._fusions, depth=self._depth)
