"""The fastest schedule of a kernel for one problem on a device."""
from __future__ import annotations

import os
from dataclasses import dataclass

from . import _core
from ._arguments import path, text, whole, word
from ._devices import DEFAULT_EMULATOR, Device, as_device, lease
from ._kernels import kernel_spec


@dataclass(frozen=True)
class Tuned:
    """What a sweep found."""

    kernel: str
    """Key of the kernel, with its default schedule."""
    shape_class: str
    """Problems that are tuned as one: "h32g1q4096k4096"."""
    schedule: str
    """The fastest; the default, where no other is faster by more than 2 %."""
    default: str
    time: float
    """Of the fastest, a median, in ``unit``."""
    default_time: float
    unit: str
    """"ns"; "instructions" in the emulator, which are no time of any GPU."""
    stored: str
    """File of the database, which attention() looks into on a GPU; empty: a later one of the class is there."""
    failures: dict[str, tuple[str, str]]
    """Schedules that were not timed: what became of them (pruned, refused, wrong, faulted) and why."""


def tune(kernel: str, *, heads: int, q_len: int, batch: int = 1, kv_heads: int | None = None, kv_len: int | None = None,
         device: str | Device = DEFAULT_EMULATOR, deployment: str = "eager", ptx: str = "",
         database: str | os.PathLike[str] = "") -> Tuned:
    """Checks each schedule of a kernel against its default one, races those that are right, and keeps the fastest one.

    kernel: a key, a mode or an option text ("head_dim=64 causal"). heads, kv_heads, q_len, kv_len, batch: the problem, on
    random numbers. deployment: "eager" or "graph", how launches are made where the result is used. database: a folder
    (default: that of the cache, where attention() and ``sagegen cache`` look). Seconds to minutes; Ctrl-C ends it, and the same
    call goes on where it was. Raises SpecError, ArgumentError of a kernel whose masks need tensors, CacheError while another
    process tunes on the device.
    """
    for name, value in (("heads", heads), ("q_len", q_len), ("batch", batch), ("kv_heads", kv_heads), ("kv_len", kv_len)):
        if value is not None or name in ("heads", "q_len", "batch"):
            whole(name, value, 1, 1 << 30)
    text("kernel", kernel, "a text: a key, a mode or options")
    word("deployment", deployment, ("eager", "graph"))
    ptx, folder = path("ptx", ptx), path("database", database)
    with lease(as_device(device)) as slot:
        spec = kernel_spec(kernel, None if kernel.startswith("sage_") else slot.device.target)
        spec.validate()
        found = _core.tune(slot.device, spec, batch, heads, heads if kv_heads is None else kv_heads, q_len,
                           q_len if kv_len is None else kv_len, ptx, deployment, folder)
    return Tuned(spec.key, found.shape_class, found.schedule, spec.how, found.time, found.default_time, found.unit, found.stored,
                 dict(found.failures))
