"""Text that is safe to display: normalized, without invisible characters, truncated."""

import unicodedata

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.texts import clean

WORST = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("\u202e\u2066\x00\x1b\ufeff\u200b"))
)


def cleaned(text: str | None, longest: int = 50) -> str | None:
    column = pl.Series("text", [text], dtype=pl.String)
    found: str | None = pl.DataFrame([column]).select(clean(pl.col("text"), longest=longest)).item()
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ＡＢ\u202eevil\x00 x\t\n y", "ＡＢevil x y"),
        ("\u200b ", None),
        (None, None),
        ("e\u0301 ™", "é ™"),
        ("👩\u200d👧", "👩\u200d👧"),
        ("a" * 60, "a" * 50),
        ("x\x1b[31mred", "x[31mred"),
    ],
)
def test_known_texts(text: str | None, expected: str | None) -> None:
    assert cleaned(text) == expected


@given(WORST)
def test_no_invisible_character_is_left_and_cleaning_is_idempotent(text: str) -> None:
    found = cleaned(text)
    if found is not None:
        assert len(found) <= 50
        assert not any(unicodedata.category(c) in ("Cc", "Co") or unicodedata.bidirectional(c) in BIDI for c in found)
        assert cleaned(found) == found


BIDI = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
