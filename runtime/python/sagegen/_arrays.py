"""Arrays of the caller's: what they are, and how results of the same kind are made."""
from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import _core
from .errors import ArgumentError, DTypeError

if TYPE_CHECKING:
    from ._devices import Slot

# DLPack's number for CUDA's legacy default stream, and what the driver calls it.
DLPACK_DEFAULT_STREAM, DEFAULT_STREAM = 1, 0


@dataclass
class View:
    """An array as kernels take it."""

    name: str
    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # elements
    dtype: str                # "f16", "bf16", "f32", "i32", "bool", ...
    device: str               # "cpu", "cuda:0"
    tensor: _core.Tensor | None  # of the host: what is copied
    owner: object = None         # keeps the memory alive

    @property
    def on_host(self) -> bool:
        return self.device == "cpu"


class Kind:
    """A kind of arrays."""

    def view(self, array: Any, name: str, writable: bool = False) -> View:
        raise NotImplementedError

    def empty(self, shape: Sequence[int], dtype: str, like: Any) -> Any:
        """A new array, contiguous, where ``like`` is. dtype: "io" for that of ``like``, or "f32"."""
        raise NotImplementedError

    def stream(self, like: Any) -> int:
        return DEFAULT_STREAM

    @contextmanager
    def workspace(self, size: int, like: Any, slot: Slot, stream: int) -> Iterator[int]:
        with slot.workspace(stream, size) as address:
            yield address

    def padded(self, array: Any, name: str, channels: int) -> Any:
        """An array on a GPU with zeros behind its channels."""
        raise ArgumentError(f"{name} has {array.shape[-1]} channels, and no kernel that is at hand; pad the channels "
                            f"with zeros to {channels}, and give the scale of the heads themselves")

    def copy_channels(self, source: Any, to: Any | None, channels: int) -> Any:
        """The first channels of ``source``, in ``to`` if there is one."""
        raise NotImplementedError


def _view_of(tensor: _core.Tensor, owner: object = None) -> View:
    return View(tensor.name, tensor.address, tensor.shape, tensor.strides, tensor.dtype, tensor.device,
                tensor if tensor.device == "cpu" else None, owner)


class NumpyKind(Kind):
    """NumPy, and by its arrays what else lies on the host and speaks DLPack."""

    def view(self, array: Any, name: str, writable: bool = False) -> View:
        import numpy as np
        if isinstance(array, np.ndarray):
            if isinstance(array, np.ma.MaskedArray):
                raise DTypeError(f"{name} is a MaskedArray, whose mask would be lost; give its data, and what to leave out as mask")
            if array.dtype.byteorder == ">" or (sys.byteorder == "big" and array.dtype.byteorder == "="):
                raise DTypeError(f"{name} is of {array.dtype}, big-endian; give it as array.astype(array.dtype.newbyteorder('='))")
            if array.dtype.name == "bfloat16":  # of ml_dtypes, which DLPack exports refuse
                return _view_of(_core.Tensor(array.view(np.uint16), name, writable, "bf16"))
            for axis, stride in enumerate(array.strides):
                if stride % array.itemsize and array.shape[axis] > 1:
                    raise ArgumentError(f"{name}: the stride of axis {axis} is {stride} bytes, no whole number of elements; give a copy")
            if not array.dtype.isnative or array.dtype.kind not in "biuf":
                raise DTypeError(f"{name} is of {array.dtype}; {_DTYPES}")
        return _view_of(_core.Tensor(array, name, writable))

    def empty(self, shape: Sequence[int], dtype: str, like: Any) -> Any:
        import numpy as np
        if dtype == "f32":
            return np.empty(shape, np.float32)
        if isinstance(like, np.ndarray):
            return np.empty(shape, like.dtype)
        if _core.Tensor(like, "q").dtype == "bf16":
            try:
                return np.empty(shape, importlib.import_module("ml_dtypes").bfloat16)
            except ImportError:
                raise DTypeError("q is of bfloat16, of which NumPy has arrays with the package ml_dtypes alone; install it, or give out") from None
        return np.empty(shape, np.float16)


