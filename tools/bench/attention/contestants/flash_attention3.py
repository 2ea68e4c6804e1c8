"""FlashAttention-3 through its PyTorch interface (flash_attn_interface), in BF16 and in FP8.

Give --flash-attention3 DIR if the module is not on Python's path. Layout is [batch, token, head, channel]:
the copy into it is preparation and not timed. FP8 has one scale per batch and key/value head; a scale per
tensor is what a plain cast gives, and it is what cuDNN gets.
"""
import importlib
import sys

from attention.contestant import Call, Contestant, version_of


def _tokens_first(x):
    return x.transpose(1, 2).contiguous()


class Fa3Call(Call):
    def __init__(self, contestant, shape, inputs):
        self._function, self._causal, self._result = contestant.function, shape.causal, None
        self._inputs = [_tokens_first(x) for x in (inputs.q, inputs.k, inputs.v)]

    def _attend(self, q, k, v, **descales):
        result = self._function(q, k, v, causal=self._causal, **descales)
        self._result = result[0] if isinstance(result, tuple) else result   # older ones return the LSE, too

    def attend(self):
        self._attend(*self._inputs)

    def output(self):
        return self._result.transpose(1, 2)


class Fa3Fp8Call(Fa3Call):
    def __init__(self, contestant, shape, inputs):
        super().__init__(contestant, shape, inputs)
        self._casts, self._scales = contestant.casts, (shape.batch, shape.kv_heads)
        self._codes, self._descales = None, None

    def quantize(self):
        cast = [self._casts.cast(x) for x in self._inputs]
        self._codes = [codes for codes, _ in cast]
        self._descales = {f"{name}_descale": descale.reshape(1, 1).expand(self._scales).contiguous()
                          for name, (_, descale) in zip("qkv", cast)}

    def attend(self):
        self._attend(*self._codes, **self._descales)

    def end_to_end(self):
        self.quantize()
        self.attend()


class _Fa3(Contestant):
    call = Fa3Call

    def __init__(self, platform, options):
        super().__init__(platform, options)
        self.module, self.casts = None, None

    @property
    def function(self):
        return self.module.flash_attn_func

    def unavailable(self):
        if self.platform.dry:
            return "a dry run has no PyTorch"
        directory = self.options.get("flash_attention3")
        if directory and directory not in sys.path:
            sys.path.insert(0, directory)
        try:
            self.module = importlib.import_module("flash_attn_interface")
        except Exception as error:
            return f"flash_attn_interface does not load: {error}"
        return None

    def versions(self):
        return {"flash_attn_interface": version_of(self.module)}

    def prepare(self, shape, inputs):
        call = self.call(self, shape, inputs)
        call.whole()()
        return call


class Fa3Bf16(_Fa3):
    name = "FlashAttention-3 BF16"
    precision = "BF16"


class Fa3Fp8(_Fa3):
    name = "FlashAttention-3 FP8"
    precision = "FP8 + FP8"
    call = Fa3Fp8Call

    def prepare(self, shape, inputs):
        from attention.fp8 import Casts
        if self.casts is None:
            self.casts = Casts(inputs.q)
            self.notes = self.casts.how
        return super().prepare(shape, inputs)
