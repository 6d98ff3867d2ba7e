"""What an answer tells about itself is the same from the command line, the library and the endpoint."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import typer
from rich.console import Console

from pipelines import cli
from pipelines.config import stored_config
from pipelines.estimator import Recommender
from pipelines.history_option import history_option, parse_history, user_option
from pipelines.recommend import load_recommender
from pipelines.summary import _commands
from recsys.artifacts import RunDirectory
from recsys.errors import ConfigError, DataError
from recsys.ranking.recommender import Request
from recsys.tables import Interactions
from serving.bundle.bundle import Bundle
from serving.engine.engine import BundleEngine
from tests.serving.endpoints import Endpoint, endpoint

Notices = list[tuple[str, str]]
# The history (the number of the catalogue's first items in it, and other ids), k, and what is to be known.
SITUATIONS: dict[str, tuple[int, list[str], int, list[str]]] = {
    "nothing to tell": (2, [], 5, []),
    "unknown ids": (2, ["a, b", "no\nsuch"], 5, ["unknown-items"]),
    "only unknown ids": (0, ["-nothing"], 5, ["unknown-items", "empty-history"]),
    "no history": (0, [], 5, ["empty-history"]),
    "more than there are": (2, [], 100, ["fewer-than-asked"]),
    "all seen": (1000, [], 5, ["all-seen"]),
    "all of it together": (2, ["?"], 100, ["unknown-items", "fewer-than-asked"]),
}


@pytest.fixture(scope="module")
def library(run: RunDirectory) -> Recommender:
    return Recommender.load(run.path)


@pytest.fixture
def served(bundle: Bundle, tmp_path: Path) -> Iterator[Endpoint]:
    with endpoint(tmp_path, engine=cast(Any, BundleEngine.load(bundle.folder))) as parts:
        yield parts


def asked(served: Endpoint, **body: Any) -> tuple[list[str], Notices]:
    response = served.ask("POST", "/v1/recommend", json={"deadline_ms": 60_000, **body})
    assert response.status_code == 200, response.text
    answer = response.json()
    return [i["item_id"] for i in answer["items"]], [(n["code"], n["message"]) for n in answer["notices"]]


def listed(out: str) -> list[str]:
    return [line.split()[1] for line in out.splitlines()[1:]]


@pytest.mark.parametrize("name", SITUATIONS)
def test_the_same_notices_everywhere(
    name: str, run: RunDirectory, library: Recommender, served: Endpoint, recsys: Any
) -> None:
    known, unknown, k, codes = SITUATIONS[name]
    history = [*library._fitted.catalog.item_ids[:known], *unknown]
    found = library.recommend(history, k)
    assert [notice.code for notice in found.notices] == codes
    wanted = [(notice.code, notice.message) for notice in found.notices]
    items = [item.item_id for item in found]
    assert asked(served, history=history, k=k) == (items, wanted)
    code, out, err = recsys("query", run.path, "--history", json.dumps(history), "-k", k)
    assert (code, err.splitlines()) == (0, [f"{code}: {message}" for code, message in wanted])
    assert listed(out) == items
    assert bool(out) == bool(items)


def test_counts_add_up_to_the_catalogue(library: Recommender) -> None:
    catalogue = len(library._fitted.catalog)
    (notice,) = library.recommend(library._fitted.catalog.item_ids[:3], 1000).notices
    counts = dict(notice.counts)
    assert (counts.pop("asked"), counts.pop("catalogue"), counts["seen"]) == (1000, catalogue, 3)
    assert sum(counts.values()) == catalogue
    assert notice.message.startswith(f"1000 items were asked for, {counts['given']} found: the catalogue has ")


def test_a_filter_that_leaves_nothing(run: RunDirectory, library: Recommender, served: Endpoint) -> None:
    fitted, ids = load_recommender(stored_config(run), run), library._fitted.catalog.item_ids
    nothing = np.zeros(len(ids), np.bool_)
    (answer,) = fitted.recommend([Request((ids[0],), 5)], allowed=nothing)
    wanted = [(notice.code, notice.message) for notice in answer.notices]
    assert [code for code, _ in wanted] == ["filter-empty"]
    column = served.engine.info.filters[0]
    assert asked(served, history=[ids[0]], k=5, where={column: ["no such value"]}) == ([], wanted)
    for path, body in (("similar", {"item_id": ids[0]}), ("retrieve", {"history": [ids[0]]})):
        response = served.ask("POST", f"/v1/{path}", json={**body, "where": {column: ["no such value"]}}).json()
        assert ([notice["code"] for notice in response["notices"]], response["items"]) == (["filter-empty"], [])
    response = served.ask("POST", "/v1/similar", json={"item_id": ids[0], "k": 100}).json()
    (notice,) = response["notices"]
    assert (notice["code"], notice["counts"]["excluded"]) == ("fewer-than-asked", 1)


def test_a_user_of_the_run_is_answered_by_id(
    run: RunDirectory, library: Recommender, served: Endpoint, recsys: Any
) -> None:
    frame = Interactions.load(run.verified("prepare") / "interactions.parquet").frame
    user = frame["user_id"][-1]
    history = frame.filter(frame["user_id"] == user)["item_id"].to_list()
    wanted = [item.item_id for item in library.recommend(user_id=user, k=5)]
    assert wanted == [item.item_id for item in library._fitted.recommend([Request(tuple(history), 5, user)])[0]]
    code, out, err = recsys("query", run.path, "--user", user, "-k", 5)
    assert (code, err, listed(out)) == (0, "", wanted)
    _, notices = asked(served, user_id=user, k=5)
    assert [code for code, _ in notices] == ["unknown-user", "empty-history"]
    assert notices[0][1] == f"user '{user}' is unknown: no history is stored under this id"
    code, out, err = recsys("histories", run.path, "--store", served.config.store)
    users = frame["user_id"].n_unique()
    assert (code, f"{users} of {users} users" in out) == (0, True), err
    assert asked(served, user_id=user, k=5) == (wanted, [])
    assert f"0 of {users} users" in recsys("histories", run.path, "--store", served.config.store)[1]


def test_an_unknown_user_is_one_clear_line(run: RunDirectory, library: Recommender, recsys: Any) -> None:
    with pytest.raises(
        DataError, match=r"user 'who' is not one of the \d+ users of this dataset; ids are like '"
    ) as raised:
        library.recommend(user_id="who")
    code, out, err = recsys("query", run.path, "--user", "who")
    assert (code, out, err) == (2, "", f"error: {raised.value}\n")


@pytest.mark.parametrize(
    ("values", "ids"),
    [
        ([], ()),
        ([""], ()),
        (["[]"], ()),
        (["a, b,,c "], ("a", "b", "c")),
        (["a,b", "c"], ("a", "b", "c")),
        (['["a,b", " c ", "[d]"]', "e"], ("a,b", " c ", "[d]", "e")),
        (["[1, 2]"], ("1", "2")),
        (['a,["b"]'], ("a", '["b"]')),
    ],
)
def test_a_history_is_read_from_the_command_line(values: list[str], ids: tuple[str, ...]) -> None:
    assert parse_history(values) == ids


@pytest.mark.parametrize("value", ["[a]", "[", '["a"] b', "[true]", "[null]", "[1.5]", '[["a"]]'])
def test_what_begins_as_a_list_is_one(value: str) -> None:
    with pytest.raises(ConfigError, match="begins as a JSON list") as raised:
        parse_history([value])
    assert "\n" not in str(raised.value)


ODD = [
    "a,b",
    " a ",
    "-x",
    "--debug",
    "[1",
    '["a"]',
    "it's",
    '"',
    "$HOME `id` $(id) \\",
    ":heart:",
    "[bold]x[/bold]",
    "a\tb\nc",
    "ü 日本 \u202e",
    "!x",
    "#",
    "*",
    "~",
    "",
    ";",
    "x" * 500,
]


@pytest.mark.parametrize("ids", [*([odd] for odd in ODD), ODD, ["plain", "P0_1"]])
@pytest.mark.parametrize("run", ["runs/demo", "-it's $HOME"])
@pytest.mark.slow
def test_the_printed_commands_reach_the_program_as_they_are_meant(
    ids: list[str], run: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Through the console, a real shell and the option parser."""
    for line in _commands(run, ids, ids[0]):
        Console(width=40).out(line, highlight=False)
        command = capfd.readouterr().out.removesuffix("\n").partition(":")[2].strip()
        script = f"set -- {command}; " + """for word in "$@"; do printf '%s\\0' "$word"; done"""
        arguments = (
            subprocess.run(["sh", "-c", script], capture_output=True, check=True).stdout.decode().split("\0")[:-1]
        )
        assert arguments == shlex.split(command)
        assert "--debug" not in arguments, "which would not reach the parser"
        name, called = arguments[1], parsed(arguments[1:])
        assert Path(called["source" if name == "serve" else "run"]) == Path(run)
        if line.startswith("try:"):
            assert parse_history(called["history"]) == tuple(ids)
        elif name == "query":
            assert called["user"] == ids[0]


def parsed(arguments: list[str]) -> dict[str, Any]:
    """What the option parser makes of a command line, without running it."""
    command = cast(Any, typer.main.get_command(cli.app)).commands[arguments[0]]
    return dict(command.make_context(arguments[0], list(arguments[1:])).params)


def test_plain_ids_stay_plain() -> None:
    assert history_option(["P1", "B-2"]) == "--history P1,B-2"
    assert user_option("u 1") == "--user 'u 1'"
