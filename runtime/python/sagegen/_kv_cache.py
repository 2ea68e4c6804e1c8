"""KvCache: keys and values of a model in few bits, in pages that the caller owns."""
from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from . import _core
from ._arguments import LARGEST_INT, flag, path, positive, sequence, text, whole, word
from ._arrays import View, kind_of, need_dtype
from ._attention import Staged, checked_result, layout_of
from ._devices import Device, Slot, as_device, lease
from .errors import ArgumentError, DTypeError

_DTYPES = {"float16": "f16", "bfloat16": "bf16"}


class KvCache:
    """The KV cache of a model, each layer in its own number of bits. It has the kernels; pages are arrays of the caller's.

    layers: the pair of each layer, "0-1:KV8, 2-29:K8V4, 30-31:KV8", as `sagegen kv show` prints it, or a list of pairs,
        ["KV8", "K8V4", ...]: 2, 4, 8 and 16 bits. Behind a pair may stand what else differs, "K8V4 page_tokens=32".
    kv_heads, q_heads: of the model; kv_heads divides q_heads. head_dim: channels of a head, a multiple of 8, at most 256.
    dtype: "float16" or "bfloat16", of K, V, Q and O, and of what is stored in 16 bits.
    page_tokens: tokens of a page, a multiple of 16. layout: "HND" or "NHD", of heads and tokens within a page.
    q_len: the most queries of a sequence in decode(); at most 16. causal: each of them sees the
        tokens up to its own, the last query being that of the last token.
    addressing: "slots", append() takes the place of each token, or "pages", the page lists of sequences.
    rope: "neox" or "interleaved", append() embeds new keys (queries come embedded). smooth_k: it subtracts a mean. rotation:
        "hadamard", K and Q are multiplied by a Hadamard matrix, which spreads outliers over channels. Keys of 16 bits are
        neither smoothed nor rotated.
    sinks, window: the first tokens of a sequence, and its last ones, that decode() reads in 16 bits though the layer has codes, from
        a pool of their own, which append() writes, too. unit: up to unit - 1 tokens more than the window are. taken_back: by how
        much a sequence may become shorter, as of drafts that are rejected. sinks and unit are multiples of 32, the others of 16.
    gather: loads the kernels of gather(), too.
    device: "cuda:0", or "emulator:sm_89" for arrays of the host. ptx: a folder or bundle of PTX, looked into first.

    A pool is an array of uint8 [pages, page_bytes(layer)] for each layer. Raises ArgumentError, DTypeError, SpecError (by the
    layer), DriverError. Any number of threads may call it at once.
    """

    def __init__(self, layers: str | Sequence[str], *, kv_heads: int, q_heads: int, head_dim: int = 128, dtype: str = "float16",
                 page_tokens: int = 64, layout: str = "HND", q_len: int = 1, causal: bool = False, addressing: str = "slots",
                 rope: str | None = None, smooth_k: bool = False, rotation: str | None = None,
                 sinks: int = 0, window: int = 0, unit: int = 32, taken_back: int = 0, gather: bool = False,
                 device: str | Device = "cuda:0", ptx: str | None = None) -> None:
        self._kv_heads = whole("kv_heads", kv_heads, 1, LARGEST_INT)
        self._q_heads = whole("q_heads", q_heads, 1, LARGEST_INT)
        self._head_dim = whole("head_dim", head_dim, 1, 256)
        self._q_len = whole("q_len", q_len, 1, LARGEST_INT)
        self._io = _DTYPES[word("dtype", dtype, _DTYPES)]
        self._addressing = word("addressing", addressing, ("slots", "pages"))
        self._rope = "none" if rope is None else word("rope", rope, ("neox", "interleaved"))
        turned = "none" if rotation is None else word("rotation", rotation, ("hadamard",))
        if not isinstance(layers, str):
            pairs = sequence("layers", layers, 'a text such as "0-1:KV8, 2-31:K8V4", or a list of pairs')
            layers = ", ".join(f"{i}:{text(f'layers[{i}]', pair, 'a pair such as K8V4')}" for i, pair in enumerate(pairs))
        options = (f"kv_heads={self._kv_heads} q_heads={self._q_heads} q_len={self._q_len} addressing={self._addressing} "
                   f"rope={self._rope} rotation={turned}")
        options += " smooth_k" if flag("smooth_k", smooth_k) else ""
        options += " causal" if flag("causal", causal) else ""
        options += " gather" if flag("gather", gather) else ""
        for name, tokens in dict(sinks=sinks, window=window, unit=unit, taken_back=taken_back).items():
            options += f" {name}={whole(name, tokens, 0, LARGEST_INT)}"
        self._smooths = smooth_k
        format = (f"head_dim={self._head_dim} io={self._io} page_tokens={whole('page_tokens', page_tokens, 1, LARGEST_INT)} "
                  f"layout={layout_of('layout', layout).lower()}")
        self._device = as_device(device)
        # An emulated device belongs to one call at a time; this one has no other cache.
        self._turn = threading.Lock()
        if self._device.is_emulator:
            self._slot = Slot(self._device.open())
        else:
            with lease(self._device) as slot:
                self._slot = slot
        self._cache = _core.KvCache(self._slot.device, layers, format, options, "" if ptx is None else path("ptx", ptx))

    @property
    def layers(self) -> tuple[str, ...]:
        """The format of each layer, "head_dim=128 io=f16 k_bits=8 v_bits=4 page_tokens=64 layout=hnd"."""
        return tuple(self._cache.format(layer) for layer in range(self._cache.layers))

    @property
    def kernels(self) -> tuple[str, ...]:
        """Keys of the kernels that are loaded; layers of equal formats have the same."""
        return tuple(self._cache.kernel_names)

    def page_bytes(self, layer: int) -> int:
        """Bytes of a page of the layer, of all KV heads."""
        return self._cache.page_bytes(self._number(layer))

    def page_tokens(self, layer: int) -> int:
        """Tokens of a page of the layer."""
        return int(dict(field.split("=") for field in self._cache.format(self._number(layer)).split())["page_tokens"])

    def smooths(self, layer: int) -> bool:
        """Whether append() subtracts k_mean from the keys of the layer: its LSE is less by scale · (q · mean)."""
        return self._cache.smooths(self._number(layer))

    def exact_blocks(self, layer: int) -> int:
        """Blocks of 16 exact tokens that a sequence has in their pool; 0: the layer has none beside its codes."""
        return self._cache.exact_blocks(self._number(layer))

    def exact_block_bytes(self, layer: int) -> int:
        """Bytes of such a block, of all KV heads; 0: the layer has none."""
        return self._cache.exact_block_bytes(self._number(layer))

    def exact_place(self, token: int, length: int) -> int:
        """Where a token of a sequence goes among them, that has `length` tokens when all of a call are in: place // 16 is the column of its
        exact_table, place % 16 the place in that block. -1: it is left out."""
        return self._cache.exact_place(whole("token", token, 0, LARGEST_INT), whole("length", length, 0, LARGEST_INT))

    def append(self, layer: int, pool: Any, k: Any, v: Any, *, slots: Any = None, append_indptr: Any = None, page_indptr: Any = None,
               page_indices: Any = None, last_page_len: Any = None, positions: Any = None, cos: Any = None, sin: Any = None,
               k_mean: Any = None, exact_pool: Any = None, exact_slots: Any = None) -> None:
        """Writes new tokens into their pages, those of a step as those of prompts, whole or in parts.

        pool: uint8 [pages, page_bytes(layer)], which is written. k, v: [tokens, kv_heads, head_dim] of the cache's dtype.
        slots: int64 [tokens], page · page_tokens + place in the page; -1: the token is left out. With addressing "pages" in its
            place int32 append_indptr [sequences + 1], page_indptr [sequences + 1], page_indices [any], last_page_len [sequences], as
            FlashInfer has them.
        positions: int64 [tokens]; cos, sin: float32 [positions, rotated channels / 2], with a rope.
        k_mean: float32 [kv_heads, head_dim], with smooth_k; not read where the keys of the layer have 16 bits.
        exact_pool: uint8 [blocks, exact_block_bytes(layer)], which is written, of layers with exact tokens. exact_slots: int64 [tokens],
            block · 16 + place in the block, of the block that the exact_table of the sequence has at exact_place() // 16; -1: the token is
            left out.
        Arrays are where the cache's kernels run (or all of the host, for the emulator), on the current stream of PyTorch.
        """
        layer = self._number(layer)
        blocks = self._cache.exact_blocks(layer)
        for name, array in dict(exact_pool=exact_pool, exact_slots=exact_slots).items():
            _need(array is not None, blocks > 0, name, "no exact tokens in this layer")
        with self._call(pool, self._cache.page_bytes(layer)) as call:
            rows = call.rows("k", k), call.rows("v", v)
            tokens = rows[0].shape[0]
            if rows[1].shape[0] != tokens:
                raise ArgumentError(f"k has {tokens} tokens and v {rows[1].shape[0]}; they are the same")
            tables = dict(append_indptr=append_indptr, page_indptr=page_indptr, page_indices=page_indices, last_page_len=last_page_len)
            paged, embeds = self._addressing == "pages", self._rope != "none"
            _need(slots is not None, not paged, "slots", "addressing pages")
            for name, array in tables.items():
                _need(array is not None, paged, name, "addressing slots")
            for name, array in dict(positions=positions, cos=cos, sin=sin).items():
                _need(array is not None, embeds, name, "no rope")
            _need(k_mean is not None, self._smooths, "k_mean", "no smooth_k")
            sequences = entries = table_rows = rope_stride = rotary = 0
            places, lists, rope, mean = 0, [0] * 4, [0] * 3, 0
            if paged:
                sequences = max(_length("last_page_len", last_page_len), 0)
                entries = _length("page_indices", page_indices)
                sizes = (sequences + 1, sequences + 1, entries, sequences)
                lists = [call.flat(name, array, "i32", (size,)) for (name, array), size in zip(tables.items(), sizes)]
            else:
                places = call.flat("slots", slots, "i64", (tokens,))
            if embeds:
                table: tuple[int, ...] = tuple(getattr(cos, "shape", ()))
                if len(table) != 2:
                    raise ArgumentError(f"cos has the shape {tuple(table)}; it is (positions, rotated channels / 2)")
                table_rows, rope_stride, rotary = int(table[0]), int(table[1]), 2 * int(table[1])
                rope = [call.flat("positions", positions, "i64", (tokens,)), call.flat("cos", cos, "f32", (table_rows, rope_stride)),
                        call.flat("sin", sin, "f32", (table_rows, rope_stride))]
            if self._smooths:
                mean = call.flat("k_mean", k_mean, "f32", (self._kv_heads, self._head_dim))
            exact, of_exact = (0, 0, 0), 0
            if blocks > 0:
                exact = call.other_pool("exact_pool", exact_pool, self._cache.exact_block_bytes(layer), written=True)
                of_exact = call.flat("exact_slots", exact_slots, "i64", (tokens,))
            if tokens == 0:
                return
            k_view, v_view = (call.place(view, heads=1, tokens=0) for view in rows)
            self._cache.append(layer, call.pool(), tokens=tokens, k=k_view, v=v_view, slots=places, tables=lists, sequences=sequences,
                               page_entries=entries, rope=rope, table_rows=table_rows, rope_stride=rope_stride, rotary=rotary,
                               k_mean=mean, exact=exact, exact_slots=of_exact, stream=call.stream)
            call.fetch()

    def decode(self, layer: int, pool: Any, q: Any, page_table: Any, lengths: Any, *, q_lens: Any = None, exact_pool: Any = None,
               exact_table: Any = None, scale: float | None = None, splits: int = 0, return_lse: bool = False, out: Any = None) -> Any:
        """Attention of the newest queries of each sequence over its pages.

        q: [batch, q_heads, head_dim], or [batch, q_len, q_heads, head_dim]. page_table: int32 [batch, pages], of which those
            behind the last page of a sequence are not read. lengths: int32 [batch], tokens in the cache, those of q among them.
        q_lens: int32 [batch], queries of each sequence, its first rows of q; the others are padding, with O = 0 and LSE = -inf.
        exact_pool: uint8 [blocks, exact_block_bytes(layer)], exact_table: int32 [batch, exact_blocks(layer)], of layers with exact tokens.
        scale: of scores, 1 / sqrt(head_dim) by default. splits: parts of a sequence that are attended side by side, 0: as many as
            fill the device; equal splits give equal bits.
        return_lse: returns (O, LSE): float32 [batch, q_heads, q_len], natural logarithms. out: where O goes.

        Returns O, in the shape, dtype and kind of q.
        """
        layer = self._number(layer)
        flag("return_lse", return_lse)
        splits = whole("splits", splits, 0, LARGEST_INT)
        number = 0.0 if scale is None else positive("scale", scale)
        blocks = self._cache.exact_blocks(layer)
        for name, array in dict(exact_pool=exact_pool, exact_table=exact_table).items():
            _need(array is not None, blocks > 0, name, "no exact tokens in this layer")
        with self._call(pool, self._cache.page_bytes(layer)) as call:
            kind = kind_of(q)
            view = kind.view(q, "q")
            call.check(view, self._io)
            shape = view.shape
            if len(shape) not in (3, 4) or shape[-2:] != (self._q_heads, self._head_dim):
                raise ArgumentError(f"q has the shape {tuple(shape)}; it is (batch, {self._q_heads}, {self._head_dim}), or with several "
                                    f"queries of a sequence (batch, q_len, {self._q_heads}, {self._head_dim})")
            batch, q_len = shape[0], math.prod(shape[1:-2])
            if q_len > self._q_len:
                raise ArgumentError(f"q has {q_len} queries of a sequence, and the cache was made for q_len={self._q_len}")
            table = tuple(getattr(page_table, "shape", ()))
            if len(table) != 2 or table[0] != batch:
                raise ArgumentError(f"page_table has the shape {table}; it is ({batch}, pages)")
            pages = call.flat("page_table", page_table, "i32", table)
            counts = call.flat("lengths", lengths, "i32", (batch,))
            own = 0 if q_lens is None else call.flat("q_lens", q_lens, "i32", (batch,))
            exact, of_exact = (0, 0, 0), 0
            if blocks > 0:
                exact = call.other_pool("exact_pool", exact_pool, self._cache.exact_block_bytes(layer))
                of_exact = call.flat("exact_table", exact_table, "i32", (batch, blocks))
            o = out if out is not None else kind.empty(shape, "io", q)
            o_view = checked_result(kind, o, "out", tuple(shape), self._io, view.device)
            lse_shape = (batch, self._q_heads, q_len)
            lse = kind.empty(lse_shape, "f32", q) if return_lse else None
            lse_view = None if lse is None else checked_result(kind, lse, "lse", lse_shape, "f32", view.device)
            if math.prod(shape) > 0:
                sizes = dict(batch=batch, q_len=q_len, max_pages=int(table[1]), splits=splits)
                size = self._cache.workspace_bytes(layer, **sizes)
                workspace = call.workspace(size)
                q_place = call.place(view, heads=len(shape) - 2, tokens=len(shape) - 3)
                o_place = call.place(o_view, heads=len(shape) - 2, tokens=len(shape) - 3, result=True)
                lse_place = 0 if lse_view is None else call.place(lse_view, heads=1, tokens=2, result=True)[0]
                self._cache.decode(layer, call.pool(), **sizes, q=q_place, page_table=pages, lengths=counts, q_lens=own, exact=exact,
                                   exact_table=of_exact, o=o_place, lse=lse_place, scale=number, workspace=workspace, workspace_bytes=size, stream=call.stream)
                call.fetch(pool=False)
        return o if lse is None else (o, lse)

    def gather(self, layer: int, pool: Any, page_table: Any, indptr: Any, k: Any, v: Any, *, longest: int | None = None,
               lengths: Any = None, k_mean: Any = None) -> None:
        """Writes what pages hold as rows of 16 bits into k and v: those of a packed call of attention(), for prompts whose prefix is
        in the cache. The cache was made with gather=True.

        page_table: int32 [batch, pages]. indptr: int32 [batch + 1], as cu_seqlens_kv: sequence b has the rows indptr[b] to
            indptr[b + 1] - 1 of k and v, [rows, kv_heads, head_dim] of the cache's dtype.
        longest: the most tokens that a sequence may have, by default all rows. lengths: int32 [batch], tokens of each sequence that
            are wanted; rows behind them are left as they are: new tokens, which attention is to read as they came.
        k_mean: float32 [kv_heads, head_dim], as append() had it: it is added again.
        """
        layer = self._number(layer)
        with self._call(pool, self._cache.page_bytes(layer)) as call:
            views = call.rows("k", k, writable=True), call.rows("v", v, writable=True)
            rows = views[0].shape[0]
            if views[1].shape[0] != rows:
                raise ArgumentError(f"k has {rows} rows and v {views[1].shape[0]}; they are the same")
            table = tuple(getattr(page_table, "shape", ()))
            if len(table) != 2:
                raise ArgumentError(f"page_table has the shape {table}; it is (batch, pages)")
            _need(k_mean is not None, self._smooths, "k_mean", "no smooth_k")
            pages = call.flat("page_table", page_table, "i32", table)
            places = call.flat("indptr", indptr, "i32", (int(table[0]) + 1,))
            wanted = 0 if lengths is None else call.flat("lengths", lengths, "i32", (int(table[0]),))
            mean = call.flat("k_mean", k_mean, "f32", (self._kv_heads, self._head_dim)) if self._smooths else 0
            most = rows if longest is None else whole("longest", longest, 1, LARGEST_INT)
            if rows == 0:
                return
            k_place, v_place = (call.place(view, heads=1, tokens=0, result=True, load=True) for view in views)
            self._cache.gather(layer, call.pool(), batch=int(table[0]), rows=rows, longest=most, max_pages=int(table[1]),
                               page_table=pages, indptr=places, lengths=wanted, k=k_place, v=v_place, k_mean=mean, stream=call.stream)
            call.fetch(pool=False)

    def copy_pages(self, layer: int, pool: Any, source: Sequence[int], to: Sequence[int]) -> None:
        """Page source[i] to page to[i], one after the other: before a page that sequences have in common is written."""
        layer = self._number(layer)
        numbers = []
        for name, pages in (("source", source), ("to", to)):
            listed = sequence(name, pages, "a list of page numbers")
            numbers.append([whole(f"{name}[{i}]", page, 0, LARGEST_INT) for i, page in enumerate(listed)])
        with self._call(pool, self._cache.page_bytes(layer)) as call:
            self._cache.copy_pages(layer, call.pool(), source=numbers[0], to=numbers[1], stream=call.stream)
            call.fetch()

    def _number(self, layer: int) -> int:
        return whole("layer", layer, 0, self._cache.layers - 1)

    @contextmanager
    def _call(self, pool: Any, page_bytes: int) -> Iterator[_Call]:
        with ExitStack() as stack:
            if self._device.is_emulator:
                stack.enter_context(self._turn)
            yield _Call(self._slot, self._device, stack, pool, page_bytes, self._kv_heads, self._head_dim, self._io)


