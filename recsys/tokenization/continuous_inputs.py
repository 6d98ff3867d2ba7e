"""What the sigma-VAE sees of an item: its text and its collaborative vector, each whitened and with its weight.

Reads `ItemVectors`; gives whitened rows, and takes them back apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch

from recsys.errors import ConfigError, DataError
from recsys.tables import FloatArray, ItemVectors, unit_rows
from recsys.tokenization.continuous_config import ContinuousConfig
from recsys.tokenization.whitening import Whitening, fit_whitening
from recsys.training.checkpoints import prefixed, unprefixed

TEXT, COLLABORATIVE = "text", "collaborative"

Blocks = dict[str, FloatArray]


class WhitenedBlocks:
    """Blocks of unit rows, whitened one by one and put side by side in D columns.

    With weights w, block b makes up w_b / sum(w) of the mean square, which is 1 a column in all.
    """

    def __init__(self, whitenings: Mapping[str, Whitening]) -> None:
        self.whitenings = dict(whitenings)

    def __repr__(self) -> str:
        return f"<WhitenedBlocks ({' + '.join(f'{width} {name}' for name, width in self.widths.items())} features)>"

    @classmethod
    def fit(cls, text: ItemVectors, collaborative: ItemVectors | None, config: ContinuousConfig) -> Self:
        """The whitening of every block that there is and that has a weight.

        Raises:
            ConfigError: that is none.
            DataError: the blocks are not of the same items.
        """
        weights = {TEXT: config.text_weight, COLLABORATIVE: config.collaborative_weight}
        blocks = _given(text, collaborative, [name for name, weight in weights.items() if weight])
        if not blocks:
            raise ConfigError(
                "the continuous tokens have no input: text_weight is 0, and collaborative_weight is 0 or there are no "
                "collaborative vectors; give text_weight a value above 0"
            )
        columns = sum(vectors.shape[1] for vectors in blocks.values())
        total = sum(weights[name] for name in blocks)
        return cls(
            {
                name: fit_whitening(
                    unit_rows(vectors), floor=config.whitening_floor, energy=columns * weights[name] / total
                )
                for name, vectors in blocks.items()
            }
        )

    @property
    def widths(self) -> dict[str, int]:
        """block -> its columns, in the order they lie in."""
        return {name: len(whitening.mean) for name, whitening in self.whitenings.items()}

    @property
    def num_features(self) -> int:
        """D, the columns of all blocks."""
        return sum(self.widths.values())

    def given(self, text: ItemVectors, collaborative: ItemVectors | None) -> Blocks:
        """The vectors of the blocks fitted on.

        Raises:
            DataError: a block is missing, they are not of the same items, or of another width than those fitted on.
        """
        blocks = _given(text, collaborative, list(self.whitenings))
        for name, width in self.widths.items():
            got = f"vectors {blocks[name].shape}" if name in blocks else "none"
            if name not in blocks or blocks[name].shape[1:] != (width,):
                raise DataError(f"the tokenizer was fitted on {width} {name} features, got {got}")
        return blocks

    def whiten(self, blocks: Blocks, rows: slice) -> torch.Tensor:
        """Whitened rows [B, D] of vectors, as `given` has them."""
        parts = [
            whitening(torch.from_numpy(unit_rows(blocks[name][rows]))) for name, whitening in self.whitenings.items()
        ]
        return torch.cat(parts, dim=1)

    def tensors(self) -> dict[str, torch.Tensor]:
        """What `from_tensors` takes."""
        out: dict[str, torch.Tensor] = {}
        for name, whitening in self.whitenings.items():
            out |= prefixed(name, whitening.state_dict())
        return out

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> Self:
        """Blocks among tensors of a file; KeyError or RuntimeError where one is not whole."""
        whitenings = {}
        for name in (TEXT, COLLABORATIVE):
            if f"{name}.mean" in tensors:
                whitenings[name] = Whitening(len(tensors[f"{name}.mean"]))
                whitenings[name].load_state_dict(unprefixed(name, tensors))
        return cls(whitenings)


def _given(text: ItemVectors, collaborative: ItemVectors | None, wanted: list[str]) -> Blocks:
    if collaborative is not None and COLLABORATIVE in wanted and collaborative.item_ids != text.item_ids:
        raise DataError("text and collaborative vectors are not of the same items; run `embed` again")
    there = {TEXT: text, COLLABORATIVE: collaborative}
    return {name: block.vectors for name, block in there.items() if name in wanted and block is not None}
