"""`sagegen run` in the emulator: results, reports, and every way to refuse a problem."""
import math
import signal
import struct
import subprocess
import unittest

from run_support import GENERATOR, METRICS, SMALL, RunTest, qkv
from support import CHECK_FAILED, DRIVER, FILE, FWD, OK, QUANTQ, SPEC, TOOL, USAGE, sagegen

HAS_GPU = sagegen("devices", "--json").json()["cuda"]


class Report(RunTest):
    def test_fields(self):
        report = self.run_json(*SMALL, "--target", "sm_89")
        self.assertEqual((report["device"], report["target"]), ("emulator:sm_89", "sm_89"))
        self.assertEqual(report["mode"], "int8-fp8")
        self.assertEqual(len(report["kernels"]), 5)
        self.assertTrue(all(name.endswith("sm89") for name in report["kernels"]))
        self.assertTrue(report["kernels"][-1].startswith("sage_fwd_d64_f16_qk"))
        for metrics in (report, report["model"]):
            for name in METRICS:
                self.assertIsInstance(metrics[name], float)
        self.assertGreater(report["cosine_similarity"], 0.99)
        self.assertGreater(report["relative_l1"], 0)
        self.assertEqual(report["findings"], [])
        self.assertTrue(report["passed"])
        self.assertLessEqual(report["relative_l1"], report["bound"]["relative_l1"])
        self.assertLess(report["lse"]["max_abs"], 0.1)
        self.assertEqual(report["shape"], {"batch": 1, "heads": 2, "kv_heads": 2, "q_len": 70, "kv_len": 65,
                                           "head_dim": 64, "value_dim": 64})

    def test_text(self):
        text = self.expect(OK, "run", *SMALL, "--lse").out
        for part in ("normal, seed 1", "emulator:sm_89", "cosine similarity", "relative L1", "model", "findings 0",
                     "LSE", "bound", "checks on", "sage_fwd_d64"):
            self.assertIn(part, text)

    def test_same_seed_same_result(self):
        first, again = self.run_json(*SMALL, "--seed", 7), self.run_json(*SMALL, "--seed", 7)
        other = self.run_json(*SMALL, "--seed", 8)
        for report in (first, again, other):
            for name in ("emit_ms", "load_ms", "run_ms"):
                del report[name]
        self.assertEqual(first, again)
        self.assertNotEqual(first["relative_l1"], other["relative_l1"])


class JudgedRows(RunTest):
    LONG = ("--device", "emulator", "--checks", "off", "--heads", 4, "--kv-heads", 2, "--q-len", 300, "--head-dim", 64)

    def tokens(self, report):
        """{(batch, head): set of tokens}"""
        heads = {}
        for one in report["judged"]["which"]:
            ranges = [[int(x) for x in part.split("-")] for part in one["tokens"].split(", ")]
            heads[one["batch"], one["head"]] = {t for r in ranges for t in range(r[0], r[-1] + 1)}
        return heads

    def test_a_sample_says_which_rows(self):
        report = self.run_json(*self.LONG, "--kv-len", 70, "--judge-rows", 50)
        self.assertTrue(report["passed"])
        self.assertEqual((report["judged"]["rows"], report["judged"]["of"], report["judged"]["seed"]), (50, 1200, 1))
        heads = self.tokens(report)
        self.assertEqual(sorted(heads), [(0, head) for head in range(4)])
        self.assertEqual(sum(len(tokens) for tokens in heads.values()), 50)
        for tokens in heads.values():  # the first, the last, edges of the first and the last tile of 128
            self.assertLessEqual({0, 127, 128, 255, 256, 299}, tokens)
        other = self.run_json(*self.LONG, "--kv-len", 70, "--judge-rows", 50, "--judge-seed", 2)
        self.assertNotEqual(heads, self.tokens(other))
        text = self.expect(OK, "run", *self.LONG, "--kv-len", 70, "--judge-rows", 50).out
        self.assertIn("judged   50 of 1200 rows", text)
        self.assertIn("--judge-seed 1", text)

    def test_all_rows(self):
        for rows in ((), ("--judge-rows", 0), ("--judge-rows", 5000)):
            report = self.run_json(*self.LONG, "--kv-len", 70, *rows)
            self.assertEqual(report["judged"], {"rows": 1200, "of": 1200})

    def test_long_inputs_are_sampled_by_themselves(self):
        # 1,200 rows and 2^15 keys: as many rows as have 2^24 scores.
        report = self.run_json(*self.LONG, "--kv-len", 1 << 15)
        self.assertEqual((report["judged"]["rows"], report["judged"]["of"]), (512, 1200))
        self.assertTrue(report["passed"])

    def test_few_rows_are_no_mean(self):
        # One code of Q lies on the edge between two; the kernel's other choice moves one of two rows.
        report = self.run_json("--device", "emulator", "--target", "sm_120", "--dist", "peaked", "--q-len", 1, "--kv-len",
                               300, "--seed", 712810)
        bound, model = report["bound"], report["model"]["relative_l1"]
        self.assertTrue(report["passed"])
        self.assertGreater(report["relative_l1"], bound["factor"] * model + bound["offset"])
        self.assertAlmostEqual(bound["relative_l1"], bound["factor"] * model + bound["offset"] + bound["slack"])

    def test_undecided_codes_of_some_rows_do_not_loosen_the_whole(self):
        # Keys far from their mean: many codes of K are undecided, and some rows have one of Q, too.
        for target, mode in (("sm_89", "int8-fp8"), ("sm_80", "int8-fp16")):
            report = self.run_json("--device", "emulator", "--checks", "off", "--target", target, "--mode", mode,
                                   "--dist", "k_bias", "--q-len", 64, "--kv-len", 2048, "--head-dim", 64)
            self.assertTrue(report["passed"])
            self.assertLess(report["bound"]["slack"], 0.4 * report["model"]["relative_l1"])

    @unittest.skipUnless(GENERATOR, "not in the embedded set")
    def test_another_key_may_be_the_largest(self):
        # A code of bf16 lies in the middle of two, and with the kernel's choice another key takes the row.
        report = self.run_json("--device", "emulator", "--target", "sm_120", "--checks", "off", "--dist", "k_bias",
                               "--seed", 21, "--mode", "int8-fp16", "--groups", "g64x128", "--smoothing", "none", "--dtype", "bf16",
                               "--batch", 2, "--kv-heads", 1, "--head-dim", 64, "--q-len", 65, "--kv-len", 129,
                               "--softmax-scale", 30)
        self.assertTrue(report["passed"])

    @unittest.skipUnless(GENERATOR, "not in the embedded set")
    def test_sums_over_all_keys_in_13_bits_are_no_error(self):
        arguments = ("--device", "emulator", "--dist", "v_offset", "--heads", 1, "--q-len", 64, "--kv-len", 1000,
                     "--head-dim", 64)
        poor = self.run_json(*arguments, "--target", "sm_89", "--accumulation", "f32")
        good = self.run_json(*arguments, "--target", "sm_89")
        self.assertGreater(poor["relative_l1"], 1.5 * good["relative_l1"])
        self.assertTrue(poor["passed"] and good["passed"])

    def test_refusals(self):
        for option, value in (("--judge-rows", -1), ("--judge-rows", "all"), ("--judge-seed", -1)):
            self.expect_error(USAGE, "usage error", [option], "run", option, value)


