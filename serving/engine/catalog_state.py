"""The items that a bundle recommends from, as they are now: an immutable state that a change replaces as a whole.

Built from a bundle's parts and from live additions; holds the rankers over them. Items are known by index, and an index
never changes: what is added comes behind, what is withdrawn stays in its place and is found no more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import polars as pl

from recsys.errors import DataError
from recsys.llm.storage import LanguageModel
from recsys.rankers.config import RecommendConfig
from recsys.rankers.ensemble import Ensemble
from recsys.rankers.generative import GenerativeRanker
from recsys.rankers.loading import Items, Models, assemble
from recsys.tables import BoolArray, Catalog, FloatArray, IntArray, SemanticIds
from serving.engine.filters import FilterIndex
from serving.engine.interface import Where
from serving.engine.titles import TitleIndex


@dataclass(frozen=True)
class Settings:
    """How a bundle ranks: newest items of a history that are read, seed of the samples, and the recommend section."""

    window: int
    seed: int
    exclude_seen: bool
    recommend: RecommendConfig


@dataclass(frozen=True)
class CatalogState:
    """Items and rankers; `visible` [N] is False for withdrawn items. `models` is None without the continuous route."""

    items: Items
    visible: BoolArray
    language_model: LanguageModel
    models: Models | None
    settings: Settings
    filters: tuple[str, ...] | None = None  # once they are known

    def __len__(self) -> int:
        return len(self.items.catalog)

    @cached_property
    def generative(self) -> GenerativeRanker:
        """The language model's ranking alone."""
        config = self.settings.recommend
        return GenerativeRanker(
            self.language_model, self.items.semantic_ids, beams=config.beams, batch_size=config.batch_size
        )

    @cached_property
    def ensemble(self) -> Ensemble | None:
        """Everything fused, where the bundle has both routes."""
        if self.models is None:
            return None
        settings = self.settings
        return assemble(self.models, self.items, settings.recommend, window=settings.window, seed=settings.seed)

    @cached_property
    def titles(self) -> list[str]:
        return self.items.catalog.titles()

    @cached_property
    def title_index(self) -> TitleIndex:
        return TitleIndex(self.titles)

    @cached_property
    def filter_index(self) -> FilterIndex:
        return FilterIndex(self.items.catalog, self.filters)

    @cached_property
    def by_popularity(self) -> IntArray:
        """All items, those met most often first."""
        return np.argsort(-self.items.counts, kind="stable")

    def prepared(self) -> Self:
        """Itself, with everything made that would otherwise be made by the first request."""
        _ = self.ensemble if self.models is not None else self.generative
        _ = self.title_index, self.filter_index, self.by_popularity, self.items.catalog.positions
        return self

    def position(self, item_id: str) -> int:
        """An item's index.

        Raises:
            DataError: the catalogue does not have it.
        """
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

    def adding(self, rows: pl.DataFrame, codes: IntArray, latents: FloatArray, lenders: IntArray) -> Self:
        """With new items behind the others; the index has them already.

        Args:
            rows: item_id and text columns [M]; columns that the catalogue does not have are left out.
            lenders: [M] items whose behaviour they borrow, or -1 for the mean of all.
        """
        before = self.items
        frame = pl.concat([before.catalog.frame, rows], how="diagonal").select(before.catalog.frame.columns)
        catalog = Catalog(frame)
        items = Items(
            catalog,
            SemanticIds(
                catalog.item_ids, np.concatenate([before.semantic_ids.codes, codes]), before.semantic_ids.num_codes
            ),
            np.concatenate([before.latents, latents]),
            np.concatenate([before.counts, np.zeros(len(rows), np.int64)]),
            before.item_index,
            np.concatenate([before.lenders, lenders]),
        )
        visible = np.concatenate([self.visible, np.ones(len(rows), np.bool_)])
        return replace(self, items=items, visible=visible, filters=self.filter_index.columns)

    def showing(self, positions: IntArray, visible: bool) -> Self:
        """With some items withdrawn, or shown again."""
        changed = self.visible.copy()
        changed[positions] = visible
        return replace(self, visible=changed)
