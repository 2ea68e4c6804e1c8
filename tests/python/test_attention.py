"""attention() on NumPy arrays in the emulator, against double precision."""
import gc
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from conftest import LIMITS, exact, needs_generator, normal, qkv, relative_l1

import sagegen


def check(got, want, limit=0.05, lse_limit=0.09):
    (o, lse), (exact_o, exact_lse) = got, want
    assert relative_l1(o, exact_o) < limit
    finite = np.isfinite(exact_lse)
    assert np.array_equal(np.isneginf(lse), ~finite)
    assert np.abs(lse[finite] - exact_lse[finite]).max(initial=0) < lse_limit


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", [dict(q_len=70), dict(batch=2, heads=4, kv_heads=2, q_len=33, kv_len=130), dict(q_len=1, kv_len=70)])
def test_is_attention(shape, causal):
    q, k, v = qkv(**shape)
    o, lse = sagegen.attention(q, k, v, causal=causal, return_lse=True)
    assert (o.shape, o.dtype, lse.shape, lse.dtype) == (q.shape, np.float16, q.shape[:3], np.float32)
    check((o, lse), exact(q, k, v, causal=causal))


def test_without_an_lse_it_is_one_array():
    q, k, v = qkv()
    o = sagegen.attention(q, k, v)
    assert np.array_equal(o, sagegen.attention(q, k, v, return_lse=True)[0])


@pytest.mark.parametrize("device", ["emulator:sm_80", "emulator:sm_86", "emulator:sm_89", "emulator:sm_120"])
def test_devices(device):
    q, k, v = qkv()
    check(sagegen.attention(q, k, v, return_lse=True, device=device), exact(q, k, v))


@pytest.mark.parametrize("mode", [pytest.param(mode, marks=[needs_generator] if mode in ("16bit", "bf16-fp8") else []) for mode in LIMITS])
def test_modes(mode):
    q, k, v = qkv()
    o, lse = sagegen.attention(q, k, v, mode=mode, return_lse=True)
    error = relative_l1(o, exact(q, k, v)[0])
    assert error < LIMITS[mode]
    if mode == "16bit":   # and another mode is not it
        assert error < relative_l1(sagegen.attention(q, k, v, mode="int8-fp16"), exact(q, k, v)[0])


def test_options_behind_a_mode_and_a_key():
    q, k, v = qkv(dim=128)
    k = k + np.float16(8)   # what smoothing is for
    smooth, plain = (relative_l1(sagegen.attention(q, k, v, mode=mode, device="emulator:sm_80"), exact(q, k, v)[0])
                     for mode in ("int8-fp16", "int8-fp16 smoothing=none"))
    assert smooth < 0.5 * plain
    key = "sage_fwd_d128_f16_qk_s8t_g32x64_smk_pv_e4m3_f32x2__q128k64w4s2__sm89"
    assert np.array_equal(sagegen.attention(q, k, v, mode=key), sagegen.attention(q, k, v))


def test_layouts_and_strides_are_the_same_numbers():
    q, k, v = qkv(batch=2, heads=4, kv_heads=2)
    o, lse = sagegen.attention(q, k, v, return_lse=True)
    nhd = [np.ascontiguousarray(x.transpose(0, 2, 1, 3)) for x in (q, k, v)]
    other, other_lse = sagegen.attention(*nhd, layout="NHD", return_lse=True)
    assert other.shape == nhd[0].shape
    assert np.array_equal(other.transpose(0, 2, 1, 3), o) and np.array_equal(other_lse, lse)
    # views: heads and tokens swapped, a part of something wider, one batch for all
    assert np.array_equal(sagegen.attention(*(x.transpose(0, 2, 1, 3) for x in nhd)), o)
    wide = np.zeros((*k.shape[:-1], 200), np.float16)
    wide[..., 20:84] = k
    assert np.array_equal(sagegen.attention(q, wide[..., 20:84], v), o)
    same = np.broadcast_to(k[:1], k.shape)
    assert np.array_equal(sagegen.attention(q, same, v), sagegen.attention(q, same.copy(), v))


@pytest.mark.parametrize("dim,value_dim", [(64, 64), (50, 50), (100, 100), (100, 40)])
def test_channels_are_padded(dim, value_dim):
    if value_dim != dim and not sagegen.info().generator:
        pytest.skip("kernels with two numbers of channels are not embedded")
    q, k, v = qkv(dim=dim, value_dim=value_dim)
    o, lse = sagegen.attention(q, k, v, return_lse=True)
    assert o.shape == (*q.shape[:-1], value_dim)
    check((o, lse), exact(q, k, v))


