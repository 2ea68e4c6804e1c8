"""Tensors of PyTorch: the operator, compiled graphs, and what runs on a GPU, on a stand-in."""
import contextlib
import subprocess
import sys

import numpy as np
import pytest
from conftest import exact, needs_generator, qkv, relative_l1

torch = pytest.importorskip("torch", reason="there is no PyTorch")

import sagegen  # noqa: E402  (after what skips the file)
from sagegen import _arrays, _core, _devices  # noqa: E402


def tensors(**shape):
    return tuple(torch.from_numpy(x) for x in qkv(**shape))


def test_the_same_bits_as_numpy():
    q, k, v = qkv(batch=2, heads=4, kv_heads=2)
    want, want_lse = sagegen.attention(q, k, v, causal=True, return_lse=True)
    o, lse = sagegen.attention(*map(torch.from_numpy, (q, k, v)), causal=True, return_lse=True)
    assert isinstance(o, torch.Tensor) and o.dtype == torch.float16 and lse.dtype == torch.float32
    assert np.array_equal(o.numpy(), want) and np.array_equal(lse.numpy(), want_lse)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("causal", [False, True])
def test_against_scaled_dot_product_attention(dtype, causal):
    q, k, v = (x.to(dtype) for x in tensors(q_len=100))
    want = torch.nn.functional.scaled_dot_product_attention(q.double(), k.double(), v.double(), is_causal=causal)
    o, lse = sagegen.attention(q, k, v, causal=causal, return_lse=True)
    assert o.dtype == dtype
    assert relative_l1(o.double().numpy(), want.numpy()) < 0.05
    assert np.abs(lse.numpy() - exact(*(x.double().numpy() for x in (q, k, v)), causal=causal)[1]).max() < 0.09


def test_out_and_devices_and_refusals():
    q, k, v = tensors()
    want = sagegen.attention(q, k, v)
    out = torch.empty_like(q)
    assert sagegen.attention(q, k, v, out=out) is out and torch.equal(out, want)
    assert torch.equal(sagegen.attention(q, k, v, device=sagegen.Device("emulator:sm_89", checks=False)), want)
    with pytest.raises(sagegen.DTypeError, match="q is of dtype f32"):
        sagegen.attention(q.float(), k, v)
    with pytest.raises(sagegen.DTypeError, match="q is a Tensor and k a ndarray; they are of one kind"):
        sagegen.attention(q, k.numpy(), v)
    with pytest.raises(sagegen.DTypeError, match="one kind"):
        sagegen.attention(q, k, v, out=None, device=sagegen.Device("emulator:sm_89"), bias=np.zeros((70, 70), np.float16))
    with pytest.raises(sagegen.ArgumentError, match="q is on meta"):
        sagegen.attention(*(x.to("meta") for x in (q, k, v)), device=sagegen.Device("emulator:sm_89"))
    with pytest.raises(sagegen.DTypeError, match="layout torch.sparse_coo"):
        sagegen.attention(q.to_sparse(), k, v, device=sagegen.Device("emulator:sm_89"))


def test_no_gradient():
    q, k, v = tensors()
    o = sagegen.attention(q.requires_grad_(), k, v)
    assert torch.equal(o, sagegen.attention(q.detach(), k, v))
    with pytest.raises(RuntimeError, match="autograd"):
        o.sum().backward()


