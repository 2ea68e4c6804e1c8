"""Kernels as values, PTX in the emulator, what the package says of itself."""
import os
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import has_generator, needs_generator, qkv

import sagegen

KEY = "sage_fwd_d64_f16_qk_s8t_g32x64_smk_pv_e4m3_f32x2__q128k64w4s2__sm89"

SCALE = """.version 8.0
.target sm_80
.address_size 64
.visible .entry scale(.param .u64 x, .param .u64 y, .param .u32 n, .param .f32 by)
{
  .reg .b32 %r<6>;
  .reg .b64 %d<6>;
  .reg .f32 %f<4>;
  .reg .pred %p;
  ld.param.u64 %d0, [x];
  ld.param.u64 %d1, [y];
  ld.param.u32 %r0, [n];
  ld.param.f32 %f0, [by];
  mov.u32 %r1, %ctaid.x;
  mov.u32 %r2, %ntid.x;
  mov.u32 %r3, %tid.x;
  mad.lo.u32 %r4, %r1, %r2, %r3;
  setp.ge.u32 %p, %r4, %r0;
  @%p bra END;
  mul.wide.u32 %d2, %r4, 4;
  add.u64 %d3, %d0, %d2;
  add.u64 %d4, %d1, %d2;
  ld.global.f32 %f1, [%d3];
  mul.f32 %f2, %f1, %f0;
  st.global.f32 [%d4], %f2;
END:
  ret;
}
"""


def test_embedded_kernels():
    everything = sagegen.kernels()
    assert len(everything) == sagegen.info().embedded_kernels and KEY in everything
    some = sagegen.kernels("sm_89", "attention")
    assert KEY in some and all(key.startswith("sage_fwd_") and key.endswith("sm89") for key in some)
    with pytest.raises(sagegen.ArgumentError, match="there are 'sm_80'"):
        sagegen.kernels("sm_75")


def test_a_kernel_is_a_value():
    kernel = sagegen.load(KEY)
    assert kernel.entry == KEY and f".entry {KEY}" in kernel.ptx and kernel.origin == "embedded"
    assert kernel.target == "sm_89" and "head_dim=64" in kernel.options and kernel.resources["threads"] == 128
    assert kernel.inputs and all(key in sagegen.kernels() for key in kernel.inputs)
    assert "scale" in kernel.describe()
    assert kernel == sagegen.load("head_dim=64", "sm_89") and len({kernel, sagegen.load(KEY)}) == 1
    assert "ptx" not in repr(kernel)


def test_errors_of_kernels():
    with pytest.raises(sagegen.SpecError, match="head_dim 100 is refused"):
        sagegen.load("head_dim=100")
    with pytest.raises(sagegen.ArgumentError, match="target sm_80 is refused: the key is of sm_89"):
        sagegen.load(KEY, "sm_80")
    with pytest.raises(sagegen.SpecError, match="unknown"):
        sagegen.load("int7")
    error = pickle.loads(pickle.dumps(sagegen.DriverError("text", 2, "cuMemAlloc")))
    assert (str(error), error.result, error.call) == ("text", 2, "cuMemAlloc")


@needs_generator
def test_emit_makes_what_is_embedded():
    assert sagegen.load(KEY).ptx.endswith(sagegen.emit(KEY).ptx)   # behind a head that says where it is from
    assert sagegen.emit("int8-fp16 head_dim=96 causal", "sm_86").target == "sm_86"
    assert [title for title, _ in sagegen.trace(KEY)][-1].lower().find("ptx") >= 0
    assert ".loc" in sagegen.emit(KEY, line_info=True).ptx


@pytest.mark.skipif(has_generator(), reason="this build has the generator")
def test_without_the_generator_it_is_said_how_to_get_it():
    for call in (sagegen.emit, sagegen.trace):
        with pytest.raises(sagegen.GeneratorMissing, match="SAGEGEN_GENERATOR=ON"):
            call(KEY)
    with pytest.raises(sagegen.SpecError, match="SAGEGEN_GENERATOR=ON"):
        sagegen.attention(*qkv(), softcap=3.0)


def test_ptx_of_a_folder(tmp_path):
    """A kernel that counts 2 for 1: what lies in the folder is what runs."""
    q, k, v = qkv()
    usual = sagegen.attention(q, k, v)
    kernel = sagegen.load(KEY)
    changed, count = re.subn(r"ex2\.approx\.ftz\.f32\s+(%\w+), (%\w+);", r"mov.f32 \1, 0f3F800000;", kernel.ptx)
    assert count > 0
    (tmp_path / f"{KEY}.ptx").write_text(changed)
    assert not np.array_equal(sagegen.attention(q, k, v, ptx=str(tmp_path)), usual)
    assert np.array_equal(sagegen.attention(q, k, v), usual)
    (tmp_path / "bundle").write_bytes(b"no bundle")
    with pytest.raises(sagegen.ArtifactError, match="bundle"):
        sagegen.attention(q, k, v, ptx=str(tmp_path / "bundle"))
    with pytest.raises(sagegen.ArgumentError, match="nowhere is neither a folder nor a file"):
        sagegen.attention(q, k, v, ptx=str(tmp_path / "nowhere"))


