"""Error metrics against values worked out by hand, exact attention against its definition, and the inputs."""
import math
import statistics
import unittest

from support import TINY

from attention import accuracy, platform, shapes


def sums(pairs):
    head = accuracy.HeadSums()
    for exact, result in pairs:
        head.add(exact, result)
    return head


class Metrics(unittest.TestCase):
    def test_by_hand(self):
        figures = accuracy.metrics([sums([(4.0, 0.0), (3.0, 3.0)]), sums([(1.0, 1.0), (0.0, 0.0)])])
        self.assertAlmostEqual(figures["cosine"], 10 / math.sqrt(26 * 10))
        self.assertAlmostEqual(figures["relative_l1"], 4 / 8)
        self.assertAlmostEqual(figures["rmse"], math.sqrt(16 / 4))
        self.assertEqual(figures["max_abs"], 4.0)
        self.assertEqual(figures["worst_head"], {"head": 0, "cosine": 0.6, "relative_l1": 4 / 7})
        self.assertEqual((figures["nan_count"], figures["compared"]), (0, 4))

    def test_nan_and_infinity_are_counted_and_count_as_zero(self):
        figures = accuracy.metrics([sums([(1.0, math.nan), (1.0, -math.inf), (1.0, 1.0)])])
        self.assertEqual(figures["nan_count"], 2)
        self.assertAlmostEqual(figures["relative_l1"], 2 / 3)

    def test_zero_outputs(self):
        self.assertEqual(accuracy.metrics([sums([(0.0, 0.0)])])["cosine"], 1.0)
        self.assertEqual(accuracy.metrics([sums([(0.0, 1.0)])])["cosine"], 0.0)

    def test_suspicions(self):
        good = accuracy.metrics([sums([(1.0, 1.0), (2.0, 2.0)])])
        self.assertEqual(accuracy.suspicions({"normal": good, "k_bias": good}), [])
        opposite = accuracy.metrics([sums([(1.0, -1.0)])])
        self.assertEqual(len(accuracy.suspicions({"normal": opposite})), 1)
        self.assertEqual(accuracy.suspicions({"k_bias": opposite}), [])   # formats may fail there
        self.assertIn("out of memory", accuracy.suspicions({"normal": {"failed": "out of memory"}})[0])


class Exact(unittest.TestCase):
    def test_two_keys_by_hand(self):
        q, k, v = [[1.0, 0.0, 0.0, 0.0]], [[2.0, 0, 0, 0], [0.0, 0, 0, 0]], [[1.0, 2, 3, 4], [5.0, 6, 7, 8]]
        weight = math.exp(1.0) / (math.exp(1.0) + 1)      # scores 2 / sqrt(4) and 0
        for got, first, second in zip(accuracy.exact_head(q, k, v, False)[0], v[0], v[1]):
            self.assertAlmostEqual(got, weight * first + (1 - weight) * second)

    def test_a_causal_row_sees_no_later_key(self):
        rows = [[float(i + j) for j in range(4)] for i in range(3)]
        causal = accuracy.exact_head(rows, rows, rows, True)
        self.assertEqual(causal[0], rows[0])
        self.assertEqual(causal[2], accuracy.exact_head(rows[2:], rows, rows, False)[0])


class Inputs(unittest.TestCase):
    SHAPE = shapes.square(64, 256, False, heads=2, batch=1)

    def make(self, distribution):
        return platform.DryPlatform().make_inputs(self.SHAPE, distribution, 1)

    def test_values_are_bf16_and_repeat(self):
        first, again = self.make("normal"), self.make("normal")
        self.assertEqual(first.q.values, again.q.values)
        self.assertNotEqual(first.q.values, first.k.values)
        self.assertTrue(all(platform.round_to_bf16(value) == value for value in first.k.values))
        self.assertAlmostEqual(statistics.pstdev(first.v.values), 1.0, delta=0.05)

    def test_k_bias_moves_channels_of_k_alone(self):
        inputs = self.make("k_bias")
        rows = inputs.k.head(0, 1)
        means = [abs(statistics.fmean(row[c] for row in rows)) for c in range(64)]
        self.assertGreater(min(means), 4.5)
        self.assertLess(max(means), 20.5)
        self.assertLess(max(map(abs, inputs.q.values)), 6)

    def test_outliers_are_rare_and_large(self):
        values = [value for tensor in vars(self.make("outlier")).values() for value in tensor.values]
        self.assertGreater(max(map(abs, values)), 10)
        self.assertLess(sum(abs(value) > 6 for value in values) / len(values), 0.002)

    def test_rounding_to_bf16_is_to_the_nearest_even(self):
        for value, expected in ((1.0, 1.0), (1 + 2**-8, 1.0), (1 + 3 * 2**-8, 1 + 2**-6),
                                (-1 - 2**-7, -1 - 2**-7)):
            self.assertEqual(platform.round_to_bf16(value), expected)


class Shapes(unittest.TestCase):
    def test_the_grid_is_that_of_the_protocol(self):
        grid = shapes.grid()
        names = [shape.name for shape in grid]
        self.assertEqual(len(names), len(set(names)))
        self.assertEqual([shape.head_dim for shape in grid[:10]], [128] * 10)    # most important first
        for head_dim in (64, 128, 256):
            for causal in (False, True):
                lengths = {s.q_len for s in grid if (s.head_dim, s.causal, s.q_heads, s.data) ==
                           (head_dim, causal, 32, "normal") and s.batch * s.q_len == 32768}
                self.assertTrue({2048, 4096, 8192, 16384, 32768} <= lengths)
        self.assertTrue(any(s.q_heads == 64 and s.kv_heads == 8 for s in grid))
        self.assertTrue(any(s.q_len > 17000 and s.q_len % 128 for s in grid))
        self.assertTrue(any(s.q_len % 2 for s in grid))

    def test_names_and_dictionaries_lead_back(self):
        for shape in shapes.grid() + shapes.dry():
            self.assertEqual(shapes.shape_from(shape.as_dict()), shape)

    def test_accuracy_uses_few_heads_and_keeps_their_ratio(self):
        for shape in shapes.grid() + [TINY]:
            few = shape.for_accuracy()
            self.assertEqual(few.q_heads // few.kv_heads, shape.q_heads // shape.kv_heads)
            self.assertLessEqual(few.q_heads, 8)
            self.assertEqual((few.batch, few.q_len, few.causal, few.head_dim),
                             (1, shape.q_len, shape.causal, shape.head_dim))


if __name__ == "__main__":
    unittest.main()
