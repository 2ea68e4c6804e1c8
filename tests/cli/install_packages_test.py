"""tools/install_packages.sh on machines that lack something: every command it calls is a fake that logs its call."""
import os
import shutil
import subprocess
import tempfile
import unittest

from support import fake_program

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools", "install_packages.sh")
REAL = ("bash", "cat", "env", "grep", "mktemp", "rm")
MISSING = ("llvm-22-dev", "catch2")


class InstallPackages(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.bin, self.temporary, self.calls = (os.path.join(directory.name, part) for part in ("bin", "tmp", "calls"))
        os.mkdir(self.bin)
        os.mkdir(self.temporary)
        for name in REAL:
            os.symlink(shutil.which(name), os.path.join(self.bin, name))
        self.fake("id", "echo 0")
        self.fake("dpkg-query", f'case " {" ".join(MISSING)} " in *" ${{!#}} "*) exit 1;; esac\n'
                                'echo "install ok installed"')
        self.fake("apt-cache", 'printf "%s:\\n  Installed: (none)\\n  Candidate: 1:22.1\\n" "$2"')
        self.fake("apt-get", ":")
        self.fake("sudo", '"$@"')

    def fake(self, name, body):
        fake_program(os.path.join(self.bin, name), self.calls, body)

    def remove(self, name):
        os.remove(os.path.join(self.bin, name))

    def run_script(self, code):
        done = subprocess.run([os.path.join(self.bin, "bash"), SCRIPT], capture_output=True, text=True, check=False,
                              env={"PATH": self.bin, "TMPDIR": self.temporary}, timeout=60)
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertEqual(os.listdir(self.temporary), [], "a temporary file is left")
        return done.stderr

    def made(self, command):
        """The calls of a fake, without its name."""
        if not os.path.exists(self.calls):
            return []
        with open(self.calls, encoding="utf-8") as file:
            return [line[len(command) + 1:].strip() for line in file if line.startswith(command + " ")]

    def test_nothing_is_missing(self):
        self.fake("dpkg-query", 'echo "install ok installed"')
        for name in ("apt-get", "apt-cache", "sudo"):
            self.remove(name)
        self.assertEqual(self.run_script(0), "")

    def test_installs_what_is_missing(self):
        self.run_script(0)
        update, install = self.made("apt-get")
        self.assertEqual(update, "update")
        self.assertTrue(install.startswith("install -y"))
        self.assertEqual(set(install.split()) & {*MISSING, "cmake"}, set(MISSING))
        self.assertEqual(self.made("sudo"), [])

    def test_asks_sudo_if_not_root(self):
        self.fake("id", "echo 1000")
        self.run_script(0)
        self.assertEqual((len(self.made("sudo")), len(self.made("apt-get"))), (2, 2))

    def test_neither_root_nor_sudo(self):
        self.fake("id", "echo 1000")
        self.remove("sudo")
        error = self.run_script(1)
        self.assertIn("no sudo", error)
        self.assertIn("apt-get install llvm-22-dev catch2", error)
        self.assertEqual(self.made("apt-get"), [])

    def test_no_debian(self):
        self.remove("apt-get")
        error = self.run_script(1)
        self.assertIn("no apt-get", error)
        self.assertIn("llvm-22-dev catch2", error)

    def test_a_repository_without_llvm(self):
        # apt-cache says nothing of a package that it does not know, and "(none)" of one it cannot install.
        for answer in (":", 'printf "%s:\\n  Installed: (none)\\n  Candidate: (none)\\n" "$2"'):
            self.fake("apt-cache", f'[ "$2" != llvm-22-dev ] || {{ {answer}; exit 0; }}\n'
                                   'printf "%s:\\n  Candidate: 1.0\\n" "$2"')
            error = self.run_script(1)
            for part in ("do not have: llvm-22-dev\n", "apt.llvm.org", "bookworm-security", "runtime-only"):
                self.assertIn(part, error)
            self.assertNotIn("catch2\n", error.split("do not have")[1])
        self.assertEqual(set(self.made("apt-get")), {"update"})

    def test_a_repository_without_another_package(self):
        self.fake("apt-cache", '[ "$2" = llvm-22-dev ] && printf "  Candidate: 1.0\\n"')
        error = self.run_script(1)
        self.assertIn("do not have: catch2\n", error)
        self.assertNotIn("apt.llvm.org", error)

    def test_a_failure_shows_the_log_of_apt_get(self):
        for step in ("update", "install"):
            self.fake("apt-get", f'if [ "$1" = {step} ]; then echo "E: {step} is broken"; exit 100; fi')
            error = self.run_script(1)
            self.assertIn(f"E: {step} is broken", error)
            self.assertIn("could not install: llvm-22-dev catch2", error)


if __name__ == "__main__":
    unittest.main()
