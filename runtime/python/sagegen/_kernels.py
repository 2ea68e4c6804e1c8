"""Kernels as values: keys, options, PTX."""
from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from . import _core
from ._arguments import flag, path, text, word
from .errors import ArgumentError, SpecError

MODES: dict[str, tuple[str, str]] = dict(_core.modes())
"""Names of the formats of both products, Q K^T and P V: "int8-fp8", ..."""


FIELDS = frozenset(_core.fields())


@dataclass(frozen=True)
class Kernel:
    """A kernel with its code. Equal if their keys are."""

    key: str
    """Its name: what it computes, how and where."""
    entry: str = field(compare=False)
    """Entry point of the PTX: the key, or that of the same kernel for a lower target."""
    ptx: str = field(compare=False, repr=False)
    """The code, as text."""
    origin: str = field(compare=False)
    """"generator", "embedded" or the path that was given."""

    @property
    def spec(self) -> _core.KernelSpec:
        return _core.parse_key(self.key)

    @property
    def target(self) -> str:
        """"sm_89"."""
        return self.spec.target

    @property
    def options(self) -> str:
        """All fields as an option text: "head_dim=128 io=f16 ..."."""
        return self.spec.options

    @property
    def resources(self) -> dict[str, int]:
        """threads of a block, dynamic_smem in bytes of a block, param_bytes, ptx_version (times 10)."""
        return self.spec.resources

    @property
    def inputs(self) -> list[str]:
        """Keys of the kernels that prepare its inputs, in launch order."""
        return [kernel.key for kernel in self.spec.inputs]

    def describe(self) -> str:
        """What it does, in words."""
        return "\n\n".join("\n".join([title, *("  " + line for line in lines)]) for title, lines in self.spec.description)


def words_of_mode(mode: str, io: str | None) -> str:
    """A mode, or a mode and options, as an option text."""
    words = mode.split()
    if words and words[0] in MODES:
        qk, pv = MODES[words[0]]
        if "io" in (qk, pv) and io is None:
            raise SpecError(f'mode "{words[0]}" takes Q and K as they are: say io=f16 or io=bf16 in the options')
        words[0:1] = [f"qk={qk if qk != 'io' else io}", f"pv={pv if pv != 'io' else io}"]
    return " ".join(words)


def check_mode(mode: str, name: str) -> None:
    """Raises SpecError with the modes there are for a first word that is neither one of them nor an option."""
    first = mode.split()[0] if mode.split() else ""
    if first and "=" not in first and first not in MODES and first not in FIELDS and not first.startswith("sage_"):
        raise SpecError(f'{name} "{first}" is unknown; there are {", ".join(MODES)}, options such as "smoothing=none" '
                        'behind or instead of these, and keys (sage_fwd_...)')


def _io_in(options: str) -> str:
    for field_ in options.split():
        if field_.startswith("io="):
            return field_[3:]
    return "f16"


def kernel_spec(text_or_key: str, target: str | None = None, family: str = "attention") -> _core.KernelSpec:
    """A kernel without code, from a key (``sage_fwd_...``), a mode (``int8-fp8``) or an option text
    (``head_dim=64 causal``). target: of an option text, "sm_89" if None; a key has its own."""
    text("kernel", text_or_key, "a text: a key, a mode or options")
    if target is not None:
        text("target", target, 'a text such as "sm_89", or None')
    if text_or_key.startswith("sage_"):
        spec = _core.parse_key(text_or_key)
        if target is not None and target != spec.target:
            raise ArgumentError(f"target {target} is refused: the key is of {spec.target}")
        return spec
    if family == "attention":
        check_mode(text_or_key, "kernel")
        text_or_key = words_of_mode(text_or_key, _io_in(text_or_key))
    return _core.kernel_of_options(text_or_key, target or "sm_89", family)


def emit(text_or_key: str, target: str | None = None, *, line_info: bool = False) -> Kernel:
    """Makes the PTX of a kernel, from a key, a mode or an option text; see kernel_spec(). line_info: .loc directives that
    name the template's lines. Raises SpecError, CodegenError; GeneratorMissing in a build without the generator."""
    spec = kernel_spec(text_or_key, target)
    flag("line_info", line_info)
    spec.validate()
    entry, ptx = _core.emit(spec, line_info)
    return Kernel(spec.key, entry, ptx, "generator")


def load(text_or_key: str, target: str | None = None, *, ptx: str | os.PathLike[str] = "") -> Kernel:
    """A kernel's PTX from the folder or bundle ``ptx``, else from the embedded set, else from the generator. Raises SpecError
    that says how to get it if none has it."""
    spec = kernel_spec(text_or_key, target)
    ptx = path("ptx", ptx)
    entry, code = _core.find_ptx(spec, ptx)
    origin = "embedded" if entry in _embedded() and not ptx else ptx or "generator"
    return Kernel(spec.key, entry, code, origin)


@lru_cache(maxsize=1)
def _embedded() -> frozenset[str]:
    return frozenset(_core.embedded_keys())


def kernels(target: str | None = None, family: str | None = None) -> list[str]:
    """Keys of the embedded kernels: all, or those of a target ("sm_89") and of a family ("attention")."""
    keys: Sequence[str] = sorted(_embedded())
    if target is not None:
        word("target", target, _core.targets())
    if family is not None:
        word("family", family, sorted({_core.parse_key(key).family for key in keys}))
    return [key for key in keys if (target is None or _core.parse_key(key).target == target)
            and (family is None or _core.parse_key(key).family == family)]


def trace(text_or_key: str, target: str | None = None) -> list[tuple[str, str]]:
    """(title, text) of every stage from the spec to PTX. Raises as emit() does."""
    spec = kernel_spec(text_or_key, target)
    spec.validate()
    return _core.trace(spec)
