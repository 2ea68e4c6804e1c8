"""Error metrics of an attention output against fp64, and the inputs that tell number formats apart.

Platforms deliver sums per head (HeadSums), because on a GPU the elements stay there; the metrics are made
from the sums in one place.
"""
import math
import sys
from dataclasses import dataclass

# Every generator of inputs makes these three: N(0,1) as a baseline; K with a constant offset of 5 to 20 per
# channel, which smoothing of K removes; N(0,1) + N(0,100) Bernoulli(0.001), the outliers of FlashAttention-3.
DISTRIBUTIONS = ("normal", "k_bias", "outlier")
K_BIAS = (5.0, 20.0)
OUTLIER_DEVIATION = 10.0
OUTLIER_PROBABILITY = 0.001

# A cosine on N(0,1) that no format explains: INT4 costs 0.018 there, FP8 and INT8 less than 0.001.
SUSPICIOUS_COSINE = 0.97


@dataclass
class HeadSums:
    """Over the elements of one head that were compared; a non-finite result counts as zero in the sums."""
    count: int = 0
    nan_count: int = 0        # NaN or infinite
    exact_result: float = 0.0
    exact_exact: float = 0.0
    result_result: float = 0.0
    absolute_error: float = 0.0
    absolute_exact: float = 0.0
    squared_error: float = 0.0
    max_error: float = 0.0

    def add(self, exact, result):
        if not math.isfinite(result):
            self.nan_count += 1
            result = 0.0
        error = abs(exact - result)
        self.count += 1
        self.exact_result += exact * result
        self.exact_exact += exact * exact
        self.result_result += result * result
        self.absolute_error += error
        self.absolute_exact += abs(exact)
        self.squared_error += error * error
        self.max_error = max(self.max_error, error)


def _cosine(sums):
    norm = math.sqrt(sums.exact_exact * sums.result_result)
    return sums.exact_result / norm if norm > 0 else (1.0 if sums.absolute_error == 0 else 0.0)


def _relative_l1(sums):
    if sums.absolute_exact > 0:
        return sums.absolute_error / sums.absolute_exact
    return 0.0 if sums.absolute_error == 0 else sys.float_info.max   # JSON has no infinity


def _total(heads):
    total = HeadSums()
    for head in heads:
        for field in vars(total):
            if field != "max_error":
                setattr(total, field, getattr(total, field) + getattr(head, field))
        total.max_error = max(total.max_error, head.max_error)
    return total


def metrics(heads):
    """Of all heads together, and of the worst by relative L1."""
    total = _total(heads)
    worst = max(range(len(heads)), key=lambda index: _relative_l1(heads[index]))
    return {
        "cosine": _cosine(total),
        "relative_l1": _relative_l1(total),
        "rmse": math.sqrt(total.squared_error / total.count),
        "max_abs": total.max_error,
        "nan_count": total.nan_count,
        "compared": total.count,
        "worst_head": {"head": worst, "cosine": _cosine(heads[worst]),
                       "relative_l1": _relative_l1(heads[worst])},
    }


def suspicions(by_distribution):
    """Sentences about results that cannot be right; empty if all is well."""
    found = []
    for name, figures in by_distribution.items():
        if "failed" in figures:
            found.append(f"{name}: failed: {figures['failed']}")
        elif figures["nan_count"]:
            found.append(f"{name}: {figures['nan_count']} NaN or infinite elements")
        elif name == "normal" and figures["cosine"] < SUSPICIOUS_COSINE:
            found.append(f"{name}: cosine similarity {figures['cosine']:.4f} is below {SUSPICIOUS_COSINE}: "
                         "this is not the attention that was asked for")
    return found


def exact_head(q, k, v, causal):
    """Attention of one head in double precision on lists of rows; for the tiny shapes of dry runs."""
    scale = 1.0 / math.sqrt(len(q[0]))
    rows = []
    for index, query in enumerate(q):
        keys = range(index + 1) if causal else range(len(k))
        scores = [scale * sum(a * b for a, b in zip(query, k[key])) for key in keys]
        top = max(scores)
        weights = [math.exp(score - top) for score in scores]
        total = sum(weights)
        rows.append([sum(weight * v[key][c] for weight, key in zip(weights, keys)) / total
                     for c in range(len(v[0]))])
    return rows
