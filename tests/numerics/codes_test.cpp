// What the quantization kernels leave in the workspace, element by element, against codes computed
// in double from the descriptions in the rooms' params.h. Codes may differ only where a value lies so near the
// middle between two codes that the kernels' f32 arithmetic decides.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <numbers>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "sagegen/emit.h"
#include "sagegen/runtime/emulator.h"
#include "templates/attention/plan.h"
#include "tools/reference/quantize.h"
#include "tools/reference/rounding.h"

using namespace sagegen;
namespace rt = sagegen::runtime;
namespace ref = sagegen::reference;

namespace {

// Position p of every 16 keys holds this key.
constexpr std::array<std::int64_t, 16> kKeyOrder = {0, 1, 8,  9,  2, 3, 10, 11,
                                                    4, 5, 12, 13, 6, 7, 14, 15};
constexpr double kTieWidth = 1e-3;      // of a code step
constexpr double kFloatError = 1e-6;    // relative, of a few f32 operations
constexpr double kMaxUndecided = 0.01;  // share of codes that may lie near a tie

struct Setup {
  int sm = 89;
  rt::EmulatorProfile profile = rt::EmulatorProfile::sm_89;
  DType io = DType::f16;
  int head_dim = 128;
  Granularity granularity = Granularity::per_thread;
  DType codes = DType::s8;  // of Q and K
  Smoothing smoothing = Smoothing::k;
  // Of the target if it is not given.
  std::optional<DType> pv = std::nullopt;
  Accumulation accumulation =
      Accumulation::f32;  // as far as it matters to codes: sums of f16, or others
  CodeRange code_range = CodeRange::usual;
  ValueSmoothing v_smoothing = ValueSmoothing::none;
  Rotation rotation = Rotation::none;
  std::string distribution = "normal";
  ref::Shape shape;
};

ref::IoType io_type(DType io) { return io == DType::f16 ? ref::IoType::f16 : ref::IoType::bf16; }

// A scratch tensor of the plan, in bytes from the start of the workspace.
struct Region {
  std::int64_t offset = 0, bytes = 0;
};

// The kernels' results for one attention, still in the workspace.
struct Workspace {
  attention::Spec spec;
  std::int64_t q_len_padded = 0, kv_len_padded = 0;
  std::map<std::string, Region> regions;
  std::vector<std::byte> bytes;

