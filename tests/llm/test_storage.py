"""A merged model is one folder that needs nothing else, and computes what adapter and backbone do, bit for bit."""

from pathlib import Path

import pytest
import torch

from recsys.errors import ArtifactError
from recsys.llm.config import FinetuneConfig, LoraConfig
from recsys.llm.lora import add_lora
from recsys.llm.storage import load_adapted, load_language_model, load_merged, save_adapter, save_backbone, save_merged
from tests.llm.fakes import item_table, language_model


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("split", [True, False])
def test_a_merged_model_is_whole_and_the_same(tied: bool, split: bool, tmp_path: Path) -> None:
    made = language_model(tied=tied, scratch=False)
    finetuned, adapter = tmp_path / "finetuned", tmp_path / "adapter" if split else tmp_path / "finetuned"
    save_backbone(finetuned, made.model)
    adapted = add_lora(made.model, made.layout, LoraConfig(dropout=0), seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in (p for p in adapted.parameters() if p.requires_grad):
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    save_adapter(adapter, adapted, made._replace(config=FinetuneConfig(max_text_tokens=7)))
    expected = load_language_model(adapter, backbone=finetuned)

    save_merged(tmp_path / "merged", load_merged(adapter, backbone=finetuned))
    assert not (tmp_path / "merged" / "adapter").exists()
    loaded = load_language_model(tmp_path / "merged")
    tokens = torch.randint(0, made.layout.size, (2, 9), generator=generator)
    with torch.no_grad():
        assert torch.equal(loaded.model(input_ids=tokens).logits, expected.model(input_ids=tokens).logits)
    assert (loaded.layout, loaded.config) == (expected.layout, expected.config)
    assert loaded.tokenizer.encode("red pan") == expected.tokenizer.encode("red pan")
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_adapted(tmp_path / "merged")


def test_a_model_of_whole_items_comes_back_with_them_and_not_without(tmp_path: Path) -> None:
    config = FinetuneConfig(items="sum")
    made = language_model()._replace(items=item_table(), config=config)
    save_merged(tmp_path, made)
    loaded = load_language_model(tmp_path)
    assert loaded.reader is not None
    assert made.reader is not None
    assert torch.equal(loaded.reader.vectors, made.reader.vectors)
    (tmp_path / "items.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"no items\.safetensors, but finetune\.items of the model is sum"):
        load_language_model(tmp_path)
