"""libsagegen through ctypes: the C API of sagegen/sagegen.h as far as the benchmark needs it."""
import ctypes
import hashlib
import os
from ctypes import (POINTER, Structure, byref, c_char_p, c_float, c_int, c_int32, c_int64, c_size_t,
                    c_uint64, c_void_p)

ABI_VERSION = 1   # of the header that this file follows


class Error(Exception):
    """A failed call, with the library's own words."""


class Sized(Structure):
    """A struct that a call takes by pointer: the library reads as much of it as it says."""
    _fields_ = [("struct_size", c_size_t)]

    def __init__(self, *args, **kwargs):
        super().__init__(ctypes.sizeof(type(self)), *args, **kwargs)


class AttentionOptions(Sized):
    _fields_ = [("kernel", c_char_p), ("ptx_directory", c_char_p), ("tuning", c_char_p),
                ("max_workspace_bytes", c_int64), ("invariance", c_char_p)]


class CShape(Sized):
    _fields_ = [(name, c_int64) for name in ("batch", "q_heads", "kv_heads", "q_len", "kv_len", "total_q",
                                              "total_kv")]


class Tensor(Structure):
    _fields_ = [("data", c_uint64)] + [(f"stride_{axis}", c_int64) for axis in ("batch", "head", "token")]


class Arguments(Sized):
    _fields_ = [("q", Tensor), ("k", Tensor), ("v", Tensor), ("o", Tensor), ("lse", c_uint64),
                ("softmax_scale", c_float), ("causal_alignment", c_int32), ("mods", c_void_p),
                ("mod_count", c_size_t), ("cu_seqlens_q", c_uint64),
                ("cu_seqlens_kv", c_uint64), ("o_scale", c_uint64)]


def hnd(address, heads, tokens, channels):
    """A contiguous [batch, head, token, channel] tensor."""
    return Tensor(address, heads * tokens * channels, tokens * channels, channels)


class Library:
    def __init__(self, path):
        self.path = os.path.abspath(path)
        with open(self.path, "rb") as file:   # PTX is embedded in it: other kernels are another digest
            self.digest = hashlib.sha256(file.read()).hexdigest()[:16]
        self.handle = ctypes.CDLL(self.path)
        abi = self.handle.sagegen_abi_version() if hasattr(self.handle, "sagegen_abi_version") else 0
        if abi != ABI_VERSION:
            raise Error(f"{self.path} has version {abi} of the C API, and this benchmark is written for {ABI_VERSION}; "
                        "give a libsagegen.so of the same sources")
        enqueue = [c_void_p, POINTER(CShape), POINTER(Arguments), c_uint64, c_size_t, c_void_p]
        signatures = {
            "version": (c_char_p, []), "last_error": (c_char_p, []), "status_name": (c_char_p, [c_int]),
            "device_create": (c_int, [c_char_p, POINTER(c_void_p)]), "device_destroy": (None, [c_void_p]),
            "device_name": (c_char_p, [c_void_p]), "device_compute_capability": (c_int, [c_void_p]),
            "device_kernel": (c_char_p, [c_void_p, c_size_t]), "device_synchronize": (c_int, [c_void_p]),
            "memory_alloc": (c_int, [c_void_p, c_size_t, POINTER(c_uint64)]),
            "memory_free": (c_int, [c_void_p, c_uint64]),
            "memory_upload": (c_int, [c_void_p, c_uint64, c_void_p, c_size_t]),
            "memory_download": (c_int, [c_void_p, c_void_p, c_uint64, c_size_t]),
            "attention_create": (c_int, [c_void_p, POINTER(AttentionOptions), POINTER(c_void_p)]),
            "attention_destroy": (None, [c_void_p]), "attention_kernel": (c_char_p, [c_void_p]),
            "attention_workspace_bytes": (c_int, [c_void_p, POINTER(CShape), POINTER(c_size_t)]),
            "attention_run": (c_int, enqueue), "attention_quantize": (c_int, enqueue),
            "attention_attend": (c_int, enqueue),
        }
        for name, (result, arguments) in signatures.items():
            function = getattr(self.handle, f"sagegen_{name}")
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)

    def check(self, status):
        if status != 0:
            raise Error(f"{self.status_name(status).decode()}: {self.last_error().decode(errors='replace')}")

    def versions(self):
        return {"libsagegen": f"{self.version().decode()} sha256:{self.digest}"}


class Device:
    """A device handle; memory allocated here is freed with it."""

    def __init__(self, library, name):
        self.library, self.handle, self.allocations = library, c_void_p(), set()
        library.check(library.device_create(name.encode(), byref(self.handle)))

    def kernels(self):
        """Keys of the embedded attention kernels that run on this device."""
        keys = []
        while (key := self.library.device_kernel(self.handle, len(keys))) is not None:
            keys.append(key.decode())
        return keys

    def compute_capability(self):
        return self.library.device_compute_capability(self.handle)

    def allocate(self, size):
        address = c_uint64()
        self.library.check(self.library.memory_alloc(self.handle, size, byref(address)))
        self.allocations.add(address.value)
        return address.value

    def free(self, address):
        self.allocations.discard(address)
        self.library.check(self.library.memory_free(self.handle, address))

    def upload(self, address, data):
        self.library.check(self.library.memory_upload(self.handle, address, bytes(data), len(data)))

    def download(self, address, size):
        buffer = ctypes.create_string_buffer(size)
        self.library.check(self.library.memory_download(self.handle, buffer, address, size))
        return buffer.raw

    def close(self):
        if self.handle:
            for address in list(self.allocations):
                self.free(address)
            self.library.device_destroy(self.handle)
            self.handle = c_void_p()


class Plan:
    """An attention plan of one kernel, by key or option text, on a device."""

    def __init__(self, device, kernel, *, ptx_directory=None):
        self.library, self.handle = device.library, c_void_p()
        options = AttentionOptions(kernel=kernel.encode(),
                                   ptx_directory=ptx_directory.encode() if ptx_directory else None)
        self.library.check(self.library.attention_create(device.handle, byref(options), byref(self.handle)))

    def kernel(self):
        return self.library.attention_kernel(self.handle).decode()

    def workspace_bytes(self, shape):
        size = c_size_t()
        self.library.check(self.library.attention_workspace_bytes(self.handle, byref(shape), byref(size)))
        return size.value

    def enqueue(self, part, shape, arguments, workspace, workspace_bytes, stream):
        """part: "run", "quantize" or "attend"."""
        function = getattr(self.library, f"attention_{part}")
        self.library.check(function(self.handle, byref(shape), byref(arguments), workspace, workspace_bytes,
                                    stream or None))

    def close(self):
        if self.handle:
            self.library.attention_destroy(self.handle)
            self.handle = c_void_p()
