"""SageAttention's calls: its names mean what they mean there, and what is unknown is refused."""
import inspect

import numpy as np
import pytest
from conftest import exact, needs_generator, qkv, relative_l1

import sagegen

CALLS = {"sageattn": ["tensor_layout", "is_causal", "sm_scale", "return_lse"],
         "sageattn_qk_int8_pv_fp16_triton": ["tensor_layout", "quantization_backend", "is_causal", "attn_mask", "sm_scale", "smooth_k", "return_lse"],
         "sageattn_qk_int8_pv_fp16_cuda": ["tensor_layout", "is_causal", "qk_quant_gran", "sm_scale", "pv_accum_dtype", "smooth_k", "smooth_v",
                                           "return_lse"],
         "sageattn_qk_int8_pv_fp8_cuda": ["tensor_layout", "is_causal", "qk_quant_gran", "sm_scale", "pv_accum_dtype", "smooth_k", "smooth_v",
                                          "return_lse"],
         "sageattn_qk_int8_pv_fp8_cuda_sm90": ["tensor_layout", "is_causal", "qk_quant_gran", "sm_scale", "pv_accum_dtype", "smooth_k", "return_lse"]}


@pytest.mark.parametrize("name", CALLS)
def test_arguments_stand_where_they_stood(name):
    parameters = list(inspect.signature(getattr(sagegen, name)).parameters)
    assert parameters == ["q", "k", "v", *CALLS[name], "kwargs"]


def test_sageattn():
    q, k, v = qkv(heads=4, kv_heads=2)
    want, want_lse = exact(q, k, v, causal=True, scale=0.2)
    o, lse = sagegen.sageattn(q, k, v, is_causal=True, sm_scale=0.2, return_lse=True)
    assert relative_l1(o, want) < 0.05
    assert np.abs(lse - want_lse).max() < 0.09   # natural logarithms
    nhd = sagegen.sageattn(*(x.transpose(0, 2, 1, 3) for x in (q, k, v)), tensor_layout="NHD", is_causal=True, sm_scale=0.2)
    assert np.array_equal(nhd.transpose(0, 2, 1, 3), o)


def test_options_are_those_of_kernels():
    q, k, v = qkv(dim=128)
    k = k + np.float16(8)
    device = "emulator:sm_89"
    def run(**options):
        return sagegen.sageattn(q, k, v, device=device, **options)
    usual = run()
    assert np.array_equal(usual, run(smooth_k=True, smooth_v=False, qk_quant_gran="per_thread", pv_accum_dtype="fp32+fp32"))
    assert np.array_equal(run(smooth_k=False), sagegen.attention(q, k, v, mode="smoothing=none"))
    assert np.array_equal(run(pv_accum_dtype="fp32+fp16"), sagegen.attention(q, k, v, mode="accumulation=f32_f16"))
    assert np.array_equal(run(qk_quant_gran="per_block"), sagegen.attention(q, k, v, mode="granularity=per_block"))
    assert len({run(**each).tobytes() for each in ({}, dict(smooth_k=False), dict(pv_accum_dtype="fp32+fp16"), dict(qk_quant_gran="per_block"))}) == 4
    fp8 = sagegen.sageattn_qk_int8_pv_fp8_cuda(q, k, v)
    assert np.array_equal(fp8, sagegen.attention(q, k, v, mode="int8-fp8 accumulation=f32_f16"))
    assert np.array_equal(sagegen.sageattn_qk_int8_pv_fp8_cuda_sm90(q, k, v), usual)
    fp16 = sagegen.sageattn_qk_int8_pv_fp16_cuda(q, k, v)
    assert np.array_equal(fp16, sagegen.attention(q, k, v, mode="int8-fp16"))
    assert np.array_equal(fp16, sagegen.sageattn_qk_int8_pv_fp16_triton(q, k, v))


@needs_generator
def test_options_whose_kernels_are_made():
    q, k, v = qkv()
    want = exact(q, k, v)[0]
    for options in (dict(qk_quant_gran="per_warp"), dict(smooth_v=True)):
        assert relative_l1(sagegen.sageattn(q, k, v, **options), want) < 0.05
    mask = np.tril(np.ones((70, 70), bool))
    masked = sagegen.sageattn_qk_int8_pv_fp16_triton(q, k, v, attn_mask=mask)
    assert relative_l1(masked, exact(q, k, v, mask=mask)[0]) < 0.05


@pytest.mark.parametrize("options,text", [
    (dict(dropout_p=0.1), "sageattn has no argument 'dropout_p'; here that is nothing, there is no dropout; there are q, k, v, tensor_layout"),
    (dict(scale=1.0), "no argument 'scale'; here that is sm_scale"),
    (dict(smoth_k=True), "no argument 'smoth_k'; there are .*smooth_k"),
    (dict(smooth_k="yes"), "smooth_k 'yes' is refused"),
    (dict(qk_quant_gran="per_tile"), "qk_quant_gran 'per_tile' is refused: there are 'per_thread'"),
    (dict(pv_accum_dtype="bf16"), "pv_accum_dtype 'bf16' is refused"),
    (dict(pv_accum_dtype="fp16"), "overflow; use 'fp16\\+fp32'")], ids=str)
def test_refused(options, text):
    with pytest.raises(sagegen.Error, match=text):
        sagegen.sageattn(*qkv(q_len=3), **options)
