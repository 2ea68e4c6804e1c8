// How exact kernels with masks and biases (templates/attention/mods) are: as in accuracy_test.cpp, every row of
// every run within the bounds that follow from its formats (tools/reference/allowance.h), against twins of the
// mods in double (tools/reference/mods.h). A scene names its mods with what they are given: "window 40,3".
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "sagegen/runtime/argument_check.h"
#include "tests/numerics/scene.h"
#include "tools/reference/rounding.h"
#include "tools/sagegen/run_judge.h"

using namespace sagegen;
namespace rt = sagegen::runtime;
namespace ref = sagegen::reference;
using attention::CausalAlignment;
using cli::Layout;
using test::inputs_for;
using test::Scene;
using test::schedule_of;
using test::spec_of;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// ---- mods --------------------------------------------------------------------------------------

using Words = std::vector<std::string>;  // of one mod: its name, then what it is given

Words words_of(const std::string& text) {
  Words words(1);
  for (const char c : text) {
    if (c == ' ' || c == ',') {
      words.emplace_back();
    } else {
      words.back() += c;
    }
  }
  return words;
}

bool attention::Spec::*flag_of(const std::string& name) {
#define SAGEGEN_MOD(mod) \
  if (name == #mod) return &attention::Spec::mod;
#include "templates/attention/mods/mods.def"
  throw std::invalid_argument(name);
}

// Puts an array on the device; it stays there while the kernel runs.
struct Device {
  const rt::Device& device;
  std::vector<rt::Buffer>& keep;
  template <typename T>
  rt::DevicePtr put(const std::vector<T>& values) const {
    keep.emplace_back(device, values.size() * sizeof(T));
    keep.back().upload(std::as_bytes(std::span(values)));
    return keep.back().data();
  }
};

// What a mod means, and what its kernel is given.
struct Twin {
  ref::ScoreMod mod;
  std::function<void(attention::ModArguments&, const Device&)> give;
};

// Elements of the axes that `axes` names, in the order in which they lie in memory, outermost first; one value
// for all of an axis that it does not name. Rows are padded, and the first element is not the array's first.
struct Places {
  Places(const std::string& axes, const ref::Inputs& in) {
    const std::map<char, std::pair<int, std::int64_t>> extents{{'b', {0, in.q.batch}},
                                                               {'h', {1, in.q.heads}},
                                                               {'q', {2, in.q.tokens}},
                                                               {'k', {3, in.k.tokens}}};
    std::int64_t step = 1;
    for (std::size_t i = axes.size(); i-- > 0;) {
      const auto& [axis, extent] = extents.at(axes[i]);
      strides[static_cast<std::size_t>(axis)] = step;
      last += (extent - 1) * step;
      step = step * extent + 1;
    }
  }
  ref::Strides strides{};
  std::int64_t last = 0;
  static constexpr std::int64_t kFirst = 3;

  // f(element) for elements, and `padding` elsewhere
  template <typename T, typename F>
  std::vector<T> filled(const F& f, T padding, const ref::Inputs& in) const {
    std::vector<T> values(static_cast<std::size_t>(kFirst + last + 1), padding);
    for (std::int64_t b = 0; b < in.q.batch; ++b) {
      for (std::int64_t h = 0; h < in.q.heads; ++h) {
        for (std::int64_t q = 0; q < in.q.tokens; ++q) {
          for (std::int64_t k = 0; k < in.k.tokens; ++k) {
            const std::int64_t at =
                b * strides[0] + h * strides[1] + q * strides[2] + k * strides[3];
            values[static_cast<std::size_t>(kFirst + at)] = f(at);
          }
        }
      }
    }
    return values;
  }
  template <typename T>
  static std::vector<T> from_first(const std::vector<T>& values) {
    return {values.begin() + kFirst, values.end()};
  }
  attention::ScoreTensor at(rt::DevicePtr array, std::int64_t element_bytes) const {
    return {.data = array + static_cast<rt::DevicePtr>(kFirst * element_bytes),
            .stride_batch = strides[0],
            .stride_head = strides[1],
            .stride_query = strides[2],
            .stride_key = strides[3]};
  }
};

// A number in [0, 1) for each element, whatever else is asked.
double chance(std::int64_t element, std::uint64_t seed) {
  std::mt19937_64 random(seed * 1000003 + static_cast<std::uint64_t>(element));
  random.discard(2);
  return static_cast<double>(random() >> 11) * 0x1p-53;
}

Twin window(const Words& words, const ref::Inputs& in) {
  const std::int64_t left = std::stoll(words.at(1)), right = std::stoll(words.at(2));
  return {ref::window(left, right, in.causal_offset),
          [=](attention::ModArguments& to, const Device&) {
            to.window = {.left = left, .right = right};
          }};
}

Twin softcap(const Words& words) {
  const float cap = std::stof(words.at(1));
  return {ref::soft_cap(cap),
          [=](attention::ModArguments& to, const Device&) { to.softcap = {.cap = cap}; }};
}

// "bias hqk": within (-2, 2). "hidden": every fifth key, and all keys of every seventh query if queries have
// values of their own, have -infinity. "lowest": they have the lowest finite value.
Twin bias(const Words& words, const ref::Inputs& in, DType io) {
  const Places places(words.at(1) == "all" ? "" : words.at(1), in);
  const std::string special = words.size() > 2 ? words[2] : "";
  const double hidden = special == "hidden" ? -kInfinity : io == DType::f16 ? -65504 : -0x1.FEp127;
  const auto bits = [&](std::int64_t element) {
    double value = 4 * chance(element, 1) - 2;
    if (!special.empty()) {
      const std::int64_t row = places.strides[2];
      if (chance(element, 2) < 0.2 || (row > 1 && element / row % 7 == 3)) value = hidden;
    }
    return io == DType::f16 ? ref::f16_bits(value) : ref::bf16_bits(value);
  };
  constexpr std::uint16_t kNan = 0x7FFF;  // of both types; not to be read
  const std::vector<std::uint16_t> array = places.filled<std::uint16_t>(bits, kNan, in);
  std::vector<float> values;
  for (const std::uint16_t each : Places::from_first(array)) {
    const double value = io == DType::f16 ? ref::f16_value(each) : ref::bf16_value(each);
    values.push_back(each == kNan ? 0 : static_cast<float>(value));
  }
  return {ref::bias(values, places.strides),
          [=](attention::ModArguments& to, const Device& device) {
            to.bias = places.at(device.put(array), 2);
          }};
}

// "alibi 0.5": 0.5, 0.25 and so on, and of the last of several heads the negative.
Twin alibi(const Words& words, const ref::Inputs& in) {
  std::vector<float> slopes;
  for (std::int64_t head = 0; head < in.q.heads; ++head)
    slopes.push_back(std::ldexp(std::stof(words.at(1)), -static_cast<int>(head)));
  if (slopes.size() > 1) slopes.back() = -slopes.back();
  return {ref::alibi(slopes, in.causal_offset),
          [=](attention::ModArguments& to, const Device& device) {
            to.alibi = {.slopes = device.put(slopes)};
          }};
}

// "mask bqk": 0 for three keys of ten, and for all keys of every seventh query as above.
Twin mask(const Words& words, const ref::Inputs& in) {
  const Places places(words.at(1) == "all" ? "" : words.at(1), in);
  const auto byte = [&](std::int64_t element) {
    const std::int64_t row = places.strides[2];
    const bool hidden = chance(element, 3) < 0.3 || (row > 1 && element / row % 7 == 5);
    return hidden ? std::uint8_t{0} : static_cast<std::uint8_t>(1 + 254 * chance(element, 4));
  };
  const std::vector<std::uint8_t> array = places.filled<std::uint8_t>(byte, 255, in);
  return {ref::mask(Places::from_first(array), places.strides),
          [=](attention::ModArguments& to, const Device& device) {
            to.mask = places.at(device.put(array), 1);
          }};
}

// "sinks 1": 1, 1.75, 2.5 and so on, and none for the last of several heads.
Twin sinks(const Words& words, const ref::Inputs& in) {
  std::vector<float> logits;
  for (std::int64_t head = 0; head < in.q.heads; ++head)
    logits.push_back(std::stof(words.at(1)) + 0.75f * static_cast<float>(head));
  if (logits.size() > 1) logits.back() = -std::numeric_limits<float>::infinity();
  return {ref::sinks(logits), [=](attention::ModArguments& to, const Device& device) {
            to.sinks = {.logits = device.put(logits)};
          }};
}

// "blocksparse 0.5": of the tiles that share. Bits behind the last tile are as they come.
Twin blocksparse(const Words& words, const ref::Inputs& in, const attention::Schedule& tiles) {
  const double share = std::stod(words.at(1));
  const std::int64_t rows = rt::ceil_div(in.q.tokens, tiles.cta_q);
  const std::int64_t row_words = rt::ceil_div(rt::ceil_div(in.k.tokens, tiles.cta_k), 32);
  std::vector<std::uint32_t> bits;
  for (std::int64_t i = 0; i < in.q.batch * in.q.heads * rows * row_words; ++i) {
    std::uint32_t word = 0;
    for (int bit = 0; bit < 32; ++bit)
      word |= std::uint32_t{chance(32 * i + bit, 5) < share} << bit;
    bits.push_back(word);
  }
  return {ref::block_sparse(bits, tiles.cta_q, tiles.cta_k,
                            {in.q.heads * rows * row_words, rows * row_words, row_words}),
          [=](attention::ModArguments& to, const Device& device) {
            to.blocksparse = {
                .bits = device.put(bits), .tile_queries = tiles.cta_q, .tile_keys = tiles.cta_k};
          }};
}

// "skipsoftmax 0.05": of all requests.
Twin skipsoftmax(const Words& words, const ref::Inputs& in) {
  const float threshold = std::stof(words.at(1));
  return {ref::skip_softmax(std::vector<float>(static_cast<std::size_t>(in.q.batch), threshold)),
          [=](attention::ModArguments& to, const Device&) {
            to.skipsoftmax = {.threshold = threshold};
          }};
}

Twin twin_of(const Words& words, const ref::Inputs& in, const Kernel& kernel) {
  const std::string& name = words[0];
  if (name == "window") return window(words, in);
  if (name == "softcap") return softcap(words);
  if (name == "bias") return bias(words, in, spec_of(kernel).io);
  if (name == "alibi") return alibi(words, in);
  if (name == "mask") return mask(words, in);
  if (name == "sinks") return sinks(words, in);
  if (name == "blocksparse") return blocksparse(words, in, schedule_of(kernel));
  if (name == "skipsoftmax") return skipsoftmax(words, in);
  throw std::invalid_argument(name);
}

// ---- a scene and its verdict ---------------------------------------------------------------------

// In the order of mods.def. causal is a part of the inputs.
using Mods = std::vector<std::string>;

struct Setting {
  int sm;
  int head_dim;
  DType io;
  Smoothing smoothing = Smoothing::k;
  attention::Schedule schedule = {};  // cta_q 0: what is usual
  DType qk = DType::s8;
  ValueSmoothing v_smoothing = ValueSmoothing::none;
};

Kernel kernel_of(const Setting& setting, const Mods& mods, bool usual_schedule = true) {
  const Target target{.sm = setting.sm};
  attention::Spec spec = attention::usual_spec(target);
  spec.head_dim = setting.head_dim;
  spec.io = setting.io;
  spec.smoothing = setting.smoothing;
  spec.qk = setting.qk;
  spec.v_smoothing = setting.v_smoothing;
  for (const std::string& mod : mods) spec.*flag_of(words_of(mod)[0]) = true;
  if (usual_schedule) return {attention::family(), spec, target};
  spec.k_group = std::max(spec.k_group, setting.schedule.cta_k);
  return {attention::family(), spec, setting.schedule, target};
}

cli::AttentionJob job_of(const Scene& scene, const Mods& mods) {
  cli::AttentionJob job = test::job_of(scene);
  job.inputs.mods.clear();  // these, not the usual ones
  std::vector<Twin> twins;
  for (const std::string& mod : mods) {
    if (mod == "causal") continue;
    twins.push_back(twin_of(words_of(mod), job.inputs, scene.kernel));
    job.inputs.mods.push_back(twins.back().mod);
    job.inputs.mods.back().name = mod;
  }
  job.mods = [twins](const rt::Device& device, std::vector<rt::Buffer>& keep) {
    attention::ModArguments arguments;
    for (const Twin& twin : twins) twin.give(arguments, {device, keep});
    return arguments;
  };
  return job;
}

// Rows that see no key: O is 0, and the LSE -infinity or that of the sink. Returns their number.
std::int64_t check_dark_rows(const cli::AttentionJob& job, const cli::AttentionResult& result,
                             const cli::Expected& expected) {
  ref::Inputs in = job.inputs;
  for (ref::ScoreMod& mod : in.mods) mod.sink = {};
  const ref::Output without_sinks = ref::attention(in);
  const std::int64_t channels = in.q.channels;
  std::int64_t dark = 0, wrong = 0;
  for (std::size_t row = 0; row < without_sinks.lse.size(); ++row) {
    if (without_sinks.lse[row] != -kInfinity) continue;
    ++dark;
    const std::int64_t head = static_cast<std::int64_t>(row) / in.q.tokens % in.q.heads;
    double sink = -kInfinity;
    for (const ref::ScoreMod& mod : job.inputs.mods)
      if (mod.sink) sink = mod.sink(0, head);
    wrong += sink == -kInfinity
                 ? result.lse[row] != sink
                 : !(std::fabs(result.lse[row] - sink) <= expected.allowance.lse[row]);
    const auto begin = result.o.begin() + static_cast<std::ptrdiff_t>(row) * channels;
    wrong += std::any_of(begin, begin + channels, [](double value) { return value != 0; });
  }
  CHECK(wrong == 0);
  return dark;
}

struct Verdict {
  cli::AttentionResult result;
  std::int64_t dark_rows = 0;
};

Verdict check(const Scene& scene, const Mods& mods) {
  const cli::RunDevice on = test::device_of(scene);
  const cli::AttentionJob job = job_of(scene, mods);
  INFO(fmt::format("{}, scale {}: {}", test::text_of(job, on), job.inputs.softmax_scale,
                   fmt::join(mods, "; ")));
  Verdict verdict{.result = cli::run_attention(job, on)};
  for (const rt::Finding& finding : verdict.result.findings) FAIL_CHECK(test::text_of(finding));
  REQUIRE_FALSE(verdict.result.o.empty());
  const int capability = on.device.compute_capability();
  const cli::JudgeOptions all_rows{.rows = 0};
  const cli::Expected expected = cli::expected_of(job, capability, all_rows);
  const cli::Judgement judgement = cli::judge(job, verdict.result, capability, expected);
  if (!judgement.passed) FAIL_CHECK(cli::judgement_text(judgement, job, all_rows, true));
  verdict.dark_rows = check_dark_rows(job, verdict.result, expected);
  return verdict;
}

// ---- what scenes are made of ---------------------------------------------------------------------

constexpr std::array kTargets = {80, 89, 120};  // FP16 P V, FP8 P V in 13 bits, and in f32
constexpr std::array kHeadDims = {64, 128};
constexpr std::array kIo = {DType::f16, DType::bf16};
constexpr std::array kSmoothings = {Smoothing::k, Smoothing::none, Smoothing::qk};
constexpr std::array kValueSmoothings = {ValueSmoothing::none, ValueSmoothing::mean};
constexpr std::array kAlignments = {CausalAlignment::bottom_right, CausalAlignment::top_left};
// Ragged; more and fewer queries than keys; single ones; heads that share K and V, and not.
const std::vector<ref::Shape> kShapes = {
    {.batch = 2, .q_heads = 4, .kv_heads = 2, .q_len = 40, .kv_len = 150},
    {.batch = 1, .q_heads = 2, .kv_heads = 1, .q_len = 150, .kv_len = 70},
    {.batch = 2, .q_heads = 2, .kv_heads = 2, .q_len = 33, .kv_len = 257},
    {.batch = 1, .q_heads = 4, .kv_heads = 1, .q_len = 129, .kv_len = 65},
    {.batch = 2, .q_heads = 2, .kv_heads = 1, .q_len = 1, .kv_len = 200},
};
// Where channels of K have a bias, smoothing takes much from the scores.
const std::vector<std::string> kDistributions = {"k_bias", "normal", "outlier", "peaked", "sink"};

const std::vector<Mods>& compositions() {
  static const std::vector<Mods> all{
      {"window 40,3"},
      {"window 0,0"},
      {"window -1,0"},
      {"window 33,-1"},
      {"softcap 30"},
      {"softcap 2"},
      {"bias hqk"},
      {"bias bk hidden"},
      {"bias qk lowest"},
      {"alibi 0.5"},
      {"alibi 0.03"},
      {"mask bqk"},
      {"mask bh"},
      {"sinks 1"},
      {"sinks 12"},
      {"blocksparse 0.5"},
      {"skipsoftmax 0.02"},
      {"skipsoftmax 0.3"},
      {"causal", "sinks 1", "skipsoftmax 0.1"},
      {"causal", "window 60,-1"},
      {"causal", "window 20,0", "sinks 3"},
      {"causal", "softcap 5", "bias bhqk"},
      {"causal", "alibi 0.1", "sinks 1"},
      {"window 30,30", "bias hq", "mask kq"},
      {"softcap 4", "sinks 2"},
      {"mask bqk", "sinks 0"},
      {"causal", "sinks -2", "blocksparse 0.6"},
      {"causal", "window 100,0", "softcap 8", "bias bhqk hidden", "alibi 0.02", "mask bqk",
       "sinks 1", "blocksparse 0.8"},
      {"sinks 1e20"},  // its neighbours in f32 are 2^43 octaves away: no key counts beside it
  };
  return all;
}

// The turn-th scene of a composition: other settings for the same turn of the next one. In kTurns a composition
// meets every target, distribution and place of queries among keys, with K smoothing and without it.
constexpr std::size_t kTurns = 10;
struct Turn {
  Setting setting;
  Scene scene;
  std::string distribution;
};
Turn turn_of(const Mods& mods, std::size_t composition, std::size_t turn) {
  const std::size_t n = composition + turn;
  const auto pick = [](const auto& of, std::size_t i) { return of[i % of.size()]; };
  const bool int4 = pick(kTargets, n) < 90 && (composition + turn / 2) % 3 == 0;
  const Setting setting{.sm = pick(kTargets, n),
                        .head_dim = pick(kHeadDims, composition / 2 + turn / 3),
                        .io = pick(kIo, n / 2 + composition),
                        .smoothing = pick(kSmoothings, turn / 5 + composition),
                        .qk = int4 ? DType::s4 : DType::s8,
                        .v_smoothing = pick(kValueSmoothings, composition + turn / 3)};
  const Kernel kernel = kernel_of(setting, mods);
  const std::string distribution = pick(kDistributions, composition * 2 + turn);
  Scene scene{
      .kernel = kernel,
      .inputs = inputs_for(kernel, distribution, pick(kShapes, composition + 2 * turn), 50 + n),
      .layout = n % 2 == 0 ? Layout::hnd : Layout::nhd,
      .alignment = pick(kAlignments, turn + composition / 5)};
  return {setting, scene, distribution};
}

bool has(const Mods& mods, const std::string& name) {
  return std::any_of(mods.begin(), mods.end(),
                     [&](const std::string& mod) { return words_of(mod)[0] == name; });
}

}  // namespace

