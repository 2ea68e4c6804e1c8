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

  std::size_t below(std::size_t n) { return static_cast<std::size_t>(random_() % n); }

 private:
  template <typename T>
  T pick(std::initializer_list<T> from) {
    return from.begin()[below(from.size())];
  }

  std::mt19937_64 random_;
};

}  // namespace sagegen::test
