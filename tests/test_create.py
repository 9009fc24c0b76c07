"""Models by name, in Python as on the command line."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from homotopy_deq import Broyden, Implicit, create_model, list_models
from homotopy_deq.create import model_class
from homotopy_deq.settings import MODELS


@pytest.mark.parametrize("name", list_models())
def test_every_name_is_a_model_that_classifies(name: str) -> None:
    model = create_model(name, shape=(1, 8, 8), num_classes=3, on_failure="ignore").eval()
    assert type(model) is model_class(name)
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 3)


def test_names_are_those_of_the_command_line() -> None:
    assert list_models() == list(MODELS)
    list_models().clear()
    assert list_models() == list(MODELS)  # a list of the caller's own


def test_settings_are_those_of_the_class() -> None:
    model = create_model("deq", hidden=8, groups=2, solver=Broyden(), gradient=Implicit())
    assert model.config["hidden"] == 8 and model.layer.solver == Broyden()


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("mdeqq", {}, "unknown model 'mdeqq'. Did you mean 'mdeq'\\? Valid: homoode, deq"),
        ("resnet", {}, "unknown model 'resnet'. Valid: homoode, deq"),
        ("deq", {"hiden": 8}, "unknown setting of deq 'hiden'. Did you mean 'hidden'\\?"),
        ("residual", {"start": "none"}, "unknown setting of residual 'start'. Valid: shape,"),
    ],
)
def test_a_name_that_nobody_knows_is_told_the_nearest(
    name: str, settings: dict[str, object], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        create_model(name, **settings)


def test_to_list_the_names_needs_no_torch() -> None:
    code = "import sys; from homotopy_deq import list_models; assert 'mdeq' in list_models()\n"
    code += "assert not {'torch', 'solvers'} & sys.modules.keys()"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
