"""`sagegen run` in the emulator: results, reports, and every way to refuse an input."""
import math
import os
import re
import signal
import struct
import subprocess
import threading
import unittest

from support import (CHECK_FAILED, DRIVER, FILE, FULL_DISK, FWD, OK, QUANTQ, SPEC, TOOL, USAGE, CliTest,
                     has_generator, npy, safetensors, sagegen, waves)

GENERATOR = has_generator()
HAS_GPU = sagegen("devices", "--json").json()["cuda"]
SMALL = ("--device", "emulator", "--heads", 2, "--q-len", 70, "--kv-len", 65, "--head-dim", 64)
METRICS = ("cosine_similarity", "relative_l1", "rmse", "max_abs")


def qkv(channels=64, tokens=9, dtype="F16"):
    count = 2 * tokens * channels
    return {name: (dtype, [1, 2, tokens, channels], waves(count, step))
            for name, step in (("q", 37), ("k", 91), ("v", 53))}


class RunTest(CliTest):
    def run_json(self, *arguments, code=OK):
        return self.expect_json(code, "run", *arguments)

    def write(self, name, data):
        with open(self.path(name), "wb") as file:
            file.write(data)
        return self.path(name)

    def run_file(self, tensors, *arguments):
        return ("run", "--device", "emulator", "--input", self.write("in.safetensors", safetensors(tensors)),
                *arguments)


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


