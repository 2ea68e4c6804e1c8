#!/usr/bin/env python3
"""`sagegen emu`: foreign PTX kernels with arguments from the command line and from TOML files."""
import os
import struct
import unittest

from support import (CHECK_FAILED, DRIVER, FILE, OK, USAGE, CliTest, npy, safetensors, waves)

HEAD = ".version 8.0\n.target sm_80\n.address_size 64\n"

# y[i] = x[i] * pair.factor + pair.shift for i < n
SCALE = """.visible .entry scale(.param .u64 x, .param .u64 y, .param .u32 n, .param .align 4 .b8 pair[8])
{
\t.reg .pred %p<2>;
\t.reg .f32 %f<4>;
\t.reg .b32 %r<7>;
\t.reg .b64 %rd<6>;
\tmov.u32 %r1, %ctaid.x;
\tmov.u32 %r2, %ntid.x;
\tmov.u32 %r3, %tid.x;
\tmad.lo.s32 %r4, %r1, %r2, %r3;
\tld.param.u32 %r5, [n];
\tsetp.ge.u32 %p1, %r4, %r5;
\t@%p1 bra DONE;
\tld.param.u64 %rd1, [x];
\tld.param.u64 %rd2, [y];
\tmul.wide.u32 %rd3, %r4, 4;
\tadd.s64 %rd4, %rd1, %rd3;
\tadd.s64 %rd5, %rd2, %rd3;
\tld.global.f32 %f1, [%rd4];
\tld.param.f32 %f2, [pair];
\tld.param.s32 %r6, [pair+4];
\tcvt.rn.f32.s32 %f3, %r6;
\tfma.rn.f32 %f1, %f1, %f2, %f3;
\tst.global.f32 [%rd5], %f1;
DONE:
\tret;
}
"""

# out[tid] = own[tid] + dynamic[tid]; `barrier` orders the warps that write and read each other's.
REVERSED = """.extern .shared .align 4 .b8 dynamic[];
.visible .entry reversed(.param .u64 out, .param .u8 last) .reqntid 64
{
\t.reg .b32 %r<8>;
\t.reg .b64 %rd<4>;
\t.shared .align 4 .b8 own[256];
\tmov.u32 %r1, %tid.x;
\tshl.b32 %r2, %r1, 2;
\tmov.u32 %r3, own;
\tadd.u32 %r3, %r3, %r2;
\tst.shared.u32 [%r3], %r1;
\tmov.u32 %r4, dynamic;
\tadd.u32 %r4, %r4, %r2;
\tst.shared.u32 [%r4], %r1;
\tBARRIER
\tmov.u32 %r5, own;
\tsub.u32 %r6, 252, %r2;
\tadd.u32 %r5, %r5, %r6;
\tld.shared.u32 %r7, [%r5];
\tld.param.u64 %rd1, [out];
\tcvt.u64.u32 %rd2, %r2;
\tadd.s64 %rd3, %rd1, %rd2;
\tst.global.u32 [%rd3], %r7;
\tret;
}
"""

# *struct.out = struct.a[0] + struct.b
NESTED = """.visible .entry nested(.param .align 8 .b8 p[32])
{
\t.reg .b32 %r<4>;
\t.reg .b64 %rd<3>;
\tld.param.u64 %rd1, [p+8];
\tld.global.u32 %r1, [%rd1];
\tld.param.u16 %r2, [p+16];
\tadd.u32 %r3, %r1, %r2;
\tld.param.u64 %rd2, [p+24];
\tst.global.u32 [%rd2], %r3;
\tret;
}
"""

# One byte, or two, of any type copied: y[i] = x[i] for i < threads.
COPY = """.visible .entry copy(.param .u64 x, .param .u64 y) .maxntid 256
{
\t.reg .b32 %r<3>;
\t.reg .b64 %rd<6>;
\tmov.u32 %r1, %tid.x;
\tmul.wide.u32 %rd3, %r1, BYTES;
\tld.param.u64 %rd1, [x];
\tld.param.u64 %rd2, [y];
\tadd.s64 %rd4, %rd1, %rd3;
\tadd.s64 %rd5, %rd2, %rd3;
\tld.global.uBITS %r2, [%rd4];
\tst.global.uBITS [%rd5], %r2;
\tret;
}
"""

