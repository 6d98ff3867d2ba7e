"""The ranker of the language model: the items that it would write next, by their log-probability.

What it reads of a prompt is shared: the hidden state behind it is the condition of the diffusion module and of the
cross-entropy head, so that prompts are read once for all of them.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Self

from recsys.decoding.beam import decode_all
from recsys.decoding.check import check_backbone
from recsys.llm.storage import LanguageModel
from recsys.ranking.base import Ranker
from recsys.ranking.conditions import PROMPT_STATES
from recsys.ranking.loading import RankingContext
from recsys.ranking.query import RankingBatch
from recsys.tables import CandidateFilter, SemanticIds, TopItems
from recsys.tokenization.trie import Trie

REDUCED_BEAMS = 10


class GenerativeRanker:
    """Ranks by what the language model would write next, with a beam of at least `k`.

    Raises:
        ModelError: the backbone cannot be decoded as a tree.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        semantic_ids: SemanticIds,
        *,
        num_beams: int = 50,
        batch_size: int = 128,
        max_beams: int | None = None,
    ) -> None:
        check_backbone(language_model.model)
        self._language_model = language_model.over(semantic_ids)
        self._reader = self._language_model.reader
        if self._reader is not None:
            _ = self._reader.prefixes  # computed before the first request
        self._renderer = self._language_model.renderer(semantic_ids)
        self._trie = Trie.build(semantic_ids.codes, semantic_ids.num_codes)
        self._num_beams, self._max_beams, self._batch_size = num_beams, max_beams, batch_size

    def rank(self, batch: RankingBatch, k: int) -> TopItems:
        """See `Ranker`."""
        width = max(self._num_beams, k)
        width = width if self._max_beams is None else min(width, self._max_beams)
        return batch.ranked_once((self, width), lambda filters: self._decoded(batch, filters, width)).first(k).padded(k)

    def _decoded(self, batch: RankingBatch, filters: Sequence[CandidateFilter], width: int) -> list[TopItems]:
        found = decode_all(
            self._language_model.model,
            [self._renderer.prompt(batch.histories[row]) for row in range(len(batch))],
            trie=self._trie,
            base=self._language_model.layout.base,
            beams=width,
            batch_size=self._batch_size,
            filters=filters,
            reader=self._reader,
            tracker=batch.tracker,
        )
        batch.share(PROMPT_STATES, found.states)
        return found.tops

    def reduced(self) -> Self:
        """With a narrow beam, however many items are asked for."""
        cheaper = copy.copy(self)
        cheaper._max_beams = REDUCED_BEAMS
        return cheaper


def build(context: RankingContext) -> Ranker | None:
    """None where a run has no language model."""
    model, items, config = context.models.language_model, context.items, context.config
    if model is None or items.semantic_ids is None:
        return None
    return GenerativeRanker(model, items.semantic_ids, num_beams=config.num_beams, batch_size=config.batch_size)
