"""Save a model in a folder or on the Hugging Face hub, and load it: safetensors and JSON alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args

from . import __version__
from .card import card
from .described import described, made
from .sealed import misfit, parse

if TYPE_CHECKING:
    from .layers import Layer
    from .models import ImageModel
    from .training import Checkpoint

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
CARD = "README.md"
T = TypeVar("T", bound="Pretrained")


class Pretrained:
    """What an `ImageModel` has to be saved and loaded by: no file of it runs code."""

    def save_pretrained(
        self,
        folder: Path | str,
        *,
        figures: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
        classes: Sequence[str] = (),
    ) -> None:
        """Write weights and settings, solver and gradient among them, and a model card.

        The folder receives `model.safetensors`, whose header says it all, `config.json`, a readable
        copy of that header, and the card, `README.md`. All three take the place of those of a model
        that was saved there before; two that save at once do so one after the other.

        Arguments:
            folder: is made where it is missing.
            figures: what is known of the model, for the card: tables by their titles, each of
                values that JSON can hold by their names.
            classes: their names.

        Raises:
            ValueError: the model could not be built again from its `config`, or its solver is none
                of this library.
            FileExistsError: the folder holds files of these names that are none of a saved model.
        """
        save(cast("ImageModel", self), Path(folder), figures, classes)

    @classmethod
    def from_pretrained(cls: type[T], source: Path | str, *, revision: str | None = None) -> T:
        """Return the model that `save_pretrained` or `push_to_hub` wrote, in eval mode.

        Arguments:
            source: a folder, or "name/repository" on the Hugging Face hub.
            revision: there, a branch, a tag or a commit.

        Raises:
            FileNotFoundError: there is no such folder, and no such repository.
            NotADirectoryError: it is a file.
            CheckpointError: it holds no such model, or is damaged; says what is wrong.
            ImportError: it would have to be fetched, and huggingface_hub is missing.
        """
        return cast("T", load(source, cast("type[ImageModel]", cls), revision))

    def push_to_hub(
        self,
        repository: str,
        *,
        private: bool = False,
        figures: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
        classes: Sequence[str] = (),
    ) -> str:
        """Upload what `save_pretrained` writes to the Hugging Face hub, and return its address.

        Arguments:
            repository: "name/repository", made where it is missing.
            private: whether others may not see one that is made.
            figures: as there.
            classes: as there.

        Raises:
            ImportError: huggingface_hub is missing.
        """
        hub = _hub(f"To upload to {repository}")
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, figures=figures, classes=classes)
            api = hub.HfApi()
            address = api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(repo_id=address.repo_id, folder_path=folder)
        return str(address)


def save(
    model: ImageModel, folder: Path, figures: Mapping[str, Any], classes: Sequence[str]
) -> None:
    """Write what `load` reads, a readable copy of the settings, and a card."""
    from .training.checkpoint import (
        Checkpoint,
        CheckpointError,
        replace_file,
        save_checkpoint,
        weights,
    )
    from .training.folder import in_turn

    if not model.config:
        raise ValueError(
            f"{type(model).__name__} keeps no arguments to be built with again: give it a "
            "constructor of its own under `configured`, or save its state_dict()."
        )
    path = {"t1": model.layer.t1, "on_failure": model.layer.on_failure}
    solver, gradient = _path(model.layer)
    path |= {"solver": described(solver), "gradient": described(gradient)}
    name = {"name": type(model).__name__, "config": model.config}
    about = {"model": name, "path": path, "classes": list(classes)}
    meta = {"about": about, "figures": dict(figures), "version": __version__}
    meta = json.loads(json.dumps(meta))  # as it will be read
    state = {f"model.{name}": tensor for name, tensor in weights(model).items()}
    checkpoint = Checkpoint(state, meta, folder / WEIGHTS)
    try:
        _rebuilt(checkpoint, type(model))  # what cannot be loaded is not saved
    except CheckpointError as error:
        raise ValueError(
            f"{type(model).__name__}(**config) is another model than this one, whose parts were "
            f"changed: save its state_dict(). ({error})"
        ) from error
    text = json.dumps(meta, indent=2)
    page = card(meta, sum(p.numel() for p in model.parameters()))
    with in_turn(folder):
        _require_own(folder)
        # A kill from here on leaves one model or the other, and no file that tells of another.
        for copy in (CONFIG, CARD):
            (folder / copy).unlink(missing_ok=True)
        save_checkpoint(folder / WEIGHTS, checkpoint)
        replace_file(folder / CONFIG, f"{text}\n".encode())
        replace_file(folder / CARD, page.encode())


def _require_own(folder: Path) -> None:
    """Raise FileExistsError where a folder's files are not those of a model that was saved."""
    from .training.checkpoint import is_checkpoint

    there = [name for name in (WEIGHTS, CONFIG, CARD) if (folder / name).exists()]
    if there and not is_checkpoint(folder / WEIGHTS):
        raise FileExistsError(
            f"{folder} holds a {there[0]} of something else than a saved model: choose another "
            "folder."
        )