TEST_CASE("masks and biases in short", "[fast]") {
  for (std::size_t i = 0; i < compositions().size(); ++i) {
    const Mods& mods = compositions()[i];
    check(turn_of(mods, i, i % kTurns).scene, mods);
  }
}

TEST_CASE("every mask and bias, alone and together, in every setting", "[full]") {
  std::map<std::string, std::set<std::string>> met;  // mod -> settings
  std::int64_t dark_rows = 0;
  for (std::size_t i = 0; i < compositions().size(); ++i) {
    const Mods& mods = compositions()[i];
    for (std::size_t turn = 0; turn < kTurns; ++turn) {
      const Turn t = turn_of(mods, i, turn);
      dark_rows += check(t.scene, mods).dark_rows;
      for (const std::string& mod : mods) {
        std::set<std::string>& settings = met[words_of(mod)[0]];
        const std::string smoothing(to_string(t.setting.smoothing));
        settings.insert(
            {fmt::format("sm_{}, smoothing {}", t.setting.sm, smoothing),
             std::string(to_string(t.setting.qk)), fmt::format("head_dim {}", t.setting.head_dim),
             std::string(to_string(t.setting.io)),
             fmt::format("v_smoothing {}", to_string(t.setting.v_smoothing)),
             fmt::format("{}, smoothing {}", t.distribution, smoothing),
             fmt::format("alignment {}, more queries: {}", static_cast<int>(t.scene.alignment),
                         t.scene.inputs.q.tokens > t.scene.inputs.k.tokens)});
      }
    }
  }
  CHECK(dark_rows > 1000);
#define SAGEGEN_MOD(name) CHECK(met.contains(#name));
#include "templates/attention/mods/mods.def"
  const std::size_t all = kTargets.size() * kSmoothings.size() + kHeadDims.size() + kIo.size() + 2 +
                          kValueSmoothings.size() + kDistributions.size() * kSmoothings.size() +
                          2 * kAlignments.size();
  for (const auto& [mod, settings] : met) {
    INFO(mod << " has met " << fmt::format("{}", fmt::join(settings, "; ")));
    CHECK(settings.size() == all);
  }
}

