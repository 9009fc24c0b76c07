"""The tables of README.md and docs/results.md, written from the committed results alone.

python -m experiments.tables      (rewrites what stands between the two marks of each page)
"""
