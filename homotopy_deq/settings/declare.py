"""Declare a setting once: its default, what it is for, and what may stand in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from inspect import cleandoc
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """The numbers that a setting may be.

    Arguments:
        words: what is wanted, as in "must be at least 1".
        holds: whether a number is one; False for NaN.
    """

    words: str
    holds: Callable[[float], bool]


def at_least(low: float) -> Range:
    """Return the finite numbers from `low` on."""
    return Range(f"at least {low}" if low else "0 or more", lambda x: low <= x < math.inf)


def above(low: float, words: str = "") -> Range:
    """Return the finite numbers beyond `low`."""
    return Range(words or f"above {low}", lambda x: low < x < math.inf)


def between(low: float, high: float) -> Range:
    """Return the numbers between two, which are not among them."""
    return Range(f"in ({low}, {high})", lambda x: low < x < high)


def within(low: float, high: float) -> Range:
    """Return the numbers between two, the first of which is among them."""
    return Range(f"in [{low}, {high})", lambda x: low <= x < high)


def setting(
    default: Any,
    help: str,
    within: Range | None = None,
    *,
    option: str | None = None,
    also: str | None = None,
    metavar: str | None = None,
    panel: str | None = None,
    advice: str = "",
    decides: bool = True,
    argument: bool = False,
) -> Any:
    """Return a dataclass field that says what it is for.

    Arguments:
        default: its value where none is given; `...` for none.
        help: what a person should know, in a sentence.
        within: what may stand in it.
        option: its name on the command line and in files, where that is not the field's.
        also: another option that means the same.
        metavar: what stands for its value in a help text.
        panel: under which title a help text shows it; by default its class's PANEL.
        advice: what an error says beside what was wanted.
        decides: whether a run's results depend on it.
        argument: whether it has a place on the command line, not an option.
    """
    about = {
        "help": help, "within": within, "option": option, "also": also, "metavar": metavar,
        "panel": panel, "advice": advice, "decides": decides, "argument": argument,
    }  # fmt: skip
    return field(default=MISSING if default is ... else default, metadata=about)


def like(kind: type, name: str) -> Any:
    """Return a dataclass field that is declared as that of another dataclass."""
    declared: Field[Any] = kind.__dataclass_fields__[name]  # type: ignore[attr-defined]
    return field(default=declared.default, metadata=declared.metadata)


@dataclass(frozen=True)
class Leaf:
    """A setting in a tree of dataclasses.

    Arguments:
        name: of its option, unique in the tree, with underscores.
        place: names of the fields that lead to it.
        kind: of its value, None among them where it may be.
        default: or `dataclasses.MISSING`.
        about: what `setting` was told.
        given: whether it is kept only where it is given.
    """

    name: str
    place: tuple[str, ...]
    kind: Any
    default: Any
    about: Mapping[str, Any]
    given: bool

    @property
    def optional(self) -> bool:
        """Whether None may stand in it."""
        return type(None) in get_args(self.kind)

    @property
    def choices(self) -> tuple[Any, ...]:
        """All that may stand in it, or () where there are many."""
        return get_args(self._some) if get_origin(self._some) is Literal else ()

    @property
    def plain(self) -> Any:
        """The kind of its value, without None and choices."""
        return str if self.choices else self._some

    @property
    def _some(self) -> Any:
        return get_args(self.kind)[0] if self.optional else self.kind

    def read(self, value: Any) -> Any:
        """Return a value of JSON or TOML as one of this kind, or None; or raise ValueError."""
        if self.plain is float and type(value) is int:
            return float(value)
        if self.plain is Path and isinstance(value, str | Path):
            return Path(value)
        if value is None or type(value) is self.plain:
            return value
        kind = "str" if self.plain is Path else self.plain.__name__
        raise ValueError(f"{self.name} should be {kind}, not {value!r}")


def leaves(kind: type) -> tuple[Leaf, ...]:
    """Return the settings of a dataclass, those of the dataclasses in its fields among them."""
    return tuple(_leaves(kind))


def _leaves(
    kind: type, defaults: object = None, place: tuple[str, ...] = (), given: bool = False
) -> Iterator[Leaf]:
    hints, panel = _hints(kind), getattr(kind, "PANEL", None)
    for each in sorted(fields(kind), key=lambda each: each.kw_only is True):
        at = (*place, each.name)
        default = each.default if defaults is None else getattr(defaults, each.name)
        inner = group(each, hints)
        if inner is not None:
            held = default if isinstance(default, inner) else None
            below = _leaves(inner, held, at, given or "of" in each.metadata)
            yield from (leaf for leaf in below if leaf.name not in each.metadata.get("but", ()))
        elif each.metadata:
            about = {**each.metadata, "panel": each.metadata["panel"] or panel}
            yield Leaf(about["option"] or each.name, at, hints[each.name], default, about, given)


def group(each: Field[Any], hints: Mapping[str, Any]) -> type | None:
    """Return the dataclass whose settings a field holds, or None."""
    found = (each.metadata.get("of"), hints[each.name], *get_args(hints[each.name]))
    return next((kind for kind in found if isinstance(kind, type) and is_dataclass(kind)), None)


def given(kind: type, but: Iterable[str] = ()) -> Any:
    """Return a dataclass field for those settings of another dataclass that are given, by name.

    Arguments:
        kind: the other dataclass.
        but: names of settings that cannot be given here.
    """
    return field(default_factory=dict, metadata={"of": kind, "but": tuple(but)})


def described(kind: type[T]) -> type[T]:
    """Give a dataclass a docstring that names its settings."""
    own = (leaf for leaf in leaves(kind) if len(leaf.place) == 1)
    said = "".join(f"\n    {leaf.place[0]}: {leaf.about['help']}" for leaf in own)
    kind.__doc__ = f"{cleandoc(kind.__doc__ or '')}\n\nArguments:{said}"
    return kind


def check(settings: object) -> None:
    """Raise ValueError unless each setting of an object itself may be what it is."""
    for leaf in leaves(type(settings)):
        name, *inside = leaf.place
        if inside or (value := getattr(settings, name)) is None:
            continue
        within: Range | None = leaf.about["within"]
        if leaf.choices and value not in leaf.choices:
            wanted = " or ".join(map(repr, leaf.choices))
        elif within is not None and not within.holds(value):
            wanted = within.words
        else:
            continue
        raise ValueError(f"{leaf.name} must be {wanted}; got {value!r}.{leaf.about['advice']}")


def values(tree: object) -> dict[str, Any]:
    """Return the value of each setting by its name; None where its group is."""
    found = {}
    for leaf in leaves(type(tree)):
        value: Any = tree
        for name in leaf.place:
            value = None if value is None else getattr(value, name)
        found[leaf.name] = value
    return found


def assemble(kind: type[T], named: Mapping[str, Any]) -> T:
    """Make a tree of values by name. What is not there, or None without a meaning, is the default.

    A group that may be None is None where what it cannot be without is not given.

    Raises:
        ValueError: a value is out of its range; see `check`.
    """
    return cast(T, _assemble(kind, named, leaves(kind)))


def _assemble(kind: type, named: Mapping[str, Any], below: Iterable[Leaf], depth: int = 0) -> Any:
    made: dict[str, Any] = {}
    hints = _hints(kind)
    for each in fields(kind):
        own = [leaf for leaf in below if leaf.place[depth] == each.name]
        inner = group(each, hints)
        if "of" in each.metadata:
            there = {leaf.name: named.get(leaf.name) for leaf in own}
            made[each.name] = {name: value for name, value in there.items() if value is not None}
        elif inner is not None:
            needs = [leaf.name for leaf in own if leaf.default is MISSING]
            absent = inner is not hints[each.name] and any(named.get(n) is None for n in needs)
            made[each.name] = None if absent else _assemble(inner, named, own, depth + 1)
        else:
            for leaf in own:
                value = named.get(leaf.name)
                if value is None and not (leaf.optional and leaf.name in named):
                    value = leaf.default
                if value is not MISSING:
                    made[each.name] = value
    whole = kind(**made)
    check(whole)
    return whole


_hints: Callable[[type], dict[str, Any]] = cache(get_type_hints)
"""What the fields of a dataclass are of: its annotations are evaluated once, and at import."""


def pick(kind: str, name: str, valid: Iterable[str]) -> str:
    """Return the name, or raise ValueError that lists the valid ones."""
    names = list(valid)
    if name in names:
        return name
    close = get_close_matches(name.lower(), names, 1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    valid = "" if hint and len(names) > 20 else f" Valid: {', '.join(names)}."
    raise ValueError(f"unknown {kind} {name!r}.{hint}{valid}")
