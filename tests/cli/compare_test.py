"""`sagegen compare`: tables of modes, picks within bounds, and the map of layers that they become."""
import os
import re
import unittest

from support import (CHECK_FAILED, CODEGEN, DRIVER, FILE, OK, SOURCE, SPEC, USAGE, CliTest, has_generator, has_ptxas,
                     safetensors)

GENERATOR = has_generator()
needs_generator = unittest.skipUnless(GENERATOR, "built without the generator")
needs_ptxas = unittest.skipUnless(has_ptxas(), "no generator, or no ptxas")
RECORDED = os.path.join(SOURCE, "tests", "data", "minilm_qkv.safetensors")
SMALL = ("--heads", 2, "--q-len", 70, "--kv-len", 65, "--head-dim", 64)
LAYERS = ("--target", "sm_80", "--input", RECORDED, "--prefix", "layer0", "layer2")
TWO = ("--only", "granularity=per_thread smoothing=k pv=f16 accumulation=f32")   # INT8 and INT4
FIGURES = ("cosine_similarity", "relative_l1", "rmse", "max_abs")


class CompareTest(CliTest):
    def setUp(self):
        super().setUp()
        environment = dict(os.environ)
        self.addCleanup(lambda: (os.environ.clear(), os.environ.update(environment)))

    def compare(self, *arguments, code=OK):
        return self.expect_json(code, "compare", *arguments)

    def one_layer(self, *arguments, code=OK):
        report = self.compare(*arguments, code=code)
        self.assertEqual(len(report["layers"]), 1)
        return report["layers"][0]

    def without_ptxas(self):
        os.environ["SAGEGEN_PTXAS"] = self.path("none")


class Errors(CompareTest):
    def same_as_run(self, inputs, modes):
        """modes: [(values of `what`, options of `run`)]"""
        layer = self.one_layer(*inputs)
        for values, options in modes:
            kernel = next(k for k in layer["kernels"] if values.items() <= k["what"].items())
            run = self.expect_json(OK, "run", "--device", "emulator", "--target", "sm_89", "--checks", "off", *inputs, *options)
            for figure in FIGURES:
                self.assertEqual(kernel[figure], run["model"][figure], (figure, kernel["key"]))
            self.assertEqual(kernel["lse"]["max_abs"], run["model"]["lse"]["max_abs"])
            self.assertEqual(layer["judged"], run["judged"])

    def test_of_formats_they_are_those_of_run(self):
        self.without_ptxas()
        usual = {"qk": "s8", "granularity": "per_thread", "smoothing": "k", "pv": "e4m3"}
        modes = [(usual, ())]
        if GENERATOR:
            modes += [({**usual, "smoothing": "none"}, ("--smoothing", "none")),
                      ({**usual, "granularity": "per_block", "pv": "f16"}, ("--mode", "int8-fp16", "--granularity", "per_block")),
                      ({**usual, "qk": "s4", "smoothing": "qk"}, ("--mode", "int4-fp8"))]
        self.same_as_run(("--dist", "k_bias", "--head-dim", 128, "--q-len", 150), modes)
        self.same_as_run(("--input", RECORDED, "--prefix", "layer2", "--causal", "top-left"), modes)

    @needs_generator
    def test_of_kernels_they_are_those_of_run(self):
        report = self.compare(*SMALL, "--device", "emulator", "--target", "sm_80", "--only",
                              "qk=s8 smoothing=k granularity=per_thread")
        self.assertEqual(report["errors_of"], "emulator:sm_80")
        kernels = report["layers"][0]["kernels"]
        # What kernels compute tells accumulations apart, so that all are there.
        self.assertGreater(len({k["what"]["accumulation"] for k in kernels}), 1)
        self.assertTrue(all(k["passed"] for k in kernels))
        run = self.expect_json(OK, "run", kernels[0]["key"], "--device", "emulator", *SMALL)
        for figure in (*FIGURES, "non_finite", "lse"):
            self.assertEqual(kernels[0][figure], run[figure], figure)

    def test_the_worst_row_is_where_it_was_planted(self):
        channels, tokens, odd = 64, 70, 37
        q, k = [0.0] * (tokens * channels), [0.0] * (tokens * channels)
        v = [1.0] * (tokens * channels)   # which every format holds
        q[odd * channels + 5] = k[odd * channels + 5] = 100.0   # this query looks at this key alone
        v[odd * channels + 3] = 0.53   # which e4m3 rounds
        with open(self.path("in.safetensors"), "wb") as file:
            file.write(safetensors({name: ("F16", [1, 1, tokens, channels], values)
                                    for name, values in (("q", q), ("k", k), ("v", v))}))
        self.without_ptxas()
        for kernel in self.one_layer("--input", self.path("in.safetensors"), "--only", "pv=e4m3 qk=s8")["kernels"]:
            self.assertEqual(kernel["worst_row"]["at"], [0, 0, odd], kernel["key"])

    def test_long_inputs_are_sampled(self):
        self.without_ptxas()
        sample = (*SMALL, "--only", "qk=s8 smoothing=k", "--judge-rows", 20)
        layer = self.one_layer(*sample)
        self.assertLess(layer["judged"]["rows"], 40)
        self.assertEqual(layer["judged"]["of"], 140)
        other = self.one_layer(*sample, "--judge-seed", 5)
        self.assertNotEqual(layer["kernels"][0]["relative_l1"], other["kernels"][0]["relative_l1"])

    def test_masks(self):
        self.without_ptxas()
        one = (*SMALL, "--only", "qk=s8 smoothing=k pv=f16 granularity=per_thread")
        plain = self.one_layer(*one)
        layer = self.one_layer(*one, "--causal", "bottom-right", "--window", "20,0", "--dtype", "bf16")
        what = layer["kernels"][0]["what"]
        self.assertEqual((what["causal"], what["window"], what["io"]), (True, True, "bf16"))
        self.assertEqual((layer["causal"], layer["mods"]), ("bottom-right", ["window 20,0"]))
        self.assertNotEqual(layer["kernels"][0]["relative_l1"], plain["kernels"][0]["relative_l1"])

    def test_a_device_that_is_not_there(self):
        self.expect_error(USAGE, "usage error", ["--device tpu is unknown"], "compare", "--device", "tpu")
        if not self.expect_json(OK, "devices")["cuda"]:
            self.expect_error(DRIVER, "driver error", ["no GPU"], "compare", "--device", "cuda:0")


