"""`sagegen kv`: maps of KV cache formats, as a user reads and writes them."""
import json
import os
import re
import unittest

from support import CHECK_FAILED, FILE, OK, SOURCE, SPEC, USAGE, CliTest, has_generator, has_ptxas

needs_generator = unittest.skipUnless(has_generator(), "no generator")
needs_ptxas = unittest.skipUnless(has_ptxas(), "no generator, or no ptxas")

LAYERS = ((8, 8), (8, 4), (4, 2), (4, 2))
MODELOPT = {"quantization": {"kv_cache_quant_algo": "MIXED_PRECISION", "kv_cache_schema_version": 1, "kv_cache_quantized_layers": {
    "model.layers.0.self_attn": {"quant_algo": "FP8"}, "model.layers.1.self_attn": {"quant_algo": "FP8_K_NVFP4_V"}}}}


def kvtuner(layers):
    return "".join(f"{i}:\n  nbits_key: {k}\n  nbits_value: {v}\n" for i, (k, v) in enumerate(layers))

# Of the first channel of each lane the largest code is 14; the P of two tokens of a tile are not times the scale of their V.
FAULT_OF_APPEND = ("0f41700000", "0f41600000")
FAULT_OF_DECODE = (r"mul\.rn\.f16x2(\s+%r\d+, )(%r\d+), %r\d+;", r"mov.b32\1\2;")


