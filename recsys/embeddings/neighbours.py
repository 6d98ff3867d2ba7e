"""Items that nobody has met, placed by their texts: each is taken to behave as the item it reads like.

Writes and reads `text_neighbours.safetensors`, which is mapped into memory and read when something is looked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from recsys.errors import ArtifactError, DataError
from recsys.tables import BoolArray, FloatArray, IntArray, ItemVectors, unit_rows

TEXT_NEIGHBOURS = "text_neighbours.safetensors"  # in a run and in a bundle
_QUERIES, _ITEMS = 1024, 65_536  # compared at once


class Borrowed(NamedTuple):
    """Collaborative vectors float32 [M, C], and whose they are [M]: an item's index, or -1 for the mean of all."""

    vectors: FloatArray
    lenders: IntArray


class TextNeighbours:
    """The items that somebody has met, found by the cosine of text vectors; all are compared.

    One neighbour lends its vector as it is. The mean of several lies nearer to the middle of all vectors, so that its
    item is near to everything: with ten new items among a hundred, three neighbours make them a quarter of what is
    found, and ten nearly a third (`python -m tests.benchmarks.newcomers`).

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
    def of(cls, text: ItemVectors, collaborative: ItemVectors, met: BoolArray) -> Self:
        """The items of a catalogue that are `met` [N].

        Raises:
            DataError: no item is.
        """
        items = np.flatnonzero(met)
        if not len(items):
            raise DataError("nobody has met any item in training; there is no behaviour to give vectors by")
        return cls(items, unit_rows(text.vectors[items]).astype(np.float16), collaborative.vectors[items])

    def lend(self, text: FloatArray) -> Borrowed:
        """Behaviour for items with text vectors [M, D]; one whose text is like no other's gets the mean.

        Raises:
            DataError: the vectors are of another width.
        """
        if text.shape[1:] != self.text.shape[1:]:
            raise DataError(f"text neighbours: got vectors {text.shape}, expected [M, {self.text.shape[1]}]")
        rows = np.concatenate([self._nearest(unit_rows(text[part])) for part in _chunks(len(text), _QUERIES)])
        alike = rows >= 0
        vectors = np.empty((len(text), self.collaborative.shape[1]), dtype=np.float32)
        vectors[alike] = self.collaborative[rows[alike]]
        if not alike.all():
            vectors[~alike] = self.collaborative.mean(axis=0, dtype=np.float64)
        return Borrowed(vectors, np.where(alike, self.items[rows], -1))

    def _nearest(self, text: FloatArray) -> IntArray:
        """Row of the most similar item, the first of equals, or -1 where none has a positive cosine."""
        best, rows = np.zeros(len(text), dtype=np.float32), np.full(len(text), -1, dtype=np.int64)
        for part in _chunks(len(self.items), _ITEMS):
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
                raise ValueError("no indices with two vectors each")
            if not len(items) == len(text) == len(collaborative):
                raise ValueError(f"{len(items)} indices, {len(text)} and {len(collaborative)} vectors do not fit")
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise ArtifactError(f"no text neighbours can be read from {path} ({error}); make it again") from error
        return cls(items, text, collaborative)


def _chunks(length: int, size: int) -> Iterator[slice]:
    for start in range(0, max(length, 1), size):
        yield slice(start, start + size)
