"""Builds a tuned `Base` from vectors: create, train and fill the FAISS index, then tune its search effort."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np

from recsys.errors import ConfigError
from recsys.retrieval.base import Base
from recsys.retrieval.config import IndexConfig, Metric
from recsys.retrieval.exact import distances_to, faiss_metric, ranked, scan
from recsys.retrieval.kinds import chosen_kind, factory_string, innermost, recall_target
from recsys.retrieval.library import import_faiss
from recsys.retrieval.locality import locality_order
from recsys.retrieval.tuning import TunedEffort, efforts, tuned_effort
from recsys.tables import FloatArray, IntArray

_NOISE = 0.5  # distance of a synthetic query from an item, in standard deviations of the vectors

logger = logging.getLogger(__name__)


def build_base(
    labels: IntArray, vectors: FloatArray, config: IndexConfig, *, queries: FloatArray | None = None, seed: int
) -> Base:
    """Index validated vectors [N, D] under labels [N] and tune the search; both arrays are kept.

    With several threads the insertion order of a graph differs from run to run, and with it a few results;
    OMP_NUM_THREADS=1 makes it reproducible.

    Raises:
        ConfigError: FAISS refuses the factory string for vectors of this width and number.
    """
    factory = factory_string(len(labels), vectors.shape[1], config)
    kind = "factory" if config.factory is not None and len(labels) else chosen_kind(len(labels), config)
    index = _filled(factory, vectors, config, seed=seed)
    if kind == "hnsw":
        order = locality_order(vectors, seed=seed)
        index.permute_entries(order)
        labels, vectors = labels[order], vectors[order]
    at = min(config.recall_at, max(1, len(labels)))
    untuned = Base(
        _refined(index, vectors, config.metric), labels, kind, factory, config.metric, at, TunedEffort(1, 1.0)
    )
    base = replace(untuned, tuned=_tuned(untuned, config, queries, seed=seed))
    logged = (factory, len(labels), base.effort_name, base.tuned.effort, at, base.tuned.recall)
    logger.debug("index %s of %d items: %s %d, recall@%d %.4f", *logged)
    return base


def _filled(factory: str, vectors: FloatArray, config: IndexConfig, *, seed: int) -> Any:
    """The FAISS index over all vectors."""
    faiss = import_faiss()
    try:
        index = faiss.index_factory(vectors.shape[1], factory, faiss_metric(config.metric))
        inner = innermost(index)
        if isinstance(inner, faiss.IndexIVF):
            inner.cp.seed = seed % 2**31
        if isinstance(inner, faiss.IndexHNSW):
            inner.hnsw.efConstruction = config.ef_construction
            inner.keep_max_size_level0 = True  # same recall with a seventh fewer distance computations
            if _similar_ranges(vectors):
                _use_uniform_quantizer(inner)
        if len(vectors):
            index.train(vectors)
            index.add(vectors)
    except RuntimeError as error:
        reason = str(error).split("Error: ")[-1].strip().splitlines()[0]
        raise ConfigError(
            f"index.factory: FAISS refuses {factory!r} for {vectors.shape[0]} x {vectors.shape[1]} vectors ({reason}); "
            "see FAISS's list of factory strings"
        ) from error
    return index


def _refined(candidates: Any, vectors: FloatArray, metric: Metric) -> Any:
    """A FAISS `IndexRefine`: the index that proposes candidates, and the vectors that give exact distances."""
    faiss = import_faiss()
    flat = faiss.IndexFlat(vectors.shape[1], faiss_metric(metric))
    flat.add(vectors)
    return faiss.IndexRefine(candidates, flat)


def _similar_ranges(vectors: FloatArray) -> bool:
    """Whether one range for all columns would at most double the size of the rounding errors."""
    if not len(vectors):
        return False
    spans = np.ptp(vectors, axis=0).astype(np.float64)
    return bool(np.square(spans).mean() * 4 >= np.square(spans.max()) > 0)


def _use_uniform_quantizer(graph: Any) -> None:
    """Quantize all columns of a byte-storing graph with one range: search is a twelfth faster.

    The coarser rounding costs no recall, as candidates are refined exactly.
    """
    faiss = import_faiss()
    if isinstance(graph, faiss.IndexHNSWSQ):
        quantizer = faiss.downcast_index(graph.storage).sq
        if quantizer.qtype == faiss.ScalarQuantizer.QT_8bit:
            quantizer.qtype = faiss.ScalarQuantizer.QT_8bit_uniform


def _tuned(base: Base, config: IndexConfig, queries: FloatArray | None, *, seed: int) -> TunedEffort:
    """Tune on the queries, or on perturbed vectors without any."""
    if not len(base):
        return base.tuned
    if queries is None or not len(queries):
        queries = perturbed(base.vectors, config.num_tuning_queries, np.random.default_rng(seed))
    k = base.recall_at

    def search(effort: int) -> FloatArray:
        return ranked(*base.nearest(queries, k, effort=effort), k).distances

    nearest = scan(queries, base.vectors, k, base.metric)
    truth = ranked(nearest, distances_to(queries, base.vectors, nearest, base.metric), k).distances
    tried = efforts(base.effort_name, base.most_effort)
    return tuned_effort(search, truth, tried, recall_target(len(base), config))


def perturbed(vectors: FloatArray, count: int, random: np.random.Generator) -> FloatArray:
    """Synthetic queries [count, D]: random rows of vectors [N, D] with noise of half their standard deviation."""
    rows = vectors[random.integers(len(vectors), size=count)]
    noise = random.standard_normal(rows.shape, dtype=np.float32) * vectors.std(axis=0)
    moved: FloatArray = rows + np.float32(_NOISE) * noise
    return moved
