"""A GPU through PyTorch: CUDA events, CUDA graphs, in-kernel clocks. Inputs are torch tensors in BF16."""
import math
import subprocess
import time

import torch

from . import accuracy, capi
from .clock_probe import ClockProbe, megahertz
from .nvml import Nvml
from .platform import Inputs, Platform, Sample, seed_of

FLUSH_BYTES = 256 * 1024 * 1024
LEAD_MICROSECONDS = 300     # the GPU spins while the host enqueues what is timed; longer if the host is slow
MAX_LEAD_MICROSECONDS = 20000
TAIL_MICROSECONDS = 50
CHUNK_MS = 40.0             # of a sustained measurement: one sample and one look at the clock
MAX_CHUNKS = 1024
REFERENCE_ROWS = 512        # query rows per head that are compared with fp64


class TorchPlatform(Platform):
    def __init__(self, index=0):
        if not torch.cuda.is_available():
            raise RuntimeError("PyTorch sees no CUDA device; use --dry to try the harness without one")
        torch.cuda.set_device(index)
        torch.set_grad_enabled(False)
        torch.backends.cuda.matmul.allow_tf32 = False
        self.torch_device = self.device_name(index)
        self.properties = torch.cuda.get_device_properties(index)
        self.flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=self.torch_device)
        self.clocks = torch.zeros(2 * (MAX_CHUNKS + 2), dtype=torch.int64, device=self.torch_device)
        self.notes, self.device, self.lead = [], None, LEAD_MICROSECONDS
        self.probe = self._try("in-kernel clocks", lambda: ClockProbe(self.clocks.data_ptr()))
        self.nvml = self._try("NVML", lambda: Nvml(str(getattr(self.properties, "uuid", "")), index))

    @staticmethod
    def device_name(index):
        return f"cuda:{index}"

    def _try(self, what, make):
        try:
            return make()
        except Exception as error:
            self.notes.append(f"no {what}: {error}")
            return None

    # ---- what it is ----

    def environment(self):
        return {"device": self.properties.name,
                "compute_capability": f"{self.properties.major}.{self.properties.minor}",
                "multiprocessors": self.properties.multi_processor_count, "l2_bytes": self.l2_bytes(),
                "memory_bytes": self.properties.total_memory, "driver": self._driver(),
                "torch": str(torch.__version__), "cuda": str(torch.version.cuda),
                "cudnn": str(torch.backends.cudnn.version()),
                "clock": "in-kernel" if self.probe else "unknown"}

    def _driver(self):
        if self.nvml:
            return self.nvml.driver_version()
        try:
            done = subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
                                  capture_output=True, text=True, check=True, timeout=30)
            return done.stdout.splitlines()[0].strip()
        except (OSError, subprocess.SubprocessError, IndexError):
            return "unknown"

    def l2_bytes(self):
        return getattr(self.properties, "L2_cache_size", 0)

    def now(self):
        return time.monotonic()

    def telemetry(self):
        return self.nvml.telemetry() if self.nvml else {}

    def healthy(self):
        try:
            torch.cuda.synchronize()
            torch.zeros(1, device=self.torch_device).item()
            return True
        except Exception:
            return False

    def release(self):
        torch.cuda.synchronize()
        torch.cuda.empty_cache()

    # ---- times ----

    def _spin(self, slot, microseconds):
        if self.probe:
            self.probe.launch(slot, microseconds, self.stream())
        else:
            torch.cuda._sleep(int(microseconds * 1500))   # about 1.5 GHz; only keeps the GPU busy

    def _megahertz(self, slots):
        if not self.probe:
            return [None] * slots
        pairs = self.clocks[:2 * slots].tolist()
        return [megahertz(pairs[2 * i], pairs[2 * i + 1]) for i in range(slots)]

    def warm(self, function, calls):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for index in range(calls):
            if index == calls - 1:
                start.record()
            function()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end)

    def graph(self, function):
        torch.cuda.synchronize()
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):   # lazy initialization must not happen while capturing
            function()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            function()
        graph.replay()
        torch.cuda.synchronize()
        return graph.replay

    def burst(self, function):
        while True:
            sample, host = self._burst(function)
            if host < self.lead or self.lead >= MAX_LEAD_MICROSECONDS:
                return sample
            self.lead = min(2 * host, MAX_LEAD_MICROSECONDS)   # the GPU was waiting for the host: once more

    def _burst(self, function):
        """(Sample, microseconds that the host took to enqueue it)."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.flush.zero_()
        torch.cuda.synchronize()
        self._spin(0, self.lead)
        begin = time.perf_counter()
        start.record()
        function()
        end.record()
        host = 1e6 * (time.perf_counter() - begin)
        self._spin(1, TAIL_MICROSECONDS)
        torch.cuda.synchronize()
        before, after = self._megahertz(2)
        return Sample(start.elapsed_time(end), before, after), host

    def sustained(self, functions, seconds, estimate_ms):
        per_chunk = max(len(functions), math.ceil(CHUNK_MS / max(estimate_ms, 1e-3)))
        chunks = max(3, math.ceil(1e3 * seconds / (per_chunk * max(estimate_ms, 1e-3))))
        chunks = min(chunks, MAX_CHUNKS)
        events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
                  for _ in range(chunks)]
        torch.cuda.synchronize()
        for chunk, (start, end) in enumerate(events):
            self._spin(chunk, TAIL_MICROSECONDS)   # beside CHUNK_MS of work this is no rest
            start.record()
            for call in range(per_chunk):
                functions[call % len(functions)]()
            end.record()
        self._spin(chunks, TAIL_MICROSECONDS)
        torch.cuda.synchronize()
        clocks = self._megahertz(chunks + 1)
        return [Sample(start.elapsed_time(end) / per_chunk, clocks[i], clocks[i + 1])
                for i, (start, end) in enumerate(events)]

    # ---- data ----

    def make_inputs(self, shape, distribution, seed):
        generator = torch.Generator(device=self.torch_device)
        generator.manual_seed(seed_of(seed, distribution))

        def random(*size):
            return torch.randn(size, generator=generator, device=self.torch_device, dtype=torch.float32)

        def uniform(*size):
            return torch.rand(size, generator=generator, device=self.torch_device, dtype=torch.float32)

        def tensor(heads, tokens, bias=None):
            size = (shape.batch, heads, tokens, shape.head_dim)
            x = random(*size)
            if distribution == "outlier":
                hit = uniform(*size) < accuracy.OUTLIER_PROBABILITY
                x += torch.where(hit, accuracy.OUTLIER_DEVIATION * random(*size), 0.0)
            if bias is not None:
                x += bias
            return x.to(torch.bfloat16)

        bias = None
        if distribution == "k_bias":
            low, high = accuracy.K_BIAS
            size = (shape.batch, shape.kv_heads, 1, shape.head_dim)
            bias = (low + (high - low) * uniform(*size)) * torch.sign(uniform(*size) - 0.5)
        return Inputs(tensor(shape.q_heads, shape.q_len), tensor(shape.kv_heads, shape.kv_len, bias),
                      tensor(shape.kv_heads, shape.kv_len))

    def head_sums(self, inputs, output, shape):
        rows = min(REFERENCE_ROWS, shape.q_len)
        index = torch.linspace(0, shape.q_len - 1, rows, device=self.torch_device,
                               dtype=torch.float64).round().long()
        result = []
        for batch in range(shape.batch):
            for head in range(shape.q_heads):
                kv_head = head * shape.kv_heads // shape.q_heads
                exact = self._exact(inputs.q[batch, head, index], inputs.k[batch, kv_head],
                                    inputs.v[batch, kv_head], index if shape.causal else None)
                everything = output[batch, head].double()
                sums = _sums(exact, everything[index])
                sums.nan_count = int((~torch.isfinite(everything)).sum().item())
                result.append(sums)
        return result

    @staticmethod
    def _exact(q, k, v, positions):
        scores = q.double() @ k.double().T / math.sqrt(q.shape[-1])
        if positions is not None:
            keys = torch.arange(k.shape[0], device=k.device)
            scores.masked_fill_(keys[None, :] > positions[:, None], -math.inf)
        return torch.softmax(scores, dim=-1) @ v.double()

    # ---- addresses ----

    def sagegen_device(self, library):
        if self.device is None:
            self.device = capi.Device(library, self.torch_device)
        return self.device

    def address(self, tensor):
        return tensor.data_ptr()

    def empty_output(self, shape):
        return torch.full((shape.batch, shape.q_heads, shape.q_len, shape.head_dim), math.nan,
                          dtype=torch.bfloat16, device=self.torch_device)

    def scratch(self, size):
        owner = torch.empty(size + 256, dtype=torch.uint8, device=self.torch_device)
        return owner, -(-owner.data_ptr() // 256) * 256

    def stream(self):
        return torch.cuda.current_stream().cuda_stream


def _sums(exact, result):
    finite = torch.where(torch.isfinite(result), result, torch.zeros_like(result))
    error = (exact - finite).abs()
    figures = torch.stack([(exact * finite).sum(), (exact * exact).sum(), (finite * finite).sum(),
                           error.sum(), exact.abs().sum(), (error * error).sum(), error.max()]).tolist()
    return accuracy.HeadSums(exact.numel(), 0, *figures)
