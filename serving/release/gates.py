"""What a bundle must show before an alias moves to it: figures that do not fall behind those of the present one.

The figures are those of the system that is served, measured by the run's own evaluation. Reads `metrics.json` of a
bundle; in a registry they are the tags of a version.
"""

from __future__ import annotations

from collections.abc import Mapping

from recsys.files import read_json
from serving.bundle.bundle import METRICS, Bundle

JUDGED = "ndcg_at_10"  # registries know no '@' in a name


def tags_of(bundle: Bundle) -> dict[str, str]:
    """The bundle's id, the fingerprint of its data, and what was measured: value, low and high of each metric."""
    tags = {"bundle": bundle.id, "dataset": bundle.manifest.parents.get("prepare", "")}
    path = bundle.part(METRICS)
    if path is None:
        return tags
    measured = read_json(path)
    tags |= {name: str(measured[name]) for name in ("system", "users", "confidence")}
    for metric, estimate in measured["metrics"].items():
        name = metric.replace("@", "_at_")
        tags |= {name: f"{estimate['value']:.6f}"}
        tags |= {f"{name}_{end}": f"{estimate[end]:.6f}" for end in ("low", "high")}
    return tags


def falls_behind(candidate: Mapping[str, str], champion: Mapping[str, str]) -> str:
    """Why a candidate must not take a champion's place; empty where it may.

    Its NDCG@10 may be lower, but not below the lower end of the champion's own confidence interval: what lies inside
    could as well be chance. A candidate that was not measured may only follow one that was not either.
    """
    if f"{JUDGED}_low" not in champion:
        return ""
    if JUDGED not in candidate:
        return "it was not evaluated and the present one was; run the stage `evaluate` and bundle again"
    value, low = float(candidate[JUDGED]), float(champion[f"{JUDGED}_low"])
    if value >= low:
        return ""
    return f"its NDCG@10 of {value:.4f} is below {low:.4f}, the lower end of the interval of {champion[JUDGED]}"


def on_other_data(candidate: Mapping[str, str], champion: Mapping[str, str]) -> bool:
    """Whether two bundles were measured on different data, so that their figures say less of each other."""
    return candidate.get("dataset") != champion.get("dataset")
