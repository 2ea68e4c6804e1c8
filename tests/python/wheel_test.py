"""The wheel that tools/portable_library.sh makes: what is in it, how large it is, what it asks of a machine; installed in a
fresh environment, where it attends in the emulator. And the sdist, which has all that the wheel was made of.
Usage: wheel_test.py SOURCES PORTABLE WORK, PORTABLE being the folder that the script builds into"""
import glob
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import unittest
import zipfile

SOURCES, PORTABLE, WORK = map(os.path.realpath, sys.argv[1:4])
LARGEST = 6_000_000   # bytes, with all embedded kernels and the emulator
NEWEST_GLIBC = (2, 28)

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


def build():
    """Runs the script; where it lacks something, this test ends with 77, too."""
    if importlib.util.find_spec("numpy") is None:
        print(f"skipped: {sys.executable} has no numpy")
        sys.exit(77)
    done = subprocess.run([os.path.join(SOURCES, "tools", "portable_library.sh"), "--no-install", "--into", PORTABLE,
                           "--wheel", sys.executable], stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        print(done.stdout)
        sys.exit(done.returncode)


class Wheel(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        (cls.wheel,) = glob.glob(os.path.join(PORTABLE, "wheel", "*.whl"))
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

    def test_is_for_old_machines(self):
        tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
        tag = f"{tag}-{tag}{sys.abiflags}-manylinux_{NEWEST_GLIBC[0]}_{NEWEST_GLIBC[1]}_x86_64"
        self.assertRegex(os.path.basename(self.wheel), rf"^sagegen-[\d.]+-{tag}\.whl$")
        (told,) = glob.glob(os.path.join(WORK, "contents", "sagegen-*.dist-info", "WHEEL"))
        with open(told, encoding="utf-8") as file:
            self.assertEqual(re.findall(r"^Tag: (.*)$", file.read(), flags=re.MULTILINE), [tag])

    def test_is_small(self):
        self.assertLess(os.path.getsize(self.wheel), LARGEST)
        self.assertGreater(os.path.getsize(self.wheel), 1_000_000, "without kernels")

    def test_needs_the_c_library_alone(self):
        needed = re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-dW", self.module()))
        for name in needed:
            self.assertRegex(name, r"^(lib(c|m|dl|pthread)\.so\.\d|ld-linux.*)$")
        versions = re.findall(r"@GLIBC_([0-9.]+)", run("readelf", "--dyn-syms", "-W", self.module()))
        self.assertTrue(versions)
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


class Sdist(unittest.TestCase):
    """Nothing is compiled: what was read of the sources to make the wheel is there, byte for byte."""

    @classmethod
    def setUpClass(cls):
        hook = "import sys; from scikit_build_core import build; build.build_sdist(sys.argv[1])"
        run(sys.executable, "-c", hook, WORK, cwd=SOURCES)
        (cls.archive,) = glob.glob(os.path.join(WORK, "sagegen-*.tar.gz"))
        with tarfile.open(cls.archive) as sdist:
            sdist.extractall(WORK)
        cls.root = cls.archive.removesuffix(".tar.gz")

    def read_by_the_build(self):
        """Files below SOURCES: CMake's, those of the targets, and the headers that the compiler found."""
        tree = os.path.join(PORTABLE, "build")
        told = [run("ninja", "-C", tree, "-t", "inputs", target) for target in ("build.ninja", "python/sagegen/_core.pyi")]
        told.append(run("ninja", "-C", tree, "-t", "deps"))
        paths = {os.path.realpath(os.path.join(tree, line.strip())) for text in told for line in text.splitlines()}
        names = {os.path.relpath(path, SOURCES) for path in paths if os.path.isfile(path) and not path.startswith(PORTABLE + os.sep)}
        return {name for name in names if not name.startswith(("..", "build"))}   # the compiler is in build, too

    def test_has_all_that_the_wheel_is_made_of(self):
        wanted = self.read_by_the_build()
        some = {"CMakeLists.txt", "cmake/EmbedPtx.cmake", "generated/kernels.bundle", "runtime/python/exports.map",
                "runtime/python/src/module.cpp", "templates/include/sagegen/attention.h"}
        self.assertEqual(some - wanted, set(), "what the build has read is not known")
        wanted |= {"pyproject.toml"} | {f"runtime/python/sagegen/{name}"
                                        for name in os.listdir(os.path.join(SOURCES, "runtime", "python", "sagegen"))}
        for name in sorted(wanted):
            if os.path.isdir(os.path.join(SOURCES, name)):   # __pycache__
                continue
            there = os.path.join(self.root, name)
            self.assertTrue(os.path.exists(there), f"the sdist lacks {name}")
            with open(os.path.join(SOURCES, name), "rb") as source, open(there, "rb") as packed:
                self.assertEqual(source.read(), packed.read(), name)

    def test_describes_itself(self):
        hook = "import sys; from scikit_build_core import build; build.prepare_metadata_for_build_wheel(sys.argv[1])"
        run(sys.executable, "-c", hook, WORK, cwd=self.root)
        (metadata,) = glob.glob(os.path.join(WORK, "sagegen-*.dist-info", "METADATA"))
        with open(metadata, encoding="utf-8") as file, open(os.path.join(SOURCES, "docs", "python.md"), encoding="utf-8") as page:
            self.assertTrue(file.read().endswith(page.read()))

    def test_has_neither_tests_nor_tools(self):
        self.assertEqual({name for name in os.listdir(self.root) if name in ("tests", "tools", "examples", "build", ".ci")}, set())
        self.assertLess(os.path.getsize(self.archive), LARGEST)


if __name__ == "__main__":
    build()
    shutil.rmtree(WORK, ignore_errors=True)
    os.makedirs(WORK)
    unittest.main(argv=sys.argv[:1], verbosity=2)
