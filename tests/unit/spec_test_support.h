// Random specs for property tests. The same seed gives the same specs on every machine.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <random>

#include "sagegen/spec.h"

namespace sagegen::test {

class RandomSpecs {
 public:
  explicit RandomSpecs(std::uint64_t seed) : random_(seed) {}

  // Any combination of plausible fields; most are refused by some rule.
  KernelSpec any() {
    KernelSpec spec;
    spec.kind = pick({KernelKind::attention, KernelKind::kv_statistics, KernelKind::quantize_q,
                      KernelKind::quantize_k, KernelKind::quantize_v});
    spec.problem.head_dim = pick({64, 128});
    spec.problem.io = pick({DType::f16, DType::bf16});
    spec.problem.mask = pick({Mask::none, Mask::causal});
    spec.quant.granularity = pick({Granularity::per_thread, Granularity::per_block});
    spec.quant.q_group = pick({16, 32, 64, 128, 256});
    spec.quant.k_group = pick({16, 32, 64, 128, 256});
    spec.quant.smoothing = pick({Smoothing::none, Smoothing::k});
    spec.quant.pv = pick({DType::f16, DType::e4m3});
    spec.quant.accumulation = pick({Accumulation::f32, Accumulation::two_level_f32});
    spec.schedule.warps = pick({1, 2, 4, 8});
    spec.schedule.cta_q = spec.schedule.warps * pick({16, 32});
    spec.schedule.cta_k = pick({16, 32, 64, 128});
    spec.schedule.stages = pick({1, 2, 3, 4});
    spec.target = supported_targets()[below(supported_targets().size())].target;
    return spec;
  }

  KernelSpec valid() {
    while (true) {
      const KernelSpec spec = any();
      if (violations(spec).empty()) return spec;
    }
  }

  // One of the specs of any() with 1 to 3 of its fields overwritten by any number at all, as a cast or memory
  // that nobody wrote leaves them.
  KernelSpec garbage() {
    KernelSpec spec = any();
    for (std::size_t times = 1 + below(3); times > 0; --times) overwrite(spec);
    return spec;
  }

  std::size_t below(std::size_t n) { return static_cast<std::size_t>(random_() % n); }

 private:
  template <typename T>
  T pick(std::initializer_list<T> from) {
    return from.begin()[below(from.size())];
  }

  void overwrite(KernelSpec& spec) {
    int value = static_cast<int>(static_cast<std::uint32_t>(random_()));
    if (below(2) == 0) value = pick({-1, 2, 3, 5, 6, 7, 8, 255, 256});  // near what there is
    switch (below(16)) {
      case 0:
        return void(spec.kind = static_cast<KernelKind>(value));
      case 1:
        return void(spec.problem.io = static_cast<DType>(value));
      case 2:
        return void(spec.problem.mask = static_cast<Mask>(value));
      case 3:
        return void(spec.quant.qk = static_cast<DType>(value));
      case 4:
        return void(spec.quant.granularity = static_cast<Granularity>(value));
      case 5:
        return void(spec.quant.smoothing = static_cast<Smoothing>(value));
      case 6:
        return void(spec.quant.pv = static_cast<DType>(value));
      case 7:
        return void(spec.quant.accumulation = static_cast<Accumulation>(value));
      case 8:
        return void(spec.problem.head_dim = value);
      case 9:
        return void(spec.quant.q_group = value);
      case 10:
        return void(spec.quant.k_group = value);
      case 11:
        return void(spec.schedule.cta_q = value);
      case 12:
        return void(spec.schedule.cta_k = value);
      case 13:
        return void(spec.schedule.warps = value);
      case 14:
        return void(spec.schedule.stages = value);
      default:
        spec.target = {.sm = value, .suffix = static_cast<char>(value)};
    }
  }

  std::mt19937_64 random_;
};

}  // namespace sagegen::test
