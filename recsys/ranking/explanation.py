"""What there is to say about a list of the language model: the beam, what its codes mean, and what mattered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from recsys.decoding.trace import LevelMass
from recsys.ranking.notices import Notice


@dataclass(frozen=True)
class Leaf:
    """An item of the list; `item_rank` is its rank by the scores of whole items, where the model has them."""

    rank: int
    item_id: str
    title: str
    log_probability: float
    item_rank: int | None = None


@dataclass(frozen=True)
class CodeNode:
    """A code that the beam wrote behind those above it, with the words of the items that carry it.

    `log_probability` is given the codes before, among the codes of its level. The last level's has a leaf, the others
    have children, in the order of their best items.
    """

    token: str
    words: tuple[str, ...]
    log_probability: float
    children: tuple[CodeNode, ...] = ()
    leaf: Leaf | None = None


@dataclass(frozen=True)
class Influence:
    """What leaving an item of the history out does to the log-probability of the first item of the list.

    `position` is that in the request's history. A `change` below 0 means that the item speaks for the first one.
    """

    position: int
    item_id: str
    title: str
    change: float


@dataclass(frozen=True)
class Explanation:
    """`roots` lead to the items asked for; `levels` are of the whole beam of `num_beams`; `history` is oldest first."""

    roots: tuple[CodeNode, ...]
    levels: tuple[LevelMass, ...]
    history: tuple[Influence, ...]
    num_beams: int
    notices: tuple[Notice, ...] = ()

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        """The list, best first."""
        return tuple(sorted(_leaves(self.roots), key=lambda leaf: leaf.rank))


def _leaves(nodes: Sequence[CodeNode]) -> Iterator[Leaf]:
    for node in nodes:
        yield from _leaves(node.children) if node.leaf is None else (node.leaf,)
