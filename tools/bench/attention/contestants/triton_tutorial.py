"""The attention kernel of Triton's tutorial 06, from a file given with --triton-tutorial PATH.

Its types are FP16 and, as FP8, E5M2 with V stored column by column; its output has the type of its inputs.
The casts from BF16 are what quantization is here. It wants lengths that are multiples of 128.
"""
import importlib.util
import inspect
import math
import os

from attention.contestant import Call, Contestant

MULTIPLE = 128
_modules = {}   # a second import would tune the kernel again


def _load(path):
    if path not in _modules:
        spec = importlib.util.spec_from_file_location("triton_tutorial_06", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        _modules[path] = module
    return _modules[path]


class TritonCall(Call):
    def __init__(self, contestant, shape, inputs):
        import torch
        self._torch, self._inputs, self._dtype = torch, inputs, contestant.dtype()
        self._function, self._causal = contestant.module.attention, shape.causal
        self._scale, self._codes, self._result, self._wide = 1 / math.sqrt(shape.head_dim), None, None, None
        # Later versions take warp_specialize, which helps on Blackwell only.
        parameters = inspect.signature(contestant.module._attention.forward).parameters
        self._rest = (False,) if len(parameters) > 6 else ()

    def quantize(self):
        q, k, v = self._inputs.q, self._inputs.k, self._inputs.v
        if self._dtype != self._torch.float16:
            v = v.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)
        self._codes = [x.to(self._dtype) for x in (q, k, v)]

    def attend(self):
        self._result = self._function(*self._codes, self._causal, self._scale, *self._rest)

    def end_to_end(self):
        self.quantize()
        self.attend()
        self._wide = self._result.to(self._torch.bfloat16)

    def output(self):
        return self._result


class _Triton(Contestant):
    dtype_name = ""
    patience_s = 480.0   # its first call tries all its configurations

    def __init__(self, platform, options):
        super().__init__(platform, options)
        self.module = None

    def dtype(self):
        import torch
        return getattr(torch, self.dtype_name)

    def unavailable(self):
        if self.platform.dry:
            return "a dry run has no PyTorch"
        path = self.options.get("triton_tutorial")
        if not path:
            return "no --triton-tutorial PATH was given"
        if not os.path.isfile(path):
            return f"--triton-tutorial {path}: there is no such file"
        try:
            self.module = _load(path)
        except Exception as error:
            return f"{path} does not load: {type(error).__name__}: {error}"
        return None

    def versions(self):
        import triton
        return {"triton": triton.__version__}

    def supports(self, shape):
        if shape.q_heads != shape.kv_heads:
            return "it has no GQA"
        if shape.q_len != shape.kv_len or shape.q_len % MULTIPLE:
            return f"lengths {shape.q_len} and {shape.kv_len}: it wants equal multiples of {MULTIPLE}"
        return None

    def prepare(self, shape, inputs):
        call = TritonCall(self, shape, inputs)
        call.end_to_end()
        return call


class TritonFp16(_Triton):
    name = "Triton tutorial FP16"
    precision = "FP16"
    dtype_name = "float16"


class TritonFp8(_Triton):
    name = "Triton tutorial E5M2"
    precision = "FP8 + FP8"
    dtype_name = "float8_e5m2"
    notes = "E5M2 without scales; casts in eager PyTorch"
