"""How a shape is measured: who runs when, how often, and which samples count.

Burst: the L2 is flushed and the device idle before each call; contestants take turns, A B C A B C, so that a
drift of the machine meets all of them; a round in which the SM clock moved is discarded for all of them.
Sustained: one contestant at a time, back to back for at least two seconds over several sets of inputs that
together exceed the L2 twice. A contestant that fails is dropped from the shape with its reason; the others go
on.
"""
import datetime
from dataclasses import asdict, dataclass

from . import accuracy, stats
from .contestant import PHASES, Unsupported
from .platform import seed_of
from .watch import unwatched


@dataclass(frozen=True)
class Protocol:
    warmups: int = 20
    samples: int = 100              # rounds of a burst measurement
    min_samples: int = 20           # what burst_seconds may cut them down to
    burst_seconds: float = 2.0      # of device time per contestant and phase
    sustained_seconds: float = 2.0
    sustained_phases: tuple = ("kernel", "end_to_end")
    input_sets: int = 3
    clock_tolerance: float = 0.03
    graph_up_to: int = 2048         # query lengths up to which calls are CUDA graph launches

    def __post_init__(self):
        if self.warmups < 1 or self.min_samples < 2 or self.samples < self.min_samples:
            raise ValueError(f"protocol: {self.warmups} warm-ups, {self.samples} samples, at least "
                             f"{self.min_samples}: there must be a warm-up, and 2 <= minimum <= samples")
        if self.input_sets < 1 or self.burst_seconds <= 0 or self.sustained_seconds < 0:
            raise ValueError("protocol: input sets and burst seconds must be positive, and sustained seconds "
                             "not negative")
        unknown = set(self.sustained_phases) - set(PHASES)
        if unknown:
            raise ValueError(f"protocol: there is no phase {', '.join(sorted(unknown))}; the phases are "
                             f"{', '.join(PHASES)}")

    def as_dict(self):
        return {key: list(value) if isinstance(value, tuple) else value
                for key, value in asdict(self).items()}


# Where a budget is given, the whole grid is to fit into two runs of nine minutes.
BUDGETED = Protocol(burst_seconds=1.0, sustained_phases=("kernel",))
DRY = Protocol(warmups=1, samples=3, min_samples=2, burst_seconds=60, sustained_seconds=0.002, input_sets=2)


class DeviceLost(Exception):
    """The device does not answer any more: only another process can go on. `records` says who was at work;
    the others were not finished."""
    MARK = "lost the device: "   # their reasons begin so
    records = ()


def today():
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


class Entry:
    """One contestant at one shape: its calls, and the record that becomes of it."""

    def __init__(self, contestant, shape):
        self.contestant, self.calls, self.failed = contestant, [], False
        self.functions = {}     # phase -> one function per set of inputs
        self.captured = []      # what the graphs read: their memory must not be given to others
        self.estimate_ms = {}
        self.record = {"shape": shape.as_dict(), "contestant": contestant.name,
                       "precision": contestant.precision, "notes": contestant.notes,
                       "versions": contestant.versions(), "status": "measured", "reason": None,
                       "graph": False, "end_to_end_is_kernel": False, "times": {}, "accuracy": None,
                       "suspicions": [], "telemetry": {}, "date": None}

    def if_lost(self):
        """The record of this contestant if its process ends during its work."""
        reason = f"{DeviceLost.MARK}it hung, or its process ended during its work"
        return {**self.record, "status": "failed", "reason": reason, "times": {}, "accuracy": None,
                "date": today()}

    def note(self, text):
        self.record["notes"] = "; ".join(filter(None, (self.record["notes"], text)))

    def stop(self, status, reason):
        self.record.update(status=status, reason=reason, times={}, accuracy=None)
        self.failed, self.functions = True, {}

    def close(self):
        for call in self.calls:
            call.close()
        self.calls, self.functions, self.captured = [], {}, []


