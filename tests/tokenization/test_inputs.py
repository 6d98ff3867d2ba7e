import numpy as np
import pytest

from recsys.errors import ConfigError, DataError
from recsys.tables import ItemVectors
from recsys.tokenization.config import TokenizeConfig
from recsys.tokenization.inputs import combine


def block(width: int, scale: float, seed: int, prefix: str = "i") -> ItemVectors:
    vectors = scale * np.random.default_rng(seed).normal(size=(50, width)) + 3
    return ItemVectors([f"{prefix}{n}" for n in range(50)], vectors.astype(np.float32))


TEXT, BEHAVIOUR = block(6, 1.0, 0), block(3, 100.0, 1)


def test_text_alone_is_standardised_as_a_whole() -> None:
    inputs = combine(TEXT, None, TokenizeConfig(collaborative_weight=0))
    assert len(np.unique(inputs.scale)) == 1
    centred = (inputs.vectors - inputs.vectors.mean(axis=0)) * inputs.scale
    assert np.square(centred).mean() == pytest.approx(1, rel=1e-4)


def test_blocks_share_the_variance_by_their_weights_whatever_their_units() -> None:
    config = TokenizeConfig(text_weight=3, collaborative_weight=1)
    inputs = combine(TEXT, BEHAVIOUR, config)
    energy = np.square((inputs.vectors - inputs.vectors.mean(axis=0)) * inputs.scale).sum(axis=0)
    assert energy[:6].sum() == pytest.approx(3 * energy[6:].sum(), rel=1e-4)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"embed\.collaborative is off"):
        combine(TEXT, None, TokenizeConfig(collaborative_weight=1))
    with pytest.raises(ConfigError, match="both 0"):
        combine(TEXT, None, TokenizeConfig(text_weight=0, collaborative_weight=0))
    with pytest.raises(DataError, match="not of the same items"):
        combine(TEXT, block(3, 1.0, 1, prefix="j"), TokenizeConfig(collaborative_weight=1))
