"""The page on citing says of the library and of each paper what is said of them elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import homotopy_deq
from experiments.claims import PAPERS

ROOT = Path(__file__).parents[1]


def entries() -> list[dict[str, str]]:
    """The fields of each entry of the page, without the braces that keep capital letters."""
    page = (ROOT / "docs" / "cite.md").read_text()
    found = re.findall(r"^@(\w+)\{(\w+),\n(.*?)^\}$", page, re.M | re.S)
    assert len({key for _, key, _ in found}) == len(found) == page.count("\n@")
    fields = [re.findall(r"^  (\w+) *= \{(.*)\},$", body, re.M) for _, _, body in found]
    assert [len(each) for each in fields] == [body.count("\n") for _, _, body in found]
    return [{name: re.sub("[{}]", "", text) for name, text in each} for each in fields]


def test_the_library_is_cited_as_its_citation_file_says() -> None:
    library, *_ = entries()
    stated = (ROOT / "CITATION.cff").read_text()
    assert library["version"] == homotopy_deq.__version__
    for line in (
        'title: "{title}"',
        "- name: {author}",
        "version: {version}",
        "license: {license}",
    ):
        assert line.format(**library) in stated


def test_each_paper_is_cited_as_the_page_of_papers_says() -> None:
    _, *papers = entries()
    assert len(papers) == len(PAPERS)
    for given, paper in zip(papers, PAPERS, strict=True):
        authors, where = given["author"].replace(" and ", ", "), given.get("eprint")
        place = f"arXiv {where}" if where else "{booktitle} {year}".format(**given)
        renamed = given["note"].partition(": ")[2] if "note" in given else ""
        since = f" (since renamed *{renamed}*)" if renamed else ""
        told = f"{authors} ({given['year']}). *{given['title']}*{since}. {place}."
        assert (told, given["url"]) == (paper.citation, paper.link)
