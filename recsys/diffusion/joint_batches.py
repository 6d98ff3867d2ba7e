"""What a joint training learns from, and its batches: a function of seed and epoch, rows made once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from recsys.data.histories import windows
from recsys.llm.conditions import discrete_batches, sequential_rows
from recsys.llm.continuous import (
    ContinuousLayout,
    ContinuousPrompts,
    ContinuousTexts,
    continuous_batches,
    text_first_batches,
)
from recsys.llm.storage import LanguageModel
from recsys.tables import FloatArray, Histories, SemanticIds


class JointData(NamedTuple):
    """Training histories and the catalogue's tokens; what follows `latents` is for continuous prompts alone.

    window: items of one training sequence; longer histories are cut as the sequential task cuts them.
    latents: float32 [N, D], normalised; what the head draws.
    num_latents: K, the continuous tokens of an item, D = K * d_z.
    text_first: `<pref>` behind a text that the model writes, see `TextFirstConditions`.
    """

    semantic_ids: SemanticIds
    histories: Histories
    window: int
    latents: FloatArray
    num_latents: int = 1
    texts: ContinuousTexts = ContinuousTexts()
    text_first: bool = False

    @property
    def parts(self) -> FloatArray:
        """The latents as tokens, [N, K, d_z]."""
        return self.latents.reshape(len(self.latents), self.num_latents, -1)

    def prompts(self, language_model: LanguageModel) -> ContinuousPrompts:
        layout = ContinuousLayout(language_model.layout.size, self.num_latents)
        return ContinuousPrompts(language_model, layout, self.texts)


class EpochBatches:
    """epoch -> batches of the discrete route, or of the continuous one in either order."""

    def __init__(
        self, language_model: LanguageModel, data: JointData, *, continuous: bool, batch_tokens: int, seed: int
    ) -> None:
        self._data, self._batch_tokens, self._seed = data, batch_tokens, seed
        self._sequences = list(windows(data.histories, data.window))
        self._codes = sequential_rows(language_model, data.semantic_ids, self._sequences)
        self._prompts = data.prompts(language_model) if continuous else None
        plain = self._prompts is not None and not data.text_first
        self._rows = [self._prompts.row(items) for items in self._sequences] if self._prompts and plain else []

    def __call__(self, epoch: int) -> Sequence[tuple[Tensor, ...]]:
        size, seed = self._batch_tokens, self._seed
        if self._prompts is None:
            return discrete_batches(self._codes, batch_tokens=size, seed=seed, epoch=epoch)
        if not self._data.text_first:
            return continuous_batches(self._rows, self._codes, batch_tokens=size, seed=seed, epoch=epoch)
        return text_first_batches(
            self._prompts, self._sequences, self._codes, batch_tokens=size, seed=seed, epoch=epoch
        )