def test_windows_that_are_embedded():
    q, k, v = qkv(q_len=150)
    check(sagegen.attention(q, k, v, causal=True, window=(20, None), return_lse=True), exact(q, k, v, causal=True, window=(20, -1)))
    left = sagegen.attention(q, k, v, window=(20, 0))
    assert np.array_equal(left, sagegen.attention(q, k, v, causal=True, window=(20, 5)))
    assert np.array_equal(sagegen.attention(q, k, v, window=(None, 0)), sagegen.attention(q, k, v, causal=True))
    assert np.array_equal(sagegen.attention(q, k, v, window=(None, None)), sagegen.attention(q, k, v))


def test_sinks_that_are_embedded_and_alignment():
    q, k, v = qkv(q_len=40, kv_len=100)
    sinks = np.array([0.5, 3.0], np.float32)
    check(sagegen.attention(q, k, v, causal=True, sinks=sinks, align="bottom-right", return_lse=True),
          exact(q, k, v, causal=True, sinks=sinks, bottom_right=True))
    k, v = k[:, :, :10], v[:, :, :10]   # the first 30 queries see nothing
    check(sagegen.attention(q, k, v, causal=True, align="bottom-right", return_lse=True), exact(q, k, v, causal=True, bottom_right=True))


@needs_generator
@pytest.mark.parametrize("mods", ["softcap", "alibi", "bias", "mask", "bias of keys", "window"])
def test_masks_and_biases(mods):
    q, k, v = qkv(batch=2, q_len=70, kv_len=90)
    rng = np.random.default_rng(5)
    given = {"softcap": dict(softcap=2.0), "alibi": dict(alibi=np.array([0.1, 0.5], np.float32)),
             "bias": dict(bias=rng.standard_normal((2, 2, 70, 90)).astype(np.float16)),
             "mask": dict(mask=rng.random((2, 1, 70, 90)) < 0.5), "bias of keys": dict(bias=rng.standard_normal(90).astype(np.float16)),
             "window": dict(window=(10, 20))}[mods]
    check(sagegen.attention(q, k, v, return_lse=True, **given), exact(q, k, v, **given))


@needs_generator
def test_packed_sequences_are_batches_of_their_own():
    lengths, kv_lengths = [20, 0, 45], [31, 7, 45]
    sums, kv_sums = (np.cumsum([0, *each]).astype(np.int32) for each in (lengths, kv_lengths))
    q, k, v = normal(65, 4, 64, seed=1), normal(83, 2, 64, seed=2), normal(83, 2, 64, seed=3)
    o, lse = sagegen.attention(q, k, v, causal=True, cu_seqlens_q=sums, cu_seqlens_kv=kv_sums, return_lse=True)
    assert o.shape == q.shape and lse.shape == (4, 65)
    for b, (begin, end) in enumerate(zip(sums, sums[1:])):
        if begin == end:
            continue
        part = [x.transpose(1, 0, 2)[None] for x in (q[begin:end], k[kv_sums[b]:kv_sums[b + 1]], v[kv_sums[b]:kv_sums[b + 1]])]
        check((o[begin:end].transpose(1, 0, 2)[None], lse[None, :, begin:end]), exact(*part, causal=True))
    varlen = sagegen.sageattn_varlen(q, k, v, sums, kv_sums, 45, 45, is_causal=True)
    assert np.array_equal(varlen, o)


def test_bfloat16_of_numpy():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    q, k, v = qkv(dtype=ml_dtypes.bfloat16)
    o, lse = sagegen.attention(q, k, v, return_lse=True)
    assert o.dtype == ml_dtypes.bfloat16
    check((o, lse), exact(q, k, v))
    with pytest.raises(sagegen.DTypeError, match="q is of dtype f16 and v of bf16"):
        sagegen.attention(*(x.astype(np.float16) for x in (q, k)), v)


def test_results_in_arrays_of_the_callers():
    q, k, v = qkv()
    want, want_lse = sagegen.attention(q, k, v, return_lse=True)
    out = np.zeros((*q.shape[:-1], 100), np.float16)[..., 10:74]
    lse = np.zeros(q.shape[:3], np.float32)
    assert sagegen.attention(q, k, v, out=out, lse_out=lse) is out
    assert np.array_equal(out, want) and np.array_equal(lse, want_lse)
    assert not out.base[..., :10].any() and not out.base[..., 74:].any()
    assert sagegen.attention(q, k, v, out=q) is q and np.array_equal(q, want)   # inputs are copied first


def test_nothing_to_do():
    q, k, v = qkv()
    assert sagegen.attention(q[:, :, :0], k, v).shape == (1, 2, 0, 64)
    o, lse = sagegen.attention(q[:0], k[:0], v[:0], return_lse=True)
    assert o.shape == (0, 2, 70, 64) and lse.shape == (0, 2, 70)
    with pytest.raises(sagegen.ArgumentError, match="k and v have no tokens"):
        sagegen.attention(q, k[:, :, :0], v[:, :, :0])


