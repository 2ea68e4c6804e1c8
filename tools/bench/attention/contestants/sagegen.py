"""sagegen's own kernels, through libsagegen: one contestant per kernel family that the device can load.

A family is everything in a kernel's key but head_dim, dtype and mask. Of the same quantization only the
family of the highest target takes part, and none that sums P V in f16, which pays on GeForce, unless
--all-families is given; --ptx DIR adds the kernels of a
directory (of schedules that are being tuned, for example), each under its own name.
"""
import os
import re

from attention import capi
from attention.contestant import Call, Contestant, Unsupported

# Kernels with masks or biases beside the causal one are not measured: no shape of the benchmark has any.
KEY = re.compile(r"sage_fwd_d(?P<d>\d+)_(?P<io>f16|bf16)_(?P<quant>qk_\w+?_f32(?:x2|f16)?)(?P<causal>_causal)?"
                 r"__(?P<schedule>q\d+k\d+w\d+s\d+\w*?)__sm(?P<sm>\d+)(?P<suffix>[af]?)$")


def families(keys):
    """{family: {(head_dim, causal): key}} of the BF16 kernels, and {family: (quantization, target)}."""
    kernels, about = {}, {}
    for key in keys:
        match = KEY.match(key)
        if not match or match["io"] != "bf16":
            continue
        family = f"{match['quant']}_{match['schedule']}_sm{match['sm']}{match['suffix']}"
        kernels.setdefault(family, {})[int(match["d"]), match["causal"] is not None] = key
        about[family] = (match["quant"], (int(match["sm"]), match["suffix"]))
    return kernels, about


def best_families(keys):
    """Without those whose quantization a higher target has, too, and those with sums of f16. A family may differ from another of its
    target in the schedule alone, as head dims do: those become one contestant."""
    kernels, about = families(keys)
    best = {}
    for quant, target in about.values():
        best[quant] = max(best.get(quant, target), target)
    merged = {}
    for family, (quant, target) in about.items():
        if target == best[quant] and not quant.endswith("f32f16"):
            merged.setdefault(f"{quant}_sm{target[0]}{target[1]}", {}).update(kernels[family])
    return merged


def short_name(family):
    """"int8-fp8 sm_89" for the quantization of SageAttention2, "16bit sm_89" for none, the family itself for others."""
    match = re.fullmatch(r"qk_bf16t_g32x64_sm0_pv_(e4m3_f32x2|bf16_f32)_sm(\w+)", family)
    if match:
        return f"{'bf16-fp8' if match[1].startswith('e4m3') else '16bit'} sm_{match[2]}"
    match = re.fullmatch(r"qk_s(8(?=t_g32x64_smk_)|4(?=t_g32x64_smqk_))\w+_pv_(e4m3_f32x2|f16_f32)_sm(\w+)", family)
    if not match:
        return family
    return f"int{match[1]}-{'fp8' if match[2].startswith('e4m3') else 'fp16'} sm_{match[3]}"


def precision(family):
    """"INT8 + FP8": of Q K and of P V."""
    qk = next((name for word, name in (("qk_s4", "INT4"), ("qk_bf16", "BF16")) if word in family), "INT8")
    pv = next((name for word, name in (("pv_e4m3", "FP8"), ("pv_bf16", "BF16")) if word in family), "FP16")
    return f"{qk} + {pv}"


class SagegenCall(Call):
    def __init__(self, contestant, plan, shape, inputs):
        platform = contestant.platform
        self.plan, self.platform, self.inputs = plan, platform, inputs
        self.shape = capi.CShape(shape.batch, shape.q_heads, shape.kv_heads, shape.q_len, shape.kv_len)
        self.result = platform.empty_output(shape)

        def view(tensor, heads, tokens):
            return capi.hnd(platform.address(tensor), heads, tokens, shape.head_dim)
        self.arguments = capi.Arguments(
            view(inputs.q, shape.q_heads, shape.q_len), view(inputs.k, shape.kv_heads, shape.kv_len),
            view(inputs.v, shape.kv_heads, shape.kv_len), view(self.result, shape.q_heads, shape.q_len))
        self.workspace_bytes = plan.workspace_bytes(self.shape)
        self.owner, self.workspace = platform.scratch(self.workspace_bytes) if self.workspace_bytes else (None, 0)

    def _enqueue(self, part):
        self.plan.enqueue(part, self.shape, self.arguments, self.workspace, self.workspace_bytes,
                          self.platform.stream())

    def quantize(self):
        self._enqueue("quantize")

    def attend(self):
        self._enqueue("attend")

    def end_to_end(self):
        self._enqueue("run")

    def output(self):
        return self.platform.read_back(self.result) if self.platform.dry else self.result


class Sagegen(Contestant):
    name = "sagegen"

    def __init__(self, platform, options, family="", kernels=None, library=None, ptx_directory=None):
        super().__init__(platform, options)
        self.name = f"sagegen {short_name(family)}".strip()
        self.notes = "" if self.name.endswith(family) else f"kernels {family}"
        self.precision = precision(family)
        self.kernels, self.library, self.ptx_directory = kernels or {}, library, ptx_directory
        self.plans = {}

    @classmethod
    def variants(cls, platform, options):
        path = options.get("sagegen_library")
        if not path:
            raise RuntimeError("no libsagegen.so: build the target sagegen_shared, or give --sagegen PATH")
        library = capi.Library(path)
        keys = platform.sagegen_device(library).kernels()
        chosen = families(keys)[0] if options.get("all_families") else best_families(keys)
        found = [cls(platform, options, family, kernels, library) for family, kernels in chosen.items()]
        directory = options.get("ptx_directory")
        if directory:
            extra = sorted(name[:-4] for name in os.listdir(directory) if name.startswith("sage_fwd_")
                           and name.endswith(".ptx"))
            found += [cls(platform, options, f"{family} (--ptx)", kernels, library, directory)
                      for family, kernels in families(extra)[0].items()]
        if not found:
            raise RuntimeError(f"{path} has no BF16 attention kernel for this device")
        return found

    def versions(self):
        return self.library.versions()

    def supports(self, shape):
        if (shape.head_dim, shape.causal) in self.kernels:
            return None
        dims = sorted({head_dim for head_dim, _ in self.kernels})
        return f"no kernel for head_dim {shape.head_dim}{' causal' if shape.causal else ''}; there is {dims}"

    def prepare(self, shape, inputs):
        key = self.kernels[shape.head_dim, shape.causal]
        if key not in self.plans:
            device = self.platform.sagegen_device(self.library)
            try:
                self.plans[key] = capi.Plan(device, key, ptx_directory=self.ptx_directory)
            except capi.Error as error:
                raise Unsupported(str(error)) from error
        call = SagegenCall(self, self.plans[key], shape, inputs)
        call.end_to_end()
        return call
