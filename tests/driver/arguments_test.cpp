// What a plan refuses to launch: one case for each rule. Every refusal names the tensor and the
// rule, and nothing has been launched.
#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "tests/driver/fake_plan.h"

using namespace sagegen;
using namespace sagegen::test;
using Catch::Matchers::Contains;

namespace {

constexpr int kHeadDim = 128;
const attention::Shape kShape{.batch = 2, .q_heads = 6, .kv_heads = 3, .q_len = 40, .kv_len = 50};

struct Call {
  attention::Shape shape = kShape;
  attention::Arguments arguments = plain_arguments(kShape, kHeadDim);
  DevicePtr workspace = kWorkspace;
  std::ptrdiff_t workspace_slack = 0;
};

void run(FakePlan& plan, const Call& call) {
  const std::size_t needed = plan.plan.workspace_bytes(
      kShape, call.arguments.lse == 0 ? attention::Lse::unwanted : attention::Lse::wanted);
  plan.plan.run(call.shape, call.arguments, call.workspace,
                needed + static_cast<std::size_t>(call.workspace_slack), nullptr);
}

struct Refusal {
  const char* rule;
  std::function<void(Call&)> spoil;
  std::vector<std::string> words;
};

void check_refusals(const std::vector<Refusal>& refusals) {
  FakePlan plan;
  REQUIRE_NOTHROW(run(plan, Call{}));
  plan.driver->clear_launches();
  for (const Refusal& refusal : refusals) {
    INFO(refusal.rule);
    Call call;
    refusal.spoil(call);
    std::string text;
    try {
      run(plan, call);
    } catch (const ArgumentError& e) {
      text = e.what();
    }
    REQUIRE_FALSE(text.empty());
    for (const std::string& word : refusal.words) CHECK_THAT(text, Contains(word));
    CHECK(plan.driver->launches().empty());
  }
}

constexpr std::int64_t kHuge = std::int64_t{1} << 40;
const float kNan = std::nanf("");
const float kInfinity = std::numeric_limits<float>::infinity();

}  // namespace

TEST_CASE("shapes that no launch can have") {
  check_refusals({
      {"no batch", [](Call& c) { c.shape.batch = 0; }, {"batch is 0", "at least 1"}},
      {"no query heads", [](Call& c) { c.shape.q_heads = 0; }, {"q_heads is 0", "at least 1"}},
      {"no key heads", [](Call& c) { c.shape.kv_heads = 0; }, {"kv_heads is 0", "at least 1"}},
      {"no queries", [](Call& c) { c.shape.q_len = 0; }, {"q_len is 0", "at least 1"}},
      {"no keys", [](Call& c) { c.shape.kv_len = 0; }, {"kv_len is 0", "at least 1"}},
      {"negative", [](Call& c) { c.shape.kv_len = -5; }, {"kv_len is -5", "at least 1"}},
      {"batch", [](Call& c) { c.shape.batch = 65536; }, {"batch is 65536", "65535"}},
      {"heads",
       [](Call& c) { c.shape.q_heads = c.shape.kv_heads = 65536; },
       {"q_heads is 65536", "65535"}},
      {"more key heads than query heads",
       [](Call& c) { c.shape.kv_heads = 12; },
       {"6 query heads", "12 key/value heads", "divide"}},
      {"heads that do not divide",
       [](Call& c) { c.shape.kv_heads = 4; },
       {"6 query heads", "4 key/value heads", "divide"}},
      {"q_len of 33 bits", [](Call& c) { c.shape.q_len = kHuge; }, {"q_len", "32-bit"}},
      {"kv_len of 33 bits", [](Call& c) { c.shape.kv_len = kHuge; }, {"kv_len", "32-bit"}},
      {"q_len whose padding has 33 bits",
       [](Call& c) { c.shape.q_len = std::numeric_limits<std::int32_t>::max(); },
       {"q_len", "padded to a multiple of", "32-bit"}},
      {"workspace of more than 64 bits",
       [](Call& c) {
         c.shape = {
             .batch = 65535, .q_heads = 65535, .kv_heads = 1, .q_len = 2147483000, .kv_len = 1};
       },
       {"workspace", "2^63"}},
  });
}

TEST_CASE("workspace_bytes refuses the same shapes") {
  const FakePlan plan;
  CHECK_THROWS_AS(plan.workspace_bytes({.q_len = 0}), ArgumentError);
  CHECK_THROWS_AS(plan.workspace_bytes({.q_heads = 3, .kv_heads = 2}), ArgumentError);
  CHECK(plan.workspace_bytes({}) % 256 == 0);
}

