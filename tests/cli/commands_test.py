"""Every command but `run`: what it reports, and how it refuses."""
import os
import pty
import re
import resource
import shutil
import subprocess
import unittest
import unittest.mock

from support import (BOUND_BY_PERMISSIONS, CHECK_FAILED, CODEGEN, FILE, FULL_DISK, FWD, MACHINE, OK, QUANTQ, SOURCE, SPEC,
                     TOOL, USAGE, CliTest, has_generator, is_sanitized, sagegen)

COMMANDS = ("targets", "list", "emit", "inspect", "trace", "generate", "run", "devices", "env")
TARGETS = ("sm_80", "sm_86", "sm_89", "sm_120")
GENERATOR = has_generator()
needs_generator = unittest.skipUnless(GENERATOR, "built without the generator")


NOTHING = """
.version 7.0
.target sm_80
.address_size 64
.visible .entry nothing(.param .u64 x) { ret; }
"""


class Help(CliTest):
    def test_lists_all_commands_and_exit_codes(self):
        text = self.expect(OK, "--help").out
        for command in COMMANDS:
            self.assertIn(command, text)
        self.assertIn("Exit codes", text)
        self.assertIn("Examples", text)

    def test_every_command_has_examples(self):
        for command in COMMANDS:
            text = self.expect(OK, command, "--help").out
            self.assertIn(f"sagegen {command}", text)
            self.assertIn("--json", text)

    def test_version(self):
        self.assertRegex(self.expect(OK, "--version").out, r"^sagegen \d+\.\d+\.\d+, ")


class Usage(CliTest):
    def test_mistakes_on_the_command_line(self):
        self.expect_error(USAGE, "usage error", ["subcommand", "see `sagegen --help`"])
        self.expect_error(USAGE, "usage error", ["frobnicate"], "frobnicate")
        self.expect_error(USAGE, "usage error", ["--frobnicate", "see `sagegen targets --help`"], "targets",
                          "--frobnicate")
        self.expect_error(USAGE, "usage error", ["KEY"], "inspect")
        self.expect_error(USAGE, "usage error", ["--repeats"], "emit", "--time", "--repeats", "0")

    def test_what_is_near_is_suggested(self):
        for word, meant in (("emti", "emit"), ("Run", "run"), ("device", "devices"), ("inspct", "inspect")):
            self.expect_error(USAGE, "usage error", [f'"{word}"; did you mean {meant}?'], word)
        self.assertNotIn("did you mean", self.expect(USAGE, "frobnicate").err)
        for arguments, meant in ((("run", "--qlen", "5"), "--q-len"), (("run", "--head_dim=64"), "--head-dim"),
                                 (("emit", "--std-out"), "--stdout"), (("list", "--targets", "all"), "--target")):
            self.expect_error(USAGE, "usage error", [arguments[1], f"did you mean {meant}?"], *arguments)
        self.assertNotIn("did you mean", self.expect(USAGE, "list", "--frobnicate").err)

    def test_what_is_no_number_is_not_out_of_range(self):
        for option, most in (("--q-len", 1 << 28), ("--heads", 65535), ("--head-dim", 4096),
                             ("--value-dim", 4096)):
            for value in ("abc", "0", "-1", "1.5", "", "9" * 30, "0x10"):
                self.expect_error(USAGE, "usage error", [option, f"whole number from 1 to {most}"], "run",
                                  f"{option}={value}" if value else option, *([] if value else [""]))
        self.expect_error(USAGE, "usage error", ["--judge-rows", "all is refused; it is a whole number from 0"], "run",
                          "--judge-rows", "all")
        for value in ("abc", "10001"):
            self.expect_error(USAGE, "usage error", ["--repeats", value, "whole number from 1 to 10000"], "emit", "--time",
                              "--repeats", value)

    def test_a_target_written_otherwise(self):
        for command in ("list", "run"):
            for word in ("sm89", "SM_89"):
                self.expect_error(SPEC, "spec error", [word, "write sm_89"], command, "--target", word)
            self.expect_error(SPEC, "spec error", ["9.0", "PTX of lower targets loads there", "use sm_89"], command,
                              "--target", "sm_90")

    def test_words_of_options_are_suggested(self):
        emulated = ("run", "--device", "emulator")
        for arguments, meant in (((*emulated, "--mode", "int8fp8"), "int8-fp8"), ((*emulated, "--dist", "outliers"), "outlier"),
                                 ((*emulated, "--dtype", "fp16"), "f16"), ((*emulated, "--causal", "topleft"), "top-left"),
                                 ((*emulated, "--granularity", "per-thread"), "per_thread"), (("tune", "--mode", "itn8"), "int8"),
                                 (("cache", "lst"), "list"), (("run", "--device", "emulater"), "emulator"),
                                 (("run", "--device", "sm_89"), "emulator:sm_89"), (("run", "--device", "cuda0"), "cuda"),
                                 (("run", "--device", "emulator:sm89"), "sm_89"), (("run", "--ptx", "embeded"), "embedded")):
            result = sagegen(*arguments)
            self.assertIn(result.code, (USAGE, FILE))
            self.assertIn(f"did you mean {meant}?", result.err, arguments)
        self.expect_error(USAGE, "usage error", ["no profile \"ada\"", "write sm_89"], "run", "--device", "emulator:ada")
        for word, said in (("ada", "write sm_89"), ("rtx4090", "write sm_89"), ("8.9", "write sm_89"), ("h100", "use sm_89"),
                           ("sm_90a", "the suffix a"), ("sm_75", "too old")):
            self.expect_error(SPEC, "spec error", [f'"{word}"', said], "list", "--target", word)

    def test_keys_and_fields_are_suggested(self):
        for key in (FWD.replace("e4m3", "e4m4"), FWD.upper(), FWD + ".ptx", f"ptx/{FWD}.ptx", FWD.replace("sm89", "sm_89")):
            for command in ("inspect", "list", "run"):
                self.expect_error(SPEC, "spec error", [f"did you mean {FWD}?\n"], command, key)
        self.assertNotIn("did you mean", self.expect(SPEC, "inspect", "KEY").err)
        bundle = ("--target", "sm_89", "--out", self.path("x.bundle"))
        for plan, meant in (("headdim=64", "head_dim"), ("pv=e4m4", "e4m3"), ("causl", "causal")):
            self.expect_error(SPEC, "spec error", [f"did you mean {meant}?"], "bundle", "--plan", plan, *bundle)
        path = self.path("set.toml")
        for name, text, meant in (("[[atention]]", "", "attention"), ("[[attention]]", "headdim = 64\n", "head_dim")):
            with open(path, "w", encoding="utf-8") as file:
                file.write(f'{name}\ntargets = "sm_89"\n{text}')
            self.expect_error(SPEC, "spec error", [path, f"did you mean {meant}?"], "list", "--set", path)
        self.assertFalse(os.path.exists(self.path("x.bundle")))

    def test_what_was_typed_is_shown_and_not_obeyed(self):
        word = "\x1b[31m" + "x" * 100000
        for arguments in ((word,), ("list", word), ("list", "--" + word), ("list", "--set", word),
                          ("list", "--target", word), ("run", "--input", word), ("run", "--q-len", word)):
            result = sagegen(*arguments)
            self.assertIn(result.code, (USAGE, SPEC, FILE))
            self.assertNotIn("\x1b", result.err)
            self.assertIn("[31mx", result.err)
            self.assertLess(len(result.err), 10000)

    def test_an_error_is_json_too_if_asked(self):
        report = self.expect_json(SPEC, "list", "--target", "sm_77")
        self.assertEqual(report["error"]["exit_code"], SPEC)
        self.assertEqual(report["error"]["kind"], "spec error")
        self.assertIn("sm_77", report["error"]["message"])
        self.assertEqual(self.expect_json(USAGE, "inspect")["error"]["kind"], "usage error")


