"""Words that do not come back: identifiers, comments, messages, docs and the page use the field's standard terms."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("recsys", "pipelines", "serving", "configs", "docs", "tests", "README.md", "SECURITY.md", "Makefile")
SUFFIXES = {".py", ".md", ".yaml", ".yml", ".js", ".css", ".html", ".mjs", ""}
INSTEAD = {
    r"(no|some)body[ _](has )?met|who met (what|whom)": "cold-start items, user-item interactions",
    r"(?<=_)somebody": "require_history_or_user",
    r"newcomers?": "new items, cold-start items",
    r"lends?|lent|lending|lenders?|borrows?|borrowed|borrowing": "proxy item",
    r"(can|could) be told": "configuration",
    r"told(?! apart)|said": "receives, reports, names",
    r"ladders?|rungs?": "degradation tiers",
    r"hurried|strained|patient|dear": "most urgent, under CPU contention, slack, expensive",
    r"facts?": "metadata, params",
    r"imagines?|imagined|imagining": "samples, rank_by_samples",
    r"shelf|shelves": "CatalogState",
    r"permits?": "CandidateFilter, allowed items",
    r"illegal items?": "out-of-catalogue items",
    r"mends?|mended": "repair",
    r"by the way": "as a by-product",
    r"of one's own": "user-provided",
    r"in the morning": "runbook",
    r"(what|who) beats (what|whom|who)": "pairwise significance",
    r"what (waits|lives)|lets live": "pending requests; mutants that survive",
    r"companions?": "EMA hook",
    r"facets?": "filters",
    r"what .{1,20} is made of": "contents, components",
    r"effort_failures|what effort|with what effort": "tier",
}
CLASSES = ("Asks", "Facets", "Frames", "Jobs", "Parts", "Permits", "Shelf", "Tried", "Trying", "Tuned")
EXCEPTIONS = {
    ("tests/test_names.py", "*"),  # this list
    ("recsys/data/synthetic.py", "told(?! apart)|said"),  # a text of the generated catalogue, like its words
    ("recsys/data/words.py", "*"),
}


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", *FOLDERS], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.splitlines() if Path(name).suffix in SUFFIXES]


def uses(pattern: str, *, flags: re.RegexFlag) -> list[str]:
    """`path:line: text` of every match; an underscore ends a word, so that identifiers count too."""
    word = re.compile(rf"(?<![A-Za-z])(?:{pattern})(?![A-Za-z])", flags)
    found = []
    for path in tracked():
        name = path.relative_to(ROOT).as_posix()
        if {(name, "*"), (name, pattern)} & EXCEPTIONS:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if word.search(line):
                found.append(f"{name}:{number}: {line.strip()[:100]}")
    return found


@pytest.mark.parametrize("pattern", INSTEAD)
def test_a_word_does_not_come_back(pattern: str) -> None:
    found = uses(pattern, flags=re.IGNORECASE)
    assert not found, f"write {INSTEAD[pattern]} instead:\n" + "\n".join(found)


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_does_not_come_back(name: str) -> None:
    assert uses(rf"class {name}", flags=re.RegexFlag(0)) == []


def test_files_are_named_alike() -> None:
    words = re.compile(rf"(?<![a-z])(?:{'|'.join(INSTEAD)})(?![a-z])", re.IGNORECASE)
    assert [path.name for path in tracked() if words.search(path.stem.replace("_", " "))] == []
