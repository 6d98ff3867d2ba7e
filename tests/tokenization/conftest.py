import numpy as np
import pytest

from recsys.tables import FloatArray
from recsys.tokenization.config import TokenizeConfig
from recsys.tokenization.registry import QUANTIZERS, fit_tokenizer
from recsys.tokenization.tokenizer import Tokenizer

NUM_ITEMS, NUM_GROUPS = 240, 6


def groups() -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.arange(NUM_ITEMS) % NUM_GROUPS


def tiny_config(epochs: int = 12) -> TokenizeConfig:
    return TokenizeConfig(
        num_levels=3,
        codebook_size=8,
        latent_dim=4,
        hidden_sizes=(16,),
        epochs=epochs,
        batch_size=60,
        sinkhorn_iterations=10,
    )


@pytest.fixture(scope="session")
def vectors() -> FloatArray:
    """Items around six well-separated centres, [240, 12]."""
    generator = np.random.default_rng(0)
    centres = 4 * generator.normal(size=(NUM_GROUPS, 12))
    return (centres[groups()] + 0.5 * generator.normal(size=(NUM_ITEMS, 12))).astype(np.float32)


@pytest.fixture(scope="session", params=list(QUANTIZERS))
def tokenizer(request: pytest.FixtureRequest, vectors: FloatArray) -> Tokenizer:
    """Every registered quantizer, fitted: whatever takes this fixture is part of the contract."""
    return fit_tokenizer(vectors, tiny_config().model_copy(update={"quantizer": request.param}), seed=0)
