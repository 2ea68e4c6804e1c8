"""The operator sagegen::attention of PyTorch, which compiled graphs take as it is. Imported when a tensor is attended.

It has a kernel for CPU, the emulator, and CUDA, and a fake one for shapes; it has no gradient.
"""
from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

from ._arrays import need_strided
from ._attention import Mods, Options, packed_problem, problem_of, run
from .errors import ArgumentError, DTypeError

# Schemas of operators are read from annotations: these are what torch.library understands.


@torch.library.custom_op("sagegen::attention", mutates_args=(), device_types=("cpu", "cuda"))
def attention_op(q: Tensor, k: Tensor, v: Tensor, sinks: Optional[Tensor], alibi: Optional[Tensor], bias: Optional[Tensor],
                 mask: Optional[Tensor], cu_seqlens_q: Optional[Tensor], cu_seqlens_kv: Optional[Tensor], causal: bool,
                 align: str, scale: Optional[float], window_left: int, window_right: int, softcap: Optional[float],
                 layout: str, mode: str, ptx: str, max_seqlen_q: Optional[int], max_seqlen_kv: Optional[int],
                 return_lse: bool, device: str) -> tuple[Tensor, Tensor]:
    options = Options(causal=causal, align=align, scale=scale,
                      window=None if window_left == window_right == -1 else (window_left, window_right), softcap=softcap,
                      layout=layout, mode=mode, ptx=ptx, max_seqlen_q=max_seqlen_q, max_seqlen_kv=max_seqlen_kv)
    o, lse = run(q, k, v, options, Mods(sinks, alibi, bias, mask), cu_seqlens_q=cu_seqlens_q, cu_seqlens_kv=cu_seqlens_kv,
                 return_lse=return_lse, device=device or None)
    return o, q.new_empty((0,), dtype=torch.float32) if lse is None else lse


@attention_op.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, sinks: Optional[Tensor], alibi: Optional[Tensor], bias: Optional[Tensor],
      mask: Optional[Tensor], cu_seqlens_q: Optional[Tensor], cu_seqlens_kv: Optional[Tensor], causal: bool, align: str,
      scale: Optional[float], window_left: int, window_right: int, softcap: Optional[float], layout: str, mode: str, ptx: str,
      max_seqlen_q: Optional[int], max_seqlen_kv: Optional[int], return_lse: bool, device: str) -> tuple[Tensor, Tensor]:
    if cu_seqlens_q is not None:
        problem = packed_problem(q.shape, k.shape, v.shape, cu_seqlens_q.shape[0] - 1, 1, 1)
    else:
        problem = problem_of(q.shape, k.shape, v.shape, layout)
    lse_shape = problem.lse_shape() if return_lse else (0,)
    return q.new_empty(problem.o_shape(layout)), q.new_empty(lse_shape, dtype=torch.float32)


def attention(q: Tensor, k: Tensor, v: Tensor, options: Options, mods: Mods, cu_seqlens_q: Optional[Tensor],
              cu_seqlens_kv: Optional[Tensor], return_lse: bool, device: Optional[str]) -> tuple[Tensor, Optional[Tensor]]:
    named = (("k", k), ("v", v), *mods.given(), ("cu_seqlens_q", cu_seqlens_q), ("cu_seqlens_kv", cu_seqlens_kv))
    for name, array in named:
        if array is not None and not isinstance(array, Tensor):
            raise DTypeError(f"q is a Tensor and {name} a {type(array).__name__}; they are of one kind")
    # Before PyTorch chooses a backend by the arguments, and says nothing of them where it has none.
    for name, array in (("q", q), *named):
        if array is None:
            continue
        need_strided(array, name)
        if array.device != q.device:
            raise ArgumentError(f"q is on {q.device} and {name} on {array.device}; they are on the same device")
    if q.device.type not in ("cpu", "cuda", "meta"):
        raise ArgumentError(f"q is on {q.device}; there are kernels for cuda, and the emulator for cpu")
    left, right = options.window or (-1, -1)
    o, lse = attention_op(q, k, v, mods.sinks, mods.alibi, mods.bias, mods.mask, cu_seqlens_q, cu_seqlens_kv, options.causal,
                          options.align, options.scale, left, right, options.softcap, options.layout, options.mode, options.ptx,
                          options.max_seqlen_q, options.max_seqlen_kv, return_lse, device or "")
    return o, lse if return_lse else None


def refuse_gradients(*arrays: object) -> None:
    """Of a call that PyTorch does not see, and so could not refuse in backward()."""
    if torch.is_grad_enabled() and any(isinstance(array, Tensor) and array.requires_grad for array in arrays):
        raise ArgumentError("there is no gradient of attention, and an input requires one; call it under torch.no_grad()")
