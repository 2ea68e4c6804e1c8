// Tiles that hold rows of all query heads which share a head of K and V (pack_gqa). Each result is judged as `sagegen
// run` judges it, by a model that knows which rows share scales and means; and where no rows share any, a kernel that
// packs gives the bits of one that does not. Rows of the caller's tensors lie in NaN.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "sagegen/error.h"
#include "tests/numerics/scene.h"
#include "tools/reference/rounding.h"
#include "tools/sagegen/run_judge.h"

using namespace sagegen;
namespace rt = sagegen::runtime;
namespace ref = sagegen::reference;
using attention::CausalAlignment;
using attention::Schedule;
using attention::Spec;
using test::Scene;
using test::spec_of;

namespace {

constexpr std::int64_t kGap = 8;  // channels of NaN behind each row
constexpr int kNanByte = 0xFF;

// A tensor on the device whose rows have a gap behind them, tokens outermost or heads.
struct Gapped {
  Gapped(const rt::Device& device, const ref::Tensor& tensor, bool tokens_outermost)
      : like(tensor),
        buffer(device,
               static_cast<std::size_t>(like.batch * like.heads * like.tokens * row_elements()) *
                   sizeof(std::uint16_t)) {
    const int row = static_cast<int>(row_elements());
    view = tokens_outermost ? rt::nhd(buffer.data(), like.heads, like.tokens, row)
                            : rt::hnd(buffer.data(), like.heads, like.tokens, row);
    buffer.fill(kNanByte);
  }
  std::int64_t row_elements() const { return like.channels + kGap; }
  // visit(number of the row in `like`, its place in the buffer)
  template <typename Visit>
  void each_row(const Visit& visit) const {
    const std::int64_t count = like.batch * like.heads * like.tokens;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t b = i / like.tokens / like.heads, h = i / like.tokens % like.heads;
      visit(i, static_cast<std::size_t>(b * view.stride_batch + h * view.stride_head +
                                        i % like.tokens * view.stride_token));
    }
  }
  std::vector<std::uint16_t> bits() const {
    std::vector<std::uint16_t> all(buffer.bytes() / sizeof(std::uint16_t));
    buffer.download(std::as_writable_bytes(std::span(all)));
    return all;
  }
  void upload(DType io) {
    std::vector<std::uint16_t> all = bits();
    each_row([&](std::int64_t row, std::size_t at) {
      for (std::int64_t c = 0; c < like.channels; ++c) {
        const double x = like.data[static_cast<std::size_t>(row * like.channels + c)];
        all[at++] = io == DType::f16 ? ref::f16_bits(x) : ref::bf16_bits(x);
      }
    });
    buffer.upload(std::as_bytes(std::span(all)));
  }
  // Rows, and whether nothing but rows was written.
  std::vector<double> download(DType io) const {
    std::vector<std::uint16_t> all = bits();
    std::vector<double> rows;
    each_row([&](std::int64_t, std::size_t at) {
      for (std::int64_t c = 0; c < like.channels; ++c, ++at) {
        rows.push_back(io == DType::f16 ? ref::f16_value(all[at]) : ref::bf16_value(all[at]));
        all[at] = 0xFFFF;
      }
    });
    CHECK(std::count(all.begin(), all.end(), 0xFFFF) == static_cast<std::ptrdiff_t>(all.size()));
    return rows;
  }

  ref::Tensor like;
  rt::Buffer buffer;
  rt::TensorView view{};
};

