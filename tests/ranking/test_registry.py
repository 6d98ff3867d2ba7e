"""Which rankers a run gives, and what they fit themselves, whole or not at all."""

from pathlib import Path
from typing import Any, cast

import pytest

from recsys.ranking.loading import RankingContext
from recsys.ranking.registry import RANKERS, RankerSpec, build_rankers, fit_rankers
from tests.ranking.trained import RECOMMEND, Trained

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

    (tmp_path / "item-knn").mkdir()  # fitted already
    monkeypatch.setitem(RANKERS, "own", RankerSpec(lambda _: None, fit("half", kill=True)))
    with pytest.raises(KilledError):
        fit_rankers(CONTEXT, tmp_path)
    assert not (tmp_path / "own").exists()
    for file in ("whole", "again"):
        monkeypatch.setitem(RANKERS, "own", RankerSpec(lambda _: None, fit(file, kill=False)))
        fit_rankers(CONTEXT, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["item-knn", "own"]
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["whole"]


@pytest.mark.parametrize(
    ("missing", "left"),
    [
        ("tokenize/discrete", []),
        ("finetune", []),
        ("tokenize/continuous", ["generative", "generative-item-scored"]),
        ("diffuse", ["generative", "generative-item-scored"]),
        ("index", ["generative", "generative-item-scored", "cross-entropy"]),
    ],
)
def test_a_ranker_is_built_only_where_all_that_it_needs_is_there(
    trained: Trained, missing: str, left: list[str]
) -> None:
    folders = {name: folder for name, folder in trained.folders.items() if name != missing}
    context = RankingContext.load(folders, RECOMMEND.model_copy(update={"terms": ()}), max_history=20, seed=0)
    assert list(build_rankers(context)) == ["popularity", "item-knn", "sasrec", *left]
