"""attention(): quantized attention on arrays of any framework."""
from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from . import _core
from ._arguments import LARGEST_INT, flag, path, positive, shown, text, whole, word
from ._arrays import Kind, View, is_torch, kind_of, need_dtype
from ._devices import DEFAULT_EMULATOR, Device, Slot, as_device, lease
from ._kernels import check_mode, words_of_mode
from .errors import ArgumentError, DTypeError, SpecError

LAYOUTS = ("HND", "NHD")
ALIGNMENTS = ("top-left", "bottom-right")


@dataclass(frozen=True)
class Options:
    """What a call asks for beside its arrays."""

    causal: bool = False
    align: str = "top-left"
    scale: float | None = None
    window: tuple[int, int] | None = None  # keys to the left and right, -1: all
    softcap: float | None = None
    layout: str = "HND"
    mode: str = ""
    ptx: str = ""
    max_seqlen_q: int | None = None
    max_seqlen_kv: int | None = None


@dataclass(frozen=True)
class Mods:
    """Arrays that masks and biases take, as the caller has them; None: absent."""

    sinks: Any = None
    alibi: Any = None
    bias: Any = None
    mask: Any = None

    def given(self) -> list[tuple[str, Any]]:
        named = (("sinks", self.sinks), ("alibi", self.alibi), ("bias", self.bias), ("mask", self.mask))
        return [(name, array) for name, array in named if array is not None]


def window_of(window: object) -> tuple[int, int] | None:
    """(left, right), where None and negative numbers are no bound; None if neither is one."""
    if window is None:
        return None
    if not isinstance(window, (tuple, list)) or len(window) != 2:
        raise DTypeError(f"window {shown(window)} is refused: it is (left, right), the keys beside a query's own position on each "
                         "side, None or -1 for all of them")
    left, right = _side(window, "left", window[0]), _side(window, "right", window[1])
    return None if left == right == -1 else (left, right)


def _side(window: object, which: str, side: Any) -> int:
    if side is None:
        return -1
    try:
        return max(whole(which, side, -LARGEST_INT, LARGEST_INT), -1)
    except ArgumentError as error:
        raise type(error)(f"window {shown(window)} is refused: its {which} side is a whole number up to {LARGEST_INT}, or None or -1 for "
                          "all keys") from None


def layout_of(name: str, layout: Any) -> str:
    return word(name, layout.upper() if isinstance(layout, str) else layout, LAYOUTS)


def options_of(*, causal: Any, align: Any, scale: Any, window: object, softcap: Any, layout: Any, mode: Any, ptx: Any,
               max_seqlen_q: Any, max_seqlen_kv: Any) -> Options:
    causal = flag("causal", causal, "; align says where the last query stands")
    if scale is not None:
        scale = positive("scale", scale)
    if softcap is not None:
        softcap = positive("softcap", softcap, ", or None for no cap")
    if max_seqlen_q is not None:
        max_seqlen_q = whole("max_seqlen_q", max_seqlen_q, 0, LARGEST_INT)
    if max_seqlen_kv is not None:
        max_seqlen_kv = whole("max_seqlen_kv", max_seqlen_kv, 0, LARGEST_INT)
    bounds = window_of(window)
    if bounds is not None and (causal or bounds[1] == 0):
        # No key behind the query's own: a causal kernel does it, of which more are at hand.
        causal, bounds = True, None if bounds[0] == -1 else (bounds[0], 0)
    if mode is not None:
        check_mode(text("mode", mode, 'a text such as "int8-fp8", or None'), "mode")
    return Options(causal=causal, align=word("align", align, ALIGNMENTS), scale=scale, window=bounds, softcap=softcap,
                   layout=layout_of("layout", layout), mode=mode or "", ptx="" if ptx is None else path("ptx", ptx),
                   max_seqlen_q=max_seqlen_q, max_seqlen_kv=max_seqlen_kv)


# ---- which kernel ---------------------------------------------------------------------------------


def fields_of(kernel: _core.KernelSpec) -> dict[str, str]:
    return dict(field.split("=", 1) for field in kernel.options.split())


