"""Release gates: the metrics a bundle needs before an alias moves to it.

The metrics are of the served system under the served policy, from the run's evaluation. Reads `metrics.json` of a
bundle; in a registry they are the tags of a version.
"""

from __future__ import annotations

from collections.abc import Mapping

from recsys.files import read_json
from serving.bundle.bundle import METRICS, Bundle

GATE_METRIC = "ndcg_at_10"  # registries allow no '@' in a name


def tags_of(bundle: Bundle) -> dict[str, str]:
    """The bundle id, the fingerprint of its data, and value, low and high of each metric."""
    tags = {"bundle": bundle.id, "dataset": bundle.manifest.parents.get("prepare", "")}
    path = bundle.part(METRICS)
    if path is None:
        return tags
    measured = read_json(path)
    tags |= {name: str(measured[name]) for name in ("system", "policy", "users", "confidence")}
    for metric, estimate in measured["metrics"].items():
        name = metric.replace("@", "_at_")
        tags |= {name: f"{estimate['value']:.6f}"}
        tags |= {f"{name}_{end}": f"{estimate[end]:.6f}" for end in ("low", "high")}
    return tags


def falls_behind(candidate: Mapping[str, str], champion: Mapping[str, str]) -> str:
    """Why a candidate must not replace a champion; empty where it may.

    Its NDCG@10 may be lower, but not below the champion's confidence interval: within it the difference may be chance.
    A candidate without metrics can only replace a champion without metrics. Metrics of two policies cannot be compared.
    """
    if f"{GATE_METRIC}_low" not in champion:
        return ""
    if GATE_METRIC not in candidate:
        return "it has no metrics and the present one has; run the stage `evaluate` and bundle again"
    if candidate.get("policy") != champion.get("policy"):
        return (
            f"its metrics are read under the policy {candidate.get('policy')}, those of the present one under "
            f"{champion.get('policy')}, and cannot be compared; serve both under one policy (recommend.exclude_seen)"
        )
    value, low = float(candidate[GATE_METRIC]), float(champion[f"{GATE_METRIC}_low"])
    if value >= low:
        return ""
    return f"its NDCG@10 of {value:.4f} is below {low:.4f}, the lower end of the interval of {champion[GATE_METRIC]}"
