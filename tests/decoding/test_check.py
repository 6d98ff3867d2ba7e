"""Which backbones are accepted, and that the others are refused by name."""

import copy

import pytest
import torch

from recsys.decoding.check import check_backbone
from recsys.errors import ModelError
from recsys.llm.attention import layer_windows
from tests.decoding.backbones import REFUSED, SUPPORTED, WINDOW, backbone


@pytest.mark.parametrize("name", SUPPORTED)
def test_a_tree_of_a_supported_backbone_is_its_plain_sequences(name: str) -> None:
    model = backbone(name)
    check_backbone(model)
    assert not model.training


@pytest.mark.parametrize("name", ["Qwen3", "Gemma2", "GPT2"])
def test_bf16_is_accepted_within_its_rounding(name: str) -> None:
    model = copy.deepcopy(backbone(name)).bfloat16()
    check_backbone(model)
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize("name", REFUSED)
def test_recurrence_and_alibi_are_refused_by_name(name: str) -> None:
    model = backbone(name)
    with pytest.raises(ModelError, match=f"'{model.config.model_type}' model .* use a decoder with"):
        check_backbone(model)


def test_an_unsupported_head_is_refused() -> None:
    model = copy.deepcopy(backbone("Llama"))
    model.lm_head.register_forward_hook(lambda module, args, logits: logits * 2)
    with pytest.raises(ModelError, match="difference"):
        check_backbone(model)


def test_the_mode_of_the_model_is_restored() -> None:
    model = copy.deepcopy(backbone("Qwen3")).train()
    check_backbone(model)
    assert model.training


def test_windows_by_type_of_layer() -> None:
    assert layer_windows(backbone("Llama").config) == {"full_attention": None}
    assert layer_windows(backbone("Mistral").config) == {"sliding_attention": WINDOW}
    assert layer_windows(backbone("Qwen2").config) == {"full_attention": None, "sliding_attention": WINDOW}
