"""Every command but `run`: what it reports, and how it refuses."""
import os
import shutil
import unittest

from support import (CHECK_FAILED, CODEGEN, FILE, FWD, OK, QUANTQ, SOURCE, SPEC, USAGE, CliTest, has_generator)

COMMANDS = ("targets", "list", "emit", "inspect", "trace", "generate", "run", "devices", "env")
TARGETS = ("sm_80", "sm_86", "sm_89", "sm_120")
GENERATOR = has_generator()
needs_generator = unittest.skipUnless(GENERATOR, "built without the generator")


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

    def test_env(self):
        report = self.expect_json(OK, "env")
        self.assertRegex(report["sagegen"], r"^\d+\.\d+\.\d+$")
        self.assertTrue(os.path.samefile(report["executable"], os.environ["SAGEGEN_TOOL"]))
        self.assertIn("CUDA_VISIBLE_DEVICES", report["variables"])

    def test_inspect(self):
        text = self.expect(OK, "inspect", FWD).out
        for part in ("head_dim 64", "8 scales", "m16n8k32", "bytes of shared memory", "L40", "keys 2t, 2t + 1"):
            self.assertIn(part, text)
        report = self.expect_json(OK, "inspect", FWD)
        self.assertEqual((report["kind"], report["threads"], report["dynamic_smem"]), ("attention", 128, 24576))
        for kernel in self.expect_json(OK, "list")["kernels"]:
            self.assertIn(kernel["key"], self.expect(OK, "inspect", kernel["key"]).out)


class BadKernels(CliTest):
    def test_bad_key(self):
        self.expect_error(SPEC, "spec error", ["token 2 \"bwd\"", "position 6"], "inspect",
                          FWD.replace("fwd", "bwd"))
        for command in ("inspect", "trace", "emit", "list"):
            self.expect_error(SPEC, "spec error", ["\"KEY\"", "`sagegen list` shows the keys"], command, "KEY")

    def test_impossible_tile(self):
        key = FWD.replace("q128k64w4s2", "q128k64w3s9")
        self.expect_error(SPEC, "spec error", [key, "3 warps", "stages 9"], "emit", key)

    def test_head_dim_0(self):
        self.expect_error(SPEC, "spec error", ["head_dim 0", "64 and 128"], "emit", FWD.replace("d64", "d0"))

    def test_unknown_target(self):
        for command in ("list", "emit"):
            self.expect_error(SPEC, "spec error", ["sm_77", "sm_80, sm_86, sm_89, sm_120"], command, "--target",
                              "sm_77")

    def test_kernel_that_a_target_cannot_have(self):
        self.expect_error(SPEC, "spec error", ["e4m3", "sm_80", "no FP8"], "emit", "--target", "sm_80", FWD)

    def test_bad_set_description(self):
        path = self.path("set.toml")
        with open(path, "w", encoding="utf-8") as file:
            file.write("[[attention]]\ntargets = [\"sm_89\"]\nmasks = [\"window\"]\n")
        self.expect_error(SPEC, "spec error", [f"{path}:3:10:", "window", "none, causal"], "list", "--set", path)

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
        self.assertIn("quantize_q.cpp", text)
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

    def test_directory_that_cannot_be(self):
        with open(self.path("file"), "w", encoding="utf-8"):
            pass
        self.expect_error(FILE, "file error", [self.path("file", "x")], "emit", "--out", self.path("file", "x"),
                          QUANTQ)


@needs_generator
class Trace(CliTest):
    STAGES = ["spec", "resources", "LLVM IR as built", "LLVM IR optimized", "PTX"]

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
                         ["1-spec.txt", "2-resources.txt", "3-llvm-ir-as-built.ll", "4-llvm-ir-optimized.ll",
                          "5-ptx.ptx"])


SMALL_SET = ('[[attention]]\ntargets = ["sm_80"]\nhead_dims = [64]\nio = ["f16"]\nmasks = ["none"]\n')


@needs_generator
class Generate(CliTest):
    def setUp(self):
        super().setUp()
        os.makedirs(self.path("templates", "specs"))
        self.write("templates/specs/small.toml", SMALL_SET)

    def write(self, name, text):
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write(text)

    def read(self, name):
        with open(self.path(name), encoding="utf-8") as file:
            return file.read()

    def generate(self, code, *arguments):
        return self.expect(code, "generate", "--root", self.directory, *arguments)

    def kernels(self):
        return sorted(os.listdir(self.path("generated", "sm_80")))

    def test_writes_the_set_with_a_manifest(self):
        self.generate(OK)
        self.generate(OK, "--check")
        self.assertEqual(len(self.kernels()), 4)
        name = "sage_quantq_d64_f16_s8t_g32_sm80"
        text = self.read(f"generated/sm_80/{name}.ptx")
        header, body = text.split("\n", 5)[:5], text.split("\n", 5)[5]
        for part in ("sagegen", "LLVM", "templates/quantize/quantize_q.cpp", name, "sha256"):
            self.assertIn(part, "\n".join(header))
        self.assertTrue(all(line.startswith("//") for line in header))
        self.assertEqual(body, self.expect(OK, "emit", "--stdout", name).out)

        import hashlib
        import json
        self.assertIn(hashlib.sha256(body.encode()).hexdigest(), header[4])
        manifest = json.loads(self.read("generated/manifest.json"))
        self.assertEqual(sorted(f"{k['key']}.ptx" for k in manifest["kernels"]), self.kernels())
        for kernel in manifest["kernels"]:
            data = self.read("generated/" + kernel["file"]).encode()
            self.assertEqual(kernel["bytes"], len(data))
            self.assertEqual(kernel["sha256"], hashlib.sha256(data).hexdigest())
            self.assertTrue(os.path.exists(os.path.join(SOURCE, kernel["template"])), kernel["template"])

    def test_rewrites_only_what_changed(self):
        self.generate(OK)
        names = [self.path("generated", "sm_80", name) for name in self.kernels()]
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
        changed, missing = self.kernels()[:2]
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

    def test_several_descriptions_make_one_set(self):
        self.write("templates/specs/more.toml", SMALL_SET.replace('"none"', '"none", "causal"'))
        self.generate(OK)
        self.assertEqual(len(self.kernels()), 5)

    def test_mistakes(self):
        self.write("templates/specs/small.toml", "[[attention]]\ntargets = [\"sm_77\"]\n")
        self.expect_error(SPEC, "spec error", ["small.toml:2:12:", "sm_77"], "generate", "--root", self.directory)
        shutil.rmtree(self.path("templates"))
        self.expect_error(USAGE, "usage error", ["--root"], "generate", "--root", self.directory)


if __name__ == "__main__":
    unittest.main()
