"""The code that calls the peers, on stand-ins for their libraries: arguments, layouts, and where scales go.

Runs on PyTorch where it is installed and on mini_torch elsewhere.
"""
import importlib.util
import random
import sys
import types
import unittest
from unittest import mock

from support import BENCH, BenchTest

import mini_torch
import stand_ins
from attention import accuracy, contestant, platform, shapes

FULL = shapes.square(16, 24, False, heads=2, batch=2)
CAUSAL = shapes.square(16, 24, True, heads=2, batch=1)
GQA = shapes.square(16, 24, False, heads=4, kv_heads=2, batch=1)
LONG = shapes.square(64, 128, True, heads=1, batch=1)


def sdpa(q, k, v, is_causal=False, enable_gqa=False):
    import torch
    assert enable_gqa == (q.shape[1] != k.shape[1])
    return torch.tensor(stand_ins.attention(torch, q, k, v, is_causal)).to(q.dtype)


def the_torch():
    if importlib.util.find_spec("torch") is None:
        return mini_torch.install(sdpa)
    import torch
    torch.set_grad_enabled(False)
    return torch


TORCH = the_torch()
REAL = TORCH is not mini_torch


class PeerPlatform(platform.Platform):
    """Just what the peers ask of a platform. Q, K and V differ in size, so that no scale replaces another."""

    def environment(self):
        return {"compute_capability": "9.0"}

    def inputs(self, shape):
        rng = random.Random(5)

        def tensor(heads, tokens, size):
            values = [[[[platform.round_to_bf16(rng.gauss(0, size)) for _ in range(shape.head_dim)]
                        for _ in range(tokens)] for _ in range(heads)] for _ in range(shape.batch)]
            return TORCH.tensor(values).to(TORCH.bfloat16)
        return platform.Inputs(tensor(shape.q_heads, shape.q_len, 2.0),
                               tensor(shape.kv_heads, shape.kv_len, 0.4),
                               tensor(shape.kv_heads, shape.kv_len, 30.0))


def figures(shape, inputs, output):
    exact = stand_ins.attention(TORCH, inputs.q, inputs.k, inputs.v, shape.causal)
    result = output.float().tolist()
    heads = []
    for b in range(shape.batch):
        for h in range(shape.q_heads):
            sums = accuracy.HeadSums()
            for exact_row, row in zip(exact[b][h], result[b][h]):
                for pair in zip(exact_row, row):
                    sums.add(*pair)
            heads.append(sums)
    return accuracy.metrics(heads)


