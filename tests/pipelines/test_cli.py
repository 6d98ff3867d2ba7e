"""The command line: frozen names and options, one-line errors, and commands on small fake stages."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import typer

from pipelines import STAGES, cli, runner
from pipelines.config import RunConfig
from recsys.artifacts import StageRun
from recsys.data.policy import ServedPolicy
from recsys.tables import POLICY_TYPE, RANKING_SCHEMA, TEST, TRAIN
from recsys.tracking import Tracker

STAGE_OPTIONS = {"run", "--force", "--no-tracking"}
SURFACE = {
    "run": {"--config", "--set", "--out", "--from", "--to", "--executor", "--workers", "--force", "--no-tracking"}
    | {"--seeds", "--processes"},
    "inspect": {"source", "--config", "--set", "--json"},
    "configs": set(),
    "compare": {"runs", "--metric", "--policy"},
    "status": {"run"},
    "query": {"run", "--history", "--user", "--users", "--out", "-k"},
    "explain": {"run", "--history", "--user", "-k"},
    "refresh": {"run", "interactions", "--set", "--out", "--to", "--force", "--no-tracking"},
    **{stage.name: STAGE_OPTIONS for stage in STAGES},
    "instruct": STAGE_OPTIONS | {"--show"},
    "finetune": STAGE_OPTIONS | {"--processes"},
    "bundle": {"run", "--out"},
    "publish": {"source", "--name", "--alias", "--registry", "--skip-gates"},
    "rollback": {"--name", "--alias", "--registry"},
    "serve": {"source", "--host", "--port", "--keys", "--store", "--registry", "--set", "--ray", "--check"},
    "histories": {"run", "--store"},
    "keys": set(),
    "keys create": {"--keys", "--name", "--scope"},
    "keys list": {"--keys"},
    "keys revoke": {"--keys", "--name"},
}

USER = ":heart: u"  # a console would print it as an emoji

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def recsys(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a command line in this process, as the shell's `.venv/bin/recsys`; gives exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", [".venv/bin/recsys"])

    def command(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        out, err = capsys.readouterr()
        return int(str(ended.value.code)), out, err

    return command


def test_the_surface_is_frozen() -> None:
    assert dict(surface_of(typer.main.get_command(cli.app))) == SURFACE


def surface_of(group: Any, prefix: str = "") -> Iterator[tuple[str, set[str]]]:
    """Name and options of every command, those of groups too."""
    for name, command in getattr(group, "commands", {}).items():
        yield (
            f"{prefix}{name}",
            {opt for parameter in command.params for opt in parameter.opts if opt != "--help"},
        )
        yield from surface_of(command, f"{prefix}{name} ")


@pytest.mark.parametrize("command", [None, *SURFACE])
def test_every_command_has_help(recsys: Command, command: str | None) -> None:
    code, out, _ = recsys(*(command.split() if command else []), "--help")
    assert code == 0
    assert "Usage: recsys" in out


def test_help_and_configs_load_neither_torch_nor_mlflow() -> None:
    code = (
        "import sys\nfrom pipelines import cli\n"
        "for line in (['--help'], ['configs']):\n    try: cli.main(line)\n    except SystemExit: pass\n"
        "print(sorted({'torch', 'mlflow', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runn"], "No such command 'runn'"),
        (["run"], "Missing option '--config'"),
        (["run", "--config", "beuty"], "no recipe 'beuty'"),
        (["run", "--config", "demo", "--set", "tokenize.level=3"], "unknown key 'tokenize.level'"),
        (["run", "--config", "demo", "--to", "tokenise"], "unknown stage 'tokenise'; did you mean 'tokenize'?"),
        (["run", "--config", "demo", "--from", "embed", "--to", "prepare"], "--from embed comes after --to prepare"),
        (["status", "nowhere"], "config.yaml is missing"),
        (["embed", "nowhere"], "config.yaml is missing"),
        (["recommend"], "Missing argument 'RUN'"),
        (["query", "nowhere"], "give exactly one of --history, --user and --users"),
        (["query", "nowhere", "--history", "a", "--user", "u"], "give exactly one of --history, --user and --users"),
        (["query", "nowhere", "--users", "a.csv", "--user", "u"], "give exactly one of --history, --user and --users"),
        (["query", "nowhere", "--users", "a.csv", "--history", "a"], "exactly one of --history, --user and --users"),
        (["query", "nowhere", "--users", "a.csv"], "--users needs --out FILE.parquet"),
        (["query", "nowhere", "--user", "u", "--out", "a.parquet"], "--out needs --users TABLE"),
        (["query", "nowhere", "--users", "a.csv", "--out", "a.parquet"], "config.yaml is missing"),
        (["explain", "nowhere"], "give exactly one of --history and --user"),
        (["explain", "nowhere", "--history", "a", "--user", "u"], "give exactly one of --history and --user"),
        (["explain", "nowhere", "--history", "a"], "config.yaml is missing"),
        (["query", "nowhere", "--history", "[a, b]"], "--history: got '[a, b]', which begins as a JSON list"),
        (["query", "nowhere", "--history", "[1.5]"], "--history: got '[1.5]', which begins as a JSON list"),
        (["query", "nowhere", "--user", "u"], "config.yaml is missing"),
        (["histories", "nowhere"], "config.yaml is missing"),
        (["refresh", "nowhere", "later.csv"], "config.yaml is missing"),
        (["refresh", "nowhere"], "Missing argument 'INTERACTIONS'"),
        (["query", "nowhere", "--history", "a", "-k", "0"], "Invalid value for '-k'"),
        (["query", "nowhere", "--history", "a"], "config.yaml is missing"),
        (["run", "--config", "demo", "--executor", "spark"], "Invalid value for '--executor'"),
        (["run", "--config", "demo", "--workers", "0"], "Invalid value for '--workers'"),
        (["run", "--config", "demo", "--processes", "0"], "Invalid value for '--processes'"),
        (["run", "--config", "demo", "--processes", "1000"], "--processes 1000: this machine has"),
        (["bundle", "nowhere", "--out", "b"], "config.yaml is missing"),
        (["publish", "nowhere"], "nowhere is neither a bundle nor a run; give one of them"),
        (["rollback"], "there is no registry at"),
        (["serve", "nowhere"], "nowhere is neither a bundle nor a run; give one of them, or models:/NAME@ALIAS"),
        (["serve", "models:/recsys"], "write models:/NAME@ALIAS or models:/NAME/VERSION"),
        (["serve", "nowhere", "--set", "serve.port"], "write it as section.key=value"),
        (["serve", "nowhere", "--set", "port=1"], "unknown key 'port'; known here: serve, runtime, ray"),
        (["serve", "nowhere", "--set", "serve.max_in_flite=3"], "'serve.max_in_flite'; did you mean 'max_in_flight'?"),
        (["serve", "nowhere", "--set", "runtime.max_batch=0"], "runtime.max_batch: got 0"),
        (["serve", "nowhere", "--set", "ray.replicas=none"], "ray.replicas: got 'none'"),
        (["keys", "list", "--keys", "none.json"], "none.json is missing; create a key with"),
        (["keys", "create", "--keys", "k.json", "--name", "a", "--scope", "all"], "scope: got 'all'"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(
    recsys: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = recsys(*arguments)
    assert (code, len(err.splitlines())) == (2, 1)
    assert message in err
    assert not list(tmp_path.iterdir())


def fake_stage(config: RunConfig, run: StageRun, tracker: Tracker) -> None:
    """Writes what the closing summary reads of each stage."""
    for step in tracker.track(range(3), "counting"):
        tracker.log({f"{run.stage}/loss": 1.0}, step=step)
    if run.stage == "prepare":
        pl.DataFrame({"item_id": ["a", "b"], "title": ["A [red] pan", None]}).write_parquet(run.out / "items.parquet")
        splits = pl.Series("split", [TRAIN, TEST], dtype=pl.Int8)
        frame = pl.DataFrame({"user_id": [USER, USER], "item_id": ["a", "b"], "timestamp": [1, 2]})
        frame.with_columns(splits).write_parquet(run.out / "interactions.parquet")
    if run.stage == "recommend":
        row = {"user_id": [USER], "rank": [1], "item_id": ["b"], "score": [0.5], "source": ["generative"]}
        frame = pl.DataFrame(row, schema=RANKING_SCHEMA).with_columns(policy=pl.lit("seen-left-out", POLICY_TYPE))
        frame.write_parquet(run.out / "rankings.parquet")
        ServedPolicy("seen-left-out", "auto", 1, 241, 0.05).save(run.out)
    if run.stage == "evaluate":
        kept = {"hr@10": {"value": 0.25}, "ndcg@10": {"value": 0.125}}
        left_out = {"hr@10": {"value": 0.375}, "ndcg@10": {"value": 0.3125}}
        policies = {
            policy: {"systems": {"generative": {"metrics": figures}}, "comparisons": []}
            for policy, figures in {"seen-kept": kept, "seen-left-out": left_out}.items()
        }
        metrics = {"slice_cutoff": 10, "num_resamples": 10_000, "policies": policies}
        (run.out / "metrics.json").write_text(json.dumps(metrics))
        (run.out / "report.html").write_text("<p>report</p>")


@pytest.fixture
def _fake_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "import_module", lambda name: type("Module", (), {"run": staticmethod(fake_stage)}))


@pytest.mark.usefixtures("_fake_stages")
def test_a_run_ends_with_its_results_and_is_skipped_when_repeated(recsys: Command, tmp_path: Path) -> None:
    out = tmp_path / "runs" / "mine"
    arguments = ("run", "--config", "demo", "--out", str(out), "--no-tracking")
    code, shown, log = recsys(*arguments)
    assert code == 0, log
    assert [stage.folder for stage in STAGES] == sorted(p.name for p in out.iterdir() if p.name[0].isdigit())
    for expected in (
        "0.2500",
        "0.1250",
        "0.3750",
        "0.3125",
        "A [red] pan",
        "report.html",
        f"recsys query {out}",
        "--history a -k 10",
        f"--user '{USER}'",
    ):
        assert expected in shown
    assert "served policy: seen-left-out, as 1 of 241 training interactions (0.4 %) repeat" in shown
    assert "[1/9] prepare" in log
    code, shown, log = recsys(*arguments)
    assert (code, log.count(": current")) == (0, len(STAGES))


@pytest.mark.usefixtures("_fake_stages")
def test_runs_side_by_side(recsys: Command, tmp_path: Path) -> None:
    runs = [str(tmp_path / name) for name in ("one", "two")]
    for run, changes in zip(runs, ([], ["--set", "finetune.seed=1"]), strict=True):
        assert recsys("run", "--config", "demo", "--out", run, "--no-tracking", *changes)[0] == 0
    code, shown, log = recsys("compare", *runs)
    assert (code, log) == (0, "")
    assert [line.split() for line in shown.splitlines()] == [
        ["ndcg@10,", "seen-kept", "one", "two", "mean", "deviation"],
        ["generative", "0.1250", "0.1250", "0.1250", "0.0000"],
        [],
        ["ndcg@10,", "seen-left-out", "one", "two", "mean", "deviation"],
        ["generative", "0.3125", "0.3125", "0.3125", "0.0000"],
    ]
    shown = recsys("compare", runs[0], "--metric", "hr@10", "--policy", "seen-left-out")[1]
    assert shown.split() == ["hr@10,", "seen-left-out", "one", "generative", "0.3750"]
    code, _, log = recsys("compare", runs[0], "--policy", "seen")
    assert (code, "'seen' is not one of 'seen-kept', 'seen-left-out'" in log) == (2, True)
    code, _, log = recsys("compare", *runs, "--metric", "ndgc@10")
    assert (code, "did you mean 'ndcg@10'? allowed: hr@10, ndcg@10" in log) == (2, True)
    code, _, log = recsys("compare", runs[0], str(tmp_path / "three"))
    assert (code, len(log.splitlines())) == (2, 1)


@pytest.mark.usefixtures("_fake_stages")
def test_comparing_runs_on_different_data_warns(
    recsys: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    assert recsys("run", "--config", "demo", "--out", one, "--no-tracking")[0] == 0

    def other(config: RunConfig, run: StageRun, tracker: Tracker) -> None:
        fake_stage(config, run, tracker)
        (run.out / "more").write_text("other")

    monkeypatch.setattr(runner, "import_module", lambda _: type("Module", (), {"run": staticmethod(other)}))
    assert recsys("run", "--config", "demo", "--out", two, "--no-tracking")[0] == 0
    code, _, log = recsys("compare", one, two)
    assert (code, f"warning: {two} has different data than {one}" in log) == (0, True)


@pytest.mark.usefixtures("_fake_stages")
def test_status_and_single_stages(recsys: Command, tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    assert recsys("run", "--config", "demo", "--out", out, "--to", "embed", "--no-tracking")[0] == 0
    code, _, log = recsys("instruct", out, "--no-tracking")
    assert (code, "[4/9] instruct" in log) == (0, True)
    code, _, log = recsys("finetune", out, "--no-tracking")
    assert (code, "finetune reads tokenize, which is missing" in log) == (2, True)
    code, shown, _ = recsys("status", out)
    assert code == 0
    states = [line.split()[2] for line in shown.splitlines()[1:] if line.strip()]
    assert states == ["current", "current", "missing", "current"] + ["missing"] * 5


@pytest.mark.usefixtures("_fake_stages")
def test_a_run_of_one_route_has_no_stages_of_the_other(recsys: Command, tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    assert recsys("run", "--config", "demo", "--out", out, "--set", "tokenize.kind=discrete", "--no-tracking")[0] == 0
    code, shown, _ = recsys("status", out)
    assert (code, "06_preference" in shown, "08_recommendations" in shown) == (0, False, True)
    assert not (tmp_path / "run" / "06_preference").exists()
    code, _, err = recsys("diffuse", out, "--no-tracking")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "tokenize.kind=discrete has no stage 'diffuse'" in err


@pytest.mark.usefixtures("_fake_stages")
def test_an_interruption_says_how_to_resume(recsys: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(config: RunConfig, run: StageRun, tracker: Tracker) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "import_module", lambda name: type("Module", (), {"run": staticmethod(interrupt)}))
    code, _, err = recsys("run", "--config", "demo", "--out", str(tmp_path / "run"), "--no-tracking")
    assert code == 130
    assert err.splitlines()[-1] == "interrupted; run the same command to resume"


def test_debug_shows_the_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from pipelines.cli import main; main(['run', '--config', 'beuty', '--debug'])"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" in done.stderr
    assert "ConfigError" in done.stderr
