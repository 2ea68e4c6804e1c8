// Partial results merged by their log-sum-exp (templates/merge_partials/plan.h): against the same in double precision, at
// the ends of what f32 has, in place, and as what splits of keys are for.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "sagegen/runtime/error.h"
#include "templates/merge_partials/params.h"
#include "templates/merge_partials/plan.h"
#include "tests/emulator/ptx_edit.h"
#include "tests/numerics/scene.h"
#include "tools/reference/merge.h"
#include "tools/reference/rounding.h"
#include "tools/sagegen/run_judge.h"
#include "tools/sagegen/run_split.h"

using namespace sagegen;
namespace rt = sagegen::runtime;
namespace ref = sagegen::reference;
namespace merge = sagegen::merge_partials;
using Catch::Matchers::Contains;
using merge::Stored;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kLargest = std::numeric_limits<float>::max();

ref::IoType type_of(DType type) {
  return type == DType::f32 ? ref::IoType::f32 : test::io_type(type);
}

double rounded(DType type, double value) {
  if (type == DType::f16) return ref::f16_value(ref::f16_bits(value));
  if (type == DType::bf16) return ref::bf16_value(ref::bf16_bits(value));
  return static_cast<float>(value);
}

// Elements of a tensor as bytes, and back.
std::vector<std::byte> bytes_of(DType type, const std::vector<double>& values) {
  std::vector<std::byte> bytes(values.size() * static_cast<std::size_t>(bits(type) / 8));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto narrow = static_cast<float>(values[i]);
    const std::uint16_t half =
        type == DType::f16 ? ref::f16_bits(values[i]) : ref::bf16_bits(values[i]);
    if (type == DType::f32)
      std::memcpy(bytes.data() + 4 * i, &narrow, 4);
    else
      std::memcpy(bytes.data() + 2 * i, &half, 2);
  }
  return bytes;
}
std::vector<double> values_of(DType type, const rt::Buffer& buffer) {
  std::vector<std::byte> bytes(buffer.bytes());
  buffer.download(bytes);
  std::vector<double> values(bytes.size() / static_cast<std::size_t>(bits(type) / 8));
  for (std::size_t i = 0; i < values.size(); ++i) {
    float wide = 0;
    std::uint16_t half = 0;
    if (type == DType::f32)
      std::memcpy(&wide, bytes.data() + 4 * i, 4);
    else
      std::memcpy(&half, bytes.data() + 2 * i, 2);
    values[i] = type == DType::f32   ? wide
                : type == DType::f16 ? ref::f16_value(half)
                                     : ref::bf16_value(half);
  }
  return values;
}

bool same_bits(const std::vector<double>& a, const std::vector<double>& b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), [](double x, double y) {
           return x == y && std::signbit(x) == std::signbit(y);
         });
}

struct Case {
  merge::Spec spec = {};
  merge::Shape shape = {};
  bool nhd = false;
  std::int64_t gap = 0;  // elements between rows of parts
  int sm = 80;
  rt::EmulatorOptions emulator = {};
  std::function<void(emulator::test::PtxEdit&)> edit = {};

  DType in() const { return merge::stored_type(spec, spec.parts); }
  DType out() const { return merge::stored_type(spec, spec.out); }
  Kernel kernel() const { return Kernel(merge::family(), spec, Target{.sm = sm}); }
  std::size_t rows() const {
    return static_cast<std::size_t>(shape.batch * shape.heads * shape.q_len);
  }
  std::string text() const {
    return fmt::format("{}, {} parts, [{}, {}, {}, {}]{}, gap {}", kernel().key(), shape.parts,
                       shape.batch, shape.heads, shape.q_len, shape.channels, nhd ? " nhd" : "",
                       gap);
  }
};

