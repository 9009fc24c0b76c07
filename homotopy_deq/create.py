"""Models by name: which there are, and one of them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .settings import MODELS
from .settings.declare import pick

if TYPE_CHECKING:
    from .models import ImageModel


def list_models() -> list[str]:
    """Return the names of the models that `create_model` and `--model` know."""
    return list(MODELS)


def create_model(name: str, **settings: Any) -> ImageModel:
    """Return a model by its name, with fresh weights.

    Arguments:
        name: one of `list_models()`.
        **settings: arguments of its class, such as `shape` and `num_classes` of the images, its
            sizes, `solver` and `gradient`. What is not given has the default of the class.

    Raises:
        ValueError: there is no such model, or it has no such setting; says which there are.

    Example:
        >>> model = create_model("deq", shape=(1, 8, 8), hidden=16, groups=4)
        >>> model(torch.rand(4, 1, 8, 8)).shape
        torch.Size([4, 10])
    """
    kind: Any = model_class(name)
    for setting in settings:
        pick(f"setting of {name}", setting, takes(name))
    model: ImageModel = kind(**settings)
    return model


def model_class(name: str) -> type[ImageModel]:
    """Return the class of a model by its name."""
    module, kind = MODELS[pick("model", name, MODELS)].split(":")
    found: type[ImageModel] = getattr(import_module(module), kind)
    return found


def takes(name: str) -> Mapping[str, inspect.Parameter]:
    """Return the settings of a model, by name: what its constructor takes."""
    return inspect.signature(model_class(name)).parameters
