// Workspaces within a bound (PlanOptions::max_workspace_bytes): whatever it is, the bits are those of a call that is not
// cut. The workspace is as large as the plan says and no larger: the emulator sees what leaves it.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "sagegen/runtime/error.h"
#include "tests/numerics/scene.h"
#include "tools/sagegen/run_packed.h"

using namespace sagegen;
namespace rt = sagegen::runtime;
namespace ref = sagegen::reference;
using attention::Shape;
using Catch::Matchers::Contains;
using cli::Layout;

namespace {

Kernel kernel_of(const std::string& options) {
  return kernel_of_options(attention::family(), options, Target{.sm = 89});
}

bool same_bits(const std::vector<double>& a, const std::vector<double>& b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), [](double x, double y) {
           return x == y && std::signbit(x) == std::signbit(y);
         });
}

Shape shape_of(const ref::Shape& shape) {
  return {.batch = shape.batch,
          .q_heads = shape.q_heads,
          .kv_heads = shape.kv_heads,
          .q_len = shape.q_len,
          .kv_len = shape.kv_len};
}

attention::Plan plan_within(const cli::RunDevice& on, const Kernel& kernel, std::int64_t bytes) {
  return {on.device, kernel, test::emitted, {.max_workspace_bytes = bytes}};
}

// The least bound, which the refusal of 1 byte says.
std::int64_t least_bound(const cli::RunDevice& on, const Kernel& kernel, const Shape& shape) {
  try {
    plan_within(on, kernel, 1).workspace_bytes(shape);
  } catch (const rt::ArgumentError& error) {
    const std::string text = error.what(), before = " needs ";
    return std::stoll(text.substr(text.find(before) + before.size()));
  }
  return 0;
}

std::vector<std::int64_t> bounds(std::int64_t least, std::int64_t all) {
  return {least, least + (all - least) / 3, least + (all - least) * 2 / 3, all - 1};
}

void check_dense(const std::string& options, const ref::Shape& shape, Layout layout,
                 std::uint64_t seed) {
  const Kernel kernel = kernel_of(options);
  const test::Scene scene{.kernel = kernel,
                          .inputs = test::inputs_for(kernel, "k_bias", shape, seed),
                          .layout = layout,
                          .alignment = attention::CausalAlignment::bottom_right};
  const cli::AttentionJob job = test::job_of(scene);
  const cli::RunDevice on = test::device_of(scene);
  const cli::AttentionResult whole = cli::run_attention(job, on);
  REQUIRE(whole.findings.empty());
  REQUIRE(whole.workspace.cut.calls == 1);
  const auto all = static_cast<std::int64_t>(whole.workspace.bytes);
  const std::int64_t least = least_bound(on, kernel, shape_of(shape));
  REQUIRE(least > 0);
  REQUIRE(least < all);
  std::int64_t calls_before = shape.batch * shape.kv_heads + 1;
  for (const std::int64_t bound : bounds(least, all)) {
    INFO(kernel.key() << ", bound " << bound << " of " << all);
    const attention::Plan plan = plan_within(on, kernel, bound);
    const cli::AttentionResult cut = cli::run_attention(job, on, plan);
    for (const rt::Finding& finding : cut.findings) FAIL_CHECK(test::text_of(finding));
    CHECK(static_cast<std::int64_t>(cut.workspace.bytes) <= bound);
    CHECK(cut.workspace.cut.calls <= calls_before);
    calls_before = cut.workspace.cut.calls;
    if (bound == least) CHECK(cut.workspace.cut.calls == shape.batch * shape.kv_heads);
    CHECK(same_bits(cut.o, whole.o));
    CHECK(same_bits(cut.lse, whole.lse));
    if (whole.tiles) {
      CHECK(cut.tiles->skipped == whole.tiles->skipped);
      CHECK(cut.tiles->computed == whole.tiles->computed);
    }
    for (const attention::Plan::ScratchTensor& tensor : cut.workspace.tensors)
      CHECK(tensor.offset + tensor.bytes <= static_cast<std::int64_t>(cut.workspace.bytes));
  }
  CHECK_THROWS_WITH(plan_within(on, kernel, least - 1).workspace_bytes(shape_of(shape)),
                    Contains(fmt::format("max_workspace_bytes is {}, and one head", least - 1)) &&
                        Contains(fmt::format("needs {}; raise the bound", least)));
}

}  // namespace

TEST_CASE("a call that is cut gives the bits of the whole", "[fast]") {
  const std::vector<std::string> kernels{"head_dim=64 causal",
                                         "head_dim=64 sinks alibi causal",
                                         "head_dim=64 bias softcap",
                                         "head_dim=64 blocksparse",
                                         "head_dim=64 mask skipsoftmax",
                                         "head_dim=64 pack_gqa=true q_group=16 window sinks",
                                         "head_dim=64 pack_gqa=true q_group=16 blocksparse",
                                         "head_dim=64 qk=s4 causal",
                                         "head_dim=64 qk=s4 pack_gqa=true pv=f16",
                                         "head_dim=64 granularity=per_tensor v_smoothing=mean",
                                         "head_dim=64 out=s8 value_dim=72",
                                         "head_dim=32 out=e4m3 qk=f16 pv=e4m3 io=f16 varlen=true"};
  std::uint64_t turn = 0;
  for (const std::string& options : kernels) {
    ++turn;
    const std::int64_t kv_heads = turn % 2 == 0 ? 3 : 2;
    const ref::Shape shape{.batch = 1 + static_cast<std::int64_t>(turn % 3),
                           .q_heads = kv_heads * (1 + static_cast<std::int64_t>(turn % 3 != 1)),
                           .kv_heads = kv_heads,
                           .q_len = 20 + static_cast<std::int64_t>(turn * 13 % 60),
                           .kv_len = 70 + static_cast<std::int64_t>(turn * 7 % 30)};
    check_dense(options, shape, turn % 2 == 0 ? Layout::nhd : Layout::hnd, turn);
  }
}

