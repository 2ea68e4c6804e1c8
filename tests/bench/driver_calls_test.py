"""What the benchmark asks of libcuda and NVML through ctypes, on stand-ins for both; and that the clock probe
assembles, where ptxas is installed.
"""
import ctypes
import os
import shutil
import subprocess
import unittest
from unittest import mock

from support import BenchTest

from attention import clock_probe, nvml

PTXAS = shutil.which("ptxas") or shutil.which("ptxas", path="/usr/local/cuda/bin")


class FakeCuda:
    """Keeps what was launched; the arguments of a kernel are read as the driver reads them."""

    def __init__(self, result=0):
        self.launches, self.result = [], result

    def cuModuleLoadData(self, module, text):
        assert text.value == clock_probe.PTX
        module._obj.value = 11
        return self.result

    def cuModuleGetFunction(self, function, module, name):
        assert module.value == 11 and name == b"sagegen_clock_probe"
        function._obj.value = 22
        return self.result

    def cuLaunchKernel(self, function, gx, gy, gz, bx, by, bz, shared, stream, arguments, extra):
        assert function.value == 22 and (gx, gy, gz, bx, by, bz, shared, extra) == (1, 1, 1, 1, 1, 1, 0, None)
        values = [ctypes.c_uint64.from_address(pointer).value for pointer in arguments]
        self.launches.append((stream.value, *values))
        return self.result


class FakeNvml:
    def __init__(self, uuids):
        self.uuids, self.asked = uuids, []

    def __getattr__(self, name):
        def call(*arguments):
            self.asked.append(name)
            if name == "nvmlDeviceGetHandleByUUID":
                return 0 if arguments[0] in self.uuids else 6
            if name == "nvmlSystemGetDriverVersion":
                arguments[0].value = b"999.1"
            if name == "nvmlDeviceGetClockInfo":
                assert arguments[1] == 1   # NVML_CLOCK_SM
                arguments[2]._obj.value = 1755
            if name == "nvmlDeviceGetPowerUsage":
                arguments[1]._obj.value = 699500   # milliwatts
            return 3 if name == "nvmlDeviceGetTemperature" else 0   # 3: not supported
        return call


class Calls(BenchTest):
    def test_the_clock_probe_writes_to_its_slot(self):
        cuda = FakeCuda()
        with mock.patch.object(ctypes, "CDLL", lambda name: cuda):
            probe = clock_probe.ClockProbe(0x1000)
            probe.launch(0, 50, 0)
            probe.launch(3, 300, 77)
        self.assertEqual(cuda.launches, [(None, 0x1000, 50000), (77, 0x1030, 300000)])
        self.assertEqual(clock_probe.megahertz(1755000, 1000000), 1755.0)
        self.assertIsNone(clock_probe.megahertz(5, 0))

    def test_a_failing_driver_is_an_error(self):
        with mock.patch.object(ctypes, "CDLL", lambda name: FakeCuda(result=218)):
            with self.assertRaisesRegex(RuntimeError, "218"):
                clock_probe.ClockProbe(0)

    def test_telemetry(self):
        for uuids, fallback in (({b"GPU-abc"}, False), (set(), True)):
            library = FakeNvml(uuids)
            with mock.patch.object(ctypes, "CDLL", lambda name, library=library: library):
                device = nvml.Nvml("abc", 0)
            self.assertEqual("nvmlDeviceGetHandleByIndex_v2" in library.asked, fallback)
            self.assertEqual(device.driver_version(), "999.1")
            self.assertEqual(device.telemetry(), {"sm_clock_mhz": 1755, "power_w": 699.5,
                                                  "throttle_reasons": "0x0"})
            self.assertFalse([name for name in library.asked if "Set" in name])   # reads only

    @unittest.skipUnless(PTXAS, "ptxas is not installed")
    def test_the_clock_probe_assembles(self):
        path = self.path("probe.ptx")
        with open(path, "wb") as file:
            file.write(clock_probe.PTX)
        for target in ("sm_80", "sm_90"):
            done = subprocess.run([PTXAS, f"-arch={target}", path, "-o", os.devnull], capture_output=True,
                                  text=True, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == "__main__":
    unittest.main()
