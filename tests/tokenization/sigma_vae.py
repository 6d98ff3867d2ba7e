"""What the tests of continuous tokens share: items in groups, as text and as behaviour, and a tokenizer of them."""

from functools import cache

import numpy as np

from recsys.tables import ItemVectors
from recsys.tokenization.continuous import ContinuousTokenizer, fit_sigma_vae
from recsys.tokenization.continuous_config import ContinuousConfig

NUM_ITEMS = 300


def block(width: int, *, seed: int, items: int = NUM_ITEMS, spread: float = 2.0) -> ItemVectors:
    """Items [items, width] around ten centres, the same item in the same group whatever the width."""
    generator = np.random.default_rng(seed)
    centres = spread * generator.normal(size=(10, width))
    vectors = centres[np.arange(items) % 10] + generator.normal(size=(items, width))
    return ItemVectors([f"i{n}" for n in range(items)], vectors.astype(np.float32))


TEXT, BEHAVIOUR = block(20, seed=0), block(8, seed=1)


def tiny_config(**changed: object) -> ContinuousConfig:
    settings = {"token_dim": 6, "hidden_sizes": (32,), "epochs": 30, "batch_size": 50, "learning_rate": 3e-3} | changed
    return ContinuousConfig.model_validate(settings)


@cache
def fitted() -> ContinuousTokenizer:
    return fit_sigma_vae(TEXT, BEHAVIOUR, tiny_config(), seed=0)