class Files(RunTest):
    def test_safetensors(self):
        report = self.expect(OK, *self.run_file(qkv()), "--json").json()
        self.assertEqual(report["shape"], {"batch": 1, "heads": 2, "kv_heads": 2, "q_len": 9, "kv_len": 9,
                                           "head_dim": 64, "value_dim": 64})
        self.assertTrue(report["input"].endswith("in.safetensors"))

    def test_npy_gives_the_same(self):
        paths = [self.write(f"{name}.npy", npy(shape, values)) for name, (_, shape, values) in qkv(dtype="F32").items()]
        from_npy = self.run_json("--device", "emulator", "--input", *paths)
        from_safetensors = self.expect(OK, *self.run_file(qkv(dtype="F32")), "--json").json()
        self.assertEqual(from_npy["relative_l1"], from_safetensors["relative_l1"])

    def test_prefix(self):
        tensors = {f"layer0.{name}": value for name, value in qkv().items()}
        self.expect(OK, *self.run_file(tensors, "--prefix", "layer0"))
        self.expect_error(FILE, "file error", ["layer0"], *self.run_file(tensors))

    def test_codes_of_o_are_judged_as_what_they_stand_for(self):
        plain = self.run_json(*SMALL, "--target", "sm_89")
        self.assertEqual(plain["output"], "io")
        for codes, shown in (("s8", "a scale per row"), ("e4m3", "of O times 16")):
            report = self.run_json(*SMALL, "--target", "sm_89", "--output", codes)
            self.assertEqual((report["output"], report["passed"]), (codes, True))
            self.assertIn(f"_out_{codes}_", report["kernels"][-1])
            self.assertGreater(report["relative_l1"], plain["relative_l1"])
            self.assertGreater(report["model"]["relative_l1"], plain["model"]["relative_l1"])
            self.assertIn(shown, self.expect(OK, "run", *SMALL, "--target", "sm_89", "--output", codes).out)
            self.assertTrue(self.run_json(report["kernels"][-1], "--device", "emulator", "--q-len", 70)["passed"])

    def test_v_of_another_width_is_padded_and_said_so(self):
        small = ("--device", "emulator", "--q-len", 70, "--heads", 1)
        for channels, of_v, kernel in ((192, 128, (192, 128)), (100, 50, (128, 64)), (100, 120, (128, 128))):
            report = self.run_json(*small, "--head-dim", channels, "--value-dim", of_v)
            self.assertEqual((report["shape"]["head_dim"], report["shape"]["value_dim"]), (channels, of_v))
            self.assertEqual((report["kernel_head_dim"], report["kernel_value_dim"], report["passed"]), (*kernel, True))
        text = self.expect(OK, "run", *small, "--head-dim", 96, "--value-dim", 50).out
        for part in ("head_dim 96, value_dim 50", "channels of V padded with zeros from 50 to 64"):
            self.assertIn(part, text)
        named = FWD.replace("d64", "d64_dv32")
        report = self.run_json(named, *small)
        self.assertEqual((report["shape"]["head_dim"], report["shape"]["value_dim"], report["passed"]), (64, 32, True))
        self.expect_error(USAGE, "usage error", ["V of 64 channels", named, "at most 32"], "run", named, "--value-dim", 64)

    def test_other_head_dims_are_padded_and_said_so(self):
        for channels, padded in ((24, 32 if GENERATOR else 64), (40, 64), (104, 128)):
            result = self.expect(OK, *self.run_file(qkv(channels)))
            self.assertIn(f"padded with zeros from {channels} to {padded}", result.out)
            report = self.expect(OK, *self.run_file(qkv(channels)), "--json").json()
            self.assertEqual((report["shape"]["head_dim"], report["kernel_head_dim"]), (channels, padded))
            self.assertTrue(report["passed"])

    @unittest.skipUnless(GENERATOR, "not in the embedded set")
    def test_heads_of_other_sizes_run_from_ptx_that_a_set_made(self):
        path = os.path.join(self.directory, "heads.toml")
        with open(path, "w", encoding="utf-8") as file:
            file.write('[[attention]]\ntargets = "sm_89"\nhead_dim = [72, 256]\n')
        self.expect(OK, "emit", "--set", path, "--out", self.directory)
        for channels in (72, 256):
            arguments = ("--device", "emulator", "--target", "sm_89", "--head-dim", channels, "--q-len", 70)
            report = self.run_json(*arguments, "--ptx", self.directory)
            self.assertEqual((report["shape"]["head_dim"], report["kernel_head_dim"], report["passed"]),
                             (channels, channels, True))
            self.assertIn("padded with zeros: to 96" if channels == 72 else "head_dim 256",
                          self.expect(OK, "inspect", report["kernels"][-1]).out)
        # Embedded are others: padded by the tool, or refused.
        small = ("--device", "emulator", "--target", "sm_89", "--q-len", 70, "--ptx", "embedded", "--head-dim")
        self.assertEqual(self.run_json(*small, 72)["kernel_head_dim"], 128)
        self.expect_error(SPEC, "spec error", ["_d256_", "sagegen emit"], "run", *small, 256)

    def test_damaged_files(self):
        good = safetensors(qkv())
        cases = {"truncated": good[:-1], "header only": good[:100], "empty": b"", "text": b"hello, world",
                 "huge header": struct.pack("<Q", 1 << 60) + b"{}"}
        for what, data in cases.items():
            with self.subTest(what=what):
                path = self.write("bad.safetensors", data)
                self.expect_error(FILE, "file error", [path], "run", "--device", "emulator", "--input", path)
        self.expect_error(FILE, "file error", ["/nonexistent", "No such file"], "run", "--input",
                          "/nonexistent.safetensors")
        self.expect_error(FILE, "file error", [self.directory, "is a directory"], "run", "--input", self.directory)

    def test_what_nobody_asked_for_is_not_read(self):
        tensors = {**qkv(), "step": ("I64", [], [5])}
        self.expect(OK, *self.run_file(tensors))
        self.expect_error(FILE, "file error", ["layer0.q"], *self.run_file(tensors, "--prefix", "layer0"))

    def test_pipes(self):
        data = {"q.safetensors": safetensors(qkv()), **{f"{name}.npy": npy(shape, values)
                                                      for name, (_, shape, values) in qkv(dtype="F32").items()}}
        for names in (["q.safetensors"], ["q.npy", "k.npy", "v.npy"]):
            ends = []
            for name in names:
                end, start = os.pipe()
                ends.append(end)
                threading.Thread(target=self.feed, args=(start, data[name])).start()
            self.expect(OK, "run", "--device", "emulator", "--input", *(f"/dev/fd/{end}" for end in ends), pass_fds=ends)
            for end in ends:
                os.close(end)

    @staticmethod
    def feed(descriptor, data):
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)

    def test_zeros_have_no_bound_on_relative_l1(self):
        tensors = {name: (dtype, shape, [0.0] * len(values)) for name, (dtype, shape, values) in qkv().items()}
        out = self.expect(OK, *self.run_file(tensors)).out
        self.assertIn("bound    none on relative L1", out)
        self.assertNotIn("nan", out)

    def test_values_that_count_as_zero_are_told(self):
        tensors = qkv(dtype="F32")
        tensors["v"] = (*tensors["v"][:2], [x * 1e-33 for x in tensors["v"][2]])
        result = self.expect(OK, *self.run_file(tensors, "--dtype", "bf16"), "--json")
        self.assertIn("128 channels of V nowhere exceed 2^-100", result.json()["warnings"][0])

    def test_order_of_the_file(self):
        def reordered(values, heads, tokens):
            rows = [values[i * 64:(i + 1) * 64] for i in range(heads * tokens)]
            return [x for n in range(tokens) for h in range(heads) for x in rows[h * tokens + n]]
        hnd = qkv()
        nhd = {name: (dtype, [1, 9, 2, 64], reordered(values, 2, 9)) for name, (dtype, _, values) in hnd.items()}
        first = self.expect(OK, *self.run_file(hnd), "--json").json()
        again = self.expect(OK, *self.run_file(nhd, "--input-layout", "nhd"), "--json").json()
        for name in ("shape", "warnings", *METRICS):
            self.assertEqual(first[name], again[name])
        self.assertEqual(first["warnings"], [])
        wrong = self.expect(OK, *self.run_file(nhd), "--json")
        for text in (wrong.err, *wrong.json()["warnings"]):
            self.assertIn("9 heads of 2 tokens", text)
            self.assertIn("give --input-layout nhd", text)
        self.assertEqual(len(wrong.json()["warnings"]), 1)
        self.assertIn("give --input-layout hnd", self.expect(OK, *self.run_file(hnd, "--input-layout", "nhd")).err)
        self.expect_error(USAGE, "usage error", ["--input-layout", "--input"], "run", "--input-layout", "nhd")

    def test_the_result_does_not_take_the_place_of_what_it_is_computed_from(self):
        arguments = self.run_file(qkv())
        file = self.path("in.safetensors")
        with open(file, "rb") as before:
            data = before.read()
        os.symlink("in.safetensors", self.path("soft"))
        os.link(file, self.path("hard"))
        os.mkdir(self.path("d"))
        for out in (file, self.path("soft"), self.path("hard"), self.path("d", "..", "in.safetensors")):
            self.expect_error(USAGE, "usage error", [out, "same file as", file], *arguments, "--out", out)
            with open(file, "rb") as after:
                self.assertEqual(after.read(), data)
        paths = [self.write(f"{name}.npy", npy(shape, values)) for name, (_, shape, values) in qkv(dtype="F32").items()]
        self.expect_error(USAGE, "usage error", ["same file as", paths[2]], "run", "--input", *paths, "--out", paths[2])
        ptx = self.path("d", "x.ptx")
        with open(ptx, "wb"):
            pass
        self.expect_error(USAGE, "usage error", ["same file as", ptx], "run", "--ptx", self.path("d"), "--out", ptx)

    def test_a_write_that_fails_leaves_the_old_result(self):
        out = self.write("o", b"old")
        self.expect_error(FILE, "file error", [out, "File too large"], "run", *SMALL, "--out", out,
                          limits=FULL_DISK)
        with open(out, "rb") as file:
            self.assertEqual(file.read(), b"old")
        self.assertEqual(os.listdir(self.directory), ["o"])

    def test_names_of_files_are_shown_and_not_obeyed(self):
        for name in ("\x1b[31mred.safetensors", "\u009b31mred.safetensors"):
            path = self.write(name, safetensors(qkv()))
            arguments = ("run", "--device", "emulator", "--input", path)
            report = self.expect(OK, *arguments, "--json")
            for text in (report.out, self.expect(OK, *arguments).out):
                self.assertNotIn(name[0], text)
            self.assertEqual(report.json()["input"], path)

    def test_nan_and_infinity_are_named(self):
        for name, bad, shown in (("q", math.nan, "nan"), ("v", -math.inf, "-inf")):
            tensors = qkv()
            dtype, shape, values = tensors[name]
            values[(1 * 9 + 4) * 64 + 5] = bad
            tensors[name] = (dtype, shape, values)
            self.expect_error(FILE, "file error", [f"'{name}'", "[0, 1, 4, 5]", shown], *self.run_file(tensors))

    def test_value_that_f16_cannot_hold(self):
        tensors = qkv(dtype="F32")
        tensors["v"][2][3] = 1e6
        self.expect_error(USAGE, "usage error", ["tensor v", "[0, 0, 0, 3]", "1000000", "--dtype bf16"],
                          *self.run_file(tensors))
        self.expect(OK, *self.run_file(tensors, "--dtype", "bf16"))

    def test_shapes_that_do_not_belong_together(self):
        tensors = qkv()
        tensors["v"] = ("F16", [1, 2, 8, 64], waves(2 * 8 * 64, 3))
        self.expect_error(FILE, "file error", ["k and v must have the same batch, heads and tokens"], *self.run_file(tensors))
        del tensors["v"]
        self.expect_error(FILE, "file error", ["v"], *self.run_file(tensors))

    def test_v_with_channels_of_its_own_number(self):
        tensors = qkv()
        tensors["v"] = ("F16", [1, 2, 9, 40], waves(2 * 9 * 40, 3))
        out = self.path("o.safetensors")
        report = self.expect_json(OK, *self.run_file(tensors, "--out", out))
        self.assertEqual((report["shape"]["head_dim"], report["shape"]["value_dim"]), (64, 40))
        self.assertEqual((report["kernel_head_dim"], report["kernel_value_dim"], report["passed"]), (64, 64, True))
        with open(out, "rb") as file:
            self.assertIn(b"[1,2,9,40]", file.read().replace(b" ", b""))
        tensors["v"] = ("F16", [1, 2, 9, 96], waves(2 * 9 * 96, 3))
        report = self.expect_json(OK, *self.run_file(tensors))
        self.assertEqual((report["kernel_head_dim"], report["kernel_value_dim"], report["passed"]), (64, 96, True))
        self.assertIn("_d64_dv96_", report["kernels"][-1])

    def test_npy_that_does_not_fit_is_named(self):
        wide, narrow, short, twice = (npy(shape, waves(2 * shape[0] * shape[2] * shape[3], 3))
                                      for shape in ((1, 2, 9, 64), (1, 2, 9, 32), (1, 2, 8, 64), (2, 2, 9, 64)))
        for blamed, q, k, v in (("k.npy", wide, narrow, wide), ("v.npy", wide, wide, twice),
                                ("q.npy", narrow, wide, wide), ("k.npy or ", wide, short, wide)):
            with self.subTest(blamed=blamed):
                paths = [self.write(f"{name}.npy", data) for name, data in (("q", q), ("k", k), ("v", v))]
                result = self.expect_error(FILE, "file error", [], "run", "--device", "emulator", "--input", *paths)
                self.assertIn(f"\n  {self.path(blamed)}", result.err)

    def test_output_that_cannot_be_written_is_refused_at_once(self):
        # Q alone would take minutes; no test waits for them.
        large = ("run", "--device", "emulator", "--q-len", 20000, "--heads", 8)
        self.expect_error(FILE, "file error", ["/nonexistent/o", "no directory /nonexistent"], *large, "--out",
                          "/nonexistent/o")
        self.expect_error(FILE, "file error", [self.directory, "is a directory"], *large, "--out", self.directory)
        file = self.write("file", b"kept")
        self.expect_error(FILE, "file error", ["no directory " + file], *large, "--out", file + "/o")
        if os.geteuid() != 0:  # root may write anywhere
            os.chmod(file, 0o400)
            self.expect_error(FILE, "file error", ["Permission denied"], *large, "--out", file)
            os.chmod(self.directory, 0o500)
            self.addCleanup(os.chmod, self.directory, 0o700)
            self.expect_error(FILE, "file error", ["Permission denied"], *large, "--out", self.path("new"))

    def test_a_refused_run_leaves_no_output(self):
        self.expect(USAGE, "run", "--device", "toaster", "--out", self.path("o"))
        self.expect(OK, "run", *SMALL, "--out", self.path("kept"))
        self.assertEqual(os.listdir(self.directory), ["kept"])


