"""Training learns, keeps the best weights, and a killed run ends with the weights of an uninterrupted one."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from recsys.instructions.examples import Example
from recsys.llm.collation import epoch_batches
from recsys.llm.config import LoraConfig, TrainingConfig
from recsys.llm.dropout import add_residual_dropout
from recsys.llm.heads import LanguageModelLoss
from recsys.llm.lora import add_lora
from recsys.llm.training import Settings, Trainer, learning_rate
from tests.llm.fakes import language_model, renderer

CONFIG = TrainingConfig(epochs=3, lr=5e-3, batch_tokens=128)
CYCLE = {"sequential": [Example("sequential", history=tuple((i + j) % 6 for j in range(5))) for i in range(30)]}


class KilledError(Exception):
    pass


def _train(
    work: Path | None = None,
    *,
    lora: bool = False,
    kill_at: int | None = None,
    validate: Callable[[LanguageModelLoss], float] | None = None,
) -> LanguageModelLoss:
    made = language_model()
    add_residual_dropout(made.model, 0.2)
    model = add_lora(made.model, made.layout, LoraConfig(), seed=0) if lora else made.model
    module = LanguageModelLoss(model, made.layout)
    rows = renderer(made)
    steps = 0

    class Bomb:
        def log(self, values: dict[str, float], *, step: int) -> None:
            return None

        def track(self, iterable, description, total=None):  # type: ignore[no-untyped-def]
            nonlocal steps
            for element in iterable:
                if steps == kill_at:
                    raise KilledError
                steps += 1
                yield element

    Trainer(
        module,
        lambda epoch: epoch_batches(CYCLE, rows, {"sequential": 1}, batch_tokens=128, seed=3, epoch=epoch),
        CONFIG,
        settings=Settings("test", seed=3, checkpoint_steps=2, work=work),
        validate=None if validate is None else lambda: validate(module),
        tracker=Bomb(),
    ).run()
    return module


def _weights(module: LanguageModelLoss) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in module.named_parameters()}


def _score(module: LanguageModelLoss) -> float:
    return -float(next(p for n, p in module.named_parameters() if p.requires_grad).detach().abs().sum())


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("kill_at", [0, 1, 5, 13])
def test_a_killed_training_resumes_to_the_same_weights(tmp_path: Path, kill_at: int, lora: bool) -> None:
    whole = _weights(_train(tmp_path / "whole", lora=lora, validate=_score))
    with pytest.raises(KilledError):
        _train(tmp_path / "cut", lora=lora, kill_at=kill_at, validate=_score)
    resumed = _weights(_train(tmp_path / "cut", lora=lora, validate=_score))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_training_learns_the_cycle() -> None:
    module = _train()
    made = language_model()
    batch = epoch_batches(CYCLE, renderer(made), {"sequential": 1}, batch_tokens=4096, seed=0, epoch=0)[0]
    with torch.no_grad():
        untrained = float(LanguageModelLoss(made.model, made.layout)(*batch).mean())
        trained = float(module(*batch).mean())
    assert trained < 0.6 * untrained


def test_every_parameter_is_trained_norms_too() -> None:
    made = language_model()
    before, after = _weights(LanguageModelLoss(made.model, made.layout)), _weights(_train())
    assert [name for name in before if torch.equal(before[name], after[name])] == []


class Still(torch.nn.Linear):
    """A loss without a slope: nothing but weight decay moves the parameters."""

    def forward(self, batch: torch.Tensor) -> "Still":
        self.value = 0 * (self.weight.sum() + self.bias.sum()) + batch.sum()
        return self

    def mean(self) -> torch.Tensor:
        return self.value

    def parts(self) -> dict[str, float]:
        return {}


def test_matrices_decay_and_vectors_do_not() -> None:
    module = Still(3, 2)
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    config = TrainingConfig(epochs=1, lr=0.1, warmup=0, weight_decay=0.5)
    Trainer(module, lambda _: [(torch.ones(1),)], config, settings=Settings("still", seed=0)).run()
    torch.testing.assert_close(module.weight, before["weight"] * (1 - 0.1 * 0.5))
    assert torch.equal(module.bias, before["bias"])


def test_the_weights_of_the_best_validation_are_kept() -> None:
    seen: list[dict[str, torch.Tensor]] = []
    scores = iter([0.1, 0.5, 0.4, 0.3])

    def validate(module: LanguageModelLoss) -> float:
        seen.append(_weights(module))
        return next(scores)

    kept = _weights(_train(validate=validate))
    assert len(seen) == 1 + CONFIG.epochs
    assert all(torch.equal(kept[name], seen[1][name]) for name in kept)


def test_learning_rate_warms_up_and_decays_to_a_tenth() -> None:
    config = TrainingConfig(lr=1.0, warmup=0.1)
    assert learning_rate(config, 0) == pytest.approx(0.02)
    assert learning_rate(config, 0.1) == pytest.approx(1.0)
    assert learning_rate(config, 1) == pytest.approx(0.1)
