// What the project's plans used before anything was measured. Sources: the arithmetic throughput
// table of the CUDA C++ Programming Guide (compute capability 9.0), the rate at which NVIDIA's data
// sheet gives its dense tensor peak, and the schedules that ptxas 13.0 writes.
#include "tools/bench/micro/micro.h"

namespace sagegen::micro {

const std::vector<Assumed>& assumed_values() {
  constexpr const char* kGuide = "CUDA guide, arithmetic throughput";
  constexpr const char* kPeak = "data sheet peak: 8192 operations per clock and SM in 8 bits";
  constexpr const char* kSchedule = "as half-rate ALU work, from ptxas schedules";
  constexpr const char* kLaneUnit = "lanes per clock and SM";
  constexpr const char* kClockUnit = "clocks per wgmma";
  static const std::vector<Assumed> values = {
      {"rate_ex2", 16, kLaneUnit, kGuide},
      {"rate_i2f", 64, kLaneUnit, kSchedule},
      {"rate_cvt_e4m3x2", 64, "instruction lanes per clock and SM", kSchedule},
      {"rate_fmnmx", 64, kLaneUnit, kGuide},
      {"rate_vimnmx3", 64, kLaneUnit, kSchedule},
      {"rate_ffma", 128, kLaneUnit, kGuide},
      {"rate_fadd", 128, kLaneUnit, kGuide},
      {"rate_dfma", 64, kLaneUnit, kGuide},
      {"rate_lop3", 64, kLaneUnit, kGuide},
      {"rate_prmt", 64, kLaneUnit, kGuide},
      {"rate_shfl", 32, kLaneUnit, kGuide},
      {"rate_lds128", 8, "lanes of 16 bytes per clock and SM",
       "128 bytes of shared memory per clock"},
      {"wgmma_s8_n64_1wg", 32, kClockUnit, kPeak},
      {"wgmma_s8_n128_1wg", 64, kClockUnit, kPeak},
      {"wgmma_s8_n256_1wg", 128, kClockUnit, kPeak},
      {"wgmma_s8_rega_n128_1wg", 64, kClockUnit, kPeak},
      {"wgmma_e4m3_rega_n64_1wg", 32, kClockUnit, kPeak},
      {"wgmma_e4m3_rega_n128_1wg", 64, kClockUnit, kPeak},
      {"wgmma_e4m3_rega_n136_1wg", 68, kClockUnit, kPeak},
      {"wgmma_e4m3_rega_n256_1wg", 128, kClockUnit, kPeak},
      {"tma_128_rows", 5.5, "TB/s of all SMs", "an estimate without a source: 5.5 to 7"},
      {"clock_under_wgmma", 1755, "MHz", "the clock of the planning roofline"},
  };
  return values;
}

std::optional<Assumed> assumed_value(const std::string& benchmark) {
  for (const Assumed& assumed : assumed_values()) {
    if (benchmark == assumed.benchmark) return assumed;
  }
  return std::nullopt;
}

}  // namespace sagegen::micro
