"""Every training of the package on tiny data, behind one signature: what the contract is tested over."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.torch import load_file

from recsys.baselines.config import SasrecConfig
from recsys.baselines.sasrec_training import fit_sasrec
from recsys.diffusion.config import DiffuseConfig
from recsys.diffusion.heads import Kind, fit_head
from recsys.diffusion.joint import JointPreference, fit_joint
from recsys.diffusion.joint_batches import JointData
from recsys.diffusion.training import fit_preference
from recsys.instructions.config import InstructConfig
from recsys.instructions.examples import Example
from recsys.llm.config import FinetuneConfig
from recsys.llm.finetuning import FinetuneData, finetune
from recsys.llm.storage import LanguageModel
from recsys.tables import Histories, ItemVectors, Queries
from recsys.tokenization.config import TokenizeConfig
from recsys.tokenization.continuous import fit_sigma_vae
from recsys.tokenization.continuous_config import ContinuousConfig
from recsys.tokenization.tokenizer import fit_rqvae
from recsys.training.plan import Run
from tests.llm.fakes import SCRATCH, TITLES, semantic_ids

T = TypeVar("T")
Weights = dict[str, torch.Tensor]


class KilledError(Exception):
    pass


class Killer:
    """A tracker that counts metrics and steps, and raises before event number `at`, as a kill would stop a training."""

    def __init__(self, at: int | None = None) -> None:
        self.at, self.events = at, 0

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        self._event()

    def track(self, iterable: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
        for element in iterable:
            self._event()
            yield element

    def _event(self) -> None:
        if self.events == self.at:
            raise KilledError
        self.events += 1


@dataclass
class Job:
    """One training: `shift` changes its data, `rate` its learning rates; `out` is for folders of results."""

    out: Path
    work: Path | None = None
    seed: int = 0
    rate: float = 1.0
    shift: int = 0
    tracker: Killer = field(default_factory=Killer)


def total(module: torch.nn.Module) -> float:
    """A score that the weights decide, and that goes up and down."""
    return float(sum(torch.sin(1e4 * p.detach().double()).sum() for p in module.parameters()))


def sasrec(job: Job) -> Weights:
    sequences = [[(u + job.shift + n) % 10 for n in range(2 + u % 7)] for u in range(20)]
    histories = Histories.from_lists([f"u{n}" for n in range(20)], sequences)
    queries = Queries(histories, np.array([(s[-1] + 1) % 10 for s in sequences]))
    config = SasrecConfig(
        hidden_size=16,
        num_layers=1,
        max_length=6,
        epochs=6,
        batch_tokens=20,
        validate_every=2,
        vector_epochs=3,
        learning_rate=1e-2 * job.rate,
    )
    model = fit_sasrec(histories, 10, config, seed=job.seed, queries=queries, work=job.work, tracker=job.tracker)
    return dict(model.model.state_dict()) | {"vectors": torch.from_numpy(model.vectors)}


def _vectors(width: int, shift: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(width + shift).normal(size=(120, width)).astype(np.float32)


def rqvae(job: Job) -> Weights:
    config = TokenizeConfig(
        num_levels=3,
        codebook_size=8,
        latent_dim=4,
        hidden_sizes=(16,),
        epochs=6,
        batch_size=5,
        learning_rate=1e-3 * job.rate,
    )
    vectors = _vectors(12, job.shift)
    tokenizer = fit_rqvae(vectors, config, seed=job.seed, work=job.work, tracker=job.tracker)
    return dict(tokenizer.model.state_dict())


def sigma_vae(job: Job) -> Weights:
    config = ContinuousConfig(token_dim=6, hidden_sizes=(16,), epochs=6, batch_size=5, learning_rate=1e-3 * job.rate)
    text, behaviour = (ItemVectors([f"i{n}" for n in range(120)], _vectors(width, job.shift)) for width in (12, 8))
    tokenizer = fit_sigma_vae(text, behaviour, config, seed=job.seed, work=job.work, tracker=job.tracker)
    return dict(tokenizer.model.state_dict()) | {"scale": torch.from_numpy(tokenizer.scale)}


def _head_config(job: Job, **changes: Any) -> DiffuseConfig:
    small = {"hidden_size": 16, "num_layers": 1, "epochs": 4, "batch_size": 20, "precision": "fp32", "ema_decay": 0.9}
    small |= {"plain_epochs": 8, "patience": 3, "validate_every": 1, "learning_rate": 1e-3 * job.rate}
    return DiffuseConfig.model_validate(small | changes)


def _rows(job: Job) -> tuple[Any, Any, Any]:
    generator = np.random.default_rng(job.shift)
    conditions = generator.normal(size=(300, 8)).astype(np.float32)
    return conditions, generator.integers(0, 12, 300), generator.normal(size=(12, 4)).astype(np.float32)


def preference(job: Job) -> Weights:
    model = fit_preference(
        *_rows(job),
        _head_config(job),
        seed=job.seed,
        validate=lambda model: total(model.denoiser),
        work=job.work,
        tracker=job.tracker,
    )
    return dict(model.denoiser.state_dict())


def head(kind: Kind, job: Job) -> Weights:
    run = Run(kind, job.seed, job.work, job.tracker)
    found = fit_head(kind, *_rows(job), _head_config(job), run=run, validate=lambda head: total(head.model))
    return dict(found.model.state_dict())


def _files(folder: Path) -> Weights:
    files = sorted(folder.rglob("*.safetensors"))
    return {f"{p.relative_to(folder)} {name}": t for p in files for name, t in load_file(p).items()}


def language_model(job: Job, items: str = "tokens") -> Weights:
    """In full, then LoRA."""
    examples = [Example("sequential", history=tuple((i + j + job.shift) % 6 for j in range(5))) for i in range(12)]
    codebooks = np.random.default_rng(0).standard_normal((3, 4, 8)).astype(np.float32)
    data = FinetuneData(examples, TITLES, semantic_ids(), codebooks, InstructConfig())
    training = {"epochs": 2, "learning_rate": 5e-3 * job.rate, "batch_tokens": 64}
    config = FinetuneConfig.model_validate(
        {"scratch": SCRATCH, "items": items, "training": training, "lora": training, "checkpoint_steps": 2}
    )

    def validate(found: LanguageModel) -> float:
        return total(found.model)

    finetune(data, config, out=job.out, validate=validate, seed=job.seed, work=job.work, tracker=job.tracker)
    return _files(job.out)


@cache
def _finetuned(folder: Path) -> Path:
    """A folder of a language model to train jointly from."""
    language_model(Job(folder))
    return folder


def joint(condition: str, job: Job) -> Weights:
    latents = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
    sequences = [[(n + j + job.shift) % 6 for j in range(3 + n % 3)] for n in range(8)]
    data = JointData(semantic_ids(), Histories.from_lists([f"u{n}" for n in range(8)], sequences), 50, latents, 2)

    def validate(found: JointPreference) -> float:
        return total(found.preference.denoiser) + total(found.language_model.model)

    config = _head_config(job, joint=True, condition=condition, epochs=3, validate_every=2)
    fit_joint(
        data,
        config,
        finetuned=_finetuned(job.out.parent / "finetuned"),
        out=job.out,
        seed=job.seed,
        validate=validate,
        work=job.work,
        tracker=job.tracker,
    )
    return _files(job.out)


TRAININGS: dict[str, Callable[[Job], Weights]] = {
    "sasrec": sasrec,
    "rqvae": rqvae,
    "sigma_vae": sigma_vae,
    "language_model": language_model,
    "language_model of items": lambda job: language_model(job, "sum"),
    "preference": preference,
    "regression": lambda job: head("regression", job),
    "cross_entropy": lambda job: head("cross_entropy", job),
    "joint discrete": lambda job: joint("discrete", job),
    "joint continuous": lambda job: joint("continuous", job),
}