class Show(CliTest):
    def file(self, name, content):
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write(content if isinstance(content, str) else json.dumps(content, indent=2))
        return self.path(name)

    def show(self, *arguments):
        report = self.expect_json(OK, "kv", "show", *arguments)
        self.assertEqual(report["layers"], len(report["map"]))
        return report

    def test_counts_bits_and_bytes(self):
        """Two codes of 8 bits of 128 channels take 256 bytes, with scales and zero points 264: 8.25 bits."""
        report = self.show(self.file("map.yaml", kvtuner(LAYERS)))
        self.assertEqual((report["source"], report["kv_heads"], report["head_dim"]), ("kvtuner", 8, 128))
        self.assertEqual(report["counts"], {"KV8": 1, "K8V4": 1, "K4V2": 2})
        self.assertEqual(report["map"], ["KV8", "K8V4", "K4V2", "K4V2"])
        self.assertEqual(report["mean_bits_nominal"], (8 + 6 + 3 + 3) / 4)
        self.assertEqual(report["mean_bits_effective"], (8.25 + 6.25 + 3.25 + 3.25) / 4)
        self.assertEqual(report["bytes_per_token"], 8 * (264 + 200 + 104 + 104))
        self.assertEqual([format["kernel"] for format in report["formats"]],
                         [f"head_dim=128 io=f16 k_bits={k} v_bits={v} page_tokens=64 layout=hnd k_codes=asymmetric v_codes=asymmetric" for k, v in LAYERS[:3]])
        text = self.expect(OK, "kv", "show", self.path("map.yaml")).out
        for part in ("4 layers, 8 KV heads of 128 channels: one pair for all heads of a layer (kvtuner)", "mean bits: 5.000 nominal, 5.250 effective",
                     "bytes per token: 5376, 1344.0 per layer; 0.0054 GB for 1000 tokens, 0.0164 GB with 16 bits", "0:KV8, 1:K8V4, 2-3:K4V2"):
            self.assertIn(part, text)

    def test_the_model_and_the_pages_count(self):
        path = self.file("map.yaml", kvtuner(LAYERS))
        report = self.show(path, "--head-dim", 64, "--kv-heads", 2, "--page-tokens", 32, "--io", "bf16")
        self.assertEqual(report["bytes_per_token"], 2 * (136 + 104 + 56 + 56))
        self.assertEqual((report["head_dim"], report["kv_heads"], report["page_tokens"]), (64, 2, 32))
        self.assertIn("head_dim=64 io=bf16 k_bits=8 v_bits=4 page_tokens=32 layout=hnd k_codes=asymmetric v_codes=asymmetric", [format["kernel"] for format in report["formats"]])
        for arguments, parts in ((("--page-tokens", 24), ["page_tokens 24", "32"]), (("--head-dim", 0), ["1 to 256"]), (("--kv-heads", 1000), ["256"]),
                                 (("--io", "f32"), ["f16"]), (("--default", "int3"), ["int3", "K8V4"]), (("--layers", 0), ["1 to 1024"])):
            self.expect_error(USAGE, "usage error", parts, "kv", "show", path, *arguments)
        self.expect_error(USAGE, "usage error", ["did you mean show?"], "kv", "shwo", path)
        self.expect_error(USAGE, "usage error", ["MAP"], "kv", "show")

    def test_a_pair_for_each_head(self):
        heads = "".join(f"{layer}:\n" + "".join(f"  {head}:\n    nbits_key: {bits}\n    nbits_value: 4\n" for head, bits in enumerate((8, 4)))
                        for layer in range(3))
        path = self.file("heads.yaml", heads)
        report = self.show(path, "--out", self.path("again.yaml"))
        self.assertEqual((report["kv_heads"], report["counts"], report["map"]), (2, {"K8V4": 3, "KV4": 3}, [["K8V4", "KV4"]] * 3))
        self.assertEqual(report["bytes_per_token"], 3 * (200 + 136))
        self.assertIn("0-2:(heads 0:K8V4, 1:KV4)", self.expect(OK, "kv", "show", path).out)
        with open(self.path("again.yaml"), encoding="utf-8") as file:
            self.assertEqual(file.read(), heads)
        self.expect_error(USAGE, "usage error", ["--kv-heads 4", "2 KV heads"], "kv", "show", path, "--kv-heads", 4)

    def test_what_no_kernel_stores(self):
        path = self.file("hf_quant_config.json", MODELOPT)
        report = self.show(path, "--layers", 4)
        self.assertEqual(report["map"], ["KVf8", "Kf8Vf4", "KV16", "KV16"])
        self.assertEqual([(format["pair"], format["kernel"] is not None, format.get("instead")) for format in report["formats"]],
                         [("KV16", True, None), ("KVf8", False, "KV8"), ("Kf8Vf4", False, "K8V4")])
        text = self.expect(OK, "kv", "show", path).out
        self.assertIn("no kernel stores KVf8 (use KV8), Kf8Vf4 (use K8V4)", text)
        out = self.path("map.yaml")
        self.expect_error(FILE, "file error", ["layer 0 has KVf8", "KV8"], "kv", "show", path, "--out", out)
        report = self.show(path, "--integers", "--out", out)
        self.assertEqual(report["file"], out)
        with open(out, encoding="utf-8") as file:
            self.assertEqual(file.read(), kvtuner(((8, 8), (8, 4))))
        self.assertNotIn("no kernel", self.expect(OK, "kv", "show", path, "--integers").out)

    def test_it_reads_what_it_prints(self):
        for arguments in ((self.file("hf_quant_config.json", MODELOPT), "--layers", 3), (self.file("map.yaml", kvtuner(LAYERS)),)):
            first = self.show(*arguments)
            again = self.show(self.file("shown.json", first))
            self.assertEqual(again["source"], "sagegen")
            for field in ("layers", "counts", "mean_bits_nominal", "mean_bits_effective", "bytes_per_token", "formats", "map"):
                self.assertEqual(again[field], first[field], field)

    def test_ranges_in_the_place_of_a_file(self):
        report = self.show("0-1:bf16,6-7:fp8", "--layers", 8, "--default", "int4")
        self.assertEqual(report["map"], ["KV16"] * 2 + ["KV4"] * 4 + ["KVf8"] * 2)
        self.expect_error(FILE, "file error", ["MAP:1: ", "layer 5 is given and layer 2 is missing", "--layers"], "kv", "show", "0-1:bf16,5:fp8")
        self.expect_error(FILE, "file error", ["fp9", "did you mean fp8?"], "kv", "show", "0-1:fp9")

    def test_refusals_name_file_and_line(self):
        path = self.file("map.yaml", kvtuner(LAYERS).replace("nbits_value: 4", "nbits_value: 5"))
        error = self.expect_error(FILE, "file error", [f"{path}:6: layer 1: nbits_value \"5\"", "2, 4 or 8 bits"], "kv", "show", path, "--json")
        self.assertEqual(error.json()["error"]["exit_code"], FILE)
        self.expect_error(FILE, "file error", ["no.yaml"], "kv", "show", self.path("no.yaml"))
        self.expect_error(FILE, "file error", ["holds nothing"], "kv", "show", self.file("empty.yaml", ""))
        self.expect_error(FILE, "file error", ["model has 2 layers"], "kv", "show", self.file("map.yaml", kvtuner(LAYERS)), "--layers", 2)


