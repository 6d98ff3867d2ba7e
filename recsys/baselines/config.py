"""Configuration of SASRec, whose item vectors are the collaborative vectors of the embed stage."""

from typing import Self

from pydantic import Field, model_validator

from recsys.config import Config


class SasrecConfig(Config):
    """Size and training of a SASRec.

    `batch_tokens` bounds the items of a batch, padding included; `validate_every` counts epochs. Training ends after
    `patience` validations without a new best (none: after all `epochs`), at the latest after `epochs`. The
    collaborative vectors are those after `vector_epochs` (at most `epochs`), whatever validation says.
    """

    hidden_size: int = Field(default=64, ge=1)
    num_layers: int = Field(default=2, ge=1)
    num_heads: int = Field(default=2, ge=1)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    max_length: int = Field(default=50, ge=1)
    epochs: int = Field(default=200, ge=1)
    patience: int | None = Field(default=5, ge=1)
    vector_epochs: int = Field(default=24, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    batch_tokens: int = Field(default=512, ge=1)
    validate_every: int = Field(default=3, ge=1)

    @model_validator(mode="after")
    def _heads_divide_hidden_size(self) -> Self:
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"num_heads={self.num_heads} does not divide hidden_size={self.hidden_size}; choose a divisor"
            )
        return self
