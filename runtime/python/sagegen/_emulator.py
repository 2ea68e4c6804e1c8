"""Emulator: anybody's PTX on arrays of the host, with every check."""
from __future__ import annotations

import operator
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from . import _core
from ._arguments import LARGEST_INT, sequence, shown, text, whole
from ._arrays import kind_of
from ._devices import Device
from ._kernels import Kernel
from .errors import ArgumentError, DTypeError

_INTEGERS = {"u8": "B", "s8": "b", "b8": "B", "u16": "H", "s16": "h", "b16": "H", "u32": "I", "s32": "i", "b32": "I",
             "u64": "Q", "s64": "q", "b64": "Q"}
_FLOATS = {"f16": "e", "f32": "f", "f64": "d"}


@dataclass(frozen=True)
class Launch:
    """What a launch did."""

    entry: str
    warp_instructions: int


@dataclass(frozen=True)
class Copied:
    """An array of an argument, and its copy on the device."""

    tensor: _core.Tensor
    memory: _core.Memory
    writable: bool


class Emulator:
    """A GPU that runs PTX text on the host: ``Emulator("sm_89").run(ptx, grid, block, [x, y, 1000])``.

    profile: sm_80, sm_86, sm_89, sm_90, sm_120 or ideal. The rest as in Device. One launch at a time.
    """

    def __init__(self, profile: str = "sm_89", *, checks: bool = True, schedule: str = "round_robin", copies: str = "late",
                 seed: int = 0, threads: int = 0, launch_limit: int = 0) -> None:
        self.device = Device(f"emulator:{profile}", checks, schedule, copies, seed, threads, launch_limit)
        self._open = self.device.open()

    def run(self, ptx: str | Kernel, grid: int | Sequence[int], block: int | Sequence[int], args: Sequence[Any], *,
            entry: str = "", dynamic_smem: int = 0) -> Launch:
        """Runs one entry point.

        args: one for each parameter: an array of the host passes the address of a copy, which is copied back when the kernel
            ended if the array may be written; the same array twice is one copy; a number is packed as the PTX declares it;
            bytes are a struct by value. block: 0 where the PTX says .reqntid. dynamic_smem: bytes of a block.

        Raises FindingsError (no array is changed then), ArgumentError, SpecError, DriverError.
        """
        code = ptx.ptx if isinstance(ptx, Kernel) else text("ptx", ptx, "PTX text, or a sagegen.Kernel")
        text("entry", entry, "the name of an entry point, or empty")
        if isinstance(ptx, Kernel) and not entry:
            entry = ptx.entry
        sequence("args", args, "a list or tuple with one argument for each parameter")
        whole("dynamic_smem", dynamic_smem, 0, LARGEST_INT)
        of_grid = _size("grid", grid)
        function = _core.Function(self._open, code, entry, _size("block", block), dynamic_smem)
        parameters = function.parameters
        if len(args) != len(parameters):
            declared = ", ".join(f"{name} .{type_}" for name, type_, _, _ in parameters)
            raise ArgumentError(f"{function.name} takes {len(parameters)} arguments ({declared}), and is given {len(args)}")
        copies: dict[int, Copied] = {}
        packed = [self._pack(argument, *parameter, copies) for argument, parameter in zip(args, parameters)]
        before = self._open.warp_instructions
        function.launch(of_grid, packed)
        for copied in copies.values():
            if copied.writable:
                copied.memory.download(copied.tensor)
        return Launch(function.name, self._open.warp_instructions - before)

    def _pack(self, argument: Any, name: str, type_: str, is_array: bool, size: int,
              copies: dict[int, Copied]) -> bytes:
        if isinstance(argument, (bytes, bytearray)):
            return bytes(argument)
        if isinstance(argument, (bool, int, float, complex, str)) or hasattr(argument, "__index__") and not hasattr(argument, "shape"):
            return _pack_number(argument, name, type_, is_array)
        if getattr(argument, "shape", None) == ():
            return _pack_number(argument.item(), name, type_, is_array)
        if size != 8 or is_array:
            raise DTypeError(f"{name} is a {type(argument).__name__}, and the parameter is of {size} bytes (.{type_}), no address")
        if id(argument) not in copies:
            writable = _may_be_written(argument)  # what cannot be written back is refused before anything runs
            view = kind_of(argument).view(argument, name, writable)
            if view.tensor is None:
                raise ArgumentError(f"{name} is on {view.device}; the emulator reads arrays of the host")
            bytes_ = 1
            for length in view.shape:
                bytes_ *= length
            memory = _core.Memory(self._open, bytes_ * view.tensor.item_bytes)
            memory.upload(view.tensor)
            copies[id(argument)] = Copied(view.tensor, memory, writable)
        return struct.pack("<Q", copies[id(argument)].memory.address)


def _may_be_written(array: Any) -> bool:
    flags = getattr(array, "flags", None)
    return bool(getattr(flags, "writeable", True))


def _pack_number(number: Any, name: str, type_: str, is_array: bool) -> bytes:
    if is_array:
        raise DTypeError(f"{name} is a struct by value; give it as bytes, for example of struct.pack")
    if isinstance(number, (complex, str, bytes)):
        raise DTypeError(f"{name} is of .{type_}, and is given {shown(number)}; give a number")
    if type_ in _FLOATS:
        try:
            return struct.pack("<" + _FLOATS[type_], float(number))
        except OverflowError:
            raise ArgumentError(f"{name} is of .{type_}, which {shown(number)} does not fit") from None
    if type_ not in _INTEGERS:
        raise DTypeError(f"{name} is of .{type_}, which takes no number; give it as bytes")
    if isinstance(number, float):
        raise DTypeError(f"{name} is of .{type_}, and is given {number!r}; give an integer")
    code, number = _INTEGERS[type_], operator.index(number)
    try:
        return struct.pack("<" + (code.lower() if number < 0 else code), number)
    except struct.error:
        raise ArgumentError(f"{name} is of .{type_}, which {shown(number)} does not fit") from None


def _size(name: str, size: int | Sequence[int]) -> tuple[int, int, int]:
    least = 0 if name == "block" else 1
    numbers = list(size) if isinstance(size, (list, tuple)) else [size]
    try:
        sizes = [whole(name, number, least, LARGEST_INT) for number in numbers]
    except ArgumentError as error:
        raise type(error)(f"{name} {shown(size)} is refused: it is 1 to 3 whole numbers from {least} on") from None
    if not 1 <= len(sizes) <= 3:
        raise ArgumentError(f"{name} {shown(size)} is refused: it is 1 to 3 whole numbers from {least} on")
    if name == "block" and sizes == [0]:
        return 0, 0, 0
    x, y, z = sizes + [1] * (3 - len(sizes))
    return x, y, z
