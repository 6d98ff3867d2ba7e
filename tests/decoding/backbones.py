"""Tiny models of many architectures, and naive reference implementations."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from recsys.tables import IntArray

BASE, MAX_CODES, MAX_LEVELS = 16, 8, 8
VOCABULARY = BASE + MAX_CODES * MAX_LEVELS
WINDOW = 6  # of those with a sliding window; prompts in the tests are longer

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}
_GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
_NEXT = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
_NEXT_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}

SUPPORTED: dict[str, dict[str, Any]] = {
    "Qwen3": _COMMON,
    "Llama": _COMMON,
    "Qwen2": _COMMON | {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    "Gemma2": _COMMON | {"sliding_window": WINDOW, "final_logit_softcapping": 2.0},
    "Gemma3": _COMMON | {"sliding_window": WINDOW, "num_hidden_layers": 6},
    "Mistral": _COMMON | {"sliding_window": WINDOW},
    "Phi": _COMMON,
    "Cohere": _COMMON,
    "Granite": _COMMON | {"logits_scaling": 3.0},
    "GPT2": _GPT2 | {"bos_token_id": None, "eos_token_id": None},
}
REFUSED: dict[str, dict[str, Any]] = {
    "Bloom": {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "Mamba": {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    "Mpt": {"vocab_size": VOCABULARY, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64},
    "Qwen3Next": _COMMON | _NEXT | _NEXT_MOE | {"shared_expert_intermediate_size": 16, "num_hidden_layers": 4},
}
_CONFIGS = {"Gemma3": "Gemma3TextConfig"}
_MODELS = {"GPT2": "GPT2LMHeadModel"}


@cache
def backbone(name: str) -> Any:
    """A model whose every parameter, biases included, is far from zero, so that a mistake shows in the scores."""
    settings = SUPPORTED.get(name) or REFUSED[name]
    config = getattr(transformers, _CONFIGS.get(name, f"{name}Config"))(**settings)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, _MODELS.get(name, f"{name}ForCausalLM"))(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.2 * torch.randn(parameter.shape)
    return model


def random_ids(generator: np.random.Generator, *, num_items: int, num_levels: int, num_codes: int) -> IntArray:
    """At most `num_items` unique semantic ids [n, L], in random order."""
    codes = generator.integers(num_codes, size=(num_items, num_levels))
    return generator.permutation(np.unique(codes, axis=0))


def random_prompts(generator: np.random.Generator, lengths: list[int]) -> list[list[int]]:
    return [generator.integers(VOCABULARY, size=length).tolist() for length in lengths]


def pad(prompts: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Prompts padded on the right with a token that also occurs in them, and their lengths."""
    lengths = torch.tensor([len(p) for p in prompts])
    rows = [torch.tensor(p + [7] * (int(lengths.max()) - len(p))) for p in prompts]
    return torch.stack(rows), lengths


@torch.no_grad()
def item_scores(model: Any, prompt: list[int], codes: IntArray, num_codes: int) -> Tensor:
    """Log-probability [N] of every item after a prompt, each as a plain sequence of its own, without cache or mask."""
    levels = codes.shape[1]
    tokens = torch.from_numpy(codes + BASE + np.arange(levels) * num_codes)
    rows = torch.cat([torch.tensor(prompt).expand(len(codes), -1), tokens], dim=1)
    logits = model(input_ids=rows, use_cache=False).logits
    total = torch.zeros(len(codes))
    for level in range(levels):
        first = BASE + level * num_codes
        log_probs = logits[:, len(prompt) - 1 + level, first : first + num_codes].float().log_softmax(-1)
        total += log_probs.gather(1, torch.from_numpy(codes[:, level : level + 1]))[:, 0]
    return total


def naive_beams(model: Any, prompt: list[int], codes: IntArray, num_codes: int, beams: int) -> list[tuple[int, ...]]:
    """The prefixes that survive each level of a beam search over all valid prefixes, best first."""
    survivors: list[tuple[int, ...]] = [()]
    for level in range(codes.shape[1]):
        prefixes = np.unique(codes[:, : level + 1], axis=0)
        valid = np.array([p for p in prefixes.tolist() if tuple(p[:-1]) in survivors])
        scores = item_scores(model, prompt, valid, num_codes)
        best = scores.argsort(descending=True, stable=True)[:beams]
        survivors = [tuple(valid[i].tolist()) for i in best]
    return survivors
