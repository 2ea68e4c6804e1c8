"""The calls of SageAttention 2, by its names of arguments. What has no meaning here is refused, not passed over."""
from __future__ import annotations

from typing import Any

from ._arguments import LARGEST_INT, flag, positive, shown, whole, word
from ._attention import attention, layout_of
from .errors import DTypeError, SpecError

_GRANULARITIES = {"per_thread": "granularity=per_thread", "per_warp": "granularity=per_block q_group=32 k_group=64",
                  "per_block": "granularity=per_block"}
_SUMS = {"fp32": "accumulation=f32", "fp32+fp32": "accumulation=two_level_f32", "fp32+fp16": "accumulation=f32_f16",
         "fp16+fp32": "accumulation=f32_f16"}
_COMMON = ("tensor_layout", "is_causal", "sm_scale", "return_lse")
_OPTIONS = ("qk_quant_gran", "pv_accum_dtype", "smooth_k", "smooth_v", "attn_mask", "device", "ptx")
# What callers have of other functions, and what it is here.
_HINTS = {"scale": "sm_scale", "causal": "is_causal", "layout": "tensor_layout", "dropout_p": "nothing, there is no dropout",
          "enable_gqa": "nothing, k and v may have fewer heads than q"}


def _mode(call: str, formats: str, given: dict[str, Any], known: tuple[str, ...]) -> str:
    """The option text of what is given; takes the options out of it."""
    words = [formats] if formats else []
    gran = given.pop("qk_quant_gran", None)
    if gran is not None:
        words.append(_GRANULARITIES[word(f"{call}: qk_quant_gran", gran, _GRANULARITIES)])
    sums = given.pop("pv_accum_dtype", None)
    if isinstance(sums, str) and sums == "fp16":
        raise SpecError(f"{call}: pv_accum_dtype 'fp16' is refused: sums of all keys in f16 overflow; use 'fp16+fp32', which sums the keys of a "
                        "tile in f16, or 'fp32'")
    if sums is not None:
        words.append(_SUMS[word(f"{call}: pv_accum_dtype", sums, _SUMS)])
    for name, off, on in (("smooth_k", "smoothing=none", "smoothing=k"), ("smooth_v", "v_smoothing=none", "v_smoothing=mean")):
        value = given.pop(name, None)
        if value is None:
            continue
        if flag(f"{call}: {name}", value) != (name == "smooth_k"):  # what is usual is not said, so that it fits every mode
            words.append(on if value else off)
    for name in given:
        hint = f"; here that is {_HINTS[name]}" if name in _HINTS else ""
        raise DTypeError(f"{call} has no argument {name!r}{hint}; there are q, k, v, {', '.join(known)}")
    return " ".join(words)


def _check(call: str, is_causal: Any, sm_scale: Any) -> None:
    """By the names that callers gave them."""
    flag(f"{call}: is_causal", is_causal)
    if sm_scale is not None:
        positive(f"{call}: sm_scale", sm_scale)


def _call(call: str, formats: str, q: Any, k: Any, v: Any, tensor_layout: str, is_causal: bool, sm_scale: float | None,
          return_lse: bool, given: dict[str, Any]) -> Any:
    given = dict(given)
    device, ptx = given.pop("device", None), given.pop("ptx", None)
    attn_mask = given.pop("attn_mask", None)
    masks: dict[str, Any] = {}
    _check(call, is_causal, sm_scale)
    flag(f"{call}: return_lse", return_lse)
    layout = layout_of(f"{call}: tensor_layout", tensor_layout)
    if attn_mask is not None:
        if not hasattr(attn_mask, "dtype"):
            raise DTypeError(f"{call}: attn_mask {shown(attn_mask)} is refused: it is an array, bool or of the dtype of q")
        masks["mask" if "bool" in str(attn_mask.dtype) else "bias"] = attn_mask
    mode = _mode(call, formats, given, (*_COMMON, *_OPTIONS))
    return attention(q, k, v, causal=is_causal, scale=sm_scale, return_lse=return_lse, layout=layout, mode=mode or None,
                     device=device, ptx=ptx, **masks)


def sageattn(q: Any, k: Any, v: Any, tensor_layout: str = "HND", is_causal: bool = False, sm_scale: float | None = None,
             return_lse: bool = False, **kwargs: Any) -> Any:
    """As SageAttention's: with the formats that are usual on the device. q, k, v: as in attention(), with tensor_layout "HND" [batch,
    heads, tokens, channels], with "NHD" [batch, tokens, heads, channels]. The causal mask is top-left. Returns O, or (O, LSE)
    with the LSE f32 [batch, heads, queries] of natural logarithms.

    Further: qk_quant_gran "per_thread", "per_warp" or "per_block"; pv_accum_dtype "fp32", "fp32+fp32", "fp32+fp16" or
    "fp16+fp32"; smooth_k (True), smooth_v (False); attn_mask, bool or of the dtype of q; device and ptx, see attention(). Others are
    refused.
    """
    return _call("sageattn", "", q, k, v, tensor_layout, is_causal, sm_scale, return_lse, kwargs)


