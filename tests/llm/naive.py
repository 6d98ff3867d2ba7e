"""What a model of whole items reads and writes, one row and one code at a time, without the library's own code."""

import math

import torch
from torch.nn import functional as F

from recsys.llm.items import ages
from recsys.llm.storage import LanguageModel
from tests.llm.fakes import semantic_ids


def embedded(model: LanguageModel, tokens: list[int]) -> torch.Tensor:
    """One by one, without the table's own code."""
    assert model.items is not None
    base, rows = model.layout.size, model.model.get_input_embeddings().weight
    vectors = [
        own * known + sum(rows[t] for t in codes)
        for own, known, codes in zip(
            model.items.rows, model.items.known, model.layout.token_ids(semantic_ids().codes), strict=True
        )
    ]
    return torch.stack([vectors[t - base] if t >= base else rows[t] for t in tokens])


def writing_states(model: LanguageModel, prompt: list[int], codes: list[int]) -> list[torch.Tensor]:
    """What each code is written from: the state behind the prompt, later added to that behind the codes before."""
    inputs = embedded(model, [*prompt, *codes[:-1]]).unsqueeze(0)
    root, *rest = model.model.base_model(inputs_embeds=inputs).last_hidden_state[0, len(prompt) - 1 :]
    return [root, *(root + state for state in rest)]


def naive_written(model: LanguageModel, prompt: list[int], codes: list[int]) -> torch.Tensor:
    """Cross-entropy of each code of an item behind a prompt, by one plain causal pass."""
    states = writing_states(model, prompt, codes)
    layout, losses = model.layout, list[torch.Tensor]()
    written = [code - layout.base - level * layout.num_codes for level, code in enumerate(codes)]
    for level, (state, code) in enumerate(zip(states, written, strict=True)):
        losses.append(F.cross_entropy(code_logits(model, state, written[:level]), torch.tensor(code)))
    return torch.stack(losses)


def scaled(model: LanguageModel, logit: torch.Tensor) -> torch.Tensor:
    """As a head of some models does it."""
    config = model.model.config
    logit = logit / getattr(config, "logits_scaling", 1.0)
    cap = getattr(config, "final_logit_softcapping", None)
    return logit if cap is None else cap * torch.tanh(logit / cap)


def code_logits(model: LanguageModel, state: torch.Tensor, before: list[int]) -> torch.Tensor:
    """Of all codes behind others: by a code's row, and by what known items with these codes have in common besides."""
    assert model.items is not None
    layout, level, ids = model.layout, len(before), semantic_ids().codes
    rows, logits = model.model.get_output_embeddings().weight, list[torch.Tensor]()
    for code in range(layout.num_codes):
        logit = scaled(model, state @ rows[layout.base + level * layout.num_codes + code])
        path = [*before, code]
        below = [i for i in range(6) if ids[i, : level + 1].tolist() == path and bool(model.items.known[i])]
        if below:
            tokens = layout.token_ids(ids)[below[0]][: level + 1].tolist()
            vectors = embedded(model, [layout.size + i for i in below])
            left = vectors.mean(0) - embedded(model, tokens).sum(0)
            logit = logit + state @ left + math.log(len(below))
        logits.append(logit)
    return torch.stack(logits)


def scores_of(model: LanguageModel, state: torch.Tensor, history: tuple[int, ...]) -> torch.Tensor:
    assert model.items is not None
    base = model.layout.size
    scores = state @ embedded(model, list(range(base, base + 6))).T
    for item in set(history):
        ago = history[::-1].index(item) + 1
        scores = scores.index_put(
            (torch.tensor(0), torch.tensor(item)), model.items.repeats[ages(torch.tensor(ago))], accumulate=True
        )
    return scores
