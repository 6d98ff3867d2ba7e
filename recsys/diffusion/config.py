"""Configuration of the diffuse stage: the denoiser, its losses and training, and how latents are sampled."""

from typing import Literal, Self

from pydantic import Field, model_validator

from recsys.config import Config


class DiffuseConfig(Config):
    """Dispersive diffusion head (ContRec, arXiv 2504.12007) with AdaLN blocks (MAR, arXiv 2406.11838).

    `joint` lets the diffusion loss reach the language model; without it the conditions are those of the frozen model.
    """

    joint: bool = False
    condition: Literal["discrete", "continuous"] = "discrete"
    titles: bool = Field(default=False, description="continuous prompts name an item's title before its latents")
    answers: Literal["category", "title", "none"] = Field(
        default="category", description="text about the next item that the language model learns on continuous prompts"
    )
    timesteps: int = Field(default=1000, ge=2)
    hidden_size: int = Field(default=512, ge=8)
    num_layers: int = Field(default=3, ge=1)
    timesteps_per_row: int = Field(default=4, ge=1)
    condition_dropout: float = Field(default=0.1, ge=0, lt=1)
    ema_decay: float = Field(default=0.999, ge=0, lt=1)
    dispersive_weight: float = Field(default=0.25, ge=0)
    dispersive_temperature: float = Field(default=1.0, gt=0)
    language_model_weight: float = Field(default=0.1, ge=0, description="of the text loss in joint training")
    epochs: int = Field(default=12, ge=1)
    plain_epochs: int = Field(default=60, ge=1, description="most epochs of the plain heads, which train to a plateau")
    patience: int = Field(
        default=5, ge=1, description="validations without a new best that end a plain head's training"
    )
    batch_size: int = Field(default=512, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1)
    validate_every: int = Field(default=2, ge=1, description="epochs between validations")
    validation_users: int = Field(default=1000, ge=1, description="number of users in a validation")
    seed: int | None = Field(default=None, description="of this training alone; none: the run's")
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    sampling_steps: int = Field(default=20, ge=1)
    guidance_scale: float = Field(default=1.0, ge=0)
    num_samples: int = Field(default=32, ge=1, description="latents drawn for a user")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.condition == "continuous" and not self.joint:
            raise ValueError(
                "condition=continuous needs joint=true, because the connector is trained with the head; "
                "set joint=true or condition=discrete"
            )
        if self.sampling_steps > self.timesteps:
            raise ValueError(
                f"sampling_steps={self.sampling_steps} is more than timesteps={self.timesteps}; choose at most as many"
            )
        return self
