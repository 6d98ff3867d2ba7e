"""How constrained beam search is run: what `recommend` and the validation inside `finetune` choose."""

from pydantic import Field

from recsys.config import Config


class DecodeConfig(Config):
    """Beam search over semantic ids; `beams` is also how many items a user gets."""

    beams: int = Field(default=50, ge=1, le=1024)
    batch_size: int = Field(default=32, ge=1, description="prompts decoded together")
