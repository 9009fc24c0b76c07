"""Run the command line as `python -m homotopy_deq.cli`, for torchrun."""

from . import app

app()
