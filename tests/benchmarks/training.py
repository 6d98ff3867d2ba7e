"""Training on all positions of a history in one pass, against one sample for each of its prefixes (as LC-Rec trains).

Run as `python -m tests.benchmarks.training`; prints one JSON line a measurement. Both ways train the same small model
from scratch on the same targets, every code of every item once, in batches of as many tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from recsys.instructions.examples import Example
from recsys.llm.backbone import build_scratch, train_text_tokenizer
from recsys.llm.collation import IGNORED, Batch, Renderer, Row, pad, random_buckets
from recsys.llm.config import ScratchConfig
from recsys.llm.heads import LanguageModelLoss
from recsys.llm.vocabulary import add_code_tokens
from recsys.tables import IntArray, SemanticIds
from recsys.training.devices import default_device
from tests.benchmarks.common import device_name, emit, interleaved

ITEMS, LEVELS, CODES, BATCH_TOKENS, ROUNDS = 12_000, 3, 256, 2048, 3
MODEL = ScratchConfig(hidden_size=128, num_layers=2, num_heads=2, head_dim=64, intermediate_size=384, vocab_size=300)
DEVICE = default_device()


def short_lengths(generator: np.random.Generator, count: int) -> IntArray:
    """Most of 4 to 10 items and a hundredth of 50, as Beauty's are."""
    lengths = np.minimum(3 + generator.geometric(0.22, size=count), 50)
    return np.where(generator.random(count) < 0.01, 50, lengths)


def long_lengths(generator: np.random.Generator, count: int) -> IntArray:
    """From 20 to 50 items, as MovieLens's windows are."""
    return generator.integers(20, 51, size=count)


def prefix_rows(renderer: Renderer, history: Sequence[int]) -> list[Row]:
    """One row for every item: those before it are the prompt, its codes the answer."""
    rows = [renderer.render(Example("sequential", history=tuple(history[: n + 1])), 0) for n in range(len(history))]
    return [Row(row.tokens, len(row.tokens) - LEVELS) for row in rows]


def batches(rows: Sequence[Row]) -> list[Batch]:
    groups = random_buckets([len(row.tokens) for row in rows], BATCH_TOKENS, np.random.default_rng(0))
    return [Batch(*(t if t is None else t.to(DEVICE) for t in pad([rows[i] for i in group]))) for group in groups]


def trainer(made: Sequence[Batch]) -> Callable[[], None]:
    """Trains a model for one epoch at every call."""
    model = build_scratch(MODEL, 300, seed=0)
    loss = LanguageModelLoss(model, add_code_tokens(model, text_tokens=300, num_levels=LEVELS, num_codes=CODES))
    loss.to(DEVICE).train()
    optimizer = torch.optim.AdamW(loss.parameters(), lr=1e-4)

    def epoch() -> None:
        for batch in made:
            optimizer.zero_grad()
            loss(*batch).mean().backward()
            optimizer.step()

    return epoch


def compare(renderer: Renderer, name: str, lengths: IntArray, generator: np.random.Generator) -> None:
    histories = [generator.integers(ITEMS, size=int(length)).tolist() for length in lengths]
    one_pass = batches([renderer.render(Example("sequential", history=tuple(h)), 0) for h in histories])
    expanded = batches([row for history in histories for row in prefix_rows(renderer, history)])
    targets, others = (sum(int((b.targets != IGNORED).sum()) for b in made) for made in (one_pass, expanded))
    assert targets == others
    seconds = interleaved({"one pass": trainer(one_pass), "prefixes": trainer(expanded)}, rounds=ROUNDS)
    emit(
        "training",
        f"all positions in one pass against one sample a prefix, {name} histories",
        histories=len(histories),
        items_per_history=float(lengths.mean()),
        target_tokens_per_second=targets / seconds["one pass"],
        target_tokens_per_second_of_prefixes=targets / seconds["prefixes"],
        ratio=seconds["prefixes"] / seconds["one pass"],
        device=device_name(),
    )


def main() -> None:
    generator = np.random.default_rng(0)
    tokenizer = train_text_tokenizer(["History:"], 300)
    numbers = generator.choice(CODES**LEVELS, size=ITEMS, replace=False)
    codes = np.stack([numbers // CODES**power % CODES for power in range(LEVELS)], axis=1)
    model = build_scratch(MODEL, 300, seed=0)
    layout = add_code_tokens(model, text_tokens=300, num_levels=LEVELS, num_codes=CODES)
    ids = SemanticIds([str(n) for n in range(ITEMS)], codes, CODES)
    renderer = Renderer(tokenizer, layout, ids, max_text_tokens=32, max_tokens=512)
    compare(renderer, "short", short_lengths(generator, 300), generator)
    compare(renderer, "long", long_lengths(generator, 40), generator)


if __name__ == "__main__":
    main()
