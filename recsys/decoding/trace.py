"""What a beam search did for one prompt: the codes of every item that it found, and where all probability went.

Reads what `search_tree` reads; writes nothing. The search is that of `recsys.decoding.beam`, on a tree that records it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recsys.decoding.beam import search_tree
from recsys.decoding.tree import Tree
from recsys.llm.collation import padded
from recsys.llm.reading import ItemReader
from recsys.tables import BoolArray, FloatArray
from recsys.tokenization.trie import Trie

_NO_ITEM, _FILTERED, _PRUNED, _KEPT = range(4)  # what becomes of a code behind the codes before


class LevelMass(NamedTuple):
    """Where the probability of all codes of a level behind the beams before goes; the five sum to 1.

    Probabilities are among the codes of a level, as the search compares them: text cannot be written.
    """

    kept: float  # what the beam keeps
    pruned: float  # items that may be returned, for which the beam is too narrow
    filtered: float  # codes whose items may all not be returned
    no_item: float  # codes that no item has
    earlier: float  # lost at the levels before


class Path(NamedTuple):
    """An item that was found, with its codes and the log-probability of each given those before."""

    item: int
    codes: tuple[int, ...]
    log_probabilities: tuple[float, ...]
    score: float  # log-probability of the item, as the search gives it


class Trace(NamedTuple):
    """A search: what it found, best first, the probability at every level, and the state behind the prompt [1, d]."""

    paths: tuple[Path, ...]
    levels: tuple[LevelMass, ...]
    states: FloatArray


@torch.inference_mode()
def traced_search(
    model: Any,
    prompt: Sequence[int],
    *,
    trie: Trie,
    base: int,
    beams: int,
    allowed: BoolArray | None = None,
    reader: ItemReader | None = None,
) -> Trace:
    """`search_tree` of one prompt; arguments as there, `allowed` being bool [N].

    Raises:
        ModelError: the model is in training mode.
    """
    trie = trie.to(model.device)
    mask = None if allowed is None else torch.from_numpy(allowed).to(model.device)
    tree = _RecordedTree(model, padded([prompt]).to(model.device), torch.tensor([len(prompt)]).to(model.device), reader)
    found = search_tree(tree, trie=trie, base=base, beams=beams, allowed=mask)
    bitmaps = None if mask is None else trie.live(mask)
    alive, levels, earlier = [_Beam(0)], list[LevelMass](), 0.0
    for level, logits in enumerate(tree.levels):
        step = _Step(trie, level, alive, logits.log_softmax(-1), None if bitmaps is None else bitmaps[level])
        if level < len(tree.grown):
            token_ids, parents = tree.grown[level]
            alive = step.grow((token_ids - base - level * trie.num_codes).tolist(), parents.tolist())
        else:
            alive = step.end(trie.items.argsort()[found.items[0][found.items[0] >= 0]].tolist())
        levels.append(step.mass(earlier))
        earlier = sum(levels[-1][1:])
    scores = found.scores[0].tolist()
    paths = tuple(Path(int(trie.items[beam.node]), *beam[1:], scores[row]) for row, beam in enumerate(alive))
    return Trace(paths, tuple(levels), tree.states())


class _RecordedTree(Tree):
    """Keeps the logits of every level, and the beams that were grown behind each but the last."""

    def __init__(self, model: Any, prompts: Tensor, lengths: Tensor, reader: ItemReader | None = None) -> None:
        super().__init__(model, prompts, lengths, reader=reader)
        self.levels: list[Tensor] = []  # [M, K] each
        self.grown: list[tuple[Tensor, Tensor]] = []  # token_ids [M] and parents [M]

    def grow(self, token_ids: Tensor, parents: Tensor) -> Tensor:
        self.grown.append((token_ids[0], parents[0]))
        return super().grow(token_ids, parents)

    def logits(self, hidden: Tensor, first: int, count: int) -> Tensor:
        found = super().logits(hidden, first, count)
        self.levels.append(found[0])
        return found


class _Beam(NamedTuple):
    """A beam that leads to an item; `node` is of the trie."""

    node: int
    codes: tuple[int, ...] = ()
    log_probabilities: tuple[float, ...] = ()


class _Step:
    """What the search had to choose from at one level, and what it took.

    Args:
        alive: the beams that lead to items; the search sorts dead ones behind them.
        log_probs: [M, K] of all beams.
        live: bool [nodes of the next depth], those that lead to an item that may be returned; None allows all.
    """

    def __init__(self, trie: Trie, level: int, alive: Sequence[_Beam], log_probs: Tensor, live: Tensor | None) -> None:
        self._alive = alive
        self._log_probs = log_probs[: len(alive)]
        own = torch.tensor([beam.node for beam in alive], dtype=torch.int64, device=log_probs.device)
        nodes, codes, valid = trie.children(level, own)
        open_ = valid if live is None else valid & live[nodes]
        self._fates = torch.full_like(self._log_probs, _NO_ITEM, dtype=torch.int64)
        for children, fate in ((valid, _FILTERED), (open_, _PRUNED)):
            self._fates[children.nonzero()[:, 0], codes[children]] = fate
        places = zip(open_.nonzero()[:, 0].tolist(), codes[open_].tolist(), strict=True)
        self._places = dict(zip(nodes[open_].tolist(), places, strict=True))  # node -> beam and code

    def grow(self, codes: Sequence[int], parents: Sequence[int]) -> list[_Beam]:
        """The beams of the next level, given the code and the parent of each."""
        nodes = {place: node for node, place in self._places.items()}
        return self._keep(nodes.get(place) for place in zip(parents, codes, strict=True))

    def end(self, nodes: Sequence[int]) -> list[_Beam]:
        """Those of the items that were found, given their nodes."""
        return self._keep(nodes)

    def _keep(self, nodes: Iterable[int | None]) -> list[_Beam]:
        kept: dict[int, _Beam] = {}
        for node in nodes:
            if node is None or node in kept:  # a dead beam, which has an arbitrary code
                continue
            number, code = self._places[node]
            self._fates[number, code] = _KEPT
            before, own = self._alive[number], float(self._log_probs[number, code])
            kept[node] = _Beam(node, (*before.codes, code), (*before.log_probabilities, own))
        return list(kept.values())

    def mass(self, earlier: float) -> LevelMass:
        """Of all codes behind the beams that were alive."""
        scores = torch.tensor([sum(beam.log_probabilities) for beam in self._alive], dtype=torch.float64)
        weights = (scores.to(self._log_probs.device)[:, None] + self._log_probs.double()).exp()
        found = torch.bincount(self._fates.flatten(), weights.flatten(), minlength=_KEPT + 1).tolist()
        return LevelMass(found[_KEPT], found[_PRUNED], found[_FILTERED], found[_NO_ITEM], earlier)