def _need(given: bool, needed: bool, name: str, without: str) -> None:
    if needed and not given:
        raise ArgumentError(f"{name} is missing, which a cache with its options takes")
    if given and not needed:
        raise ArgumentError(f"{name} is given, and the cache has {without}; leave it out")


def _length(name: str, array: Any) -> int:
    shape = tuple(getattr(array, "shape", ()))
    if len(shape) != 1:
        raise ArgumentError(f"{name} has the shape {shape}; it has one axis")
    return int(shape[0])


class _Call:
    """The arrays of one call, on their way to the device and back."""

    def __init__(self, slot: Slot, device: Device, stack: ExitStack, pool: Any, page_bytes: int, kv_heads: int, head_dim: int,
                 io: str) -> None:
        self._slot, self._stack, self._like, self._io = slot, stack, pool, io
        self._row = (kv_heads, head_dim)
        self._kind = kind_of(pool)
        self._pool = self._kind.view(pool, "pool", writable=True)
        need_dtype(self._pool, ["u8"], "it is uint8, the bytes of pages")
        if len(self._pool.shape) != 2 or self._pool.shape[1] != page_bytes:
            raise ArgumentError(f"pool has the shape {tuple(self._pool.shape)}; it is (pages, {page_bytes}), the bytes of a page of the "
                                "layer")
        if self._pool.strides[1] != 1:
            raise ArgumentError(f"pool: the stride of its last axis is {self._pool.strides[1]}; the bytes of a page are contiguous")
        if self._pool.on_host and not device.is_emulator:
            raise ArgumentError(f"pool is on the host, and the kernels of the cache on {device.name}; they are on the same device")
        if not self._pool.on_host and self._pool.device != device.name:
            raise ArgumentError(f"pool is on {self._pool.device}, and the kernels of the cache on {device.name}; they are on the same device")
        self._staged = Staged(slot, copies=self._pool.on_host)
        self._results: list[tuple[_core.Memory, _core.Tensor]] = []
        self._pool_memory: _core.Memory | None = None
        self.stream = 0 if self._pool.on_host else self._kind.stream(pool)

    def check(self, view: View, dtype: str) -> None:
        need_dtype(view, [dtype], f"it is {dtype}")
        if view.device != self._pool.device:
            raise ArgumentError(f"{view.name} is on {view.device} and pool on {self._pool.device}; they are on the same device")
        if math.prod(view.shape) > 0 and view.shape[-1] > 1 and view.strides[-1] != 1:
            raise ArgumentError(f"{view.name}: the stride of its last axis is {view.strides[-1]}; it is 1: give a contiguous copy")

    def rows(self, name: str, array: Any, writable: bool = False) -> View:
        view = kind_of(array).view(array, name, writable)
        self.check(view, self._io)
        if len(view.shape) != 3 or view.shape[1:] != self._row:
            raise ArgumentError(f"{name} has the shape {tuple(view.shape)}; it is (tokens, {self._row[0]}, {self._row[1]})")
        return view

    def flat(self, name: str, array: Any, dtype: str, shape: tuple[int, ...]) -> int:
        """Address of an array without gaps."""
        view = kind_of(array).view(array, name)
        self.check(view, dtype)
        if tuple(view.shape) != shape:
            raise ArgumentError(f"{name} has the shape {tuple(view.shape)}; it is {shape}")
        if len(shape) == 2 and shape[0] > 1 and view.strides[0] != shape[1] and not view.on_host:
            raise ArgumentError(f"{name} has gaps between its rows; give a contiguous copy")
        return self._staged.place(view)[0]

    def place(self, view: View, heads: int, tokens: int, result: bool = False, load: bool = False) -> tuple[int, int, int, int]:
        """Address, and elements from a batch, head and token to the next; heads, tokens: their axes. load: of a result, what is not
        written stays."""
        address, strides, memory = self._staged.place(view, load=load or not result)
        if result and memory is not None and view.tensor is not None:
            self._results.append((memory, view.tensor))
        return address, strides[0], strides[heads], strides[tokens]

    def pool(self) -> tuple[int, int, int]:
        address, strides, self._pool_memory = self._staged.place(self._pool)
        return address, self._pool.shape[0], strides[0]

    def other_pool(self, name: str, array: Any, page_bytes: int, written: bool = False) -> tuple[int, int, int]:
        """As pool(), of one beside it."""
        view = kind_of(array).view(array, name, written)
        self.check(view, "u8")
        if len(view.shape) != 2 or view.shape[1] != page_bytes:
            raise ArgumentError(f"{name} has the shape {tuple(view.shape)}; it is (blocks, {page_bytes}), the bytes of a block of the layer")
        address, strides, memory = self._staged.place(view)
        if written and memory is not None and view.tensor is not None:
            self._results.append((memory, view.tensor))
        return address, view.shape[0], strides[0]

    def workspace(self, size: int) -> int:
        if self._pool.on_host:
            return self._stack.enter_context(self._slot.workspace(0, size))
        return self._stack.enter_context(self._kind.workspace(size, self._like, self._slot, self.stream))

    def fetch(self, pool: bool = True) -> None:
        """What was computed for arrays of the host, back to them."""
        if not self._staged.copies:
            return
        self._slot.device.synchronize()
        for memory, tensor in self._results:
            memory.download(tensor)
        if pool and self._pool_memory is not None and self._pool.tensor is not None:
            self._pool_memory.download(self._pool.tensor)
