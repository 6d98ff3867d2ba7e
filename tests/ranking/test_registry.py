"""What rankers fit themselves, whole or not at all."""

from pathlib import Path
from typing import Any, cast

import pytest

from recsys.ranking.loading import RankingContext
from recsys.ranking.registry import RANKERS, RankerSpec, fit_rankers

CONTEXT = cast(RankingContext, None)  # these fits read nothing


class KilledError(Exception):
    pass


def test_a_fit_that_was_killed_starts_anew_and_a_finished_one_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(file: str, *, kill: bool) -> Any:
        def write(context: RankingContext, folder: Path) -> None:
            folder.mkdir()
            (folder / file).touch()
            if kill:
                raise KilledError

        return write

    for name in list(RANKERS):
        monkeypatch.delitem(RANKERS, name)
    monkeypatch.setitem(RANKERS, "own", RankerSpec(lambda _: None, fit("half", kill=True)))
    with pytest.raises(KilledError):
        fit_rankers(CONTEXT, tmp_path)
    assert not (tmp_path / "own").exists()
    for file in ("whole", "again"):
        monkeypatch.setitem(RANKERS, "own", RankerSpec(lambda _: None, fit(file, kill=False)))
        fit_rankers(CONTEXT, tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["own", "own/whole"]
