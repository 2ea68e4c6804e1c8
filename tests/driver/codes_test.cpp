// What plans refuse of codes that the caller holds, and what of them reaches the kernels: on a driver that pretends.
#include <catch2/catch.hpp>
#include <cstring>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "templates/attention/params.h"
#include "tests/driver/fake_plan.h"

using namespace sagegen;
using namespace sagegen::test;
using Catch::Matchers::Contains;

namespace {

constexpr int kHeadDim = 128;
const attention::Shape kShape{.batch = 2, .q_heads = 6, .kv_heads = 3, .q_len = 40, .kv_len = 50};

// Addresses of their own, far from those of fake_plan.h.
constexpr DevicePtr kCodes = 0x10'0000'0000'0000;
constexpr DevicePtr kStep = 0x1'0000'0000;
DevicePtr place(int i) { return kCodes + static_cast<DevicePtr>(i) * kStep; }

enum class Which { queries, keys_values, attend };

struct Call {
  Which which = Which::attend;
  attention::Shape shape = kShape;
  attention::Arguments arguments = {};
  attention::QueryCodes queries = {};
  attention::KeyValueCodes keys_values = {};
  DevicePtr workspace = kWorkspace;
  std::optional<std::size_t> workspace_bytes = {};  // not given: as many as it needs
};

attention::Arguments arguments_with_lse() {
  attention::Arguments arguments = plain_arguments(kShape, kHeadDim);
  arguments.lse = kLse;
  return arguments;
}

// All that the kernel has, and nothing else.
Call right_call(const FakePlan& plan, Which which) {
  const attention::CodeSizes sizes = plan.plan.code_sizes(kShape);
  const auto at = [](std::int64_t bytes, int i) { return bytes == 0 ? 0 : place(i); };
  Call call{.which = which, .arguments = arguments_with_lse()};
  call.queries = {.codes = at(sizes.q_codes, 0),
                  .scale = at(sizes.q_scale, 1),
                  .mean = at(sizes.q_mean, 2),
                  .lse_correction = at(sizes.lse_correction, 3)};
  call.keys_values = {.k_codes = at(sizes.k_codes, 4),
                      .k_scale = at(sizes.k_scale, 5),
                      .k_mean = at(sizes.k_mean, 6),
                      .v_codes = at(sizes.v_codes, 7),
                      .v_scale = at(sizes.v_scale, 8),
                      .v_mean = at(sizes.v_mean, 9)};
  if (!attention::takes_given_codes(plan.spec)) return call;
  // Rows of 128 bytes, tokens first; channels of V of 64 keys.
  call.queries.strides = {.batch = 40 * 6 * 128, .head = 128, .row = 6 * 128};
  call.keys_values.k_strides = {.batch = 50 * 3 * 128, .head = 128, .row = 3 * 128};
  call.keys_values.v_strides = {.batch = 3 * 128 * 64, .head = 128 * 64, .row = 64};
  return call;
}

void run(FakePlan& plan, const Call& call) {
  const std::size_t bytes = call.workspace_bytes.value_or(
      static_cast<std::size_t>(plan.plan.code_sizes(kShape).workspace));
  switch (call.which) {
    case Which::queries:
      return plan.plan.quantize_queries(call.shape, call.arguments, call.keys_values, call.queries,
                                        call.workspace, bytes, nullptr);
    case Which::keys_values:
      return plan.plan.quantize_keys_values(call.shape, call.arguments, call.keys_values,
                                            call.workspace, bytes, nullptr);
    case Which::attend:
      return plan.plan.attend_codes(call.shape, call.queries, call.keys_values, call.arguments,
                                    call.workspace, bytes, nullptr);
  }
}

struct Refusal {
  const char* rule;
  std::function<void(Call&)> spoil;
  std::vector<std::string> words;
};

void check_refusals(const sagegen::Kernel& kernel, Which which,
                    const std::vector<Refusal>& refusals) {
  FakePlan plan(kernel);
  const Call right = right_call(plan, which);
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

sagegen::Kernel kernel_of(const char* options) {
  return kernel_of_options(attention::family(), options, {.sm = 89});
}

constexpr std::int64_t kHuge = std::int64_t{1} << 60;

}  // namespace

TEST_CASE("what quantizers of queries refuse") {
  check_refusals(
      kernel_of("smoothing=k"), Which::queries,
      {{"no codes",
        [](Call& c) { c.queries.codes = 0; },
        {"q_codes is a null pointer", "code_sizes()"}},
       {"no scales", [](Call& c) { c.queries.scale = 0; }, {"q_scale is a null pointer"}},
       {"a mean that nobody writes",
        [](Call& c) { c.queries.mean = place(2); },
        {"q_mean is given", "takes none"}},
       {"misaligned", [](Call& c) { c.queries.codes += 8; }, {"q_codes is at", "16 bytes"}},
       {"no mean of K", [](Call& c) { c.keys_values.k_mean = 0; }, {"k_mean is a null pointer"}},
       {"strides", [](Call& c) { c.queries.strides.row = 128; }, {"contiguous", "inputs=given"}},
       {"folded", [](Call& c) { c.queries.scale_is_folded = true; }, {"scale_is_folded"}},
       {"over Q",
        [](Call& c) { c.queries.scale = kQ + 256; },
        {"q spans", "q_scale spans", "overlap"}},
       {"over the mean of K",
        [](Call& c) { c.queries.lse_correction = c.keys_values.k_mean; },
        {"lse_correction spans", "k_mean spans"}},
       {"no Q", [](Call& c) { c.arguments.q.data = 0; }, {"q is a null pointer"}},
       {"a scale", [](Call& c) { c.arguments.softmax_scale = -1; }, {"softmax_scale is -1"}},
       {"a shape", [](Call& c) { c.shape.q_len = 0; }, {"q_len is 0"}}});
  check_refusals(kernel_of("granularity=per_tensor"), Which::queries,
                 {{"a workspace",
                   [](Call& c) { c.workspace_bytes = 16; },
                   {"the workspace has", "this shape needs"}},
                  {"none", [](Call& c) { c.workspace = 0; }, {"workspace is a null pointer"}}});
  FakePlan unquantized(kernel_of("qk=f16 smoothing=none"));
  CHECK_THROWS_WITH(run(unquantized, {.which = Which::queries, .arguments = arguments_with_lse()}),
                    Contains("reads Q and K as they are") && Contains("give q and k"));
}

TEST_CASE("what quantizers of keys and values refuse") {
  check_refusals(
      kernel_of("v_smoothing=mean"), Which::keys_values,
      {{"no codes", [](Call& c) { c.keys_values.k_codes = 0; }, {"k_codes is a null pointer"}},
       {"no mean of K", [](Call& c) { c.keys_values.k_mean = 0; }, {"k_mean is a null pointer"}},
       {"no codes of V", [](Call& c) { c.keys_values.v_codes = 0; }, {"v_codes is a null pointer"}},
       {"no scales of V",
        [](Call& c) { c.keys_values.v_scale = 0; },
        {"v_scale is a null pointer"}},
       {"no mean of V", [](Call& c) { c.keys_values.v_mean = 0; }, {"v_mean is a null pointer"}},
       {"strides of V", [](Call& c) { c.keys_values.v_strides.row = 64; }, {"codes of V"}},
       {"strides of K", [](Call& c) { c.keys_values.k_scale_stride = 64; }, {"codes of K"}},
       {"over V", [](Call& c) { c.keys_values.k_codes = kV; }, {"v spans", "k_codes spans"}},
       {"no K", [](Call& c) { c.arguments.k.data = 0; }, {"k is a null pointer"}},
       {"a workspace", [](Call& c) { c.workspace_bytes = 16; }, {"the workspace has"}},
       {"heads", [](Call& c) { c.shape.kv_heads = 0; }, {"kv_heads is 0"}}});
  check_refusals(kernel_of("qk=f16 smoothing=none"), Which::keys_values,
                 {{"codes of a K that is read as it is",
                   [](Call& c) { c.keys_values.k_codes = place(4); },
                   {"k_codes is given", "takes none"}}});
  FakePlan nothing(kernel_of("qk=f16 pv=f16 smoothing=none accumulation=f32"));
  CHECK_THROWS_WITH(run(nothing, {.which = Which::keys_values, .arguments = arguments_with_lse()}),
                    Contains("reads K and V as they are"));
}

TEST_CASE("what attention on codes refuses") {
  check_refusals(
      kernel_of("smoothing=k"), Which::attend,
      {{"no codes of Q", [](Call& c) { c.queries.codes = 0; }, {"q_codes is a null pointer"}},
       {"no correction of an LSE",
        [](Call& c) { c.queries.lse_correction = 0; },
        {"lse_correction is a null pointer"}},
       {"no codes of V", [](Call& c) { c.keys_values.v_codes = 0; }, {"v_codes is a null pointer"}},
       {"a mean of V", [](Call& c) { c.keys_values.v_mean = place(9); }, {"v_mean is given"}},
       {"O over codes",
        [](Call& c) { c.arguments.o.data = place(4); },
        {"o spans", "k_codes spans"}},
       {"LSE over scales",
        [](Call& c) { c.arguments.lse = place(5); },
        {"lse spans", "k_scale spans"}},
       {"no O", [](Call& c) { c.arguments.o.data = 0; }, {"o is a null pointer"}},
       {"shape", [](Call& c) { c.shape.kv_heads = 4; }, {"kv_heads must divide q_heads"}}});
  check_refusals(
      kernel_of("smoothing=qk"), Which::attend,
      {{"no K",
        [](Call& c) { c.arguments.k.data = 0; },
        {"smoothing qk", "mean queries", "give k"}},
       {"no mean of Q", [](Call& c) { c.queries.mean = 0; }, {"q_mean is a null pointer"}},
       {"no mean of K", [](Call& c) { c.keys_values.k_mean = 0; }, {"k_mean is a null"}},
       {"a workspace", [](Call& c) { c.workspace_bytes = 16; }, {"the workspace has"}}});
  check_refusals(
      kernel_of("qk=f16 smoothing=none"), Which::attend,
      {{"codes of Q",
        [](Call& c) { c.queries.codes = place(0); },
        {"q_codes is given", "takes none"}},
       {"scales of K", [](Call& c) { c.keys_values.k_scale = place(5); }, {"k_scale is given"}},
       {"no Q", [](Call& c) { c.arguments.q.data = 0; }, {"q is a null pointer"}},
       {"no codes of V",
        [](Call& c) { c.keys_values.v_codes = 0; },
        {"v_codes is a null pointer"}}});
  check_refusals(
      kernel_of("pv=f16 accumulation=f32"), Which::attend,
      {{"codes of V", [](Call& c) { c.keys_values.v_codes = place(7); }, {"v_codes is given"}},
       {"no V", [](Call& c) { c.arguments.v.data = 0; }, {"v is a null pointer"}}});
}

TEST_CASE("what attention on given codes refuses") {
  check_refusals(
      kernel_of("inputs=given"), Which::attend,
      {{"rows that overlap",
        [](Call& c) { c.queries.strides.row = 64; },
        {"the stride of q_codes along tokens is 64 bytes for rows of 128"}},
       {"rows of no chunks",
        [](Call& c) { c.keys_values.k_strides.head = 136; },
        {"k_codes along heads is 136", "multiple of 16"}},
       {"a negative stride",
        [](Call& c) { c.keys_values.v_strides.batch = -64; },
        {"v_codes along batch is -64"}},
       {"channels of V shorter than its keys",
        [](Call& c) { c.keys_values.v_strides.row = 48; },
        {"v_codes along channels is 48 bytes for rows of 64"}},
       {"far rows",
        [](Call& c) { c.queries.strides.head = kHuge * 4; },
        {"2^63 bytes along heads"}},
       {"misaligned codes", [](Call& c) { c.queries.codes += 8; }, {"q_codes is at", "16 bytes"}},
       {"misaligned scales", [](Call& c) { c.queries.scale += 2; }, {"q_scale is at", "4 bytes"}},
       {"no scales", [](Call& c) { c.keys_values.k_scale = 0; }, {"k_scale is a null pointer"}},
       {"heads of too few scales",
        [](Call& c) { c.queries.scale_stride = 15; },
        {"the stride of q_scale is 15", "a head has 16"}},
       {"of too many", [](Call& c) { c.queries.scale_stride = kHuge; }, {"at most 2147483647"}},
       {"no scales of V",
        [](Call& c) { c.keys_values.v_scale = 0; },
        {"v_scale is a null pointer"}},
       {"a correction that no smoothing needs",
        [](Call& c) { c.queries.lse_correction = place(3); },
        {"lse_correction is given", "takes none"}},
       {"O over codes",
        [](Call& c) { c.arguments.o.data = place(0) + 4096; },
        {"o spans", "q_codes spans"}},
       {"a scale", [](Call& c) { c.arguments.softmax_scale = -1; }, {"softmax_scale is -1"}}});
  check_refusals(kernel_of("inputs=given smoothing=k"), Which::attend,
                 {{"an LSE without what smoothing took",
                   [](Call& c) { c.queries.lse_correction = 0; },
                   {"lse_correction is a null pointer"}}});
  FakePlan plan(kernel_of("inputs=given"));
  CHECK(plan.plan.workspace_bytes(kShape) == 0);
  const attention::Arguments arguments = arguments_with_lse();
  const auto check_refused = [](const char* call, const std::function<void()>& run) {
    CHECK_THROWS_WITH(
        run(), Contains("has inputs=given") && Contains(call) && Contains("call attend_codes()"));
  };
  check_refused("run()", [&] { plan.plan.run(kShape, arguments, 0, 0, nullptr); });
  check_refused("quantize()", [&] { plan.plan.quantize(kShape, arguments, 0, 0, nullptr); });
  check_refused("attend()", [&] { plan.plan.attend(kShape, arguments, 0, 0, nullptr); });
  check_refused("quantize_queries()", [&] { run(plan, right_call(plan, Which::queries)); });
  check_refused("quantize_keys_values()", [&] { run(plan, right_call(plan, Which::keys_values)); });
  CHECK(plan.driver->launches().empty());
}

namespace {

template <typename Block>
Block decode(const FakeLaunch& launch) {
  const ParamLayout layout = parse_key(launch.kernel).params();
  REQUIRE(launch.params.size() == layout.bytes());
  Block block;
  std::memcpy(&block, launch.params.data() + layout.offset<Block>(), sizeof block);
  return block;
}

bool same(const TensorParam& tensor, DevicePtr data, const attention::CodeStrides& strides) {
  return tensor.data == data && tensor.stride_batch == strides.batch &&
         tensor.stride_head == strides.head && tensor.stride_token == strides.row;
}

}  // namespace

TEST_CASE("codes are of sequences that are not packed") {
  FakePlan plan(kernel_of("varlen=true"));
  attention::Shape packed = kShape;
  packed.total_q = packed.total_kv = 60;
  CHECK_THROWS_WITH(plan.plan.code_sizes(packed), Catch::Contains("sequences are packed"));
  CHECK_NOTHROW(plan.plan.code_sizes(kShape));
}

TEST_CASE("addresses, strides and the softmax scale of given codes reach the kernel") {
  FakePlan plan(kernel_of("inputs=given"));
  Call call = right_call(plan, Which::attend);
  call.arguments.softmax_scale = 0.5f;
  call.keys_values.k_scale_stride = 100;
  for (const bool folded : {false, true}) {
    call.queries.scale_is_folded = folded;
    plan.driver->clear_launches();
    run(plan, call);
    REQUIRE(plan.driver->launches().size() == 1);
    const FakeLaunch& launch = plan.driver->launches().back();
    const auto p = decode<attention::Params>(launch);
    CHECK(p.q_scale == call.queries.scale);
    CHECK(p.k_scale == call.keys_values.k_scale);
    CHECK(p.v_scale == call.keys_values.v_scale);
    CHECK(same(p.v, call.keys_values.v_codes, call.keys_values.v_strides));
    CHECK((p.q_len == 40 && p.kv_len == 50 && p.heads_per_kv_head == 2 && p.lse == kLse));
    const auto given = decode<attention::GivenParams>(launch);
    CHECK(same(given.q, call.queries.codes, call.queries.strides));
    CHECK(same(given.k, call.keys_values.k_codes, call.keys_values.k_strides));
    CHECK(given.q_scales == 16);  // 40 rows are 2 groups of 8
    CHECK(given.k_scales == 100);
    CHECK(given.unit == (folded ? 1.0f : 0.5f * kLog2E));
  }
}

TEST_CASE("code sizes are those of the tensors that quantizers write") {
  const auto sizes = [](const char* options, attention::Lse lse = attention::Lse::wanted) {
    return FakePlan(kernel_of(options)).plan.code_sizes(kShape, lse);
  };
  const attention::CodeSizes own = sizes("smoothing=k");  // 128 queries and 64 keys of 128 channels
  CHECK(own.q_codes == 2 * 6 * 128 * 128);
  CHECK(own.q_scale == 2 * 6 * 4 * 8 * 4);
  CHECK(own.q_mean == 0);
  CHECK(own.lse_correction == 2 * 6 * 128 * 4);
  CHECK(own.k_codes == 2 * 3 * 64 * 128);
  CHECK(own.k_scale == 2 * 3 * 4 * 4);
  CHECK(own.k_mean == 2 * 3 * 128 * 4);
  CHECK(own.v_codes == 2 * 3 * 128 * 64);
  CHECK(own.v_scale == 2 * 3 * 128 * 4);
  CHECK(own.v_mean == 0);
  CHECK(own.workspace > 0);
  CHECK(sizes("smoothing=k", attention::Lse::unwanted).lse_correction == 0);
  CHECK(sizes("smoothing=k sinks=true", attention::Lse::unwanted).lse_correction != 0);
  CHECK(sizes("smoothing=qk").q_mean == 2 * 6 * 128 * 4);
  CHECK(sizes("v_smoothing=mean").v_mean == own.v_scale);

  const attention::CodeSizes given = sizes("inputs=given smoothing=k");
  CHECK(given.q_codes == 2 * 6 * 40 * 128);
  CHECK(given.q_scale == 2 * 6 * 2 * 8 * 4);
  CHECK(given.lse_correction == 2 * 6 * 40 * 4);
  CHECK(given.k_codes == 2 * 3 * 50 * 128);
  CHECK(given.k_scale == 2 * 3 * 4 * 4);
  CHECK(given.v_codes == 2 * 3 * 128 * 64);
  CHECK((given.k_mean == 0 && given.q_mean == 0 && given.workspace == 0));
  CHECK(sizes("inputs=given qk=s4").q_codes == given.q_codes / 2);
  CHECK(sizes("inputs=given granularity=per_tensor").q_scale == 2 * 6 * 4);
}
