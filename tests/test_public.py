"""What is public says what it is, what it takes, and when an old form of it goes."""

from __future__ import annotations

import ast
import dataclasses
import enum
import inspect
import pkgutil
import re
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from types import GenericAlias
from typing import Any

import pytest
from torch import Tensor

import homotopy_deq
import solvers
from solvers.caller import warn_deprecated
from solvers.gradient.gradient import RootGradient
from tests.test_import import ROOT

PACKAGES = ["solvers", "homotopy_deq"] + [
    found.name
    for root in (solvers, homotopy_deq)
    for found in pkgutil.walk_packages(root.__path__, f"{root.__name__}.")
    if found.ispkg and ".cli" not in found.name  # whose texts are its options'
]
GATHERING = {
    "homotopy_deq.acceleration.layers.Site", "homotopy_deq.certification.smoother.Smoother",
    "homotopy_deq.cli.comparison.compare.Comparison", "homotopy_deq.cli.train.Work",
}  # fmt: skip
"""What keeps count while it works; every other dataclass is a value."""
SHAPE = re.compile(r"\((\.\.\.|[\w*. ]+,[^()]*)\)|\bshapes?\b|\b0-d\b|\bas in `")


def public() -> Iterator[tuple[str, Any]]:
    """Yield "module.name" and the class or function, for each name in an `__all__`."""
    seen = set()
    for package in PACKAGES:
        module = import_module(package)
        for name in module.__all__:
            found = getattr(module, name)
            alias = isinstance(found, GenericAlias)  # which Python 3.10 takes for a class
            told = inspect.isclass(found) or inspect.isfunction(found)
            if told and not alias and id(found) not in seen:
                seen.add(id(found))
                yield f"{package}.{name}", found


def test_a_rule_is_given_the_solvers_states_where_it_makes_use_of_them() -> None:
    rules = [found for _, found in public() if inspect.isclass(found)]
    rules = [found for found in rules if issubclass(found, RootGradient)]
    assert len(rules) > 3
    for rule in rules:
        assert rule.reuses == (rule.knowing is not RootGradient.knowing), rule


def required(found: Any) -> list[inspect.Parameter]:
    """List the arguments without a default."""
    if inspect.isclass(found) and issubclass(found, (BaseException, enum.Enum)):
        return []
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(found).parameters.values()
    return [each for each in parameters if each.default is each.empty and each.kind in kinds]


def faults(name: str, found: Any) -> Iterator[str]:
    """Say what the docstring of a public name lacks."""
    text = vars(found).get("__doc__") if inspect.isclass(found) else found.__doc__
    if not text or text.startswith(f"{found.__name__}("):  # dataclasses write such a one
        yield f"{name} has no docstring"
        return
    whole = text + (found.__init__.__doc__ or "" if inspect.isclass(found) else "")
    needed = required(found)
    yield from (
        f"{name} does not say what {each.name} is"
        for each in needed
        if not re.search(rf"\b{each.name}\b", whole)
    )
    tensors = [each for each in needed if str(each.annotation).startswith("Tensor")]
    if tensors and not SHAPE.search(whole):
        yield f"{name} takes a tensor and says no shape"


def test_every_public_name_says_what_it_is_what_it_needs_and_in_which_shape() -> None:
    names = list(public())
    assert len(names) > 300
    told = [fault for name, found in names for fault in faults(name, found)]
    assert not told, "\n".join(told)


def test_a_docstring_that_lacks_something_is_found() -> None:
    def bare(x: Tensor) -> None: ...

    def silent(x: Tensor, depth: int) -> None:
        """Do something with x."""

    assert list(faults("bare", bare)) == ["bare has no docstring"]
    assert list(faults("silent", silent)) == [
        "silent does not say what depth is",
        "silent takes a tensor and says no shape",
    ]


YEAR = re.compile(r"\b(1[6-9]|20)\d\d\b")
OURS = {"Then", "Robust"}  # solvers in turn: nobody's method


def test_every_solver_and_every_gradient_names_its_source() -> None:
    kinds = [value for value in map(vars(solvers).get, solvers.__all__) if inspect.isclass(value)]
    rules = [
        k for k in kinds if hasattr(k, "apply") and k.__module__.startswith("solvers.gradient")
    ]
    methods = [
        kind
        for kind in kinds
        if not inspect.isabstract(kind) and kind is not solvers.Gradient
        if issubclass(kind, (solvers.Solver, solvers.GMRES)) or kind in rules
    ]
    assert {"Anderson", "GMRES", "Unroll"} <= {kind.__name__ for kind in methods}
    bare = {kind.__name__ for kind in methods if not YEAR.search(kind.__doc__ or "")}
    assert bare == OURS


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def deprecations() -> list[tuple[str, str]]:
    """List the place of each deprecation and the version that it names."""
    return [
        (f"{file.relative_to(ROOT)}:{node.lineno}", ast.literal_eval(keyword.value))
        for package in ("solvers", "homotopy_deq")
        for file in sorted((ROOT / package).rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "warn_deprecated"
        for keyword in node.keywords
        if keyword.arg == "gone"
    ]


def test_no_old_form_stays_beyond_the_version_that_it_was_promised_to() -> None:
    found = deprecations()
    assert len(found) >= 4
    now = version(homotopy_deq.__version__)
    assert not [place for place, gone in found if version(gone) <= now[: len(version(gone))]]


def test_every_deprecation_goes_by_the_one_helper() -> None:
    for package in ("solvers", "homotopy_deq"):
        for file in (ROOT / package).rglob("*.py"):
            calls = re.findall(r"warn\w*\([^()]*DeprecationWarning", file.read_text())
            assert not calls or file.name == "caller.py", file


def old_steady_state() -> object:
    return solvers.SteadyState()


def old_krylov() -> object:
    return solvers.NewtonKrylov(krylov=7)


@pytest.mark.parametrize("old", [old_steady_state, old_krylov])
def test_an_old_form_works_and_names_the_line_and_the_version(old: Callable[[], object]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert isinstance(old(), solvers.Solver)
    (only,) = caught
    line = old.__code__.co_firstlineno + 1
    assert (only.category, only.filename, only.lineno) == (DeprecationWarning, __file__, line)
    assert str(only.message).endswith("The old form goes in version 0.3.")


def test_the_helper_says_what_to_write_and_when_the_old_form_goes() -> None:
    with pytest.warns(DeprecationWarning, match=r"^a is b now\. The old form goes in version 9\.$"):
        warn_deprecated("a is b now.", gone="9")


def test_every_dataclass_is_frozen_but_what_gathers() -> None:
    modules = [
        import_module(found.name)
        for root in (solvers, homotopy_deq)
        for found in pkgutil.walk_packages(root.__path__, f"{root.__name__}.")
        if not found.name.endswith("__main__")
    ]
    classes = {
        f"{module.__name__}.{name}": value
        for module in modules
        for name, value in vars(module).items()
        if dataclasses.is_dataclass(value) and getattr(value, "__module__", "") == module.__name__
    }
    thawed = {name for name, kind in classes.items() if not kind.__dataclass_params__.frozen}
    assert thawed == GATHERING
    assert len(classes) > 200
