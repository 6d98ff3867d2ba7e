"""Runs of one configuration under several seeds: one dataset, what is equal is made once, and one report of all."""

from __future__ import annotations

import json
import re
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipelines import COMBINE, FOLDERS, STAGES, commands, query_commands, runner
from pipelines import prepare as preparing
from pipelines import recommend as recommending
from pipelines.config import RunConfig, load_config, stored_config
from pipelines.execution import RunOptions
from pipelines.runner import stage_key, status
from pipelines.seeds import require_own_run, run_name, seed_config, seed_configs, seed_runs
from recsys.artifacts import RunDirectory, StageRun
from recsys.data.dataset import Dataset
from recsys.data.histories import queries
from recsys.data.policy import ServedPolicy
from recsys.errors import ArtifactError, ConfigError
from recsys.evaluation.evaluation import evaluate
from recsys.files import write_json
from recsys.ranking.registry import with_needed
from recsys.tables import POLICIES, POLICY_TYPE, TEST, Rankings, TopItems
from recsys.tracking import Tracker
from tests.pipelines.short import start
from tests.pipelines.test_kill_resume import artifacts, wait_for

SETTINGS = {
    "prepare.synthetic.num_users": 80,
    "prepare.synthetic.num_items": 60,
    "prepare.synthetic.num_interactions": 800,
    "evaluate.num_resamples": 100,
    "evaluate.num_examples": 1,
    "evaluate.cutoffs": "[5, 10]",
}
SYSTEMS = ("popularity", "sasrec", "generative")


