"""`sagegen run` of a user's files: tensors, results, and PTX with errors that the judge has to find."""
import math
import os
import re
import struct
import threading
import unittest

from run_support import GENERATOR, METRICS, SMALL, RunTest, qkv
from support import (BOUND_BY_PERMISSIONS, CHECK_FAILED, DRIVER, FILE, FULL_DISK, FWD, OK, SPEC, USAGE, npy,
                     safetensors, waves)


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
        self.expect_error(FILE, "file error", ["/dev/null/x/o", "/dev/null is no folder"], *large, "--out", "/dev/null/x/o")
        self.expect_error(FILE, "file error", ["ends in a /"], *large, "--out", self.path("o/"))
        self.expect_error(FILE, "file error", [self.directory, "is a directory"], *large, "--out", self.directory)
        file = self.write("file", b"kept")
        self.expect_error(FILE, "file error", ["no directory " + file], *large, "--out", file + "/o")
        os.chmod(file, 0o400)
        self.expect_error(FILE, "file error", ["Permission denied"], *large, "--out", file, before=BOUND_BY_PERMISSIONS)
        os.chmod(self.directory, 0o500)
        self.addCleanup(os.chmod, self.directory, 0o700)
        self.expect_error(FILE, "file error", ["Permission denied"], *large, "--out", self.path("new"),
                          before=BOUND_BY_PERMISSIONS)

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


if __name__ == "__main__":
    unittest.main()