@unittest.skipUnless(GENERATOR, "built without the generator")
class EditedPtx(RunTest):
    """`--ptx DIR` runs what the files say, and the emulator judges it."""

    ATTENTION = "sage_fwd_d64_f16_qk_s8t_g32x64_smk_pv_e4m3_f32x2__q128k64w4s2__sm89"
    KERNELS = ("sage_kvstats_d64_f16_ksum_vmax__sm89", "sage_quantrows_d64_f16_s8_r4_g64_smooth__sm89",
               "sage_quantv_d64_f16_e4m3__sm89", "sage_quantrows_d64_f16_s8_r8_g32_fold__sm89", ATTENTION)

    def setUp(self):
        super().setUp()
        self.expect(OK, "emit", "--lineinfo", "--out", self.directory, *self.KERNELS)
        self.arguments = ("--device", "emulator", "--head-dim", 64, "--q-len", 70, "--kv-len", 200, "--ptx",
                          self.directory)
        self.thousand_rows = ("--device", "emulator", "--checks", "off", "--head-dim", 64, "--q-len", 500, "--kv-len",
                              200, "--ptx", self.directory)

    def edit(self, before, after):
        path = self.path(self.ATTENTION + ".ptx")
        with open(path, encoding="utf-8") as file:
            text = file.read()
        self.assertIn(before, text)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text.replace(before, after))

    def test_unedited(self):
        report = self.run_json(*self.arguments)
        self.assertEqual((report["ptx"], report["findings"], report["passed"]), (self.directory, [], True))
        made = self.run_json(*self.arguments[:-2])
        self.assertEqual([report[name] for name in METRICS], [made[name] for name in METRICS])

    def test_a_missing_wait_is_a_finding_with_its_place(self):
        self.edit("cp.async.wait_group", "// cp.async.wait_group")
        report = self.run_json(*self.arguments, code=CHECK_FAILED)
        self.assertFalse(report["passed"])
        # There is nothing to compare, so nothing is computed to compare it with.
        for metrics in (report, report["model"]):
            self.assertEqual([metrics[name] for name in METRICS], [None] * 4)
        finding = report["findings"][0]
        self.assertEqual((finding["kernel"], finding["check"]), (self.ATTENTION, "copy-in-flight"))
        self.assertGreater(finding["ptx_line"], 0)
        self.assertRegex(finding["source"], r"^[a-z/_]+\.(cpp|h):[0-9]+$")
        result = self.expect(CHECK_FAILED, "run", *self.arguments)
        for part in ("copy-in-flight", f"PTX line {finding['ptx_line']}", "no result that could be compared"):
            self.assertIn(part, result.out)
        self.assertNotIn("computing exact attention", result.err)

    def test_a_wrong_result_misses_the_bound(self):
        self.edit("ex2.approx.ftz.f32", "rcp.approx.ftz.f32")
        report = self.run_json(*self.arguments, code=CHECK_FAILED)
        self.assertEqual((report["findings"], report["passed"]), ([], False))
        self.assertIn("MISSED", self.expect(CHECK_FAILED, "run", *self.arguments).out)

    # Planted errors. Of 1,000 rows, one (the first of head 1) or all; the error of the whole output hides one.
    def edit_row(self, statement):
        """Puts `statement` behind the reciprocal of the row's sum, R, of one row."""
        path = self.path(self.ATTENTION + ".ptx")
        with open(path, encoding="utf-8") as file:
            text = file.read()
        found = re.search(r"\trcp\.approx\.ftz\.f32 \t(%r[0-9]+), .*;\n", text)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text[:found.end()] + """
\t.reg .pred %planted_x, %planted_y, %planted_t;
\t.reg .b32 %planted_x_of, %planted_y_of, %planted_t_of;
\tmov.u32 %planted_x_of, %ctaid.x;
\tmov.u32 %planted_y_of, %ctaid.y;
\tmov.u32 %planted_t_of, %tid.x;
\tsetp.eq.u32 %planted_x, %planted_x_of, 0;
\tsetp.eq.and.u32 %planted_y, %planted_y_of, 1, %planted_x;
\tsetp.lt.and.u32 %planted_t, %planted_t_of, 4, %planted_y;
\t@%planted_t """ + statement.replace("R", found.group(1)) + "\n" + text[found.end():])

    def refused(self, *arguments):
        """The report of a run whose result must not pass."""
        report = self.run_json(*self.thousand_rows, *arguments, code=CHECK_FAILED)
        self.assertEqual((report["findings"], report["passed"]), ([], False))
        text = self.expect(CHECK_FAILED, "run", *self.thousand_rows, *arguments, "--lse").out
        self.assertRegex(text, "MISSED by [0-9]+ rows|are NaN or infinite|outside the range of V")
        return report

    def refused_row(self):
        report = self.refused()
        self.assertLessEqual(report["relative_l1"], report["bound"]["relative_l1"])
        self.assertEqual((report["row_bound"]["rows_beyond"], report["row_bound"]["lse_beyond"]), (1, 0))
        self.assertEqual(report["row_bound"]["nearest"]["at"][:3], [0, 1, 0])
        self.assertGreater(report["row_bound"]["nearest"]["of_bound"], 1)
        return report

    def test_the_kernel_as_it_is(self):
        report = self.run_json(*self.thousand_rows)
        self.assertTrue(report["passed"])
        self.assertEqual(report["judged"], {"rows": 1000, "of": 1000})
        row = report["row_bound"]
        self.assertEqual((row["rows_beyond"], row["rows_apart"], row["lse_beyond"]), (0, 0, 0))
        for worst in (row["nearest"], row["farthest"], row["lse_nearest"]):
            self.assertLess(0, worst["of_bound"])
            self.assertLess(worst["of_bound"], 1)
        self.assertEqual(report["every_row"], {"non_finite": 0, "outside_range": 0, "masked": 0})
        text = self.expect(OK, "run", *self.thousand_rows).out
        self.assertIn("judged   all 1000 rows", text)
        self.assertEqual(text.count(": met\n"), 4)

    def test_a_zeroed_row(self):
        self.edit_row("mov.f32 R, 0f00000000;")
        row = self.refused_row()["row_bound"]
        self.assertEqual((row["nearest"]["got"], row["rows_apart"], row["farthest"]["at"]), (0, 1, [0, 1, 0]))

    def test_a_row_scaled_by_a_tenth(self):
        self.edit_row("mul.rn.f32 R, R, 0f3F8CCCCD;")
        self.refused_row()

    def test_an_infinite_row(self):
        self.edit_row("mov.f32 R, 0f7F800000;")
        report = self.refused()
        self.assertEqual(report["every_row"]["non_finite"], 64)

    def test_a_row_beyond_every_value(self):
        self.edit_row("mul.rn.f32 R, R, 0f42C80000;")  # 100
        self.assertGreater(self.refused()["every_row"]["outside_range"], 32)

    def test_rows_that_are_not_judged_one_by_one_are_looked_at(self):
        # The sample has the edges and random rows: row 0 of a head is in it, row 1 need not be.
        self.edit_row("mov.f32 R, 0f7F800000;")
        report = self.refused("--judge-rows", 2, "--judge-seed", 3)
        self.assertEqual(report["judged"]["rows"], 2)
        self.assertNotIn("0", [one["tokens"] for one in report["judged"]["which"]])
        self.assertEqual(report["every_row"]["non_finite"], 64)

    def test_heads_that_change_places(self):
        path = self.path(self.ATTENTION + ".ptx")
        with open(path, encoding="utf-8") as file:
            text = file.read()
        found = list(re.finditer(r"\tmov\.u32 \t(%r[0-9]+), %ctaid\.y;\n", text))[-1]  # where results go
        with open(path, "w", encoding="utf-8") as file:
            file.write(text[:found.end()] + f"\txor.b32 {found.group(1)}, {found.group(1)}, 1;\n" + text[found.end():])
        self.assertEqual(self.refused()["row_bound"]["rows_beyond"], 1000)

    def test_an_lse_in_base_2(self):
        self.edit("0f3F317218", "0f3F800000")  # ln 2
        report = self.refused()
        self.assertLessEqual(report["relative_l1"], report["bound"]["relative_l1"])
        self.assertEqual((report["row_bound"]["rows_beyond"], report["row_bound"]["lse_beyond"]), (0, 1000))
        self.assertGreater(report["lse"]["max_abs"], 1)

    def test_weights_that_round_up_do_not_leave_the_range_of_v(self):
        # One key scores ln(448 / 17.2) above 63 others: FP8 rounds their weights up to 18, V is 64000 everywhere.
        tokens = 64
        q, k = [0.0] * tokens * 64, [0.0] * tokens * 64
        q[::64] = [1.0] * tokens
        k[0] = 8 * math.log(448 / 17.2)
        tensors = {"q": q, "k": k, "v": [64000.0] * tokens * 64}
        file = safetensors({name: ("F16", [1, 1, tokens, 64], values) for name, values in tensors.items()})
        arguments = ("--device", "emulator", "--input", self.write("in.safetensors", file), "--ptx", self.directory)
        report = self.run_json(*arguments)
        self.assertTrue(report["passed"])
        self.assertLess(report["relative_l1"], 1e-3)
        for garbage in ("0f3F19999A", "0f00000000", "0f447A0000"):  # 0.6, 0, 1000: not all of it overflows
            with self.subTest(garbage=garbage):
                self.expect(OK, "emit", "--out", self.directory, self.ATTENTION)
                path = self.path(self.ATTENTION + ".ptx")
                with open(path, encoding="utf-8") as ptx:
                    text = ptx.read()
                text = re.sub(r"(\trcp\.approx\.ftz\.f32 \t(%r[0-9]+), .*;\n)",
                              rf"\1\tmul.rn.f32 \2, \2, {garbage};\n", text)
                with open(path, "w", encoding="utf-8") as ptx:
                    ptx.write(text)
                report = self.run_json(*arguments, code=CHECK_FAILED)
                self.assertFalse(report["passed"])

    def test_an_endless_loop_is_a_finding_with_its_place(self):
        self.edit("\tret;", "$SPIN:\n\tmov.u32 %r0, %ntid.x;\n\tbra $SPIN;\n\tret;")
        report = self.run_json(*self.arguments, code=CHECK_FAILED)
        finding = report["findings"][0]
        self.assertEqual((finding["kernel"], finding["check"]), (self.ATTENTION, "instruction-limit"))
        with open(self.path(self.ATTENTION + ".ptx"), encoding="utf-8") as file:
            branch = file.read().split("\n").index("\tbra $SPIN;") + 1
        self.assertEqual(finding["ptx_line"], branch)
        self.assertIn(f"the loop from line {branch - 1} to here", finding["message"])

    def test_ptx_is_quoted_and_not_obeyed(self):
        for text in ("\x1b[31m", "x" * 1_000_000, ".reg .b32 %\x1b" + "y" * 1_000_000 + ";"):
            with open(self.path(self.ATTENTION + ".ptx"), "w", encoding="utf-8") as file:
                file.write(text)
            error = self.expect(DRIVER, "run", *self.arguments).err
            self.assertNotIn("\x1b", error)
            self.assertLess(len(error), 10000)

    def test_malformed_ptx_is_refused_by_line(self):
        self.edit("m16n8k32.row.col.s32", "m16n8k48.row.col.s32")
        self.expect_error(DRIVER, "driver error", [self.ATTENTION, "CUDA_ERROR_INVALID_PTX", "line ", "m16n8k48"],
                          "run", *self.arguments)

    def test_missing_file(self):
        self.expect_error(FILE, "file error", ["/nonexistent", "no directory"], "run", "--ptx", "/nonexistent", "--q-len", 8)
        self.expect_error(FILE, "file error", ["did you mean embedded"], "run", "--ptx", "embeded", "--q-len", 8)


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


