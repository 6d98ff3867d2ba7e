"""The table of item vectors, against its definition."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import ArtifactError
from recsys.llm.items import AGES, ItemTable, ages
from recsys.tables import Histories, SemanticIds
from tests.llm.fakes import UNKNOWN, item_table, semantic_ids

CODE_ROWS = torch.randn(12, 32, generator=torch.Generator().manual_seed(2))
SEQUENCES = st.lists(st.lists(st.integers(0, 5), max_size=12), min_size=1, max_size=4)


def content(codes: list[int]) -> torch.Tensor:
    return torch.stack([CODE_ROWS[level * 4 + code] for level, code in enumerate(codes)]).sum(0)


def grown() -> SemanticIds:
    """The six items, and one behind them."""
    known = semantic_ids()
    return SemanticIds([*known.item_ids, "new"], np.vstack([known.codes, [2, 1, 0]]), known.num_codes)


def test_a_vector_is_the_sum_of_its_codes_rows_and_its_own() -> None:
    table = item_table()
    for item, codes in enumerate(semantic_ids().codes.tolist()):
        own = 0 if item == UNKNOWN else table.rows[item]
        torch.testing.assert_close(table.vectors(CODE_ROWS)[item], content(codes) + own)


def test_an_item_that_training_never_predicts_is_its_content_alone() -> None:
    table = item_table()
    table.vectors(CODE_ROWS).square().sum().backward()  # type: ignore[no-untyped-call]
    assert table.rows.grad is not None
    assert not table.rows.grad[UNKNOWN].any()
    assert table.rows.grad[:UNKNOWN].any(1).all()


def test_training_leaves_out_some_items_own_rows_and_evaluation_none() -> None:
    table = item_table(dropped=0.5)
    whole, contents = table.vectors(CODE_ROWS)[:UNKNOWN], (table.vectors(CODE_ROWS) - table.rows)[:UNKNOWN]
    table.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = [table.vectors(CODE_ROWS)[:UNKNOWN] for _ in range(200)]
    own = torch.stack([(vectors == whole).all(1) for vectors in drawn])
    alone = torch.stack([torch.isclose(vectors, contents).all(1) for vectors in drawn])
    assert bool((own ^ alone).all())
    assert 0.4 < float(own.float().mean()) < 0.6
    assert float(own.all(1).float().mean()) < 0.1, "items are drawn one by one"


def test_items_added_later_are_content_alone_and_change_no_other() -> None:
    table, more = item_table(), item_table().over(grown())
    torch.testing.assert_close(more.vectors(CODE_ROWS)[:6], table.vectors(CODE_ROWS), atol=0, rtol=0)
    torch.testing.assert_close(more.vectors(CODE_ROWS)[6], content([2, 1, 0]))
    histories, states = Histories.from_lists(["u"], [[3, 1, 3]]), torch.ones(1, 32)
    scores = [t.scores(states, histories, t.vectors(CODE_ROWS)) for t in (more, table)]
    torch.testing.assert_close(scores[0][:, :6], scores[1])
    assert table.over(semantic_ids()) is table


@settings(deadline=None)
@given(SEQUENCES)
def test_scores_are_products_and_items_of_the_history_have_their_term(sequences: list[list[int]]) -> None:
    table = item_table()
    states = torch.randn(len(sequences), 32, generator=torch.Generator().manual_seed(1))
    histories = Histories.from_lists([f"u{n}" for n in range(len(sequences))], sequences)
    found = table.scores(states, histories, table.vectors(CODE_ROWS))
    for user, sequence in enumerate(sequences):
        for item in range(6):
            expected = states[user] @ table.vectors(CODE_ROWS)[item]
            if item in sequence:
                ago = sequence[::-1].index(item) + 1
                group = next(g for g in range(AGES) if ago <= 2**g or g == AGES - 1)
                expected = expected + table.repeats[group]
            torch.testing.assert_close(found[user, item], expected)


def test_each_group_of_ages_is_twice_as_wide_as_the_last() -> None:
    assert ages(torch.tensor([1, 2, 3, 4, 5, 8, 9, 64, 65, 10_000])).tolist() == [0, 1, 2, 2, 3, 3, 4, 6, 7, 7]


def test_it_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    table = item_table()
    table.save(tmp_path)
    back = ItemTable.load(tmp_path)
    assert back is not None
    for name, tensor in table.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor)
    assert ItemTable.load(tmp_path / "elsewhere") is None
    (tmp_path / "items.safetensors").write_bytes(b"half")
    with pytest.raises(ArtifactError, match="run `finetune` again"):
        ItemTable.load(tmp_path)
