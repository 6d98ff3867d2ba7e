"""`recsys refresh`: write and run the child of a finished run, and show what the refresh changed.

Reads a run directory and a table of interactions; writes another run directory (through the runner).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines import FOLDERS, REFRESH
from pipelines.commands import logging_to
from pipelines.config import CONFIG, ParentRun, RunConfig, stored_config
from pipelines.execution import Execution, RunOptions
from pipelines.refresh.parent import named
from pipelines.refresh.report import METRICS, REPORT
from pipelines.runner import status
from pipelines.seeds import runs_folder
from pipelines.settings import override, validated
from recsys.artifacts import RunDirectory
from recsys.config import nearest
from recsys.data.config import AUTO, SYNTHETIC
from recsys.errors import ArtifactError, ConfigError, DataError
from recsys.evaluation.estimates import shown_p
from recsys.files import read_json

SETTABLE = ("refresh", "prepare", "diffuse", "index", "recommend", "evaluate")


def refresh(
    run: Path, interactions: Path, settings: Sequence[str], *, out: Path | None, last: str | None, options: RunOptions
) -> None:
    """Run the stages of the child up to `last`, and print the comparison with the parent."""
    parent = RunDirectory(run, FOLDERS)
    config = child_config(parent, interactions, settings)
    assert config.parent is not None
    directory = RunDirectory(out or _beside(parent, interactions), FOLDERS)
    _require_own_child(directory, config.parent)
    selected, console = _up_to(config, last), Console(stderr=True)
    execution = Execution(console, options, home=runs_folder(directory))
    with logging_to(console), directory.lock():
        entries = [entry for entry in status(config, directory, config.stages) if entry.stage.name in selected]
        current = not options.force and all(entry.state == "current" for entry in entries)
        execution(config, directory, selected, ())
    if current:
        console.print(f"{directory.path} is up to date", markup=False, highlight=False, soft_wrap=True)
    if REFRESH.name in selected:
        show(read_json(directory.verified(REFRESH.name) / REPORT), directory, Console())


def child_config(parent: RunDirectory, interactions: Path, settings: Sequence[str]) -> RunConfig:
    """The parent's configuration, for its child on new interactions.

    Raises:
        ConfigError: a setting of what is taken from the parent, or a wrong one.
        DataError: there are no such interactions.
        ArtifactError: the parent is not finished, or damaged.
    """
    config = stored_config(parent)
    for setting in settings:
        section = setting.partition("=")[0].partition(".")[0]
        if section not in SETTABLE:
            raise ConfigError(
                f"--set {setting}: a refreshed run takes that from its parent{nearest(section, SETTABLE)}; set keys of "
                f"{', '.join(SETTABLE)}"
            )
    if not interactions.expanduser().exists():
        raise DataError(f"{interactions} does not exist; name a table of new interactions")
    values = config.model_dump(mode="json")
    kind = AUTO if config.prepare.kind == SYNTHETIC else config.prepare.kind
    values["prepare"] |= {"kind": kind, "downloads": [], "items": None}
    for setting in settings:
        override(values, setting)
    values["prepare"]["source"] = str(interactions.expanduser().absolute())
    values["parent"] = named(parent, config).model_dump(mode="json")
    return validated(RunConfig, values)


def show(report: Mapping[str, Any], directory: RunDirectory, console: Console) -> None:
    """Print the comparison that the refresh stage wrote."""
    rows: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for change in report["changes"]:
        cell = (f"{change['group']} ({change['users']})", str(change["policy"]), str(change["source"]))
        rows.setdefault(cell, {})[change["metric"]] = change
    table = Table("users", "policy", "source", *_columns(), box=None, header_style="bold")
    for cell, found in rows.items():
        table.add_row(*cell, *(text for metric in METRICS for text in _figures(found[metric])))
    training = report["training"]
    console.print(table)
    console.print(
        Text(
            "\nnew: users with new interactions, by their held-out last one; old: the parent's test users; "
            "p by Holm's correction\n"
            f"{training['new_examples']} new examples, epoch {training['best_epoch']} of {training['epochs']} kept, "
            f"{training['seconds']:.0f} s; parent {report['parent']['path']}\nrun: {directory.path}"
        ),
        soft_wrap=True,
    )


def _columns() -> Iterator[str]:
    for metric in METRICS:
        yield from (f"{metric.upper()}\nbefore", "\nafter", "\np")


def _figures(change: Mapping[str, Any]) -> tuple[str, str, str]:
    p = shown_p(change["p_holm"], at_floor=change["p_holm_at_floor"]).removeprefix("p ").removeprefix("= ")
    return f"{change['before']:.4f}", f"{change['after']:.4f}", p


def _beside(parent: RunDirectory, interactions: Path) -> Path:
    return parent.path.with_name(f"{parent.path.name}-refreshed-{interactions.stem}")


def _require_own_child(directory: RunDirectory, parent: ParentRun) -> None:
    """Refuse a directory with another run in it."""
    if not (directory.path / CONFIG).exists():
        return
    found = stored_config(directory).parent
    if found is None or found.fingerprint != parent.fingerprint:
        what = "no refresh" if found is None else f"a refresh of {found.path} as it was then"
        raise ArtifactError(f"{directory.path} is a run already, {what} and not of {parent.path}; choose another --out")


def _up_to(config: RunConfig, last: str | None) -> list[str]:
    names = [stage.name for stage in config.stages]
    if last is not None and last not in names:
        raise ConfigError(f"--to {last}: unknown stage{nearest(last, names)}; stages are {', '.join(names)}")
    return names if last is None else names[: names.index(last) + 1]
