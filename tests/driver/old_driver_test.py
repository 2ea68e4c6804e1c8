"""`sagegen` beside a stand-in for the driver of CUDA 12.2 on an Ada GPU, which loads no PTX of sm_89.
Usage: old_driver_test.py SAGEGEN LIBCUDA"""
import json
import os
import subprocess
import sys
import tempfile
import unittest

SAGEGEN, LIBCUDA = sys.argv[1:3]
NOTE = "the driver is of CUDA 12.2 and too old for the PTX of sm_89, which needs CUDA 12.4; kernels of sm_86 are used"


class OldDriver(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        os.symlink(LIBCUDA, os.path.join(directory.name, "libcuda.so.1"))
        self.path = directory.name

    def sagegen(self, *arguments):
        return subprocess.run([SAGEGEN, *arguments], capture_output=True, text=True, check=False, timeout=120,
                              env={**os.environ, "LD_LIBRARY_PATH": self.path, "SAGEGEN_CODE_CACHE": "off"})

    def test_devices(self):
        done = self.sagegen("devices", "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        gpu = json.loads(done.stdout)["devices"][0]
        self.assertEqual((gpu["device"], gpu["compute_capability"], gpu["target"]), ("cuda:0", "8.9", "sm_86"))
        self.assertIn(NOTE, gpu["note"])
        self.assertIn(f"cuda:0: {NOTE}", self.sagegen("devices").stdout)

    def test_run(self):
        # The stand-in executes nothing: what counts is which kernel it is given, and what was said before.
        done = self.sagegen("run", "--device", "cuda", "--q-len", "64")
        self.assertIn(f"cuda:0: {NOTE}", done.stderr)
        self.assertIn("sm86", done.stderr)
        self.assertNotIn("sm89", done.stderr)

    def test_doctor(self):
        done = self.sagegen("doctor", "--json", "--quick")
        self.assertEqual(done.returncode, 0, done.stderr)
        checks = {check["check"]: check for check in json.loads(done.stdout)["checks"]}
        self.assertIn("CUDA 12.2", checks["driver"]["what"])
        self.assertEqual(checks["PTX"]["state"], "missing")
        self.assertEqual(checks["PTX"]["what"], "sm_89 needs CUDA 12.4, sm_120 needs CUDA 12.8")
        self.assertEqual(checks["cuda:0"]["state"], "missing")
        self.assertIn(NOTE, checks["cuda:0"]["advice"])
        # What computes nothing computes wrong numbers.
        done = self.sagegen("doctor", "--json")
        self.assertEqual(done.returncode, 1, done.stderr)
        checks = {check["check"]: check for check in json.loads(done.stdout)["checks"]}
        self.assertEqual(checks["cuda:0, self-test"]["state"], "bad")
        self.assertEqual(checks["emulator:sm_89, self-test"]["state"], "good")

    def test_tune(self):
        with tempfile.TemporaryDirectory() as cache:
            done = self.sagegen("tune", "--device", "cuda", "--q-len", "64", "--heads", "1", "--json", "--model", "off", "--cache", cache)
            self.assertEqual(done.returncode, 1, done.stderr)
            problem, = json.loads(done.stdout)["problems"]
            usual, = problem["schedules"]
            # The stand-in says that a block has 1097 bytes.
            self.assertEqual((usual["schedule"], usual["outcome"]), (problem["default"], "pruned"))
            self.assertIn("the device has 1097", usual["reason"])
            self.assertFalse(os.path.exists(os.path.join(cache, "tuning")))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
