"""`sagegen run` of packed sequences, of parts, and below a bound on the workspace."""
import os
import re
import struct
import unittest

from run_support import GENERATOR, RunTest
from support import CHECK_FAILED, OK, SPEC, USAGE, npy

PACKED = ("--device", "emulator", "--target", "sm_89", "--head-dim", 64)


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
        self.assertIn("4 calls of at most 1 batch and 1 head of K and V", text)
        self.expect_error(USAGE, "argument error", ["max_workspace_bytes is 100", "raise the bound"], "run", *self.SHAPE,
                          "--max-workspace", 100)

    @unittest.skipUnless(GENERATOR, "kernels with varlen are not embedded")
    def test_packed_sequences(self):
        shape = ("--device", "emulator", "--target", "sm_89", "--head-dim", 64, "--heads", 4, "--kv-heads", 2, "--seqlens", "20,0,7")
        size = self.run_json(*shape, "--max-workspace", 1 << 30)["workspace"]["bytes"]
        report = self.run_json(*shape, "--max-workspace", size - 1)
        self.assertEqual((report["passed"], report["workspace"]["calls"]), (True, 2))


@unittest.skipUnless(GENERATOR, "kernels of parts are made")
class Invariant(RunTest):
    SHAPE = ("--device", "emulator", "--target", "sm_89", "--head-dim", 64, "--heads", 1, "--q-len", 40, "--kv-len", 90)

    def test_levels(self):
        for level, chunk in (("batch", 1), ("query_chunks", 32)):
            report = self.run_json(*self.SHAPE, "--invariant", level)
            self.assertEqual((report["passed"], report["invariance"]), (True, {"level": level, "chunk_queries": chunk}))
        self.assertNotIn("invariance", self.run_json(*self.SHAPE))
        text = self.expect(OK, "run", *self.SHAPE, "--invariant", "query_chunks").out
        self.assertIn("(query_chunks) in chunks that begin at multiples of 32 queries", text)

    def test_refusals(self):
        self.expect_error(USAGE, "usage error", ["--invariant", "growing_keys"], "run", *self.SHAPE, "--invariant", "growing")
        self.expect_error(USAGE, "usage error", ["--invariant", "--split"], "run", *self.SHAPE, "--split", 2, "--invariant", "batch")
        for level, *causal in (("query_chunks", "--causal", "bottom-right"), ("growing_keys",)):
            self.expect_error(SPEC, "spec error", [f"is not invariant ({level})", "take a"], "run", *self.SHAPE, *causal, "--invariant", level)

    @unittest.skipUnless(GENERATOR, "the kernel is not embedded")
    def test_chunks_of_a_prefill_that_begin_elsewhere(self):
        kernel = ("--device", "emulator", "--target", "sm_89", "--head-dim", 64, "--heads", 1, "--mode", "16bit", "--causal", "bottom-right", "--invariant", "growing_keys")
        self.assertEqual(self.run_json(*kernel, "--q-len", 3, "--kv-len", 131)["invariance"]["chunk_queries"], 128)
        self.assertIn("multiples of 128", self.expect(USAGE, "run", *kernel, "--q-len", 4, "--kv-len", 131).err)


class Split(RunTest):
    SHAPE = ("--device", "emulator", "--target", "sm_89", "--head-dim", 64, "--heads", 2, "--q-len", 20, "--kv-len", 150)

    def test_parts_are_judged_and_merged(self):
        for more in ((), ("--mode", "16bit", "--dtype", "bf16"), ("--value-dim", 70), ("--layout", "nhd")):
            report = self.run_json(*self.SHAPE, "--split", 3, *more)
            self.assertEqual((report["passed"], report["findings"]), (True, []))
            self.assertGreater(report["emit_ms"], 0)
            self.assertGreaterEqual(report["load_ms"], report["emit_ms"])
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
            self.assertGreater(report["emit_ms"], 0)
            self.assertGreaterEqual(report["load_ms"], report["emit_ms"])
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
