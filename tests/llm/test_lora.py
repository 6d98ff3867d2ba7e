"""LoRA trains its matrices and the code rows alone, and what it saves comes back bit for bit."""

from pathlib import Path

import pytest
import torch

from recsys.errors import ArtifactError
from recsys.llm.config import FinetuneConfig, LoraConfig
from recsys.llm.heads import LanguageModelLoss, head_rows
from recsys.llm.lora import add_lora, merge
from recsys.llm.storage import load_language_model, save_adapter, save_backbone
from tests.llm.fakes import language_model
from tests.llm.test_heads import small_batch

KINDS = pytest.mark.parametrize("tied", [True, False])


@KINDS
def test_only_the_adapter_and_the_code_rows_are_trainable(tied: bool) -> None:
    made = language_model(tied=tied, scratch=False)
    adapted = add_lora(made.model, made.layout, LoraConfig(), seed=0)
    trainable = [n for n, p in adapted.named_parameters() if p.requires_grad]
    assert all("lora_" in n or "trainable_tokens_delta" in n for n in trainable)
    rows = [p for n, p in adapted.named_parameters() if "trainable_tokens_delta" in n]
    assert {tuple(p.shape) for p in rows} == {(made.layout.size - made.layout.base, 32)}
    assert len({id(p) for p in rows}) == (1 if tied else 2), "an untied head has rows of its own"
    projections = {n.split(".")[-4] for n in trainable if "lora_" in n}
    assert projections == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@KINDS
def test_trained_rows_survive_save_load_and_merge_bit_for_bit(tied: bool, tmp_path: Path) -> None:
    made = language_model(tied=tied, scratch=False)
    save_backbone(tmp_path, made.model)
    adapted = add_lora(made.model, made.layout, LoraConfig(dropout=0), seed=0)
    tokens, targets = small_batch(made.layout.base)
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        LanguageModelLoss(adapted, made.layout)(tokens, targets).mean().backward()
        optimizer.step()
    save_adapter(tmp_path, adapted, made._replace(config=FinetuneConfig()))
    wanted = head_rows(adapted, made.layout).codes.detach().clone()
    loaded = load_language_model(tmp_path)
    found = loaded.model.get_output_embeddings().weight[made.layout.base : made.layout.size]
    assert torch.equal(found, wanted)
    with torch.no_grad():
        expected = merge(adapted).eval()(input_ids=tokens).logits
        assert torch.equal(loaded.model(input_ids=tokens).logits, expected)
    assert loaded.tokenizer.encode("red pan") == made.tokenizer.encode("red pan")


def test_a_damaged_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"language_model\.json"):
        load_language_model(tmp_path)
