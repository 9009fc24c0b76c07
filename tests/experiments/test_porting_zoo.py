"""An example is ported by its import lines, which are counted, and both versions are run."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from experiments.porting_copies import Change, apply, changed, count
from experiments.porting_examples import EXAMPLES, Case, Example, options
from experiments.porting_zoo import Config, main
from experiments.results import RESULTS, ROOT

LAYER = """\
import gone
import torch
from torchdeq import get_deq
from torchdeq.norm import apply_norm, reset_norm


class Layer(torch.nn.Module):
    def __init__(self, args):
        super().__init__()
        self.linear, self.deq = torch.nn.Linear(6, 6), get_deq(args)
        torch.nn.init.uniform_(self.linear.weight, -0.1, 0.1)
        apply_norm(self.linear, args=args)

    def forward(self, x):
        reset_norm(self.linear)
        z_out, _ = self.deq(lambda z: torch.tanh(self.linear(z) + x), torch.zeros_like(x))
        return z_out[-1]
"""


def make(folder: Path, words: list[str], library: ModuleType) -> Case:
    model: nn.Module = import_module("parts.layer").Layer(options(words, library))
    x = torch.linspace(-1, 1, 24).view(4, 6)
    return Case(model, lambda: model(x).square().mean())


TINY = Example(
    "zoo/tiny",
    ("parts/layer.py",),
    "--f_tol 1e-6 --grad 2",
    make,
    (Change("parts/layer.py", "import gone\n", "", "it is gone"),),
    exact="--ift --f_tol 1e-7",
)


def test_an_example_is_ported_by_its_imports_and_does_the_same(tmp_path: Path) -> None:
    pytest.importorskip("torchdeq")
    parts = tmp_path / "zoo" / "tiny" / "parts"
    parts.mkdir(parents=True)
    (parts / "layer.py").write_text(LAYER)
    config = Config(repeats=1, training=3)
    path = main(tmp_path, config, tmp_path / "results", {"tiny": TINY}, tmp_path / "work")
    found = json.loads(path.read_text())["result"]["examples"]["tiny"]
    assert (parts / "layer.py").read_text() == LAYER  # the checkout is left as it is
    (today,), (port,) = found["changes"]["today"], found["changes"]["port"]
    assert today["before"] == ["import gone"] and today["after"] == []
    assert port["before"] == LAYER.splitlines()[2:4]
    assert port["after"] == [
        "from homotopy_deq.compat import get_deq",
        "from homotopy_deq.compat import apply_norm, reset_norm",
    ]
    for setting in ("its own", "exact"):
        both = found[setting]
        for library in ("torchdeq", "ours"):
            # |z| is above 1 and the absolute tolerance 1e-6
            assert both[library]["residual"] < 1e-6 and both[library]["evaluations"] > 3
    # the state is within 1e-6 of the answer, over 1 - ||W|| of about .5, in both
    assert found["its own"]["loss apart"] < 1e-5 and found["its own"]["gradient apart"] < 1e-4
    for library in ("torchdeq", "ours"):
        assert found["exact"][library]["gradient error"] < 1e-5
    losses = [found["its own"][library]["training"] for library in ("torchdeq", "ours")]
    assert len(losses[0]) == 3 and losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_line_that_is_not_there_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import torch\n")
    with pytest.raises(ValueError, match=r"a.py has no 'import gone\\n'"):
        apply(tmp_path, [Change("a.py", "import gone\n", "", "it is gone")])


def test_lines_that_changed_are_counted_once_each(tmp_path: Path) -> None:
    for name, text in (("old", "a\nb\nc\nd\n"), ("new", "a\nB\nc\nd\ne\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.py").write_text(text)
    changes = changed(tmp_path / "old", tmp_path / "new", ["x.py"])
    assert [(each["line"], each["before"], each["after"]) for each in changes] == [
        (2, ["b"], ["B"]),
        (5, [], ["e"]),
    ]
    assert count(changes) == 2


def test_no_example_changes_more_than_lines_that_it_explains() -> None:
    for example in EXAMPLES.values():
        assert all(change.why for change in (*example.today, *example.port))
        assert all(change.file in example.files for change in example.port)


def test_the_page_shows_each_line_that_was_changed() -> None:
    """Of the committed result; the page is written by hand."""
    found = json.loads((RESULTS / "porting_zoo.json").read_text())["result"]["examples"]
    page = (ROOT / "docs" / "porting.md").read_text()
    assert set(found) == set(EXAMPLES)
    for example in found.values():
        for change in example["changes"]["port"]:
            assert change["file"] in page
            for sign, lines in (("-", change["before"]), ("+", change["after"])):
                assert all(f"\n{sign} {line.strip()}\n" in page for line in lines)
