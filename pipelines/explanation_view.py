"""An explanation in a terminal: the beam as a tree, where the probability went, and what mattered of the history."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from recsys.ranking.explanation import CodeNode, Explanation, Influence, Leaf


def show_explanation(found: Explanation, console: Console) -> None:
    """Print all of it; of a list without items where the probability went."""
    if found.roots:
        label = f"The list, as a beam of {found.num_beams} wrote it: codes, their probability behind those above, words"
        tree = Tree(Text(label, "bold"))
        _add(tree, found.roots)
        console.print(tree)
        console.print()
    console.print(Text("Where the probability went, at each level", "bold"))
    console.print(_levels(found))
    if found.history:
        first = found.leaves[0]
        title = f"What leaving an item of the history out does to the log-probability of {first.item_id}"
        console.print()
        console.print(Text(title, "bold"), soft_wrap=True)
        console.print(_influences(found.history))


def share(probability: float) -> str:
    """A probability in percent, a small one with two digits, and none only where it is none."""
    if probability >= 0.01 or not probability:
        return f"{probability:.1%}"
    return f"{100 * probability:.2g}%" if probability >= 1e-5 else "<0.001%"


def _add(tree: Tree, nodes: Sequence[CodeNode]) -> None:
    for node in nodes:
        label = Text(node.token, "cyan").append(f" {share(math.exp(node.log_probability)):>6}", "default")
        branch = tree.add(label.append(f"  {', '.join(node.words)}" if node.words else "", "dim"))
        _add(branch, node.children)
        if node.leaf is not None:
            branch.add(_leaf(node.leaf))


def _leaf(leaf: Leaf) -> Text:
    title = "" if leaf.title == leaf.item_id else f" {leaf.title}"
    probability = f"log-probability {leaf.log_probability:.3f} ({share(math.exp(leaf.log_probability))})"
    scored = "" if leaf.item_rank is None else f", rank {leaf.item_rank} by generative-item-scored"
    return (
        Text(f"{leaf.rank}. ", "bold")
        .append(leaf.item_id, "green")
        .append(f"{title}  {probability}{scored}", "default")
    )


def _levels(found: Explanation) -> Table:
    headings = ("kept by the beam", "beam too narrow", "left out", "no such item", "lost above")
    table = Table("level", *headings, box=None, header_style="dim")
    for column in table.columns[1:]:
        column.justify = "right"
    for number, mass in enumerate(found.levels):
        table.add_row(chr(ord("a") + number), *(share(value) for value in mass))
    return table


def _influences(history: Sequence[Influence]) -> Table:
    """What changes most first."""
    table = Table("change", "item_id", "title", box=None, header_style="dim")
    table.columns[0].justify = "right"
    for influence in sorted(history, key=lambda one: (-abs(one.change), one.position)):
        table.add_row(f"{influence.change:+.3f}", Text(influence.item_id), Text(influence.title))
    return table
