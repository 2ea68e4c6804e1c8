// The bound that ends an endless kernel (EmulatorOptions::instruction_limit): far from what a legal launch
// of any length needs, near enough to be found soon.
#include <fmt/format.h>

#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "sagegen/emit.h"
#include "sagegen/runtime/emulator.h"
#include "sagegen/set.h"
#include "templates/attention/plan.h"

namespace sagegen::runtime {
namespace {

// One block of queries and so many keys that these, and not the constant part of the bound, are what counts.
attention::Shape long_shape(const sagegen::Kernel& kernel) {
  return {.batch = 1,
          .q_heads = 1,
          .kv_heads = 1,
          .q_len = kernel.view(attention::family()).schedule.cta_q,
          .kv_len = 8192};
}

// What an attention finds that may execute one instruction for two bytes of device memory in use.
std::vector<Finding> run_on_half(const sagegen::Kernel& kernel) {
  EmulatorOptions options{.checks = Checks::off};
  const auto driver = make_emulator(options);
  const EmulatorProfile profile =
      kernel.target().sm == 80 ? EmulatorProfile::sm_80 : EmulatorProfile::sm_89;
  const Device device(driver, static_cast<int>(profile));
  const attention::Plan plan(device, kernel,
                             [](const sagegen::Kernel& each) { return emit(each); });
  const attention::Shape shape = long_shape(kernel);
  const int d = kernel.view(attention::family()).spec.head_dim;
  Buffer q(device, static_cast<std::size_t>(shape.q_len * d) * 2), o(device, q.bytes());
  Buffer k(device, static_cast<std::size_t>(shape.kv_len * d) * 2), v(device, k.bytes());
  for (Buffer* buffer : {&q, &k, &v}) buffer->fill(0);
  const Buffer workspace(device, plan.workspace_bytes(shape));
  attention::Arguments arguments;
  arguments.q = hnd(q.data(), 1, shape.q_len, d);
  arguments.k = hnd(k.data(), 1, shape.kv_len, d);
  arguments.v = hnd(v.data(), 1, shape.kv_len, d);
  arguments.o = hnd(o.data(), 1, shape.q_len, d);
  options.instruction_limit =
      (q.bytes() + k.bytes() + v.bytes() + o.bytes() + workspace.bytes()) / 2;
  driver->configure(options);
  try {
    plan.run(shape, arguments, workspace.data(), workspace.bytes(), nullptr);
  } catch (const DriverError&) {
    REQUIRE_FALSE(driver->findings().empty());
  }
  return driver->findings();
}

TEST_CASE("an attention of any length needs less than half of what its memory lets it execute") {
  // f16 on sm_80: then V has no codes, and the memory is the least.
  KernelProduct product{.targets = {Target{.sm = 80}, Target{.sm = 89}},
                        .fields = {{"head_dim", {"64", "128"}}},
                        .schedules = {}};
  for (const int cta_q : {64, 128, 256}) {
    for (const int cta_k : {32, 64}) {
      for (const int warps : {4, 8})
        product.schedules.push_back(fmt::format("q{}k{}w{}s2", cta_q, cta_k, warps));
    }
  }
  int kernels = 0;
  for (const sagegen::Kernel& kernel : enumerate(product)) {
    if (&kernel.family() != &attention::family()) continue;
    INFO(kernel.key());
    for (const Finding& finding : run_on_half(kernel)) FAIL_CHECK(finding.message);
    ++kernels;
  }
  CHECK(kernels >= 20);
}

}  // namespace
}  // namespace sagegen::runtime
