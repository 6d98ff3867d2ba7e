"""Item-kNN against a dense reference, and on pairs that occur together by construction."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.baselines import item_knn
from recsys.baselines.item_knn import ItemKnn, fit_item_knn
from recsys.errors import ArtifactError
from recsys.tables import CandidateFilter, Histories, TopItems


def histories_of(sequences: list[list[int]]) -> Histories:
    return Histories.from_lists([f"u{n}" for n in range(len(sequences))], sequences)


def first_unseen(model: ItemKnn, sequences: list[list[int]]) -> TopItems:
    histories = histories_of(sequences)
    return model.rank(histories, k=1, candidates=CandidateFilter.unseen(histories))


def dense_scores(train: list[list[int]], history: list[int], *, num_items: int, shrinkage: float, recency: float):
    interacted = np.zeros((len(train), num_items))
    for user, items in enumerate(train):
        interacted[user, items] = 1
    common, sizes = interacted.T @ interacted, np.sqrt(interacted.sum(axis=0))
    similarity = np.divide(common, np.outer(sizes, sizes) + shrinkage, out=np.zeros_like(common), where=common > 0)
    np.fill_diagonal(similarity, 0)
    return sum((recency**age * similarity[item] for age, item in enumerate(reversed(history))), np.zeros(num_items))


sequences = st.lists(st.lists(st.integers(0, 5), max_size=6), min_size=1, max_size=8)


@settings(deadline=None, max_examples=40)
@given(sequences, st.lists(st.integers(0, 5), max_size=5), st.sampled_from([0.0, 3.0]), st.sampled_from([0.5, 1.0]))
def test_scores_equal_the_dense_reference(
    train: list[list[int]], history: list[int], shrinkage: float, recency: float
) -> None:
    model = fit_item_knn(histories_of(train), 6, shrinkage=shrinkage, recency=recency)
    top = model.rank(histories_of([history]), k=6)
    expected = dense_scores(train, history, num_items=6, shrinkage=shrinkage, recency=recency)
    found = dict(zip(top.items[0].tolist(), top.scores[0].tolist(), strict=True))
    assert [found[i] if found[i] > 0 else 0 for i in range(6)] == pytest.approx(expected.tolist(), rel=1e-5)


def test_items_that_occur_together_are_recommended() -> None:
    model = fit_item_knn(histories_of([[2 * p, 2 * p + 1] for p in range(5) for _ in range(3)]), 10)
    top = first_unseen(model, [[i] for i in range(10)])
    assert top.items[:, 0].tolist() == [i ^ 1 for i in range(10)]


def test_only_the_nearest_neighbours_are_kept() -> None:
    train = histories_of([[0, 1], [0, 1], [0, 2], [3, 2]])
    similarity = fit_item_knn(train, 4, num_neighbors=1, shrinkage=0).similarity
    assert np.diff(similarity.indptr).tolist() == [1, 1, 1, 1]
    assert similarity.indices.tolist() == [1, 0, 3, 2]


def test_k_may_exceed_the_number_of_neighbors() -> None:
    train, history = histories_of([[0, 1], [0, 1], [0, 2], [3, 2], [4], [5, 4]]), histories_of([[0]])
    model = fit_item_knn(train, 6, num_neighbors=1, shrinkage=0)
    top = model.rank(history, k=5, candidates=CandidateFilter.unseen(history))
    assert top.items.tolist() == [[1, 2, 4, 3, 5]]  # the neighbor, then the others by popularity


def test_newer_items_count_more() -> None:
    model = fit_item_knn(histories_of([[0, 1], [2, 3]]), 4, recency=0.5)
    top = first_unseen(model, [[0, 2], [2, 0]])
    assert top.items[:, 0].tolist() == [3, 1]


def test_blocks_of_rows_do_not_change_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    train = histories_of(rng.integers(0, 30, size=(40, 6)).tolist())
    whole = fit_item_knn(train, 30, num_neighbors=5).similarity.toarray()
    monkeypatch.setattr(item_knn, "SCORES_PER_BATCH", 70)
    assert (fit_item_knn(train, 30, num_neighbors=5).similarity.toarray() == whole).all()


def test_saved_and_loaded_scores_the_same(tmp_path: Path) -> None:
    train = histories_of(np.random.default_rng(0).integers(0, 8, size=(10, 4)).tolist())
    model = fit_item_knn(train, 9, num_neighbors=3, recency=0.7)
    model.save(tmp_path / "knn")
    loaded = ItemKnn.load(tmp_path / "knn")
    assert repr(loaded) == repr(model)
    histories = histories_of([[0, 1], [], [8]])
    np.testing.assert_array_equal(loaded.scores(histories), model.scores(histories))


@pytest.mark.parametrize("content", [None, b"", b"no tensors"])
def test_a_missing_or_damaged_file_is_one_clear_line(tmp_path: Path, content: bytes | None) -> None:
    fit_item_knn(histories_of([[0, 1]]), 2).save(tmp_path)
    (path,) = tmp_path.iterdir()
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"no item-kNN can be read from .*; run `recommend` again") as raised:
        ItemKnn.load(tmp_path)
    assert str(tmp_path) in str(raised.value)
