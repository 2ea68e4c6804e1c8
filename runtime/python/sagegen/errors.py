"""What sagegen raises, by who has to act. The texts say what was asked, which rule refused it, and what to change."""
from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._core import Finding


class Error(Exception):
    """Base of all that sagegen raises on purpose."""


class ArgumentError(Error, ValueError):
    """Arguments that a call cannot take: shapes, strides, values, devices that differ."""


class DTypeError(ArgumentError, TypeError):
    """An array of a dtype, or an argument of a type, that a call cannot take."""


class SpecError(Error, ValueError):
    """A kernel that cannot be, or that is nowhere to be had."""


class CodegenError(Error):
    """A valid kernel that the generator cannot turn into PTX."""


class GeneratorMissing(Error, RuntimeError):
    """The generator was asked for, and this build has none."""


class ArtifactError(Error, RuntimeError):
    """PTX that is stored somewhere and cannot be read."""


class CacheError(Error, RuntimeError):
    """The cache of tuned schedules cannot be read or written."""


class DriverError(Error, RuntimeError):
    """A call of the CUDA driver, or of the emulator in its place, failed."""

    result: int
    """CUresult, as a number."""
    call: str
    """The CUDA function."""

    def __init__(self, text: str, result: int = 0, call: str = "") -> None:
        super().__init__(text)
        self.result, self.call = result, call

    def __reduce__(self) -> tuple[type[DriverError], tuple[str, int, str]]:
        return type(self), (str(self), self.result, self.call)


class OutOfMemory(DriverError, MemoryError):
    """The device has no memory left."""


class FindingsError(Error, RuntimeError):
    """The emulator found faults in a kernel."""

    findings: list[Finding]
    """Each with check, message, kernel, ptx_line, source, cta, warp, lane, count."""

    def __init__(self, text: str, findings: list[Finding]) -> None:
        super().__init__(text)
        self.findings = findings


class InternalError(Error):
    """A bug in sagegen."""
