"""The script as a user runs it, dry: with fakes, and with sagegen's own kernels on the emulator."""
import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import unittest

from support import FAKES, LIBRARY, SOURCE, BenchTest

TOOL = os.environ.get("SAGEGEN_TOOL")
needs_library = unittest.skipUnless(LIBRARY, "no libsagegen.so that Python can load in this build")


class Cli(BenchTest):
    def run_dry(self, *arguments, code=0):
        return self.bench("run", "--dry", "--out", self.path("r.json"), "--contestants", FAKES, "--sagegen",
                          "/no/such/library", *arguments, code=code)

    def test_a_dry_run_with_fakes(self):
        out, _ = self.run_dry("--samples", "40", "--sustained", "0.02", code=1)   # some fakes are wrong
        document = self.json(self.path("r.json"))
        self.assertIs(document["dry"], True)
        self.assertIn("DRY RUN", out)
        self.assertIn("device dry run", out)
        self.assertIn("with fake fast", out)
        status = {(r["contestant"], r["status"]) for r in document["records"]}
        for expected in (("fake fast", "measured"), ("fake that breaks", "failed"),
                         ("fake that refuses", "unsupported"), ("fake that refuses", "measured")):
            self.assertIn(expected, status)
        self.assertIn("never there", document["unavailable"]["fake that is absent"])
        for peer in ("sagegen", "cuDNN FP8", "SDPA cuDNN BF16", "SDPA flash BF16", "Triton tutorial FP16",
                     "FlashAttention-3 FP8", "SageAttention2"):
            self.assertIn(peer, document["unavailable"])
        session = document["sessions"][0]
        self.assertIn("--samples", session["command"])
        self.assertRegex(session["started"], r"^\d{4}-\d\d-\d\dT")
        self.assertIn("valid", self.bench("check", self.path("r.json"))[0])

    def test_a_second_run_measures_nothing_again(self):
        self.run_dry("--shapes", "d64_full", "--only", "fast")
        before = self.json(self.path("r.json"))["records"]
        out, _ = self.run_dry("--shapes", "d64_full", "--only", "fast")
        self.assertEqual(self.json(self.path("r.json"))["records"], before)
        self.assertNotIn("TFLOPS", out)
        out, _ = self.run_dry("--shapes", "d64_full", "--only", "fast", "--only", "slow")
        self.assertEqual(set(re.findall(r"fake \w+(?= .*TFLOPS)", out)), {"fake slow"})

    def test_a_budget_stops_between_shapes_and_the_next_run_goes_on(self):
        sizes = []
        for _ in range(4):
            out, _ = self.run_dry("--only", "slow", "--budget", "0.001", code=4)
            self.assertIn("run the same command again", out)
            sizes.append(len(self.json(self.path("r.json"))["records"]))
            if sizes[-1] == 3:
                break
        self.assertEqual(sizes, [1, 2, 3])
        self.run_dry("--only", "slow", "--budget", "1000")
        self.assertEqual(len(self.json(self.path("r.json"))["records"]), 4)

    def test_a_contestant_that_takes_the_device_down_does_not_end_the_run(self):
        os.mkdir(self.path("more"))
        with open(self.path("more", "deadly.py"), "w", encoding="utf-8") as file:
            file.write("from attention.contestant import Contestant\n"
                       "class Deadly(Contestant):\n"
                       "    name = 'deadly'\n"
                       "    def prepare(self, shape, inputs):\n"
                       "        self.platform.healthy = lambda: False\n"
                       "        raise RuntimeError('illegal address')\n")
        out, _ = self.run_dry("--contestants", self.path("more"), "--only", "slow", "--only", "deadly",
                              "--budget", "1000", "--retry-failed", code=1)
        document = self.json(self.path("r.json"))
        found = [(r["contestant"], r["status"]) for r in document["records"]]
        self.assertEqual(found.count(("deadly", "failed")), 2)       # then it is left out
        self.assertEqual(found.count(("fake slow", "measured")), 4)
        self.assertEqual(len(found), 6)
        self.assertEqual(len(document["sessions"]), 3)
        self.assertEqual(out.count("the device is lost"), 2)
        self.assertIn("illegal address", document["records"][0]["reason"])

    HANGING = ("import os, time\n"
               "from attention.contestant import Contestant\n"
               "class Hanging(Contestant):\n"
               "    name = 'hanging'\n"
               "    patience_s = 0.3\n"
               "    def prepare(self, shape, inputs):\n")

    def hanging(self, what, *arguments):
        """Runs with a contestant that does this while it prepares a shape."""
        os.makedirs(self.path("more"), exist_ok=True)
        with open(self.path("more", "hanging.py"), "w", encoding="utf-8") as file:
            file.write(f"{self.HANGING}        {what}\n")
        return ("--contestants", self.path("more"), "--only", "slow", "--only", "hanging", *arguments)

    def test_a_contestant_that_hangs_does_not_end_the_run(self):
        out, _ = self.run_dry(*self.hanging("time.sleep(3600)"), code=1)
        found = [(r["contestant"], r["status"]) for r in self.json(self.path("r.json"))["records"]]
        self.assertEqual(found.count(("hanging", "failed")), 2)      # then it is left out
        self.assertEqual(found.count(("fake slow", "measured")), 4)
        self.assertEqual(out.count("no progress for 0.3 s: a new process goes on"), 2)
        self.assertFalse(os.path.exists(self.path("r.json.started")))
        self.bench("check", self.path("r.json"))

    def test_a_contestant_during_whose_work_the_process_died_is_known_to_the_next(self):
        self.run_dry(*self.hanging("os._exit(9)"), code=9)
        self.assertEqual(self.json(self.path("r.json.started"))["contestant"], "hanging")
        self.run_dry(*self.hanging("os._exit(9)"), code=9)
        self.run_dry(*self.hanging("os._exit(9)"), code=1)
        records = self.json(self.path("r.json"))["records"]
        lost = [r for r in records if r["contestant"] == "hanging"]
        self.assertEqual(len({r["shape"]["name"] for r in lost}), 2)
        for record in lost:
            self.assertTrue(record["reason"].startswith("lost the device: "), record["reason"])
        self.assertEqual(sum(r["status"] == "measured" for r in records), 4)

    def test_a_record_of_another_protocol_is_not_taken_over(self):
        self.run_dry(*self.hanging("os._exit(9)"), code=9)
        self.run_dry(*self.hanging("raise OSError", "--samples", "5", "--shapes", "d64_full"), code=1)
        self.assertIn("OSError", self.json(self.path("r.json"))["records"][-1]["reason"])
        self.assertNotIn("lost the device", str(self.json(self.path("r.json"))["records"]))

    def test_reports(self):
        self.run_dry("--only", "fast", "--only", "slow")
        _, err = self.bench("report", self.path("r.json"), "--out", self.path("report"), code=2)
        self.assertIn("--allow-dry", err)
        self.assertFalse(os.path.exists(self.path("report")))
        self.bench("report", self.path("r.json"), "--out", self.path("report"), "--allow-dry")
        names = os.listdir(self.path("report"))
        self.assertIn("report.md", names)
        self.assertIn("d128_full_burst.svg", names)
        for name in names:
            with open(self.path("report", name), encoding="utf-8") as file:
                self.assertIn("DRY RUN", file.read())

    def test_mistakes(self):
        for arguments, words in ((("--shapes", "d99"), "d128_full"), (("--only", "nobody"), "fake fast"),
                                 (("--budget", "0"), "positive"), (("--samples", "1"), "samples"),
                                 (("--sustained", "-1"), "sustained"),
                                 (("--contestants", "/nowhere"), "no such directory")):
            self.assertIn(words, self.run_dry(*arguments, code=2)[1])
        self.assertIn("nobody to measure", self.run_dry("--only", "absent", code=2)[1])
        self.assertIn("No such file", self.bench("check", self.path("absent.json"), code=2)[1])
        self.bench("run", "--dry", code=2)

    def test_a_broken_file_of_contestants_does_not_stop_the_others(self):
        base = "from attention.contestant import Contestant\nclass A(Contestant):\n    name = "
        os.mkdir(self.path("more"))
        with open(self.path("more", "twice.py"), "w", encoding="utf-8") as file:
            file.write(base + "'fake fast'\n")
        self.assertIn("two contestants are called fake fast",
                      self.run_dry("--contestants", self.path("more"), code=2)[1])
        with open(self.path("more", "twice.py"), "w", encoding="utf-8") as file:
            file.write(f"{base}'broken'\n    def unavailable(self):\n        raise OSError('no library')\n")
        self.run_dry("--contestants", self.path("more"), "--only", "slow", "--shapes", "d64_full")
        self.assertIn("no library", self.json(self.path("r.json"))["unavailable"]["broken"])

    def test_no_result_of_a_dry_run_is_in_the_repository(self):
        directory = os.path.join(SOURCE, "tools", "bench", "results")
        for folder, _, names in os.walk(directory):
            for name in names:
                if name.endswith(".json"):
                    path = os.path.join(folder, name)
                    self.assertIs(self.json(path)["dry"], False, path)
                    if name.startswith("micro_"):
                        table = os.path.join(SOURCE, "tools", "bench", "micro_table.py")
                        subprocess.run([sys.executable, table, path], check=True, stdout=subprocess.DEVNULL)
                    else:
                        self.bench("check", path)


