"""The section of the report about the data: what the import found, as `recsys inspect` shows it.

Reads a data card in memory and the template beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from recsys.data.profile import Profile


def data_section(environment: jinja2.Environment, card: Mapping[str, Any]) -> Markup:
    """Warnings, columns, times, distributions and items of a data card; empty for one without a profile."""
    profile = Profile.of_card(card)
    if profile.times is None or profile.before is None or profile.after is None:
        return Markup("")
    template = environment.from_string((files("recsys.evaluation") / "data_section.html").read_text(encoding="utf-8"))
    page = template.render(
        profile=profile,
        times=profile.times,
        before=profile.before,
        after=profile.after,
        counts=profile.counts,
        bins=[found for found in profile.before.bins if found.users or found.items],
    )
    return Markup(page)