cli::AttentionResult run(const cli::AttentionJob& job, const cli::RunDevice& on) {
  const ref::Inputs& in = job.inputs;
  const attention::Plan plan(
      on.device, Kernel(attention::family(), job.spec, job.schedule, on.target), job.source);
  const bool tokens_outermost = job.layout == cli::Layout::nhd;
  const auto gapped = [&](const ref::Tensor& t) { return Gapped(on.device, t, tokens_outermost); };
  Gapped q = gapped(in.q), k = gapped(in.k), v = gapped(in.v);
  const Gapped o = gapped(ref::Tensor(in.q.batch, in.q.heads, in.q.tokens, in.v.channels));
  for (Gapped* tensor : {&q, &k, &v}) tensor->upload(job.spec.io);
  const attention::Shape shape{.batch = in.q.batch,
                               .q_heads = in.q.heads,
                               .kv_heads = in.k.heads,
                               .q_len = in.q.tokens,
                               .kv_len = in.k.tokens};
  std::vector<float> lse(static_cast<std::size_t>(in.q.batch * in.q.heads * in.q.tokens));
  rt::Buffer lse_buffer(on.device, lse.size() * sizeof(float));
  lse_buffer.fill(kNanByte);
  const rt::Buffer workspace(on.device, plan.workspace_bytes(shape));
  std::vector<rt::Buffer> mod_tensors;
  const attention::Arguments arguments{
      .q = q.view,
      .k = k.view,
      .v = v.view,
      .o = o.view,
      .lse = lse_buffer.data(),
      .causal = job.causal,
      .mods = job.mods ? job.mods(on.device, mod_tensors) : attention::ModArguments{}};
  const rt::Stream stream(on.device);
  cli::AttentionResult result;
  try {
    plan.run(shape, arguments, workspace.data(), workspace.bytes(), stream.handle());
    stream.synchronize();
    result.o = o.download(job.spec.io);
    lse_buffer.download(std::as_writable_bytes(std::span(lse)));
    result.lse.assign(lse.begin(), lse.end());
  } catch (const rt::DriverError&) {
    if (on.emulator->findings().empty()) throw;
  }
  result.findings = on.emulator->findings();
  for (const rt::Finding& finding : result.findings) FAIL_CHECK(test::text_of(finding));
  return result;
}

// Judges up to so many rows.
void check(const Scene& scene, std::uint64_t rows = 600) {
  const cli::RunDevice on = test::device_of(scene);
  const cli::AttentionJob job = test::job_of(scene);
  INFO(test::text_of(job, on));
  const cli::AttentionResult result = run(job, on);
  const cli::JudgeOptions options{.rows = rows};
  const cli::Judgement judgement = cli::judge(job, result, on, options);
  if (!judgement.passed) FAIL_CHECK(cli::judgement_text(judgement, job, options, true));
}

std::vector<bool Spec::*> all_mods() {
  return {
#define SAGEGEN_MOD(name) &Spec::name,
#include "templates/attention/mods/mods.def"
  };
}

template <typename Range>
auto in_turn(const Range& range, std::uint64_t turn) {
  return range[turn % range.size()];
}

// Lengths and heads per KV head of the sweeps: single queries, drafts of a few, tiles that end within a query, queries
// that end within a tile. Of pairs, those with at most kMostRows rows.
constexpr std::array<std::int64_t, 8> kLengths = {1, 2, 3, 7, 16, 33, 128, 150};
constexpr std::array<std::int64_t, 9> kHeads = {1, 2, 3, 4, 5, 7, 8, 16, 71};
constexpr std::int64_t kMostRows = 1200;

// Tiles of one warp and of several, of 16 rows each and of 32.
Kernel with_schedule(Spec spec, Target target, std::uint64_t turn) {
  constexpr std::array<Schedule, 5> kSchedules{
      {{.cta_q = 0},
       {.cta_q = 16, .cta_k = 64, .warps = 1, .stages = 2},
       {.cta_q = 64, .cta_k = 64, .warps = 4, .stages = 1},
       {.cta_q = 64, .cta_k = 64, .warps = 2, .stages = 1},
       {.cta_q = 128, .cta_k = 64, .warps = 4, .stages = 1}}};
  const bool quantized = attention::qk_is_quantized(spec);
  const Schedule& schedule = in_turn(kSchedules, turn);
  if (quantized) spec.q_group = 16;
  if (schedule.cta_q == 0) return {attention::family(), spec, target};
  if (quantized && schedule.cta_q / schedule.warps == 32) spec.q_group = turn % 2 == 0 ? 32 : 128;
  return {attention::family(), spec, schedule, target};
}

