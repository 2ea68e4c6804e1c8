"""tools/install_ptxas.sh, with a package index that is a fake; and CI, which goes on without it."""
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

from support import fake_program
import zipfile

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
SCRIPT = os.path.join(ROOT, "tools", "install_ptxas.sh")
REAL = ("bash", "cat", "chmod", "dirname", "mkdir", "mktemp", "mv", "rm", "sed")
WORKS = "#!/bin/sh\necho release 13.0, V13.0.88\n"


class InstallPtxas(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.bin, self.temporary, self.calls, self.wheel, self.folder = (
            os.path.join(directory.name, part) for part in ("bin", "tmp", "calls", "x.whl", "into"))
        os.mkdir(self.bin)
        os.mkdir(self.temporary)
        for name in REAL:
            os.symlink(shutil.which(name), os.path.join(self.bin, name))
        # pip puts the wheel into the folder after --dest; all else is for the real python.
        self.fake("python3", 'if [ "$1 $2" != "-m pip" ]; then exec ' + sys.executable + ' "$@"; fi\n'
                             'while [ "$1" != --dest ]; do shift; done\n'
                             f'if [ -e {self.wheel} ]; then cat {self.wheel} >"$2/x.whl"; else echo no network; exit 1; fi')
        self.pack({"nvidia/cu13/bin/ptxas": WORKS, "x.dist-info/License.txt": "terms"})

    def fake(self, name, body):
        fake_program(os.path.join(self.bin, name), self.calls, body)

    def pack(self, files):
        with zipfile.ZipFile(self.wheel, "w") as wheel:
            for name, text in files.items():
                wheel.writestr(name, text)

    def run_script(self, code, *arguments):
        command = [os.path.join(self.bin, "bash"), SCRIPT, "--into", self.folder, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False,
                              env={"PATH": self.bin, "TMPDIR": self.temporary}, timeout=60)
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertEqual(os.listdir(self.temporary), [], "a temporary file is left")
        self.assertEqual(done.stdout, "")
        return done.stderr

    def assert_nothing_fetched(self):
        self.assertFalse(os.path.exists(self.calls))

    def test_fetches_one_release(self):
        error = self.run_script(0, "--force")
        self.assertIn(self.folder, error)
        self.assertEqual(set(os.listdir(self.folder)), {"ptxas", "License.txt"})
        out = subprocess.run([os.path.join(self.folder, "ptxas"), "--version"], capture_output=True, text=True, check=True)
        self.assertIn("release 13.0", out.stdout)
        with open(self.calls, encoding="utf-8") as file:
            self.assertRegex(file.readline(), r"pip download .*--no-deps .*nvidia-cuda-nvcc==13\.0\.\d+\n")

    def test_into_the_folder_that_tests_look_into(self):
        root = os.path.dirname(self.bin)
        os.mkdir(os.path.join(root, "tools"))
        script = shutil.copy(SCRIPT, os.path.join(root, "tools"))
        subprocess.run([os.path.join(self.bin, "bash"), script, "--force"], capture_output=True, check=True,
                       env={"PATH": self.bin, "TMPDIR": self.temporary}, timeout=60)
        self.assertTrue(os.access(os.path.join(root, "build", "tools", "ptxas", "ptxas"), os.X_OK))

    def test_does_nothing_where_there_is_one(self):
        self.fake("ptxas", ":")
        self.assertEqual(self.run_script(0), "")
        self.assert_nothing_fetched()
        self.assertFalse(os.path.exists(self.folder))
        os.remove(os.path.join(self.bin, "ptxas"))
        self.run_script(0, "--force")
        os.remove(self.calls)
        self.assertEqual(self.run_script(0), "")
        self.assert_nothing_fetched()

    def test_no_network(self):
        os.remove(self.wheel)
        error = self.run_script(1, "--force")
        self.assertIn("no network\n", error)
        self.assertIn("pip could not fetch nvidia-cuda-nvcc", error)
        self.assertFalse(os.path.exists(self.folder))

    def test_no_python(self):
        os.remove(os.path.join(self.bin, "python3"))
        self.assertIn("needs python3 with pip", self.run_script(1, "--force"))

    def test_another_package_and_another_machine(self):
        self.pack({"nvidia/cu13/bin/nvcc": WORKS, "x.dist-info/License.txt": "terms"})
        self.assertIn("has no ptxas", self.run_script(1, "--force"))
        self.pack({"nvidia/cu13/bin/ptxas": "\x7fELF of something else", "x.dist-info/License.txt": "terms"})
        self.assertIn("does not run on this machine", self.run_script(1, "--force"))
        self.assertFalse(os.path.exists(self.folder))

    def test_a_folder_without_a_name(self):
        for arguments in (("--into",), ("--into", "")):
            done = subprocess.run(["bash", SCRIPT, *arguments], capture_output=True, text=True, check=False, timeout=60)
            self.assertEqual(done.returncode, 2)
            self.assertIn("--into needs a folder", done.stderr)


class Ci(unittest.TestCase):
    def run_ci(self, install, test, zig="exit 0"):
        with tempfile.TemporaryDirectory() as root:
            os.mkdir(os.path.join(root, ".ci"))
            os.mkdir(os.path.join(root, "tools"))
            shutil.copy(os.path.join(ROOT, ".ci", "run"), os.path.join(root, ".ci"))
            for name, body in (("install_ptxas.sh", install), ("install_python_env.sh", "exit 0"), ("portable_library.sh", zig),
                               ("install_browser.sh", "exit 0"), ("test.sh", test)):
                path = os.path.join(root, "tools", name)
                with open(path, "w", encoding="utf-8") as file:
                    file.write(f"#!/bin/sh\n{body}\n")
                os.chmod(path, 0o755)
            return subprocess.run([os.path.join(root, ".ci", "run")], capture_output=True, text=True, check=False, timeout=60)

    def test_goes_on_without_ptxas_and_says_so(self):
        done = self.run_ci("exit 1", "echo tested with $SAGEGEN_CI")
        self.assertEqual((done.returncode, done.stdout), (0, "tested with 1\n"))
        self.assertIn("goes on without ptxas", done.stderr)
        done = self.run_ci("exit 0", "exit 3")
        self.assertEqual((done.returncode, done.stderr), (3, ""))

    def test_goes_on_without_zig_and_says_so(self):
        done = self.run_ci("exit 0", "echo tested", '[ "$1" = --install ] && exit 77')
        self.assertEqual((done.returncode, done.stdout), (0, "tested\n"))
        self.assertIn("goes on without zig", done.stderr)


if __name__ == "__main__":
    unittest.main()
