"""The language model learns, keeps the best weights, and drops what it is configured to drop, LoRA or not."""

from collections.abc import Callable

import pytest
import torch

from recsys.instructions.examples import Example
from recsys.llm.collation import epoch_batches
from recsys.llm.config import LoraConfig, TrainingConfig
from recsys.llm.dropout import residual_dropout
from recsys.llm.finetuning import training_plan
from recsys.llm.heads import LanguageModelLoss
from recsys.llm.lora import add_lora
from recsys.training.checkpoints import Fingerprint
from recsys.training.plan import Loss, Run
from recsys.training.trainer import Trainer
from tests.llm.fakes import language_model, renderer

CONFIG = TrainingConfig(epochs=3, learning_rate=5e-3, batch_tokens=128)
CYCLE = {"sequential": [Example("sequential", history=tuple((i + j) % 6 for j in range(5))) for i in range(30)]}


def _train(validate: Callable[[LanguageModelLoss], float] | None = None) -> LanguageModelLoss:
    made = language_model()
    module, rows = LanguageModelLoss(made.model, made.layout), renderer(made)
    with residual_dropout(made.model, 0.2):
        Trainer(
            module,
            lambda epoch: epoch_batches(CYCLE, rows, {"sequential": 1}, batch_tokens=128, seed=3, epoch=epoch),
            training_plan(CONFIG, bf16=False, checkpoint_steps=2),
            run=Run("test", 3),
            fingerprint=Fingerprint.of("test", 3, CONFIG),
            validate=None if validate is None else lambda: validate(module),
        ).train()
    return module


def _weights(module: LanguageModelLoss) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in module.named_parameters()}


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

    def forward(self, batch: torch.Tensor) -> Loss:
        return Loss(0 * (self.weight.sum() + self.bias.sum()) + batch.sum(), {}, 1)


def test_matrices_decay_and_vectors_do_not() -> None:
    module = Still(3, 2)
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    config = TrainingConfig(epochs=1, learning_rate=0.1, warmup_ratio=0, weight_decay=0.5)
    plan, fingerprint = training_plan(config, bf16=False, checkpoint_steps=9), Fingerprint.of("still", 0, config)
    Trainer(module, lambda _: [(torch.ones(1),)], plan, run=Run("still", 0), fingerprint=fingerprint).train()
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


def test_the_learning_rate_warms_up_and_decays_to_a_tenth() -> None:
    plan = training_plan(TrainingConfig(learning_rate=1.0, warmup_ratio=0.1), bf16=False, checkpoint_steps=2)
    assert [plan.learning_rate_factor(p) for p in (0, 0.1, 1)] == pytest.approx([0.02, 1.0, 0.1])


@pytest.mark.parametrize("lora", [False, True])
def test_embeddings_and_both_outputs_of_a_block_are_dropped_in_training(lora: bool) -> None:
    """Of what each returns, LoRA's branch included, the configured share is zero, and no more."""
    made = language_model()
    model = made.model
    if lora:
        model = add_lora(model, made.layout, LoraConfig(dropout=0), seed=0)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
    decoder = LanguageModelLoss(model, made.layout).decoder()
    watched = {"embedding": decoder.get_input_embeddings()}
    watched |= {"attention": decoder.layers[1].self_attn.o_proj, "mlp": decoder.layers[1].mlp.down_proj}
    zeros: dict[str, float] = {}
    tokens = torch.randint(2, made.layout.size, (20, 30), generator=torch.Generator().manual_seed(0))
    with residual_dropout(model, 0.25), torch.random.fork_rng():
        for name, module in watched.items():
            module.register_forward_hook(
                lambda _, inputs, output, name=name: zeros.__setitem__(name, float((output == 0).float().mean()))
            )
        for mode, share in ((True, 0.25), (False, 0.0)):
            decoder.train(mode)(input_ids=tokens)
            assert zeros == pytest.approx(dict.fromkeys(watched, share), abs=0.02)
    decoder.train()(input_ids=tokens)
    assert zeros == dict.fromkeys(watched, 0.0), "nothing is dropped outside"


def test_all_processes_of_torchrun_train_and_their_checkpoints_are_within_epochs() -> None:
    plan = training_plan(CONFIG, bf16=False, checkpoint_steps=7)
    assert plan.distributed
    assert (plan.checkpoint_steps, plan.checkpoint_within_epochs) == (7, True)
