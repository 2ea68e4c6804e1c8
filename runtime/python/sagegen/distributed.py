"""Attention over a sequence that several processes have a part of each, with torch.distributed."""
from __future__ import annotations

from hashlib import sha256
from typing import Any, Optional

import torch
import torch.distributed as dist
from torch import Tensor

from ._arguments import flag, shown, word
from ._arrays import need_strided
from ._attention import LAYOUTS, attention, axes_of, options_of
from ._devices import as_device
from .errors import ArgumentError, DTypeError

SHARDS = ("contiguous", "zigzag")


def merge(o: Tensor, lse: Tensor, part: Tensor, part_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Attention to the keys of both, from that to the keys of each: o, part f32 [batch, heads, queries, channels], lse f32
    [batch, heads, queries] of natural logarithms, minus infinity where no key was seen. All in f32."""
    for name, tensor in (("o", o), ("lse", lse), ("part", part), ("part_lse", part_lse)):
        _need_tensor(name, tensor)
        if tensor.dtype != torch.float32:
            raise DTypeError(f"{name} is of {tensor.dtype}; it is float32")
        if tensor.device != o.device:
            raise ArgumentError(f"o is on {o.device} and {name} on {tensor.device}; they are on the same device")
        of_o = name in ("o", "part")
        if tensor.dim() != 3 + of_o or tensor.shape != (o.shape if of_o else o.shape[:3]):
            raise ArgumentError(f"{name} has the shape {tuple(tensor.shape)} and o {tuple(o.shape)}; o and part are [batch, heads, queries, "
                                "channels], and their LSE has the first three of these axes")
    high = torch.maximum(lse, part_lse)
    base = torch.where(torch.isinf(high), torch.zeros_like(high), high)  # no key in either: weights are 0, not NaN
    weight, part_weight = torch.exp(lse - base), torch.exp(part_lse - base)
    total = weight + part_weight
    share = torch.where(total > 0, total, torch.ones_like(total))
    merged = o * (weight / share)[..., None] + part * (part_weight / share)[..., None]
    return merged, torch.where(total > 0, base + torch.log(share), torch.full_like(total, -torch.inf))


def _need_tensor(name: str, tensor: object) -> None:
    if not isinstance(tensor, Tensor):
        raise DTypeError(f"{name} {shown(tensor)} is refused: it is a Tensor of PyTorch")
    need_strided(tensor, name)


def chunks_of(rank: int, ranks: int, shards: str) -> list[int]:
    """Which pieces of the sequence a rank has, in its order: one of as many as there are ranks, or, with "zigzag", two of twice
    as many, an early and a late one, so that a causal mask leaves all ranks as much to do."""
    return [rank] if shards == "contiguous" else [rank, 2 * ranks - 1 - rank]


class Attended:
    """The rows of one rank, and what was merged into them so far."""

    def __init__(self, q: Tensor, rank: int, ranks: int, causal: bool, shards: str, layout: str, options: dict[str, Any]) -> None:
        self.rank, self.ranks, self.causal, self.shards = rank, ranks, causal, shards
        self.layout, self.options = layout, options
        self.mine = chunks_of(rank, ranks, shards)
        self.q = self._pieces(q)
        self.state: list[Optional[tuple[Tensor, Tensor]]] = [None] * len(self.mine)

    def _pieces(self, tensor: Tensor) -> list[Tensor]:
        return list(tensor.chunk(len(self.mine), dim=self._tokens())) if len(self.mine) > 1 else [tensor]

    def _tokens(self) -> int:
        return 2 if self.layout == "HND" else 1

    def needs(self, source: int) -> bool:
        """Whether a row here sees a key there."""
        return not self.causal or min(chunks_of(source, self.ranks, self.shards)) <= max(self.mine)

    def add(self, k: Tensor, v: Tensor, source: int) -> None:
        """Merges attention to the keys of a rank, its pieces in their order."""
        for piece, k_piece, v_piece in zip(chunks_of(source, self.ranks, self.shards), self._pieces(k), self._pieces(v)):
            for index, mine in enumerate(self.mine):
                if self.causal and piece > mine:
                    continue
                o, lse = attention(self.q[index], k_piece, v_piece, causal=self.causal and piece == mine, return_lse=True,
                                   layout=self.layout, **self.options)
                part = (o if self.layout == "HND" else o.transpose(1, 2)).float(), lse
                before = self.state[index]
                self.state[index] = part if before is None else merge(*before, *part)

    def result(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        parts = [state for state in self.state if state is not None]
        o = torch.cat([o for o, _ in parts], dim=2).to(dtype)
        lse = torch.cat([lse for _, lse in parts], dim=2)
        return (o if self.layout == "HND" else o.transpose(1, 2).contiguous()), lse


def ring_attention(q: Tensor, k: Tensor, v: Tensor, group: Optional[dist.ProcessGroup] = None, *, causal: bool = False,
                   scale: Optional[float] = None, return_lse: bool = False, layout: str = "HND", shards: str = "contiguous",
                   mode: Optional[str] = None, device: Optional[str] = None, ptx: Optional[str] = None, check: bool = True) -> Any:
    """Attention to all keys of the group. Each rank gives its part of the sequence, of the same shape everywhere, and gets the
    rows of its own queries. K and V go around, each rank passing on what it has while it attends to it.

    q, k, v: as in attention(), tensors of PyTorch on the device of the group's backend (CPU with gloo). shards: "contiguous", rank r
    has the r-th part; "zigzag", the sequence is cut into twice as many pieces as there are ranks, and rank r has the pieces r and
    2 · ranks − 1 − r, one after the other. With causal, queries and keys are of one sequence, and pieces that no row sees are
    skipped. The rest as in attention(): the softmax runs over all keys, K is smoothed by the mean of each piece.

    Partial results are merged in f32, in the order in which keys arrive: those of the rank itself first, then of rank − 1, − 2,
    ..., of each rank its pieces in order. The result does not depend on timing: equal inputs give equal bits.

    check: shapes, dtypes and options are compared between ranks first, which costs a small all_gather and, on a GPU, a synchronization; False: that
    they are the same is the caller's promise.

    Returns O in the dtype and layout of q, or (O, LSE). Raises ArgumentError on every rank where shapes differ between ranks.
    """
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        _need_tensor(name, tensor)
    word("shards", shards, SHARDS)
    word("layout", layout, LAYOUTS)
    flag("return_lse", return_lse)
    flag("check", check)
    # Before anything is sent: in the middle of the ring the other ranks would wait.
    options_of(causal=causal, align="top-left", scale=scale, window=None, softcap=None, layout=layout, mode=mode, ptx=ptx,
               max_seqlen_q=None, max_seqlen_kv=None)
    if device is not None:
        as_device(device)
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    if check:
        # All that ranks have to agree in, beside shapes, as one number.
        rest = repr((q.dtype, k.dtype, v.dtype, causal, shards, layout, scale, mode))
        check_ranks(q, k, v, group, ranks, causal, shards, layout, int.from_bytes(sha256(rest.encode()).digest()[:7], "big"))
    rows = Attended(q, rank, ranks, causal, shards, layout, {"scale": scale, "mode": mode, "device": device, "ptx": ptx})
    held = (k.contiguous(), v.contiguous())
    after, before = _global(group, (rank + 1) % ranks), _global(group, (rank - 1) % ranks)
    for step in range(ranks):
        source = (rank - step) % ranks
        arriving = tuple(torch.empty_like(tensor) for tensor in held)
        pending: list[Any] = []
        if step + 1 < ranks:
            pending = dist.batch_isend_irecv([*(dist.P2POp(dist.isend, tensor, after, group) for tensor in held),
                                              *(dist.P2POp(dist.irecv, tensor, before, group) for tensor in arriving)])
        try:
            if rows.needs(source):
                rows.add(held[0], held[1], source)
        finally:  # what is under way ends, or the next call on the group finds it
            for work in pending:
                work.wait()
        held = (arriving[0], arriving[1])
    o, lse = rows.result(q.dtype)
    return (o, lse) if return_lse else o


def _global(group: Optional[dist.ProcessGroup], rank: int) -> int:
    return rank if group is None else dist.get_global_rank(group, rank)


def check_ranks(q: Tensor, k: Tensor, v: Tensor, group: Optional[dist.ProcessGroup], ranks: int, causal: bool, shards: str,
                layout: str, rest: int) -> None:
    """Raises ArgumentError, on all ranks or on none, unless all of them have tensors of one shape that can be cut, and agree in
    the rest."""
    complaint = ""
    if any(tensor.dim() != 4 for tensor in (q, k, v)):
        complaint = "q, k and v have 4 axes"
    else:
        q_len, kv_len = axes_of(layout, q.shape)[2], axes_of(layout, k.shape)[2]
        if causal and q_len != kv_len:
            complaint = f"causal with {q_len} queries and {kv_len} keys is refused: they are of one sequence"
        if shards == "zigzag" and (q_len % 2 or kv_len % 2):
            complaint = f"zigzag with {q_len} queries and {kv_len} keys is refused: both are cut in two; give even numbers"
    numbers = [*q.shape, *k.shape, *v.shape][:12]
    mine = torch.tensor([len(complaint) > 0, *numbers, *[0] * (12 - len(numbers)), rest], dtype=torch.int64, device=q.device)
    all_ = [torch.empty_like(mine) for _ in range(ranks)]
    dist.all_gather(all_, mine, group=group)
    if complaint:
        raise ArgumentError(f"ring_attention: {complaint}")
    for other, theirs in enumerate(all_):
        if torch.equal(theirs[:-1], mine[:-1]) and not torch.equal(theirs, mine):
            raise ArgumentError(f"ring_attention: rank {other} of the group has other dtypes, or another causal, shards, layout, scale or mode; "
                                "give each rank the same")
        if not torch.equal(theirs[1:], mine[1:]) or bool(theirs[0]):
            raise ArgumentError(f"ring_attention: rank {other} of the group has other shapes, {theirs[1:-1].tolist()} of q, k and v, or was refused; here "
                                f"they are {mine[1:-1].tolist()}; give each rank as many tokens")
    first = all_[0]
    if any(not torch.equal(theirs, first) for theirs in all_):
        raise ArgumentError("ring_attention: ranks have different shapes, dtypes or options; give each rank the same")
