"""The served policy is decided on training interactions alone, by the share of repeats."""

from pathlib import Path

import polars as pl
import pytest

from recsys.data.policy import ServedPolicy, Setting
from recsys.errors import ArtifactError
from recsys.tables import INTERACTION_SCHEMA, TEST, TRAIN, UNUSED, VALIDATION, Interactions


def interactions(items: list[str], splits: list[int] | None = None) -> Interactions:
    """Of one user, unless an item names another one: `user/item`."""
    rows = [
        ((item.split("/")[0], item.split("/")[1]) if "/" in item else ("u", item), time)
        for time, item in enumerate(items)
    ]
    columns = {
        "user_id": [user for (user, _), _ in rows],
        "item_id": [item for (_, item), _ in rows],
        "timestamp": [time for _, time in rows],
        "split": splits or [TRAIN] * len(items),
    }
    return Interactions(pl.DataFrame(columns, schema=INTERACTION_SCHEMA))


def chosen(data: Interactions, setting: Setting = "auto", repeat_share: float = 0.05) -> ServedPolicy:
    return ServedPolicy.choose(setting, data, repeat_share=repeat_share)


def test_one_repeated_pair_among_many_rows_brings_seen_items_back_for_nobody() -> None:
    found = chosen(interactions([f"i{n}" for n in range(240)] + ["i7"]))
    assert (found.policy, found.repeats, found.interactions) == ("seen-left-out", 1, 241)
    assert found.exclude_seen


def test_seen_items_are_kept_from_the_share_on() -> None:
    data = interactions(["a", "b", "c", "d", "e", "f", "g", "h", "i", "a"])
    assert chosen(data, repeat_share=0.1).policy == "seen-kept"
    assert chosen(data, repeat_share=0.11).policy == "seen-left-out"
    assert not chosen(data, repeat_share=0.1).exclude_seen


def test_every_repeat_counts_and_an_item_of_another_user_is_none() -> None:
    assert chosen(interactions(["a", "a", "a", "v/a", "v/b"])).repeats == 2


@pytest.mark.parametrize("split", [VALIDATION, TEST, UNUSED])
def test_only_training_interactions_count(split: int) -> None:
    items, splits = ["a", "b", "c", "a", "a"], [TRAIN, TRAIN, TRAIN, split, split]
    found = chosen(interactions(items, splits))
    assert (found.policy, found.repeats, found.interactions) == ("seen-left-out", 0, 3)
    assert chosen(interactions(items, [TRAIN] * 5)).policy == "seen-kept"


def test_a_setting_decides_by_itself_and_repeats_are_counted_anyway() -> None:
    repeated = interactions(["a", "a"])
    assert chosen(repeated, "always")[:3] == ("seen-left-out", "always", 1)
    assert chosen(interactions(["a", "b"]), "never")[:3] == ("seen-kept", "never", 0)
    assert "recommend.exclude_seen=always" in str(chosen(repeated, "always"))


def test_without_training_interactions_seen_items_are_left_out() -> None:
    assert chosen(interactions(["a"], [TEST])).policy == "seen-left-out"


def test_it_names_the_counts_and_the_share() -> None:
    text = str(ServedPolicy("seen-left-out", "auto", 1, 241, 0.05))
    assert text == (
        "seen-left-out, as 1 of 241 training interactions (0.4 %) repeat an earlier item of their user; "
        "seen items are kept from 5 % on"
    )


def test_it_survives_its_file_and_a_broken_one_is_refused(tmp_path: Path) -> None:
    found = ServedPolicy("seen-kept", "auto", 9, 20, 0.05)
    found.save(tmp_path)
    assert ServedPolicy.load(tmp_path) == found
    (tmp_path / "served.json").write_text('{"policy": "seen-kept"}')
    with pytest.raises(ArtifactError, match=r"served\.json cannot be read.*run `recommend` again"):
        ServedPolicy.load(tmp_path)
