"""Which items may be recommended: what each request leaves out, and the only ones that any of them may get."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from recsys.tables import BoolArray, Histories, IntArray


class Permits(NamedTuple):
    """Of some requests over N items; an empty one permits all.

    `excluded` holds item indices for each request; `allowed` [N] is of all of them.
    """

    excluded: Sequence[IntArray] | None = None
    allowed: BoolArray | None = None

    @classmethod
    def unseen(cls, histories: Histories) -> Permits:
        """All but each history's own items."""
        return cls([histories[user] for user in range(len(histories))])

    def mask(self, num_requests: int, num_items: int) -> Tensor | None:
        """bool [U, N], or None where everything is permitted."""
        if self.excluded is None and self.allowed is None:
            return None
        mask = torch.ones(num_requests, num_items, dtype=torch.bool)
        if self.allowed is not None:
            mask &= torch.from_numpy(self.allowed)
        for row, items in enumerate(self.excluded or ()):
            mask[row, torch.as_tensor(items)] = False
        return mask