class Reports(CliTest):
    def test_targets(self):
        report = self.expect_json(OK, "targets")
        self.assertEqual(tuple(t["target"] for t in report["targets"]), TARGETS)
        self.assertEqual([t["default_pv"] for t in report["targets"]], ["f16", "f16", "e4m3", "e4m3"])
        text = self.expect(OK, "targets").out
        for target in TARGETS:
            self.assertIn(target, text)

    def test_list(self):
        report = self.expect_json(OK, "list")
        keys = [kernel["key"] for kernel in report["kernels"]]
        self.assertEqual(len(keys), len(set(keys)))
        self.assertEqual({kernel["target"] for kernel in report["kernels"]}, set(TARGETS))
        one = self.expect_json(OK, "list", "--target", "sm_86")["kernels"]
        self.assertEqual(one, [k for k in report["kernels"] if k["target"] == "sm_86"])
        self.assertEqual(self.expect_json(OK, "list", "--target", "all"), report)

    def test_devices(self):
        report = self.expect_json(OK, "devices")
        names = [device["device"] for device in report["devices"]]
        for profile in (*TARGETS, "ideal"):
            self.assertIn(f"emulator:{profile}", names)
        self.assertEqual(report["cuda"], any(name.startswith("cuda:") for name in names))
        if not report["cuda"]:
            self.assertIn(report["why_no_cuda"], self.expect(OK, "devices").out)

    def test_doctor(self):
        report = self.expect_json(OK, "doctor")
        checks = {check["check"]: check for check in report["checks"]}
        self.assertTrue(report["healthy"])
        self.assertLessEqual({"generator", "driver", "cache", "ptxas", "emulator:sm_89, self-test"}, checks.keys())
        self.assertEqual(checks["emulator:sm_89, self-test"]["state"], "good")
        for check in checks.values():
            self.assertIn(check["state"], ("good", "missing"))
            self.assertEqual("advice" in check, check["state"] != "good", check)
        text = self.expect(OK, "doctor", "--quick").out
        self.assertIn("cache", text)
        self.assertNotIn("self-test", text)

    def test_doctor_names_what_is_bad(self):
        def bad():
            report = self.expect(CHECK_FAILED, "doctor", "--quick", "--json", before=BOUND_BY_PERMISSIONS).json()
            return {check["check"]: check["what"] for check in report["checks"] if check["state"] == "bad"}

        def cache():
            return bad()["cache"]
        environment = unittest.mock.patch.dict(os.environ)
        environment.start()
        self.addCleanup(environment.stop)
        os.environ.pop("SAGEGEN_CODE_CACHE", None)
        os.environ["SAGEGEN_CACHE_DIR"] = "/dev/null/cache"
        self.assertIn("/dev/null is no folder", cache())
        os.makedirs(self.path("cache", "tuning"))
        with open(self.path("cache", "tuning", "sm_89-0.tuned"), "w", encoding="utf-8") as file:
            file.write("x")
        os.environ["SAGEGEN_CACHE_DIR"] = self.path("cache")
        self.assertIn("sm_89-0.tuned", cache())
        os.remove(self.path("cache", "tuning", "sm_89-0.tuned"))
        os.mkdir(self.path("cache", "code"))
        for name, check in (("tuning", "cache"), ("code", "code cache")):
            closed = self.path("cache", name)
            os.chmod(closed, 0o500)
            self.assertEqual(bad(), {check: f"{closed} cannot be written by this user: Permission denied"})
            os.chmod(closed, 0o700)

    def test_doctor_tries_whether_folders_can_be_written(self):
        """Also as root, whom permissions do not stop: nobody makes a folder in /proc."""
        self.set_variable("SAGEGEN_CODE_CACHE", "/proc/code")
        self.set_variable("SAGEGEN_CACHE_DIR", "/proc/cache")
        checks = {check["check"]: check for check in self.expect_json(CHECK_FAILED, "doctor", "--quick")["checks"]}
        for name, variable in (("cache", "SAGEGEN_CACHE_DIR"), ("code cache", "SAGEGEN_CODE_CACHE")):
            self.assertEqual(checks[name]["state"], "bad")
            self.assertIn("/proc cannot be written", checks[name]["what"])
            self.assertIn(variable, checks[name]["advice"])
        self.set_variable("SAGEGEN_CODE_CACHE", self.path("a", "code"))
        self.set_variable("SAGEGEN_CACHE_DIR", self.path("b"))
        self.expect(OK, "doctor", "--quick")
        self.assertEqual(os.listdir(self.directory), [])   # and leaves nothing there

    def set_variable(self, name, value):
        before = os.environ.get(name)
        self.addCleanup(lambda: os.environ.pop(name, None) if before is None else os.environ.update({name: before}))
        os.environ[name] = value

    def test_doctor_says_which_variables_are_wrong(self):
        with open(self.path("pins"), "w", encoding="utf-8") as file:
            file.write("x")
        for name, value, *said in (
                ("SAGEGEN_CODE_CACHE_BYTES", "abc", "whole"), ("SAGEGEN_CODE_CACHE_BYTES", "-1", "whole"),
                ("SAGEGEN_CODE_CACHE", "on", "neither off nor a folder"), ("SAGEGEN_TUNING", "xx", "cached, tune"),
                ("SAGEGEN_TUNING", "pinned " + self.path("none"), "none"), ("SAGEGEN_TUNING", "pinned " + self.path("pins"), "pins"),
                ("SAGEGEN_EMULATOR_LANES", "AVX2", "baseline"), ("XDG_CACHE_HOME", "here", "absolute"),
                ("SAGEGEN_PTXAS", self.path("none"), "path")):
            with self.subTest(name=name, value=value):
                self.set_variable("SAGEGEN_CACHE_DIR", self.path("cache"))
                self.set_variable(name, value)
                report = self.expect_json(CHECK_FAILED, "doctor", "--quick")
                bad, = (check for check in report["checks"] if check["state"] == "bad")
                for part in (name, value, *said):
                    self.assertIn(part, bad["what"])
                del os.environ[name]

    def test_env(self):
        report = self.expect_json(OK, "env")
        self.assertRegex(report["sagegen"], r"^\d+\.\d+\.\d+$")
        self.assertTrue(os.path.samefile(report["executable"], os.environ["SAGEGEN_TOOL"]))
        self.assertIn("CUDA_VISIBLE_DEVICES", report["variables"])

    def test_inspect(self):
        text = self.expect(OK, "inspect", FWD).out
        for part in ("head_dim 64", "8 scales", "m16n8k32", "bytes of shared memory", "L40", "keys 2t, 2t + 1"):
            self.assertIn(part, text)
        for word, said in (("hadamard", "each 64 channels of a row are multiplied by a Hadamard matrix"), ("out_s8", "Q and V in f16")):
            self.assertIn(said, self.expect(OK, "inspect", FWD.replace("_f32x2", "_f32x2_" + word)).out)
        report = self.expect_json(OK, "inspect", FWD)
        self.assertEqual((report["family"], report["threads"], report["dynamic_smem"]), ("attention", 128, 24576))
        for kernel in self.expect_json(OK, "list")["kernels"]:
            self.assertIn(kernel["key"], self.expect(OK, "inspect", kernel["key"]).out)


