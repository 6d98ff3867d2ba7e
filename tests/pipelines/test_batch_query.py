"""Many users are answered as one is, and a command that was cut short continues."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipelines import batch_query
from pipelines.batch_query import query_users
from pipelines.recommend import load_recommender
from recsys.artifacts import RunDirectory
from recsys.errors import ConfigError, DataError
from recsys.ranking.recommender import Answer, FittedRecommender, Request
from recsys.tables import Interactions
from recsys.tracking import NullTracker
from tests.pipelines.finished import configured

K, SIZE = 4, 3


class Counted(FittedRecommender):
    """Counts what it is asked, and may be interrupted."""

    asked: list[int]
    left: int

    def recommend(self, requests: Sequence[Request], **options: Any) -> list[Answer]:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        self.asked.append(len(requests))
        return super().recommend(requests, **options)


@pytest.fixture(scope="module")
def recommender(run: RunDirectory) -> FittedRecommender:
    return load_recommender(configured(), run)


@pytest.fixture
def counted(recommender: FittedRecommender, monkeypatch: pytest.MonkeyPatch) -> Counted:
    """The run's recommender as the command has it, with small partitions."""
    made = Counted.__new__(Counted)
    made.__dict__ |= recommender.__dict__ | {"asked": [], "left": -1}
    monkeypatch.setattr(batch_query, "load_recommender", lambda config, directory: made)
    monkeypatch.setattr(batch_query, "USERS", SIZE)
    return made


@pytest.fixture(scope="module")
def histories(run: RunDirectory) -> dict[str, tuple[str, ...]]:
    """Those of the run's users."""
    frame = Interactions.load(run.verified("prepare") / "interactions.parquet").frame
    parts = frame.partition_by("user_id", as_dict=True, maintain_order=True)
    return {str(user): tuple(rows["item_id"]) for (user,), rows in parts.items()}


def written(path: Path, **columns: Any) -> Path:
    """A table, as the suffix has it."""
    frame = pl.DataFrame(columns)
    (frame.write_csv if path.suffix == ".csv" else frame.write_parquet)(path)
    return path


def ask(run: RunDirectory, users: Path, out: Path, k: int = K) -> batch_query.Counts:
    return query_users(run, users, out, k=k, tracker=NullTracker())


def check(out: Path, requests: dict[str, Request], recommender: FittedRecommender) -> None:
    """The file has the answers of the recommender, asked one by one."""
    rows = pl.read_parquet(out)
    assert rows.schema.names() == ["user_id", "rank", "item_id", "score", "notices"]
    found = rows.partition_by("user_id", as_dict=True, maintain_order=True)
    assert [user for (user,) in found] == list(requests)
    for user, request in requests.items():
        own, answer = found[(user,)], recommender.recommend([request])[0]
        notices = [{"code": notice.code, "message": notice.message} for notice in answer.notices]
        assert own["notices"].to_list() == [notices] * len(own)
        if not answer.items:
            assert own.select("rank", "item_id", "score").rows() == [(None, None, None)]
            continue
        assert own["rank"].to_list() == [*range(1, len(answer) + 1)]
        assert own["item_id"].to_list() == [item.item_id for item in answer.items]
        assert own["score"].to_list() == pytest.approx([item.score for item in answer.items], abs=1e-5)