class MaxWorkspace(RunTest):
    SHAPE = ("--device", "emulator", "--target", "sm_89", "--head-dim", 64, "--heads", 4, "--kv-heads", 2, "--batch", 2,
             "--q-len", 20, "--kv-len", 70)

    def test_a_bound(self):
        whole = self.run_json(*self.SHAPE, "--max-workspace", 1 << 30)
        self.assertEqual(whole["workspace"]["calls"], 1)
        self.assertNotIn("workspace", self.run_json(*self.SHAPE))
        for share, calls in ((0.6, 2), (0.3, 4)):
            bound = int(share * whole["workspace"]["bytes"])
            report = self.run_json(*self.SHAPE, "--max-workspace", bound)
            self.assertTrue(report["passed"])
            self.assertEqual(report["relative_l1"], whole["relative_l1"])
            self.assertEqual(report["workspace"]["calls"], calls)
            self.assertLessEqual(report["workspace"]["bytes"], bound)
            self.assertIn("k_codes", [tensor["name"] for tensor in report["workspace"]["tensors"]])
        text = self.expect(OK, "run", *self.SHAPE, "--max-workspace", bound).out
        self.assertIn("4 calls of at most 1 batches and 1 heads of K and V", text)
        self.expect_error(USAGE, "argument error", ["max_workspace_bytes is 100", "raise the bound"], "run", *self.SHAPE,
                          "--max-workspace", 100)

    @unittest.skipUnless(GENERATOR, "kernels with varlen are not embedded")
    def test_packed_sequences(self):
        shape = ("--device", "emulator", "--target", "sm_89", "--head-dim", 64, "--heads", 4, "--kv-heads", 2, "--seqlens", "20,0,7")
        size = self.run_json(*shape, "--max-workspace", 1 << 30)["workspace"]["bytes"]
        report = self.run_json(*shape, "--max-workspace", size - 1)
        self.assertEqual((report["passed"], report["workspace"]["calls"]), (True, 2))


