"""The contract of every index, whatever its FAISS type."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from recsys.errors import DataError
from recsys.files import fingerprint
from recsys.retrieval.config import IndexConfig, Metric
from recsys.retrieval.index import ItemIndex
from recsys.tables import FloatArray
from tests.retrieval.conftest import CONFIGS, WIDTH, brute_force, clustered, odd_labels

K = 10
Fresh = Callable[[], ItemIndex]


def test_it_finds_what_exact_search_finds(built: ItemIndex, vectors: FloatArray, queries: FloatArray) -> None:
    rows, distances = brute_force(vectors, queries, K)
    found = built.search(queries, K)
    hits = [len(np.intersect1d(a, 2 * b + 1)) / K for a, b in zip(found.labels, rows, strict=True)]
    assert np.mean(hits) >= 0.94
    assert abs(np.mean(hits) - built.recall) < 0.01
    first = found.labels[:, 0] == 2 * rows[:, 0] + 1
    np.testing.assert_allclose(found.distances[first, 0], distances[first, 0], rtol=1e-4)
    assert (np.diff(found.distances, axis=1) >= 0).all()


def test_distances_belong_to_their_labels(built: ItemIndex, vectors: FloatArray, queries: FloatArray) -> None:
    found = built.search(queries, K)
    expected = np.square(vectors[found.labels // 2] - queries[:, None]).sum(axis=2)
    np.testing.assert_allclose(found.distances, expected, rtol=1e-4)
    assert (found.labels.dtype, found.distances.dtype) == (np.int64, np.float32)


def test_an_item_is_its_own_nearest(built: ItemIndex, vectors: FloatArray) -> None:
    found = built.search(vectors[:200], 1)
    assert (found.labels[:, 0] == odd_labels(200)).mean() > 0.97
    assert (found.distances == 0).mean() > 0.97


def test_results_do_not_depend_on_the_batch(built: ItemIndex, queries: FloatArray) -> None:
    batch = built.search(queries, K)
    alone = [built.search(query[None], K) for query in queries]
    np.testing.assert_array_equal(batch.labels, np.concatenate([found.labels for found in alone]))
    np.testing.assert_array_equal(batch.distances, np.concatenate([found.distances for found in alone]))


def test_k_above_the_number_of_items_pads(fresh: Fresh, queries: FloatArray) -> None:
    index = fresh()
    index.remove([1, 3])
    found = index.search(queries[:3], 400)
    assert found.labels.shape == (3, 400)
    assert (found.labels[:, 298:] == -1).all()
    assert np.isinf(found.distances[:, 298:]).all()
    for row in found.labels[:, :298]:
        np.testing.assert_array_equal(np.sort(row), odd_labels(300)[2:])


def test_items_are_added_removed_and_added_again(fresh: Fresh, vectors: FloatArray) -> None:
    index, new = fresh(), vectors[300:310]
    index.add(range(0, 20, 2), new)
    assert len(index) == 310
    np.testing.assert_array_equal(index.search(new, 1).labels[:, 0], np.arange(0, 20, 2))
    index.remove([4, 101])
    assert len(index) == 308
    assert not np.isin(index.search(vectors[[50, 302]], 308).labels, [4, 101]).any()
    index.add([101, 4], new[[2, 3]] + 100)
    np.testing.assert_array_equal(index.search(new[[2, 3]] + 100, 1).labels[:, 0], [101, 4])
    assert len(index) == 310


def test_compaction_changes_nothing_but_the_base(fresh: Fresh, vectors: FloatArray) -> None:
    index = fresh()
    index.add(range(0, 400, 2), vectors[300:500])
    index.remove([*range(1, 200, 2), 0, 2])
    index.add([7], vectors[500:501])
    before = index.search(vectors[:20], len(index))
    index.compact()
    assert len(index.snapshot.base) == len(index) == 399
    assert not len(index.snapshot.delta.labels)
    after = index.search(vectors[:20], len(index))
    np.testing.assert_array_equal(after.labels, before.labels)
    np.testing.assert_array_equal(after.distances, before.distances)
    np.testing.assert_array_equal(index.search(vectors[500:501], 1).labels, [[7]])


def test_all_can_be_removed_and_compacted(fresh: Fresh, vectors: FloatArray) -> None:
    index = fresh()
    index.remove(odd_labels(300))
    for _ in range(2):
        assert len(index) == 0
        assert (index.search(vectors[:2], 3).labels == -1).all()
        index.compact()
    index.add([5], vectors[:1])
    np.testing.assert_array_equal(index.search(vectors[:1], 2).labels, [[5, -1]])


def test_a_held_snapshot_sees_no_later_change(fresh: Fresh, vectors: FloatArray) -> None:
    index = fresh()
    held, before = index.snapshot, index.search(vectors[:5], K)
    index.add([0], vectors[:1])
    index.remove([1, 3])
    index.compact()
    np.testing.assert_array_equal(held.search(vectors[:5], K).labels, before.labels)
    assert len(held) == 300


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1), seed=st.integers(0, 99), k=st.integers(1, 40), as_mask=st.booleans())
def test_a_filter_is_respected_and_k_items_are_found(
    built: ItemIndex, queries: FloatArray, share: float, seed: int, k: int, as_mask: bool
) -> None:
    mask = np.random.default_rng(seed).random(2 * 800) < share
    labels = np.intersect1d(np.flatnonzero(mask), odd_labels(800))
    found = built.search(queries[:8], k, allowed=mask if as_mask else set(labels.tolist()))
    assert np.isin(found.labels[found.labels >= 0], labels).all()
    assert (np.count_nonzero(found.labels >= 0, axis=1) == min(k, len(labels))).all()


def test_filters_with_removed_and_added_items(fresh: Fresh, vectors: FloatArray) -> None:
    index = fresh()
    index.add([0, 2], vectors[300:302])
    index.remove([1, 5])
    found = index.search(vectors[:4], 6, allowed={0, 1, 3, 5, 9, 10_000})
    assert {0, 3, 9} == set(found.labels[found.labels >= 0].tolist())
    for wrong in (np.ones((2, 2), dtype=np.bool_), np.array([0.5]), {"a"}):
        with pytest.raises(DataError, match="allowed: labels or a boolean mask"):
            index.search(vectors[:1], 1, allowed=wrong)  # type: ignore[arg-type]
    np.testing.assert_array_equal(index.search(vectors[:1], 2, allowed=np.array([3, 3])).labels, [[3, -1]])
    assert (index.search(vectors[:1], 2, allowed=set()).labels == -1).all()
    mask = np.zeros(4, dtype=np.bool_)
    mask[[2, 3]] = True
    found = index.search(vectors[:4], 6, allowed=mask)
    assert {2, 3} == set(found.labels[found.labels >= 0].tolist())


def test_a_large_filter_goes_through_the_index(
    monkeypatch: pytest.MonkeyPatch, built: ItemIndex, vectors: FloatArray, queries: FloatArray
) -> None:
    monkeypatch.setattr("recsys.retrieval.base.FLAT_MOST", 50)
    kept = np.random.default_rng(0).permutation(800)[:500]
    found = built.search(queries, K, allowed=2 * kept + 1)
    assert np.isin(found.labels, 2 * kept + 1).all()
    kept = np.sort(kept)
    rows, _ = brute_force(vectors[kept], queries, K)
    hits = [len(np.intersect1d(a, 2 * kept[b] + 1)) / K for a, b in zip(found.labels, rows, strict=True)]
    assert np.mean(hits) > 0.9


def test_a_filtered_search_visits_more_lists_to_keep_its_recall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.retrieval.base.FLAT_MOST", 50)
    items, queries = (np.random.default_rng(seed).standard_normal((count, 8)) for seed, count in ((0, 6000), (1, 200)))
    config = IndexConfig(kind="ivf-flat", nlist=100, recall_at=10, recall=0.95, num_tuning_queries=200)
    index = ItemIndex.build(items, config=config, queries=queries)
    kept = np.flatnonzero(np.random.default_rng(2).random(6000) < 0.1)
    found = index.search(queries, 10, allowed=kept).labels
    rows, _ = brute_force(items[kept], queries, 10)
    assert np.mean([len(np.intersect1d(a, kept[b])) / 10 for a, b in zip(found, rows, strict=True)]) > 0.95


def test_duplicates_are_in_the_order_of_their_labels(config: IndexConfig, vectors: FloatArray) -> None:
    many = np.repeat(vectors[:100], 4, axis=0)
    index = ItemIndex.build(many, np.random.default_rng(0).permutation(400), config)
    found = index.search(vectors[:100], 4)
    assert (found.distances == 0).mean() > 0.97
    full = (found.distances == 0).all(axis=1)
    assert (np.diff(found.labels[full], axis=1) > 0).all()
    same = ItemIndex.build(np.ones((64, WIDTH)), None, config.model_copy(update={"factory": None}))
    np.testing.assert_array_equal(same.search(np.ones((1, WIDTH)), 64).labels, [np.arange(64)])


def test_of_equal_distances_the_smallest_labels_are_found(vectors: FloatArray) -> None:
    labels = np.random.default_rng(0).permutation(400)
    smallest = np.sort(labels.reshape(100, 4), axis=1)[:, :2]
    for kind in ("flat", "ivf-flat"):
        index = ItemIndex.build(np.repeat(vectors[:100], 4, axis=0), labels, CONFIGS[kind])
        np.testing.assert_array_equal(index.search(vectors[:100], 2, allowed=labels).labels, smallest)


def test_large_values_are_allowed(built: ItemIndex, vectors: FloatArray) -> None:
    assert np.isfinite(built.search(1e14 * vectors[:1], K).distances).all()


@pytest.mark.parametrize("kind", ["hnsw", "ivf-flat"])
def test_a_filtered_search_and_a_longer_one_try_harder(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr("recsys.retrieval.base.FLAT_MOST", 10)
    items = np.random.default_rng(0).standard_normal((6000, WIDTH)).astype(np.float32)
    queries = np.random.default_rng(1).standard_normal((60, WIDTH)).astype(np.float32)
    config = IndexConfig.model_validate({"kind": kind, "recall": 0.8, "recall_at": 1, "nlist": 100})
    index = ItemIndex.build(items, None, config, queries=queries)
    for rows, k in ((np.arange(0, 6000, 50), K), (np.arange(6000), 100)):
        exact = rows[brute_force(items[rows], queries, k)[0]]
        found = index.search(queries, k, None if len(rows) == 6000 else rows).labels
        assert np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(found, exact, strict=True)]) > 0.9


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, 1e300])
def test_non_finite_values_are_refused(built: ItemIndex, vectors: FloatArray, value: float) -> None:
    bad = vectors[:3].astype(np.float64)
    bad[1, 2] = value
    with pytest.raises(DataError, match="queries: NaN, infinite or larger"):
        built.search(bad, K)
    with pytest.raises(DataError, match="vectors: NaN, infinite or larger"):
        built.add([0, 2, 4], bad)
    with pytest.raises(DataError, match="vectors: NaN, infinite or larger"):
        ItemIndex.build(bad, None, built.config)


def test_the_wrong_shape_is_refused(built: ItemIndex, vectors: FloatArray) -> None:
    with pytest.raises(DataError, match=r"queries: shape \(3, 5\), needed is \[N, 16\]"):
        built.search(vectors[:3, :5], K)
    with pytest.raises(DataError, match=r"queries: shape \(16,\)"):
        built.search(vectors[0], K)
    with pytest.raises(DataError, match="k: got 0"):
        built.search(vectors[:1], 0)
    assert built.search(vectors[:0], 3).labels.shape == (0, 3)


def test_invalid_labels_are_refused(fresh: Fresh, vectors: FloatArray) -> None:
    index = fresh()
    for labels, words in (
        ([1], "label 1 is in the index already"),
        ([-4], "-4 is negative"),
        ([2, 2], "occurs twice"),
        ([2, 4], "2 labels for 1 vectors"),
        ([0.5], "integers"),
    ):
        with pytest.raises(DataError, match=words):
            index.add(labels, vectors[: 2 if labels == [2, 2] else 1])
    with pytest.raises(DataError, match="label 2 is not in the index"):
        index.remove([1, 2])
    assert len(index) == 300


@pytest.mark.parametrize("metric", ["inner-product", "cosine"])
def test_other_metrics_equal_exact_search(
    config: IndexConfig, vectors: FloatArray, queries: FloatArray, metric: Metric
) -> None:
    index = ItemIndex.build(vectors, None, config.model_copy(update={"metric": metric}), queries=queries)
    rows, distances = brute_force(vectors, queries, K, metric)
    found = index.search(queries, K)
    hits = [len(np.intersect1d(a, b)) / K for a, b in zip(found.labels, rows, strict=True)]
    assert np.mean(hits) >= 0.94
    agree = found.labels[:, 0] == rows[:, 0]
    np.testing.assert_allclose(found.distances[agree, 0], distances[agree, 0], atol=1e-4)


def test_saved_and_loaded_it_is_the_same(fresh: Fresh, queries: FloatArray, tmp_path: Path) -> None:
    index = fresh()
    index.add([0, 2], queries[:2])
    index.remove([1, 0])
    index.save(tmp_path / "index")
    for memory_map in (True, False):
        loaded = ItemIndex.load(tmp_path / "index", memory_map=memory_map)
        assert repr(loaded) == repr(index)
        for k in (1, 50, 400):
            expected, found = index.search(queries, k), loaded.search(queries, k)
            np.testing.assert_array_equal(found.labels, expected.labels)
            np.testing.assert_array_equal(found.distances, expected.distances)
        loaded.add([0], queries[:1])
        loaded.compact()
        assert len(loaded) == len(index) + 1


def test_the_same_seed_builds_the_same_files(config: IndexConfig, tmp_path: Path) -> None:
    with threadpool_limits(1):
        for name in ("first", "second"):
            ItemIndex.build(clustered(200), None, config, seed=3).save(tmp_path / name)
    assert fingerprint(tmp_path / "first") == fingerprint(tmp_path / "second")


def test_every_kind_is_tested() -> None:
    assert set(CONFIGS) == {"flat", "hnsw", "ivf-flat", "ivf-sq8", "ivf-rabitq", "factory"}