class Layer(torch.nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.options = options
        self.out = torch.nn.Linear(64, 64).half()

    def forward(self, q, k, v):
        o, lse = sagegen.attention(q * 2, k, v, return_lse=True, **self.options)
        return self.out(o) + lse[..., None].half()


@pytest.mark.parametrize("options", [dict(causal=True), dict(mode="int8-fp16", scale=0.2), dict(layout="NHD"), dict(causal=True, window=(9, 0))],
                         ids=str)
def test_compiles_without_a_break(options):
    torch.manual_seed(0)
    layer, inputs = Layer(**options), tensors()
    if options.get("layout") == "NHD":
        layer.forward = lambda q, k, v: sagegen.attention(q * 2, k, v, **options) + 1
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.equal(compiled(*inputs), layer(*inputs))


def test_compiles_sageattn_with_shapes_that_change():
    torch._dynamo.reset()
    compiled = torch.compile(lambda q, k, v: sagegen.sageattn(q, k, v, is_causal=True) * 2, fullgraph=True, backend="aot_eager", dynamic=True)
    for length in (33, 70):
        q, k, v = tensors(q_len=length)
        assert torch.equal(compiled(q, k, v), sagegen.sageattn(q, k, v, is_causal=True) * 2)


def test_opcheck():
    from sagegen import _torch
    q, k, v = tensors(q_len=20)

    def arguments(**changed):
        given = dict(q=q, k=k, v=v, sinks=None, alibi=None, bias=None, mask=None, cu_seqlens_q=None, cu_seqlens_kv=None, causal=True,
                     align="top-left", scale=None, window_left=-1, window_right=-1, softcap=None, layout="HND", mode="", ptx="",
                     max_seqlen_q=None, max_seqlen_kv=None, return_lse=True, device="")
        return tuple({**given, **changed}.values())

    torch.library.opcheck(torch.ops.sagegen.attention.default, arguments())
    torch.library.opcheck(torch.ops.sagegen.attention.default, arguments(return_lse=False, layout="NHD"))
    torch.library.opcheck(torch.ops.sagegen.attention.default, arguments(sinks=torch.zeros(2), window_left=5, window_right=0))
    assert _torch.attention_op is not None


def test_tensors_are_given_back():
    q, k, v = tensors(q_len=3, heads=1)
    before = [sys.getrefcount(x) for x in (q, k, v)]
    storage = q.untyped_storage()._use_count() if hasattr(torch.UntypedStorage, "_use_count") else None
    sagegen.attention(q, k, v)
    assert [sys.getrefcount(x) for x in (q, k, v)] == before
    if storage is not None:
        assert q.untyped_storage()._use_count() == storage


def test_the_default_stays_when_torch_is_not_there():
    code = ("import sys, numpy as np, sagegen\nx = np.zeros((1, 1, 5, 64), np.float16)\nsagegen.attention(x, x, x)\n"
            "print('torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


# ---- what runs on a GPU ---------------------------------------------------------------------------


class OnGpu:
    """What attention() asks of a CUDA tensor, in the memory of an emulated device."""
    layout, is_nested, is_quantized = torch.strided, False, False

    def is_neg(self):
        return False

    def __init__(self, device, values):
        self.array = np.ascontiguousarray(values)
        self.dtype = {"float16": torch.float16, "float32": torch.float32, "uint8": torch.uint8, "int32": torch.int32,
                      "bool": torch.bool}[self.array.dtype.name]
        self.shape, self.device, self.on = self.array.shape, torch.device("cuda:0"), device
        self.memory = _core.Memory(device, max(self.array.nbytes, 16))
        self.memory.upload(_core.Tensor(np.ascontiguousarray(np.concatenate([self.array.view(np.uint8).reshape(-1),
                                                                             np.zeros(max(0, 16 - self.array.nbytes), np.uint8)])), "x"))

    def data_ptr(self):
        return self.memory.address

    def stride(self):
        return tuple(stride // self.array.itemsize for stride in self.array.strides)

    def numpy(self):
        self.memory.download(_core.Tensor(self.array.view(np.uint8), "x", True))
        return self.array


@pytest.fixture
def gpu(monkeypatch):
    """cuda:0 is an emulated device, and PyTorch allocates there; what it was asked for is in `asked`."""
    device = _core.Device("emulator:sm_89")
    asked = []

    def empty(shape, dtype, device=None):
        size = (shape,) if isinstance(shape, int) else tuple(shape)
        asked.append((size, dtype, str(device)))
        name = str(dtype).split(".")[1]
        return OnGpu(gpu_device, np.full(size, 255 if name == "uint8" else np.nan, name))

    gpu_device = device
    monkeypatch.setattr(_devices, "_opener", lambda wanted: device)
    monkeypatch.setattr(_devices, "_gpus", {})
    monkeypatch.setattr(_arrays, "kind_of", lambda array: _arrays._TORCH)
    monkeypatch.setattr("sagegen._attention.kind_of", lambda array: _arrays._TORCH)
    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda which: type("Stream", (), {"cuda_stream": 0})())
    monkeypatch.setattr(torch.cuda, "device", lambda which: contextlib.nullcontext())
    return device, asked


def run_on(on, arrays, **options):
    from sagegen._attention import Mods, options_of, run
    defaults = dict(causal=False, align="top-left", scale=None, window=None, softcap=None, layout="HND", mode=None, ptx=None,
                    max_seqlen_q=None, max_seqlen_kv=None)
    rest = {name: options.pop(name) for name in ("return_lse", "device", "cu_seqlens_q", "cu_seqlens_kv") if name in options}
    mods = Mods(**{name: options.pop(name) for name in ("sinks", "mask") if name in options})
    return run(*(OnGpu(on, x) for x in arrays), options_of(**{**defaults, **options}), mods, **rest)


def test_a_gpu_attends_in_place(gpu):
    device, asked = gpu
    q, k, v = qkv(batch=2, heads=4, kv_heads=2)
    o, lse = run_on(device, (q, k, v), causal=True, return_lse=True, sinks=OnGpu(device, np.ones(4, np.float32)))
    want, want_lse = exact(q, k, v, causal=True, sinks=np.ones(4))
    assert relative_l1(o.numpy(), want) < 0.05 and np.abs(lse.numpy() - want_lse).max() < 0.09
    # O, the LSE and the workspace come from the caching allocator, on the tensor's device
    assert [(size, dtype) for size, dtype, _ in asked[:2]] == [(q.shape, torch.float16), (q.shape[:3], torch.float32)]
    assert asked[2][1] == torch.uint8 and len(asked) == 3 and {where for _, _, where in asked} == {"cuda:0"}
    other, _ = run_on(device, tuple(np.ascontiguousarray(x.transpose(0, 2, 1, 3)) for x in (q, k, v)), causal=True, layout="NHD")
    assert relative_l1(other.numpy().transpose(0, 2, 1, 3), exact(q, k, v, causal=True)[0]) < 0.05


@needs_generator
def test_a_gpu_attends_packed_sequences(gpu):
    device, _ = gpu
    q, k, v = (x[0].transpose(1, 0, 2) for x in qkv(q_len=60))
    sums = np.array([0, 25, 60], np.int32)
    with pytest.raises(sagegen.ArgumentError, match="max_seqlen_q is missing"):
        run_on(device, (q, k, v), cu_seqlens_q=OnGpu(device, sums), cu_seqlens_kv=OnGpu(device, sums))
    o, _ = run_on(device, (q, k, v), cu_seqlens_q=OnGpu(device, sums), cu_seqlens_kv=OnGpu(device, sums), max_seqlen_q=35, max_seqlen_kv=35)
    for begin, end in ((0, 25), (25, 60)):
        part = [x[begin:end].transpose(1, 0, 2)[None] for x in (q, k, v)]
        assert relative_l1(o.numpy()[begin:end].transpose(1, 0, 2)[None], exact(*part)[0]) < 0.05


def test_a_gpu_refuses_what_does_not_fit(gpu):
    device, _ = gpu
    q, k, v = qkv()
    with pytest.raises(sagegen.ArgumentError, match="device emulator:sm_89 is refused: q is on cuda:0"):
        run_on(device, (q, k, v), device="emulator:sm_89")
    with pytest.raises(sagegen.DTypeError, match="q is of dtype f32"):
        run_on(device, (q.astype(np.float32), k, v))


def test_other_frameworks_on_a_gpu_give_out(monkeypatch):
    """An array of CuPy's kind: on the default stream, in a workspace of ours, with results of the caller's."""
    device = _core.Device("emulator:sm_89")
    monkeypatch.setattr(_devices, "_opener", lambda wanted: device)
    monkeypatch.setattr(_devices, "_gpus", {})
    import ctypes
    streams, kept = [], []

    class Managed(ctypes.Structure):   # DLManagedTensor of DLPack 0.8
        _fields_ = [("data", ctypes.c_void_p), ("type", ctypes.c_int32), ("id", ctypes.c_int32), ("ndim", ctypes.c_int32),
                    ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16), ("shape", ctypes.POINTER(ctypes.c_int64)),
                    ("strides", ctypes.POINTER(ctypes.c_int64)), ("offset", ctypes.c_uint64), ("context", ctypes.c_void_p),
                    ("deleter", ctypes.c_void_p)]

    class Array(OnGpu):
        def __dlpack_device__(self):
            return 2, 0

        def __dlpack__(self, *, stream=None):
            streams.append(stream)
            axes = len(self.shape)
            managed = Managed(self.data_ptr(), 2, 0, axes, 2, self.array.itemsize * 8, 1, (ctypes.c_int64 * axes)(*self.shape),
                              (ctypes.c_int64 * axes)(*self.stride()), 0, None, None)
            kept.append(managed)
            new = ctypes.pythonapi.PyCapsule_New
            new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
            return new(ctypes.addressof(managed), b"dltensor", None)

    q, k, v = qkv()
    on_gpu = [Array(device, x) for x in (q, k, v)]
    with pytest.raises(sagegen.ArgumentError, match=r"out is missing: on a GPU .* of shape \(1, 2, 70, 64\)"):
        sagegen.attention(*on_gpu)
    out, lse = Array(device, np.zeros_like(q)), Array(device, np.zeros(q.shape[:3], np.float32))
    assert sagegen.attention(*on_gpu, out=out, lse_out=lse) is out
    want, want_lse = exact(q, k, v)
    assert relative_l1(out.numpy(), want) < 0.05 and np.abs(lse.numpy() - want_lse).max() < 0.09
    assert set(streams) == {1}


def test_a_gradient_is_refused_where_torch_does_not_see_the_call():
    q = torch.randn(1, 1, 8, 64, dtype=torch.float16, requires_grad=True)
    k = torch.randn(1, 1, 8, 64, dtype=torch.float16)
    with pytest.raises(sagegen.ArgumentError, match="no gradient"):
        sagegen.attention(q, k, k, device=sagegen.Device("emulator:sm_89"))
    with torch.no_grad():
        sagegen.attention(q, k, k, device=sagegen.Device("emulator:sm_89"))


def test_compiled_calls_take_ptx(tmp_path):
    if not sagegen.info().generator:
        pytest.skip("there is no generator")
    q = torch.randn(1, 1, 8, 64, dtype=torch.float16)
    folder = str(tmp_path)
    call = torch.compile(lambda x: sagegen.attention(x, x, x, ptx=folder), fullgraph=True, backend="aot_eager")
    assert torch.equal(call(q), sagegen.attention(q, q, q))
    with pytest.raises(sagegen.ArgumentError, match="neither a folder nor a file"):
        sagegen.attention(q, q, q, ptx=folder + "/none")
