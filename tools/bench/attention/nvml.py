"""Clocks, power and temperature through NVML, with ctypes. Reads only; no setting is ever changed."""
import ctypes

SM_CLOCK, GPU_TEMPERATURE = 1, 0   # nvmlClockType_t, nvmlTemperatureSensors_t


class Nvml:
    """Of one GPU, by UUID (CUDA_VISIBLE_DEVICES renumbers devices for CUDA only), or else by index."""

    def __init__(self, uuid, index):
        self.library = ctypes.CDLL("libnvidia-ml.so.1")
        self.device = ctypes.c_void_p()
        self._check(self.library.nvmlInit_v2())
        name = uuid if uuid.startswith("GPU-") else f"GPU-{uuid}"
        if not uuid or self.library.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(self.device)) != 0:
            self._check(self.library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(self.device)))

    @staticmethod
    def _check(result):
        if result != 0:
            raise RuntimeError(f"NVML answers {result}")

    def driver_version(self):
        text = ctypes.create_string_buffer(80)
        self._check(self.library.nvmlSystemGetDriverVersion(text, len(text)))
        return text.value.decode()

    def telemetry(self):
        """Fields that this GPU does not tell are left out."""
        value, found = ctypes.c_uint(), {}
        if self.library.nvmlDeviceGetClockInfo(self.device, SM_CLOCK, ctypes.byref(value)) == 0:
            found["sm_clock_mhz"] = value.value
        if self.library.nvmlDeviceGetPowerUsage(self.device, ctypes.byref(value)) == 0:
            found["power_w"] = value.value / 1e3
        if self.library.nvmlDeviceGetTemperature(self.device, GPU_TEMPERATURE, ctypes.byref(value)) == 0:
            found["temperature_c"] = value.value
        reasons = ctypes.c_ulonglong()
        if self.library.nvmlDeviceGetCurrentClocksThrottleReasons(self.device, ctypes.byref(reasons)) == 0:
            found["throttle_reasons"] = hex(reasons.value)
        return found
