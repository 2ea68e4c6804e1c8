"""Quantized attention (SageAttention2) on GPUs, and in an emulator of them: see docs/python.md of the sources.

    import sagegen
    o = sagegen.attention(q, k, v, causal=True)
"""
from __future__ import annotations

from ._attention import attention
from ._core import Finding, version as __version__
from ._devices import Device, clear
from ._emulator import Emulator, Launch
from ._info import Info, info
from ._kernels import MODES, Kernel, emit, kernels, load, trace
from ._kv_cache import KvCache
from ._sage import (sageattn, sageattn_qk_int8_pv_fp8_cuda, sageattn_qk_int8_pv_fp8_cuda_sm90, sageattn_qk_int8_pv_fp16_cuda,
                    sageattn_qk_int8_pv_fp16_triton, sageattn_varlen)
from ._tune import Tuned, tune
from .errors import (ArgumentError, ArtifactError, CacheError, CodegenError, DriverError, DTypeError, Error, FindingsError,
                     GeneratorMissing, InternalError, OutOfMemory, SpecError)

__all__ = ["MODES", "ArgumentError", "ArtifactError", "CacheError", "CodegenError", "DTypeError", "Device", "DriverError", "Emulator",
           "Error", "Finding", "FindingsError", "GeneratorMissing", "Info", "InternalError", "Kernel", "KvCache", "Launch", "OutOfMemory",
           "SpecError", "Tuned", "__version__", "attention", "clear", "emit", "info", "kernels", "load", "sageattn",
           "sageattn_qk_int8_pv_fp8_cuda", "sageattn_qk_int8_pv_fp8_cuda_sm90", "sageattn_qk_int8_pv_fp16_cuda",
           "sageattn_qk_int8_pv_fp16_triton", "sageattn_varlen", "trace", "tune"]
