"""HTML pages of templates beside this module, with how figures and p-values are written.

Reads the templates and the style sheet; returns pages as strings.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from recsys.evaluation.estimates import shown_p


def render(template: str, **values: Any) -> str:
    """The page of a template, with the style sheet embedded."""
    css = Markup((files("recsys.evaluation") / "report.css").read_text(encoding="utf-8"))
    return fragment(template, css=css, **values).lstrip()


def fragment(template: str, **values: Any) -> Markup:
    """What a template gives. Texts from the data are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("recsys.evaluation", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"plain": plain, "words": words, "p_value": _p_value}
    return Markup(environment.get_template(template).render(**values))


def words(name: str) -> str:
    """The name of a figure, written out."""
    return name.replace("_", " ").replace("/", ": ").replace("ndcg", "NDCG")


def plain(value: object) -> str:
    """A value formatted for display."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        size = abs(value)
        return f"{value:,.0f}" if size >= 1000 else f"{value:.2f}" if size >= 1 else f"{value:.4f}"
    if isinstance(value, list | tuple):
        return ", ".join(plain(entry) for entry in value) or "–"
    return str(value)


def _p_value(compared: Any) -> str:
    """The corrected p-value of a comparison, or of a cell of its matrix."""
    return shown_p(compared.p_holm, at_floor=compared.p_holm_at_floor)