class BadKernels(CliTest):
    def test_bad_key(self):
        self.expect_error(SPEC, "spec error", ["\"bwd\" at position 6", "fwd, decode, kvappend"], "inspect",
                          FWD.replace("fwd", "bwd"))
        for command in ("inspect", "trace", "emit", "list"):
            self.expect_error(SPEC, "spec error", ["\"KEY\"", "`sagegen list` shows the keys"], command, "KEY")

    def test_impossible_tile(self):
        key = FWD.replace("q128k64w4s2", "q128k64w3s9")
        self.expect_error(SPEC, "spec error", [key, "warps 3", "stages 9"], "emit", key)

    def test_head_dim_0(self):
        self.expect_error(SPEC, "spec error", ["head_dim 0", "192 and 256"], "emit", FWD.replace("d64", "d0"))

    def test_unknown_target(self):
        for command in ("list", "emit"):
            self.expect_error(SPEC, "spec error", ["sm_77", "sm_80, sm_86, sm_89, sm_120"], command, "--target",
                              "sm_77")

    def test_kernel_that_a_target_cannot_have(self):
        self.expect_error(SPEC, "spec error", ["e4m3", "sm_80", "no FP8"], "emit", "--target", "sm_80", FWD)

    def test_bad_set_description(self):
        path = self.path("set.toml")
        with open(path, "w", encoding="utf-8") as file:
            file.write("[[attention]]\ntargets = [\"sm_89\"]\ncausal = \"window\"\n")
        self.expect_error(SPEC, "spec error", [f"{path}:3:10:", "window", "false or true"], "list", "--set", path)

    def test_set_without_a_kernel_for_the_target(self):
        path = self.path("set.toml")
        with open(path, "w", encoding="utf-8") as file:
            file.write('[[attention]]\ntargets = ["sm_89", "sm_120"]\n')
        for command in ("list", "emit"):
            self.expect_error(USAGE, "usage error", ["--target sm_80", path, "sm_89, sm_120"], command, "--set", path,
                              "--target", "sm_80")

    def test_set_description_that_cannot_be_read(self):
        for command in ("list", "emit"):
            self.expect_error(FILE, "file error", ["/nonexistent.toml", "No such file"], command, "--set",
                              "/nonexistent.toml")
            self.expect_error(FILE, "file error", [self.directory, "is a directory"], command, "--set", self.directory)
            self.expect_error(USAGE, "usage error", ["--set", "KEY"], command, "--set", "set.toml", QUANTQ)


