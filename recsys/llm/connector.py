"""Embeddings of continuous prompts: latents of items by a two-layer MLP, special tokens by learned vectors.

Both are kept out of the language model's embedding matrix: its vocabulary stays that of the generative ranker, and one
adapter serves both rankings. Reads and writes `connector.safetensors`.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.errors import ArtifactError
from recsys.llm.continuous import ContinuousLayout
from recsys.llm.storage import LanguageModel
from recsys.tables import FloatArray
from recsys.training.seeding import seeded

_FILE = "connector.safetensors"
_SCALE_TOKENS = 4096  # token_ids whose embeddings give the scale


class Connector(nn.Module):
    """Embeds token_ids of continuous prompts: those of the vocabulary by the language model, the others by itself.

    Args:
        layout: ids of the latents and the special tokens.
        latents: [N, K, d_z], normalised to unit deviation.
        hidden_size: d_h of the language model.
        scale: root mean square of the language model's embeddings, to which latents are scaled.
    """

    scale: Tensor
    latents: Tensor

    def __init__(
        self, layout: ContinuousLayout, latents: FloatArray, *, hidden_size: int, scale: float, seed: int = 0
    ) -> None:
        super().__init__()
        self.layout = layout
        width = latents.shape[2]
        with seeded(seed, 0):
            self.layers = nn.Sequential(nn.Linear(width, hidden_size), nn.GELU(), nn.Linear(hidden_size, hidden_size))
            self.special = nn.Parameter(torch.randn(3, hidden_size) * scale)
        self.register_buffer("scale", torch.tensor(scale))
        self.register_buffer("latents", torch.from_numpy(latents.reshape(-1, width).copy()), persistent=False)

    @classmethod
    def for_model(cls, language_model: LanguageModel, latents: FloatArray, *, seed: int) -> Connector:
        """An untrained connector of the model's hidden size, scaled to its embeddings."""
        layout = ContinuousLayout(language_model.layout.size, latents.shape[1])
        ids = torch.arange(min(language_model.layout.base, _SCALE_TOKENS), device=language_model.model.device)
        with torch.no_grad():
            embedded = language_model.model.get_input_embeddings()(ids)
        scale = float(embedded.float().square().mean().sqrt())
        return cls(layout, latents, hidden_size=embedded.shape[1], scale=scale, seed=seed)

    def forward(self, token_ids: Tensor, embedding: nn.Module) -> Tensor:
        """token_ids [B, T] -> embeddings [B, T, d_h]; `embedding` is that of the language model."""
        layout = self.layout
        other = token_ids >= layout.base
        embedded: Tensor = embedding(token_ids.masked_fill(other, 0))
        special = other & (token_ids < layout.first_latent)
        latent = token_ids >= layout.first_latent
        projected = self.layers(self.latents[token_ids[latent] - layout.first_latent])
        projected = F.rms_norm(projected.float(), projected.shape[-1:]) * self.scale
        embedded = embedded.index_put((latent,), projected.to(embedded.dtype))
        return embedded.index_put((special,), self.special[token_ids[special] - layout.base].to(embedded.dtype))

    def with_latents(self, latents: FloatArray) -> Connector:
        """The same connector, sharing its weights, for the latents [N, K, d_z] of a catalogue with appended items."""
        connector = copy.copy(self)
        rows = torch.from_numpy(latents.reshape(-1, latents.shape[2]).copy()).to(self.latents.device)
        connector._buffers = {**self._buffers, "latents": rows}
        return connector

    def save(self, folder: Path) -> None:
        """Write `connector.safetensors`; the tokenizer stores the latents."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        save_file(tensors, folder / _FILE)

    @classmethod
    def load(cls, folder: Path, layout: ContinuousLayout, latents: FloatArray) -> Connector:
        """Read what `save` wrote, for the latents that it was trained with.

        Raises:
            ArtifactError: the file is missing, damaged or of latents of another width.
        """
        try:
            tensors = load_file(folder / _FILE)
            connector = cls(layout, latents, hidden_size=tensors["special"].shape[1], scale=float(tensors["scale"]))
            connector.load_state_dict(tensors)
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            raise ArtifactError(f"{folder / _FILE} cannot be read ({error}); run `diffuse` again") from error
        return connector
