"""The grammar of `--set section.key=value`, and one-line errors for values that a configuration does not allow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from recsys.config import nearest
from recsys.errors import ConfigError

M = TypeVar("M", bound=BaseModel)


def override(values: dict[str, Any], setting: str) -> None:
    """Apply one `section.key=value` to nested plain values; the value is parsed as YAML.

    Raises:
        ConfigError: the setting has another form, or names a key below a plain value.
    """
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {setting}: write it as section.key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {setting}: the value is not valid YAML; put quotes around it") from error
    *sections, name = key.split(".")
    for section in sections:
        inner = values.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {setting}: '{section}' is a value and has no keys")
        values = inner
    values[name] = value


def validated(model: type[M], values: Mapping[str, Any]) -> M:
    """The configuration of nested plain values.

    Raises:
        ConfigError: names every wrong key by its full path.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(model, entry) for entry in error.errors())) from error


def _explain(model: type[BaseModel], entry: Any) -> str:
    if not entry["loc"]:  # a rule over the whole configuration; printing all of it would not help
        return str(entry.get("ctx", {}).get("error", entry["msg"]))
    path = ".".join(str(part) for part in entry["loc"])
    if entry["type"] == "extra_forbidden":
        *sections, name = entry["loc"]
        fields = _fields(model, sections)
        return f"unknown key '{path}'" + (nearest(str(name), fields) or f"; known here: {', '.join(fields)}")
    return f"{path}: got {entry['input']!r}; {entry['msg'][:1].lower()}{entry['msg'][1:]}"


def _fields(model: type[BaseModel], sections: Sequence[str | int]) -> list[str]:
    """Names of the fields of the model at a path of sections."""
    inner: Any = model
    for section in sections:
        inner = next(iter(_models(inner.model_fields[str(section)].annotation)), model)
    return list(inner.model_fields)


def _models(annotation: Any) -> list[type[BaseModel]]:
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    return [t for t in candidates if isinstance(t, type) and issubclass(t, BaseModel)]