@lru_cache(maxsize=1024)
def kernel_for(target: str, highest: str, io: str, head_dim: int, value_dim: int, flags: tuple[str, ...], mode: str,
               ptx: str) -> _core.KernelSpec:
    """The kernel with the fewest channels that hold the caller's and of which there is code."""
    if mode.startswith("sage_"):
        return _named(mode, io, head_dim, value_dim, flags)
    words = words_of_mode(mode, io)
    on = highest if "pv=e4m3" in words.split() else target  # of an old driver the load says what it lacks
    wide = [dim for dim in _core.head_dims() if dim >= head_dim]
    wide_v = [dim for dim in _core.head_dims() if dim >= value_dim]
    if not wide or not wide_v:
        raise ArgumentError(f"q has {head_dim} channels and v {value_dim}; kernels have at most {max(_core.head_dims())}")
    first = None
    for dim in wide:
        for dim_v in wide_v if value_dim != head_dim else [dim]:
            options = " ".join([f"head_dim={dim} io={io}", *flags, words])
            if dim_v != dim:
                options += f" value_dim={dim_v}"
            kernel = _core.kernel_of_options(options, on)
            if first is None:
                first = kernel
                _check_given(kernel, flags)
            if _core.has_ptx(kernel, ptx):
                return kernel
    assert first is not None
    first.validate()
    _core.find_ptx(first, ptx)  # raises, and says how to get it
    return first


def _named(key: str, io: str, head_dim: int, value_dim: int, flags: tuple[str, ...]) -> _core.KernelSpec:
    kernel = _core.parse_key(key)
    if kernel.family != "attention":
        raise SpecError(f"mode {key} is the key of a kernel that prepares inputs; that of an attention kernel begins with sage_fwd_")
    fields = fields_of(kernel)
    if fields["io"] != io:
        raise DTypeError(f"q is of {io}, and the kernel {key} takes {fields['io']}")
    dim = int(fields["head_dim"])
    if head_dim > dim or value_dim > (int(fields["value_dim"]) or dim):
        raise ArgumentError(f"q has {head_dim} channels and v {value_dim}, more than the kernel {key} has")
    for flag in flags:
        if fields[flag] != "true":
            raise SpecError(f"{flag} is refused: the kernel {key} does not have it")
    _check_given(kernel, flags)
    return kernel


def _check_given(kernel: _core.KernelSpec, flags: tuple[str, ...]) -> None:
    """What a kernel needs is an argument of the call, and no word of its mode."""
    fields = fields_of(kernel)
    for flag in ("causal", "mask", "bias", "alibi", "sinks", "softcap", "blocksparse"):
        if fields[flag] == "true" and flag not in flags:
            raise SpecError(f"the kernel {kernel.key} needs {flag}, which the call does not give")
    if fields["inputs"] != "own" or fields["out"] != "io":
        raise SpecError(f"{kernel.key} is a kernel of codes, which arrays are not")


def _channels(kernel: _core.KernelSpec) -> tuple[int, int]:
    fields = fields_of(kernel)
    return int(fields["head_dim"]), int(fields["value_dim"]) or int(fields["head_dim"])


# ---- shapes ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """Sizes of a call, whatever the layout."""

    batch: int
    q_heads: int
    kv_heads: int
    q_len: int
    kv_len: int
    head_dim: int
    value_dim: int
    total_q: int = 0  # of packed sequences
    total_kv: int = 0

    @property
    def packed(self) -> bool:
        return self.total_q > 0 or self.total_kv > 0

    def shape(self) -> _core.Shape:
        return _core.Shape(batch=self.batch, q_heads=self.q_heads, kv_heads=self.kv_heads, q_len=self.q_len,
                           kv_len=self.kv_len, total_q=self.total_q, total_kv=self.total_kv)

    def o_shape(self, layout: str) -> tuple[int, ...]:
        if self.packed:
            return self.total_q, self.q_heads, self.value_dim
        if layout == "HND":
            return self.batch, self.q_heads, self.q_len, self.value_dim
        return self.batch, self.q_len, self.q_heads, self.value_dim

    def lse_shape(self) -> tuple[int, ...]:
        return (self.q_heads, self.total_q) if self.packed else (self.batch, self.q_heads, self.q_len)


def axes_of(layout: str, shape: Sequence[int]) -> tuple[int, int, int, int]:
    """Batch, heads, tokens, channels."""
    batch, first, second, channels = shape
    return (batch, first, second, channels) if layout == "HND" else (batch, second, first, channels)


