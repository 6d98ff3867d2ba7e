"""The processes that train one model together: those of `torchrun` or `recsys ... --processes`; otherwise one alone.

Each computes gradients of its part of a step, and all take the same step by their sum. Only the first validates, logs
and writes files; the others wait for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

import torch
from accelerate import PartialState
from torch import Tensor, distributed

TIMEOUT = timedelta(days=7)  # the others wait as long as the first validates; a process that dies ends all at once


@dataclass(frozen=True)
class Processes:
    """The number of this process among those that train together, how many they are, and this one's device."""

    rank: int = 0
    count: int = 1
    device: torch.device | None = None

    @classmethod
    def launched(cls) -> Self:
        """Those that a launcher started, connected with each other by NCCL on GPUs, else by gloo."""
        on_cpu = "LOCAL_RANK" in os.environ and not torch.cuda.is_available()
        state = PartialState(cpu=on_cpu, timeout=TIMEOUT)
        return cls(state.process_index, state.num_processes, state.device)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors by those of the first process."""
        if self.count > 1:
            for tensor in tensors:
                distributed.broadcast(tensor.data, 0)

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace gradients by their sums; a parameter that has none anywhere keeps none, so that it is not updated."""
        if self.count == 1:
            return
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        present = gradients[0].new_tensor([p.grad is not None for p in parameters])
        total = torch.cat([present, *(gradient.flatten() for gradient in gradients)])
        distributed.all_reduce(total)
        present, *parts = torch.split(total, [len(parameters), *(gradient.numel() for gradient in gradients)])
        for parameter, part, number in zip(parameters, parts, present.tolist(), strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.dtype) if number else None

    def sum_values(self, values: Mapping[str, float]) -> dict[str, float]:
        """The sum of each value over all processes that have it."""
        if self.count == 1:
            return dict(values)
        found: list[dict[str, float]] = [{}] * self.count
        distributed.all_gather_object(found, dict(values))
        names = dict.fromkeys(name for each in found for name in each)
        return {name: sum(each.get(name, 0.0) for each in found) for name in names}

    def from_first(self, compute: Callable[[], float]) -> float:
        """A value that the first process computes and the others wait for."""
        if self.count == 1:
            return compute()
        value = torch.zeros(1, dtype=torch.float64, device=self.device)
        if self.is_first:
            value += compute()
        distributed.broadcast(value, 0)
        return float(value)
