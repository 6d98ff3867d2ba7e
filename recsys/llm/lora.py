"""LoRA through peft: low-rank adapters on all projections, and of the embeddings only the code tokens' rows."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft

from recsys.llm.config import LoraConfig
from recsys.llm.vocabulary import TokenLayout
from recsys.training.seeding import seeded


def add_lora(model: Any, layout: TokenLayout, config: LoraConfig, *, seed: int) -> Any:
    """Wrap a model whose vocabulary already holds the code tokens; everything but the adapter is frozen.

    The token rows are named module by module: peft leaves an untied head frozen, without a warning, when it is given a
    plain list (peft 0.21.2).
    """
    rows = list(range(layout.base, layout.size))
    names = {id(module): name.rsplit(".", 1)[-1] for name, module in model.named_modules()}
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    trainable = {names[id(embedding)]: rows}
    if embedding.weight is not head.weight:
        trainable[names[id(head)]] = rows
    adapter = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules="all-linear",
        trainable_token_indices=trainable,
        task_type="CAUSAL_LM",
    )
    with _without_rename_warning(), seeded(seed, 0):
        return peft.get_peft_model(model, adapter)


def load_lora(model: Any, folder: Path, *, trainable: bool = False) -> Any:
    """Put a saved adapter on a model whose vocabulary already holds the code tokens, frozen unless `trainable`."""
    with _without_rename_warning(), seeded(0, 0):  # peft draws an adapter before it reads one
        return peft.PeftModel.from_pretrained(model, folder, is_trainable=trainable)


def merge(model: Any) -> Any:
    """The plain model with the adapter and the code rows merged in; decoding runs on this one."""
    return model.merge_and_unload()


@contextmanager
def _without_rename_warning() -> Iterator[None]:
    """peft 0.21 reads a renamed property of transformers 5; the warning does not concern our user."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        yield
