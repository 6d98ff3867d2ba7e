"""A generated dataset for demonstrations and tests: no download, no licence, and a known order of models.

Items form product lines (of a brand, or a series of books), each a chain: an accessory after the main item, the next
volume. Users have latent tastes that drift from one set of groups to another. The next purchase often continues the
chain, preferably in the same line; otherwise it is a popular item that fits the taste. So popularity has some signal,
item-kNN captures tastes, and only sequence models learn the chains.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from recsys.data.config import SyntheticConfig
from recsys.data.raw import RAW_SCHEMA, RawData
from recsys.data.words import (
    AUDIENCES,
    BRANDS,
    GROUPS,
    LINES,
    MATERIALS,
    MOODS,
    QUALITIES,
    SERIES_DEPARTMENT,
    SERIES_PLACES,
    SERIES_SUBJECTS,
)
from recsys.tables import FloatArray, IntArray

CHAIN = len(GROUPS[0].products)
POPULARITY_EXPONENT = 0.7
TASTE_CONCENTRATION = 0.12  # small: a user's taste covers few groups
FOLLOW, FOLLOW_OLDER = 0.5, 0.1  # the next purchase continues the newest item, or the one before it
LINE_BOOST = 5.0  # preference for continuing a chain in its own line
ELSEWHERE = 1e-4  # weight of the taste when a chain is continued, for exhausted chains
MISSING_DESCRIPTION = 0.03
SHORTEST = 5
BLOCK = 4_000_000  # users x items that are drawn at once
START, SPAN, DAY = 1_640_995_200, 700, 86_400  # 2022-01-01; days over which users arrive; seconds


class World(NamedTuple):
    """Structure of the items: group [N], line within the group [N], position in the chain [N]; popularity [N]."""

    groups: IntArray
    lines: IntArray
    positions: IntArray
    popularity: FloatArray

    @property
    def kinds(self) -> IntArray:
        """[N] product kinds, numbered by group, then by position in the chain."""
        return self.groups * CHAIN + self.positions


def generate(config: SyntheticConfig, *, seed: int) -> RawData:
    """The dataset of a seed: interactions ordered by time, items with title, brand, categories and description."""
    rng = np.random.default_rng([seed, config.num_users, config.num_items, config.num_interactions])
    world = _world(config.num_items, rng)
    item_ids = np.array([f"P{number:05d}" for number in rng.permutation(config.num_items)])
    items = _catalogue(world, item_ids, rng)
    users, sequence, times = _purchases(config, world, rng)
    order = np.lexsort((users, times))
    columns = {
        "user_id": [f"U{number:05d}" for number in users[order]],
        "item_id": item_ids[sequence[order]].tolist(),
        "timestamp": times[order],
    }
    strings = {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64}
    return RawData(pl.DataFrame(columns, schema=strings).cast(RAW_SCHEMA), items, {"kind": "synthetic", "seed": seed})


def _world(num_items: int, rng: np.random.Generator) -> World:
    number = np.arange(num_items)
    positions, column = number % CHAIN, number // CHAIN
    groups, lines = column % len(GROUPS), column // len(GROUPS)
    ranks = rng.permutation(num_items) + 1
    return World(groups, lines, positions, (ranks**-POPULARITY_EXPONENT).astype(np.float32))


def _purchases(config: SyntheticConfig, world: World, rng: np.random.Generator) -> tuple[IntArray, IntArray, IntArray]:
    """Users, items and times [R], user by user."""
    lengths = _lengths(config, rng)
    size = max(1, BLOCK // config.num_items)
    parts = [_sequences(lengths[start : start + size], world, rng) for start in range(0, config.num_users, size)]
    users = np.repeat(np.arange(config.num_users), lengths)
    arrivals = START + rng.integers(0, SPAN * DAY, config.num_users)
    gaps = 60 + (rng.exponential(9 * DAY, len(users))).astype(np.int64)
    passed = np.cumsum(gaps)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    return users, np.concatenate(parts), arrivals[users] + passed - passed[starts]


def _lengths(config: SyntheticConfig, rng: np.random.Generator) -> IntArray:
    """Items a user [U]: log-normal, at most half the catalogue."""
    least = max(1, min(SHORTEST, config.num_interactions // config.num_users))
    weights = rng.lognormal(0, 0.8, config.num_users)
    spare = max(0, config.num_interactions - least * config.num_users)
    return np.minimum(least + rng.multinomial(spare, weights / weights.sum()), config.num_items // 2)


def _sequences(lengths: IntArray, world: World, rng: np.random.Generator) -> IntArray:
    """The items of some users, user by user, each item at most once."""
    num_users, num_items = len(lengths), len(world.groups)
    concentration = np.full(len(GROUPS), TASTE_CONCENTRATION)
    early, late = (rng.dirichlet(concentration, num_users).astype(np.float32) for _ in range(2))
    found = np.full((num_users, lengths.max()), -1, dtype=np.int64)
    free = np.ones((num_users, num_items), dtype=np.bool_)
    for step in range(lengths.max()):
        users = np.flatnonzero(lengths > step)
        progress = (step / lengths[users])[:, None].astype(np.float32)
        taste = (1 - progress) * early[users] + progress * late[users] + np.float32(1e-3)
        weights = taste[:, world.groups] * world.popularity
        if step:
            weights = _continued(weights, found[users, :step], world, rng)
        # The smallest of exponential variables with these rates falls on an item with probability weight / sum.
        with np.errstate(divide="ignore"):
            drawn = rng.standard_exponential(weights.shape, dtype=np.float32) / (weights * free[users])
        chosen = np.argmin(drawn, axis=1)
        found[users, step] = chosen
        free[users, chosen] = False
    return found[found >= 0]


def _continued(weights: FloatArray, past: IntArray, world: World, rng: np.random.Generator) -> FloatArray:
    """Weights [B, N], where users who continue a chain of their `past` [B, t] get those of its next kind of product."""
    draw = rng.random(len(past))
    origin = np.where(draw < FOLLOW, past[:, -1], past[:, max(0, past.shape[1] - 2)])
    kind = (world.kinds[origin] + 1) % (len(GROUPS) * CHAIN)
    own = world.lines == world.lines[origin][:, None]
    chain = (world.kinds == kind[:, None]) * world.popularity * np.where(own, np.float32(LINE_BOOST), np.float32(1))
    continues = (draw < FOLLOW + FOLLOW_OLDER)[:, None]
    return np.where(continues, chain + np.float32(ELSEWHERE) * weights, weights)


def _catalogue(world: World, item_ids: npt.NDArray[np.str_], rng: np.random.Generator) -> pl.DataFrame:
    """item_id, title, brand, categories, description; a few descriptions are missing."""
    names = _line_names(int(world.lines.max()) + 1, rng)
    rows = []
    for item, (group, line, position) in enumerate(zip(world.groups, world.lines, world.positions, strict=True)):
        at = GROUPS[group]
        brand, name = names[group, line]
        product = at.products[position]
        title = f"{name}, {product}" if at.department == SERIES_DEPARTMENT else f"{brand} {name} {product}"
        text = None if rng.random() < MISSING_DESCRIPTION else _description(at.department, at.name, product, rng)
        path = " > ".join((at.department, at.name, *(() if at.department == SERIES_DEPARTMENT else (f"{product}s",))))
        rows.append((str(item_ids[item]), title, brand, path, text))
    columns = ("item_id", "title", "brand", "categories", "description")
    return pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row")


def _line_names(num_lines: int, rng: np.random.Generator) -> dict[tuple[int, int], tuple[str, str]]:
    """(group, line) -> its brand and its name; names differ within a group as long as the lists allow it."""
    names: dict[tuple[int, int], tuple[str, str]] = {}
    for group, at in enumerate(GROUPS):
        books = at.department == SERIES_DEPARTMENT
        first, second = (SERIES_SUBJECTS, SERIES_PLACES) if books else (BRANDS, LINES)
        for line, pick in enumerate(np.resize(rng.permutation(len(first) * len(second)), num_lines)):
            one, two = first[pick // len(second)], second[pick % len(second)]
            brand = BRANDS[int(rng.integers(len(BRANDS)))]
            names[group, line] = (f"{brand} Press", f"The {one} {two}") if books else (one, two)
    return names


def _description(department: str, group: str, product: str, rng: np.random.Generator) -> str:
    def one(words: tuple[str, ...]) -> str:
        return words[int(rng.integers(len(words)))]

    if department == SERIES_DEPARTMENT:
        return f"{product} of a {one(MOODS)} {group.lower()} story, told for {one(AUDIENCES)}."
    quality, second = one(QUALITIES), one(QUALITIES)
    ending = f" and {second}" if second != quality else ""
    return f"{product} in {one(MATERIALS)}: {quality}{ending}, made for {one(AUDIENCES)}."
