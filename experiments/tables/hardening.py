"""Faults that were put in files, in writes and in the code, and what is seen of them."""

from __future__ import annotations

from .markdown import measured, result, section, table

FAULTS = "Faults in files and in writes"
MUTANTS = "Faults in the code that the tests see"
LINES = "Lines that the tests run"
LOW = 80  # percent


def faults() -> str:
    """Say what came of each kind of fault."""
    if not measured("faults"):
        return ""
    rows = result("faults")["result"]["by kind"]
    heads = list(rows["all"])
    return section(
        FAULTS,
        "faults",
        "Files of runs, checkpoints, saved models, comparisons, studies, journals and zip files, "
        "damaged or replaced, and writes that are killed, find the disk full or meet another "
        "writer. Other, and open: a file that has no checksum, or was sealed anew, says something "
        "else, and that is what is read. Broken would be a result that was lost, altered and "
        "believed, something executed, or an error that is no line that says what to do.",
        *table(
            ("fault", "injected", *heads),
            (
                (kind, sum(row.values()), *(n or "" for n in row.values()))
                for kind, row in rows.items()
            ),
        ),
    )


def mutants() -> str:
    """Say how many small faults in the code the tests see."""
    if not measured("mutants") or "by package" not in (body := result("mutants")["result"]):
        return ""
    rows = body["by package"]
    heads = ("killed", "hung", "survived")
    left = [each for each in body["sample"] if each["verdict"] == "survived"]
    real = [each for each in left if not each["why"].startswith("Equivalent")]
    lines = [f"- `{each['mutant'].replace('`', '')}`: {each['why']}" for each in real]
    return section(
        MUTANTS,
        "mutants",
        f"{body['mutants']} changes drawn from all that swap an operator, a comparison or a "
        "constant, negate a condition or drop a statement, each judged by those of "
        f"{body['tests']:,} tests that run its line, for at most a minute. "
        f"{100 * body['score']:.0f}% of those that are not equivalent are seen; "
        f"{body['equivalent']} of the survivors are equivalent.",
        *table(
            ("package", "mutants", *heads),
            (
                (f"`{name}`", sum(row.values()), *(row.get(head, 0) for head in heads))
                for name, row in rows.items()
            ),
        ),
        *(["", "Those that survived and are not equivalent:", "", *lines] if lines else []),
    )


def lines() -> str:
    """Say how many lines the tests run, and which files are left out most."""
    if not measured("line_coverage"):
        return ""
    body = result("line_coverage")["result"]
    low = {name: file for name, file in body["files"].items() if file["percent"] < LOW}
    rows = [(f"`{name}`", f"{each:.1f}%") for name, each in body["by package"].items()]
    below = [f"`{name}` {file['percent']:.0f}%" for name, file in low.items()]
    return section(
        LINES,
        "line_coverage",
        f"{body['percent']:.1f}% of {body['lines']:,} lines are run by the {body['tests']:,} tests "
        "of the default suite, in its own process: what only a command's process, a GPU or a slow "
        f"test runs is not counted. Files below {LOW}%: {', '.join(below) or 'none'}.",
        *table(("package", "lines run"), rows),
    )
