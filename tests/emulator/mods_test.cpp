// The mods of the attention template: hook by hook, with kernels of small mods that only this file has, built
// through the template's internal interface, and those of mods.def as callers have them. All run through the
// whole plan, with all checks. They are judged against fp64 on inputs that the quantization leaves as they are (integers, the largest of each
// row 127), so that nothing but the rounding of P and O to f16 is left.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "sagegen/dsl/emit.h"
#include "sagegen/emit.h"
#include "templates/attention/attention.h"
#include "templates/attention/mod_list.h"
#include "tools/reference/rounding.h"
#include "tools/sagegen/run_attention.h"
#include "tools/sagegen/run_device.h"

namespace sagegen::runtime {
namespace {

using namespace dsl;
using attention::KeyRange;
using attention::Mod;
using attention::ScoreElement;
using attention::ScoreRow;

constexpr int kBatch = 2, kHeads = 2;
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kLog2E = 1.4426950408889634;

struct At {
  int batch, head, query, key;
};

// What a kernel of a case reads; stays on the device while it runs.
struct Given {
  const Device& device;
  std::vector<Buffer>& keep;
  attention::ModArguments& mods;
  template <typename T>
  DevicePtr put(const std::vector<T>& values) const {
    keep.emplace_back(device, values.size() * sizeof(T));
    keep.back().upload(std::as_bytes(std::span(values)));
    return keep.back().data();
  }
};

// A mod and what it means: scores are natural logarithms in the twin, and in base 2 in the kernel. Either `mod`,
// or a mod of mods.def: `asks` and `gives`.
struct Case {
  std::string name;
  std::function<Mod(KernelBuilder&)> mod = {};
  bool attention::Spec::*asks = nullptr;
  std::function<void(const Given&)> gives = {};
  std::function<bool(const At&)> sees = {};
  std::function<double(const At&, double score)> changed = {};
  std::function<double(int batch, int head)> sink = {};
};

Case up_to(int offset) {
  Case c{.name = "up to"};
  c.mod = [=](KernelBuilder& k) {
    Mod mod;
    mod.keys_of = [=, &k](I32 query, I32 origin) {
      return KeyRange{.begin = {}, .end = query - origin + k.i32(offset + 1)};
    };
    mod.later_queries_see_more = true;
    return mod;
  };
  c.sees = [=](const At& at) { return at.key <= at.query + offset; };
  return c;
}

// Keys query + offset - left to query + offset + right.
Case between(int offset, int left, int right) {
  Case c{.name = "between"};
  c.mod = [=](KernelBuilder& k) {
    Mod mod;
    mod.keys_of = [=, &k](I32 query, I32 origin) {
      const I32 here = query - origin;
      return KeyRange{here + k.i32(offset - left), here + k.i32(offset + right + 1)};
    };
    return mod;
  };
  c.sees = [=](const At& at) {
    return at.key >= at.query + offset - left && at.key <= at.query + offset + right;
  };
  return c;
}

Case slope(double per_key) {
  Case c{.name = "slope"};
  c.mod = [=](KernelBuilder& k) {
    Mod mod;
    mod.changes = [=, &k](const ScoreElement& at, F32 score) {
      const F32 steps = k.to_f32((at.key - at.query) * (at.head + 1));
      return score + steps * static_cast<float>(per_key * kLog2E);
    };
    return mod;
  };
  c.changed = [=](const At& at, double score) {
    return score + per_key * (at.key - at.query) * (at.head + 1);
  };
  return c;
}

Case halved() {
  Case c{.name = "halved"};
  c.mod = [](KernelBuilder&) {
    Mod mod;
    mod.changes = [](const ScoreElement&, F32 score) { return score * 0.5f; };
    return mod;
  };
  c.changed = [](const At&, double score) { return score / 2; };
  return c;
}

Case every_third_hidden() {
  Case c{.name = "every third hidden"};
  c.mod = [](KernelBuilder&) {
    Mod mod;
    mod.hides = [](const ScoreElement& at) { return (at.query + at.key + at.head) % 3 == 0; };
    return mod;
  };
  c.sees = [](const At& at) { return (at.query + at.key + at.head) % 3 != 0; };
  return c;
}

Case sink(double of_head_0) {
  Case c{.name = "sink"};
  c.mod = [=](KernelBuilder& k) {
    Mod mod;
    mod.sink = [=, &k](const ScoreRow& row) {
      return k.select(row.head == 0, k.f32(static_cast<float>(of_head_0 * kLog2E)),
                      k.f32(-std::numeric_limits<float>::infinity()));
    };
    return mod;
  };
  c.sink = [=](int, int head) { return head == 0 ? of_head_0 : -kInfinity; };
  return c;
}

// A checkerboard.
Case tiles_skipped(const attention::Schedule& schedule) {
  Case c{.name = "tiles skipped"};
  c.mod = [=](KernelBuilder&) {
    Mod mod;
    mod.skipped = [=](const ScoreRow& first, I32 tile) {
      return (first.query / schedule.cta_q + tile + first.head) % 2 == 1;
    };
    return mod;
  };
  c.sees = [=](const At& at) {
    return (at.query / schedule.cta_q + at.key / schedule.cta_k + at.head) % 2 == 0;
  };
  return c;
}

// ---- running and judging --------------------------------------------------------------------------

reference::Inputs exact_inputs(int q_len, int kv_len, int head_dim) {
  reference::Inputs inputs{.q = {kBatch, kHeads, q_len, head_dim},
                           .k = {kBatch, 1, kv_len, head_dim},
                           .v = {kBatch, 1, kv_len, head_dim},
                           .softmax_scale = 1.0 / (4096 * std::sqrt(head_dim))};
  std::mt19937 random(11);
  const auto fill = [&](reference::Tensor& tensor, const auto& value) {
    for (std::size_t i = 0; i < tensor.data.size(); ++i) {
      const bool first_of_row = i % static_cast<std::size_t>(head_dim) == 0;
      tensor.data[i] = static_cast<float>(value(first_of_row));
    }
  };
  const auto code = [&](bool largest) {
    const int sign = random() % 2 == 0 ? 1 : -1;
    return sign * (largest ? 127 : static_cast<int>(random() % 128));
  };
  fill(inputs.q, code);
  fill(inputs.k, code);
  fill(inputs.v, [&](bool) { return static_cast<int>(random() % 512) / 256.0 - 1; });
  return inputs;
}

reference::Output twin(const reference::Inputs& in, const std::vector<Case>& cases) {
  reference::Output out;
  reference::Tensor q = in.q, k = in.k, v = in.v;
  for (int row = 0; row < kBatch * kHeads * q.tokens; ++row) {
    const int query = row % static_cast<int>(q.tokens), bh = row / static_cast<int>(q.tokens);
    const int batch = bh / kHeads, head = bh % kHeads;
    std::vector<std::pair<int, double>> seen;  // key, score
    std::vector<double> sinks;
    for (const Case& c : cases) sinks.push_back(c.sink ? c.sink(batch, head) : -kInfinity);
    double largest = sinks.empty() ? -kInfinity : *std::max_element(sinks.begin(), sinks.end());
    for (int key = 0; key < k.tokens; ++key) {
      const At at{batch, head, query, key};
      double score = 0;
      for (int d = 0; d < q.channels; ++d) {
        score += double{q.row(batch, head, query)[d]} * k.row(batch, 0, key)[d];
      }
      score *= in.softmax_scale;
      bool sees = true;
      for (const Case& c : cases) {
        if (c.changed) score = c.changed(at, score);
        if (c.sees) sees = sees && c.sees(at);
      }
      if (!sees || score == -kInfinity) continue;
      seen.emplace_back(key, score);
      largest = std::max(largest, score);
    }
    std::vector<double> o(static_cast<std::size_t>(q.channels));
    double sum = 0;
    for (const double sink : sinks) {
      if (std::isfinite(largest)) sum += std::exp(sink - largest);
    }
    for (const auto& [key, score] : seen) {
      const double p = std::exp(score - largest);
      sum += p;
      for (std::size_t d = 0; d < o.size(); ++d) o[d] += p * v.row(batch, 0, key)[d];
    }
    for (const double x : o) out.o.push_back(sum > 0 ? x / sum : 0);
    out.lse.push_back(sum > 0 ? largest + std::log(sum) : -kInfinity);
  }
  return out;
}

Artifact artifact_with(const sagegen::Kernel& kernel, const std::vector<Case>& cases) {
  const ParamLayout params = kernel.params();
  KernelBuilder k(kernel.key(), kernel.target(), kernel.resources().threads, params);
  std::vector<Mod> mods{attention::key_length(k)};
  for (const Case& c : cases) mods.push_back(c.mod(k));
  attention::build(k, kernel.view(attention::family()), mods);
  return artifact_of_ptx(kernel, params_line(params.digest()) + dsl::emit(k).ptx);
}

struct Shape {
  int q_len, kv_len, head_dim;
  attention::Schedule schedule;
};

using ChangeInputs = std::function<void(reference::Inputs&)>;
struct Judging {
  ChangeInputs change = {};
  Smoothing smoothing = Smoothing::none;
  // Half a unit of P and of O in the last place, 2^-11, on average less; and of the LSE.
  double relative_l1 = 5e-4, lse = 1e-3;
};

void judge(const Shape& shape, const std::vector<Case>& cases, const Judging& judging = {}) {
  const cli::RunDevice on = cli::open_run_device("emulator:sm_80", "", {});
  cli::AttentionJob job;
  job.inputs = exact_inputs(shape.q_len, shape.kv_len, shape.head_dim);
  if (judging.change) judging.change(job.inputs);
  job.spec = attention::usual_spec(on.target);
  job.spec.head_dim = shape.head_dim;
  job.spec.smoothing = judging.smoothing;
  job.schedule = shape.schedule;
  job.causal = attention::CausalAlignment::bottom_right;
  bool own = false;
  for (const Case& c : cases) {
    if (c.asks != nullptr) job.spec.*c.asks = true;
    own = own || c.mod;
  }
  job.mods = [&](const Device& device, std::vector<Buffer>& keep) {
    attention::ModArguments mods;
    for (const Case& c : cases) {
      if (c.gives) c.gives({device, keep, mods});
    }
    return mods;
  };
  job.source = [&](const sagegen::Kernel& kernel) {
    return own && &kernel.family() == &attention::family() ? artifact_with(kernel, cases)
                                                           : emit(kernel);
  };
  const cli::AttentionResult got = cli::run_attention(job, on);
  const reference::Output expected = twin(job.inputs, cases);
  std::string names;
  for (const Case& c : cases) names += c.name + ", ";
  INFO(names << shape.q_len << " x " << shape.kv_len << ", cta_k " << shape.schedule.cta_k
             << ", stages " << shape.schedule.stages);
  for (const Finding& finding : got.findings) FAIL_CHECK(finding.message);
  REQUIRE(got.o.size() == expected.o.size());
  CHECK(reference::compare(expected.o, got.o).relative_l1 < judging.relative_l1);
  int dark_rows = 0;
  double lse_error = 0;
  const std::size_t channels = static_cast<std::size_t>(shape.head_dim);
  for (std::size_t row = 0; row < expected.lse.size(); ++row) {
    if (std::isfinite(expected.lse[row])) {
      lse_error = std::max(lse_error, std::fabs(expected.lse[row] - got.lse[row]));
      continue;
    }
    ++dark_rows;
    CHECK(got.lse[row] == -kInfinity);
    for (std::size_t d = 0; d < channels; ++d) CHECK(got.o[row * channels + d] == 0);
  }
  CHECK(lse_error < judging.lse);
  CHECK(dark_rows < static_cast<int>(expected.lse.size()));
}

void scale_rows(reference::Tensor& tensor, int first, int end, float by) {
  for (int batch = 0; batch < kBatch; ++batch) {
    for (int head = 0; head < tensor.heads; ++head) {
      for (int token = first; token < end; ++token) {
        float* row = tensor.row(batch, head, token);
        for (int d = 0; d < tensor.channels; ++d) row[d] *= by;
      }
    }
  }
}

const std::vector<Shape>& shapes() {
  static const std::vector<Shape> all{
      {150, 333, 64, {.cta_q = 128, .cta_k = 64, .warps = 4, .stages = 2}},
      {150, 333, 128, {.cta_q = 64, .cta_k = 64, .warps = 4, .stages = 1}},
      {70, 250, 64, {.cta_q = 64, .cta_k = 32, .warps = 2, .stages = 3}},
  };
  return all;
}

TEST_CASE("the inputs of this file are judged as they are: no mod, and the causal mask") {
  for (const Shape& shape : shapes()) {
    judge(shape, {});
    judge(shape, {up_to(shape.kv_len - shape.q_len)});
  }
}

TEST_CASE("a window bounds the keys of a query from both sides") {
  for (const Shape& shape : shapes()) {
    judge(shape, {between(shape.kv_len - shape.q_len, 70, 5)});
    judge(shape, {between(0, 0, 0)});
    judge(shape, {between(shape.kv_len - shape.q_len, 40, 1000), up_to(150)});
  }
}

TEST_CASE("queries that see no key give 0 and an LSE of -inf, wherever the keys lie") {
  const attention::Schedule schedule = shapes()[0].schedule;
  judge({.q_len = 290, .kv_len = 70, .head_dim = 64, .schedule = schedule}, {between(0, 10, 10)});
  judge({.q_len = 290, .kv_len = 70, .head_dim = 64, .schedule = schedule},
        {between(-200, 10, 10)});
  judge({.q_len = 290, .kv_len = 70, .head_dim = 64, .schedule = schedule}, {up_to(-200)});
}

TEST_CASE("a mod changes scores before the maximum is taken") {
  for (const Shape& shape : shapes()) {
    judge(shape, {slope(0.03)});
    judge(shape, {slope(-0.5)});
  }
}

TEST_CASE("changes apply in the order of the list") {
  judge(shapes()[0], {slope(0.1), halved()});
  judge(shapes()[0], {halved(), slope(0.1)});
}

TEST_CASE("a mod hides single elements") {
  for (const Shape& shape : shapes()) judge(shape, {every_third_hidden()});
}

TEST_CASE("a sink takes part in maximum and sum") {
  for (const Shape& shape : shapes()) {
    judge(shape, {sink(-1)});
    judge(shape, {sink(9)});
  }
}

TEST_CASE("tiles that a mod skips are neither copied nor computed") {
  // Keys of other sizes: each group of them has scales of its own.
  const ChangeInputs louder = [](reference::Inputs& inputs) { scale_rows(inputs.k, 128, 192, 4); };
  for (const Shape& shape : shapes()) {
    judge(shape, {tiles_skipped(shape.schedule)});
    judge(shape, {tiles_skipped(shape.schedule)}, {.change = louder});
  }
}

// The inner loop of a kernel takes no scores of more than 2^-7 octaves a unit. Warps leave it one by one, and meet
// at barriers of the other loop.
TEST_CASE("a warp with large scores leaves the inner loop alone") {
  const ChangeInputs one_warp_at_one_tile = [&](reference::Inputs& inputs) {
    scale_rows(inputs.q, 32, 64, 32);
    scale_rows(inputs.k, 128, 192, 16);
  };
  const ChangeInputs all_from_the_start = [&](reference::Inputs& inputs) {
    scale_rows(inputs.q, 0, static_cast<int>(inputs.q.tokens), 512);
  };
  for (const Shape& shape : shapes()) {
    judge(shape, {}, {.change = one_warp_at_one_tile});
    judge(shape, {up_to(shape.kv_len - shape.q_len)}, {.change = one_warp_at_one_tile});
    judge(shape, {}, {.change = all_from_the_start});
  }
}

TEST_CASE("mods compose") {
  for (const Shape& shape : shapes()) {
    judge(shape, {between(shape.kv_len - shape.q_len, 100, 20), slope(0.02), every_third_hidden(),
                  sink(1), tiles_skipped(shape.schedule), halved()});
  }
}

// ---- the mods of mods.def -------------------------------------------------------------------------

Case causal(const Shape& shape) {
  Case c{.name = "causal", .asks = &attention::Spec::causal};
  c.sees = [=](const At& at) { return at.key <= at.query + shape.kv_len - shape.q_len; };
  return c;
}

Case window(const Shape& shape, int left, int right) {
  Case c{.name = "window", .asks = &attention::Spec::window};
  c.gives = [=](const Given& to) { to.mods.window = {.left = left, .right = right}; };
  c.sees = [=](const At& at) {
    const int own = at.query + shape.kv_len - shape.q_len;
    return (left < 0 || at.key >= own - left) && (right < 0 || at.key <= own + right);
  };
  return c;
}

Case softcap(double cap) {
  Case c{.name = "softcap", .asks = &attention::Spec::softcap};
  c.gives = [=](const Given& to) { to.mods.softcap = {.cap = static_cast<float>(cap)}; };
  c.changed = [=](const At&, double score) { return cap * std::tanh(score / cap); };
  return c;
}

Case sinks(float of_head_0 = 1.5f) {
  Case c{.name = "sinks", .asks = &attention::Spec::sinks};
  const std::vector<float> logits{of_head_0, -std::numeric_limits<float>::infinity()};
  c.gives = [=](const Given& to) { to.mods.sinks = {.logits = to.put(logits)}; };
  c.sink = [=](int, int head) { return logits[static_cast<std::size_t>(head)]; };
  return c;
}

// Values by batch, head, query, key; an axis that is not there has one value for all.
template <typename T>
struct Scattered {
  Scattered(const Shape& shape, const std::string& axes,
            const std::function<T(std::mt19937&)>& value) {
    std::int64_t size = 1;
    const auto stride = [&](char axis, std::int64_t extent) {
      if (axes.find(axis) == std::string::npos) return std::int64_t{0};
      return std::exchange(size, size * extent);
    };
    at.stride_key = stride('k', shape.kv_len);
    at.stride_query = stride('q', shape.q_len);
    at.stride_head = stride('h', kHeads);
    at.stride_batch = stride('b', kBatch);
    std::mt19937 random(5);
    for (std::int64_t i = 0; i < size; ++i) values.push_back(value(random));
  }
  T operator()(const At& where) const {
    return values[static_cast<std::size_t>(
        where.batch * at.stride_batch + where.head * at.stride_head +
        where.query * at.stride_query + where.key * at.stride_key)];
  }
  attention::ScoreTensor put(const Given& to) const {
    attention::ScoreTensor placed = at;
    placed.data = to.put(values);
    return placed;
  }
  attention::ScoreTensor at;
  std::vector<T> values;
};

Case bias(const Shape& shape, const std::string& axes) {
  Case c{.name = "bias " + axes, .asks = &attention::Spec::bias};
  const Scattered<std::uint16_t> values(shape, axes, [](std::mt19937& random) {
    const bool hidden = random() % 9 == 0;
    const double value = static_cast<int>(random() % 256) / 64.0 - 2;
    return reference::f16_bits(hidden ? -kInfinity : value);
  });
  c.gives = [=](const Given& to) { to.mods.bias = values.put(to); };
  c.changed = [=](const At& at, double score) { return score + reference::f16_value(values(at)); };
  return c;
}

Case alibi(const Shape& shape) {
  Case c{.name = "alibi", .asks = &attention::Spec::alibi};
  const std::vector<float> slopes{0.25f, 0.03125f};
  c.gives = [=](const Given& to) { to.mods.alibi = {.slopes = to.put(slopes)}; };
  c.changed = [=](const At& at, double score) {
    const int distance = at.query + shape.kv_len - shape.q_len - at.key;
    return score - slopes[static_cast<std::size_t>(at.head)] * std::abs(distance);
  };
  return c;
}

Case mask(const Shape& shape, const std::string& axes) {
  Case c{.name = "mask " + axes, .asks = &attention::Spec::mask};
  const Scattered<std::uint8_t> values(shape, axes, [](std::mt19937& random) {
    return static_cast<std::uint8_t>(random() % 3 == 0 ? 0 : 1 + random() % 255);
  });
  c.gives = [=](const Given& to) { to.mods.mask = values.put(to); };
  c.sees = [=](const At& at) { return values(at) != 0; };
  return c;
}

Case blocksparse(const Shape& shape) {
  Case c{.name = "blocksparse", .asks = &attention::Spec::blocksparse};
  const attention::Schedule tiles = shape.schedule;
  const int rows = (shape.q_len + tiles.cta_q - 1) / tiles.cta_q;
  const int words = (shape.kv_len + 32 * tiles.cta_k - 1) / (32 * tiles.cta_k);
  std::vector<std::uint32_t> bits;
  std::mt19937 random(3);
  for (int i = 0; i < kBatch * kHeads * rows * words; ++i)
    bits.push_back(static_cast<std::uint32_t>(random()));
  bits[0] = 0;  // a row of tiles that sees nothing
  c.gives = [=](const Given& to) {
    to.mods.blocksparse = {
        .bits = to.put(bits), .tile_queries = tiles.cta_q, .tile_keys = tiles.cta_k};
  };
  c.sees = [=](const At& at) {
    const int row = (at.batch * kHeads + at.head) * rows + at.query / tiles.cta_q;
    const int tile = at.key / tiles.cta_k;
    return (bits[static_cast<std::size_t>(row * words + tile / 32)] >> tile % 32 & 1) != 0;
  };
  return c;
}

TEST_CASE("each mod of mods.def does what its twin does") {
  for (const Shape& shape : shapes()) {
    judge(shape, {causal(shape)});
    judge(shape, {window(shape, 70, 5)});
    judge(shape, {window(shape, -1, 0)});
    judge(shape, {window(shape, 33, -1)});
    judge(shape, {softcap(2)});
    judge(shape, {softcap(0.25)});
    judge(shape, {sinks()});
    judge(shape, {alibi(shape)});
    for (const char* axes : {"", "k", "bh", "qk", "bhqk"}) judge(shape, {bias(shape, axes)});
    for (const char* axes : {"k", "bk", "hq", "bhqk"}) judge(shape, {mask(shape, axes)});
    judge(shape, {blocksparse(shape)});
  }
}

TEST_CASE("the mods of mods.def compose") {
  for (const Shape& shape : shapes()) {
    judge(shape, {causal(shape), window(shape, 90, -1), sinks()});
    judge(shape, {causal(shape), softcap(1), bias(shape, "hqk"), alibi(shape)});
    judge(shape, {causal(shape), window(shape, 120, 0), softcap(1), bias(shape, "bhqk"),
                  mask(shape, "bqk"), sinks(), blocksparse(shape)});
  }
}

// Smoothing takes q . mean(K) from all scores of a row, here a large number: soft cap and sinks must not notice.
TEST_CASE("K smoothing changes nothing for a mod") {
  const ChangeInputs shifted = [](reference::Inputs& inputs) {
    inputs.softmax_scale *= 4;
    for (std::size_t i = 0; i < inputs.k.data.size(); i += 4) inputs.k.data[i] += 40;
    for (std::size_t i = 0; i < inputs.q.data.size(); i += 4)
      inputs.q.data[i] = std::fabs(inputs.q.data[i]);
  };
  // The codes are no longer exact. Where a mod misses what smoothing took, O is wrong by 0.2 and more.
  const Judging judging{
      .change = shifted, .smoothing = Smoothing::k, .relative_l1 = 0.03, .lse = 0.1};
  for (const Shape& shape : shapes()) {
    judge(shape, {}, judging);
    judge(shape, {softcap(2)}, judging);
    judge(shape, {sinks(20)}, judging);
    judge(shape, {causal(shape), softcap(1), bias(shape, "qk"), sinks()}, judging);
  }
}

}  // namespace
}  // namespace sagegen::runtime