class Plan(CliTest):
    """Six layers of MiniLM, whose error is least where all have 8 bits, and a cap that not all can have."""
    INPUTS = os.path.join(SOURCE, "tests", "data", "minilm_layers.safetensors")
    USUAL = ("kv", "plan", INPUTS, "--causal", "none", "--queries", 8, "--protect", 0)

    def test_map_under_a_cap(self):
        report = self.expect_json(OK, *self.USUAL, "--cap-bits", 5, "--out", self.path("new/map.yaml"), "--html", self.path("plan.html"))
        chosen = report["front"][report["chosen"]]
        self.assertLessEqual(chosen["bits_nominal"], 5)
        self.assertEqual(chosen["error"], min(each["error"] for each in report["front"] if each["bits_nominal"] <= 5))
        self.assertEqual((report["layers"], report["kv_heads"]), (6, 4))
        shown = self.expect_json(OK, "kv", "show", self.path("new/map.yaml"), "--kv-heads", 4, "--head-dim", report["head_dim"])
        self.assertEqual(shown["source"], "kvtuner")
        self.assertAlmostEqual(shown["mean_bits_nominal"], chosen["bits_nominal"])
        self.assertAlmostEqual(shown["mean_bits_effective"], chosen["bits_effective"])
        self.assertEqual(shown["bytes_per_token"] * report["context"], chosen["bytes_per_step"])
        with open(self.path("plan.html"), encoding="utf-8") as page:
            self.assertIn("<svg", page.read())

    def test_goes_on_where_it_was_stopped(self):
        first = self.expect(OK, *self.USUAL, "--state", self.path("state.json"))
        again = self.expect(OK, *self.USUAL, "--state", self.path("state.json"))
        self.assertEqual(first.out, again.out)
        self.expect_error(FILE, "file error", ["state.json", "hadamard"], *self.USUAL, "--state", self.path("state.json"), "--hadamard")

    def test_what_is_refused(self):
        self.expect_error(USAGE, "usage error", ["--page-tokens is refused", "sagegen kv show"], *self.USUAL, "--page-tokens", 32)
        self.expect_error(USAGE, "usage error", ["--cap-bits is refused", "sagegen kv plan"], "kv", "show", "0-3:K8V4", "--cap-bits", 4)
        self.expect_error(USAGE, "usage error", ["--group is refused without --mode kivi"], *self.USUAL, "--group", 32)
        self.expect_error(FILE, "file error", ["none.safetensors"], "kv", "plan", self.path("none.safetensors"))


