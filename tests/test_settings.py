"""What can be chosen: declared once, read and written without loss, without torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path

import pytest

from homotopy_deq.cli import COMMANDS, load_model
from homotopy_deq.cli.resolve import resolve
from homotopy_deq.cli.train import CONFIG
from homotopy_deq.settings import MODELS, Settings, TrainConfig
from homotopy_deq.settings.declare import leaves
from homotopy_deq.settings.tree import NAMES, read
from homotopy_deq.training import CHECKPOINT, load_checkpoint
from tests.test_cli import by_name, done, refused
from tests.test_docs import ROOT, blocks

SMALL = ["--limit", 100, "--hidden", 4, "--groups", 2, "--epochs", 1, "--cpu"]


def options(kind: type) -> Iterator[str]:
    return (leaf.name for leaf in leaves(kind))


@pytest.mark.parametrize("flags", [[], ["--model", "monotone", "--noise", 0.25]], ids=["", "noise"])
def test_a_config_file_repeats_its_run_to_the_bit(flags: list[object], tmp_path: Path) -> None:
    done("train", "--out", tmp_path / "a", *SMALL, *flags, "--flip", 0.25)
    done("train", "--config", tmp_path / "a" / CONFIG, "--out", tmp_path / "b", "--cpu")
    for name in (CHECKPOINT, CONFIG):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_what_is_given_goes_before_the_file(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[model]\nhidden = 4\n\n[training]\nepochs = 1\nlr = 1\n")
    flags = ["--limit", 60, "--groups", 2, "--lr", 0.5, "--cpu"]
    done("train", "--config", tmp_path / "c.toml", "--out", tmp_path / "run", *flags)
    spec = load_checkpoint(tmp_path / "run" / CHECKPOINT).meta["about"]["spec"]
    assert (spec["hidden"], spec["epochs"], spec["lr"]) == (4, 1, 0.5)


@pytest.mark.parametrize("given", [{}, {"model": "deq", "precision": "bf16"}, {"noise": 0.5}])
def test_settings_are_read_as_they_were_written(given: dict[str, object], tmp_path: Path) -> None:
    settings = resolve(given)
    (tmp_path / CONFIG).write_text(settings.toml())
    assert resolve(read(tmp_path / CONFIG)) == Settings.of(settings.named()) == settings


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[model]\nhiden = 4", "unknown setting 'hiden'. Did you mean 'hidden'?"),
        ("[modle]\nhidden = 4", "unknown section 'modle'. Did you mean 'model'?"),
        ("[training]\nhidden = 4", "hidden belongs in [model]; it is in training"),
        ("hidden = 4", "hidden belongs in [model]"),
        ("[model]\nhidden = 'many'", "hidden should be int, not 'many'"),
        ("[training]\nepochs = true", "epochs should be int, not True"),
        ("[training]\nepochs = 0", "--epochs must be at least 1; got 0"),
        ("[model", "is no TOML"),
    ],
)
def test_a_file_that_says_what_nobody_knows_is_refused(
    text: str, told: str, tmp_path: Path
) -> None:
    (tmp_path / "c.toml").write_text(text)
    assert told in refused("train", "--config", tmp_path / "c.toml", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_option_is_declared_twice() -> None:
    """Each leaf of the tree has a name of its own, and so has each option of a command."""
    assert len(NAMES) == len(list(leaves(Settings)))
    for name, (kind, _) in COMMANDS.items():
        assert len(set(options(kind))) == len(list(options(kind))), name
    assert all(leaf.about["help"] for leaf in NAMES.values())
    own = {field.name for field in fields(TrainConfig) if not is_dataclass(field.default)}
    assert own - {"smoothing"} <= set(NAMES)


def test_every_option_has_a_help_text_and_the_value_of_its_dataclass() -> None:
    for name, (kind, _) in COMMANDS.items():
        shown = {each.name: each for each in by_name(name).params if each.name != "help"}
        assert list(shown) == list(options(kind))
        for leaf in leaves(kind):
            assert shown[leaf.name].help or leaf.about["argument"], (name, leaf.name)


def test_a_help_text_says_its_default_where_that_stands_for_none_alone() -> None:
    """Any other value is shown as it is, in the place of what stands behind "Default:"."""
    for name, leaf in NAMES.items():
        assert leaf.default in (None, MISSING) or "Default:" not in leaf.about["help"], name


def test_help_needs_no_torch() -> None:
    code = "import sys; from homotopy_deq.cli import app\ntry: app(['train', '--help'])\nexcept "
    code += "SystemExit: pass\nassert not {'torch', 'solvers'} & sys.modules.keys()"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "--residual-penalty" in found.stdout


def test_a_model_is_one_file_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, code = next(blocks(ROOT / "docs" / "extend" / "model.md", "python"))
    (tmp_path / "shallow.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(MODELS, "shallow", "shallow:Shallow")
    run = tmp_path / "run"
    done("train", "--model", "shallow", "--limit", 100, "--epochs", 1, "--out", run, "--cpu")
    spec = load_checkpoint(run / CHECKPOINT).meta["about"]["spec"]
    assert (spec["solver"], spec["hidden"], spec["head"]) == ("anderson", 32, None)
    assert "hidden = 32" in (run / CONFIG).read_text()
    assert type(load_model(run)).__name__ == "Shallow"
    done("evaluate", run, "--solver", "broyden", "--limit", 20, "--cpu")
    certified = done("certify", run, "--sigma", 0.25, "--n", 50, "--limit", 2, "--cpu")
    assert "average certified radius" in certified
    assert "is of homoode; got it for shallow" in refused(
        "train", "--model", "shallow", "--rest-point"
    )
