"""A bundle is written atomically, identified by its contents, and refused with the name of the damaged file."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from recsys.errors import ArtifactError
from recsys.files import write_json
from serving.bundle.bundle import is_bundle, open_bundle, write_bundle
from serving.bundle.golden import Golden, check_golden, make_golden, require_golden
from serving.bundle.manifest import GOLDEN
from serving.engine.interface import Answer, RankedItem, Request, Tier
from tests.serving.bundles import ITEMS, fake_bundle, fill, origin
from tests.serving.fakes import FakeEngine

FILES = (
    "catalog.parquet",
    "continuous/latents.parquet",
    "discrete/semantic_ids.parquet",
    "fusion.json",
    "golden.json",
    "index/index.json",
    "language_model/language_model.json",
    "metrics.json",
)


def edit(folder: Path, **change: object) -> None:
    path = folder / "manifest.json"
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | change)


def test_a_bundle_opens_as_it_was_written(tmp_path: Path) -> None:
    written = fake_bundle(tmp_path / "deep" / "b")
    opened = open_bundle(tmp_path / "deep" / "b")
    assert (opened.id, opened.manifest) == (written.id, written.manifest)
    assert opened.manifest.settings.routes == ("discrete", "continuous")
    assert opened.manifest.versions == {"recsys": "0"}
    assert opened.part("index") == opened.folder / "index"
    assert opened.part("text_encoder") is None
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["b"]


def test_contents_and_settings_decide_the_id_and_nothing_else(tmp_path: Path) -> None:
    first = fake_bundle(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    again = write_bundle(tmp_path / "empty", origin()._replace(parents={}, versions={"recsys": "9"}), fill)
    assert again.id == first.id
    assert again.manifest.parents != first.manifest.parents
    assert fake_bundle(tmp_path / "b", seed=1).id != first.id
    assert fake_bundle(tmp_path / "c", ndcg=0.07).id != first.id


def test_writing_the_same_bundle_again_does_nothing(tmp_path: Path) -> None:
    first = fake_bundle(tmp_path / "b")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "b").rglob("*")}

    def never(folder: Path) -> None:
        raise AssertionError("the answers are there already")

    assert write_bundle(tmp_path / "b", origin(), fill, answer=never).manifest == first.manifest
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "b").rglob("*")}
    assert list(tmp_path.iterdir()) == [tmp_path / "b"]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    fake_bundle(tmp_path / "b")
    with pytest.raises(ArtifactError, match="a bundle never changes, choose a new folder"):
        fake_bundle(tmp_path / "b", seed=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("words", encoding="utf-8")
    (tmp_path / "file").write_text("words", encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("mine", "file", "link"):
        with pytest.raises(ArtifactError, match="is no bundle; choose a new folder"):
            fake_bundle(tmp_path / name)
    assert not is_bundle(tmp_path / "mine")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "file", "link", "mine"]


def test_with_collaborative_vectors_a_bundle_needs_text_neighbours(tmp_path: Path) -> None:
    plain = origin()
    embed = plain.settings.embed.model_copy(update={"collaborative_dimensions": 8})
    behaving = plain._replace(settings=plain.settings.model_copy(update={"embed": embed}))
    write_bundle(tmp_path / "b", behaving, fill)
    with pytest.raises(ArtifactError, match=r"does not name text_neighbours\.safetensors.*bundle the run again"):
        open_bundle(tmp_path / "b")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip first", "flip last", "truncate", "grow", "remove", "link"])
def test_every_damaged_file_is_refused_by_its_name(tmp_path: Path, name: str, damage: str) -> None:
    path = fake_bundle(tmp_path / "b").folder / name
    content = bytearray(path.read_bytes())
    if damage.startswith("flip"):
        content[0 if damage.endswith("first") else -1] ^= 1
        path.write_bytes(content)
    elif damage == "truncate":
        path.write_bytes(content[:-1])
    elif damage == "grow":
        path.write_bytes(content + b"\0")
    else:
        path.unlink()
    if damage == "link":
        (tmp_path / "elsewhere").write_bytes(content)
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError) as caught:
        open_bundle(tmp_path / "b")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_flip_that_keeps_size_and_time_is_noticed_in_the_same_process(tmp_path: Path) -> None:
    path = fake_bundle(tmp_path / "b").folder / "fusion.json"
    before = path.stat()
    path.write_bytes(b"[]\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ArtifactError, match=r"fusion\.json is corrupted: its sha256"):
        open_bundle(tmp_path / "b")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 1}, "has format 1, this program reads format 2"),
        ({"settings": {}}, "corrupted or of another version"),
        ({"surprise": 1}, "surprise"),
        ({"files": {}}, "its files and settings are not those of bundle"),
        ({"bundle": "0" * 16}, "files of two bundles cannot be mixed"),
    ],
)
def test_a_foreign_manifest_is_refused(tmp_path: Path, change: dict[str, object], words: str) -> None:
    edit(fake_bundle(tmp_path / "b").folder, **change)
    with pytest.raises(ArtifactError, match=words):
        open_bundle(tmp_path / "b")


@pytest.mark.parametrize("name", ["../b2/fusion.json", "/etc/passwd", "index/../../x", "index//index.json", "a\\b"])
def test_a_manifest_reaches_nothing_outside(tmp_path: Path, name: str) -> None:
    folder = fake_bundle(tmp_path / "b").folder
    files = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
    edit(folder, files=files | {name: files["fusion.json"]})
    with pytest.raises(ArtifactError, match="no path inside the bundle"):
        open_bundle(folder)


def test_a_file_or_link_too_many_is_refused(tmp_path: Path) -> None:
    folder = fake_bundle(tmp_path / "b").folder
    (folder / "index" / "more.txt").write_text("x", encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"more\.txt is not in the manifest"):
        open_bundle(folder)
    (folder / "index" / "more.txt").unlink()
    (folder / "outside").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(ArtifactError, match="outside is no plain file"):
        open_bundle(folder)


def test_parts_of_two_bundles_are_not_mixed(tmp_path: Path) -> None:
    """Not even by someone who repairs the hashes of what was swapped."""
    one, other = fake_bundle(tmp_path / "one"), fake_bundle(tmp_path / "other", ndcg=0.1)
    (one.folder / "metrics.json").write_bytes((other.folder / "metrics.json").read_bytes())
    files = {name: entry.model_dump() for name, entry in one.manifest.files.items()}
    edit(one.folder, files=files | {"metrics.json": other.manifest.files["metrics.json"].model_dump()})
    with pytest.raises(ArtifactError, match="files of two bundles cannot be mixed"):
        open_bundle(one.folder)


@pytest.mark.parametrize("name", ["counts.parquet", "discrete/semantic_ids.parquet", "continuous/latents.parquet"])
def test_parts_about_other_items_are_refused(tmp_path: Path, name: str) -> None:
    def wrong(folder: Path) -> None:
        fill(folder)
        pl.read_parquet(folder / name).reverse().write_parquet(folder / name)

    write_bundle(tmp_path / "b", origin(), wrong)
    with pytest.raises(ArtifactError, match=rf"{name} has other items than"):
        open_bundle(tmp_path / "b")


def test_a_route_needs_its_parts(tmp_path: Path) -> None:
    write_bundle(tmp_path / "one", origin(both=False), lambda folder: fill(folder, both=False))
    assert open_bundle(tmp_path / "one").manifest.settings.routes == ("discrete",)
    write_bundle(tmp_path / "both", origin(), lambda folder: fill(folder, both=False))
    with pytest.raises(ArtifactError, match=r"does not name continuous/latents\.parquet"):
        open_bundle(tmp_path / "both")


@pytest.mark.parametrize("when", ["filling", "answering"])
def test_an_interrupted_bundle_leaves_nothing_and_is_made_anew(tmp_path: Path, when: str) -> None:
    def interrupted(folder: Path) -> None:
        (folder / "some").write_bytes(b"x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_bundle(tmp_path / "b", origin(), interrupted if when == "filling" else fill, answer=interrupted)
    assert not list(tmp_path.iterdir())
    (tmp_path / ".b.partial").mkdir()  # what a kill leaves
    (tmp_path / ".b.partial" / "rest.bin").write_bytes(b"x")
    assert "rest.bin" not in fake_bundle(tmp_path / "b").manifest.files
    assert list(tmp_path.iterdir()) == [tmp_path / "b"]


@pytest.mark.slow
def test_two_processes_do_not_write_one_bundle(tmp_path: Path) -> None:
    code = (
        "import sys, signal\nfrom pathlib import Path\nfrom serving.bundle.bundle import write_bundle\n"
        "from tests.serving.bundles import origin\n"
        "def fill(folder):\n    print('writing', flush=True)\n    signal.pause()\n"
        "write_bundle(Path(sys.argv[1]), origin(), fill)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "b")], stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"writing\n"
        with pytest.raises(ArtifactError, match="another process is writing"):
            fake_bundle(tmp_path / "b")
    finally:
        other.send_signal(signal.SIGKILL)
        other.communicate()
    assert open_bundle(fake_bundle(tmp_path / "b").folder).id


def test_golden_requests_cover_every_tier_and_a_filter(tmp_path: Path) -> None:
    engine = FakeEngine()
    golden = make_golden(engine, ITEMS)
    golden.save(tmp_path)
    assert Golden.load(tmp_path) == golden
    assert {case.tier for case in golden.cases} == set(engine.tiers)
    requests = [case.request for case in golden.cases if case.tier == "full"]
    assert len(requests) == 8
    assert [r for r in requests if not r.history]
    assert [r for r in requests if r.where]
    assert make_golden(FakeEngine(), ITEMS) == golden
    assert check_golden(FakeEngine(), golden) == []


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        (lambda: FakeEngine(tiers=("full", "popularity")), "narrow: the engine does not have this tier"),
        (lambda: withdrawn(FakeEngine()), "rank"),
    ],
)
def test_different_answers_are_refused(tmp_path: Path, engine: Callable[[], FakeEngine], words: str) -> None:
    make_golden(FakeEngine(), ITEMS).save(tmp_path)
    differences = check_golden(engine(), Golden.load(tmp_path))
    assert differences
    assert any(words in line for line in differences)
    with pytest.raises(ArtifactError, match="golden requests differently than when it was made"):
        require_golden(engine(), tmp_path)
    path = tmp_path / GOLDEN
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | {"device": "abacus"})
    require_golden(engine(), tmp_path)


def withdrawn(engine: FakeEngine) -> FakeEngine:
    engine.withdraw(["i1"])
    return engine


class Changed(FakeEngine):
    """A FakeEngine whose answers are changed before they are given."""

    def __init__(self, change: Callable[[tuple[RankedItem, ...]], tuple[RankedItem, ...]]) -> None:
        super().__init__()
        self._change = change

    def recommend(self, requests: Sequence[Request], tier: Tier) -> list[Answer]:
        answers = super().recommend(requests, tier)
        return [replace(answer, items=self._change(answer.items)) for answer in answers]


def scored(*, by: float, step: float = 1.0) -> Callable[[tuple[RankedItem, ...]], tuple[RankedItem, ...]]:
    """Scores that fall by a step from rank to rank, all of them shifted."""
    return lambda items: tuple(replace(item, score=by - step * rank) for rank, item in enumerate(items))


def test_rounding_is_no_difference() -> None:
    golden = make_golden(Changed(scored(by=0)), ITEMS)
    assert check_golden(Changed(scored(by=5e-5)), golden) == []
    assert "the score at rank 1 is" in check_golden(Changed(scored(by=5e-4)), golden)[0]
    assert "9 items instead of 10" in check_golden(Changed(lambda items: scored(by=0)(items)[:9]), golden)[0]


@pytest.mark.parametrize(("step", "tied"), [(1e-5, True), (1e-2, False)])
def test_only_items_of_equal_scores_may_change_places(step: float, tied: bool) -> None:
    golden = make_golden(Changed(scored(by=0, step=step)), ITEMS)

    def turned(items: tuple[RankedItem, ...]) -> tuple[RankedItem, ...]:
        return scored(by=0, step=step)((items[1], items[0], *items[2:]))

    def replaced(items: tuple[RankedItem, ...]) -> tuple[RankedItem, ...]:
        return scored(by=0, step=step)((replace(items[0], item_id="another"), *items[1:]))

    assert (check_golden(Changed(turned), golden) == []) == tied
    assert (check_golden(Changed(replaced), golden) == []) == tied