PAIR = "{f32=0.5,i32=-4}"


def raw_npy(descr, shape, data):
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {tuple(shape)}, }}"
    header += " " * (-(10 + len(header) + 1) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


class EmuTest(CliTest):
    def ptx(self, *bodies, name="k.ptx", head=HEAD):
        return self.file(name, (head + "".join(bodies)).encode())

    def file(self, name, content):
        with open(self.path(name), "wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
        return self.path(name)

    def read(self, name):
        with open(self.path(name), "rb") as file:
            return file.read()

    def scale(self, *options, x="x:f32[100]=iota", y="y:f32[100]", n="u32=100", pair=PAIR, grid="4", block="32"):
        return ("emu", self.ptx(SCALE), "--grid", grid, "--block", block, "--arg", x, "--arg", y, "--arg", n,
                "--arg", pair, *options)

    def scale_json(self, code, *options, **arguments):
        command, *rest = self.scale(*options, **arguments)
        return self.expect_json(code, command, *rest)

    # ---- what is computed ----

    def test_buffers_numbers_and_structs_reach_the_kernel(self):
        report = self.scale_json(OK, "--show", "100", "--out", "y=" + self.path("y.npy"))
        self.assertTrue(report["passed"])
        self.assertEqual(report["findings"], [])
        self.assertEqual(report["device"], "emulator:sm_80")
        self.assertEqual((report["grid"], report["block"]), ([4, 1, 1], [32, 1, 1]))
        expected = [0.5 * i - 4 for i in range(100)]
        x, y = report["buffers"]
        self.assertEqual(y["values"], expected)
        self.assertEqual((y["name"], y["position"], y["type"], y["shape"]), ("y", "1", "f32", [100]))
        self.assertEqual((y["min"], y["max"], y["mean"]), (-4, 45.5, 20.75))
        self.assertEqual((x["changed"], y["changed"]), (False, True))
        self.assertGreater(report["warp_instructions"], 60)
        self.assertEqual(self.read("y.npy"), npy([100], expected))

    def test_the_text_names_kernel_device_buffers_and_findings(self):
        out = self.expect(OK, *self.scale()).out
        for part in ("kernel   scale of ", "grid (4, 1, 1), block (32, 1, 1)", "x:f32[100]=iota, y:f32[100], u32=100",
                     "emulator:sm_80 (emulated sm_80), checks on", "unchanged", "written", "[-4, -3.5, -3, ",
                     "findings 0\n"):
            self.assertIn(part, out)

    def test_structs_nest_and_references_share_memory(self):
        path = self.ptx(NESTED)
        report = self.expect_json(OK, "emu", path, "--block", "1", "--arg",
                                  "{u8=1, in: u32[4]=40, {u16=2}, out: u32[1]}", "--expect", "out=42",
                                  "--expect", "0.3=42", "--expect", "0.1=40")
        self.assertEqual([b["position"] for b in report["buffers"]], ["0.1", "0.3"])
        report = self.expect_json(OK, "emu", path, "--block", "1", "--arg", "{u8=1,in:u32[4]=iota,u16=7,&in+12}",
                                  "--show", "4")
        self.assertEqual(report["buffers"][0]["values"], [0, 1, 2, 7])
        self.assertTrue(report["buffers"][0]["changed"])

    def test_shared_memory_of_both_kinds_and_the_block_of_reqntid(self):
        path = self.ptx(REVERSED.replace("BARRIER", "bar.sync 0;"))
        report = self.expect_json(OK, "emu", path, "--shared", "256", "--arg", "u32[64]", "--arg", "i8=-1", "--show", "3")
        self.assertEqual(report["buffers"][0]["values"], [63, 62, 61])
        self.assertEqual((report["static_shared"], report["dynamic_shared"]), (256, 256))
        report = self.expect_json(CHECK_FAILED, "emu", path, "--arg", "u32[64]", "--arg", "u8=0", "--shared", "252")
        self.assertEqual(report["findings"][0]["check"], "out-of-bounds")
        self.expect_error(USAGE, "argument error", ["(32, 1, 1)", ".reqntid is (64, 1, 1)"], "emu", path, "--arg",
                          "u32[64]", "--arg", "u8=0", "--block", "32")
        self.expect_error(USAGE, "usage error", ["shared memory per block", "allows"], "emu", path, "--arg",
                          "u32[64]", "--arg", "u8=0", "--shared", "500000")

    def test_files_of_every_kind_give_values(self):
        values = waves(12, 7)
        self.file("x.npy", npy([3, 4], values))
        self.file("x.bin", struct.pack("<12f", *values))
        self.file("x.safetensors", safetensors({"a.b": ("F32", [3, 4], values), "c": ("F16", [1], [2.0])}))
        for value in ("x.npy", "x.bin", "x.safetensors:a.b", "\"x.npy\""):
            report = self.expect_json(OK, "emu", self.ptx(COPY.replace("BITS", "32").replace("BYTES", "4")),
                                      "--block", "12", "--arg", "f32[]=" + value.replace("x.", self.path("x.")),
                                      "--arg", "y:f32[3x4]", "--expect", "y=" + self.path("x.npy"))
            self.assertEqual(report["buffers"][0]["shape"], [12] if value == "x.bin" else [3, 4])
        self.expect_error(FILE, "file error", ["12 elements [3x4]", "[5x4] takes 20", "give []"], *self.scale(
            x="f32[5x4]=" + self.path("x.npy")))
        self.expect_error(FILE, "file error", ["has no tensor z", "a.b, c"], *self.scale(
            x="f32[12]=" + self.path("x.safetensors:z")))
        self.expect_error(FILE, "file error", ["2 tensors", ":TENSOR"], *self.scale(
            x="f32[12]=" + self.path("x.safetensors")))
        self.expect_error(FILE, "file error", ["no whole number of f64"], *self.scale(
            x="f64[12]=" + self.file("y.bin", b"1234567")))
        self.expect_error(FILE, "file error", ["nowhere.npy", "cannot be read"], *self.scale(x="f32[]=nowhere.npy"))

    def test_types_are_converted_and_written_as_numpy_has_them(self):
        copy2 = self.ptx(COPY.replace("BITS", "16").replace("BYTES", "2"), name="copy2.ptx")
        copy1 = self.ptx(COPY.replace("BITS", "8").replace("BYTES", "1"), name="copy1.ptx")
        self.file("x.npy", npy([4], [1.0, -2.5, 0.1, 3.0]))
        self.file("i.npy", raw_npy("<i8", [3], struct.pack("<3q", -5, 7, 100)))
        cases = (
            (copy2, "f16", "x.npy", 4, "<f2", struct.pack("<4e", 1.0, -2.5, 0.1, 3.0)),
            (copy2, "i16", "i.npy", 3, "<i2", struct.pack("<3h", -5, 7, 100)),
            (copy1, "i8", "i.npy", 3, "|i1", struct.pack("<3b", -5, 7, 100)),
            (copy2, "bf16", "i.npy", 3, "<f4", struct.pack("<3f", -5, 7, 100)),
            (copy1, "e4m3", "x.npy", 4, "<f4", struct.pack("<4f", 1, -2.5, 0.1015625, 3)),
            (copy1, "e5m2", "x.npy", 4, "<f4", struct.pack("<4f", 1, -2.5, 0.09375, 3)),
        )
        for path, kind, source, count, descr, data in cases:
            with self.subTest(kind):
                self.expect(OK, "emu", path, "--block", count, "--arg", f"{kind}[]={self.path(source)}", "--arg",
                            f"y:{kind}[{count}]", "--out", "1=" + self.path("y.npy"))
                self.assertEqual(self.read("y.npy"), raw_npy(descr, [count], data))
        self.expect(OK, "emu", copy2, "--block", 2, "--arg", "f16[2]=1.5", "--arg", "y:f16[2]", "--out",
                    "y=" + self.path("y.bin"))
        self.assertEqual(self.read("y.bin"), struct.pack("<2e", 1.5, 1.5))
        self.expect_error(USAGE, "usage error", ["element 1 is -2.5, which i16 cannot hold"], "emu", copy2,
                          "--block", 4, "--arg", "i16[]=" + self.path("x.npy"), "--arg", "i16[4]")

    def test_expectations_are_judged_within_the_tolerance(self):
        self.file("ref.npy", npy([100], [0.5 * i - 4 + (0.25 if i == 7 else 0) for i in range(100)]))
        reference = "y=" + self.path("ref.npy")
        report = self.scale_json(CHECK_FAILED, "--expect", reference)
        self.assertFalse(report["passed"])
        verdict = report["expect"][0]
        self.assertEqual((verdict["differ"], verdict["first"], verdict["got"], verdict["expected"]),
                         (1, [7], -0.5, -0.25))
        self.assertEqual(verdict["largest_difference"], 0.25)
        text = self.expect(CHECK_FAILED, *self.scale("--expect", reference)).out
        self.assertIn("1 of 100 elements differ, largest difference 0.25; the first at [7]: -0.5 instead of -0.25", text)
        self.expect(OK, *self.scale("--expect", reference, "--atol", "0.25"))
        self.expect(CHECK_FAILED, *self.scale("--expect", reference, "--rtol", "0.9"))
        self.expect(OK, *self.scale("--expect", reference, "--rtol", "1"))
        self.assertIn("all 100 elements agree", self.expect(OK, *self.scale("--expect", "x=iota")).out)

    # ---- what the emulator finds ----

    def test_findings_fail_with_the_line_and_keep_results_unwritten(self):
        out = self.path("y.npy")
        report = self.scale_json(CHECK_FAILED, "--out", "y=" + out, "--expect", "y=0", x="x:f32[99]=iota")
        self.assertFalse(report["passed"])
        self.assertEqual(report["findings"][0]["check"], "out-of-bounds")
        self.assertEqual(report["findings"][0]["ptx_line"], 4 + SCALE.split("ld.global")[0].count("\n"))
        self.assertEqual(report["expect"], [])
        self.assertFalse(os.path.exists(out))
        text = self.expect(CHECK_FAILED, *self.scale("--expect", "y=0", x="x:f32[99]=iota")).out
        self.assertIn("not compared: the launch has findings", text)
        self.assertIn("findings 1\n  out-of-bounds: ld.global.f32", text)
        self.scale_json(CHECK_FAILED, "--checks", "off", x="x:f32[99]=iota")  # bounds always are

    def test_what_a_kernel_leaves_unwritten_or_reads_undefined_is_found(self):
        report = self.scale_json(CHECK_FAILED, n="u32=99")
        self.assertEqual(report["findings"][0]["check"], "uninitialized")
        self.assertIn("4 of 400 bytes", report["findings"][0]["message"])
        self.scale_json(OK, n="u32=99", y="y:f32[100]=zeros")
        report = self.scale_json(OK, n="u32=99", y="f32[100]=scratch")
        self.assertTrue(report["buffers"][1]["scratch"])
        self.assertNotIn("values", report["buffers"][1])
        report = self.scale_json(CHECK_FAILED, x="f32[100]=scratch")
        self.assertEqual(report["findings"][0]["check"], "uninitialized")
        self.scale_json(OK, "--checks", "off", x="f32[100]=scratch")

    def test_a_race_is_found_in_every_order(self):
        path = self.ptx(REVERSED.replace("BARRIER", ""))
        for order in ("round_robin", "reverse", "random"):
            options = ["--order-seed", "5"] if order == "random" else []
            report = self.expect_json(CHECK_FAILED, "emu", path, "--shared", "256", "--arg", "u32[64]", "--arg",
                                      "u8=0", "--order", order, *options)
            self.assertIn("race", {finding["check"] for finding in report["findings"]} | {"race"})
            self.assertIn("race", {finding["check"] for finding in report["findings"]})
        self.expect_error(USAGE, "usage error", ["--order-seed says nothing"], *self.scale("--order-seed", "5"))

    def test_an_endless_loop_ends_with_a_finding(self):
        path = self.ptx(".visible .entry k() .reqntid 32\n{\nL:\n\tbra L;\n}\n")
        report = self.expect_json(CHECK_FAILED, "emu", path, "--instruction-limit", "1000")
        self.assertEqual(report["findings"][0]["check"], "instruction-limit")

    # ---- launches in TOML ----

    def test_a_launch_in_a_file_is_the_same_and_the_command_line_wins(self):
        os.mkdir(self.path("sub"))
        self.ptx(SCALE, name="sub/k.ptx")
        self.file("sub/x.npy", npy([100], list(range(100))))
        launch = self.file("sub/launch.toml", "# scale\nptx = \"k.ptx\"\ngrid = 4\nblock = \"32\"\n"
                           "arg = [\n  \"x: f32[]=x.npy\",\n  'y: f32[100]', 'u32=100',\n  \"{f32=0.5, i32=-4}\",\n]\n"
                           "out = [\"y=y.npy\"]\nexpect = [\"0=x.npy\"]\nshow = 2\n")
        report = self.expect_json(OK, "emu", launch)
        self.assertEqual(report["buffers"][1]["values"], [-4, -3.5])
        self.assertEqual(self.read("sub/y.npy"), npy([100], [0.5 * i - 4 for i in range(100)]))
        report = self.expect_json(CHECK_FAILED, "emu", launch, "--grid", "3", "--show", "1", "--target", "sm_90")
        self.assertEqual((report["grid"], report["device"]), ([3, 1, 1], "emulator:sm_90"))
        self.assertEqual(len(report["buffers"][1]["values"]), 1)

    def test_mistakes_in_a_file_name_it(self):
        self.ptx(SCALE)
        cases = (
            (FILE, "grdi = 1", ["l.toml:2: unknown key grdi; did you mean grid?", "order-seed"]),
            (FILE, "grid = [1, 2]", ["l.toml:2: grid takes one value"]),
            (FILE, "checks = \"maybe\"", ["l.toml: --checks: maybe not in {on,off}"]),
            (FILE, "shared = -1", ["l.toml: --shared", "-1 is refused"]),
            (FILE, "order-seed = 1", ["l.toml: --order-seed says nothing"]),
            (FILE, "json = 1", ["l.toml:2: unknown key json"]),
            (FILE, "grid = 1 2", ["l.toml:2: expected the end of the line"]),
            (FILE, "ptx = 'k.ptx'", ["l.toml:2: ptx is given again"]),
            (USAGE, "grid = 0\narg = ['f32[1]', '&0', 'u32=0', '{u64=0}']", ["l.toml: grid 0 is refused"]),
            (USAGE, "arg = ['f32[4']", ["l.toml: arg, argument 0:", "expected ']'"]),
            (USAGE, "", ["scale takes 4 arguments, and 0 are given"]),
        )
        for code, line, parts in cases:
            launch = self.file("l.toml", "ptx = \"k.ptx\"\n" + line + "\n")
            kind = "file error" if code == FILE else "usage error"
            self.expect_error(code, kind, parts, "emu", launch)
        self.expect_error(FILE, "file error", ["no ptx = "], "emu", self.file("l.toml", "grid = 1"))
        self.expect_error(FILE, "file error", ["cannot be read"], "emu", self.path("none.toml"))

    # ---- mistakes on the command line ----

    def test_wrong_arguments_say_what_the_kernel_takes(self):
        self.expect_error(USAGE, "usage error", [
            "scale takes 4 arguments, and 0 are given", "0: x (.u64): a buffer, such as f32[1024]=iota",
            "2: n (.u32): u32=5", "3: pair (a struct of 8 bytes)"], "emu", self.ptx(SCALE))
        self.expect_error(USAGE, "usage error", ["argument 2, \"f32=1\"", "n (.u32)", "give u32=5"],
                          *self.scale(n="f32=1"))
        self.expect_error(USAGE, "usage error", ["argument 3", "4 bytes instead of 8"], *self.scale(pair="{i32=1}"))
        self.expect_error(USAGE, "usage error", ["--arg, argument 0", "did you mean iota?"],
                          *self.scale(x="f32[4]=itoa"))
        self.expect_error(USAGE, "usage error", ["u32 cannot hold -1"], *self.scale(n="u32=-1"))
        self.expect_error(USAGE, "usage error", ["no buffer is called z; there is x, y"],
                          *self.scale("--expect", "z=0"))
        self.expect_error(USAGE, "usage error", ["write KEY=VALUE"], *self.scale("--expect", "zeros"))
        self.expect_error(USAGE, "usage error", ["1 is scratch, which is not looked at"],
                          *self.scale("--expect", "1=0", y="f32[100]=scratch"))
        self.expect_error(USAGE, "usage error", ["--block", "128 or 32x4"], "emu", self.ptx(
            ".visible .entry k()\n{\n\tret;\n}\n"))
        self.expect_error(USAGE, "usage error", ["--grid 0 is refused"], *self.scale(grid="0"))
        self.expect_error(USAGE, "usage error", ["at most 65535"], *self.scale(grid="1x65536"))
        self.expect_error(USAGE, "argument error", ["1 to 1024"], *self.scale(block="1025"))
        self.expect_error(USAGE, "usage error", ["--atol", "0 or more"], *self.scale("--atol", "-1"))

    def test_wrong_files_are_refused_before_anything_runs(self):
        self.file("x.npy", npy([100], [0.0] * 100))
        x = "f32[]=" + self.path("x.npy")
        self.expect_error(USAGE, "usage error", ["ends in .npy or .bin"], *self.scale("--out", "y=y.txt"))
        self.expect_error(USAGE, "usage error", ["the same file as", "which this launch reads"],
                          *self.scale("--out", "y=" + self.path("x.npy"), x=x))
        self.expect_error(USAGE, "usage error", ["the same file as"], *self.scale(
            "--out", "y=" + self.path("x.npy"), "--expect", "y=" + self.path("x.npy")))
        self.expect_error(FILE, "file error", ["cannot be written"], *self.scale("--out", "y=/dev/null/y.npy"))
        self.expect_error(FILE, "file error", ["no .entry in it"], "emu", self.file("t.ptx", "hello"))
        self.expect_error(FILE, "file error", ["cannot be read"], "emu", self.path("none.ptx"))
        self.expect_error(DRIVER, "driver error", ["kernel scale", "line 22", "ld.gloal"], "emu", self.ptx(
            SCALE.replace("ld.global", "ld.gloal")), "--block", "32", "--arg", "f32[1]", "--arg", "f32[1]", "--arg",
            "u32=1", "--arg", PAIR)

    def test_an_entry_and_a_device_are_chosen_by_name(self):
        path = self.ptx(".visible .entry first() .reqntid 1\n{\n\tret;\n}\n",
                        ".visible .entry second() .reqntid 2\n{\n\tret;\n}\n")
        self.expect_error(USAGE, "usage error", ["several entries", "--entry: first, second"], "emu", path)
        self.assertEqual(self.expect_json(OK, "emu", path, "--entry", "second")["block"], [2, 1, 1])
        self.expect_error(USAGE, "usage error", ["did you mean first?"], "emu", path, "--entry", "frist")
        for profile in ("sm_80", "sm_89", "ideal"):
            self.assertEqual(self.expect_json(OK, "emu", path, "--entry", "first", "--target", profile)["device"],
                             "emulator:" + profile)
        self.expect_error(USAGE, "usage error", ["--target sm_70 is refused", "sm_80, sm_86"], "emu", path,
                          "--entry", "first", "--target", "sm_70")
        empty = ".visible .entry k() .reqntid 1\n{\n\tret;\n}\n"
        for target, device in (("sm_75", "sm_80"), ("sm_89", "sm_89"), ("sm_90a", "sm_90"), ("sm_100", "sm_120")):
            head = HEAD.replace("sm_80", target).replace("8.0", "8.7")
            self.assertEqual(self.expect_json(OK, "emu", self.ptx(empty, head=head))["device"], "emulator:" + device)
        self.expect_error(USAGE, "usage error", ["no emulated device runs PTX for sm_100a", "sm_120"], "emu",
                          self.ptx(empty, head=HEAD.replace("sm_80", "sm_100a").replace("8.0", "8.7")))

    def test_help_has_the_grammar(self):
        text = self.expect(OK, "emu", "--help").out
        for word in ("normal(SEED,MEAN,DEVIATION)", "scratch", "&x+256", "launch.toml", "--instruction-limit"):
            self.assertIn(word, text)


if __name__ == "__main__":
    unittest.main()
