"""Pretrained backbones are read from safetensors, at the revision that is asked for."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from recsys.errors import ModelError
from recsys.llm.backbone import load_pretrained, train_text_tokenizer
from tests.llm.fakes import TITLES, llama


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    tokenizer = train_text_tokenizer(TITLES, 300)
    tokenizer.save_pretrained(tmp_path)
    llama(len(tokenizer), tied=False).save_pretrained(tmp_path)
    return tmp_path


def test_pickled_weights_are_refused(checkpoint: Path) -> None:
    model, tokenizer = load_pretrained(str(checkpoint), revision=None, dtype=torch.float32)
    assert len(tokenizer) == model.get_input_embeddings().weight.shape[0]
    torch.save(model.state_dict(), checkpoint / "pytorch_model.bin")
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(ModelError):
        load_pretrained(str(checkpoint), revision=None, dtype=torch.float32)


def test_model_and_tokenizer_are_of_the_revision_and_run_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    for kind in (AutoTokenizer, AutoModelForCausalLM):
        monkeypatch.setattr(kind, "from_pretrained", lambda name, **options: calls.append({"name": name, **options}))
    load_pretrained("a/model", revision="abc", dtype=torch.float32)
    assert [(c["name"], c["revision"], c["trust_remote_code"]) for c in calls] == [("a/model", "abc", False)] * 2
