"""Who is timed when, which samples count, and what becomes of contestants that fail; on fakes and a fake
clock.
"""
import unittest
import weakref
from dataclasses import replace

from support import TINY, TINY_CAUSAL, TINY_GQA, BenchTest, fakes

from attention import contestant, platform, protocol, shapes, stats
from attention.platform import DryTensor

FULL = protocol.Protocol(sustained_seconds=0.1)
SHORT = protocol.Protocol(warmups=1, samples=4, min_samples=2, sustained_seconds=0)


def measure(machine, contestants, shape=TINY, rules=FULL):
    measurement = protocol.Measurement(machine, rules, shape, contestants)
    return {record["contestant"]: record for record in measurement.run()}, measurement


class Statistics(unittest.TestCase):
    def test_percentiles_interpolate_between_ranks(self):
        values = [40.0, 10.0, 20.0, 30.0, 50.0]
        self.assertEqual([stats.percentile(values, p) for p in (0, 10, 50, 90, 100)], [10, 14, 30, 46, 50])
        self.assertEqual(stats.percentile([3.0], 90), 3.0)
        self.assertEqual(stats.percentile([1.0, 2.0], 50), 1.5)
        with self.assertRaises(ValueError):
            stats.percentile([], 50)

    def test_a_clock_that_moves_by_more_than_the_tolerance(self):
        self.assertFalse(stats.clock_moved([1000.0, 970.0], 0.03))
        self.assertTrue(stats.clock_moved([1000.0, 969.0], 0.03))
        self.assertFalse(stats.clock_moved([1000.0, None], 0.03))
        self.assertFalse(stats.clock_moved([None, None], 0.03))

    def test_tflops_count_operations_of_the_shape_and_no_quantization(self):
        shape = shapes.square(128, 8192, False)
        self.assertEqual(shape.flop, 4 * 4 * 32 * 8192 * 8192 * 128)
        self.assertEqual(shapes.square(128, 8192, True).flop, shape.flop / 2)
        gqa = shapes.square(128, 8192, False, heads=64, kv_heads=8, batch=1)
        self.assertEqual(gqa.flop, 4 * 64 * 8192 * 8192 * 128)
        summary = stats.summary([platform.Sample(2.0)] * 3, flop=shape.flop)
        self.assertAlmostEqual(summary["tflops"], shape.flop / 2e-3 / 1e12)


