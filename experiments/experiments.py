"""Found in place of the package by `python experiments/NAME.py`: it says what to call instead."""

import sys
from pathlib import Path

name = Path(sys.argv[0]).stem
raise SystemExit(f"Call `python -m experiments.{name}` from the root of the clone.")
