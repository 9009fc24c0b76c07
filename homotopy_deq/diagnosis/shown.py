"""A diagnosis as a table, and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .tried import OWN, Tried

if TYPE_CHECKING:
    from rich.table import Table

    from .diagnosis import Diagnosis

SHARES = {"median": 0.5, "nine tenths": 0.9, "worst": 1.0}


def table(found: Diagnosis) -> Table:
    """Return a diagnosis as a table of rich."""
    from rich.table import Table

    shown = Table(
        title=f"{found.samples} samples of {found.entries:,} entries, to {found.rtol:g}",
        padding=(0, 1, 0, 0),
    )
    shown.add_column("what", no_wrap=True)
    shown.add_column("seen")
    for name, said in _conduct(found).items():
        shown.add_row(name, said)
    shown.add_section()
    if found.spectrum.failed:
        shown.add_row("Jacobian", f"not formed: {found.spectrum.failed}")
    else:
        for name, values in _sizes(found).items():
            shown.add_row(name, ", ".join(f"{k} {v:.3g}" for k, v in _quantiles(values).items()))
        shown.add_row("leading eigenvalues", ", ".join(map(_complex, _leading(found))))
    if not bool(found.solved.all()):
        away = (~found.solved).float().mean().item()
        shown.add_row("", f"of {away:.0%} of the samples not at a root, which nothing found")
    shown.add_section()
    for name, tried in found.tried.items():
        shown.add_row(_name(name, tried), _fared(tried))
    return shown


def figures(found: Diagnosis) -> dict[str, Any]:
    """Return a diagnosis as JSON."""
    conduct = found.conduct
    return {
        "samples": found.samples,
        "entries": found.entries,
        "rtol": found.rtol,
        "map": {
            "finite": conduct.finite,
            "deterministic": conduct.deterministic,
            "row-wise": conduct.rowwise,
            "coupled": conduct.coupled,
            "writes in place": conduct.writes,
            "reuses its memory": conduct.reuses,
            "precision": str(conduct.precision).removeprefix("torch."),
        },
        "Jacobian": {
            name: {k: _known(v) for k, v in _quantiles(values).items()}
            for name, values in _sizes(found).items()
        },
        "leading eigenvalues": [[v.real, v.imag] for v in _leading(found) if v == v],
        "solved by some": found.solved.float().mean().item(),
        "solvers": {
            _name(name, tried): {
                "solved": tried.solved,
                "evaluations": tried.cost,
                "residual": _known(tried.residual.double().median().item()),
                **({"failed": tried.failed} if tried.failed else {}),
            }
            for name, tried in found.tried.items()
        },
        "advice": [str(each) for each in found.advice],
    }


def _conduct(found: Diagnosis) -> dict[str, str]:
    conduct = found.conduct
    rows = {None: "not seen", True: "yes", False: "NO"}[conduct.rowwise]
    return {
        "deterministic": "yes" if conduct.deterministic else "NO",
        "row-wise": "declared coupled" if conduct.coupled else rows,
        "writes in place": "YES" if conduct.writes else "no",
        "precision": str(conduct.precision).removeprefix("torch."),
    }


def _sizes(found: Diagnosis) -> dict[str, Tensor]:
    at = found.spectrum
    return {
        "growth of J^T": at.growth,
        "largest |eigenvalue|": at.radius,
        "largest real part": at.rightmost,
        "||J||": at.norm,
        "non-normality": at.nonnormality,
    }


def _quantiles(values: Tensor) -> dict[str, float]:
    known = values.double().cpu()
    return {k: torch.nanquantile(known, share).item() for k, share in SHARES.items()}


def _leading(found: Diagnosis) -> list[complex]:
    """Return the first eigenvalues of the sample that grows most, one of a conjugate pair."""
    worst = int(found.spectrum.radius.nan_to_num(nan=-1.0).argmax())
    values = [complex(v) for v in found.spectrum.eigenvalues[worst].tolist()]
    return [v for v in values if v.imag >= 0 or v.imag != v.imag][:4]


def _complex(value: complex) -> str:
    size = max(abs(value), 1e-12)
    return (
        f"{value.real:.3g}"
        if abs(value.imag) < 1e-6 * size
        else (f"{value.real:.3g} +- {abs(value.imag):.3g}i")
    )


def _name(name: str, tried: Tried) -> str:
    return f"{name}, {type(tried.solver).__name__}" if name == OWN else name


def _fared(tried: Tried) -> str:
    if tried.failed:
        return f"not run: {tried.failed}"
    return (
        f"solved {tried.solved:.0%} in {tried.cost:.0f} evaluations, residual "
        f"{tried.residual.double().median().item():.1e}"
    )


def _known(value: float) -> float | None:
    return value if abs(value) < float("inf") else None  # neither NaN nor inf is JSON
