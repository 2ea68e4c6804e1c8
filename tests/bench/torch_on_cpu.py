"""TorchPlatform with the real PyTorch on a machine without a GPU: torch.cuda is replaced by stand-ins that
run everything at once, and tensors live on the CPU. It shows that names and arguments are right, and the
arithmetic; times mean nothing.
"""
import contextlib
import time
import types
from unittest import mock

import torch


class Event:
    def __init__(self, enable_timing=False):
        assert enable_timing
        self.seconds = None

    def record(self):
        self.seconds = time.perf_counter()

    def elapsed_time(self, end):
        return max(1e-3, 1e3 * (end.seconds - self.seconds))


class Stream:
    cuda_stream = 0


class CUDAGraph:
    captured = None

    def replay(self):
        pass


@contextlib.contextmanager
def _nothing(_):
    yield


PROPERTIES = types.SimpleNamespace(name="pretended GPU", major=9, minor=0, multi_processor_count=1,
                                   total_memory=1, L2_cache_size=4096, uuid="none")


@contextlib.contextmanager
def pretended_gpu():
    with mock.patch.multiple(
            torch.cuda, is_available=lambda: True, set_device=lambda index: None, synchronize=lambda: None,
            get_device_properties=lambda index: PROPERTIES, Event=Event, Stream=Stream, stream=_nothing,
            CUDAGraph=CUDAGraph, graph=_nothing, current_stream=Stream, empty_cache=lambda: None,
            _sleep=lambda cycles: None), mock.patch.object(torch.backends.cudnn, "version", lambda: 0):
        from attention import platform_torch

        class Platform(platform_torch.TorchPlatform):
            @staticmethod
            def device_name(index):
                return "cpu"
        before = torch.is_grad_enabled()
        try:
            yield Platform()
        finally:
            torch.set_grad_enabled(before)
