"""Bundles of real small runs: complete, private, refused where the run is not finished, and served by the command."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipelines import FOLDERS, cli
from pipelines.bundling import bundle_run
from pipelines.config import stored_config
from recsys.artifacts import RunDirectory
from recsys.embeddings.encoder import load_text_encoder
from recsys.embeddings.text import item_texts
from recsys.errors import ArtifactError, ConfigError
from recsys.files import file_sha256, write_json
from recsys.llm.backbone import train_text_tokenizer
from recsys.tables import Catalog, ItemVectors
from serving.bundle.bundle import Bundle, open_bundle
from serving.bundle.golden import Golden, check_golden
from serving.engine.engine import BundleEngine
from serving.engine.interface import Request
from tests.llm.fakes import TITLES, llama
from tests.pipelines.finished import configured, finished

ONE_ROUTE = "tokenize.kind=discrete"
TOKENS = "finetune.items=tokens"
BOTH_ROUTES = {
    "catalog.parquet",
    "continuous",
    "counts.parquet",
    "discrete",
    "fusion.json",
    "golden.json",
    "index",
    "language_model",
    "manifest.json",
    "metrics.json",
    "preference",
    "sasrec",
    "text_encoder",
    "text_neighbours.safetensors",
}


@pytest.fixture
def copy(run: RunDirectory, tmp_path: Path) -> RunDirectory:
    """The run, to be damaged."""
    shutil.copytree(run.path, tmp_path / "run")
    return RunDirectory(tmp_path / "run", FOLDERS)


def test_a_bundle_holds_what_serving_needs_and_no_more(bundle: Bundle, run: RunDirectory) -> None:
    assert {path.name for path in bundle.folder.iterdir()} == BOTH_ROUTES
    names = {Path(name).name for name in bundle.manifest.files}
    assert not names & {"training_log.jsonl", "validation_samples.parquet", "stage.json", "interactions.parquet"}
    assert not [name for name in bundle.manifest.files if "adapter" in name]
    stages = {"prepare", "embed", "tokenize", "finetune", "diffuse", "index", "recommend", "evaluate"}
    assert bundle.manifest.parents == {stage: run.existing_record(stage).fingerprint() for stage in stages}
    metrics = json.loads((bundle.folder / "metrics.json").read_text(encoding="utf-8"))
    assert (metrics["system"], metrics["policy"]) == ("fused", "seen-left-out")
    measured = json.loads((run.folder("evaluate") / "metrics.json").read_text(encoding="utf-8"))
    served = measured["policies"]["seen-left-out"]["systems"]["fused"]["metrics"]
    assert metrics["metrics"] == {name: served[name] for name in ("hr@10", "ndcg@10")}
    settings = bundle.manifest.settings
    assert (settings.exclude_seen, settings.training_repeats) == (True, 0)
    assert settings.training_interactions == measured["served"]["interactions"] > 0
    counts = pl.read_parquet(bundle.folder / "counts.parquet")
    interactions = pl.read_parquet(run.folder("prepare") / "interactions.parquet")
    training = interactions.filter(split=0).group_by("item_id").len()
    wanted = counts.join(training, on="item_id", how="left", maintain_order="left")["len"].fill_null(0)
    assert counts["interactions"].to_list() == wanted.to_list()


def test_no_user_and_no_path_of_this_machine_is_in_a_bundle(bundle: Bundle, run: RunDirectory) -> None:
    users = pl.read_parquet(run.folder("prepare") / "interactions.parquet")["user_id"].unique().to_list()
    secrets = [user.encode() for user in users if len(user) > 3] + [str(run.path).encode(), str(Path.home()).encode()]
    assert len(secrets) > 10
    for path in (p for p in bundle.folder.rglob("*") if p.is_file()):
        content = path.read_bytes()
        assert not [secret for secret in secrets if secret in content], path
    tables = [pl.read_parquet(path) for path in bundle.folder.rglob("*.parquet")]
    assert all("user_id" not in table.columns for table in tables)


def test_the_same_run_gives_the_same_bundle(bundle: Bundle, run: RunDirectory, tmp_path: Path) -> None:
    again = bundle_run(run, configured(), tmp_path / "again")
    assert again.id == bundle.id
    assert again.manifest.files.keys() == bundle.manifest.files.keys()
    assert bundle_run(run, configured(), bundle.folder).manifest == bundle.manifest


def test_the_text_encoder_gives_the_run_s_vectors(bundle: Bundle, run: RunDirectory) -> None:
    encoder = load_text_encoder(bundle.folder / "text_encoder")
    texts = item_texts(Catalog.load(bundle.folder / "catalog.parquet"), encoder.fields)
    vectors = ItemVectors.load(run.folder("embed") / "text.parquet").vectors
    np.testing.assert_allclose(encoder.encode(texts), vectors, rtol=0, atol=1e-6)


@pytest.mark.parametrize("stage", ["prepare", "tokenize", "finetune", "diffuse", "index", "recommend"])
def test_only_what_was_written_is_bundled(copy: RunDirectory, tmp_path: Path, stage: str) -> None:
    name = next(name for name in copy.existing_record(stage).files if name.endswith(("parquet", "safetensors")))
    path = copy.folder(stage) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="is corrupted") as caught:
        bundle_run(copy, configured(), tmp_path / "b")
    assert str(path) in str(caught.value)
    assert not (tmp_path / "b").exists()


def test_an_unfinished_or_stale_run_is_refused_with_what_to_do(copy: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"05_language_model is stale \(finetune\.lora\.rank changed.*recsys run"):
        bundle_run(copy, configured("finetune.lora.rank=2"), tmp_path / "b")
    shutil.rmtree(copy.folder("recommend"))
    with pytest.raises(ArtifactError, match=r"08_recommendations is missing \(not run yet\)"):
        bundle_run(copy, configured(), tmp_path / "b")
    with pytest.raises(ConfigError, match="has no language model to serve"):
        bundle_run(copy, configured("tokenize.kind=continuous"), tmp_path / "b")


def test_a_run_that_was_not_evaluated_is_bundled_without_figures(copy: RunDirectory, tmp_path: Path) -> None:
    shutil.rmtree(copy.folder("evaluate"))
    made = bundle_run(copy, configured(), tmp_path / "b")
    assert made.part("metrics.json") is None
    assert "evaluate" not in made.manifest.parents


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [(ONE_ROUTE,), (TOKENS, "diffuse.joint=true", "diffuse.condition=continuous"), (), (TOKENS, "diffuse.joint=true")],
)
def test_a_pretrained_backbone_comes_along_whole(tmp_path: Path, settings: tuple[str, ...]) -> None:
    tokenizer = train_text_tokenizer(TITLES, 300)
    llama(len(tokenizer), tied=False).save_pretrained(tmp_path / "pretrained")
    tokenizer.save_pretrained(tmp_path / "pretrained")
    chosen = (*settings, f"finetune.pretrained={tmp_path / 'pretrained'}")
    with finished(*chosen) as directory:
        made = bundle_run(directory, stored_config(directory), tmp_path / "b")
    shutil.rmtree(tmp_path / "pretrained")
    for path in (p for p in made.folder.rglob("*") if p.is_file()):
        assert str(tmp_path).encode() not in path.read_bytes(), path
    engine = BundleEngine.load(open_bundle(tmp_path / "b").folder)
    assert check_golden(engine, Golden.load(made.folder)) == []


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def recsys(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Runs a command line in this process; gives exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")  # so that it is put back in the end
    monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def command(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return int(str(ended.value.code)), out, err

    return command


def test_a_query_recommends_what_the_bundle_does(recsys: Command, bundle: Bundle, run: RunDirectory) -> None:
    ids = pl.read_parquet(bundle.folder / "catalog.parquet")["item_id"].to_list()[:3]
    (answer,) = BundleEngine.load(bundle.folder).recommend([Request(tuple(ids), 5, None)], "full")
    code, out, err = recsys("query", run.path, "--history", ", ".join(ids), "-k", "5")
    assert code == 0, err
    assert [line.split()[1] for line in out.splitlines()[1:]] == [item.item_id for item in answer.items]


def test_check_replays_the_golden_requests(recsys: Command, bundle: Bundle, tmp_path: Path) -> None:
    code, out, err = recsys("serve", bundle.folder, "--check")
    assert (code, "passes its golden requests" in out) == (0, True), err
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    shutil.copytree(bundle.folder, tmp_path / "b")
    golden = json.loads((tmp_path / "b" / "golden.json").read_text(encoding="utf-8"))
    golden["cases"][0]["items"].reverse()
    swap(tmp_path / "b", "golden.json", golden)
    code, _, err = recsys("serve", tmp_path / "b", "--check")
    assert code == 2
    assert "answers 1 of 32 golden requests differently" in err.splitlines()[-1]


def swap(folder: Path, name: str, value: object) -> None:
    """Write another file into a bundle, and its hash into the manifest."""
    write_json(folder / name, value)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"][name] = {"sha256": file_sha256(folder / name), "size": (folder / name).stat().st_size}
    write_json(folder / "manifest.json", manifest)


@pytest.mark.slow
def test_a_run_is_bundled_published_checked_and_rolled_back(recsys: Command, run: RunDirectory, tmp_path: Path) -> None:
    registry = ("--registry", f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert recsys("bundle", run.path, "--out", tmp_path / "b")[0] == 0
    bundle_id = open_bundle(tmp_path / "b").id
    code, out, err = recsys("publish", run.path, *registry)
    assert (code, f"recsys@champion is version 1, bundle {bundle_id}" in out) == (0, True), err
    assert "published" not in recsys("publish", tmp_path / "b", *registry)[2]
    code, out, err = recsys("serve", "models:/recsys@champion", "--check", *registry)
    assert (code, bundle_id in out) == (0, True), err
    code, _, err = recsys("rollback", *registry)
    assert (code, "there is no previous version" in err) == (2, True)
    assert not list((tmp_path / "temporary").glob("recsys-*"))


def test_keys_are_made_listed_and_revoked(recsys: Command, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    code, out, _ = recsys("keys", "create", "--keys", path, "--name", "shop", "--scope", "admin")
    assert (code, out.strip().startswith("rsk_")) == (0, True)
    assert out.strip() not in path.read_text(encoding="utf-8")
    assert "shop" in recsys("keys", "list", "--keys", path)[1]
    assert recsys("keys", "revoke", "--keys", path, "--name", "shop")[0] == 0
    assert "shop" not in recsys("keys", "list", "--keys", path)[1]


@pytest.mark.slow
def test_a_finished_run_is_served_until_sigterm(run: RunDirectory, root: Path, tmp_path: Path) -> None:
    served = subprocess.Popen(
        [sys.executable, "-c", "from pipelines.cli import main; main()", "serve", str(run.path), "--port", "0"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert served.stdout is not None
        line = served.stdout.readline()
        assert " answers at http://127.0.0.1:" in line, served.communicate()[1][-3000:]
        request = urllib.request.Request(
            f"{line.split()[-1]}/v1/recommend",
            data=json.dumps({"history": [], "k": 5, "deadline_ms": 60_000}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as response:
            answer = json.load(response)
        assert [item["rank"] for item in answer["items"]] == [1, 2, 3, 4, 5]
        assert answer["bundle"] == line.split()[1]
        served.send_signal(signal.SIGTERM)
        assert served.wait(60) == 0
    finally:
        served.kill()
        served.communicate()
