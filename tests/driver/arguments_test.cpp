// What a plan refuses to launch: one case for each rule. Every refusal names the tensor and the
// rule, and nothing has been launched.
#include <algorithm>
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

// right: what the kernel takes before it is spoiled.
void check_refusals(const std::vector<Refusal>& refusals,
                    const sagegen::Kernel& kernel = usual_kernel(), const Call& right = {}) {
  FakePlan plan(kernel);
  REQUIRE_NOTHROW(run(plan, right));
  plan.driver->clear_launches();
  for (const Refusal& refusal : refusals) {
    INFO(refusal.rule);
    Call call = right;
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

// ---- masks and biases ----------------------------------------------------------------------------

sagegen::Kernel kernel_with_all_mods() {
  attention::Spec spec;
#define SAGEGEN_MOD(name) spec.name = true;
#include "templates/attention/mods/mods.def"
  return usual_kernel(spec);
}

// Whole, in rows that are padded by one element.
attention::ScoreTensor scores_at(DevicePtr data) {
  return {.data = data,
          .stride_batch = 6 * 40 * 51,
          .stride_head = 40 * 51,
          .stride_query = 51,
          .stride_key = 1};
}
// From the first element to one past the last.
constexpr DevicePtr kScoreElements = 2 * 6 * 40 * 51 - 1;

Call call_with_all_mods() {
  Call call;
  attention::ModArguments& mods = call.arguments.mods;
  mods.window = {.left = 10, .right = 3};
  mods.softcap = {.cap = 30};
  mods.bias = scores_at(kBias);
  mods.alibi = {.slopes = kSlopes};
  mods.mask = scores_at(kMask);
  mods.sinks = {.logits = kSinks};
  mods.blocksparse = {.bits = kBits, .tile_queries = 128, .tile_keys = 64};
  mods.skipsoftmax = {.thresholds = kThresholds, .counts = kCounts};
  return call;
}

void check_mod_refusals(const std::vector<Refusal>& refusals) {
  check_refusals(refusals, kernel_with_all_mods(), call_with_all_mods());
}

constexpr std::int64_t kLargest = std::numeric_limits<std::int64_t>::max();

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

// Of 64-bit numbers all the way: none of these has its last bytes within 2^32 of its first.
TEST_CASE("workspaces of long sequences") {
  const attention::Shape shape{.batch = 3,
                               .q_heads = 48,
                               .kv_heads = 24,
                               .q_len = (std::int64_t{1} << 20) + 1,
                               .kv_len = (std::int64_t{1} << 21) + 77};
  const std::int64_t q_rows = std::int64_t{3} * 48 * ((1 << 20) + 128),
                     k_rows = std::int64_t{3} * 24 * ((1 << 21) + 128);
  const auto bytes_of = [&](const attention::Spec& spec, std::string_view name) {
    const FakePlan plan(usual_kernel(spec));
    std::int64_t end = 0, bytes = -1;
    for (const auto& tensor : plan.plan.scratch(shape)) {
      CHECK(tensor.offset >= 0);
      CHECK(tensor.bytes >= 0);
      end = std::max(end, tensor.offset + tensor.bytes);
      if (tensor.name == name) bytes = tensor.bytes;
    }
    CHECK(end <= static_cast<std::int64_t>(plan.workspace_bytes(shape)));
    CHECK(end > static_cast<std::int64_t>(plan.workspace_bytes(shape)) - 256);
    return bytes;
  };
  CHECK(bytes_of({}, "q_codes") == q_rows * 128);
  CHECK(bytes_of({}, "q_scale") == q_rows / 32 * 8 * 4);
  CHECK(bytes_of({}, "k_codes") == k_rows * 128);
  CHECK(bytes_of({}, "v_codes") == k_rows * 128);
  CHECK(bytes_of({}, "lse_correction") == q_rows * 4);
  CHECK(bytes_of({.head_dim = 256, .value_dim = 192}, "k_codes") == k_rows * 256);
  CHECK(bytes_of({.head_dim = 256, .value_dim = 192}, "v_codes") == k_rows * 192);
  const attention::Spec per_token{.granularity = Granularity::per_token};
  CHECK(bytes_of(per_token, "k_scale") == k_rows * 4);
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

TEST_CASE("V and O are checked against channels of their own number") {
  const sagegen::Kernel narrow = usual_kernel({.head_dim = 128, .value_dim = 64});
  Call right;
  const attention::Arguments of_values = plain_arguments(kShape, 64);
  right.arguments.v = of_values.v;
  right.arguments.o = of_values.o;
  check_refusals({{"rows of V that overlap",
                   [](Call& c) { c.arguments.v.stride_token = 56; },
                   {"v.stride_token is 56", "64 channels", "overlap"}},
                  {"rows of O that overlap",
                   [](Call& c) { c.arguments.o.stride_token = 56; },
                   {"o.stride_token is 56", "64 channels", "overlap"}},
                  {"rows of K that overlap",
                   [](Call& c) { c.arguments.k.stride_token = 64; },
                   {"k.stride_token is 64", "128 channels", "overlap"}},
                  {"lse that begins in O",
                   [](Call& c) { c.arguments.lse = kO + 2 * (2 * 6 * 40 * 64) - 16; },
                   {"lse spans", "o spans"}}},
                 narrow, right);
  FakePlan plan(narrow);
  right.arguments.lse = kO + 2 * (2 * 6 * 40 * 64);  // where O ends
  REQUIRE_NOTHROW(run(plan, right));
  check_refusals({{"rows of V that overlap",
                   [](Call& c) { c.arguments.v = plain_arguments(kShape, 128).v; },
                   {"v.stride_token is 128", "192 channels", "overlap"}}},
                 usual_kernel({.head_dim = 128, .value_dim = 192}), {.arguments = [] {
                   attention::Arguments arguments = plain_arguments(kShape, 128);
                   arguments.v = plain_arguments(kShape, 192).v;
                   arguments.o = plain_arguments(kShape, 192).o;
                   return arguments;
                 }()});
}

TEST_CASE("O as codes of a byte") {
  Call right;
  right.arguments.o_scale = kSlopes;
  const std::vector<Refusal> refusals{
      {"no scale", [](Call& c) { c.arguments.o_scale = 0; }, {"o_scale is a null pointer"}},
      {"a misaligned scale",
       [](Call& c) { c.arguments.o_scale = kSlopes + 2; },
       {"o_scale is at", "4 bytes"}},
      {"rows of half chunks",
       [](Call& c) { c.arguments.o.stride_token = 136; },
       {"o.stride_token is 136", "multiples of 16 (16 bytes)"}},
      {"a misaligned O", [](Call& c) { c.arguments.o.data += 8; }, {"o is at", "16 bytes"}}};
  check_refusals(refusals, usual_kernel({.out = attention::OutputFormat::e4m3}), right);
  check_refusals(refusals, usual_kernel({.out = attention::OutputFormat::s8}), right);
  // What is written overlaps nothing, to the byte; what is read may lie among inputs.
  const auto o_bytes = static_cast<DevicePtr>(2 * 6 * 40 * kHeadDim);
  const DevicePtr scale_bytes = 4 * 2 * 6 * 40;
  check_refusals({{"scales that begin in O",
                   [=](Call& c) { c.arguments.o_scale = kO + o_bytes - 4; },
                   {"o spans", "o_scale spans"}},
                  {"scales that end in Q",
                   [=](Call& c) { c.arguments.o_scale = kQ - scale_bytes + 4; },
                   {"o_scale spans", "q spans"}}},
                 usual_kernel({.out = attention::OutputFormat::s8}), right);
  FakePlan s8(usual_kernel({.out = attention::OutputFormat::s8})),
      e4m3(usual_kernel({.out = attention::OutputFormat::e4m3}));
  right.arguments.o_scale = kO + o_bytes;
  REQUIRE_NOTHROW(run(s8, right));
  right.arguments.o_scale = kQ;
  REQUIRE_NOTHROW(run(e4m3, right));
  // 72 bytes are no whole chunks of 16.
  FakePlan narrow(usual_kernel({.value_dim = 72, .out = attention::OutputFormat::s8}));
  right.arguments.v = plain_arguments(kShape, 72).v;
  right.arguments.o = plain_arguments(kShape, 72).o;
  right.arguments.o.data += 8;
  right.arguments.o_scale = kSlopes;
  REQUIRE_NOTHROW(run(narrow, right));
  check_refusals({{"a scale that nobody reads",
                   [](Call& c) { c.arguments.o_scale = kSlopes; },
                   {"o_scale is given", "writes O in f16", "out=e4m3 or out=s8"}}});
}

TEST_CASE("codes of O of packed sequences have scales for their rows") {
  const attention::Shape shape{.batch = 3,
                               .q_heads = 4,
                               .kv_heads = 2,
                               .q_len = 20,
                               .kv_len = 20,
                               .total_q = 40,
                               .total_kv = 40};
  for (const bool pack_gqa : {false, true}) {
    FakePlan plan(
        usual_kernel({.out = attention::OutputFormat::s8, .pack_gqa = pack_gqa, .varlen = true}));
    Call right{.shape = shape};
    right.arguments.cu_seqlens_q = right.arguments.cu_seqlens_kv = kSlopes;
    const DevicePtr rows = 4 * 40;
    right.arguments.q = right.arguments.o = sagegen::runtime::nhd(0, 4, 40, kHeadDim);
    right.arguments.k = right.arguments.v = sagegen::runtime::nhd(0, 2, 40, kHeadDim);
    right.arguments.q.data = kQ;
    right.arguments.k.data = kK;
    right.arguments.v.data = kV;
    right.arguments.o.data = kO;
    right.arguments.lse = 0;
    right.arguments.o_scale = kO + rows * kHeadDim;
    REQUIRE_NOTHROW(plan.run(right.shape, right.arguments));
    Call other = right;
    other.arguments.o_scale = kQ - 4 * rows + 4;
    CHECK_THROWS_WITH(plan.run(shape, other.arguments),
                      Contains("o_scale spans") && Contains("q spans"));
    other.arguments.o_scale = kQ - 4 * rows;
    REQUIRE_NOTHROW(plan.run(shape, other.arguments));
    other.arguments.o_scale = 0;
    CHECK_THROWS_WITH(plan.run(shape, other.arguments), Contains("o_scale is a null pointer"));
  }
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

namespace {

sagegen::Kernel unquantized_kernel(std::string_view mode_name) {
  for (const attention::Mode& mode : attention::modes()) {
    if (mode.name != mode_name) continue;
    return {attention::family(), attention::with_mode({.io = DType::bf16}, mode), Target{.sm = 89}};
  }
  throw std::invalid_argument("no such mode");
}

}  // namespace

TEST_CASE("Q and K that are not quantized") {
  for (const char* mode : {"16bit", "bf16-fp8"}) {
    check_refusals(
        {
            {"a misaligned Q", [](Call& c) { c.arguments.q.data += 2; }, {"q is at", "16 bytes"}},
            {"rows of K that are too close",
             [](Call& c) { c.arguments.k.stride_token = 4; },
             {"k.stride_token"}},
            {"O over Q", [](Call& c) { c.arguments.o.data = kQ; }, {"o spans", "q spans"}},
            {"O over K", [](Call& c) { c.arguments.o.data = kK; }, {"o spans", "k spans"}},
            {"a subnormal scale",
             [](Call& c) { c.arguments.softmax_scale = 1e-39f; },
             {"softmax_scale is 1e-39", "not quantized", "at least 1.1754"}},
        },
        unquantized_kernel(mode));
  }
  // Codes have it in their scales.
  FakePlan quantized;
  Call subnormal;
  subnormal.arguments.softmax_scale = 1e-39f;
  REQUIRE_NOTHROW(run(quantized, subnormal));
}

TEST_CASE("a workspace of 0 bytes may be a null pointer, or lie anywhere") {
  FakePlan plan(unquantized_kernel("16bit"));
  for (const DevicePtr workspace : {DevicePtr{0}, kWorkspace, kWorkspace + 1, kO}) {
    Call call;
    call.workspace = workspace;
    for (const DevicePtr lse : {DevicePtr{0}, kLse}) {
      call.arguments.lse = lse;
      REQUIRE_NOTHROW(run(plan, call));
    }
  }
  CHECK(plan.driver->launches().size() == 8);
}

TEST_CASE("arguments of a mask or bias that the kernel does not have") {
  const auto absent = [](const std::string& mod) {
    return std::vector<std::string>{"arguments of " + mod + " are given", "sage_fwd_d128_",
                                    "has no " + mod, "take one with " + mod + "=true"};
  };
  using C = Call;
  const std::vector<Refusal> refusals{
      {"left", [](C& c) { c.arguments.mods.window.left = 5; }, absent("window")},
      {"right", [](C& c) { c.arguments.mods.window.right = 0; }, absent("window")},
      {"cap", [](C& c) { c.arguments.mods.softcap.cap = 30; }, absent("softcap")},
      {"NaN", [](C& c) { c.arguments.mods.softcap.cap = kNan; }, absent("softcap")},
      {"bias", [](C& c) { c.arguments.mods.bias.data = kBias; }, absent("bias")},
      {"stride", [](C& c) { c.arguments.mods.bias.stride_head = 1; }, absent("bias")},
      {"slopes", [](C& c) { c.arguments.mods.alibi.slopes = kSlopes; }, absent("alibi")},
      {"mask", [](C& c) { c.arguments.mods.mask.data = kMask; }, absent("mask")},
      {"key", [](C& c) { c.arguments.mods.mask.stride_key = -1; }, absent("mask")},
      {"sinks", [](C& c) { c.arguments.mods.sinks.logits = kSinks; }, absent("sinks")},
      {"bits", [](C& c) { c.arguments.mods.blocksparse.bits = kBits; }, absent("blocksparse")},
      {"tiles", [](C& c) { c.arguments.mods.blocksparse.tile_keys = 64; }, absent("blocksparse")},
      {"threshold", [](C& c) { c.arguments.mods.skipsoftmax.threshold = 0.1f; },
       absent("skipsoftmax")},
      {"counts", [](C& c) { c.arguments.mods.skipsoftmax.counts = kCounts; },
       absent("skipsoftmax")},
  };
  check_refusals(refusals);
  // One that has all but the mod.
  for (const Refusal& refusal : refusals) {
    attention::Spec spec = kernel_with_all_mods().view(attention::family()).spec;
    Call call = call_with_all_mods();
    const attention::ModArguments none;
#define SAGEGEN_MOD(name)                                       \
  if (refusal.words[0] == "arguments of " #name " are given") { \
    spec.name = false;                                          \
    call.arguments.mods.name = none.name;                       \
  }
#include "templates/attention/mods/mods.def"
    check_refusals({refusal}, usual_kernel(spec), call);
  }
}

TEST_CASE("addresses of masks and biases") {
  using C = Call;
  check_mod_refusals({
      {"null bias", [](C& c) { c.arguments.mods.bias.data = 0; }, {"bias.data is a null pointer"}},
      {"null mask", [](C& c) { c.arguments.mods.mask.data = 0; }, {"mask.data is a null pointer"}},
      {"null slopes",
       [](C& c) { c.arguments.mods.alibi.slopes = 0; },
       {"alibi.slopes is a null pointer"}},
      {"null sinks",
       [](C& c) { c.arguments.mods.sinks.logits = 0; },
       {"sinks.logits is a null pointer"}},
      {"null bits",
       [](C& c) { c.arguments.mods.blocksparse.bits = 0; },
       {"blocksparse.bits is a null pointer"}},
      {"no bias at all", [](C& c) { c.arguments.mods.bias = {}; }, {"bias.data is a null pointer"}},
      {"odd bias", [](C& c) { c.arguments.mods.bias.data += 1; }, {"bias.data is at", "2 bytes"}},
      {"slopes at 1",
       [](C& c) { c.arguments.mods.alibi.slopes += 1; },
       {"alibi.slopes is at", "4 bytes"}},
      {"sinks at 2",
       [](C& c) { c.arguments.mods.sinks.logits += 2; },
       {"sinks.logits is at", "4 bytes"}},
      {"bits at 1",
       [](C& c) { c.arguments.mods.blocksparse.bits += 1; },
       {"blocksparse.bits is at", "4 bytes"}},
      {"thresholds at 2",
       [](C& c) { c.arguments.mods.skipsoftmax.thresholds += 2; },
       {"skipsoftmax.thresholds is at", "4 bytes"}},
      {"counts at 2",
       [](C& c) { c.arguments.mods.skipsoftmax.counts += 2; },
       {"skipsoftmax.counts is at", "4 bytes"}},
      {"bias at the end of memory",
       [](C& c) { c.arguments.mods.bias.data = ~DevicePtr{0} - 2 * kScoreElements + 1; },
       {"bias.data at", "address space"}},
      {"mask at the end of memory",
       [](C& c) { c.arguments.mods.mask.data = ~DevicePtr{0} - kScoreElements + 1; },
       {"mask.data at", "address space"}},
      {"sinks at the end of memory",
       [](C& c) { c.arguments.mods.sinks.logits = ~DevicePtr{0} - 23; },
       {"sinks.logits at", "address space"}},
  });
  // Elements are loaded one by one.
  FakePlan plan(kernel_with_all_mods());
  Call call = call_with_all_mods();
  call.arguments.mods.bias.data += 2;
  call.arguments.mods.mask.data += 1;
  call.arguments.mods.sinks.logits += 4;
  call.arguments.mods.blocksparse.bits += 4;
  call.arguments.mods.skipsoftmax.counts += 4;
  REQUIRE_NOTHROW(run(plan, call));
  call.arguments.mods.skipsoftmax = {};  // nobody skips, and nobody counts
  REQUIRE_NOTHROW(run(plan, call));
}

TEST_CASE("packed rows are counted in 30 bits") {
  const FakePlan plan(usual_kernel({.head_dim = 32, .q_group = 16, .pack_gqa = true}));
  attention::Shape shape{.q_heads = 8, .kv_heads = 1, .q_len = (1 << 27) - 128, .kv_len = 1};
  CHECK_NOTHROW(plan.plan.workspace_bytes(shape));
  shape.q_len = 1 << 27;
  CHECK_THROWS_WITH(plan.plan.workspace_bytes(shape),
                    Contains("1073741824 packed rows") && Contains("without pack_gqa"));
}

TEST_CASE("rows of packed sequences are counted in 31 bits, those of a group of heads together") {
  const FakePlan plan(usual_kernel({.head_dim = 32, .pack_gqa = true, .varlen = true}));
  attention::Shape shape{.batch = 2,
                         .q_heads = 8,
                         .kv_heads = 1,
                         .q_len = 1,
                         .kv_len = 1,
                         .total_q = (1 << 28) - 64,
                         .total_kv = 2};
  CHECK_NOTHROW(plan.plan.workspace_bytes(shape));
  shape.total_q = 1 << 28;
  CHECK_THROWS_WITH(plan.plan.workspace_bytes(shape),
                    Contains("total_q * q_heads / kv_heads is 2147483648"));
}

TEST_CASE("thresholds of tiles") {
  using C = Call;
  const auto threshold = [](float value) {
    return [value](C& c) { c.arguments.mods.skipsoftmax = {.threshold = value}; };
  };
  const char* share = "a share of the largest weight";
  check_mod_refusals({
      {"negative", threshold(-0.1f), {"skipsoftmax: threshold is -0.1", share, "less than 1"}},
      {"one", threshold(1), {"skipsoftmax: threshold is 1;", share}},
      {"NaN", threshold(kNan), {"skipsoftmax: threshold is nan", share}},
      {"both",
       [](C& c) { c.arguments.mods.skipsoftmax.threshold = 0.5f; },
       {"threshold is 0.5, and thresholds are given, too", "one for all requests"}},
  });
}

TEST_CASE("strides of masks and biases") {
  using Tensor = attention::ScoreTensor;
  for (Tensor attention::ModArguments::*const tensor :
       {&attention::ModArguments::bias, &attention::ModArguments::mask}) {
    const std::string name = tensor == &attention::ModArguments::bias ? "bias: " : "mask: ";
    struct Stride {
      std::string name;
      std::int64_t Tensor::*member;
    };
    for (const auto& [which, stride] : {Stride{"stride_batch", &Tensor::stride_batch},
                                        Stride{"stride_head", &Tensor::stride_head},
                                        Stride{"stride_query", &Tensor::stride_query},
                                        Stride{"stride_key", &Tensor::stride_key}}) {
      const auto set = [=](std::int64_t value) {
        return [=](Call& c) { c.arguments.mods.*tensor.*stride = value; };
      };
      const std::vector<std::string> large{
          name, which == "stride_key" ? which + " is " : "its elements span more than 2^60"};
      check_mod_refusals({{"-1", set(-1), {name, which + " is -1"}},
                          {"least", set(-kLargest - 1), {name, which + " is -9223372036854775808"}},
                          {"largest", set(kLargest), large},
                          {"2^60", set(std::int64_t{1} << 60), large}});
    }
    const auto key = [=](std::int64_t value) {
      return [=](Call& c) { (c.arguments.mods.*tensor).stride_key = value; };
    };
    check_mod_refusals({{"2^30",
                         key(std::int64_t{1} << 30),
                         {name, "stride_key is 1073741824", "to 1073741823"}}});
    FakePlan plan(kernel_with_all_mods());
    Call call = call_with_all_mods();
    key((std::int64_t{1} << 30) - 1)(call);
    REQUIRE_NOTHROW(run(plan, call));
    call.arguments.mods.*tensor = {.data = kBias};  // one value for all
    REQUIRE_NOTHROW(run(plan, call));
  }
  // Those of axes of size 1 are never used.
  FakePlan plan(kernel_with_all_mods());
  const attention::Shape one{.batch = 1, .q_heads = 1, .kv_heads = 1, .q_len = 1, .kv_len = 1};
  attention::Arguments arguments = plain_arguments(one, kHeadDim);
  arguments.mods = call_with_all_mods().arguments.mods;
  arguments.mods.bias = {kBias, kLargest, -1, kLargest, -kLargest};
  REQUIRE_NOTHROW(plan.run(one, arguments));
}

TEST_CASE("caps") {
  const auto cap = [](float value) {
    return [=](Call& c) { c.arguments.mods.softcap.cap = value; };
  };
  const std::string rule = "it must be between 1e-20 and 1e20";
  check_mod_refusals({
      {"not given", cap(0), {"softcap: cap is 0", rule}},
      {"minus zero", cap(-0.0f), {"softcap: cap is -0", rule}},
      {"negative", cap(-30), {"softcap: cap is -30", rule}},
      {"NaN", cap(kNan), {"softcap: cap is nan", rule}},
      {"infinite", cap(kInfinity), {"softcap: cap is inf", rule}},
      {"minus infinity", cap(-kInfinity), {"softcap: cap is -inf", rule}},
      {"subnormal", cap(1e-40f), {"softcap: cap is ", rule}},
      {"too small", cap(0.9e-20f), {"softcap: cap is ", rule}},
      {"too large", cap(1.1e20f), {"softcap: cap is ", rule}},
  });
  FakePlan plan(kernel_with_all_mods());
  for (const float good : {1e-20f, 0.5f, 1e20f}) {
    Call call = call_with_all_mods();
    cap(good)(call);
    REQUIRE_NOTHROW(run(plan, call));
  }
}

TEST_CASE("tiles of another kernel") {
  const auto tiles = [](std::int64_t queries, std::int64_t keys) {
    return [=](Call& c) {
      c.arguments.mods.blocksparse.tile_queries = queries;
      c.arguments.mods.blocksparse.tile_keys = keys;
    };
  };
  const std::string kernel_has = "the kernel has tiles of 128 queries and 64 keys";
  check_mod_refusals({
      {"queries", tiles(64, 64), {"blocksparse: ", "of tiles of 64 queries and 64", kernel_has}},
      {"keys", tiles(128, 128), {"blocksparse: ", "of tiles of 128 queries and 128", kernel_has}},
      {"swapped", tiles(64, 128), {"blocksparse: ", "64 queries and 128 keys", kernel_has}},
      {"not given", tiles(0, 0), {"blocksparse: ", "0 queries and 0 keys", kernel_has}},
      {"33 bits",
       tiles(128 + (std::int64_t{1} << 32), 64),
       {"blocksparse: ", "4294967424 queries", kernel_has}},
  });
}

TEST_CASE("bits of tiles of packed rows are those of heads of K and V") {
  attention::Spec spec{.pack_gqa = true};
  spec.blocksparse = true;
  FakePlan plan(usual_kernel(spec));
  Call call;  // 3 heads of K and V with 2 of Q each
  call.arguments.mods.blocksparse = {.bits = kBits, .tile_queries = 32, .tile_keys = 64};
  REQUIRE_NOTHROW(plan.run(call.shape, call.arguments));
  const auto words =
      static_cast<DevicePtr>(kShape.batch * kShape.kv_heads *
                             ((kShape.q_len * kShape.q_heads / kShape.kv_heads + 31) / 32) *
                             ((kShape.kv_len + 2047) / 2048));
  call.arguments.mods.blocksparse.bits = kO - 4 * words;
  REQUIRE_NOTHROW(plan.run(call.shape, call.arguments));
  call.arguments.mods.blocksparse.bits += 4;
  CHECK_THROWS_WITH(plan.run(call.shape, call.arguments),
                    Contains("o spans") && Contains("blocksparse.bits spans"));
}

TEST_CASE("windows of lengths whose places leave 32 bits") {
  attention::Spec spec;
  spec.window = true;
  FakePlan plan(usual_kernel(spec));
  const std::int64_t most = 536870912;
  const auto run_with = [&](std::int64_t q_len, std::int64_t kv_len) {
    const attention::Shape shape{.q_len = q_len, .kv_len = kv_len};
    plan.run(shape, plain_arguments(shape, kHeadDim));
  };
  REQUIRE_NOTHROW(run_with(most, most));
  plan.driver->clear_launches();
  CHECK_THROWS_WITH(run_with(most + 1, 1), Contains("window") && Contains("at most 536870912"));
  CHECK_THROWS_WITH(run_with(1, most + 1), Contains("window") && Contains("at most 536870912"));
  CHECK(plan.driver->launches().empty());
}

TEST_CASE("what is written overlaps no mask and no bias") {
  using C = Call;
  constexpr DevicePtr q_bytes = 2 * 2 * 6 * 40 * kHeadDim;
  check_mod_refusals({
      {"o is the bias", [](C& c) { c.arguments.o.data = kBias; }, {"o spans", "bias.data spans"}},
      {"o begins in the bias",
       [](C& c) { c.arguments.o.data = (kBias + 2 * kScoreElements - 1) / 16 * 16; },
       {"o spans", "bias.data spans"}},
      {"o ends in the bias",
       [](C& c) { c.arguments.mods.bias.data = kO + q_bytes - 2; },
       {"o spans", "bias.data spans"}},
      {"o ends in the mask",
       [](C& c) { c.arguments.mods.mask.data = kO + q_bytes - 1; },
       {"o spans", "mask.data spans"}},
      {"mask ends in o",
       [](C& c) { c.arguments.mods.mask.data = kO - kScoreElements + 1; },
       {"o spans", "mask.data spans"}},
      {"sinks in o",
       [](C& c) { c.arguments.mods.sinks.logits = kO + q_bytes - 4; },
       {"o spans", "sinks.logits spans"}},
      {"bits in o",
       [](C& c) { c.arguments.mods.blocksparse.bits = kO + 400; },
       {"o spans", "blocksparse.bits spans"}},
      {"lse in the bias",
       [](C& c) { c.arguments.lse = kBias + 400; },
       {"lse spans", "bias.data spans"}},
      {"lse in the mask",
       [](C& c) { c.arguments.lse = kMask + 400; },
       {"lse spans", "mask.data spans"}},
      {"lse is the sinks",
       [](C& c) { c.arguments.lse = kSinks; },
       {"lse spans", "sinks.logits spans"}},
      {"o ends in the slopes",
       [](C& c) { c.arguments.mods.alibi.slopes = kO + q_bytes - 4; },
       {"o spans", "alibi.slopes spans"}},
      {"lse ends in the bits",
       [](C& c) { c.arguments.lse = kBits - 4; },
       {"lse spans", "blocksparse.bits spans"}},
      {"workspace in the bias",
       [](C& c) { c.workspace = kBias; },
       {"workspace", "bias.data spans"}},
      {"workspace in the mask",
       [](C& c) { c.workspace = kMask; },
       {"workspace", "mask.data spans"}},
      {"workspace in the sinks",
       [](C& c) { c.workspace = kSinks; },
       {"workspace", "sinks.logits spans"}},
      {"workspace in the bits",
       [](C& c) { c.workspace = kBits; },
       {"workspace", "blocksparse.bits spans"}},
      {"counts in o",
       [](C& c) { c.arguments.mods.skipsoftmax.counts = kO + 400; },
       {"o spans", "skipsoftmax.counts spans"}},
      {"counts in k",
       [](C& c) { c.arguments.mods.skipsoftmax.counts = kK; },
       {"skipsoftmax.counts spans", "k spans"}},
      {"counts are the thresholds",
       [](C& c) { c.arguments.mods.skipsoftmax.counts = kThresholds - 12; },
       {"skipsoftmax.counts spans", "skipsoftmax.thresholds spans"}},
      {"workspace in the counts",
       [](C& c) { c.workspace = kCounts; },
       {"workspace", "skipsoftmax.counts spans"}},
  });
  // Touching is no overlap, and what is read may be one.
  FakePlan plan(kernel_with_all_mods());
  Call call = call_with_all_mods();
  call.arguments.mods.bias.data = kO + q_bytes;
  call.arguments.mods.mask.data = kO - kScoreElements;
  call.arguments.mods.sinks.logits = kWorkspace - 24;
  call.arguments.mods.blocksparse.bits = kK;
  REQUIRE_NOTHROW(run(plan, call));
  call.arguments.mods.bias.data = call.arguments.mods.mask.data = kQ;
  REQUIRE_NOTHROW(run(plan, call));
}

TEST_CASE("arguments of masks and biases by name") {
  attention::ModArguments mods;
  set_mod_argument(mods, "window.left", 5, 0);
  set_mod_argument(mods, "window.right", -1, 0);
  set_mod_argument(mods, "softcap.cap", 0, 30.5);
  set_mod_argument(mods, "bias.data", static_cast<std::int64_t>(0xf000'0000'0000'0002u), 0);
  set_mod_argument(mods, "bias.stride_query", 7, 0);
  set_mod_argument(mods, "mask.stride_key", 1, 0);
  set_mod_argument(mods, "alibi.slopes", 32, 0);
  set_mod_argument(mods, "sinks.logits", 64, 0);
  set_mod_argument(mods, "blocksparse.tile_keys", 128, 0);
  set_mod_argument(mods, "skipsoftmax.threshold", 0, 0.25);
  set_mod_argument(mods, "skipsoftmax.counts", 96, 0);
  set_mod_argument(mods, "window.left", 6, 0);  // the last one counts
  attention::ModArguments same;
  same.window = {.left = 6, .right = -1};
  same.softcap = {.cap = 30.5f};
  same.bias.data = 0xf000'0000'0000'0002u;
  same.bias.stride_query = 7;
  same.mask.stride_key = 1;
  same.alibi.slopes = 32;
  same.sinks.logits = 64;
  same.blocksparse.tile_keys = 128;
  same.skipsoftmax = {.threshold = 0.25f, .counts = 96};
#define SAGEGEN_MOD(name) CHECK((mods.name == same.name));
#include "templates/attention/mods/mods.def"
  for (const char* name : {"", "window", "window.", ".left", "left", "window.left.", "Window.left",
                           "causal.offset", "window.offset", "sinks.data"}) {
    INFO(name);
    CHECK_THROWS_WITH(set_mod_argument(mods, name, 0, 0),
                      Contains(std::string("argument ") + name + " is unknown") &&
                          Contains("window.left, window.right, ") &&
                          Contains("blocksparse.tile_keys"));
  }
  CHECK_THROWS_WITH(set_mod_argument(mods, "window.left", 0, 5),
                    Contains("window.left is given as a number") && Contains("an integer"));
  CHECK_THROWS_WITH(set_mod_argument(mods, "sinks.logits", 0, kNan),
                    Contains("sinks.logits is given as a number") && Contains("an address"));
  CHECK_THROWS_WITH(set_mod_argument(mods, "softcap.cap", 30, 0),
                    Contains("softcap.cap is given as an integer") && Contains("it is a number"));
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
  CHECK_THROWS_AS(attention::Plan(device, usual_kernel({.head_dim = 112}), fake_source()),
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
