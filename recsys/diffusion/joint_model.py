"""One step of joint training: the language model's states condition the head, and the losses are added."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from recsys.diffusion.config import DiffuseConfig
from recsys.diffusion.loss import PreferenceLoss
from recsys.llm.conditions import ConditionedBatch


class JointLosses(NamedTuple):
    """Scalars of one step."""

    total: Tensor
    language_model: Tensor
    diffusion: Tensor
    dispersive: Tensor

    def mean(self) -> Tensor:
        """The loss to minimise."""
        return self.total

    def parts(self) -> dict[str, Tensor]:
        return {"loss" if name == "total" else name: value for name, value in self._asdict().items()}

    @property
    def num_examples(self) -> int:
        return 1


class JointModel(nn.Module):
    """Language model, connector and head in one module, so that DistributedDataParallel sees every gradient."""

    def __init__(self, conditions: nn.Module, head: PreferenceLoss, config: DiffuseConfig) -> None:
        super().__init__()
        self.conditions, self.head, self.config = conditions, head, config

    def forward(self, *batch: Tensor) -> JointLosses:
        """Losses of a batch, whose tensors `conditions` takes; the weighted sum of ContRec, section 3.3."""
        conditioned: ConditionedBatch = self.conditions(*batch)
        language = conditioned.language_model.mean()
        head = self.head(conditioned.states.float(), conditioned.targets)
        total = self.config.language_model_weight * language + head.total(self.config.dispersive_weight)
        return JointLosses(total, language, head.diffusion, head.dispersive)