class Times(BenchTest):
    def test_median_and_percentiles_are_those_of_the_durations(self):
        machine, fake = fakes()
        records, _ = measure(machine, [fake["fast"], fake["slow"]])
        kernel = records["fake fast"]["times"]["kernel"]
        for regime in ("burst", "sustained"):   # 1.00 ... 1.09, each equally often in 100 samples
            self.assertAlmostEqual(kernel[regime]["median_ms"], 1.045, delta=0.006)
            self.assertAlmostEqual(kernel[regime]["p10_ms"], 1.009, delta=0.006)
            self.assertAlmostEqual(kernel[regime]["p90_ms"], 1.081, delta=0.006)
        self.assertAlmostEqual(kernel["burst"]["p10_ms"], 1.009, places=9)   # ten times each: exactly so
        self.assertAlmostEqual(kernel["burst"]["p90_ms"], 1.081, places=9)
        self.assertEqual(kernel["burst"]["samples"], 100)
        self.assertEqual(kernel["burst"]["clock_mhz"], {"median": 1000.0, "min": 1000.0, "max": 1000.0})
        self.assertAlmostEqual(kernel["burst"]["tflops"], TINY.flop / kernel["burst"]["median_ms"] / 1e9)
        self.assertEqual(records["fake slow"]["times"]["kernel"]["burst"]["median_ms"], 5.0)

    def test_the_three_times_of_a_contestant_that_quantizes_and_of_one_that_does_not(self):
        machine, fake = fakes()
        records, _ = measure(machine, [fake["fast"], fake["slow"]])
        fast, slow = records["fake fast"], records["fake slow"]
        self.assertEqual(set(fast["times"]), {"kernel", "quantization", "end_to_end"})
        self.assertAlmostEqual(fast["times"]["quantization"]["burst"]["median_ms"], 0.25)
        self.assertAlmostEqual(fast["times"]["end_to_end"]["burst"]["median_ms"], 1.295, delta=0.006)
        self.assertNotIn("tflops", fast["times"]["quantization"]["burst"])
        self.assertNotIn("sustained", fast["times"]["quantization"])
        self.assertEqual(set(slow["times"]), {"kernel"})
        self.assertTrue(slow["end_to_end_is_kernel"])
        self.assertFalse(fast["end_to_end_is_kernel"])

    def test_contestants_take_turns(self):
        machine, fake = fakes()
        _, measurement = measure(machine, [fake["fast"], fake["slow"]], rules=SHORT)
        kernel = [name for phase, name in measurement.order if phase == "kernel"]
        self.assertEqual(kernel, ["fake fast", "fake slow"] * 4)
        phases = [phase for phase, _ in measurement.order]
        self.assertEqual(phases, sorted(phases, key=("kernel", "quantization", "end_to_end").index))

    def test_warm_up_calls_come_first_and_do_not_count(self):
        machine, fake = fakes()
        spent = []
        fake["slow"].kernel_ms = lambda call: spent.append(call) or (100.0 if call <= 20 else 5.0)
        records, _ = measure(machine, [fake["slow"]])
        self.assertEqual(records["fake slow"]["times"]["kernel"]["burst"]["p90_ms"], 5.0)
        self.assertGreaterEqual(len(spent), 120)

    def test_a_slow_kernel_gets_fewer_samples_but_never_too_few(self):
        machine, fake = fakes()
        for duration, samples in ((5.0, 100), (40.0, 50), (1000.0, 20)):
            fake["slow"].kernel_ms = lambda call, duration=duration: duration
            records, _ = measure(machine, [fake["slow"]], rules=replace(FULL, sustained_seconds=0))
            self.assertEqual(records["fake slow"]["times"]["kernel"]["burst"]["samples"], samples)

    def test_sustained_lasts_as_long_as_asked(self):
        machine, fake = fakes()
        records, _ = measure(machine, [fake["slow"]], rules=replace(SHORT, sustained_seconds=2.0))
        self.assertEqual(records["fake slow"]["times"]["kernel"]["sustained"]["samples"], 400)

    def test_inputs_are_rotated_and_exceed_the_cache_twice(self):
        class Cached(platform.DryPlatform):
            made, in_burst = 0, False

            def burst(self, function):
                Cached.in_burst = True
                return super().burst(function)

            def l2_bytes(self):
                return 5 * TINY.input_bytes

            def make_inputs(self, *arguments):
                Cached.made += 1
                return super().make_inputs(*arguments)

        machine, fake = fakes(Cached())
        used = set()
        prepare = fake["slow"].prepare

        def spy(shape, inputs):
            call = prepare(shape, inputs)
            attend = call.attend
            call.attend = lambda: (Cached.in_burst and used.add(id(inputs))) or attend()
            return call
        fake["slow"].prepare = spy
        measure(machine, [fake["slow"]], rules=replace(FULL, sustained_seconds=0))
        self.assertEqual(Cached.made - 3, 11)       # 11 > 2 x 5; three more for accuracy
        self.assertGreaterEqual(len(used), 11)