@pytest.mark.parametrize("name", ["users.parquet", "users.csv"])
def test_users_of_the_run_are_answered_as_by_query(
    name: str,
    run: RunDirectory,
    recommender: FittedRecommender,
    counted: Counted,
    histories: dict[str, tuple[str, ...]],
    tmp_path: Path,
) -> None:
    users = list(histories)[:7][::-1]
    out = tmp_path / "recs.parquet"
    counts = ask(run, written(tmp_path / name, user_id=users, age=[1] * 7), out)
    check(out, {user: Request(histories[user], K, user) for user in users}, recommender)
    assert (counts.users, counts.recommendations, counts.empty, counts.notices) == (7, 7 * K, 0, {})
    assert counted.asked == [3, 3, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recs.parquet", name]


OWN = {"a": (2, []), "b": (1, ["no such item"]), "all": (1000, []), "nobody": (0, []), "a, b": (0, ["?", "x,y"])}


@pytest.mark.parametrize("form", ["lists", "texts", "csv"])
def test_histories_of_the_table_are_answered_as_by_query(
    form: str, run: RunDirectory, recommender: FittedRecommender, counted: Counted, tmp_path: Path
) -> None:
    ids = recommender.catalog.item_ids
    own = {user: (*ids[:known], *others) for user, (known, others) in OWN.items()}
    values: list[Any] = [list(history) for history in own.values()]
    if form != "lists":
        values = ['["?", "x,y"]' if "x,y" in history else ", ".join(history) or None for history in own.values()]
    table = written(tmp_path / ("t.csv" if form == "csv" else "t.parquet"), user_id=list(own), history=values)
    counts = ask(run, table, tmp_path / "recs.parquet")
    check(tmp_path / "recs.parquet", {user: Request(history, K) for user, history in own.items()}, recommender)
    assert (counts.users, counts.empty) == (5, 1)
    assert counts.notices == {"all-seen": 1, "empty-history": 2, "unknown-items": 2}


def test_ids_that_are_numbers_become_text(
    run: RunDirectory, recommender: FittedRecommender, counted: Counted, tmp_path: Path
) -> None:
    table = written(tmp_path / "t.parquet", user_id=[7, 8], history=[[1, 2], []])
    ask(run, table, tmp_path / "recs.parquet")
    check(tmp_path / "recs.parquet", {"7": Request(("1", "2"), K), "8": Request((), K)}, recommender)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user": ["a"]}, "column 'user_id' is missing; found user; give one row a user: user_id"),
        ({"user_id": ["who", "else"]}, r"2 of 2 users are not among the \d+ users of the run, the first is 'who'"),
        ({"user_id": ["a", "b", "a"], "history": [[], [], []]}, "1 users have more than one row, the first is 'a'"),
        ({"user_id": ["a", None], "history": [["x"], []]}, "row 2 has no user_id"),
        ({"user_id": [1.5], "history": [["x"]]}, "row 1 has no user_id that is text or a whole number"),
        ({"user_id": [["a"]]}, r"column 'user_id' is List\(String\)"),
        ({"user_id": ["a"], "history": [[1.5]]}, r"column 'history' is List\(Float64\); a history is a list of item"),
        ({"user_id": ["a"], "history": [3]}, "column 'history' is Int64"),
        ({"user_id": ["a"], "history": ["[1, x]"]}, "user 'a': --history: got '.1, x.', which begins as a JSON list"),
        ({"user_id": ["a"], "history": [["x", None]]}, "user 'a': an id of the history is missing"),
        ({"user_id": pl.Series([], dtype=pl.String)}, "has no rows"),
    ],
)
def test_a_table_that_is_none_of_users_is_refused(
    run: RunDirectory, counted: Counted, tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message) as raised:
        ask(run, written(tmp_path / "t.parquet", **columns), tmp_path / "recs.parquet")
    assert str(raised.value).startswith(str(tmp_path / "t.parquet"))
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]
    assert counted.asked == []