// Channels of K that are biased by ten standard deviations: smoothing takes numbers of about ten, and more with
// a larger scale, from scores that a cap or a sink has to see whole.
void check_what_smoothing_takes(const Setting& setting, std::uint64_t seed) {
  for (const Mods& mods : std::vector<Mods>{
           {"softcap 6"}, {"sinks 2"}, {"causal", "window 50,2", "softcap 20", "sinks 8"}}) {
    for (const char* distribution : {"k_bias", "outlier"}) {
      const Kernel kernel = kernel_of(setting, mods);
      Scene scene{.kernel = kernel,
                  .inputs = inputs_for(
                      kernel, distribution,
                      {.batch = 1, .q_heads = 2, .kv_heads = 1, .q_len = 70, .kv_len = 130}, seed),
                  .alignment = CausalAlignment::bottom_right};
      check(scene, mods);
      scene.inputs.softmax_scale = 0.5;
      check(scene, mods);
    }
  }
}

TEST_CASE("caps and sinks see what smoothing takes", "[fast]") {
  check_what_smoothing_takes({.sm = 80, .head_dim = 64, .io = DType::f16}, 1);
}

TEST_CASE("caps and sinks see what smoothing takes, on every target", "[full]") {
  std::uint64_t seed = 1;
  for (const int sm : kTargets) {
    for (const int head_dim : kHeadDims) {
      for (const DType io : kIo) check_what_smoothing_takes({sm, head_dim, io}, ++seed);
    }
  }
}

