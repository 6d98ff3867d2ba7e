"""What validation users choose: some the parameters of tunable rankers, others the fusion of the sources.

Writes and reads `fusion.json`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from itertools import islice, product
from pathlib import Path
from typing import Any, NamedTuple, Self

from recsys.errors import ArtifactError, DataError
from recsys.files import read_json, write_json
from recsys.metrics import top_k_metrics
from recsys.ranking.base import Ranker, TunableRanker
from recsys.ranking.config import FusionConfig
from recsys.ranking.ensemble import Ensemble
from recsys.ranking.fusion import CUTOFF, FUSED, Fusion, tune_fusion
from recsys.ranking.query import RankingBatch
from recsys.tables import IntArray, Policy, Queries
from recsys.tracking import Tracker

FUSION_FILE = "fusion.json"

logger = logging.getLogger(__name__)


class FusionParams(NamedTuple):
    """`rankers` holds the parameters of tunable rankers, which are the same under every policy.

    `fusions` has none where there is one source alone. `validation` is the NDCG@10 of each ranking on the validation
    users. Both are of each policy. `at_edge` names the parameters whose best value is the last one that may be tried
    (`TunableRanker.at_edge`).
    """

    rankers: dict[str, dict[str, Any]]
    fusions: dict[Policy, Fusion]
    validation: dict[Policy, dict[str, float]]
    at_edge: dict[str, list[str]]

    def apply(self, rankers: Mapping[str, Ranker]) -> dict[str, Ranker]:
        """The rankers with their parameters.

        Raises:
            ArtifactError: parameters are not of the ranker that has their name.
        """
        return {name: self._with_params(name, ranker) for name, ranker in rankers.items()}

    def _with_params(self, name: str, ranker: Ranker) -> Ranker:
        if name not in self.rankers or not isinstance(ranker, TunableRanker):
            return ranker
        try:
            return ranker.with_params(self.rankers[name])
        except (TypeError, ValueError) as error:
            raise ArtifactError(
                f"{FUSION_FILE}: {self.rankers[name]} are no parameters of '{name}' ({error}); run `recommend` again"
            ) from error

    def save(self, path: Path) -> None:
        """Write `fusion.json`."""
        fusions = {policy: fusion.to_json() for policy, fusion in self.fusions.items()}
        values = {"rankers": self.rankers, "fusions": fusions, "validation": self.validation, "at_edge": self.at_edge}
        write_json(path, values)

    @classmethod
    def load(cls, path: Path) -> FusionParams:
        """What `save` wrote.

        Raises:
            ArtifactError: the file is missing or damaged.
        """
        values: dict[str, Any] = read_json(path)
        try:
            fusions = {policy: Fusion.from_json(values["fusions"][policy]) for policy in values["fusions"]}
            return cls(dict(values["rankers"]), fusions, dict(values["validation"]), dict(values["at_edge"]))
        except (AttributeError, KeyError, TypeError, ValueError, DataError) as error:
            raise ArtifactError(f"{path} cannot be read ({error}); run `recommend` again") from error


class TuningUsers(NamedTuple):
    """Validation requests under each policy, and the item index [U] of what each user took next."""

    batches: dict[Policy, RankingBatch]
    targets: IntArray

    @classmethod
    def of(
        cls,
        queries: Queries,
        *,
        max_history: int,
        excluded: Sequence[IntArray] | None = None,
        tracker: Tracker | None = None,
    ) -> Self:
        """Of whole histories: rankers see the newest `max_history` items; `excluded` as for `RankingBatch`."""
        requests = RankingBatch.under_policies(
            queries.histories, max_history=max_history, excluded=excluded, tracker=tracker
        )
        return cls(requests, queries.targets)


def tune(
    rankers: Mapping[str, Ranker], scoring: TuningUsers, fusion: TuningUsers, config: FusionConfig, *, served: Policy
) -> FusionParams:
    """Choose by the NDCG@10 of validation requests.

    Args:
        scoring: who chooses rankers' parameters, under the served policy; of no users, the rankers stay as they are.
        fusion: who chooses the weights, under each policy, and measures every ranking.
    """
    tuned = _tuned(rankers, scoring.batches[served], scoring.targets, config.depth)
    targets = fusion.targets
    for (name, ranker), batch in product(tuned.items(), fusion.batches.values()):
        batch.rankings[name] = ranker.rank(batch, config.depth)
    fusions: dict[Policy, Fusion] = {}
    validation: dict[Policy, dict[str, float]] = {}
    for policy, batch in fusion.batches.items():
        found = dict(batch.rankings)
        sources = {source: found[source] for source in config.sources if source in found}
        if len(sources) > 1:
            fusions[policy] = tune_fusion(sources, targets, config)[0].fusion
            found[FUSED] = fusions[policy].fuse(sources, CUTOFF)
        validation[policy] = {
            name: top_k_metrics(ranking.items, targets, k=CUTOFF).ndcg for name, ranking in found.items()
        }
    tunable = {name: ranker for name, ranker in tuned.items() if isinstance(ranker, TunableRanker)}
    params = {name: ranker.params for name, ranker in tunable.items()}
    return FusionParams(params, fusions, validation, _at_edge(tunable))


def _at_edge(rankers: Mapping[str, TunableRanker]) -> dict[str, list[str]]:
    """Ranker -> its parameters that are the last value that may be tried, with a warning."""
    found = {name: list(ranker.at_edge) for name, ranker in rankers.items() if ranker.at_edge}
    for name, parameters in found.items():
        logger.warning(
            "%s: the best %s tried is the last one allowed, a better one may lie beyond (%s)",
            name,
            " and ".join(parameters),
            ", ".join(f"{parameter}={rankers[name].params[parameter]:.4g}" for parameter in parameters),
        )
    return found


def _tuned(rankers: Mapping[str, Ranker], batch: RankingBatch, targets: IntArray, depth: int) -> dict[str, Ranker]:
    """The rankers with chosen parameters; what no tunable ranker comes after is not ranked, as none can read it."""
    tuned = dict(rankers)
    if not len(targets):
        return tuned
    tunable = [number for number, ranker in enumerate(rankers.values()) if isinstance(ranker, TunableRanker)]
    for name, ranker in islice(rankers.items(), max(tunable, default=-1) + 1):
        if isinstance(ranker, TunableRanker):
            tuned[name] = ranker.tune(batch, targets)
        batch.rankings[name] = tuned[name].rank(batch, depth)
    return tuned


def assemble(rankers: Mapping[str, Ranker], config: FusionConfig, params: FusionParams | None) -> Ensemble:
    """Rankers and what validation chose -> the ensemble that ranks.

    Raises:
        DataError: none of the configured sources is there.
    """
    sources: Collection[str] = [source for source in config.sources if source in rankers]
    if not sources:
        raise DataError(
            f"none of recommend.fusion.sources ({', '.join(config.sources)}) can be ranked by here; "
            f"there are {', '.join(rankers) or 'none'}"
        )
    applied = rankers if params is None else params.apply(rankers)
    return Ensemble(applied, sources=sources, fusions=params.fusions if params else {}, depth=config.depth)
