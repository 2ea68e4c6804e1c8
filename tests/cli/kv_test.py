"""`sagegen kv`: maps of KV cache formats, as a user reads and writes them."""
import json
import os
import unittest

from support import FILE, OK, SOURCE, USAGE, CliTest

LAYERS = ((8, 8), (8, 4), (4, 2), (4, 2))
MODELOPT = {"quantization": {"kv_cache_quant_algo": "MIXED_PRECISION", "kv_cache_schema_version": 1, "kv_cache_quantized_layers": {
    "model.layers.0.self_attn": {"quant_algo": "FP8"}, "model.layers.1.self_attn": {"quant_algo": "FP8_K_NVFP4_V"}}}}


def kvtuner(layers):
    return "".join(f"{i}:\n  nbits_key: {k}\n  nbits_value: {v}\n" for i, (k, v) in enumerate(layers))


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
                         [f"head_dim=128 io=f16 k_bits={k} v_bits={v} page_tokens=64 layout=hnd" for k, v in LAYERS[:3]])
        text = self.expect(OK, "kv", "show", self.path("map.yaml")).out
        for part in ("4 layers, 8 KV heads of 128 channels: one pair for all heads of a layer (kvtuner)", "mean bits: 5.000 nominal, 5.250 effective",
                     "bytes per token: 5376, 1344.0 per layer; 0.0054 GB for 1000 tokens, 0.0164 GB with 16 bits", "0:KV8, 1:K8V4, 2-3:K4V2"):
            self.assertIn(part, text)

    def test_the_model_and_the_pages_count(self):
        path = self.file("map.yaml", kvtuner(LAYERS))
        report = self.show(path, "--head-dim", 64, "--kv-heads", 2, "--page-tokens", 32, "--io", "bf16")
        self.assertEqual(report["bytes_per_token"], 2 * (136 + 104 + 56 + 56))
        self.assertEqual((report["head_dim"], report["kv_heads"], report["page_tokens"]), (64, 2, 32))
        self.assertIn("head_dim=64 io=bf16 k_bits=8 v_bits=4 page_tokens=32 layout=hnd", [format["kernel"] for format in report["formats"]])
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


if __name__ == "__main__":
    unittest.main()
