"""What is no argument is refused with the name of the argument, what it was given, and what is legal: for every public function, nothing
of NumPy's, PyTorch's or the binding's own words."""
from __future__ import annotations

import re
from decimal import Decimal

import numpy as np
import pytest

import sagegen
from conftest import qkv

HUGE = 10**30
SCALE_PTX = """
.version 7.0
.target sm_80
.address_size 64
.visible .entry scale(.param .u64 x, .param .f32 factor, .param .u32 n, .param .f16 half)
{
  .reg .b64 %rd<3>;
  .reg .b32 %r<3>;
  .reg .f32 %f<4>;
  mov.u32 %r1, %tid.x;
  ld.param.u64 %rd1, [x];
  ld.param.f32 %f1, [factor];
  mul.wide.u32 %rd2, %r1, 4;
  add.u64 %rd1, %rd1, %rd2;
  ld.global.f32 %f2, [%rd1];
  mul.f32 %f3, %f2, %f1;
  st.global.f32 [%rd1], %f3;
  ret;
}
"""


def refused(call, *parts):
    """The call raises a TypeError or ValueError of sagegen's that has all of the parts."""
    with pytest.raises((TypeError, ValueError)) as raised:
        call()
    assert isinstance(raised.value, sagegen.Error), repr(raised.value)
    for part in parts:
        assert part in str(raised.value)