@unittest.skipUnless(GENERATOR, "kernels of parts are made")
class Split(RunTest):
    SHAPE = ("--device", "emulator", "--target", "sm_89", "--head-dim", 64, "--heads", 2, "--q-len", 20, "--kv-len", 150)

    def test_parts_are_judged_and_merged(self):
        for more in ((), ("--mode", "16bit", "--dtype", "bf16"), ("--value-dim", 70), ("--layout", "nhd")):
            report = self.run_json(*self.SHAPE, "--split", 3, *more)
            self.assertEqual((report["passed"], report["findings"]), (True, []))
            self.assertEqual([part["kv_len"] for part in report["split"]], [50, 50, 50])
            self.assertTrue(all(part["passed"] for part in report["split"]))
            self.assertIn("sage_merge_", report["kernels"][-1])
            self.assertLessEqual(max(report["merge"].values()), 1)
            self.assertLessEqual(report["relative_l1"], report["limit"])
        text = self.expect(OK, "run", *self.SHAPE, "--split", 4).out
        for part in ("passed  part 0: 38 keys:", "passed  part 3: 37 keys:", "passed  merge: O ", "passed  all keys: relative L1"):
            self.assertIn(part, text)

    def test_a_v_of_zeros(self):
        npy = {}
        for name, tokens, value in (("q", 20, 1), ("k", 150, 1), ("v", 150, 0)):
            npy[name] = self.path(name + ".npy")
            header = "{'descr': '<f2', 'fortran_order': False, 'shape': (1, 2, %d, 64), }" % tokens
            header = header.ljust(117) + "\n"
            with open(npy[name], "wb") as file:
                file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode())
                file.write(struct.pack("<e", value) * (2 * tokens * 64))
        report = self.run_json("--device", "emulator", "--target", "sm_89", "--input", *npy.values(), "--split", 2)
        self.assertTrue(report["passed"])

    def test_what_takes_long_is_not_begun(self):
        self.expect_error(USAGE, "usage error", ["--limit"], "run", *self.SHAPE[:-4], "--q-len", 6000, "--split", 2, "--limit", 1)

    def test_a_broken_merge_fails(self):
        self.expect(OK, "emit", "--out", self.path("ptx"), *self.run_json(*self.SHAPE, "--split", 2)["kernels"])
        name = [self.path("ptx") + "/" + name for name in os.listdir(self.path("ptx")) if name.startswith("sage_merge")][0]
        with open(name, encoding="utf-8") as file:
            ptx = file.read()
        with open(name, "w", encoding="utf-8") as file:
            file.write(re.sub(r"rcp\.rn\.f32(\s+%r\d+), %r\d+;", r"mov.b32\1, 0f3F800000;", ptx))
        self.assertIn("FAILED  merge", self.expect(CHECK_FAILED, "run", *self.SHAPE, "--split", 2, "--ptx", self.path("ptx")).out)

    def test_refusals(self):
        for parts, *options in (["leave them out", "--causal", "top-left"], ["leave them out", "--sinks", 1],
                                ["not as codes", "--output", "s8"], ["there are 2 keys", "--kv-len", 2]):
            shape = self.SHAPE[:-2] if "--kv-len" in options else self.SHAPE
            self.expect_error(USAGE, "usage error", ["--split 3 is refused", parts], "run", *shape, "--split", 3, *options)
        self.expect_error(USAGE, "usage error", ["--split"], "run", *self.SHAPE, "--split", 0)


