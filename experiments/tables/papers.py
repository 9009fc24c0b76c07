"""The page of the seven papers: each claim, theirs beside ours, and the rule of its verdict."""

from __future__ import annotations

import re
from collections.abc import Iterator
from string import ascii_lowercase

from experiments.claims import (
    HOLDS,
    NOT,
    NOT_RUN,
    NOT_TESTED,
    PAPERS,
    PART,
    Claim,
    Found,
    Paper,
    Source,
)

from .markdown import anchor, command, measured, result, table

Read = list[tuple[Source, Found]]


def papers(results: str) -> str:
    """Return what stands on the page.

    Arguments:
        results: the tables of docs/results.md, which the claims link to.
    """
    read = {claim.says: found(claim) for paper in PAPERS for claim in paper.claims}
    lines = list(overview(read))
    for n, paper in enumerate(PAPERS, 1):
        lines += ["", *chapter(n, paper, read, results)]
    return "\n".join(lines)


def found(claim: Claim) -> Read:
    """Return what the results that are there say of a claim."""
    pairs = ((s, s.read(result(s.name))) for s in claim.sources if measured(s.name))
    return [(source, said) for source, said in pairs if said is not None]


def verdict(claim: Claim, read: Read) -> str:
    """Return the one verdict on a claim: that of all its results if they agree, else in part."""
    if claim.untested:
        return NOT_TESTED
    said = {each.verdict for _, each in read}
    return NOT_RUN if not said else said.pop() if len(said) == 1 else PART


def overview(read: dict[str, Read]) -> Iterator[str]:
    """Yield a table of all claims."""
    said = {c.says: verdict(c, read[c.says]) for paper in PAPERS for c in paper.claims}
    counts = {v: list(said.values()).count(v) for v in (HOLDS, PART, NOT, NOT_TESTED, NOT_RUN)}
    words = ("hold", "hold in part", "do not hold here", "are not tested", "are not run")
    told = [f"{n} {word}" for n, word in zip(counts.values(), words, strict=True) if n]
    yield f"Of {len(said)} claims {', '.join(told)}."
    yield ""
    rows = []
    for n, paper in enumerate(PAPERS, 1):
        rows.append((f"**{n}. {paper.short}**", ""))
        for k, claim in enumerate(paper.claims, 1):
            heading = _heading(n, k, claim)
            rows.append((f"[{heading}](#{anchor(heading)})", said[claim.says]))
    yield from table(("claim", "verdict"), rows)


def chapter(n: int, paper: Paper, read: dict[str, Read], results: str) -> Iterator[str]:
    """Yield the claims of a paper."""
    yield f"## {n}. {paper.short}"
    yield ""
    page = f"[{paper.page.removesuffix('.md')}]({paper.page})"
    yield f"{paper.citation} [{paper.link.split('//')[1]}]({paper.link}). Here: {page}."
    for k, claim in enumerate(paper.claims, 1):
        yield ""
        yield f"### {_heading(n, k, claim)}"
        yield ""
        yield from _claim(claim, read[claim.says], results)


def _claim(claim: Claim, read: Read, results: str) -> Iterator[str]:
    if claim.untested:
        yield f"**{NOT_TESTED.capitalize()}**, because {claim.untested}. The paper: {claim.theirs}."
        return
    if not read:
        first = claim.sources[0]
        yield f"**{NOT_RUN.capitalize()}**: `{first.command}`. The paper: {claim.theirs}."
        return
    rows = [(claim.theirs if k == 0 else "", f"{said.figure}.") for k, (_, said) in enumerate(read)]
    yield from table(("the paper", "here"), rows)
    yield ""
    for source, said in read:
        yield f"- **{said.verdict.capitalize()}** at this size: {said.size}."
        yield f"    - Asked: {source.rule}{_marks(source, said)}."
        if source.differs:
            yield f"    - Differs: {source.differs}."
        yield f"    - {_made(source, results)}"
    for picture in dict.fromkeys(source.picture for source, _ in read if source.picture):
        yield ""
        yield f"![{claim.says}](images/{picture})"


def _marks(source: Source, said: Found) -> str:
    """Say which of the things that a rule asks for are so."""
    if "(a)" not in source.rule or len(said.tests) < 2:
        return ""
    letters = zip(ascii_lowercase, said.tests, strict=False)
    return "; found: " + ", ".join(f"({x}) {'yes' if so else 'no'}" for x, so in letters)


def _made(source: Source, results: str) -> str:
    body = result(source.name)
    threads = "one thread" if body["threads"] == 1 else f"{body['threads']} threads"
    return (
        f"`{command(source.name)}`: {body['seconds']:,.0f} s, {threads} of {body['device']}, "
        f"commit {body['commit']}{_shown(source.name, results)}."
    )


def _shown(name: str, results: str) -> str:
    """Return a link to the table of a result, if there is one."""
    for part in re.split(r"^## ", results, flags=re.MULTILINE):
        if f"experiments/results/{name}.json`" in part:
            return f" ([table](results.md#{anchor(part.splitlines()[0])}))"
    return ""


def _heading(n: int, k: int, claim: Claim) -> str:
    return f"{n}.{k} {claim.says}"
