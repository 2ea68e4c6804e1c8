"""Just enough of PyTorch, in plain Python, to run the peers' code where PyTorch is not installed.

Tensors are contiguous lists of doubles with a dtype that is only a label: nothing is rounded. Names and
arguments are PyTorch's; where PyTorch is installed the same tests run on it.
"""
import contextlib
import itertools
import math
import sys
import types

float32, bfloat16, float16, float8_e4m3fn, float8_e5m2, uint8 = (
    "float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "uint8")
__version__ = "0-mini"


class Tensor:
    device = "cpu"

    def __init__(self, shape, values, dtype):
        self.shape, self.values, self.dtype = tuple(shape), list(values), dtype
        assert len(self.values) == math.prod(self.shape)

    def _like(self, values, dtype=None):
        return Tensor(self.shape, values, dtype or self.dtype)

    def _binary(self, other, function):
        if not isinstance(other, Tensor):
            return self._like([function(value, other) for value in self.values])
        if len(other.values) == 1:
            return self._like([function(value, other.values[0]) for value in self.values])
        assert self.shape == other.shape, (self.shape, other.shape)
        return self._like(map(function, self.values, other.values))

    def __mul__(self, other):
        return self._binary(other, lambda a, b: a * b)

    def __truediv__(self, other):
        return self._binary(other, lambda a, b: a / b)

    def __rtruediv__(self, other):
        return self._like([other / value for value in self.values])

    def abs(self):
        return self._like(map(abs, self.values))

    def amax(self):
        return Tensor((), [max(self.values)], self.dtype)

    def clamp(self, min=-math.inf, max=math.inf):   # the names are PyTorch's
        return self._like([sorted((min, value, max))[1] for value in self.values])

    def to(self, dtype):
        return self._like(self.values, dtype)

    def float(self):
        return self.to(float32)

    def contiguous(self):
        return self

    def copy_(self, other):
        assert len(self.values) == len(other.values)
        self.values = list(other.values)
        return self

    def reciprocal_(self):
        self.values = [1.0 / value for value in self.values]
        return self

    def reshape(self, *shape):
        shape = shape[0] if shape and not isinstance(shape[0], int) else shape
        if shape == (-1,):
            shape = (len(self.values),)
        return Tensor(shape, self.values, self.dtype)

    view = reshape

    def permute(self, *axes):
        steps = [math.prod(self.shape[axis + 1:]) for axis in range(len(self.shape))]
        shape = [self.shape[axis] for axis in axes]
        return Tensor(shape, [self.values[sum(i * steps[axis] for i, axis in zip(index, axes))]
                              for index in itertools.product(*map(range, shape))], self.dtype)

    def transpose(self, first, second):
        axes = list(range(len(self.shape)))
        axes[first], axes[second] = axes[second], axes[first]
        return self.permute(*axes)

    def expand(self, shape):
        assert len(self.values) == 1
        return Tensor(shape, self.values * math.prod(shape), self.dtype)

    def mean(self, dim, keepdim):
        assert dim == 2 and keepdim and len(self.shape) == 4
        b, h, s, d = self.shape
        return Tensor((b, h, 1, d), [sum(self.values[(r * s + t) * d + c] for t in range(s)) / s
                                     for r in range(b * h) for c in range(d)], self.dtype)

    def tolist(self):
        def nested(shape, values):
            if not shape:
                return values[0]
            step = len(values) // shape[0]
            return [nested(shape[1:], values[i * step:(i + 1) * step]) for i in range(shape[0])]
        return nested(self.shape, self.values)


def _flat(values):
    return [x for value in values for x in _flat(value)] if isinstance(values, list) else [values]


def tensor(values, dtype=float32):
    shape, inner = [], values
    while isinstance(inner, list):
        shape.append(len(inner))
        inner = inner[0]
    return Tensor(shape, _flat(values), dtype)


def full(shape, value, dtype=float32, device=None):
    return Tensor(shape, [value] * math.prod(shape), dtype)


def empty(shape, dtype=float32, device=None):
    return full((shape,) if isinstance(shape, int) else shape, math.nan, dtype)


def empty_like(other):
    return empty(other.shape, other.dtype)


def compile(function, dynamic=None):   # the name is PyTorch's
    raise RuntimeError("there is no compiler here")


def _pad(x, amounts):
    left, right, top, bottom = amounts
    assert (left, right, top) == (0, 0, 0)
    b, h, s, d = x.shape
    rows = [x.values[r * s * d:(r + 1) * s * d] + [0.0] * (bottom * d) for r in range(b * h)]
    return Tensor((b, h, s + bottom, d), _flat(rows), x.dtype)


class SDPBackend:
    CUDNN_ATTENTION, FLASH_ATTENTION, MATH = "cudnn", "flash", "math"


@contextlib.contextmanager
def _sdpa_kernel(backend):
    assert backend in ("cudnn", "flash", "math")
    yield


def install(sdpa):
    """Makes `import torch` find this module. sdpa: what scaled_dot_product_attention does."""
    names = ("nn", "nn.functional", "nn.attention", "backends", "backends.cudnn")
    modules = {f"torch.{name}": types.ModuleType(name) for name in names}
    modules["torch"] = sys.modules[__name__]
    modules["torch.nn.functional"].scaled_dot_product_attention = sdpa
    modules["torch.nn.functional"].pad = _pad
    modules["torch.nn.attention"].SDPBackend = SDPBackend
    modules["torch.nn.attention"].sdpa_kernel = _sdpa_kernel
    modules["torch.backends.cudnn"].version = lambda: 0
    for name, module in modules.items():
        if "." in name:
            parent, _, child = name.rpartition(".")
            setattr(modules[parent], child, module)
    sys.modules.update(modules)
    return modules["torch"]