class Tables(CompareTest):
    def test_without_ptxas_there_is_no_speed_and_it_says_why(self):
        self.without_ptxas()
        text = self.expect(OK, "compare", *SMALL).out
        for part in ("of the number formats alone", "speed    none: ", "ptxas" if GENERATOR else "built without it",
                     "qk   granularity  smoothing  pv    accumulation   code_range", "cosine", "rel. L1", "worst row", "LSE", "140 of 140 rows"):
            self.assertIn(part, text)
        self.assertNotIn("TOPS", text)
        report = self.compare(*SMALL)
        self.assertEqual(len(report["layers"][0]["kernels"]), 125)
        self.assertNotIn("predicted_tops", report["layers"][0]["kernels"][0])
        self.assertIn("no_speed", report)
        self.assertNotIn("speed", report)

    @needs_generator
    def test_an_assembler_that_refuses_leaves_a_table_without_speeds(self):
        old = self.path("ptxas")
        with open(old, "w", encoding="utf-8") as file:
            file.write('#!/bin/sh\n[ "$1" = --version ] && echo "release 9.9, V9.9.99" || { echo "too new for me"; exit 1; }\n')
        os.chmod(old, 0o755)
        os.environ["SAGEGEN_PTXAS"] = old
        text = self.expect(OK, "compare", *SMALL, "--only", "qk=s8 smoothing=k").out
        self.assertRegex(text, r"speed    none: ptxas 9\.9\.99 refuses .*too new for me")
        self.assertNotIn("TOPS", text)
        self.expect_error(CODEGEN, "codegen error", ["too new for me"], "compare", *SMALL, "--only", "qk=s8 smoothing=k",
                          "--pick", "--max-l1", 1)

    @needs_ptxas
    def test_speeds_are_those_of_inspect(self):
        some = (*SMALL, "--only", "smoothing=k pv=e4m3 granularity=per_thread accumulation=two_level_f32", "--gpu", "l40s")
        report = self.compare(*some, "RTX4090")
        self.assertEqual(report["target"], "sm_89")
        self.assertEqual((report["speed"]["kind"], report["speed"]["gpus"]), ("prediction", ["L40S", "RTX4090"]))
        kernels = report["layers"][0]["kernels"]
        self.assertEqual(len(kernels), 2)
        for gpu in report["speed"]["gpus"]:
            model = self.expect_json(OK, "inspect", "--model", kernels[0]["key"], "--gpu", gpu)["model"]
            self.assertEqual(kernels[0]["predicted_tops"][gpu], model["tops"])
        speeds = [kernel["predicted_tops"]["L40S"] for kernel in kernels]
        self.assertEqual(speeds, sorted(speeds, reverse=True))   # the first GPU orders
        text = self.expect(OK, "compare", *some).out
        for part in ("predicted for L40S, no measurement", "below 10 % rank", "L40S TOPS"):
            self.assertIn(part, text)

    def test_texts_narrow(self):
        self.without_ptxas()
        def keys(*texts):
            return [kernel["key"] for kernel in self.one_layer(*SMALL, "--target", "sm_80", *texts)["kernels"]]
        some, others = keys("--only", "qk=s4 smoothing=qk"), keys("--only", "qk=s8 smoothing=k")
        self.assertEqual((len(some), len(others)), (8, 8))   # granularities, sums in f32 and in f16
        for both in (("--only", "qk=s4 smoothing=qk", "qk=s8 smoothing=k"),
                     ("--only", "qk=s4 smoothing=qk", "--only", "qk=s8 smoothing=k")):
            self.assertEqual(keys(*both), some + others)
        packed = keys("--only", "qk=s8 smoothing=k pack_gqa=true")   # not among the others unless a text says so
        self.assertEqual((len(packed), all("_packgqa__" in key for key in packed)), (8, True))
        self.assertFalse(any("_packgqa__" in key for key in others + keys()))

    def test_a_set(self):
        self.without_ptxas()
        with open(self.path("a.toml"), "w", encoding="utf-8") as file:
            file.write('[[attention]]\ntargets = ["sm_80", "sm_89"]\nhead_dim = 64\npv = "f16"\n'
                       'schedules = ["q128k64w4s2", "q64k64w4s2"]\n[[attention]]\ntargets = "sm_80"\ncausal = true\n')
        of_set = (*SMALL, "--target", "sm_80", "--set", self.path("a.toml"))
        self.assertEqual([kernel["how"]["cta_q"] for kernel in self.one_layer(*of_set)["kernels"]], [128, 64])
        self.expect_error(SPEC, "spec error", ["a.toml has no attention kernel for sm_80", "io=bf16"], "compare", *of_set,
                          "--dtype", "bf16")
        self.expect_error(USAGE, "usage error", ["--only", "is empty"], "compare", *SMALL, "--only", "")
        self.expect_error(FILE, "file error", ["there is no tensor 'nope.q'"], "compare", "--target", "sm_80", "--input",
                          RECORDED, "--prefix", "layer0", "nope")
        self.expect_error(USAGE, "usage error", ["--set", "--only"], "compare", *of_set, "--only", "qk=s8")
        self.expect_error(USAGE, "usage error", ["inputs=given", "changes no error", "leave inputs out"], "compare", *SMALL,
                          "--only", "qk=s8 inputs=given")


