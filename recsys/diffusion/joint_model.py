"""One step of joint training: the language model's states condition the head, and the losses are added."""

from __future__ import annotations

from torch import Tensor, nn

from recsys.diffusion.config import DiffuseConfig
from recsys.diffusion.loss import PreferenceLoss
from recsys.llm.conditions import ConditionedBatch
from recsys.training.plan import Loss


class JointModel(nn.Module):
    """Language model, connector and head in one module."""

    def __init__(self, conditions: nn.Module, head: PreferenceLoss, config: DiffuseConfig) -> None:
        super().__init__()
        self.conditions, self.head, self.config = conditions, head, config

    def forward(self, *batch: Tensor | None) -> Loss:
        """Losses of a batch, whose tensors `conditions` takes; the weighted sum of ContRec, section 3.3."""
        conditioned: ConditionedBatch = self.conditions(*batch)
        language = conditioned.language_model.mean()
        head = self.head(conditioned.states.float(), conditioned.targets, conditioned.weights)
        total = self.config.language_model_weight * language + head.total(self.config.dispersive_weight)
        parts = {"language_model": language, "diffusion": head.diffusion, "dispersive": head.dispersive}
        return Loss(total, {"loss": total, **parts}, 1)
