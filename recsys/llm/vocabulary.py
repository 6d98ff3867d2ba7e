"""Code tokens: where they sit in the vocabulary, how they enter a model, and what their rows start from.

All L x K code tokens form one contiguous block per level behind the text vocabulary, so that a level's logits are a
view of the head. The text tokenizer never learns their strings: codes enter prompts as token ids only, and a title that
contains "<a_12>" stays text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys.errors import ModelError
from recsys.tables import FloatArray, IntArray


@dataclass(frozen=True)
class TokenLayout:
    """token_id of code c of level l is `base + l * num_codes + c`."""

    base: int
    num_levels: int
    num_codes: int

    @property
    def size(self) -> int:
        """Rows of the embedding once the code tokens are in."""
        return self.base + self.num_levels * self.num_codes

    def item(self, item: int) -> int:
        """The id that stands for a whole item in a prompt, behind the vocabulary: one that the model never writes."""
        return self.size + item

    def token_ids(self, codes: IntArray) -> IntArray:
        """Codes [..., L] -> token_ids of the same shape."""
        return codes + self.base + np.arange(self.num_levels) * self.num_codes

    def token(self, token_id: int) -> str:
        """The string of a code token: `<a_12>`, `<b_7>`, ..."""
        level, code = divmod(token_id - self.base, self.num_codes)
        return f"<{chr(ord('a') + level)}_{code}>"

    def tokens(self, codes: IntArray) -> tuple[str, ...]:
        """The strings of one semantic id [L]."""
        return tuple(self.token(int(token_id)) for token_id in self.token_ids(codes))


def add_code_tokens(model: Any, *, text_tokens: int, num_levels: int, num_codes: int) -> TokenLayout:
    """Grow the model's embedding (and head) by the code tokens, and return their layout.

    Args:
        model: a transformers causal LM, changed in place.
        text_tokens: size of the text tokenizer.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    layout = TokenLayout(max(text_tokens, rows), num_levels, num_codes)
    model.resize_token_embeddings(layout.size, mean_resizing=False)
    return layout


@torch.no_grad()
def initialise_code_rows(model: Any, layout: TokenLayout, starts: FloatArray) -> None:
    """Set the code tokens' rows, scaled to the spread of the rows that the model already has.

    Args:
        starts: [L * K, hidden], in token order; from `starts_from_texts` or `starts_from_codebooks`.
    """
    seen: set[int] = set()
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        if module is None:
            raise ModelError("the backbone has no output embedding; a causal language model is needed")
        weight: Tensor = module.weight
        if id(weight) in seen:
            continue
        seen.add(id(weight))
        spread = weight[: layout.base].float().std(dim=0).mean()
        rows = torch.from_numpy(starts).to(weight.device, torch.float32)
        rows = (rows - rows.mean(0)) / rows.std().clamp_min(1e-8) * spread + weight[: layout.base].float().mean(0)
        weight[layout.base : layout.size] = rows.to(weight.dtype)


def starts_from_texts(model: Any, texts: Sequence[Sequence[int]], codes: IntArray, num_codes: int) -> FloatArray:
    """For each code the mean embedding of the texts of the items that carry it; unused codes get the mean of all.

    Args:
        texts: per item its text's token_ids.
        codes: [N, L].

    Returns:
        [L * K, hidden]
    """
    weight = model.get_input_embeddings().weight.detach().float().cpu().numpy()
    items = np.stack([weight[list(t)].mean(0) if len(t) else weight.mean(0) for t in texts])
    starts = np.tile(items.mean(0), (codes.shape[1] * num_codes, 1))
    for level in range(codes.shape[1]):
        sums = np.zeros((num_codes, items.shape[1]))
        np.add.at(sums, codes[:, level], items)
        counts = np.bincount(codes[:, level], minlength=num_codes)
        used = counts > 0
        starts[level * num_codes : (level + 1) * num_codes][used] = sums[used] / counts[used, None]
    return starts.astype(np.float32)


def starts_from_codebooks(codebooks: FloatArray, hidden: int, *, seed: int) -> FloatArray:
    """Codebooks [L, K, d] through a fixed random projection a level -> [L * K, hidden]: near codes start near."""
    generator = np.random.default_rng(seed)
    width = codebooks.shape[2]
    parts = []
    for level in codebooks:
        scale = max(float(level.std()), 1e-8)
        parts.append((level / scale) @ generator.standard_normal((width, hidden)) / np.sqrt(width))
    return np.concatenate(parts).astype(np.float32)