class Peers(BenchTest):
    LIBRARIES = {"cudnn_fp8": stand_ins.cudnn, "flash_attention3": stand_ins.flash_attn_interface,
                 "sage_attention": stand_ins.sageattention}

    def setUp(self):
        super().setUp()
        self.platform = PeerPlatform()
        modules = {name: module for make in self.LIBRARIES.values() for name, module in make(TORCH).items()}
        modules["triton"] = types.SimpleNamespace(__version__="stand-in")
        patch = mock.patch.dict(sys.modules, modules)
        patch.start()
        self.addCleanup(patch.stop)
        if REAL:   # the stand-ins judge arguments, not speed: no compilation in tests
            compiler = mock.patch.object(TORCH, "compile", side_effect=RuntimeError("not in tests"))
            compiler.start()
            self.addCleanup(compiler.stop)
        options = {"triton_tutorial": self.tutorial(", warp_specialize=True", 6)}
        self.found, self.unavailable = contestant.discover([f"{BENCH}/attention/contestants"], self.platform,
                                                           options)

    def tutorial(self, parameter, count):
        path = self.path(f"tutorial{count}.py")
        with open(path, "w", encoding="utf-8") as file:
            file.write(stand_ins.TUTORIAL.format(warp_specialize=parameter, count=count))
        return path

    def peer(self, name):
        return next(one for one in self.found if one.name == name)

    def check(self, name, shape, tolerance):
        """All phases of the peer give the attention that was asked for."""
        inputs = self.platform.inputs(shape)
        peer = self.peer(name)
        self.assertIsNone(peer.supports(shape))
        call = peer.prepare(shape, inputs)
        for phase, function in call.phases().items():
            function()
            error = figures(shape, inputs, call.output())["relative_l1"]
            self.assertLess(error, tolerance, (name, shape, phase))
        call.close()
        self.assertTrue(peer.versions())
        return call

    def test_all_are_found(self):
        self.assertEqual(set(self.unavailable), {"sagegen"})
        self.assertEqual(len(self.found), 8)

    def test_sdpa(self):
        if REAL:   # on a CPU there is neither backend; the mathematical one has the same interface
            for peer in self.found:
                if peer.name.startswith("SDPA"):
                    peer.backend_name = "MATH"
        for name in ("SDPA cuDNN BF16", "SDPA flash BF16"):
            for shape in (FULL, CAUSAL, GQA):
                call = self.check(name, shape, 0.01)
                self.assertEqual(list(call.phases()), ["kernel"])

    def test_cudnn_fp8(self):
        for shape in (FULL, CAUSAL, GQA):
            call = self.check("cuDNN FP8", shape, 0.1)
            self.assertEqual(len(call.phases()), 3)
        self.assertIn("eager", self.peer("cuDNN FP8").notes)
        with self.assertRaisesRegex(contestant.Unsupported, "91900.*hidden_dim"):
            wide = shapes.square(512, 2, False, heads=1, batch=1)
            self.peer("cuDNN FP8").prepare(wide, self.platform.inputs(wide))

    def test_flash_attention3(self):
        for shape in (FULL, CAUSAL, GQA):
            self.assertEqual(list(self.check("FlashAttention-3 BF16", shape, 0.01).phases()), ["kernel"])
            self.assertEqual(len(self.check("FlashAttention-3 FP8", shape, 0.1).phases()), 3)

    def test_sage_attention(self):
        self.assertEqual(FULL.head_dim, 16)   # it has no kernel for that: padding is part of the call
        self.assertEqual(list(self.check("SageAttention2", FULL, 0.01).phases()), ["end_to_end"])
        self.assertEqual(len(self.check("SageAttention2", LONG, 0.01).phases()), 3)
        ragged = shapes.square(64, 37, False, heads=1, batch=1)
        self.assertEqual(len(self.check("SageAttention2", ragged, 0.01).phases()), 3)
        self.assertIn("128", self.peer("SageAttention2").supports(shapes.square(256, 128, False)))

    def test_sage_attention_without_its_kernel(self):
        del sys.modules["sageattention._qattn_sm90"].qk_int8_sv_f8_accum_f32_fuse_v_scale_attn_inst_buf
        peer = self.peer("SageAttention2")
        peer.parts = None
        self.assertIsNone(peer.unavailable())
        self.assertIn("cannot be called", peer.notes)
        self.assertEqual(list(self.check("SageAttention2", LONG, 0.01).phases()), ["end_to_end"])

    def test_triton_tutorial(self):
        self.assertEqual(len(self.check("Triton tutorial FP16", LONG, 0.01).phases()), 3)
        self.check("Triton tutorial E5M2", LONG, 0.3)
        self.assertIn("GQA", self.peer("Triton tutorial FP16").supports(GQA))
        self.assertIn("128", self.peer("Triton tutorial FP16").supports(FULL))
        peer = self.peer("Triton tutorial FP16")
        peer.options = {"triton_tutorial": self.tutorial("", 5)}       # an older version of the file
        self.assertIsNone(peer.unavailable())
        self.check("Triton tutorial FP16", LONG, 0.01)
        for path, words in ((None, "--triton-tutorial"), (self.path("absent.py"), "no such file")):
            peer.options = {"triton_tutorial": path}
            self.assertIn(words, peer.unavailable())

    def test_a_missing_library_is_a_reason(self):
        absent = dict.fromkeys(("cudnn", "flash_attn_interface", "sageattention"))
        with mock.patch.dict(sys.modules, absent):
            for name in ("cuDNN FP8", "FlashAttention-3 FP8", "SageAttention2"):
                self.assertIn("does not load", self.peer(name).unavailable())


if __name__ == "__main__":
    unittest.main()
