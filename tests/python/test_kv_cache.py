"""KvCache on NumPy arrays in the emulator, and on PyTorch's of the host, against double precision."""
import numpy as np
import pytest
from conftest import exact, needs_generator, normal, relative_l1

import sagegen

pytestmark = needs_generator   # not all of these kernels are embedded

DEVICE = "emulator:sm_89"
DIM, HEADS, GROUP, PAGES = 64, 2, 4, 6


def cache_of(layers, **more):
    options = dict(kv_heads=HEADS, q_heads=HEADS * GROUP, head_dim=DIM, page_tokens=32, device=DEVICE)
    return sagegen.KvCache(layers, **{**options, **more})


def pool_of(cache, layer, pages=PAGES):
    return np.full((pages, cache.page_bytes(layer)), 255, np.uint8)


def rows(tokens, seed=1, dtype="float16"):
    return normal(tokens, HEADS, DIM, seed=seed, dtype=dtype), normal(tokens, HEADS, DIM, seed=seed + 50, dtype=dtype)


def slots_of(table, tokens, page_tokens=32):
    return np.array([table[t // page_tokens] * page_tokens + t % page_tokens for t in range(tokens)], np.int64)


def attended(q, k, v, causal=False):
    """[batch, q_len, heads, channels] of one sequence."""
    o, lse = exact(q.transpose(0, 2, 1, 3), k.transpose(1, 0, 2)[None], v.transpose(1, 0, 2)[None], causal=causal, bottom_right=True)
    return o.transpose(0, 2, 1, 3), lse


# What the codes cost on N(0, 1): tests/numerics hold the kernels to more.
@pytest.mark.parametrize("pair, limit", [("KV16", 0.002), ("KV8", 0.02), ("K8V4", 0.12), ("KV4", 0.2)])
def test_append_and_decode(pair, limit):
    cache = cache_of(["KV16", pair])
    k, v = rows(75)
    table = np.array([[4, 0, 2]], np.int32)
    pool, slots = pool_of(cache, 1), slots_of(table[0], 75)
    cache.append(1, pool, k[:60], v[:60], slots=slots[:60])
    for t in range(60, 75):
        cache.append(1, pool, k[t:t + 1], v[t:t + 1], slots=slots[t:t + 1])
    at_once = pool_of(cache, 1)
    cache.append(1, at_once, k, v, slots=slots)
    assert np.array_equal(pool, at_once)

    q = normal(1, HEADS * GROUP, DIM, seed=9)
    o, lse = cache.decode(1, pool, q, table, np.array([75], np.int32), return_lse=True)
    assert (o.shape, o.dtype, lse.shape, lse.dtype) == (q.shape, q.dtype, (1, HEADS * GROUP, 1), np.float32)
    want, want_lse = attended(q[:, None], k, v)
    assert relative_l1(o, want[:, 0]) < limit
    assert np.abs(lse - want_lse).max() < 3 * limit
    out = np.zeros_like(q)
    assert cache.decode(1, pool, q, table, np.array([75], np.int32), out=out) is out and np.array_equal(out, o)
    assert relative_l1(cache.decode(1, pool, q, table, np.array([40], np.int32)), attended(q[:, None], k[:40], v[:40])[0][:, 0]) < limit
    scaled = cache.decode(1, pool, 2 * q, table, np.array([75], np.int32), scale=0.5 / np.sqrt(DIM))
    assert relative_l1(scaled, want[:, 0]) < limit


def test_layers_share_kernels():
    cache = cache_of("0-1:KV8, 2-9:K8V4, 10:KV8 page_tokens=64")
    assert len(cache.layers) == 11 and len(cache.kernels) == 4
    assert cache.layers[2] == "head_dim=64 io=f16 k_bits=8 v_bits=4 page_tokens=32 layout=hnd k_codes=asymmetric v_codes=asymmetric"
    assert cache.page_bytes(2) == HEADS * 32 * (64 + 32 + 8)
    assert cache.page_bytes(10) == 2 * cache.page_bytes(0) and cache.page_tokens(10) == 64


def test_several_queries_and_sequences_of_pages():
    cache = cache_of("K8V16", q_len=2, causal=True, addressing="pages", rotation="hadamard", layout="NHD")
    lengths = [70, 33]
    tables = np.array([[5, 1, 3], [0, 2, 4]], np.int32)
    k, v = rows(sum(lengths))
    pool = pool_of(cache, 0)
    cache.append(0, pool, k, v, append_indptr=np.array([0, 70, 103], np.int32), page_indptr=np.array([0, 3, 5], np.int32),
                 page_indices=np.array([5, 1, 3, 0, 2], np.int32), last_page_len=np.array([6, 1], np.int32))
    q = normal(2, 2, HEADS * GROUP, DIM, seed=9)
    o = cache.decode(0, pool, q, tables, np.array(lengths, np.int32), splits=2)
    for i, (first, last) in enumerate(((0, 70), (70, 103))):
        assert relative_l1(o[i:i + 1], attended(q[i:i + 1], k[first:last], v[first:last], causal=True)[0]) < 0.01


def test_what_is_done_to_keys():
    cache = cache_of(["KV8", "KV16"], rope="neox", smooth_k=True)
    assert cache.smooths(0) and not cache.smooths(1)
    k, v = rows(32)
    k = k + np.float16(3)
    angles = np.arange(40)[:, None] / 100 ** (np.arange(DIM // 2) / (DIM // 2))
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    positions = np.arange(3, 35, dtype=np.int64)
    half = k[..., :DIM // 2].astype(np.float64), k[..., DIM // 2:].astype(np.float64)
    c, s = cos[positions][:, None], sin[positions][:, None]
    embedded = np.concatenate([half[0] * c - half[1] * s, half[1] * c + half[0] * s], axis=-1)
    q = normal(1, HEADS * GROUP, DIM, seed=9)
    mean = embedded.mean(axis=0).astype(np.float32)
    for layer in range(2):
        pool = pool_of(cache, layer)
        cache.append(layer, pool, k, v, slots=np.arange(32), positions=positions, cos=cos, sin=sin, k_mean=mean)
        o, lse = cache.decode(layer, pool, q, np.zeros((1, 1), np.int32), np.array([32], np.int32), return_lse=True)
        want, want_lse = attended(q[:, None], embedded, v)
        assert relative_l1(o, want[:, 0]) < 0.02
        taken = np.einsum("hd,hd->h", q[0].astype(np.float64), np.repeat(mean, GROUP, axis=0)) / np.sqrt(DIM)
        assert np.abs(lse[0, :, 0] + (taken if cache.smooths(layer) else 0) - want_lse[0, :, 0]).max() < 0.05


def test_copied_pages():
    cache = cache_of("K8V4")
    k, v = rows(40)
    pool = pool_of(cache, 0)
    cache.append(0, pool, k, v, slots=slots_of([0, 1], 40))
    before = pool.copy()
    cache.copy_pages(0, pool, [1, 0], [3, 5])
    assert np.array_equal(pool[[3, 5]], before[[1, 0]]) and np.array_equal(pool[[0, 1, 2, 4]], before[[0, 1, 2, 4]])


def test_tensors_of_pytorch():
    torch = pytest.importorskip("torch")
    cache = cache_of("K8V4", dtype="bfloat16")
    k, v = (torch.from_numpy(x).to(torch.bfloat16) for x in rows(50, dtype="float32"))
    pool = torch.zeros((4, cache.page_bytes(0)), dtype=torch.uint8)
    cache.append(0, pool, k, v, slots=torch.arange(50))
    q = torch.from_numpy(normal(1, HEADS * GROUP, DIM, seed=9, dtype="float32")).to(torch.bfloat16)
    o = cache.decode(0, pool, q, torch.arange(4, dtype=torch.int32)[None], torch.tensor([50], dtype=torch.int32))
    assert o.dtype == torch.bfloat16 and o.shape == q.shape
    want = attended(q[:, None].float().numpy(), k.float().numpy(), v.float().numpy())[0][:, 0]
    assert relative_l1(o.float().numpy(), want) < 0.12


def test_nothing_is_nothing():
    cache = cache_of("K8V4")
    pool = pool_of(cache, 0)
    before = pool.copy()
    k, v = rows(0)
    cache.append(0, pool, k, v, slots=np.zeros(0, np.int64))
    cache.copy_pages(0, pool, [], [])
    assert np.array_equal(pool, before)
    assert cache.decode(0, pool, np.zeros((0, HEADS * GROUP, DIM), np.float16), np.zeros((0, 1), np.int32), np.zeros(0, np.int32)).shape[0] == 0


@pytest.mark.parametrize("given, kind, words", [
    (dict(layers="0:K8V4, 2:KV8"), sagegen.SpecError, "layer 1 is missing"),
    (dict(layers=["KV8", "K8V3"]), sagegen.SpecError, "v_bits 3 is refused"),
    (dict(layers=["KV8", 4]), TypeError, "layers[1] 4 is refused: it is a pair such as K8V4"),
    (dict(layers=8), TypeError, "layers 8 is refused"),
    (dict(head_dim=100), sagegen.SpecError, "head_dim 100 is refused"),
    (dict(dtype="float32"), ValueError, "dtype 'float32' is refused: there are 'float16', 'bfloat16'"),
    (dict(page_tokens=24), sagegen.SpecError, "page_tokens 24 is refused"),
    (dict(rope="gptj"), ValueError, "rope 'gptj' is refused: there are 'neox', 'interleaved'"),
    (dict(rotation=True), TypeError, "rotation True is refused"),
    (dict(kv_heads=3), sagegen.SpecError, "q_heads 8 is no multiple of kv_heads 3"),
    (dict(q_len=17), sagegen.SpecError, "q_len 17 is refused"),
    (dict(addressing="blocks"), ValueError, "addressing 'blocks'"),
    (dict(smooth_k=1), TypeError, "smooth_k 1 is refused"),
])
def test_refused_caches(given, kind, words):
    given = dict(given)
    with pytest.raises(kind) as caught:
        cache_of(given.pop("layers", "KV8"), **given)
    assert words in str(caught.value)


def test_refused_calls():
    cache = cache_of("K8V4")
    pool = pool_of(cache, 0)
    k, v = rows(4)
    slots = np.arange(4)
    append = dict(layer=0, pool=pool, k=k, v=v, slots=slots)
    q = normal(1, HEADS * GROUP, DIM)
    decode = dict(layer=0, pool=pool, q=q, page_table=np.zeros((1, 1), np.int32), lengths=np.array([4], np.int32))
    i32 = np.zeros(2, np.int32)
    for call, given, change, words in [
            (cache.append, append, dict(layer=1), "layer 1 is refused: it is a whole number from 0 to 0"),
            (cache.append, append, dict(pool=pool[:, :-1]), "pool has the shape"),
            (cache.append, append, dict(pool=pool.astype(np.int32)), "pool is of dtype i32; it is uint8"),
            (cache.append, append, dict(k=k[:, :1]), "k has the shape (4, 1, 64); it is (tokens, 2, 64)"),
            (cache.append, append, dict(v=v.astype(np.float32)), "v is of dtype f32; it is f16"),
            (cache.append, append, dict(v=v[:3]), "k has 4 tokens and v 3"),
            (cache.append, append, dict(slots=None), "slots is missing"),
            (cache.append, append, dict(slots=slots.astype(np.int32)), "slots is of dtype i32; it is i64"),
            (cache.append, append, dict(slots=slots[:2]), "slots has the shape (2,); it is (4,)"),
            (cache.append, append, dict(page_indptr=i32), "page_indptr is given, and the cache has addressing slots"),
            (cache.append, append, dict(cos=np.zeros((1, 32), np.float32)), "cos is given, and the cache has no rope"),
            (cache.append, append, dict(k_mean=np.zeros((2, 64), np.float32)), "k_mean is given, and the cache has no smooth_k"),
            (cache.decode, decode, dict(q=q[0]), "q has the shape (8, 64)"),
            (cache.decode, decode, dict(q=normal(1, 2, HEADS * GROUP, DIM)), "the cache was made for q_len=1"),
            (cache.decode, decode, dict(page_table=i32), "page_table has the shape (2,); it is (1, pages)"),
            (cache.decode, decode, dict(lengths=i32), "lengths has the shape (2,); it is (1,)"),
            (cache.decode, decode, dict(splits=-1), "splits -1 is refused"),
            (cache.decode, decode, dict(splits=257), "splits is 257"),
            (cache.decode, decode, dict(scale=0), "scale 0 is refused"),
            (cache.decode, decode, dict(out=q[0]), "out has the shape")]:
        with pytest.raises((sagegen.Error, TypeError, ValueError)) as caught:
            call(**{**given, **change})
        assert words in str(caught.value), words
    for source, to, words in [([0], [0, 1], "1 pages are copied to 2"), ([6], [0], "page 6 of copy 0"), ([2], [2], "to itself"),
                              ([0.5], [1], "source[0] 0.5 is refused"), (0, [1], "source 0 is refused")]:
        with pytest.raises((sagegen.Error, TypeError, ValueError)) as caught:
            cache.copy_pages(0, pool, source, to)
        assert words in str(caught.value)
    read_only = pool.copy()
    read_only.flags.writeable = False
    with pytest.raises(sagegen.ArgumentError, match="pool is read-only"):
        cache.append(**{**append, "pool": read_only})


def test_sinks_and_a_window_are_exact():
    """A sequence that lies in sinks and window, and one that does not."""
    cache = cache_of("K4V2", sinks=32, window=64)
    blocks = cache.exact_blocks(0)
    assert blocks == (32 + 64 + 32) // 16 and cache.exact_block_bytes(0) == HEADS * 16 * DIM * 4
    lengths, tables = [100, 200], np.array([[4, 0, 2, 7, 1, 3, 9], [5, 6, 8, 10, 11, 12, 13]], np.int32)
    exact_table = np.arange(2 * blocks, dtype=np.int32)[::-1].reshape(2, blocks).copy()
    pool, exact = pool_of(cache, 0, 14), np.full((2 * blocks, cache.exact_block_bytes(0)), 255, np.uint8)
    keys, values = [], []
    for i, length in enumerate(lengths):
        k, v = rows(length, seed=i + 1)
        places = [cache.exact_place(t, length) for t in range(length)]
        cache.append(0, pool, k, v, slots=slots_of(tables[i], length), exact_pool=exact,
                     exact_slots=np.array([-1 if p < 0 else exact_table[i, p // 16] * 16 + p % 16 for p in places], np.int64))
        keys.append(k)
        values.append(v)
    q = normal(2, HEADS * GROUP, DIM, seed=9)
    more = dict(exact_pool=exact, exact_table=exact_table)
    o = cache.decode(0, pool, q, tables, np.array(lengths, np.int32), **more)
    want = [attended(q[i:i + 1, None], keys[i], values[i])[0][:, 0] for i in range(2)]
    assert relative_l1(o[:1], want[0]) < 0.001
    plain = cache_of("K4V2")
    of_codes = plain.decode(0, pool, q, tables, np.array(lengths, np.int32))
    assert 0.05 < relative_l1(o[1:], want[1]) < 0.85 * relative_l1(of_codes[1:], want[1])
    padded = cache.decode(0, pool, q, tables, np.array(lengths, np.int32), q_lens=np.array([1, 0], np.int32), **more)
    assert np.array_equal(padded[0], o[0]) and not padded[1].any()

    with pytest.raises(sagegen.ArgumentError, match="exact_pool is missing"):
        cache.decode(0, pool, q, tables, np.array(lengths, np.int32))
    with pytest.raises(sagegen.ArgumentError, match="the bytes of a block"):
        cache.decode(0, pool, q, tables, np.array(lengths, np.int32), exact_pool=exact[:, 16:], exact_table=exact_table)
    assert plain.exact_blocks(0) == 0
    with pytest.raises(sagegen.ArgumentError, match="exact_slots is missing"):
        cache.append(0, pool, keys[0], values[0], slots=slots_of(tables[0], 100), exact_pool=exact)
    with pytest.raises(sagegen.ArgumentError, match="no exact tokens in this layer"):
        plain.append(0, pool, keys[0], values[0], slots=slots_of(tables[0], 100), exact_pool=exact, exact_slots=np.zeros(100, np.int64))
    with pytest.raises(sagegen.ArgumentError, match="no exact tokens in this layer"):
        plain.decode(0, pool, q, tables, np.array(lengths, np.int32), **more)
    with pytest.raises(sagegen.SpecError, match="multiple of 32"):
        cache_of("K4V2", sinks=20)


def test_prefixes_are_gathered():
    cache = cache_of("KV8", gather=True, smooth_k=True, rotation="hadamard")
    k, v = rows(70)
    mean = np.linspace(-1, 1, HEADS * DIM, dtype=np.float32).reshape(HEADS, DIM)
    table, pool = np.array([[4, 0, 2], [1, 1, 1]], np.int32), pool_of(cache, 0)
    cache.append(0, pool, k, v, slots=slots_of(table[0], 70), k_mean=mean)
    # 75 rows, of which the first 70 are in the cache and five are new; of the other sequence none is.
    got = normal(80, HEADS, DIM, seed=3), normal(80, HEADS, DIM, seed=4)
    before = [array.copy() for array in got]
    indptr = np.array([0, 75, 80], np.int32)
    cache.gather(0, pool, table, indptr, *got, lengths=np.array([70, 0], np.int32), k_mean=mean)
    for array, old, want, limit in zip(got, before, (k, v), (0.06, 0.02)):   # V within half a step, rotated K of all its steps
        assert np.abs(array[:70].astype(float) - want).max() < limit
        assert np.array_equal(array[70:], old[70:])
    with pytest.raises(sagegen.ArgumentError, match="without the option gather"):
        cache_of("KV8", smooth_k=True, rotation="hadamard").gather(0, pool, table, indptr, *got, k_mean=mean)
    with pytest.raises(sagegen.ArgumentError, match="k has 80 rows and v 79"):
        cache.gather(0, pool, table, indptr, got[0], got[1][:79], k_mean=mean)
