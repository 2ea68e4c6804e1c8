"""TorchPlatform on the real PyTorch without a GPU (see torch_on_cpu); skipped where it is not installed."""
import contextlib
import importlib.util
import io
import sys
import unittest
from unittest import mock

from support import TINY, BenchTest

if importlib.util.find_spec("torch") is None:
    print("skipped: PyTorch is not installed")
    sys.exit(77)

import torch   # noqa: E402
from torch_on_cpu import pretended_gpu   # noqa: E402

from attention import accuracy, contestant, platform, protocol, shapes   # noqa: E402

RAGGED = shapes.square(64, 131, True, heads=4, kv_heads=2, batch=2)
RULES = protocol.Protocol(warmups=2, samples=4, min_samples=2, sustained_seconds=0.02, burst_seconds=0.5)


class Exact(contestant.Contestant):
    """SDPA in double precision, through every phase."""
    name = "exact"

    class Call(contestant.Call):
        def __init__(self, shape, inputs):
            self.shape, self.inputs, self.result, self.ran = shape, inputs, None, []

        def quantize(self):
            self.ran.append("quantize")

        def attend(self):
            self.ran.append("attend")
            q, k, v = (x.double() for x in (self.inputs.q, self.inputs.k, self.inputs.v))
            self.result = torch.nn.functional.scaled_dot_product_attention(
                q, k, v, is_causal=self.shape.causal, enable_gqa=True)

        def end_to_end(self):
            self.quantize()
            self.attend()

        def output(self):
            return self.result

    def prepare(self, shape, inputs):
        return self.Call(shape, inputs)