// What smoothing takes from V comes back for the keys' share of the weights, and not for a sink's.
TEST_CASE("of the mean of V rows get the keys' share", "[fast]") {
  for (const int sm : kTargets) {
    for (const char* sinks : {"sinks -40", "sinks 0", "sinks 4", "sinks 12", "sinks 80"}) {
      const Mods mods{"causal", sinks};
      const Kernel kernel = kernel_of(
          {.sm = sm, .head_dim = 64, .io = DType::f16, .v_smoothing = ValueSmoothing::mean}, mods);
      Scene scene{.kernel = kernel,
                  .inputs = inputs_for(kernel, "v_offset", {.q_len = 70, .kv_len = 65}, 3),
                  .alignment = CausalAlignment::bottom_right};
      CHECK(check(scene, mods).dark_rows == 5);
      std::fill(scene.inputs.v.data.begin(), scene.inputs.v.data.end(), 3.0f);
      check(scene, mods);
    }
  }
}

// Scores from those that kernels fold into a constant to those of which one key takes the row.
TEST_CASE("masks and biases of scores near and far apart", "[full]") {
  std::uint64_t seed = 70;
  for (const Mods& mods : std::vector<Mods>{{"window 20,20"},
                                            {"softcap 30"},
                                            {"softcap 0.01"},
                                            {"softcap 1e4"},
                                            {"bias qk"},
                                            {"alibi 1"},
                                            {"alibi 1e-3"},
                                            {"sinks 5"},
                                            {"causal", "softcap 50", "mask k", "sinks 40"}}) {
    for (const int sm : kTargets) {
      const Kernel kernel = kernel_of({.sm = sm, .head_dim = 64, .io = DType::f16}, mods);
      for (const double scale : {1e-6, 1.0, 30.0, 1e3, 1e5}) {
        Scene scene{
            .kernel = kernel,
            .inputs = inputs_for(
                kernel, "normal",
                {.batch = 1, .q_heads = 2, .kv_heads = 1, .q_len = 65, .kv_len = 129}, ++seed)};
        scene.inputs.softmax_scale = scale;
        check(scene, mods);
      }
    }
  }
}

