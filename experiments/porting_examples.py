"""torchdeq's own examples: which files they are, what keeps them from running today, one step.

Each builds the example's own model, by its own files, at a small size on drawn data.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import re
import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.porting_copies import Change


@dataclass(frozen=True)
class Case:
    """A model, the loss of one step, and, where the example has one, its own training."""

    model: nn.Module
    loss: Callable[[], Tensor]
    train: Callable[[int], list[float]] | None = None


@dataclass(frozen=True)
class Example:
    """Where it lies in torchdeq's repository, and how it is run.

    Arguments:
        folder: in the repository.
        files: those of its own that name torchdeq.
        words: the options of the solve and the norm, as its own script or configuration sets them.
        make: builds the case from the folder's modules, which can be imported now.
        today: what has to change before it runs at all.
        port: what changes beside the import lines.
        path: the folder within it that its scripts import from.
        exact: options of a solve that both can finish, with implicit gradients.
        coupled: the rows of its state are one system.
    """

    folder: str
    files: tuple[str, ...]
    words: str
    make: Callable[[Path, list[str], ModuleType], Case]
    today: tuple[Change, ...] = ()
    port: tuple[Change, ...] = ()
    path: str = ""
    exact: str = ""
    coupled: bool = False


def options(words: list[str], library: ModuleType, **others: Any) -> argparse.Namespace:
    """Parse options as the example's script does, by the library's own `add_deq_args`."""
    parser = argparse.ArgumentParser()
    library.add_deq_args(parser)
    return argparse.Namespace(**vars(parser.parse_args(words)), **others)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def quietly(path: Path, words: list[str]) -> tuple[dict[str, Any], str]:
    """Run a script as from a shell, and return what it defined and what it printed."""
    kept, out = sys.argv, io.StringIO()
    sys.argv = [path.name, *words]
    try:
        with contextlib.redirect_stdout(out):
            return runpy.run_path(str(path), run_name="__main__"), out.getvalue()
    finally:
        sys.argv = kept


def chains(folder: Path, words: list[str], library: ModuleType) -> Case:
    """Run the whole script; the step is the first of its `train`."""
    script = folder / "train_IGNN_chains.py"
    made, _ = quietly(script, [*words, "--epochs", "0"])
    model, labels, index = made["model"], made["labels"], made["idx_train"]

    def loss() -> Tensor:
        output = F.log_softmax(model(made["features"], made["adj"]), dim=1)
        return F.nll_loss(output[index], labels[index])

    def train(steps: int) -> list[float]:
        _, text = quietly(script, [*words, "--epochs", str(steps)])
        return [float(found) for found in re.findall(r"loss_train: ([\d.]+)", text)]

    return Case(model, loss, train)


def image(folder: Path, words: list[str], library: ModuleType) -> Case:
    """Represent a drawn picture of 32 x 32 by sines, with the script's own training."""
    script = import_module("scripts.train_2d_image")
    modeling = import_module("modules.modeling_utils")
    args = options(words, library, batch_size=-1, no_skip_solver=False, verbose=False)
    with contextlib.redirect_stdout(io.StringIO()):
        model = modeling.get_model(
            modeling.construct_model_args(
                "implicit", args, 1, 2, 64, 1, input_scale=16.0, use_implicit=True
            )
        )
    line = torch.linspace(-1, 1, 32)
    x = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1)[None]
    y = (0.5 + 0.5 * torch.sin(5 * x[..., :1]) * torch.cos(9 * x[..., 1:])).float()
    points, target = x.reshape(-1, 2), script.preprocess(y).reshape(-1, 1)

    def train(steps: int) -> list[float]:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        with contextlib.redirect_stderr(io.StringIO()):
            found = script.train(
                args, (x, y), (x, y), model, optimizer, None, steps, "cpu", log_freq=1,
                use_cached_input=True,
            )  # fmt: skip
        losses: list[float] = found["loss"]
        return losses

    return Case(model, lambda: F.mse_loss(model(points)["output"], target), train)


def classifier(folder: Path, words: list[str], library: ModuleType) -> Case:
    """Classify drawn images of CIFAR-10's shape by the small network of its configuration."""
    made = import_module("models.mdeq")
    config = yaml.safe_load((folder / "configs" / "small.yaml").read_text())
    args = options(words, library)
    model: nn.Module = made.get_cls_net(config, args)
    x, y = drawn(2, 3, 32, 32), torch.arange(2)

    def loss() -> Tensor:
        found: Tensor = library.fp_correction(nn.CrossEntropyLoss(), (model(x), y), gamma=0.8)
        return found

    return Case(model, loss)


def language(folder: Path, words: list[str], library: ModuleType) -> Case:
    """Predict drawn tokens: two segments, the second with the memory of the first."""
    made = import_module("models.deq_transformer")
    args = options([w for w in words if w != "--mem"], library, mem="--mem" in words)
    model: nn.Module = made.DEQTransformerLM(
        args, 50, 1, 2, 32, 16, 64, 0.05, 0.0, tgt_len=12, mem_len=12
    )
    with torch.no_grad():
        for weight in model.parameters():  # as its weights_init
            if weight.dim() == 2:
                weight.normal_(0.0, 0.02)
    library.apply_norm(model.func, args=args)
    tokens = torch.randint(50, (4, 25), generator=torch.Generator().manual_seed(1))

    def loss() -> Tensor:
        total, mems = torch.zeros(()), []
        for begin in (0, 12):
            end = begin + 12
            found, mems, _ = model(tokens[:, begin:end], tokens[:, begin + 1 : end + 1], mems)
            total = total + found.mean()
        return total

    return Case(model, loss)


