"""Backbones: a small Qwen3-architecture model made from scratch, or any causal language model by name or path."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from recsys.errors import ModelError
from recsys.llm.config import ScratchConfig

END, PAD = "<|end|>", "<|pad|>"


def train_text_tokenizer(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most `size` tokens over the given texts; every string can be encoded."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD)


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Token_ids of a text, without special tokens: one that the text spells out stays text."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    return ids


def build_scratch(config: ScratchConfig, text_tokens: int, *, seed: int) -> Any:
    """An untrained Qwen3-architecture causal LM with tied embeddings; the weights depend on the seed alone."""
    qwen = Qwen3Config(
        vocab_size=text_tokens,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_heads,
        head_dim=config.head_dim,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(qwen)


def load_pretrained(name: str, *, revision: str | None, dtype: torch.dtype) -> tuple[Any, Any]:
    """A causal LM and its tokenizer, by name or path: safetensors only, no code of the checkpoint's own.

    Raises:
        ModelError: there is no such model, or it is not a causal LM in safetensors.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            name, revision=revision, trust_remote_code=False, use_safetensors=True, dtype=dtype
        )
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise ModelError(
            f"finetune.pretrained={name!r} cannot be loaded ({first}); "
            "give the path of a causal language model saved with its tokenizer as safetensors"
        ) from error
    return model, tokenizer


def load_plain(folder: Path) -> Any:
    """A causal LM that this package saved."""
    return AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, trust_remote_code=False)