def test_the_emulator_runs_ptx():
    x, y = np.arange(1000, dtype=np.float32), np.zeros(1000, np.float32)
    launch = sagegen.Emulator("sm_80").run(SCALE, 4, 256, [x, y, 1000, 0.5])
    assert np.array_equal(y, x / 2) and launch.entry == "scale" and launch.warp_instructions > 32 * 10
    x.flags.writeable = False
    again = np.zeros((1000, 2), np.float32)[:, 0]   # with strides
    sagegen.Emulator("sm_80").run(SCALE, (4, 1, 1), (256,), [x, again, np.int64(1000), np.float32(2)])
    assert np.array_equal(again, 2 * x)
    same = np.ones(8, np.float32)
    sagegen.Emulator().run(SCALE, 1, 32, [same, same, 8, 3.0])
    assert np.array_equal(same, np.full(8, 3, np.float32))


def test_findings_name_the_line():
    x, y = np.ones(10, np.float32), np.zeros(10, np.float32)
    emulator = sagegen.Emulator("sm_80")
    with pytest.raises(sagegen.FindingsError, match="out-of-bounds") as raised:
        emulator.run(SCALE, 1, 32, [x, y, 20, 2.0])
    finding = raised.value.findings[0]
    assert finding.check == "out-of-bounds" and "ld.global.f32" in SCALE.splitlines()[finding.ptx_line - 1]
    assert finding.kernel == "scale" and finding.cta == (0, 0, 0) and finding.lane == 10
    assert not y.any()
    emulator.run(SCALE, 1, 32, [x, y, 10, 2.0])   # what was found is told once
    assert np.array_equal(y, 2 * x)


@pytest.mark.parametrize("arguments,text", [
    (lambda x: [x, x, 10], "scale takes 4 arguments .* and is given 3"),
    (lambda x: [x, x, 2.5, 1.0], "n is of .u32, and is given 2.5"),
    (lambda x: [x, x, 1 << 40, 1.0], "n is of .u32, which 1099511627776 does not fit"),
    (lambda x: [x, x, x, 1.0], "n is a ndarray, and the parameter is of 4 bytes"),
    (lambda x: [x, x, b"12", 1.0], "parameter n takes 4 bytes, and is given 2")])
def test_arguments_that_do_not_fit(arguments, text):
    with pytest.raises(sagegen.ArgumentError, match=text):
        sagegen.Emulator().run(SCALE, 1, 32, arguments(np.zeros(10, np.float32)))


def test_sizes_that_do_not_fit():
    x = np.zeros(10, np.float32)
    for grid, block in ((0, 32), ((1, 2, 3, 4), 32), (1, -1)):
        with pytest.raises(sagegen.ArgumentError, match="is refused"):
            sagegen.Emulator().run(SCALE, grid, block, [x, x, 10, 1.0])
    with pytest.raises(sagegen.SpecError, match="no_such"):
        sagegen.Emulator().run(SCALE, 1, 32, [x, x, 10, 1.0], entry="no_such")
    with pytest.raises(sagegen.ArgumentError, match="schedule 'best' is refused: there are 'round_robin'"):
        sagegen.Emulator(schedule="best")


def test_the_package_is_typed(tmp_path):
    import os
    pytest.importorskip("mypy", reason="there is no mypy")
    package = os.path.dirname(sagegen.__file__)
    assert os.path.exists(os.path.join(package, "py.typed")) and os.path.exists(os.path.join(package, "_core.pyi"))
    # Without PyTorch's own types, which take most of a minute to read.
    config = tmp_path / "mypy.ini"
    config.write_text("[mypy]\nstrict = true\n[mypy-torch.*]\nfollow_imports = skip\nignore_missing_imports = true\n"
                      "[mypy-sagegen._torch]\ndisallow_untyped_decorators = false\n")
    done = subprocess.run([sys.executable, "-m", "mypy", "--config-file", config, "--cache-dir", os.devnull, package],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@needs_generator
def test_tune_keeps_the_fastest_schedule_and_goes_on_where_it_was(tmp_path):
    arguments = {"heads": 1, "q_len": 40, "device": "emulator:sm_80", "database": tmp_path / "tuning"}
    tuned = sagegen.tune("head_dim=32", **arguments)
    assert tuned.unit == "instructions" and tuned.shape_class == "h1g1q64k64"
    assert 0 < tuned.time <= tuned.default_time and tuned.failures == {}
    assert (tuned.schedule == tuned.default) == (tuned.time > 0.98 * tuned.default_time)
    assert os.path.dirname(tuned.stored) == str(tmp_path / "tuning")
    again = sagegen.tune("head_dim=32", **arguments)
    assert again == tuned


@needs_generator
def test_tune_refuses_what_it_cannot_time(tmp_path):
    arguments = {"heads": 2, "q_len": 40, "database": tmp_path / "tuning"}
    with pytest.raises(sagegen.ArgumentError, match="bias.data"):
        sagegen.tune("head_dim=32 bias=true", **arguments)
    with pytest.raises(sagegen.ArgumentError, match="deployment"):
        sagegen.tune("head_dim=32", **arguments, deployment="lazy")
    with pytest.raises(sagegen.ArgumentError, match="kv_heads"):
        sagegen.tune("head_dim=32", **arguments, kv_heads=3)
    with pytest.raises(sagegen.ArgumentError, match="q_len 0 is refused"):
        sagegen.tune("head_dim=32", heads=1, q_len=0)