  Region region(const char* name) const { return regions.at(name); }
  // Of Q or K, s8 or s4: two s4 in a byte, the first in the low half.
  int code(const Region& region, std::int64_t index) const {
    if (spec.qk == DType::s8) return at<std::int8_t>(region, index);
    const int half = at<std::uint8_t>(region, index / 2) >> (index % 2 * 4) & 0xF;
    return half < 8 ? half : half - 16;
  }
  template <typename T>
  T at(const Region& region, std::int64_t index) const {
    T value;
    const std::int64_t offset = index * static_cast<std::int64_t>(sizeof(T));
    REQUIRE(offset + static_cast<std::int64_t>(sizeof(T)) <= region.bytes);
    std::memcpy(&value, bytes.data() + region.offset + offset, sizeof(T));
    return value;
  }
};

rt::Buffer upload(const rt::Device& device, const ref::Tensor& tensor, DType io) {
  std::vector<std::uint16_t> bits;
  for (const float x : tensor.data)
    bits.push_back(io == DType::f16 ? ref::f16_bits(x) : ref::bf16_bits(x));
  rt::Buffer buffer(device, bits.size() * sizeof(bits[0]));
  buffer.upload(std::as_bytes(std::span(bits)));
  return buffer;
}

Workspace run_kernels(const Setup& setup, const ref::Inputs& in) {
  static const std::shared_ptr<rt::EmulatorDriver> driver =
      rt::make_emulator({.checks = rt::Checks::off});
  const rt::Device device(driver, static_cast<rt::DeviceOrdinal>(setup.profile));
  const Target target{.sm = setup.sm};
  Workspace out;
  out.spec = attention::usual_spec(target, setup.granularity);
  out.spec.head_dim = setup.head_dim;
  out.spec.io = setup.io;
  out.spec.qk = setup.codes;
  out.spec.smoothing = setup.smoothing;
  if (setup.pv) out.spec.pv = *setup.pv;
  out.spec.accumulation = setup.accumulation;
  out.spec.code_range = setup.code_range;
  out.spec.v_smoothing = setup.v_smoothing;
  out.spec.rotation = setup.rotation;
  const Kernel kernel(attention::family(), out.spec, target);
  const attention::Plan plan(device, kernel, [](const Kernel& each) { return emit(each); });
  const attention::Shape shape{.batch = in.q.batch,
                               .q_heads = in.q.heads,
                               .kv_heads = in.k.heads,
                               .q_len = in.q.tokens,
                               .kv_len = in.k.tokens};
  const auto rounded_up = [](std::int64_t length, int group, int tile) {
    const std::int64_t unit = std::max(group, tile);
    return (length + unit - 1) / unit * unit;
  };
  const attention::Schedule& schedule = kernel.view(attention::family()).schedule;
  out.q_len_padded =
      rounded_up(shape.q_len, out.spec.smoothing == Smoothing::qk ? kMeanRows : out.spec.q_group,
                 schedule.cta_q);
  out.kv_len_padded = rounded_up(shape.kv_len, out.spec.k_group, schedule.cta_k);
  for (const auto& [name, offset, bytes] : plan.scratch(shape))
    out.regions[std::string(name)] = {offset, bytes};

  const rt::Buffer q = upload(device, in.q, setup.io), k = upload(device, in.k, setup.io),
                   v = upload(device, in.v, setup.io), o(device, q.bytes());
  const rt::Buffer lse(device, static_cast<std::size_t>(in.q.batch * in.q.heads * in.q.tokens) * 4);
  rt::Buffer workspace(device, plan.workspace_bytes(shape));
  workspace.fill(0xFF);
  const rt::Stream stream(device);
  plan.run(shape,
           {.q = rt::hnd(q.data(), in.q.heads, in.q.tokens, setup.head_dim),
            .k = rt::hnd(k.data(), in.k.heads, in.k.tokens, setup.head_dim),
            .v = rt::hnd(v.data(), in.v.heads, in.v.tokens, setup.head_dim),
            .o = rt::hnd(o.data(), in.q.heads, in.q.tokens, setup.head_dim),
            .lse = lse.data()},
           workspace.data(), workspace.bytes(), stream.handle());
  stream.synchronize();
  out.bytes.resize(workspace.bytes());
  workspace.download(out.bytes);
  return out;
}

// Of Q and K: whole steps of 32 bytes; of V: of 16 channels.
std::int64_t padded(std::int64_t channels, std::int64_t step) {
  return (channels + step - 1) / step * step;
}

// Counts codes; fails on one that f32 arithmetic cannot explain.
class CodeCheck {
 public:
  void integer(double scaled, double got) {
    ++total_;
    if (got == std::nearbyint(scaled)) return;
    ++undecided_;
    const double from_tie = std::fabs(std::fabs(scaled - std::trunc(scaled)) - 0.5);
    INFO("value " << scaled << " of a step, code " << got);
    REQUIRE(from_tie < kTieWidth);
    REQUIRE(std::fabs(scaled - got) < 0.5 + kTieWidth);
  }
  // beside: how far `scaled` may be off, besides f32 roundings of its own.
  void floating(double scaled, double got, ref::QuantModel::Pv format, double beside) {
    ++total_;
    if (got == ref::round_pv(format, scaled)) return;
    ++undecided_;
    INFO("value " << scaled << ", code " << got);
    const double off = std::fabs(scaled) * kFloatError + beside;
    REQUIRE(got >= ref::round_pv(format, scaled - off));
    REQUIRE(got <= ref::round_pv(format, scaled + off));
  }
  void finish() const {
    CHECK(total_ > 0);
    CHECK(static_cast<double>(undecided_) <= 1 + kMaxUndecided * static_cast<double>(total_));
  }