@needs_generator
class Emit(CliTest):
    MAP = "0:K8V4,1:KV4,2:K8V4,3:KV4"

    def test_what_a_map_needs_once_each(self):
        report = self.expect_json(OK, "kv", "emit", self.MAP, "--target", "sm_89", "--out", self.directory, "--bundle", self.path("kv.bundle"))
        self.assertEqual([(kernel["pair"], kernel["family"], kernel["layers"]) for kernel in report["kernels"]],
                         [("K8V4", "kv_append", [0, 2]), ("K8V4", "decode", [0, 2]), ("KV4", "kv_append", [1, 3]), ("KV4", "decode", [1, 3])])
        self.assertEqual(sorted(os.listdir(self.directory)), sorted(["kv.bundle", *(kernel["key"] + ".ptx" for kernel in report["kernels"])]))
        for kernel in report["kernels"]:
            self.assertEqual(os.path.getsize(kernel["file"]), kernel["bytes"])
        text = self.expect(OK, "kv", "emit", "0-2:K8V4,3:KV4", "--target", "sm_80", "--q-heads", 128).out
        self.assertIn("4 kernels for 2 pairs of 4 layers", text)
        self.assertRegex(text, r"K8V4 +0-2 +sage_decode_d128_f16_k8v4_r16")

    def test_a_pair_that_heads_have(self):
        with open(self.path("heads.yaml"), "w", encoding="utf-8") as file:
            file.write("".join(f"{layer}:\n" + "".join(f"  {head}:\n    nbits_key: {bits}\n    nbits_value: 4\n" for head, bits in enumerate(heads))
                               for layer, heads in enumerate(((8, 4), (4, 4)))))
        report = self.expect_json(OK, "kv", "emit", self.path("heads.yaml"), "--target", "sm_89")
        self.assertEqual([kernel["layers"] for kernel in report["kernels"]], [[0], [0], [0, 1], [0, 1]])

    def test_what_is_refused(self):
        self.expect_error(USAGE, "usage error", ["--target is required"], "kv", "emit", self.MAP)
        self.expect_error(SPEC, "spec error", ["layer 1 has KVf8", "use KV8", "--integers"], "kv", "emit", "0:K8V4,1:fp8", "--target", "sm_89")
        self.expect(OK, "kv", "emit", "0:K8V4,1:fp8", "--target", "sm_89", "--integers")
        self.expect_error(USAGE, "usage error", ["--q-heads 12", "8 KV heads"], "kv", "emit", self.MAP, "--target", "sm_89", "--q-heads", 12)
        self.expect_error(USAGE, "usage error", ["--target is refused", "sagegen kv emit"], "kv", "show", self.MAP, "--target", "sm_89")
        self.expect_error(USAGE, "usage error", ["MAP is required"], "kv", "emit", "--target", "sm_89")
        self.expect(FILE, "kv", "emit", self.MAP, "--target", "sm_89", "--bundle", "/proc/sagegen/kv.bundle")


