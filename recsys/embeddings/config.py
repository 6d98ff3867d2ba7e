"""Configuration of the embed stage: the text encoder, and the SASRec that gives collaborative vectors."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from recsys.baselines.config import SasrecConfig
from recsys.config import Config


class EmbedConfig(Config):
    """Text vectors from an encoder or a user-provided file, and the collaborative vectors of a SASRec.

    `vectors` (parquet: item_id, embedding) replaces the encoder; `model` names or locates a sentence-transformers
    model; `dimensions` applies to tfidf; `fields` are the text columns to read, all of them when empty.
    """

    encoder: Literal["tfidf", "sentence-transformers"] = "tfidf"
    vectors: Path | None = None
    model: str = "sentence-transformers/all-MiniLM-L6-v2"
    dimensions: int = Field(default=128, ge=1)
    batch_size: int = Field(default=64, ge=1)
    fields: tuple[str, ...] = ()
    collaborative: bool = True
    sasrec: SasrecConfig = SasrecConfig()
