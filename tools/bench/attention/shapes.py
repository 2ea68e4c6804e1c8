"""The attention problems that are measured, in the order in which time is spent on them."""
from dataclasses import asdict, dataclass, replace

TOKENS = 32 * 1024    # batch x length of the grid
ACCURACY_HEADS = 8    # enough to name a worst head


@dataclass(frozen=True)
class Shape:
    """O = softmax(Q K^T / sqrt(head_dim)) V in BF16; causal masks are aligned to the top left."""
    batch: int
    q_heads: int
    kv_heads: int
    q_len: int
    kv_len: int
    head_dim: int
    causal: bool
    data: str = "normal"   # distribution of the inputs that are timed; see accuracy.DISTRIBUTIONS

    @property
    def name(self):
        heads = f"h{self.q_heads}" if self.q_heads == self.kv_heads else f"h{self.q_heads}kv{self.kv_heads}"
        length = f"s{self.q_len}" if self.q_len == self.kv_len else f"s{self.q_len}x{self.kv_len}"
        data = "" if self.data == "normal" else f"_{self.data}"
        return f"d{self.head_dim}_{'causal' if self.causal else 'full'}_b{self.batch}{heads}_{length}{data}"

    @property
    def flop(self):
        """4 B H Sq Sk D, half of it if causal; GQA counts query heads; quantization counts nothing."""
        whole = 4 * self.batch * self.q_heads * self.q_len * self.kv_len * self.head_dim
        return whole / 2 if self.causal else whole

    @property
    def input_bytes(self):
        """Of Q, K and V in BF16."""
        rows = self.q_heads * self.q_len + 2 * self.kv_heads * self.kv_len
        return 2 * self.batch * rows * self.head_dim

    def for_accuracy(self):
        """The same problem with one batch and few heads: what fp64 can afford."""
        ratio = self.q_heads // self.kv_heads
        kv_heads = max(1, min(self.kv_heads, ACCURACY_HEADS // ratio))
        return replace(self, batch=1, kv_heads=kv_heads, q_heads=kv_heads * ratio, data="normal")

    def as_dict(self):
        return {"name": self.name, **asdict(self)}


def shape_from(fields):
    return Shape(**{key: value for key, value in fields.items() if key != "name"})


def square(head_dim, length, causal, *, heads=32, kv_heads=None, batch=None, data="normal"):
    return Shape(batch=batch or max(1, TOKENS // length), q_heads=heads, kv_heads=kv_heads or heads,
                 q_len=length, kv_len=length, head_dim=head_dim, causal=causal, data=data)


def grid():
    """Head dim 128 first, lengths so that a cut-off run has the most telling ones."""
    k = 1024
    shapes = [square(d, length, causal) for d in (128, 64, 256)
              for length in (8 * k, 32 * k, 2 * k, 16 * k, 4 * k) for causal in (False, True)]
    shapes += [square(128, length, causal, heads=64, kv_heads=8, batch=1)
               for length in (8 * k, 32 * k) for causal in (False, True)]
    shapes += [square(128, 8 * k, causal, data="outlier") for causal in (False, True)]
    shapes += [square(64, 17776, False, heads=48, batch=1),   # a video diffusion transformer's tokens
               square(128, 17776, False, heads=24, batch=1),
               square(128, 8191, False, batch=4), square(128, 8191, True, batch=4)]
    return shapes + [square(d, k, causal) for d in (128, 64) for causal in (False, True)]


def quick():
    k = 1024
    return [square(128, 8 * k, False), square(128, 8 * k, True), square(128, 2 * k, False),
            square(64, 8 * k, False)]


def dry():
    """Tiny ones with the same peculiarities: both masks, both head dims, GQA, an odd length."""
    return [square(128, 16, False, heads=1, batch=1), square(128, 20, True, heads=1, batch=1),
            square(64, 24, False, heads=2, kv_heads=1, batch=1),
            square(64, 37, True, heads=1, batch=2, data="outlier")]
