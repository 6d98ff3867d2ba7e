"""SASRec as a part of the fusion: what usually follows a history, for the same requests as the other parts.

Reads the folder 02 of a run, where it has collaborative vectors. An item that came after its training counts as the
known item whose behaviour it borrows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recsys.baselines.base import TopItems
from recsys.baselines.sasrec import Sasrec
from recsys.rankers.preference import Asked, rank_by_scores
from recsys.tables import FloatArray, Histories, IntArray

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
        lenders: [N], for each item of the catalogue the known one that it counts as, or -1 for the mean of all; the
            first are those that the SASRec knows, as themselves. Nobody lends popularity: to an empty history, which
            gets the most popular items, a later one is an item that nobody has met.
        window: newest items of a history that are looked at.
    """

    def __init__(self, sasrec: Sasrec, *, lenders: IntArray, window: int) -> None:
        self._sasrec, self._lenders, self._window = sasrec, lenders, window
        self._newer = lenders[sasrec.num_items :]

    def rank(self, histories: Histories, asked: Asked, *, k: int) -> TopItems:
        """The `k` best items of every request; `asked` says what may be found for each history."""
        sequences = [self._lenders[histories[user]] for user in range(len(histories))]
        sequences = [items[items >= 0][-self._window :] for items in sequences]

        def score(rows: slice) -> FloatArray:
            batch = Histories.from_lists(histories.user_ids[rows], sequences[rows])
            scores = self._sasrec.scores(batch)
            if not len(self._newer):
                return scores
            lent = np.where(self._newer >= 0, scores[:, self._newer], scores.mean(axis=1, keepdims=True))
            lent[batch.lengths == 0] = 0  # log(1 + no interactions)
            return np.concatenate([scores, lent], axis=1)

        return rank_by_scores(score, asked, k=k)
