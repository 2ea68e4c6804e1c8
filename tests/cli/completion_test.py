"""What shells complete, and the manual page: made from the commands, and so complete."""
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import unittest

from support import FILE, FWD, OK, TOOL, USAGE, CliTest, sagegen

TARGETS = ["sm_80", "sm_86", "sm_89", "sm_120"]


def commands():
    text = sagegen("--help").out.split("Subcommands:")[1].split("\n\n")[0]
    return re.findall(r"^  ([a-z]+) ", text, re.MULTILINE)


def options(command):
    """As the help lists them, with the words that each takes, if it lists these."""
    found = {}
    for names, words in re.findall(r"^  ((?:-\w,)?--[\w-]+)(?: \{(\S+)\})?", sagegen(*command, "--help").out.split("Examples:")[0],
                                   re.MULTILINE):
        for name in names.split(","):
            found[name] = words.split(",") if words else []
    return found


def run(program, text, cwd=None):
    environment = dict(os.environ, PATH=os.path.dirname(os.path.abspath(TOOL)) + ":" + os.environ["PATH"], HOME=cwd or "/")
    return subprocess.run([program, "-c", text], capture_output=True, text=True, env=environment, cwd=cwd, timeout=60, check=False)


class Bash(CliTest):
    @classmethod
    def setUpClass(cls):
        cls.script = sagegen("completion", "bash").out

    def complete(self, *words, breaks=r" \t\n\"\'><=;|&(:"):
        """What bash offers for the last of the words, which are as it splits them."""
        quoted = " ".join("'" + word + "'" for word in words)
        text = (f"{self.script}\nCOMP_WORDBREAKS=$'{breaks}'\nCOMP_WORDS=({quoted})\nCOMP_CWORD={len(words) - 1}\n"
                "_sagegen\nprintf '%s\\n' \"${COMPREPLY[@]}\"")
        done = run(shutil.which("bash"), text, self.directory)
        self.assertEqual((done.returncode, done.stderr), (0, ""), words)
        return [line for line in done.stdout.split("\n") if line]

    def test_commands(self):
        self.assertLessEqual(set(commands()), set(self.complete("sagegen", "")))
        self.assertEqual(self.complete("sagegen", "em"), ["emit", "emu"])
        self.assertEqual(self.complete("sagegen", "--qu"), ["--quiet"])
        self.assertEqual(self.complete("sagegen", "--quiet", "tar"), ["targets"])

    def test_every_option_of_every_command(self):
        for command in commands():
            known = options([command])
            self.assertGreater(len(known), 2)
            self.assertEqual(set(self.complete("sagegen", command, "-")), set(known), command)
            for name, words in known.items():
                if words:
                    self.assertEqual(self.complete("sagegen", command, name, ""), words, (command, name))

    def test_values(self):
        self.assertEqual(self.complete("sagegen", "run", "--target", "sm_8"), TARGETS[:3])
        self.assertEqual(self.complete("sagegen", "emit", "--target", ""), [*TARGETS, "all"])
        self.assertEqual(self.complete("sagegen", "run", "--mode", "int8-"), ["int8-fp8", "int8-fp16"])
        self.assertEqual(self.complete("sagegen", "run", "--mode", "=", "int4-"), ["int4-fp8", "int4-fp16"])
        self.assertEqual(self.complete("sagegen", "run", "--mode", "="), self.complete("sagegen", "run", "--mode", ""))
        self.assertEqual(self.complete("sagegen", "run", "--mode=int4-", breaks=" "), ["--mode=int4-fp8", "--mode=int4-fp16"])
        self.assertEqual(self.complete("sagegen", "completion", ""), ["bash", "zsh", "fish", "keys"])
        self.assertIn("RTX4090", self.complete("sagegen", "compare", "--gpu", "L40S", "RTX"))
        self.assertIn("export", self.complete("sagegen", "cache", ""))

    def test_colons(self):
        self.assertIn("emulator", self.complete("sagegen", "run", "--device", "e"))
        self.assertEqual(self.complete("sagegen", "run", "--device", "emulator", ":", "sm_8"), TARGETS[:3])
        self.assertEqual(self.complete("sagegen", "run", "--device", "emulator", ":", "sm_89"), ["sm_89"])
        self.assertEqual(self.complete("sagegen", "run", "--device", "emulator:sm_12", breaks=" "), ["emulator:sm_120"])

    def test_keys(self):
        self.assertEqual(self.complete("sagegen", "inspect", FWD[:-1]), [FWD])
        listed = [kernel["key"] for kernel in sagegen("list", "--json").json()["kernels"]]
        self.assertEqual(self.complete("sagegen", "emit", "--stdout", "sage_"), listed)
        self.assertEqual(sagegen("completion", "keys").out.split(), listed)

    def test_files(self):
        for name in ("a b.ptx", "a.toml"):
            with open(self.path(name), "w", encoding="utf-8"):
                pass
        self.assertEqual(sorted(self.complete("sagegen", "list", "--set", "a")), ["a b.ptx", "a.toml"])
        self.assertEqual(self.complete("sagegen", "emu", "a."), ["a.toml"])
        self.assertEqual(self.complete("sagegen", "run", "--input", "x", "a."), ["a.toml"])
        self.assertEqual(self.complete("sagegen", "run", "--q-len", ""), [])
        for action in ("import", "merge"):
            self.assertEqual(sorted(self.complete("sagegen", "cache", action, "a")), ["a b.ptx", "a.toml"])
            self.assertEqual(self.complete("sagegen", "cache", action, "x", "a."), ["a.toml"])
            self.assertEqual(self.complete("sagegen", "cache", "--cache", "x", action, "a."), ["a.toml"])
        self.assertEqual(self.complete("sagegen", "cache", "--cache", "x", "exp"), ["export"])
        self.assertEqual(self.complete("sagegen", "cache", "--cache", "a."), ["a.toml"])
        self.assertEqual(self.complete("sagegen", "emu", "x.ptx", "--out", "y", "=", "a."), ["a.toml"])
        self.assertEqual(self.complete("sagegen", "emu", "x.ptx", "--out", "y=a.", breaks=" "), ["y=a.toml"])
        self.assertEqual(self.complete("sagegen", "list", "--set=a.", breaks=" "), ["--set=a.toml"])

    def test_every_file_and_folder(self):
        """All that help says to be one is completed as one."""
        with open(self.path("some file"), "w", encoding="utf-8"):
            pass
        count = 0
        for command in commands():
            text = sagegen(command, "--help").out.split("Examples:")[0]
            for name, value in re.findall(r"^  (?:-\w,)?(--[\w-]+) ([A-Z=|]+)", text, re.MULTILINE):
                meaning = " ".join(text.split(f"{name} {value}")[1].split("\n  -")[0].split())
                if not re.search(r"\b(files?|folder|director)", meaning, re.IGNORECASE) and value not in ("FILE", "DIR", "PATH", "KEY=FILE"):
                    continue
                if value == "WORD" or (name, value) in (("--prefix", "PREFIX"), ("--arg", "ARGUMENT")):
                    continue   # names of tensors in a file; ARGUMENT has a grammar of its own
                count += 1
                words = ("y", "=", "some") if value == "KEY=FILE" else ("some",)
                self.assertEqual(self.complete("sagegen", command, name, *words), ["some file"], (command, name, meaning))
        self.assertGreater(count, 20)


