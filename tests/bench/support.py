"""What the tests of the benchmark share."""
import json
import os
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.dirname(os.path.dirname(HERE))
BENCH = os.path.join(SOURCE, "tools", "bench")
SCRIPT = os.path.join(BENCH, "attention_bench.py")
FAKES = os.path.join(HERE, "contestants")
LIBRARY = os.environ.get("SAGEGEN_LIBRARY", "")   # empty: tests without sagegen's own kernels
sys.path[:0] = [BENCH, HERE]

from attention import contestant, platform, shapes   # noqa: E402

TINY = shapes.square(8, 6, False, heads=2, batch=1)
TINY_CAUSAL = shapes.square(8, 6, True, heads=2, batch=1)
TINY_GQA = shapes.square(8, 6, False, heads=2, kv_heads=1, batch=1)


def fakes(machine=None):
    """(platform, {name: fake contestant}), without the one that is absent."""
    machine = machine or platform.DryPlatform()
    found, _ = contestant.discover([FAKES], machine, {})
    return machine, {one.name.removeprefix("fake ").removeprefix("that ").removeprefix("with "): one
                     for one in found}


class BenchTest(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name

    def path(self, *parts):
        return os.path.join(self.directory, *parts)

    def bench(self, *arguments, code=0):
        """Runs the script; returns (stdout, stderr)."""
        done = subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True,
                              timeout=300, check=False)
        self.assertEqual(done.returncode, code, f"{arguments}\n{done.stdout}\n{done.stderr}")
        return done.stdout, done.stderr

    def json(self, path):
        with open(path, encoding="utf-8") as file:
            return json.load(file)
