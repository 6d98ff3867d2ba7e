"""The inspection of a source in a terminal: tables, small plots, and warnings, at any width from 60 characters on."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.inspection import Inspection
from recsys.data.profile import Basis, Bin, ItemsFound, Profile, Sizes, TableFound, TimesFound

BLOCKS = "▁▂▃▄▅▆▇█"
SPARK, BAR = 60, 16  # widths of plots, in characters
_UNITS: dict[Basis, str] = {
    "dates": "dates, kept in {unit} since 1970",
    "numbers": "{unit} since 1970, by the magnitude of the numbers",
    "positions": "positions: numbers 0, 1, 2, ... in every user",
    "order of rows": "the order of rows, by prepare.row_order_is_time",
}
ROLE_STYLES = {"ignored": "dim", "user id": "cyan", "item id": "cyan", "time": "cyan", "title": "cyan"}


def show_inspection(inspection: Inspection, console: Console) -> None:
    """Print all that was found, then warnings, the refusal or the command that runs the source."""
    profile = inspection.profile
    _heading(console, inspection.source)
    _lines(console, _outcome(inspection), style="red" if inspection.refusal else "")
    if profile.tables:
        how = "as set by prepare.kind" if profile.kind_is_set else "a guess from the files; prepare.kind sets another"
        _lines(console, f"Format: {profile.kind}, {how}.")
    for table in profile.tables:
        _table(console, table)
    if profile.counts.get("rows"):
        _heading(console, "Rows")
        _pairs(console, _rows(profile))
    if profile.times is not None:
        _heading(console, "Time")
        _pairs(console, _times(profile, profile.times))
        _spark(console, profile.times)
    if profile.before is not None:
        _heading(console, "Users and items by their rows")
        _bins(console, profile.before.bins)
    if profile.items is not None:
        _heading(console, "Items")
        _pairs(console, _items(profile.items))
    if profile.after is not None:
        _heading(console, "After filtering")
        _pairs(console, _kept(profile, profile.after, inspection))
    _warnings(console, inspection)


def _outcome(inspection: Inspection) -> str:
    """What would happen, in a line."""
    number = len(inspection.profile.warnings)
    warnings = f"{number or 'no'} warning{'' if number == 1 else 's'}"
    after = inspection.profile.after
    if inspection.refusal is not None or after is None:
        return f"Would be refused, with {warnings}: see the end."
    sizes = f"{after.interactions:,} interactions of {after.users:,} users with {after.items:,} items"
    return f"Would be imported: {sizes}, {warnings}."


def sparkline(counts: Sequence[int], width: int) -> str:
    """One count or more as at most `width` blocks, each the sum of as many neighbours; a space is none."""
    size = -(-len(counts) // width)
    sums = [sum(counts[start : start + size]) for start in range(0, len(counts), size)]
    top = max(sums, default=0)
    return "".join(" " if not value else BLOCKS[-(-value * len(BLOCKS) // top) - 1] for value in sums)


def _heading(console: Console, text: str) -> None:
    console.print()
    console.print(Text(text, "bold"), soft_wrap=True)


def _lines(console: Console, text: str, *, first: str = "", style: str = "") -> None:
    """A paragraph whose lines are broken between words only, and indented as far as its first is by `first`."""
    indent = " " * len(first)
    for line in textwrap.wrap(
        text, console.width - 1, initial_indent=first, subsequent_indent=indent, break_long_words=False,
        break_on_hyphens=False,
    ):  # fmt: skip
        console.print(Text(line, style), soft_wrap=True)


def _pairs(console: Console, pairs: Iterable[tuple[str, str]]) -> None:
    shown = [(name, text) for name, text in pairs if text]
    width = max(len(name) for name, _ in shown)
    for name, text in shown:
        _lines(console, text, first=f"  {name.ljust(width)}  ")


def _table(console: Console, table: TableFound) -> None:
    parts = f", {table.files:,} files" if table.files > 1 else ""
    _heading(console, f"{table.name} ({table.kind if table.kind != 'unknown' else 'not used'}: {table.form}{parts})")
    grid = Table("column", "read as", "type", "first values", box=None, header_style="dim", padding=(0, 1))
    for column in grid.columns:
        column.no_wrap, column.overflow = True, "ellipsis"
    grid.columns[-1].ratio = 1
    grid.expand = True
    for found in table.columns:
        first = Text(", ".join(" ".join(value.split()) for value in found.first))
        grid.add_row(Text(found.name), Text(found.role), found.type, first, style=ROLE_STYLES.get(found.role, ""))
    console.print(grid)


def _rows(profile: Profile) -> Iterable[tuple[str, str]]:
    counts = profile.counts
    rejected = sum(sum(reasons.values()) for reasons in counts.get("rejected", {}).values())
    yield "read", f"{counts['rows']:,}"
    yield "rejected", f"{rejected:,}"
    for row in profile.rejected:
        content = " ".join(str(row["content"]).split())[:40]
        yield "", f"row {row['row']} of {row['file']}: {row['reason']}: {content}"
    if "exact_duplicates" in counts:
        yield "duplicates", f"{counts['exact_duplicates']:,} with the user, item and time of another row, left out"
    if "outside_k_core" in counts:
        limit = counts["min_interactions"]
        yield (
            "filtered",
            f"{counts['outside_k_core']:,} of users or items with fewer than {limit} (prepare.min_interactions)",
        )


def _times(profile: Profile, times: TimesFound) -> Iterable[tuple[str, str]]:
    yield "unit", _UNITS[times.basis].format(unit=times.unit)
    yield "first, last", f"{times.first}, {times.last}"
    examples = [f"{found.written} is {found.read}" for found in profile.time_examples if found.written != found.read]
    yield "read as", "; ".join(examples)
    yield "different", f"{times.distinct:,}"
    yield "tied", f"{_share(times.tied_share)} of the rows share their time with another one of their user"
    share = profile.sorted_by_id_share
    checked = (
        "too few users to check" if share is None else f"{_share(share)} of the users have rows in the order of ids"
    )
    yield "order check", checked


def _spark(console: Console, times: TimesFound) -> None:
    if not times.counts:
        return
    width = min(SPARK, console.width - 4)
    line = sparkline(times.counts, width)
    most = max(times.counts)
    console.print(f"  rows by {times.period}, most {most:,} in {times.starts[times.counts.index(most)]}", style="dim")
    console.print(Text(f"  {line}", "cyan"))
    first, last = times.starts[0], times.starts[-1]
    gap = len(line) - len(first) - len(last)
    console.print(f"  {first}{' ' * gap}{last}" if gap > 0 else f"  {first} to {last}", highlight=False)


def _bins(console: Console, bins: Sequence[Bin]) -> None:
    grid = Table("  rows", "users", "", "items", "", box=None, header_style="dim", padding=(0, 1))
    for number in (1, 3):
        grid.columns[number].justify = "right"
    users, items = max(found.users for found in bins), max(found.items for found in bins)
    first = next(number for number, found in enumerate(bins) if found.users or found.items)
    for found in bins[first:]:
        label = f"  {found.low:,}" + (f" to {found.high:,}" if found.high > found.low else "")
        grid.add_row(
            label,
            f"{found.users:,}",
            Text(_bar(found.users, users).ljust(BAR), "cyan"),
            f"{found.items:,}",
            Text(_bar(found.items, items), "cyan"),
        )
    console.print(grid)


def _bar(value: int, top: int) -> str:
    return "█" * -(-value * BAR // top) if top else ""


def _items(items: ItemsFound) -> Iterable[tuple[str, str]]:
    yield "join", f"{items.matched:,} of {items.interacted:,} items with rows are among the {items.listed:,} listed"
    yield "titles", f"{items.listed - items.untitled:,} of {items.listed:,}; {items.same_title:,} share theirs"
    texts = ", ".join(f"{name} {_share(share)}" for name, share in items.texts.items())
    yield "filled", texts


def _kept(profile: Profile, after: Sizes, inspection: Inspection) -> Iterable[tuple[str, str]]:
    before = profile.before
    assert before is not None
    kept = (
        ("rows", after.interactions, before.interactions),
        ("users", after.users, before.users),
        (
            "items",
            after.items,
            before.items,
        ),
    )
    yield "kept", ", ".join(f"{count:,} of {total:,} {noun}" for noun, count, total in kept)
    names = {0: "least", 50: "median", 100: "most"}
    history = ", ".join(f"{names.get(percent, f'{percent}%')} {count:,}" for percent, count in after.history.items())
    yield "rows a user", history
    yield (
        "repeats",
        f"{_share(after.repeats / after.interactions)} of the rows have an item that their user had before",
    )
    splits = profile.counts.get("splits")
    if splits:
        sizes = ", ".join(f"{name} {count:,}" for name, count in splits.items() if count)
        yield "split", f"{profile.counts['split']} (prepare.split): {sizes}"
        tied = profile.counts["last_two_in_one_second"]
        yield "", f"{_share(tied)} of the users have their last two rows within one second" if tied else ""
    yield "served", str(inspection.served or "")


def _warnings(console: Console, inspection: Inspection) -> None:
    warnings = inspection.profile.warnings
    if warnings:
        _heading(console, f"{len(warnings)} warning{'s' if len(warnings) > 1 else ''}")
    for number, warning in enumerate(warnings, 1):
        _lines(console, warning.message, first=f"  {number}. ", style="yellow")
        _lines(console, warning.fix, first=" " * len(f"  {number}. ") + "→ ")
    if inspection.refusal is not None:
        _heading(console, "Refused")
        _lines(console, inspection.refusal, first="  ", style="red")
    if warnings or inspection.refusal is not None:
        console.print()
        _lines(console, "Keys are set by --set KEY=VALUE, here and in `recsys run`, or in a recipe.", style="dim")
    if inspection.refusal is None:
        _heading(console, "Run it" if warnings else "No warnings. Run it")
        console.print(Text(f"  {inspection.command}"), soft_wrap=True)


def _share(share: float) -> str:
    return "none" if not share else "below 0.1%" if share < 0.001 else f"{share:.1%}".replace(".0%", "%")
