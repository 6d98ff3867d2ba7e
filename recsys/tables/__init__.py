"""The nouns that flow through the system; each checks its schema once, here, and is trusted afterwards.

Identifiers are the user's own strings. Inside the program an item is its row in the `Catalog` (an
*item index*); indices never leave it.
"""

from recsys.tables.candidates import POLICIES, SEEN_KEPT, SEEN_LEFT_OUT, CandidateFilter, Policy, policy_of
from recsys.tables.dislikes import Dislikes
from recsys.tables.histories import Histories, Queries
from recsys.tables.identifiers import LONGEST_ID, Identifier, identifier
from recsys.tables.interactions import (
    INTENTION,
    INTERACTION_SCHEMA,
    TEST,
    TRAIN,
    UNUSED,
    VALIDATION,
    WEIGHT,
    Catalog,
    Interactions,
    Users,
)
from recsys.tables.items import ItemVectors, SemanticIds, unit_rows
from recsys.tables.rankings import POLICY_TYPE, RANKING_SCHEMA, Rankings, TopItems, concatenate, top_k
from recsys.tables.types import BoolArray, FloatArray, IntArray, slices

__all__ = [
    "INTENTION",
    "INTERACTION_SCHEMA",
    "LONGEST_ID",
    "POLICIES",
    "POLICY_TYPE",
    "RANKING_SCHEMA",
    "SEEN_KEPT",
    "SEEN_LEFT_OUT",
    "TEST",
    "TRAIN",
    "UNUSED",
    "VALIDATION",
    "WEIGHT",
    "BoolArray",
    "CandidateFilter",
    "Catalog",
    "Dislikes",
    "FloatArray",
    "Histories",
    "Identifier",
    "IntArray",
    "Interactions",
    "ItemVectors",
    "Policy",
    "Queries",
    "Rankings",
    "SemanticIds",
    "TopItems",
    "Users",
    "concatenate",
    "identifier",
    "policy_of",
    "slices",
    "top_k",
    "unit_rows",
]