class Machine(CliTest):
    """Disks that are full, files that fail, memory that ends."""

    COMMANDS = [("--help",), ("--version",), ("run", "--help"), ("list",), ("list", "--json"), ("targets",), ("env",),
                ("devices", "--json"), ("inspect", FWD),
                ("run", "--device", "emulator", "--q-len", 64, "--head-dim", 64, "--heads", 1)]
    if GENERATOR:
        COMMANDS += [("emit", "--stdout", FWD), ("emit", QUANTQ), ("trace", FWD), ("generate", "--check", "--root", SOURCE)]

    def test_a_full_disk_is_noticed_by_every_command(self):
        for arguments in self.COMMANDS:
            with self.subTest(arguments=arguments), open("/dev/full", "wb") as full:
                done = subprocess.run([TOOL, *map(str, arguments)], stdout=full, stderr=subprocess.PIPE, check=False,
                                      timeout=300)
                self.assertEqual(done.returncode, FILE)
                self.assertIn(b"stdout: cannot be written", done.stderr)

    def test_errors_that_nobody_can_print_still_have_their_code(self):
        with open("/dev/full", "wb") as full:
            for arguments, code in ((("frobnicate",), USAGE), (("list", "--set", "/nonexistent"), FILE), (("list",), OK)):
                done = subprocess.run([TOOL, *arguments], stdout=subprocess.DEVNULL, stderr=full, check=False, timeout=60)
                self.assertEqual(done.returncode, code)

    def test_a_closed_stdout_is_noticed(self):
        done = subprocess.run(["bash", "-c", '"$0" list >&-', TOOL], stderr=subprocess.PIPE, check=False, timeout=60)
        self.assertEqual(done.returncode, FILE)

    def test_files_that_fail_are_no_bug_of_sagegen(self):
        os.symlink("loop", self.path("loop"))
        long_name = self.path("n" * 300)
        os.mkdir(self.path(FWD + ".ptx"))
        for path, why in ((self.path("loop"), "symbolic links"), (long_name, "name too long"),
                          ("/proc/self/mem", "Input/output error"), ("/dev/zero", "is a device")):
            for arguments in (("list", "--set", path), ("run", "--device", "emulator", "--input", path)):
                with self.subTest(arguments=arguments):
                    self.expect_error(FILE, "file error", [why], *arguments)
        for path, why in ((self.path("loop"), "symbolic links"), (long_name, "name too long"),
                          (self.path("loop", "x"), "symbolic links")):
            self.expect_error(FILE, "file error", [why], "run", "--device", "emulator", "--out", path)
            if GENERATOR:
                self.expect_error(FILE, "file error", [why], "emit", "--out", path, QUANTQ)
                self.expect_error(FILE, "file error", [why], "generate", "--root", path)
        if GENERATOR:
            self.expect_error(FILE, "file error", [FWD + ".ptx", "is a directory"], "emit", "--out", self.directory, FWD)
        for kernel in self.expect_json(OK, "list", "--target", "sm_89")["kernels"]:
            os.makedirs(self.path("ptx", kernel["key"] + ".ptx"))
        self.expect_error(FILE, "file error", [".ptx: cannot be read: Is a directory"], "run", "--device", "emulator",
                          "--target", "sm_89", "--ptx", self.path("ptx"))

    @needs_generator
    def test_folders_of_files_to_write_are_made(self):
        """One rule for every option that names what is written, of every command that has one."""
        small = ("--device", "emulator", "--q-len", 3, "--heads", 1, "--head-dim", 64)
        of_matrix = ("--device", "emulator:sm_89", "--head-dim", 64, "--q-len", 20, "--heads", 1, "--budget", 1, "--cache", self.path("cache"))
        scale = self.path("scale.ptx")
        with open(scale, "w", encoding="utf-8") as file:
            file.write(NOTHING)
        written = {
            ("emit", "--out"): (QUANTQ,), ("trace", "--out"): (QUANTQ,), ("run", "--out"): small, ("tune", "--html"): of_matrix,
            ("cache", "--out"): ("export", "--cache", self.path("cache")), ("completion", "--out"): ("bash",), ("man", "--out"): (),
            ("kv", "--out"): ("show", "0-3:K8V4"), ("bundle", "--out"): ("--plan", "head_dim=64", "--target", "sm_89", "--usual"), ("emu", "--out"): (scale, "--grid", 1, "--block", 32, "--arg", "x:u32[4]=iota"),
        }
        for (command, option), arguments in written.items():
            with self.subTest(command=command):
                path = self.path("of_" + command, "new", "x.npy")
                named = "x=" + path if command == "emu" else path
                self.expect(OK, command, *arguments, option, named)
                self.assertTrue(os.path.exists(path))
                closed = "/proc/sagegen/x.npy"
                refused = self.expect(FILE, command, *arguments, option, "x=" + closed if command == "emu" else closed)
                self.assertIn(closed[:-6], refused.err)
        # compare and inspect need ptxas for what they write, kv writes its page for the action that takes longer; all ask before.
        for command in re.findall(r"^  ([a-z]+) ", self.expect(OK, "--help").out.split("Subcommands:")[1].split("\n\n")[0], re.MULTILINE):
            for option in re.findall(r"^  (--out|--html|--svg)\b", self.expect(OK, command, "--help").out, re.MULTILINE):
                self.assertIn((command, option), [*written, ("compare", "--out"), ("inspect", "--svg"), ("kv", "--html")])

    def test_one_is_not_many(self):
        empty = self.expect(OK, "cache", "export", "--cache", self.path("none"), "--out", self.path("t"))
        self.assertIn("0 entries in", empty.out)
        self.assertIn("0 of 0 entries stored\n", self.expect(OK, "cache", "import", self.path("t"), "--cache", self.path("c")).out)
        if GENERATOR:
            self.expect(OK, "tune", "--device", "emulator:sm_89", "--head-dim", 64, "--q-len", 20, "--heads", 1, "--cache", self.path("one"))
            self.assertIn("1 entry in", self.expect(OK, "cache", "export", "--cache", self.path("one"), "--out", self.path("t")).out)
            take = ("cache", "import", self.path("t"), "--cache", self.path("c"))
            self.assertIn("1 of 1 entry stored\n", self.expect(OK, *take).out)
            self.assertIn("0 of 1 entry stored; the other is no newer than what is there", self.expect(OK, *take).out)
            self.assertIn("1 entry removed", self.expect(OK, "cache", "clear", "--cache", self.path("c")).out)

    def test_a_limit_that_no_size_is_within(self):
        for limit in ("1e-9", "1e-300"):
            refused = self.expect_error(USAGE, "usage error", ["not even one query and one key", "--yes"], "run", "--device", "emulator", "--limit", limit)
            self.assertNotIn("fewer heads", refused.err)
        self.expect_error(USAGE, "usage error", ["would do, or fewer heads;"], "run", "--device", "emulator", "--q-len", 8000, "--limit", "1")

    def test_a_damaged_bundle_is_told_to_who_made_it(self):
        with open(self.path("b.bundle"), "wb") as file:
            file.write(b"sagegen bundle?")
        self.expect_error(FILE, "file error", ["b.bundle", "`sagegen bundle`"], "run", "--device", "emulator", "--ptx", self.path("b.bundle"))

    def test_missing_permissions(self):
        os.mkdir(self.path("closed"), 0o000)
        self.addCleanup(os.chmod, self.path("closed"), 0o700)
        for arguments in (("list", "--set", self.path("closed", "x")), ("emit", "--out", self.path("closed", "x"), QUANTQ),
                          ("generate", "--root", self.path("closed"))):
            if GENERATOR or arguments[0] == "list":
                self.expect_error(FILE, "file error", ["Permission denied"], *arguments, before=BOUND_BY_PERMISSIONS)

    @unittest.skipIf(is_sanitized(), "sanitizers reserve address space")
    def test_memory_that_ends(self):
        with open(self.path("large.toml"), "wb") as file:
            file.truncate(64 << 30)
        for arguments in (("list", "--set", self.path("large.toml")),
                          ("run", "--device", "emulator", "--heads", 64, "--q-len", 32768)):
            self.expect_error(MACHINE, "out of memory", ["smaller inputs"], *arguments,
                              limits={resource.RLIMIT_AS: 1500 << 20})


    @needs_generator
    @unittest.skipIf(is_sanitized(), "sanitizers reserve address space")
    def test_memory_that_ends_anywhere_in_the_generator(self):
        limit, enough = 64 << 20, 0
        while enough < 8:   # in a row
            limits = {resource.RLIMIT_AS: limit}
            # What libraries need to be loaded is no business of sagegen.
            if sagegen("--version", limits=limits).code == OK:
                code = sagegen("emit", "--stdout", FWD, limits=limits).code
                self.assertIn(code, (OK, MACHINE), limit)
                enough = enough + 1 if code == OK else 0
            limit += 1 << 20


