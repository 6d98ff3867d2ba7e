"""The data of a joint training, and its batches: a function of seed and epoch, from rows that are rendered once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from recsys.data.histories import windows
from recsys.llm.conditions import SequentialRow, discrete_batches, sequential_rows
from recsys.llm.continuous import (
    ContinuousLayout,
    ContinuousPrompts,
    ContinuousRow,
    ContinuousTexts,
    continuous_batches,
)
from recsys.llm.storage import LanguageModel
from recsys.tables import FloatArray, Histories, SemanticIds


class JointData(NamedTuple):
    """Training histories and the catalogue's tokens; the fields after `latents` are for continuous prompts alone.

    window: items of one training sequence; longer histories are split as for the sequential task.
    latents: float32 [N, D], normalised; what the head samples.
    num_latents: K, the continuous tokens of an item, D = K * d_z.
    """

    semantic_ids: SemanticIds
    histories: Histories
    window: int
    latents: FloatArray
    num_latents: int = 1
    texts: ContinuousTexts = ContinuousTexts()

    @property
    def latent_tokens(self) -> FloatArray:
        """The latents as tokens, [N, K, d_z]."""
        return self.latents.reshape(len(self.latents), self.num_latents, -1)

    def prompts(self, language_model: LanguageModel) -> ContinuousPrompts:
        layout = ContinuousLayout(language_model.layout.size, self.num_latents)
        return ContinuousPrompts(language_model, layout, self.texts)


def joint_batches(
    language_model: LanguageModel, data: JointData, *, continuous: bool, batch_tokens: int, seed: int
) -> Callable[[int], Sequence[tuple[Tensor | None, ...]]]:
    """epoch -> batches of `DiscreteConditions`, or of `ContinuousConditions` where `continuous` holds."""
    sequences = windows(data.histories, data.window)
    codes = sequential_rows(language_model, data.semantic_ids, sequences)
    if not continuous:
        codes = [row for row in codes if _has_targets(row)]
        return lambda epoch: discrete_batches(codes, batch_tokens=batch_tokens, seed=seed, epoch=epoch)
    prompts = data.prompts(language_model)
    rows = [prompts.row(*sequence) for sequence in sequences]
    kept = [n for n, row in enumerate(rows) if _has_targets(row) and _has_targets(codes[n])]
    rows, codes = [rows[n] for n in kept], [codes[n] for n in kept]
    return lambda epoch: continuous_batches(rows, codes, batch_tokens=batch_tokens, seed=seed, epoch=epoch)


def _has_targets(row: SequentialRow | ContinuousRow) -> bool:
    """False for an over-long row that lost all items of a weight above 0."""
    return row.weights is None or bool(row.weights.any())