// Parts of values of the format, with LSE that are up to `apart` from each other; of some rows a part saw no key, and its O
// is NaN.
std::vector<ref::Output> random_parts(const Case& c, std::uint64_t seed, double apart,
                                      double unseen) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  std::uniform_real_distribution<double> uniform(-apart, apart), chance(0, 1);
  std::vector<ref::Output> parts(static_cast<std::size_t>(c.shape.parts));
  for (ref::Output& part : parts) {
    for (std::size_t row = 0; row < c.rows(); ++row) {
      const bool sees = chance(random) >= unseen;
      part.lse.push_back(sees ? static_cast<float>(uniform(random)) : -kInfinity);
      for (std::int64_t i = 0; i < c.shape.channels; ++i)
        part.o.push_back(sees ? rounded(c.in(), normal(random)) : std::nan(""));
    }
  }
  return parts;
}

class Merger {
 public:
  explicit Merger(const Case& c)
      : case_(c),
        on_(cli::open_run_device("emulator:sm_" + std::to_string(c.sm),
                                 "sm_" + std::to_string(c.sm), c.emulator)),
        plan_(on_.device, c.kernel(),
              [&c](const Kernel& kernel) {
                Artifact artifact = test::emitted(kernel);
                if (!c.edit) return artifact;
                emulator::test::PtxEdit text(artifact.code);
                c.edit(text);
                artifact.code = text.text();
                return artifact;
              }),
        o_(on_.device, elements(0) * static_cast<std::size_t>(bits(c.out()) / 8)),
        lse_(on_.device, c.rows() * 4) {
    o_.fill(0xFF);
    lse_.fill(0xFF);
  }

  // All of them in one call, or on top of what is there.
  void add(const std::vector<ref::Output>& parts, bool go_on = false, bool with_lse = true) {
    merge::Shape shape = case_.shape;
    shape.parts = static_cast<std::int64_t>(parts.size());
    std::vector<double> o, lse;
    for (const ref::Output& part : parts) {
      const std::vector<double> placed = place(part.o);
      o.insert(o.end(), placed.begin(), placed.end());
      lse.insert(lse.end(), part.lse.begin(), part.lse.end());
    }
    rt::Buffer of_parts(on_.device, o.size() * static_cast<std::size_t>(bits(case_.in()) / 8));
    of_parts.upload(bytes_of(case_.in(), o));
    rt::Buffer lse_of_parts(on_.device, lse.size() * 4);
    lse_of_parts.upload(bytes_of(DType::f32, lse));
    const rt::Stream stream(on_.device);
    plan_.run(shape,
              {.parts = view(of_parts, case_.gap),
               .part_stride = static_cast<std::int64_t>(elements(case_.gap)),
               .part_lse = lse_of_parts.data(),
               .o = view(o_, 0),
               .lse = with_lse ? lse_.data() : 0,
               .go_on = go_on},
              stream.handle());
    stream.synchronize();
  }
  ref::Output result() const {
    const std::vector<double> o = values_of(case_.out(), o_);
    std::vector<double> rows;
    for_rows(0, [&](std::size_t at) {
      const auto first = o.begin() + static_cast<std::ptrdiff_t>(at);
      rows.insert(rows.end(), first, first + case_.shape.channels);
    });
    return {.o = rows, .lse = values_of(DType::f32, lse_)};
  }

 private:
  std::size_t elements(std::int64_t gap) const {
    return case_.rows() * static_cast<std::size_t>(case_.shape.channels + gap);
  }
  rt::TensorView view(const rt::Buffer& buffer, std::int64_t gap) const {
    const int width = static_cast<int>(case_.shape.channels + gap);
    return case_.nhd ? rt::nhd(buffer.data(), case_.shape.heads, case_.shape.q_len, width)
                     : rt::hnd(buffer.data(), case_.shape.heads, case_.shape.q_len, width);
  }
  template <typename Visit>
  void for_rows(std::int64_t gap, const Visit& visit) const {
    const merge::Shape& s = case_.shape;
    for (std::int64_t b = 0; b < s.batch; ++b) {
      for (std::int64_t h = 0; h < s.heads; ++h) {
        for (std::int64_t n = 0; n < s.q_len; ++n) {
          const std::int64_t row =
              case_.nhd ? (b * s.q_len + n) * s.heads + h : (b * s.heads + h) * s.q_len + n;
          visit(static_cast<std::size_t>(row * (s.channels + gap)));
        }
      }
    }
  }
  std::vector<double> place(const std::vector<double>& o) const {
    std::vector<double> placed(elements(case_.gap), std::nan(""));
    std::size_t next = 0;
    const auto width = static_cast<std::size_t>(case_.shape.channels);
    for_rows(case_.gap, [&](std::size_t at) {
      for (std::size_t i = 0; i < width; ++i) placed[at + i] = o[next + i];
      next += width;
    });
    return placed;
  }

