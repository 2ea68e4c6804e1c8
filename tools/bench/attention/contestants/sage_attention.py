"""SageAttention (package sageattention): its whole call, and its Hopper kernel alone on its own codes.

The kernel is fed with what its own quantizers make of the inputs; random codes with random scales would give
a one-hot softmax and a power draw that no use has.
"""
import importlib
import math
import sys

from attention.contestant import Call, Contestant, version_of

KERNEL = "qk_int8_sv_f8_accum_f32_fuse_v_scale_attn_inst_buf"
HND, PER_THREAD, NO_LSE = 1, 3, 0
BLOCK_Q, WARP_Q, BLOCK_K = 64, 16, 128


class SageCall(Call):
    def __init__(self, contestant, shape, inputs):
        self._whole, self._inputs, self._causal = contestant.module.sageattn, inputs, shape.causal
        self._result = None

    def end_to_end(self):
        self._result = self._whole(self._inputs.q, self._inputs.k, self._inputs.v, tensor_layout="HND",
                                   is_causal=self._causal)

    def output(self):
        return self._result


class SageKernelCall(SageCall):
    """The same, with the parts of the call on sm_90 apart."""

    def __init__(self, contestant, shape, inputs):
        super().__init__(contestant, shape, inputs)
        import torch
        self._kernel, self._per_thread, self._per_channel = contestant.parts
        self._scale = 1.0 / math.sqrt(shape.head_dim)
        self._pad = -shape.kv_len % BLOCK_K
        self._torch, self._codes = torch, None
        self._o = torch.empty_like(inputs.q)
        self.quantize()

    def quantize(self):
        q, k, v = self._inputs.q, self._inputs.k, self._inputs.v
        if self._pad:
            v = self._torch.nn.functional.pad(v, (0, 0, 0, self._pad))
        codes = self._per_thread(q, k, k.mean(dim=2, keepdim=True), tensor_layout="HND", BLKQ=BLOCK_Q,
                                 WARPQ=WARP_Q, BLKK=BLOCK_K, WARPK=BLOCK_K)
        v_codes, v_scale, _ = self._per_channel(v, tensor_layout="HND", smooth_v=False)
        self._codes = (*codes, v_codes, v_scale)

    def attend(self):
        q, q_scale, k, k_scale, v, v_scale = self._codes
        self._kernel(q, k, v, self._o, q_scale, k_scale, v_scale, HND, int(self._causal), PER_THREAD,
                     self._scale, NO_LSE)
        self._result = self._o


class SageAttention(Contestant):
    name = "SageAttention2"
    precision = "INT8 + FP8"

    def __init__(self, platform, options):
        super().__init__(platform, options)
        self.module, self.parts = None, None

    def unavailable(self):
        if self.platform.dry:
            return "a dry run has no PyTorch"
        directory = self.options.get("sage_attention")
        if directory and directory not in sys.path:
            sys.path.insert(0, directory)
        try:
            self.module = importlib.import_module("sageattention")
        except Exception as error:
            return f"sageattention does not load: {error}"
        try:
            self.parts = (
                getattr(importlib.import_module("sageattention._qattn_sm90"), KERNEL),
                importlib.import_module("sageattention.triton.quant_per_thread").per_thread_int8,
                importlib.import_module("sageattention.quant").per_channel_fp8)
        except Exception as error:
            self.notes = f"its kernel alone cannot be called: {error}"
        return None

    def versions(self):
        return {"sageattention": version_of(self.module)}

    def supports(self, shape):
        if shape.head_dim > 128:
            return f"head_dim {shape.head_dim}: it has none above 128"
        return None

    def prepare(self, shape, inputs):
        hopper = self.platform.environment()["compute_capability"] == "9.0"
        alone = self.parts and hopper and shape.head_dim in (64, 128)
        call = (SageKernelCall if alone else SageCall)(self, shape, inputs)
        call.end_to_end()
        return call
