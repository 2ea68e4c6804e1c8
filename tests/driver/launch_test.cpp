// What an attention plan launches, judged without executing it: the sequence, the grids, and parameter
// blocks decoded through the rooms' params.h. Sizes are computed here from the words of these headers, not
// from the plan's layout.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "templates/attention/params.h"
#include "templates/kv_statistics/params.h"
#include "templates/mean_scores/params.h"
#include "templates/quantize_rows/params.h"
#include "templates/quantize_rows/spec.h"
#include "templates/quantize_values/params.h"
#include "templates/shared/params.h"
#include "tests/driver/fake_plan.h"

using namespace sagegen;
using namespace sagegen::test;

namespace {

template <typename Block>
Block decode(const FakeLaunch& launch) {
  const ParamLayout layout = parse_key(launch.kernel).params();
  REQUIRE(launch.params.size() == layout.bytes());
  Block block;
  std::memcpy(&block, launch.params.data() + layout.offset<Block>(), sizeof block);
  return block;
}

bool same(const TensorParam& tensor, const TensorView& view) {
  return tensor.data == view.data && tensor.stride_batch == view.stride_batch &&
         tensor.stride_head == view.stride_head && tensor.stride_token == view.stride_token;
}

bool same(const attention::ScoreTensor& asked, const attention::Shape& shape, const auto& params) {
  const auto used = [](std::int64_t stride, std::int64_t size) { return size == 1 ? 0 : stride; };
  return params.data == asked.data &&
         params.stride_batch == used(asked.stride_batch, shape.batch) &&
         params.stride_head == used(asked.stride_head, shape.q_heads) &&
         params.stride_query == used(asked.stride_query, shape.q_len) &&
         params.stride_key == used(asked.stride_key, shape.kv_len) &&
         params.last_query == shape.q_len - 1 && params.last_key == shape.kv_len - 1;
}

bool is_grid(const FakeLaunch& launch, std::int64_t x, std::int64_t y, std::int64_t z) {
  return launch.grid.x == x && launch.grid.y == y && launch.grid.z == z;
}

struct Range {
  std::string name;
  std::uint64_t begin, bytes;
  std::size_t first, last;  // launches that touch it
};

// Every tensor of the workspace as its consumers and producers see it.
class Workspace {
 public:
  Workspace(DevicePtr begin, std::uint64_t bytes) : begin_(begin), bytes_(bytes) {}

  // A tensor that several launches use must be at one place.
  void add(const std::string& name, Address address, std::int64_t bytes, std::size_t launch) {
    const Range range{name, address, static_cast<std::uint64_t>(bytes), launch, launch};
    for (Range& known : ranges_) {
      if (known.name != name) continue;
      INFO(name);
      CHECK(known.begin == range.begin);
      CHECK(known.bytes == range.bytes);
      known.last = launch;
      return;
    }
    ranges_.push_back(range);
  }

  void check() const {
    for (const Range& r : ranges_) {
      INFO(r.name << " at " << r.begin << " with " << r.bytes << " bytes");
      CHECK(r.begin % 256 == 0);
      CHECK(r.begin >= begin_);
      CHECK(r.begin + r.bytes <= begin_ + bytes_);
    }
    for (std::size_t i = 0; i < ranges_.size(); ++i) {
      for (std::size_t j = i + 1; j < ranges_.size(); ++j) {
        INFO(ranges_[i].name << " and " << ranges_[j].name);
        const bool lives_meet =
            ranges_[i].first <= ranges_[j].last && ranges_[j].first <= ranges_[i].last;
        if (!lives_meet) continue;
        CHECK((ranges_[i].begin + ranges_[i].bytes <= ranges_[j].begin ||
               ranges_[j].begin + ranges_[j].bytes <= ranges_[i].begin));
      }
    }
  }