  const Case& case_;
  cli::RunDevice on_;
  merge::Plan plan_;
  rt::Buffer o_, lse_;
};

ref::Output merged(const Case& c, const std::vector<ref::Output>& parts) {
  Merger merger(c);
  merger.add(parts);
  return merger.result();
}

cli::MergeJudgement judged(const Case& c, const std::vector<ref::Output>& parts,
                           const ref::Output& got) {
  return cli::judge_merge(parts, got, c.shape.channels, type_of(c.out()));
}

std::vector<Case> cases() {
  std::vector<Case> all;
  constexpr std::array<std::int64_t, 6> kChannels = {64, 8, 128, 72, 256, 1024};
  std::uint64_t turn = 0;
  for (const DType io : {DType::f16, DType::bf16}) {
    for (const Stored parts : {Stored::io, Stored::f32}) {
      for (const Stored out : {Stored::io, Stored::f32}) {
        for (const std::int64_t count : {1, 2, 7}) {
          Case c{.spec = {.io = io, .parts = parts, .out = out}};
          c.shape = {.parts = count,
                     .batch = 1 + static_cast<std::int64_t>(turn % 2),
                     .heads = 1 + static_cast<std::int64_t>(turn % 3),
                     .q_len = 1 + static_cast<std::int64_t>(turn * 7 % 19),
                     .channels = kChannels[turn % kChannels.size()]};
          c.nhd = turn % 3 == 1;
          c.gap = turn % 4 == 0 ? 8 : 0;
          c.sm = std::array{80, 86, 89, 120}[turn % 4];
          c.emulator.seed = turn;
          all.push_back(c);
          ++turn;
        }
      }
    }
  }
  return all;
}

}  // namespace

TEST_CASE("merged parts are those of double precision", "[fast]") {
  double nearest_o = 0, nearest_lse = 0;
  std::uint64_t seed = Catch::rngSeed();
  for (const Case& c : cases()) {
    for (const double apart : {1.0, 40.0, 3e4}) {
      INFO(c.text() << ", LSE up to " << apart << ", seed " << seed);
      const std::vector<ref::Output> parts = random_parts(c, ++seed, apart, 0.2);
      const cli::MergeJudgement judgement = judged(c, parts, merged(c, parts));
      CHECK(judgement.o <= 1);
      CHECK(judgement.lse <= 1);
      nearest_o = std::max(nearest_o, judgement.o);
      nearest_lse = std::max(nearest_lse, judgement.lse);
    }
  }
  CHECK(nearest_o > 0.5);     // of O rounded to 16 bits
  CHECK(nearest_lse > 0.02);  // a bound that nothing comes near says nothing
}

TEST_CASE("one part is given back as it is, and none gives 0", "[fast]") {
  for (const DType io : {DType::f16, DType::bf16}) {
    Case c{.spec = {.io = io}, .shape = {.heads = 2, .q_len = 5, .channels = 64}};
    std::vector<ref::Output> parts = random_parts(c, 1, 1e4, 0);
    const ref::Output same = merged(c, parts);
    CHECK(same_bits(same.o, parts[0].o));
    CHECK(same_bits(same.lse, parts[0].lse));
    c.shape.parts = 3;
    const ref::Output nothing = merged(c, random_parts(c, 2, 1, 1.0));
    CHECK(same_bits(nothing.o, std::vector<double>(nothing.o.size(), 0.0)));
    CHECK(std::ranges::all_of(nothing.lse, [](double x) { return x == -kInfinity; }));
  }
}