def load(source: Path | str, kind: type[ImageModel], revision: str | None = None) -> ImageModel:
    """Return the model of a folder, or of a repository on the hub."""
    from .training.checkpoint import differences, load_checkpoint

    folder = Path(source)
    if folder.is_dir():
        if not (folder / WEIGHTS).exists():
            raise FileNotFoundError(
                f"{folder} holds no {WEIGHTS}, which save_pretrained writes: make one of a run by "
                "homotopy-deq export, or read it by homotopy_deq.cli.load_model."
            )
        found = {name: folder / name for name in (WEIGHTS, CONFIG)}
    elif folder.is_file():
        raise NotADirectoryError(
            f"{folder} is a file: name the folder that save_pretrained wrote, or read a run's "
            "checkpoint by homotopy_deq.cli.load_model."
        )
    else:
        found = {name: _fetched(str(source), name, revision) for name in (WEIGHTS, CONFIG)}
    checkpoint = load_checkpoint(found[WEIGHTS])
    if found[CONFIG].exists():
        try:
            copy = parse(found[CONFIG].read_bytes())
        except (ValueError, OSError):
            copy = None
        if not isinstance(copy, dict):
            raise checkpoint.fault(f"{CONFIG}, a copy of its header, is no JSON object; remove it")
        if changed := differences(checkpoint.meta, copy):
            told = shorten(changed[0], 200, placeholder=" ...")
            raise checkpoint.fault(
                f"{CONFIG}, a copy of its header, was changed ({told}); change the model "
                "that was loaded, by with_solver, and save that"
            )
    return _rebuilt(checkpoint, kind)


def _rebuilt(checkpoint: Checkpoint, kind: type[ImageModel]) -> ImageModel:
    from .entry import check_choice
    from .layers import OnFailure
    from .models import ImageModel

    path_of = {"solver": dict, "gradient": dict, "t1": float, "on_failure": str}
    header = {"model": {"name": str, "config": dict}, "path": path_of}
    if wrong := misfit({"about": header}, checkpoint.meta):
        raise checkpoint.fault(wrong)
    about = checkpoint.meta["about"]
    name, path = about["model"]["name"], about["path"]
    # What was asked for goes before another class of the same name.
    known = {each.__name__: each for each in (*_kinds(ImageModel), *_kinds(kind))}
    if name not in known:
        raise checkpoint.fault(f"{name} is no model of this version; import what defines it")
    if not issubclass(known[name], kind):
        raise checkpoint.fault(f"it holds a {name}, no {kind.__name__}")

    def build() -> ImageModel:
        model: Any = known[name](**about["model"]["config"])
        model = model.with_solver(made(path["solver"]), made(path["gradient"]), t1=path["t1"])
        check_choice("on_failure", path["on_failure"], get_args(OnFailure))
        model.layer.on_failure = path["on_failure"]
        return model  # type: ignore[no-any-return]

    return checkpoint.module(build, about["model"]["config"], "model")


def _path(layer: Layer) -> tuple[Any, Any]:
    """Return the solver and the gradient of a layer, or those that all equilibria in it have."""
    inner = [part.layer for part in getattr(layer, "implicit", ())] or [layer]
    solver, gradient = inner[0].solver, inner[0].gradient
    if any((each.solver, each.gradient) != (solver, gradient) for each in inner):
        raise ValueError("the equilibria of the stack have several solvers: give them one.")
    return solver, gradient


def _kinds(kind: type[ImageModel]) -> Iterator[type[ImageModel]]:
    yield kind
    for each in kind.__subclasses__():
        yield from _kinds(each)


def _fetched(repository: str, name: str, revision: str | None) -> Path:
    hub = _hub(f"{repository} is no folder here, and to look for it on the Hugging Face hub")
    try:
        return Path(hub.hf_hub_download(repository, name, revision=revision))
    except (ValueError, OSError) as error:  # what the hub raises is one of these
        line = str(error).strip().split("\n")[0]
        raise FileNotFoundError(
            f"{repository} is no folder here, and no model on the Hugging Face hub that could be "
            f"fetched ({line})."
        ) from error


def _hub(purpose: str) -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(
            f"{purpose}, install huggingface_hub: pip install 'homotopy-deq[hub]'."
        ) from error
    return huggingface_hub