@needs_generator
class Check(CliTest):
    SMALL = ("--device", "emulator:sm_89", "--head-dim", 64, "--kv-heads", 1, "--q-heads", 2, "--context", 70, "--page-tokens", 32)

    def test_each_pair_is_judged(self):
        report = self.expect_json(OK, "kv", "check", "0:KV16,1:K8V4,2-3:K4V2", *self.SMALL)
        self.assertTrue(report["passed"])
        self.assertEqual([(pair["pair"], pair["layers"]) for pair in report["pairs"]], [("KV16", [0]), ("K8V4", [1]), ("K4V2", [2, 3])])
        exact, few, fewest = report["pairs"]
        self.assertEqual((exact["stored_of_allowed"], exact["format_error"]), (0, 0))
        self.assertLess(few["format_error"], fewest["format_error"])
        for pair in report["pairs"]:
            self.assertLessEqual(pair["kernel_error"], pair["limit"])
            self.assertLessEqual(pair["stored_of_allowed"], 1)
        self.assertGreater(fewest["stored_of_allowed"], 0.9)   # some element of many is nearly half a step off
        text = self.expect(OK, "kv", "check", "0:K8V4", *self.SMALL, "--dist", "outlier", "--seed", 3).out
        self.assertIn("70 tokens, 1 KV heads, 2 query heads, 64 channels, outlier, seed 3", text)

    def test_any_group_of_heads_on_a_gpu_without_kernels_of_its_own(self):
        report = self.expect_json(OK, "kv", "check", "0:K8V4", "--device", "emulator:sm_90", "--head-dim", 64, "--kv-heads", 1, "--q-heads", 20,
                                  "--context", 70)
        self.assertTrue(report["pairs"][0]["decode"].endswith("__sm80"))

    def test_a_fault_of_a_kernel_fails(self):
        """Of append and of decode in turn."""
        folder = self.path("ptx")
        kernels = self.expect_json(OK, "kv", "emit", "0:KV4", "--head-dim", 64, "--kv-heads", 1, "--q-heads", 2, "--page-tokens", 32, "--target", "sm_89",
                                   "--out", folder)["kernels"]
        check = ("kv", "check", "0:KV4", *self.SMALL, "--ptx", folder)
        self.expect(OK, *check)
        for kernel, (pattern, instead) in zip(kernels, (FAULT_OF_APPEND, FAULT_OF_DECODE)):
            with open(kernel["file"], encoding="utf-8") as file:
                ptx = file.read()
            faulty = re.sub(pattern, instead, ptx, count=1)
            with self.subTest(family=kernel["family"]):
                self.assertNotEqual(faulty, ptx)
                with open(kernel["file"], "w", encoding="utf-8") as file:
                    file.write(faulty)
                self.assertFalse(self.expect_json(CHECK_FAILED, *check)["passed"])
            with open(kernel["file"], "w", encoding="utf-8") as file:
                file.write(ptx)

    def test_what_is_refused(self):
        self.expect_error(USAGE, "usage error", ["--dist gauss"], "kv", "check", "0:KV4", "--dist", "gauss")
        self.expect_error(USAGE, "usage error", ["--seed is refused", "sagegen kv check"], "kv", "show", "0:KV4", "--seed", 3)
        self.expect_error(USAGE, "usage error", ["--context 1000000", "65536"], "kv", "check", "0:KV4", "--context", 1000000)
        self.expect_error(FILE, "file error", ["no-such-folder"], "kv", "check", "0:KV4", "--ptx", "no-such-folder")


@needs_generator
class Bench(CliTest):
    SMALL = ("--device", "emulator:sm_86", "--head-dim", 64, "--kv-heads", 2, "--batch", 3, "--context", 100)

    def test_pairs_of_a_map_beside_16_bits(self):
        report = self.expect_json(OK, "kv", "bench", "0:K8V4,1-2:KV4", *self.SMALL)
        self.assertEqual((report["unit"], report["deployment"], report["batch"], report["q_heads"]), ("instructions", "eager", 3, 8))
        # 16 bits take 256 bytes for a token of a KV head of 64 channels; codes have 8 bytes of scales and zero points.
        self.assertEqual([(call["pair"], call["layers"], call["cache_bytes"]) for call in report["calls"]],
                         [("KV16", [], 600 * 256), ("K8V4", [0], 600 * 104), ("KV4", [1, 2], 600 * 72)])
        for call in report["calls"]:
            self.assertEqual(call["samples"], [call["median"]])   # counts are the same each time
        again = self.expect_json(OK, "kv", "bench", "0:K8V4,1-2:KV4", *self.SMALL)
        self.assertEqual(again["calls"], report["calls"])
        self.assertIn("no times", self.expect(OK, "kv", "bench", "0:KV16", *self.SMALL).out)

    def test_what_is_longer_takes_more(self):
        counts = [self.expect_json(OK, "kv", "bench", "0:KV16", *self.SMALL[:-1], tokens)["calls"][0]["median"] for tokens in (64, 3200)]
        self.assertGreater(counts[1], 5 * counts[0])

    def test_all_pairs_without_a_map(self):
        calls = self.expect_json(OK, "kv", "bench", *self.SMALL)["calls"]
        self.assertEqual(len({call["pair"] for call in calls}), 16)
        self.assertEqual(calls[0]["pair"], "KV16")

    def test_what_is_refused(self):
        self.expect_error(USAGE, "usage error", ["--context 70000", "--batch 1"], "kv", "bench", "0:KV4", "--device", "emulator", "--context", 70000)
        self.expect_error(USAGE, "usage error", ["--q-heads 3 with 2 KV heads"], "kv", "bench", "0:KV4", *self.SMALL, "--q-heads", 3)
        self.expect_error(USAGE, "usage error", ["--batch is refused", "sagegen kv bench"], "kv", "check", "0:KV4", "--batch", 3)
        self.expect_error(USAGE, "argument error", ["timing in graphs is refused on an emulated device"], "kv", "bench", "0:KV4", *self.SMALL,
                          "--deployment", "graph")


