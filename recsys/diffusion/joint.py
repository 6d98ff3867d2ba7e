"""Joint training of the language model's adapter and the diffusion head, whose gradients reach the LoRA weights.

Reads the folder of a finetuned model, trains its adapter further, and writes a folder that serves both rankings:
`adapter/`, `tokenizer/`, `language_model.json` (see `recsys.llm.storage`; the backbone stays where it is), the averaged
head (`preference.*`), for continuous prompts `connector.safetensors`, and `joint.json`, the form of the prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from recsys.data.histories import windows
from recsys.diffusion.config import DiffuseConfig
from recsys.diffusion.denoiser import Denoiser
from recsys.diffusion.joint_batches import JointData, joint_batches
from recsys.diffusion.joint_model import JointModel
from recsys.diffusion.loss import PreferenceLoss
from recsys.diffusion.preference import PreferenceModel
from recsys.errors import ArtifactError, ModelError
from recsys.files import fingerprint, read_json, write_json
from recsys.llm.conditions import Conditions, DiscreteConditions, QueryConditions, next_items, training_conditions
from recsys.llm.config import TrainingConfig
from recsys.llm.connector import Connector
from recsys.llm.continuous import ContinuousLayout, ContinuousPrompts, ContinuousTexts
from recsys.llm.continuous_conditions import ContinuousConditions, continuous_query_conditions
from recsys.llm.dropout import residual_dropout
from recsys.llm.finetuning import merged_copy, training_plan
from recsys.llm.storage import LanguageModel, load_adapted, load_language_model, save_adapter
from recsys.tables import FloatArray, Histories, SemanticIds
from recsys.tracking import Tracker
from recsys.training.checkpoints import Fingerprint
from recsys.training.devices import default_device, uses_bf16
from recsys.training.ema import MovingAverage
from recsys.training.plan import Plan, Run
from recsys.training.seeding import seeded
from recsys.training.trainer import Trainer

_PARAMS = "joint.json"


class ContinuousEncoder(NamedTuple):
    """Turns histories into conditions by continuous prompts."""

    conditions: ContinuousConditions
    prompts: ContinuousPrompts


@dataclass(frozen=True)
class JointPreference:
    """A jointly trained pair: the merged language model, which the generative ranker decodes with, and the head."""

    language_model: LanguageModel
    preference: PreferenceModel
    semantic_ids: SemanticIds
    continuous: ContinuousEncoder | None

    def query_conditions(self, histories: Histories, *, window: int, tracker: Tracker | None = None) -> Tensor:
        """The condition [U, d_h], float32, after the newest `window` items of each history."""
        if self.continuous is None:
            return QueryConditions(self.language_model, self.semantic_ids)(histories, window=window, tracker=tracker)
        return continuous_query_conditions(*self.continuous, histories, window=window, tracker=tracker)

    def training_conditions(self, histories: Histories, *, window: int, tracker: Tracker | None = None) -> Conditions:
        """The condition before every item of every training sequence, equal to its prefix's `query_conditions`."""
        if self.continuous is None:
            return training_conditions(
                self.language_model, self.semantic_ids, histories, window=window, tracker=tracker
            )
        sequences = windows(histories, window)
        prefixes = [items[:position] for items, _ in sequences for position in range(len(items))]
        queries = Histories.from_lists([""] * len(prefixes), prefixes)
        states = self.query_conditions(queries, window=window, tracker=tracker)
        return Conditions(states, *next_items(sequences))

    def with_catalog(self, semantic_ids: SemanticIds, latents: FloatArray, titles: Sequence[str]) -> JointPreference:
        """The same model, sharing its weights, for a catalogue with items appended to those it was loaded with."""
        if self.continuous is None:
            return replace(self, semantic_ids=semantic_ids)
        conditions, prompts = self.continuous
        tokens = latents.reshape(len(latents), prompts.layout.num_latents, -1)
        texts = prompts.texts._replace(titles=None if prompts.texts.titles is None else titles)
        encoder = ContinuousEncoder(
            ContinuousConditions(self.language_model, conditions.connector.with_latents(tokens)),
            ContinuousPrompts(self.language_model, prompts.layout, texts),
        )
        return replace(self, semantic_ids=semantic_ids, continuous=encoder)

    @classmethod
    def load(
        cls,
        folder: Path,
        semantic_ids: SemanticIds,
        latents: FloatArray,
        *,
        finetuned: Path,
        titles: Sequence[str] | None = None,
    ) -> JointPreference:
        """Read what `fit_joint` wrote.

        Args:
            latents: [N, D], those of the training.
            finetuned: the folder of the language model that the training started from.
            titles: the items' titles, if the continuous prompts were trained with them.

        Raises:
            ArtifactError: a file is missing or damaged, or titles are missing or superfluous.
        """
        params = read_json(folder / _PARAMS)
        language_model = load_language_model(folder, backbone=finetuned)
        preference = PreferenceModel.load(folder)
        if params.get("condition") != "continuous":
            return cls(language_model, preference, semantic_ids, None)
        if bool(params["titles"]) != (titles is not None):
            trained = "with titles" if params["titles"] else "without titles"
            raise ArtifactError(f"{folder / _PARAMS}: the prompts were trained {trained}; load the model {trained}")
        tokens = latents.reshape(len(latents), int(params["num_latents"]), -1)
        layout = ContinuousLayout(language_model.layout.size, tokens.shape[1])
        connector = Connector.load(folder, layout, tokens).to(language_model.model.device)
        prompts = ContinuousPrompts(language_model, layout, ContinuousTexts(titles))
        encoder = ContinuousEncoder(ContinuousConditions(language_model, connector), prompts)
        return cls(language_model, preference, semantic_ids, encoder)


