"""Where contestants run: what the protocol and the contestants may ask of a machine, and a dry one.

The dry platform has no GPU, no PyTorch and no clock: durations are made up from a seed, so that the whole
harness runs and is tested everywhere. What it writes is marked "dry" and is no measurement. sagegen's own
kernels do run there, on the emulator.
"""
import array
import hashlib
import random
import struct
from dataclasses import dataclass

from . import accuracy, capi


@dataclass(frozen=True)
class Sample:
    """One timed call, or the mean of several back to back."""
    ms: float
    clock_before: float = None   # SM clock in MHz, None if unknown
    clock_after: float = None


@dataclass(frozen=True)
class Inputs:
    q: object
    k: object
    v: object


def seed_of(*parts):
    """The same on every machine and in every process, unlike hash()."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6], "little")


class Platform:
    """Tensors are [batch, head, token, channel] in BF16; their type is the platform's own."""
    dry = False

    def environment(self):
        """Device, driver and versions: results of another environment do not count as these."""
        raise NotImplementedError

    def l2_bytes(self):
        raise NotImplementedError

    def now(self):
        """Seconds, for budgets."""
        raise NotImplementedError

    def make_inputs(self, shape, distribution, seed):
        raise NotImplementedError

    def warm(self, function, calls):
        """Calls that nobody times, one after the other; returns a rough time of the last one in ms."""
        raise NotImplementedError

    def graph(self, function):
        """The function's work as one CUDA graph launch. Raises if it cannot be captured."""
        raise NotImplementedError

    def burst(self, function):
        """One Sample: L2 flushed, device idle, then one call."""
        raise NotImplementedError

    def sustained(self, functions, seconds, estimate_ms):
        """Samples of calls back to back for so many seconds, rotating among the functions."""
        raise NotImplementedError

    def telemetry(self):
        """Clocks, power and temperature now, as the driver tells them; {} if it does not."""
        return {}

    def head_sums(self, inputs, output, shape):
        """accuracy.HeadSums per head of an output, against fp64 on (a subsample of) its rows."""
        raise NotImplementedError

    def healthy(self):
        """False if the device is lost to this process, as after an illegal address."""
        return True

    def release(self):
        """Gives back memory that nobody uses."""

    # ---- for contestants that work on addresses ----

    def sagegen_device(self, library):
        raise NotImplementedError

    def address(self, tensor):
        raise NotImplementedError

    def empty_output(self, shape):
        raise NotImplementedError

    def scratch(self, size):
        """(owner, address) of device memory that lives as long as the owner."""
        raise NotImplementedError

    def stream(self):
        return 0


def round_to_bf16(value):
    bits = struct.unpack("<I", struct.pack("<f", value))[0]
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return struct.unpack("<f", struct.pack("<I", bits))[0]


class DryTensor:
    def __init__(self, heads_shape, values):
        self.batch, self.heads, self.tokens, self.channels = heads_shape
        self.values = array.array("f", values)
        self.address = None   # on the emulated device, once somebody asks

    def head(self, batch, head):
        start = (batch * self.heads + head) * self.tokens * self.channels
        return [self.values[start + row * self.channels:start + (row + 1) * self.channels]
                for row in range(self.tokens)]

    def bf16_bytes(self):
        return b"".join(struct.pack("<f", value)[2:] for value in self.values)

    def read_bf16(self, data):
        self.values = array.array("f", (struct.unpack("<f", b"\0\0" + data[i:i + 2])[0]
                                        for i in range(0, len(data), 2)))