 private:
  std::int64_t total_ = 0, undecided_ = 0;
};

struct RowsOfHead {
  Region codes, scales;
  std::int64_t head_index = 0, padded = 0, group = 0, scales_per_group = 0, divisor = 1;
  double scale_factor = 1.0;

  // Of row r; no scales in a group: one of the head.
  std::int64_t scale_index(std::int64_t r) const {
    if (scales_per_group == 0) return head_index;
    const std::int64_t run = head_index * (padded / group) + r / group;
    const std::int64_t in_group = scales_per_group == 1       ? 0
                                  : scales_per_group == group ? r % group
                                                              : r % group % 8 / divisor;
    return run * scales_per_group + in_group;
  }
};

ref::QuantModel::Scales model_scales(const attention::Spec& spec) {
  using Scales = ref::QuantModel::Scales;
  return std::map<Granularity, Scales>{{Granularity::per_thread, Scales::per_thread},
                                       {Granularity::per_block, Scales::per_block},
                                       {Granularity::per_token, Scales::per_token},
                                       {Granularity::per_tensor, Scales::per_tensor}}
      .at(spec.granularity);
}

// As far as codes of Q and K depend on it.
ref::QuantModel model_of(const attention::Spec& spec) {
  return {.scales = model_scales(spec),
          .q_group = spec.q_group,
          .k_group = spec.k_group,
          .rotate = spec.rotation == Rotation::hadamard};
}

int scales_of_group(const attention::Spec& spec, int group, int of_threads) {
  switch (spec.granularity) {
    case Granularity::per_thread:
      return of_threads;
    case Granularity::per_block:
      return 1;
    case Granularity::per_token:
      return group;
    default:
      return 0;
  }
}

constexpr std::array kGranularities = {Granularity::per_thread, Granularity::per_block,
                                       Granularity::per_token, Granularity::per_tensor};

void check_rows(const Workspace& w, const RowsOfHead& where, const ref::RowCodes& want,
                CodeCheck& check) {
  for (std::int64_t r = 0; r < where.padded; ++r) {
    const bool there = r < want.rows;
    const double scale = w.at<float>(where.scales, where.scale_index(r));
    INFO("row " << r);
    if (there) {
      REQUIRE(scale == Approx(want.row_scale[static_cast<std::size_t>(r)] * where.scale_factor)
                           .epsilon(kFloatError)
                           .margin(0));
    } else {
      REQUIRE(std::isfinite(scale));
    }
    const std::int64_t stored = padded(want.channels, w.spec.qk == DType::s4 ? 64 : 32);
    for (std::int64_t c = 0; c < stored; ++c) {
      const double code = w.code(where.codes, (where.head_index * where.padded + r) * stored + c);
      if (there && c < want.channels) {
        check.integer(want.scaled[static_cast<std::size_t>(r * want.channels + c)], code);
      } else {
        REQUIRE(code == 0.0);
      }
    }
  }
}

std::vector<double> rows_of(const ref::Tensor& t, std::int64_t b, std::int64_t h) {
  const float* begin = t.row(b, h, 0);
  return {begin, begin + t.tokens * t.channels};
}

// The means of Q, and their scores with every key: f32, in the order of V's codes.
void check_means(const Workspace& w, const ref::Inputs& in, std::int64_t b, std::int64_t h,
                 const std::vector<double>& means) {
  const std::int64_t head = b * in.q.heads + h, channels = in.q.channels;
  const std::int64_t kv_head = h / (in.q.heads / in.k.heads), runs = w.q_len_padded / 128;
  const double unit = std::numbers::log2e / std::sqrt(static_cast<double>(channels));
  const std::vector<double> keys = ref::smoothed_keys(in.k, b, kv_head, {.smooth_k = true});
  const std::vector<double> mean_key = ref::channel_mean(in.k, b, kv_head);
  for (std::int64_t run = 0; run * 128 < in.q.tokens; ++run) {
    const double* mean = means.data() + run * channels;
    double largest = 0;
    for (std::int64_t c = 0; c < channels; ++c) {
      double size = 0;  // of what is summed
      for (std::int64_t r = run * 128; r < std::min(run * 128 + 128, in.q.tokens); ++r)
        size = std::max(size, std::fabs(static_cast<double>(in.q.row(b, h, r)[c])));
      INFO("mean of run " << run << ", channel " << c);
      REQUIRE(w.at<float>(w.region("q_mean"), (head * runs + run) * channels + c) ==
              Approx(mean[c]).margin(size * kFloatError));
      largest = std::max(largest, size);
    }
    const std::vector<double> want = ref::mean_scores(mean, keys, channels);
    for (std::int64_t p = 0; p < w.kv_len_padded; ++p) {
      const std::int64_t key = p / 16 * 16 + kKeyOrder[static_cast<std::size_t>(p % 16)];
      const double got =
          w.at<float>(w.region("mean_scores"), (head * runs + run) * w.kv_len_padded + p);
      INFO("score of run " << run << " with key " << key);
      if (key >= in.k.tokens) {
        REQUIRE(got == 0);
        continue;
      }
      // What two halves of a mean, and of a key, leave out, and f32 sums; the means themselves may be off.
      const double split = w.spec.io == DType::bf16 ? 0x1p-15 : 0x1p-20;
      double size = 0;
      for (std::int64_t c = 0; c < channels; ++c) {
        const double k = std::fabs(keys[static_cast<std::size_t>(key * channels + c)]);
        const double of_k = std::fabs(in.k.row(b, kv_head, key)[c]) +
                            std::fabs(mean_key[static_cast<std::size_t>(c)]);
        size += std::fabs(mean[c]) * (k * split + of_k * kFloatError) + largest * k * kFloatError;
      }
      REQUIRE(got ==
              Approx(want[static_cast<std::size_t>(key)] * unit).epsilon(0).margin(size * unit));
    }
  }
}

void check_q(const Workspace& w, const ref::Inputs& in) {
  const ref::QuantModel model = model_of(w.spec);
  const double softmax_scale = 1.0 / std::sqrt(static_cast<double>(in.q.channels));
  CodeCheck check;
  for (std::int64_t head = 0; head < in.q.batch * in.q.heads; ++head) {
    const std::int64_t b = head / in.q.heads, h = head % in.q.heads;
    const std::vector<double> rows = rows_of(in.q, b, h);
    INFO("Q, batch " << b << ", head " << h);
    ref::SmoothedQueries smoothed{.rows = rows, .means = {}, .least_amax = {}};
    if (w.spec.smoothing == Smoothing::qk) {
      smoothed = ref::smooth_queries(rows, in.q.channels, bits(w.spec.qk), model.rotate);
      check_means(w, in, b, h, smoothed.means);
    }
    check_rows(
        w,
        {.codes = w.region("q_codes"),
         .scales = w.region("q_scale"),
         .head_index = head,
         .padded = w.q_len_padded,
         .group = w.spec.q_group,
         .scales_per_group = scales_of_group(w.spec, w.spec.q_group, 8),
         .scale_factor = softmax_scale * std::numbers::log2e},
        ref::quantize_rows(ref::to_quantize(smoothed.rows, in.q.channels, model), in.q.channels,
                           bits(w.spec.qk), ref::grouping_of_queries(model, in.q.channels),
                           smoothed.least_amax),
        check);

    const std::vector<double> mean = ref::channel_mean(in.k, b, h / (in.q.heads / in.k.heads));
    for (std::int64_t r = 0; r < in.q.tokens; ++r) {
      double dot = 0, magnitude = 0;
      for (std::size_t c = 0; c < mean.size(); ++c) {
        const double term = rows[static_cast<std::size_t>(r) * mean.size() + c] * mean[c];
        dot += term;
        magnitude += std::fabs(term);
      }
      REQUIRE(w.at<float>(w.region("lse_correction"), head * w.q_len_padded + r) ==
              Approx(dot * softmax_scale).margin(magnitude * softmax_scale * 4 * kFloatError));
    }
  }
  check.finish();
}

void check_k(const Workspace& w, const ref::Inputs& in) {
  const ref::QuantModel model = model_of(w.spec);
  CodeCheck check;
  for (std::int64_t head = 0; head < in.k.batch * in.k.heads; ++head) {
    const std::int64_t b = head / in.k.heads, h = head % in.k.heads;
    INFO("K, batch " << b << ", head " << h);
    std::vector<double> rows = rows_of(in.k, b, h);
    const std::vector<double> mean = ref::channel_mean(in.k, b, h);
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i] -= mean[i % mean.size()];
    for (std::size_t c = 0; c < mean.size(); ++c) {
      REQUIRE(
          w.at<float>(w.region("k_mean"), head * in.k.channels + static_cast<std::int64_t>(c)) ==
          Approx(mean[c]).epsilon(kFloatError).margin(kFloatError));
    }
    check_rows(w,
               {.codes = w.region("k_codes"),
                .scales = w.region("k_scale"),
                .head_index = head,
                .padded = w.kv_len_padded,
                .group = w.spec.k_group,
                .scales_per_group = scales_of_group(w.spec, w.spec.k_group, 4),
                .divisor = 2,
                .scale_factor = 1.0},
               ref::quantize_rows(ref::to_quantize(rows, in.k.channels, model), in.k.channels,
                                  bits(w.spec.qk), ref::grouping_of_keys(model, in.k.channels)),
               check);
  }
  check.finish();
}

