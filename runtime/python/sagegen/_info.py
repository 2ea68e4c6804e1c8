"""What this package and this machine have."""
from __future__ import annotations

from dataclasses import dataclass

from . import _core


@dataclass(frozen=True)
class Info:
    """str() is for people."""

    version: str
    generator: str
    """"LLVM 22.1.8", or empty: this build has no generator."""
    embedded_kernels: int
    targets: tuple[str, ...]
    gpus: tuple[str, ...]
    """Names of the GPUs, in the order of their numbers."""
    cuda: str
    """"CUDA 13.0", or empty."""
    why_no_gpu: str

    def __str__(self) -> str:
        lines = [f"sagegen     {self.version}", f"generator   {self.generator or 'not built in: kernels are the embedded ones, or ptx='}",
                 f"embedded    {self.embedded_kernels} kernels for {', '.join(self.targets)}",
                 f"driver      {self.cuda or 'none: ' + self.why_no_gpu}"]
        lines += [f"cuda:{number}      {name}" for number, name in enumerate(self.gpus)]
        return "\n".join(lines)


def info() -> Info:
    """Looks for GPUs; starts nothing on them but a context."""
    devices, version, why = _core.cuda_state()
    gpus = tuple(_core.Device(f"cuda:{number}").description for number in range(devices))
    return Info(_core.version, f"LLVM {_core.llvm_version}" if _core.has_generator else "", len(_core.embedded_keys()),
                tuple(_core.targets()), gpus, f"CUDA {version // 1000}.{version % 1000 // 10}" if version else "", why)