class OtherShells(CliTest):
    @unittest.skipUnless(shutil.which("zsh"), "zsh is not installed")
    def test_zsh(self):
        """In a terminal, with the keys pressed: what is typed is completed at TAB, and printed instead of run."""
        os.makedirs(self.path("functions"))
        self.expect(OK, "completion", "zsh", "--out", self.path("functions", "_sagegen"))
        environment = dict(os.environ, PATH=os.path.dirname(os.path.abspath(TOOL)) + ":" + os.environ["PATH"], TERM="dumb",
                           HOME=self.directory)
        child, terminal = pty.fork()
        if child == 0:
            os.chdir(self.directory)
            os.execvpe("zsh", ["zsh", "-f", "-i"], environment)
        self.addCleanup(os.waitpid, child, 0)
        self.addCleanup(os.close, terminal)
        self.addCleanup(os.kill, child, signal.SIGKILL)

        def ask(text, expected):
            os.write(terminal, text.encode())
            seen = ""
            while expected not in seen:
                self.assertTrue(select.select([terminal], [], [], 30)[0], f"{text!r}: {seen!r} has no {expected!r}")
                seen += os.read(terminal, 4096).decode(errors="replace").replace("\r", "")
        ask(f"unsetopt zle; PS1=; fpath=({self.path('functions')} $fpath); autoload -U compinit; compinit -u -D\n", "")
        ask("sagegen() { print -r -- \"<$*>\" }; setopt zle; print rea''dy\n", "ready\n")
        for typed, completed in (("emi", "emit"), ("inspect --mod", "inspect --model"), ("run --causal bot", "run --causal bottom-right"),
                                 ("run --mode 16", "run --mode 16bit"), ("run --mode=16", "run --mode=16bit"),
                                 ("run --target sm_12", "run --target sm_120"),
                                 ("run --device emulator:sm_12", "run --device emulator:sm_120"),
                                 (f"inspect {FWD[:-1]}", f"inspect {FWD}"), ("cache exp", "cache export"), ("cache import func", "cache import functions"), ("emu x --out y=func", "emu x --out y=functions"),
                                 ("list --set func", "list --set functions"), ("run --input a b func", "run --input a b functions")):
            ask(f"sagegen {typed}\t\n", f"<{completed}>")

    def test_zsh_has_every_option(self):
        script = sagegen("completion", "zsh").out
        for command in commands():
            section = script.split(f"\n    {command})\n")[1].split(";;")[0]
            for name, words in options([command]).items():
                self.assertRegex(section, rf"'\*?{name}(=|\[)")
                if words:
                    self.assertIn(f":({' '.join(words)})'", section)

    @unittest.skipUnless(shutil.which("fish"), "fish is not installed")
    def test_fish(self):
        self.expect(OK, "completion", "fish", "--out", self.path("sagegen.fish"))

        def complete(line):
            done = run(shutil.which("fish"), f"source {self.path('sagegen.fish')}; complete -C '{line}'", self.directory)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            return [text.split("\t")[0] for text in done.stdout.splitlines()]
        self.assertEqual(set(complete("sagegen ")), set(commands()))
        for command in commands():
            known = {name for name in options([command]) if name.startswith("--")}
            self.assertEqual(set(complete(f"sagegen {command} --")), known, command)
            for name, words in options([command]).items():
                if words:
                    self.assertEqual(set(complete(f"sagegen {command} {name} ")), set(words))
        self.assertEqual(set(complete("sagegen run --target ")), set(TARGETS))
        self.assertIn("emulator:sm_89", complete("sagegen run --device emu"))
        self.assertEqual(complete(f"sagegen inspect {FWD[:-1]}"), [FWD])


