"""Bundles in a real registry: release gates, resolving by alias or version, rollback, no pickles."""

import logging
import re
from pathlib import Path

import pytest

from recsys.errors import ArtifactError, ConfigError
from recsys.tracking import tracking_uri
from serving.bundle.bundle import open_bundle
from serving.bundle.model_uri import is_model_uri, parse_model_uri
from serving.engine.batch import recommend_rows
from serving.release import registry
from serving.release.gates import falls_behind
from serving.release.registry import publish, resolve, rollback
from tests.serving.bundles import fake_bundle
from tests.serving.fakes import FakeEngine

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One registry; every test uses names of its own in it."""
    return tracking_uri(f"sqlite:///{tmp_path_factory.mktemp('registry') / 'mlflow.db'}", home=Path("unused"))


@pytest.fixture(autouse=True)
def engines(monkeypatch: pytest.MonkeyPatch) -> list[FakeEngine]:
    """What is loaded from a bundle is a fake; the first one of the list where there is one."""
    engines: list[FakeEngine] = []

    def load(folder: Path) -> FakeEngine:
        open_bundle(folder)
        return engines.pop() if engines else FakeEngine()

    monkeypatch.setattr(registry, "load_engine", load)
    return engines


def test_a_published_bundle_is_found_by_alias_and_by_version(tmp_path: Path, uri: str) -> None:
    bundle = fake_bundle(tmp_path / "b")
    made = publish(bundle.folder, name="found", alias="champion", uri=uri)
    assert (made.version, made.bundle, made.previous) == ("1", bundle.id, None)
    for source in ("models:/found@champion", "models:/found/1"):
        folder = resolve(source, uri=uri, cache=tmp_path / "cache")
        assert folder == tmp_path / "cache" / bundle.id
        assert open_bundle(folder).manifest == bundle.manifest
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [bundle.id]


def test_nothing_that_is_kept_is_a_pickle(tmp_path: Path, uri: str) -> None:
    publish(fake_bundle(tmp_path / "b").folder, name="plain", alias="champion", uri=uri)
    store = Path(uri.removeprefix("sqlite:///")).parent / "mlflow"
    kept = [path for path in store.rglob("*") if path.is_file()]
    assert any(path.name == "mlflow_model.py" for path in kept)
    assert not [path for path in kept if path.suffix in (".pkl", ".pickle", ".joblib", ".bin", ".pt")]
    assert not [path for path in kept if path.read_bytes()[:1] == b"\x80"]


def test_the_bundle_in_use_is_not_published_again(tmp_path: Path, uri: str) -> None:
    folder = fake_bundle(tmp_path / "b").folder
    first = publish(folder, name="once", alias="champion", uri=uri)
    assert publish(folder, name="once", alias="champion", uri=uri) == first
    assert publish(folder, name="once", alias="candidate", uri=uri).version == "2"


def test_an_alias_goes_back_the_way_it_came(tmp_path: Path, uri: str) -> None:
    bundles = [fake_bundle(tmp_path / str(seed), seed=seed) for seed in range(3)]
    for bundle in bundles:
        publish(bundle.folder, name="back", alias="champion", uri=uri)
    for bundle in (bundles[1], bundles[0]):
        assert rollback(name="back", alias="champion", uri=uri).bundle == bundle.id
        assert resolve("models:/back@champion", uri=uri, cache=tmp_path / "cache").name == bundle.id
    with pytest.raises(ArtifactError, match=r"back@champion is version 1, and there is no previous version"):
        rollback(name="back", alias="champion", uri=uri)
    with pytest.raises(ArtifactError, match="publish a bundle first"):
        rollback(name="back", alias="other", uri=uri)


def test_a_worse_bundle_does_not_take_the_alias_but_by_force(
    tmp_path: Path, uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    good = fake_bundle(tmp_path / "good", ndcg=0.06)  # its interval begins at 0.055
    publish(good.folder, name="gate", alias="champion", uri=uri)
    little = fake_bundle(tmp_path / "little", ndcg=0.056)
    worse, unknown = fake_bundle(tmp_path / "worse", ndcg=0.05), fake_bundle(tmp_path / "unknown", ndcg=None)
    with pytest.raises(ArtifactError, match=r"its NDCG@10 of 0\.0500 is below 0\.0550.*--skip-gates"):
        publish(worse.folder, name="gate", alias="champion", uri=uri)
    with pytest.raises(ArtifactError, match="it has no metrics"):
        publish(unknown.folder, name="gate", alias="champion", uri=uri)
    assert resolve("models:/gate@champion", uri=uri, cache=tmp_path / "cache").name == good.id
    assert publish(little.folder, name="gate", alias="champion", uri=uri).previous == "1"
    with caplog.at_level(logging.WARNING):
        assert publish(unknown.folder, name="gate", alias="champion", uri=uri, force=True).bundle == unknown.id
    assert "published despite a failed gate: it has no metrics" in caplog.text


def test_figures_of_other_data_are_compared_with_a_warning(
    tmp_path: Path, uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    publish(fake_bundle(tmp_path / "old").folder, name="data", alias="champion", uri=uri)
    fresh = fake_bundle(tmp_path / "new", seed=1, data="d1")
    with caplog.at_level(logging.WARNING):
        publish(fresh.folder, name="data", alias="champion", uri=uri)
    assert "version 1 was evaluated on other data" in caplog.text


def test_a_model_that_answers_otherwise_when_loaded_back_is_not_aliased(
    tmp_path: Path, uri: str, engines: list[FakeEngine]
) -> None:
    publish(fake_bundle(tmp_path / "a").folder, name="golden", alias="champion", uri=uri)
    other = FakeEngine()
    other.withdraw(["i1"])
    engines.append(other)
    with pytest.raises(ArtifactError, match="golden requests differently than when it was made"):
        publish(fake_bundle(tmp_path / "b", seed=1).folder, name="golden", alias="champion", uri=uri)
    assert resolve("models:/golden@champion", uri=uri, cache=tmp_path / "c").name == open_bundle(tmp_path / "a").id


def test_a_damaged_cache_is_repaired_and_a_damaged_registry_refused(tmp_path: Path, uri: str) -> None:
    bundle = fake_bundle(tmp_path / "b")
    publish(bundle.folder, name="damage", alias="champion", uri=uri)
    kept = resolve("models:/damage@champion", uri=uri, cache=tmp_path / "cache")
    (kept / "fusion.json").write_text("[]\n", encoding="utf-8")
    assert open_bundle(resolve("models:/damage@champion", uri=uri, cache=tmp_path / "cache")).id == bundle.id
    store = Path(uri.removeprefix("sqlite:///")).parent / "mlflow"
    for path in store.rglob("fusion.json"):
        path.write_text("[]\n", encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"fusion\.json is corrupted"):
        resolve("models:/damage@champion", uri=uri, cache=tmp_path / "another")
    assert not list((tmp_path / "another").iterdir())


def test_a_tag_cannot_lead_out_of_the_cache(tmp_path: Path, uri: str) -> None:
    publish(fake_bundle(tmp_path / "b").folder, name="path", alias="champion", uri=uri)
    client = registry.MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.set_model_version_tag("path", "1", "bundle", "../../etc")
    with pytest.raises(ArtifactError, match="is no bundle id"):
        resolve("models:/path@champion", uri=uri, cache=tmp_path / "cache")


def test_what_is_missing_is_reported_in_one_line(tmp_path: Path, uri: str) -> None:
    with pytest.raises(ArtifactError, match="refuses") as caught:
        resolve("models:/nobody@champion", uri=uri, cache=tmp_path)
    assert "\n" not in str(caught.value)
    empty = f"sqlite:///{tmp_path / 'none.db'}"
    for call in (
        lambda: resolve("models:/recsys/1", uri=empty, cache=tmp_path),
        lambda: rollback(name="recsys", alias="champion", uri=empty),
    ):
        with pytest.raises(ArtifactError, match="there is no registry at"):
            call()
    assert not list(tmp_path.iterdir())


def test_sources_and_registries_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_model_uri("models:/a b@champion") == ("a b", "champion", None)
    assert parse_model_uri("models:/recsys/12") == ("recsys", None, "12")
    assert (is_model_uri("models:/recsys"), is_model_uri("runs/demo")) == (True, False)
    for wrong in ("models:/recsys", "models:/recsys/latest", "models:/a/b@c", "models://x/1"):
        with pytest.raises(ConfigError, match=re.escape("write models:/NAME@ALIAS or models:/NAME/VERSION")):
            parse_model_uri(wrong)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(None, home=Path("runs")) == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert tracking_uri("sqlite:///mine.db", home=Path("runs")) == f"sqlite:///{tmp_path}/mine.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://host")
    assert tracking_uri(None, home=Path("runs")) == "https://host"
    with pytest.raises(ConfigError, match="is not a URI"):
        tracking_uri("mine.db", home=tmp_path)


def test_a_champion_without_metrics_blocks_no_candidate() -> None:
    assert falls_behind({"ndcg_at_10": "0.01"}, {}) == ""
    assert falls_behind({}, {"bundle": "x"}) == ""


def test_metrics_of_two_policies_are_not_compared() -> None:
    champion = {"ndcg_at_10": "0.06", "ndcg_at_10_low": "0.05", "policy": "seen-left-out"}
    candidate = {"ndcg_at_10": "0.07", "policy": "seen-kept"}
    assert "seen-kept, those of the present one under seen-left-out, and cannot be compared" in falls_behind(
        candidate, champion
    )
    assert falls_behind(candidate | {"policy": "seen-left-out"}, champion) == ""


def test_rows_are_read_as_tables_have_them() -> None:
    rows = [
        {"history": ["i3"], "k": 2.0, "user_id": "u"},
        {"history": '["i4", "nobody"]', "k": float("nan"), "user_id": None},
        {"history": None},
    ]
    found = recommend_rows(FakeEngine(), rows)
    assert found.columns == ["row", "rank", "item_id", "title", "score"]
    assert found["row"].value_counts().sort("row")["count"].to_list() == [2, 10, 10]
    assert found.filter(row=1)["rank"].to_list() == list(range(1, 11))
    assert recommend_rows(FakeEngine(), []).columns == found.columns
    for wrong, words in (
        ({"history": "i1, i2"}, "row 0: the history is no JSON list"),
        ({"history": '{"a": 1}'}, "give a list of item ids"),
        ({"history": [1, 2]}, "give a list of item ids"),
        ({"history": [], "k": 2.5}, "give a whole number"),
    ):
        with pytest.raises(registry.RecsysError, match=words):
            recommend_rows(FakeEngine(), [wrong])