// Maxima that may stay: from sinks below all scores, among them and above all; from the first tile that a query sees.
TEST_CASE("masks and biases of scores that rise from tile to tile", "[full]") {
  const std::function<double(std::int64_t)> courses[] = {
      [](std::int64_t t) { return 0.9 * static_cast<double>(t); },
      [](std::int64_t t) { return 7.3 * static_cast<double>(t); },
      [](std::int64_t t) { return t < 3 ? 0.0 : 30.0; },
      [](std::int64_t t) { return -7.3 * static_cast<double>(t); }};
  const auto worth = [](std::int64_t query) { return query % 3 == 0 ? 0.2 : 1.0; };
  std::size_t turn = 0;
  const std::vector<Setting> settings{
      {.sm = 80, .head_dim = 64, .io = DType::f16},
      {.sm = 86, .head_dim = 64, .io = DType::bf16},
      {.sm = 80, .head_dim = 128, .io = DType::f16, .smoothing = Smoothing::qk, .qk = DType::s4}};
  for (const Mods& mods : std::vector<Mods>{{"sinks -60"},
                                            {"sinks 0"},
                                            {"sinks 4"},
                                            {"sinks 60"},
                                            {"window 70,0"},
                                            {"causal", "window 100,-1", "sinks 2"},
                                            {"mask qk"},
                                            {"alibi 1"},
                                            {"softcap 30"},
                                            {"bias qk hidden"},
                                            {"blocksparse 0.5"}}) {
    for (const Setting& setting : settings) {
      const Kernel kernel = kernel_of(setting, mods);
      for (const auto& course : courses) {
        const ref::Shape shape{.q_heads = 2, .kv_heads = 1, .q_len = 70, .kv_len = 400};
        check({.kernel = kernel,
               .inputs = test::scores_by_tile(kernel, shape, 91, course, worth),
               .alignment = kAlignments[turn++ % kAlignments.size()]},
              mods);
      }
      ++turn;  // so that a course has the other alignment in the next setting
    }
  }
}