class Modes(RunTest):
    def test_targets_and_modes(self):
        for target, mode, expected in (("sm_80", "int8", "int8-fp16"), ("sm_86", "int8-fp16", "int8-fp16"),
                                       ("sm_89", "int8-fp16", "int8-fp16"), ("sm_120", "int8", "int8-fp8"),
                                       ("sm_80", "int4", "int4-fp16"), ("sm_86", "int4-fp16", "int4-fp16"),
                                       ("sm_89", "int4", "int4-fp8")):
            if not GENERATOR and (target, mode) == ("sm_89", "int8-fp16"):
                continue   # not in the embedded set
            with self.subTest(target=target, mode=mode):
                report = self.run_json(*SMALL, "--target", target, "--mode", mode)
                self.assertEqual((report["target"], report["mode"]), (target, expected))
                self.assertTrue(report["passed"])

    def test_int4_where_tensor_cores_have_it(self):
        int8, int4 = (self.run_json(*SMALL, "--target", "sm_89", "--mode", mode) for mode in ("int8-fp8", "int4-fp8"))
        self.assertIn("_qk_s4t_", int4["kernels"][-1])
        self.assertGreater(int4["model"]["relative_l1"], 3 * int8["model"]["relative_l1"])
        self.expect_error(SPEC, "spec error", ["qk s4 is refused on sm_120", "use qk s8"], "run", *SMALL, "--target", "sm_120",
                          "--mode", "int4-fp8")
        # A device loads the PTX of lower targets; Hopper would emulate this one's products.
        self.expect_error(SPEC, "spec error", ["compute capability 9.0", "no INT4", "use qk s8"], "run", "--device", "emulator:sm_90",
                          "--target", "sm_89", "--q-len", 64, "--mode", "int4-fp8")
        self.expect_error(USAGE, "usage error", ["int4-fp16"], "run", *SMALL, "--mode", "int3")

    @unittest.skipUnless(GENERATOR, "kernels that are not embedded")
    def test_q_and_k_as_they_are(self):
        for target, mode, dtype, pv in (("sm_80", "16bit", "f16", "f16"), ("sm_86", "16bit", "bf16", "bf16"), ("sm_120", "16bit", "bf16", "bf16"),
                                        ("sm_89", "bf16-fp8", "f16", "e4m3"), ("sm_120", "bf16-fp8", "bf16", "e4m3")):
            with self.subTest(target=target, mode=mode, dtype=dtype):
                report = self.run_json(*SMALL, "--target", target, "--mode", mode, "--dtype", dtype)
                self.assertEqual(report["mode"], mode)
                self.assertIn(f"_qk_{dtype}t_g32x64_sm0_pv_{pv}_", report["kernels"][-1])
                self.assertEqual(len(report["kernels"]), 3 if pv == "e4m3" else 1)
                self.assertTrue(report["passed"])
        for option, value, words in (("--smoothing", "k", ["smoothing k with qk f16", "use smoothing none"]),
                                     ("--granularity", "per_block", ["granularity per_block", "have no scales"]),
                                     ("--groups", "g16x64", ["q_group 16", "have no scales"])):
            self.expect_error(SPEC, "spec error", words, "run", *SMALL, "--target", "sm_89", "--mode", "16bit", option, value)
        self.expect_error(SPEC, "spec error", ["pv e4m3 is refused on sm_86", "use pv bf16"], "run", *SMALL, "--target", "sm_86",
                          "--mode", "bf16-fp8", "--dtype", "bf16")
        self.expect_error(SPEC, "spec error", ["accumulation f32_f16 with pv bf16"], "run", *SMALL, "--target", "sm_86",
                          "--mode", "16bit", "--dtype", "bf16", "--accumulation", "f32_f16")

    def test_f16_values_cost_less_accuracy_than_fp8(self):
        fp8 = self.run_json(*SMALL, "--target", "sm_89")
        fp16 = self.run_json(*SMALL, "--target", "sm_80")
        self.assertLess(fp16["relative_l1"], 0.5 * fp8["relative_l1"])

    @unittest.skipUnless(GENERATOR, "not in the embedded set")
    def test_options_of_the_quantization(self):
        report = self.run_json(*SMALL, "--granularity", "per_block", "--smoothing", "none", "--accumulation", "f32",
                               "--dtype", "bf16", "--causal", "top-left")
        self.assertEqual((report["granularity"], report["smoothing"], report["accumulation"], report["dtype"]),
                         ("per_block", "none", "f32", "bf16"))
        self.assertIn("_bf16_qk_s8b_g128x64_sm0_pv_e4m3_f32_causal_", report["kernels"][-1])
        self.assertTrue(any("_r1_g64__" in name for name in report["kernels"]), report["kernels"])

    @unittest.skipUnless(GENERATOR, "not in the embedded set")
    def test_smoothing_of_v(self):
        plain, smoothed = (self.run_json(*SMALL, "--target", "sm_89", "--dist", "v_offset", "--v-smoothing", word) for word in ("none", "mean"))
        self.assertEqual((plain["v_smoothing"], smoothed["v_smoothing"]), ("none", "mean"))
        self.assertLess(smoothed["relative_l1"], 0.7 * plain["relative_l1"])
        self.assertIn("_f32x2_smv__", smoothed["kernels"][-1])
        self.assertTrue(any("_vrange__" in name for name in smoothed["kernels"]), smoothed["kernels"])

    @unittest.skipUnless(GENERATOR, "not in the embedded set")
    def test_rotation_of_q_and_k(self):
        plain, rotated = (self.run_json(*SMALL, "--target", "sm_80", "--mode", "int4-fp16", "--dist", "outlier", "--smoothing", "k",
                                        "--rotation", word) for word in ("none", "hadamard"))
        self.assertEqual((plain["rotation"], rotated["rotation"]), ("none", "hadamard"))
        self.assertLess(rotated["relative_l1"], 0.95 * plain["relative_l1"])
        self.assertIn("_f32_hadamard__", rotated["kernels"][-1])
        self.assertEqual(sum(name.split("__")[0].endswith("_rotate") for name in rotated["kernels"]), 2)
        self.expect_error(USAGE, "usage error", ["rotation hadamard of 60 channels", "padded to 64"], "run", *SMALL[:-2], "--head-dim",
                          60, "--rotation", "hadamard")

    @unittest.skipUnless(GENERATOR, "not in the embedded set")
    def test_rows_of_heads_that_share_k_and_v(self):
        few = ("--device", "emulator", "--target", "sm_89", "--head-dim", 64, "--q-len", 3, "--kv-len", 100, "--heads", 10, "--kv-heads", 2)
        plain, packed = (self.run_json(*few, "--causal", "bottom-right", *flag) for flag in ([], ["--pack-gqa"]))
        self.assertEqual((plain["pack_gqa"], packed["pack_gqa"]), (False, True))
        self.assertIn("_g16x64_smk_pv_e4m3_f32x2_packgqa_causal__q32k64w2s3__", packed["kernels"][-1])
        self.assertTrue(any("_g16_fold_packgqa__" in name for name in packed["kernels"]), packed["kernels"])
        self.assertIn("heads that share K and V packed", self.expect(OK, "run", *few, "--pack-gqa", "--mode", "16bit").out)
        self.assertIn("row r is query r / G of head r mod G", self.expect(OK, "inspect", packed["kernels"][-1]).out)
        self.assertTrue(self.run_json(*few, "--pack-gqa", "--blocksparse", 0.5)["passed"])
        self.expect_error(USAGE, "usage error", ["--pack-gqa", "the key says it"], "run", packed["kernels"][-1], "--pack-gqa")

    @unittest.skipUnless(GENERATOR, "not in the embedded set")
    def test_a_kernel_of_given_codes_gets_those_of_its_twin(self):
        own = "sage_fwd_d64_f16_qk_s8t_g32x64_smk_pv_e4m3_f32x2__q128k64w4s2__sm89"
        given = own.replace("f32x2__", "f32x2_given__")
        reports = [self.run_json(key, *SMALL, "--target", "sm_89") for key in (own, given)]
        for name in METRICS:
            self.assertEqual(reports[0][name], reports[1][name])
        self.assertEqual(reports[0]["kernels"][:-1], reports[1]["kernels"][:-1])
        self.assertEqual(reports[1]["kernels"][-1], given)

    @unittest.skipUnless(GENERATOR, "not in the embedded set")
    def test_what_f16_rounds_beside_a_mean_is_no_error(self):
        # Keys weigh so little beside the sink that f16 has few bits of their products, and the mean of V is added to those.
        for dist in ("normal", "outlier"):
            self.run_json("--device", "emulator", "--target", "sm_86", "--mode", "int8-fp16", "--dtype", "bf16", "--dist", dist,
                          "--head-dim", 64, "--q-len", 64, "--heads", 1, "--v-smoothing", "mean", "--accumulation", "f32_f16",
                          "--causal", "top-left", "--window", "5,5", "--sinks", 22)

    @unittest.skipUnless(GENERATOR, "not in the embedded set")
    def test_sums_of_f16_and_their_ranges_of_codes(self):
        for target, of_codes, pv in (("sm_86", [], "f16"), ("sm_89", [], "e4m3"), ("sm_89", ["--code-range", "fine_v"], "e4m3")):
            report = self.run_json(*SMALL, "--target", target, "--accumulation", "f32_f16", *of_codes)
            self.assertEqual((report["accumulation"], report["code_range"]), ("f32_f16", of_codes[1] if of_codes else "usual"))
            self.assertIn(f"_pv_{pv}_f32f16_{'finev_' if of_codes else ''}_", report["kernels"][-1])
            self.assertIn("f16 in a tile", report["bound"]["arithmetic"])
        self.expect_error(SPEC, "spec error", ["code_range fine_v with accumulation two_level_f32", "code_range usual"],
                          "run", *SMALL, "--target", "sm_89", "--code-range", "fine_v")
        self.expect_error(SPEC, "spec error", ["cta_k 128 with accumulation f32_f16", "use cta_k 64"], "run", *SMALL,
                          "--target", "sm_89", "--accumulation", "f32_f16", "--schedule", "q64k128w4s1", "--groups", "g32x128")

    def test_smoothing_helps_biased_keys(self):
        # FP16 P V, so that the error of Q K^T is not hidden behind that of FP8.
        arguments = ("--device", "emulator", "--target", "sm_80", "--dist", "k_bias", "--heads", 1, "--q-len", 64,
                     "--kv-len", 256)
        with_k = self.run_json(*arguments)
        without = self.run_json(*arguments, "--smoothing", "none")
        self.assertLess(2 * with_k["relative_l1"], without["relative_l1"])

    def test_grouped_heads_and_fully_masked_rows(self):
        # Bottom-right with more queries than keys: the first 5 queries see nothing, give 0 and LSE -inf.
        out = self.path("o.safetensors")
        report = self.run_json("--device", "emulator", "--heads", 4, "--kv-heads", 2, "--q-len", 70, "--kv-len", 65,
                               "--head-dim", 64, "--causal", "bottom-right", "--out", out)
        self.assertEqual((report["causal"], report["shape"]["kv_heads"]), ("bottom-right", 2))
        self.assertTrue(report["passed"])
        o, lse = self.read_output(out, (4, 70, 64))
        for head in range(4):
            self.assertEqual([v for n in range(5) for v in o[head][n]], [0.0] * 5 * 64)
            self.assertEqual(lse[head][:5], [-math.inf] * 5)
            self.assertTrue(math.isfinite(lse[head][5]))

    def read_output(self, path, shape):
        import json
        heads, tokens, channels = shape
        with open(path, "rb") as file:
            data = file.read()
        size = struct.unpack("<Q", data[:8])[0]
        header, body = json.loads(data[8:8 + size]), data[8 + size:]
        self.assertEqual(header["o"]["shape"], [1, heads, tokens, channels])
        self.assertEqual(header["lse"]["shape"], [1, heads, tokens])

        def values(name, letter):
            begin, end = header[name]["data_offsets"]
            count = (end - begin) // struct.calcsize(letter)
            return struct.unpack(f"<{count}{letter}", body[begin:end])

        o, lse = values("o", "e"), values("lse", "f")
        return ([[o[(h * tokens + n) * channels:(h * tokens + n + 1) * channels] for n in range(tokens)]
                 for h in range(heads)],
                [list(lse[h * tokens:(h + 1) * tokens]) for h in range(heads)])

    def test_layout_does_not_change_the_result(self):
        outputs = []
        for layout in ("hnd", "nhd"):
            out = self.path(layout)
            report = self.run_json(*SMALL, "--batch", 2, "--layout", layout, "--out", out)
            self.assertEqual(report["layout"], layout)
            with open(out, "rb") as file:
                outputs.append(file.read())
        self.assertEqual(outputs[0], outputs[1])


