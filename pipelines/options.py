"""Arguments and options that commands of several kinds take."""

from pathlib import Path
from typing import Annotated

import typer

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.", show_default=False)]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a setting: section.key=value. Repeatable.", metavar="KEY=VALUE"),
]
