"""The wheel, as pip makes it of the sources: what is in it, how large it is, what it asks of a machine; installed in a fresh
environment, where it attends in the emulator. Usage: wheel_test.py SOURCES WORK"""
import glob
import os
import re
import shutil
import subprocess
import sys
import unittest
import zipfile

SOURCES, WORK = sys.argv[1:3]
LARGEST = 6_000_000   # bytes, with all embedded kernels and the emulator
# The newest that the unwinder of g++ 12 asks for; an older machine needs a build against its C library.
NEWEST_GLIBC = (2, 35)

ATTEND = """
import numpy as np, sagegen
q, k, v = (np.random.default_rng(seed).standard_normal((1, 2, 70, 64)).astype(np.float16) for seed in range(3))
o, lse = sagegen.attention(q, k, v, return_lse=True)
scores = q.astype(np.float64) @ k.astype(np.float64).transpose(0, 1, 3, 2) / 8
weights = np.exp(scores - scores.max(-1, keepdims=True))
exact = weights / weights.sum(-1, keepdims=True) @ v.astype(np.float64)
assert np.abs(o - exact).sum() < 0.05 * np.abs(exact).sum()
assert np.abs(lse - np.log(np.exp(scores).sum(-1))).max() < 0.09
try:
    sagegen.emit("head_dim=64")
except sagegen.GeneratorMissing as error:
    assert "SAGEGEN_GENERATOR=ON" in str(error)
else:
    raise SystemExit("a generator that nobody asked for")
print(sagegen.__version__, sagegen.__file__)
"""


def run(*command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)
    if done.returncode:
        raise AssertionError(f"{command}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def missing():
    import importlib.util
    return [name for name in ("numpy", "nanobind", "scikit_build_core") if importlib.util.find_spec(name) is None]


class Wheel(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        shutil.rmtree(WORK, ignore_errors=True)
        os.makedirs(WORK)
        run(sys.executable, "-m", "pip", "wheel", SOURCES, "--no-build-isolation", "--no-deps", "--no-index", "--quiet",
            "--disable-pip-version-check", "--wheel-dir", os.path.join(WORK, "wheels"))
        (cls.wheel,) = glob.glob(os.path.join(WORK, "wheels", "sagegen-*.whl"))
        with zipfile.ZipFile(cls.wheel) as wheel:
            cls.names = wheel.namelist()
            wheel.extractall(os.path.join(WORK, "contents"))

    def module(self):
        (module,) = glob.glob(os.path.join(WORK, "contents", "sagegen", "_core*.so"))
        return module

    def test_has_the_package_and_nothing_else(self):
        self.assertEqual({name.split("/")[0] for name in self.names if not name.split("/")[0].endswith(".dist-info")}, {"sagegen"})
        inside = {name.split("/", 1)[1] for name in self.names if name.startswith("sagegen/")}
        source = {name for name in os.listdir(os.path.join(SOURCES, "runtime", "python", "sagegen")) if name.endswith(".py")}
        self.assertEqual(inside - {name for name in inside if re.match(r"_core.*\.so", name)}, source | {"py.typed", "_core.pyi"})

    def test_is_small(self):
        self.assertLess(os.path.getsize(self.wheel), LARGEST)
        self.assertGreater(os.path.getsize(self.wheel), 1_000_000, "without kernels")

    def test_needs_the_c_library_alone(self):
        needed = re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-dW", self.module()))
        for name in needed:
            self.assertRegex(name, r"^(lib(c|m|dl|pthread)\.so\.\d|ld-linux.*)$")
        versions = re.findall(r"@GLIBC_([0-9.]+)", run("readelf", "--dyn-syms", "-W", self.module()))
        self.assertTrue(versions)
        host = os.confstr("CS_GNU_LIBC_VERSION").split()[1]
        if tuple(map(int, host.split("."))) <= (2, 36):   # a newer C library gives newer versions to old functions
            self.assertLessEqual(max(tuple(map(int, version.split("."))) for version in versions), NEWEST_GLIBC)

    def test_exports_its_entry_alone(self):
        symbols = [line.split() for line in run("readelf", "--dyn-syms", "-W", self.module()).splitlines()]
        exported = {row[7] for row in symbols if len(row) >= 8 and row[4] in ("GLOBAL", "WEAK") and row[6] != "UND"}
        self.assertEqual(exported, {"PyInit__core"})

    def test_runs_where_it_is_installed(self):
        fresh = os.path.join(WORK, "fresh")
        run(sys.executable, "-m", "venv", fresh)
        python = os.path.join(fresh, "bin", "python")
        run(python, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--disable-pip-version-check", self.wheel)
        import numpy
        site = os.path.dirname(os.path.dirname(numpy.__file__))
        numpys = os.path.join(WORK, "numpy")
        os.makedirs(numpys)
        for name in ("numpy", "numpy.libs"):
            if os.path.exists(os.path.join(site, name)):
                os.symlink(os.path.join(site, name), os.path.join(numpys, name))
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        told = run(python, "-c", ATTEND, env={**environment, "PYTHONPATH": numpys}, cwd=WORK)
        self.assertIn(os.path.join(os.path.realpath(fresh), ""), os.path.realpath(told.split()[1]))


if __name__ == "__main__":
    if missing():
        print(f"skipped: {sys.executable} has no {', '.join(missing())}")
        sys.exit(77)
    unittest.main(argv=sys.argv[:1], verbosity=2)
