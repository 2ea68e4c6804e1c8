"""What the tool says on terminals, in pipes and on full disks, and what it asks before it takes minutes."""
import json
import os
import pty
import re
import select
import subprocess
import unittest

from support import CHECK_FAILED, FILE, FWD, OK, SOURCE, TOOL, USAGE, CliTest, has_generator, sagegen

SMALL = ("run", "--device", "emulator", "--q-len", 16, "--heads", 1, "--head-dim", 64)
# A call of each command that ends well, soon, and has something to say on stdout.
CALLS = {
    "targets": (), "list": ("--target", "sm_80"), "emit": ("--stdout", FWD), "inspect": (FWD,), "trace": (FWD,),
    "generate": ("--check", "--root", SOURCE), "run": SMALL[1:], "compare": ("--q-len", 16, "--heads", 1, "--head-dim", 64,
                "--only", "accumulation=f32 granularity=per_thread smoothing=k"),
    "tune": ("--device", "emulator:sm_89", "--head-dim", 64, "--q-len", 16, "--heads", 1, "--filter", "q64k64w4s2", "--cache", "CACHE"),
    "cache": ("list", "--cache", "CACHE"), "bundle": ("--plan", "head_dim=64", "--target", "sm_89", "--usual", "--out", "CACHE/x"),
    "kv": ("show", "0-3:K8V4"), "emu": ("CACHE/k.ptx", "--block", 32), "devices": (), "doctor": ("--quick",), "env": (), "completion": ("bash",), "man": (),
}
NEED_GENERATOR = ("emit", "trace", "generate", "bundle", "tune")
KERNEL = ".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry k()\n{\n  ret;\n}\n"


def commands():
    return re.findall(r"^  ([a-z]+) ", sagegen("--help").out.split("Subcommands:")[1].split("\n\n")[0], re.MULTILINE)


class EveryCommand(CliTest):
    def setUp(self):
        super().setUp()
        with open(self.path("k.ptx"), "w", encoding="utf-8") as file:
            file.write(KERNEL)

    def calls(self):
        self.assertEqual(set(CALLS), set(commands()))
        for name, words in CALLS.items():
            if has_generator() or name not in NEED_GENERATOR:
                yield name, [TOOL, name, *(str(word).replace("CACHE", self.directory) for word in words)]

    def test_a_full_disk_is_an_error(self):
        for name, call in self.calls():
            for more in ([], ["--json"]) if name != "emit" else ([],):
                with self.subTest(name=name, more=more), open("/dev/full", "w", encoding="utf-8") as full:
                    done = subprocess.run([*call, *more], stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=300)
                    self.assertEqual(done.returncode, FILE, done.stderr)
                    self.assertIn("sagegen: file error\n  stdout: cannot be written: ", done.stderr)

    def test_a_reader_that_goes_is_no_error(self):
        """With the usual reaction to the signal, and where it is ignored."""
        for name, call in self.calls():
            if name == "generate":
                continue
            for ignored in (False, True):
                with self.subTest(name=name, ignored=ignored):
                    read, write = os.pipe()
                    os.close(read)
                    done = subprocess.run([*call, "--quiet"], stdout=write, stderr=subprocess.PIPE, text=True, check=False, timeout=300,
                                          restore_signals=not ignored)
                    os.close(write)
                    self.assertIn(done.returncode, (OK, CHECK_FAILED) if ignored else (OK, CHECK_FAILED, -13))
                    self.assertEqual(done.stderr, "")

    def test_head_of_a_long_list(self):
        for command in ("list --json", "completion keys", "man"):
            done = subprocess.run(["bash", "-c", f"'{TOOL}' {command} | head -1"], capture_output=True, text=True, check=False)
            self.assertEqual((done.returncode, len(done.stdout.splitlines()), re.sub(r"^\d+ kernels\n", "", done.stderr)), (0, 1, ""))

    def test_quiet_says_the_result_alone(self):
        for name, call in self.calls():
            for more in (["--quiet"], ["-q", "--json"]) if name != "emit" else (["--quiet"],):
                with self.subTest(name=name, more=more):
                    if name == "generate":
                        call = [*call, "--root", self.directory]   # an error
                    done = subprocess.run([*call, *more], capture_output=True, text=True, check=False, timeout=300)
                    if name == "generate":
                        self.assertEqual(done.returncode, USAGE)
                        self.assertIn("sagegen: usage error\n", done.stderr)
                        continue
                    self.assertEqual(done.stderr, "", name)
                    self.assertNotEqual(done.stdout, "" if name != "bundle" else None)
                    if "--json" in more:
                        json.loads(done.stdout)

    def test_quiet_in_front(self):
        self.assertEqual(self.expect(OK, "--quiet", "list", "--target", "sm_80").err, "")
        self.assertIn(" kernels", self.expect(OK, "list", "--target", "sm_80").err)
        self.expect_error(USAGE, "usage error", ["did you mean list?"], "--quiet", "lits")
        self.expect_error(USAGE, "usage error", ["--frobnicate", "see `sagegen list --help`"], "-q", "list", "--frobnicate")
        report = json.loads(self.expect(OK, "-q", "targets", "--json").out)
        self.assertEqual(report["schema"], "sagegen.targets")