class Flow:
    """A real dataset and real figures, fakes between them; counts what runs, and can be interrupted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ran: Counter[tuple[str, int]] = Counter()
        self.interrupt: tuple[str, int] | None = None

    def load(self, name: str) -> Any:
        return type("Module", (), {"run": staticmethod(self._stage)})

    def run(self, seeds: int | None = None, *, force: bool = False, last: str = "evaluate", **changes: object) -> None:
        """`recsys run`, counting anew."""
        self.ran.clear()
        settings = [f"{key}={value}" for key, value in (SETTINGS | changes).items()]
        options = RunOptions(force=force, tracking=False)
        commands.run("demo", settings, out=self.path, first="prepare", last=last, seeds=seeds, options=options)

    def times(self, stage: str) -> int:
        """How often a stage ran, under any seed."""
        return sum(count for (name, _), count in self.ran.items() if name == stage)

    @property
    def directory(self) -> RunDirectory:
        return RunDirectory(self.path, FOLDERS)

    def combined(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.path / COMBINE.folder / "metrics.json").read_text())
        return found

    def _stage(self, config: RunConfig, run: StageRun, tracker: Tracker) -> None:
        self.ran[run.stage, config.seed] += 1
        if self.interrupt == (run.stage, config.seed):
            self.interrupt = None
            raise KeyboardInterrupt
        if run.stage == "prepare":
            preparing.run(config, run, tracker)
        elif run.stage == "evaluate":
            _evaluate(config, run)
        elif run.stage == "recommend":
            _recommend(config, run)
        else:
            for part in ("discrete", "continuous"):
                (run.out / part).mkdir()
                (run.out / part / "seed").write_text("" if run.stage == "instruct" else str(config.seed))


def _recommend(config: RunConfig, run: StageRun) -> None:
    """Random lists by the seed, the same under every seed of popularity; generative finds every other target."""
    dataset = Dataset.load(run.read("prepare"))
    requests = queries(dataset.interactions, dataset.catalog, split=TEST, max_history=50)
    users = requests.user_ids
    parts = []
    for number, system in enumerate(SYSTEMS):
        generator = np.random.default_rng([config.seed if number else 0, number])
        items = np.stack([generator.permutation(len(dataset.catalog))[:10] for _ in users])
        if system == "generative":
            items[::2, 0] = requests.targets[::2]
        top = TopItems(items, np.zeros(items.shape, np.float32))
        for policy in POLICIES:
            found = Rankings.from_arrays(users, top, catalog=dataset.catalog, source=system)
            parts.append(found.frame.with_columns(policy=pl.lit(policy, POLICY_TYPE)))
    Rankings(pl.concat(parts)).save(run.out / "rankings.parquet")
    ServedPolicy.choose("auto", dataset.interactions, repeat_share=0.05).save(run.out)


def _evaluate(config: RunConfig, run: StageRun) -> None:
    """The figures alone: plots would take seconds."""
    rankings = Rankings.load(run.read("recommend") / "rankings.parquet")
    found = evaluate(rankings, Dataset.load(run.read("prepare")), config.evaluate, seed=config.seed)
    write_json(run.out / "metrics.json", found.to_json())
    (run.out / "report.html").write_text("report")


@pytest.fixture
def flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flow:
    made = Flow(tmp_path / "run")
    monkeypatch.setattr(runner, "import_module", made.load)
    return made


def test_seeds_follow_the_configured_one_and_have_its_data() -> None:
    config = load_config("demo", ["seed=3"])
    configs = seed_configs(config, 3)
    assert list(configs) == [3, 4, 5]
    assert [each.prepare.synthetic.seed for each in configs.values()] == [None, 3, 3]
    assert configs[3] == config
    own = load_config("demo", ["seed=3", "prepare.synthetic.seed=7"])
    assert [each.prepare.synthetic.seed for each in seed_configs(own, 2).values()] == [7, 7]


def test_the_keys_of_dataset_and_examples_are_equal_and_of_what_is_trained_are_not(tmp_path: Path) -> None:
    directory, config = RunDirectory(tmp_path, FOLDERS), load_config("demo")
    equal = {
        stage.name
        for stage in STAGES
        if len({stage_key(stage, seed_config(config, seed), directory).config_hash for seed in range(3)}) == 1
    }
    assert equal == {"prepare", "instruct"}


@pytest.mark.parametrize("name", ["finetune", "diffuse"])
def test_a_seed_of_one_training_alone_is_refused(flow: Flow, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}.seed: got 1, with which every seed would have the same training"):
        flow.run(2, **{f"{name}.seed": 1})
    assert not flow.path.exists()


def test_every_seed_is_a_whole_run_and_what_is_equal_is_made_once(flow: Flow) -> None:
    flow.run(3)
    assert (flow.times("prepare"), flow.times("instruct")) == (1, 1)
    assert all(
        flow.ran[stage.name, seed] == 1
        for stage in STAGES
        if stage.name not in ("prepare", "instruct")
        for seed in range(3)
    )
    runs = seed_runs(flow.directory)
    assert list(runs) == [0, 1, 2]
    for run in runs.values():
        config = stored_config(run)
        assert {entry.state for entry in status(config, run, config.stages)} == {"current"}
        same = [other.verified("prepare") / "interactions.parquet" for other in (flow.directory, run)]
        assert same[0].samefile(same[1])
    assert {stored_config(run).seed for run in runs.values()} == {0, 1, 2}


def test_the_report_has_the_figures_of_every_seeds_own(flow: Flow) -> None:
    flow.run(3)
    combined = flow.combined()
    assert combined["seeds"] == [0, 1, 2]
    own = [
        json.loads((run.verified("evaluate") / "metrics.json").read_text())
        for run in seed_runs(flow.directory).values()
    ]
    checked = 0
    for policy in POLICIES:
        assert set(combined["policies"][policy]["systems"]) == set(SYSTEMS)
        for name, system in combined["policies"][policy]["systems"].items():
            for metric, found in system["metrics"].items():
                values = [each["policies"][policy]["systems"][name]["metrics"][metric]["value"] for each in own]
                assert found["by_seed"] == values
                assert found["value"] == pytest.approx(np.mean(values))
                assert found["deviation"] == pytest.approx(np.std(values, ddof=1))
                checked += 1
    assert checked == 2 * 3 * 6
    page = (flow.path / COMBINE.folder / "report.html").read_text()
    assert all(f'href="../seeds/{seed}/09_report/report.html"' in page for seed in range(3))
    assert run_name(seed_runs(flow.directory)[1]) == "run, seed 1"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Flow:
    """Two seeds without an interruption."""
    made = Flow(tmp_path_factory.mktemp("whole") / "run")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(runner, "import_module", made.load)
        made.run(2)
    return made


@pytest.mark.parametrize(
    "where", [pytest.param(("prepare", 0), marks=pytest.mark.slow), ("finetune", 0), ("evaluate", 1)]
)
def test_an_interrupted_run_continues_and_ends_with_the_same_files(
    flow: Flow, whole: Flow, where: tuple[str, int]
) -> None:
    flow.interrupt = where
    with pytest.raises(KeyboardInterrupt):
        flow.run(2)
    before = set(flow.ran) - {where}
    flow.run(2)
    assert not before & set(flow.ran), "what was finished is not made again"
    assert flow.combined() == whole.combined()
    for seed, run in seed_runs(flow.directory).items():
        assert artifacts(run.path) == artifacts(whole.path / "seeds" / str(seed))


def test_nothing_is_run_again_when_all_is_current(flow: Flow) -> None:
    flow.run(2)
    report = flow.path / COMBINE.folder / "metrics.json"
    before = report.stat().st_mtime_ns
    flow.run(2)
    assert (flow.ran, report.stat().st_mtime_ns) == (Counter(), before)
    flow.run(2, **{"evaluate.num_resamples": 200})
    assert set(flow.ran) == {("evaluate", 0), ("evaluate", 1)}
    assert flow.combined()["num_resamples"] == 200


def test_an_earlier_run_is_the_first_seeds(flow: Flow) -> None:
    flow.run()
    flow.run(2)
    assert {seed for _, seed in flow.ran} == {1}
    assert (flow.path / "09_report" / "report.html").exists(), "it stays what it was"


def test_a_later_run_without_seeds_is_that_of_the_configured_one(flow: Flow) -> None:
    flow.run(2)
    flow.run()
    assert flow.ran == Counter()
    require_own_run(flow.directory)


def test_more_seeds_are_added_to_those_that_are_there(flow: Flow) -> None:
    flow.run(2)
    flow.run(3)
    assert {seed for _, seed in flow.ran} == {2}
    assert flow.combined()["seeds"] == [0, 1, 2]


def test_force_makes_everything_again_and_what_is_equal_once(flow: Flow) -> None:
    flow.run(2)
    flow.run(2, force=True)
    assert (flow.times("prepare"), flow.times("instruct"), flow.times("embed")) == (1, 1, 2)
    assert flow.combined()["seeds"] == [0, 1]


def test_a_part_of_the_stages_makes_no_report(flow: Flow) -> None:
    flow.run(2, last="embed")
    assert set(flow.ran) == {("prepare", 0), ("embed", 0), ("embed", 1)}
    assert not (flow.path / COMBINE.folder).exists()


def test_the_status_has_a_column_for_every_seed(
    flow: Flow, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    flow.interrupt = ("embed", 1)
    with pytest.raises(KeyboardInterrupt):
        flow.run(2)
    capsys.readouterr()
    commands.status(flow.path)
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert rows[0] == ["stage", "folder", "seed", "0", "seed", "1", "why"]
    assert rows[1] == ["prepare", "01_dataset", "current", "current"]
    assert rows[2] == ["embed", "02_embeddings", "current", "missing", "seed", "1:", "not", "run", "yet"]
    assert rows[-1] == ["combine", "10_combined_report", "missing", "not", "run", "yet"]
    flow.run(2)
    (flow.path / "seeds" / "1" / "08_recommendations" / "rankings.parquet").unlink()
    (flow.path / COMBINE.folder / "report.html").write_text("shorter")
    capsys.readouterr()
    commands.status(flow.path)
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert [row[2:4] for row in rows if row[0] == "recommend"] == [["current", "damaged"]]
    assert rows[-1][2] == "damaged"


def test_a_directory_of_seeds_alone_is_no_run_to_ask(flow: Flow) -> None:
    flow.run(2)
    with pytest.raises(ArtifactError, match=r"has one run for each of 2 seeds; give one, such as .*seeds/0$"):
        query_commands.query(flow.path, ("a",), user=None, k=3)
    require_own_run(seed_runs(flow.directory)[0])


def test_the_summary_shows_means_deviations_and_the_floor(flow: Flow, capsys: pytest.CaptureFixture[str]) -> None:
    flow.run(2)
    shown = capsys.readouterr().out
    found = flow.combined()["policies"]["seen-kept"]["systems"]["generative"]["metrics"]["ndcg@10"]
    assert f"{found['value']:.4f}"[1:] + "±" + f"{found['deviation']:.4f}"[1:] in shown
    assert "± is the standard deviation over the seeds 0, 1" in shown
    assert f"serve {flow.path}/seeds/0" in shown
    (line,) = [line for line in shown.splitlines() if line.startswith("seen-kept: ")]
    pattern = r"generative is 0\.\d{4} ± 0\.\d{4} ahead of \w+ in NDCG@10, p ≤ 0\.059 \(floor of 100 resamples\)"
    assert re.search(pattern, line), line
    flow.run()
    assert "in NDCG@10, p ≤ 0.059 (floor of 100 resamples)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("ranked", "fused", "reused"),
    [
        (("popularity", "item-knn", "generative", "fused"), "[generative, sasrec]", ["popularity", "item-knn"]),
        (("popularity", "item-knn", "generative", "fused"), "[generative, item-knn]", ["popularity"]),
        (("popularity", "popularity-with-terms", "item-knn"), "[generative, sasrec]", ["item-knn"]),
        (("generative",), "[generative, sasrec]", []),
    ],
)
def test_rankings_that_no_seed_changes_and_nothing_else_reads_are_reused(
    tmp_path: Path, ranked: tuple[str, ...], fused: str, reused: list[str]
) -> None:
    write_json(tmp_path / "timings.json", {name: {} for name in ranked})
    directory, config = (
        RunDirectory(tmp_path / "run", FOLDERS),
        load_config("demo", [f"recommend.fusion.sources={fused}"]),
    )
    run = StageRun("recommend", tmp_path, tmp_path, directory, (), sibling=tmp_path)
    assert recommending._reused(config, run) == reused
    assert set(with_needed(recommending._others(reused))).isdisjoint(reused), "they are not built again"
    assert {"sasrec", "generative", "diffusion"} <= set(recommending._others(reused))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run of two seeds; `log` beside it has its words."""
    folder = tmp_path_factory.mktemp("real")
    assert start(folder / "run", folder / "log", "--seeds", "2").wait() == 0, (folder / "log").read_text()
    return folder / "run"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_real_run_makes_once_what_no_seed_changes(real: Path) -> None:
    words = (real.parent / "log").read_text()
    stages = ((1, "prepare", "Import"), (4, "instruct", "Write"), (2, "embed", "Encode"))
    assert [words.count(f"{number}/9] {name}: {text}") for number, name, text in stages] == [1, 1, 2]
    taken = (
        "text vectors: th",
        "popularity: th",
        "item-knn is fitted: th",
    )  # the row item-knn-with-terms reads its list
    assert [words.count(text) for text in taken] == [1, 1, 1]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_real_run_that_is_killed_ends_with_the_same_files(real: Path, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    killed = 0
    for seed, folder in ((0, "03_tokens"), (1, "05_language_model"), (1, "08_recommendations")):
        process = start(run, log, "--seeds", "2")
        if wait_for(run / "seeds" / str(seed), process, folder, 0.05):
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
    assert killed > 0
    assert start(run, log, "--seeds", "2").wait() == 0, log.read_text()
    for seed in ("0", "1"):
        assert artifacts(run / "seeds" / seed) == artifacts(real / "seeds" / seed)
    combined = [json.loads((path / COMBINE.folder / "metrics.json").read_text()) for path in (run, real)]
    assert combined[0] == combined[1]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_what_a_seed_takes_from_another_is_what_an_ordinary_run_makes(real: Path, tmp_path: Path) -> None:
    alone, log = tmp_path / "alone", tmp_path / "log"
    assert start(alone, log, "--set", "seed=1", "--set", "prepare.synthetic.seed=0").wait() == 0, log.read_text()
    assert artifacts(alone) == artifacts(real / "seeds" / "1")
