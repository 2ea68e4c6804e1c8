"""PyTorch's scaled_dot_product_attention in BF16, one contestant per backend. Nothing is quantized."""
from attention.contestant import Call, Contestant, Unsupported


class SdpaCall(Call):
    def __init__(self, contestant, shape, inputs):
        import torch
        from torch.nn.attention import sdpa_kernel
        self._sdpa, self._kernel = torch.nn.functional.scaled_dot_product_attention, sdpa_kernel
        self._backend, self._inputs, self._result = contestant.backend(), inputs, None
        self._options = {"is_causal": shape.causal}
        if shape.q_heads != shape.kv_heads:
            self._options["enable_gqa"] = True

    def attend(self):
        with self._kernel(self._backend):
            self._result = self._sdpa(self._inputs.q, self._inputs.k, self._inputs.v, **self._options)

    def output(self):
        return self._result


class _Sdpa(Contestant):
    precision = "BF16"
    backend_name = ""

    def backend(self):
        from torch.nn.attention import SDPBackend
        return getattr(SDPBackend, self.backend_name)

    def unavailable(self):
        if self.platform.dry:
            return "a dry run has no PyTorch"
        try:
            self.backend()
        except (ImportError, AttributeError) as error:
            return f"this PyTorch has no such backend: {error}"
        return None

    def versions(self):
        import torch
        return {"torch": str(torch.__version__), "cudnn": str(torch.backends.cudnn.version())}

    def prepare(self, shape, inputs):
        call = SdpaCall(self, shape, inputs)
        try:
            call.attend()
        except RuntimeError as error:   # "No available kernel": the only way in which PyTorch tells
            if "No available kernel" in str(error):
                raise Unsupported(f"PyTorch: {error}") from error
            raise
        return call


class SdpaCudnn(_Sdpa):
    name = "SDPA cuDNN BF16"
    backend_name = "CUDNN_ATTENTION"


class SdpaFlash(_Sdpa):
    name = "SDPA flash BF16"
    backend_name = "FLASH_ATTENTION"
    notes = "FlashAttention-2 inside PyTorch"
