"""Tree attention over a causal language model: one prefill a prompt, one shared KV cache, no copy a beam.

The beams of a prompt are query positions of the same sequence, with the position ids they would have alone, and an
attention mask restricts each to the prompt and its own ancestors (SpecInfer, arXiv 2305.09781).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from recsys.errors import ModelError
from recsys.llm.attention import additive_masks
from recsys.llm.heads import head_logits
from recsys.llm.reading import ItemReader
from recsys.tables import FloatArray


class Tree:
    """The prompts of one batch and the branches grown on them so far.

    Args:
        model: a transformers causal LM in evaluation mode.
        prompts: token_ids [B, P], padded on the right with any valid id.
        lengths: int64 [B], each from 1 to P.
        reader: of a model that reads items at one position. It writes from the state behind the prompt, which is added
            to every branch's (`recsys.llm.item_loss`), and by rows in the context of the codes before.

    Raises:
        ModelError: the model is in training mode.
    """

    def __init__(self, model: Any, prompts: Tensor, lengths: Tensor, *, reader: ItemReader | None = None) -> None:
        if model.training:
            raise ModelError("the model is in training mode, where dropout makes scores random; call model.eval()")
        self.model = model
        self.lengths = lengths
        self.cache = DynamicCache()  # without the model's config, which would drop keys outside a sliding window
        positions = torch.arange(prompts.shape[1], device=prompts.device).expand_as(prompts)
        self._key_positions = positions  # [B, keys]
        self._visible = (positions < lengths[:, None]).unsqueeze(1)  # [B, beams of the last level, keys]
        self._depth, self._reader = 0, reader
        self._nodes = torch.zeros(len(prompts), 1, dtype=torch.int64, device=prompts.device)  # prefixes of the beams
        self._ungrown = self._key_positions, self._visible
        read = {"input_ids": prompts} if reader is None else {"inputs_embeds": reader(prompts)}
        hidden = self._forward(read, positions, None)
        rows = torch.arange(len(prompts), device=prompts.device)
        self.root = hidden[rows, lengths - 1].unsqueeze(1)  # hidden state [B, 1, D] after the prompt

    def states(self) -> FloatArray:
        """The hidden state [B, D] after each prompt, float32."""
        found: FloatArray = self.root[:, 0].float().cpu().numpy()
        return found

    def rewind(self) -> None:
        """Drop all branches: the tree can be searched again."""
        grown = self._key_positions.shape[1]
        self._key_positions, self._visible = self._ungrown
        if self._depth:
            self.cache.crop(self._key_positions.shape[1] - grown)  # negative: so many keys are removed
        self._depth, self._nodes = 0, torch.zeros_like(self._nodes[:, :1])

    def grow(self, token_ids: Tensor, parents: Tensor) -> Tensor:
        """Append a level to the tree.

        Args:
            token_ids: [B, M], the token of each beam.
            parents: int64 [B, M], which beam of the level before each one continues; zeros for the first level.

        Returns:
            Hidden states [B, M, D] after each beam's token, to be written from.
        """
        batch, beams = token_ids.shape
        inherited = self._visible.gather(1, parents.unsqueeze(-1).expand(-1, -1, self._visible.shape[2]))
        own = torch.eye(beams, dtype=torch.bool, device=token_ids.device).expand(batch, -1, -1)
        self._visible = torch.cat([inherited, own], dim=2)
        positions = (self.lengths + self._depth).unsqueeze(1).expand(batch, beams)
        self._key_positions = torch.cat([self._key_positions, positions], dim=1)
        self._depth += 1
        masks = additive_masks(self._visible, positions, self._key_positions, self.model.config, self.model.dtype)
        hidden = self._forward({"input_ids": token_ids}, positions, masks)
        if self._reader is None:
            return hidden
        level, layout = self._depth - 1, self._reader.layout
        codes = token_ids - layout.base - level * layout.num_codes
        self._nodes = self._reader.prefixes.child(level, self._nodes.gather(1, parents), codes)
        return hidden + self.root

    def logits(self, hidden: Tensor, first: int, count: int) -> Tensor:
        """Logits [..., count], float32, of the token_ids first..first+count-1; computes only these rows of the head.

        With a `reader`, `hidden` is of the beams that were grown last, or the root, and the tokens are all the codes of
        the level that follows.
        """
        head, rows = self.model.get_output_embeddings(), slice(first, first + count)
        bias = getattr(head, "bias", None)
        logits = head_logits(self.model, hidden, head.weight[rows], None if bias is None else bias[rows])
        if self._reader is None:
            return logits
        return self._reader.prefixes.add(logits, hidden.float(), self._depth, self._nodes)

    def _forward(self, read: dict[str, Tensor], positions: Tensor, mask: Tensor | dict[str, Tensor] | None) -> Tensor:
        output = self.model.base_model(
            **read,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        )
        hidden: Tensor = output.last_hidden_state
        return hidden
