"""Ranking by what the language model would write next, and the validation score that comes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch

from recsys.baselines.base import TopItems
from recsys.data.histories import sampled_users
from recsys.decoding.beam import all_but, decode_all, search_tree
from recsys.decoding.check import check_backbone
from recsys.decoding.tree import Tree
from recsys.decoding.trie import Trie
from recsys.llm.storage import LanguageModel
from recsys.metrics import top_k_metrics
from recsys.rankers.permits import Permits
from recsys.tables import Histories, Queries, SemanticIds
from recsys.tracking import Tracker


class GenerativeRanker:
    """Ranks the catalogue by what the language model would write next; satisfies the `Baseline` protocol.

    Raises:
        ModelError: the backbone cannot be decoded as a tree.
    """

    def __init__(
        self, language_model: LanguageModel, semantic_ids: SemanticIds, *, beams: int = 50, batch_size: int = 128
    ) -> None:
        check_backbone(language_model.model)
        self._language_model = language_model
        self._renderer = language_model.renderer(semantic_ids)
        self._num_items = len(semantic_ids)
        self._trie = Trie.build(semantic_ids.codes, semantic_ids.num_codes)
        self._beams, self._batch_size = beams, batch_size

    def rank(
        self,
        histories: Histories,
        *,
        k: int,
        exclude_seen: bool,
        window: int | None = None,
        tracker: Tracker | None = None,
    ) -> TopItems:
        """The `k` best items of every history by log-probability, from a beam of at least `k`. See `Baseline`."""
        seen = [histories[user] for user in range(len(histories))]
        found = decode_all(
            self._language_model.model,
            [self._renderer.prompt(history if window is None else history[-window:]) for history in seen],
            trie=self._trie,
            base=self._language_model.layout.base,
            beams=max(self._beams, k),
            batch_size=self._batch_size,
            allowed=all_but(seen, self._num_items) if exclude_seen else None,
            tracker=tracker,
        )
        return TopItems(found.items[:, :k].numpy(), found.scores[:, :k].numpy())

    @torch.inference_mode()
    def read(self, histories: Histories, *, window: int) -> Tree:
        """The prompts of a few requests, read together; `write` goes on from there."""
        prompts = [self._renderer.prompt(histories[user][-window:]) for user in range(len(histories))]
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        padded = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            padded[row, : len(prompt)] = torch.tensor(prompt)
        model = self._language_model.model
        return Tree(model, padded.to(model.device), lengths.to(model.device))

    def write(self, tree: Tree, permits: Permits, *, k: int, beams: int | None = None) -> TopItems:
        """The `k` best permitted items behind what was read, from a beam of at least `k`."""
        device = tree.root.device
        mask = permits.mask(len(tree.root), self._num_items)
        found = search_tree(
            tree,
            trie=self._trie.to(device),
            base=self._language_model.layout.base,
            beams=max(beams or self._beams, k),
            allowed=None if mask is None else mask.to(device),
        )
        return TopItems(found.items[:, :k].cpu().numpy(), found.scores[:, :k].cpu().numpy())


@dataclass(frozen=True)
class Validator:
    """Validation NDCG@10 of a language model, through the real decoder."""

    queries: Queries
    semantic_ids: SemanticIds
    exclude_seen: bool
    beams: int = 20
    batch_size: int = 128

    @classmethod
    def sample(cls, queries: Queries, semantic_ids: SemanticIds, *, users: int, seed: int, exclude_seen: bool) -> Self:
        """On at most `users` of the queries, chosen by the seed."""
        return cls(sampled_users(queries, users=users, seed=seed), semantic_ids, exclude_seen)

    def __call__(self, language_model: LanguageModel) -> float:
        ranker = GenerativeRanker(language_model, self.semantic_ids, beams=self.beams, batch_size=self.batch_size)
        found = ranker.rank(self.queries.histories, k=10, exclude_seen=self.exclude_seen)
        return top_k_metrics(found.items, self.queries.targets, k=10).ndcg
