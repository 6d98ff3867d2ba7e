"""Clustered vectors and one configuration for every type of index."""

from collections.abc import Callable

import numpy as np
import pytest

from recsys.retrieval.config import IndexConfig, Metric
from recsys.retrieval.index import ItemIndex
from recsys.retrieval.kinds import KINDS
from recsys.tables import FloatArray, IntArray

WIDTH = 16
_SMALL = IndexConfig(recall_at=10, num_tuning_queries=100, ef_construction=40, nlist=8)
CONFIGS = {
    **{kind: _SMALL.model_copy(update={"kind": kind}) for kind in KINDS},
    "factory": _SMALL.model_copy(update={"factory": "PCA12,IVF8,SQ8", "recall": 0.95}),
}


def clustered(count: int, *, seed: int = 0, width: int = WIDTH) -> FloatArray:
    """Vectors [count, width] around twenty centres."""
    random = np.random.default_rng(seed)
    centres = 2 * np.random.default_rng(7).standard_normal((20, width), dtype=np.float32)
    return centres[random.integers(20, size=count)] + random.standard_normal((count, width), dtype=np.float32)


def brute_force(vectors: FloatArray, queries: FloatArray, k: int, metric: Metric = "l2") -> tuple[IntArray, FloatArray]:
    """The naive reference: every distance in float64, sorted by distance, then by row."""
    a, b = queries.astype(np.float64), vectors.astype(np.float64)
    if metric == "l2":
        distances = np.square(a[:, None] - b[None]).sum(axis=2)
    elif metric == "inner-product":
        distances = -a @ b.T
    else:
        distances = 1 - (a / np.linalg.norm(a, axis=1)[:, None]) @ (b / np.linalg.norm(b, axis=1)[:, None]).T
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(distances, order, axis=1).astype(np.float32)


@pytest.fixture(scope="session")
def vectors() -> FloatArray:
    return clustered(800)


@pytest.fixture(scope="session")
def queries() -> FloatArray:
    """Not the distribution of the items: further out."""
    return 1.1 * clustered(40, seed=1)


@pytest.fixture(scope="session", params=list(CONFIGS))
def config(request: pytest.FixtureRequest) -> IndexConfig:
    return CONFIGS[request.param]


@pytest.fixture(scope="session")
def built(config: IndexConfig, vectors: FloatArray, queries: FloatArray) -> ItemIndex:
    """An index of each type under odd labels; tests that change one build their own."""
    return ItemIndex.build(vectors, odd_labels(len(vectors)), config, queries=queries)


@pytest.fixture
def fresh(config: IndexConfig, vectors: FloatArray, queries: FloatArray) -> Callable[[], ItemIndex]:
    return lambda: ItemIndex.build(vectors[:300], odd_labels(300), config, queries=queries)


def odd_labels(count: int) -> IntArray:
    """1, 3, 5, ... so that a row taken for a label shows."""
    return 2 * np.arange(count) + 1
