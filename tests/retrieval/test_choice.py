"""The choice of index, the tuning of its effort, and behaviour without FAISS or with a GPU."""

import logging
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import faiss
import numpy as np
import pytest

from recsys.errors import ConfigError, DependencyError
from recsys.retrieval import base as base_module
from recsys.retrieval.build import perturbed
from recsys.retrieval.config import IndexConfig
from recsys.retrieval.index import ItemIndex
from recsys.retrieval.kinds import chosen_kind, factory_string, recall_target
from recsys.retrieval.library import gpu_copy, import_faiss
from recsys.retrieval.tuning import efforts, recalls, tuned_effort
from tests.retrieval.conftest import CONFIGS, clustered


@pytest.mark.parametrize(
    ("count", "deletes", "kind"),
    [
        (0, False, "flat"),
        (20_000, True, "flat"),
        (20_001, False, "hnsw"),
        (20_001, True, "ivf-flat"),
        (1_000_000, False, "hnsw"),
        (1_000_000, True, "ivf-flat"),
        (1_000_001, False, "ivf-sq8"),
        (10_000_000, False, "ivf-sq8"),
        (10_000_001, False, "ivf-rabitq"),
    ],
)
def test_the_automatic_choice(count: int, deletes: bool, kind: str) -> None:
    assert chosen_kind(count, IndexConfig(frequent_deletes=deletes)) == kind


def test_the_configuration_overrides_the_choice() -> None:
    assert chosen_kind(10, IndexConfig(kind="ivf-sq8")) == "ivf-sq8"
    assert factory_string(10, 8, IndexConfig(factory="SQ8")) == "SQ8"
    assert factory_string(1_000_000, 128, IndexConfig(kind="ivf-rabitq")) == "RR128,IVF4000,RaBitQ4"
    assert factory_string(1000, 8, IndexConfig(kind="ivf-flat", nlist=900)) == "IVF25,Flat"
    assert recall_target(10_000_000, IndexConfig(recall=0.7)) == 0.7
    assert recall_target(100_000, IndexConfig()) == 0.99
    assert recall_target(1_000_000, IndexConfig()) == 0.95


def test_user_provided_factory_strings(caplog: pytest.LogCaptureFixture) -> None:
    vectors = clustered(400)
    for factory in ("HNSW8,Flat", "IVF8,Flat,RFlat", "SQ8", "RR16,IVF8,RaBitQfs4", "IVF8,PQ8x4fs"):
        config = IndexConfig(factory=factory, recall_at=5, num_tuning_queries=50)
        with caplog.at_level(logging.ERROR):
            index = ItemIndex.build(vectors, None, config)
        assert (index.kind, index.snapshot.base.factory) == ("factory", factory)
        assert (index.search(vectors[:50], 1, allowed=set(range(40))).labels[:40, 0] == np.arange(40)).all()
        assert index.recall > 0.9


@pytest.mark.parametrize("factory", ["nonsense", "IVF8", "PQ5", "IDMap,Flat"])
def test_a_factory_string_faiss_refuses(factory: str) -> None:
    with pytest.raises(ConfigError, match=r"index\.factory: FAISS refuses"):
        ItemIndex.build(clustered(400), None, IndexConfig(factory=factory))


def test_recall_counts_equals_as_hits() -> None:
    truth = np.array([[0.0, 1.0, 1.0], [0.0, 1.0, 2.0]], dtype=np.float32)
    found = np.array([[0.0, 1.0, 1.0], [1.0, 3.0, np.inf]], dtype=np.float32)
    np.testing.assert_allclose(recalls(found, truth), [1, 1 / 3])


def test_the_smallest_effort_that_reaches_the_target(caplog: pytest.LogCaptureFixture) -> None:
    truth = np.tile(np.arange(10, dtype=np.float32), (50, 1))

    def search(effort: int) -> Any:
        found = truth.copy()
        found[:, effort:] = np.inf
        return found

    assert tuned_effort(search, truth, [1, 5, 8, 10], 0.8) == (8, pytest.approx(0.8))
    assert not caplog.records
    assert tuned_effort(search, truth, [1, 5], 0.8) == (5, pytest.approx(0.5))
    assert "reaches a recall of 0.5000, the target is 0.8000" in caplog.text


def test_the_recall_of_few_queries_must_exceed_the_target_by_its_standard_error() -> None:
    truth = np.tile(np.arange(10, dtype=np.float32), (4, 1))

    def search(effort: int) -> Any:
        found = truth.copy()
        found[:2, effort:] = np.inf  # half of the queries have full recall
        return found

    assert tuned_effort(search, truth, [2, 4, 6, 8, 10], 0.88).effort == 10
    assert tuned_effort(search, truth, [2, 4, 6, 8, 10], 0.84).effort == 8


def test_perturbed_vectors_lie_half_a_deviation_from_the_items() -> None:
    vectors = np.zeros((2, 4), np.float32) + np.array([[1], [-1]], np.float32)  # deviation 1
    moved = perturbed(vectors, 2000, np.random.default_rng(0))
    assert (np.abs(moved) - 1).std() == pytest.approx(0.5, abs=0.03)
    assert moved.mean() == pytest.approx(0, abs=0.1)