 private:
  DevicePtr begin_;
  std::uint64_t bytes_;
  std::vector<Range> ranges_;
};

std::int64_t round_up(std::int64_t value, std::int64_t to) { return (value + to - 1) / to * to; }

// A window's bound on one side. farthest: a key that some query has there, from its own place.
void check_bound(std::int32_t bound, std::int64_t asked, std::int64_t farthest) {
  if (asked >= 0 && asked <= farthest) CHECK(bound == asked);
  if (asked < 0 || asked > farthest) CHECK(bound >= farthest);
}

// The blocks that mods read, and no others.
void check_mods(const FakeLaunch& launch, const attention::Spec& spec,
                const attention::Schedule& schedule, const attention::Shape& shape,
                const attention::Arguments& arguments) {
  const ParamLayout layout = parse_key(launch.kernel).params();
#define SAGEGEN_MOD(name) CHECK(layout.has(#name) == spec.name);
#include "templates/attention/mods/mods.def"
  const attention::ModArguments& mods = arguments.mods;
  const bool top_left = arguments.causal == attention::CausalAlignment::top_left;
  const std::int64_t offset = top_left ? 0 : shape.kv_len - shape.q_len;
  if (spec.causal) CHECK(decode<attention::causal::Params>(launch).offset == offset);
  if (spec.window) {
    const auto p = decode<attention::window::Params>(launch);
    CHECK(p.offset == offset);
    check_bound(p.left, mods.window.left, shape.q_len - 1 + offset);
    check_bound(p.right, mods.window.right, shape.kv_len - 1 - offset);
    // Queries are padded, and a kernel adds the two.
    const std::int64_t most = std::int64_t{1} << 31;
    const std::int64_t place = shape.q_len + 256 + std::abs(offset);
    CHECK(place + p.left < most);
    CHECK(place + p.right < most);
  }
  if (spec.softcap) {
    const auto p = decode<attention::softcap::Params>(launch);
    CHECK(p.from_score == Approx(std::log(2.0) / mods.softcap.cap).epsilon(1e-7));
    CHECK(p.to_score == Approx(mods.softcap.cap / std::log(2.0)).epsilon(1e-7));
  }
  if (spec.bias) CHECK(same(mods.bias, shape, decode<attention::bias::Params>(launch)));
  if (spec.alibi) {
    const auto p = decode<attention::alibi::Params>(launch);
    CHECK(p.slopes == mods.alibi.slopes);
    CHECK(p.offset == offset);
  }
  if (spec.mask) CHECK(same(mods.mask, shape, decode<attention::mask::Params>(launch)));
  if (spec.sinks) CHECK(decode<attention::sinks::Params>(launch).logits == mods.sinks.logits);
  if (spec.blocksparse) {
    const auto p = decode<attention::blocksparse::Params>(launch);
    const std::int64_t tiles = round_up(shape.kv_len, schedule.cta_k) / schedule.cta_k;
    CHECK(p.bits == mods.blocksparse.bits);
    CHECK(p.row_words == round_up(tiles, 32) / 32);
  }
  if (spec.skipsoftmax) {
    const auto p = decode<attention::skipsoftmax::Params>(launch);
    CHECK(p.threshold == mods.skipsoftmax.threshold);
    CHECK((p.thresholds == mods.skipsoftmax.thresholds && p.counts == mods.skipsoftmax.counts));
  }
}

quantize_rows::Spec rows_of(const FakeLaunch& launch) {
  return parse_key(launch.kernel).view(quantize_rows::family()).spec;
}

// Quotients by the number of heads, as kernels take them.
void check_pack(const FakeLaunch& launch, std::int64_t heads) {
  const auto pack = decode<PackParams>(launch);
  CHECK(pack.heads == heads);
  const std::uint64_t m = static_cast<std::uint32_t>(pack.reciprocal);
  for (const std::uint64_t row : {std::uint64_t{0}, static_cast<std::uint64_t>(heads) - 1,
                                  static_cast<std::uint64_t>(heads), std::uint64_t{0x7FFFFFFF}})
    CHECK((row * m >> pack.shift) == row / static_cast<std::uint64_t>(heads));
}

// Runs the plan and checks everything that one launch sequence has to satisfy.
void check_call(FakePlan& plan, const attention::Shape& shape,
                const attention::Arguments& arguments) {
  plan.run(shape, arguments);
  const auto& launches = plan.driver->launches();
  const attention::Spec& spec = plan.spec;
  const bool smooth = spec.smoothing != Smoothing::none;
  const bool smooth_q = spec.smoothing == Smoothing::qk;
  const bool quantize_qk = spec.qk == DType::s8 || spec.qk == DType::s4;
  const bool quantize_v = spec.pv == DType::e4m3 || (quantize_qk && spec.io == DType::bf16);

  const std::int64_t b = shape.batch, hq = shape.q_heads, hkv = shape.kv_heads, d = spec.head_dim;
  const std::int64_t q_rows = smooth_q ? 128 : spec.q_group;  // of a block that quantizes Q
  // Heads that have rows of Q, and their rows: packed ones are padded to tiles and groups of scales, whatever has a mean.
  const bool packed = spec.pack_gqa;
  const std::int64_t hr = packed ? hkv : hq, lq = shape.q_len * (hq / hr);
  const std::int64_t unit = !packed ? q_rows : quantize_qk ? spec.q_group : 16;
  const std::int64_t lqp = round_up(lq, std::max<std::int64_t>(unit, plan.schedule.cta_q));
  const std::int64_t blocks = round_up(lqp, 128) / 128;
  const std::int64_t lkp = round_up(shape.kv_len, std::max(spec.k_group, plan.schedule.cta_k));
  const bool per_tensor = spec.granularity == Granularity::per_tensor;
  const auto scales = [&](std::int64_t rows, std::int64_t group, std::int64_t of_threads) {
    switch (spec.granularity) {
      case Granularity::per_thread:
        return rows / group * of_threads;
      case Granularity::per_block:
        return rows / group;
      case Granularity::per_token:
        return rows;
      default:
        return std::int64_t{1};
    }
  };
  const std::int64_t q_scale_bytes = 4 * b * hr * scales(lqp, spec.q_group, 8);
  const std::int64_t k_scale_bytes = 4 * b * hkv * scales(lkp, spec.k_group, 4);
  // Channels of codes: whole steps of 32 bytes of Q and K, of 16 channels of V.
  const std::int64_t qk_step = spec.qk == DType::s4 ? 64 : 32;
  const std::int64_t q_bytes = b * hr * lqp * round_up(d, qk_step) * bits(spec.qk) / 8;
  const std::int64_t k_bytes = b * hkv * lkp * round_up(d, qk_step) * bits(spec.qk) / 8;
  const std::int64_t v_bytes = b * hkv * lkp * round_up(d, 16) * (spec.pv == DType::e4m3 ? 1 : 2);
  const float scale = arguments.softmax_scale != 0.0f
                          ? arguments.softmax_scale
                          : static_cast<float>(1.0 / std::sqrt(static_cast<double>(d)));
  Workspace workspace(kWorkspace, plan.workspace_bytes(shape));

  std::size_t next = 0;
  const auto take = [&](const std::string& family) -> const FakeLaunch& {
    REQUIRE(next < launches.size());
    const FakeLaunch& launch = launches[next++];
    const sagegen::Kernel kernel = parse_key(launch.kernel);
    CHECK(kernel.family().title == family);
    const Resources needs = kernel.resources();
    CHECK(launch.block.x == static_cast<unsigned>(needs.threads));
    CHECK(launch.dynamic_smem == static_cast<unsigned>(needs.dynamic_smem));
    return launch;
  };

  const auto scratch = [&](const std::string& name, Address address, std::int64_t bytes) {
    workspace.add(name, address, bytes, next - 1);
  };

  std::int64_t chunks = 1;
  if (smooth || quantize_v) {
    const FakeLaunch& launch = take("kv_statistics");
    const auto p = decode<kv_statistics::Params>(launch);
    chunks = (shape.kv_len + p.chunk_len - 1) / p.chunk_len;
    CHECK(is_grid(launch, chunks, hkv, b));
    CHECK(p.chunk_len % 64 == 0);
    CHECK(chunks >= 1);
    CHECK(chunks <= 16);
    CHECK((p.chunk_len <= 512 || chunks >= 9));
    CHECK(p.kv_len == shape.kv_len);
    if (smooth) {
      const auto sum = decode<kv_statistics::KSumParams>(launch);
      CHECK(same(sum.tokens, arguments.k));
      scratch("k_sum_partial", sum.partial, 4 * b * hkv * chunks * d);
    }
    if (quantize_v) {
      const auto amax = decode<kv_statistics::VAmaxParams>(launch);
      CHECK(same(amax.tokens, arguments.v));
      scratch("v_amax_partial", amax.partial, 4 * b * hkv * chunks * d);
    }
  }
  // The first pass finds the largest.
  for (int pass = per_tensor ? 0 : 1; quantize_qk && pass < 2; ++pass) {
    const FakeLaunch& launch = take("quantize_rows");
    CHECK(rows_of(launch).amax == (pass == 0));
    if (per_tensor) {
      scratch("k_maxima", decode<quantize_rows::MaximaParams>(launch).maxima,
              4 * b * hkv * (lkp / spec.k_group));
    }
    const auto p = decode<quantize_rows::Params>(launch);
    CHECK(is_grid(launch, lkp / spec.k_group, hkv, b));
    CHECK(same(p.rows, arguments.k));
    CHECK(p.len == shape.kv_len);
    CHECK(p.len_padded == lkp);
    if (smooth) {
      const auto mean = decode<quantize_rows::SmoothParams>(launch);
      CHECK(mean.chunks == chunks);
      scratch("k_sum_partial", mean.sum_partial, 4 * b * hkv * chunks * d);
      scratch("k_mean", mean.mean, 4 * b * hkv * d);
    }
    scratch("k_codes", p.codes, k_bytes);
    scratch("k_scale", p.scale, k_scale_bytes);
  }
  if (quantize_v) {
    const FakeLaunch& launch = take("quantize_values");
    const auto p = decode<quantize_values::Params>(launch);
    CHECK(is_grid(launch, lkp / 64, hkv, b));
    CHECK(lkp % 64 == 0);
    CHECK(same(p.v, arguments.v));
    CHECK(p.kv_len == shape.kv_len);
    CHECK(p.kv_len_padded == lkp);
    CHECK(p.chunks == chunks);
    scratch("v_amax_partial", p.amax_partial, 4 * b * hkv * chunks * d);
    scratch("v_codes", p.codes, v_bytes);
    scratch("v_scale", p.scale, 4 * b * hkv * d);
  }
  // A cap and a sink are of scores as they were.
  const bool correct_lse = smooth && (arguments.lse != 0 || spec.softcap || spec.sinks);
  for (int pass = per_tensor ? 0 : 1; quantize_qk && pass < 2; ++pass) {
    const FakeLaunch& launch = take("quantize_rows");
    CHECK(rows_of(launch).amax == (pass == 0));
    if (per_tensor) {
      scratch("q_maxima", decode<quantize_rows::MaximaParams>(launch).maxima,
              4 * b * hr * (round_up(lqp, q_rows) / q_rows));
    }
    const auto p = decode<quantize_rows::Params>(launch);
    const auto fold = decode<quantize_rows::FoldParams>(launch);
    CHECK(is_grid(launch, round_up(lqp, q_rows) / q_rows, hr, b));
    if (smooth_q) {
      scratch("q_mean", decode<quantize_rows::BlockMeanParams>(launch).mean,
              4 * b * hr * blocks * d);
    }
    CHECK(same(p.rows, arguments.q));
    CHECK(p.len == lq);
    CHECK(p.len_padded == lqp);
    CHECK(fold.heads_per_kv_head == hr / hkv);
    if (packed) check_pack(launch, hq / hkv);
    CHECK(fold.softmax_scale == scale);
    CHECK((fold.lse_correction != 0) == correct_lse);
    if (smooth) scratch("k_mean", fold.k_mean, 4 * b * hkv * d);
    if (correct_lse) scratch("lse_correction", fold.lse_correction, 4 * b * hr * lqp);
    scratch("q_codes", p.codes, q_bytes);
    scratch("q_scale", p.scale, q_scale_bytes);
  }
  std::int64_t largest_part = 0;
  // One attention of everything, or parts that have everything once: batches, heads, blocks of 128 queries.
  std::int64_t done = 0;
  const std::int64_t all = smooth_q ? b * hr * blocks : 1;
  std::set<std::array<std::int64_t, 3>> attended;
  while (done < all) {
    mean_scores::Params part{};
    std::int64_t part_heads = hr, part_batches = b;
    if (smooth_q) {
      const FakeLaunch& launch = take("mean_scores");
      part = decode<mean_scores::Params>(launch);
      part_heads = launch.grid.y;
      part_batches = launch.grid.z;
      CHECK(is_grid(launch, lkp / 64, part_heads, part_batches));
      CHECK(same(part.k, arguments.k));
      CHECK(part.softmax_scale == scale);
      CHECK((part.kv_len == shape.kv_len && part.kv_len_padded == lkp));
      CHECK((part.heads == hr && part.heads_per_kv_head == hr / hkv));
      CHECK(part.blocks_of_head == blocks);
      scratch("k_mean", part.k_mean, 4 * b * hkv * d);
      scratch("q_mean", part.q_mean, 4 * b * hr * blocks * d);
      const std::int64_t bytes = 4 * part_batches * part_heads * part.blocks * lkp;
      CHECK((bytes <= plan.options.mean_score_bytes || part.blocks == 1));
      largest_part = std::max(largest_part, bytes);
      if (done == 0) scratch("mean_scores", part.scores, bytes);  // the first is the largest
      CHECK(bytes <= largest_part);
      for (std::int64_t i = 0; i < part_batches * part_heads * part.blocks; ++i) {
        CHECK(attended
                  .insert({part.first_batch + i / part.blocks / part_heads,
                           part.first_head + i / part.blocks % part_heads,
                           part.first_block + i % part.blocks})
                  .second);
        ++done;
      }
    } else {
      part.blocks = static_cast<std::int32_t>(blocks);
      ++done;
    }
    const FakeLaunch& launch = take("attention");
    const auto p = decode<attention::Params>(launch);
    const std::int64_t part_rows =
        smooth_q ? std::min<std::int64_t>(part.blocks * 128, lqp - part.first_block * 128) : lqp;
    CHECK(is_grid(launch, part_rows / plan.schedule.cta_q, part_heads, part_batches));
    if (packed) check_pack(launch, hq / hkv);
    if (smooth_q) {
      const auto p_part = decode<attention::MeanScoreParams>(launch);
      CHECK(p_part.mean_scores == part.scores);
      CHECK(p_part.heads == hr);
      CHECK(p_part.first_batch == part.first_batch);
      CHECK(p_part.first_head == part.first_head);
      CHECK(p_part.first_block == part.first_block);
    }
    CHECK(parse_key(launch.kernel).params().has("unquantized") == !quantize_qk);
    if (quantize_qk) {
      scratch("q_codes", p.q_codes, q_bytes);
      scratch("q_scale", p.q_scale, q_scale_bytes);
      scratch("k_codes", p.k_codes, k_bytes);
      scratch("k_scale", p.k_scale, k_scale_bytes);
    } else {
      const auto own = decode<attention::UnquantizedParams>(launch);
      CHECK(same(own.q, arguments.q));
      CHECK(same(own.k, arguments.k));
      CHECK(own.unit == Approx(scale / std::log(2.0)).epsilon(2e-7));
      CHECK((p.q_codes == 0 && p.q_scale == 0 && p.k_codes == 0 && p.k_scale == 0));
    }
    if (quantize_v) {
      scratch("v_codes", p.v.data, v_bytes);
      scratch("v_scale", p.v_scale, 4 * b * hkv * d);
    } else {
      CHECK(same(p.v, arguments.v));
    }
    CHECK(same(p.o, arguments.o));
    CHECK(p.lse == arguments.lse);
    CHECK(parse_key(launch.kernel).params().has("smoothing") == smooth);
    if (smooth) {
      const Address correction = decode<attention::SmoothingParams>(launch).lse_correction;
      CHECK((correction != 0) == correct_lse);
      if (correct_lse) scratch("lse_correction", correction, 4 * b * hr * lqp);
    }
    CHECK(p.q_len == shape.q_len);
    CHECK(p.q_len_padded == lqp);
    CHECK(p.kv_len == shape.kv_len);
    CHECK(p.kv_len_padded == lkp);
    CHECK(p.heads_per_kv_head == hq / hkv);
    check_mods(launch, spec, plan.schedule, shape, arguments);
  }
  if (smooth_q) {
    for (const auto& [batch, head, row_block] : attended)
      CHECK((batch < b && head < hr && row_block < blocks));
  }
  CHECK(next == launches.size());
  workspace.check();
  CHECK(plan.driver->misuse().empty());
}

// A contiguous tensor in a random order of axes, with random padding behind rows.
TensorView random_view(std::mt19937& random, DevicePtr data, std::int64_t heads,
                       std::int64_t tokens, int head_dim) {
  const auto pad = static_cast<int>(random() % 3) * 8;
  const int row = head_dim + pad;
  TensorView view =
      random() % 2 == 0 ? hnd(data, heads, tokens, row) : nhd(data, heads, tokens, row);
  view.stride_batch += static_cast<std::int64_t>(random() % 4) * 64;
  return view;
}

std::vector<sagegen::Kernel> every_plan() {
  std::vector<sagegen::Kernel> plans;
  for (const TargetInfo& info : supported_targets()) {
    for (const int head_dim : {64, 128}) {
      for (const DType io : {DType::f16, DType::bf16}) {
        for (const bool causal : {false, true}) {
          for (const Granularity granularity : {Granularity::per_thread, Granularity::per_block,
                                                Granularity::per_token, Granularity::per_tensor}) {
            for (const Smoothing smoothing : {Smoothing::none, Smoothing::k, Smoothing::qk}) {
              attention::Spec spec{.head_dim = head_dim, .io = io};
              spec.causal = causal;
              spec.granularity = granularity;
              spec.smoothing = smoothing;
              plans.push_back(usual_kernel(spec, info.target));
            }
          }
        }
      }
    }
  }
  // Heads whose codes have padding, and wide ones.
  for (const int head_dim : {32, 72, 80, 96, 160, 192, 256}) {
    for (const DType qk : {DType::s8, DType::s4}) {
      for (const DType io : {DType::f16, DType::bf16}) {
        attention::Spec spec{.head_dim = head_dim, .io = io, .qk = qk};
        spec.smoothing = attention::usual_smoothing(qk);
        for (const int sm : {80, 89}) plans.push_back(usual_kernel(spec, {.sm = sm}));
      }
    }
  }
  // Rows of several heads in a tile, with every mode.
  for (const TargetInfo& info : supported_targets()) {
    for (const attention::Mode& mode : attention::modes()) {
      for (const Granularity granularity : {Granularity::per_thread, Granularity::per_tensor}) {
        attention::Spec spec = attention::with_mode({.head_dim = 64}, mode);
        spec.pack_gqa = spec.causal = true;
        if (mode.qk) spec.granularity = granularity;
        if (mode.qk) spec.q_group = 16;
        const sagegen::Kernel kernel(attention::family(), spec, info.target);
        if (kernel.violations().empty()) plans.push_back(kernel);
      }
    }
  }
  // Q and K as they are, alone and with each mod.
  for (const TargetInfo& info : supported_targets()) {
    for (const DType io : {DType::f16, DType::bf16}) {
      for (const attention::Mode& mode : attention::modes()) {
        if (mode.qk || (mode.pv == DType::e4m3 && !info.has(Feature::fp8_mma))) continue;
        const attention::Spec plain = attention::with_mode({.io = io}, mode);
        plans.emplace_back(attention::family(), plain, info.target);
#define SAGEGEN_MOD(name)                                       \
  {                                                             \
    attention::Spec spec = plain;                               \
    spec.name = true;                                           \
    spec.head_dim = 64;                                         \
    plans.emplace_back(attention::family(), spec, info.target); \
  }
#include "templates/attention/mods/mods.def"
      }
    }
  }
  // Each mod alone, the first with all that follow, and all but it, with K smoothing and without.
  const std::vector<bool attention::Spec::*> mods{
#define SAGEGEN_MOD(name) &attention::Spec::name,
#include "templates/attention/mods/mods.def"
  };
  for (std::size_t i = 0; i < mods.size(); ++i) {
    for (const int form : {0, 1, 2}) {
      attention::Spec spec{.head_dim = 64};
      spec.smoothing =
          (static_cast<std::size_t>(form) + i) % 2 == 0 ? Smoothing::k : Smoothing::none;
      for (std::size_t j = 0; j < mods.size(); ++j)
        spec.*mods[j] = form == 0 ? j == i : form == 1 ? j >= i : j != i;
      plans.push_back(usual_kernel(spec, {.sm = 89}));
      spec.smoothing = spec.smoothing == Smoothing::k ? Smoothing::none : Smoothing::k;
      plans.push_back(usual_kernel(spec, {.sm = 80}));
    }
  }
  return plans;
}

// Of the mods that the kernel has.
attention::ModArguments random_mods(std::mt19937& random, const attention::Spec& spec,
                                    const attention::Schedule& schedule) {
  const auto below = [&](std::int64_t end) { return static_cast<std::int64_t>(random()) % end; };
  const auto tensor = [&](DevicePtr data) {
    return attention::ScoreTensor{.data = data,
                                  .stride_batch = below(3) << 33,
                                  .stride_head = below(1 << 28),
                                  .stride_query = below(1 << 20),
                                  .stride_key = below(3)};
  };
  attention::ModArguments mods;
  if (spec.window) mods.window = {.left = below(400) - 100, .right = below(60000) - 20000};
  if (spec.softcap) mods.softcap = {.cap = static_cast<float>(1 + below(1000)) / 8};
  if (spec.bias) mods.bias = tensor(kBias + 2);
  if (spec.alibi) mods.alibi = {.slopes = kSlopes + 4};
  if (spec.mask) mods.mask = tensor(kMask + 1);
  if (spec.sinks) mods.sinks = {.logits = kSinks + 4};
  if (spec.blocksparse) {
    mods.blocksparse = {
        .bits = kBits + 4, .tile_queries = schedule.cta_q, .tile_keys = schedule.cta_k};
  }
  if (spec.skipsoftmax) {
    mods.skipsoftmax = {.counts = kCounts};
    if (below(2) == 0)
      mods.skipsoftmax.threshold = static_cast<float>(below(1000)) / 1000;
    else
      mods.skipsoftmax.thresholds = kThresholds;
  }
  return mods;
}

}  // namespace