void check_v(const Workspace& w, const ref::Inputs& in) {
  if (!attention::v_is_quantized(w.spec)) {
    CHECK(w.region("v_codes").bytes == 0);
    return;
  }
  const bool fp8 = w.spec.pv == DType::e4m3;
  // Where P V is summed in f16: what 64 keys and the largest P leave of 65504 (templates/shared/quantization.h).
  const bool half_sums = w.spec.accumulation == Accumulation::f32_f16;
  const double of_fp8 = !half_sums ? 448.0 : w.spec.code_range == CodeRange::usual ? 3.5 : 7.0;
  const bool smooth = w.spec.v_smoothing == ValueSmoothing::mean;
  const ref::QuantModel model{.pv = fp8 ? ref::QuantModel::Pv::e4m3 : ref::QuantModel::Pv::f16,
                              .smooth_v = smooth,
                              .v_max = fp8         ? of_fp8
                                       : half_sums ? 1.0
                                                   : 1024.0};
  const std::int64_t keys = w.kv_len_padded, channels = in.v.channels;
  const std::int64_t stored = padded(channels, 16);
  CodeCheck check;
  for (std::int64_t head = 0; head < in.v.batch * in.v.heads; ++head) {
    const ref::ChannelCodes want =
        ref::quantize_values(in.v, head / in.v.heads, head % in.v.heads, model);
    INFO("V, head " << head);
    std::vector<double> beside;  // by channel: what the mean may be off by, in codes
    for (std::int64_t c = 0; c < channels; ++c) {
      const double scale = want.scale[static_cast<std::size_t>(c)];
      double of_mean = 0;  // how far it may be off: f32 sums of as large numbers
      if (smooth) {
        for (std::int64_t n = 0; n < in.v.tokens; ++n) {
          const double v = in.v.row(head / in.v.heads, head % in.v.heads, n)[c];
          of_mean += std::fabs(v) / static_cast<double>(in.v.tokens) * 4 * kFloatError;
        }
        REQUIRE(w.at<float>(w.region("v_mean"), head * channels + c) ==
                Approx(want.mean[static_cast<std::size_t>(c)]).epsilon(0).margin(of_mean));
      } else {
        REQUIRE(w.region("v_mean").bytes == 0);
      }
      REQUIRE(w.at<float>(w.region("v_scale"), head * channels + c) ==
              Approx(scale).epsilon(kFloatError).margin(2 * of_mean / model.v_max));
      beside.push_back(scale > 0 ? std::min(2 * of_mean / scale, model.v_max) : 0);
    }
    for (std::int64_t c = 0; c < stored; ++c) {
      for (std::int64_t p = 0; p < keys; ++p) {
        const std::int64_t key =
            fp8 ? p / 16 * 16 + kKeyOrder[static_cast<std::size_t>(p % 16)] : p;
        const double code = fp8 ? ref::e4m3_value(w.at<std::uint8_t>(
                                      w.region("v_codes"), (head * stored + c) * keys + p))
                                : ref::f16_value(w.at<std::uint16_t>(
                                      w.region("v_codes"), (head * keys + p) * stored + c));
        if (key < in.v.tokens && c < channels) {
          check.floating(want.scaled[static_cast<std::size_t>(key * channels + c)], code, model.pv,
                         beside[static_cast<std::size_t>(c)]);
        } else {
          REQUIRE(code == 0.0);
        }
      }
    }
  }
  check.finish();
}