// Rows of all that numbers can be: nothing is infinite, and nothing NaN.
TEST_CASE("finite results stay finite", "[fast]") {
  for (const Stored parts : {Stored::io, Stored::f32}) {
    const DType io = DType::bf16;
    Case c{.spec = {.io = io, .parts = parts, .out = Stored::f32},
           .shape = {.parts = 5, .heads = 1, .q_len = 40, .channels = 8}};
    const double largest = parts == Stored::f32 ? kLargest : 0x1.FEp127;
    const std::vector<double> lses{kLargest, -kLargest, 0, 88, -104, 1e-30, -kInfinity};
    const std::vector<double> values{largest, -largest, 0, 1, 0x1p-126};
    std::mt19937_64 random(7);
    std::vector<ref::Output> all(5);
    for (std::size_t row = 0; row < c.rows(); ++row) {
      const bool one_value = row % 2 == 0, one_lse = row % 3 == 0;
      const double value = values[random() % 2], lse = lses[random() % lses.size()];
      for (ref::Output& part : all) {
        part.lse.push_back(one_lse ? lse : lses[random() % lses.size()]);
        for (int i = 0; i < 8; ++i)
          part.o.push_back(one_value ? value : values[random() % values.size()]);
      }
    }
    const ref::Output got = merged(c, all);
    CHECK(std::ranges::all_of(got.o, [](double x) { return std::isfinite(x); }));
    CHECK(std::ranges::none_of(got.lse, [](double x) { return std::isnan(x) || x == kInfinity; }));
    CHECK(judged(c, all, got).o <= 1);
    CHECK(judged(c, all, got).lse <= 1);
  }
}

TEST_CASE("the order of the parts changes roundings alone, and the same order nothing", "[fast]") {
  Case c{.spec = {.out = Stored::f32},
         .shape = {.parts = 6, .batch = 2, .heads = 2, .q_len = 9, .channels = 64}};
  std::vector<ref::Output> parts = random_parts(c, 3, 5, 0.1);
  const ref::Output first = merged(c, parts);
  constexpr std::array kAsync = {rt::AsyncPolicy::late, rt::AsyncPolicy::eager,
                                 rt::AsyncPolicy::random};
  for (std::uint64_t seed = 1; seed < 4; ++seed) {
    c.emulator = {.async = kAsync[seed % 3], .seed = seed};
    const ref::Output again = merged(c, parts);
    CHECK(same_bits(first.o, again.o));
    CHECK(same_bits(first.lse, again.lse));
  }
  // A row by itself, in another batch, has the bits that it has among others.
  Case alone = c;
  alone.shape.batch = alone.shape.heads = alone.shape.q_len = 1;
  for (const std::size_t row : {std::size_t{0}, std::size_t{17}, std::size_t{35}}) {
    std::vector<ref::Output> one(parts.size());
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const auto at = parts[i].o.begin() + static_cast<std::ptrdiff_t>(row * 64);
      one[i] = {.o = {at, at + 64}, .lse = {parts[i].lse[row]}};
    }
    const ref::Output got = merged(alone, one);
    CHECK(std::equal(got.o.begin(), got.o.end(),
                     first.o.begin() + static_cast<std::ptrdiff_t>(row * 64)));
    CHECK(got.lse[0] == first.lse[row]);
  }
  std::mt19937 random(5);
  bool differ = false;
  for (int i = 0; i < 5; ++i) {
    std::shuffle(parts.begin(), parts.end(), random);
    const ref::Output got = merged(c, parts);
    CHECK(judged(c, parts, got).passed());
    differ |= !same_bits(got.o, first.o);
  }
  CHECK(differ);
}