def problem_of(q: Sequence[int], k: Sequence[int], v: Sequence[int], layout: str) -> Problem:
    """Raises ArgumentError that names the array whose shape does not fit."""
    for name, shape in (("q", q), ("k", k), ("v", v)):
        if len(shape) != 4:
            letters = "batch, heads, tokens, channels" if layout == "HND" else "batch, tokens, heads, channels"
            raise ArgumentError(f"{name} has {len(shape)} axes, {tuple(shape)}; with layout {layout} it has 4: {letters}")
    (batch, q_heads, q_len, head_dim), of_k, of_v = (axes_of(layout, shape) for shape in (q, k, v))
    if of_k[0] != batch or of_v[0] != batch:
        raise ArgumentError(f"q has a batch of {batch}, k of {of_k[0]} and v of {of_v[0]}; they are the same")
    _check_heads(q_heads, of_k[1], of_v[1])
    if of_k[2] != of_v[2]:
        raise ArgumentError(f"k has {of_k[2]} tokens and v {of_v[2]}; they are the same (layout is {layout})")
    _check_channels(head_dim, of_k[3], of_v[3])
    return Problem(batch, q_heads, of_k[1], q_len, of_k[2], head_dim, of_v[3])


def packed_problem(q: Sequence[int], k: Sequence[int], v: Sequence[int], sequences: int, longest_q: int,
                   longest_kv: int) -> Problem:
    for name, shape in (("q", q), ("k", k), ("v", v)):
        if len(shape) != 3:
            raise ArgumentError(f"{name} has {len(shape)} axes, {tuple(shape)}; of packed sequences it has 3: total tokens, "
                                "heads, channels")
    _check_heads(q[1], k[1], v[1])
    if k[0] != v[0]:
        raise ArgumentError(f"k has {k[0]} tokens in all and v {v[0]}; they are the same")
    _check_channels(q[2], k[2], v[2])
    return Problem(sequences, q[1], k[1], longest_q, longest_kv, q[2], v[2], q[0], k[0])


def _check_heads(q_heads: int, k_heads: int, v_heads: int) -> None:
    if k_heads != v_heads:
        raise ArgumentError(f"k has {k_heads} heads and v {v_heads}; they are the same")
    if k_heads < 1 or q_heads % k_heads:
        raise ArgumentError(f"q has {q_heads} heads and k {k_heads}; those of k divide those of q")


def _check_channels(q: int, k: int, v: int) -> None:
    if q != k:
        raise ArgumentError(f"q has {q} channels and k {k}; they are the same")
    if min(q, v) < 1:
        raise ArgumentError("q, k and v have at least one channel")


# ---- one call -------------------------------------------------------------------------------------


def row_strides(layout: str, strides: Sequence[int]) -> tuple[int, int, int]:
    """Of batches, heads, tokens; of packed tensors the first is not looked at."""
    if len(strides) == 3:
        return 0, strides[1], strides[0]
    return (strides[0], strides[1], strides[2]) if layout == "HND" else (strides[0], strides[2], strides[1])


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    strides, size = [], 1
    for length in reversed(shape):
        strides.append(size)
        size *= length
    return tuple(reversed(strides))


class Staged:
    """Arrays as a device reads them: where they lie, or copies of what lies on the host."""

    def __init__(self, slot: Slot, copies: bool) -> None:
        self.slot, self.copies = slot, copies
        self.kept: list[object] = []

    def place(self, view: View, channels: int = 0, load: bool = True) -> tuple[int, tuple[int, ...], _core.Memory | None]:
        """Address and strides. channels: of a row, padded with zeros; 0: as they are."""
        self.kept.append(view)
        if not self.copies:
            return view.address, view.strides, None
        assert view.tensor is not None
        shape = (*view.shape[:-1], channels or view.shape[-1]) if view.shape else ()
        size = math.prod(shape) * _ITEM_BYTES[view.dtype]
        memory = _core.Memory(self.slot.device, size)
        self.kept.append(memory)
        if load:
            memory.upload(view.tensor, channels)
        else:
            memory.fill(0)  # of packed rows some may belong to no sequence
        return memory.address, contiguous(shape), memory


_ITEM_BYTES = {"f16": 2, "bf16": 2, "f32": 4, "i32": 4, "i64": 8, "bool": 1, "u8": 1}


