"""Tiny real models and data for the tests of the language model."""

from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from recsys.llm.backbone import build_scratch, train_text_tokenizer
from recsys.llm.collation import Renderer
from recsys.llm.config import FinetuneConfig, ScratchConfig
from recsys.llm.items import ItemTable
from recsys.llm.storage import LanguageModel
from recsys.llm.vocabulary import add_code_tokens, initialise_code_rows, starts_from_codebooks
from recsys.tables import SemanticIds

TITLES = [
    f"{c} {n} number {i}" for i, (c, n) in enumerate((c, n) for c in ("red", "blue") for n in ("pan", "lid", "pot"))
]
UNKNOWN = 5  # the item that has no row of its own in `item_table`
SCRATCH = ScratchConfig(
    hidden_size=32, num_layers=2, num_heads=2, head_dim=16, intermediate_size=48, vocab_size=300, dropout=0.1
)


def semantic_ids(num_codes: int = 4) -> SemanticIds:
    """Six items, three levels."""
    codes = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 2], [1, 2, 0], [2, 3, 3], [3, 3, 3]])
    return SemanticIds([f"i{n}" for n in range(6)], codes, num_codes)


def llama(text_tokens: int, *, tied: bool, seed: int = 0) -> Any:
    config = LlamaConfig(
        vocab_size=text_tokens,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=tied,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def language_model(*, tied: bool = True, scratch: bool = True) -> LanguageModel:
    """An untrained model whose vocabulary holds the code tokens of `semantic_ids()`."""
    tokenizer = train_text_tokenizer(TITLES, 300)
    model = build_scratch(SCRATCH, len(tokenizer), seed=0) if scratch else llama(len(tokenizer), tied=tied)
    layout = add_code_tokens(model, text_tokens=len(tokenizer), num_levels=3, num_codes=4)
    codebooks = np.random.default_rng(0).standard_normal((3, 4, 8)).astype(np.float32)
    initialise_code_rows(model, layout, starts_from_codebooks(codebooks, 32, seed=0))
    return LanguageModel(model.eval(), tokenizer, layout, FinetuneConfig(scratch=SCRATCH, max_text_tokens=8))


def item_table(*, dropped: float = 0.0) -> ItemTable:
    """Of `semantic_ids()`, with values in every part."""
    generator = torch.Generator().manual_seed(5)
    table = ItemTable.of(semantic_ids(), 32, np.arange(6) != UNKNOWN, dropped=dropped)
    with torch.no_grad():
        table.rows.normal_(generator=generator)
        table.repeats.normal_(generator=generator)
    return table.eval()


def renderer(language_model: LanguageModel) -> Renderer:
    return language_model.renderer(semantic_ids())
