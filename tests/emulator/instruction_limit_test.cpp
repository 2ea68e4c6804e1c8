// The bound that ends an endless kernel (EmulatorOptions::instruction_limit): far from what a legal launch
// of any length needs, near enough to be found soon.
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "sagegen/emit.h"
#include "sagegen/runtime/attention.h"
#include "sagegen/runtime/emulator.h"

namespace sagegen::runtime {
namespace {

// One block of queries and so many keys that these, and not the constant part of the bound, are what counts.
AttentionShape long_shape(const KernelSpec& kernel) {
  return {.batch = 1, .q_heads = 1, .kv_heads = 1, .q_len = kernel.schedule.cta_q, .kv_len = 8192};
}

// What an attention finds that may execute one instruction for two bytes of device memory in use.
std::vector<Finding> run_on_half(const KernelSpec& kernel) {
  EmulatorOptions options{.checks = Checks::off};
  const auto driver = make_emulator(options);
  const EmulatorProfile profile =
      kernel.target.sm == 80 ? EmulatorProfile::sm_80 : EmulatorProfile::sm_89;
  const Device device(driver, static_cast<int>(profile));
  const Attention attention(device, kernel.problem, kernel.quant, kernel.schedule, kernel.target,
                            [](const KernelSpec& spec) { return emit(spec).ptx; });
  const AttentionShape shape = long_shape(kernel);
  const int d = kernel.problem.head_dim;
  Buffer q(device, static_cast<std::size_t>(shape.q_len * d) * 2), o(device, q.bytes());
  Buffer k(device, static_cast<std::size_t>(shape.kv_len * d) * 2), v(device, k.bytes());
  for (Buffer* buffer : {&q, &k, &v}) buffer->fill(0);
  const Buffer workspace(device, attention.workspace_bytes(shape));
  AttentionArguments arguments;
  arguments.q = hnd(q.data(), 1, shape.q_len, d);
  arguments.k = hnd(k.data(), 1, shape.kv_len, d);
  arguments.v = hnd(v.data(), 1, shape.kv_len, d);
  arguments.o = hnd(o.data(), 1, shape.q_len, d);
  options.instruction_limit =
      (q.bytes() + k.bytes() + v.bytes() + o.bytes() + workspace.bytes()) / 2;
  driver->configure(options);
  try {
    attention.run(shape, arguments, workspace.data(), workspace.bytes(), nullptr);
  } catch (const DriverError&) {
    REQUIRE_FALSE(driver->findings().empty());
  }
  return driver->findings();
}

TEST_CASE("an attention of any length needs less than half of what its memory lets it execute") {
  SpecSpace space;
  space.targets = {Target{.sm = 80}, Target{.sm = 89}};
  space.io = {DType::f16};  // sm_80: then V has no codes, and the memory is the least
  space.masks = {Mask::none};
  for (const int cta_q : {64, 128, 256}) {
    for (const int cta_k : {32, 64}) {
      for (const int warps : {4, 8}) {
        space.schedules.push_back({.cta_q = cta_q, .cta_k = cta_k, .warps = warps, .stages = 2});
      }
    }
  }
  int kernels = 0;
  for (const KernelSpec& kernel : enumerate(space)) {
    if (kernel.kind != KernelKind::attention) continue;
    INFO(key(kernel));
    for (const Finding& finding : run_on_half(kernel)) FAIL_CHECK(finding.message);
    ++kernels;
  }
  CHECK(kernels >= 20);
}

}  // namespace
}  // namespace sagegen::runtime
