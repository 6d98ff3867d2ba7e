"""Explains how the language model arrived at its list for one request.

Built from the models of a run or a bundle and the recommender that answers by them; writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from recsys.decoding.scoring import item_log_probabilities
from recsys.decoding.trace import Path, traced_search
from recsys.embeddings.text import item_texts
from recsys.errors import ModelError
from recsys.llm.storage import LanguageModel
from recsys.ranking import item_scored
from recsys.ranking.base import Ranker
from recsys.ranking.conditions import PROMPT_STATES
from recsys.ranking.explanation import CodeNode, Explanation, Influence, Leaf
from recsys.ranking.loading import RankingContext
from recsys.ranking.query import RankingBatch
from recsys.ranking.recommender import FittedRecommender, Request
from recsys.tables import slices
from recsys.tokenization.trie import Trie
from recsys.tokenization.words import Code, CodeWords


class Explainer:
    """Explains what the language model of a context lists; `recommender` answers by the same context.

    Raises:
        ModelError: there is no language model that writes semantic ids.
    """

    def __init__(self, context: RankingContext, recommender: FittedRecommender) -> None:
        model, ids = context.models.language_model, context.items.semantic_ids
        if model is None or ids is None:
            raise ModelError(
                "there is no language model that writes semantic ids, whose list could be explained; "
                "use a run of tokenize.kind=discrete or both"
            )
        self._recommender, self._config, self._codes = recommender, context.config, ids.codes
        self._model: LanguageModel = model.over(ids)
        self._renderer, self._trie = self._model.renderer(ids), Trie.build(ids.codes, ids.num_codes)
        self._reader = self._model.reader
        self._words = CodeWords(item_texts(recommender.catalog), ids)
        self._max_history = context.max_history
        self._item_scored: Ranker | None = item_scored.build(context)

    def explain(self, request: Request) -> Explanation:
        """Of the `k` items that the language model alone would answer the request with.

        Raises:
            DataError: the request's `k` is below 1.
        """
        batch = self._batch([request])
        beams = max(self._config.num_beams, self._recommender.ensemble.depth(request.k))
        mask = batch.candidates.mask(1, self._trie.num_items)
        trace = traced_search(
            self._model.model,
            self._renderer.prompt(batch.histories[0]),
            trie=self._trie,
            base=self._model.layout.base,
            beams=beams,
            allowed=None if mask is None else mask[0],
            reader=self._reader,
        )
        batch.share(PROMPT_STATES, trace.states)
        listed = trace.paths[: request.k]
        return Explanation(
            self._tree(listed, batch),
            trace.levels,
            tuple(self._influences(request, listed[0])) if listed else (),
            beams,
            self._recommender.notices(request, batch, given=len(listed)),
        )

    def _batch(self, requests: Sequence[Request]) -> RankingBatch:
        """Requests of one policy, as the rankers get them."""
        return self._recommender.batch(requests, exclude_seen=self._recommender.excludes_seen(requests[0]))

    def _tree(self, paths: Sequence[Path], batch: RankingBatch) -> tuple[CodeNode, ...]:
        words = self._words.of(code for path in paths for code in enumerate(path.codes))
        return self._nodes([*zip(paths, self._leaves(paths, batch), strict=True)], 0, words)

    def _nodes(
        self, listed: Sequence[tuple[Path, Leaf]], level: int, words: Mapping[Code, tuple[str, ...]]
    ) -> tuple[CodeNode, ...]:
        """The codes of a level that lead to the listed items, whose codes before are the same."""
        layout, groups = self._model.layout, dict[int, list[tuple[Path, Leaf]]]()
        for path, leaf in listed:
            groups.setdefault(path.codes[level], []).append((path, leaf))
        nodes = []
        for code, members in groups.items():
            (path, leaf), last = members[0], level + 1 == layout.num_levels
            token = layout.token(layout.base + level * layout.num_codes + code)
            below = () if last else self._nodes(members, level + 1, words)
            own = words[level, code]
            nodes.append(CodeNode(token, own, path.log_probabilities[level], below, leaf if last else None))
        return tuple(nodes)

    def _leaves(self, paths: Sequence[Path], batch: RankingBatch) -> Iterator[Leaf]:
        ranks = dict[int, int]()
        if self._item_scored is not None and paths:
            ranked = self._item_scored.rank(batch, self._trie.num_items).items[0].tolist()
            ranks = {item: rank for rank, item in enumerate(ranked, start=1) if item >= 0}
        for rank, path in enumerate(paths, start=1):
            shown = self._recommender.item(path.item, path.score)
            yield Leaf(rank, shown.item_id, shown.title, path.score, ranks.get(path.item))

    def _influences(self, request: Request, first: Path) -> Iterator[Influence]:
        """Of the items that the model reads; without one of them, an older one may take its place in the prompt."""
        positions, history = self._recommender.catalog.positions, request.history
        known = [position for position, item_id in enumerate(history) if item_id in positions]
        read = known[-self._max_history :]
        shortened = [replace(request, history=(*history[:p], *history[p + 1 :])) for p in read]
        for rows in slices(len(read), self._config.batch_size):
            scores = self._log_probabilities(shortened[rows], first.item)
            for position, score in zip(read[rows], scores, strict=True):
                shown = self._recommender.item(positions[history[position]], score)
                yield Influence(position, shown.item_id, shown.title, score - first.score)

    def _log_probabilities(self, requests: Sequence[Request], item: int) -> list[float]:
        histories, layout = self._batch(requests).histories, self._model.layout
        return item_log_probabilities(
            self._model.model,
            [self._renderer.prompt(histories[row]) for row in range(len(histories))],
            layout.token_ids(self._codes[item]).tolist(),
            base=layout.base,
            num_codes=layout.num_codes,
            reader=self._reader,
        )
