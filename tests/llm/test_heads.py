"""The sliced loss is the full head's, restricted to a level's codes; its gradients are too, with and without peft."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from recsys.llm.config import LoraConfig
from recsys.llm.heads import LanguageModelLoss, code_embeddings, head_rows
from recsys.llm.lora import add_lora
from recsys.llm.vocabulary import TokenLayout
from tests.llm.fakes import language_model

KINDS = pytest.mark.parametrize("tied", [True, False])


def small_batch(base: int) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.tensor([[5, base, base + 4, base + 8], [9, 12, base + 1, 0]])
    targets = torch.tensor([[base, base + 5, base + 9, base + 3], [40, base + 2, -100, -100]])
    return tokens, targets


def _naive(model: Any, base: int, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=tokens).logits
    total = torch.zeros(())
    for row, column in (targets >= 0).nonzero().tolist():
        target = int(targets[row, column])
        start = 0 if target < base else base + 4 * ((target - base) // 4)
        stop = base + 12 if target < base else start + 4
        total = total - F.log_softmax(logits[row, column, start:stop], -1)[target - start]
    return total


@KINDS
def test_loss_equals_a_naive_double_loop(tied: bool) -> None:
    made = language_model(tied=tied, scratch=False)
    tokens, targets = small_batch(made.layout.base)
    losses = LanguageModelLoss(made.model, made.layout)(tokens, targets)
    torch.testing.assert_close(losses.code + losses.text, _naive(made.model, made.layout.base, tokens, targets))
    assert (losses.num_code, losses.num_text) == (5, 1)


@KINDS
def test_under_peft_the_code_rows_get_the_full_heads_gradient(tied: bool) -> None:
    made = language_model(tied=tied, scratch=False)
    adapted = add_lora(made.model, made.layout, LoraConfig(dropout=0), seed=0).eval()
    tokens, targets = small_batch(made.layout.base)
    losses = LanguageModelLoss(adapted, made.layout)(tokens, targets)
    named = {n: p for n, p in adapted.named_parameters() if p.requires_grad}
    ours = torch.autograd.grad(losses.code + losses.text, list(named.values()))
    naive = torch.autograd.grad(_naive(adapted, made.layout.base, tokens, targets), list(named.values()))
    assert any("trainable_tokens_delta" in name for name in named)
    for name, a, b in zip(named, ours, naive, strict=True):
        torch.testing.assert_close(a, b, msg=lambda m, name=name: f"{name}: {m}")


def test_padding_never_enters_the_loss() -> None:
    made = language_model()
    tokens, targets = small_batch(made.layout.base)
    module = LanguageModelLoss(made.model, made.layout)
    together = module(tokens, targets)
    alone = [module(tokens[:1], targets[:1]), module(tokens[1:, :2], targets[1:, :2])]
    torch.testing.assert_close(together.code + together.text, sum(a.code + a.text for a in alone))


def test_head_rows_are_views_that_gradients_reach() -> None:
    made = language_model()
    rows = head_rows(made.model, made.layout)
    assert rows.text.shape == (made.layout.base, 32)
    assert rows.codes.shape == (12, 32)
    assert rows.codes.data_ptr() == made.model.get_output_embeddings().weight[made.layout.base].data_ptr()


@KINDS
def test_code_embeddings_are_what_the_model_reads_and_gradients_reach_them(tied: bool) -> None:
    made = language_model(tied=tied, scratch=False)
    tokens = torch.arange(made.layout.base, made.layout.size)
    for model in (made.model, add_lora(made.model, made.layout, LoraConfig(), seed=0).eval()):
        unwrapped = model.get_base_model() if hasattr(model, "get_base_model") else model
        rows = code_embeddings(unwrapped, made.layout)
        torch.testing.assert_close(rows, unwrapped.get_input_embeddings()(tokens), atol=0, rtol=0)
        named = {n: p for n, p in model.named_parameters() if p.requires_grad}
        found = torch.autograd.grad(rows.sum(), list(named.values()), allow_unused=True)
        reached = [name for name, gradient in zip(named, found, strict=True) if gradient is not None]
        assert len(reached) == 1
        assert "embed_tokens" in reached[0]


def test_code_embeddings_of_a_model_that_scales_them_are_scaled() -> None:
    config = Gemma3TextConfig(
        vocab_size=52,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
    )
    model = Gemma3ForCausalLM(config).eval()
    found = code_embeddings(model, TokenLayout(40, 3, 4))
    torch.testing.assert_close(found, model.get_input_embeddings()(torch.arange(40, 52)), atol=0, rtol=0)