def on_terminal(arguments, answer=None, term="xterm", **variables):
    """Runs the tool with a terminal as stdin and stderr; returns exit code, stdout, and what the terminal was sent."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen([TOOL, *map(str, arguments)], stdin=terminal, stderr=terminal, stdout=subprocess.PIPE,
                               env=dict(os.environ, TERM=term, **variables))
    os.close(terminal)
    seen = ""
    while True:
        ready = select.select([controller], [], [], 0.05)[0]
        if ready:
            try:
                seen += os.read(controller, 4096).decode()
            except OSError:
                break
        elif process.poll() is not None:
            break
        if answer is not None and "[y/N] " in seen:
            os.write(controller, answer.encode() + b"\n")
            answer = None
    out = process.stdout.read().decode()
    process.stdout.close()
    process.wait()
    os.close(controller)
    return process.returncode, out, seen.replace("\r\n", "\n")


class Limits(CliTest):
    def test_what_takes_long_is_refused_where_nobody_can_be_asked(self):
        small = ("--limit", 1e-6, "--head-dim", 64)
        calls = [(*SMALL, *small[:2]), ("compare", *SMALL[1:], *small[:2])]
        if has_generator():
            calls += [("run", "--device", "emulator", "--seqlens", "40,40", *small),
                      ("run", "--device", "emulator", "--set", self.write_set(), "--q-len", 16, *small[:2])]
        for call in calls:
            result = self.expect_error(USAGE, "usage error", ["emulating this takes about", "an estimate", "was not started",
                                                              "--yes"], *call)
            self.assertEqual(result.out, "", call)
        self.assertRegex(" ".join(self.expect(OK, "run", "--help").out.split()), r"--limit SECONDS [^-]*\(default: 300\)")
        self.assertEqual(self.expect(USAGE, *SMALL, "--limit", 1e-6, "--json").json()["error"]["exit_code"], USAGE)

    def write_set(self):
        with open(self.path("set.toml"), "w", encoding="utf-8") as file:
            file.write('[[attention]]\ntargets = "sm_89"\nhead_dim = 64\n')
        return self.path("set.toml")

    def test_the_size_that_is_named_is_within(self):
        def call(q_len, limit):
            return ("run", "--device", "emulator", "--q-len", q_len, "--heads", 1, "--head-dim", 64, "--judge-rows", 1, "--limit", limit)
        text = self.expect(USAGE, *call(2048, 0.002)).err
        q_len, kv_len = re.search(r"q_len (\d+) and kv_len (\d+) would do", text).groups()
        self.assertEqual(q_len, kv_len)
        self.assertLess(int(q_len), 2048)
        self.expect(OK, *call(q_len, 0.002))

    def test_with_leave_it_starts(self):
        self.expect(OK, *SMALL, "--yes")
        self.expect(OK, *SMALL, "--limit", 0)
        self.expect_error(USAGE, "usage error", ["--limit", "refused beside --yes"], *SMALL, "--yes", "--limit", 5)
        self.expect_error(USAGE, "usage error", ["--limit", "from 0"], *SMALL, "--limit", "never")

    def test_on_a_terminal_it_asks(self):
        code, out, seen = on_terminal((*SMALL, "--limit", 1e-6), answer="n")
        self.assertEqual((code, out), (USAGE, ""))
        self.assertIn("go on? [y/N]", seen)
        code, out, seen = on_terminal((*SMALL, "--limit", 1e-6), answer="y")
        self.assertEqual(code, OK, seen)
        self.assertIn("relative L1", out)


class Terminal(CliTest):
    def test_escapes_are_for_terminals(self):
        """The only escape takes the progress line away; none colours anything."""
        _, out, seen = on_terminal(SMALL)
        self.assertEqual(set(re.findall(r"\x1b\[[0-9;]*[A-Za-z]", seen)) - {"\x1b[K"}, set())
        self.assertNotIn("\x1b", out)
        for variables in ({"term": "dumb"},):
            self.assertNotIn("\x1b", on_terminal(SMALL, **variables)[2])
        self.assertNotIn("\x1b", self.expect(OK, *SMALL).err)
        self.assertEqual(on_terminal((*SMALL, "--quiet"))[2], "")


if __name__ == "__main__":
    unittest.main()
