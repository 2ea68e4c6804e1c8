// Which kernels make one attention, what is chosen when nobody chooses, and products of choices.
#include <unordered_set>

#include "generator/spec/detail.h"

namespace sagegen {
KernelSpec canonical(const KernelSpec& spec) {
  KernelSpec result;
  result.kind = spec.kind;
  result.target = spec.target;
  result.problem.head_dim = spec.problem.head_dim;
  result.problem.io = spec.problem.io;
  const QuantSpec& from = spec.quant;
  QuantSpec& to = result.quant;
  switch (spec.kind) {
    case KernelKind::attention:
      result.problem.mask = spec.problem.mask;
      result.schedule = spec.schedule;
      to = from;
      to.smoothing = QuantSpec{}.smoothing;
      break;
    case KernelKind::kv_statistics:
      to.smoothing = from.smoothing;
      to.pv = v_is_quantized(spec.problem, from) ? DType::e4m3 : DType::f16;
      break;
    case KernelKind::quantize_q:
      to.qk = from.qk;
      to.granularity = from.granularity;
      to.q_group = from.q_group;
      break;
    case KernelKind::quantize_k:
      to.qk = from.qk;
      to.granularity = from.granularity;
      to.k_group = from.k_group;
      to.smoothing = from.smoothing;
      break;
    case KernelKind::quantize_v:
      to.pv = from.pv;
      break;
  }
  return result;
}

bool v_is_quantized(const AttentionProblem& problem, const QuantSpec& quant) {
  return quant.pv == DType::e4m3 || problem.io != DType::f16;
}

AttentionKernels kernels_for(const AttentionProblem& problem, const QuantSpec& quant,
                             const TileSchedule& schedule, Target target) {
  const auto kernel = [&](KernelKind kind) {
    return canonical(
        {.kind = kind, .problem = problem, .quant = quant, .schedule = schedule, .target = target});
  };
  const bool quantized_v = v_is_quantized(problem, quant);
  AttentionKernels kernels{.kv_statistics = {},
                           .quantize_k = kernel(KernelKind::quantize_k),
                           .quantize_v = {},
                           .quantize_q = kernel(KernelKind::quantize_q),
                           .attention = kernel(KernelKind::attention)};
  if (quantized_v || quant.smoothing == Smoothing::k) {
    kernels.kv_statistics = kernel(KernelKind::kv_statistics);
  }
  if (quantized_v) kernels.quantize_v = kernel(KernelKind::quantize_v);
  return kernels;
}

std::vector<KernelSpec> AttentionKernels::in_order() const {
  std::vector<KernelSpec> order;
  if (kv_statistics) order.push_back(*kv_statistics);
  order.push_back(quantize_k);
  if (quantize_v) order.push_back(*quantize_v);
  order.push_back(quantize_q);
  order.push_back(attention);
  return order;
}

QuantSpec with_pv(QuantSpec quant, DType pv) {
  quant.pv = pv;
  quant.accumulation = pv == DType::e4m3 ? Accumulation::two_level_f32 : Accumulation::f32;
  return quant;
}

QuantSpec default_quant(Target target, Granularity granularity) {
  QuantSpec quant;
  quant.granularity = granularity;
  if (granularity == Granularity::per_block) quant.q_group = 128;
  return with_pv(quant, target_info(target).has_fp8_mma ? DType::e4m3 : DType::f16);
}

TileSchedule default_schedule(const AttentionProblem& problem, const QuantSpec& quant,
                              Target target) {
  TileSchedule schedule{.cta_q = 128, .cta_k = 64, .warps = 4, .stages = 2};
  const TargetInfo& info = target_info(target);
  // Two blocks per SM hide the softmax of one behind the tensor cores of the other. Where FP16
  // tiles are too large for that, one buffer that keys and values use in turns is worth the second
  // block.
  constexpr int kSystemSmemPerBlock = 1024;
  const auto two_fit = [&] {
    return 2 * (detail::attention_smem(problem, quant, schedule) + kSystemSmemPerBlock) <=
           info.smem_per_sm;
  };
  if (!two_fit()) schedule.stages = 1;
  return schedule;
}

std::vector<KernelSpec> detail::expand(const SpecSpace& space, const Refused& refused) {
  std::vector<KernelSpec> result;
  std::unordered_set<std::string> seen;
  const auto add_attention = [&](const AttentionProblem& problem, const QuantSpec& quant,
                                 const TileSchedule& schedule, Target target) {
    const std::vector<KernelSpec> kernels =
        kernels_for(problem, quant, schedule, target).in_order();
    for (const KernelSpec& kernel : kernels) {
      const std::vector<std::string> sentences = violations(kernel);
      if (sentences.empty()) continue;
      refused(kernel, sentences);
      return;
    }
    for (const KernelSpec& kernel : kernels) {
      if (seen.insert(key(kernel)).second) result.push_back(kernel);
    }
  };
  const auto add_schedules = [&](const AttentionProblem& problem, const QuantSpec& quant,
                                 Target target) {
    if (space.schedules.empty()) {
      add_attention(problem, quant, default_schedule(problem, quant, target), target);
    }
    for (const TileSchedule& schedule : space.schedules)
      add_attention(problem, quant, schedule, target);
  };
  const auto add_quants = [&](const AttentionProblem& problem, Target target) {
    for (Granularity granularity : space.granularities) {
      for (Smoothing smoothing : space.smoothings) {
        QuantSpec quant = default_quant(target, granularity);
        quant.smoothing = smoothing;
        if (space.pv.empty()) add_schedules(problem, quant, target);
        for (DType pv : space.pv) add_schedules(problem, with_pv(quant, pv), target);
      }
    }
  };
  for (Target target : space.targets) {
    for (int head_dim : space.head_dims) {
      for (DType io : space.io) {
        for (Mask mask : space.masks) {
          add_quants({.head_dim = head_dim, .io = io, .mask = mask}, target);
        }
      }
    }
  }
  return result;
}

std::vector<KernelSpec> enumerate(const SpecSpace& space) {
  return detail::expand(space, [](const KernelSpec&, const std::vector<std::string>&) {});
}

}  // namespace sagegen