def test_efforts_ascend_to_an_exhaustive_search() -> None:
    assert efforts(None, 1000) == [1]
    tried = efforts("efSearch", 600)
    assert tried == sorted(set(tried))
    assert (tried[0], tried[-1]) == (1, 600)


def test_a_graph_leaves_no_link_unused() -> None:
    index = ItemIndex.build(clustered(2000), None, CONFIGS["hnsw"])
    graph = faiss.downcast_index(index.snapshot.base.index.base_index).hnsw
    links, starts = faiss.vector_to_array(graph.neighbors), faiss.vector_to_array(graph.offsets)[:-1].astype(int)
    ground = links[starts[:, None] + np.arange(graph.nb_neighbors(0))]
    assert (ground >= 0).mean() > 0.99


def test_ef_search_may_be_below_k_where_the_recall_suffices() -> None:
    config = CONFIGS["hnsw"].model_copy(update={"recall_at": 100, "recall": 0.8})
    vectors, queries = clustered(5000), clustered(100, seed=1)
    index = ItemIndex.build(vectors, None, config, queries=queries)
    assert index.effort < 100
    assert index.recall >= 0.8
    assert (index.search(queries, 100).labels >= 0).all()


def test_a_higher_target_takes_more_effort() -> None:
    low, high = (
        ItemIndex.build(clustered(800), None, CONFIGS["ivf-flat"].model_copy(update={"recall": recall}))
        for recall in (0.5, 0.999)
    )
    assert low.effort < high.effort
    assert low.recall < high.recall


def test_more_candidates_are_refined_where_vectors_are_compressed() -> None:
    vectors, queries = clustered(3000), clustered(40, seed=1)
    config = CONFIGS["ivf-rabitq"].model_copy(update={"recall": 1.0, "recall_at": 100})
    exact = ItemIndex.build(vectors, config=IndexConfig(kind="flat")).search(queries, 200)
    found = ItemIndex.build(vectors, config=config, queries=queries).search(queries, 200)
    np.testing.assert_array_equal(found.labels, exact.labels)


def test_without_faiss_the_error_names_the_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(DependencyError, match=r"recsys\[cpu\], recsys\[gpu\] \(CUDA 12\) or recsys\[gpu-cuvs\]"):
        ItemIndex.build(clustered(30), None)


def test_the_configuration_needs_no_faiss() -> None:
    code = "import sys, recsys.retrieval.config; sys.exit('faiss' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_building_and_searching_do_not_change_the_number_of_threads() -> None:
    before = faiss.omp_get_max_threads()
    ItemIndex.build(clustered(300), None, CONFIGS["hnsw"]).search(clustered(5), 3)
    assert faiss.omp_get_max_threads() == before


class FakeGpu(SimpleNamespace):
    """FAISS as it looks with one GPU: copies are the index itself, counting their searches."""

    def __init__(self) -> None:
        super().__init__(searches=0, StandardGpuResources=object, get_num_gpus=lambda: 1)

    def index_cpu_to_gpu(self, resources: object, device: int, index: Any) -> Any:
        if isinstance(index, faiss.IndexPreTransform):
            raise RuntimeError("This index type is not implemented on GPU.")

        def search(queries: Any, k: int, params: Any) -> Any:
            self.searches += 1
            return index.search(queries, k, params=params)

        return SimpleNamespace(search=search)


@pytest.mark.parametrize(("kind", "uses"), [("flat", 1), ("ivf-sq8", 1), ("hnsw", 0), ("ivf-rabitq", 0)])
def test_unfiltered_searches_go_to_the_gpu(monkeypatch: pytest.MonkeyPatch, kind: str, uses: int) -> None:
    index = ItemIndex.build(clustered(300), None, CONFIGS[kind])
    queries = clustered(4, seed=1)
    expected = index.search(queries, 5), index.search(queries, 5, allowed=set(range(50)))
    fake = FakeGpu()
    monkeypatch.setattr(base_module, "gpu_copy", lambda _, index: gpu_copy(fake, index))
    index.compact()
    fake.searches = 0
    for found, allowed in zip(expected, (None, set(range(50))), strict=True):
        again = index.search(queries, 5, allowed)
        np.testing.assert_array_equal(again.labels, found.labels)
    assert fake.searches == uses


def test_no_gpu_no_copy() -> None:
    assert gpu_copy(import_faiss(), faiss.IndexFlatL2(4)) is None


def test_a_graph_keeps_its_recall_with_columns_of_very_different_ranges() -> None:
    vectors = np.random.default_rng(0).standard_normal((3000, 16)).astype(np.float32)
    vectors[:, 0] = 1e3 * (np.arange(3000) % 2)
    index = ItemIndex.build(vectors, config=IndexConfig(kind="hnsw", recall=0.95, recall_at=10))
    found = index.search(vectors[:200], 10).labels
    exact = ItemIndex.build(vectors, config=IndexConfig(kind="flat")).search(vectors[:200], 10).labels
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, exact, strict=True)]) > 0.9
