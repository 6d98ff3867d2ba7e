"""Background compaction: live changes of an item index become part of a new base, swapped in atomically."""

from __future__ import annotations

import logging
import threading

from recsys.retrieval.index import ItemIndex

logger = logging.getLogger(__name__)

MIN_CHANGES = 1000  # additions and removals; fewer cost a search next to nothing
MIN_SHARE = 0.1  # of the items; building a base takes time in proportion to them
THREAD = "recsys-compaction"


class Compactor:
    """Compacts one index after another on one thread; searches and changes go on meanwhile."""

    def __init__(self) -> None:
        self._thread = threading.Thread()

    def start_if_due(self, index: ItemIndex) -> None:
        """Start a compaction where many items have changed since the last one and none is running."""
        if index.num_changes >= max(MIN_CHANGES, MIN_SHARE * len(index)) and not self._thread.is_alive():
            self._thread = threading.Thread(target=_compact, args=(index,), name=THREAD, daemon=True)
            self._thread.start()


def _compact(index: ItemIndex) -> None:
    try:
        index.compact()
    except Exception as error:  # noqa: BLE001 - the index stays as it is, and the next change tries again
        logger.error("compaction of the item index failed: %s: %s", type(error).__name__, error)