void check_codes(const Setup& setup) {
  INFO("sm_" << setup.sm << ", " << to_string(setup.io) << ", head_dim " << setup.head_dim << ", "
             << to_string(setup.granularity) << ", " << to_string(setup.codes) << ", "
             << "smoothing " << to_string(setup.smoothing) << ", " << setup.distribution
             << ", lengths " << setup.shape.q_len << " and " << setup.shape.kv_len);
  ref::Shape shape = setup.shape;
  shape.head_dim = setup.head_dim;
  const ref::Inputs in = ref::generate(setup.distribution, shape, 5, io_type(setup.io));
  const Workspace w = run_kernels(setup, in);
  check_q(w, in);
  check_k(w, in);
  check_v(w, in);
}

constexpr ref::Shape kRagged{.batch = 2, .q_heads = 4, .kv_heads = 2, .q_len = 70, .kv_len = 150};

}  // namespace

TEST_CASE("codes and scales are those of double arithmetic, for every dtype and granularity") {
  for (const auto& [sm, profile] :
       {std::pair{80, rt::EmulatorProfile::sm_80}, std::pair{89, rt::EmulatorProfile::sm_89}}) {
    for (const int head_dim : {64, 128}) {
      for (const DType io : {DType::f16, DType::bf16}) {
        for (const Granularity granularity : kGranularities) {
          for (const DType codes : {DType::s8, DType::s4}) {
            for (const Smoothing smoothing : {Smoothing::k, Smoothing::qk}) {
              check_codes({.sm = sm,
                           .profile = profile,
                           .io = io,
                           .head_dim = head_dim,
                           .granularity = granularity,
                           .codes = codes,
                           .smoothing = smoothing,
                           .distribution = "normal",
                           .shape = kRagged});
            }
          }
        }
      }
    }
  }
}