def score_strides(view: View, strides: Sequence[int], problem: Problem) -> tuple[int, int, int, int]:
    """Of an array that broadcasts to [batch, q_heads, q_len, kv_len]; 0 along axes of one element."""
    full = (problem.batch, problem.q_heads, problem.q_len, problem.kv_len)
    if len(view.shape) > 4:
        raise ArgumentError(f"{view.name} has {len(view.shape)} axes; at most 4: batch, heads, queries, keys")
    shape = (1,) * (4 - len(view.shape)) + tuple(view.shape)
    steps = (0,) * (4 - len(view.shape)) + tuple(strides)
    for have, want in zip(shape, full):
        if have not in (1, want):
            raise ArgumentError(f"{view.name} has the shape {tuple(view.shape)}, which does not broadcast to (batch, heads, "
                                f"queries, keys) = {full}")
    one, two, three, four = (0 if size == 1 else step for size, step in zip(shape, steps))
    return one, two, three, four


def mod_arguments(views: Sequence[View], staged: Staged, options: Options, problem: Problem, io: str) -> list[tuple[str, int, float]]:
    arguments: list[tuple[str, int, float]] = []
    if options.window is not None:
        arguments += [("window.left", options.window[0], 0.0), ("window.right", options.window[1], 0.0)]
    if options.softcap is not None:
        arguments.append(("softcap.cap", 0, options.softcap))
    for view in views:
        if view.name in ("sinks", "alibi"):
            need_dtype(view, ["f32"], "it is float32, one number for each head of q")
            if tuple(view.shape) != (problem.q_heads,):
                raise ArgumentError(f"{view.name} has the shape {tuple(view.shape)}; it is ({problem.q_heads},), one number for each head of q")
            if view.strides != (1,) and problem.q_heads > 1 and not staged.copies:
                raise ArgumentError(f"{view.name} has the stride {view.strides[0]}; it is contiguous")
            address, _, _ = staged.place(view)
            arguments.append(("sinks.logits" if view.name == "sinks" else "alibi.slopes", address, 0.0))
            continue
        if view.name == "bias":
            need_dtype(view, [io], f"it is of the dtype of q, {io}")
        else:
            need_dtype(view, ["bool", "u8"], "it is bool, True where a query sees a key; a mask of numbers to add is bias")
        score_strides(view, view.strides, problem)  # refused before anything is copied
        address, strides, _ = staged.place(view)
        names = ("stride_batch", "stride_head", "stride_query", "stride_key")
        arguments.append((f"{view.name}.data", address, 0.0))
        arguments += [(f"{view.name}.{name}", step, 0.0) for name, step in zip(names, score_strides(view, strides, problem))]
    return arguments


def check_arrays(views: Sequence[View]) -> str:
    """dtype of q, k, v. Raises DTypeError, ArgumentError."""
    q = views[0]
    for view in views:
        need_dtype(view, ["f16", "bf16"], "there are kernels for float16 and bfloat16")
        if view.dtype != q.dtype:
            raise DTypeError(f"q is of dtype {q.dtype} and {view.name} of {view.dtype}; they are the same")
        if view.strides and view.shape[-1] > 1 and view.strides[-1] != 1:
            raise ArgumentError(f"{view.name}: the stride of its last axis, the channels, is {view.strides[-1]}; it is 1: give a "
                                "contiguous copy")
    return q.dtype


def same_device(views: Sequence[View]) -> str:
    for view in views:
        if view.device != views[0].device:
            raise ArgumentError(f"{views[0].name} is on {views[0].device} and {view.name} on {view.device}; they are on the same device")
    return views[0].device


def device_for(where: str, asked: str | Device | None) -> Device:
    """On a GPU the array's own; for the host what was asked for, by default the emulator."""
    if where == "cpu":
        return as_device(DEFAULT_EMULATOR if asked is None else asked)
    own = as_device(where)
    if asked is not None and as_device(asked).name != own.name:
        raise ArgumentError(f"device {as_device(asked).name} is refused: q is on {own.name}, and is attended there")
    return own


