"""An index on disk: damaged files are refused by name, and a kill leaves a readable index."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from recsys.errors import ArtifactError
from recsys.retrieval import storage
from recsys.retrieval.index import ItemIndex
from recsys.tables import FloatArray
from tests.retrieval.conftest import CONFIGS, clustered

PARTS = ("base-*.faiss", "items-*.safetensors", "changes-*.safetensors")


@pytest.fixture
def index() -> ItemIndex:
    return ItemIndex.build(clustered(200), None, CONFIGS["ivf-sq8"], queries=clustered(20, seed=1))


@pytest.fixture
def folder(index: ItemIndex, tmp_path: Path) -> Path:
    index.save(tmp_path / "index")
    return tmp_path / "index"


def only(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize("pattern", PARTS)
@pytest.mark.parametrize(
    ("damage", "words"),
    [(flip, "is corrupted: its sha256"), (truncate, "bytes"), (grow, "bytes"), (Path.unlink, "is missing")],
)
def test_a_damaged_file_is_refused_by_its_name(
    folder: Path, pattern: str, damage: Callable[[Path], None], words: str
) -> None:
    path = only(folder, pattern)
    damage(path)
    with pytest.raises(ArtifactError, match=words) as caught:
        ItemIndex.load(folder)
    assert path.name in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 1}, "another version"),
        ({"effort": "much"}, "effort"),
        ({"files": {}}, "does not name the files"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_foreign_manifest_is_refused(folder: Path, change: dict[str, object], words: str) -> None:
    path = folder / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change), encoding="utf-8")
    with pytest.raises(ArtifactError, match=words):
        ItemIndex.load(folder)


def test_a_manifest_cannot_name_files_outside_its_folder(folder: Path) -> None:
    path, base = folder / "index.json", only(folder, "base-*.faiss")
    base.rename(folder.parent / base.name)
    path.write_text(path.read_text(encoding="utf-8").replace(base.name, f"../{base.name}"), encoding="utf-8")
    with pytest.raises(ArtifactError, match="is missing"):
        ItemIndex.load(folder)


def test_a_missing_or_truncated_manifest_is_refused(folder: Path) -> None:
    truncated = (folder / "index.json").read_text(encoding="utf-8")[:50]
    (folder / "index.json").write_text(truncated, encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"index\.json cannot be read"):
        ItemIndex.load(folder)
    (folder / "index.json").unlink()
    with pytest.raises(ArtifactError, match=r"index\.json is missing"):
        ItemIndex.load(folder)


def test_the_manifest_contains_the_measured_recall(index: ItemIndex, folder: Path) -> None:
    manifest = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    assert (manifest["effort_name"], manifest["effort"]) == ("nprobe", index.effort)
    assert (manifest["recall_at"], manifest["recall"]) == (10, index.recall)
    assert manifest["tuned_on"] == "queries"
    assert set(manifest["files"]) == {"base", "items", "changes"}


def stored_queries(folder: Path) -> int:
    return len(load_file(only(folder, "items-*.safetensors"))["queries"])


def test_queries_of_users_can_be_left_out_of_the_files(index: ItemIndex, folder: Path) -> None:
    assert stored_queries(folder) == 20
    index.save(folder, with_queries=False)
    assert stored_queries(folder) == 0
    assert json.loads((folder / "index.json").read_text(encoding="utf-8"))["tuned_on"] == "perturbed vectors"


def test_an_index_is_tuned_on_a_sample_of_many_queries(tmp_path: Path) -> None:
    config = CONFIGS["ivf-flat"].model_copy(update={"num_tuning_queries": 10})
    ItemIndex.build(clustered(200), None, config, queries=clustered(50, seed=1)).save(tmp_path)
    assert stored_queries(tmp_path) == 10


@pytest.mark.parametrize("step", ["base", "items", "changes", "manifest"])
def test_a_kill_while_saving_leaves_the_older_index(
    monkeypatch: pytest.MonkeyPatch, index: ItemIndex, folder: Path, step: str
) -> None:
    published = storage._published

    def interrupted(folder: Path, role: str, write: Callable[[Path], object]) -> object:
        if role == step:
            raise KeyboardInterrupt
        return published(folder, role, write)

    def never(path: Path, value: object) -> None:
        raise KeyboardInterrupt

    before = index.search(clustered(5, seed=2), 5)
    index.remove(np.unique(before.labels[before.labels >= 0]))
    index.add([1000], clustered(1, seed=3))
    index.compact()
    with monkeypatch.context() as patch:
        patch.setattr(storage, "_published", interrupted)
        if step == "manifest":
            patch.setattr(storage, "write_json", never)
        with pytest.raises(KeyboardInterrupt):
            index.save(folder)
    np.testing.assert_array_equal(ItemIndex.load(folder).search(clustered(5, seed=2), 5).labels, before.labels)
    index.save(folder)
    assert len(ItemIndex.load(folder)) == len(index)
    assert len(list(folder.iterdir())) == 4


def test_a_mapped_index_outlives_its_replacement(index: ItemIndex, folder: Path) -> None:
    queries: FloatArray = clustered(5, seed=2)
    mapped = ItemIndex.load(folder)
    before = index.search(queries, 5)
    index.remove(range(100))
    index.compact()
    index.save(folder)
    np.testing.assert_array_equal(mapped.search(queries, 5).labels, before.labels)
