"""cuDNN's FP8 attention through its graph API, with the Python front end (package nvidia-cudnn-frontend).

E4M3 in and out with one scale per tensor. P is scaled by scale_s around its cast: left at 1, most of E4M3's
range is wasted. The output is half the bytes of a BF16 output; widening it is part of the end-to-end time.
"""
import importlib
import math

from attention.contestant import Call, Contestant, Unsupported

SCALE_S = 256.0
SCALARS = ("descale_q", "descale_k", "descale_v", "descale_s", "scale_s", "scale_o")


class Graph:
    """A built graph for one shape; tensors are bound when it is executed."""

    def __init__(self, cudnn, handle, shape):
        self.cudnn, self.handle = cudnn, handle
        data, scalar = cudnn.data_type.FP8_E4M3, cudnn.data_type.FLOAT
        graph = cudnn.pygraph(io_data_type=data, intermediate_data_type=scalar, compute_data_type=scalar,
                              handle=handle)

        def tensor(name, heads, tokens):
            d = shape.head_dim
            return graph.tensor(name=name, dim=[shape.batch, heads, tokens, d],
                                stride=[heads * tokens * d, tokens * d, d, 1], data_type=data)
        self.q = tensor("q", shape.q_heads, shape.q_len)
        self.k = tensor("k", shape.kv_heads, shape.kv_len)
        self.v = tensor("v", shape.kv_heads, shape.kv_len)
        self.scalars = {name: graph.tensor(name=name, dim=[1] * 4, stride=[1] * 4, data_type=scalar)
                        for name in SCALARS}
        self.o, _, amax_s, self.amax_o = graph.sdpa_fp8(
            q=self.q, k=self.k, v=self.v, **self.scalars, attn_scale=1.0 / math.sqrt(shape.head_dim),
            use_causal_mask=shape.causal, generate_stats=False, name="sdpa_fp8")
        d, heads, tokens = shape.head_dim, shape.q_heads, shape.q_len
        self.o.set_output(True).set_dim([shape.batch, heads, tokens, d]).set_stride(
            [heads * tokens * d, tokens * d, d, 1]).set_data_type(data)
        # Both amax nodes must exist; that of S may stay inside the graph, and newer versions want it so.
        for amax, is_output in ((amax_s, False), (self.amax_o, True)):
            amax.set_output(is_output).set_dim([1] * 4).set_stride([1] * 4).set_data_type(scalar)
        graph.validate()
        graph.build_operation_graph()
        graph.create_execution_plans([cudnn.heur_mode.A])
        graph.check_support()
        graph.build_plans()
        self.graph, self.workspace_bytes = graph, max(1, graph.get_workspace_size())

    def execute(self, tensors, workspace, stream):
        self.cudnn.set_stream(handle=self.handle, stream=stream)
        self.graph.execute(tensors, workspace, handle=self.handle)


class CudnnFp8Call(Call):
    def __init__(self, contestant, graph, casts, shape, inputs):
        import torch
        self._platform, self._graph, self._casts, self._inputs = contestant.platform, graph, casts, inputs
        device = inputs.q.device
        self._o = torch.empty(inputs.q.shape, dtype=torch.float8_e4m3fn, device=device)
        self._workspace = torch.empty(graph.workspace_bytes, dtype=torch.uint8, device=device)

        def scalar(value):
            return torch.full((1, 1, 1, 1), value, dtype=torch.float32, device=device)
        self._values = {name: scalar(1.0) for name in graph.scalars}
        self._values.update(scale_s=scalar(SCALE_S), descale_s=scalar(1.0 / SCALE_S))
        self._amax_o, self._codes, self._result = scalar(0.0), {}, None

    def quantize(self):
        cast = {name: self._casts.cast(getattr(self._inputs, name)) for name in "qkv"}
        self._codes = {name: codes for name, (codes, _) in cast.items()}
        for name, (_, descale) in cast.items():
            self._values[f"descale_{name}"].copy_(descale)
        # No |O| exceeds the largest |V|, so V's scale serves O.
        self._values["scale_o"].copy_(self._values["descale_v"]).reciprocal_()

    def attend(self):
        graph = self._graph
        tensors = {getattr(graph, name): codes for name, codes in self._codes.items()}
        tensors.update({graph.scalars[name]: value for name, value in self._values.items()})
        tensors.update({graph.o: self._o, graph.amax_o: self._amax_o})
        graph.execute(tensors, self._workspace, self._platform.stream())

    def end_to_end(self):
        self.quantize()
        self.attend()
        self._result = self._casts.widen(self._o, self._values["descale_v"].reshape(()))

    def output(self):
        return self._result


class CudnnFp8(Contestant):
    name = "cuDNN FP8"
    precision = "FP8 + FP8"

    def __init__(self, platform, options):
        super().__init__(platform, options)
        self.cudnn, self.handle, self.casts, self.graphs = None, None, None, {}

    def unavailable(self):
        if self.platform.dry:
            return "a dry run has no PyTorch"
        try:
            self.cudnn = importlib.import_module("cudnn")
            self.cudnn.backend_version()
        except Exception as error:   # without the package, or without a libcudnn that it can load
            return f"the Python front end of cuDNN does not load: {error}"
        return None

    def versions(self):
        return {"cudnn": str(self.cudnn.backend_version()), "cudnn_frontend": str(self.cudnn.__version__)}

    def prepare(self, shape, inputs):
        from attention.fp8 import Casts
        if self.handle is None:
            self.handle = self.cudnn.create_handle()
        if self.casts is None:
            self.casts = Casts(inputs.q)
            self.notes = f"{self.casts.how}; scale_s {SCALE_S:g}"
        if shape not in self.graphs:
            try:
                self.graphs[shape] = Graph(self.cudnn, self.handle, shape)
            except self.cudnn.cudnnGraphNotSupportedError as error:
                self.graphs[shape] = Unsupported(f"cuDNN {self.cudnn.backend_version()}: {error}")
        graph = self.graphs[shape]
        if isinstance(graph, Unsupported):
            raise graph
        call = CudnnFp8Call(self, graph, self.casts, shape, inputs)
        call.end_to_end()
        return call
