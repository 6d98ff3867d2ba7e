"""What is a mutant, and what is none."""

import pytest

pytest.importorskip("mutmut")

from tests.mutation.mutants import count, mutant

SOURCE = '''"""A module."""
Alias = dict[str, int]
_CHUNK = 8

class Point:
    """Fields are declared."""

    x: int = 1

    def __repr__(self) -> str:
        return "a" + "b"

    def moved(self, by: int | None = None) -> int:
        """Moves it."""
        if by is not None and by < 0:
            raise ValueError(f"by={by + 1}; 0 or more is needed")
        self.note()
        logger.info("moved")
        return sum([self.x, by or 0], start=0)

    def paired(self, by: list[int]) -> Iterable[tuple[int, int]]:
        return zip(by, by, strict=True)
'''


def test_mutants_change_behaviour_and_nothing_else() -> None:
    made = [mutant(SOURCE, number) for number in range(count(SOURCE))]
    diffs = {one.diff.split("\n+")[1].strip() for one in made if one is not None}
    assert diffs == {
        "if by is None and by < 0:",
        "if by is not None or by < 0:",
        "if by is not None and by <= 0:",
        "if by is not None and by < 1:",
        "pass",
        "return sum([self.x, by or 0], )",
        "return sum([self.x, by and 0], start=0)",
        "return sum([self.x, by or 1], start=0)",
        "return sum([self.x, by or 0], start=1)",
    }
    assert {one.line for one in made if one is not None} == {15, 17, 19}