TEST_CASE("launches of every plan at random shapes and strides") {
  std::mt19937 random(20240917);
  const auto length = [&] {
    return static_cast<std::int64_t>(1 + random() % (random() % 2 ? 20000 : 300));
  };
  for (const sagegen::Kernel& kernel : every_plan()) {
    INFO(kernel.key());
    FakePlan plan(kernel);
    for (int repeat = 0; repeat < 6; ++repeat) {
      const auto kv_heads = static_cast<std::int64_t>(1 + random() % 4);
      const attention::Shape shape{
          .batch = static_cast<std::int64_t>(1 + random() % 3),
          .q_heads = kv_heads * static_cast<std::int64_t>(1 + random() % 4),
          .kv_heads = kv_heads,
          .q_len = length(),
          .kv_len = length()};
      INFO("batch " << shape.batch << " heads " << shape.q_heads << "/" << shape.kv_heads
                    << " lengths " << shape.q_len << "/" << shape.kv_len);
      const int head_dim = plan.spec.head_dim;
      const attention::Arguments arguments{
          .q = random_view(random, kQ, shape.q_heads, shape.q_len, head_dim),
          .k = random_view(random, kK, shape.kv_heads, shape.kv_len, head_dim),
          .v = random_view(random, kV, shape.kv_heads, shape.kv_len, head_dim),
          .o = random_view(random, kO, shape.q_heads, shape.q_len, head_dim),
          .lse = random() % 2 == 0 ? 0 : kLse,
          .softmax_scale = random() % 2 == 0 ? 0.0f : 0.25f,
          .causal = random() % 2 == 0 ? attention::CausalAlignment::top_left
                                      : attention::CausalAlignment::bottom_right,
          .mods = random_mods(random, plan.spec, plan.schedule)};
      check_call(plan, shape, arguments);
    }
  }
}

