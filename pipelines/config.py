"""The configuration of a run: the seed and one section a stage; recipes and overrides are resolved here.

Reads a YAML recipe, by name (package `configs`) or by path.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ValidationError, model_validator

from pipelines import CONTINUOUS, DISCRETE, STAGES, Stage, stages_of
from recsys.config import Config
from recsys.data.config import PrepareConfig
from recsys.diffusion.config import DiffuseConfig
from recsys.embeddings.config import EmbedConfig
from recsys.errors import ConfigError
from recsys.evaluation.config import EvaluateConfig
from recsys.fusion import SASREC
from recsys.instructions.config import InstructConfig
from recsys.llm.config import FinetuneConfig
from recsys.rankers.config import RecommendConfig
from recsys.retrieval.config import IndexConfig
from recsys.tokenization.config import TokenizeConfig


class RunConfig(Config):
    """The configuration of a run. Defaults are in the models of the sections."""

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

    @model_validator(mode="after")
    def _fusion_has_a_source(self) -> Self:
        if not self.embed.collaborative and set(self.recommend.fusion.sources) == {SASREC}:
            raise ValueError("recommend.fusion.sources=[sasrec] needs embed.collaborative=true, or another source")
        return self

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of this run's routes, in order."""
        kind = self.tokenize.kind
        return stages_of((DISCRETE, CONTINUOUS) if kind == "both" else (kind,))


def training_seed(config: RunConfig, training: FinetuneConfig | DiffuseConfig) -> int:
    """The seed of one training: its own where it has one, else the run's."""
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
    for override in overrides:
        _override(values, override)
    for key in (key for stage in STAGES for key in stage.sources):
        section, name = key.split(".")
        given = values.get(section)
        if isinstance(given, dict) and isinstance(given.get(name), str) and Path(given[name]).expanduser().exists():
            given[name] = str(Path(given[name]).expanduser().absolute())
    return validate(values)


def validate(values: Mapping[str, Any]) -> RunConfig:
    """Validate nested plain values; an error names each key by its full path."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(entry) for entry in error.errors())) from error


def dump_yaml(config: RunConfig) -> str:
    """Every value of the configuration as YAML that `load_config` reads back."""
    text: str = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return text


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def nearest(word: str, known: Iterable[str]) -> str:
    """A suggestion of the most similar known name for an error message; empty without one."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


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


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: write it as section.key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not valid YAML; put quotes around it") from error
    *sections, name = key.split(".")
    for section in sections:
        inner = values.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {override}: '{section}' is a value without keys")
        values = inner
    values[name] = value


def _explain(entry: Any) -> str:
    if not entry["loc"]:  # an error of the whole configuration, whose input is not shown
        return str(entry.get("ctx", {}).get("error", entry["msg"]))
    path = ".".join(str(part) for part in entry["loc"])
    if entry["type"] == "extra_forbidden":
        *sections, name = entry["loc"]
        fields = _fields(sections)
        return f"unknown key '{path}'" + (nearest(str(name), fields) or f"; known here: {', '.join(fields)}")
    return f"{path}: got {entry['input']!r}; {entry['msg'][:1].lower()}{entry['msg'][1:]}"


def _fields(sections: Sequence[str | int]) -> list[str]:
    """Field names of the model at a path of sections."""
    model: Any = RunConfig
    for section in sections:
        annotation = model.model_fields[str(section)].annotation
        model = next((t for t in _models(annotation)), RunConfig)
    return list(model.model_fields)


def _models(annotation: Any) -> list[type[BaseModel]]:
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    return [t for t in candidates if isinstance(t, type) and issubclass(t, BaseModel)]
