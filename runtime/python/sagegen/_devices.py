"""Devices that are open, and the plans that they have loaded.

A GPU is opened once, and any number of threads use it. An emulated device belongs to one call at a time: each has an
emulator of its own, so that calls neither wait for each other nor see what others did wrong; it is kept for the next one.
"""
from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from . import _core
from ._arguments import LARGEST_INT, flag, text, whole, word
from .errors import DTypeError

DEFAULT_EMULATOR = "emulator:sm_89"


@dataclass(frozen=True)
class Device:
    """Where kernels run: ``Device("cuda:0")`` or ``Device("emulator:sm_89", checks=False)``.

    What follows the name is the emulator's: ``checks``: races, undefined data, copies in flight and more, for about 2.5
    times the time (bounds are always checked); ``schedule`` of warps: round_robin, random, reverse; ``copies``, when
    asynchronous ones land: late, eager, random; ``seed`` of what is random; ``threads`` of the host, 0: all;
    ``launch_limit``: warp instructions of a launch, 0: no limit.
    """

    name: str
    checks: bool = True
    schedule: str = "round_robin"
    copies: str = "late"
    seed: int = 0
    threads: int = 0
    launch_limit: int = 0

    def __post_init__(self) -> None:
        text("name of a device", self.name, f'a text such as "cuda:0" or "{DEFAULT_EMULATOR}"')
        flag("checks", self.checks)
        word("schedule", self.schedule, ("round_robin", "random", "reverse"))
        word("copies", self.copies, ("late", "eager", "random"))
        whole("seed", self.seed, 0, 2**64 - 1)
        whole("threads", self.threads, 0, LARGEST_INT)
        whole("launch_limit", self.launch_limit, 0, 2**64 - 1)

    @property
    def is_emulator(self) -> bool:
        return self.name.startswith("emulator:")

    def open(self) -> _core.Device:
        """A device, opened anew. Raises ArgumentError, DriverError."""
        return _core.Device(self.name, checks=self.checks, schedule=self.schedule, copies=self.copies, seed=self.seed,
                            threads=self.threads, launch_limit=self.launch_limit)


class Slot:
    """An open device with its plans."""

    def __init__(self, device: _core.Device) -> None:
        self.device = device
        self._plans: dict[tuple[str, str], _core.AttentionPlan] = {}
        self._workspaces: dict[int, tuple[threading.Lock, list[_core.Memory]]] = {}
        self._lock = threading.Lock()

    def plan(self, kernel: _core.KernelSpec, ptx: str) -> _core.AttentionPlan:
        """The kernel, loaded. The lock is not held while it loads: of two that load it at once, one stays."""
        key = (kernel.key, ptx)
        with self._lock:
            plan = self._plans.get(key)
        if plan is None:
            loaded = _core.AttentionPlan(self.device, kernel, ptx)
            with self._lock:
                plan = self._plans.setdefault(key, loaded)
        return plan

    @contextmanager
    def workspace(self, stream: int, size: int) -> Iterator[int]:
        """Address of memory for what is enqueued on a stream within the block: one at a time, and in order on the
        device."""
        with self._lock:
            lock, kept = self._workspaces.setdefault(stream, (threading.Lock(), []))
        with lock:
            if size and (not kept or kept[0].bytes < size):
                self.device.synchronize()
                kept.clear()
                kept.append(_core.Memory(self.device, size))
            yield kept[0].address if size else 0


_lock = threading.Lock()
_gpus: dict[Device, Slot] = {}
_emulators: dict[Device, list[Slot]] = {}
_opener: Callable[[Device], _core.Device] = Device.open


def as_device(device: str | Device) -> Device:
    if isinstance(device, Device):
        return device
    if isinstance(device, str):
        return Device("cuda:0" if device == "cuda" else "emulator:sm_89" if device == "emulator" else device)
    raise DTypeError(f'device is a {type(device).__name__}; it is a text such as "cuda:0" or "{DEFAULT_EMULATOR}", '
                        "or a sagegen.Device")


@contextmanager
def lease(device: Device) -> Iterator[Slot]:
    """A slot of the device, for the block."""
    if not device.is_emulator:
        with _lock:
            slot = _gpus.get(device)
        if slot is None:
            opened = Slot(_opener(device))
            with _lock:
                slot = _gpus.setdefault(device, opened)
        yield slot
        return
    with _lock:
        free = _emulators.setdefault(device, [])
        slot = free.pop() if free else None
    if slot is None:
        slot = Slot(_opener(device))
    try:
        yield slot
    finally:
        with _lock:
            free.append(slot)


def clear() -> None:
    """Forgets all devices and plans that no call uses: their memory is given back. Done when the process ends, too."""
    with _lock:
        _gpus.clear()
        for free in _emulators.values():
            free.clear()


atexit.register(clear)
