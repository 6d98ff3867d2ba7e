"""A dataset survives the disk, the sample in data/ works as written, and the real datasets come through unchanged."""

from pathlib import Path

import pytest

from recsys.data.config import PrepareConfig, SyntheticConfig
from recsys.data.dataset import Dataset, load_dataset
from recsys.errors import DataError

REPOSITORY = Path(__file__).parents[2]
DATASETS = REPOSITORY.parent / "shared" / "datasets"
TINY = SyntheticConfig(num_users=60, num_items=90, num_interactions=700)


def test_save_and_load(tmp_path: Path) -> None:
    dataset = load_dataset("synthetic", synthetic=TINY, min_interactions=2)
    dataset.save(tmp_path)
    again = Dataset.load(tmp_path)
    assert again.interactions.frame.equals(dataset.interactions.frame)
    assert again.catalog.frame.equals(dataset.catalog.frame)
    assert again.card == dataset.card


def test_the_sample_is_importable() -> None:
    dataset = load_dataset(REPOSITORY / "data" / "sample", min_interactions=2)
    assert dataset.card["rejected"] == {}
    assert dataset.card["items_without_texts"] == 0
    assert dataset.card["splits"]["test"] == dataset.card["users"]


def test_a_time_split_of_real_times_and_none_of_positions(tmp_path: Path) -> None:
    splits = load_dataset("synthetic", synthetic=TINY, min_interactions=1, split="time").card["splits"]
    assert 0 < splits["test"] <= 60
    rows = "".join(f"u{user},i{(user + n) % 7},{n}\n" for user in range(9) for n in range(5))
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\n" + rows)
    with pytest.raises(DataError, match=r"positions .*leave-one-out"):
        load_dataset(tmp_path, min_interactions=1, split="time")


def test_windows_must_leave_something_to_train_on() -> None:
    with pytest.raises(ValueError, match="leave nothing to train on"):
        PrepareConfig(validation_share=0.5, test_share=0.5)


@pytest.mark.parametrize(
    ("name", "users", "items", "rows"), [("beauty", 22363, 12101, 198502), ("toys", 19412, 11924, 167597)]
)
def test_real_datasets_come_through_unchanged(name: str, users: int, items: int, rows: int) -> None:
    if not (DATASETS / name).is_dir():
        pytest.skip(f"the dataset {name} is not beside this repository")
    card = load_dataset(DATASETS / name).card
    assert (card["users"], card["items"], card["interactions"]) == (users, items, rows)
    assert card["time_unit"] == "positions"
    assert card["exact_duplicates"] == card["outside_k_core"] == card["items_not_listed"] == 0
