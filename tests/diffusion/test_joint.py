"""Joint training reaches the LoRA weights, resumes bit-equal, and leaves one model that serves both rankings."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from recsys.diffusion.config import DiffuseConfig
from recsys.diffusion.denoiser import Denoiser
from recsys.diffusion.joint import JointPreference, fit_joint, is_joint
from recsys.diffusion.joint_batches import JointData
from recsys.diffusion.joint_model import JointModel
from recsys.diffusion.loss import PreferenceLoss
from recsys.errors import ArtifactError
from recsys.llm.conditions import ConditionedBatch
from recsys.llm.config import LoraConfig
from recsys.llm.continuous import ContinuousTexts
from recsys.llm.heads import Losses
from recsys.llm.lora import add_lora
from recsys.llm.storage import load_language_model, save_adapter, save_backbone
from recsys.ranking.generative import GenerativeRanker
from recsys.ranking.query import RankingBatch
from recsys.tables import Histories, SemanticIds
from tests.llm.fakes import language_model

T = TypeVar("T")
ITEMS = 20
CODES = np.stack(np.unravel_index(np.arange(ITEMS) * 3, (4, 4, 4)), axis=1).astype(np.int64)
IDS = SemanticIds([f"i{n}" for n in range(ITEMS)], CODES, 4)
LATENTS = np.random.default_rng(0).standard_normal((ITEMS, 8)).astype(np.float32)
CIRCLE = Histories.from_lists(
    [f"u{n}" for n in range(12)], [[(n + j) % ITEMS for j in range(3 + n % 3)] for n in range(12)]
)
TEXTS = ContinuousTexts(titles=[f"t{n}" for n in range(ITEMS)], answers=[f"kind {n % 3}" for n in range(ITEMS)])
DATA = JointData(IDS, CIRCLE, 50, LATENTS, 2, TEXTS)
CONDITIONS = pytest.mark.parametrize("condition", ["discrete", "continuous"])


class KilledError(Exception):
    pass


class Recorder:
    """Keeps what is logged; may stop a training before one of its steps."""

    def __init__(self, kill_at: int | None = None) -> None:
        self.values: dict[str, list[float]] = {}
        self.tracked: list[str] = []
        self._left = kill_at

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        for name, value in values.items():
            self.values.setdefault(name, []).append(value)

    def track(self, iterable: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
        self.tracked.append(description)
        for element in iterable:
            if description.startswith("joint") and self._left is not None:
                if self._left == 0:
                    raise KilledError
                self._left -= 1
            yield element


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like 05_language_model, of an untrained adapter."""
    folder = tmp_path_factory.mktemp("finetuned")
    made = language_model()
    config = made.config.model_copy(
        update={"max_text_tokens": 3, "checkpoint_steps": 2, "lora": LoraConfig(batch_tokens=128, learning_rate=1e-3)}
    )
    save_backbone(folder, made.model)
    save_adapter(folder, add_lora(made.model, made.layout, config.lora, seed=0), made._replace(config=config))
    return folder


def _config(condition: str, **changes: Any) -> DiffuseConfig:
    small = {
        "hidden_size": 32,
        "num_layers": 1,
        "epochs": 2,
        "precision": "fp32",
        "joint": True,
        "condition": condition,
    }
    return DiffuseConfig.model_validate(small | changes)


def _files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@CONDITIONS
def test_gradients_of_the_diffusion_loss_reach_the_lora_weights(
    finetuned: Path, tmp_path: Path, condition: str
) -> None:
    """With no weight on the language model's own loss, every projection's adapter moves; the backbone stays."""
    before = load_language_model(finetuned).model.state_dict()
    config = _config(condition, epochs=3, language_model_weight=0, dispersive_weight=0)
    after = fit_joint(DATA, config, finetuned=finetuned, out=tmp_path / "out", seed=0).language_model.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    projections = {name for name in before if "_proj" in name}
    assert projections <= changed
    assert all("_proj" in name or name in ("lm_head.weight", "model.embed_tokens.weight") for name in changed)
    base = language_model().layout.base
    assert torch.equal(before["lm_head.weight"][:base], after["lm_head.weight"][:base])


@CONDITIONS
def test_what_is_written_comes_back_and_serves_both_rankings(finetuned: Path, tmp_path: Path, condition: str) -> None:
    out = tmp_path / "out"
    done = fit_joint(DATA, _config(condition), finetuned=finetuned, out=out, seed=0)
    titles = None if condition == "discrete" else TEXTS.titles
    loaded = JointPreference.load(out, IDS, LATENTS, finetuned=finetuned, titles=titles)
    assert is_joint(out)
    assert not is_joint(finetuned)
    queries = Histories.from_lists(["a", "b", "c"], [[3, 4, 5], [], [19]])
    wanted, found = (j.query_conditions(queries, window=10) for j in (done, loaded))
    assert torch.equal(wanted, found)
    drawn = [j.preference.sample(found.numpy(), [1, 2, 3], seed=0, num_samples=2) for j in (done, loaded)]
    assert drawn[0].shape == (3, 2, 8)
    np.testing.assert_array_equal(*drawn)
    merged = load_language_model(out, backbone=finetuned)
    ranked = GenerativeRanker(merged, IDS, num_beams=20).rank(RankingBatch.build(queries, max_history=10), 5)
    assert (ranked.items >= 0).all()
    assert not (out / "backbone").exists()
    text = b"".join(content for name, content in _files(out).items() if not name.endswith(".safetensors"))
    assert str(tmp_path).encode() not in text
    assert str(finetuned).encode() not in text