// Ring attention: a part comes after the other, and what is there is merged with it in place.
TEST_CASE("parts are merged in place as they come", "[fast]") {
  std::uint64_t turn = 0;
  for (const std::int64_t channels : {64, 72, 256}) {
    for (const DType io : {DType::f16, DType::bf16}) {
      Case c{.spec = {.io = io, .out = Stored::f32},
             .shape = {.parts = 6, .batch = 2, .heads = 3, .q_len = 21, .channels = channels}};
      c.nhd = ++turn % 2 == 0;
      c.emulator = {.async = rt::AsyncPolicy::random, .seed = turn};
      INFO(c.text());
      const std::vector<ref::Output> parts = random_parts(c, turn, 8, 0.3);
      Merger ring(c);
      for (std::size_t i = 0; i < parts.size(); ++i) ring.add({parts[i]}, i != 0);
      const ref::Output got = ring.result();
      const ref::Output at_once = merged(c, parts);
      // Each step rounds to f32: as much again as the allowance of a call for each of them.
      const ref::Output expected = ref::merged(parts, channels),
                        allowed = ref::merge_allowance(parts, channels);
      for (std::size_t i = 0; i < got.o.size(); ++i)
        REQUIRE(std::abs(got.o[i] - expected.o[i]) <= 6 * allowed.o[i]);
      for (std::size_t i = 0; i < got.lse.size(); ++i) {
        if (got.lse[i] == expected.lse[i]) continue;
        REQUIRE(std::abs(got.lse[i] - expected.lse[i]) <= 6 * allowed.lse[i]);
      }
      CHECK(judged(c, parts, at_once).passed());
      // In two calls of several parts.
      Merger halves(c);
      halves.add({parts[0], parts[1], parts[2]});
      halves.add({parts[3], parts[4], parts[5]}, true);
      const ref::Output two = halves.result();
      for (std::size_t i = 0; i < got.o.size(); ++i)
        REQUIRE(std::abs(two.o[i] - expected.o[i]) <= 2 * allowed.o[i]);
    }
  }
}

TEST_CASE("an LSE that is not wanted changes nothing else", "[fast]") {
  const Case c{.shape = {.parts = 3, .heads = 2, .q_len = 7, .channels = 64}};
  const std::vector<ref::Output> parts = random_parts(c, 9, 3, 0.2);
  Merger merger(c);
  merger.add(parts, false, false);
  CHECK(same_bits(merger.result().o, merged(c, parts).o));
  CHECK(std::ranges::all_of(merger.result().lse, [](double x) { return std::isnan(x); }));
}

// ---- what splits are for ---------------------------------------------------------------------------

namespace {

// Lengths from 1 key on, of `keys` in all.
std::vector<std::int64_t> random_lengths(std::int64_t keys, std::int64_t parts,
                                         std::mt19937_64& random) {
  std::vector<std::int64_t> cuts{0, keys};
  while (static_cast<std::int64_t>(cuts.size()) <= parts) {
    const auto cut = static_cast<std::int64_t>(1 + random() % static_cast<std::uint64_t>(keys - 1));
    if (std::ranges::find(cuts, cut) == cuts.end()) cuts.push_back(cut);
  }
  std::ranges::sort(cuts);
  std::vector<std::int64_t> lengths;
  for (std::size_t i = 1; i < cuts.size(); ++i) lengths.push_back(cuts[i] - cuts[i - 1]);
  return lengths;
}

}  // namespace

TEST_CASE("attention over random parts of the keys, merged, is attention", "[fast]") {
  std::mt19937_64 random(Catch::rngSeed() + 1);
  const std::vector<std::string> options{
      "head_dim=64 qk=f16 pv=f16", "head_dim=64", "head_dim=32 qk=s4 pv=f16 accumulation=f32",
      "head_dim=64 io=bf16 pv=f16 accumulation=f32 smoothing=qk"};
  for (std::size_t i = 0; i < options.size(); ++i) {
    const Kernel kernel = kernel_of_options(attention::family(), options[i], Target{.sm = 89});
    const ref::Shape shape{.batch = 1, .q_heads = 2, .kv_heads = 1, .q_len = 33, .kv_len = 300};
    const test::Scene scene{.kernel = kernel,
                            .inputs = test::inputs_for(kernel, "k_bias", shape, random())};
    const cli::AttentionJob job = test::job_of(scene);
    const cli::RunDevice on = test::device_of(scene);
    const std::vector<std::int64_t> lengths =
        random_lengths(300, 2 + static_cast<std::int64_t>(i), random);
    INFO(kernel.key() << ", " << lengths.size() << " parts, the first of " << lengths[0]);
    const cli::SplitRun run = cli::run_split(job, on, lengths);
    REQUIRE(run.all.findings.empty());
    std::vector<ref::Output> parts;
    for (std::size_t part = 0; part < lengths.size(); ++part) {
      parts.push_back({run.parts[part].o, run.parts[part].lse});
      CHECK(cli::judge(run.jobs[part], run.parts[part], on, {.rows = 0}).passed);
    }
    const ref::Output got{run.all.o, run.all.lse};
    CHECK(cli::judge_merge(parts, got, job.inputs.v.channels, test::io_type(job.spec.io)).passed());
    const cli::Judgement all = cli::judge(job, run.all, on, {.rows = 0});
    const double rounding =
        cli::l1_of_rounded_parts(parts, job.inputs.v.channels, test::io_type(job.spec.io));
    CHECK(all.kernel.o.relative_l1 <= all.limit + rounding);
  }
}

