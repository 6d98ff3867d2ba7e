"""`recsys inspect`: what an import would make of a source, found by importing it into memory.

Reads the source; writes nothing.
"""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.config import load_config
from recsys.data.dataset import Dataset, profile_dataset
from recsys.data.policy import ServedPolicy
from recsys.data.profile import Profile
from recsys.data.raw import Rejects
from recsys.errors import RecsysError
from recsys.ranking.config import RecommendConfig


@dataclass(frozen=True)
class Inspection:
    """What was found in a source, why it is refused (or None), what is served of it, and the command that runs it."""

    source: str
    profile: Profile
    refusal: str | None
    served: ServedPolicy | None
    command: str

    def to_json(self) -> dict[str, Any]:
        """The data card as far as it goes, with the refusal, the served policy and the command."""
        served = None if self.served is None else self.served.to_json()
        return {**self.profile.card(), "refusal": self.refusal, "served": served, "command": self.command}


def inspect_source(source: str, *, config: str, settings: Sequence[str]) -> Inspection:
    """Import a source as the stage `prepare` would under a recipe and settings.

    Raises:
        ConfigError: the recipe or a setting is none.
    """
    given = f"prepare.source={json.dumps(source)}"  # quoted, as settings are YAML
    resolved = load_config(config, [given, "prepare.downloads=[]", *settings])
    profile, dataset, refusal = Profile(), None, None
    rejects = Rejects(resolved.prepare.reported_rows)
    with tempfile.TemporaryDirectory() as work:
        try:
            dataset = profile_dataset(resolved.prepare, profile, seed=resolved.seed, work=Path(work), rejects=rejects)
        except RecsysError as error:
            refusal = " ".join(str(error).split())
    served = None if dataset is None else _served(resolved.recommend, dataset)
    return Inspection(source, profile, refusal, served, _command(source, config, settings))


def _served(config: RecommendConfig, dataset: Dataset) -> ServedPolicy:
    return ServedPolicy.choose(config.exclude_seen, dataset.interactions, repeat_share=config.repeat_share)


def _command(source: str, config: str, settings: Sequence[str]) -> str:
    """The command that runs all stages on the source."""
    name = Path(source).name.split(".")[0] or "data"
    sets = [part for setting in (f"prepare.source={source}", *settings) for part in ("--set", setting)]
    return shlex.join(["recsys", "run", "--config", config, *sets, "--out", f"runs/{name}"])
