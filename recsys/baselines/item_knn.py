"""Item-kNN: users of the items of a history also like the items nearest to these.

Sarwar et al., "Item-based collaborative filtering recommendation algorithms" (WWW 2001), sections 3.1-3.2: cosine
of the items' user columns, shrunk where few users support it, kept for the nearest neighbours only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy import sparse

from recsys.baselines.base import SCORES_PER_BATCH, ScoringModel, check_histories
from recsys.baselines.popularity import fit_popularity
from recsys.errors import ArtifactError
from recsys.tables import FloatArray, Histories, IntArray, TopItems, concatenate, top_k
from recsys.tracking import NullTracker, Tracker

_FILE = "item_knn.safetensors"
_SPARSE = ("data", "indices", "indptr")


@dataclass(frozen=True, repr=False)
class ItemKnn(ScoringModel):
    """`similarity` is sparse float32 [N, N]: row i holds the neighbours of item i."""

    similarity: sparse.csr_array
    recency: float
    fallback: FloatArray  # [N] in (-1, 0]: popularity's order, below every real score

    def __repr__(self) -> str:
        return f"<ItemKnn ({self.similarity.shape[0]} items, {self.similarity.nnz} neighbours)>"

    @property
    def num_items(self) -> int:
        return len(self.fallback)

    def scores(self, batch: Histories) -> FloatArray:
        """The similarities of a history's items, weighted by age; items without a neighbour follow by popularity."""
        weights = (self.recency ** _ages(batch)).astype(np.float32)
        shape = (len(batch), len(self.fallback))
        profiles = sparse.csr_array((weights, batch.items, batch.indptr), shape=shape)
        scores: FloatArray = (profiles @ self.similarity).toarray()
        return np.where(scores > 0, scores, self.fallback)

    def save(self, folder: Path) -> None:
        """Write `item_knn.safetensors` into `folder`, which is created."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {name: getattr(self.similarity, name) for name in _SPARSE}
        save_file(arrays | {"fallback": self.fallback, "recency": np.array([self.recency])}, folder / _FILE)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote.

        Raises:
            ArtifactError: the file is missing or damaged.
        """
        try:
            arrays = load_file(folder / _FILE)
            size = len(arrays["fallback"])
            similarity = sparse.csr_array(tuple(arrays[name] for name in _SPARSE), shape=(size, size))
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise ArtifactError(f"no item-kNN can be read from {folder} ({error}); run `recommend` again") from error
        return cls(similarity, float(arrays["recency"][0]), arrays["fallback"])


def fit_item_knn(
    histories: Histories,
    num_items: int,
    *,
    num_neighbors: int = 100,
    shrinkage: float = 20.0,
    recency: float = 0.6,
    tracker: Tracker | None = None,
) -> ItemKnn:
    """Similarities c_ij / (sqrt(n_i n_j) + shrinkage) of users in common, the `num_neighbors` largest of each item.

    With weights, c_ij is the sum over users of the products of their weights of both items, and n_i that of their
    squares; a user's weight of an item is the greatest of the interactions with it.

    `recency` in (0, 1] is the factor by which an item of a history counts less than the next newer one; 1 counts all
    alike.

    Raises:
        DataError: a history holds an index outside 0..num_items-1.
    """
    check_histories(histories, num_items)
    counts = fit_popularity(histories, num_items).counts
    interacted = _interaction_matrix(histories, num_items)
    sizes = np.sqrt(interacted.power(2).sum(axis=0, dtype=np.float32))
    by_item = interacted.T.tocsr()
    rows = max(1, SCORES_PER_BATCH // max(1, num_items))
    starts = range(0, num_items, rows)
    parts = []
    for start in (tracker or NullTracker()).track(starts, "item-kNN", len(starts)):
        common = (by_item[start : start + rows] @ interacted).toarray()
        common[np.arange(len(common)), np.arange(start, start + len(common))] = 0
        similarity = common / (np.outer(sizes[start : start + len(common)], sizes) + shrinkage).clip(1e-12)
        nearest = top_k(np.where(common > 0, similarity, -np.inf).astype(np.float32), num_neighbors)
        parts.append(nearest)
    return ItemKnn(_rows(concatenate(parts, num_neighbors), num_items), recency, _fallback(counts))


def _interaction_matrix(histories: Histories, num_items: int) -> sparse.csr_array:
    """Users x items: the greatest weight of the user's interactions with the item, 1 where nothing is weighted."""
    shape = (len(histories), num_items)
    if histories.weights is not None:
        users = np.repeat(np.arange(len(histories)), histories.lengths)
        order = np.lexsort((-histories.weights, histories.items, users))
        pairs = users[order] * num_items + histories.items[order]
        greatest = order[np.diff(pairs, prepend=-1) > 0]
        entries = (histories.weights[greatest], (users[greatest], histories.items[greatest]))
        return sparse.csr_array(entries, shape=shape)
    ones = np.ones(len(histories.items), dtype=np.float32)
    matrix = sparse.csr_array((ones, histories.items.copy(), histories.indptr.copy()), shape=shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix


def _rows(nearest: TopItems, num_items: int) -> sparse.csr_array:
    """The rows of neighbours as a sparse matrix."""
    found = nearest.items >= 0
    indptr = np.concatenate([[0], np.cumsum(found.sum(axis=1))])
    shape = (len(found), num_items)
    return sparse.csr_array((nearest.scores[found], nearest.items[found], indptr), shape=shape)


def _ages(histories: Histories) -> IntArray:
    """For each stored item, how many newer ones its history holds."""
    ends: IntArray = np.repeat(histories.indptr[1:], histories.lengths)
    return ends - 1 - np.arange(len(histories.items))


def _fallback(counts: FloatArray) -> FloatArray:
    ranks = np.argsort(np.argsort(-counts, kind="stable")).astype(np.float32)
    return -ranks / np.float32(max(1, len(counts)))
