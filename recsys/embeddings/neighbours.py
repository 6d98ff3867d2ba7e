"""Collaborative vectors of cold-start items: each gets that of its proxy, the known item whose text is nearest.

Writes and reads `text_neighbours.safetensors`, which is memory-mapped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from recsys.errors import ArtifactError, DataError
from recsys.tables import BoolArray, FloatArray, IntArray, ItemVectors, slices, unit_rows

TEXT_NEIGHBOURS = "text_neighbours.safetensors"  # in a run and in a bundle
_QUERIES, _ITEMS = 1024, 65_536  # compared at once


class Proxies(NamedTuple):
    """Collaborative vectors float32 [M, C], and the proxy items [M] they are of: an item index, or -1 = mean of all."""

    vectors: FloatArray
    items: IntArray


class TextNeighbours:
    """Items with training interactions, searched exactly by the cosine of their text vectors.

    A proxy is one item, not the mean of several: a mean lies nearer to the centre of all vectors, hence near to
    everything. With a tenth of the items new, the mean of three makes them a quarter of all recommendations, and that
    of ten nearly a third (`python -m tests.benchmarks.cold_start`).

    Args:
        items: [N] indices in the catalogue.
        text: unit rows [N, D].
        collaborative: float32 [N, C].
    """

    def __init__(self, items: IntArray, text: npt.NDArray[np.floating[Any]], collaborative: FloatArray) -> None:
        self.items, self.text, self.collaborative = items, text, collaborative

    def __repr__(self) -> str:
        return f"<TextNeighbours ({len(self.items)} items, {self.text.shape[1]} text dimensions)>"

    @classmethod
    def of(cls, text: ItemVectors, collaborative: ItemVectors, known: BoolArray) -> Self:
        """The items of a catalogue that are `known` [N], that is, have training interactions.

        Raises:
            DataError: no item is.
        """
        items = np.flatnonzero(known)
        if not len(items):
            raise DataError("no item has training interactions, so no collaborative vectors exist; add interactions")
        return cls(items, unit_rows(text.vectors[items]).astype(np.float16), collaborative.vectors[items])

    def proxies(self, text: FloatArray) -> Proxies:
        """Proxies of items with text vectors [M, D]; without any positive cosine, the mean of all known items.

        Raises:
            DataError: the vectors are of another width.
        """
        if text.shape[1:] != self.text.shape[1:]:
            raise DataError(f"text neighbours: got vectors {text.shape}, expected [M, {self.text.shape[1]}]")
        rows = np.concatenate([self._nearest(unit_rows(text[part])) for part in slices(max(len(text), 1), _QUERIES)])
        similar = rows >= 0
        vectors = np.empty((len(text), self.collaborative.shape[1]), dtype=np.float32)
        vectors[similar] = self.collaborative[rows[similar]]
        if not similar.all():
            vectors[~similar] = self.collaborative.mean(axis=0, dtype=np.float64)
        return Proxies(vectors, np.where(similar, self.items[rows], -1))

    def _nearest(self, text: FloatArray) -> IntArray:
        """Row of the most similar item, the first of equals, or -1 where none has a positive cosine."""
        best, rows = np.zeros(len(text), dtype=np.float32), np.full(len(text), -1, dtype=np.int64)
        for part in slices(len(self.items), _ITEMS):
            cosines = text @ np.asarray(self.text[part], dtype=np.float32).T
            found = cosines.argmax(axis=1)
            highest = cosines[np.arange(len(text)), found]
            better = highest > best
            best[better], rows[better] = highest[better], found[better] + part.start
        return rows

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        arrays = {"items": self.items, "text": self.text, "collaborative": self.collaborative}
        save_file({name: torch.from_numpy(array) for name, array in arrays.items()}, path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """What `save` wrote.

        Raises:
            ArtifactError: the file is missing, damaged or another one.
        """
        try:
            tensors = load_file(path)
            items, text, collaborative = (tensors[name].numpy() for name in ("items", "text", "collaborative"))
            if (items.ndim, text.ndim, collaborative.ndim) != (1, 2, 2) or items.dtype != np.int64:
                raise ValueError("items, text or collaborative of another shape or type")
            if not len(items) == len(text) == len(collaborative):
                raise ValueError(f"{len(items)} indices, {len(text)} and {len(collaborative)} vectors do not fit")
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise ArtifactError(f"no text neighbours can be read from {path} ({error}); run `embed` again") from error
        return cls(items, text, collaborative)