// One of the kernels and calls that a mode and a shape leave open, in cycles of different lengths; none if rules refuse
// it.
std::optional<Scene> scene_in_turn(const attention::Mode& mode, std::int64_t q_len,
                                   std::int64_t heads, std::uint64_t turn) {
  constexpr std::array kTargets = {89, 120, 80, 86};
  constexpr std::array kHeadDims = {64, 128, 64, 32, 80};
  constexpr std::array kGranularities = {Granularity::per_thread, Granularity::per_block,
                                         Granularity::per_thread, Granularity::per_token,
                                         Granularity::per_tensor};
  constexpr std::array kSmoothings = {Smoothing::k, Smoothing::qk, Smoothing::none};
  constexpr std::array<std::int64_t, 5> kKeys = {130, 200, 64, 1, 63};
  constexpr std::array kAsync = {rt::AsyncPolicy::late, rt::AsyncPolicy::eager,
                                 rt::AsyncPolicy::random};
  const std::array<std::string, 3> distributions{"normal", "outlier", "k_bias"};
  Spec spec = attention::with_mode(
      {.head_dim = in_turn(kHeadDims, turn), .io = turn / 2 % 2 == 0 ? DType::f16 : DType::bf16},
      mode);
  spec.pack_gqa = true;
  if (mode.qk) {
    spec.granularity = in_turn(kGranularities, turn / 3);
    spec.smoothing = in_turn(kSmoothings, turn / 2);
    if (turn % 5 == 2) spec.rotation = Rotation::hadamard;
  }
  if (turn % 6 == 5 && in_turn(kHeadDims, turn + 1) != spec.head_dim)
    spec.value_dim = in_turn(kHeadDims, turn + 1);
  spec.causal = turn % 3 == 0;
  const std::vector<bool Spec::*> mods = all_mods();
  if (turn % 4 != 0) spec.*in_turn(mods, turn / 4) = true;
  if (turn % 7 == 0) spec.*in_turn(mods, turn / 7) = true;
  for (std::size_t i = 0; i < kTargets.size(); ++i) {
    const Kernel kernel = with_schedule(spec, {.sm = in_turn(kTargets, turn + i)}, turn / 2);
    if (!test::is_legal(kernel)) continue;
    ref::Shape shape{.batch = 1,
                     .q_heads = heads,
                     .kv_heads = 1,
                     .q_len = q_len,
                     .kv_len = std::max(in_turn(kKeys, turn), turn % 2 == 0 ? q_len : 1)};
    if (q_len * heads < 200) {
      shape.kv_heads = 1 + static_cast<std::int64_t>(turn % 3);
      shape.batch = 1 + static_cast<std::int64_t>(turn / 2 % 2);
      shape.q_heads *= shape.kv_heads;
    }
    return Scene{
        .kernel = kernel,
        .inputs = test::inputs_for(kernel, in_turn(distributions, turn), shape, turn),
        .layout = turn / 3 % 2 == 0 ? cli::Layout::nhd : cli::Layout::hnd,
        .alignment = turn % 5 < 3 ? CausalAlignment::bottom_right : CausalAlignment::top_left,
        .emulator = {.async = in_turn(kAsync, turn), .seed = turn}};
  }
  return std::nullopt;
}

// The same call of a kernel that packs and of one that does not.
struct Pair {
  cli::AttentionResult packed, plain;
};
Pair run_both(const Scene& packed) {
  Scene plain = packed;
  Spec spec = spec_of(packed.kernel);
  spec.pack_gqa = false;
  plain.kernel = {attention::family(), spec, test::schedule_of(packed.kernel),
                  packed.kernel.target()};
  const cli::RunDevice on = test::device_of(packed);
  return {.packed = run(test::job_of(packed), on), .plain = run(test::job_of(plain), on)};
}

void check_equal(const Scene& scene) {
  INFO(test::text_of(test::job_of(scene), test::device_of(scene)));
  const Pair pair = run_both(scene);
  CHECK(pair.packed.o == pair.plain.o);
  CHECK(pair.packed.lse == pair.plain.lse);
}

}  // namespace

