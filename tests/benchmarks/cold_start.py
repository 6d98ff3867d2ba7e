"""A new item that borrows the behaviour of the item it reads like is found nearly as often as if it were known.

`python -m tests.benchmarks.cold_start RUN` takes a tenth of a finished run's items for new: the sigma-VAE is fitted on
the others, and each way to do without the new ones' behaviour is one JSON line. Users are asked for their validation
item; items are scored by a kernel sum over the latents of the history's items, none of which is new. `share` is what
new items take of all lists of ten: the more it is above that with "their own" behaviour, the more are crowded out.
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


class Asked(NamedTuple):
    """Histories without new items, and what followed."""

    histories: list[IntArray]
    targets: IntArray


def asked_of(dataset: Dataset, new: BoolArray, users: int, generator: np.random.Generator) -> Asked:
    found = queries(dataset.interactions, dataset.catalog, split=VALIDATION, max_history=WINDOW)
    chosen = generator.choice(len(found), size=min(users, len(found)), replace=False)
    kept = [(items, found.targets[u]) for u in chosen if len(items := _old(found.histories, u, new))]
    return Asked([items for items, _ in kept], np.array([target for _, target in kept]))


def _old(histories: Histories, user: int, new: BoolArray) -> IntArray:
    items = histories[user]
    return items[~new[items]]


def behaviours(text: ItemVectors, behaviour: ItemVectors, new: BoolArray) -> Iterator[tuple[str, FloatArray]]:
    """Ways to do without the behaviour of new items: a name, and vectors for them."""
    known = unit_rows(behaviour.vectors[~new])
    yield "their own", behaviour.vectors[new]
    yield "nearest text (ours)", TextNeighbours.of(text, behaviour, ~new).lend(text.vectors[new]).vectors
    cosines = unit_rows(text.vectors[new]) @ unit_rows(text.vectors[~new]).T
    order = np.argsort(-cosines, axis=1)
    for number in (3, 10):
        yield f"mean of the {number} nearest texts", known[order[:, :number]].mean(axis=1)
    yield "mean of all", np.tile(known.mean(axis=0), (int(new.sum()), 1))


def measure(name: str, latents: FloatArray, new: BoolArray, asked: Asked) -> None:
    """Recall at 10 of new and of other targets, and the new items' share of the lists."""
    points = torch.from_numpy(latents)
    squares = points.square().sum(dim=1)
    hits, taken = np.zeros(len(asked.targets), np.bool_), 0
    for user, (history, target) in enumerate(zip(asked.histories, asked.targets, strict=True)):
        distances = squares[history, None] + squares - 2 * points[history] @ points.T
        scores = torch.logsumexp(-distances / (2 * BANDWIDTH**2), dim=0)
        scores[history] = -torch.inf
        listed = scores.topk(K).indices.numpy()
        hits[user], taken = target in listed, taken + int(new[listed].sum())
    of_new = new[asked.targets]
    emit(
        "newcomers",
        name,
        recall_new=float(hits[of_new].mean()),
        recall_others=float(hits[~of_new].mean()),
        share=taken / (K * len(hits)),
        asked_new=int(of_new.sum()),
        asked_others=int((~of_new).sum()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run directory with its first two stages")
    parser.add_argument("--users", type=int, default=4000)
    arguments = parser.parse_args()
    dataset = Dataset.load(arguments.run / "01_dataset")
    embeddings = arguments.run / "02_embeddings"
    text, behaviour = (ItemVectors.load(embeddings / f"{name}.parquet") for name in ("text", "collaborative"))
    generator = np.random.default_rng(0)
    new = np.zeros(len(text), np.bool_)
    new[generator.choice(len(text), size=len(text) // 10, replace=False)] = True
    asked = asked_of(dataset, new, arguments.users, generator)
    tokenizer = fit_sigma_vae(_rows(text, ~new), _rows(behaviour, ~new), ContinuousConfig(), seed=0)
    for name, vectors in behaviours(text, behaviour, new):
        measure(name, _latents(tokenizer, text, behaviour, new, vectors), new, asked)


def _latents(
    tokenizer: ContinuousTokenizer, text: ItemVectors, behaviour: ItemVectors, new: BoolArray, vectors: FloatArray
) -> FloatArray:
    """Of all items, new ones with the vectors given."""
    mixed = behaviour.vectors.copy()
    mixed[new] = vectors
    return tokenizer.latents(text, ItemVectors(behaviour.item_ids, mixed)).vectors


def _rows(vectors: ItemVectors, chosen: BoolArray) -> ItemVectors:
    rows = np.flatnonzero(chosen)
    return ItemVectors([vectors.item_ids[row] for row in rows], vectors.vectors[rows])


if __name__ == "__main__":
    main()