@unittest.skipIf(GENERATOR, "built with the generator")
class WithoutGenerator(CliTest):
    def test_says_so(self):
        for arguments in (("emit", QUANTQ), ("trace", QUANTQ), ("generate", "--root", SOURCE)):
            self.expect_error(CODEGEN, "codegen error", ["built without the generator"], *arguments)


@needs_generator
class Emit(CliTest):
    def test_stdout(self):
        first = self.expect(OK, "emit", "--stdout", QUANTQ).out
        self.assertIn(f".entry {QUANTQ}(", first)
        self.assertIn(".target sm_89", first)
        self.assertNotIn(".loc", first)
        self.assertEqual(first, self.expect(OK, "emit", "--stdout", QUANTQ).out)
        self.assertEqual(first, self.expect(OK, "emit", "--stdout", QUANTQ, QUANTQ).out)

    def test_lineinfo_names_the_template(self):
        text = self.expect(OK, "emit", "--stdout", "--lineinfo", QUANTQ).out
        self.assertIn(".loc", text)
        self.assertIn("quantize_rows/template.cpp", text)
        self.assertNotIn(SOURCE, text)

    def test_other_target(self):
        text = self.expect(OK, "emit", "--stdout", "--target", "sm_120", QUANTQ).out
        self.assertIn(QUANTQ.replace("sm89", "sm120"), text)
        self.assertIn(".target sm_120", text)

    def test_files(self):
        self.expect(OK, "emit", "--out", self.path("a", "b"), QUANTQ, FWD)
        self.assertEqual(set(os.listdir(self.path("a", "b"))), {f"{QUANTQ}.ptx", f"{FWD}.ptx"})
        with open(self.path("a", "b", f"{QUANTQ}.ptx"), encoding="utf-8") as file:
            self.assertEqual(file.read(), self.expect(OK, "emit", "--stdout", QUANTQ).out)

    def test_a_mode(self):
        def keys(*options):
            return [kernel["key"] for kernel in self.expect_json(OK, "emit", *options)["kernels"]]
        plain = keys("--mode", "16bit", "--target", "sm_86")
        self.assertEqual(len(plain), 8)   # head dims, dtypes, causal and not; no kernel prepares anything
        self.assertTrue(all("_sm0_" in key and key.endswith("__sm86") for key in plain))
        of_all = keys("--mode", "bf16-fp8")
        self.assertEqual({key.rsplit("__", 1)[1] for key in of_all}, {"sm89", "sm120"})
        self.assertEqual(len(of_all), 2 * (8 + 4 + 4))
        listed = self.expect_json(OK, "list", "--mode", "bf16-fp8")["kernels"]
        self.assertEqual([kernel["key"] for kernel in listed], of_all)
        self.assertEqual(set(keys("--mode", "int8-fp8", "--target", "sm_89")) - {kernel["key"] for kernel in self.expect_json(OK, "list")["kernels"]}, set())
        self.expect_error(USAGE, "usage error", ["--mode bf16-fp8", "sm_80", "no FP8"], "emit", "--mode", "bf16-fp8", "--target", "sm_80")
        self.expect_error(USAGE, "usage error", ["--mode", "the key says it"], "emit", "--mode", "16bit", QUANTQ)
        self.expect_error(USAGE, "usage error", ["--mode", "17bit"], "emit", "--mode", "17bit")

    def test_report(self):
        report = self.expect_json(OK, "emit", "--time", "--repeats", "3", QUANTQ)
        self.assertEqual(report["repeats"], 3)
        self.assertEqual([kernel["key"] for kernel in report["kernels"]], [QUANTQ])
        kernel = report["kernels"][0]
        self.assertGreater(kernel["milliseconds"], 0)
        self.assertLessEqual(kernel["milliseconds"], report["total_ms"])
        self.assertEqual(kernel["bytes"], len(self.expect(OK, "emit", "--stdout", QUANTQ).out))

    def test_contradictions(self):
        self.expect_error(USAGE, "usage error", ["--stdout", "2 are chosen"], "emit", "--stdout", QUANTQ, FWD)
        self.expect_error(USAGE, "usage error", ["--out"], "emit", "--stdout", "--out", self.path("x"), QUANTQ)
        self.expect_error(USAGE, "usage error", ["--json"], "emit", "--stdout", "--json", QUANTQ)
        self.expect_error(USAGE, "usage error", ["--time"], "emit", "--stdout", "--time", QUANTQ)
        self.expect_error(USAGE, "usage error", ["--repeats", "--time"], "emit", "--repeats", 3, QUANTQ)

    def test_files_are_replaced_and_not_overwritten(self):
        file = self.path(f"{QUANTQ}.ptx")
        self.expect(OK, "emit", "--out", self.directory, QUANTQ)
        os.rename(file, self.path("elsewhere"))
        os.symlink("elsewhere", file)
        with open(self.path("elsewhere"), "rb") as reader:
            self.expect(OK, "emit", "--out", self.directory, QUANTQ)
            self.assertNotEqual(os.fstat(reader.fileno()).st_ino, os.stat(file).st_ino)
            self.assertEqual(reader.read().decode(), self.expect(OK, "emit", "--stdout", QUANTQ).out)
        self.assertTrue(os.path.islink(file))
        self.assertEqual(sorted(os.listdir(self.directory)), sorted(["elsewhere", f"{QUANTQ}.ptx"]))

    def test_a_disk_that_fills_up_leaves_the_old_file(self):
        file = self.path(f"{QUANTQ}.ptx")
        with open(file, "w", encoding="utf-8") as old:
            old.write("old")
        self.expect_error(FILE, "file error", [file, "File too large"], "emit", "--out", self.directory, QUANTQ,
                          limits=FULL_DISK)
        with open(file, encoding="utf-8") as old:
            self.assertEqual(old.read(), "old")
        self.assertEqual(os.listdir(self.directory), [f"{QUANTQ}.ptx"])

    def test_long_work_tells_how_far_it_is(self):
        # On a terminal, after a second; more repeats than any machine makes in that time.
        main, side = pty.openpty()
        self.addCleanup(os.close, main)
        with subprocess.Popen([TOOL, "emit", "--time", "--repeats", "10000", FWD], stdout=subprocess.DEVNULL, stderr=side,
                              env={**os.environ, "TERM": "xterm"}) as process:
            os.close(side)
            text = b""
            while b" left" not in text:
                text += os.read(main, 1000)
            process.kill()
        self.assertRegex(text.decode(), r"emitting: [0-9]+ of 10000, [0-9]+ (s|min|h) left")

    def test_directory_that_cannot_be(self):
        with open(self.path("file"), "w", encoding="utf-8"):
            pass
        self.expect_error(FILE, "file error", [self.path("file", "x")], "emit", "--out", self.path("file", "x"),
                          QUANTQ)