def lengths_of(name: str, view: View, array: Any, longest: int | None, of: str) -> tuple[int, int]:
    """(sequences, most tokens of one). Sums on a GPU are not read: the caller says how long the longest is."""
    if len(view.shape) != 1 or view.shape[0] < 2:
        raise ArgumentError(f"{name} has the shape {tuple(view.shape)}; it is (sequences + 1,), where each sequence begins, and the end")
    need_dtype(view, ["i32"], "it is int32")
    if not view.on_host:
        if longest is None:
            raise ArgumentError(f"max_seqlen_{of} is missing: {name} lies on the GPU, which is not asked for it; give the most tokens "
                                "that a sequence has")
        return view.shape[0] - 1, longest
    sums = [int(number) for number in array.tolist()]
    lengths = [b - a for a, b in zip(sums, sums[1:])]
    if sums[0] < 0 or min(lengths) < 0:
        raise ArgumentError(f"{name} {sums} is refused: sums are not negative, and do not fall")
    most = max(lengths)
    if longest is not None and longest < most:
        raise ArgumentError(f"max_seqlen_{of} is {longest}, and {name} has a sequence of {most}")
    return len(lengths), max(longest or most, 1)


def run(q: Any, k: Any, v: Any, options: Options, mods: Mods = Mods(), *, cu_seqlens_q: Any = None, cu_seqlens_kv: Any = None,
        return_lse: bool = False, device: str | Device | None = None, out: Any = None, lse_out: Any = None) -> tuple[Any, Any]:
    """(O, LSE or None), in arrays of q's kind, or in out and lse_out."""
    kind = kind_of(q)
    for name, array in (("k", k), ("v", v), *mods.given()):
        if kind_of(array) is not kind:
            raise DTypeError(f"q is a {type(q).__name__} and {name} a {type(array).__name__}; they are of one kind")
    views = [kind.view(array, name) for name, array in (("q", q), ("k", k), ("v", v))]
    io = check_arrays(views)
    of_mods = [kind.view(array, name) for name, array in mods.given()]
    packed = cu_seqlens_q is not None
    if packed != (cu_seqlens_kv is not None):
        raise ArgumentError("cu_seqlens_q and cu_seqlens_kv are given together, or neither; they may be the same array")
    sums = [kind_of(array).view(array, name) for name, array in (("cu_seqlens_q", cu_seqlens_q), ("cu_seqlens_kv", cu_seqlens_kv))
            if array is not None]
    where = same_device([*views, *of_mods, *sums])
    q_shape, k_shape, v_shape = (view.shape for view in views)
    if packed:
        sequences, longest_q = lengths_of("cu_seqlens_q", sums[0], cu_seqlens_q, options.max_seqlen_q, "q")
        of_kv, longest_kv = lengths_of("cu_seqlens_kv", sums[1], cu_seqlens_kv, options.max_seqlen_kv, "kv")
        if of_kv != sequences:
            raise ArgumentError(f"cu_seqlens_q has {sequences} sequences and cu_seqlens_kv {of_kv}; they are the same")
        problem = packed_problem(q_shape, k_shape, v_shape, sequences, longest_q, longest_kv)
        for name, view, array, total in (("cu_seqlens_q", sums[0], cu_seqlens_q, problem.total_q),
                                         ("cu_seqlens_kv", sums[1], cu_seqlens_kv, problem.total_kv)):
            if view.on_host and int(array[-1]) > total:
                raise ArgumentError(f"{name} ends at {int(array[-1])}, and there are {total} tokens")
    else:
        problem = problem_of(q_shape, k_shape, v_shape, options.layout)
    on = device_for(where, device)
    o_shape = problem.o_shape(options.layout)
    o = out if out is not None else kind.empty(o_shape, "io", q)
    o_view = checked_result(kind, o, "out", o_shape, io, where)
    lse = (lse_out if lse_out is not None else kind.empty(problem.lse_shape(), "f32", q)) if return_lse or lse_out is not None else None
    lse_view = None if lse is None else checked_result(kind, lse, "lse_out", problem.lse_shape(), "f32", where)
    if math.prod(o_shape) == 0:
        return o, lse
    if (problem.total_kv if packed else problem.kv_len) == 0:
        raise ArgumentError("k and v have no tokens, and q has; give at least one key")
    call = Call(kind, q, on, problem, options, io)
    call.run([(q, views[0]), (k, views[1]), (v, views[2])], (o, o_view), lse_view, of_mods, sums)
    return o, lse


