"""What is done to a module: one small change at a time, each a fault that a test should see."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.Mod: ast.Mult, ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip

# A type says nothing when it runs, an assert is for our own mistakes, and Python 3.11 does not
# know where the parts of an f-string are.
UNTOUCHED = (ast.Assert, ast.JoinedStr)
TYPES = ("annotation", "returns", "type_params", "bases")


@dataclass(frozen=True)
class Mutant:
    """A module with one change.

    Arguments:
        file: of the module, from the root.
        where: the function or class that holds the change, and the module's own name outside any.
        before, after: the lines that change, without their indentation.
        line, last: their numbers; the first is 1.
        source: of the whole module.
    """

    file: str
    where: str
    before: str
    after: str
    line: int
    last: int
    source: bytes

    @property
    def name(self) -> str:
        """What it is called, whatever line it is on."""
        return f"{self.file}, {self.where}: {self.before} -> {self.after}"


def changes(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Yield what may be put in place of a node, or of a part of it."""
    if isinstance(node, ast.Compare):
        for k, op in enumerate(node.ops):
            ops = [*node.ops[:k], SWAPS[type(op)](), *node.ops[k + 1 :]]
            yield node, ast.Compare(node.left, ops, node.comparators)
    elif isinstance(node, ast.BinOp) and type(node.op) in SWAPS:
        yield node, ast.BinOp(node.left, SWAPS[type(node.op)](), node.right)
    elif isinstance(node, ast.BoolOp):
        yield node, ast.BoolOp(SWAPS[type(node.op)](), node.values)
    elif isinstance(node, ast.UnaryOp):
        yield node, node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield node, ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        more = node.value + 1 if isinstance(node.value, int) else 2 * node.value or 1.0
        yield node, ast.Constant(more)
    elif isinstance(node, ast.If | ast.While | ast.IfExp):
        if not isinstance(node.test, ast.UnaryOp | ast.Compare):  # whose own changes negate
            yield node.test, ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.Return) and node.value is not None:
        yield node, ast.Return(ast.Constant(None))
    elif isinstance(node, ast.AugAssign | ast.Raise | ast.Break | ast.Continue) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ):
        yield node, ast.Pass()


def _parts(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def mutants(file: str, source: bytes) -> list[Mutant]:
    """List every change to a module, in the order of its lines."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found: list[Mutant] = []

    def walk(node: ast.AST, where: str) -> None:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            where = node.name if where == file else f"{where}.{node.name}"
        for old, new in changes(node):
            start = starts[old.lineno - 1] + old.col_offset
            end = starts[old.end_lineno - 1] + old.end_col_offset
            after = ast.unparse(ast.fix_missing_locations(new))
            if isinstance(new, ast.expr) and not isinstance(new, ast.Constant):
                after = f"({after})"  # whatever stands beside it
            changed = source[:start] + after.encode() + source[end:]
            line, last = old.lineno, old.end_lineno
            head, tail = source[starts[line - 1] : start], source[end : starts[last]]
            lines = (
                " ".join((head + middle + tail).decode().split())
                for middle in (source[start:end], after.encode())
            )
            if changed != source:
                found.append(Mutant(file, where, *lines, line, last, changed))
        types = {id(part) for field in TYPES for part in _parts(getattr(node, field, None))}
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, UNTOUCHED) and id(child) not in types:
                walk(child, where)

    walk(ast.parse(source), file)
    return sorted(found, key=lambda each: each.line)