class Clocks(BenchTest):
    class Drifting(platform.DryPlatform):
        """The clock is at 900 MHz whenever `slow(n)` of the n-th look at it."""
        slow = staticmethod(lambda look: False)
        looks = 0

        def clock(self):
            self.looks += 1
            return 900.0 if self.slow(self.looks) else 1000.0

    def test_a_round_in_which_the_clock_moved_is_discarded_for_all(self):
        machine = self.Drifting()
        machine.slow = lambda look: look in (6, 20)     # two of the 100 rounds of four looks
        _, fake = fakes(machine)
        records, _ = measure(machine, [fake["slow"], fake["wrong output"]],
                             rules=replace(FULL, sustained_seconds=0))
        for name in ("fake slow", "fake with wrong output"):
            burst = records[name]["times"]["kernel"]["burst"]
            self.assertEqual((burst["samples"], burst["discarded"]), (98, 2))
            self.assertEqual(burst["clock_mhz"]["min"], 1000.0)
            self.assertFalse(burst["clock_unstable"])

    def test_each_contestant_has_a_clock_of_its_own_and_rests_do_not_count(self):
        machine = self.Drifting()
        machine.slow = lambda look: look % 4 == 2       # after the first of two contestants
        _, fake = fakes(machine)
        records, _ = measure(machine, [fake["slow"], fake["wrong output"]],
                             rules=replace(FULL, sustained_seconds=0))
        burst = records["fake slow"]["times"]["kernel"]["burst"]
        self.assertEqual((burst["samples"], burst["discarded"], burst["clock_unstable"]), (100, 0, False))

    def test_if_hardly_a_round_is_steady_all_are_kept_and_it_is_said(self):
        class Wandering(platform.DryPlatform):
            looks = 0

            def clock(self):
                self.looks += 1
                return 400.0 + 40 * (self.looks * 7 % 50)

        machine = Wandering()
        _, fake = fakes(machine)
        records, _ = measure(machine, [fake["slow"]])
        burst = records["fake slow"]["times"]["kernel"]["burst"]
        self.assertEqual((burst["samples"], burst["discarded"]), (100, 0))
        self.assertTrue(burst["clock_unstable"])
        self.assertTrue(records["fake slow"]["times"]["kernel"]["sustained"]["clock_unstable"])


