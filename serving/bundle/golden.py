"""Golden requests: answers recorded when a bundle was made, compared when it is loaded.

Writes and reads `golden.json` of a bundle. The requests are built from the catalogue, never from a user's history.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from recsys.config import Config
from recsys.errors import ArtifactError
from recsys.files import read_json, write_json
from recsys.training.devices import default_device
from serving.bundle.manifest import GOLDEN
from serving.engine.engine import BundleEngine
from serving.engine.interface import Answer, Engine, Request, Tier, Where

TOLERANCE = 1e-4  # of a score; kernels and machines round differently
LENGTHS = (1, 3, 5, 10)
K = 10

logger = logging.getLogger(__name__)


class GoldenCase(Config):
    """A request, and its items and scores at one tier."""

    request: Request
    tier: Tier
    items: tuple[str, ...]
    scores: tuple[float, ...]


class Golden(Config):
    """All cases of a bundle, and the device type that they were recorded on."""

    format: Literal[1] = 1
    device: str
    cases: tuple[GoldenCase, ...]

    def save(self, folder: Path) -> None:
        """Write `golden.json`."""
        write_json(folder / GOLDEN, self.model_dump(mode="json"))

    @classmethod
    def load(cls, folder: Path) -> Golden:
        """Read `golden.json`; ArtifactError where it is missing or damaged."""
        try:
            return cls.model_validate(read_json(folder / GOLDEN))
        except ValidationError as error:
            raise ArtifactError(f"{folder / GOLDEN} is corrupted; bundle the run again") from error


def golden_requests(popular: Sequence[str], where: Where = ()) -> tuple[Request, ...]:
    """An empty history, histories of popular and of rare items, one with options, and one with a filter, if any.

    `popular` has item ids, the most popular one first.
    """
    head, tail = tuple(popular[:10]), tuple(popular[-3:])
    requests = [Request(k=K), *(Request(head[:length], K) for length in LENGTHS), Request(tail, K)]
    requests.append(Request(head[:2], K, user="golden", exclude=head[2:4], exclude_seen=False))
    if where:
        requests.append(Request(head[:3], K, where=where))
    return tuple(requests)


def make_golden(engine: Engine, popular: Sequence[str]) -> Golden:
    """Record an engine's answers to every golden request at every tier."""
    column = next(iter(engine.info.filters), None)
    values = engine.values(column, 1) if column is not None else ()
    where: Where = ((column, (values[0][0],)),) if column is not None and values else ()
    requests = golden_requests(popular, where)
    cases = [
        GoldenCase(request=request, tier=tier, items=_items(answer), scores=_scores(answer))
        for tier in engine.tiers
        for request, answer in zip(requests, engine.recommend(requests, tier), strict=True)
    ]
    return Golden(device=str(default_device()), cases=tuple(cases))


def check_golden(engine: Engine, golden: Golden) -> list[str]:
    """Differences between an engine's answers and the recorded ones, one line per case.

    Items, order and scores must be equal; items whose scores are equal but for rounding may change places.
    """
    differences = []
    for tier in dict.fromkeys(case.tier for case in golden.cases):
        cases = [case for case in golden.cases if case.tier == tier]
        if tier not in engine.tiers:
            differences.append(f"{tier}: the engine does not have this tier")
            continue
        answers = engine.recommend([case.request for case in cases], tier)
        for number, (case, answer) in enumerate(zip(cases, answers, strict=True), start=1):
            wrong = _difference(case, answer)
            if wrong:
                differences.append(f"{tier}, request {number} of {len(cases)}: {wrong}")
    return differences


def load_engine(folder: Path) -> Engine:
    """Load the engine of a bundle and check its golden requests.

    Raises:
        RecsysError: the bundle is damaged or answers differently.
    """
    engine = BundleEngine.load(folder)
    require_golden(engine, folder)
    return engine


def require_golden(engine: Engine, folder: Path) -> None:
    """Refuse an engine that does not answer the golden requests of its bundle as recorded.

    On another type of device, which computes in another precision, differences are a warning.

    Raises:
        ArtifactError: an answer differs, or `golden.json` cannot be read.
    """
    golden = Golden.load(folder)
    differences = check_golden(engine, golden)
    if not differences:
        return
    summary = (
        f"bundle {engine.info.bundle} answers {len(differences)} of {len(golden.cases)} golden requests differently "
        f"than when it was made, the first is {differences[0]}"
    )
    if golden.device == str(default_device()):
        raise ArtifactError(f"{summary}; bundle the run again with the installed versions")
    logger.warning("%s; it was recorded on %s", summary, golden.device)


def _difference(case: GoldenCase, answer: Answer) -> str:
    items, scores = _items(answer), _scores(answer)
    if len(items) != len(case.items):
        return f"{len(items)} items instead of {len(case.items)}"
    for rank, (expected, found) in enumerate(zip(case.scores, scores, strict=True), start=1):
        if not _equal(expected, found):
            return f"the score at rank {rank} is {found:.6g} instead of {expected:.6g}"
    known = dict(zip(case.items, case.scores, strict=True))
    for rank, (expected_item, item) in enumerate(zip(case.items, items, strict=True), start=1):
        # At the end of a list, an item may be tied with one that was cut off.
        tied = known.get(item, case.scores[-1])
        if item != expected_item and not _equal(tied, case.scores[rank - 1]):
            return f"rank {rank} is item {item!r} instead of {expected_item!r}"
    return ""


def _equal(first: float, second: float) -> bool:
    return math.isclose(first, second, rel_tol=1e-5, abs_tol=TOLERANCE)


def _items(answer: Answer) -> tuple[str, ...]:
    return tuple(item.item_id for item in answer.items)


def _scores(answer: Answer) -> tuple[float, ...]:
    return tuple(item.score for item in answer.items)
