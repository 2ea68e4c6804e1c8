"""`sagegen inspect --svg`: drawings that are whole, readable and true to the kernel, and how it refuses."""
import os
import re
import unittest
import xml.etree.ElementTree as xml

from support import CODEGEN, FILE, FULL_DISK, FWD, OK, QUANTQ, SPEC, USAGE, CliTest, has_generator, sagegen

GENERATOR = has_generator()
SVG = "{http://www.w3.org/2000/svg}"
INT4 = "sage_fwd_d128_f16_qk_s4t_g32x64_smk_pv_f16_f32__q128k64w4s2__sm80"
BLOCK = "sage_fwd_d128_f16_qk_s8b_g128x64_sm0_pv_f16_f32__q64k32w4s3__sm86"
BF16 = "sage_fwd_d64_bf16_qk_s8t_g32x64_smk_pv_e4m3_f32x2_causal_window_sinks__q128k64w4s2__sm120"
ALWAYS = ["fragments.svg", "shared_memory.svg"]   # without ptxas, too


def has_ptxas():
    return GENERATOR and sagegen("inspect", "--model", FWD).code == OK


needs_ptxas = unittest.skipUnless(has_ptxas(), "no generator, or no ptxas")


def texts(root):
    return ["".join(text.itertext()) for text in root.iter(SVG + "text")]


def box(text):
    """Where a text is: left, top, right, bottom. Letters are 0.602 of the font size wide."""
    size, x, y = (float(text.get(name)) for name in ("font-size", "x", "y"))
    width = 0.602 * size * len("".join(text.itertext()))
    left = x - {"start": 0, "middle": width / 2, "end": width}[text.get("text-anchor", "start")]
    return left, y - 0.75 * size, left + width, y + 0.2 * size