TEST_CASE("quantize and attend launch the two halves of run, with the same arguments") {
  const attention::Shape shape{
      .batch = 2, .q_heads = 4, .kv_heads = 2, .q_len = 300, .kv_len = 500};
  FakePlan plan(usual_kernel({.head_dim = 64, .io = DType::bf16}));
  attention::Arguments arguments = plain_arguments(shape, 64);
  arguments.lse = kLse;
  plan.run(shape, arguments);
  const std::vector<FakeLaunch> whole = plan.driver->launches();
  REQUIRE(whole.size() == 5);

  plan.driver->clear_launches();
  const std::size_t bytes = plan.workspace_bytes(shape);
  plan.plan.quantize(shape, arguments, kWorkspace, bytes, nullptr);
  REQUIRE(plan.driver->launches().size() == 4);
  plan.plan.attend(shape, arguments, kWorkspace, bytes, nullptr);
  const std::vector<FakeLaunch> halves = plan.driver->launches();
  REQUIRE(halves.size() == 5);
  for (std::size_t i = 0; i < whole.size(); ++i) {
    CHECK(halves[i].kernel == whole[i].kernel);
    CHECK(halves[i].params == whole[i].params);
    CHECK(is_grid(halves[i], whole[i].grid.x, whole[i].grid.y, whole[i].grid.z));
  }
  CHECK_THROWS_AS(plan.plan.quantize(shape, arguments, kWorkspace, bytes - 1, nullptr),
                  ArgumentError);
  CHECK_THROWS_AS(plan.plan.attend(shape, arguments, kWorkspace, bytes - 1, nullptr),
                  ArgumentError);
}