def is_joint(folder: Path) -> bool:
    """Whether a folder is what `fit_joint` wrote, and not a head alone."""
    return (folder / _PARAMS).exists()


def fit_joint(
    data: JointData,
    config: DiffuseConfig,
    *,
    finetuned: Path,
    out: Path,
    seed: int,
    validate: Callable[[JointPreference], float] | None = None,
    work: Path | None = None,
    tracker: Tracker | None = None,
) -> JointPreference:
    """Train adapter, connector and head on .1 language-model + diffusion + .25 dispersive loss, and write them.

    Training starts from the finetuned adapter, not from a fresh one on the merged model: the model stays the backbone
    of `finetuned` and one adapter, ranks do not add up, and the codes need not be learned again. The adapter keeps the
    learning rate and batch size of its finetuning; head and connector have the learning rate of `config`.

    Args:
        finetuned: the folder of the language model that it starts from.
        out: receives the results.
        validate: the score (higher is better) that chooses among epochs; without it the last one is kept.
        work: folder for checkpoints; a killed run given the same folder continues and ends bit-equal.

    Raises:
        ArtifactError: the finetuned model or a checkpoint cannot be read.
        ModelError: the pretrained backbone can no longer be loaded, or the language model reads no code tokens.
    """
    adapted = _start(finetuned)
    joint = _untrained(adapted, data, config, seed=seed)
    average = MovingAverage(joint.head.denoiser, config.ema_decay)
    connector = getattr(joint.conditions, "connector", None)
    lora = adapted.config.lora

    def present() -> JointPreference:
        merged = merged_copy(adapted, adapted.model)
        encoder = None
        if connector is not None:
            encoder = ContinuousEncoder(ContinuousConditions(merged, connector), data.prompts(merged))
        return JointPreference(merged, PreferenceModel(average.module, config), data.semantic_ids, encoder)

    def score() -> float:
        assert validate is not None
        return validate(present())

    plan = _plan(config, adapted)
    trainer = Trainer(
        joint,
        joint_batches(adapted, data, continuous=connector is not None, batch_tokens=lora.batch_tokens, seed=seed),
        plan,
        run=Run("joint", seed, work, tracker),
        fingerprint=Fingerprint.of("joint", seed, config, fingerprint(finetuned), *_contents(data), plan.bf16),
        validate=None if validate is None else score,
        average=average,
    )
    with residual_dropout(adapted.model, adapted.config.residual_dropout):
        trainer.train()
    done = present()
    _save(done, adapted, out, params=_params(config.condition, data))
    return done


def _start(finetuned: Path) -> LanguageModel:
    adapted = load_adapted(finetuned, trainable=True)
    if adapted.items is not None:
        raise ModelError("joint training needs a language model that was trained with finetune.items=tokens, not sum")
    adapted.model.to(default_device()).eval()
    return adapted


def _untrained(adapted: LanguageModel, data: JointData, config: DiffuseConfig, *, seed: int) -> JointModel:
    device = adapted.model.device
    conditions: nn.Module
    if config.condition == "discrete":
        conditions = DiscreteConditions(adapted.model, adapted.layout)
    else:
        conditions = ContinuousConditions(adapted, Connector.for_model(adapted, data.latent_tokens, seed=seed))
    latents = torch.from_numpy(data.latents)
    hidden = adapted.model.get_input_embeddings().weight.shape[1]
    with seeded(seed, 0):
        denoiser = Denoiser(hidden, latents.shape[1], hidden_size=config.hidden_size, num_layers=config.num_layers)
    return JointModel(conditions, PreferenceLoss(denoiser, latents, config), config).to(device)


def _plan(config: DiffuseConfig, adapted: LanguageModel) -> Plan:
    """The adapter's learning rate and batch; the head's epochs, weight decay and warm-up."""
    lora = adapted.config.lora
    training = TrainingConfig(
        epochs=config.epochs,
        learning_rate=lora.learning_rate,
        weight_decay=config.weight_decay,
        warmup_ratio=config.warmup_ratio,
        max_grad_norm=lora.max_grad_norm,
        validate_every=config.validate_every,
    )
    bf16 = uses_bf16(config.precision, adapted.model.device)
    plan = training_plan(training, bf16=bf16, checkpoint_steps=adapted.config.checkpoint_steps)
    # Parts that start from random weights learn at the head's rate.
    factors = dict.fromkeys(("head.", "conditions.connector."), config.learning_rate / lora.learning_rate)
    # The dispersive loss compares all rows of a batch with each other, so that processes could not share them.
    return plan._replace(rate_factors=factors, distributed=False)


def _contents(data: JointData) -> list[Any]:
    """What decides the weights besides the language model; see `Fingerprint.of`."""
    arrays = [data.histories.indptr, data.histories.items, data.semantic_ids.codes, data.latents]
    weights = [] if data.histories.weights is None else [data.histories.weights]
    return [*arrays, *weights, data.texts, data.window, data.num_latents]


def _save(done: JointPreference, adapted: LanguageModel, out: Path, *, params: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    save_adapter(out, adapted.model, adapted)
    done.preference.save(out)
    if done.continuous is not None:
        done.continuous.conditions.connector.save(out)
    write_json(out / _PARAMS, params)


def _params(condition: str, data: JointData) -> dict[str, Any]:
    if condition == "discrete":
        return {"condition": condition}
    return {"condition": condition, "num_latents": data.num_latents, "titles": data.texts.titles is not None}
