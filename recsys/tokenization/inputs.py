"""What the tokenizer sees of an item: its text and its collaborative vector side by side, each with its weight."""

from typing import NamedTuple

import numpy as np

from recsys.errors import ConfigError, DataError
from recsys.tables import FloatArray, ItemVectors, unit_rows
from recsys.tokenization.config import TokenizeConfig


class Inputs(NamedTuple):
    """`vectors` [N, D], blocks of unit rows side by side; `scale` [D] gives each centred block its share of variance.

    With weights w, block b makes up w_b / sum(w) of the mean square, which is 1 a column in all.
    """

    vectors: FloatArray
    scale: FloatArray


def combine(text: ItemVectors, collaborative: ItemVectors | None, config: TokenizeConfig) -> Inputs:
    """Concatenate the blocks that have a weight, each row normalised and each block standardised as a whole.

    Raises:
        ConfigError: no block has a weight, or collaborative vectors are wanted and there are none.
        DataError: the blocks are not of the same items.
    """
    blocks = [(text, config.text_weight)]
    if config.collaborative_weight:
        if collaborative is None:
            raise ConfigError(
                "tokenize.collaborative_weight is set and embed.collaborative is off; turn one of them round"
            )
        if collaborative.item_ids != text.item_ids:
            raise DataError("text and collaborative vectors are not of the same items; run `embed` again")
        blocks.append((collaborative, config.collaborative_weight))
    used = [(unit_rows(block.vectors), weight) for block, weight in blocks if weight]
    if not used:
        raise ConfigError("tokenize.text_weight and tokenize.collaborative_weight are both 0; give one a weight")
    num_columns = sum(vectors.shape[1] for vectors, _ in used)
    total = sum(weight for _, weight in used)
    scales = []
    for vectors, weight in used:
        variance = float(np.square(vectors - vectors.mean(axis=0)).sum(axis=1, dtype=np.float64).mean())
        share = num_columns * weight / total
        scales.append(np.full(vectors.shape[1], np.sqrt(share / max(variance, 1e-12)), dtype=np.float32))
    return Inputs(np.concatenate([vectors for vectors, _ in used], axis=1), np.concatenate(scales))
