"""The language model's adapter and the diffusion head trained together: the head's gradients reach the LoRA weights.

Reads the folder of a finetuned model, goes on training its adapter, and writes a folder that owns what serves both
rankings: `adapter/`, `tokenizer/`, `language_model.json` (see `recsys.llm.storage`; the backbone stays where it is),
the averaged head (`preference.*`), for continuous prompts `connector.safetensors`, and `joint.json`, how it was asked.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from recsys.checkpoints import seeded
from recsys.data.histories import windows
from recsys.diffusion.config import DiffuseConfig
from recsys.diffusion.denoiser import Denoiser
from recsys.diffusion.joint_batches import EpochBatches, JointData
from recsys.diffusion.joint_model import JointModel, MovingAverage
from recsys.diffusion.loss import PreferenceLoss
from recsys.diffusion.preference import PreferenceModel, default_device, uses_bf16
from recsys.errors import ArtifactError
from recsys.files import read_json, write_json
from recsys.llm.conditions import (
    Conditions,
    DiscreteConditions,
    query_conditions,
    training_conditions,
)
from recsys.llm.config import LoraConfig, TrainingConfig
from recsys.llm.connector import Connector
from recsys.llm.continuous import ContinuousLayout, ContinuousPrompts, ContinuousTexts
from recsys.llm.continuous_conditions import (
    ContinuousConditions,
    TextFirstConditions,
    continuous_query_conditions,
)
from recsys.llm.lora import merge
from recsys.llm.storage import LanguageModel, load_adapted, load_language_model, save_adapter
from recsys.llm.training import Settings, Trainer
from recsys.tables import FloatArray, Histories, SemanticIds
from recsys.tracking import NullTracker, Tracker

_FACTS = "joint.json"


class JointFolders(NamedTuple):
    """Where a joint training reads and writes.

    finetuned: the folder of the language model that it starts from.
    out: where the results go.
    work: for checkpoints; a killed run given the same folder continues and ends bit-equal.
    """

    finetuned: Path
    out: Path
    work: Path | None = None


class Continuous(NamedTuple):
    """What asks continuous prompts."""

    conditions: ContinuousConditions
    prompts: ContinuousPrompts


@dataclass(frozen=True)
class JointPreference:
    """A jointly trained pair: the merged language model, which the generative ranker decodes with, and the head."""

    language_model: LanguageModel
    preference: PreferenceModel
    semantic_ids: SemanticIds
    continuous: Continuous | None

    def query_conditions(self, histories: Histories, *, window: int, tracker: Tracker | None = None) -> Tensor:
        """The condition [U, d_h], float32, behind the newest `window` items of each history."""
        if self.continuous is None:
            return query_conditions(self.language_model, self.semantic_ids, histories, window=window, tracker=tracker)
        return continuous_query_conditions(*self.continuous, histories, window=window, tracker=tracker)

    def training_conditions(self, histories: Histories, *, window: int, tracker: Tracker | None = None) -> Conditions:
        """The condition before every item of every training sequence, as `query_conditions` would give it."""
        if self.continuous is None:
            return training_conditions(
                self.language_model, self.semantic_ids, histories, window=window, tracker=tracker
            )
        asked = [(items[:place], items[place]) for items in windows(histories, window) for place in range(len(items))]
        prefixes = Histories.from_lists([""] * len(asked), [prefix for prefix, _ in asked])
        states = self.query_conditions(prefixes, window=window, tracker=tracker)
        return Conditions(states, torch.tensor([int(item) for _, item in asked], dtype=torch.int64))

    def over(self, semantic_ids: SemanticIds, latents: FloatArray, titles: Sequence[str]) -> JointPreference:
        """The same, sharing its weights, for a catalogue that has grown behind the items it was loaded with."""
        if self.continuous is None:
            return replace(self, semantic_ids=semantic_ids)
        conditions, prompts = self.continuous
        parts = latents.reshape(len(latents), prompts.layout.num_latents, -1)
        texts = prompts.texts._replace(titles=None if prompts.texts.titles is None else titles)
        made = type(conditions)(self.language_model, conditions.connector.over(parts))
        asked = Continuous(made, ContinuousPrompts(self.language_model, prompts.layout, texts))
        return replace(self, semantic_ids=semantic_ids, continuous=asked)

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
        """What `fit_joint` wrote.

        Args:
            latents: [N, D], those it was trained with.
            finetuned: the folder of the language model that it started from.
            titles: the items' titles, where continuous prompts were trained with them.

        Raises:
            ArtifactError: a file is missing or damaged, or titles are missing or not wanted.
        """
        facts = read_json(folder / _FACTS)
        language_model = load_language_model(folder, backbone=finetuned)
        preference = PreferenceModel.load(folder)
        if facts.get("condition") != "continuous":
            return cls(language_model, preference, semantic_ids, None)
        if bool(facts["titles"]) != (titles is not None):
            wanted = "with titles" if facts["titles"] else "without titles"
            raise ArtifactError(f"{folder / _FACTS}: the prompts were trained {wanted}; give them the same way")
        parts = latents.reshape(len(latents), int(facts["num_latents"]), -1)
        layout = ContinuousLayout(language_model.layout.size, parts.shape[1])
        connector = Connector.load(folder, layout, parts).to(language_model.model.device)
        prompts = ContinuousPrompts(language_model, layout, ContinuousTexts(titles))
        conditions = _conditions(language_model, connector, text_first=bool(facts["text_first"]))
        return cls(language_model, preference, semantic_ids, Continuous(conditions, prompts))


def is_joint(folder: Path) -> bool:
    """Whether a folder is what `fit_joint` wrote, and not a head alone."""
    return (folder / _FACTS).exists()


def fit_joint(
    data: JointData,
    config: DiffuseConfig,
    *,
    folders: JointFolders,
    seed: int,
    validate: Callable[[JointPreference], float] | None = None,
    tracker: Tracker | None = None,
) -> JointPreference:
    """Train adapter, connector and head on .1 language-model + diffusion + .25 dispersive loss, and write all of it.

    It starts from the finetuned adapter, not from a fresh one on the merged model: so the backbone of `finetuned` and
    the new adapter alone make the model, ranks do not add up, and what was learned about codes is not learned again.
    The adapter keeps the learning rate and batch of its finetuning; head and connector have those of `config`.

    Args:
        validate: the score (higher is better) that chooses among epochs; without it the last one is kept.

    Raises:
        ArtifactError: the finetuned model or a checkpoint cannot be read.
        ModelError: the pretrained backbone cannot be loaded any more.
    """
    adapted = load_adapted(folders.finetuned, trainable=True)
    adapted.model.to(default_device()).eval()
    joint = _untrained(adapted, data, config, seed=seed)
    average = MovingAverage(joint.head.denoiser, config.ema_decay)
    connector = getattr(joint.conditions, "connector", None)
    lora = adapted.config.lora

    def present() -> JointPreference:
        merged = adapted._replace(model=merge(copy.deepcopy(adapted.model)).eval())
        asked = None
        if connector is not None:
            conditions = _conditions(merged, connector, text_first=data.text_first)
            asked = Continuous(conditions, data.prompts(merged))
        return JointPreference(merged, PreferenceModel(average.module, config), data.semantic_ids, asked)

    def score() -> float:
        assert validate is not None
        return validate(present())

    Trainer(
        joint,
        EpochBatches(adapted, data, continuous=connector is not None, batch_tokens=lora.batch_tokens, seed=seed),
        _training(config, lora),
        settings=Settings(
            "joint",
            seed,
            uses_bf16(config, adapted.model.device),
            adapted.config.checkpoint_steps,
            folders.work,
            _rates(config, lora),
        ),
        validate=None if validate is None else score,
        tracker=tracker or NullTracker(),
        companion=average,
    ).run()
    done = present()
    _save(done, adapted, folders.out, facts=_facts(config.condition, data))
    return done


def _conditions(language_model: LanguageModel, connector: Connector, *, text_first: bool) -> ContinuousConditions:
    """The module that asks continuous prompts in the chosen order."""
    return (TextFirstConditions if text_first else ContinuousConditions)(language_model, connector)


def _untrained(adapted: LanguageModel, data: JointData, config: DiffuseConfig, *, seed: int) -> JointModel:
    device = adapted.model.device
    conditions: nn.Module
    if config.condition == "discrete":
        conditions = DiscreteConditions(adapted.model, adapted.layout)
    else:
        connector = Connector.for_model(adapted, data.parts, seed=seed)
        conditions = _conditions(adapted, connector, text_first=data.text_first)
    latents = torch.from_numpy(data.latents)
    hidden = adapted.model.get_input_embeddings().weight.shape[1]
    with seeded(seed, 0):
        denoiser = Denoiser(hidden, latents.shape[1], hidden_size=config.hidden_size, num_layers=config.num_layers)
    return JointModel(conditions, PreferenceLoss(denoiser, latents, config), config).to(device)


def _training(config: DiffuseConfig, lora: LoraConfig) -> TrainingConfig:
    return TrainingConfig(
        epochs=config.epochs,
        lr=lora.lr,
        weight_decay=config.weight_decay,
        warmup=config.warmup_ratio,
        batch_tokens=lora.batch_tokens,
        clip=lora.clip,
        validate_every=config.validate_every,
    )


def _rates(config: DiffuseConfig, lora: LoraConfig) -> Mapping[str, float]:
    """Parts that start from nothing learn at the head's rate."""
    return dict.fromkeys(("head.", "conditions.connector."), config.learning_rate / lora.lr)


def _save(done: JointPreference, adapted: LanguageModel, out: Path, *, facts: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    save_adapter(out, adapted.model, adapted)
    done.preference.save(out)
    if done.continuous is not None:
        done.continuous.conditions.connector.save(out)
    write_json(out / _FACTS, facts)


def _facts(condition: str, data: JointData) -> dict[str, Any]:
    if condition == "discrete":
        return {"condition": condition}
    return {
        "condition": condition,
        "num_latents": data.num_latents,
        "titles": data.texts.titles is not None,
        "text_first": data.text_first,
    }