@unittest.skipUnless(GENERATOR, "built without the generator")
class Drawings(CliTest):
    def draw(self, key, *arguments):
        """The drawings by name, as XML."""
        folder = self.path("new", "svg")
        self.expect(OK, "inspect", key, "--svg", folder, *arguments)
        return {name: xml.parse(os.path.join(folder, name)).getroot() for name in sorted(os.listdir(folder))}

    def without_ptxas(self):
        os.environ["SAGEGEN_PTXAS"] = self.path("ptxas")
        self.addCleanup(os.environ.pop, "SAGEGEN_PTXAS")

    def check_readable(self, root):
        width, height = float(root.get("width")), float(root.get("height"))
        self.assertLess(width, 2000)
        self.assertLess(height, 4000)
        boxes = sorted(box(text) for text in root.iter(SVG + "text"))
        self.assertGreater(len(boxes), 10)
        for i, (left, top, right, bottom) in enumerate(boxes):
            self.assertTrue(0 <= left and right <= width and 0 <= top and bottom <= height, boxes[i])
            for other in boxes[i + 1:]:
                if other[0] >= right:
                    break
                self.assertTrue(other[1] >= bottom or other[3] <= top, f"texts overlap: {boxes[i]}, {other}")
        for rect in root.iter(SVG + "rect"):
            if rect.get("x") is not None:
                self.assertLessEqual(float(rect.get("x")) + float(rect.get("width")), width)
                self.assertLessEqual(float(rect.get("y")) + float(rect.get("height")), height)

    def test_all_are_xml_that_can_be_read(self):
        for key in (FWD, INT4, BLOCK, BF16):
            drawings = self.draw(key)
            self.assertEqual(list(drawings), sorted(ALWAYS + (["pipeline.svg"] if has_ptxas() else [])))
            for name, root in drawings.items():
                with self.subTest(key=key, name=name):
                    self.assertEqual(root.tag, SVG + "svg")
                    self.assertIn(key, texts(root)[0])
                    self.check_readable(root)
                    for element in root.iter():   # nothing from elsewhere, nothing that runs
                        self.assertIn(element.tag, [SVG + tag for tag in ("svg", "title", "rect", "text", "line")])
                        self.assertNotIn("href", " ".join(element.attrib))

    def test_tiles_do_not_depend_on_who_prepares_them(self):
        self.without_ptxas()
        plain = {name: texts(root)[1:] for name, root in self.draw(FWD).items()}
        for word in ("_smv", "_hadamard", "_varlen", "_given"):
            with self.subTest(word=word):
                key = FWD.replace("_f32x2", "_f32x2" + word)
                if word == "_given":
                    key = key.replace("_smk_", "_sm0_")
                drawn = {name: texts(root)[1:] for name, root in self.draw(key).items()}
                self.assertEqual(drawn["fragments.svg"], plain["fragments.svg"])

    def test_fragments(self):
        root = self.draw(FWD)["fragments.svg"]
        tips = [title.text for title in root.iter(SVG + "title")]
        # PTX ISA: lane 13 is group 3, thread 1. FP8 has keys 10 and 11 in the upper half of its first register.
        self.assertIn("Q, query 3, channels 4 to 7: lane 13, register 0 of operand 0, part 0; scale 3 by query", tips)
        self.assertIn("K, key 3, channels 20 to 23: lane 13, register 1 of operand 0, part 0; scale 1 by key", tips)
        self.assertIn("scores, query 11, key 2: lane 13, register 2 of operand 0, part 0; scale 3 by query; "
                      "scale 1 by key", tips)
        self.assertIn("P, query 3, keys 10 to 11: lane 13, register 0 of operand 0, part 2", tips)
        self.assertIn("V, keys 10 to 11, channel 3: lane 13, register 0 of operand 0, part 2; scale 3 by channel", tips)
        self.assertIn("O, query 3, channel 2: lane 13, register 0 of operand 0, part 0; scale 2 by channel", tips)
        root = self.draw(INT4)["fragments.svg"]
        tips = [title.text for title in root.iter(SVG + "title")]
        self.assertIn("Q, query 3, channels 40 to 47: lane 13, register 2 of operand 0, part 0; scale 3 by query", tips)
        self.assertIn("V has no scale", texts(root))
        self.assertNotIn("stored", texts(root))

    def test_shared_memory(self):
        lines = texts(self.draw(INT4)["shared_memory.svg"])
        self.assertIn("ldmatrix: 32 of the block per tile, 128 phases, 128 wavefronts: no conflicts", lines)
        self.assertIn("ldmatrix.trans: 128 of the block per tile, 512 phases, 512 wavefronts: no conflicts", lines)
        self.assertIn("with rows one after the other it would be 4096 wavefronts: 3584 conflicts, up to 8-way", lines)

    @needs_ptxas
    def test_pipeline(self):
        report = self.expect_json(OK, "inspect", FWD, "--model", "--svg", self.path("new", "svg"))
        self.assertEqual([os.path.basename(file) for file in report["drawings"]], ALWAYS + ["pipeline.svg"])
        root = xml.parse(report["drawings"][2]).getroot()
        text = "\n".join(texts(root))
        self.assertIn("RTX4090", text)
        self.assertIn(f"the mean of the runs of inspect --model {report['model']['cycles']:.0f}", text)
        for lane in ("issue", "tensor core", "ALU", "MUFU", "LSU, shared", "warp 0", "warp 1"):
            self.assertIn(lane, texts(root))
        for warp in range(report["model"]["warps_per_subcore"]):   # every cycle has a reason
            shares = re.search(rf"^warp {warp}: issues .*$", text, re.M).group(0)
            self.assertAlmostEqual(sum(map(float, re.findall(r"([0-9.]+) %", shares))), 100, delta=0.31)
        self.assertIn("L40S", "\n".join(texts(self.draw(FWD, "--gpu", "L40S")["pipeline.svg"])))

    def test_without_ptxas(self):
        self.without_ptxas()
        self.assertEqual(list(self.draw(FWD)), ALWAYS)
        text = self.expect(OK, "inspect", FWD, "--svg", self.directory).out
        self.assertIn("pipeline.svg is not drawn: ptxas: ", text)
        self.assertIn("tools/install_ptxas.sh", text)
        report = self.expect_json(OK, "inspect", FWD, "--svg", self.directory)
        self.assertEqual(report["drawings"], [self.path(name) for name in ALWAYS])
        self.assertIn("ptxas", report["no_pipeline"])
        self.assertNotIn("drawn before", report["no_pipeline"])
        with open(self.path("pipeline.svg"), "w", encoding="utf-8"):
            pass
        report = self.expect_json(OK, "inspect", FWD, "--svg", self.directory)
        self.assertIn("the one that is there was drawn before", report["no_pipeline"])
        # Who asks for a GPU or a prediction asks for the pipeline.
        for option in (("--model",), ("--gpu", "RTX4090")):
            folder = self.path("none")
            self.expect_error(FILE, "file error", ["ptxas", "there is none"], "inspect", FWD, "--svg", folder, *option)
            self.assertFalse(os.path.exists(folder))

    def test_what_is_refused_leaves_nothing(self):
        folder = self.path("svg")
        for key, code, kind, parts in ((QUANTQ, SPEC, "spec error", [QUANTQ, "--svg draws attention kernels"]),
                                       ("KEY", SPEC, "spec error", ["`sagegen list`"]),
                                       (FWD.replace("w4s2", "w3s2"), SPEC, "spec error", ["warps 3"])):
            self.expect_error(code, kind, parts, "inspect", key, "--svg", folder)
        self.expect_error(USAGE, "usage error", ["RTX4091"], "inspect", FWD, "--svg", folder, "--gpu", "RTX4091")
        self.expect_error(USAGE, "usage error", ["--svg", "empty"], "inspect", FWD, "--svg", "")
        self.assertEqual(os.listdir(self.directory), [])

    def test_a_folder_that_cannot_be_written_is_left_as_it_is(self):
        file = self.path("file")
        with open(file, "w", encoding="utf-8"):
            pass
        for folder in (file, os.path.join(file, "svg"), "/proc/svg"):
            self.expect_error(FILE, "file error", [folder], "inspect", FWD, "--svg", folder)
        # The last one of the files cannot be written: none is.
        folder = self.path("svg")
        os.makedirs(os.path.join(folder, "shared_memory.svg"))
        self.expect_error(FILE, "file error", ["shared_memory.svg"], "inspect", FWD, "--svg", folder)
        self.assertEqual(os.listdir(folder), ["shared_memory.svg"])

    def test_a_full_disk_leaves_no_half_drawing(self):
        folder = self.path("svg")
        self.expect_error(FILE, "file error", ["fragments.svg"], "inspect", FWD, "--svg", folder, limits=FULL_DISK)
        self.assertEqual(os.listdir(folder), [])


class WithoutGenerator(CliTest):
    @unittest.skipIf(GENERATOR, "built with the generator")
    def test_it_says_so(self):
        self.expect_error(CODEGEN, "codegen error", ["built without the generator"], "inspect", FWD, "--svg", self.path("s"))


if __name__ == "__main__":
    unittest.main()
