"""ring_attention() among processes, against one process that merges in the same order, and against double precision."""
import re
import socket

import numpy as np
import pytest
from conftest import exact, qkv, relative_l1

torch = pytest.importorskip("torch", reason="there is no PyTorch")
if not torch.distributed.is_available():
    pytest.skip("this PyTorch has no torch.distributed", allow_module_level=True)

import sagegen  # noqa: E402
from sagegen.distributed import Attended, chunks_of, merge, ring_attention  # noqa: E402

HEADS, LENGTH, DIM = 2, 96, 64


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def pieces(ranks, shards):
    return ranks if shards == "contiguous" else 2 * ranks


def shard(tensor, rank, ranks, shards, axis=2):
    parts = tensor.chunk(pieces(ranks, shards), dim=axis)
    return torch.cat([parts[piece] for piece in chunks_of(rank, ranks, shards)], dim=axis)


def one_process(q, k, v, ranks, shards, causal):
    """What each rank computes, without any process: keys of the rank itself first, then of those before it."""
    rows = []
    for rank in range(ranks):
        own = Attended(shard(q, rank, ranks, shards), rank, ranks, causal, shards, "HND", {})
        for step in range(ranks):
            source = (rank - step) % ranks
            if own.needs(source):
                own.add(shard(k, source, ranks, shards), shard(v, source, ranks, shards), source)
        rows.append(own.result(q.dtype))
    return rows


CASES = [(causal, shards) for causal in (False, True) for shards in ("contiguous", "zigzag")]


def run_cases(rank, ranks, group, inputs):
    results = []
    for causal, shards in CASES:
        mine = [shard(x, rank, ranks, shards) for x in inputs]
        results.append([x.numpy() for x in ring_attention(*mine, group, causal=causal, shards=shards, return_lse=True)])
    return results


def work(rank, ranks, port, queue):
    import torch.distributed as dist
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
    try:
        inputs = list(map(torch.from_numpy, qkv(heads=HEADS, q_len=LENGTH, dim=DIM)))
        got = {ranks: run_cases(rank, ranks, None, inputs)}
        pair = dist.new_group([2, 3])   # whose ranks are not those of the world
        if rank >= 2:
            got[2] = run_cases(rank - 2, 2, pair, inputs)
        mine = [shard(x, rank, ranks, "contiguous") for x in inputs]
        try:   # refused by the kernels, while K and V are under way: the next call on the group finds nothing of it
            ring_attention(*(x.float() for x in mine))
            got["failed"] = "taken"
        except sagegen.Error as error:
            got["failed"] = type(error).__name__
        try:
            ring_attention(*mine, causal=rank % 2 == 0)
            got["disagree"] = "taken"
        except sagegen.ArgumentError as error:
            got["disagree"] = str(error)
        nhd = [shard(x, rank, ranks, "contiguous").transpose(1, 2).contiguous() for x in inputs]
        got["nhd"] = ring_attention(*nhd, causal=True, layout="NHD").transpose(1, 2).numpy()
        try:
            ring_attention(*(x[:, :, :8 + rank] for x in inputs))
            got["refused"] = "taken"
        except sagegen.ArgumentError as error:
            got["refused"] = str(error)
        queue.put((rank, got))
        dist.barrier()
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_processes():
    """What four processes got, among four and among two of them."""
    ranks = 4
    queue = torch.multiprocessing.get_context("spawn").SimpleQueue()
    processes = torch.multiprocessing.start_processes(work, args=(ranks, free_port(), queue), nprocs=ranks, join=False, start_method="spawn")
    got = dict(queue.get() for _ in range(ranks)) if wait_for(processes, queue) else {}
    while not processes.join():
        pass
    return got


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("case", range(len(CASES)), ids=map(str, CASES))
def test_ring_attention(of_processes, ranks, case):
    causal, shards = CASES[case]
    q, k, v = qkv(heads=HEADS, q_len=LENGTH, dim=DIM)
    alone = one_process(*map(torch.from_numpy, (q, k, v)), ranks, shards, causal)
    o, lse = (torch.from_numpy(x) for x in exact(q, k, v, causal=causal))
    for rank in range(ranks):
        result, result_lse = of_processes[rank + (4 - ranks)][ranks][case]
        assert np.array_equal(result, alone[rank][0].numpy()) and np.array_equal(result_lse, alone[rank][1].numpy())
        assert relative_l1(result, shard(o, rank, ranks, shards).numpy()) < 0.05
        assert np.abs(result_lse - shard(lse, rank, ranks, shards).numpy()).max() < 0.09


def test_ring_attention_in_the_other_layout_and_refused(of_processes):
    for rank in range(4):
        assert np.array_equal(of_processes[rank]["nhd"], of_processes[rank][4][CASES.index((True, "contiguous"))][0])
        assert "give each rank as many tokens" in of_processes[rank]["refused"]
        assert of_processes[rank]["failed"] == "DTypeError"
        assert re.search("another causal, shards|give each rank the same", of_processes[rank]["disagree"])


def wait_for(processes, queue):
    """Whether results come: a process that failed raises here."""
    while queue.empty():
        if processes.join(timeout=0.2):
            return not queue.empty()
    return True


def test_merge_is_that_of_all_keys():
    q, k, v = (torch.from_numpy(x.astype(np.float64)) for x in qkv(q_len=30, kv_len=50))

    def part(begin, end):
        o, lse = exact(q.numpy(), k[:, :, begin:end].numpy(), v[:, :, begin:end].numpy())
        return torch.from_numpy(o).float(), torch.from_numpy(lse).float()

    o, lse = exact(q.numpy(), k.numpy(), v.numpy())
    merged, merged_lse = merge(*part(0, 20), *part(20, 50))
    assert np.abs(merged.numpy() - o).max() < 1e-5 and np.abs(merged_lse.numpy() - lse).max() < 1e-5
    # rows that saw nothing, on either side and on both
    nothing, none = torch.zeros_like(merged), torch.full_like(merged_lse, -torch.inf)
    assert all(torch.equal(a, b) for a, b in zip(merge(nothing, none, *part(0, 50)), part(0, 50)))
    assert all(torch.equal(a, b) for a, b in zip(merge(*part(0, 50), nothing, none), part(0, 50)))
    empty, empty_lse = merge(nothing, none, nothing, none)
    assert torch.equal(empty, nothing) and torch.isneginf(empty_lse).all()


def test_pieces_balance():
    assert [chunks_of(rank, 4, "zigzag") for rank in range(4)] == [[0, 7], [1, 6], [2, 5], [3, 4]]


def test_skips_what_no_row_sees():
    q = torch.zeros(1, 1, 4, 64, dtype=torch.float16)
    rows = Attended(q, 1, 4, True, "contiguous", "HND", {})
    assert [rows.needs(source) for source in range(4)] == [True, True, False, False]
    assert all(Attended(q, 1, 4, True, "zigzag", "HND", {}).needs(source) for source in range(4))