class DryPlatform(Platform):
    dry = True

    def __init__(self, profile="sm_89", seed=0):
        self.profile, self.seed = profile, seed
        self.elapsed_ms = 0.0
        self.pending_ms = None     # what the running call has spent
        self.counter = 0
        self.device, self.exact = None, None

    def environment(self):
        return {"device": f"dry run, emulator:{self.profile}", "driver": "none", "compute_capability": "none",
                "torch": "none", "cuda": "none", "cudnn": "none"}

    def l2_bytes(self):
        return 0

    def now(self):
        return self.elapsed_ms / 1e3

    def spend(self, ms):
        """A fake contestant says how long its call takes."""
        self.pending_ms = (self.pending_ms or 0.0) + ms

    def clock(self):
        return 1000.0

    def _time(self, function):
        self.pending_ms = None
        function()
        self.counter += 1
        made_up = random.Random(seed_of(self.seed, self.counter)).uniform(0.9, 1.1)
        ms = made_up if self.pending_ms is None else self.pending_ms
        self.elapsed_ms += ms
        return ms

    def warm(self, function, calls):
        return [self._time(function) for _ in range(calls)][-1]

    def graph(self, function):
        return function

    def burst(self, function):
        before = self.clock()
        ms = self._time(function)
        return Sample(ms, before, self.clock())

    def sustained(self, functions, seconds, estimate_ms):
        end, samples = self.elapsed_ms + 1e3 * seconds, []
        while self.elapsed_ms < end:
            samples.append(self.burst(functions[len(samples) % len(functions)]))
        return samples

    def make_inputs(self, shape, distribution, seed):
        rng = random.Random(seed_of(seed, distribution, shape.name))
        bias = [rng.choice((-1, 1)) * rng.uniform(*accuracy.K_BIAS)
                for _ in range(shape.batch * shape.kv_heads * shape.head_dim)]

        def value(channel=None):
            x = rng.gauss(0, 1)
            if distribution == "outlier" and rng.random() < accuracy.OUTLIER_PROBABILITY:
                x += rng.gauss(0, accuracy.OUTLIER_DEVIATION)
            if distribution == "k_bias" and channel is not None:
                x += bias[channel]
            return round_to_bf16(x)

        def tensor(heads, tokens, biased=False):
            return DryTensor((shape.batch, heads, tokens, shape.head_dim),
                             [value((b * heads + h) * shape.head_dim + c if biased else None)
                              for b in range(shape.batch) for h in range(heads)
                              for _ in range(tokens) for c in range(shape.head_dim)])
        return Inputs(tensor(shape.q_heads, shape.q_len), tensor(shape.kv_heads, shape.kv_len, True),
                      tensor(shape.kv_heads, shape.kv_len))

    def exact_heads(self, inputs, shape):
        """Exact attention, rows per [batch * q_heads + head]; computed once for all contestants."""
        if self.exact is None or self.exact[0] is not inputs:
            kv_head = [head * shape.kv_heads // shape.q_heads for head in range(shape.q_heads)]
            self.exact = inputs, [
                accuracy.exact_head(inputs.q.head(batch, head), inputs.k.head(batch, kv_head[head]),
                                    inputs.v.head(batch, kv_head[head]), shape.causal)
                for batch in range(shape.batch) for head in range(shape.q_heads)]
        return self.exact[1]

    def head_sums(self, inputs, output, shape):
        result = []
        for index, exact in enumerate(self.exact_heads(inputs, shape)):
            sums = accuracy.HeadSums()
            for exact_row, row in zip(exact, output.head(*divmod(index, shape.q_heads))):
                for a, b in zip(exact_row, row):
                    sums.add(a, b)
            result.append(sums)
        return result

    def sagegen_device(self, library):
        if self.device is None:
            self.device = capi.Device(library, f"emulator:{self.profile}")
        return self.device

    def address(self, tensor):
        if tensor.address is None:
            data = tensor.bf16_bytes()
            tensor.address = self.device.allocate(len(data))
            self.device.upload(tensor.address, data)
        return tensor.address

    def empty_output(self, shape):
        count = shape.batch * shape.q_heads * shape.q_len * shape.head_dim
        return DryTensor((shape.batch, shape.q_heads, shape.q_len, shape.head_dim), [float("nan")] * count)

    def scratch(self, size):
        address = self.device.allocate(size)
        return address, address

    def read_back(self, tensor):
        tensor.read_bf16(self.device.download(tensor.address, 2 * len(tensor.values)))
        return tensor

    def release(self):
        if self.device is not None:
            for address in list(self.device.allocations):
                self.device.free(address)
