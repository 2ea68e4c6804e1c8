#include "tests/driver/fake_plan.h"

#include "sagegen/abi.h"

namespace sagegen::test {
namespace {

QuantSpec quant_of(const PlanOptions& options) {
  QuantSpec quant = default_quant(options.target, options.granularity);
  quant.smoothing = options.smoothing;
  return quant;
}

}  // namespace

PtxSource fake_source() {
  return [](const KernelSpec& spec) { return fake_ptx(key(spec), abi::param_bytes(spec.kind)); };
}

AttentionArguments plain_arguments(const AttentionShape& shape, int head_dim) {
  return AttentionArguments{.q = hnd(kQ, shape.q_heads, shape.q_len, head_dim),
                            .k = hnd(kK, shape.kv_heads, shape.kv_len, head_dim),
                            .v = hnd(kV, shape.kv_heads, shape.kv_len, head_dim),
                            .o = hnd(kO, shape.q_heads, shape.q_len, head_dim)};
}

FakePlan::FakePlan(const PlanOptions& options)
    : problem(options.problem),
      quant(quant_of(options)),
      schedule(default_schedule(problem, quant, options.target)),
      attention(device, problem, quant, schedule, options.target, fake_source()) {}

}  // namespace sagegen::test