@needs_library
class Sagegen(BenchTest):
    def test_its_kernels_run_on_the_emulator_and_are_accurate(self):
        self.bench("run", "--dry", "sm_89", "--out", self.path("r.json"), "--sagegen", LIBRARY)
        records = self.json(self.path("r.json"))["records"]
        self.assertEqual({r["status"] for r in records}, {"measured"})
        self.assertEqual({r["precision"] for r in records}, {"INT8 + FP8", "INT8 + FP16", "INT4 + FP8", "INT4 + FP16"})
        for record in records:
            self.assertEqual(set(record["times"]), {"kernel", "quantization", "end_to_end"})
            self.assertRegex(record["versions"]["libsagegen"], r"^\d+\.\d+\.\d+ sha256:")
            for figures in (record["accuracy"] or {}).values():
                self.assertEqual(figures["nan_count"], 0)
                # e4m3 alone costs 0.036; INT4 0.2, and up to 0.31 where channels have outliers.
                self.assertLess(figures["relative_l1"], 0.35 if record["precision"].startswith("INT4") else 0.06)
                self.assertGreater(figures["relative_l1"], 0)

    def test_kernels_of_lower_targets_take_part_if_asked(self):
        from attention import capi, platform
        from attention.contestants import sagegen
        device = capi.Device(capi.Library(LIBRARY), "emulator:sm_89")
        self.addCleanup(device.close)
        every, best = sagegen.families(device.kernels())[0], sagegen.best_families(device.kernels())
        self.assertGreater(len(every), len(best))
        self.assertTrue(all((64, True) in kernels and (128, False) in kernels for kernels in best.values()))
        self.assertEqual({sagegen.short_name(family) for family in best},
                         {"int8-fp8 sm_89", "int8-fp16 sm_86", "int4-fp8 sm_89", "int4-fp16 sm_86"})
        # Hopper's tensor cores have no INT4.
        hopper = capi.Device(capi.Library(LIBRARY), "emulator:sm_90")
        self.addCleanup(hopper.close)
        self.assertEqual({sagegen.short_name(family) for family in sagegen.best_families(hopper.kernels())},
                         {"int8-fp8 sm_89", "int8-fp16 sm_86"})
        machine = platform.DryPlatform()
        options = {"sagegen_library": LIBRARY, "all_families": True}
        self.assertEqual(len(sagegen.Sagegen.variants(machine, options)), len(every))
        self.assertTrue(any("f32f16" in family for family in every))

    def test_kernels_of_unquantized_q_and_k_have_names(self):
        from attention.contestants import sagegen
        keys = ["sage_fwd_d64_bf16_qk_bf16t_g32x64_sm0_pv_bf16_f32__q128k64w4s2__sm80",
                "sage_fwd_d128_bf16_qk_bf16t_g32x64_sm0_pv_bf16_f32_causal__q128k64w4s1__sm80",
                "sage_fwd_d64_bf16_qk_bf16t_g32x64_sm0_pv_e4m3_f32x2__q128k64w4s2__sm89"]
        best = sagegen.best_families(keys)
        self.assertEqual({sagegen.short_name(family): sagegen.precision(family) for family in best},
                         {"16bit sm_80": "BF16 + BF16", "bf16-fp8 sm_89": "BF16 + FP8"})
        self.assertEqual(sorted(len(kernels) for kernels in best.values()), [1, 2])

    def test_kernels_with_masks_that_no_shape_has_are_left_out(self):
        from attention.contestants import sagegen
        key = "sage_fwd_d64_bf16_qk_s8t_g32x64_smk_pv_e4m3_f32x2{}__q128k64w4s2__sm89"
        kernels, _ = sagegen.families([key.format(mods) for mods in
                                       ("", "_causal", "_window", "_causal_window", "_causal_window_sinks", "_sinks")])
        self.assertEqual(list(kernels.values()), [{(64, False): key.format(""), (64, True): key.format("_causal")}])

    @staticmethod
    def fields(struct):
        """Names in order, those of its base first."""
        return [name for base in reversed(struct.__mro__) for name, _ in base.__dict__.get("_fields_", [])]

    @unittest.skipUnless(shutil.which("cc"), "no C compiler")
    def test_structs_are_those_of_the_header(self):
        from attention import capi
        structs = {"attention_options": capi.AttentionOptions, "shape": capi.CShape, "tensor": capi.Tensor,
                   "arguments": capi.Arguments}
        members = [(f"sagegen_{name}", member) for name, struct in structs.items() for member in self.fields(struct)]
        with open(self.path("sizes.c"), "w", encoding="utf-8") as file:
            file.write('#include <stdio.h>\n#include "sagegen/sagegen.h"\nint main(void) {\n')
            file.writelines(f'  printf("%zu\\n", sizeof(sagegen_{name}));\n' for name in structs)
            file.writelines(f'  printf("%zu\\n", offsetof({struct}, {member}));\n' for struct, member in members)
            file.write("  return 0;\n}\n")
        subprocess.run(["cc", "-I", os.path.join(SOURCE, "runtime", "include"), self.path("sizes.c"), "-o",
                        self.path("sizes")], check=True)
        printed = subprocess.run([self.path("sizes")], check=True, capture_output=True, text=True).stdout.split()
        ours = [ctypes.sizeof(struct) for struct in structs.values()]
        ours += [getattr(struct, member).offset for struct in structs.values() for member in self.fields(struct)]
        self.assertEqual([int(word) for word in printed], ours)

    @unittest.skipUnless(TOOL, "no tool with the generator in this build")
    def test_kernels_of_a_directory(self):
        with open(os.path.join(SOURCE, "generated", "manifest.json"), encoding="utf-8") as file:
            keys = [kernel["key"] for kernel in json.load(file)["kernels"] if kernel["target"] == "sm_89"]
        name = next(key for key in keys if key.startswith("sage_fwd_d64_bf16_qk"))
        subprocess.run([TOOL, "emit", "--out", self.directory, name,
                        *(key for key in keys if "_d64_bf16_" in key and "fwd" not in key)],
                       check=True, capture_output=True)
        self.bench("run", "--dry", "--out", self.path("r.json"), "--sagegen", LIBRARY, "--ptx",
                   self.directory, "--only=(--ptx)", "--shapes", "d64_full")
        record, = self.json(self.path("r.json"))["records"]
        self.assertEqual(record["status"], "measured")
        self.assertTrue(record["contestant"].endswith("(--ptx)"))


if __name__ == "__main__":
    unittest.main()
