"""Scripts say what they do when asked, and do nothing then: every command that they would call is a fake that logs."""
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

TOOLS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools")
SHELL_SCRIPTS = ("quickstart.sh", "test.sh", "gpu_pack.sh", "gpu_check.sh", "install_packages.sh",
                 "install_ptxas.sh", "install_python_env.sh", "install_browser.sh", "portable_library.sh")
PYTHON_SCRIPTS = ("accuracy_table.py", "check_layers.py", "record_inputs.py", "bench/attention_bench.py",
                  "bench/micro_table.py")
REAL = ("bash", "cat", "dirname", "env", "grep", "sed")
WORK = ("apt-cache", "apt-get", "cmake", "ctest", "dpkg-query", "mkdir", "mktemp", "mv", "python3", "rm", "sudo", "tar")


class Scripts(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.bin, self.calls = (os.path.join(directory.name, part) for part in ("bin", "calls"))
        os.mkdir(self.bin)
        for name in REAL:
            os.symlink(shutil.which(name), os.path.join(self.bin, name))
        for name in WORK:
            self.fake(name, "exit 99")

    def fake(self, name, body):
        path = os.path.join(self.bin, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(f'#!{shutil.which("bash")}\necho "{name} $*" >>{self.calls}\n{body}\n')
        os.chmod(path, 0o755)

    def shell(self, script, *arguments):
        return subprocess.run([os.path.join(self.bin, "bash"), os.path.join(TOOLS, script), *arguments],
                              capture_output=True, text=True, check=False, env={"PATH": self.bin}, timeout=60)

    def assert_nothing_done(self):
        if os.path.exists(self.calls):
            with open(self.calls, encoding="utf-8") as file:
                self.fail(f"called: {file.read()}")

    def test_help_is_printed_and_nothing_done(self):
        for script in SHELL_SCRIPTS:
            for option in ("--help", "-h"):
                with self.subTest(script=script, option=option):
                    done = self.shell(script, option)
                    self.assertEqual((done.returncode, done.stderr), (0, ""))
                    self.assertIn(f"tools/{script}", done.stdout)
                    self.assert_nothing_done()

    def test_unknown_options_are_refused_before_anything_is_done(self):
        for script in SHELL_SCRIPTS:
            with self.subTest(script=script):
                done = self.shell(script, "--frobnicate")
                self.assertEqual(done.returncode, 2)
                self.assertIn("unknown argument --frobnicate", done.stderr)
                self.assert_nothing_done()

    def test_python_scripts(self):
        for script in PYTHON_SCRIPTS:
            with self.subTest(script=script):
                command = [sys.executable, os.path.join(TOOLS, script)]
                done = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False, timeout=60)
                self.assertEqual((done.returncode, done.stderr), (0, ""))
                self.assertIn("usage:", done.stdout)
                done = subprocess.run([*command, "--frobnicate"], capture_output=True, text=True, check=False,
                                      timeout=60)
                self.assertEqual(done.returncode, 2)

    def test_measuring_programs(self):
        programs = [program for program in os.environ.get("SAGEGEN_PROGRAMS", "").split(":") if program]
        if not programs:
            self.skipTest("SAGEGEN_PROGRAMS names none")
        for program in programs:
            with self.subTest(program=program):
                done = subprocess.run([program, "--help"], capture_output=True, text=True, check=False, timeout=60)
                self.assertEqual((done.returncode, done.stderr), (0, ""))
                self.assertTrue(done.stdout.startswith(f"usage: {os.path.basename(program)} "), done.stdout)
                self.assertEqual(len(done.stdout.splitlines()), 2)
                done = subprocess.run([program, "--frobnicate"], capture_output=True, text=True, check=False, timeout=60)
                self.assertNotEqual(done.returncode, 0)
                self.assertEqual(done.stdout, "")

    def test_test_sh_knows_the_arguments_of_ctest(self):
        done = self.shell("test.sh", "-L", "fast", "-R")
        self.assertEqual(done.returncode, 2)
        self.assertIn("-R needs a value", done.stderr)
        self.assert_nothing_done()

    def test_quickstart_says_first_what_it_will_install(self):
        self.fake("dpkg-query", 'case "${!#}" in catch2|ninja-build) exit 1;; esac; echo "install ok installed"')
        done = self.shell("quickstart.sh")   # ends where it asks for rights, or with the fake apt-get
        self.assertNotEqual(done.returncode, 0)
        self.assertEqual(done.stdout, "== packages to install: ninja-build catch2\n")


if __name__ == "__main__":
    unittest.main()