TEST_CASE("queries that see nothing are 0, with the LSE of their sink", "[fast]") {
  struct Dark {
    Mods mods;
    CausalAlignment alignment;
    std::int64_t of_a_head;  // of 140 queries and 50 keys
  };
  const std::vector<Dark> cases{
      {{"window 3,3"}, CausalAlignment::top_left, 140 - 53},
      {{"window 3,3"}, CausalAlignment::bottom_right, 140 - 53},
      {{"window -1,5"}, CausalAlignment::bottom_right, 85},
      {{"window 5,-1"}, CausalAlignment::top_left, 85},
      {{"causal"}, CausalAlignment::bottom_right, 90},
      {{"causal", "window 0,0"}, CausalAlignment::top_left, 90},
      {{"mask qk"}, CausalAlignment::top_left, 20},
      {{"bias qk hidden"}, CausalAlignment::top_left, 20},
      {{"blocksparse 0"}, CausalAlignment::top_left, 140},
      {{"blocksparse 1"}, CausalAlignment::top_left, 0},
  };
  for (std::size_t i = 0; i < cases.size(); ++i) {
    for (const bool with_sinks : {false, true}) {
      Mods mods = cases[i].mods;
      if (with_sinks && has(mods, "blocksparse")) {
        mods.insert(mods.begin(), "sinks 3");
      } else if (with_sinks) {
        mods.push_back("sinks 3");
      }
      const Kernel kernel = kernel_of({.sm = kTargets[(i + with_sinks) % kTargets.size()],
                                       .head_dim = kHeadDims[i % 2],
                                       .io = kIo[i / 2 % 2],
                                       .v_smoothing = kValueSmoothings[(i + i / 2) % 2]},
                                      mods);
      const Scene scene{
          .kernel = kernel,
          .inputs = inputs_for(kernel, "k_bias",
                               {.q_heads = 2, .kv_heads = 1, .q_len = 140, .kv_len = 50}, i),
          .alignment = cases[i].alignment};
      CHECK(check(scene, mods).dark_rows == 2 * cases[i].of_a_head);
    }
  }
}

