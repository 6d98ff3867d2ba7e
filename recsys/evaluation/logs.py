"""Training curves, from the logs that stages write.

Reads `training_log.jsonl` files: one JSON object a line, a `step` and metrics named `part/metric`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from recsys.errors import ArtifactError
from recsys.evaluation.plots import Curve


def training_curves(paths: Iterable[Path]) -> dict[str, Curve]:
    """Name of a metric -> its curve, ordered by step; of a repeated step, as after a resume, the last value counts.

    Missing files are skipped.

    Raises:
        ArtifactError: a line is not a JSON object with a step.
    """
    found: dict[str, dict[int, float]] = {}
    for path in paths:
        if not path.exists():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                entry = json.loads(line)
                step = int(entry.pop("step"))
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise ArtifactError(
                    f"{path.name}, line {number}: no JSON object with a step; run the stage of {path.parent.name} again"
                ) from error
            for name, value in entry.items():
                if isinstance(value, int | float):
                    found.setdefault(name, {})[step] = float(value)
    curves = {name: sorted(points.items()) for name, points in found.items()}
    return {name: Curve([s for s, _ in points], [v for _, v in points]) for name, points in curves.items()}
