"""The tutorials run, here in their short form, and become pages with what they print and draw."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from docs import render
from docs.render import cells, execute, kept, page, scripts


@pytest.fixture
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder to write in, the short form, and torch as it was before."""
    monkeypatch.setenv("HOMOTOPY_DEQ_SHORT", "1")
    monkeypatch.chdir(tmp_path)
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize("script", scripts(), ids=lambda script: script.stem)
def test_tutorial_runs_and_draws(script: Path, short: None) -> None:
    run = execute(script)
    text, pictures = page(script, run)
    assert pictures and all(each.startswith(b"\x89PNG") for each in pictures.values())
    assert all(f"]({name})" in text for name in pictures)
    assert all(given.text.rstrip() in text for given in run.cells)
    told = "".join(given.text for given in run.cells)
    assert not re.search(r"Error|Deprecat", told)


@pytest.mark.parametrize("script", scripts(), ids=lambda script: script.stem)
def test_links_of_a_tutorial_lead_to_files(script: Path) -> None:
    prose = "".join(body for is_code, _, body in cells(script.read_text()) if not is_code)
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", prose)
    assert links and [link for link in links if not (script.parent / link).exists()] == []


def test_every_tutorial_is_in_the_menu() -> None:
    menu = (render.DOCS.parent / "mkdocs.yml").read_text()
    assert len(scripts()) == 6
    assert [each for each in scripts() if f": tutorials/{each.stem}.md\n" not in menu] == []


SCRIPT = """# %% [markdown]
# # A title
#
# [Another](other.py).

# %%
print("said")
1 / 1

# %%
from matplotlib.figure import Figure

Figure()
"""


def test_a_page_has_what_was_said_and_drawn_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(SCRIPT)
    text, pictures = page(tmp_path / "a.py", execute(tmp_path / "a.py"))
    order = ["# A title", "[Another](other.md)", "[a.py](a.py)", 'print("said")', "\nsaid\n"]
    order += ["from matplotlib", "![what the cell above draws](a-1.png)"]
    assert [text.index(each) for each in order] == sorted(text.index(each) for each in order)
    assert list(pictures) == ["a-1.png"]


def test_what_an_older_script_gave_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render, "BUILT", tmp_path)
    script = tmp_path / "a.py"
    script.write_text(SCRIPT)
    assert kept(script) is None and "not run yet" in page(script, None)[0]
    run = execute(script)
    (tmp_path / "a.json").write_text(json.dumps(asdict(run)))
    assert kept(script) == run
    script.write_text(SCRIPT.replace("said", "told"))
    assert kept(script) is None


def test_a_fault_is_told_with_the_line_of_the_script(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(SCRIPT.replace("1 / 1", "1 / 0"))
    with pytest.raises(ZeroDivisionError) as fault:
        execute(tmp_path / "a.py")
    (last, *_) = reversed(fault.traceback)
    assert (last.path, last.lineno + 1) == (tmp_path / "a.py", 8)


def test_pages_lead_to_pages_where_the_repository_leads_to_scripts() -> None:
    class File:
        src_uri = "index.md"

    class Page:
        file = File()

    shown = render.on_page_markdown("[a](tutorials/paths.py), [b](../x/y.py)", Page())
    assert shown == "[a](tutorials/paths.md), [b](../x/y.py)"
