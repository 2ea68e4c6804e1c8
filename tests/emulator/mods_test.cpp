// The mods of the attention template, hook by hook: kernels with small mods that only this file has, built
// through the template's internal interface and run through the whole plan, with all checks. They are
// judged against fp64 on inputs that the quantization leaves as they are (integers, the largest of each
// row 127), so that nothing but the rounding of P and O to f16 is left.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "sagegen/dsl/emit.h"
#include "sagegen/emit.h"
#include "templates/attention/attention.h"
#include "templates/attention/mods/causal.h"
#include "templates/attention/mods/key_length.h"
#include "templates/attention/params.h"
#include "tools/sagegen/run_attention.h"
#include "tools/sagegen/run_device.h"

namespace sagegen::runtime {
namespace {

using namespace dsl;
using attention::KeyRange;
using attention::Mod;
using attention::ScoreElement;
using attention::ScoreRow;

constexpr int kHeads = 2;
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kLog2E = 1.4426950408889634;

// A mod and what it means: scores are natural logarithms in the twin, and in base 2 in the kernel.
struct Case {
  std::string name;
  std::function<Mod(KernelBuilder&)> mod = {};
  std::function<bool(int head, int query, int key)> sees = {};
  std::function<double(int head, int query, int key, double score)> changed = {};
  std::function<double(int head)> sink = {};
};

Case causal(int offset) {
  Case c{.name = "causal"};
  c.mod = [=](KernelBuilder& k) { return attention::causal(k.i32(offset)); };
  c.sees = [=](int, int query, int key) { return key <= query + offset; };
  return c;
}

// Keys query + offset - left to query + offset + right.
Case window(int offset, int left, int right) {
  Case c{.name = "window"};
  c.mod = [=](KernelBuilder& k) {
    Mod mod;
    mod.keys_of = [=, &k](I32 query, I32 origin) {
      const I32 here = query - origin;
      return KeyRange{here + k.i32(offset - left), here + k.i32(offset + right + 1)};
    };
    return mod;
  };
  c.sees = [=](int, int query, int key) {
    return key >= query + offset - left && key <= query + offset + right;
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
  c.changed = [=](int head, int query, int key, double score) {
    return score + per_key * (key - query) * (head + 1);
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
  c.changed = [](int, int, int, double score) { return score / 2; };
  return c;
}

Case every_third_hidden() {
  Case c{.name = "every third hidden"};
  c.mod = [](KernelBuilder&) {
    Mod mod;
    mod.hides = [](const ScoreElement& at) { return (at.query + at.key + at.head) % 3 == 0; };
    return mod;
  };
  c.sees = [](int head, int query, int key) { return (query + key + head) % 3 != 0; };
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
  c.sink = [=](int head) { return head == 0 ? of_head_0 : -kInfinity; };
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
  c.sees = [=](int head, int query, int key) {
    return (query / schedule.cta_q + key / schedule.cta_k + head) % 2 == 0;
  };
  return c;
}

// ---- running and judging --------------------------------------------------------------------------

reference::Inputs exact_inputs(int q_len, int kv_len, int head_dim) {
  reference::Inputs inputs{.q = {1, kHeads, q_len, head_dim},
                           .k = {1, 1, kv_len, head_dim},
                           .v = {1, 1, kv_len, head_dim},
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
  for (int head = 0; head < kHeads; ++head) {
    for (int query = 0; query < q.tokens; ++query) {
      std::vector<std::pair<int, double>> seen;  // key, score
      double largest = -kInfinity;
      for (const Case& c : cases) largest = std::max(largest, c.sink ? c.sink(head) : -kInfinity);
      for (int key = 0; key < k.tokens; ++key) {
        double score = 0;
        for (int d = 0; d < q.channels; ++d) {
          score += double{q.row(0, head, query)[d]} * k.row(0, 0, key)[d];
        }
        score *= in.softmax_scale;
        bool sees = true;
        for (const Case& c : cases) {
          if (c.changed) score = c.changed(head, query, key, score);
          if (c.sees) sees = sees && c.sees(head, query, key);
        }
        if (!sees) continue;
        seen.emplace_back(key, score);
        largest = std::max(largest, score);
      }
      std::vector<double> o(static_cast<std::size_t>(q.channels));
      double sum = 0;
      for (const Case& c : cases) {
        if (c.sink && std::isfinite(largest)) sum += std::exp(c.sink(head) - largest);
      }
      for (const auto& [key, score] : seen) {
        const double p = std::exp(score - largest);
        sum += p;
        for (std::size_t d = 0; d < o.size(); ++d) o[d] += p * v.row(0, 0, key)[d];
      }
      for (const double x : o) out.o.push_back(sum > 0 ? x / sum : 0);
      out.lse.push_back(sum > 0 ? largest + std::log(sum) : -kInfinity);
    }
  }
  return out;
}

Artifact artifact_with(const sagegen::Kernel& kernel, const std::vector<Case>& cases) {
  const ParamLayout params = kernel.params();
  KernelBuilder k(kernel.key(), kernel.target(), kernel.resources().threads, params);
  std::vector<Mod> mods{attention::key_length(k.params<attention::Params>()(&attention::Params::kv_len))};
  for (const Case& c : cases) mods.push_back(c.mod(k));
  attention::build(k, kernel.view(attention::family()), mods);
  return artifact_of_ptx(kernel, params_line(params.digest()) + dsl::emit(k).ptx);
}

struct Shape {
  int q_len, kv_len, head_dim;
  attention::Schedule schedule;
};

using ChangeInputs = std::function<void(reference::Inputs&)>;

void judge(const Shape& shape, const std::vector<Case>& cases, const ChangeInputs& change = {}) {
  const cli::RunDevice on = cli::open_run_device("emulator:sm_80", "", {});
  cli::AttentionJob job;
  job.inputs = exact_inputs(shape.q_len, shape.kv_len, shape.head_dim);
  if (change) change(job.inputs);
  job.spec = attention::usual_spec(on.target);
  job.spec.head_dim = shape.head_dim;
  job.spec.smoothing = Smoothing::none;
  job.schedule = shape.schedule;
  job.source = [&](const sagegen::Kernel& kernel) {
    return &kernel.family() == &attention::family() ? artifact_with(kernel, cases) : emit(kernel);
  };
  const cli::AttentionResult got = cli::run_attention(job, on);
  const reference::Output expected = twin(job.inputs, cases);
  std::string names;
  for (const Case& c : cases) names += c.name + ", ";
  INFO(names << shape.q_len << " x " << shape.kv_len << ", cta_k " << shape.schedule.cta_k
             << ", stages " << shape.schedule.stages);
  for (const Finding& finding : got.findings) FAIL_CHECK(finding.message);
  REQUIRE(got.o.size() == expected.o.size());
  // Half a unit of P and of O in the last place, 2^-11, on average less.
  CHECK(reference::compare(expected.o, got.o).relative_l1 < 5e-4);
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
  CHECK(lse_error < 1e-3);
  CHECK(dark_rows < static_cast<int>(expected.lse.size()));
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
    judge(shape, {causal(shape.kv_len - shape.q_len)});
  }
}

TEST_CASE("a window bounds the keys of a query from both sides") {
  for (const Shape& shape : shapes()) {
    judge(shape, {window(shape.kv_len - shape.q_len, 70, 5)});
    judge(shape, {window(0, 0, 0)});
    judge(shape, {window(shape.kv_len - shape.q_len, 40, 1000), causal(150)});
  }
}

TEST_CASE("queries that see no key give 0 and an LSE of -inf, wherever the keys lie") {
  const attention::Schedule schedule = shapes()[0].schedule;
  judge({.q_len = 290, .kv_len = 70, .head_dim = 64, .schedule = schedule}, {window(0, 10, 10)});
  judge({.q_len = 290, .kv_len = 70, .head_dim = 64, .schedule = schedule}, {window(-200, 10, 10)});
  judge({.q_len = 290, .kv_len = 70, .head_dim = 64, .schedule = schedule}, {causal(-200)});
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
  for (const Shape& shape : shapes()) judge(shape, {tiles_skipped(shape.schedule)});
}

// The inner loop of a kernel takes no scores of more than 2^-7 octaves a unit. Warps leave it one by one, and meet
// at barriers of the other loop.
TEST_CASE("a warp with large scores leaves the inner loop alone") {
  const auto scale_rows = [](reference::Tensor& tensor, int first, int end, float by) {
    for (int head = 0; head < tensor.heads; ++head) {
      for (int token = first; token < end; ++token) {
        float* row = tensor.row(0, head, token);
        for (int d = 0; d < tensor.channels; ++d) row[d] *= by;
      }
    }
  };
  const ChangeInputs one_warp_at_one_tile = [&](reference::Inputs& inputs) {
    scale_rows(inputs.q, 32, 64, 32);
    scale_rows(inputs.k, 128, 192, 16);
  };
  const ChangeInputs all_from_the_start = [&](reference::Inputs& inputs) {
    scale_rows(inputs.q, 0, static_cast<int>(inputs.q.tokens), 512);
  };
  for (const Shape& shape : shapes()) {
    judge(shape, {}, one_warp_at_one_tile);
    judge(shape, {causal(shape.kv_len - shape.q_len)}, one_warp_at_one_tile);
    judge(shape, {}, all_from_the_start);
  }
}

TEST_CASE("mods compose") {
  for (const Shape& shape : shapes()) {
    judge(shape, {window(shape.kv_len - shape.q_len, 100, 20), slope(0.02), every_third_hidden(),
                  sink(1), tiles_skipped(shape.schedule), halved()});
  }
}

}  // namespace
}  // namespace sagegen::runtime
