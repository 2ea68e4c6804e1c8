#include "tools/sagegen/run_mods.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <memory>
#include <random>
#include <span>

#include <fmt/format.h>

#include "sagegen/runtime/argument_check.h"
#include "tools/reference/rounding.h"
#include "tools/sagegen/errors.h"
#include "tools/sagegen/help.h"

namespace sagegen::cli {
namespace {

using Give =
    std::function<void(attention::ModArguments&,
                       const std::function<runtime::DevicePtr(std::span<const std::byte>)>&)>;

// What a mod is made from, and what comes of it.
struct Making {
  std::string option, text;
  attention::View kernel;
  reference::Extent extent;
  std::int64_t offset;  // query i stands at key i + offset
  std::int64_t group;   // query heads whose rows a tile has
  std::mt19937_64 random;
  reference::ScoreMod twin = {};
  Give give = {};

  [[noreturn]] void refuse(const std::string& what) const {
    throw UsageError(fmt::format("{} {} is refused: {}", option, text, what));
  }
  double normal() { return std::normal_distribution<double>()(random); }
  double uniform() { return std::uniform_real_distribution<double>()(random); }

  // "128,0"
  std::vector<double> numbers(std::size_t count) const {
    std::vector<double> values;
    const char* at = text.data();
    const char* const end = at + text.size();
    while (values.size() < count) {
      double value = 0;
      const auto [stop, error] = std::from_chars(at, end, value);
      if (error != std::errc() || !std::isfinite(value)) break;
      if (std::abs(value) > 1e30) refuse("numbers are at most 1e30");
      values.push_back(value);
      at = stop;
      if (values.size() == count || at == end || *at != ',') break;
      ++at;
    }
    if (values.size() != count || at != end) {
      refuse(count == 1 ? "it is a number" : fmt::format("it is {} numbers, as in 128,0", count));
    }
    return values;
  }
  std::vector<std::int64_t> integers(std::size_t count) const {
    std::vector<std::int64_t> values;
    for (const double value : numbers(count)) {
      if (!(std::abs(value) < 1e18)) refuse("numbers of keys are less than 1e18");
      if (value != std::trunc(value)) refuse("it is made of whole numbers");
      values.push_back(static_cast<std::int64_t>(value));
    }
    return values;
  }
};

// Elements of the axes that "hqk" names, one value for all of an axis that it does not.
struct Axes {
  reference::Strides strides;  // batch, head, query, key
  std::size_t count = 1;
};
Axes axes_of(const Making& making) {
  constexpr std::string_view kAxes = "bhqk";
  const reference::Extent& e = making.extent;
  const std::int64_t extents[] = {e.batch, e.heads, e.queries, e.keys};
  std::string known;
  for (const char axis : kAxes)
    if (making.text.find(axis) != std::string::npos) known += axis;
  if (known != making.text || known.empty()) {
    making.refuse(
        "it names the axes that have values of their own, some of b, h, q and k (batch, head, "
        "query, key) in this order, as in hqk");
  }
  Axes axes{};
  for (std::size_t i = 4; i-- > 0;) {
    if (known.find(kAxes[i]) == std::string::npos) continue;
    axes.strides[i] = static_cast<std::int64_t>(axes.count);
    axes.count *= static_cast<std::size_t>(extents[i]);
    constexpr std::size_t kMost = std::size_t{1} << 30;
    if (axes.count > kMost) making.refuse("it has more than 2^30 elements; name fewer axes");
  }
  return axes;
}

template <typename T>
attention::ScoreTensor placed(
    const Axes& axes, const std::vector<T>& values,
    const std::function<runtime::DevicePtr(std::span<const std::byte>)>& put) {
  return {.data = put(std::as_bytes(std::span(values))),
          .stride_batch = axes.strides[0],
          .stride_head = axes.strides[1],
          .stride_query = axes.strides[2],
          .stride_key = axes.strides[3]};
}

// ---- the mods -------------------------------------------------------------------------------------

void make_window(Making& m) {
  const std::vector<std::int64_t> keys = m.integers(2);
  m.twin = reference::window(keys[0], keys[1], m.offset);
  m.give = [=](auto& to, const auto&) { to.window = {.left = keys[0], .right = keys[1]}; };
}

void make_softcap(Making& m) {
  const auto cap = static_cast<float>(m.numbers(1)[0]);
  if (!(cap > 0)) m.refuse("it is a positive number");
  m.twin = reference::soft_cap(cap);
  m.give = [=](auto& to, const auto&) { to.softcap = {.cap = cap}; };
}

void make_bias(Making& m) {
  const Axes axes = axes_of(m);
  const bool f16 = m.kernel.spec.io == DType::f16;
  std::vector<float> values;
  std::vector<std::uint16_t> bits;
  for (std::size_t i = 0; i < axes.count; ++i) {
    const double value = m.normal();
    bits.push_back(f16 ? reference::f16_bits(value) : reference::bf16_bits(value));
    values.push_back(static_cast<float>(f16 ? reference::f16_value(bits.back())
                                            : reference::bf16_value(bits.back())));
  }
  m.twin = reference::bias(values, axes.strides);
  m.give = [=](auto& to, const auto& put) { to.bias = placed(axes, bits, put); };
}

void make_alibi(Making& m) {
  const double largest = m.numbers(1)[0];
  std::vector<float> slopes;  // a geometric sequence, as in the paper
  for (std::int64_t i = 0; i < m.extent.heads; ++i)
    slopes.push_back(static_cast<float>(largest * std::exp2(-8.0 * i / m.extent.heads)));
  m.twin = reference::alibi(slopes, m.offset);
  m.give = [=](auto& to, const auto& put) {
    to.alibi = {.slopes = put(std::as_bytes(std::span(slopes)))};
  };
}

void make_mask(Making& m) {
  const Axes axes = axes_of(m);
  constexpr double kVisible = 0.7;
  std::vector<std::uint8_t> visible;
  for (std::size_t i = 0; i < axes.count; ++i) visible.push_back(m.uniform() < kVisible ? 1 : 0);
  m.twin = reference::mask(visible, axes.strides);
  m.give = [=](auto& to, const auto& put) { to.mask = placed(axes, visible, put); };
}

void make_sinks(Making& m) {
  const double mean = m.numbers(1)[0];
  std::vector<float> logits;
  for (std::int64_t i = 0; i < m.extent.heads; ++i)
    logits.push_back(static_cast<float>(mean + m.normal()));
  m.twin = reference::sinks(logits);
  m.give = [=](auto& to, const auto& put) {
    to.sinks = {.logits = put(std::as_bytes(std::span(logits)))};
  };
}

void make_blocksparse(Making& m) {
  const double share = m.numbers(1)[0];
  if (!(share >= 0 && share <= 1)) m.refuse("it is a share of tiles, from 0 to 1");
  const std::int64_t tile_q = m.kernel.schedule.cta_q, tile_k = m.kernel.schedule.cta_k;
  const std::int64_t heads = m.extent.heads / m.group;
  const std::int64_t rows = runtime::ceil_div(m.extent.queries * m.group, tile_q);
  const std::int64_t words = runtime::ceil_div(m.extent.keys, 32 * tile_k);
  std::vector<std::uint32_t> bits;
  for (std::int64_t i = 0; i < m.extent.batch * heads * rows * words; ++i) {
    std::uint32_t word = 0;
    for (int bit = 0; bit < 32; ++bit) word |= std::uint32_t{m.uniform() < share} << bit;
    bits.push_back(word);
  }
  m.twin = reference::block_sparse(bits, tile_q, tile_k,
                                   {heads * rows * words, rows * words, words}, m.group);
  m.give = [=](auto& to, const auto& put) {
    to.blocksparse = {
        .bits = put(std::as_bytes(std::span(bits))), .tile_queries = tile_q, .tile_keys = tile_k};
  };
}

// The counts lie on the device until somebody asks.
void make_skipsoftmax(Making& m) {
  const auto threshold = static_cast<float>(m.numbers(1)[0]);
  if (!(threshold >= 0 && threshold < 1))
    m.refuse("it is a share of a row's largest weight, at least 0 and less than 1");
  const auto batch = static_cast<std::size_t>(m.extent.batch);
  const std::vector<float> thresholds(batch, threshold);
  m.twin = reference::skip_softmax(thresholds);
  m.give = [=](auto& to, const auto& put) {
    const std::vector<std::uint32_t> zeros(2 * batch);
    to.skipsoftmax = {.threshold = thresholds[0], .counts = put(std::as_bytes(std::span(zeros)))};
  };
}

// In the order of mods.def. causal is older, and an option of its own.
struct RunMod {
  std::string name;
  bool attention::Spec::*flag;
  std::string usual;  // of kernels that have the mod where the option is not given
  void (*make)(Making&);
  std::string help;
};
using attention::Spec;
const std::vector<RunMod>& run_mods() {
  static const std::vector<RunMod> mods{
      {"window", &Spec::window, "128,0", make_window,
       "LEFT,RIGHT: keys beside its own that a query sees; -1: no bound on that side"},
      {"softcap", &Spec::softcap, "30", make_softcap, "CAP: scores are CAP * tanh(score / CAP)"},
      {"bias", &Spec::bias, "hqk", make_bias,
       "AXES: made-up values are added to scores, of their own along these of b, h, q, k"},
      {"alibi", &Spec::alibi, "0.5", make_alibi,
       "SLOPE: of the first head; distance times the head's slope is taken off a score"},
      {"mask", &Spec::mask, "bqk", make_mask,
       "AXES: made-up bytes say which keys queries see, of their own along these of b, h, q, k"},
      {"sinks", &Spec::sinks, "0", make_sinks,
       "MEAN: a made-up logit per head, about MEAN, counts in every sum"},
      {"blocksparse", &Spec::blocksparse, "0.5", make_blocksparse,
       "SHARE: of the kernel's tiles this share, made up, is computed"},
      {"skipsoftmax", &Spec::skipsoftmax, "0.001", make_skipsoftmax,
       "THRESHOLD: warps leave out tiles in which no weight is this share of the largest before"},
  };
  return mods;
}

std::string option_of(const RunMod& mod) { return "--" + mod.name; }

}  // namespace

void define_mods(CLI::App& app, ModOptions& options) {
  const OptionGroup group(app, "Masks and biases");
  for (const RunMod& mod : run_mods()) {
    CLI::Option* option = app.add_option_function<std::string>(
        option_of(mod),
        [&options, name = mod.name](const std::string& text) { options.given[name] = text; },
        mod.help);
    option->type_name(mod.help.substr(0, mod.help.find(':')))
        ->description(mod.help.substr(mod.help.find(':') + 2));
    options.options.push_back(option);
  }
}

void ask_for_mods(const ModOptions& options, attention::Spec& spec) {
  for (const RunMod& mod : run_mods()) spec.*mod.flag = options.given.contains(mod.name);
}

void check_mods(const ModOptions& options, const std::vector<Kernel>& kernels) {
  for (const RunMod& mod : run_mods()) {
    const auto has_it = [&](const Kernel& kernel) {
      return kernel.view(attention::family()).spec.*mod.flag;
    };
    if (!options.given.contains(mod.name) || std::ranges::any_of(kernels, has_it)) continue;
    throw UsageError(fmt::format(
        "{} is refused: {} {}; leave it out, or take a kernel that has it", option_of(mod),
        kernels.size() == 1 ? kernels[0].key() + " has no" : "no kernel of the set has", mod.name));
  }
}

RunMods make_mods(const ModOptions& options, const Kernel& kernel, const reference::Inputs& inputs,
                  std::uint64_t seed) {
  const attention::View view = kernel.view(attention::family());
  const reference::Tensor &q = inputs.q, &k = inputs.k;
  RunMods result;
  std::vector<Give> gives;
  for (std::size_t i = 0; i < run_mods().size(); ++i) {
    const RunMod& mod = run_mods()[i];
    if (!(view.spec.*mod.flag)) continue;
    const auto given = options.given.find(mod.name);
    Making making{.option = option_of(mod),
                  .text = given == options.given.end() ? mod.usual : given->second,
                  .kernel = view,
                  .extent = {q.batch, q.heads, q.tokens, k.tokens},
                  .offset = inputs.causal_offset,
                  .group = view.spec.pack_gqa ? q.heads / k.heads : 1,
                  .random = std::mt19937_64(seed + 1000 * (i + 1))};
    mod.make(making);
    result.twins.push_back(making.twin);
    result.twins.back().name = mod.name + " " + making.text;
    gives.push_back(making.give);
  }
  result.give = [gives](const runtime::Device& device, std::vector<runtime::Buffer>& keep) {
    attention::ModArguments arguments;
    const auto put = [&](std::span<const std::byte> bytes) {
      keep.emplace_back(device, bytes.size());
      keep.back().upload(bytes);
      return keep.back().data();
    };
    for (const Give& give : gives) give(arguments, put);
    return arguments;
  };
  return result;
}

}  // namespace sagegen::cli