@needs_ptxas
class Picks(CompareTest):
    def pick(self, *arguments, code=OK):
        return self.compare(*LAYERS, *TWO, "--pick", *arguments, code=code)

    def codes(self, *bounds):
        return ["s4" if "_qk_s4" in layer["picked"] else "s8" for layer in self.pick(*bounds)["layers"]]

    def test_int4_where_it_suffices(self):
        self.assertEqual(self.codes("--min-cosine", 0.98), ["s4", "s4"])
        self.assertEqual(self.codes("--min-cosine", 0.98, "--max-l1", 0.01), ["s8", "s8"])   # both bounds
        for bound in (("--min-cosine", 0.99), ("--max-l1", 0.1), ("--max-rmse", 0.03), ("--max-row-l1", 0.5), ("--max-lse", 0.5)):
            self.assertEqual(self.codes(*bound), ["s4", "s8"], bound)

    def test_it_is_the_fastest_within_the_bounds(self):
        report = self.compare("--input", RECORDED, "--prefix", "layer2", "--pick", "--min-cosine", 0.999, "--max-l1", 0.02,
                              "--speed-margin", 0)
        self.assertEqual(report["bounds"], {"min_cosine": 0.999, "max_l1": 0.02})
        kernels = report["layers"][0]["kernels"]
        for kernel in kernels:
            self.assertEqual(kernel["within"], kernel["cosine_similarity"] >= 0.999 and kernel["relative_l1"] <= 0.02)
        within = [kernel for kernel in kernels if kernel["within"]]
        self.assertTrue(0 < len(within) < len(kernels))
        best = max(kernel["predicted_tops"]["RTX4090"] for kernel in within)
        equals = [kernel for kernel in within if kernel["predicted_tops"]["RTX4090"] == best]
        self.assertEqual(report["layers"][0]["picked"], min(equals, key=lambda kernel: kernel["relative_l1"])["key"])

    def test_the_margin_trades_speed_for_accuracy(self):
        self.assertEqual(self.codes("--min-cosine", 0.98, "--speed-margin", 50), ["s8", "s8"])

    def entries(self, path):
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
        self.assertEqual(lines[0], "sagegen.modes\t1")
        self.assertIn("predictions for ", "".join(line for line in lines if line.startswith("#")))
        return [line.split("\t")[:2] for line in lines[1:] if not line.startswith("#")]

    def test_a_map_is_written(self):
        out = self.path("modes.txt")
        report = self.pick("--min-cosine", 0.99, "--out", out)
        int4, int8 = [layer["picked"] for layer in report["layers"]]
        self.assertEqual(self.entries(out), [["layer0", int4], ["layer2", int8], ["*", int8]])   # INT8 is within on both
        self.assertEqual((report["out"], report["others"]), (out, int8))

    def test_one_layer_without_a_name_is_all_layers(self):
        out = self.path("modes.txt")
        report = self.compare(*SMALL, *TWO, "--pick", "--max-l1", 1, "--out", out)
        self.assertEqual(self.entries(out), [["*", report["layers"][0]["picked"]]])

    def test_what_the_library_does_not_carry_is_said(self):
        arguments = (*SMALL, "--target", "sm_80", "--only", "qk=s4 smoothing=none granularity=per_block", "--pick", "--max-l1", 9)
        text = self.expect(OK, "compare", *arguments).out
        command = re.search(r"the library does not carry all of these: `sagegen (emit --out ptx/ .*)`", text)[1].split(" ")
        self.expect(OK, *command, cwd=self.directory)   # all that the pick needs
        picked = self.one_layer(*arguments)["picked"]
        run = self.expect_json(OK, "run", picked, "--device", "emulator", "--ptx", self.path("ptx"), *SMALL)
        self.assertEqual(sorted(run["kernels"]), sorted(command[3:]))
        text = self.expect(OK, "compare", *SMALL, "--target", "sm_89", "--only",
                           "pv=f16 qk=s8 smoothing=k granularity=per_thread", "--pick", "--max-l1", 1).out
        self.assertNotIn("does not carry", text)   # for sm_86, which loads

    def test_bounds_that_nothing_meets(self):
        out = self.path("modes.txt")
        arguments = (*LAYERS, *TWO, "--pick", "--max-l1", 0.005, "--out", out)   # layer0 has one, layer2 has none
        text = self.expect(CHECK_FAILED, "compare", *arguments).out
        self.assertRegex(text, r"layer0: sage_fwd_\S*qk_s8")
        self.assertRegex(text, r"layer2: none; nearest is sage_fwd_\S*qk_s8\S* with relative L1 0\.007")
        self.assertFalse(os.path.exists(out))
        report = self.compare(*arguments, code=CHECK_FAILED)
        self.assertIsNone(report["layers"][1]["picked"])
        self.assertIn("qk_s8", report["layers"][1]["nearest"])
        self.assertNotIn("out", report)

    def test_kernels_are_picked_by_what_they_compute(self):
        report = self.compare(*SMALL, "--only", "granularity=per_thread smoothing=k pv=f16", "--target", "sm_80", "--device",
                              "emulator", "--pick", "--max-l1", 0.05)
        kernels = {kernel["key"]: kernel for kernel in report["layers"][0]["kernels"]}
        self.assertGreater(len(kernels), 2)   # accumulations, too
        self.assertTrue(kernels[report["layers"][0]["picked"]]["within"])

    def test_ptxas_that_is_missing(self):
        self.without_ptxas()
        self.expect_error(FILE, "file error", ["--pick needs predicted speeds", "there is none"], "compare", *SMALL, "--pick",
                          "--max-l1", 1)

    def test_files_that_cannot_be_written(self):
        pick = ("--pick", "--max-l1", 1, "--out")
        self.expect_error(USAGE, "usage error", ["same file"], "compare", "--input", RECORDED, "--prefix", "layer0", *pick,
                          RECORDED)
        self.expect_error(FILE, "file error", ["cannot be written"], "compare", *SMALL, *pick, self.directory)
        self.expect_error(USAGE, "usage error", ["rename the tensors"], "compare", "--input", RECORDED, "--prefix", "*", *pick,
                          self.path("modes.txt"))