def checked_result(kind: Kind, array: Any, name: str, shape: tuple[int, ...], dtype: str, where: str) -> View:
    if kind_of(array) is not kind and where != "cpu":
        raise DTypeError(f"{name} is a {type(array).__name__}; it is of the kind of q")
    view = kind_of(array).view(array, name, writable=True)
    if tuple(view.shape) != shape:
        raise ArgumentError(f"{name} has the shape {tuple(view.shape)}; it is {shape}")
    need_dtype(view, [dtype], f"it is {dtype}")
    if view.device != where:
        raise ArgumentError(f"{name} is on {view.device} and q on {where}; they are on the same device")
    if name == "lse_out" and where != "cpu" and view.strides != contiguous(shape):
        raise ArgumentError(f"lse_out has the strides {view.strides}; it is contiguous")
    if name == "out" and where != "cpu" and view.strides[-1] != 1 and shape[-1] > 1:
        raise ArgumentError(f"out: the stride of its last axis is {view.strides[-1]}; it is 1")
    return view


class Call:
    """What is checked, on its way to the device."""

    def __init__(self, kind: Kind, like: Any, device: Device, problem: Problem, options: Options, io: str) -> None:
        self.kind, self.like, self.device, self.problem, self.options, self.io = kind, like, device, problem, options, io

    def flags(self, mods: Sequence[View]) -> tuple[str, ...]:
        named = {"varlen": self.problem.packed, "causal": self.options.causal, "window": self.options.window is not None,
                 "softcap": self.options.softcap is not None, **{view.name: True for view in mods}}
        return tuple(name for name, on in named.items() if on)

    def run(self, inputs: Sequence[tuple[Any, View]], out: tuple[Any, View], lse: View | None, mods: Sequence[View],
            sums: Sequence[View]) -> None:
        problem, options = self.problem, self.options
        # Here, and not where the options are read, which is within what torch.compile follows.
        if options.ptx and not os.path.exists(options.ptx):
            raise ArgumentError(f"ptx {options.ptx} is neither a folder nor a file; give where `sagegen emit --out` wrote, or a bundle")
        with lease(self.device) as slot, ExitStack() as stack:
            kernel = kernel_for(slot.device.target, slot.device.highest_target, self.io, problem.head_dim, problem.value_dim,
                                self.flags(mods), options.mode, options.ptx)
            head_dim, value_dim = _channels(kernel)
            plan = slot.plan(kernel, options.ptx)
            staged = Staged(slot, copies=inputs[0][1].on_host)
            placed = [self._place(staged, array, view, dim)
                      for (array, view), dim in zip(inputs, (head_dim, head_dim, value_dim))]
            o_array, o_view, o_padded = *out, None
            if not staged.copies and value_dim != problem.value_dim:
                o_padded = self.kind.empty((*o_view.shape[:-1], value_dim), "io", self.like)
                o_view = self.kind.view(o_padded, "out", writable=True)
            o_address, o_strides, o_memory = staged.place(o_view, value_dim if staged.copies else 0, load=False)
            lse_address, lse_memory = 0, None
            if lse is not None:
                lse_address, _, lse_memory = staged.place(lse, load=False)
            cu = [staged.place(view)[0] for view in sums] or [0, 0]
            arguments = mod_arguments(mods, staged, options, problem, self.io)
            shape = problem.shape()
            plan.prepare(shape)
            size = plan.workspace_bytes(shape, lse is not None)
            stream = 0 if staged.copies else self.kind.stream(self.like)
            if staged.copies:
                workspace = stack.enter_context(slot.workspace(stream, size))
            else:
                workspace = stack.enter_context(self.kind.workspace(size, self.like, slot, stream))
            scale = options.scale if options.scale is not None else 1 / math.sqrt(problem.head_dim)
            plan.run(shape, q=placed[0], k=placed[1], v=placed[2],
                     o=(o_address, *row_strides(options.layout, o_strides)), lse=lse_address, scale=scale,
                     bottom_right=options.align == "bottom-right", mods=arguments, cu_seqlens_q=cu[0], cu_seqlens_kv=cu[1],
                     workspace=workspace, workspace_bytes=size, stream=stream)
            if o_padded is not None:
                self.kind.copy_channels(o_padded, o_array, problem.value_dim)
            if o_memory is not None and o_view.tensor is not None:
                slot.device.synchronize()
                o_memory.download(o_view.tensor, value_dim)
            if lse_memory is not None and lse is not None and lse.tensor is not None:
                lse_memory.download(lse.tensor)

    def _place(self, staged: Staged, array: Any, view: View, channels: int) -> tuple[int, int, int, int]:
        if not staged.copies and channels != view.shape[-1]:
            view = self.kind.view(self.kind.padded(array, view.name, channels), view.name)
        address, strides, _ = staged.place(view, channels if staged.copies else 0)
        return (address, *row_strides(self.options.layout, strides))


