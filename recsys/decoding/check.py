"""Checks that a backbone supports tree attention, by comparing it with plain forward passes when it is loaded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recsys.decoding.tree import Tree
from recsys.errors import ModelError
from recsys.llm.attention import layer_windows

_SUPPORTED = {"full_attention", "sliding_attention"}
_LONGEST_PROBE = 1024  # the probe does not exceed wider sliding windows
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
_COARSE_TOLERANCE = 0.15  # bf16 and fp16


def check_backbone(model: Any) -> None:
    """Check that a model's logits along a tree equal those of plain sequences.

    Raises:
        ModelError: it has a recurrent state, ALiBi, attention without masks, or an unsupported head; the message names
            the model's type.
    """
    kind = model.config.model_type
    advice = "use a decoder with full or sliding-window attention, such as Llama, Qwen3, Gemma, Mistral, Phi or GPT-2"
    unsupported = sorted(set(layer_windows(model.config)) - _SUPPORTED)
    if unsupported:
        raise ModelError(
            f"a '{kind}' model has layers of type {', '.join(unsupported)}, which cannot be decoded as a tree; {advice}"
        )
    was_training = model.training
    model.eval()
    try:
        error = _deviation(model)
    except (TypeError, ValueError, RuntimeError, LookupError, AttributeError) as failure:
        raise ModelError(f"a '{kind}' model cannot be decoded as a tree ({failure}); {advice}") from failure
    finally:
        model.train(was_training)
    tolerance = _TOLERANCE.get(model.dtype, _COARSE_TOLERANCE)
    if not error <= tolerance:
        raise ModelError(
            f"a '{kind}' model gives other logits along a tree than along a sequence "
            f"(difference {error:.2g} standard deviations, {tolerance:g} is allowed); {advice}"
        )


@torch.inference_mode()
def _deviation(model: Any) -> float:
    """Largest difference of logits between tree and plain forwards, in standard deviations of the logits."""
    window = min((w for w in layer_windows(model.config).values() if w is not None), default=0)
    generator = torch.Generator().manual_seed(0)
    longest = 12 + (window if window <= _LONGEST_PROBE else 0)
    vocabulary = model.get_output_embeddings().weight.shape[0]
    prompts = torch.randint(vocabulary, (2, longest), generator=generator).to(model.device)
    lengths = torch.tensor([longest, longest - 5], device=model.device)
    tokens = torch.randint(vocabulary, (2, 2, 4), generator=generator).to(model.device)  # [level, B, M]
    parents = torch.tensor([[3, 0, 0, 2], [1, 1, 2, 0]], device=model.device)
    tree = Tree(model, prompts, lengths)
    tree.grow(tokens[0], torch.zeros_like(parents))
    found = tree.logits(tree.grow(tokens[1], parents), 0, vocabulary)
    wanted = torch.stack([_plain(model, prompts[b, : lengths[b]], tokens[:, b], parents[b]) for b in range(2)])
    return float((found - wanted).abs().max() / wanted.std())


def _plain(model: Any, prompt: Tensor, tokens: Tensor, parents: Tensor) -> Tensor:
    """Logits [M, V] after prompt, parent and token [2, M], each path as a separate sequence."""
    paths = torch.stack([tokens[0, parents], tokens[1]], dim=1)
    rows = torch.cat([prompt.expand(len(paths), -1), paths], dim=1)
    logits: Tensor = model(input_ids=rows, use_cache=False).logits[:, -1].float()
    return logits