TEST_CASE("a problem whose mean scores are too large is attended in parts") {
  const attention::Shape shape{
      .batch = 3, .q_heads = 6, .kv_heads = 2, .q_len = 500, .kv_len = 700};
  constexpr std::int64_t kBlock = 4 * 704;  // of one block of queries; 4 of a head, 24 of a batch
  struct Parts {
    std::int64_t bytes;
    std::size_t parts;
  };
  for (const Parts& expected :
       {Parts{-1, 72}, Parts{0, 72}, Parts{kBlock, 72}, Parts{3 * kBlock, 36},
        Parts{4 * kBlock, 18}, Parts{5 * kBlock, 18}, Parts{23 * kBlock, 6}, Parts{24 * kBlock, 3},
        Parts{71 * kBlock, 2}, Parts{72 * kBlock, 1}}) {
    FakePlan plan(usual_kernel({.head_dim = 64, .qk = DType::s4, .smoothing = Smoothing::qk}),
                  {.mean_score_bytes = expected.bytes});
    INFO(expected.bytes << " bytes");
    check_call(plan, shape, plain_arguments(shape, 64));
    CHECK(plan.driver->launches().size() == 4 + 2 * expected.parts);
  }
}

TEST_CASE("the workspace of a known shape has the size one computes by hand") {
  // sm_89, head_dim 128, per-thread scales in groups of 32 queries and 64 keys, 128 x 64 tiles.
  const FakePlan plan;
  REQUIRE(plan.schedule.cta_q == 128);
  REQUIRE(plan.schedule.cta_k == 64);
  const attention::Shape shape{.batch = 1, .q_heads = 2, .kv_heads = 1, .q_len = 129, .kv_len = 65};
  const std::size_t q_codes = 2 * 256 * 128, q_scale = 2 * 8 * 8 * 4;  // 129 -> 256: 8 groups
  const std::size_t k_codes = 128 * 128, k_scale = 256;  // 65 -> 128: 2 groups, 32 bytes
  const std::size_t v_codes = 128 * 128, v_scale = 128 * 4, v_amax = 128 * 4;
  const std::size_t k_sum = 128 * 4, k_mean = 128 * 4, correction = 2 * 256 * 4;
  // The sums and maxima of K and V are done with when Q is quantized: they lie where its codes and scales
  // will.
  REQUIRE(k_sum <= q_codes);
  REQUIRE(v_amax <= q_scale);
  const std::size_t all =
      q_codes + q_scale + k_codes + k_scale + v_codes + v_scale + k_mean + correction;
  CHECK(plan.workspace_bytes(shape) == all);
  CHECK(plan.plan.workspace_bytes(shape, attention::Lse::unwanted) == all - correction);
}