def test_a_row_that_cannot_be_read_is_not_left_out(run: RunDirectory, counted: Counted, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("user_id,history\na,x\nb,x,y,z\n")
    with pytest.raises(DataError, match=r"1 rows cannot be read, the first is row 3 \(too many fields\); correct the"):
        ask(run, tmp_path / "t.csv", tmp_path / "recs.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_paths_are_checked_first(run: RunDirectory, recsys: Any, tmp_path: Path) -> None:
    table = written(tmp_path / "t.csv", user_id=["a"], history=["x"])
    (tmp_path / "old.parquet").write_text("something")
    for users, out, message in (
        (tmp_path / "none.csv", tmp_path / "a.parquet", "none.csv does not exist"),
        (table, tmp_path / "recs.csv", "the answers are written as parquet"),
        (table, tmp_path / "none" / "a.parquet", "none does not exist; create it"),
        (table, tmp_path / "old.parquet", "old.parquet exists; give another --out, or delete it first"),
    ):
        code, shown, err = recsys("query", run.path, "--users", users, "--out", out)
        assert (code, shown, len(err.splitlines())) == (2, "", 1)
        assert message in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old.parquet", "t.csv"]


def test_the_command_counts_what_it_wrote(run: RunDirectory, recsys: Any, counted: Counted, tmp_path: Path) -> None:
    ids = counted.catalog.item_ids
    table = written(tmp_path / "t.parquet", user_id=["a", "b", "c"], history=[ids, ["?"], ids[:2]])
    code, shown, err = recsys("query", run.path, "--users", table, "--out", tmp_path / "recs.parquet", "-k", 2)
    assert (code, shown.splitlines()) == (
        0,
        [
            f"{tmp_path / 'recs.parquet'}: 4 recommendations for 3 users, none for 1",
            "users with notices: all-seen 1, empty-history 1, unknown-items 1",
        ],
    ), err


def test_an_interrupted_command_continues(
    run: RunDirectory, counted: Counted, histories: dict[str, tuple[str, ...]], tmp_path: Path
) -> None:
    table = written(tmp_path / "users.parquet", user_id=list(histories)[:8])
    ask(run, table, tmp_path / "whole.parquet")
    assert counted.asked == [3, 3, 2]
    counted.left = 1
    with pytest.raises(KeyboardInterrupt):
        ask(run, table, tmp_path / "recs.parquet")
    assert not (tmp_path / "recs.parquet").exists()
    counted.left = -1
    ask(run, table, tmp_path / "recs.parquet")
    assert counted.asked == [3, 3, 2, 3, 3, 2]
    assert (tmp_path / "recs.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recs.parquet", "users.parquet", "whole.parquet"]


def test_unfinished_answers_are_not_mixed_with_others(
    run: RunDirectory, counted: Counted, histories: dict[str, tuple[str, ...]], tmp_path: Path, monkeypatch: Any
) -> None:
    table, out = written(tmp_path / "users.parquet", user_id=list(histories)[:8]), tmp_path / "recs.parquet"
    counted.left = 1
    with pytest.raises(KeyboardInterrupt):
        ask(run, table, out)
    counted.left = -1
    with pytest.raises(ConfigError, match=r"unfinished answers of another -k; run that command again"):
        ask(run, table, out, k=K + 1)
    other = written(tmp_path / "others.parquet", user_id=list(histories)[:7])
    with pytest.raises(ConfigError, match="another -k and table of users;"):
        ask(run, other, out, k=K + 1)
    with monkeypatch.context() as changed:
        changed.setattr(batch_query, "answers_fingerprint", lambda config, directory: "other")
        with pytest.raises(ConfigError, match="another run;"):
            ask(run, table, out)
    assert counted.asked == [3]
    ask(run, table, out)
    assert counted.asked == [3, 3, 2]


@pytest.mark.parametrize("moment", ["link", "_drop"])
def test_a_kill_around_the_last_rename_loses_nothing(
    moment: str, run: RunDirectory, counted: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, out = written(tmp_path / "t.parquet", user_id=["a"], history=[[]]), tmp_path / "recs.parquet"

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as changed:
        changed.setattr(batch_query, moment, killed)
        with pytest.raises(KeyboardInterrupt):
            ask(run, table, out)
    assert out.exists() == (moment == "_drop")
    assert ask(run, table, out).users == 1
    assert counted.asked == [1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recs.parquet", "t.parquet"]
    with pytest.raises(ConfigError, match="exists"):
        ask(run, table, out)


@pytest.mark.slow
def test_a_killed_process_continues(run: RunDirectory, histories: dict[str, tuple[str, ...]], tmp_path: Path) -> None:
    table = written(tmp_path / "users.csv", user_id=list(histories))
    code = "from pipelines import batch_query, cli; batch_query.USERS = 4; cli.main()"

    def start(out: Path) -> subprocess.Popen[bytes]:
        line = [sys.executable, "-c", code, "query", str(run.path), "--users", str(table), "--out", str(out)]
        return subprocess.Popen(line, env=os.environ | {"OMP_NUM_THREADS": "1"})

    assert start(tmp_path / "whole.parquet").wait() == 0
    out, kills = tmp_path / "recs.parquet", 0
    for wanted in (1, 5, 12):
        process = start(out)
        while process.poll() is None and len(list(tmp_path.glob(".recs.parquet.work/.work/answers/ranked/*"))) < wanted:
            time.sleep(0.002)
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not out.exists()
    assert kills == 3
    assert start(out).wait() == 0
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert pl.read_parquet(out)["user_id"].unique(maintain_order=True).to_list() == list(histories)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recs.parquet", "users.csv", "whole.parquet"]