class NamedKernels(RunTest):
    CAUSAL = "sage_fwd_d64_bf16_qk_s8b_g128x128_sm0_pv_f16_f32x2_causal__q64k128w4s1__sm86"
    LENGTHS = ("--device", "emulator", "--heads", 1, "--q-len", 70, "--kv-len", 65)

    @unittest.skipUnless(GENERATOR, "not in the embedded set")
    def test_a_key_says_all_that_a_kernel_is(self):
        report = self.run_json(self.CAUSAL, *self.LENGTHS)
        self.assertEqual(report["kernels"][-1], self.CAUSAL)
        self.assertEqual((report["device"], report["dtype"], report["causal"], report["granularity"],
                          report["accumulation"], report["shape"]["head_dim"]),
                         ("emulator:sm_86", "bf16", "top-left", "per_block", "two_level_f32", 64))
        self.assertTrue(report["passed"])

    @unittest.skipUnless(GENERATOR, "not in the embedded set")
    def test_what_a_key_leaves_open(self):
        report = self.run_json(self.CAUSAL, *self.LENGTHS, "--target", "sm_89", "--head-dim", 40, "--causal",
                               "bottom-right")
        self.assertEqual(report["kernels"][-1], self.CAUSAL.replace("sm86", "sm89"))
        self.assertEqual((report["target"], report["smoothing"], report["causal"], report["shape"]["head_dim"]),
                         ("sm_89", "none", "bottom-right", 40))
        self.assertTrue(report["passed"])
        report = self.run_json(self.CAUSAL, *self.run_file(qkv(channels=32))[1:])
        self.assertEqual((report["dtype"], report["kernel_head_dim"], report["passed"]), ("bf16", 64, True))

    @unittest.skipUnless(GENERATOR, "not in the embedded set")
    def test_a_schedule_and_groups_by_themselves(self):
        report = self.run_json(*SMALL, "--schedule", "q64k64w4s3")
        self.assertTrue(report["kernels"][-1].endswith("_g32x64_smk_pv_e4m3_f32x2__q64k64w4s3__sm89"))
        self.assertTrue(report["passed"])
        report = self.run_json(*SMALL, "--schedule", "q16k128w1s2", "--groups", "g16x128")
        self.assertTrue(report["kernels"][-1].endswith("_g16x128_smk_pv_e4m3_f32x2__q16k128w1s2__sm89"))
        self.assertTrue(report["passed"])

    def test_keys_of_the_embedded_set_need_no_generator(self):
        self.assertTrue(self.run_json(FWD, *self.LENGTHS)["passed"])

    def test_refusals(self):
        self.expect_error(USAGE, "usage error", [QUANTQ, "prepares inputs", "sage_fwd"], "run", QUANTQ)
        self.expect_error(SPEC, "spec error", ["sage_fwd_d64", "sagegen list"], "run", "sage_fwd_d64")
        self.expect_error(USAGE, "usage error", [FWD, "before --input"], *self.run_file(qkv()), FWD)
        self.expect_error(SPEC, "spec error", ["q48", "cta_q 48"], "run", FWD.replace("q128", "q48"))
        for option, value in (("--mode", "int8"), ("--granularity", "per_block"), ("--accumulation", "f32"),
                              ("--code-range", "fine_v"), ("--v-smoothing", "mean"), ("--schedule", "q64k64w4s3"), ("--groups", "g32x64"), ("--dtype", "f16"),
                              ("--set", "set.toml")):
            self.expect_error(USAGE, "usage error", [option, "refused beside KEY"], "run", FWD, option, value)
        self.expect_error(USAGE, "usage error", ["--smoothing", "refused beside KEY"], "run", FWD, "--smoothing", "none")
        self.expect_error(USAGE, "usage error", ["--causal", FWD, "not causal"], "run", FWD, "--causal", "top-left")
        self.expect_error(USAGE, "usage error", ["--causal", "is causal"], "run", self.CAUSAL, "--causal", "none")
        self.expect_error(USAGE, "usage error", ["128 channels", FWD, "at most 64"], "run", FWD, "--head-dim", 128)
        for schedule in ("q64", "q64k64w4s3x", "64,64,4,3", "k64q64w4s3", "q-64k64w4s3", "q1234567k64w4s3"):
            self.expect_error(USAGE, "usage error", ["--schedule", "q128k64w4s2"], "run", "--schedule", schedule)
        for groups in ("g32", "32x64", "g32x64x1"):
            self.expect_error(USAGE, "usage error", ["--groups", "g32x64"], "run", "--groups", groups)
        for option in ("--schedule", "--groups", "--set"):
            self.expect_error(USAGE, "usage error", [option, "empty"], "run", option, "")
        self.expect_error(USAGE, "usage error", ["KEY", "empty"], "run", "")
        self.expect_error(SPEC, "spec error", ["q64k64w1s2", "cta_q 64 with 1 warps", "use 2 warps"], "run", "--schedule", "q64k64w1s2")
        self.expect_error(SPEC, "spec error", ["k_group 64 with cta_k 128"], "run", "--schedule", "q64k128w4s1")