TEST_CASE("some lengths and numbers of heads, modes in turn", "[fast]") {
  std::uint64_t turn = 0;
  for (const std::int64_t q_len : {1, 3, 7, 16, 33}) {
    for (const std::int64_t heads : {3, 8, 5, 16}) {
      ++turn;
      const std::optional<Scene> scene =
          scene_in_turn(in_turn(attention::modes(), turn), q_len, heads, turn);
      if (scene) check(*scene);
    }
  }
}

TEST_CASE("every length with every number of heads and every mode", "[full]") {
  std::uint64_t turn = 0;
  int runs = 0;
  for (const std::int64_t q_len : kLengths) {
    for (const std::int64_t heads : kHeads) {
      if (q_len * heads > kMostRows) continue;
      for (const attention::Mode& mode : attention::modes()) {
        const std::optional<Scene> scene = scene_in_turn(mode, q_len, heads, ++turn);
        if (!scene) continue;
        check(*scene);
        ++runs;
      }
    }
  }
  std::printf("%d runs\n", runs);
  CHECK(runs > 320);
}

TEST_CASE("every mod with every mode, of queries whose heads fill tiles and of such that do not",
          "[full]") {
  std::uint64_t turn = 0;
  for (const bool Spec::*mod : all_mods()) {
    for (const attention::Mode& mode : attention::modes()) {
      ++turn;
      Spec spec = attention::with_mode({.head_dim = turn % 2 == 0 ? 64 : 128}, mode);
      spec.pack_gqa = true;
      if (mode.qk) spec.q_group = 16;
      spec.*const_cast<bool Spec::*>(mod) = true;
      spec.causal |= turn % 3 == 0;
      const Kernel kernel(attention::family(), spec,
                          Target{.sm = mode.pv == DType::e4m3 ? 89 : 80});
      for (const auto [q_len, heads] :
           {std::array<std::int64_t, 2>{5, 8}, std::array<std::int64_t, 2>{9, 7}}) {
        const ref::Shape shape{
            .batch = 1, .q_heads = 2 * heads, .kv_heads = 2, .q_len = q_len, .kv_len = 140};
        check({.kernel = kernel,
               .inputs = test::inputs_for(kernel, "normal", shape, turn),
               .alignment = CausalAlignment::bottom_right});
      }
    }
  }
}

// A draft of a few tokens behind many keys: each of its queries sees one key more than the one before it.
TEST_CASE("a causal draft sees the keys before it", "[fast]") {
  Spec spec{.head_dim = 64, .q_group = 16, .pack_gqa = true};
  spec.causal = true;
  const Kernel kernel(attention::family(), spec, Target{.sm = 89});
  for (const std::int64_t kv_len : {64, 65, 190}) {
    const ref::Shape shape{.batch = 2, .q_heads = 14, .kv_heads = 2, .q_len = 5, .kv_len = kv_len};
    check({.kernel = kernel,
           .inputs = test::inputs_for(kernel, "outlier", shape, 3),
           .alignment = CausalAlignment::bottom_right});
  }
}

TEST_CASE("with a scale for each row, or none, packing changes no bit", "[fast]") {
  std::uint64_t turn = 0;
  for (const attention::Mode& mode : attention::modes()) {
    for (const std::int64_t heads : {8, 3}) {
      Spec spec = attention::with_mode({.head_dim = ++turn % 2 == 0 ? 64 : 128}, mode);
      spec.pack_gqa = true;
      spec.causal = turn % 3 != 0;
      spec.sinks = spec.alibi = turn % 4 == 1;
      if (mode.qk) {
        spec.granularity = Granularity::per_token;
        spec.smoothing = turn % 2 == 0 ? Smoothing::k : Smoothing::none;
        spec.q_group = 16;
      }
      const Kernel kernel(attention::family(), spec,
                          Target{.sm = mode.pv == DType::e4m3 ? 89 : 80});
      const ref::Shape shape{
          .batch = 1, .q_heads = 2 * heads, .kv_heads = 2, .q_len = 21, .kv_len = 150};
      check_equal({.kernel = kernel,
                   .inputs = test::inputs_for(kernel, "outlier", shape, turn),
                   .alignment = CausalAlignment::bottom_right});
    }
  }
}