TEST_CASE("packed sequences are cut by heads, with the same bits", "[fast]") {
  for (const std::string options :
       {"head_dim=64 causal sinks", "head_dim=64 qk=s4 alibi", "head_dim=64 bias",
        "head_dim=64 pack_gqa=true q_group=16", "head_dim=64 out=s8"}) {
    const Kernel kernel = kernel_of(options + " varlen=true");
    const cli::SequenceLengths lengths{{40, 0, 1, 65}, {37, 12, 0, 90}};
    const ref::Shape shape{.batch = 4, .q_heads = 6, .kv_heads = 3, .q_len = 70, .kv_len = 90};
    cli::AttentionJob job =
        test::job_of({.kernel = kernel, .inputs = test::inputs_for(kernel, "k_bias", shape, 3)});
    const cli::RunDevice on = test::device_of({.kernel = kernel, .inputs = {}});
    Shape packed = shape_of(shape);
    packed.total_q = packed.total_kv = 150;
    const auto run = [&](const attention::Plan& plan) {
      cli::PackedCall call(job, on, plan, 150, 150);
      call.set(job.inputs, lengths, 3);
      std::vector<cli::AttentionResult> results = call.run();
      CHECK(call.walls_stand());
      for (const rt::Finding& finding : results[0].findings) FAIL_CHECK(test::text_of(finding));
      return results;
    };
    const attention::Plan plan(on.device, kernel, test::emitted);
    const std::vector<cli::AttentionResult> whole = run(plan);
    const auto all = static_cast<std::int64_t>(plan.workspace_bytes(packed));
    const std::int64_t least = least_bound(on, kernel, packed);
    for (const std::int64_t bound : bounds(least, all)) {
      INFO(kernel.key() << ", bound " << bound << " of " << all);
      const attention::Plan bounded = plan_within(on, kernel, bound);
      CHECK(static_cast<std::int64_t>(bounded.workspace_bytes(packed)) <= bound);
      CHECK(bounded.cut(packed).batches == 4);
      if (bound == least) CHECK(bounded.cut(packed).calls == 3);
      const std::vector<cli::AttentionResult> cut = run(bounded);
      for (std::size_t b = 0; b < cut.size(); ++b) {
        CHECK(same_bits(cut[b].o, whole[b].o));
        CHECK(same_bits(cut[b].lse, whole[b].lse));
      }
    }
  }
}

TEST_CASE("what a bounded workspace refuses", "[fast]") {
  const Kernel kernel = kernel_of("head_dim=64");
  const cli::RunDevice on = test::device_of({.kernel = kernel, .inputs = {}});
  const Shape shape{.batch = 2, .q_heads = 2, .kv_heads = 2, .q_len = 8, .kv_len = 8};
  const std::int64_t all =
      static_cast<std::int64_t>(plan_within(on, kernel, 0).workspace_bytes(shape));
  CHECK(plan_within(on, kernel, all).cut(shape).calls == 1);
  CHECK(plan_within(on, kernel, all - 1).cut(shape).calls == 2);
  CHECK_THROWS_WITH(plan_within(on, kernel, -1),
                    Contains("max_workspace_bytes is -1"));
  // Halves of run() where it is cut.
  const attention::Plan plan = plan_within(on, kernel, all - 1);
  const rt::Buffer memory(on.device, 1 << 20);
  const auto view = [&](int number) {
    return rt::hnd(memory.data() + static_cast<rt::DevicePtr>(number) * 65536, 2, 8, 64);
  };
  const attention::Arguments arguments{.q = view(0), .k = view(1), .v = view(2), .o = view(3), .lse = view(5).data};
  const rt::DevicePtr workspace = view(4).data;
  const std::string why = "cut into 2 calls, and codes of one would be overwritten by the next";
  CHECK_THROWS_WITH(plan.quantize(shape, arguments, workspace, 1 << 19, nullptr), Contains(why));
  CHECK_THROWS_WITH(plan.attend(shape, arguments, workspace, 1 << 19, nullptr), Contains(why));
  CHECK_THROWS_WITH(plan.run(shape, arguments, workspace, 16, nullptr), Contains("workspace has"));
  // Bits of tiles of packed sequences.
  Shape packed = shape;
  packed.total_q = packed.total_kv = 16;
  const Kernel tiles = kernel_of("head_dim=64 blocksparse varlen=true");
  CHECK_THROWS_WITH(plan_within(on, tiles, 1).workspace_bytes(packed),
                    Contains("packed sequences with blocksparse") && Contains("each sequence"));
}
