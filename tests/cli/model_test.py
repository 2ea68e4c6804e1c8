"""`sagegen inspect --model`: what it predicts, and how it refuses."""
import os
import unittest

from support import CODEGEN, FILE, FWD, OK, QUANTQ, SOURCE, SPEC, USAGE, CliTest, has_generator, has_ptxas

GENERATOR = has_generator()


needs_ptxas = unittest.skipUnless(has_ptxas(), "no generator, or no ptxas")
BOUNDS = ("tensor", "issue", "mufu", "fma", "alu", "shared", "stalls")


class Model(CliTest):
    def model(self, key, *arguments):
        report = self.expect_json(OK, "inspect", "--model", key, *arguments)
        self.assertEqual(report["key"], key)
        self.assertNotIn("description", report)
        return report["model"]

    @needs_ptxas
    def test_text(self):
        text = self.expect(OK, "inspect", "--model", FWD).out
        for part in (FWD, "prediction for RTX4090, no measurement", "ptxas ", "registers", "0 instructions of the loop",
                     "2048 scores", "mma", "matrix load", "stall sum", "tensor", "TOPS", "below 10 % rank nothing"):
            self.assertIn(part, text)

    @needs_ptxas
    def test_every_target_has_a_usual_gpu(self):
        for target, gpu in (("sm80", "A100"), ("sm86", "RTX3090"), ("sm89", "RTX4090"), ("sm120", "RTX5090")):
            pv = "pv_e4m3_f32x2" if target in ("sm89", "sm120") else "pv_f16_f32"
            key = f"sage_fwd_d64_f16_qk_s8t_g32x64_smk_{pv}__q128k64w4s2__{target}"
            model = self.model(key)
            self.assertEqual((model["kind"], model["gpu"]), ("prediction", gpu))
            self.assertRegex(model["ptxas"], r"^\d+\.\d+\.\d+$")
            self.assertEqual(model["scores"], 2048)
            self.assertEqual(model["instructions"], sum(one["instructions"] for one in model["classes"]))
            self.assertAlmostEqual(model["slots_per_score"], model["instructions"] * 32 / 2048)
            self.assertNotIn("unknown", [one["class"] for one in model["classes"]])
            self.assertLessEqual(model["registers"], 255)
            self.assertEqual((model["spilled_bytes"], model["spill_instructions"]), (0, 0))
            self.assertLess(0.3 * model["roof_tops"], model["tops"])
            self.assertLess(model["tops"], model["roof_tops"])
            for bound in BOUNDS:
                self.assertLessEqual(model["bounds"][bound], model["cycles"] * 1.01, bound)
            self.assertLessEqual(model["lowest_cycles"], model["cycles"])
            self.assertLessEqual(model["cycles"], model["highest_cycles"])
            self.assertEqual(self.model(key), model)   # the same again

    @needs_ptxas
    def test_another_gpu_of_the_target(self):
        small, large = self.model(FWD), self.model(FWD, "--gpu", "l40s")
        self.assertEqual(large["gpu"], "L40S")
        self.assertEqual(large["instructions"], small["instructions"])
        self.assertGreater(large["roof_tops"], 1.5 * small["roof_tops"])

    @needs_ptxas
    def test_schedules_the_fastest_first(self):
        # Wide heads have the fewest.
        key = "sage_fwd_d256_f16_qk_s8t_g128x128_smk_pv_f16_f32__q64k64w4s1__sm80"
        report = self.expect_json(OK, "inspect", "--schedules", key)["schedules"]
        self.assertEqual((report["kind"], report["gpu"]), ("prediction", "A100"))
        lines = report["schedules"]
        self.assertGreater(len(lines), 5)
        self.assertEqual(len({line["schedule"] for line in lines}), len(lines))
        self.assertIn(key, [line["key"] for line in lines])
        for line in lines:
            self.assertEqual(line["key"].split("__")[1], line["schedule"])
        known = [line for line in lines if "tops" in line]
        self.assertEqual(known, lines[:len(known)])
        order = [(line["spilled_bytes"] == 0, line["tops"]) for line in known]
        self.assertEqual(order, sorted(order, reverse=True))
        one = self.model(key)
        mine = next(line for line in lines if line["key"] == key)
        self.assertEqual([mine[name] for name in ("tops", "registers", "blocks_per_sm")],
                         [one[name] for name in ("tops", "registers", "blocks_per_sm")])
        text = self.expect(OK, "inspect", "--schedules", key).out
        self.assertRegex(text, r"q64k64w4s1 .* the key's")
        self.assertIn("no measurement", text)

    @unittest.skipUnless(GENERATOR, "built without the generator")
    def test_what_is_refused(self):
        self.expect_error(USAGE, "usage error", ["RTX4091", "use one of A100 (sm_80), ", "RTX5090 (sm_120)"], "inspect",
                          "--model", FWD, "--gpu", "RTX4091")
        self.expect_error(USAGE, "usage error", ["A100 is sm_80", "target is sm_89", "use RTX4090, L40S"], "inspect",
                          "--model", FWD, "--gpu", "A100")
        self.expect_error(SPEC, "spec error", [QUANTQ, "no attention kernel"], "inspect", "--model", QUANTQ)
        self.expect_error(SPEC, "spec error", ["warps 3"], "inspect", "--model", FWD.replace("w4s2", "w3s2"))

    def test_options_that_say_nothing(self):
        self.expect_error(USAGE, "usage error", ["--gpu", "--model"], "inspect", FWD, "--gpu", "RTX4090")
        self.expect_error(USAGE, "usage error", ["the name is empty"], "inspect", FWD, "--model", "--gpu", "")

    @unittest.skipIf(GENERATOR, "built with the generator")
    def test_without_the_generator(self):
        self.expect_error(CODEGEN, "codegen error", ["built without the generator"], "inspect", "--model", FWD)


@unittest.skipUnless(GENERATOR, "built without the generator")
class Ptxas(CliTest):
    def with_ptxas(self, path, code, kind, parts):
        os.environ["SAGEGEN_PTXAS"] = path
        try:
            self.expect_error(code, kind, parts, "inspect", "--model", FWD)
        finally:
            del os.environ["SAGEGEN_PTXAS"]

    def test_there_is_none(self):
        missing = self.path("ptxas")
        for path in (missing, self.directory):   # nothing; a folder
            self.with_ptxas(path, FILE, "file error", ["ptxas: ", "there is none", path, "tools/install_ptxas.sh"])
        self.assertTrue(os.path.exists(os.path.join(SOURCE, "tools", "install_ptxas.sh")))

    def test_one_that_refuses_in_a_folder_with_a_name(self):
        folder = self.path("it's a folder")
        os.mkdir(folder)
        path = os.path.join(folder, "ptxas")
        with open(path, "w", encoding="utf-8") as file:
            file.write('#!/bin/sh\n[ "$1" = --version ] && echo "release 9.9, V9.9.99" || { echo "too new for me"; exit 1; }\n')
        os.chmod(path, 0o755)
        self.with_ptxas(path, CODEGEN, "codegen error", ["ptxas 9.9.99 refuses", FWD, "too new for me"])


if __name__ == "__main__":
    unittest.main()
