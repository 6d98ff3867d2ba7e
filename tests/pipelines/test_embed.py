"""The stage writes text vectors and collaborative vectors, also for cold-start items."""

from pathlib import Path

import numpy as np

from pipelines import FOLDERS, STAGES
from pipelines.config import RunConfig
from pipelines.runner import run_stages
from pipelines.settings import validated
from recsys.artifacts import RunDirectory
from recsys.baselines.sasrec import Sasrec
from recsys.embeddings.neighbours import TEXT_NEIGHBOURS, TextNeighbours
from recsys.ranking.loading import SASREC_FOLDER
from recsys.tables import CandidateFilter, Histories, ItemVectors
from recsys.tracking import NullTracker

TITLES = ["red lamp", "green chair", "blue table", "yellow carpet", "green chair soft", "red lamp bright"]  # 4, 5: new


def configured(folder: Path, **embed: object) -> RunConfig:
    """Everybody buys the first four items, each beginning with another."""
    source = folder / "raw"
    source.mkdir()
    rows = [f"u{user},i{(user + step) % 4},{step}" for user in range(12) for step in range(4)]
    (source / "interactions.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    items = [f"i{number},{title}" for number, title in enumerate(TITLES)]
    (source / "items.csv").write_text("\n".join(["item_id,title", *items]))
    small = {"hidden_size": 8, "num_heads": 1, "epochs": 2, "batch_tokens": 64}
    prepare = {"source": str(source), "min_interactions": 1, "keep_cold_items": True}
    return validated(RunConfig, {"prepare": prepare, "embed": {"sasrec": small} | embed})


def run(folder: Path, config: RunConfig) -> RunDirectory:
    directory = RunDirectory(folder / "run", FOLDERS)
    with directory.lock():
        run_stages(config, directory, STAGES[:2], selected=["prepare", "embed"], tracker=NullTracker())
    return directory


def test_cold_start_items_have_the_collaborative_vector_of_their_proxies(tmp_path: Path) -> None:
    directory = run(tmp_path, configured(tmp_path))
    embeddings = directory.verified("embed")
    collaborative = ItemVectors.load(embeddings / "collaborative.parquet")
    vectors = dict(zip(collaborative.item_ids, collaborative.vectors, strict=True))
    assert sorted(vectors) == [f"i{number}" for number in range(6)]
    np.testing.assert_array_equal(vectors["i4"], vectors["i1"])
    np.testing.assert_array_equal(vectors["i5"], vectors["i0"])
    assert len({vector.tobytes() for vector in collaborative.vectors}) == 4
    history = Histories.from_lists(["u"], [[2, 3]])
    unseen = CandidateFilter.unseen(history)
    ranked = Sasrec.load(embeddings / SASREC_FOLDER).rank(history, k=6, candidates=unseen)
    assert set(ranked.items[0].tolist()) == {0, 1, 4, 5, -1}
    assert len(set(ranked.scores[0, :4].round(6).tolist())) == 2, "but for the last bits"
    assert directory.existing_record("embed").notes["num_cold_items"] == 2
    neighbours = TextNeighbours.load(embeddings / TEXT_NEIGHBOURS)
    assert [collaborative.item_ids[item] for item in neighbours.items] == ["i0", "i1", "i2", "i3"]


def test_text_alone_needs_no_neighbours(tmp_path: Path) -> None:
    embeddings = run(tmp_path, configured(tmp_path, collaborative=False)).verified("embed")
    assert {path.name for path in embeddings.iterdir()} == {"text.parquet", "text_encoder", "stage.json"}


def test_a_history_of_one_item_trains_nothing_and_an_item_without_words_gets_the_mean(tmp_path: Path) -> None:
    """Item 4 is the only training item of its user; item 5 has a title without a word that others have."""
    config = configured(tmp_path)
    source = tmp_path / "raw"
    with (source / "interactions.csv").open("a") as file:
        file.write("\nv,i4,1\nv,i0,2\nv,i1,3")  # two of them are for validation and test
    (source / "items.csv").write_text((source / "items.csv").read_text().replace("red lamp bright", "?"))
    vectors = ItemVectors.load(run(tmp_path, config).verified("embed") / "collaborative.parquet").vectors
    np.testing.assert_array_equal(vectors[4], vectors[1])
    np.testing.assert_allclose(vectors[5], vectors[:4].mean(axis=0), rtol=1e-5, atol=1e-7)
