"""Neural collapse: how near features and classifiers of a trained network are to a simplex."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

CENTRES = ("samples", "classes")


@dataclass(frozen=True)
class Collapse:
    """The measures of neural collapse; each but `nearest` is 0 at perfect collapse.

    Arguments:
        nc1: tr(S_W pinv(S_B)) / K, variability within classes against between them.
        nc1_trace: tr S_W / tr S_B.
        nc1_cdnv: class-distance normalised variance, (v_k + v_l) / (2 ||mu_k - mu_l||^2), mean
            over pairs.
        nc2_means: ||M M^T / ||M M^T|| - E||, E the Gram matrix of a simplex of norm 1.
        nc2_weights: the same of W.
        nc2_angles: mean |cos + 1 / (K - 1)| over pairs of centred means, Papyan's measure.
        nc3: ||W M^T / ||W M^T|| - E||, self-duality.
        nc3_direct: || W / ||W|| - M / ||M|| ||.
        nc4: share of samples whose class by the classifier is not that of the nearest mean.
        minority_cosine: mean cosine of two of the minority's classifiers, nan without a minority.
        norms: of the centred class means, (K,).
    """

    nc1: float
    nc1_trace: float
    nc1_cdnv: float
    nc2_means: float
    nc2_weights: float
    nc2_angles: float
    nc3: float
    nc3_direct: float
    nc4: float
    minority_cosine: float
    norms: Tensor

    @property
    def vertices(self) -> bool:
        """Whether the means are the vertices of a simplex, to 5%."""
        return self.nc2_means < 0.05

    @property
    def self_dual(self) -> bool:
        """Whether the classifiers are the means up to a factor, to 5%."""
        return self.nc3 < 0.05

    def figures(self) -> dict[str, float | None]:
        """Return the measures by name for JSON, None for nan, with the norms' relative spread."""
        found = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "norms"}
        found["nc2_norms"] = float(self.norms.std(correction=0) / self.norms.mean())
        return {name: value if math.isfinite(value) else None for name, value in found.items()}


