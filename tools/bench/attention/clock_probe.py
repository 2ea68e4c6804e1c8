"""The SM clock as the GPU itself counts it: a kernel that compares %clock64 with %globaltimer.

It also keeps the GPU busy while the host enqueues what is timed, so that launch overhead of a slow host API
does not end up between two events. Loaded through libcuda with ctypes, in the context that PyTorch made
current.
"""
import ctypes

PTX = b"""
.version 7.0
.target sm_70
.address_size 64
.visible .entry sagegen_clock_probe(.param .u64 result, .param .u64 nanoseconds)
{
  .reg .pred %p<2>;
  .reg .b64 %rd<10>;
  ld.param.u64 %rd1, [result];
  ld.param.u64 %rd2, [nanoseconds];
  cvta.to.global.u64 %rd1, %rd1;
  mov.u64 %rd3, %globaltimer;
edge:                               // the timer ticks coarsely: begin at a tick
  mov.u64 %rd4, %globaltimer;
  setp.eq.u64 %p0, %rd4, %rd3;
  @%p0 bra edge;
  mov.u64 %rd5, %clock64;
  add.u64 %rd6, %rd4, %rd2;
spin:
  mov.u64 %rd7, %globaltimer;
  setp.lt.u64 %p1, %rd7, %rd6;
  @%p1 bra spin;
  mov.u64 %rd8, %clock64;
  sub.u64 %rd8, %rd8, %rd5;
  sub.u64 %rd9, %rd7, %rd4;
  st.global.u64 [%rd1], %rd8;
  st.global.u64 [%rd1+8], %rd9;
  ret;
}
"""


class ClockProbe:
    """`address`: device memory for `slots` pairs of 64-bit integers (clocks, nanoseconds)."""

    def __init__(self, address):
        self.cuda = ctypes.CDLL("libcuda.so.1")
        self.address = address
        module, self.function = ctypes.c_void_p(), ctypes.c_void_p()
        self._check(self.cuda.cuModuleLoadData(ctypes.byref(module), ctypes.c_char_p(PTX)))
        self._check(self.cuda.cuModuleGetFunction(ctypes.byref(self.function), module,
                                                  b"sagegen_clock_probe"))

    @staticmethod
    def _check(result):
        if result != 0:
            raise RuntimeError(f"clock probe: the CUDA driver answers {result}")

    def launch(self, slot, microseconds, stream):
        result = ctypes.c_uint64(self.address + 16 * slot)
        nanoseconds = ctypes.c_uint64(int(1e3 * microseconds))
        arguments = (ctypes.c_void_p * 2)(*(ctypes.addressof(value) for value in (result, nanoseconds)))
        self._check(self.cuda.cuLaunchKernel(self.function, 1, 1, 1, 1, 1, 1, 0, ctypes.c_void_p(stream),
                                             arguments, None))


def megahertz(clocks, nanoseconds):
    return 1e3 * clocks / nanoseconds if nanoseconds > 0 else None