# ---- what people call -----------------------------------------------------------------------------


def attention(q: Any, k: Any, v: Any, *, causal: bool = False, scale: float | None = None,
              window: tuple[int | None, int | None] | None = None, softcap: float | None = None, sinks: Any = None,
              alibi: Any = None, bias: Any = None, mask: Any = None, align: str = "top-left", return_lse: bool = False,
              layout: str = "HND", mode: str | None = None, cu_seqlens_q: Any = None, cu_seqlens_kv: Any = None,
              max_seqlen_q: int | None = None, max_seqlen_kv: int | None = None, device: str | Device | None = None,
              ptx: str | None = None, out: Any = None, lse_out: Any = None) -> Any:
    """softmax(Q Kᵀ · scale + masks) V, with quantized products.

    q, k, v: arrays of float16 or bfloat16 with channels that lie side by side, all on one device: tensors of PyTorch, arrays
        of NumPy (bfloat16 by ml_dtypes), whatever speaks DLPack. With layout "HND" q is [batch, heads, tokens, channels],
        with "NHD" [batch, tokens, heads, channels]. k and v may have fewer heads, which divide those of q. 1 to 256 channels; v
        may have another number.
    causal: a query sees the keys up to its own position. window: (left, right), the keys that it sees on each side, None: all.
        align: "top-left", query i stands at key i; "bottom-right", the last query at the last key.
    scale: of scores, 1 / sqrt(channels) by default. softcap: cap · tanh(score / cap).
    sinks: f32 [heads], logits that count in the softmax and have no value. alibi: f32 [heads], slopes.
    bias: of the dtype of q, added to scaled scores; mask: bool, True where a query sees a key; both broadcast to [batch,
        heads, queries, keys].
    return_lse: returns (O, LSE): f32 [batch, heads, queries], natural logarithm of the sum of exponentials.
    mode: formats of the two products, "int8-fp8", "int8-fp16", "int4-fp8", "int4-fp16", "bf16-fp8", "16bit", and options
        behind it ("int8-fp8 smoothing=none"); options alone; or the key of a kernel. None: what is usual on the device.
    cu_seqlens_q, cu_seqlens_kv: i32 [sequences + 1], of packed sequences: q, k, v are [tokens, heads, channels] then, and the
        LSE [heads, tokens]. max_seqlen_q, max_seqlen_kv: the longest; on a GPU they have to be given.
    device: for arrays of the host, "emulator:sm_89" by default; "cuda:0" copies there and back. Arrays on a GPU are attended
        there, on PyTorch's current stream, on the default stream for other frameworks.
    ptx: a folder or bundle of PTX, looked into before the embedded kernels.
    out, lse_out: where results go; on a GPU frameworks other than PyTorch have to give them.

    Returns O in the layout, dtype and kind of q (a host array that is neither NumPy's nor PyTorch's: NumPy's). Raises
    ArgumentError, DTypeError, SpecError (no such kernel, and how to get it), DriverError, FindingsError. There is no gradient.
    """
    options = options_of(causal=causal, align=align, scale=scale, window=window, softcap=softcap, layout=layout, mode=mode, ptx=ptx,
                         max_seqlen_q=max_seqlen_q, max_seqlen_kv=max_seqlen_kv)
    flag("return_lse", return_lse)
    mods = Mods(sinks, alibi, bias, mask)
    if is_torch(q) and out is None and lse_out is None and (device is None or isinstance(device, str)):
        from . import _torch
        o, lse = _torch.attention(q, k, v, options, mods, cu_seqlens_q, cu_seqlens_kv, return_lse, device)
    else:
        if is_torch(q):
            from . import _torch
            _torch.refuse_gradients(q, k, v, sinks, alibi, bias, out)
        o, lse = run(q, k, v, options, mods, cu_seqlens_q=cu_seqlens_q, cu_seqlens_kv=cu_seqlens_kv, return_lse=return_lse,
                     device=device, out=out, lse_out=lse_out)
    return (o, lse) if return_lse else o
