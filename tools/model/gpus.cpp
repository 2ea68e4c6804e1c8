#include "tools/model/gpus.h"

#include <algorithm>
#include <cctype>

namespace sagegen::model {

namespace {

constexpr int kKiB = 1024, kRegisters = 65536;

bool same_name(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](unsigned char x, unsigned char y) {
    return std::tolower(x) == std::tolower(y);
  });
}

}  // namespace

// Rates are the peak figures of NVIDIA's papers, divided by SMs and clock; nobody here has measured them. Lanes
// of FP32 and minmax: the distance that ptxas 13.0 keeps between independent instructions of a kind. Registers,
// shared memory, warps: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability". Memory: data
// sheets (A100: that with 80 GB, SXM).
const std::vector<Gpu>& gpus() {
  // mma_rate: s8, s4, f16 with f32 sums, f16 with f16 sums, f8 with f32 sums, f8 with f16 sums.
  static const std::vector<Gpu> list{
      {.name = "A100",
       .architecture = 80,
       .sms = 108,
       .clock_ghz = 1.41,
       .mma_rate = {2048, 4096, 1024, 1024, 0, 0},
       .fp32_lanes = 64,
       .minmax_on_fp32 = false,
       .registers = kRegisters,
       .shared_bytes = 164 * kKiB,
       .warps = 64,
       .memory_tb = 2.039,
       .source = "NVIDIA A100 Tensor Core GPU Architecture"},
      {.name = "RTX3090",
       .architecture = 86,
       .sms = 82,
       .clock_ghz = 1.695,
       .mma_rate = {1024, 2048, 256, 512, 0, 0},
       .fp32_lanes = 128,
       .minmax_on_fp32 = false,
       .registers = kRegisters,
       .shared_bytes = 100 * kKiB,
       .warps = 48,
       .memory_tb = 0.936,
       .source = "NVIDIA Ampere GA102 GPU Architecture"},
      {.name = "A40",
       .architecture = 86,
       .sms = 84,
       .clock_ghz = 1.74,
       .mma_rate = {1024, 2048, 512, 512, 0, 0},
       .fp32_lanes = 128,
       .minmax_on_fp32 = false,
       .registers = kRegisters,
       .shared_bytes = 100 * kKiB,
       .warps = 48,
       .memory_tb = 0.696,
       .source = "NVIDIA Ampere GA102 GPU Architecture; NVIDIA A40 data sheet"},
      {.name = "RTX4090",
       .architecture = 89,
       .sms = 128,
       .clock_ghz = 2.52,
       .mma_rate = {1024, 2048, 256, 512, 512, 1024},
       .fp32_lanes = 128,
       .minmax_on_fp32 = false,
       .registers = kRegisters,
       .shared_bytes = 100 * kKiB,
       .warps = 48,
       .memory_tb = 1.008,
       .source = "NVIDIA Ada GPU Architecture"},
      {.name = "L40S",
       .architecture = 89,
       .sms = 142,
       .clock_ghz = 2.52,
       .mma_rate = {1024, 2048, 512, 512, 1024, 1024},
       .fp32_lanes = 128,
       .minmax_on_fp32 = false,
       .registers = kRegisters,
       .shared_bytes = 100 * kKiB,
       .warps = 48,
       .memory_tb = 0.864,
       .source = "NVIDIA Ada GPU Architecture; NVIDIA L40S data sheet"},
      {.name = "H200",
       .architecture = 90,
       .sms = 132,
       .clock_ghz = 1.755,
       .mma_rate = {4096, 0, 2048, 2048, 4096, 4096},
       .fp32_lanes = 128,
       .minmax_on_fp32 = false,
       .registers = kRegisters,
       .shared_bytes = 228 * kKiB,
       .warps = 64,
       .memory_tb = 4.8,
       .source = "NVIDIA H100 Tensor Core GPU Architecture; rates of wgmma, which mma.sync does "
                 "not reach",
       .copy_tb = 4.3},
      {.name = "RTX5090",
       .architecture = 120,
       .sms = 170,
       .clock_ghz = 2.407,
       .mma_rate = {1024, 0, 256, 512, 512, 1024},
       .fp32_lanes = 128,
       .minmax_on_fp32 = true,
       .registers = kRegisters,
       .shared_bytes = 100 * kKiB,
       .warps = 48,
       .memory_tb = 1.792,
       .source = "NVIDIA RTX Blackwell GPU Architecture"},
  };
  return list;
}

const Gpu* find_gpu(std::string_view name) {
  for (const Gpu& gpu : gpus()) {
    if (same_name(gpu.name, name)) return &gpu;
  }
  return nullptr;
}

const Gpu* usual_gpu(int architecture) {
  for (const Gpu& gpu : gpus()) {
    if (gpu.architecture == architecture) return &gpu;
  }
  return nullptr;
}

}  // namespace sagegen::model