class Manual(CliTest):
    @classmethod
    def setUpClass(cls):
        cls.page = sagegen("man").out

    def section(self, command):
        return self.page.split(f'.SS "sagegen {command}"\n')[1].split("\n.SS ")[0].split("\n.SH ")[0].replace("\\-", "-")

    def test_has_every_command_and_option(self):
        for command in commands():
            section = self.section(command)
            for name in options([command]):
                self.assertIn(f"\\fB{name}\\fR", section, command)
            self.assertIn("Examples:", section)

    def test_has_exit_codes_and_variables(self):
        text = self.page.replace("\\-", "-")
        for code, meaning in re.findall(r"^ {2,3}(\d+)  (.*)$", sagegen("--help").out, re.MULTILINE):
            self.assertIn(f"\\fB{code}\\fR\n{meaning}", text)
        for name in sagegen("env", "--json").json()["variables"]:
            self.assertIn(f"\\fB{name}\\fR", text)

    def write(self):
        path = self.path("sagegen.1")
        self.expect(OK, "man", "--out", path)
        with open(path, encoding="utf-8") as file:
            self.assertEqual(file.read(), self.page)
        return path

    @unittest.skipUnless(shutil.which("mandoc"), "mandoc is not installed")
    def test_mandoc_finds_nothing(self):
        done = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", self.write()], capture_output=True, text=True, check=False)
        self.assertEqual((done.returncode, done.stdout), (0, ""))

    @unittest.skipUnless(shutil.which("man") and shutil.which("groff"), "man and groff are not installed")
    def test_man_shows_it_without_warnings(self):
        environment = dict(os.environ, MANWIDTH="80", LC_ALL="C.UTF-8")
        done = subprocess.run(["man", "-l", "--warnings", self.write()], capture_output=True, env=environment, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        text = re.sub(".\x08", "", done.stdout.decode())
        for part in ("NAME", "--order-seed", "EXIT STATUS", "source <(sagegen completion bash)"):
            self.assertIn(part, text)


class Refusals(CliTest):
    def test_what_is_no_shell(self):
        self.expect_error(USAGE, "usage error", ["bsah", "did you mean bash?"], "completion", "bsah")
        self.expect_error(USAGE, "usage error", ["SHELL"], "completion")
        for command in (("completion", "zsh"), ("man",)):
            self.expect_error(FILE, "file error", ["/dev/null/x"], *command, "--out", "/dev/null/x")

    def test_json(self):
        self.assertEqual(self.expect_json(OK, "completion", "bash")["text"], sagegen("completion", "bash").out)
        self.assertEqual(self.expect_json(OK, "man", "--out", self.path("x.1"))["file"], self.path("x.1"))
        self.assertEqual(json.loads(sagegen("man", "--json").out)["text"], sagegen("man").out)


if __name__ == "__main__":
    unittest.main()
