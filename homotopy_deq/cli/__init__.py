"""The command line: train, compare, evaluate, predict, plot, profile, diagnose, show, export and
info; certify and what goes with it; and studies of theory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import __version__
from . import options
from .certification import options as certified
from .command import command
from .comparison import options as comparing
from .theory import options as studies

if TYPE_CHECKING:
    from ..models import ImageModel

__all__ = ["app", "load_model"]

app = typer.Typer(
    name="homotopy-deq",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)


def load_model(path: Path | str) -> ImageModel:
    """Rebuild a trained model, in eval mode, with the weights that were best on validation.

    Arguments:
        path: a run's folder or its checkpoint file. Loading runs no code from it.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is no checkpoint, or is damaged; the line names the file and the fault.

    Example:
        >>> model = load_model("runs/homoode-digits").with_solver(Anderson())
    """
    from .trained import Trained

    return Trained.of(Path(path)).model


def _version(asked: bool) -> None:
    if asked:
        print(f"homotopy-deq {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Implicit-layer image models: one equation, many paths to its answer.

    Begin with `homotopy-deq train`. What it leaves in runs/homoode-digits, or where --out says, is
    what the others take: `homotopy-deq evaluate runs/homoode-digits --solver anderson --solver
    continuation`.
    """


COMMANDS: Mapping[str, tuple[type, str]] = {
    "train": (options.Train, "train"),
    "finetune": (options.Finetune, "finetune"),
    "compare": (comparing.Compare, "comparison.compare"),
    "evaluate": (options.Evaluate, "evaluation.evaluate"),
    "predict": (options.Predict, "evaluation.predict"),
    "plot": (options.Plot, "evaluation.plot"),
    "profile": (options.Profile, "evaluation.profile"),
    "diagnose": (options.Diagnose, "evaluation.diagnose"),
    "show": (certified.Show, "evaluation.show"),
    "export": (options.Export, "export"),
    "certify": (certified.Certify, "certification.certify"),
    "decide": (certified.Decide, "certification.certify"),
    "smooth-predict": (certified.SmoothPredict, "certification.smooth_predict"),
    "attack": (certified.Attack, "certification.attack"),
    "report": (certified.Report, "certification.report"),
    "plot-certified": (certified.PlotCertified, "certification.plot"),
    "theory nngp": (studies.NNGP, "theory.nngp"),
    "theory collapse": (studies.Collapse, "theory.collapse"),
    "theory flow": (studies.Flow, "theory.flow"),
    "info": (options.Info, "evaluation.info"),
}
"""Commands by name, that of their group before it: what each is told, and the module that does it.
"""

theory = typer.Typer(no_args_is_help=True, help=studies.HELP)
app.add_typer(theory, name="theory")
for name, (kind, module) in COMMANDS.items():
    *group, last = name.split()
    (theory if group else app).command(last)(command(kind, module))