// In any order in memory, padded, from an address that nothing but an element is aligned to.
void check_axes(const std::vector<std::string>& axes, const Setting& setting) {
  for (const std::string& each : axes) {
    for (const char* mod : {"bias", "mask"}) {
      const Mods mods{fmt::format("{} {}", mod, each)};
      const Kernel kernel = kernel_of(setting, mods);
      check({.kernel = kernel,
             .inputs = inputs_for(
                 kernel, "normal",
                 {.batch = 2, .q_heads = 4, .kv_heads = 2, .q_len = 19, .kv_len = 67}, 3)},
            mods);
    }
  }
}

TEST_CASE("strides of biases and masks", "[fast]") {
  check_axes({"all", "k", "bh", "qkh", "kqhb", "bhqk"},
             {.sm = 80, .head_dim = 64, .io = DType::bf16});
}

TEST_CASE("strides of biases and masks: every set of axes", "[full]") {
  std::vector<std::string> axes{"all"};
  for (unsigned set = 1; set < 16; ++set) {
    std::string forward;
    for (unsigned i = 0; i < 4; ++i)
      if ((set >> i & 1) != 0) forward += "bhqk"[i];
    axes.push_back(forward);
    axes.emplace_back(forward.rbegin(), forward.rend());
  }
  check_axes(axes, {.sm = 89, .head_dim = 128, .io = DType::f16});
}

// More tiles of keys than bits in a word.
TEST_CASE("block-sparse masks of several words", "[full]") {
  for (const int sm : kTargets) {
    for (const char* share : {"0.1", "0.5"}) {
      const Mods mods{fmt::format("blocksparse {}", share)};
      const Kernel kernel = kernel_of({.sm = sm, .head_dim = 64, .io = DType::f16}, mods);
      check({.kernel = kernel,
             .inputs =
                 inputs_for(kernel, "normal",
                            {.q_heads = 2, .kv_heads = 1, .q_len = 140, .kv_len = 64 * 66 + 5}, 5)},
            mods);
    }
  }
}

// One buffer and three, keys of half a tile and of two, warps of 16 rows.
const std::vector<attention::Schedule>& schedules(bool fp8) {
  static const std::vector<attention::Schedule> of_fp8{
      {.cta_q = 128, .cta_k = 64, .warps = 4, .stages = 1},
      {.cta_q = 64, .cta_k = 64, .warps = 4, .stages = 3},
      {.cta_q = 64, .cta_k = 128, .warps = 4, .stages = 2}};
  static const std::vector<attention::Schedule> of_fp16{
      {.cta_q = 64, .cta_k = 32, .warps = 4, .stages = 3},
      {.cta_q = 64, .cta_k = 128, .warps = 4, .stages = 1},
      {.cta_q = 32, .cta_k = 16, .warps = 2, .stages = 4},
      {.cta_q = 64, .cta_k = 32, .warps = 2, .stages = 2}};
  return fp8 ? of_fp8 : of_fp16;
}

void check_schedule(const Setting& setting, const Mods& mods, std::uint64_t seed) {
  const Kernel kernel = kernel_of(setting, mods, false);
  INFO(kernel.key());
  for (const std::string& violation : kernel.violations()) FAIL(violation);
  check({.kernel = kernel,
         .inputs = inputs_for(
             kernel, "outlier",
             {.batch = 2, .q_heads = 2, .kv_heads = 1, .q_len = 100, .kv_len = 210}, seed),
         .alignment = CausalAlignment::bottom_right},
        mods);
}

const Mods kEverything = {"causal",     "window 90,0", "softcap 10", "bias hqk hidden",
                          "alibi 0.05", "mask bqk",    "sinks 2",    "blocksparse 0.7"};

