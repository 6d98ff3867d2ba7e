"""Quantizers by name: fit the one that the configuration names, or load a fitted one.

A quantizer fits a `Tokenizer` to item vectors. Its `save` writes `tokenizer.json`, whose `kind` is its name here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from recsys.config import lookup
from recsys.errors import ArtifactError, ConfigError
from recsys.files import read_json
from recsys.tables import FloatArray
from recsys.tokenization.config import TokenizeConfig

if TYPE_CHECKING:
    from recsys.tokenization.tokenizer import Tokenizer


class Quantizer(NamedTuple):
    """How a tokenizer is fitted to item vectors [N, D] (see `recsys.tokenization.tokenizer.fit_rqvae`), and loaded from
    the folder that its `save` wrote."""

    fit: Callable[..., Tokenizer]
    load: Callable[[Path], Tokenizer]


def _rqvae() -> Quantizer:
    from recsys.tokenization.tokenizer import RqVaeTokenizer, fit_rqvae

    return Quantizer(fit_rqvae, RqVaeTokenizer.load)


QUANTIZERS: dict[str, Callable[[], Quantizer]] = {"rq-vae": _rqvae}
"""Every quantizer by its name in `tokenize.quantizer`; called on first use, so that names are known without torch."""


def fit_tokenizer(vectors: FloatArray, config: TokenizeConfig, **options: Any) -> Tokenizer:
    """Fit the configured quantizer; options and errors as in `recsys.tokenization.tokenizer.fit_rqvae`.

    Raises:
        ConfigError: the quantizer is unknown.
    """
    return lookup(QUANTIZERS, config.quantizer, key="tokenize.quantizer")().fit(vectors, config, **options)


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer that `save` wrote into a folder.

    Raises:
        ArtifactError: a file is missing, damaged, of another version or of an unknown quantizer.
    """
    path = folder / "tokenizer.json"
    described = read_json(path)
    try:
        quantizer = lookup(QUANTIZERS, str(dict(described).get("kind")), key="kind")
    except ConfigError as error:
        raise ArtifactError(f"{path}: {error}; run `tokenize` again") from error
    return quantizer().load(folder)
