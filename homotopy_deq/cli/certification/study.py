"""What is certified: a model, its images, the votes that count; all of it checked beforehand."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from datetime import timedelta
from typing import Any

import torch
from accelerate import PartialState  # type: ignore[import-untyped]
from torch import Tensor

from ...certification import Clean, Policy, Smoothing, Tangent, Verified
from ...certification.requirements import state_size
from ...data import ImageData, stratified_order
from ...models import ImageModel
from ...settings import NoiseSettings, Settings, Votes
from .. import names
from ..options import ImagesToTest
from ..resolve import images_of, pass_of
from ..trained import Trained

WAIT = timedelta(days=7)
"""How long a process waits for the others, whose images may take longer."""
CLEAN_BATCH = 256
PAYS = 512
"""Largest state for which the tangent start is the default: beyond, its products with an n x n
matrix cost more than the evaluations that they save."""
ROOM = 2**19
"""Numbers of a batch of states, where the batch is not given; it holds 100 to 4000 samples."""


@dataclass(frozen=True)
class Study:
    """A trained model, the policy of its votes and the images to certify.

    Arguments:
        model: in eval mode, on its device, with the forward pass chosen.
        settings: of the training.
        policy: sound for the model.
        name: of the policy.
        pixels: the images, uint8 (B, C, H, W).
        labels: of the images.
        indices: of the images in the test set.
        size: numbers of a sample's state.
        identity: JSON of all this, for a journal.
        processes: accelerate's view of them.
    """

    model: ImageModel
    settings: Settings
    policy: Policy
    name: str
    pixels: Tensor
    labels: Sequence[int]
    indices: Sequence[int]
    size: int
    identity: dict[str, Any]
    processes: Any

    @classmethod
    def of(
        cls,
        trained: Trained,
        votes: Votes,
        images: ImagesToTest,
        *,
        skip: int = 0,
        audit: int | None = None,
        cpu: bool = False,
        few: bool = False,
        data: ImageData | None = None,
    ) -> Study:
        """Load what the options name.

        Arguments:
            trained: the model.
            votes: which count.
            images: which.
            skip: so many of the first are left out.
            audit: samples that are solved again, where the policy does so.
            cpu: whether to leave a GPU alone.
            few: whether an image has too few samples for the matrix of the tangent start to pay.
            data: instead of the images that are named.

        Raises:
            FileNotFoundError, ValueError: what is named is not there, is not valid, or the policy
                is not sound for the model; says what to do.
        """
        settings, model = trained.settings, trained.model
        check_weights(model)
        name = votes.policy or ("verified" if model.verifiable else "converged")
        policy = names.policy_by(name, votes.warm_start, steps=votes.steps, audit=audit)
        path = _path(settings, votes, policy)
        model = path.put(model)
        policy = _with_start(_with_solver(policy, model, votes), model, votes, few)
        policy.check(model)
        data = data or images_of(settings, images.root)
        if data.shape != model.shape:
            raise ValueError(
                f"the images of {data.name} have shape {data.shape}; the model wants {model.shape}."
            )
        if data.test_images.dtype != torch.uint8:
            raise ValueError(
                f"the images of {data.name} are {data.test_images.dtype}; uint8 of 0 to 255 are "
                "wanted, which the model sees as 0 to 1: sigma and radii are in these units."
            )
        order = stratified_order(data.test_labels, settings.training.seed)[skip:][: images.limit]
        if not len(order):
            raise ValueError(
                f"--skip {skip} leaves none of the {len(data.test_labels)} test images."
            )
        processes: Any = PartialState(cpu=cpu, timeout=WAIT)
        device: torch.device = processes.device
        pixels, labels = data.test_images[order], data.test_labels[order]
        model.to(device)
        size = check_clean(model, pixels, device)
        identity = {
            "weights sha256": weights_sha256(model),
            "data": {
                "name": data.name,
                "test images": len(data.test_labels),
                "crc32": [_crc(data.test_images), _crc(data.test_labels)],
            },
            "images": {"skip": skip, "count": len(order), "crc32": _crc(order)},
            "path": asdict(path),
            "layer": [described(model.layer.solver), None],
            "policy": {"name": name, **described(policy)},
            "device": device.type,
            "torch": torch.__version__,
        }
        indices = order.tolist()
        return cls(
            model,
            settings,
            policy,
            name,
            pixels,
            labels.tolist(),
            indices,
            size,
            identity,
            processes,
        )

    def image(self, place: int) -> Tensor:
        """Return the image at a place of `indices`, on the model's device, in [0, 1]."""
        device: torch.device = self.processes.device
        return self.pixels[place].to(device).float() / 255

    def smoothings(
        self, noise: NoiseSettings, batch: int | None, **settings: Any
    ) -> list[Smoothing]:
        """Return the noise of each sigma, by default that of the training.

        Raises:
            ValueError: there is none, one is given twice, or a number is out of range.
        """
        trained = self.settings.training.smoothing
        chosen = list(noise.sigmas or ([] if trained is None else [trained.noise]))
        if not chosen:
            raise ValueError(
                "the model was trained without noise, so there is no default for --sigma: give "
                "--sigma, such as --sigma 0.25 (and train with --noise 0.25 to certify more)."
            )
        if len(set(chosen)) < len(chosen):
            raise ValueError(f"--sigma: each once; got {', '.join(map(str, chosen))}.")
        given = {k: v for k, v in asdict(noise).items() if k != "sigmas"}
        settings |= {**given, "batch": batch or max(100, min(4000, ROOM // self.size))}
        found = [Smoothing(sigma=sigma, **settings) for sigma in chosen]
        audit = getattr(self.policy, "audit", 0)
        if audit > noise.n:
            raise ValueError(
                f"--audit {audit} is more than --n {noise.n}: no more samples can be solved "
                "again than were drawn."
            )
        return found


def check_weights(model: ImageModel) -> None:
    """Raise ValueError unless all weights are finite: NaN logits would vote for class 0."""
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            bad = int((~torch.isfinite(value)).sum())
            raise ValueError(
                f"{bad} of {value.numel()} numbers of the weight {name} are not finite: nothing "
                "can be certified. The training diverged or the checkpoint was altered: train "
                "again, with a smaller --lr."
            )


@torch.no_grad()
def check_clean(model: ImageModel, pixels: Tensor, device: torch.device) -> int:
    """Raise ValueError unless the clean images' logits are finite; return the size of a state."""
    infinite = size = 0
    for k in range(0, len(pixels), CLEAN_BATCH):
        output = model.solve(pixels[k : k + CLEAN_BATCH].to(device).float() / 255)
        size = output.solution.value[0].numel()
        infinite += int((~torch.isfinite(output.logits).all(1)).sum())
    if infinite:
        raise ValueError(
            f"the logits of {infinite} of {len(pixels)} images are not finite: nothing can be "
            "certified."
        )
    return size


def weights_sha256(model: ImageModel) -> str:
    """Return a checksum of all that a model was loaded with."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        plain = value.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
        digest.update(plain.numpy().tobytes())
    return digest.hexdigest()


def described(value: object) -> Any:
    """Return a frozen dataclass as JSON: what it is, and its fields."""
    if is_dataclass(value) and not isinstance(value, type):
        own = {field.name: described(getattr(value, field.name)) for field in fields(value)}
        return {"is": type(value).__name__, **own}
    if isinstance(value, (tuple, list)):
        return [described(each) for each in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return getattr(value, "__qualname__", type(value).__name__)


def _path(settings: Settings, votes: Votes, policy: Policy) -> names.Pass:
    """Return the forward pass; the exact equilibrium is found by Anderson along a flow, too."""
    given = {"rtol": votes.rtol, "max_steps": votes.max_steps}
    path = pass_of(settings, votes.solver, **given)
    if not isinstance(policy, Verified) or path.at_root:
        return path
    if votes.solver is not None:
        raise ValueError(
            f"policy verified looks for the equilibrium, and --solver {votes.solver} ends a flow "
            f"before it: leave --solver out, or use {votes.solver}+anderson."
        )
    return pass_of(settings, "anderson", **given)


def _with_solver(policy: Policy, model: ImageModel, votes: Votes) -> Policy:
    """Return the policy with the solver that the options give it, if it has one of its own."""
    if not isinstance(policy, Verified):
        return policy
    if votes.solver is not None:
        return replace(policy, solver=model.layer.solver)
    limits = {"rtol": votes.rtol, "max_steps": votes.max_steps}
    given: dict[str, Any] = {k: v for k, v in limits.items() if v is not None}
    return replace(policy, solver=replace(policy.solver, **given))


def _with_start(policy: Policy, model: ImageModel, votes: Votes, few: bool) -> Policy:
    """Return the policy with another start than the tangent where that is default and too dear."""
    if votes.warm_start is not None or not isinstance(policy.start, Tangent):
        return policy
    dear = few or state_size(model) > PAYS
    return replace(policy, start=Clean()) if dear else policy


def _crc(values: Tensor) -> int:
    return zlib.crc32(values.contiguous().numpy().tobytes())
