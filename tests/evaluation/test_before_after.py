"""Before and after a change: means, signed differences, and p-values that are corrected together."""

import numpy as np
import pytest

from recsys.evaluation.before_after import Measured, changes
from recsys.evaluation.config import EvaluateConfig

CONFIG = EvaluateConfig(num_resamples=500)


def measured(group: str, before: list[float], after: list[float]) -> Measured:
    return Measured(group, "seen-kept", "generative", "hr@10", np.array(before), np.array(after))


def test_a_difference_is_after_less_before_with_its_interval() -> None:
    worse, better = changes(
        [measured("old", [1.0] * 30, [1.0] * 20 + [0.0] * 10), measured("new", [0.0] * 40, [1.0] * 30 + [0.0] * 10)],
        CONFIG,
        seed=0,
    )
    assert (worse.group, worse.users, worse.before) == ("old", 30, 1.0)
    assert worse.after == pytest.approx(2 / 3)
    assert worse.difference.value == pytest.approx(-1 / 3)
    assert worse.difference.low < worse.difference.value < worse.difference.high < 0
    assert better.difference.value == pytest.approx(0.75)
    assert better.p_at_floor
    assert better.p == pytest.approx(1 / 501)


def test_p_values_are_corrected_for_all_of_them() -> None:
    found = changes([measured("a", [0.0] * 20, [1.0] * 20), measured("b", [1.0, 0.0], [1.0, 0.0])], CONFIG, seed=0)
    assert found[0].p_holm == pytest.approx(2 * found[0].p)
    assert found[0].p_holm_at_floor
    assert (found[1].p, found[1].p_holm) == (1.0, 1.0)