def sageattn_qk_int8_pv_fp16_cuda(q: Any, k: Any, v: Any, tensor_layout: str = "HND", is_causal: bool = False,
                                  qk_quant_gran: str = "per_thread", sm_scale: float | None = None, pv_accum_dtype: str = "fp32",
                                  smooth_k: bool = True, smooth_v: bool = False, return_lse: bool = False, **kwargs: Any) -> Any:
    """INT8 Q Kᵀ, FP16 P V; see sageattn()."""
    given = dict(kwargs, qk_quant_gran=qk_quant_gran, pv_accum_dtype=pv_accum_dtype, smooth_k=smooth_k, smooth_v=smooth_v)
    return _call("sageattn_qk_int8_pv_fp16_cuda", "int8-fp16", q, k, v, tensor_layout, is_causal, sm_scale, return_lse, given)


def sageattn_qk_int8_pv_fp16_triton(q: Any, k: Any, v: Any, tensor_layout: str = "HND", quantization_backend: str = "triton",
                                    is_causal: bool = False, attn_mask: Any = None, sm_scale: float | None = None,
                                    smooth_k: bool = True, return_lse: bool = False, **kwargs: Any) -> Any:
    """The same with a mask; quantization_backend changes nothing here."""
    call = "sageattn_qk_int8_pv_fp16_triton"
    word(f"{call}: quantization_backend", quantization_backend, ("triton", "cuda"))
    given = dict(kwargs, smooth_k=smooth_k, attn_mask=attn_mask)
    return _call(call, "int8-fp16", q, k, v, tensor_layout, is_causal, sm_scale, return_lse, given)


def sageattn_qk_int8_pv_fp8_cuda(q: Any, k: Any, v: Any, tensor_layout: str = "HND", is_causal: bool = False,
                                 qk_quant_gran: str = "per_thread", sm_scale: float | None = None, pv_accum_dtype: str = "fp32+fp16",
                                 smooth_k: bool = True, smooth_v: bool = False, return_lse: bool = False, **kwargs: Any) -> Any:
    """INT8 Q Kᵀ, FP8 P V; see sageattn()."""
    given = dict(kwargs, qk_quant_gran=qk_quant_gran, pv_accum_dtype=pv_accum_dtype, smooth_k=smooth_k, smooth_v=smooth_v)
    return _call("sageattn_qk_int8_pv_fp8_cuda", "int8-fp8", q, k, v, tensor_layout, is_causal, sm_scale, return_lse, given)


def sageattn_qk_int8_pv_fp8_cuda_sm90(q: Any, k: Any, v: Any, tensor_layout: str = "HND", is_causal: bool = False,
                                      qk_quant_gran: str = "per_thread", sm_scale: float | None = None,
                                      pv_accum_dtype: str = "fp32+fp32", smooth_k: bool = True, return_lse: bool = False,
                                      **kwargs: Any) -> Any:
    """The same with sums of two levels."""
    given = dict(kwargs, qk_quant_gran=qk_quant_gran, pv_accum_dtype=pv_accum_dtype, smooth_k=smooth_k)
    return _call("sageattn_qk_int8_pv_fp8_cuda_sm90", "int8-fp8", q, k, v, tensor_layout, is_causal, sm_scale, return_lse, given)


def sageattn_varlen(q: Any, k: Any, v: Any, cu_seqlens_q: Any, cu_seqlens_k: Any, max_seqlen_q: int, max_seqlen_k: int,
                    is_causal: bool = False, sm_scale: float | None = None, smooth_k: bool = True, **kwargs: Any) -> Any:
    """Packed sequences: q, k, v are [tokens, heads, channels], cu_seqlens i32 [sequences + 1]. Its kernels are not embedded:
    give ptx, see docs/python.md."""
    given = dict(kwargs, smooth_k=smooth_k)
    device, ptx = given.pop("device", None), given.pop("ptx", None)
    known = ("cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k", "is_causal", "sm_scale", "smooth_k", "qk_quant_gran",
             "pv_accum_dtype", "smooth_v", "device", "ptx")
    mode = _mode("sageattn_varlen", "", given, known)
    _check("sageattn_varlen", is_causal, sm_scale)
    if max_seqlen_k is not None:
        whole("sageattn_varlen: max_seqlen_k", max_seqlen_k, 0, LARGEST_INT)
    return attention(q, k, v, causal=is_causal, scale=sm_scale, mode=mode or None, cu_seqlens_q=cu_seqlens_q,
                     cu_seqlens_kv=cu_seqlens_k, max_seqlen_q=max_seqlen_q, max_seqlen_kv=max_seqlen_k, device=device, ptx=ptx)