@unittest.skipUnless(GENERATOR, "not in the embedded set")
class Sets(RunTest):
    LENGTHS = ("--device", "emulator", "--heads", 1, "--q-len", 70, "--kv-len", 65)
    SCHEDULES = "schedules = \"q64k64w4s3\"\n"

    def set(self, *tables):
        text = "".join(f"[[attention]]\nhead_dim = 64\n{table}{self.SCHEDULES}" for table in tables)
        return self.write("set.toml", text.encode())

    def test_a_line_and_a_verdict_for_each_kernel(self):
        path = self.set("targets = [\"sm_80\", \"sm_89\"]\ncausal = [false, true]\n")
        report = self.run_json("--set", path, *self.LENGTHS)
        keys = [f"sage_fwd_d64_f16_qk_s8t_g32x64_smk_{pv}{mask}__q64k64w4s3__{target}"
                for pv, target in (("pv_f16_f32", "sm80"), ("pv_e4m3_f32x2", "sm89")) for mask in ("", "_causal")]
        self.assertEqual([kernel["key"] for kernel in report["kernels"]], keys)
        self.assertEqual([kernel["device"] for kernel in report["kernels"]],
                         ["emulator:sm_80"] * 2 + ["emulator:sm_89"] * 2)
        for kernel in report["kernels"]:
            self.assertEqual((kernel["passed"], kernel["findings"], kernel["smoothing"]), (True, 0, "k"))
            self.assertLess(0, kernel["relative_l1"])
            self.assertLessEqual(kernel["relative_l1"], kernel["bound"]["relative_l1"])
            self.assertEqual(kernel["judged"], {"rows": 70, "of": 70})
        self.assertTrue(report["passed"])
        lines = self.expect(OK, "run", "--set", path, *self.LENGTHS, "--causal", "bottom-right").out.splitlines()
        self.assertEqual(len(lines), 5)
        for key, line in zip(keys, lines):
            self.assertTrue(line.startswith(f"passed  {key}: relative L1 "), line)
        self.assertEqual(lines[-1], "4 of 4 kernels passed")
        report = self.run_json("--set", path, *self.LENGTHS, "--target", "sm_89")
        self.assertEqual([kernel["key"] for kernel in report["kernels"]], keys[2:])

    def test_every_smoothing_that_the_set_has(self):
        path = self.set("targets = [\"sm_80\"]\nsmoothing = [\"k\", \"none\"]\n")
        report = self.run_json("--set", path, *self.LENGTHS, "--dist", "k_bias")
        self.assertEqual([kernel["smoothing"] for kernel in report["kernels"]], ["k", "none"])
        self.assertEqual({(kernel["mode"], kernel["output"], kernel["value_dim"]) for kernel in report["kernels"]},
                         {("int8-fp16", "io", 64)})
        self.assertLess(2 * report["kernels"][0]["relative_l1"], report["kernels"][1]["relative_l1"])

    def test_one_failure_fails_the_set_and_stops_nothing(self):
        path = self.set("targets = [\"sm_80\"]\ncausal = [false, true]\n")
        self.expect(OK, "emit", "--set", path, "--out", self.directory)
        kernel = self.path("sage_fwd_d64_f16_qk_s8t_g32x64_smk_pv_f16_f32__q64k64w4s3__sm80.ptx")
        with open(kernel, encoding="utf-8") as file:
            text = file.read()
        arguments = ("--set", path, *self.LENGTHS, "--ptx", self.directory)
        self.assertTrue(self.run_json(*arguments)["passed"])
        for before, after, word in (("ex2.approx.ftz.f32", "rcp.approx.ftz.f32", "MISSED"),
                                    ("cp.async.wait_group", "// cp.async.wait_group", "copy-in-flight"),
                                    (".visible .entry", ".visible .entrance", "entrance")):
            self.write(kernel, text.replace(before, after).encode())
            report = self.run_json(*arguments, code=CHECK_FAILED)
            self.assertEqual([one["passed"] for one in report["kernels"]], [False, True], word)
            self.assertFalse(report["passed"])
            lines = self.expect(CHECK_FAILED, "run", *arguments).out.splitlines()
            self.assertTrue(lines[0].startswith("FAILED  sage_fwd_d64_f16_qk"), lines[0])
            self.assertIn(word, lines[0])
            self.assertIn("1 of 2 kernels passed", lines)

    def test_refusals(self):
        path = self.set("targets = [\"sm_80\"]\ncausal = [false, true]\n")
        for option in (("--mode", "int8"), ("--granularity", "per_block"), ("--accumulation", "f32"), ("--lse",),
                       ("--schedule", "q64k64w4s3"), ("--groups", "g32x64"), ("--dtype", "f16"), ("--smoothing", "none"),
                       ("--out", self.path("o.safetensors"))):
            self.expect_error(USAGE, "usage error", [option[0], "refused beside --set"], "run", "--set", path, *option)
        self.expect_error(USAGE, "usage error", ["--causal none", "--set"], "run", "--set", path, "--causal", "none")
        self.expect_error(USAGE, "usage error", ["sm_89", path, "sm_80"], "run", "--set", path, "--target", "sm_89")
        self.expect_error(USAGE, "usage error", ["128 channels", "at most 64"], "run", "--set", path, "--head-dim", 128)
        self.expect_error(FILE, "file error", ["none.toml"], "run", "--set", self.path("none.toml"))
        self.expect_error(SPEC, "spec error", ["set.toml:1:1"], "run", "--set", self.write("set.toml", b"x = 1"))

    def test_ctrl_c_ends_the_set(self):
        path = self.set("targets = [\"sm_80\"]\ncausal = [false, true]\n")
        command = [TOOL, "run", "--set", path, "--device", "emulator", "--q-len", "8192"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            line = process.stderr.readline()
            if b"an estimate" in line:   # on few cores
                line = process.stderr.readline()
            self.assertIn(b"running", line)  # a second after it began
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=200)
        self.assertEqual(process.returncode, -signal.SIGINT)
        self.assertIn("interrupted", out.decode())
        self.assertIn("0 of 2 kernels passed", out.decode())