// ---- kernels that are broken in one way ------------------------------------------------------------

TEST_CASE("a merge that is broken is seen", "[fast]") {
  using emulator::test::PtxEdit;
  struct Mutation {
    const char* name;
    std::function<void(PtxEdit&)> edit;
  };
  const auto replace = [](const char* pattern, const char* by, int which = PtxEdit::kFirst) {
    return [=](PtxEdit& text) { text.replace(pattern, by, which); };
  };
  const std::vector<Mutation> mutations{
      {"weights of the least LSE",
       replace(R"(max\.f32\s+(%r\d+), (%r\d+), (%r\d+);)", "min.f32 $1, $2, $3;")},
      {"no largest LSE", replace(R"(max\.f32\s+(%r\d+), (%r\d+), (%r\d+);)", "mov.b32 $1, $2;")},
      {"exp instead of exp2", replace(R"(mul\.rn\.f32\s+(%r\d+), (%r\d+), 0f3FB8AA3B;)",
                                      "mov.b32 $1, $2;", PtxEdit::kAll)},
      {"a sum without its first part",
       replace(R"(add\.rn\.f32\s+(%r\d+), (%r\d+), (%r\d+);)", "mov.b32 $1, $3;")},
      {"weights that are not divided by their sum",
       replace(R"(rcp\.rn\.f32\s+(%r\d+), %r\d+;)", "mov.b32 $1, 0f3F800000;")},
      {"an LSE in octaves", replace(R"(fma\.rn\.f32\s+(%r\d+), (%r\d+), 0f3F317218, (%r\d+);)",
                                    "add.rn.f32 $1, $2, $3;")},
      {"NaN where nothing was seen",
       replace(R"(selp\.f32\s+(%r\d+), (%r\d+), 0f00000000, %p\d+;)", "mov.b32 $1, $2;")},
      {"parts that saw nothing are read",
       replace(R"(setp\.leu\.f32\s+(%p\d+), (%r\d+), 0f00000000;)",
               "setp.lt.f32 $1, $2, 0fFF800000;", PtxEdit::kLast)},
      {"O in place is forgotten", replace(R"(setp\.leu\.f32\s+(%p\d+), (%r\d+), 0f00000000;)",
                                          "setp.geu.f32 $1, $2, 0fFF800000;")},
      {"the LSE in place is forgotten",
       replace(R"(ld\.global\.b32\s+(%r\d+), \[(%rd\d+)\];)", "mov.b32 $1, 0fFF800000;")},
      {"an LSE is written before all have read it", [](PtxEdit& text) { text.drop("bar.sync"); }},
      {"one part for all",
       [](PtxEdit& text) { text.shift_parameter(offsetof(merge::Params, part_stride), -64); }},
      {"rows of the LSE of another head",
       [](PtxEdit& text) { text.shift_parameter(offsetof(merge::Params, q_len), -1); }},
  };
  const auto passes = [](const std::function<void(PtxEdit&)>& edit) {
    Case c{.spec = {.out = Stored::f32},
           .shape = {.parts = 3, .batch = 1, .heads = 2, .q_len = 13, .channels = 64}};
    c.edit = edit;
    std::vector<ref::Output> parts = random_parts(c, 4, 3, 0.3);
    for (double& lse : parts[0].lse) lse += lse > 0 ? 90 : -90;  // beyond what exp leaves in f32
    for (std::size_t row = 0; row < 2; ++row) {
      for (ref::Output& part : parts) part.lse[row] = -kInfinity;
    }
    Merger merger(c);
    try {
      merger.add({parts[0], parts[1]});
      merger.add({parts[2]}, true);
    } catch (const rt::DriverError&) {
      return false;  // of findings of the emulator
    }
    const ref::Output got = merger.result();
    const ref::Output expected = ref::merged(parts, 64), allowed = ref::merge_allowance(parts, 64);
    for (std::size_t i = 0; i < got.o.size(); ++i) {
      if (!(std::abs(got.o[i] - expected.o[i]) <= 2 * allowed.o[i])) return false;
    }
    for (std::size_t i = 0; i < got.lse.size(); ++i) {
      if (got.lse[i] != expected.lse[i] &&
          !(std::abs(got.lse[i] - expected.lse[i]) <= 2 * allowed.lse[i]))
        return false;
    }
    return true;
  };
  CHECK(passes([](PtxEdit&) {}));
  for (const Mutation& mutation : mutations) {
    INFO(mutation.name);
    CHECK_FALSE(passes(mutation.edit));
  }
}

