"""Contestants for the tests of the benchmark and for dry runs: their durations are what they say, their
outputs right or wrong in a known way. None of them is a kernel.
"""
from attention.contestant import Call, Contestant, Unsupported
from attention.platform import DryTensor


class FakeCall(Call):
    def __init__(self, contestant, shape, inputs):
        self.contestant, self.shape, self.inputs = contestant, shape, inputs
        if contestant.quantize_ms:
            self.quantize, self.end_to_end = self._quantize, self._end_to_end

    def _quantize(self):
        self.contestant.platform.spend(self.contestant.quantize_ms)

    def attend(self):
        self.contestant.calls += 1
        self.contestant.platform.spend(self.contestant.kernel_ms(self.contestant.calls))

    def _end_to_end(self):
        self.quantize()
        self.attend()

    def output(self):
        rows = [value for batch in range(self.shape.batch) for head in range(self.shape.q_heads)
                for row in self.contestant.head(self.shape, self.inputs, batch, head) for value in row]
        return DryTensor((self.shape.batch, self.shape.q_heads, self.shape.q_len, self.shape.head_dim), rows)


class _Fake(Contestant):
    precision = "none"
    quantize_ms = 0.0

    def __init__(self, platform, options):
        super().__init__(platform, options)
        self.calls = 0

    def kernel_ms(self, call):
        raise NotImplementedError

    def head(self, shape, inputs, batch, head):
        return self.platform.exact_heads(inputs, shape)[batch * shape.q_heads + head]

    def prepare(self, shape, inputs):
        return FakeCall(self, shape, inputs)


class Fast(_Fake):
    """Takes 1.00, 1.01 ... 1.09 ms in turns, and 0.25 ms to quantize."""
    name = "fake fast"
    quantize_ms = 0.25

    def kernel_ms(self, call):
        return 1.0 + 0.01 * (call % 10)


class Slow(_Fake):
    name = "fake slow"

    def kernel_ms(self, call):
        return 5.0


class Breaks(_Fake):
    """Works for 30 calls and fails then: in the middle of a burst measurement."""
    name = "fake that breaks"

    def kernel_ms(self, call):
        if call > 30:
            raise RuntimeError("the 31st call of this fake fails")
        return 2.0


class Nan(_Fake):
    """One head of its output is NaN."""
    name = "fake with NaN"

    def kernel_ms(self, call):
        return 3.0

    def head(self, shape, inputs, batch, head):
        rows = super().head(shape, inputs, batch, head)
        return [[float("nan")] * len(row) for row in rows] if head == 0 else rows


class Wrong(_Fake):
    """Forgets the values: its output is a mean of the queries."""
    name = "fake with wrong output"

    def kernel_ms(self, call):
        return 4.0

    def head(self, shape, inputs, batch, head):
        return inputs.q.head(batch, head)


class Choosy(_Fake):
    """Refuses causal shapes beforehand, and GQA only when it sees the inputs."""
    name = "fake that refuses"

    def supports(self, shape):
        return "causal masks are beyond this fake" if shape.causal else None

    def kernel_ms(self, call):
        return 2.5

    def prepare(self, shape, inputs):
        if shape.q_heads != shape.kv_heads:
            raise Unsupported("GQA is beyond this fake")
        return super().prepare(shape, inputs)


class Absent(_Fake):
    name = "fake that is absent"

    def unavailable(self):
        return "this fake is never there"
