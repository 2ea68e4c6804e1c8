"""Order statistics of samples, and which rounds of an interleaved measurement count."""
import math


def percentile(values, percent):
    """Linear interpolation between the closest ranks, as numpy.percentile does by default."""
    if not values:
        raise ValueError("percentile of no values")
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100.0
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def clock_moved(clocks, tolerance):
    """True if the clocks (MHz, None where unknown) differ by more than this part of the highest."""
    known = [clock for clock in clocks if clock]
    return bool(known) and max(known) - min(known) > tolerance * max(known)


def steady_rounds(rounds, tolerance):
    """Indices of the rounds (lists of Samples, in the same order of contestants) in which no contestant left
    the SM clock further from where it usually leaves it. Contestants draw different power, and the clock
    before a sample is that of a rest: neither is compared with the other."""
    if not rounds:
        return []
    usual = []
    for of_one in zip(*rounds):
        known = [sample.clock_after for sample in of_one if sample.clock_after]
        usual.append(percentile(known, 50) if known else None)
    return [index for index, samples in enumerate(rounds)
            if not any(clock and sample.clock_after and abs(sample.clock_after - clock) > tolerance * clock
                       for sample, clock in zip(samples, usual))]


def summary(samples, *, discarded=0, clock_unstable=False, flop=None):
    """What the results keep of the samples of one contestant, phase and regime."""
    times = [sample.ms for sample in samples]
    clocks = [clock for sample in samples for clock in (sample.clock_before, sample.clock_after) if clock]
    result = {"median_ms": percentile(times, 50), "p10_ms": percentile(times, 10),
              "p90_ms": percentile(times, 90), "samples": len(times), "discarded": discarded,
              "clock_unstable": clock_unstable, "clock_mhz": None}
    if clocks:
        result["clock_mhz"] = {"median": percentile(clocks, 50), "min": min(clocks), "max": max(clocks)}
    if flop is not None:
        result["tflops"] = flop / (result["median_ms"] * 1e9)
    return result
