"""Configuration of the tokenize stage: the shape of an id, the network behind it, and the weights of its input."""

from typing import Literal

from pydantic import Field

from recsys.config import Config
from recsys.tokenization.continuous_config import ContinuousConfig


class TokenizeConfig(Config):
    """RQ-VAE with uniform semantic mapping on the last level (LC-Rec, arXiv 2311.09049, sections 3.1 and 4.1.4).

    `kind` selects the tokens of items: `discrete` semantic ids, `continuous` latents (by a sigma-VAE), or both.
    `quantizer` makes the semantic ids, a key of `recsys.tokenization.registry.QUANTIZERS`.
    `hidden_sizes` are the encoder's widths, mirrored by the decoder; empty scales them to the input. The learning rate
    falls to zero along a cosine. `sinkhorn_iterations` of 0 turns the uniform mapping off; a weight of 0 leaves a block
    of the input out.
    """

    kind: Literal["discrete", "continuous", "both"] = "both"
    quantizer: str = "rq-vae"
    num_levels: int = Field(default=4, ge=1, le=16)
    codebook_size: int = Field(default=256, ge=2, le=8192)
    latent_dim: int = Field(default=32, ge=1)
    hidden_sizes: tuple[int, ...] = ()
    epochs: int = Field(default=60, ge=1)
    batch_size: int = Field(default=1024, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    commitment_weight: float = Field(default=0.1, ge=0)
    sinkhorn_epsilon: float = Field(default=0.003, gt=0)
    sinkhorn_iterations: int = Field(default=50, ge=0)
    text_weight: float = Field(default=1.0, ge=0)
    collaborative_weight: float = Field(default=0.0, ge=0)
    continuous: ContinuousConfig = ContinuousConfig()
