"""Random sequences of additions, removals, compactions and reloads, against a dictionary."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import DataError
from recsys.retrieval.index import ItemIndex
from tests.retrieval.conftest import CONFIGS, WIDTH, brute_force, clustered

Labels = st.lists(st.integers(0, 25), min_size=1, max_size=6, unique=True)
Changes = st.lists(
    st.tuples(st.sampled_from(["add", "remove"]), Labels)
    | st.tuples(st.sampled_from(["compact", "reload"]), st.just([])),
    max_size=12,
)


def reloaded(index: ItemIndex) -> ItemIndex:
    with tempfile.TemporaryDirectory() as folder:
        index.save(Path(folder))
        return ItemIndex.load(Path(folder))


@settings(max_examples=15, deadline=None)
@given(changes=Changes, kind=st.sampled_from(["flat", "hnsw", "ivf-sq8"]))
def test_it_holds_what_a_dictionary_holds(changes: list[tuple[str, list[int]]], kind: str) -> None:
    stock = iter(clustered(120, seed=4))
    held = {label: next(stock) for label in range(12)}
    index = ItemIndex.build(np.stack(list(held.values())), list(held), CONFIGS[kind])
    for change, labels in changes:
        if change == "add":
            new = {label: next(stock) for label in labels}
            if held.keys() & new.keys():
                with pytest.raises(DataError, match="already"):
                    index.add(labels, np.stack(list(new.values())))
            else:
                index.add(labels, np.stack(list(new.values())))
                held |= new
        elif change == "remove":
            if set(labels) <= held.keys():
                index.remove(labels)
                held = {label: vector for label, vector in held.items() if label not in labels}
            else:
                with pytest.raises(DataError, match="not in the index"):
                    index.remove(labels)
        elif change == "compact":
            index.compact()
        else:
            index = reloaded(index)
        assert len(index) == len(held)
        keys = np.array(sorted(held), dtype=np.int64)
        vectors = np.array([held[key] for key in keys], dtype=np.float32).reshape(-1, WIDTH)
        queries = clustered(3, seed=5)
        found = index.search(queries, 30)
        np.testing.assert_array_equal(found.labels[:, : len(held)], keys[brute_force(vectors, queries, 30)[0]])
        assert (found.labels[:, len(held) :] == -1).all()
