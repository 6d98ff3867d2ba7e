"""The present items of a bundle and their rankers: an immutable state that every change replaces as a whole.

Built from a bundle and live item updates. An item's index never changes: added items are appended, withdrawn items
keep their index and are masked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import polars as pl

from recsys.errors import DataError
from recsys.ranking.config import FusionConfig
from recsys.ranking.ensemble import Ensemble
from recsys.ranking.loading import Items, RankingContext
from recsys.ranking.recommender import FittedRecommender
from recsys.ranking.registry import GENERATIVE, POPULARITY, build_rankers, rankers
from recsys.ranking.tuning import FusionParams, assemble
from recsys.retrieval.index import ItemIndex
from recsys.tables import BoolArray, Catalog, FloatArray, IntArray, SemanticIds
from serving.engine.filters import FilterIndex
from serving.engine.interface import Tier, Where
from serving.engine.titles import TitleIndex


@dataclass(frozen=True)
class CatalogState:
    """Items and what ranks them; `visible` [N] is False for withdrawn items."""

    context: RankingContext
    visible: BoolArray
    fusion: FusionParams | None
    exclude_seen: bool
    filters: tuple[str, ...] | None = None  # once they are known

    def __len__(self) -> int:
        return len(self.items.catalog)

    @property
    def items(self) -> Items:
        return self.context.items

    @property
    def semantic_ids(self) -> SemanticIds:
        assert self.items.semantic_ids is not None  # every bundle has them
        return self.items.semantic_ids

    @property
    def latents(self) -> FloatArray:
        assert self.items.latents is not None  # of a bundle without continuous tokens: the quantized vectors
        return self.items.latents

    @property
    def item_index(self) -> ItemIndex:
        assert self.items.item_index is not None
        return self.items.item_index

    @cached_property
    def recommender(self) -> FittedRecommender:
        """The recommender of the tier `full`."""
        context, fusion = self.context, self.context.config.fusion
        return FittedRecommender(
            self.items.catalog,
            assemble(build_rankers(context, fusion.sources), fusion, self.fusion),
            max_history=context.max_history,
            exclude_seen=self.exclude_seen,
            tokens=self.tokens,
            num_withdrawn=int((~self.visible).sum()),
        )

    @cached_property
    def tiers(self) -> dict[Tier, Ensemble]:
        """The ensemble of each degradation tier, the best first."""
        full = self.recommender.ensemble
        popular = build_rankers(self.context, [POPULARITY])
        decoded = {GENERATIVE, *(source for source, spec in rankers().items() if GENERATIVE in spec.needs)}
        undecoded = [source for source in full.rankers if source not in decoded]
        tiers: dict[Tier, Ensemble] = {"full": full, "narrow": full.reduced()}
        if undecoded:
            tiers["no-decoding"] = full.only(undecoded)
        return tiers | {"popularity": assemble(popular, FusionConfig(sources=(POPULARITY,)), None)}

    def tokens(self, item: int) -> tuple[str, ...]:
        """The tokens of an item's semantic id."""
        model = self.context.models.language_model
        return () if model is None else model.layout.tokens(self.semantic_ids.codes[item])

    @cached_property
    def titles(self) -> list[str]:
        return self.items.catalog.titles()

    @cached_property
    def title_index(self) -> TitleIndex:
        return TitleIndex(self.titles)

    @cached_property
    def filter_index(self) -> FilterIndex:
        return FilterIndex(self.items.catalog, self.filters)

    def prepared(self) -> Self:
        """Itself, with all cached properties computed before the first request."""
        _ = self.tiers, self.title_index, self.filter_index, self.items.catalog.positions
        return self

    def position(self, item_id: str) -> int:
        """An item's index; DataError where the catalogue does not have it."""
        found = self.items.catalog.positions.get(item_id)
        if found is None:
            raise DataError(f"item {item_id[:100]!r} is not in the catalogue")
        return found

    def allowed(self, where: Where) -> BoolArray | None:
        """[N], what may be recommended under a filter; None where everything may.

        Raises:
            DataError: a column cannot be filtered by.
        """
        mask = None if self.visible.all() else self.visible
        for column, values in where:
            matching = self.filter_index.mask(column, values)
            mask = matching if mask is None else mask & matching
        return mask

    def adding(self, rows: pl.DataFrame, codes: IntArray, latents: FloatArray, proxies: IntArray) -> Self:
        """With new items appended; the index has them already.

        Args:
            rows: item_id and text columns [M]; columns that the catalogue does not have are left out.
            proxies: [M] proxy items, or -1 for the mean of all.
        """
        before = self.items
        frame = pl.concat([before.catalog.frame, rows], how="diagonal").select(before.catalog.frame.columns)
        catalog = Catalog(frame)
        items = Items(
            catalog,
            np.concatenate([before.counts, np.zeros(len(rows), np.int64)]),
            np.concatenate([before.proxies, proxies]),
            SemanticIds(
                catalog.item_ids, np.concatenate([self.semantic_ids.codes, codes]), self.semantic_ids.num_codes
            ),
            np.concatenate([self.latents, latents]),
            before.item_index,
            None if before.weights is None else np.concatenate([before.weights, np.zeros(len(rows), np.float32)]),
        )
        visible = np.concatenate([self.visible, np.ones(len(rows), np.bool_)])
        return replace(self, context=self.context.over(items), visible=visible, filters=self.filter_index.columns)

    def showing(self, positions: IntArray, visible: bool) -> Self:
        """With some items withdrawn, or shown again."""
        changed = self.visible.copy()
        changed[positions] = visible
        return replace(self, visible=changed)
