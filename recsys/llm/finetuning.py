"""From examples to a language model that writes semantic ids: backbone, code tokens, full training, LoRA.

A `scratch` backbone is first trained in full (there is nothing to adapt yet), then adapted; a `pretrained` one is only
adapted. Both take the same collation, trainer and decoder.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch

from recsys.instructions.config import InstructConfig
from recsys.instructions.examples import Example
from recsys.llm.backbone import build_scratch, encode_text, load_pretrained, train_text_tokenizer
from recsys.llm.collation import Renderer, epoch_batches
from recsys.llm.config import FinetuneConfig, TrainingConfig
from recsys.llm.dropout import residual_dropout
from recsys.llm.heads import LanguageModelLoss
from recsys.llm.item_loss import ItemLoss, ItemLossWeights
from recsys.llm.item_rows import branched_form
from recsys.llm.items import ItemTable
from recsys.llm.lora import add_lora, merge
from recsys.llm.parts import Split
from recsys.llm.storage import LanguageModel, save_adapter, save_backbone
from recsys.llm.vocabulary import (
    add_code_tokens,
    initialise_code_rows,
    starts_from_codebooks,
    starts_from_texts,
)
from recsys.tables import FloatArray, SemanticIds
from recsys.tracking import Tracker
from recsys.training.checkpoints import Fingerprint, digest
from recsys.training.devices import uses_bf16
from recsys.training.plan import Plan, Progress, Run
from recsys.training.processes import Processes
from recsys.training.seeding import seeded
from recsys.training.trainer import Trainer

_REPEATS_RATE = 10.0  # single numbers have far to go, by steps of the learning rate

logger = logging.getLogger(__name__)

Validator = Callable[[LanguageModel], float]


class FinetuneData(NamedTuple):
    """What the language model learns from."""

    examples: Sequence[Example]
    texts: Sequence[str]  # one a catalogue item, "" where it has none
    semantic_ids: SemanticIds
    codebooks: FloatArray  # [L, K, d]
    instruct: InstructConfig


class Mixture(NamedTuple):
    """What epochs draw from: groups of examples, the passes over each an epoch, and a digest of all that decides it."""

    groups: Mapping[str, Sequence[Example]]
    passes: Mapping[str, float]
    digest: str

    @classmethod
    def of(cls, data: FinetuneData) -> Self:
        """Each task is a group."""
        groups: dict[str, list[Example]] = {}
        for example in data.examples:
            groups.setdefault(example.task, []).append(example)
        weights = data.instruct.weights
        content = digest(data.examples, data.texts, data.semantic_ids.codes, data.codebooks, weights)
        return cls(groups, weights.model_dump(), content)


class Finetuned(NamedTuple):
    """Validation scores at each point of the way; `before_training` is None for a pretrained backbone."""

    before_training: float | None
    before_lora: float
    after_lora: float


def finetune(
    data: FinetuneData,
    config: FinetuneConfig,
    *,
    out: Path,
    validate: Validator,
    seed: int,
    work: Path | None = None,
    tracker: Tracker | None = None,
) -> Finetuned:
    """Train the language model and write it to `out` (see `recsys.llm.storage`).

    Under `torchrun` all processes train it together, on the same batches as one process alone.

    Args:
        validate: validation NDCG@10 of a plain model in evaluation mode, through the real decoder; the mean of both
            rankings of a model that scores whole items.
        work: folder for checkpoints; a killed run given the same folder continues and ends with the same weights.

    Raises:
        ModelError: the pretrained backbone cannot be loaded.
    """
    language_model = prepare_backbone(data, config, seed=seed)
    trainings = Trainings(Mixture.of(data), language_model, data.semantic_ids, seed=seed, work=work, tracker=tracker)
    before: float | None = None
    if config.pretrained is None:
        trained = trainings.run(
            language_model.model, config.training, "language_model", lambda _: validate(language_model)
        )
        before = trained.first
        if trainings.writes:
            save_backbone(out, language_model.model)
    adapted = add_lora(language_model.model, language_model.layout, config.lora, seed=seed)
    trained = trainings.run(adapted, config.lora, "lora", lambda model: validate(merged_copy(language_model, model)))
    if trainings.writes:
        save_adapter(out, adapted, language_model)
    return Finetuned(before, trained.first, trained.best)


def prepare_backbone(data: FinetuneData, config: FinetuneConfig, *, seed: int) -> LanguageModel:
    """The untrained starting point: a backbone whose vocabulary holds the code tokens."""
    ids = data.semantic_ids
    if config.pretrained is None:
        tokenizer = train_text_tokenizer([t for t in data.texts if t], config.scratch.vocab_size)
        model = build_scratch(config.scratch, len(tokenizer), seed=seed)
    else:
        # Masters stay in fp32: bf16 acts through autocast, where small LoRA updates are not rounded away.
        model, tokenizer = load_pretrained(config.pretrained, revision=config.revision, dtype=torch.float32)
    with seeded(seed, 0):  # rows between the text tokens and the code tokens keep what they are drawn as
        layout = add_code_tokens(model, text_tokens=len(tokenizer), num_levels=ids.num_levels, num_codes=ids.num_codes)
    if config.pretrained is None:
        starts = starts_from_codebooks(data.codebooks, config.scratch.hidden_size, seed=seed)
    else:
        texts = [encode_text(tokenizer, t)[: config.max_text_tokens] for t in data.texts]
        starts = starts_from_texts(model, texts, ids.codes, ids.num_codes)
    initialise_code_rows(model, layout, starts)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    table = None
    if config.items == "sum":
        known = np.zeros(len(ids.codes), np.bool_)
        known[[item for example in data.examples for item in example.targets]] = True
        table = ItemTable.of(ids, starts.shape[1], known, dropped=config.item_dropout).eval()
    return LanguageModel(model.eval(), tokenizer, layout, config, table)


def training_plan(config: TrainingConfig, *, bf16: bool, checkpoint_steps: int) -> Plan:
    """How a language model is trained, in full, by an adapter, or jointly with a head."""
    return Plan(
        config.epochs,
        config.learning_rate,
        config.weight_decay,
        betas=(0.9, 0.98),
        decay_vectors=False,
        warmup_ratio=config.warmup_ratio,
        warmup_start=0.02,
        final_ratio=0.1,
        max_grad_norm=config.max_grad_norm,
        bf16=bf16,
        distributed=True,
        validate_every=config.validate_every,
        validate_first=True,
        log_steps=20,
        checkpoint_steps=checkpoint_steps,
        checkpoint_within_epochs=True,
    )


class Trainings:
    """What the full training, LoRA and its refresh share."""

    def __init__(
        self,
        mixture: Mixture,
        language_model: LanguageModel,
        semantic_ids: SemanticIds,
        *,
        seed: int,
        work: Path | None,
        tracker: Tracker | None,
    ) -> None:
        self._mixture, self._language_model = mixture, language_model
        self._seed, self._work, self._tracker = seed, work, tracker
        self._processes = Processes.launched()
        self._renderer: Renderer = language_model.renderer(semantic_ids)

    @property
    def writes(self) -> bool:
        """Whether this process writes the results: the first of those that train together."""
        return self._processes.is_first

    def run(self, model: Any, config: TrainingConfig, name: str, validate: Callable[[Any], float] | None) -> Progress:
        """Train what requires gradients; the last weights are kept where nothing validates."""
        settings = self._language_model.config
        bf16 = uses_bf16(settings.precision, self._processes.device or next(model.parameters()).device)
        items, layout = self._language_model.items, self._language_model.layout
        loss = LanguageModelLoss(model, layout)
        weights = ItemLossWeights(settings.item_loss, settings.distillation)
        trainer = Trainer(
            loss if items is None else ItemLoss(model, layout, items, weights),
            lambda epoch: self._batches(config, epoch),
            training_plan(config, bf16=bf16, checkpoint_steps=settings.checkpoint_steps)._replace(
                rate_factors={"items.repeats": _REPEATS_RATE}
            ),
            run=Run(name, self._seed, None if self._work is None else self._work / name, self._tracker),
            fingerprint=Fingerprint.of(name, self._seed, settings, self._mixture.digest, bf16),
            validate=None if validate is None else lambda: validate(model),
        )
        with residual_dropout(model, settings.residual_dropout, *([] if items is None else [items.reading])):
            return trainer.train()

    def _batches(self, config: TrainingConfig, epoch: int) -> Sequence[Any]:
        return epoch_batches(
            self._mixture.groups,
            self._renderer,
            self._mixture.passes,
            batch_tokens=config.batch_tokens,
            seed=self._seed,
            epoch=epoch,
            form=None if self._language_model.items is None else branched_form(self._renderer),
            split=Split(self._processes.rank, self._processes.count, config.accumulation or 1),
        )


def merged_copy(language_model: LanguageModel, adapted: Any) -> LanguageModel:
    """The same with a merged copy of the adapted model; merging in place and back would leave rounding behind."""
    return language_model._replace(model=merge(copy.deepcopy(adapted)).eval())