class Predict(CliTest):
    @needs_ptxas
    def test_of_a_map_beside_16_bits(self):
        report = self.expect_json(OK, "kv", "predict", "0:K8V4,1:KV4", "--gpu", "H200", "RTX4090")
        self.assertEqual(report["kind"], "prediction")
        self.assertEqual([(each["gpu"], each["pair"], each["bytes_per_token"]) for each in report["predictions"]],
                         [(gpu, pair, size) for gpu in ("H200", "RTX4090") for pair, size in (("KV16", 512), ("K8V4", 200), ("KV4", 136))])
        for each in report["predictions"]:
            self.assertEqual(each["bound"], "memory" if each["memory_cycles"] >= each["busy_cycles"] else each["busiest"])
            self.assertAlmostEqual(each["equivalent_tb"], each["raw_tb"] * 512 / each["bytes_per_token"])
            self.assertGreaterEqual(each["speed_up"], 1)
        self.assertIn("predictions, no measurements", self.expect(OK, "kv", "predict", "0:KV4", "--gpu", "A100").out)

    @needs_generator
    def test_without_ptxas_it_says_so(self):
        result = self.expect(OK, "kv", "predict", "--json", before=("env", "SAGEGEN_PTXAS=" + self.path("none")))
        report = result.json()
        self.assertIn("ptxas", report["skipped"])
        self.assertEqual(report["predictions"], [])

    def test_what_is_refused(self):
        self.expect_error(USAGE, "usage error", ["--gpu H20", "H200"], "kv", "predict", "--gpu", "H20")
        self.expect_error(SPEC, "spec error", ["KVf8", "KV8"], "kv", "predict", "0:fp8")


class Layout(CliTest):
    FORMAT = "head_dim=128 io=f16 k_bits=8 v_bits=4 page_tokens=528"

    def test_a_header_and_a_module(self):
        report = self.expect_json(OK, "kv", "layout", self.FORMAT, "--out", self.path("layout.h"))
        self.assertEqual((report["language"], report["block_bytes"], report["bytes_per_token_and_head"]), ("c", 3200, 200))
        with open(self.path("layout.h"), encoding="utf-8") as file:
            header = file.read()
        self.assertIn(f"#define KV_DIGEST 0x{report['digest']}u", header)
        module = self.expect(OK, "kv", "layout", self.FORMAT, "--language", "python", "--prefix", "cache").out
        places = {}
        exec(module, places)
        self.assertEqual((places["CACHE_DIGEST"], places["cache_page_bytes"](2)), (int(report["digest"], 16), 2 * 33 * 3200))

    def test_what_is_refused(self):
        self.expect_error(USAGE, "usage error", ["page_tokens 24 is refused", "32"], "kv", "layout", "page_tokens=24")
        self.expect_error(USAGE, "usage error", ["MAP is required", "head_dim=128"], "kv", "layout")
        self.expect_error(USAGE, "usage error", ["prefix \"9\""], "kv", "layout", "head_dim=64", "--prefix", "9")
        self.expect_error(USAGE, "usage error", ["--prefix is refused", "sagegen kv layout"], "kv", "show", "0:KV8", "--prefix", "a")


if __name__ == "__main__":
    unittest.main()
