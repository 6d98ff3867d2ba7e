"""Mutants of a source file: mutmut's operators and the removal of a call, without what no test should pin.

Left out: annotations, imports, decorators, `__repr__`, defaults declared in a class body, type aliases, block sizes,
wording of errors and logs, what a progress bar shows, arguments that only guard (`strict`, `encoding`), and what the
type checker refuses nearly always: `None` in place of a value, a call without one of its positional arguments.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from itertools import islice
from typing import Any, NamedTuple

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators, operator_arg_removal, operator_assignment, operator_string

_SKIPPED = (cst.Annotation, cst.Decorator, cst.Import, cst.ImportFrom, cst.Raise, cst.Assert)
_SKIPPED_CALLS = {"debug", "info", "warning", "cast", "TypeVar", "filterwarnings", "isinstance", "len"}
_MEMORY = re.compile("CHUNK|_PER_|_A_BLOCK|^_?BATCH")  # how much is worked on at once changes no result
_GUARDS = {"strict", "encoding", "set_to_none"}


class Mutant(NamedTuple):
    """One changed file."""

    line: int
    code: str
    diff: str


def _first_string(node: cst.BaseString) -> Iterable[cst.BaseString]:
    return islice(operator_string(node), 1)


def _removed_keyword(node: cst.Call) -> Iterable[cst.Call]:
    for place, argument in enumerate(node.args):
        if argument.keyword is not None and argument.keyword.value not in _GUARDS:
            yield node.with_changes(args=[*node.args[:place], *node.args[place + 1 :]])


def _removed_call(node: cst.SimpleStatementLine) -> Iterable[cst.CSTNode]:
    call = node.body[0].value if isinstance(node.body[0], cst.Expr) else None
    if isinstance(call, cst.Call) and _called(call) not in _SKIPPED_CALLS:
        yield cst.parse_statement("pass")


def _called(node: cst.Call) -> str:
    name = node.func.attr if isinstance(node.func, cst.Attribute) else node.func
    return name.value if isinstance(name, cst.Name) else ""


_REPLACED: dict[Any, Any] = {operator_string: _first_string, operator_arg_removal: _removed_keyword}
_OPERATORS: list[tuple[type, Any]] = [
    *((kind, _REPLACED.get(made, made)) for kind, made in mutation_operators if made is not operator_assignment),
    (cst.SimpleStatementLine, _removed_call),
]


class _Visitor(cst.CSTVisitor):
    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int, cst.CSTNode, cst.CSTNode]] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.ClassDef | cst.FunctionDef | cst.Module):
            for statement in node.body.body if isinstance(node, cst.ClassDef | cst.FunctionDef) else node.body:
                if not _declares(node, statement):
                    statement.visit(self)
            return False
        if isinstance(node, _SKIPPED):
            return False
        if isinstance(node, cst.Arg) and node.keyword is not None and node.keyword.value in _GUARDS:
            return False
        if isinstance(node, cst.Call):
            if _called(node) == "track":
                node.args[0].visit(self)
            if _called(node) in {*_SKIPPED_CALLS, "track"}:
                return False
        position = self.get_metadata(PositionProvider, node, None)
        for kind, operator in _OPERATORS:
            if isinstance(node, kind):
                self.found += [(position.start.line if position else 0, node, changed) for changed in operator(node)]
        return True


def _declares(parent: cst.CSTNode, statement: cst.CSTNode) -> bool:
    """Whether it is no behaviour: a field of a class, a type alias, a size of blocks, or how an object prints."""
    if isinstance(statement, cst.FunctionDef):
        return statement.name.value == "__repr__"
    if not isinstance(statement, cst.SimpleStatementLine):
        return False
    first = statement.body[0]
    if isinstance(parent, cst.Module) and isinstance(first, cst.Assign):
        name = first.targets[0].target
        sizes_memory = isinstance(name, cst.Name) and bool(_MEMORY.search(name.value))
        return sizes_memory or isinstance(first.value, cst.Subscript)
    return isinstance(parent, cst.ClassDef)


def count(code: str) -> int:
    """How many mutants `mutant` can make of a file."""
    return len(_visited(code)[1])


def mutant(code: str, number: int) -> Mutant | None:
    """One of them; None where it is no Python."""
    module, found = _visited(code)
    line, node, changed = found[number]
    after = cst.ensure_type(module.deep_replace(node, changed), cst.Module).code
    try:
        compile(after, "mutant", "exec")
    except SyntaxError:
        return None
    lines = list(difflib.unified_diff(code.splitlines(), after.splitlines(), lineterm="", n=0))
    return Mutant(line, after, "\n".join(lines[3:]))


def _visited(code: str) -> tuple[cst.Module, list[tuple[int, cst.CSTNode, cst.CSTNode]]]:
    visitor = _Visitor()
    module = MetadataWrapper(cst.parse_module(code)).visit(visitor)
    return module, visitor.found
