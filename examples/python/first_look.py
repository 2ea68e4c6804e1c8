"""A kernel from its name to its error, without a GPU: cells for a notebook (# %%), or `python first_look.py [--plot FILE.png]`."""
# %% A kernel is a value: formats, masks, channels, target.
import argparse
import re

import numpy as np

import sagegen

arguments = argparse.ArgumentParser(description=__doc__)
arguments.add_argument("--plot", metavar="FILE.png", help="draw the errors, with matplotlib")
arguments.add_argument("--tokens", type=int, default=256)
options, _ = arguments.parse_known_args()   # a notebook has arguments of its own

print(sagegen.info(), "\n")
make = sagegen.emit if sagegen.info().generator else sagegen.load   # made by LLVM, or one of those that the package has
kernel = make("int8-fp8 head_dim=64 causal", "sm_89")
print(kernel.key)
print(kernel.resources)

# %% Its code is text. What the tensor cores do stands in it:
products = re.findall(r"mma\.sync\.\S+", kernel.ptx)
print(f"{len(kernel.ptx.splitlines())} lines of PTX; products:")
for name in sorted(set(products)):
    print(f"  {products.count(name):4}  {name}")

# %% The emulator runs the text itself. Q, K, V with channels that stick out of K, as those of real models do:
rng = np.random.default_rng(0)
shape = (1, 2, options.tokens, 64)
q, k, v = (rng.standard_normal(shape) for _ in range(3))
k[..., :4] += 8 * rng.standard_normal(4)
q, k, v = (x.astype(np.float16) for x in (q, k, v))


def exact(q, k, v):
    """Causal attention in double precision."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    scores = np.where(np.tril(np.ones(scores.shape[-2:], bool)), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


o = sagegen.attention(q, k, v, causal=True)
print(f"O[0, 0, -1, :4] = {o[0, 0, -1, :4]}; exact {exact(q, k, v)[0, 0, -1, :4].round(4)}")

# %% What each mode loses, and what smoothing K is for.
modes = ["int8-fp8", "int8-fp16", "int4-fp8", "int4-fp16"]
if sagegen.info().generator:   # these are not embedded
    modes += ["int8-fp8 smoothing=none", "int8-fp16 smoothing=none", "bf16-fp8", "16bit"]
want = exact(q, k, v)
errors = {}
for mode in modes:
    got = sagegen.attention(q, k, v, causal=True, mode=mode)
    errors[mode] = np.abs(got - want).sum() / np.abs(want).sum()
for mode, error in errors.items():
    print(f"{mode:26} relative L1 {error:8.5f}  {'#' * max(1, round(200 * error))}")

# %% The same as a picture.
if options.plot:
    try:
        import matplotlib
        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        print("no picture: there is no matplotlib")
    else:
        figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
        axes.barh(list(errors), list(errors.values()))
        axes.set_xscale("log")
        axes.set_xlabel("relative L1 error, emulated sm_89")
        figure.savefig(options.plot)
        print(f"drawn into {options.plot}")

# %% A kernel with a fault: the emulator names the line.
broken = """.version 8.0
.target sm_80
.address_size 64
.visible .entry last(.param .u64 x, .param .u32 n)
{
  .reg .b32 %r<3>;
  .reg .b64 %d<3>;
  ld.param.u64 %d0, [x];
  ld.param.u32 %r0, [n];
  mul.wide.u32 %d1, %r0, 4;
  add.u64 %d2, %d0, %d1;
  ld.global.u32 %r1, [%d2];
  st.global.u32 [%d0], %r1;
  ret;
}
"""
try:
    sagegen.Emulator("sm_80").run(broken, grid=1, block=1, args=[np.arange(10, dtype=np.int32), 10])
except sagegen.FindingsError as error:
    finding = error.findings[0]
    print(f"{finding.check} in line {finding.ptx_line}: {broken.splitlines()[finding.ptx_line - 1].strip()}")
