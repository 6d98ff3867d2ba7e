"""An adapter is trained on: what may change does, the rest is the parent's; replay, and resuming after a kill."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from recsys.files import fingerprint
from recsys.instructions.examples import Example
from recsys.llm.collation import epoch_batches
from recsys.llm.config import FinetuneConfig, LoraConfig, RefreshConfig
from recsys.llm.lora import add_lora
from recsys.llm.refresh import RefreshData, refresh
from recsys.llm.storage import LanguageModel, load_merged, save_adapter, save_backbone
from recsys.tracking import NullTracker
from tests.llm.fakes import SCRATCH, UNKNOWN, item_table, language_model, renderer, semantic_ids

CONFIG = RefreshConfig(epochs=3, learning_rate=0.01, batch_tokens=64)
NEW = [Example("sequential", (n % 5, (n + 2) % 5, (n + 4) % 5), weights=(0.0, 1.0, 1.0)) for n in range(10)]
OLD = [Example("sequential", (n % 5, (n + 1) % 5, (n + 2) % 5)) for n in range(40)]
DATA = RefreshData(NEW, OLD, semantic_ids())


@pytest.fixture(params=["tokens", "sum"])
def parent(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A language model with an adapter, which reads items as codes or at one position."""
    return saved(tmp_path / "parent", items=request.param)


def saved(folder: Path, *, items: str) -> Path:
    made = language_model()
    config = FinetuneConfig(scratch=SCRATCH, max_text_tokens=8, items=items, checkpoint_steps=1, precision="fp32")  # type: ignore[arg-type]
    made = made._replace(config=config, items=item_table() if items == "sum" else None)
    save_backbone(folder, made.model)
    adapted = add_lora(made.model, made.layout, LoraConfig(rank=2), seed=0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.01)  # an adapter that was trained
    save_adapter(folder, adapted, made)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All weights of the merged model, and of its items."""
    loaded = load_merged(folder)
    items: Mapping[str, torch.Tensor] = {} if loaded.items is None else loaded.items.state_dict()
    return {**loaded.model.state_dict(), **{f"items.{name}": tensor for name, tensor in items.items()}}


def run(parent: Path, out: Path, config: RefreshConfig = CONFIG, **options: Any) -> None:
    refresh(DATA, config, parent=parent, out=out, seed=0, **{"validate": None, **options})


def test_without_epochs_the_model_is_the_parent_bit_for_bit(parent: Path, tmp_path: Path) -> None:
    data = DATA._replace(new=[*NEW, Example("sequential", (0, UNKNOWN))])
    none = CONFIG.model_copy(update={"epochs": 0})
    refresh(data, none, parent=parent, out=tmp_path / "out", validate=None, seed=0)
    before, after = weights(parent), weights(tmp_path / "out")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_only_adapter_code_rows_and_item_rows_change(parent: Path, tmp_path: Path) -> None:
    content = fingerprint(parent)
    run(parent, tmp_path / "out")
    assert fingerprint(parent) == content
    assert fingerprint(tmp_path / "out" / "backbone") == fingerprint(parent / "backbone")
    before, after = weights(parent), weights(tmp_path / "out")
    layout = language_model().layout
    embeddings = next(name for name in before if "embed_tokens" in name)
    assert torch.equal(before[embeddings][: layout.base], after[embeddings][: layout.base])
    assert not torch.equal(before[embeddings][layout.base :], after[embeddings][layout.base :])
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    allowed = {n for n in before if "proj" in n} | {embeddings, "lm_head.weight", "items.rows", "items.repeats"}
    assert {name for name in before if "proj" in name} <= changed <= allowed


def test_an_item_that_is_new_as_a_target_gets_a_row_of_its_own(tmp_path: Path) -> None:
    parent = saved(tmp_path / "parent", items="sum")
    data = DATA._replace(new=[*NEW, Example("sequential", (0, UNKNOWN))])
    refresh(data, CONFIG, parent=parent, out=tmp_path / "out", validate=None, seed=0)
    run(parent, tmp_path / "without")
    found, without = weights(tmp_path / "out"), weights(tmp_path / "without")
    assert found["items.known"].sum() == len(found["items.known"])
    assert without["items.known"][UNKNOWN] == 0
    before = weights(parent)["items.rows"][UNKNOWN]
    assert not torch.equal(found["items.rows"][UNKNOWN], before)


@pytest.mark.parametrize(("share", "replayed"), [(0.0, 0), (0.5, 10), (0.75, 30), (0.9, 90)])
def test_the_replay_share_is_that_of_an_epochs_examples(share: float, replayed: int) -> None:
    mixture = DATA.mixture(CONFIG.model_copy(update={"replay": share}), "")
    rows = renderer(language_model())
    for epoch in range(2):
        batches = epoch_batches(mixture.groups, rows, mixture.passes, batch_tokens=512, seed=0, epoch=epoch)
        assert sum(len(batch.tokens) for batch in batches) == len(NEW) + replayed


def test_the_epoch_with_the_best_score_is_kept_the_parent_among_them(tmp_path: Path) -> None:
    parent = saved(tmp_path / "parent", items="tokens")
    scores = iter([0.5, 0.1, 0.4, 0.2])
    run(parent, tmp_path / "out", validate=lambda _: next(scores))
    before, after = weights(parent), weights(tmp_path / "out")
    assert all(torch.equal(before[name], after[name]) for name in before)


class KilledError(Exception):
    """Stands for a kill."""


def test_a_killed_refresh_continues_to_the_same_weights(parent: Path, tmp_path: Path) -> None:
    calls: list[int] = []

    def validate(_: LanguageModel) -> float:
        calls.append(len(calls))
        if len(calls) == 3:
            raise KilledError
        return float(len(calls))

    with pytest.raises(KilledError):
        run(parent, tmp_path / "none", validate=validate, work=tmp_path / "work", tracker=NullTracker())
    assert list((tmp_path / "work" / "refresh").glob("*.safetensors"))
    run(parent, tmp_path / "resumed", validate=validate, work=tmp_path / "work")
    assert len(calls) == 5, "the first epoch is not validated again"
    rising = iter(range(9))
    run(parent, tmp_path / "whole", validate=lambda _: float(next(rising)))
    resumed, whole = weights(tmp_path / "resumed"), weights(tmp_path / "whole")
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_another_parent_or_setting_is_another_training() -> None:
    one = DATA.mixture(CONFIG, "a").digest
    assert one != DATA.mixture(CONFIG, "b").digest
    assert one != DATA.mixture(CONFIG.model_copy(update={"replay": 0.25}), "a").digest