PACKED = ("--device", "emulator", "--target", "sm_89", "--head-dim", 64)


@unittest.skipUnless(GENERATOR, "kernels with varlen are not embedded")
class Packed(RunTest):
    def test_each_sequence_is_judged(self):
        for more in ((), ("--mode", "int4-fp8"), ("--mode", "16bit", "--layout", "nhd"),
                     ("--granularity", "per_tensor", "--dtype", "bf16"), ("--window", "20,3", "--bias", "bhqk"),
                     ("--value-dim", 128, "--skipsoftmax", 0.1, "--rotation", "hadamard"),
                     ("--output", "s8", "--value-dim", 72), ("--output", "e4m3", "--mode", "bf16-fp8")):
            report = self.run_json(*PACKED, "--seqlens", "100,37,0,130", "--kv-seqlens", "64,0,5,200", "--causal",
                                   "bottom-right", "--kv-heads", 1, *more)
            self.assertTrue(all("_varlen" in kernel for kernel in report["kernels"]))
            self.assertTrue(report["passed"])
            self.assertEqual(report["findings"], [])
            sequences = report["sequences"]
            self.assertEqual([one["q_len"] for one in sequences], [100, 37, 0, 130])
            self.assertEqual([one["kv_len"] for one in sequences], [64, 0, 5, 200])
            self.assertTrue(all(one["passed"] for one in sequences))
            self.assertGreater(sequences[3]["relative_l1"], 0)
            self.assertLessEqual(sequences[3]["relative_l1"], sequences[3]["bound"]["relative_l1"])

    def test_text(self):
        text = self.expect(OK, "run", *PACKED, "--seqlens", "10,0,65", "--kv-seqlens", "0,3,65").out
        for part in ("passed  sequence 0: 10 queries, 0 keys: no keys", "passed  sequence 1: 0 queries, 3 keys: no queries",
                     "passed  sequence 2: 65 queries, 65 keys: relative L1", "findings 0"):
            self.assertIn(part, text)

    def test_rows_of_heads_that_share_k_and_v(self):
        for more in ((), ("--mode", "int4-fp8"), ("--mode", "16bit", "--output", "e4m3"),
                     ("--output", "s8", "--layout", "nhd", "--sinks", 1), ("--blocksparse", 0.5)):
            report = self.run_json(*PACKED, "--pack-gqa", "--heads", 6, "--kv-heads", 2, "--seqlens", "1,0,7,33",
                                   "--kv-seqlens", "130,3,65,33", "--causal", "bottom-right", *more)
            self.assertIn("packgqa_varlen", report["kernels"][-1])
            self.assertEqual((report["passed"], report["findings"]), (True, []))
            self.assertEqual([one["q_len"] for one in report["sequences"]], [1, 0, 7, 33])
            self.assertTrue(self.run_json(report["kernels"][-1], "--device", "emulator", "--seqlens", "3,1")["passed"])

    def test_lengths_of_keys_are_those_of_queries(self):
        sequences = self.run_json(*PACKED, "--seqlens", "3,70")["sequences"]
        self.assertEqual([one["kv_len"] for one in sequences], [3, 70])

    def test_a_named_kernel(self):
        key = "sage_fwd_d64_bf16_qk_s8t_g32x64_smk_pv_e4m3_f32x2_varlen__q128k64w4s2__sm89"
        self.assertTrue(self.run_json(key, "--device", "emulator", "--seqlens", "3,70")["passed"])
        self.assertTrue(self.run_json(key, "--device", "emulator", "--q-len", 70)["passed"])
        plain = key.replace("_varlen", "")
        for other in (plain, plain.replace("f32x2_", "f32x2_given_")):
            self.expect_error(USAGE, "usage error", ["--seqlens is refused", other, "take a key with varlen"], "run", other, "--device",
                              "emulator", "--seqlens", "3,70")

    def test_a_broken_kernel_fails(self):
        self.expect(OK, "emit", "--out", self.path("ptx"),
                    *self.run_json(*PACKED, "--seqlens", "70,30")["kernels"])
        files = [self.path("ptx") + "/" + name for name in os.listdir(self.path("ptx")) if name.startswith("sage_fwd")]
        self.assertEqual(len(files), 1)
        with open(files[0], encoding="utf-8") as file:
            text = file.read()
        start = re.compile(r"mad\.lo\.s32(\s+)(%r\d+), %r\d+, %r\d+, (%r\d+);")
        self.assertRegex(text, start)
        with open(files[0], "w", encoding="utf-8") as file:
            file.write(start.sub(r"mov.b32\1\2, \3;", text, count=1))
        report = self.run_json(*PACKED, "--seqlens", "70,30", "--ptx", self.path("ptx"), code=CHECK_FAILED)
        self.assertFalse(report["passed"])
        self.assertTrue(report["sequences"][0]["passed"])
        self.assertFalse(report["sequences"][1]["passed"])

    def test_refusals(self):
        for lengths in ("", "a", "3,", ",3", "3,,4", "-1", "3;4", "16777217", "1.5"):
            self.expect_error(USAGE, "usage error", ["--seqlens"], "run", *PACKED, "--seqlens", lengths)
        self.expect_error(USAGE, "usage error", ["--kv-seqlens 3 is refused", "give as many"], "run", *PACKED, "--seqlens",
                          "3,4", "--kv-seqlens", "3")
        self.expect_error(USAGE, "usage error", ["--kv-seqlens"], "run", *PACKED, "--kv-seqlens", "3")
        for own in (("--batch", 2), ("--q-len", 3), ("--kv-len", 3), ("--out", self.path("o.safetensors"))):
            self.expect_error(USAGE, "usage error", [own[0], "refused beside --seqlens"], "run", *PACKED, "--seqlens",
                              "3,4", *own)


if __name__ == "__main__":
    unittest.main()
