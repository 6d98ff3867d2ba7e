"""A catalogue of seven items for the tests of tasks, and configurations with some tasks alone."""

import polars as pl

from recsys.instructions.config import InstructConfig, TaskWeights
from recsys.tables import Catalog, Histories

RED, BLUE, GLASS, POT, IRON, RAKE, NAMELESS = range(7)
CATALOG = Catalog(
    pl.DataFrame(
        {
            "item_id": ["a", "b", "c", "d", "e", "f", "g"],
            "title": ["Red iron pan", "Blue iron pan", "Glass lid", "Steel pot", "Iron lid", "Rake", None],
            "brand": ["Ola", "Ola", "Bo", "Ola", "Bo", None, None],
            "categories": ["Kitchen > Pans", "Kitchen > Pans", "Kitchen > Lids", "Pots", "Kitchen > Lids", None, None],
            "description": ["For one egg.", None, "To look in.", "For soup.", None, "For leaves.", None],
        }
    )
)
BARE = Catalog(pl.DataFrame({"item_id": CATALOG.item_ids}))


def histories(*lists: list[int]) -> Histories:
    return Histories.from_lists([f"u{n}" for n in range(len(lists))], list(lists))


def only(*tasks: str, weight: float = 1.0, **settings: object) -> InstructConfig:
    """A configuration in which these tasks alone have a weight."""
    weights = {name: weight if name in tasks else 0.0 for name in TaskWeights.model_fields}
    return InstructConfig.model_validate({"weights": weights, **settings})
