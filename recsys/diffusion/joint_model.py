"""One step of a joint training: the language model's states condition the head, and both losses are one sum."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from recsys.diffusion.config import DiffuseConfig
from recsys.diffusion.loss import PreferenceLoss
from recsys.llm.conditions import Conditioned


class JointLosses(NamedTuple):
    """Scalars of one step."""

    total: Tensor
    language_model: Tensor
    diffusion: Tensor
    dispersive: Tensor

    def mean(self) -> Tensor:
        """What is minimised."""
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
        """The weighted sum of ContRec, section 3.3, of a batch of whatever `conditions` takes."""
        found: Conditioned = self.conditions(*batch)
        language = found.language_model.mean()
        head = self.head(found.states.float(), found.targets)
        total = self.config.language_model_weight * language + head.total(self.config.dispersive_weight)
        return JointLosses(total, language, head.diffusion, head.dispersive)
