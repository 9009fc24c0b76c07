"""homotopy-deq show"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from ... import __version__
from ...certification import LipschitzProver, Smoother
from ...data import ImageData, stratified_order
from ...lipschitz import Margin
from ...models import BoundedModel
from ...page import Certificate, Page, certain, describe, noisy, render
from ...settings import Votes
from ...training.checkpoint import replace_file
from ...training.folder import require_writable
from ..certification.options import Show
from ..certification.study import check_weights, processes_of
from ..certification.votes import Poll
from ..flags import in_options
from ..names import policy_by
from ..options import ImagesToTest
from ..report import console, counting
from ..resolve import images_of, pass_of
from ..trained import Trained, find_checkpoint

EQUILIBRIUM = ("picard", "anderson", "broyden", "newton-krylov", "rk4", "continuation")
FLOW = ("dopri5", "rk4", "euler")
SIGMA = 0.25
"""Of the noise that a model trained without any is asked under."""

Certify = Callable[[Tensor, int, int], Certificate]
"""Claims something of an image, (C, H, W), of a class and a number in the test set."""


def command(chosen: Show) -> None:
    """Write the page of a trained model."""
    trained = Trained.of(chosen.run.path)
    out = chosen.out or find_checkpoint(chosen.run.path).parent / "page.html"
    if out.is_dir():
        raise IsADirectoryError(f"{out} is a folder, where --out needs a file: add page.html.")
    require_writable(out.parent)
    chosen.machine.use()
    settings, model = trained.settings, trained.model
    check_weights(model)
    device = processes_of(chosen.machine.cpu).device
    model.to(device)
    rests, own, told = model.layer.rest_point, settings.forward.solver, dict[str, str]()
    names = chosen.solvers.names or [*(EQUILIBRIUM if rests else FLOW)]
    names = names if chosen.solvers.names or own in names else [own, *names]
    if not model.layer.one_equation:
        names = []
        told["paths"] = told["residuals"] = "A stack of layers has no one path to draw."
    elif not rests:
        told["residuals"] = told["branch"] = "The flow of this model has no equilibrium."
    passes = {name: pass_of(settings, name).put(model) for name in names}
    data = images_of(settings, chosen.place.root)
    order = stratified_order(data.test_labels, settings.training.seed)[: chosen.images].tolist()
    certifying = _certifying(trained, chosen, data, told)
    pictures = []
    with counting("images", len(order)) as advance:
        for index in order:
            image = data.test_images[index].to(device).float() / 255
            label = int(data.test_labels[index])
            claims = [certify(image, label, index) for certify in certifying]
            pictures.append(describe(passes, image, label, index, claims))
            advance(1)
    tested = trained.checkpoint.meta["test"]
    page = Page(
        run=str(chosen.run.path),
        model=settings.model.name,
        dataset=data.name,
        classes=tuple(trained.classes),
        trained_with=own,
        accuracy=tested["accuracy"] if tested else None,
        version=__version__,
        told=told,
        pictures=tuple(pictures),
    )
    replace_file(out, render(page).encode())
    console.print(f"wrote {out}", highlight=False, soft_wrap=True)


def _certifying(
    trained: Trained, chosen: Show, data: ImageData, told: dict[str, str]
) -> list[Certify]:
    """Return what claims something of images; where nothing does, say why in `told`."""
    found: list[Certify] = []
    model, smoothed = trained.model, trained.settings.training.smoothing
    if isinstance(model, BoundedModel):
        try:
            prover = LipschitzProver(model.network(), model.shape, Margin.PAIRWISE)
            found.append(lambda *image: certain(prover, *image))
        except ValueError as error:
            told["certificates"] = in_options(str(error))
    if chosen.policy is not None:
        policy_by(chosen.policy)  # a name that is none is no property of the model
    noise = chosen.noise
    if noise.sigmas is None and smoothed is None:
        noise = replace(noise, sigmas=[SIGMA])
        told["noise"] = f"The model was trained without noise; it is asked under {SIGMA:g} here."
    votes, shown = Votes(policy=chosen.policy), ImagesToTest(limit=chosen.images)
    try:
        poll = Poll.of(trained, votes, shown, cpu=chosen.machine.cpu, data=data)
    except ValueError as error:
        told["certificates"] = in_options(str(error))
        return found
    poll.policy.check_reach(noise.n, noise.alpha)
    for smoothing in poll.smoothings(noise, None):
        smoother = Smoother(poll.study.model, poll.policy, smoothing)
        found.append(lambda *image, by=smoother: noisy(by, *image))
    return found
