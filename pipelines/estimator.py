"""`Recommender`: the whole flow as one estimator, for a dataset in memory.

It runs the same stages as the command line in a run directory, a temporary one unless a folder is given, so that a
training can be resumed, bundled and served.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self
from weakref import finalize

from pipelines import FOLDERS
from pipelines.config import CONFIG, RunConfig, dump_yaml, stored_config
from pipelines.recommend import load_recommender
from pipelines.runner import load_stage, run_stages
from pipelines.settings import validated
from recsys.artifacts import RunDirectory, StageRun
from recsys.data.dataset import Dataset
from recsys.data.histories import user_history
from recsys.errors import ConfigError, DataError
from recsys.files import text_sha256, write_text
from recsys.ranking.recommender import Answer, FittedRecommender, Request
from recsys.tables import Interactions, Rankings
from recsys.tracking import NullTracker, Tracker


class Recommender:
    """Trains the configured sources on a dataset, and recommends.

    Args:
        config: the configuration of a run, as an object or as nested values such as a recipe holds; defaults where
            nothing is given. Its section `prepare` is not used but for `max_history`.

    Raises:
        ConfigError: a key, type or value that is not allowed.
    """

    def __init__(self, config: RunConfig | Mapping[str, Any] | None = None) -> None:
        self.config = config if isinstance(config, RunConfig) else validated(RunConfig, config or {})
        self._directory: RunDirectory | None = None

    def __repr__(self) -> str:
        return f"<Recommender ({'fitted' if self._directory else 'not fitted'})>"

    def fit(self, dataset: Dataset, *, folder: Path | str | None = None, tracker: Tracker | None = None) -> Self:
        """Run every stage from the item vectors to the rankings of the test users.

        Args:
            folder: a run directory to write; what is current there is not made again.

        Raises:
            RecsysError: as the stages raise it.
        """
        if folder is None:
            folder = tempfile.mkdtemp(prefix="recsys-")
            finalize(self, shutil.rmtree, folder, ignore_errors=True)  # with the estimator, or at exit
        directory = RunDirectory(Path(folder), FOLDERS)
        # The dataset has no file to fingerprint; its content stands for its source in the configuration.
        tables = (dataset.interactions, dataset.catalog, dataset.users, dataset.dislikes)
        content = text_sha256("".join(table.frame.write_json() for table in tables if table is not None))
        prepare = self.config.prepare.model_copy(update={"source": f"memory:{content[:16]}"})
        self.config = self.config.model_copy(update={"prepare": prepare})
        stages = self.config.stages

        def save(config: RunConfig, run: StageRun, tracker: Tracker) -> None:
            dataset.save(run.out)

        with directory.lock():
            write_text(directory.path / CONFIG, dump_yaml(self.config))
            run_stages(
                self.config,
                directory,
                stages,
                selected=[stage.name for stage in stages if stage.name != "evaluate"],
                tracker=tracker or NullTracker(),
                load=lambda stage: save if stage.name == "prepare" else load_stage(stage),
            )
        self._directory = directory
        for cached in ("_fitted", "_interactions"):
            self.__dict__.pop(cached, None)
        return self

    def recommend(
        self,
        history: Sequence[str] | None = None,
        k: int = 10,
        *,
        user_id: str | None = None,
        exclude_seen: bool | None = None,
    ) -> Answer:
        """The `k` items to follow a history of item ids, oldest first, or all interactions of a user of the dataset.

        Ids that the catalogue does not have are ignored; an empty history is allowed. The answer's `notices` name what
        was ignored and why items are fewer than asked for. The same request gives the same items.

        Raises:
            DataError: neither or both of `history` and `user_id` are given, the user is unknown, or `k` is below 1.
        """
        if (history is None) == (user_id is None):
            raise DataError("recommend: give exactly one of history and user_id")
        known = user_history(self._interactions, user_id) if user_id is not None else tuple(history or ())
        request = Request(known, k, user_id, exclude_seen=exclude_seen)
        return self._fitted.recommend([request])[0]

    @property
    def rankings(self) -> Rankings:
        """Those of every test user by every ranker, for `recsys.evaluate`."""
        return Rankings.load(self._run.verified("recommend") / "rankings.parquet")

    def save(self, folder: Path | str) -> None:
        """Copy everything that was trained into a folder that is not there yet; it is a run directory."""
        target = Path(folder)
        if target.exists():
            raise ConfigError(f"{target} exists; choose a new folder")
        shutil.copytree(self._run.path, target)

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """What `save` wrote, or any finished run.

        Raises:
            ArtifactError: the folder is no finished run, or is damaged.
        """
        directory = RunDirectory(Path(folder), FOLDERS)
        made = cls(stored_config(directory))
        made._directory = directory
        return made

    @property
    def _run(self) -> RunDirectory:
        if self._directory is None:
            raise ConfigError("this recommender is not fitted; call fit(dataset) or Recommender.load(folder) first")
        return self._directory

    @cached_property
    def _fitted(self) -> FittedRecommender:
        return load_recommender(self.config, self._run)

    @cached_property
    def _interactions(self) -> Interactions:
        return Interactions.load(self._run.verified("prepare") / "interactions.parquet")
