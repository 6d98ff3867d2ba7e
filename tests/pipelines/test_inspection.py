"""`recsys inspect` shows what the import does: the same card, whole lines, the command that runs it, and refusals."""

import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines import cli, prepare
from pipelines.config import RunConfig, load_config
from pipelines.inspection_view import sparkline
from recsys.artifacts import RunDirectory, StageKey
from recsys.tracking import NullTracker

START = 1_700_000_000
Inspect = Callable[..., tuple[int, str]]


@pytest.fixture
def inspect(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Inspect:
    """Runs `recsys inspect` in a terminal of a width; gives exit code and output."""
    monkeypatch.setattr(sys, "argv", ["recsys"])

    def command(*arguments: object, width: int = 80) -> tuple[int, str]:
        monkeypatch.setenv("COLUMNS", str(width))
        with pytest.raises(SystemExit) as ended:
            cli.main(["inspect", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert err == ""
        return int(str(ended.value.code)), out

    return command


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with long texts, ties, unlisted items, one bad row, and users that are filtered out."""
    folder = tmp_path / "my shop"
    folder.mkdir()
    rows = [
        f"user {u},item-{(u + 5 * k) % 12},{START + 86_400 * (u + 9 * k)},{'note ' * 9}"
        for u in range(40)
        for k in range(6)
    ]
    rows += [f"once-{n},item-3,{START}," for n in range(8)]
    text = "\n".join(["user_id,item_id,timestamp,remark", *rows, "u,,5,"])
    (folder / "interactions.csv").write_text(text, encoding="utf-8")
    titles = "\n".join(f"item-{n},{'A very long title of a thing ' * 4}{n % 2}" for n in range(10))
    (folder / "items.csv").write_text(f"item_id,title\n{titles}\n", encoding="utf-8")
    return folder


def test_the_json_is_the_data_card_of_the_stage(inspect: Inspect, shop: Path, tmp_path: Path) -> None:
    code, out = inspect(shop, "--json", "--set", "prepare.min_interactions=3")
    shown = json.loads(out)
    config = load_config("demo", [f"prepare.source={json.dumps(str(shop))}", "prepare.min_interactions=3"])
    card = prepared(config, tmp_path / "run")
    assert code == 0
    assert shown.pop("refusal") is None
    served = shown.pop("served")
    assert (served["policy"], served["repeats"], served["interactions"]) == ("seen-left-out", 0, 160)
    assert shown.pop("command")
    assert shown == card
    assert (card["users"], card["items"], card["interactions"], card["rows"]) == (40, 12, 240, 249)


def prepared(config: RunConfig, path: Path) -> Any:
    directory = RunDirectory(path, {"prepare": "01_dataset"})
    with directory.lock(), directory.stage("prepare", StageKey(settings={}, code=1, inputs={}), ()) as run:
        prepare.run(config, run, NullTracker())
    return json.loads((directory.verified("prepare") / "data_card.json").read_text(encoding="utf-8"))


def test_nothing_is_written(inspect: Inspect, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    inspect(shop)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("width", [60, 80, 120])
def test_lines_are_whole(inspect: Inspect, shop: Path, width: int) -> None:
    code, out = inspect(shop, width=width)
    *shown, command = out.splitlines()
    # A path alone is never cut.
    assert [line for line in shown if len(line) > width and len(line.split()) > 1 and str(shop) not in line] == []
    assert command.startswith("  recsys run ")
    _, as_json = inspect(shop, "--json")
    words = " ".join(out.split())
    warnings = json.loads(as_json)["profile"]["warnings"]
    assert [warning["name"] for warning in warnings] == ["rejected-rows", "unlisted-items", "same-titles", "few-users"]
    for warning in warnings:
        assert " ".join(warning["message"].split()) in words
        assert warning["fix"] in words
    assert code == 0


def test_ten_seconds_are_enough(inspect: Inspect, shop: Path) -> None:
    _, out = inspect(shop)
    words = " ".join(out.split())
    for text in (
        "Would be imported: 240 interactions of 40 users with 12 items, 4 warnings.",
        "Format: table, a guess from the files; prepare.kind sets another.",
        "user_id user id text user 0, user 1, user 2",
        "remark ignored text",
        "read 249 rejected 1 row 250 of interactions.csv: missing item id: u,5",
        "filtered 8 of users or items with fewer than 5 (prepare.min_interactions)",
        "unit seconds since 1970, by the magnitude of the numbers",
        "first, last 2023-11-14 22:13:20, 2024-02-06 22:13:20",
        "1700000000 is 2023-11-14 22:13:20",
        "rows by day, most 9 in 2023-11-14",
        "order check none of the users have rows in the order of ids",
        "1 8 ████ 0",
        "4 to 7 40 ████████████████ 0",
        "16 to 31 0 12 ████████████████",
        "join 10 of 12 items with rows are among the 10 listed",
        "titles 10 of 10; 10 share theirs",
        "kept 240 of 248 rows, 40 of 48 users, 12 of 12 items",
        "rows a user least 6, 25% 6, median 6, 75% 6, 90% 6, most 6",
        "served seen-left-out, as 0 of 160 training interactions (0.0 %) repeat an earlier item of their user",
        "split leave-one-out (prepare.split): train 160, validation 40, test 40",
    ):
        assert text in words


def test_the_command_runs_what_was_inspected(inspect: Inspect, shop: Path) -> None:
    settings = ("--set", "prepare.max_bad_share=0.1", "--set", "prepare.time_format='%d/%m %Y'")
    _, out = inspect(shop, "--config", "beauty", *settings, "--json")
    program, command, *arguments = shlex.split(json.loads(out)["command"])
    assert (program, command) == ("recsys", "run")
    assert arguments == [
        *("--config", "beauty", "--set", f"prepare.source={shop}"),
        *settings,
        *("--out", "runs/my shop"),
    ]


def test_a_refusal_shows_the_columns_and_what_to_set(inspect: Inspect, shop: Path) -> None:
    arguments = (shop, "--set", "prepare.user_column=customer")
    code, out = inspect(*arguments)
    words = " ".join(out.split())
    assert code == 2
    assert "Would be refused, with 1 warning" in words
    assert "item_id item id text item-0, item-5" in words
    assert "interactions.csv has no column 'customer' for the user; 'user_id' looks like it" in words
    assert "→ prepare.user_column=user_id" in words
    assert "column 'customer' is missing" in words
    assert "Run it" not in words
    code, out = inspect(*arguments, "--json")
    shown = json.loads(out)
    assert code == 2
    assert "column 'customer' is missing" in shown["refusal"]
    assert [table["name"] for table in shown["profile"]["tables"]] == ["interactions.csv"]


def test_nothing_there_is_a_refusal(inspect: Inspect, tmp_path: Path) -> None:
    code, out = inspect(tmp_path / "nowhere")
    assert code == 2
    assert "nowhere does not exist" in " ".join(out.split())


def test_texts_are_no_markup(inspect: Inspect, tmp_path: Path) -> None:
    rows = "".join(f"[red]u{n}[/red],[/bold],{START + n}\n" for n in range(5))
    (tmp_path / "interactions.csv").write_text(f"user_id,item_id,timestamp\n{rows}")
    _, out = inspect(tmp_path, "--set", "prepare.min_interactions=1")
    assert "[red]u0[/red], [red]u1[/red], [red]u2[/red]" in out
    assert re.search(r"item id +text +\[/bold\]", out)


@pytest.mark.parametrize(
    ("counts", "width", "line"),
    [
        ([0, 1, 4, 8], 10, " ▁▄█"),
        ([1, 1_000], 10, "▁█"),
        ([8, 0, 0, 0, 1, 1], 3, "█ ▂"),
        ([2, 2, 4], 2, "██"),
    ],
)
def test_a_sparkline_has_every_count(counts: list[int], width: int, line: str) -> None:
    assert sparkline(counts, width) == line
