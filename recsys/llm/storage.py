"""A trained language model on disk: the backbone (or its name), the adapter, the tokenizer, and the token layout.

Writes and reads a folder of `language_model.json`, `tokenizer/`, `adapter/` (peft, safetensors), `items.safetensors`
where an item is one position and, for a model made from scratch, `backbone/`. A merged model has its adapter inside
`backbone/` and needs nothing from elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from transformers import AutoTokenizer

from recsys.errors import ArtifactError
from recsys.llm.backbone import load_plain, load_pretrained
from recsys.llm.collation import Renderer
from recsys.llm.config import FinetuneConfig
from recsys.llm.items import ItemTable
from recsys.llm.lora import load_lora, merge
from recsys.llm.reading import ItemReader
from recsys.llm.vocabulary import TokenLayout
from recsys.tables import SemanticIds
from recsys.training.devices import default_device

_DESCRIPTION = "language_model.json"


class LanguageModel(NamedTuple):
    """A plain causal LM in evaluation mode, adapter merged, with what is needed to write prompts for it."""

    model: Any
    tokenizer: Any
    layout: TokenLayout
    config: FinetuneConfig
    items: ItemTable | None = None  # where an item takes one position of a prompt

    def over(self, semantic_ids: SemanticIds) -> LanguageModel:
        """For the same items and those that were added behind them."""
        return self if self.items is None else self._replace(items=self.items.over(semantic_ids))

    @property
    def reader(self) -> ItemReader | None:
        """Where it reads items at one position; None where it reads their codes."""
        return None if self.items is None else ItemReader(self.model, self.layout, self.items)

    def renderer(self, semantic_ids: SemanticIds) -> Renderer:
        return Renderer(
            self.tokenizer,
            self.layout,
            semantic_ids,
            max_text_tokens=self.config.max_text_tokens,
            max_tokens=self.config.max_tokens,
            one_position=self.items is not None,
        )


def save_backbone(folder: Path, model: Any) -> None:
    """Write a backbone made from scratch; one that is loaded by name is not copied."""
    model.save_pretrained(folder / "backbone", safe_serialization=True)


def save_adapter(folder: Path, adapted: Any, language_model: LanguageModel) -> None:
    """Write the peft model's adapter with the code rows, the tokenizer, and where the code tokens are."""
    adapted.save_pretrained(folder / "adapter", save_embedding_layers=False, safe_serialization=True)
    path = folder / "adapter" / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["target_modules"] = sorted(config["target_modules"])  # a set to peft, in another order in every process
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    language_model.tokenizer.save_pretrained(folder / "tokenizer")
    _save_items(folder, language_model)
    _save_description(folder, language_model)


def save_merged(folder: Path, language_model: LanguageModel) -> None:
    """Write a merged model whole, whatever its backbone was; no path or name of the backbone is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    model, tokenizer = language_model.model, language_model.tokenizer
    model.name_or_path = model.config._name_or_path = tokenizer.name_or_path = ""
    tokenizer.init_kwargs.pop("name_or_path", None)
    save_backbone(folder, model)
    tokenizer.save_pretrained(folder / "tokenizer")
    _save_items(folder, language_model)
    config = language_model.config.model_copy(update={"pretrained": None, "revision": None})
    _save_description(folder, language_model._replace(config=config), merged=True)


def _save_items(folder: Path, language_model: LanguageModel) -> None:
    if language_model.items is not None:
        language_model.items.save(folder)


def _save_description(folder: Path, language_model: LanguageModel, *, merged: bool = False) -> None:
    described: dict[str, Any] = {"layout": asdict(language_model.layout)}
    described |= {"config": language_model.config.model_dump(mode="json")} | ({"merged": True} if merged else {})
    (folder / _DESCRIPTION).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def load_language_model(folder: Path, *, backbone: Path | None = None) -> LanguageModel:
    """The merged model, ready to decode.

    Args:
        folder: what `save_adapter` or `save_merged` wrote.
        backbone: the folder that holds `backbone/` of a model made from scratch, where it is not the adapter's.

    Raises:
        ArtifactError: a file is missing or damaged.
        ModelError: the pretrained backbone cannot be loaded any more.
    """
    merged = load_merged(folder, backbone=backbone)
    for module in (merged.model, merged.items):
        if module is not None:
            module.to(default_device())
    return merged


def load_merged(folder: Path, *, backbone: Path | None = None) -> LanguageModel:
    """The same on the CPU; arguments and errors as `load_language_model` has them."""
    loaded = _load(folder, lambda described: _merged(folder, backbone or folder, described))
    return loaded._replace(model=loaded.model.eval())


def load_adapted(folder: Path, *, backbone: Path | None = None, trainable: bool = False) -> LanguageModel:
    """The same with the adapter on the backbone, not merged, to train on or to merge.

    Args:
        trainable: the adapter and the code rows require gradients.

    Raises:
        ArtifactError: a file is missing or damaged.
        ModelError: the pretrained backbone cannot be loaded any more.
    """

    def on_backbone(described: _Description) -> Any:
        model = _backbone(backbone or folder, described.config, described.layout)
        if trainable and described.config.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        return load_lora(model, folder / "adapter", trainable=trainable)

    return _load(folder, on_backbone)


class _Description(NamedTuple):
    config: FinetuneConfig
    layout: TokenLayout
    merged: bool


def _load(folder: Path, build: Callable[[_Description], Any]) -> LanguageModel:
    """What a folder describes, with the model that `build` makes of the description."""
    try:
        content = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
        config, layout = FinetuneConfig.model_validate(content["config"]), TokenLayout(**content["layout"])
        model = build(_Description(config, layout, bool(content.get("merged"))))
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ArtifactError(f"the language model in {folder} cannot be read ({error}); run `finetune` again") from error
    items = ItemTable.load(folder)
    if (items is None) != (config.items == "tokens"):
        found = "no items.safetensors" if items is None else "items.safetensors"
        raise ArtifactError(
            f"{folder} has {found}, but finetune.items of the model is {config.items}; run `finetune` again"
        )
    return LanguageModel(model, tokenizer, layout, config, items)


def _merged(folder: Path, backbone: Path, described: _Description) -> Any:
    if described.merged:
        return load_plain(backbone / "backbone")
    return merge(load_lora(_backbone(backbone, described.config, described.layout), folder / "adapter"))


def _backbone(folder: Path, config: FinetuneConfig, layout: TokenLayout) -> Any:
    if config.pretrained is None:
        model = load_plain(folder / "backbone")
        # The folder's path, which peft would write beside an adapter that is trained on.
        model.name_or_path = model.config._name_or_path = ""
        return model
    model, _ = load_pretrained(config.pretrained, revision=config.revision, dtype=torch.float32)
    model.resize_token_embeddings(layout.size, mean_resizing=False)
    return model