def flow(folder: Path, words: list[str], library: ModuleType) -> Case:
    """Find the flow from a drawn picture to itself moved by two pixels, by its tiny network."""
    made, metrics = import_module("core.deq_flow"), import_module("core.metrics")
    args = options(
        words, library, tiny=True, large=False, huge=False, gigantic=False, gma=False,
        old_version=False, mixed_precision=False, all_grad=False, dropout=0.0,
    )  # fmt: skip
    model: nn.Module = made.DEQFlow(args)
    tree = ast.parse((folder / "main.py").read_text())
    tree.body = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "flow_loss"]
    names: dict[str, Any] = {
        "torch": torch, "MAX_FLOW": 400, "compute_epe": metrics.compute_epe,
        "fp_correction": library.fp_correction,
    }  # fmt: skip
    exec(compile(tree, "main.py", "exec"), names)
    first = 255 * torch.sigmoid(F.avg_pool2d(4 * drawn(1, 3, 132, 132), 5, 1, 2)[..., :128, :128])
    second, truth = first.roll(2, -1), torch.tensor([2.0, 0.0]).view(1, 2, 1, 1)
    truth, valid = truth.expand(1, 2, 128, 128), torch.ones(1, 128, 128)

    def loss() -> Tensor:
        found: Tensor = model(first, second, truth, valid, names["flow_loss"])[0]
        return found

    return Case(model, loss)


EXACT = (
    "--ift --f_stop_mode rel --f_tol 1e-6 --f_max_iter 100 --b_stop_mode rel --b_tol 1e-6 "
    "--b_max_iter 100 --n_states 1"
)
COUPLED = Change(
    "layers.py",
    "get_deq(args)",
    "get_deq(args, coupled=True)",
    "the rows of its state are one system",
)
ABSENT = "a package that is not needed for this"
CHAINS = Example(
    "deq-zoo/ignn/nodeclassification",
    ("layers.py", "train_IGNN_chains.py"),
    "--norm_type none --f_solver fixed_point_iter --grad 5 --tau 0.5 --dropout 0",
    chains,
    (
        Change("utils.py", "import torch_sparse\n", "", ABSENT),
        Change(
            "train_IGNN_chains.py",
            "from utils import accuracy,",
            "from utils import params_count, accuracy,",
            "it is called and was not imported",
        ),
    ),
    # It normalises each node, and the last nodes of its chains are 1e-8 of the first.
    exact=f"{EXACT} --f_tol 1e-9 --f_max_iter 40 --b_tol 1e-9",
    coupled=True,
)
EXAMPLES = {
    "implicit graph network, chains": CHAINS,
    "the same, told coupled=True": replace(CHAINS, port=(COUPLED,)),
    "implicit representation of an image": Example(
        "deq-zoo/deq-inr",
        ("modules/models.py", "scripts/train_2d_image.py"),
        "--f_solver fixed_point_iter --f_max_iter 100 --grad 3",
        image,
        tuple(
            Change(file, f"import {package}\n", "", ABSENT)
            for file, packages in (
                ("modules/utils.py", ("plyfile", "skimage.measure", "configargparse")),
                ("scripts/train_2d_image.py", ("livelossplot", "skimage", "configargparse")),
            )
            for package in packages
        ),
        exact=EXACT,
    ),
    "multiscale classifier (MDEQ)": Example(
        "deq-zoo/mdeq/mdeq_cifar",
        ("mdeq/models/mdeq.py", "mdeq/core/cls_function.py", "main.py"),
        "--norm_type weight_norm --f_solver broyden --f_max_iter 22 --grad 5 --tau 0.5",
        classifier,
        (Change("mdeq/models/mdeq.py", "from termcolor import colored\n", "", ABSENT),),
        path="mdeq",
    ),
    "transformer language model": Example(
        "deq-zoo/deq-lm",
        ("models/deq_transformer.py", "train.py"),
        "--norm_type weight_norm --f_solver fixed_point_iter --f_stop_mode rel --f_tol 1e-3 "
        "--f_max_iter 0 --grad 12 --mem --eval_f_max_iter 12",
        language,
        tuple(
            Change(
                "utils/proj_adaptive_softmax.py",
                f"{name} = int(torch.version.cuda.split('.')[{k}])\n",
                "",
                "torch for processors has no version of CUDA, and nothing reads it",
            )
            for k, name in enumerate(("CUDA_MAJOR", "CUDA_MINOR"))
        ),
    ),
    "optical flow": Example(
        "deq-zoo/deq-flow",
        ("core/deq_flow.py", "main.py"),
        "--f_solver simple_fixed_point_iter --f_max_iter 36 --n_states 6 --grad 1",
        flow,
        (Change("core/gma.py", "from einops import rearrange\n", "", ABSENT),),
    ),
}
