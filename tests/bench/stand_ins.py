"""Stand-ins for the peers' libraries, with the names and arguments that their public documentation gives.
They compute attention in double precision from whatever codes and scales they are handed, so that a scale in
the wrong place is a wrong output. Anything that the real library would refuse is an error here.
"""
import math
import sys
import types

from attention import accuracy


def attention(torch, q, k, v, causal, q_scale=1.0, k_scale=1.0, v_scale=1.0, softmax_scale=None):
    """[batch, head, token, channel] tensors to a nested list."""
    def rows(x, scale):
        return [[[[scale * value for value in row] for row in head] for head in batch]
                for batch in x.float().tolist()]
    q, k, v = rows(q, q_scale), rows(k, k_scale), rows(v, v_scale)
    factor = 1.0 if softmax_scale is None else softmax_scale * math.sqrt(len(q[0][0][0]))
    q = [[[[factor * value for value in row] for row in head] for head in batch] for batch in q]
    group = len(q[0]) // len(k[0])
    return [[accuracy.exact_head(head, k[b][h // group], v[b][h // group], causal)
             for h, head in enumerate(batch)] for b, batch in enumerate(q)]


def swap(x):
    """Heads and tokens of a nested list."""
    return [[list(heads) for heads in zip(*batch)] for batch in x]


def flash_attn_interface(torch):
    module = types.ModuleType("flash_attn_interface")
    module.__file__ = "stand-in"

    def flash_attn_func(q, k, v, softmax_scale=None, causal=False, qv=None, q_descale=None, k_descale=None,
                        v_descale=None, window_size=(-1, -1), attention_chunk=0, softcap=0.0, num_splits=1,
                        pack_gqa=None, deterministic=False, sm_margin=0, return_attn_probs=False):
        fp8 = q.dtype == torch.float8_e4m3fn
        assert q.dtype == k.dtype == v.dtype and fp8 == (q_descale is not None)
        scales = []
        for descale in (q_descale, k_descale, v_descale) if fp8 else ():
            assert tuple(descale.shape) == (k.shape[0], k.shape[2]) and descale.dtype == torch.float32
            scales.append(descale.tolist()[0][0])
        out = attention(torch, q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), causal, *scales,
                        softmax_scale=softmax_scale)
        return torch.tensor(swap(out)).to(torch.bfloat16)
    module.flash_attn_func = flash_attn_func
    return {"flash_attn_interface": module}


class _Node:
    """A tensor of a cuDNN graph."""

    def __init__(self, **fields):
        self.fields, self.is_output = fields, False

    def set_output(self, value):
        self.is_output = value
        return self

    def __getattr__(self, name):
        if name in ("set_dim", "set_stride", "set_data_type"):
            return lambda value: self.fields.update({name[4:]: value}) or self
        raise AttributeError(name)


class CudnnGraphNotSupportedError(Exception):
    pass


class _Pygraph:
    def __init__(self, torch, io_data_type, intermediate_data_type, compute_data_type, handle=None):
        assert compute_data_type == intermediate_data_type == "FLOAT" and io_data_type == "FP8_E4M3"
        self.torch, self.stage, self.options = torch, 0, None

    def tensor(self, *, name, dim, stride, data_type):
        assert len(dim) == len(stride) == 4 and stride[3] == 1
        return _Node(name=name, dim=dim, stride=stride, data_type=data_type)

    def sdpa_fp8(self, *, q, k, v, descale_q, descale_k, descale_v, descale_s, scale_s, scale_o,
                 attn_scale=None, use_causal_mask=False, generate_stats=None, is_inference=None, name=""):
        assert (generate_stats is None) != (is_inference is None)
        for scalar in (descale_q, descale_k, descale_v, descale_s, scale_s, scale_o):
            assert scalar.fields["dim"] == [1, 1, 1, 1] and scalar.fields["data_type"] == "FLOAT"
        outputs = _Node(), None, _Node(), _Node()
        self.options = dict(locals())
        return outputs

    def _next(self, stage):
        assert self.stage == stage - 1, "the graph is built in order"
        self.stage = stage

    def validate(self):
        o, _, amax_s, amax_o = self.options["outputs"]
        assert o.is_output and o.fields["data_type"] == "FP8_E4M3" and amax_o.is_output
        for amax in (amax_s, amax_o):   # mandatory nodes, declared also where they stay inside
            assert amax.fields["dim"] == [1, 1, 1, 1] and amax.fields["data_type"] == "FLOAT"
        self._next(1)

    def build_operation_graph(self):
        self._next(2)

    def create_execution_plans(self, modes):
        assert modes == ["A"]
        self._next(3)

    def check_support(self):
        if self.options["q"].fields["dim"][3] > 256:
            raise CudnnGraphNotSupportedError("hidden_dim is not supported")
        self._next(4)

    def build_plans(self):
        self._next(5)

    def get_workspace_size(self):
        assert self.stage == 5
        return 0

    def execute(self, tensors, workspace, handle=None):
        torch, options = self.torch, self.options
        o, _, _, amax_o = options["outputs"]
        bound = {name: tensors[options[name]] for name in ("q", "k", "v", "scale_o", "scale_s", "descale_s",
                                                            "descale_q", "descale_k", "descale_v")}
        scalars = {name: value.tolist()[0][0][0][0] for name, value in bound.items() if "scale" in name}
        assert abs(scalars["scale_s"] * scalars["descale_s"] - 1) < 1e-6 and scalars["scale_s"] <= 448
        assert all(bound[name].dtype == torch.float8_e4m3fn for name in "qkv")
        exact = attention(torch, bound["q"], bound["k"], bound["v"], options["use_causal_mask"],
                          scalars["descale_q"], scalars["descale_k"], scalars["descale_v"],
                          softmax_scale=options["attn_scale"])
        result = torch.tensor(exact) * scalars["scale_o"]
        assert result.abs().amax().tolist() <= 448, "the output overflows E4M3"
        assert tensors[o].dtype == torch.float8_e4m3fn
        tensors[o].copy_(result.to(torch.float8_e4m3fn))
        assert tensors[amax_o].dtype == torch.float32


def cudnn(torch):
    module = types.ModuleType("cudnn")
    module.__version__ = "stand-in"
    module.backend_version = lambda: 91900
    module.cudnnGraphNotSupportedError = CudnnGraphNotSupportedError
    module.create_handle = object
    module.set_stream = lambda *, handle, stream: None
    module.data_type = types.SimpleNamespace(FP8_E4M3="FP8_E4M3", FLOAT="FLOAT")
    module.heur_mode = types.SimpleNamespace(A="A")
    module.pygraph = lambda **options: _Pygraph(torch, **options)
    return {"cudnn": module}


def sageattention(torch):
    names = ("sageattention", "sageattention._qattn_sm90", "sageattention.quant", "sageattention.triton",
             "sageattention.triton.quant_per_thread")
    modules = {name: types.ModuleType(name) for name in names}
    whole, kernels, quant, _, per_thread = modules.values()

    def sageattn(q, k, v, tensor_layout="HND", is_causal=False, sm_scale=None, return_lse=False):
        assert tensor_layout == "HND"
        return torch.tensor(attention(torch, q, k, v, is_causal, softmax_scale=sm_scale)).to(q.dtype)

    def per_thread_int8(q, k, km=None, BLKQ=128, WARPQ=32, BLKK=64, WARPK=64, sm_scale=None,
                        tensor_layout="HND"):
        assert (tensor_layout, BLKQ, WARPQ, BLKK, WARPK) == ("HND", 64, 16, 128, 128)
        assert km.shape[2] == 1
        return q, torch.tensor([1.0]), k, torch.tensor([1.0])

    def per_channel_fp8(v, tensor_layout="HND", scale_max=448.0, smooth_v=True):
        assert tensor_layout == "HND" and not smooth_v and v.shape[2] % 128 == 0
        return v, torch.tensor([1.0]), None

    def kernel(q, k, v, o, q_scale, k_scale, v_scale, tensor_layout, is_causal, granularity, sm_scale,
               return_lse):
        assert (tensor_layout, granularity, return_lse) == (1, 3, 0)
        rows = k.shape[2]
        # The padding of V is not read.
        v = torch.tensor([[head[:rows] for head in batch] for batch in v.float().tolist()])
        o.copy_(torch.tensor(attention(torch, q, k, v, bool(is_causal), softmax_scale=sm_scale)))

    whole.sageattn, whole.__version__ = sageattn, "stand-in"
    kernels.qk_int8_sv_f8_accum_f32_fuse_v_scale_attn_inst_buf = kernel
    per_thread.per_thread_int8, quant.per_channel_fp8 = per_thread_int8, per_channel_fp8
    whole._qattn_sm90, whole.quant = kernels, quant
    return modules


# A file in the form of the tutorial: a torch.autograd.Function whose apply is called `attention`.
TUTORIAL = '''
import torch
import stand_ins


class _attention:
    @staticmethod
    def forward(ctx, q, k, v, causal, sm_scale{warp_specialize}):
        assert q.dtype == k.dtype == v.dtype and q.dtype in (torch.float16, torch.float8_e5m2)
        return torch.tensor(stand_ins.attention(torch, q, k, v, causal, softmax_scale=sm_scale)).to(q.dtype)


def attention(*arguments):
    assert len(arguments) == {count}
    return _attention.forward(None, *arguments)
'''


def install(modules):
    sys.modules.update(modules)
