"""SASRec as a part of the fusion: what usually follows a history, for the same requests as the other parts.

Reads the folder 02 of a run, where it has collaborative vectors. Items that came after its training are none of its
business: it neither sees nor lists them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recsys.baselines.base import TopItems
from recsys.baselines.sasrec import Sasrec
from recsys.rankers.preference import Asked, rank_by_scores
from recsys.tables import FloatArray, Histories

SASREC_FOLDER = "sasrec"


def load_sasrec(embeddings: Path) -> Sasrec | None:
    """The SASRec of a folder 02, or of a bundle; None where items have no collaborative vectors.

    Raises:
        ArtifactError: it cannot be read.
    """
    folder = embeddings / SASREC_FOLDER
    return Sasrec.load(folder) if folder.exists() else None


class CollaborativeRanker:
    """Ranks by a SASRec.

    Args:
        num_items: of the catalogue, at least as many as the SASRec knows.
        window: newest items of a history that are looked at.
    """

    def __init__(self, sasrec: Sasrec, *, num_items: int, window: int) -> None:
        self._sasrec, self._window = sasrec, window
        self._newer = num_items - len(sasrec.counts)

    def rank(self, histories: Histories, asked: Asked, *, k: int) -> TopItems:
        """The `k` best items of every request; `asked` says what may be found for each history."""
        known = len(self._sasrec.counts)
        sequences = [histories[user] for user in range(len(histories))]
        sequences = [items[items < known][-self._window :] for items in sequences]

        def score(rows: slice) -> FloatArray:
            scores = self._sasrec.scores(Histories.from_lists(histories.user_ids[rows], sequences[rows]))
            if not self._newer:
                return scores
            return np.pad(scores, ((0, 0), (0, self._newer)), constant_values=-np.inf)

        return rank_by_scores(score, asked, k=k)