NUMBERS = ("x", b"1", None, [1], (2,), {}, 1j, object(), np.zeros(2), np.nan, -1.0, 0.0, 1e300, 1e-60, np.inf, HUGE**20, True)
TEXTS = (5, b"HND", 5.5, [1], {}, object(), np.zeros(2))
FLAGS = (1, 0, "x", None, [True], np.ones(2), np.True_)
WHOLE = ("x", 5.5, [1], {}, 1j, HUGE, -1, True, np.ones(2))
ATTENTION = {
    "scale": [*(value for value in NUMBERS if value is not None), Decimal("-1")], "softcap": [value for value in NUMBERS if value is not None],
    "causal": FLAGS, "return_lse": FLAGS, "align": (*TEXTS, None, "left"), "layout": (*TEXTS, None, "HDN"), "mode": TEXTS,
    "ptx": (5, 5.5, b"x", [1], object()), "max_seqlen_q": WHOLE, "max_seqlen_kv": WHOLE,
    "window": (5, "x", (1,), (1, 2, 3), (HUGE, 0), (0, HUGE), (5.5, 0), (0, 5.5), ("a", 0), (True, 0), (np.zeros(2), 0), {1: 2}),
    "device": (5, 5.5, b"x", [1], object()),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_options_of_attention(name):
    q, k, v = qkv(q_len=3, heads=1)
    for value in ATTENTION[name]:
        refused(lambda: sagegen.attention(q, k, v, **{name: value}), name)


def test_a_window_is_not_rounded_nor_wrapped():
    q, k, v = qkv(q_len=3, heads=1)
    refused(lambda: sagegen.attention(q, k, v, window=(5.5, 0)), "(5.5, 0)", "left side", "None or -1")
    refused(lambda: sagegen.attention(q, k, v, window=(0, HUGE)), str(HUGE), "right side", "up to 2147483647")
    for window in ((np.int64(2), np.int32(0)), [2, 0], (2.0 .__int__(), None)):
        assert sagegen.attention(q, k, v, window=window, causal=True).shape == q.shape


def test_numbers_of_other_types_are_numbers():
    q, k, v = qkv(q_len=3, heads=1)
    want = sagegen.attention(q, k, v, scale=0.5)
    for scale in (np.float32(0.5), np.float64(0.5), np.float16(0.5)):
        assert np.array_equal(sagegen.attention(q, k, v, scale=scale), want)
    assert np.array_equal(sagegen.attention(q, k, v, scale=1), sagegen.attention(q, k, v, scale=1.0))


ARRAYS = {"None": None, "text": "x", "list": [[1.0]], "number": 5, "object": np.full((1, 1, 3, 64), None), "bool": np.ones((1, 1, 3, 64), bool),
          "text array": np.full((1, 1, 3, 64), "x"), "0-d": np.float16(1).reshape(()), "record": np.zeros((1, 1, 3, 64), [("a", "f2")]),
          "masked": np.ma.masked_array(np.ones((1, 1, 3, 64), np.float16), mask=True), "date": np.zeros((1, 1, 3, 64), "M8[s]"),
          "no channels": np.ones((1, 1, 3, 0), np.float16), "torn stride": np.frombuffer(bytes(1000), np.uint8)[:769].view()[1:769].reshape(1, 1, 3, 256)[..., ::2]}


@pytest.mark.parametrize("what", ARRAYS)
@pytest.mark.parametrize("name", ["q", "k", "v", "sinks", "alibi", "bias", "mask", "cu_seqlens_q", "out", "lse_out"])
def test_arrays_of_attention(name, what):
    if name not in ("q", "k", "v") and ARRAYS[what] is None or (name, what) == ("mask", "bool"):
        pytest.skip("that is legal")
    q, k, v = qkv(q_len=3, heads=1)
    more = {"cu_seqlens_kv": np.array([0, 3], np.int32)} if name == "cu_seqlens_q" else {}
    refused(lambda: sagegen.attention(**{"q": q, "k": k, "v": v, **more, name: ARRAYS[what]}), name)


def test_arrays_of_other_strides_are_read_as_they_lie():
    q, k, v = qkv(q_len=6, heads=2)
    for there in (lambda x: np.asfortranarray(x), lambda x: np.repeat(x, 2, axis=2)[:, :, ::2], lambda x: np.broadcast_to(x[:, :1], x.shape)):
        moved = [there(x) for x in (q, k, v)]
        if moved[0].strides[-1] != 2:
            refused(lambda: sagegen.attention(*moved), "q: the stride of its last axis")
            continue
        assert np.array_equal(sagegen.attention(*moved), sagegen.attention(*map(np.ascontiguousarray, moved)))


SAGE = {"tensor_layout": (*TEXTS, None, "HDN"), "is_causal": FLAGS, "return_lse": FLAGS, "sm_scale": [value for value in NUMBERS if value is not None],
        "qk_quant_gran": (*TEXTS, "x"), "pv_accum_dtype": (*TEXTS, "x"), "smooth_k": FLAGS[:3], "smooth_v": FLAGS[:3], "attn_mask": ("x", 5, [1]),
        "device": (5, 5.5), "ptx": (5, b"x")}


@pytest.mark.parametrize("name", SAGE)
def test_sageattn(name):
    q, k, v = qkv(q_len=3, heads=1)
    for value in SAGE[name]:
        refused(lambda: sagegen.sageattn(q, k, v, **{name: value}), name)


def test_sageattn_varlen():
    q = np.ones((3, 1, 64), np.float16)
    sums = np.array([0, 3], np.int32)
    for name, values in {"is_causal": FLAGS, "sm_scale": ("x", -1), "max_seqlen_q": WHOLE, "max_seqlen_k": WHOLE, "cu_seqlens_q": ([0, 3], 5, "x")}.items():
        for value in values:
            given = {"cu_seqlens_q": sums, "cu_seqlens_k": sums, "max_seqlen_q": 3, "max_seqlen_k": 3, name: value}
            refused(lambda: sagegen.sageattn_varlen(q, q, q, **given), name)
    refused(lambda: sagegen.sageattn_qk_int8_pv_fp16_triton(q, q, q, quantization_backend=5), "quantization_backend")


KERNELS = {
    "emit kernel": (lambda x: sagegen.emit(x), "kernel", (*TEXTS, None)), "load kernel": (lambda x: sagegen.load(x), "kernel", (*TEXTS, None)),
    "trace kernel": (lambda x: sagegen.trace(x), "kernel", (*TEXTS, None)), "emit target": (lambda x: sagegen.emit("int8-fp16", x), "target", TEXTS),
    "load target": (lambda x: sagegen.load("int8-fp16", x), "target", TEXTS), "trace target": (lambda x: sagegen.trace("int8-fp16", x), "target", TEXTS),
    "line_info": (lambda x: sagegen.emit("int8-fp16", line_info=x), "line_info", FLAGS),
    "load ptx": (lambda x: sagegen.load("int8-fp16", ptx=x), "ptx", (5, b"x", None, [1])),
    "kernels target": (lambda x: sagegen.kernels(x), "target", (*TEXTS, "sm_70")),
    "kernels family": (lambda x: sagegen.kernels(None, x), "family", (*TEXTS, "x")),
    "tune kernel": (lambda x: sagegen.tune(x, heads=1, q_len=3), "kernel", (*TEXTS, None)),
    **{f"tune {name}": (lambda x, name=name: sagegen.tune("head_dim=64", **{"heads": 1, "q_len": 3, name: x}), name, (*WHOLE, 0))
       for name in ("heads", "q_len", "batch", "kv_heads", "kv_len")},
    "tune heads None": (lambda x: sagegen.tune("head_dim=64", heads=x, q_len=3), "heads", (None,)),
    "tune deployment": (lambda x: sagegen.tune("head_dim=64", heads=1, q_len=3, deployment=x), "deployment", (*TEXTS, None, "x")),
    "tune ptx": (lambda x: sagegen.tune("head_dim=64", heads=1, q_len=3, ptx=x), "ptx", (5, None, b"x")),
    "tune database": (lambda x: sagegen.tune("head_dim=64", heads=1, q_len=3, database=x), "database", (5, None, b"x")),
    "tune device": (lambda x: sagegen.tune("head_dim=64", heads=1, q_len=3, device=x), "device", (5, None, b"x", "tpu")),
    "Device": (lambda x: sagegen.Device(x), "device", (*TEXTS, None)),
    "Device checks": (lambda x: sagegen.Device("emulator:sm_89", checks=x), "checks", FLAGS),
    "Device schedule": (lambda x: sagegen.Device("emulator:sm_89", schedule=x), "schedule", (*TEXTS, "x")),
    "Device copies": (lambda x: sagegen.Device("emulator:sm_89", copies=x), "copies", (*TEXTS, "x")),
    **{f"Device {name}": (lambda x, name=name: sagegen.Device("emulator:sm_89", **{name: x}), name, (*WHOLE, None))
       for name in ("seed", "threads", "launch_limit")},
    "Emulator": (lambda x: sagegen.Emulator(x), "device", (5, None, "sm_70")),
    "Emulator seed": (lambda x: sagegen.Emulator("sm_89", seed=x), "seed", WHOLE),
}


@pytest.mark.parametrize("what", KERNELS)
def test_kernels_and_devices(what):
    call, name, values = KERNELS[what]
    for value in values:
        refused(lambda: call(value), name)


def emulate(ptx=SCALE_PTX, grid=1, block=32, args=None, **more):
    args = [np.ones(32, np.float32), 2.0, 32, 1.0] if args is None else args
    sagegen.Emulator("sm_89").run(ptx, grid, block, args, **more)
    return args[0]


EMULATOR = {
    "ptx": (None, 5, b"x", [1], np.zeros(2)), "entry": (None, 5, b"x"), "dynamic_smem": (*WHOLE, None),
    "grid": (None, "x", 2.5, (1, 2.5), ("a",), (), (1, 1, 1, 1), HUGE, (HUGE,), -1, 0, (1, 0), True, np.zeros(2), {}),
    "block": (None, "x", 2.5, (1, 2.5), (), (1, 1, 1, 1), HUGE, -1, True, np.zeros(2)),
}


@pytest.mark.parametrize("name", EMULATOR)
def test_emulator(name):
    assert np.array_equal(emulate(), np.full(32, 2, np.float32))
    for value in EMULATOR[name]:
        refused(lambda: emulate(**{name: value}), name)


def test_arguments_of_the_emulator():
    x = np.ones(32, np.float32)
    refused(lambda: sagegen.Emulator("sm_89").run(SCALE_PTX, 1, 32, None), "args None", "list or tuple")
    for args in ("x", x, 5, {}):
        refused(lambda: emulate(args=args), "args")
    for position, name, values in ((0, "x", (None, "x", 2.5, -HUGE, HUGE, [1, 2], np.full(3, None), np.ones(2, "M8[s]"))),
                                   (1, "factor", (None, "x", 1j, HUGE**20, 1e300, x, b"x")), (2, "n", (None, "x", 2.5, 1j, HUGE, -HUGE, x, b"x")),
                                   (3, "half", (1e6, -1e6, HUGE, "x", np.complex64(1)))):
        for value in values:
            args = [x, 2.0, 32, 1.0]
            args[position] = value
            refused(lambda: emulate(args=args), name)
    assert np.array_equal(x, np.ones(32, np.float32))   # nothing ran
    emulate(args=[np.ones(64, np.float32)[::2], np.float16(2), np.int8(32), np.float32(1)])


def test_an_array_that_cannot_be_written_back_is_refused_before_the_launch():
    torch = pytest.importorskip("torch")
    x = torch.ones(1).expand(32)
    refused(lambda: emulate(args=[x, 2.0, 32, 1.0]), "x: the stride of axis 0 is 0")
    read_only = np.broadcast_to(np.float32(1), (32,))
    emulate(args=[read_only, 2.0, 32, 1.0])             # is an input
    assert (read_only == 1).all()


def test_tensors_of_pytorch():
    torch = pytest.importorskip("torch")
    q = torch.ones(1, 1, 3, 64, dtype=torch.float16)
    odd = {"sparse": q.to_sparse(), "compressed": q[0, 0].to_sparse_csr(), "meta": q.to("meta"), "bool": q > 0, "numpy": q.numpy(), "0-d": q[0, 0, 0, 0],
           "nested": torch.nested.nested_tensor([q[0], q[0]]), "negated": torch._neg_view(q), "int": q.int(), "quantized": torch.quantize_per_tensor(q.float(), 1.0, 0, torch.qint8),
           "text": "x"}
    for what, tensor in odd.items():
        for name in ("q", "k", "v", "bias"):
            for out in ({}, {"out": torch.empty_like(q)}):
                if (what, name) in (("text", "q"), ("0-d", "bias")):   # the first chooses the kind of arrays, the second is legal
                    continue
                if what == "negated" and not out:
                    continue   # PyTorch resolves it for its operator
                given = {"q": q, "k": q, "v": q, **out, name: tensor}
                refused(lambda: sagegen.attention(**given), name)
    for name, value in (("q", None), ("lse", "x"), ("part", torch.ones(1)), ("part_lse", torch.ones(1, 1, 3, dtype=torch.float64)), ("o", q.float().to("meta"))):
        distributed = pytest.importorskip("sagegen.distributed")
        given = {"o": q.float(), "lse": q.float()[..., 0], "part": q.float(), "part_lse": q.float()[..., 0]}
        if name in given:
            refused(lambda: distributed.merge(**{**given, name: value}), name)
        else:
            refused(lambda: distributed.ring_attention(value, q, q), name)
    for name, values in {"scale": ("x", -1), "mode": (5,), "causal": (1,), "shards": ("x", 5), "layout": ("x", 5), "return_lse": (1,), "check": (None,),
                         "device": (5,), "ptx": (5,)}.items():
        for value in values:
            refused(lambda: distributed.ring_attention(q, q, q, **{name: value}), name)


KV_CACHE = {
    "layers": (5, b"KV8", None, {}, [5], ["KV8", None]), "kv_heads": WHOLE, "q_heads": WHOLE, "head_dim": (*WHOLE, 257), "q_len": WHOLE,
    "page_tokens": WHOLE, "dtype": (*TEXTS, None, "float32"), "layout": (*TEXTS, None, "HDN"), "addressing": (*TEXTS, None, "blocks"),
    "rope": (*TEXTS, "gptj"), "rotation": (*TEXTS, True, "random"), "smooth_k": FLAGS, "causal": FLAGS, "ptx": (5, 5.5, b"x", [1], object()),
    "device": (5, 5.5, b"x", [1], object()),
}


@pytest.mark.parametrize("name", KV_CACHE)
def test_options_of_a_kv_cache(name):
    given = {"layers": "KV8", "kv_heads": 1, "q_heads": 1, "head_dim": 64, "device": "emulator:sm_89"}
    for value in KV_CACHE[name]:
        refused(lambda: sagegen.KvCache(**{**given, name: value}), name)


def test_every_public_function_stands_in_a_table_above():
    with open(__file__, encoding="utf-8") as file:
        text = file.read()
    for name in sagegen.__all__:
        thing = getattr(sagegen, name)
        if callable(thing) and not (isinstance(thing, type) and issubclass(thing, Exception)) and name not in ("Finding", "Info", "Kernel", "Launch", "Tuned", "clear", "info"):
            if name.startswith("sageattn_qk") and not name.endswith("triton"):
                continue   # sageattn() with other defaults
            assert re.search(rf"sagegen\.{name}\(", text), name
