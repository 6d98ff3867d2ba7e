"""Request bodies: strict types, every field bounded. The engine validates what types cannot."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from recsys.tables import LONGEST_ID
from serving.engine.interface import Where

Id = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_ID)]
UserId = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_ID, pattern=r"^[^\r\n]+$")]
Number = Annotated[float, Field(allow_inf_nan=False)]
Vector = Annotated[list[Number], Field(min_length=1, max_length=4096)]
Ids = Annotated[list[Id], Field(max_length=1000)]
Count = Annotated[int, Field(ge=1, le=100)]
Filters = Annotated[
    dict[Id, Annotated[list[Id], Field(min_length=1, max_length=100)]],
    BeforeValidator(lambda values: _at_most(8, values)),
    Field(max_length=8),
]
Texts = Annotated[
    dict[Id, Annotated[str, StringConstraints(max_length=10_000)]],
    BeforeValidator(lambda values: _at_most(64, values)),
    Field(max_length=64),
]


def _at_most(limit: int, values: object) -> object:
    """Checked before the entries, whose validation would take long for very many."""
    if isinstance(values, dict) and len(values) > limit:
        raise ValueError(f"got {len(values)} entries, at most {limit} are allowed")
    return values


def as_where(filters: dict[str, list[str]]) -> Where:
    """The filters of a request body in the engine's form."""
    return tuple((column, tuple(values)) for column, values in filters.items())


class RequestBody(BaseModel):
    """Base of request bodies: no unknown keys, no type coercion (`"10"` is not 10)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _few_keys(cls, values: object) -> object:
        if isinstance(values, dict) and len(values) > len(cls.model_fields):  # each would add a line to the error
            raise ValueError(f"got {len(values)} keys; allowed are {', '.join(cls.model_fields)}")
        return values


class RecommendBody(RequestBody):
    """A history, or a user whose stored history is used; a given history takes precedence."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"history": ["B00A", "B00B"], "k": 5}, {"user_id": "u1", "exclude": ["B00A"]}]}
    )

    history: Ids | None = Field(
        None, description="item ids, the oldest first; unknown ids are ignored, and named by a notice"
    )
    user_id: UserId | None = None
    k: Count = Field(10, description="how many items")
    exclude: Ids = Field([], description="items not to recommend")
    exclude_seen: bool | None = Field(None, description="leave out the history's items; null uses the bundle's default")
    where: Filters = Field({}, description="column of the catalogue: allowed values")
    deadline_ms: Annotated[int, Field(ge=1, le=60_000)] | None = Field(None, description="null uses the default")

    @model_validator(mode="after")
    def _require_history_or_user(self) -> Self:
        if self.history is None and self.user_id is None:
            raise ValueError("history or user_id is required; a new visitor has the history []")
        return self


class SimilarBody(RequestBody):
    """Items similar to one."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"item_id": "B00A", "k": 5}]})

    item_id: Id
    k: Count = 10
    where: Filters = {}


class RetrieveBody(RequestBody):
    """Exactly one of a latent vector and an item, for nearest neighbours, and a history, for the diffusion ranking."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"item_id": "B00A", "k": 5}, {"history": ["B00A"]}]})

    vector: Vector | None = None
    history: Ids | None = None
    item_id: Id | None = None
    k: Count = 10
    where: Filters = {}
    user_id: UserId | None = None

    @model_validator(mode="after")
    def _require_one(self) -> Self:
        given = [name for name in ("vector", "history", "item_id") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"exactly one of vector, history and item_id is required: {', '.join(given) or 'none'} given"
            )
        return self


class EventsBody(RequestBody):
    """New interactions of a user, the oldest first."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"user_id": "u1", "item_ids": ["B00A"]}]})

    user_id: UserId
    item_ids: Annotated[list[Id], Field(min_length=1, max_length=100)]


class ReloadBody(RequestBody):
    """The bundle to load; without `source` the present one is loaded again."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}, {"source": "bundles/next"}]})

    source: Annotated[str, StringConstraints(min_length=1, max_length=4096)] | None = None


class NewItemBody(RequestBody):
    """A new item: its text columns, and its vector where the bundle has no text encoder."""

    item_id: Id
    texts: Texts = {}
    vector: Vector | None = None


class ItemsBody(RequestBody):
    """Item updates in this order, each list all or none."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"withdraw": ["B00A"]}]})

    add: Annotated[list[NewItemBody], Field(max_length=100)] = []
    withdraw: Ids = []
    restore: Ids = []

    @model_validator(mode="after")
    def _require_items(self) -> Self:
        if not (self.add or self.withdraw or self.restore):
            raise ValueError("items to add, withdraw or restore are required")
        return self
