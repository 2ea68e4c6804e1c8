"""tools/install_python_env.sh, with a pip that is a fake; and CI, which goes on without it."""
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
SCRIPT = os.path.join(ROOT, "tools", "install_python_env.sh")
REAL = ("bash", "cat", "chmod", "dirname", "mkdir", "mktemp", "rm", "sed")
# `python3 -m venv FOLDER` makes a python that writes down what it is asked; its pip fails where there is a file "fails".
PYTHON3 = """#!/bin/sh
mkdir -p "$3/bin"
cat >"$3/bin/python" <<'END'
#!/bin/sh
echo "$@" >>CALLS
if [ "$1 $2" = "-m pip" ] && [ -e FAILS ]; then echo no network; exit 1; fi
END
chmod +x "$3/bin/python"
"""


class InstallPythonEnv(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.bin, self.temporary, self.calls, self.fails, self.folder = (
            os.path.join(directory.name, part) for part in ("bin", "tmp", "calls", "fails", "into"))
        os.mkdir(self.bin)
        os.mkdir(self.temporary)
        for name in REAL:
            os.symlink(shutil.which(name), os.path.join(self.bin, name))
        path = os.path.join(self.bin, "python3")
        with open(path, "w", encoding="utf-8") as file:
            file.write(PYTHON3.replace("CALLS", self.calls).replace("FAILS", self.fails))
        os.chmod(path, 0o755)

    def run_script(self, code, *arguments):
        command = [os.path.join(self.bin, "bash"), SCRIPT, "--into", self.folder, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60,
                              env={"PATH": self.bin, "TMPDIR": self.temporary})
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertEqual(os.listdir(self.temporary), [], "a temporary file is left")
        return done.stderr

    def asked(self):
        if not os.path.exists(self.calls):
            return ""
        with open(self.calls, encoding="utf-8") as file:
            return file.read()

    def test_installs_what_the_tests_need(self):
        self.assertIn(self.folder, self.run_script(0))
        install = self.asked().splitlines()[0]
        for package in ("numpy", "nanobind", "scikit-build-core", "pytest", "mypy", "torch"):
            self.assertIn(f" {package}", install)

    def test_does_nothing_where_there_is_one(self):
        self.run_script(0)
        before = self.asked()
        self.assertEqual(self.run_script(0), "")
        self.assertEqual(self.asked(), before)
        self.run_script(0, "--force", "--without-torch")
        self.assertNotIn("torch", self.asked()[len(before):])

    def test_no_network_leaves_nothing(self):
        open(self.fails, "w", encoding="utf-8").close()
        error = self.run_script(1)
        self.assertIn("no network", error)
        self.assertIn("pip could not install numpy", error)
        self.assertFalse(os.path.exists(self.folder))

    def test_no_python(self):
        os.remove(os.path.join(self.bin, "python3"))
        self.assertIn("needs python3", self.run_script(1))

    def test_arguments(self):
        self.assertIn("unknown argument --fast", self.run_script(2, "--fast"))


class Ci(unittest.TestCase):
    """.ci/run in a tree whose scripts are fakes."""

    def test_goes_on_without_an_environment_and_says_so(self):
        with tempfile.TemporaryDirectory() as directory:
            for folder in (".ci", "tools"):
                os.mkdir(os.path.join(directory, folder))
            shutil.copy(os.path.join(ROOT, ".ci", "run"), os.path.join(directory, ".ci"))
            for name, code in (("install_ptxas", 0), ("install_python_env", 1), ("test", 0)):
                path = os.path.join(directory, "tools", name + ".sh")
                with open(path, "w", encoding="utf-8") as file:
                    file.write(f"#!/bin/sh\necho {name}\nexit {code}\n")
                os.chmod(path, 0o755)
            done = subprocess.run([os.path.join(directory, ".ci", "run")], capture_output=True, text=True, check=False, timeout=60)
            self.assertEqual((done.returncode, done.stdout.split()), (0, ["install_ptxas", "install_python_env", "test"]))
            self.assertIn("goes on without a Python environment", done.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
