"""A new item with the collaborative vector of its proxy is found nearly as often as with its own.

`python -m tests.benchmarks.cold_start RUN` treats a tenth of a finished run's items as new: the sigma-VAE is fitted on
the others, and each substitute for the collaborative vectors of new items is one JSON line. Targets are the validation
items; items are scored by a kernel sum over the latents of the history's items, none of which is new. `share` is the
share of new items in all lists of ten: above that with "own vectors", new items crowd out others.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from recsys.data.dataset import Dataset
from recsys.data.histories import queries
from recsys.embeddings.neighbours import TextNeighbours
from recsys.tables import VALIDATION, BoolArray, FloatArray, Histories, IntArray, ItemVectors, unit_rows
from recsys.tokenization.continuous import ContinuousTokenizer, fit_sigma_vae
from recsys.tokenization.continuous_config import ContinuousConfig
from tests.benchmarks.common import emit

K, BANDWIDTH, WINDOW = 10, 4.0, 20


class Targets(NamedTuple):
    """Histories without new items, and the targets."""

    histories: list[IntArray]
    targets: IntArray


def draw_targets(dataset: Dataset, new: BoolArray, users: int, generator: np.random.Generator) -> Targets:
    found = queries(dataset.interactions, dataset.catalog, split=VALIDATION, max_history=WINDOW)
    chosen = generator.choice(len(found), size=min(users, len(found)), replace=False)
    kept = [(items, found.targets[u]) for u in chosen if len(items := _old(found.histories, u, new))]
    return Targets([items for items, _ in kept], np.array([target for _, target in kept]))


def _old(histories: Histories, user: int, new: BoolArray) -> IntArray:
    items = histories[user]
    return items[~new[items]]


def substitutes(text: ItemVectors, collaborative: ItemVectors, new: BoolArray) -> Iterator[tuple[str, FloatArray]]:
    """Substitutes for the collaborative vectors of new items: name and vectors."""
    known = unit_rows(collaborative.vectors[~new])
    yield "own vectors", collaborative.vectors[new]
    yield "proxy: nearest text (ours)", TextNeighbours.of(text, collaborative, ~new).proxies(text.vectors[new]).vectors
    cosines = unit_rows(text.vectors[new]) @ unit_rows(text.vectors[~new]).T
    order = np.argsort(-cosines, axis=1)
    for number in (3, 10):
        yield f"mean of the {number} nearest texts", known[order[:, :number]].mean(axis=1)
    yield "mean of all", np.tile(known.mean(axis=0), (int(new.sum()), 1))


def measure(name: str, latents: FloatArray, new: BoolArray, drawn: Targets) -> None:
    """Recall at 10 of new and of other targets, and the new items' share of the lists."""
    points = torch.from_numpy(latents)
    squares = points.square().sum(dim=1)
    hits, taken = np.zeros(len(drawn.targets), np.bool_), 0
    for user, (history, target) in enumerate(zip(drawn.histories, drawn.targets, strict=True)):
        distances = squares[history, None] + squares - 2 * points[history] @ points.T
        scores = torch.logsumexp(-distances / (2 * BANDWIDTH**2), dim=0)
        scores[history] = -torch.inf
        listed = scores.topk(K).indices.numpy()
        hits[user], taken = target in listed, taken + int(new[listed].sum())
    of_new = new[drawn.targets]
    emit(
        "cold_start",
        name,
        recall_new=float(hits[of_new].mean()),
        recall_others=float(hits[~of_new].mean()),
        share=taken / (K * len(hits)),
        targets_new=int(of_new.sum()),
        targets_others=int((~of_new).sum()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run directory with its first two stages")
    parser.add_argument("--users", type=int, default=4000)
    arguments = parser.parse_args()
    dataset = Dataset.load(arguments.run / "01_dataset")
    embeddings = arguments.run / "02_embeddings"
    text, collaborative = (ItemVectors.load(embeddings / f"{name}.parquet") for name in ("text", "collaborative"))
    generator = np.random.default_rng(0)
    new = np.zeros(len(text), np.bool_)
    new[generator.choice(len(text), size=len(text) // 10, replace=False)] = True
    drawn = draw_targets(dataset, new, arguments.users, generator)
    tokenizer = fit_sigma_vae(_rows(text, ~new), _rows(collaborative, ~new), ContinuousConfig(), seed=0)
    for name, vectors in substitutes(text, collaborative, new):
        measure(name, _latents(tokenizer, text, collaborative, new, vectors), new, drawn)


def _latents(
    tokenizer: ContinuousTokenizer, text: ItemVectors, collaborative: ItemVectors, new: BoolArray, vectors: FloatArray
) -> FloatArray:
    """Latents of all items, with the given vectors for new ones."""
    mixed = collaborative.vectors.copy()
    mixed[new] = vectors
    return tokenizer.latents(text, ItemVectors(collaborative.item_ids, mixed)).vectors


def _rows(vectors: ItemVectors, chosen: BoolArray) -> ItemVectors:
    rows = np.flatnonzero(chosen)
    return ItemVectors([vectors.item_ids[row] for row in rows], vectors.vectors[rows])


if __name__ == "__main__":
    main()