// Of one query head for each KV head there is nothing to pack, whatever rows share.
TEST_CASE("where each KV head has one query head, packing changes no bit", "[fast]") {
  constexpr std::array kGranularities = {Granularity::per_thread, Granularity::per_block,
                                         Granularity::per_tensor};
  std::uint64_t turn = 0;
  for (const attention::Mode& mode : attention::modes()) {
    Spec spec = attention::with_mode({.head_dim = 64}, mode);
    spec.pack_gqa = true;
    spec.causal = ++turn % 2 == 0;
    if (mode.qk) spec.granularity = in_turn(kGranularities, turn);
    if (mode.qk) spec.q_group = 16;
    const Kernel kernel(attention::family(), spec, Target{.sm = mode.pv == DType::e4m3 ? 89 : 80});
    const ref::Shape shape{.batch = 2, .q_heads = 3, .kv_heads = 3, .q_len = 150, .kv_len = 90};
    check_equal({.kernel = kernel, .inputs = test::inputs_for(kernel, "outlier", shape, turn)});
  }
}

// The other way round: that rows share scales is seen by the bits, so the judge is right to ask which ones do.
TEST_CASE("rows of several heads share scales", "[fast]") {
  const Kernel kernel(attention::family(),
                      Spec{.head_dim = 64, .qk = DType::s4, .q_group = 16, .pack_gqa = true},
                      Target{.sm = 89});
  const ref::Shape shape{.batch = 1, .q_heads = 8, .kv_heads = 1, .q_len = 32, .kv_len = 64};
  const Scene scene{.kernel = kernel, .inputs = test::inputs_for(kernel, "outlier", shape, 1)};
  const Pair pair = run_both(scene);
  CHECK(pair.packed.o != pair.plain.o);
  cli::AttentionJob job = test::job_of(scene);
  const cli::RunDevice on = test::device_of(scene);
  const cli::JudgeOptions all{.rows = 0};
  CHECK(cli::judge(job, pair.packed, on, all).passed);
  CHECK_FALSE(cli::judge(job, pair.plain, on, all).passed);
  job.spec.pack_gqa = false;
  CHECK(cli::judge(job, pair.plain, on, all).passed);
  CHECK_FALSE(cli::judge(job, pair.packed, on, all).passed);
}

TEST_CASE("mean scores of packed rows come in parts, too", "[fast]") {
  const bool causal = GENERATE(false, true);
  Spec spec{
      .head_dim = 64, .qk = DType::s4, .q_group = 16, .smoothing = Smoothing::qk, .pack_gqa = true};
  spec.causal = causal;  // blocks with more to do start first
  const Kernel kernel(attention::family(), spec, Target{.sm = 89});
  const ref::Shape shape{.batch = 2, .q_heads = 10, .kv_heads = 2, .q_len = 57, .kv_len = 140};
  const Scene scene{.kernel = kernel, .inputs = test::inputs_for(kernel, "k_bias", shape, 1)};
  const cli::RunDevice on = test::device_of(scene);
  const cli::AttentionJob job = test::job_of(scene);
  const cli::AttentionResult whole = run(job, on);
  // 285 rows: two blocks of 128, and one of 32 with padding. One part has a block of one head.
  constexpr std::int64_t kOneBlock = 4 * 192;
  for (const std::int64_t bytes : {kOneBlock, 2 * kOneBlock, 3 * kOneBlock}) {
    const attention::Plan plan(on.device, kernel, job.source, {.mean_score_bytes = bytes});
    const cli::AttentionResult parts = cli::run_attention(job, on, plan);
    CHECK(parts.findings.empty());
    CHECK(parts.o == whole.o);
    CHECK(parts.lse == whole.lse);
  }
}