REFUSED = {
    "dtype": (lambda q, k, v: dict(q=q.astype(np.float32)), sagegen.DTypeError, "q is of dtype f32; there are kernels for float16"),
    "dtypes differ": (lambda q, k, v: dict(k=k.astype(np.float64)), TypeError, "k is of dtype f64"),
    "complex": (lambda q, k, v: dict(q=q.astype(np.complex64)), TypeError, "q is of complex64"),
    "big-endian": (lambda q, k, v: dict(q=q.astype(">f2")), TypeError, "big-endian"),
    "axes": (lambda q, k, v: dict(q=q[0]), ValueError, "q has 3 axes"),
    "batch": (lambda q, k, v: dict(k=np.concatenate([k, k])), ValueError, "q has a batch of 1, k of 2"),
    "heads": (lambda q, k, v: dict(k=np.concatenate([k] * 2, axis=1)), ValueError, "k has 4 heads and v 2"),
    "group": (lambda q, k, v: dict(q=q[:, :1]), ValueError, "q has 1 heads and k 2; those of k divide"),
    "tokens": (lambda q, k, v: dict(k=k[:, :, :3]), ValueError, "k has 3 tokens and v 70"),
    "channels": (lambda q, k, v: dict(k=k[..., :32]), ValueError, "q has 64 channels and k 32"),
    "channel stride": (lambda q, k, v: dict(v=v[..., ::2], q=q[..., :32], k=k[..., :32]), ValueError, "v: the stride of its last axis, the channels, is 2"),
    "negative stride": (lambda q, k, v: dict(q=q[:, :, ::-1]), ValueError, "q: the stride of axis 2 is -64"),
    "no array": (lambda q, k, v: dict(q=[1, 2]), TypeError, "q is a list and k a ndarray|they are of one kind"),
    "scale": (lambda q, k, v: dict(scale=-1.0), ValueError, "scale -1.0 is refused"),
    "softcap": (lambda q, k, v: dict(softcap=0.0), ValueError, "softcap 0.0 is refused"),
    "layout": (lambda q, k, v: dict(layout="bhnd"), ValueError, "layout 'BHND' is refused: there are 'HND', 'NHD'"),
    "align": (lambda q, k, v: dict(align="left"), ValueError, "align 'left' is refused"),
    "causal": (lambda q, k, v: dict(causal="yes"), TypeError, "causal 'yes' is refused"),
    "window": (lambda q, k, v: dict(window=5), TypeError, "window 5 is refused"),
    "mode": (lambda q, k, v: dict(mode="int3-fp8"), sagegen.SpecError, '"int3-fp8" is unknown; there are int8-fp8'),
    "mode of the device": (lambda q, k, v: dict(mode="int8-fp8", device="emulator:sm_80"), sagegen.SpecError, "no FP8"),
    "device": (lambda q, k, v: dict(device="tpu:0"), ValueError, 'device "tpu:0": there are cuda:N and emulator:PROFILE'),
    "profile": (lambda q, k, v: dict(device="emulator:sm_70"), ValueError, "the emulator has the profiles sm_80"),
    "sinks' shape": (lambda q, k, v: dict(sinks=np.zeros(3, np.float32), causal=True), ValueError, r"sinks has the shape \(3,\)"),
    "sinks' dtype": (lambda q, k, v: dict(sinks=np.zeros(2), causal=True), TypeError, "sinks is of dtype f64"),
    "out's shape": (lambda q, k, v: dict(out=np.zeros((1, 2, 70, 32), np.float16)), ValueError, "out has the shape"),
    "out's dtype": (lambda q, k, v: dict(out=np.zeros(q.shape, np.float32)), TypeError, "out is of dtype f32"),
    "one of the sums": (lambda q, k, v: dict(cu_seqlens_q=np.zeros(2, np.int32)), ValueError, "given together"),
    "kernel of another dtype": (lambda q, k, v: dict(mode="sage_fwd_d64_bf16_qk_s8t_g32x64_smk_pv_e4m3_f32x2__q128k64w4s2__sm89"), TypeError,
                                "q is of f16, and the kernel"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_in_the_callers_words(what):
    make, error, text = REFUSED[what]
    q, k, v = qkv()
    with pytest.raises(error, match=text) as raised:
        sagegen.attention(**{"q": q, "k": k, "v": v, **make(q, k, v)})
    assert isinstance(raised.value, sagegen.Error)


@needs_generator
def test_refused_masks():
    q, k, v = qkv()
    with pytest.raises(sagegen.DTypeError, match="mask is of dtype f16"):
        sagegen.attention(q, k, v, mask=np.ones((70, 70), np.float16))
    with pytest.raises(sagegen.ArgumentError, match="bias has the shape .* does not broadcast to"):
        sagegen.attention(q, k, v, bias=np.ones((71, 70), np.float16))


def test_no_gpu_is_told():
    if sagegen.info().gpus:
        pytest.skip("this machine has a GPU")
    with pytest.raises(sagegen.DriverError, match='"emulator:sm_89" needs no GPU'):
        sagegen.attention(*qkv(), device="cuda:0")


def test_read_only_and_versioned_and_old_capsules():
    q, k, v = qkv()
    want = sagegen.attention(q, k, v)
    for x in (q, k, v):
        x.flags.writeable = False
    assert np.array_equal(sagegen.attention(q, k, v), want)
    with pytest.raises(sagegen.ArgumentError, match="out is read-only"):
        sagegen.attention(q, k, v, out=q)

    class Old:   # an exporter of before DLPack 1.0
        def __init__(self, array):
            self.array = array

        def __dlpack__(self, stream=None):
            return self.array.__dlpack__()

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

    class New(Old):
        def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
            return self.array.__dlpack__(max_version=(1, 0))

    for x in (q, k, v):
        x.flags.writeable = True
    for wrap in (Old, New):
        got = sagegen.attention(wrap(q), wrap(k), wrap(v))
        assert isinstance(got, np.ndarray) and np.array_equal(got, want)
    with pytest.raises(sagegen.ArgumentError, match="q is a str, which speaks neither DLPack nor"):
        sagegen.attention("q", "k", "v")


def test_arrays_are_given_back():
    q, k, v = qkv(q_len=3, heads=1)
    before = [sys.getrefcount(x) for x in (q, k, v)]
    o = sagegen.attention(q, k, v)
    with pytest.raises(sagegen.ArgumentError):
        sagegen.attention(q, k, v[:, :, :1])
    gc.collect()
    assert [sys.getrefcount(x) for x in (q, k, v)] == before and sys.getrefcount(o) == 2


def resident():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_no_memory_is_lost():
    q, k, v = qkv(q_len=16, heads=1)
    fast = sagegen.Device("emulator:sm_89", checks=False, threads=1)
    for _ in range(50):
        sagegen.attention(q, k, v, device=fast)
    before = resident()
    for _ in range(1000):
        sagegen.attention(q, k, v, device=fast)
    # An array of a call is 2 KiB: one that is lost each time is 2 MB.
    assert resident() - before < 1 << 20


def test_threads():
    inputs = [qkv(q_len=length) for length in (5, 40, 70, 100)]
    want = [sagegen.attention(*each, causal=True) for each in inputs]
    wrong, done = [], []

    def work(number):
        for turn in range(4):
            index = (number + turn) % len(inputs)
            if not np.array_equal(sagegen.attention(*inputs[index], causal=True), want[index]):
                wrong.append((number, turn))
        done.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(done) == 6


INTERRUPTED = """
import os, signal, threading
import numpy as np, sagegen
spin = '''.version 8.0
.target sm_80
.address_size 64
.visible .entry spin()
{
  .reg .b32 %r;
  .reg .pred %p;
  mov.u32 %r, 0;
LOOP:
  add.u32 %r, %r, 1;
  setp.lt.u32 %p, %r, 1000000;
  @%p bra LOOP;
  ret;
}
'''
emulator = sagegen.Emulator("sm_80")
begins = threading.Event()

def interrupt():   # a thread of Python, which needs the GIL while the other one is in its launch
    begins.wait()
    threading.Event().wait(0.5)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt).start()
try:
    begins.set()
    emulator.run(spin, grid=100000, block=32, args=[])   # more than an hour
except KeyboardInterrupt:
    assert emulator.run(spin, grid=1, block=32, args=[]).warp_instructions > 3000000   # and it goes on as ever
    print("interrupted")
"""


def test_ctrl_c_ends_a_launch_and_the_gil_is_released():
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "interrupted\n", done.stderr
    assert done.returncode == 0


def test_import_brings_no_framework():
    code = "import sys, sagegen; print([name for name in ('torch', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_signals_of_the_process_are_left_alone():
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_a_kernel_needs_is_no_word_of_its_mode():
    q = np.ones((1, 1, 8, 64), np.float16)
    with pytest.raises(sagegen.SpecError, match="needs causal, which the call does not give"):
        sagegen.attention(q, q, q, mode="int8-fp8 causal")


def test_a_mask_without_axes_and_a_path():
    import pathlib
    rng = np.random.default_rng(1)
    q, k, v = (rng.standard_normal((1, 1, 8, 64)).astype(np.float16) for _ in range(3))
    if not sagegen.info().generator:
        pytest.skip("kernels with masks are not embedded")
    assert np.array_equal(sagegen.attention(q, k, v, mask=np.array(True)), sagegen.attention(q, k, v, mask=np.ones((8, 8), bool)))
    with pytest.raises(sagegen.ArgumentError, match="neither a folder nor a file"):
        sagegen.attention(q, k, v, ptx=pathlib.Path("/nonexistent/ptx"))
