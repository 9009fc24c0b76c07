"""One file that holds a whole run, replaced in one step, and loaded without running any code."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..sealed import parse
from .folder import writing

FORMAT = 2
UNHASHED = 1  # the format before checksums, which is still read
M = TypeVar("M", bound=nn.Module)
SPARE = 10**6
"""The sizes of a model that have nothing to do with how many numbers it has, such as an image's."""
CALLS = 100
"""Of torch, for each tensor of a model that is built: a layer and its first weights take 30."""
_KEY = "homotopy-deq"  # of the JSON text in the safetensors header; the format of both is public


class CheckpointError(ValueError):
    """A file that is no checkpoint, or not of the run that it was asked to continue."""


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on: its tensors by dotted name, and the rest as JSON.

    The file is one safetensors file whose header carries the JSON, so tensors and counters cannot
    be of different moments. Equal runs write equal bytes: nothing in it tells the time.

    Arguments:
        tensors: name -> tensor on the CPU, such as "model.head.weight".
        meta: anything that JSON can write.
        file: where it was read from, for messages.
    """

    tensors: Mapping[str, Tensor]
    meta: Mapping[str, Any]
    file: Path | None = field(default=None, compare=False)

    def under(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors named "prefix.x" as {"x": tensor}."""
        start = prefix + "."
        return {k.removeprefix(start): v for k, v in self.tensors.items() if k.startswith(start)}

    def fault(self, what: str) -> CheckpointError:
        """Return the error that names the file and what is wrong with it, for raising."""
        return CheckpointError(
            f"{self.file or 'the checkpoint'} cannot be used: {what}. Use another checkpoint, or "
            "train again."
        )

    def state(self, group: str, module: nn.Module) -> dict[str, Tensor]:
        """Return the tensors of a group, which are the state of a module of this shape.

        Arguments:
            group: as in `under`.
            module: only its names, shapes and kinds are looked at: it may be on the meta device.

        Raises:
            CheckpointError: a tensor is missing, is one too many, has another shape or kind, or
                is a parameter that is not finite.
        """
        stored, wanted = self.under(group), module.state_dict()
        for what, names in (
            ("lacks", wanted.keys() - stored.keys()),
            ("has, beside those of the model,", stored.keys() - wanted.keys()),
        ):
            if names:
                raise self.fault(f"it {what} the tensor {group}.{min(names)}")
        for name, tensor in wanted.items():
            given = stored[name]
            if given.shape != tensor.shape:
                raise self.fault(
                    f"its header asks for {group}.{name} of shape {tuple(tensor.shape)}; stored "
                    f"is {tuple(given.shape)}"
                )
            if given.is_floating_point() != tensor.is_floating_point():
                raise self.fault(f"{group}.{name} is {given.dtype}, not {tensor.dtype}")
        for name, _ in module.named_parameters():
            if not bool(torch.isfinite(stored[name]).all()):
                raise self.fault(f"{group}.{name} is not finite")
        return stored

    def module(self, build: Callable[[], M], config: Mapping[str, Any], *groups: str) -> M:
        """Return the module whose state the last of some groups is, in eval mode.

        Arguments:
            build: makes one with fresh weights, of what the header says; may fail.
            config: the sizes that it is built of: none is far above how many numbers are stored.
            groups: as in `state`; all are looked at. Weights keep the precision that they have.

        Raises:
            CheckpointError: there is no such module, or it has another state.
        """

        most = 2 * sum(tensor.numel() for tensor in self.tensors.values()) + SPARE
        for name, value in config.items():
            if (size := _largest(value)) > most:
                raise self.fault(f"its header describes no model ({name} = {size})")

        def built() -> M:
            try:
                return build()
            except Exception as error:  # a header may say anything
                line = str(error).strip().split("\n")[0] or type(error).__name__
                raise self.fault(f"its header describes no model ({line})") from error

        # Shapes alone: a size that is no size must not ask for memory, nor a depth for years.
        with torch.device("meta"), _Bounded(len(self.tensors)):
            sketch = built()
        states = [self.state(group, sketch) for group in groups]
        model = built()
        kinds = {t.dtype for t in states[-1].values() if t.is_floating_point()}
        if kinds:
            model.to(reduce(torch.promote_types, kinds))
        model.load_state_dict(states[-1])
        return model.eval()


