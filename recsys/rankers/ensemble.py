"""Both routes and SASRec on the same requests, and their fusion: how validation users choose it, and how it ranks.

Writes and reads `fusion.json`: the scoring of samples, the fusion's method and weights, and what validation said of
each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from recsys.baselines.base import TopItems
from recsys.diffusion.heads import QueryHead
from recsys.errors import ArtifactError, DataError
from recsys.files import read_json, write_json
from recsys.fusion import CROSS_ENTROPY, DENSE, FUSED, GENERATIVE, SASREC, Fusion, FusionConfig, tune_fusion
from recsys.metrics import top_k_metrics
from recsys.rankers.collaborative import CollaborativeRanker
from recsys.rankers.generative import GenerativeRanker
from recsys.rankers.permits import Permits
from recsys.rankers.preference import Asked, PreferenceRanker
from recsys.rankers.stopwatch import Stopwatch
from recsys.retrieval.scoring import Scoring
from recsys.tables import FloatArray, Histories, Queries
from recsys.tracking import Tracker

ONE_SAMPLE = "one sample"
CUTOFF = 10

States = Callable[[Histories], FloatArray]


class Tuned(NamedTuple):
    """What validation users chose; `validation` is the NDCG@10 of each ranking there."""

    scoring: Scoring
    single: Scoring
    fusion: Fusion
    validation: dict[str, float]

    def save(self, path: Path) -> None:
        """Write `fusion.json`."""
        values = {
            "scoring": self.scoring.to_json(),
            "single": self.single.to_json(),
            "fusion": self.fusion.to_json(),
            "validation": self.validation,
        }
        write_json(path, values)

    @classmethod
    def load(cls, path: Path) -> Tuned:
        """What `save` wrote.

        Raises:
            ArtifactError: the file is missing or damaged.
        """
        values: dict[str, Any] = read_json(path)
        try:
            scoring, single = (Scoring(**values[name]) for name in ("scoring", "single"))
            return cls(scoring, single, Fusion.from_json(values["fusion"]), dict(values["validation"]))
        except (KeyError, TypeError, ValueError, DataError) as error:
            raise ArtifactError(f"{path} cannot be read ({error}); run `recommend` again") from error


class Effort(NamedTuple):
    """How hard `Ensemble.rank` tries: the beam's width (None = as configured, 0 = nothing is generated) and samples."""

    beams: int | None = None
    samples: int | None = None


FULL = Effort()