@needs_generator
class Trace(CliTest):
    STAGES = ["kernel", "resources", "parameters", "LLVM IR as built", "LLVM IR optimized", "PTX"]

    def test_every_stage_in_order(self):
        report = self.expect_json(OK, "trace", QUANTQ)
        self.assertEqual([stage["title"] for stage in report["stages"]], self.STAGES)
        self.assertEqual(report["stages"][-1]["text"], self.expect(OK, "emit", "--stdout", QUANTQ).out)
        text = self.expect(OK, "trace", QUANTQ).out
        positions = [text.index(f"{i + 1}. {title}") for i, title in enumerate(self.STAGES)]
        self.assertEqual(positions, sorted(positions))

    def test_files(self):
        self.expect(OK, "trace", "--out", self.path("stages"), QUANTQ)
        self.assertEqual(sorted(os.listdir(self.path("stages"))),
                         ["1-kernel.txt", "2-resources.txt", "3-parameters.txt", "4-llvm-ir-as-built.ll",
                          "5-llvm-ir-optimized.ll", "6-ptx.ptx"])


SMALL_SET = ('[[attention]]\ntargets = ["sm_80"]\nhead_dim = [64]\nio = "f16"\ncausal = [false]\n')


@needs_generator
class Generate(CliTest):
    def setUp(self):
        super().setUp()
        os.makedirs(self.path("templates", "attention"))
        self.write("templates/attention/set.toml", SMALL_SET)

    def write(self, name, text):
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write(text)

    def read(self, name):
        with open(self.path(name), encoding="utf-8") as file:
            return file.read()

    def generate(self, code, *arguments):
        return self.expect(code, "generate", "--root", self.directory, *arguments)

    def samples(self):
        return sorted(os.listdir(self.path("generated", "sm_80")))

    def manifest(self):
        import json
        return json.loads(self.read("generated/manifest.json"))

    def test_writes_the_set_with_a_manifest_and_samples(self):
        import hashlib
        self.generate(OK)
        self.generate(OK, "--check")
        self.assertEqual(sorted(os.listdir(self.path("generated"))), ["kernels.bundle", "manifest.json", "sm_80"])
        name = "sage_quantrows_d64_f16_s8_r8_g32_fold__sm80"
        text = self.read(f"generated/sm_80/{name}.ptx")
        header, body = text.split("\n", 5)[:5], text.split("\n", 5)[5]
        for part in ("sagegen", "LLVM", "templates/quantize_rows", name, "sha256"):
            self.assertIn(part, "\n".join(header))
        self.assertTrue(all(line.startswith("//") for line in header))
        self.assertEqual(body, self.expect(OK, "emit", "--stdout", name).out)
        self.assertIn(hashlib.sha256(body.encode()).hexdigest(), header[4])

        manifest = self.manifest()
        self.assertEqual(manifest["bundle"], "kernels.bundle")
        self.assertEqual(sorted(k["file"] for k in manifest["kernels"] if "file" in k),
                         [f"sm_80/{sample}" for sample in self.samples()])
        for kernel in manifest["kernels"]:
            self.assertTrue(os.path.exists(os.path.join(SOURCE, kernel["room"])), kernel["room"])
            if "file" in kernel:
                data = self.read("generated/" + kernel["file"]).encode()
                self.assertEqual(kernel["bytes"], len(data))
                self.assertEqual(kernel["sha256"], hashlib.sha256(data).hexdigest())

    def test_one_sample_of_each_kind_and_all_kernels_in_the_bundle(self):
        self.write("templates/attention/set.toml", SMALL_SET.replace("[false]", "[false, true]"))
        self.generate(OK)
        kernels = self.manifest()["kernels"]
        self.assertEqual(len(kernels), 5)
        self.assertEqual(len(self.samples()), 4)
        self.assertEqual(sum(name.startswith("sage_fwd_d64_f16_qk") for name in self.samples()), 1)
        # All of them run from the bundle, and what is not in it is not made up.
        bundle = self.path("generated", "kernels.bundle")
        run = ("run", "--device", "emulator:sm_80", "--target", "sm_80", "--q-len", 40)
        for causal in (), ("--causal", "top-left"):
            made = self.expect_json(OK, *run, "--head-dim", 64, *causal)
            report = self.expect_json(OK, *run, "--head-dim", 64, *causal, "--ptx", bundle)
            self.assertEqual((report["ptx"], report["relative_l1"]), (bundle, made["relative_l1"]))
        self.expect_error(SPEC, "spec error", ["is in " + bundle, "that load on sm_80"], *run, "--head-dim", 128,
                          "--ptx", bundle)

    def test_a_newer_device_takes_the_kernels_of_a_lower_target(self):
        self.generate(OK)
        run = ("run", "--device", "emulator:sm_86", "--target", "sm_86", "--head-dim", 64, "--q-len", 40, "--ptx")
        for place in ("sm_80", "kernels.bundle"):
            report = self.expect_json(OK, *run, self.path("generated", place))
            self.assertTrue(report["passed"])
            self.assertTrue(all(name.endswith("__sm80") for name in report["kernels"]), report["kernels"])
        os.remove(self.path("generated", "sm_80", next(n for n in self.samples() if "_r4_" in n)))
        self.expect_error(SPEC, "spec error", ["needs sage_quantrows_", "sagegen emit --out", "kernels of this kind that load on sm_86"],
                          *run, self.path("generated", "sm_80"))

    def test_rewrites_only_what_changed(self):
        self.generate(OK)
        names = [self.path("generated", "sm_80", name) for name in self.samples()]
        names.append(self.path("generated", "kernels.bundle"))
        for name in names:
            os.utime(name, (1, 1))
        with open(names[0], "a", encoding="utf-8") as file:
            file.write("// edited\n")
        os.remove(names[1])
        self.generate(OK)
        self.assertGreater(os.stat(names[0]).st_mtime, 1)
        self.assertGreater(os.stat(names[1]).st_mtime, 1)
        self.assertEqual([os.stat(name).st_mtime for name in names[2:]], [1] * len(names[2:]))

    def test_check_reports_drift_and_changes_nothing(self):
        self.expect(CHECK_FAILED, "generate", "--check", "--root", self.directory)
        self.assertFalse(os.path.exists(self.path("generated")))
        self.generate(OK)
        changed, missing = self.samples()[:2]
        lines = self.read(f"generated/sm_80/{changed}").split("\n")
        lines[7] += " "
        self.write(f"generated/sm_80/{changed}", "\n".join(lines))
        os.remove(self.path("generated", "sm_80", missing))
        os.makedirs(self.path("generated", "sm_77"))
        self.write("generated/sm_77/old.ptx", "")
        text = self.generate(CHECK_FAILED, "--check").out
        self.assertIn(f"generated/sm_80/{changed}: differs from line 8 on", text)
        self.assertIn(f"generated/sm_80/{missing}: missing", text)
        self.assertIn("generated/sm_77/old.ptx: stale", text)
        self.assertFalse(os.path.exists(self.path("generated", "sm_80", missing)))
        self.generate(OK)
        self.assertFalse(os.path.exists(self.path("generated", "sm_77", "old.ptx")))
        self.generate(OK, "--check")

    def test_check_reports_what_drifted_inside_the_bundle(self):
        bundle = self.path("generated", "kernels.bundle")
        more = "sage_fwd_d64_f16_qk_s8t_g32x64_smk_pv_f16_f32_causal__q128k64w4s2__sm80"
        def kept():
            with open(bundle, "rb") as file:
                return file.read()
        self.generate(OK)
        small = kept()
        self.write("templates/attention/set.toml", SMALL_SET.replace("[false]", "[false, true]"))
        self.assertIn(f"generated/kernels.bundle: {more} is missing", self.generate(CHECK_FAILED, "--check").out)
        self.assertEqual(kept(), small)
        self.generate(OK)
        self.write("templates/attention/set.toml", SMALL_SET)
        self.assertIn(f"generated/kernels.bundle: {more} is stale", self.generate(CHECK_FAILED, "--check").out)
        self.generate(OK)
        self.assertEqual(kept(), small)   # byte for byte
        for damaged in (small[:-1], small[:100], b"", small[:-2] + bytes([small[-2] ^ 1]) + small[-1:]):
            with open(bundle, "wb") as file:
                file.write(damaged)
            text = self.generate(CHECK_FAILED, "--check").out
            self.assertIn("generated/kernels.bundle: cannot be read (kernels.bundle: ", text)
            self.generate(OK)
            self.assertEqual(kept(), small)
        os.remove(bundle)
        self.assertIn("generated/kernels.bundle: missing", self.generate(CHECK_FAILED, "--check").out)

    def test_several_descriptions_make_one_set(self):
        os.makedirs(self.path("templates", "more"))
        self.write("templates/more/set.toml", SMALL_SET.replace("[false]", "[false, true]"))
        self.generate(OK)
        self.assertEqual(len(self.manifest()["kernels"]), 5)

    def test_mistakes(self):
        self.write("templates/attention/set.toml", "[[attention]]\ntargets = [\"sm_77\"]\n")
        self.expect_error(SPEC, "spec error", ["set.toml:2:", "sm_77"], "generate", "--root", self.directory)
        shutil.rmtree(self.path("templates"))
        self.expect_error(USAGE, "usage error", ["--root"], "generate", "--root", self.directory)


if __name__ == "__main__":
    unittest.main()
