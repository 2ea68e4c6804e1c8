// Time per call of the mma routines, for each instruction set of this host, and of the special functions.
// Not a test: it prints. Times are CPU times of this thread, so that other load hardly counts; the best of
// several rounds.
//   numerics_speed
#include <algorithm>
#include <bit>
#include <cstdio>
#include <ctime>
#include <random>
#include <string>
#include <vector>

#include "runtime/emulator/numerics/mma_kernels.h"
#include "tests/emulator/mma_reference.h"

namespace {

using namespace sagegen::test;
namespace emulator = sagegen::emulator;

double cpu_nanoseconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return 1e9 * static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec);
}

// Nanoseconds of one call of `body`, which makes `calls` of them.
template <typename Body>
double time_per_call(int calls, Body body) {
  double best = 1e30;
  for (int round = 0; round < 7; ++round) {
    const double start = cpu_nanoseconds();
    body();
    best = std::min(best, (cpu_nanoseconds() - start) / calls);
  }
  return best;
}

struct Case {
  Profile profile;
  MmaShape shape;
};

double time_mma(const emulator::tile::Kernels& kernels, const Case& one,
                std::vector<MmaRegisters>& inputs) {
  constexpr int kRepeats = 50;
  const auto rule = emulator::fused_rule(one.profile, one.shape);
  return time_per_call(kRepeats * static_cast<int>(inputs.size()), [&] {
    for (int repeat = 0; repeat < kRepeats; ++repeat) {
      for (MmaRegisters& registers : inputs) {
        if (!rule) {
          emulator::integer_mma(kernels, one.shape, registers);
        } else if (!emulator::fused_mma_fast(kernels, one.shape, *rule, registers)) {
          std::puts("unexpected: not on the fast path");
        }
      }
    }
  });
}

double time_complete(const Case& one, std::vector<MmaRegisters>& inputs) {
  const auto rule = emulator::fused_rule(one.profile, one.shape);
  return time_per_call(static_cast<int>(inputs.size()), [&] {
    for (MmaRegisters& registers : inputs) {
      emulator::fused_mma_complete(one.shape, *rule, registers);
    }
  });
}

void print_special(const char* name, float (*function)(float, bool), float low, float high) {
  std::mt19937 random(1);
  std::vector<float> inputs(4096);
  for (float& x : inputs) {
    x = low + (high - low) * static_cast<float>(random()) * 0x1p-32f;
  }
  float sum = 0;
  const double ns = time_per_call(static_cast<int>(inputs.size()), [&] {
    for (const float x : inputs) {
      sum += function(x, true);
    }
  });
  std::printf("%-36s %8.1f ns per lane%s\n", name, ns, sum == 12345.0f ? " " : "");
}

}  // namespace

int main() {
  const MmaShape s8{.a = MmaType::s8, .b = MmaType::s8, .k = 32};
  const MmaShape s4{.a = MmaType::s4, .b = MmaType::s4, .k = 64};
  const MmaShape f16{.a = MmaType::f16, .b = MmaType::f16, .k = 16};
  const MmaShape f16_f16{.a = MmaType::f16, .b = MmaType::f16, .k = 16, .f16_accumulator = true};
  const MmaShape bf16{.a = MmaType::bf16, .b = MmaType::bf16, .k = 16};
  const MmaShape e4m3{.a = MmaType::e4m3, .b = MmaType::e4m3, .k = 32};
  const MmaShape e4m3_f16{.a = MmaType::e4m3, .b = MmaType::e4m3, .k = 32, .f16_accumulator = true};
  const Case cases[] = {
      {Profile::sm_80, s8},      {Profile::sm_80, s4},    {Profile::sm_80, f16},
      {Profile::sm_80, f16_f16}, {Profile::sm_80, bf16},  {Profile::sm_90, f16},
      {Profile::ideal, f16},     {Profile::sm_89, e4m3},  {Profile::sm_89, e4m3_f16},
      {Profile::sm_90, e4m3},    {Profile::sm_120, e4m3}, {Profile::ideal, e4m3},
  };
  std::printf("microseconds per warp-wide mma%15s %9s %9s %9s\n", "portable", "avx2", "avx512",
              "complete");
  for (const Case& one : cases) {
    std::mt19937_64 random(1);
    std::vector<MmaRegisters> inputs;
    for (int i = 0; i < 64; ++i) {
      inputs.push_back(random_registers(one.shape, Fill::moderate, FillC::similar, random));
    }
    std::printf("%-34s", (name_of(one.profile) + " " + name_of(one.shape)).c_str());
    for (const auto host : {emulator::tile::Host::portable, emulator::tile::Host::avx2,
                            emulator::tile::Host::avx512}) {
      if (const auto* kernels = emulator::tile::kernels_for(host)) {
        std::printf(" %9.3f", time_mma(*kernels, one, inputs) * 1e-3);
      } else {
        std::printf(" %9s", "-");
      }
    }
    if (is_float(one.shape.a)) {
      std::printf(" %9.1f", time_complete(one, inputs) * 1e-3);
    }
    std::printf("\n");
  }
  print_special("ex2, arguments in [-20, 0]", emulator::ex2_approx, -20.0f, 0.0f);
  {
    std::vector<std::uint32_t> lanes(4096), results(4096);
    for (std::size_t i = 0; i < lanes.size(); ++i) {
      lanes[i] = std::bit_cast<std::uint32_t>(-20.0f * static_cast<float>(i) / 4096.0f);
    }
    for (const auto host : {emulator::tile::Host::portable, emulator::tile::Host::avx2,
                            emulator::tile::Host::avx512}) {
      if (const auto* kernels = emulator::tile::kernels_for(host)) {
        const double ns = time_per_call(4096 * 10, [&] {
          for (int repeat = 0; repeat < 10; ++repeat) {
            kernels->ex2(lanes.data(), results.data(), 4096, true);
          }
        });
        std::printf("ex2 of a warp, instruction set %d      %8.1f ns per lane\n",
                    static_cast<int>(host), ns);
      }
    }
  }
  print_special("lg2, arguments in [1, 1000]", emulator::lg2_approx, 1.0f, 1000.0f);
  print_special("rcp, arguments in [1, 1000]", emulator::rcp_approx, 1.0f, 1000.0f);
}
