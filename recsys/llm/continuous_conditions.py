"""Continuous prompts through a language model: the hidden state of `<pref>` is the condition, [B, d_h].

(ContRec, arXiv 2504.12007, section 3.) Takes the batches of `recsys.llm.continuous`, embedded by the connector; writes
nothing. The state is behind the model's final norm.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.llm.attention import Branches, branch_masks
from recsys.llm.collation import buckets
from recsys.llm.conditions import BATCH_TOKENS, Conditioned
from recsys.llm.connector import Connector
from recsys.llm.continuous import ContinuousBatch, ContinuousPrompts, TextFirstBatch
from recsys.llm.heads import LanguageModelLoss, Losses, head_rows
from recsys.llm.storage import LanguageModel
from recsys.tables import Histories
from recsys.tracking import NullTracker, Tracker


class ContinuousConditions(nn.Module):
    """Conditions behind continuous prompts, `<pref>` before any text (the default order), with the texts' loss.

    A step also has the same histories written as codes, so that the adapter keeps serving the generative ranker.
    """

    def __init__(self, language_model: LanguageModel, connector: Connector) -> None:
        super().__init__()
        self.loss = LanguageModelLoss(language_model.model, language_model.layout)
        self.connector = connector

    def hidden(self, token_ids: Tensor, branches: Branches | None = None) -> Tensor:
        """Hidden states [B, T, d_h] of right-padded rows: plain sequences, or trees where `branches` is given."""
        decoder = self.loss.decoder()
        embedded = self.connector(token_ids, decoder.get_input_embeddings())
        if branches is None:
            output = decoder(inputs_embeds=embedded, use_cache=False)
        else:
            output = decoder(
                inputs_embeds=embedded,
                attention_mask=branch_masks(decoder, branches),
                position_ids=branches.positions,
                use_cache=False,
            )
        found: Tensor = output.last_hidden_state
        return found

    def forward(self, *tensors: Tensor) -> Conditioned:
        """See `ContinuousBatch`."""
        batch = ContinuousBatch(*tensors)
        hidden = self.hidden(batch.tokens, Branches(batch.positions, batch.reach, batch.branch))
        losses = self.loss.losses(hidden, batch.targets).plus(self.loss(batch.code_tokens, batch.code_targets))
        return Conditioned(hidden[batch.rows, batch.columns], batch.items, losses)

    def asked(self, token_ids: Tensor, lengths: Tensor) -> Tensor:
        """Conditions [B, d_h] behind right-padded trunks [B, T] of the given lengths [B]."""
        rows = torch.arange(len(lengths), device=lengths.device)
        token_ids = F.pad(token_ids, (0, 1)).index_put((rows, lengths), self._preference(token_ids))
        return self.hidden(token_ids)[rows, lengths]

    def _preference(self, token_ids: Tensor) -> Tensor:
        return torch.tensor(self.connector.layout.preference, device=token_ids.device)


class TextFirstConditions(ContinuousConditions):
    """The other order: `<pref>` behind a text about the next item, which the model writes itself, greedily.

    In training as in use the text is the model's own of that moment, so a condition never holds the target's words. One
    item a sequence and step is predicted, and a step writes up to `max_text` tokens: dear, and an option only.
    """

    def __init__(self, language_model: LanguageModel, connector: Connector) -> None:
        super().__init__(language_model, connector)
        self._end = int(language_model.tokenizer.eos_token_id)
        self._max_text = language_model.config.max_text_tokens

    def forward(self, *tensors: Tensor) -> Conditioned:
        """See `TextFirstBatch`."""
        batch = TextFirstBatch(*tensors)
        losses: Losses = self.loss.losses(self.hidden(batch.tokens), batch.targets)
        losses = losses.plus(self.loss(batch.code_tokens, batch.code_targets))
        return Conditioned(self.asked(batch.tokens, batch.lengths), batch.items, losses)

    def asked(self, token_ids: Tensor, lengths: Tensor) -> Tensor:
        return super().asked(*self.write(token_ids, lengths))

    @torch.no_grad()
    def write(self, token_ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Trunks with the model's own texts behind them, ends left out, and their new lengths."""
        training = self.training
        self.eval()
        columns = torch.arange(token_ids.shape[1], device=token_ids.device)
        token_ids = F.pad(token_ids.masked_fill(columns >= lengths.unsqueeze(1), 0), (0, self._max_text))
        words = head_rows(self.loss.unwrapped(), self.loss.layout).text
        rows = torch.arange(len(lengths), device=lengths.device)
        unfinished = torch.ones_like(lengths, dtype=torch.bool)
        for _ in range(self._max_text):
            states = self.hidden(token_ids)[rows, lengths - 1]
            chosen = (states @ words.T.to(states.dtype)).argmax(-1)
            unfinished = unfinished & (chosen != self._end)
            if not bool(unfinished.any()):
                break
            token_ids[rows[unfinished], lengths[unfinished]] = chosen[unfinished]
            lengths = lengths + unfinished
        self.train(training)
        return token_ids, lengths


@torch.no_grad()
def continuous_query_conditions(
    conditions: ContinuousConditions,
    prompts: ContinuousPrompts,
    histories: Histories,
    *,
    window: int,
    bf16: bool = False,
    tracker: Tracker | None = None,
) -> Tensor:
    """The condition [U, d_h], float32 on the CPU, behind the newest `window` items of each history."""
    conditions.eval()
    trunks = [prompts.query(histories[user][-window:]) for user in range(len(histories))]
    lengths = [len(trunk) for trunk in trunks]
    device = conditions.connector.special.device
    found = torch.empty(len(trunks), conditions.connector.special.shape[1])
    groups = buckets(lengths, range(len(trunks)), BATCH_TOKENS[device.type])[::-1]
    for group in (tracker or NullTracker()).track(groups, "hidden states", len(groups)):
        tokens = torch.zeros(len(group), max(lengths[i] for i in group), dtype=torch.int64)
        for row, i in enumerate(group):
            tokens[row, : lengths[i]] = torch.tensor(trunks[i])
        size = torch.tensor([lengths[i] for i in group], device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            found[torch.tensor(group)] = conditions.asked(tokens.to(device), size).float().cpu()
    return found