TEST_CASE("addresses") {
  check_refusals({
      {"null q", [](Call& c) { c.arguments.q.data = 0; }, {"q is a null pointer"}},
      {"null k", [](Call& c) { c.arguments.k.data = 0; }, {"k is a null pointer"}},
      {"null v", [](Call& c) { c.arguments.v.data = 0; }, {"v is a null pointer"}},
      {"null o", [](Call& c) { c.arguments.o.data = 0; }, {"o is a null pointer"}},
      {"misaligned q", [](Call& c) { c.arguments.q.data += 8; }, {"q is at", "16 bytes"}},
      {"misaligned k", [](Call& c) { c.arguments.k.data += 2; }, {"k is at", "16 bytes"}},
      {"misaligned v", [](Call& c) { c.arguments.v.data += 4; }, {"v is at", "16 bytes"}},
      {"misaligned o", [](Call& c) { c.arguments.o.data += 1; }, {"o is at", "16 bytes"}},
      {"misaligned lse", [](Call& c) { c.arguments.lse = kLse + 2; }, {"lse is at", "4 bytes"}},
      {"the end of memory",
       [](Call& c) { c.arguments.k.data = ~DevicePtr{0} - 15; },
       {"k at", "address space"}},
  });
}

TEST_CASE("strides") {
  check_refusals({
      {"negative",
       [](Call& c) { c.arguments.q.stride_head = -128; },
       {"q.stride_head is -128", "negative"}},
      {"not a multiple of 8",
       [](Call& c) { c.arguments.k.stride_token = 132; },
       {"k.stride_token is 132", "multiples of 8"}},
      {"batch stride not a multiple of 8",
       [](Call& c) { c.arguments.v.stride_batch += 4; },
       {"v.stride_batch", "multiples of 8"}},
      {"rows that overlap",
       [](Call& c) { c.arguments.k.stride_token = 120; },
       {"k.stride_token is 120", "128 channels", "overlap"}},
      {"one row of the output for all tokens",
       [](Call& c) { c.arguments.o.stride_token = 0; },
       {"o.stride_token is 0", "overlap"}},
      {"one head of the output for all heads",
       [](Call& c) { c.arguments.o.stride_head = 0; },
       {"o.stride_head is 0", "overlap"}},
      {"one batch of the output for all batches",
       [](Call& c) { c.arguments.o.stride_batch = 0; },
       {"o.stride_batch is 0", "overlap"}},
      {"output heads inside each other",
       [](Call& c) { c.arguments.o.stride_head = 128; },
       {"o.stride_", "rows of the output would overlap"}},
      {"output batches inside each other",
       [](Call& c) { c.arguments.o.stride_batch -= 8; },
       {"o.stride_batch", "rows of the output would overlap"}},
      {"a span of more than 2^63 elements",
       [](Call& c) { c.arguments.k.stride_token = std::numeric_limits<std::int64_t>::max() - 7; },
       {"k.stride_token", "2^63"}},
      {"a span of more than 2^64 bytes",
       [](Call& c) {
         c.arguments.k.stride_batch = std::numeric_limits<std::int64_t>::max() - 65535;
       },
       {"k at", "address space"}},
  });
}

TEST_CASE("what is only read may be broadcast along any axis") {
  FakePlan plan;
  for (TensorView attention::Arguments::*const tensor :
       {&attention::Arguments::q, &attention::Arguments::k, &attention::Arguments::v}) {
    for (std::int64_t TensorView::*const stride :
         {&TensorView::stride_batch, &TensorView::stride_head, &TensorView::stride_token}) {
      Call call;
      call.arguments.*tensor.*stride = 0;
      REQUIRE_NOTHROW(run(plan, call));
    }
  }
}

TEST_CASE("overlap") {
  check_refusals({
      {"o is q", [](Call& c) { c.arguments.o.data = kQ; }, {"o spans", "q spans", "overlap"}},
      {"o is k", [](Call& c) { c.arguments.o.data = kK; }, {"o spans", "k spans", "overlap"}},
      {"o ends in v", [](Call& c) { c.arguments.o.data = kV - 16; }, {"o spans", "v spans"}},
      {"o begins in q",
       [](Call& c) { c.arguments.o.data = kQ + 2 * (2 * 6 * 40 * 128) - 16; },
       {"o spans", "q spans"}},
      {"lse in q", [](Call& c) { c.arguments.lse = kQ + 16; }, {"lse spans", "q spans"}},
      {"lse ends in o", [](Call& c) { c.arguments.lse = kO - 4; }, {"lse spans", "o spans"}},
      {"lse in the workspace",
       [](Call& c) { c.arguments.lse = kWorkspace + 4; },
       {"lse spans", "workspace spans"}},
      {"workspace in k", [](Call& c) { c.workspace = kK; }, {"workspace spans", "k spans"}},
      {"workspace in o", [](Call& c) { c.workspace = kO + 256; }, {"workspace spans", "o spans"}},
  });
}

TEST_CASE("what touches without overlapping is accepted") {
  FakePlan plan;
  const auto q_bytes = static_cast<DevicePtr>(2 * 2 * 6 * 40 * kHeadDim);
  Call call;
  call.arguments.o.data = kQ + q_bytes;
  call.arguments.lse = kQ + 2 * q_bytes;
  REQUIRE_NOTHROW(run(plan, call));
  call.arguments.o.data = kQ - q_bytes;
  REQUIRE_NOTHROW(run(plan, call));
  // Inputs may share memory: K and V in one, or even the same.
  call = Call{};
  call.arguments.v = call.arguments.k;
  REQUIRE_NOTHROW(run(plan, call));
}

