"""The kinds of FAISS index by name, which one suits how many items, and the search parameters of each."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from recsys.config import lookup
from recsys.retrieval.config import IndexConfig
from recsys.retrieval.library import import_faiss

FLAT_MOST, GRAPH_MOST, SQ8_MOST = 20_000, 1_000_000, 10_000_000
_ROWS_A_LIST = 39  # below it FAISS's k-means warns


class IndexSize(NamedTuple):
    """Number and width of the vectors, and the number of inverted lists for them."""

    num_vectors: int
    width: int
    num_lists: int


KINDS: dict[str, Callable[[IndexSize, IndexConfig], str]] = {
    "flat": lambda size, config: "Flat",
    "hnsw": lambda size, config: f"HNSW{config.hnsw_m}_SQ8",
    "ivf-flat": lambda size, config: f"IVF{size.num_lists},Flat",
    "ivf-sq8": lambda size, config: f"IVF{size.num_lists},SQ8",
    "ivf-rabitq": lambda size, config: f"RR{size.width},IVF{size.num_lists},RaBitQ4",
}
"""Every kind of index by its name in `index.kind`: size and configuration -> FAISS factory string."""


def chosen_kind(count: int, config: IndexConfig) -> str:
    """The kind for a number of items: the configured one, by size if that is `auto`."""
    if config.kind != "auto" and count:
        return config.kind
    if count <= FLAT_MOST:
        return "flat"
    if count <= GRAPH_MOST:
        return "ivf-flat" if config.frequent_deletes else "hnsw"
    return "ivf-sq8" if count <= SQ8_MOST else "ivf-rabitq"


def recall_target(count: int, config: IndexConfig) -> float:
    """The recall that the search effort is tuned to."""
    if config.recall is not None:
        return config.recall
    return 0.99 if count <= 200_000 else 0.95


def factory_string(count: int, width: int, config: IndexConfig) -> str:
    """FAISS's factory string of the index for `count` vectors of a width.

    Raises:
        ConfigError: the configured kind is unknown.
    """
    if config.factory is not None and count:
        return config.factory
    lists = config.nlist or 4 * math.isqrt(count)
    size = IndexSize(count, width, max(1, min(lists, count // _ROWS_A_LIST)))
    return lookup(KINDS, chosen_kind(count, config), key="index.kind")(size, config)


def innermost(index: Any) -> Any:
    """The index that has the search parameter, without pre-transforms around it and refinement."""
    faiss = import_faiss()
    if isinstance(index, faiss.IndexPreTransform):
        return innermost(faiss.downcast_index(index.index))
    if isinstance(index, faiss.IndexRefine):
        return innermost(faiss.downcast_index(index.base_index))
    return index


def effort_name(index: Any) -> str | None:
    """The parameter that trades time for recall, or None for a type without one."""
    faiss, inner = import_faiss(), innermost(index)
    if isinstance(inner, faiss.IndexHNSW):
        return "efSearch"
    return "nprobe" if isinstance(inner, faiss.IndexIVF) else None


def stores_exactly(index: Any) -> bool:
    """Whether candidates are compared by uncompressed vectors, so that no margin of candidates is needed."""
    faiss = import_faiss()
    return isinstance(index, faiss.IndexFlat | faiss.IndexIVFFlat | faiss.IndexHNSWFlat)


def search_parameters(index: Any, *, effort: int, selector: Any | None = None, bounded: bool = True) -> Any:
    """FAISS parameters of one search; nothing is set on the index itself.

    Args:
        selector: FAISS's filter of positions.
        bounded: limit a graph's queue to its effort. Unbounded search is a little faster, but its effort cannot be
            less than the number of candidates, and FAISS ignores the selector.
    """
    faiss = import_faiss()
    below = partial(search_parameters, effort=effort, selector=selector, bounded=bounded)
    if isinstance(index, faiss.IndexPreTransform):
        return faiss.SearchParametersPreTransform(index_params=below(faiss.downcast_index(index.index)))
    if isinstance(index, faiss.IndexRefine):
        inner = below(faiss.downcast_index(index.base_index))
        return faiss.IndexRefineSearchParameters(k_factor=1.0, base_index_params=inner)
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(efSearch=effort, sel=selector, bounded_queue=bounded or selector is not None)
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(nprobe=effort, sel=selector)
    return faiss.SearchParameters(sel=selector)
