"""What a GPU would be waited for, counted without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves


class Host(Tensor):
    """A tensor that was brought to the host. What computes with another one's rows is refused."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for each in tree_leaves((args, kwargs)):
            if type(each) is Tensor and each.dim() > 0:
                raise RuntimeError(f"{func.__name__} of tensors on two devices")
        return super().__torch_function__(func, types, args, kwargs or {})


LOOKS = "__bool__", "__float__", "__int__", "__index__", "item", "tolist", "numpy", "nonzero"
"""Methods that need a number of a tensor, or a size that depends on one."""


@contextmanager
def looks() -> Iterator[list[str]]:
    """List each time that a GPU would be waited for: every tensor passes for one that lies there.

    Those are looks at its numbers, copies to the host, and copies from there that wait for their
    end. A sample's rows are chosen by indices that lie there too.
    """
    seen: list[str] = []

    def counted(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            if not isinstance(self, Host):
                seen.append(name)
            return plain(self, *args, **kwargs)

        return call

    def cpu(self: Tensor) -> Tensor:
        if isinstance(self, Host):
            return self
        seen.append("cpu")
        return self.as_subclass(Host)

    def to(self: Tensor, *args: Any, non_blocking: bool = False, **kwargs: Any) -> Tensor:
        if not isinstance(self, Host) or isinstance(args[0], torch.dtype):
            return plain_to(self, *args, **kwargs)
        if not non_blocking:
            seen.append("to")
        with torch._C.DisableTorchFunctionSubclass():
            return plain_to(self, *args, **kwargs).as_subclass(Tensor)

    def getitem(self: Tensor, index: Any) -> Any:
        chosen = [each for each in tree_leaves(index) if isinstance(each, Tensor)]
        if not isinstance(self, Host) and any(each.dtype == torch.bool for each in chosen):
            seen.append("mask")
        return plain_getitem(self, index)

    def sent(*args: Any, **kwargs: Any) -> Tensor:
        made = plain_tensor(*args, **kwargs)
        if made.dim() == 0 or kwargs.get("device") is None:
            return made
        seen.append("tensor")
        return made

    plain_to, plain_getitem, plain_tensor = Tensor.to, Tensor.__getitem__, torch.tensor
    plain_from_numpy = torch.from_numpy
    with pytest.MonkeyPatch.context() as patch:
        for name in LOOKS:
            patch.setattr(Tensor, name, counted(name, getattr(Tensor, name)))
        patch.setattr(torch, "equal", counted("equal", torch.equal))
        patch.setattr(torch, "from_numpy", lambda x: plain_from_numpy(x).as_subclass(Host))
        patch.setattr(torch, "tensor", sent)
        patch.setattr(Tensor, "is_cpu", property(lambda self: isinstance(self, Host)))
        patch.setattr(Tensor, "cpu", cpu)
        patch.setattr(Tensor, "to", to)
        patch.setattr(Tensor, "__getitem__", getitem)
        yield seen