class OnCpu(BenchTest):
    def setUp(self):
        super().setUp()
        context = pretended_gpu()
        self.machine = context.__enter__()
        self.addCleanup(context.__exit__, None, None, None)

    def test_the_script_writes_valid_results_and_keeps_them(self):
        import attention_bench
        shape = shapes.square(64, 64, True, heads=2, batch=1)
        command = ["attention_bench.py", "run", "--out", self.path("r.json"), "--only", "flash", "--budget",
                   "60", "--samples", "3", "--sustained", "0.01"]
        printed = io.StringIO()
        with mock.patch.object(sys, "argv", command), mock.patch.object(shapes, "grid", lambda: [shape]), \
                mock.patch.object(attention_bench, "open_platform", lambda arguments: self.machine), \
                contextlib.redirect_stdout(printed):
            self.assertEqual(attention_bench.main(), attention_bench.DONE)
            first = self.json(self.path("r.json"))
            self.assertEqual(attention_bench.main(), attention_bench.DONE)
        self.assertEqual(self.json(self.path("r.json"))["records"], first["records"])
        self.assertIs(first["dry"], False)
        self.assertEqual([r["status"] for r in first["records"]], ["measured"])
        self.assertLess(first["records"][0]["accuracy"]["normal"]["relative_l1"], 0.01)
        self.bench("check", self.path("r.json"))
        self.bench("report", self.path("r.json"), "--out", self.path("report"))
        with open(self.path("report", "report.md"), encoding="utf-8") as file:
            self.assertNotIn("DRY", file.read())

    def test_environment(self):
        environment = self.machine.environment()
        self.assertEqual(environment["compute_capability"], "9.0")
        for field in ("device", "driver", "torch", "cuda", "cudnn", "l2_bytes"):
            self.assertIn(field, environment)
        self.assertTrue(self.machine.healthy())

    def test_a_measurement_of_everything(self):
        records = protocol.Measurement(self.machine, RULES, RAGGED, [Exact(self.machine, {})]).run()
        record, = records
        self.assertEqual(record["status"], "measured", record["reason"])
        self.assertTrue(record["graph"])
        for phase in ("kernel", "quantization", "end_to_end"):
            self.assertEqual(record["times"][phase]["burst"]["samples"], 4)
        self.assertGreaterEqual(record["times"]["kernel"]["sustained"]["samples"], 3)
        for name in accuracy.DISTRIBUTIONS:
            self.assertLess(record["accuracy"][name]["relative_l1"], 1e-9)
            self.assertEqual(record["accuracy"][name]["nan_count"], 0)

    def test_head_sums_are_those_of_the_plain_definition(self):
        """The GPU's way to sums against lists of numbers, with an output that is wrong in known places."""
        shape = shapes.square(8, 7, True, heads=2, kv_heads=1, batch=1)
        inputs = self.machine.make_inputs(shape, "normal", 3)
        output = torch.randn(1, 2, 7, 8, dtype=torch.float64)
        output[0, 1, 3, 2] = float("nan")
        for head, sums in enumerate(self.machine.head_sums(inputs, output, shape)):
            expected = accuracy.HeadSums()
            exact = accuracy.exact_head(inputs.q[0, head].tolist(), inputs.k[0, 0].tolist(),
                                        inputs.v[0, 0].tolist(), True)
            for exact_row, row in zip(exact, output[0, head].tolist()):
                for pair in zip(exact_row, row):
                    expected.add(*pair)
            for field, value in vars(expected).items():
                self.assertAlmostEqual(getattr(sums, field), value, places=9, msg=field)

    def test_inputs_have_the_distributions_of_the_dry_platform(self):
        shape = shapes.square(64, 512, False, heads=2, batch=1)
        dry = platform.DryPlatform()
        for distribution in accuracy.DISTRIBUTIONS:
            inputs = self.machine.make_inputs(shape, distribution, 1)
            again = self.machine.make_inputs(shape, distribution, 1)
            other = self.machine.make_inputs(shape, distribution, 2)
            self.assertTrue(torch.equal(inputs.k, again.k))
            self.assertFalse(torch.equal(inputs.k, other.k))
            self.assertEqual(inputs.q.dtype, torch.bfloat16)
            made = dry.make_inputs(shape, distribution, 1)
            for name in "qkv":
                ours = getattr(inputs, name).double()
                theirs = torch.tensor(getattr(made, name).values).double()
                self.assertEqual(ours.numel(), theirs.numel())
                for value, expected in ((ours.abs().mean(), theirs.abs().mean()), (ours.std(), theirs.std())):
                    self.assertAlmostEqual(float(value / expected), 1.0, delta=0.12)
            bias = inputs.k.double().mean(dim=2).abs()
            self.assertEqual(bool((bias > 4.5).all()), distribution == "k_bias")

    def test_sustained_rotates_and_lasts(self):
        calls = []
        samples = self.machine.sustained([lambda i=i: calls.append(i) for i in range(3)], 0.2, 1.0)
        self.assertGreaterEqual(len(calls), 200)              # 0.2 s of calls that take 1 ms
        self.assertEqual(calls[:6], [0, 1, 2, 0, 1, 2])
        self.assertGreaterEqual(len(samples), 3)

    def test_scratch_memory_is_aligned(self):
        owner, address = self.machine.scratch(1000)
        self.assertEqual(address % 256, 0)
        self.assertGreaterEqual(address, owner.data_ptr())
        self.assertLessEqual(address + 1000, owner.data_ptr() + owner.numel())

    def test_casts_to_e4m3(self):
        from attention import fp8
        x = (torch.randn(2, 2, 8, 16) * 3).to(torch.bfloat16)
        codes, descale = fp8._cast(x.reshape(-1))
        self.assertEqual(codes.dtype, torch.float8_e4m3fn)
        self.assertAlmostEqual(float(codes.float().abs().max()), 448.0)
        back = fp8._widen(codes, descale)
        self.assertLess(float((back.float() - x.reshape(-1).float()).abs().max() / x.abs().max()), 0.04)

    def test_a_graph_runs_its_function(self):
        calls = []
        replay = self.machine.graph(lambda: calls.append(1))
        self.assertEqual(len(calls), 2)   # once before, once while capturing
        replay()

    def test_accuracy_of_a_wrong_mask_shows(self):
        wrong = Exact(self.machine, {})
        wrong.prepare = lambda shape, inputs: Exact.Call(shapes.square(
            shape.head_dim, shape.q_len, not shape.causal, heads=shape.q_heads, batch=1), inputs)
        record, = protocol.Measurement(self.machine, RULES, TINY, [wrong]).run()
        self.assertTrue(record["suspicions"])


if __name__ == "__main__":
    unittest.main()