class Measurement:
    """Of one shape: run() gives its records, or raises DeviceLost."""

    def __init__(self, platform, protocol, shape, contestants, watch=unwatched):
        self.platform, self.protocol, self.shape, self.watch = platform, protocol, shape, watch
        self.entries = [Entry(contestant, shape) for contestant in contestants]
        self.order = []   # (phase, contestant) of every burst sample; tests look at it

    def run(self):
        try:
            self._prepare()
            for phase in PHASES:
                self._burst(phase)
            for phase in self.protocol.sustained_phases:
                self._sustained(phase)
            for entry in self.entries:
                entry.close()
            self.platform.release()
            if self.shape.data == "normal":   # other data are timed only: accuracy has its own distributions
                self._accuracy()
        except DeviceLost as lost:
            lost.records = self._dated(entry for entry in self.entries if entry.record["status"] == "failed")
            raise
        return self._dated(self.entries)

    @staticmethod
    def _dated(entries):
        records = [entry.record for entry in entries]
        for record in records:
            record["date"] = today()
        return records

    def _guard(self, entry, work):
        """Runs work(); a failure stops the entry. Returns True if it succeeded."""
        with self.watch(entry.if_lost(), entry.contestant.patience_s):
            return self._guarded(entry, work)

    def _guarded(self, entry, work):
        try:
            work()
            return True
        except Unsupported as reason:
            entry.stop("unsupported", str(reason))
        except Exception as error:   # whatever a peer throws
            entry.stop("failed", f"{type(error).__name__}: {error}")
            if not self.platform.healthy():
                entry.record["reason"] = DeviceLost.MARK + entry.record["reason"]
                raise DeviceLost(f"{entry.contestant.name} on {self.shape.name}: {error}") from error
        entry.close()   # its memory is for the others
        return False

    def _active(self, phase):
        return [entry for entry in self.entries if phase in entry.functions]

    # ---- preparation -------------------------------------------------------------------------------------

    def _input_sets(self):
        shape, count = self.shape, self.protocol.input_sets
        while count * shape.input_bytes <= 2 * self.platform.l2_bytes():
            count += 1
        return [self.platform.make_inputs(shape, shape.data, seed_of(shape.name, index))
                for index in range(count)]

    def _make(self, inputs, on_failure):
        """inputs(), or None after on_failure(reason) for each contestant that is still there."""
        try:
            return inputs()
        except Exception as error:   # out of memory, most likely
            reason = f"inputs of {self.shape.name}: {type(error).__name__}: {error}"
            for entry in self.entries:
                if not entry.failed:
                    on_failure(entry, reason)
            if not self.platform.healthy():
                raise DeviceLost(reason) from error
            return None

    def _prepare(self):
        for entry in self.entries:
            reason = entry.contestant.supports(self.shape)
            if reason:
                entry.stop("unsupported", reason)
        if all(entry.failed for entry in self.entries):
            return
        sets = self._make(self._input_sets, lambda entry, reason: entry.stop("failed", reason))
        if sets is None:
            return
        for entry in self.entries:
            if not entry.failed:
                self._guard(entry, lambda entry=entry: self._prepare_entry(entry, sets))

    def _prepare_entry(self, entry, sets):
        for inputs in sets:
            entry.calls.append(entry.contestant.prepare(self.shape, inputs))
        entry.record["end_to_end_is_kernel"] = entry.calls[0].end_to_end is None
        functions = {phase: [call.phases()[phase] for call in entry.calls]
                     for phase in entry.calls[0].phases()}
        for phase, calls in functions.items():
            for index in range(self.protocol.warmups):
                self.platform.warm(calls[index % len(calls)], 1)
            if self.shape.q_len <= self.protocol.graph_up_to:
                calls = functions[phase] = self._captured(entry, calls)
            entry.estimate_ms[phase] = self.platform.warm(calls[0], 2)
        entry.functions = functions

    def _captured(self, entry, calls):
        """The functions as CUDA graphs, or as they are if they cannot be captured."""
        try:
            graphs = []
            for call, function in zip(entry.calls, calls):
                graphs.append(self.platform.graph(function))
                entry.captured.append(dict(vars(call)))   # a later phase may replace these tensors
            entry.record["graph"] = True
            return graphs
        except Exception as error:
            entry.note(f"not a CUDA graph: {type(error).__name__}: {error}".splitlines()[0])
            if not self.platform.healthy():
                raise
            return calls

    # ---- times -------------------------------------------------------------------------------------------

    def _rounds(self, active, phase):
        budget_ms = 1e3 * self.protocol.burst_seconds * len(active)
        one = sum(entry.estimate_ms[phase] for entry in active)
        affordable = int(budget_ms / one) if one > 0 else self.protocol.samples
        return max(self.protocol.min_samples, min(self.protocol.samples, affordable))

    def _burst(self, phase):
        active = self._active(phase)
        if not active:
            return
        rounds = []
        for index in range(self._rounds(active, phase)):
            samples = {}
            for entry in list(active):
                functions = entry.functions[phase]
                one = functions[index % len(functions)]
                self.order.append((phase, entry.contestant.name))
                if not self._guard(entry, lambda e=entry, f=one: samples.update({e: self.platform.burst(f)})):
                    active.remove(entry)
            rounds.append(samples)
        rounds = [{entry: samples[entry] for entry in active} for samples in rounds]
        steady = stats.steady_rounds([list(samples.values()) for samples in rounds],
                                     self.protocol.clock_tolerance)
        # With hardly any steady round there is no median to speak of: keep all, and say so.
        unstable = len(steady) < self.protocol.min_samples / 2
        kept = rounds if unstable else [rounds[index] for index in steady]
        for entry in active:
            entry.record["times"].setdefault(phase, {})["burst"] = stats.summary(
                [samples[entry] for samples in kept], discarded=len(rounds) - len(kept),
                clock_unstable=unstable, flop=self._flop(phase))

    def _sustained(self, phase):
        if self.protocol.sustained_seconds == 0:
            return
        for entry in self._active(phase):
            self._guard(entry, lambda entry=entry: self._sustained_entry(entry, phase))

    def _sustained_entry(self, entry, phase):
        samples = self.platform.sustained(entry.functions[phase], self.protocol.sustained_seconds,
                                          entry.estimate_ms[phase])
        moved = stats.clock_moved([sample.clock_after for sample in samples], self.protocol.clock_tolerance)
        entry.record["times"].setdefault(phase, {})["sustained"] = stats.summary(
            samples, clock_unstable=moved, flop=self._flop(phase))
        entry.record["telemetry"] = self.platform.telemetry()

    def _flop(self, phase):
        return None if phase == "quantization" else self.shape.flop

    # ---- accuracy ----------------------------------------------------------------------------------------

    def _accuracy(self):
        active = [entry for entry in self.entries if not entry.failed]
        shape = self.shape.for_accuracy()
        for distribution in accuracy.DISTRIBUTIONS if active else ():
            inputs = self._make(
                lambda: self.platform.make_inputs(shape, distribution, seed_of(shape.name, "accuracy")),
                lambda entry, reason: entry.note(f"no accuracy: {reason}"))
            if inputs is None:
                return
            for entry in active:
                with self.watch(entry.if_lost(), entry.contestant.patience_s):
                    figures = self._accuracy_of(entry.contestant, shape, inputs)
                if entry.record["accuracy"] is None:
                    entry.record["accuracy"] = {}
                entry.record["accuracy"][distribution] = figures
            self.platform.release()
        for entry in active:
            entry.record["suspicions"] = accuracy.suspicions(entry.record["accuracy"])

    def _accuracy_of(self, contestant, shape, inputs):
        call = None
        try:
            call = contestant.prepare(shape, inputs)
            call.whole()()
            return accuracy.metrics(self.platform.head_sums(inputs, call.output(), shape))
        except Exception as error:
            if not self.platform.healthy():
                self._entry_of(contestant).stop("failed", f"{DeviceLost.MARK}{type(error).__name__}: {error}")
                raise DeviceLost(f"accuracy of {contestant.name} on {shape.name}: {error}") from error
            return {"failed": f"{type(error).__name__}: {error}"}
        finally:
            if call is not None:
                call.close()

    def _entry_of(self, contestant):
        return next(entry for entry in self.entries if entry.contestant is contestant)
