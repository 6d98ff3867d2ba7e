"""The configuration of a run: the seed and one section per stage, in flow order. Recipes and overrides resolve to it.

Reads a YAML recipe, by name (package `configs`) or by path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import model_validator

from pipelines import CONTINUOUS, DISCRETE, STAGES, Stage, refreshed, stages_of
from pipelines.settings import override, validated
from recsys.artifacts import RunDirectory
from recsys.config import Config, lookup, nearest
from recsys.data.config import AUTO, SYNTHETIC, PrepareConfig
from recsys.data.sources import SOURCES
from recsys.diffusion.config import DiffuseConfig
from recsys.embeddings.config import EmbedConfig
from recsys.errors import ArtifactError, ConfigError
from recsys.evaluation.config import EvaluateConfig
from recsys.instructions.config import InstructConfig
from recsys.llm.config import FinetuneConfig, RefreshConfig
from recsys.ranking.config import RecommendConfig
from recsys.ranking.registry import ITEM_SCORED, SASREC, base_rankers, rankers
from recsys.retrieval.config import IndexConfig
from recsys.retrieval.kinds import KINDS
from recsys.tokenization.config import TokenizeConfig
from recsys.tokenization.registry import QUANTIZERS

CONFIG = "config.yaml"


class ParentRun(Config):
    """The run that another one continues: where it was, and a hash of what is taken from it."""

    path: Path
    fingerprint: str


class RunConfig(Config):
    """Configuration of a run: a seed and one section per stage. Defaults live in the sections' own models.

    `refresh` is read by `recsys refresh`, which sets `parent` in the run that it writes.
    """

    seed: int = 0
    prepare: PrepareConfig = PrepareConfig()
    embed: EmbedConfig = EmbedConfig()
    tokenize: TokenizeConfig = TokenizeConfig()
    instruct: InstructConfig = InstructConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    diffuse: DiffuseConfig = DiffuseConfig()
    index: IndexConfig = IndexConfig()
    recommend: RecommendConfig = RecommendConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    refresh: RefreshConfig = RefreshConfig()
    parent: ParentRun | None = None

    @model_validator(mode="after")
    def _require_a_fused_source(self) -> Self:
        if not self.embed.collaborative and set(self.recommend.fusion.sources) == {SASREC}:
            raise ValueError("recommend.fusion.sources=[sasrec] needs embed.collaborative=true, or another source")
        return self

    @model_validator(mode="after")
    def _require_scores_of_items(self) -> Self:
        if self.finetune.items == "tokens" and set(self.recommend.fusion.sources) == {ITEM_SCORED}:
            raise ValueError(
                f"recommend.fusion.sources=[{ITEM_SCORED}] needs finetune.items=sum, got tokens; "
                "set it, or add a source"
            )
        return self

    @model_validator(mode="after")
    def _require_code_tokens_for_joint_training(self) -> Self:
        if self.diffuse.joint and self.finetune.items != "tokens":
            raise ValueError(
                f"diffuse.joint=true trains on prompts of code tokens, got finetune.items={self.finetune.items}; "
                "set finetune.items=tokens, or leave diffuse.joint out"
            )
        return self

    @model_validator(mode="after")
    def _require_registered_names(self) -> Self:
        lookup({AUTO: None, SYNTHETIC: None, **SOURCES}, self.prepare.kind, key="prepare.kind")
        lookup(QUANTIZERS, self.tokenize.quantizer, key="tokenize.quantizer")
        for source in self.recommend.fusion.sources:
            lookup(rankers(), source, key="recommend.fusion.sources")
        for base in self.recommend.terms:
            lookup(base_rankers(), base, key="recommend.terms")
        lookup({AUTO: None, **KINDS}, self.index.kind, key="index.kind")
        return self

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of this run's routes, in order."""
        kind = self.tokenize.kind
        stages = stages_of((DISCRETE, CONTINUOUS) if kind == "both" else (kind,))
        return stages if self.parent is None else refreshed(stages)


def data_seed(config: RunConfig) -> int:
    """The seed of a generated dataset: its own if it has one, else the run's."""
    own = config.prepare.synthetic.seed
    return config.seed if own is None else own


def training_seed(config: RunConfig, training: FinetuneConfig | DiffuseConfig) -> int:
    """The seed of one training: its own if it has one, else the run's."""
    return config.seed if training.seed is None else training.seed


def recipes() -> dict[str, str]:
    """Name -> text of every recipe in the package."""
    found = [entry for entry in files("configs").iterdir() if entry.name.endswith(".yaml")]
    return {entry.name.removesuffix(".yaml"): entry.read_text(encoding="utf-8") for entry in sorted(found, key=str)}


def load_config(recipe: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Resolve a recipe (its name, or a path to a YAML file) and `a.b.c=value` overrides.

    Paths of existing files and folders become absolute, so that a run can be continued from any directory.

    Raises:
        ConfigError: no such recipe, invalid YAML, or an invalid key, type or value.
    """
    values = _parse(_recipe_text(recipe), recipe)
    for setting in overrides:
        override(values, setting)
    for key in (key for stage in STAGES for key in stage.sources):
        section, name = key.split(".")
        given = values.get(section)
        if isinstance(given, dict) and isinstance(given.get(name), str) and Path(given[name]).expanduser().exists():
            given[name] = str(Path(given[name]).expanduser().absolute())
    return validated(RunConfig, values)


def dump_yaml(config: RunConfig) -> str:
    """Every value of the configuration as YAML that `load_config` reads back."""
    text: str = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return text


def stored_config(directory: RunDirectory) -> RunConfig:
    """The configuration that a run was last started with.

    Raises:
        ArtifactError: there is no run.
        ConfigError: its configuration is no longer valid.
    """
    path = directory.path / CONFIG
    if not path.exists():
        raise ArtifactError(f"{path} is missing; start the run with `recsys run --config NAME --out {directory.path}`")
    return load_config(str(path))


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _recipe_text(recipe: str) -> str:
    known = recipes()
    if recipe in known:
        return known[recipe]
    path = Path(recipe).expanduser()
    if path.is_file():
        return path.read_text(encoding="utf-8")
    raise ConfigError(
        f"no recipe '{recipe}': neither a file nor one of {', '.join(known)}{nearest(recipe, known)} "
        "(`recsys configs` lists them)"
    )


def _parse(text: str, name: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name} is not valid YAML: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{name} must be a mapping, not {type(values).__name__}")
    return values
