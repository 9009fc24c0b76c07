"""homotopy-deq diagnose"""

from __future__ import annotations

import json
from dataclasses import asdict

from ...diagnosis import diagnose
from ...training.checkpoint import replace_file
from ...training.folder import require_writable
from .. import options
from ..report import console
from ..resolve import first_images, pass_of
from ..trained import Trained, find_checkpoint


def command(chosen: options.Diagnose) -> None:
    """Print a table and advice, and draw the residuals and the eigenvalues."""
    trained = Trained.of(chosen.run.path)
    folder = chosen.out or find_checkpoint(chosen.run.path).parent / "plots"
    require_writable(folder)
    if chosen.json is not None:
        require_writable(chosen.json.parent)
    chosen.machine.use()
    device = chosen.machine.device()
    forward = pass_of(trained.settings, chosen.solver, **asdict(chosen.limits))
    images = first_images(trained.settings, chosen.place.root, chosen.samples).to(device)
    found = diagnose(forward.put(trained.model).to(device), images)
    console.print(found.table())
    for number, advice in enumerate(found.advice, 1):
        console.print(f"{number}. {advice}", highlight=False, markup=False)
    if not found.advice:
        console.print("Nothing to mend: its own solver solves all, and the map contracts.")
    if chosen.json is not None:
        replace_file(chosen.json, (json.dumps(found.figures(), indent=2) + "\n").encode())
    console.print(f"wrote {found.plot(folder / 'diagnosis.png')}", highlight=False)