TEST_CASE("unquantized Q and K need no workspace, and FP8 beside them that of V") {
  const attention::Shape shape{.batch = 1, .q_heads = 2, .kv_heads = 1, .q_len = 129, .kv_len = 65};
  for (const attention::Mode& mode : attention::modes()) {
    if (mode.qk) continue;
    const FakePlan plan(sagegen::Kernel(
        attention::family(), attention::with_mode({.io = DType::bf16}, mode), Target{.sm = 89}));
    INFO(mode.name);
    const std::size_t v_codes = 128 * 128, v_scale = 128 * 4, v_amax = 128 * 4;
    const std::size_t all = mode.pv ? v_codes + v_scale + v_amax : 0;
    CHECK(plan.workspace_bytes(shape) == all);
    CHECK(plan.plan.workspace_bytes(shape, attention::Lse::unwanted) == all);
  }
}

TEST_CASE(
    "few queries of many heads need the workspace of their rows, not of a tile for each head") {
  // 32 heads of Q on 4 of K and V, one query each: 8 rows, in tiles of 32 and groups of 16.
  const attention::Shape shape{
      .batch = 1, .q_heads = 32, .kv_heads = 4, .q_len = 1, .kv_len = 4096};
  const auto of_queries = [&](attention::Spec spec) {
    spec.q_group = spec.pack_gqa ? 16 : 32;
    const FakePlan plan(sagegen::Kernel(attention::family(), spec, Target{.sm = 89}));
    std::size_t bytes = 0;
    for (const auto& tensor : plan.plan.scratch(shape)) {
      for (const char* name : {"q_codes", "q_scale", "lse_correction", "q_mean"})
        bytes += tensor.name == name ? static_cast<std::size_t>(tensor.bytes) : 0;
    }
    return bytes;
  };
  const std::size_t rows = 4 * 32, codes = rows * 128, scales = rows / 16 * 8 * 4, lse = rows * 4;
  CHECK(of_queries({.pack_gqa = true}) == codes + scales + lse);
  const std::size_t padded = 32 * 128;
  CHECK(of_queries({}) == padded * 128 + padded / 32 * 8 * 4 + padded * 4);
  // Four queries fill the tile; five need another one.
  attention::Shape more = shape;
  const FakePlan plan(
      sagegen::Kernel(attention::family(), {.q_group = 16, .pack_gqa = true}, Target{.sm = 89}));
  more.q_len = 4;
  CHECK(plan.workspace_bytes(more) == plan.workspace_bytes(shape));
  more.q_len = 5;
  CHECK(plan.workspace_bytes(more) > plan.workspace_bytes(shape));
  // A mean of Q is of rows that are there: no block of 128 is padded for it.
  attention::Spec int4{.qk = DType::s4, .smoothing = Smoothing::qk, .pack_gqa = true};
  CHECK(of_queries(int4) == codes / 2 + scales + lse + 4 * 128 * 4);
  // The whole of it: those of K and V are the same.
  const FakePlan unpacked(sagegen::Kernel(attention::family(), {}, Target{.sm = 89}));
  CHECK(unpacked.workspace_bytes(shape) - plan.workspace_bytes(shape) >=
        of_queries({}) - of_queries({.pack_gqa = true}) - 4096);
  // Rows of a KV head are 32-bit numbers, too.
  more = {.batch = 1, .q_heads = 64, .kv_heads = 1, .q_len = std::int64_t{1} << 26, .kv_len = 64};
  CHECK_THROWS_WITH(plan.workspace_bytes(more), Catch::Contains("4294967296 packed rows"));
}