// Each head_dim with one dtype and smoothing of every granularity and type of codes, in turn.
TEST_CASE("codes of heads of every size end with zeros") {
  int turn = 0;
  for (const int head_dim : {32, 72, 80, 96, 160, 192, 256}) {
    for (const Granularity granularity : kGranularities) {
      for (const DType codes : {DType::s8, DType::s4}) {
        ++turn;
        const bool no_room = codes == DType::s8 && head_dim == 256;
        check_codes({.io = turn / 2 % 2 == 0 ? DType::f16 : DType::bf16,
                     .head_dim = head_dim,
                     .granularity = granularity,
                     .codes = codes,
                     .smoothing = turn % 3 != 0 && !no_room ? Smoothing::qk : Smoothing::k,
                     .pv = turn / 3 % 2 == 0 ? DType::e4m3 : DType::f16,
                     .accumulation = turn % 5 == 0 ? Accumulation::f32_f16 : Accumulation::f32,
                     .distribution = "outlier",
                     .shape = kRagged});
      }
    }
  }
}

TEST_CASE("codes of biased K, outliers, zero channels and zero rows") {
  for (const ref::Distribution& d : ref::distributions()) {
    for (const DType io : {DType::f16, DType::bf16}) {
      for (const DType codes : {DType::s8, DType::s4}) {
        for (const Smoothing smoothing : {Smoothing::k, Smoothing::qk}) {
          check_codes({.io = io,
                       .head_dim = 64,
                       .codes = codes,
                       .smoothing = smoothing,
                       .distribution = d.name,
                       .shape = kRagged});
        }
      }
    }
  }
}