class Ensemble:
    """Our rankings of the same requests, and one made of them.

    Args:
        cross_entropy: the plain head on the same states; where it beats the diffusion module, fusion serves it.
        collaborative: what behaviour alone says, where items have collaborative vectors.
        conditions: the condition [U, d_h] of histories that are cut to the window already.
        own_prompts: it is not the state behind the generative ranker's prompt, but behind one of its own.
        depth: places of each ranking that fusion looks at.
    """

    def __init__(
        self,
        generative: GenerativeRanker,
        preference: PreferenceRanker,
        cross_entropy: QueryHead,
        collaborative: CollaborativeRanker | None = None,
        *,
        conditions: States,
        own_prompts: bool = False,
        window: int,
        depth: int,
    ) -> None:
        self._generative, self.preference = generative, preference
        self._cross_entropy, self._collaborative = cross_entropy, collaborative
        self._conditions, self._own_prompts = conditions, own_prompts
        self._window, self._depth = window, depth

    def generate(self, histories: Histories, *, k: int, exclude_seen: bool, tracker: Tracker | None = None) -> TopItems:
        """The language model's ranking, deep enough to be fused."""
        return self._generative.rank(
            histories, k=max(k, self._depth), exclude_seen=exclude_seen, window=self._window, tracker=tracker
        )

    def ask(self, histories: Histories, names: Sequence[str], *, exclude_seen: bool) -> Asked:
        """What the preference module is asked for these histories; equal names draw equal samples."""
        seen = [histories[user] for user in range(len(histories))] if exclude_seen else None
        return Asked.of(self._conditions(histories.last(self._window)), names, seen)

    def imagine(
        self, asked: Asked, scoring: Scoring, generated: TopItems, *, k: int, tracker: Tracker | None = None
    ) -> TopItems:
        """The dense ranking by all samples, deep enough to be fused."""
        return self.preference.rank(asked, scoring, k=max(k, self._depth), generated=generated, tracker=tracker)

    def classify(self, asked: Asked, *, k: int) -> TopItems:
        """The ranking of the cross-entropy head, deep enough to be fused."""
        return self.preference.rank_scores(self._cross_entropy, asked, k=max(k, self._depth))

    def follow(self, histories: Histories, asked: Asked, *, k: int) -> dict[str, TopItems]:
        """The ranking of SASRec, deep enough to be fused; nothing where there is none."""
        if self._collaborative is None:
            return {}
        return {SASREC: self._collaborative.rank(histories, asked, k=max(k, self._depth))}

    def tune(self, queries: Queries, config: FusionConfig, *, exclude_seen: bool, tracker: Tracker) -> Tuned:
        """Choose scoring and fusion by the NDCG@10 of validation queries."""
        histories, targets = queries.histories, queries.targets
        generated = self.generate(histories, k=self._depth, exclude_seen=exclude_seen, tracker=tracker)
        asked = self.ask(histories, queries.user_ids, exclude_seen=exclude_seen)
        single = self.preference.tune(asked, targets, samples=1, generated=generated)[0]
        scored = self.preference.tune(asked, targets, generated=generated, tracker=tracker)[0]
        parts = {
            GENERATIVE: generated,
            DENSE: self.imagine(asked, scored.scoring, generated, k=self._depth, tracker=tracker),
            CROSS_ENTROPY: self.classify(asked, k=self._depth),
            **self.follow(histories, asked, k=self._depth),
        }
        sources: dict[str, TopItems] = {source: parts[source] for source in config.sources if source in parts}
        fusion = tune_fusion(sources, targets, config)[0].fusion
        parts[FUSED] = fusion.fuse(sources, CUTOFF)
        validation = {name: top_k_metrics(found.items, targets, k=CUTOFF).ndcg for name, found in parts.items()}
        return Tuned(scored.scoring, single.scoring, fusion, validation | {ONE_SAMPLE: single.ndcg})

    def rank(
        self,
        histories: Histories,
        names: Sequence[str],
        tuned: Tuned,
        *,
        k: int,
        permits: Permits,
        effort: Effort = FULL,
        stopwatch: Stopwatch | None = None,
    ) -> dict[str, TopItems]:
        """A few requests at once: every part's ranking, and last the fused one, `k` long.

        The prompts are read once for both routes where both ask the same ones.
        """
        watch, deep = stopwatch or Stopwatch(), max(k, self._depth)
        parts: dict[str, TopItems] = {}
        with watch("prefill"):
            tree = self._generative.read(histories, window=self._window)
            states = self._conditions(histories.last(self._window)) if self._own_prompts else tree.states()
        if effort.beams != 0:
            with watch("decode"):
                wide = deep if effort.beams is None else min(deep, effort.beams)
                parts[GENERATIVE] = self._generative.write(tree, permits, k=wide, beams=effort.beams)
        asked = Asked.of(states, names, permits.excluded, permits.allowed)
        with watch("retrieve"):
            parts[DENSE] = self.preference.rank(
                asked, tuned.scoring, k=deep, samples=effort.samples, generated=parts.get(GENERATIVE)
            )
            parts[CROSS_ENTROPY] = self.classify(asked, k=deep)
            parts |= self.follow(histories, asked, k=deep)
        with watch("fuse"):
            return {**parts, FUSED: _fused(tuned, parts, k=k, depth=deep)}

    def fuse(self, tuned: Tuned, parts: Mapping[str, TopItems], *, k: int) -> TopItems:
        """One ranking of several; only their first `depth` places take part."""
        return _fused(tuned, parts, k=k, depth=self._depth)


def _fused(tuned: Tuned, parts: Mapping[str, TopItems], *, k: int, depth: int) -> TopItems:
    cut = {name: TopItems(r.items[:, :depth], r.scores[:, :depth]) for name, r in parts.items()}
    return tuned.fusion.among(cut).fuse(cut, k)
