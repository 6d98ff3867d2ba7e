"""The exponential moving average of a module's weights."""

from __future__ import annotations

from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

M = TypeVar("M", bound=nn.Module)
Tensors = tuple[Tensor, ...] | list[Tensor]


class MovingAverage(AveragedModel, Generic[M]):
    """An averaged copy of `source` in evaluation mode, as `.module`; the decay warms up: min(decay, n / (9 + n))."""

    module: M

    def __init__(self, source: M, decay: float) -> None:
        def average(averaged: Tensors, current: Tensors, count: Tensor | int) -> None:
            n = int(count)
            get_ema_multi_avg_fn(min(decay, n / (9 + n)))(averaged, current, n)  # type: ignore[no-untyped-call]

        super().__init__(source, multi_avg_fn=average)
        self.n_averaged.fill_(1)  # the initial weights count; by default those of the first step would replace them
        self.eval().requires_grad_(False)
        self._source = (source,)  # a tuple, so that the source is no part of this module

    @torch.no_grad()
    def update(self) -> None:
        """Take in the source's present weights; called after every optimizer step."""
        self.update_parameters(self._source[0])