TEST_CASE("the stride of an axis of size 1 is never looked at") {
  FakePlan plan;
  const attention::Shape shape{.batch = 1, .q_heads = 1, .kv_heads = 1, .q_len = 1, .kv_len = 1};
  attention::Arguments arguments = plain_arguments(shape, kHeadDim);
  for (TensorView* view : {&arguments.q, &arguments.k, &arguments.v, &arguments.o}) {
    view->stride_batch = -3;
    view->stride_head = 0;
    view->stride_token = 1;
  }
  REQUIRE_NOTHROW(plan.run(shape, arguments));
}

TEST_CASE("softmax scale") {
  check_refusals({
      {"negative", [](Call& c) { c.arguments.softmax_scale = -0.1f; }, {"softmax_scale is -0.1"}},
      {"NaN", [](Call& c) { c.arguments.softmax_scale = kNan; }, {"softmax_scale is nan"}},
      {"infinite",
       [](Call& c) { c.arguments.softmax_scale = kInfinity; },
       {"softmax_scale is inf"}},
      {"minus infinity", [](Call& c) { c.arguments.softmax_scale = -kInfinity; }, {"positive"}},
  });
}

TEST_CASE("workspace") {
  check_refusals({
      {"none", [](Call& c) { c.workspace = 0; }, {"workspace is a null pointer"}},
      {"misaligned", [](Call& c) { c.workspace += 128; }, {"workspace is at", "256 bytes"}},
      {"one byte short",
       [](Call& c) { c.workspace_slack = -1; },
       {"workspace has", "needs", "workspace_bytes()"}},
  });
  FakePlan plan;
  Call roomy;
  roomy.workspace_slack = 1000;
  REQUIRE_NOTHROW(run(plan, roomy));
}

TEST_CASE("hnd and nhd give the strides of contiguous tensors") {
  const TensorView h = hnd(16, 3, 5, 64);
  CHECK((h.data == 16 && h.stride_batch == 960 && h.stride_head == 320 && h.stride_token == 64));
  const TensorView n = nhd(16, 3, 5, 64);
  CHECK((n.data == 16 && n.stride_batch == 960 && n.stride_head == 64 && n.stride_token == 192));
}

TEST_CASE("a spec that no kernel can be is refused before anything is loaded") {
  const auto driver = std::make_shared<FakeDriver>();
  const Device device(driver, 0);
  CHECK_THROWS_AS(attention::Plan(device, usual_kernel({.head_dim = 96}), fake_source()),
                  SpecError);
  CHECK(driver->live() == std::vector<std::string>{"primary context"});
}

TEST_CASE("a source that gives the wrong text is refused") {
  const auto driver = std::make_shared<FakeDriver>();
  const Device device(driver, 0);
  const sagegen::Kernel asked = usual_kernel();
  const auto make = [&](const std::string& text) {
    return attention::Plan(device, asked, [&](const sagegen::Kernel& kernel) {
      return artifact_of_ptx(kernel, text);
    });
  };
  CHECK_THROWS_WITH(make(fake_ptx("a", 8) + fake_ptx("b", 8)), Contains("2 entry points"));
  // Another layout, and a text that says nothing of its layout.
  const auto own_entry = [&](const std::string& line) {
    return attention::Plan(device, asked, [&](const sagegen::Kernel& kernel) {
      return artifact_of_ptx(kernel, line + fake_ptx(kernel.key(), 8));
    });
  };
  CHECK_THROWS_WITH(own_entry(params_line(1)), Contains("another version of sagegen") &&
                                                   Contains("made for other parameters"));
  CHECK_THROWS_WITH(own_entry(""), Contains("another version of sagegen") &&
                                       Contains("does not say its parameters"));
  // Another kernel, whose parameters are the same: bf16 instead of f16.
  const auto other_entry = [](const sagegen::Kernel& kernel) {
    std::string other = kernel.key();
    other.replace(other.find("f16"), 3, "bf16");
    return artifact_of_ptx(
        kernel, params_line(kernel.params().digest()) + fake_ptx(other, kernel.params().bytes()));
  };
  CHECK_THROWS_WITH(attention::Plan(device, asked, other_entry),
                    Contains(asked.key()) && Contains("that of another kernel, sage_kvstats_"));
  CHECK_THROWS_AS(make("gibberish"), SpecError);
  CHECK_THROWS_WITH(
      attention::Plan(device, asked,
                      [](const sagegen::Kernel&) { return ArtifactSource::Shared(); }),
      Contains("its source gave nothing"));
  CHECK_THROWS_WITH(attention::Plan(device, asked, ArtifactSource()),
                    Contains("there is no source of PTX"));
  CHECK(driver->live() == std::vector<std::string>{"primary context"});
}