TEST_CASE("other schedules", "[fast]") {
  for (const int sm : {80, 89}) {
    for (const attention::Schedule& schedule : schedules(sm == 89))
      check_schedule({sm, 64, DType::f16, Smoothing::k, schedule}, kEverything, 8);
  }
}

// With Q smoothing a launch may be batches, heads, or blocks of 128 queries, and what a mod reads is of the whole.
TEST_CASE("parts of a problem with each mask and bias", "[fast]") {
  constexpr ref::Shape kShape{.batch = 2, .q_heads = 4, .kv_heads = 2, .q_len = 300, .kv_len = 150};
  constexpr std::int64_t kBlock = 4 * 192;  // bytes of 128 queries, keys padded to 64
  std::vector<Mods> compositions{kEverything, {}};
  for (const std::string& mod : kEverything) compositions.push_back({mod});
  constexpr std::array kTiles = {attention::Schedule{},
                                 attention::Schedule{.cta_q = 64, .cta_k = 64, .warps = 2},
                                 attention::Schedule{.cta_q = 32, .cta_k = 64, .warps = 2}};
  for (std::size_t i = 0; i < compositions.size(); ++i) {
    const Mods& mods = compositions[i];
    const Kernel kernel = kernel_of({.sm = 89,
                                     .head_dim = 64,
                                     .io = kIo[i % 2],
                                     .smoothing = Smoothing::qk,
                                     .schedule = kTiles[i % kTiles.size()],
                                     .qk = i % 2 == 0 ? DType::s4 : DType::s8},
                                    mods, false);
    const Scene scene{.kernel = kernel,
                      .inputs = inputs_for(kernel, "outlier", kShape, 300 + i),
                      .alignment = CausalAlignment::bottom_right};
    const Verdict whole = check(scene, mods);
    const cli::RunDevice on = test::device_of(scene);
    const cli::AttentionJob job = job_of(scene, mods);
    for (const std::int64_t blocks : {1, 2, 3, 6, 12}) {  // 3 of a head, 12 of a batch
      INFO(kernel.key() << ", " << blocks << " blocks of queries at a time");
      const attention::Plan plan(on.device, kernel, test::emitted,
                                 {.mean_score_bytes = blocks * kBlock});
      const cli::AttentionResult parts = cli::run_attention(job, on, plan);
      for (const rt::Finding& finding : parts.findings) FAIL_CHECK(test::text_of(finding));
      CHECK(parts.o == whole.result.o);
      CHECK(parts.lse == whole.result.lse);
    }
  }
}

// Queries are padded to whole groups of scales, so that there are blocks behind the last query.
TEST_CASE("blocks of fewer queries than a group of scales has", "[fast]") {
  const attention::Schedule of_one_warp{.cta_q = 16, .cta_k = 64, .warps = 1, .stages = 2};
  for (const int sm : {80, 120})
    check_schedule({sm, 64, DType::f16, Smoothing::k, of_one_warp}, kEverything, 9);
}

TEST_CASE("other schedules with each mask and bias", "[full]") {
  std::uint64_t seed = 200;
  for (const Mods& mods : std::vector<Mods>{{"window 40,3"},
                                            {"softcap 3"},
                                            {"bias bqk"},
                                            {"alibi 0.2"},
                                            {"mask hk"},
                                            {"sinks 2"},
                                            {"blocksparse 0.4"},
                                            {"causal", "window 70,-1", "blocksparse 0.6"}}) {
    for (const int sm : kTargets) {
      for (const attention::Schedule& schedule : schedules(sm != 80)) {
        ++seed;
        check_schedule(
            {sm, 64, kIo[seed % 2], kSmoothings[seed / 2 % kSmoothings.size()], schedule}, mods,
            seed);
      }
    }
  }
}

TEST_CASE("no legal order of warps and copies changes a bit of a masked row", "[full]") {
  for (const int sm : kTargets) {
    const Kernel kernel = kernel_of({.sm = sm, .head_dim = 64, .io = DType::f16}, kEverything);
    Scene scene{
        .kernel = kernel,
        .inputs = inputs_for(kernel, "normal",
                             {.q_heads = 2, .kv_heads = 1, .q_len = 130, .kv_len = 200}, 17),
        .alignment = CausalAlignment::bottom_right};
    const Verdict first = check(scene, kEverything);
    std::uint64_t seed = 0;
    for (const auto async :
         {rt::AsyncPolicy::late, rt::AsyncPolicy::eager, rt::AsyncPolicy::random}) {
      for (const auto order : {rt::SchedulePolicy::round_robin, rt::SchedulePolicy::random,
                               rt::SchedulePolicy::reverse}) {
        scene.emulator = {.schedule = order, .async = async, .seed = ++seed};
        const Verdict v = check(scene, kEverything);
        CHECK(v.result.o == first.result.o);
        CHECK(v.result.lse == first.result.lse);
      }
    }
  }
}