def test_continuous_conditions_are_those_of_prefixes_windows_and_a_grown_catalogue(
    finetuned: Path, tmp_path: Path
) -> None:
    joint = fit_joint(DATA, _config("continuous", epochs=1), finetuned=finetuned, out=tmp_path, seed=0)
    histories = Histories.from_lists(["a", "b"], [[3, 4, 5], [7, 8]])
    prefixes = Histories.from_lists([""] * 5, [[], [3], [3, 4], [], [7]])
    training = joint.training_conditions(histories, window=50)
    assert training.targets.tolist() == [3, 4, 5, 7, 8]
    torch.testing.assert_close(training.states, joint.query_conditions(prefixes, window=50))
    newest = Histories.from_lists(["a", "b"], [[4, 5], [7, 8]])
    torch.testing.assert_close(joint.query_conditions(histories, window=2), joint.query_conditions(newest, window=9))
    ids = SemanticIds([*IDS.item_ids, "new"], np.append(CODES, [[3, 3, 3]], axis=0), 4)
    grown = joint.with_catalog(ids, np.append(LATENTS, LATENTS[5:6], axis=0), [*(TEXTS.titles or ()), "t5"])
    assert grown.semantic_ids is ids
    copied = Histories.from_lists(["a"], [[3, 4, ITEMS]])  # the new item has title and latents of item 5
    states = grown.query_conditions(copied, window=9)
    torch.testing.assert_close(states, joint.query_conditions(histories, window=9)[:1])


@CONDITIONS
def test_conditions_show_their_progress_and_may_belong_to_a_grown_catalogue(
    finetuned: Path, tmp_path: Path, condition: str
) -> None:
    """A model that was trained without titles never reads those of a grown catalogue."""
    data = DATA._replace(texts=TEXTS._replace(titles=None))
    joint = fit_joint(data, _config(condition, epochs=1), finetuned=finetuned, out=tmp_path, seed=0)
    tracker, ids = Recorder(), SemanticIds([*IDS.item_ids, "new"], np.append(CODES, [[3, 3, 3]], axis=0), 4)
    grown = joint.with_catalog(ids, np.append(LATENTS, LATENTS[:1], axis=0), [*(TEXTS.titles or ()), "new"])
    assert grown.semantic_ids is ids
    states = [each.training_conditions(CIRCLE, window=50, tracker=tracker).states for each in (joint, grown)]
    assert tracker.tracked == ["hidden states"] * 2
    torch.testing.assert_close(*states)


@pytest.mark.slow
def test_training_learns_both_tasks(finetuned: Path, tmp_path: Path) -> None:
    tracker = Recorder()
    config = _config("discrete", epochs=30, learning_rate=3e-3, hidden_size=64, language_model_weight=1)
    fit_joint(DATA, config, finetuned=finetuned, out=tmp_path, seed=0, tracker=tracker)
    for part in ("language_model", "diffusion"):
        values = tracker.values[f"joint/{part}"]
        assert values[-1] < 0.9 * values[0], part
    total = [
        lm + diffusion + 0.25 * dispersive
        for lm, diffusion, dispersive in zip(
            *(tracker.values[f"joint/{part}"] for part in ("language_model", "diffusion", "dispersive")), strict=True
        )
    ]
    assert total == pytest.approx(tracker.values["joint/loss"], rel=1e-4)


class GivenConditions(torch.nn.Module):
    """States of 64 rows and a text loss of 5 nats a token, whatever the batch."""

    def forward(self) -> ConditionedBatch:
        states = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        return ConditionedBatch(states, torch.arange(64) % ITEMS, Losses(torch.tensor(20.0), 3, torch.tensor(10.0), 3))


def test_the_default_weights_of_the_losses_are_those_of_the_paper() -> None:
    """ContRec, section 3.3: diffusion + .1 language model + .25 dispersive."""
    config = DiffuseConfig(hidden_size=16, num_layers=1)
    denoiser = Denoiser(4, 8, hidden_size=16, num_layers=1)
    losses = JointModel(GivenConditions(), PreferenceLoss(denoiser, torch.from_numpy(LATENTS), config), config)()
    parts = losses.parts()
    assert float(parts["language_model"]) == 5
    assert float(parts["dispersive"].detach()) < 0
    torch.testing.assert_close(losses.mean(), parts["diffusion"] + 0.1 * 5 + 0.25 * parts["dispersive"])


def test_head_and_connector_have_a_learning_rate_of_their_own(finetuned: Path, tmp_path: Path) -> None:
    """At a rate of nearly 0 they keep their first weights, while the adapter learns at LoRA's."""
    for epochs in (1, 2):
        config = _config("continuous", epochs=epochs, learning_rate=1e-30)
        fit_joint(DATA, config, finetuned=finetuned, out=tmp_path / str(epochs), seed=0)
    for name in ("preference", "connector", "adapter/adapter_model"):
        one, two = (load_file(tmp_path / epochs / f"{name}.safetensors") for epochs in "12")
        moved = max(float((one[tensor] - two[tensor]).abs().max()) for tensor in one)
        assert (moved > 1e-6) == name.startswith("adapter"), name


def test_the_same_seed_writes_the_same_bytes(finetuned: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        fit_joint(DATA, _config("discrete"), finetuned=finetuned, out=tmp_path / name, seed=7)
    assert _files(tmp_path / "a") == _files(tmp_path / "b")


def test_a_folder_loaded_without_its_titles_is_refused(finetuned: Path, tmp_path: Path) -> None:
    fit_joint(DATA, _config("continuous"), finetuned=finetuned, out=tmp_path, seed=0)
    with pytest.raises(ArtifactError, match=r"joint\.json.*with titles"):
        JointPreference.load(tmp_path, IDS, LATENTS, finetuned=finetuned)
    (tmp_path / "connector.safetensors").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"connector\.safetensors"):
        JointPreference.load(tmp_path, IDS, LATENTS, finetuned=finetuned, titles=TEXTS.titles)
