"""The demo made so small that a real run of every stage takes seconds; what the tests of real runs share."""

import os
import subprocess
import sys
from pathlib import Path

SETTINGS = {
    "prepare.synthetic.num_users": 150,
    "prepare.synthetic.num_items": 80,
    "prepare.synthetic.num_interactions": 1800,
    "embed.dimensions": 16,
    "embed.sasrec.hidden_size": 16,
    "embed.sasrec.epochs": 6,
    "tokenize.num_levels": 3,
    "tokenize.codebook_size": 16,
    "tokenize.latent_dim": 8,
    "tokenize.epochs": 20,
    "tokenize.continuous.token_dim": 8,
    "tokenize.continuous.epochs": 10,
    "finetune.scratch.hidden_size": 32,
    "finetune.scratch.num_layers": 2,
    "finetune.scratch.num_heads": 2,
    "finetune.scratch.head_dim": 16,
    "finetune.scratch.intermediate_size": 64,
    "finetune.scratch.vocab_size": 400,
    "finetune.training.epochs": 2,
    "finetune.lora.epochs": 1,
    "finetune.validation_users": 50,
    "finetune.checkpoint_steps": 4,
    "diffuse.hidden_size": 32,
    "diffuse.epochs": 4,
    "diffuse.plain_epochs": 4,
    "diffuse.validation_users": 50,
    "diffuse.num_samples": 8,
    "recommend.num_beams": 20,
    "recommend.k": 20,
    "evaluate.cutoffs": "[1, 5, 10, 20]",
    "evaluate.num_resamples": 200,
}


def command(out: Path, *, python: str = sys.executable) -> list[str]:
    """The command line of a short run."""
    settings = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
    code = "from pipelines.cli import main; main()"
    return [python, "-c", code, "run", "--config", "demo", "--no-tracking", "--out", str(out), *settings]


def start(out: Path, log: Path, *options: str) -> "subprocess.Popen[bytes]":
    """Start a short run on one thread, its words going to a file."""
    with log.open("ab") as words:
        line = [*command(out), *options]
        return subprocess.Popen(line, stdout=words, stderr=words, env=os.environ | {"OMP_NUM_THREADS": "1"})
