"""Other held-out items, intentions included, change no instruction example of any task."""

import polars as pl
import pytest

import pipelines.instruct
from pipelines.config import RunConfig
from pipelines.instruct import training_examples
from recsys.data.dataset import Dataset, load_dataset
from recsys.data.histories import training_histories
from recsys.instructions.config import InstructConfig, TaskWeights
from recsys.tables import INTENTION, TEST, TRAIN, VALIDATION, Interactions, Users
from tests.leaks.battery import with_redrawn_items
from tests.leaks.test_planted import all_histories

CONFIG = RunConfig(instruct=InstructConfig(weights=TaskWeights(**dict.fromkeys(TaskWeights.model_fields, 1.0))))
HELD_OUT = "held out"


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Half of the interactions state an intention, half of the users a preference."""
    made = load_dataset("synthetic", synthetic={"num_users": 80, "num_items": 60, "num_interactions": 1000})
    frame = made.interactions.frame.with_row_index("row")
    stated = pl.when(pl.col("row") % 2 == 0).then("wants " + pl.col("row").cast(pl.String))
    texts = pl.when(pl.col("split") == TRAIN).then(stated).otherwise(pl.lit(HELD_OUT))
    ids = frame["user_id"].unique(maintain_order=True)[::2]
    users = Users(pl.DataFrame({"user_id": ids, "preference": "likes " + ids}))
    return Dataset(Interactions(frame.with_columns(texts.alias(INTENTION)).drop("row")), made.catalog, made.card, users)


def with_other_held_out(dataset: Dataset) -> Dataset:
    changed = with_redrawn_items(dataset, (VALIDATION, TEST), None).frame
    other = pl.when(pl.col("split") == TRAIN).then(INTENTION).otherwise(pl.lit("something else"))
    return Dataset(
        Interactions(changed.with_columns(other.alias(INTENTION))), dataset.catalog, dataset.card, dataset.users
    )


def test_examples_are_of_training_interactions_alone(dataset: Dataset) -> None:
    examples, others = (training_examples(each, CONFIG) for each in (dataset, with_other_held_out(dataset)))
    assert {e.task for e in examples} == TaskWeights.model_fields.keys()
    assert examples == others
    assert {e.source for e in examples} == {"", "columns", "composed"}
    assert not any(HELD_OUT in e.text for e in examples)


def test_an_intention_stands_with_the_item_of_its_row(dataset: Dataset) -> None:
    frame = dataset.interactions.frame.with_row_index("row")
    chosen = dict(zip(frame["row"], frame["item_id"], strict=True))
    stated = [e for e in training_examples(dataset, CONFIG) if e.text.startswith("wants")]
    assert len(stated) > 100
    assert all(e.item == dataset.catalog.positions[chosen[int(e.text.split()[1])]] for e in stated)


def test_a_preference_stands_with_a_history_of_its_user(dataset: Dataset) -> None:
    training = training_histories(dataset.interactions, dataset.catalog)
    stated = [e for e in training_examples(dataset, CONFIG) if e.text.startswith("likes")]
    assert len(stated) > 20
    assert all(e.history == tuple(training[training.user_ids.index(e.text.split()[1])]) for e in stated)


def test_a_planted_leak_is_found(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipelines.instruct, "training_histories", all_histories)
    monkeypatch.setattr(pipelines.instruct, "training_intentions", lambda interactions: interactions.intentions)
    examples, others = (training_examples(each, CONFIG) for each in (dataset, with_other_held_out(dataset)))
    for task in TaskWeights.model_fields.keys() - {"item_to_id", "id_to_item"}:
        assert [e for e in examples if e.task == task] != [e for e in others if e.task == task], task
