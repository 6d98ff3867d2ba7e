"""The base of every configuration model: unknown keys are refused, values never change after validation."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A frozen configuration; a key it does not know is an error, not a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