// ---- what is refused -------------------------------------------------------------------------------

TEST_CASE("what a merge refuses", "[fast]") {
  const Case c{.shape = {.parts = 2, .heads = 2, .q_len = 4, .channels = 64}};
  const cli::RunDevice on = cli::open_run_device("emulator:sm_80", "sm_80", {});
  const merge::Plan plan(on.device, c.kernel(), test::emitted);
  rt::Buffer memory(on.device, 1 << 16);
  memory.fill(0);
  const merge::Arguments good{.parts = rt::hnd(memory.data(), 2, 4, 64),
                              .part_stride = 512,
                              .part_lse = memory.data() + 8192,
                              .o = rt::hnd(memory.data() + 16384, 2, 4, 64),
                              .lse = memory.data() + 32768};
  const auto refusal = [&](const std::function<void(merge::Shape&, merge::Arguments&)>& change) {
    merge::Shape shape = c.shape;
    merge::Arguments arguments = good;
    change(shape, arguments);
    try {
      plan.run(shape, arguments, nullptr);
    } catch (const rt::ArgumentError& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  CHECK(refusal([](auto&, auto&) {}) == "accepted");
  struct Refusal {
    std::function<void(merge::Shape&, merge::Arguments&)> change;
    const char* text;
  };
  const std::vector<Refusal> refusals{
      {[](auto& s, auto&) { s.parts = 0; }, "parts"},
      {[](auto& s, auto&) { s.channels = 60; }, "channels is 60; it must be a multiple of 8"},
      {[](auto& s, auto&) { s.channels = 2048; }, "all lanes of a row are in one block"},
      {[](auto& s, auto&) { s.batch = s.heads = 65535; }, "too many for its indices"},
      {[](auto&, auto& a) { a.parts.data = 0; }, "parts is a null pointer"},
      {[](auto&, auto& a) { a.part_lse = 0; }, "part_lse is a null pointer"},
      {[](auto&, auto& a) { a.o.data += 8; }, "o is at"},
      {[](auto&, auto& a) { a.o.stride_token = 60; }, "o.stride_token"},
      {[](auto&, auto& a) { a.part_stride = 12; }, "part_stride is 12 elements"},
      {[](auto&, auto& a) { a.part_stride = -8; }, "strides cannot be negative"},
      {[](auto&, auto& a) { a.part_stride = std::int64_t{1} << 61; }, "more than 2^60"},
      {[](auto&, auto& a) { a.part_lse_stride = -1; }, "strides cannot be negative"},
      {[](auto&, auto& a) { a.o.data = a.parts.data + 1024; }, "overlap"},
      {[](auto&, auto& a) { a.lse = a.part_lse + 32; }, "overlap"},
      {[](auto&, auto& a) { a.lse = 0, a.go_on = true; },
       "go_on is set, and lse is a null pointer"},
  };
  for (const Refusal& each : refusals) CHECK_THAT(refusal(each.change), Contains(each.text));
}
