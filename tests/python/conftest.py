"""Attention in double precision, inputs, and what a machine may lack."""
from __future__ import annotations

import sys

import pytest

np = pytest.importorskip("numpy")

# Shortly before a test would hang CI. Most take a fraction of a second.
SEED = 7


def normal(*shape, dtype="float16", seed=SEED):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def qkv(batch=1, heads=2, kv_heads=None, q_len=70, kv_len=None, dim=64, value_dim=None, dtype="float16"):
    kv_heads, kv_len = kv_heads or heads, kv_len or q_len
    return (normal(batch, heads, q_len, dim, dtype=dtype, seed=1), normal(batch, kv_heads, kv_len, dim, dtype=dtype, seed=2),
            normal(batch, kv_heads, kv_len, value_dim or dim, dtype=dtype, seed=3))


def exact(q, k, v, causal=False, scale=None, window=(-1, -1), softcap=None, sinks=None, alibi=None, bias=None, mask=None,
          bottom_right=False):
    """O and LSE in double precision: [batch, heads, tokens, channels], as the definition says and nothing else."""
    q, k, v = (np.asarray(x).astype(np.float64) for x in (q, k, v))
    group = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
    scores = np.einsum("bhqd,bhkd->bhqk", q, k) * (scale or 1 / np.sqrt(q.shape[-1]))
    q_len, kv_len = scores.shape[-2:]
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    position = np.arange(q_len)[:, None] + (kv_len - q_len if bottom_right else 0)
    distance = np.arange(kv_len)[None, :] - position
    if bias is not None:
        scores = scores + np.asarray(bias).astype(np.float64)
    if alibi is not None:
        scores = scores - np.asarray(alibi).astype(np.float64)[None, :, None, None] * np.abs(distance)
    seen = np.ones((q_len, kv_len), bool)
    if causal:
        seen &= distance <= 0
    if window[0] >= 0:
        seen &= distance >= -window[0]
    if window[1] >= 0:
        seen &= distance <= window[1]
    seen = np.broadcast_to(seen, scores.shape)
    if mask is not None:
        seen = seen & np.asarray(mask)
    scores = np.where(seen, scores, -np.inf)
    top = scores.max(axis=-1, keepdims=True)
    if sinks is not None:
        top = np.maximum(top, np.asarray(sinks).astype(np.float64)[None, :, None, None])
    top = np.where(np.isinf(top), 0.0, top)
    weights = np.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True)
    if sinks is not None:
        total = total + np.exp(np.asarray(sinks).astype(np.float64)[None, :, None, None] - top)
    with np.errstate(divide="ignore"):
        lse = (top + np.log(total))[..., 0]
    return (weights / np.where(total > 0, total, 1.0)) @ v, lse


def relative_l1(got, want):
    got, want = np.asarray(got).astype(np.float64), np.asarray(want)
    return np.abs(got - want).sum() / np.abs(want).sum()


# What the number formats cost on N(0,1) inputs of these sizes, with room: docs and tests/numerics hold the kernels to more.
LIMITS = {"int8-fp8": 0.05, "int8-fp16": 0.02, "16bit": 0.002, "bf16-fp8": 0.05, "int4-fp8": 0.25, "int4-fp16": 0.25}


def has_generator():
    import sagegen
    return bool(sagegen.info().generator)


needs_generator = pytest.mark.skipif(not has_generator(), reason="this build of the package has no generator")


def pytest_report_header(config):
    import sagegen
    return str(sagegen.info()).splitlines() + [f"python {sys.version.split()[0]}"]