class Mods(RunTest):
    """Masks and biases of scores: --window and its like."""

    KEY = "sage_fwd_d64_f16_qk_s8t_g32x64_smk_pv_e4m3_f32x2_{}__q128k64w4s2__sm89"
    LENGTHS = ("--device", "emulator", "--heads", 2, "--q-len", 70, "--kv-len", 65)
    USUAL = {"window": "128,0", "softcap": "30", "bias": "hqk", "alibi": "0.5", "mask": "bqk", "sinks": "0",
             "blocksparse": "0.5", "skipsoftmax": "0.001"}

    def mods_line(self, *arguments):
        lines = self.expect(OK, "run", *arguments).out.splitlines()
        return [line for line in lines if line.startswith("mods ")]

    @unittest.skipUnless(GENERATOR, "not in the embedded set")
    def test_each_alone_and_all_together(self):
        given = {"window": "40,3", "softcap": "5", "bias": "bk", "alibi": "0.25", "mask": "hk", "sinks": "2.5",
                 "blocksparse": "0.7", "skipsoftmax": "0.25"}
        for mod, text in given.items():
            with self.subTest(mod=mod):
                report = self.run_json(*SMALL, f"--{mod}", text)
                self.assertEqual(report["mods"], [f"{mod} {text}"])
                self.assertEqual(report["kernels"][-1], self.KEY.format(mod))
                self.assertTrue(report["passed"])
                self.assertEqual(self.mods_line(*SMALL, f"--{mod}", text), [f"mods     {mod} {text}"])
        options = [part for mod, text in reversed(given.items()) for part in (f"--{mod}", text)]
        for causal, word in (((), ""), (("--causal", "bottom-right"), "causal_")):
            report = self.run_json(*SMALL, "--batch", 2, "--kv-heads", 1, *causal, *options)
            self.assertEqual(report["mods"], [f"{mod} {text}" for mod, text in given.items()])
            self.assertEqual(report["kernels"][-1], self.KEY.format(word + "window_softcap_bias_alibi_mask_sinks_blocksparse_skipsoftmax"))
            self.assertTrue(report["passed"])
        self.assertEqual(self.mods_line(*SMALL, "--sinks", 1, "--window", "5,-1"), ["mods     window 5,-1, sinks 1"])

    def test_none(self):
        self.assertEqual(self.run_json(*SMALL)["mods"], [])
        self.assertEqual(self.mods_line(*SMALL), [])

    @unittest.skipUnless(GENERATOR, "not in the embedded set")
    def test_the_option_reaches_the_kernel(self):
        def errors(*arguments):
            report = self.run_json(*SMALL, "--causal", "top-left", *arguments)
            self.assertTrue(report["passed"])
            return [report[name] for name in METRICS]

        # No bound on any side, all tiles, sinks that weigh nothing: as without it. Anything less: another result.
        plain = errors()
        for same in (("--window", "-1,-1"), ("--window", "1000,1000"), ("--blocksparse", 1), ("--sinks", -1e4),
                     ("--skipsoftmax", 0)):
            self.assertEqual(errors(*same), plain, same)
        seen = {tuple(plain)}
        for other in (("--window", "30,-1"), ("--window", "29,-1"), ("--softcap", 1), ("--softcap", 2),
                      ("--bias", "hqk"), ("--alibi", 0.1), ("--mask", "k"), ("--mask", "qk"), ("--sinks", 0), ("--sinks", 1),
                      ("--blocksparse", 0), ("--skipsoftmax", 0.9)):
            metrics = tuple(errors(*other))
            self.assertNotIn(metrics, seen, other)
            seen.add(metrics)

    @unittest.skipUnless(GENERATOR, "not in the embedded set")
    def test_what_skipped_tiles_and_f16_take_from_a_mean_of_v_is_no_error(self):
        few = ("--device", "emulator", "--v-smoothing", "mean", "--head-dim", 64)
        for more in (("--target", "sm_89", "--q-len", 64, "--kv-len", 256, "--sinks", 7, "--skipsoftmax", 0.9, "--dist", "v_offset"),
                     ("--target", "sm_86", "--mode", "16bit", "--heads", 1, "--q-len", 15, "--kv-len", 2, "--accumulation", "f32_f16",
                      "--dist", "sink", "--seed", 3)):
            self.assertTrue(self.run_json(*few, *more)["passed"])
        # Of V channels of its own there is a bound, too, and the same one each time.
        wide = ("--device", "emulator", "--target", "sm_89", "--head-dim", 96, "--value-dim", 64, "--q-len", 64, "--kv-len", 256,
                "--skipsoftmax", 0.1)
        bounds = [self.run_json(*wide)["bound"]["relative_l1"] for _ in range(2)]
        self.assertEqual(bounds[0], bounds[1])
        self.assertLess(bounds[0], 1)

    @unittest.skipUnless(GENERATOR, "not in the embedded set")
    def test_tiles_that_were_skipped(self):
        sparse = ("--device", "emulator", "--head-dim", 64, "--q-len", 70, "--kv-len", 700, "--dist", "sink", "--skipsoftmax")
        counts = [self.run_json(*sparse, threshold)["skipsoftmax"] for threshold in (0, 0.5)]
        self.assertEqual(counts[0]["skipped"], 0)
        self.assertGreater(counts[1]["skipped"], 0)
        self.assertEqual(sum(counts[0].values()), sum(counts[1].values()))
        lines = self.expect(OK, "run", *sparse, 0.5).out.splitlines()
        self.assertIn(f"tiles    warps skipped {counts[1]['skipped']} of {sum(counts[1].values())}", lines)
        self.assertNotIn("skipsoftmax", self.run_json(*SMALL))

    def test_keys_without(self):
        for mod, text in self.USUAL.items():
            self.expect_error(USAGE, "usage error", [f"--{mod} is refused", FWD, f"has no {mod}", "leave it out"],
                              "run", FWD, *self.LENGTHS, f"--{mod}", text)

    @unittest.skipUnless(GENERATOR, "not in the embedded set")
    def test_keys_with(self):
        for mod, text in self.USUAL.items():
            with self.subTest(mod=mod):
                report = self.run_json(self.KEY.format(mod), *self.LENGTHS)
                self.assertEqual((report["mods"], report["passed"]), ([f"{mod} {text}"], True))
        both = self.KEY.format("causal_window_sinks")
        report = self.run_json(both, *self.LENGTHS, "--window", "10,-1", "--causal", "bottom-right")
        self.assertEqual((report["mods"], report["passed"]), (["window 10,-1", "sinks 0"], True))
        self.expect_error(USAGE, "usage error", ["--softcap is refused", both, "has no softcap"], "run", both,
                          *self.LENGTHS, "--softcap", 30)

    @unittest.skipUnless(GENERATOR, "not in the embedded set")
    def test_tiles_of_the_schedule(self):
        for schedule in ("q64k64w4s3", "q128k64w8s1"):
            report = self.run_json(*SMALL, "--blocksparse", 0.5, "--window", "20,20", "--schedule", schedule)
            self.assertTrue(report["passed"])
            self.assertIn(f"_window_blocksparse__{schedule}__", report["kernels"][-1])

    @unittest.skipUnless(GENERATOR, "not in the embedded set")
    def test_sets_with_and_without(self):
        path = self.write("set.toml", b"""
[[attention]]
head_dim = 64
targets = ["sm_80"]
window = [false, true]
sinks = [false, true]
schedules = "q64k64w4s3"
""")
        report = self.run_json("--set", path, *self.LENGTHS)
        words = sorted(kernel["key"].split("_f16_f32")[1].split("__q64")[0] for kernel in report["kernels"])
        self.assertEqual(words, ["", "_sinks", "_window", "_window_sinks"])
        self.assertTrue(report["passed"])
        narrow = self.run_json("--set", path, *self.LENGTHS, "--window", "3,3", "--sinks", "1")
        self.assertTrue(narrow["passed"])
        for before, after in zip(report["kernels"], narrow["kernels"]):
            self.assertEqual(before["key"], after["key"])
            plain = "_window" not in before["key"] and "_sinks" not in before["key"]
            self.assertEqual(before["relative_l1"] == after["relative_l1"], plain, before["key"])
        self.expect_error(USAGE, "usage error", ["--window 3", "2 numbers"], "run", "--set", path, *self.LENGTHS,
                          "--window", "3")

    @unittest.skipUnless(GENERATOR, "not in the embedded set")
    def test_texts_that_mean_nothing(self):
        axes = ["it names the axes", "b, h, q and k", "as in hqk"]
        for option, text, words in (
                ("--window", "1", ["it is 2 numbers, as in 128,0"]), ("--window", "a,b", ["it is 2 numbers"]),
                ("--window", "1,2,3", ["it is 2 numbers"]), ("--window", "1,", ["it is 2 numbers"]),
                ("--window", "1 ,2", ["it is 2 numbers"]), ("--window", "1.5,0", ["whole numbers"]),
                ("--window", "1e30,0", ["less than 1e18"]), ("--window", "nan,0", ["it is 2 numbers"]),
                ("--softcap", "-1", ["a positive number"]), ("--softcap", "0", ["a positive number"]),
                ("--softcap", "1e-60", ["a positive number"]), ("--softcap", "x", ["it is a number"]),
                ("--softcap", "nan", ["it is a number"]), ("--softcap", "30,30", ["it is a number"]),
                ("--bias", "xyz", axes), ("--bias", "kq", axes), ("--bias", "hh", axes), ("--bias", "h,q", axes),
                ("--mask", "bqkx", axes), ("--mask", "BQK", axes),
                ("--alibi", "steep", ["it is a number"]), ("--alibi", "inf", ["it is a number"]),
                ("--sinks", "many", ["it is a number"]), ("--sinks", "inf", ["it is a number"]),
                ("--blocksparse", "2", ["a share of tiles, from 0 to 1"]), ("--blocksparse", "-0.1", ["from 0 to 1"]),
                ("--blocksparse", "half", ["it is a number"]), ("--blocksparse", "nan", ["it is a number"]),
                ("--skipsoftmax", "1", ["at least 0 and less than 1"]), ("--skipsoftmax", "-1", ["less than 1"]),
                ("--skipsoftmax", "few", ["it is a number"]), ("--skipsoftmax", "0.99999999999", ["less than 1"])):
            self.expect_error(USAGE, "usage error", [f"{option} {text} is refused", *words], "run", *SMALL, option, text)
        for option in self.USUAL:
            self.expect_error(USAGE, "usage error", [f"--{option}", "is refused"], "run", *SMALL, f"--{option}", "")
            self.expect_error(USAGE, "usage error", [f"--{option}", "missing"], "run", *SMALL, f"--{option}")
        self.expect_error(USAGE, "argument error", ["softcap", "between 1e-20 and 1e20"], "run", *SMALL, "--softcap",
                          "1e-30")
        self.expect_error(USAGE, "usage error", ["--bias bhqk", "more than 2^30 elements", "fewer axes"], "run",
                          "--device", "emulator", "--head-dim", 64, "--heads", 1, "--q-len", 40000, "--kv-len", 40000,
                          "--bias", "bhqk")

    def test_help(self):
        text = self.expect(OK, "run", "--help").out
        for part in ("--window LEFT,RIGHT", "--softcap CAP", "--bias AXES", "--alibi SLOPE", "--mask AXES", "--sinks MEAN",
                     "--blocksparse SHARE", "--skipsoftmax THRESHOLD"):
            self.assertIn(part, text)