class CollapseMeter:
    """Measure neural collapse of features that come in batches.

    Two passes are needed for `nc4`, whose nearest means are those of all samples: give `means` of
    the first to a second meter, or leave it out and `nc4` is nan.

    Arguments:
        classes: K.
        centre: what the means are centred at: the mean of all "samples", as is usual, or the mean
            of the "classes"' means. They differ where classes are imbalanced.
        minority: classes whose classifiers are compared, or None.
        means: class means, (K, p), for `nc4`.

    References:
        V. Papyan, X. Han, D. Donoho (2020), Prevalence of neural collapse during the terminal phase
        of deep learning training.
        H. Sun, Y. Shi (2024), Understanding representation of deep equilibrium models from neural
        collapse perspective.
    """

    def __init__(
        self,
        classes: int,
        *,
        centre: str = "samples",
        minority: list[int] | None = None,
        means: Tensor | None = None,
    ) -> None:
        if classes < 2:
            raise ValueError(f"classes must be at least 2; got {classes}.")
        if centre not in CENTRES:
            raise ValueError(f"centre must be one of {', '.join(CENTRES)}; got {centre!r}.")
        self.classes, self.centre, self.minority = classes, centre, minority
        self.given = means
        self.sofar: Tensor | None = None  # the means, and 0 where no sample came
        self.agree = 0
        self.looked = 0

    def update(self, features: Tensor, labels: Tensor, logits: Tensor | None = None) -> None:
        """Take a batch.

        Arguments:
            features: what the classifier reads, (B, p).
            labels: classes, int64 (B,).
            logits: (B, K), for `nc4`.
        """
        h = features.detach().flatten(1)
        h = (h if h.is_cuda else h.cpu()).double()  # on a GPU, but for one without doubles
        if labels.shape != (len(h),) or labels.is_floating_point():
            raise ValueError(
                f"labels must be integers ({len(h)},); got {labels.dtype}, {tuple(labels.shape)}."
            )
        labels = labels.detach().to(h.device).long()
        if len(h) == 0:
            return
        if int(labels.min()) < 0 or int(labels.max()) >= self.classes:
            raise ValueError(f"labels must be in 0..{self.classes - 1}.")
        if self.sofar is None:
            self.sofar = h.new_zeros(self.classes, h.shape[1])
            self.counts = h.new_zeros(self.classes)
            self.squares = h.new_zeros(self.classes)
            self.scatter = h.new_zeros(h.shape[1], h.shape[1])
        # Sums about the means, merged batch by batch (Chan et al. 1983): no digits are lost to
        # large means. Those of a batch are found twice, as the first sum rounds.
        new = torch.bincount(labels, minlength=self.classes).double()
        mean = torch.zeros_like(self.sofar)
        for _ in range(2):
            mean = (
                mean
                + torch.zeros_like(mean).index_add_(0, labels, h - mean[labels])
                / (new.clamp_min(1)[:, None])
            )
        away, moved = h - mean[labels], mean - self.sofar
        weight = self.counts * new / (self.counts + new).clamp_min(1)
        self.squares += weight * moved.square().sum(1)
        self.squares.index_add_(0, labels, away.square().sum(1))
        self.scatter += away.mT @ away + moved.mT @ (weight[:, None] * moved)
        self.counts += new
        self.sofar = self.sofar + moved * (new / self.counts.clamp_min(1))[:, None]
        if self.given is not None and logits is not None:
            nearest = torch.cdist(h, self.given.to(h)).argmin(1)
            self.agree += int((nearest == logits.detach().argmax(1).to(h.device)).sum())
            self.looked += len(h)

    @property
    def means(self) -> Tensor:
        """The class means so far, (K, p)."""
        counts = torch.zeros(self.classes) if self.sofar is None else self.counts
        if self.sofar is None or bool((counts == 0).any()):
            missing = (counts == 0).nonzero().flatten().tolist()
            raise ValueError(f"no sample of the classes {missing} was given.")
        return self.sofar

    def compute(self, weight: Tensor) -> Collapse:
        """Return the measures.

        Arguments:
            weight: of the classifier, (K, p).
        """
        mu = self.means - self.means.mean(0)
        total = self.counts.sum()
        centre = mu.mean(0) if self.centre == "classes" else self.counts @ mu / total
        m = mu - centre
        within = self.scatter / total
        between = m.mT @ m / self.classes
        w = weight.detach().to(m)
        if w.shape != m.shape:
            raise ValueError(f"weight must be {tuple(m.shape)}; got {tuple(w.shape)}.")
        spread = self.squares / self.counts
        apart = torch.cdist(mu, mu).square()
        k, pairs = self.classes, ~torch.eye(self.classes, dtype=torch.bool, device=m.device)
        cdnv = ((spread[:, None] + spread[None]) / 2 / apart)[pairs].mean()
        etf, unit = simplex_gram(k).to(m), torch.nn.functional.normalize(m, dim=1)
        minority = minority_cosine(w, self.minority) if self.minority else math.nan
        return Collapse(
            nc1=float(torch.trace(within @ torch.linalg.pinv(between, hermitian=True))) / k,
            nc1_trace=float(torch.trace(within) / torch.trace(between)),
            nc1_cdnv=float(cdnv),
            nc2_means=_distance(m @ m.mT, etf),
            nc2_weights=_distance(w @ w.mT, etf),
            nc2_angles=float(((unit @ unit.mT)[pairs] + 1 / (k - 1)).abs().mean()),
            nc3=_distance(w @ m.mT, etf),
            nc3_direct=float(torch.linalg.matrix_norm(w / w.norm() - m / m.norm())),
            nc4=1 - self.agree / self.looked if self.looked else math.nan,
            minority_cosine=minority,
            norms=m.norm(dim=1).cpu(),
        )