TEST_CASE("strides beyond 2^32 elements and lengths near 2^31 arrive whole") {
  FakePlan plan;
  const attention::Shape shape{
      .batch = 2, .q_heads = 2, .kv_heads = 2, .q_len = 70000, .kv_len = 200064};
  const std::int64_t token = (std::int64_t{1} << 33) + 8;
  attention::Arguments arguments = plain_arguments(shape, 128);
  arguments.k = {
      .data = 0x10'0000'0000'0000, .stride_batch = 512, .stride_head = 128, .stride_token = token};
  arguments.q.data = 0x7000'0000'0000'0000;
  check_call(plan, shape, arguments);

  const attention::Shape longest{
      .batch = 1, .q_heads = 1, .kv_heads = 1, .q_len = 2147483520, .kv_len = 2147483584};
  check_call(plan, longest, plain_arguments(longest, 128));
}

TEST_CASE("parameter blocks of masks and biases hold what one computes by hand") {
  attention::Spec spec{.head_dim = 64, .smoothing = Smoothing::k};
#define SAGEGEN_MOD(name) spec.name = true;
#include "templates/attention/mods/mods.def"
  FakePlan plan(usual_kernel(spec));
  REQUIRE(plan.schedule.cta_q == 128);
  REQUIRE(plan.schedule.cta_k == 64);
  const attention::Shape shape{
      .batch = 2, .q_heads = 6, .kv_heads = 3, .q_len = 300, .kv_len = 2049};
  attention::Arguments arguments = plain_arguments(shape, 64);
  arguments.causal = attention::CausalAlignment::bottom_right;
  attention::ModArguments& mods = arguments.mods;
  mods.window = {.left = 40, .right = -1};
  mods.softcap = {.cap = 30};
  mods.bias = {kBias, 1, 2, 3, 4};
  mods.alibi = {kSlopes};
  mods.mask = {kMask, 5, 0, 1LL << 40, 7};
  mods.sinks = {kSinks};
  mods.blocksparse = {kBits, 128, 64};
  mods.skipsoftmax = {0.125f, 0, kCounts};
  REQUIRE(arguments.lse == 0);
  plan.run(shape, arguments);
  const FakeLaunch& launch = plan.driver->launches().back();
  CHECK(decode<attention::causal::Params>(launch).offset == 1749);
  const auto window = decode<attention::window::Params>(launch);
  CHECK(window.left == 40);
  CHECK(window.right == 2349);  // all queries and keys
  CHECK(window.offset == 1749);
  const auto softcap = decode<attention::softcap::Params>(launch);
  CHECK(softcap.from_score == 0.0231049060f);  // ln(2) / 30
  CHECK(softcap.to_score == 43.2808512f);      // 30 / ln(2)
  const auto bias = decode<attention::bias::Params>(launch);
  CHECK((bias.data == kBias && bias.stride_batch == 1 && bias.stride_head == 2));
  CHECK((bias.stride_query == 3 && bias.stride_key == 4));
  CHECK((bias.last_query == 299 && bias.last_key == 2048));
  const auto alibi = decode<attention::alibi::Params>(launch);
  CHECK((alibi.slopes == kSlopes && alibi.offset == 1749));
  const auto mask = decode<attention::mask::Params>(launch);
  CHECK((mask.data == kMask && mask.stride_batch == 5 && mask.stride_head == 0));
  CHECK((mask.stride_query == 1LL << 40 && mask.stride_key == 7));
  CHECK((mask.last_query == 299 && mask.last_key == 2048));
  CHECK(decode<attention::sinks::Params>(launch).logits == kSinks);
  const auto sparse = decode<attention::blocksparse::Params>(launch);
  CHECK((sparse.bits == kBits && sparse.row_words == 2));  // 33 tiles
  const auto skip = decode<attention::skipsoftmax::Params>(launch);
  CHECK((skip.threshold == 0.125f && skip.thresholds == 0 && skip.counts == kCounts));
  CHECK(decode<attention::SmoothingParams>(launch).lse_correction != 0);

  arguments.causal = attention::CausalAlignment::top_left;
  plan.run(shape, arguments);
  CHECK(decode<attention::causal::Params>(plan.driver->launches().back()).offset == 0);
  CHECK(decode<attention::window::Params>(plan.driver->launches().back()).offset == 0);
  CHECK(decode<attention::alibi::Params>(plan.driver->launches().back()).offset == 0);
}

TEST_CASE("what smoothing takes from scores is kept for those who see whole scores") {
  const attention::Shape shape{.q_heads = 2, .q_len = 100, .kv_len = 100};
  const auto kept = [&](const std::vector<bool attention::Spec::*>& mods, Smoothing smoothing,
                        DevicePtr lse) {
    attention::Spec spec{.head_dim = 64};
    spec.smoothing = smoothing;
    for (const auto mod : mods) spec.*mod = true;
    FakePlan plan(usual_kernel(spec));
    attention::Arguments arguments = plain_arguments(shape, 64);
    arguments.lse = lse;
    std::mt19937 random(1);
    arguments.mods = random_mods(random, spec, plan.schedule);
    const std::size_t bytes = plan.plan.workspace_bytes(
        shape, lse == 0 ? attention::Lse::unwanted : attention::Lse::wanted);
    plan.plan.run(shape, arguments, kWorkspace, bytes, nullptr);
    const auto& launches = plan.driver->launches();
    const Address address =
        decode<quantize_rows::FoldParams>(launches[launches.size() - 2]).lse_correction;
    if (smoothing == Smoothing::k)
      CHECK(decode<attention::SmoothingParams>(launches.back()).lse_correction == address);
    if (address != 0) {
      CHECK(address >= kWorkspace);
      CHECK(address + 4 * 2 * 128 <= kWorkspace + bytes);
    }
    return address != 0;
  };
  using attention::Spec;
  for (const auto seeing : {&Spec::softcap, &Spec::sinks}) {
    CHECK(kept({seeing}, Smoothing::k, 0));
    CHECK(kept({seeing}, Smoothing::k, kLse));
    CHECK_FALSE(kept({seeing}, Smoothing::none, 0));
    CHECK_FALSE(kept({seeing}, Smoothing::none, kLse));
  }
  const std::vector<bool Spec::*> blind{&Spec::causal,     &Spec::window, &Spec::bias,
                                        &Spec::alibi,      &Spec::mask,   &Spec::blocksparse,
                                        &Spec::skipsoftmax};
  CHECK_FALSE(kept(blind, Smoothing::k, 0));
  CHECK(kept(blind, Smoothing::k, kLse));
}

TEST_CASE("everything goes to the caller's stream, and nothing but launches, in one context") {
  FakePlan plan;
  const Stream stream(plan.device);
  const attention::Shape shape{.batch = 1, .q_heads = 1, .kv_heads = 1, .q_len = 5, .kv_len = 7};
  const std::size_t bytes = plan.workspace_bytes(shape);
  const int before = plan.driver->call_count();
  plan.plan.run(shape, plain_arguments(shape, 128), kWorkspace, bytes, stream.handle());
  REQUIRE(plan.driver->launches().size() == 5);
  for (const FakeLaunch& launch : plan.driver->launches()) CHECK(launch.stream == stream.handle());
  const std::vector<std::string> calls(plan.driver->calls().begin() + before,
                                       plan.driver->calls().end());
  CHECK(calls == std::vector<std::string>{"cuCtxGetCurrent", "cuCtxSetCurrent", "cuLaunchKernel",
                                          "cuLaunchKernel", "cuLaunchKernel", "cuLaunchKernel",
                                          "cuLaunchKernel", "cuCtxSetCurrent"});
}

TEST_CASE("kernel names are those of the loaded entries, in launch order") {
  FakePlan plan;
  const attention::Shape shape{};
  plan.run(shape, plain_arguments(shape, 128));
  std::vector<std::string> launched;
  for (const FakeLaunch& launch : plan.driver->launches()) launched.push_back(launch.kernel);
  CHECK(plan.plan.kernel_names() == launched);
  std::vector<std::string> asked_for;
  for (const sagegen::Kernel& input : plan.plan.kernel().inputs()) asked_for.push_back(input.key());
  asked_for.push_back(plan.plan.kernel().key());
  CHECK(asked_for == launched);
}