class Interrupt(RunTest):
    def test_ctrl_c_ends_the_launch_and_says_where(self):
        command = [TOOL, "run", "--device", "emulator", "--q-len", "512", "--head-dim", "64"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            self.assertIn(b"running", process.stderr.readline())
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=200)
        self.assertEqual(process.returncode, -signal.SIGINT)  # a shell's loop ends only if it sees the signal
        self.assertIn("interrupted", out.decode())
        self.assertIn("warp instructions", out.decode())


class Refusals(RunTest):
    def test_shapes(self):
        small = ("run", "--device", "emulator")
        self.expect_error(USAGE, "usage error", ["head"], *small, "--head-dim", 0)
        # Of the attention kernel that was asked for, not of one that prepares for it.
        self.expect_error(SPEC, "spec error", ["sage_fwd_d320", "head_dim 320"], *small, "--head-dim", 320, "--q-len", 8)
        self.expect_error(USAGE, "usage error", [], *small, "--q-len", 0)
        self.expect_error(USAGE, "usage error", [], *small, "--q-len", -5)
        self.expect_error(USAGE, "usage error", ["3"], *small, "--heads", 4, "--kv-heads", 3)
        self.expect_error(USAGE, "usage error", ["--q-len"], *small, "--q-len", "many")
        for command in (small, ("emit", "--target", "sm_89"), ("trace", "sage_quantrows_d128_f16_s8_r8_g32_fold__sm89")):
            self.expect_error(USAGE, "usage error", ["--out", "empty"], *command, "--out", "")

    def test_words(self):
        small = ("run", "--device", "emulator", "--q-len", 8)
        self.expect_error(USAGE, "usage error", ["frobnicate", "normal"], *small, "--dist", "frobnicate")
        self.expect_error(USAGE, "usage error", ["--mode"], *small, "--mode", "int3")
        self.expect_error(USAGE, "usage error", ["f32", "bf16"], *small, "--dtype", "f32")
        for option, words in (("--causal", "{none,top-left,bottom-right}"), ("--layout", "{hnd,nhd}"),
                              ("--checks", "{on,off}"), ("--order", "{round_robin,random,reverse}"),
                              ("--async", "{late,eager,random}")):
            self.expect_error(USAGE, "usage error", [f"{option}: sideways not in {words}"], *small, option, "sideways")
            self.assertIn(words, self.expect(OK, "run", "--help").out)
            self.expect_error(USAGE, "usage error", [option], *small, option, 0)  # no number stands for a word
        self.expect_error(USAGE, "usage error", ["--softmax-scale"], *small, "--softmax-scale", -1)
        # An explicit 0 is not the default; what does not fit into memory is not tried.
        for option in ("--softmax-scale", "--heads", "--kv-heads", "--q-len", "--kv-len", "--head-dim"):
            self.expect_error(USAGE, "usage error", [option, "0"], "run", option, 0)
        self.expect_error(USAGE, "usage error", ["--q-len"], "run", "--q-len", 99999999999)
        self.expect_error(USAGE, "usage error", ["elements", "--q-len"], "run", "--q-len", 2000000)
        self.expect_error(USAGE, "usage error", ["--kv-heads 3", "--heads 4"], "run", "--heads", 4,
                          "--kv-heads", 3)
        self.expect_error(USAGE, "usage error", ["elements", "--kv-len"], "run", "--q-len", 1, "--heads", 1,
                          "--head-dim", 1, "--kv-len", 1 << 28)
        for files in (("a", "b"), ("q.npy",)):
            self.expect_error(USAGE, "usage error", ["--input", "npy files of Q, K and V"], "run", "--input",
                              *files)

    def test_options_that_would_change_nothing(self):
        file = self.run_file(qkv())
        for option, value in (("--dist", "normal"), ("--batch", 1), ("--heads", 2), ("--kv-heads", 2), ("--q-len", 9),
                              ("--kv-len", 9), ("--head-dim", 64), ("--seed", 1)):
            self.expect_error(USAGE, "usage error", [option, "--input"], *file, option, value)
        self.expect_error(USAGE, "usage error", ["--prefix", "--input"], "run", "--prefix", "layer0")
        self.expect_error(USAGE, "usage error", ["--prefix", "--input"], "run", "--prefix", "layer0", "--input", "a.npy",
                          "b.npy", "c.npy")
        for option, value in (("--checks", "off"), ("--order", "reverse"), ("--async", "eager")):
            self.expect_error(USAGE, "usage error", [option, "--device cuda:0"], "run", "--device", "cuda:0", option,
                              value)
        self.expect_error(USAGE, "usage error", ["--order-seed", "--order random"], "run", "--order-seed", 3)
        self.expect(OK, "run", *SMALL, "--order-seed", 3, "--order", "random")
        self.expect(OK, "run", *SMALL, "--order-seed", 3, "--async", "random")

    def test_seeds(self):
        for option in ("--seed", "--order-seed"):
            for seed in ("-1", "1.5", "many", str(2**64)):
                self.expect_error(USAGE, "usage error", [option, seed, str(2**64 - 1)], "run", option, seed)
        self.expect(OK, "run", *SMALL, "--seed", 2**64 - 1)

    def test_softmax_scales_that_an_f32_cannot_hold(self):
        for scale in ("1e-46", "1.01e25", "1e300", "inf"):
            self.expect_error(USAGE, "usage error", ["--softmax-scale", "1e+25"], "run", "--softmax-scale", scale)
        for scale in ("1e-44", "1e25"):
            self.assertTrue(self.run_json(*SMALL, "--softmax-scale", scale)["passed"])

    def test_devices_and_targets(self):
        self.expect_error(USAGE, "usage error", ["toaster", "emulator:PROFILE"], "run", "--device", "toaster")
        self.expect_error(USAGE, "usage error", ["sm_77", "sm_80", "ideal"], "run", "--device", "emulator:sm_77")
        self.expect_error(USAGE, "usage error", ['profile ""', "sm_80", "ideal"], "run", "--device", "emulator:")
        self.expect_error(USAGE, "usage error", ["cuda:N"], "run", "--device", "cuda:x")
        self.expect_error(SPEC, "spec error", ["sm_77"], "run", "--device", "emulator", "--target", "sm_77")
        self.expect_error(USAGE, "usage error", ["sm_120", "8.0", "use sm_80"], "run", "--device", "emulator:sm_80",
                          "--target", "sm_120")
        self.expect_error(SPEC, "spec error", ["e4m3", "no FP8"], "run", "--device", "emulator", "--target", "sm_80",
                          "--mode", "int8-fp8")

    @unittest.skipIf(HAS_GPU, "this machine has a GPU")
    def test_no_gpu(self):
        self.expect_error(DRIVER, "driver error", ["no GPU for --device cuda:0"], "run", "--device", "cuda:0")
        result = self.expect(OK, "run", "--q-len", 8, "--heads", 1)
        self.assertIn("emulator:sm_89", result.out)
        self.assertIn("no GPU:", result.out)


if __name__ == "__main__":
    unittest.main()
