"""The section of the report about the data: what the import found, as `recsys inspect` shows it.

Reads a data card in memory and the template beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from recsys.data.profile import Profile
from recsys.evaluation.pages import fragment


def data_section(card: Mapping[str, Any]) -> Markup:
    """Warnings, columns, times, distributions and items of a data card; empty for one without a profile."""
    profile = Profile.of_card(card)
    if profile.times is None or profile.before is None or profile.after is None:
        return Markup("")
    return fragment(
        "data_section.html",
        profile=profile,
        times=profile.times,
        before=profile.before,
        after=profile.after,
        bins=[found for found in profile.before.bins if found.users or found.items],
    )