class DlpackKind(NumpyKind):
    """Whatever else speaks DLPack: CuPy, JAX, ... Results on a GPU are the caller's to make."""

    def view(self, array: Any, name: str, writable: bool = False) -> View:
        try:
            on_cuda = array.__dlpack_device__()[0] == 2
        except AttributeError:
            on_cuda = False
        if not on_cuda:
            return super().view(array, name, writable)
        # The producer's work is ordered before what is enqueued on this stream.
        return _view_of(_core.Tensor(array.__dlpack__(stream=DLPACK_DEFAULT_STREAM), name, writable), array)

    def empty(self, shape: Sequence[int], dtype: str, like: Any) -> Any:
        device = getattr(like, "__dlpack_device__", lambda: (1, 0))()
        if device[0] == 1:
            return super().empty(shape, dtype, like)
        what = "out" if dtype == "io" else "lse_out"
        raise ArgumentError(f"{what} is missing: on a GPU results of a {type(like).__name__} are the caller's to make; give "
                            f"{what}, an array of shape {tuple(shape)}" + (" and float32" if dtype == "f32" else ""))


class TorchKind(Kind):
    """PyTorch: on a GPU on its current stream, with memory of its caching allocator."""

    def view(self, array: Any, name: str, writable: bool = False) -> View:
        need_strided(array, name)
        if array.is_neg():  # the operator gets what PyTorch has resolved
            raise DTypeError(f"{name} is a view that negates what it reads; give its resolve_neg()")
        if array.device.type == "cpu":
            return _view_of(_core.Tensor(array.detach(), name, writable), array)
        if array.device.type != "cuda":
            raise ArgumentError(f"{name} is on {array.device}; there are kernels for cuda, and the emulator for cpu")
        dtype = _TORCH_DTYPES.get(str(array.dtype), str(array.dtype))
        return View(name, array.data_ptr(), tuple(array.shape), tuple(array.stride()), dtype,
                    f"cuda:{array.device.index}", None, array)

    def empty(self, shape: Sequence[int], dtype: str, like: Any) -> Any:
        import torch
        return torch.empty(tuple(shape), dtype=torch.float32 if dtype == "f32" else like.dtype, device=like.device)

    def stream(self, like: Any) -> int:
        import torch
        if like.device.type != "cuda":
            return DEFAULT_STREAM
        return int(torch.cuda.current_stream(like.device).cuda_stream)

    @contextmanager
    def workspace(self, size: int, like: Any, slot: Slot, stream: int) -> Iterator[int]:
        import torch
        if like.device.type != "cuda":
            with super().workspace(size, like, slot, stream) as address:
                yield address
            return
        # Freed when enqueued: the allocator hands it out again on this stream alone, in order.
        memory = torch.empty(size, dtype=torch.uint8, device=like.device)
        yield memory.data_ptr() if size else 0

    def padded(self, array: Any, name: str, channels: int) -> Any:
        import torch
        return torch.nn.functional.pad(array, (0, channels - array.shape[-1]))

    def copy_channels(self, source: Any, to: Any | None, channels: int) -> Any:
        part = source[..., :channels]
        return part.contiguous() if to is None else to.copy_(part)


_DTYPES = "there are kernels for float16 and bfloat16"
_TORCH_DTYPES = {"torch.float16": "f16", "torch.bfloat16": "bf16", "torch.float32": "f32", "torch.float64": "f64",
                 "torch.int32": "i32", "torch.int64": "i64", "torch.bool": "bool", "torch.uint8": "u8"}
_TORCH, _NUMPY, _DLPACK = TorchKind(), NumpyKind(), DlpackKind()


def need_strided(array: Any, name: str) -> None:
    """Of a tensor of PyTorch. Raises DTypeError."""
    if str(array.layout) != "torch.strided" or array.is_nested:
        raise DTypeError(f"{name} has the layout {'nested' if array.is_nested else array.layout}; give a strided tensor, as its to_dense() is")
    if array.is_quantized:
        raise DTypeError(f"{name} is of {array.dtype}; {_DTYPES}")


def is_torch(array: Any) -> bool:
    """Whether it is a tensor of PyTorch, which is not imported for the answer."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def kind_of(array: Any) -> Kind:
    if is_torch(array):
        return _TORCH
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(array, numpy.ndarray):
        return _NUMPY
    return _DLPACK


def need_dtype(view: View, dtypes: Sequence[str], why: str) -> None:
    if view.dtype not in dtypes:
        raise DTypeError(f"{view.name} is of dtype {view.dtype}; {why}")
