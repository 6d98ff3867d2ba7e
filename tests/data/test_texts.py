"""Text that is safe to display: normalized, without invisible characters, truncated."""

import unicodedata

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.texts import clean, decoded, strip_markup

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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1½ Quart Pan", "1½ Quart Pan"),
        ("Area 10² m", "Area 10² m"),
        ("Windex™", "Windex™"),
        ("R&amp;B", "R&B"),
        ("<b>Bold</b>", "Bold"),
        ("R&B, AT&T and Black&parade", "R&B, AT&T and Black&parade"),
        ("a < b > c <3", "a < b > c <3"),
        ("List<String> in <Java>", "List<String> in <Java>"),
        ("Fish &#38; Chips &#x2019;n&nbsp;more", "Fish & Chips ’n more"),
        ("One<br/>two<p class='x'>three</p>", "One two three"),
        ("H<sub>2</sub>O, 10<sup>2</sup> m", "H₂O, 10² m"),
        ('<A HREF="x">Link</A>ed <!-- not this -->up', "Linked up"),
        ("how to write &lt;b&gt;", "how to write <b>"),
        ("&unknown; &", "&unknown; &"),
        (" <br> ", None),
        (None, None),
    ],
)
def test_html_is_decoded_and_nothing_else_changes(text: str | None, expected: str | None) -> None:
    assert strip_markup(text) == expected
    column = pl.Series("text", [text, "x"], dtype=pl.String)
    assert pl.DataFrame([column]).select(decoded(pl.col("text"))).to_series().to_list() == [expected, "x"]
    assert cleaned(expected) == expected