def _largest(value: Any) -> int:
    """Return the largest whole number in a value of JSON, and at least 0."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        return max(map(_largest, value), default=0)
    return max(value, 0) if isinstance(value, int) else 0


class _Bounded(TorchFunctionMode):
    """End a construction that takes far more calls of torch than so many tensors can need."""

    def __init__(self, tensors: int) -> None:
        super().__init__()
        self.tensors = tensors
        self.left = CALLS * (tensors + CALLS)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.left -= 1
        if self.left < 0:
            raise ValueError(f"it has many more parts than the {self.tensors} tensors stored")
        return func(*args, **(kwargs or {}))


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a model's parameters and buffers, on the CPU."""
    return {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint so that a kill at any instant leaves the old one or the new one.

    The bytes go to a temporary file beside it, are forced to the disk, and the file takes the
    place of the old one by a rename, which POSIX makes atomic.

    Arguments:
        path: of the file; its folder is made.
        checkpoint: what to write.
    """
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in checkpoint.tensors.items()}
    meta = json.loads(json.dumps(checkpoint.meta))  # as it will be read
    text = json.dumps({**meta, "format": FORMAT, "sha256": _digest(meta, tensors)})
    replace_file(path, to_bytes(tensors, metadata={_KEY: text}))


def is_checkpoint(path: Path) -> bool:
    """Say whether a file is one that `save_checkpoint` wrote, by its header."""
    try:
        with safe_open(path, "pt") as file:
            return _KEY in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint. No code in the file is run: safetensors and JSON hold data alone.

    Arguments:
        path: of the file.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is no checkpoint of ours, was changed or damaged, holds a NaN, or
            is from a newer version.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no checkpoint {path}: name the folder or the file that train wrote."
        )
    # Opened once: safe_open does so twice, and a run may replace the file in between.
    data = path.read_bytes()
    try:
        tensors = from_bytes(data)
        header = parse(data[8 : 8 + int.from_bytes(data[:8], "little")])
        meta = parse(header.get("__metadata__", {})[_KEY])
        if not isinstance(meta, dict):
            raise ValueError(f"that entry is a {type(meta).__name__}, not an object")
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a checkpoint of homotopy-deq train (a safetensors file whose header "
            f"has a {_KEY!r} entry): {error}."
        ) from error
    form, digest = meta.pop("format", None), meta.pop("sha256", None)
    if form not in (FORMAT, UNHASHED):
        raise CheckpointError(
            f"{path} has checkpoint format {form!r}; this version reads {UNHASHED} and {FORMAT}."
        )
    checkpoint = Checkpoint(tensors, meta, path)
    if form == FORMAT and digest != _digest(meta, tensors):
        raise checkpoint.fault("its contents do not have the checksum that they were saved with")
    for name, tensor in tensors.items():
        if bool(tensor.isnan().any()):
            raise checkpoint.fault(f"the tensor {name} holds NaN")
    return checkpoint


def _digest(meta: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of everything that a checkpoint holds."""
    found = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        row = torch.cat([tensor.reshape(-1)])  # of stride 1, which one number alone may not have
        found.update(row.view(torch.uint8).numpy().data)
    return found.hexdigest()


def replace_file(path: Path, data: bytes) -> None:
    """Give a file new contents in one step, and return once they are on the disk.

    Raises:
        OSError: that failed; names the file, which is as it was, and leaves nothing beside it.
    """
    temporary = path.with_name(path.name + ".tmp")  # one name, so a killed run leaves one at most
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(temporary) as file:
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                os.replace(temporary, path)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the rename itself
        finally:
            os.close(folder)


def _alone(path: Path) -> BinaryIO:
    """Open a file of this name, empty, that no other process writes to."""
    while True:
        file = open(path, "ab")  # noqa: SIM115  (the caller closes it)
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            same = os.path.samestat(os.fstat(file.fileno()), os.stat(path))
        except FileNotFoundError:
            same = False
        if same:  # and not what another process has given its name meanwhile
            file.truncate(0)
            return file
        file.close()


def differences(stored: Mapping[str, Any], given: Mapping[str, Any], at: str = "") -> list[str]:
    """List "field: stored, not given" for each entry of two nested JSON objects that differs."""
    found = []
    for key in sorted({*stored, *given}):
        old, new = stored.get(key), given.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{at}{key}.")
        elif old != new and json.dumps(old) != json.dumps(new):  # NaN is not itself
            found.append(f"{at}{key}: {json.dumps(old)} in the run, {json.dumps(new)} given")
    return found