class Options(CompareTest):
    def test_bounds(self):
        self.expect_error(USAGE, "usage error", ["--pick needs a bound", "--min-cosine", "--max-l1"], "compare", "--pick")
        for option in ("--min-cosine", "--max-l1", "--max-rmse", "--max-row-l1", "--max-lse", "--speed-margin"):
            self.expect_error(USAGE, "usage error", [option, "--pick"], "compare", option, 0.5)
            for bad in ("x", "nan", "-1", "inf", ""):
                self.expect_error(USAGE, "usage error", [option], "compare", "--pick", f"{option}={bad}")
        self.expect_error(USAGE, "usage error", ["from 0 to 1"], "compare", "--pick", "--min-cosine", 1.5)
        self.expect_error(USAGE, "usage error", ["--out", "--pick"], "compare", "--out", self.path("x"))

    def test_gpus_and_targets(self):
        self.expect_error(USAGE, "usage error", ["RTX4091", "use one of A100"], "compare", "--gpu", "RTX4091")
        self.expect_error(USAGE, "usage error", ["A100 is sm_80", "sm_89"], "compare", "--gpu", "RTX4090", "A100")
        self.expect_error(USAGE, "usage error", ["A100 is sm_80", "sm_89"], "compare", "--gpu", "A100", "--target", "sm_89")
        self.expect_error(USAGE, "usage error", ["--gpu H200", "sm_90"], "compare", "--gpu", "H200")
        self.expect_error(SPEC, "spec error", ["sm_77"], "compare", "--target", "sm_77")

    def test_kernels(self):
        for text, code, kind, part in (("io=bf16", USAGE, "usage error", "inputs, --dtype"),
                                       ("out=s8", USAGE, "usage error", "leave out out"),
                                       ("varlen=true", USAGE, "usage error", "batches of one length"),
                                       ("qk=s5", SPEC, "spec error", "s8, s4, f16 or bf16"),
                                       ("colour=red", SPEC, "spec error", "colour"),
                                       ("schedule=q1", SPEC, "spec error", "q1")):
            self.expect_error(code, kind, [part], "compare", *SMALL, "--only", text)
        self.expect_error(SPEC, "spec error", ["no kernel for sm_120", "qk=s4", "no INT4"], "compare", *SMALL, "--target",
                          "sm_120", "--only", "qk=s4")
        self.expect_error(SPEC, "spec error", ["head_dim 300"], "compare", "--head-dim", 300)

    def test_layers(self):
        self.expect_error(USAGE, "usage error", ["layer0 stands twice"], "compare", "--input", RECORDED, "--prefix", "layer0",
                          "layer0")
        self.expect_error(FILE, "file error", ["layer7"], "compare", "--input", RECORDED, "--prefix", "layer7")
        self.expect_error(USAGE, "usage error", ["--prefix", "--input"], "compare", "--prefix", "layer0")


if __name__ == "__main__":
    unittest.main()
