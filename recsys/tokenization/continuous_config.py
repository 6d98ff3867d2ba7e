"""Configuration of the sigma-VAE: the shape of an item's latents, the guards against collapse, and its input."""

from pydantic import Field

from recsys.config import Config


class ContinuousConfig(Config):
    """Continuous tokens by a sigma-VAE (ContRec, arXiv 2504.12007; LatentLM, arXiv 2412.08635).

    An item has `num_tokens` latents of `token_dim` each. `hidden_sizes` are the encoders' widths, mirrored by the
    decoder; empty scales them to the input. `sigma` is the mean size E|s| of the noise. `decorrelation_weight` keeps
    the encoders from being copies. A weight of 0 leaves a block of the input out. Eigenvalues below `whitening_floor`
    times their mean are whitened as if they were that large: near 0 whitens fully, a large floor only scales the block.
    The learning rate falls to zero along a cosine.

    On Amazon Beauty, what a ridge regression from a history to the next latent recalls at 10 (validation) and, behind
    the bar, a kernel sum over the history's latents: full whitening .082 | .087, floor 10 .089 | .092; text weight 1
    .062 | .093, .3 .088 | .095; decorrelation of .1 .088 | .096 against 0 .088 | .094, correlation of the encoders .19
    against .95; with it `kl_weight` .1 .093 | .095 against .01 .088 | .096. SASRec's vectors: .078 | .089.
    """

    num_tokens: int = Field(default=2, ge=1, le=16)
    token_dim: int = Field(default=64, ge=1, le=4096)
    hidden_sizes: tuple[int, ...] = ()
    sigma: float = Field(default=0.5, ge=0)
    mask_rate: float = Field(default=0.1, ge=0, lt=1)
    kl_weight: float = Field(default=0.1, ge=0)
    decorrelation_weight: float = Field(default=0.1, ge=0)
    text_weight: float = Field(default=0.3, ge=0)
    collaborative_weight: float = Field(default=1.0, ge=0)
    whitening_floor: float = Field(default=10.0, gt=0)
    epochs: int = Field(default=40, ge=1)
    batch_size: int = Field(default=512, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