class Failures(BenchTest):
    def test_a_contestant_that_breaks_is_dropped_and_the_others_go_on(self):
        machine, fake = fakes()
        records, _ = measure(machine, [fake["fast"], fake["breaks"], fake["slow"]])
        broken = records["fake that breaks"]
        self.assertEqual(broken["status"], "failed")
        self.assertIn("31st call", broken["reason"])
        self.assertEqual(broken["times"], {})
        for name in ("fake fast", "fake slow"):
            self.assertEqual(records[name]["status"], "measured")
            self.assertEqual(records[name]["times"]["kernel"]["burst"]["samples"], 100)

    def test_inputs_that_do_not_fit_fail_the_shape_and_nothing_else(self):
        machine, fake = fakes()

        def refuse(*_):
            raise MemoryError("out of memory")
        machine.make_inputs = refuse
        records, _ = measure(machine, [fake["fast"]])
        self.assertEqual(records["fake fast"]["status"], "failed")
        self.assertIn("out of memory", records["fake fast"]["reason"])
        machine.healthy = lambda: False
        with self.assertRaises(protocol.DeviceLost):
            measure(machine, [fake["fast"]])

    def test_accuracy_inputs_that_do_not_fit_cost_the_accuracy_only(self):
        machine, fake = fakes()
        make = machine.make_inputs

        def refuse(shape, distribution, seed):
            if distribution == "k_bias":
                raise MemoryError("out of memory")
            return make(shape, distribution, seed)
        machine.make_inputs = refuse
        records, _ = measure(machine, [fake["fast"]])
        self.assertEqual(records["fake fast"]["status"], "measured")
        self.assertIn("no accuracy: inputs of", records["fake fast"]["notes"])

    def test_what_failed_gives_its_memory_back_at_once(self):
        machine, fake = fakes()
        closed, prepare = [], fake["breaks"].prepare

        def spy(shape, inputs):
            call = prepare(shape, inputs)
            call.close = lambda: closed.append(fake["slow"].calls)
            return call
        fake["breaks"].prepare = spy
        measure(machine, [fake["breaks"], fake["slow"]])
        self.assertEqual(len(closed), FULL.input_sets)
        self.assertLess(max(closed), fake["slow"].calls)

    def test_refusals_carry_their_reason(self):
        machine, fake = fakes()
        for shape, reason in ((TINY_CAUSAL, "causal"), (TINY_GQA, "GQA")):
            records, _ = measure(machine, [fake["refuses"], fake["slow"]], shape, SHORT)
            self.assertEqual(records["fake that refuses"]["status"], "unsupported")
            self.assertIn(reason, records["fake that refuses"]["reason"])
            self.assertEqual(records["fake slow"]["status"], "measured")
        records, _ = measure(machine, [fake["refuses"]], TINY_CAUSAL, SHORT)   # nobody is left
        self.assertEqual(records["fake that refuses"]["status"], "unsupported")

    def test_wrong_and_nan_outputs_are_flagged_and_right_ones_are_not(self):
        machine, fake = fakes()
        records, _ = measure(machine, [fake[name] for name in ("fast", "NaN", "wrong output")], rules=SHORT)
        self.assertEqual(records["fake fast"]["suspicions"], [])
        self.assertIn("NaN", records["fake with NaN"]["suspicions"][0])
        self.assertEqual(records["fake with NaN"]["accuracy"]["normal"]["nan_count"], 6 * 8)
        self.assertEqual(records["fake with NaN"]["accuracy"]["normal"]["worst_head"]["head"], 0)
        self.assertTrue(any("cosine" in line for line in records["fake with wrong output"]["suspicions"]))
        for name in ("normal", "k_bias", "outlier"):
            self.assertLess(records["fake fast"]["accuracy"][name]["relative_l1"], 1e-6)

    def test_a_lost_device_ends_the_shape_and_names_who_lost_it(self):
        class Dying(platform.DryPlatform):
            def healthy(self):
                return False
        machine, fake = fakes(Dying())
        with self.assertRaises(protocol.DeviceLost) as lost:
            measure(machine, [fake["fast"], fake["breaks"]])
        self.assertEqual([record["contestant"] for record in lost.exception.records], ["fake that breaks"])
        self.assertIn("31st", str(lost.exception))

    def test_a_call_that_cannot_be_captured_is_timed_as_it_is(self):
        class NoGraphs(platform.DryPlatform):
            def graph(self, function):
                raise RuntimeError("cannot capture")
        machine, fake = fakes(NoGraphs())
        records, _ = measure(machine, [fake["slow"]], rules=SHORT)
        self.assertFalse(records["fake slow"]["graph"])
        self.assertIn("cannot capture", records["fake slow"]["notes"])
        machine, fake = fakes()
        self.assertTrue(measure(machine, [fake["slow"]], rules=SHORT)[0]["fake slow"]["graph"])
        beyond = replace(SHORT, graph_up_to=TINY.q_len - 1)
        self.assertFalse(measure(machine, [fake["slow"]], rules=beyond)[0]["fake slow"]["graph"])

    def test_memory_that_a_graph_reads_is_not_given_away(self):
        """Quantizing again replaces the codes; the kernel's graph goes on reading the old ones."""
        class Codes:
            pass
        made = []

        class Requantizing(contestant.Call):
            def __init__(self):
                self.quantize()

            def quantize(self):
                self.codes = Codes()
                made.append(weakref.ref(self.codes))

            def attend(self):
                codes.append(weakref.ref(self.codes))

            def end_to_end(self):
                self.quantize()

            def output(self):
                return DryTensor((1, 2, 6, 8), [0.0] * 96)

        codes = []
        machine, fake = fakes()
        dead_during = []
        fake["slow"].prepare = lambda shape, inputs: Requantizing()
        machine.burst = lambda function: dead_during.extend(
            one for one in captured if one() is None) or platform.Sample(1.0)
        captured = []
        machine.graph = lambda function: (function(), captured.extend(codes[-1:])) and function
        measure(machine, [fake["slow"]], rules=SHORT)
        self.assertTrue(captured)
        self.assertEqual(dead_during, [])

    def test_impossible_protocols_are_refused(self):
        for wrong in ({"warmups": 0}, {"samples": 10}, {"input_sets": 0}, {"burst_seconds": 0},
                      {"sustained_seconds": -1}, {"sustained_phases": ("kernel", "lunch")}):
            with self.assertRaises(ValueError, msg=str(wrong)):
                protocol.Protocol(**wrong)


if __name__ == "__main__":
    unittest.main()