def collapse_of(
    batches: Callable[[], Iterable[tuple[Tensor, Tensor, Tensor]]],
    weight: Tensor,
    *,
    centre: str = "samples",
    minority: list[int] | None = None,
) -> Collapse:
    """Measure neural collapse, NC4 among it, in two passes over the samples.

    Arguments:
        batches: called twice; gives features (B, p), labels (B,) and logits (B, K).
        weight: of the classifier, (K, p).
        centre: as in `CollapseMeter`.
        minority: as there.
    """
    first = CollapseMeter(len(weight), centre=centre)
    for features, labels, _ in batches():
        first.update(features, labels)
    second = CollapseMeter(len(weight), centre=centre, minority=minority, means=first.means)
    for batch in batches():
        second.update(*batch)
    return second.compute(weight)


def simplex_gram(classes: int) -> Tensor:
    """Return E = (I - 1 1^T / K) / sqrt(K - 1), the Gram matrix of a simplex, of norm 1.

    Arguments:
        classes: K; the answer is (K, K), float64.
    """
    eye = torch.eye(classes, dtype=torch.float64)
    return (eye - 1 / classes) / math.sqrt(classes - 1)


def simplex_etf(classes: int, dimension: int, seed: int = 0) -> Tensor:
    """Return the K vertices of a simplex equiangular tight frame in p dimensions, (K, p):

        sqrt(K / (K - 1)) (I - 1 1^T / K) P^T,   P with orthonormal columns, each of norm 1.

    Arguments:
        classes: K.
        dimension: p.
        seed: of P.

    Raises:
        ValueError: p < K - 1, where there is no room.
    """
    if dimension < classes - 1:
        raise ValueError(f"{classes} vertices need {classes - 1} dimensions; got {dimension}.")
    generator = torch.Generator().manual_seed(seed)
    eye = torch.eye(classes, dtype=torch.float64)
    centred = math.sqrt(classes / (classes - 1)) * (eye - 1 / classes)
    values, vectors = torch.linalg.eigh(centred)
    frame = vectors[:, 1:] * values[1:]  # (K, K - 1): the direction of ones carries nothing
    noise = torch.randn(dimension, classes - 1, generator=generator, dtype=torch.float64)
    basis: Tensor = torch.linalg.qr(noise)[0]
    vertices: Tensor = frame @ basis.mT
    return vertices


def make_imbalanced(
    labels: Tensor, ratio: float, majority: int, minority: int, *, most: int, seed: int = 0
) -> Tensor:
    """Return the indices of an imbalanced subset, int64: the first `majority` classes with `most`
    samples each, the next `minority` ones with most / ratio.

    Arguments:
        labels: classes of all samples, (N,).
        ratio: R, at least 1.
        majority: K_A.
        minority: K_B.
        most: samples of a class of the majority.
        seed: of the choice.

    Raises:
        ValueError: a class has too few samples, or a minority class would have none.
    """
    if not (ratio >= 1 and majority >= 0 and minority >= 0 and majority + minority > 0):
        raise ValueError(
            "ratio must be at least 1, and there must be classes; got "
            f"{ratio}, {majority} and {minority}."
        )
    few = int(most / ratio)
    if few < 1:
        raise ValueError(f"{most} / {ratio:g} leaves no sample of a minority class.")
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for k in range(majority + minority):
        here = (labels == k).nonzero().flatten()
        wanted = most if k < majority else few
        if len(here) < wanted:
            raise ValueError(f"class {k} has {len(here)} samples; {wanted} are wanted.")
        chosen.append(here[torch.randperm(len(here), generator=generator)[:wanted]])
    return torch.cat(chosen).sort().values


def minority_cosine(w: Tensor, minority: list[int]) -> float:
    """Return the mean cosine of two of the minority's classifiers: 1 where they have collapsed.

    It is nan where the minority is one class.

    Arguments:
        w: the classifiers, (K, p).
        minority: numbers of classes, below K.
    """
    unit = torch.nn.functional.normalize(w[minority], dim=1)
    off = ~torch.eye(len(minority), dtype=torch.bool, device=w.device)
    return float((unit @ unit.mT)[off].mean())


def _distance(gram: Tensor, etf: Tensor) -> float:
    return float(torch.linalg.matrix_norm(gram / torch.linalg.matrix_norm(gram) - etf))