// Each head_dim with every type of codes, granularity and smoothing, in turn: blocks of 8 to 256 channels.
TEST_CASE("codes of rotated Q and K") {
  int turn = 0;
  for (const int head_dim : {32, 64, 72, 80, 96, 128, 160, 192, 256}) {
    for (const DType codes : {DType::s8, DType::s4}) {
      for (const char* distribution : {"normal", "outlier", "k_bias", "zero_parts"}) {
        ++turn;
        const bool no_room = codes == DType::s8 && head_dim == 256;
        check_codes({.io = turn / 2 % 2 == 0 ? DType::f16 : DType::bf16,
                     .head_dim = head_dim,
                     .granularity = kGranularities[static_cast<std::size_t>(turn / 3 % 4)],
                     .codes = codes,
                     .smoothing = turn % 3 != 0 && !no_room ? Smoothing::qk : Smoothing::k,
                     .rotation = Rotation::hadamard,
                     .distribution = distribution,
                     .shape = kRagged});
      }
    }
  }
}

TEST_CASE("codes of V that leave room for sums of f16") {
  for (const char* distribution : {"normal", "sink", "zero_parts"}) {
    for (const DType io : {DType::f16, DType::bf16}) {
      for (const auto& [pv, range] :
           {std::pair{DType::e4m3, CodeRange::usual}, std::pair{DType::e4m3, CodeRange::fine_v},
            std::pair{DType::f16, CodeRange::usual}}) {
        check_codes({.io = io,
                     .head_dim = 64,
                     .pv = pv,
                     .accumulation = Accumulation::f32_f16,
                     .code_range = range,
                     .distribution = distribution,
                     .shape = kRagged});
      }
    }
  }
}

TEST_CASE("codes of V less its mean") {
  for (const char* distribution : {"normal", "v_offset", "sink", "zero_parts"}) {
    for (const DType io : {DType::f16, DType::bf16}) {
      for (const DType pv : {DType::e4m3, DType::f16}) {
        for (const Accumulation sum : {Accumulation::f32, Accumulation::f32_f16}) {
          check_codes({.io = io,
                       .head_dim = pv == DType::f16 ? 128 : 64,
                       .pv = pv,
                       .accumulation = sum,
                       .v_smoothing = ValueSmoothing::mean,
                       .distribution = distribution,
                       .shape = kRagged});
        }
      }
    }
  }
}

TEST_CASE("nothing is left of a channel of V that is constant, however its sum rounds") {
  for (const DType io : {DType::f16, DType::bf16}) {
    const Setup setup{.io = io,
                      .head_dim = 64,
                      .v_smoothing = ValueSmoothing::mean,
                      .shape = {.q_len = 1, .kv_len = 100007, .head_dim = 64}};
    ref::Inputs in = ref::generate("normal", setup.shape, 5, io_type(io));
    for (std::size_t i = 0; i < in.v.data.size(); ++i)
      in.v.data[i] = 1 + static_cast<float>(16 * (i % 64) + 1) / 1024;
    ref::round_to(io_type(io), in.v);
    const Workspace w = run_kernels(setup, in);
    for (std::int64_t c = 0; c < 64; ++c) {
      INFO("channel " << c);
      CHECK(w.at<float>(w.region("v_mean"), c) == in.v.data[static_cast<std::size_t>(c)]);
      CHECK(w.at<float>(w.region("v_scale"), c) == 0);
    }
  }
}

TEST_CASE("codes at lengths around the groups, chunks and tiles") {
  for (const std::int64_t length : {1, 7, 31, 32, 33, 63, 64, 65, 127, 128, 129, 513, 1100}) {
    for (const Smoothing smoothing : {Smoothing::k, Smoothing::qk}) {
      check_codes({.head_dim = 64,
                   .granularity = kGranularities[static_cast<std::size_t>(length % 4)],
                   .smoothing = smoothing,
                   .v_smoothing = length % 3 == 0 ? ValueSmoothing::none : ValueSmoothing::mean,
                   .shape = {.q_len = std::max<std::int64_t>(length / 3, 1), .kv_len = length}});
    }
  }
}
