"""One experiment a file: `python -m experiments.NAME`, from the root of a clone."""
