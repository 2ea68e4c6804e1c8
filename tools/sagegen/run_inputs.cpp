#include "tools/sagegen/run_inputs.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <stdexcept>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "templates/attention/plan.h"
#include "tools/reference/quantize.h"
#include "tools/sagegen/errors.h"
#include "tools/sagegen/help.h"
#include "tools/sagegen/options.h"

namespace sagegen::cli {
namespace {

using reference::IoType;

constexpr std::int64_t kDefaultHeadDim = 128;

IoType io_type(DType type) { return type == DType::f16 ? IoType::f16 : IoType::bf16; }

DType chosen_dtype(const std::string& word, IoType stored) {
  if (word.empty()) return stored == IoType::bf16 ? DType::bf16 : DType::f16;
  for (const DType type : {DType::f16, DType::bf16}) {
    if (word == to_string(type)) return type;
  }
  throw UsageError(fmt::format("--dtype {} is refused; use f16 or bf16", word));
}

// Rounding a wider file may overflow; attention needs finite inputs.
void round_and_check(reference::Tensor& tensor, const char* name, DType io) {
  const std::vector<float> before = tensor.data;
  reference::round_to(io_type(io), tensor);
  for (std::size_t i = 0; i < tensor.data.size(); ++i) {
    if (std::isfinite(tensor.data[i])) continue;
    const auto at = static_cast<std::int64_t>(i);
    throw UsageError(fmt::format(
        "tensor {}: the value at [{}, {}, {}, {}] is {}, which {} cannot hold; use --dtype bf16",
        name, at / (tensor.channels * tensor.tokens * tensor.heads),
        at / (tensor.channels * tensor.tokens) % tensor.heads, at / tensor.channels % tensor.tokens,
        at % tensor.channels, before[i], to_string(io)));
  }
}

// The kernels take an f32, and 0 stands for the default.
double checked_scale(double scale) {
  const auto narrow = static_cast<float>(scale);
  if (narrow > 0 && narrow <= attention::kLargestSoftmaxScale) return scale;
  throw UsageError(
      fmt::format("--softmax-scale {} is refused; as an f32 it is to be positive and at most {}",
                  scale, attention::kLargestSoftmaxScale));
}

// Nothing in a file says what its dimensions are.
std::string order_warning(const reference::Inputs& inputs, reference::AxisOrder order) {
  if (!reference::looks_misordered(inputs)) return {};
  const bool hnd = order == reference::AxisOrder::hnd;
  return fmt::format(
      "K is taken for {} heads of {} tokens, because --input-layout is {}; if the file holds {}, "
      "give --input-layout {}",
      inputs.k.heads, inputs.k.tokens, hnd ? "hnd" : "nhd",
      hnd ? "[batch, token, head, channel]" : "[batch, head, token, channel]", hnd ? "nhd" : "hnd");
}

// See "How accurate" in the README.
std::string zero_warning(const reference::Tensor& v) {
  std::int64_t channels = 0;
  for (std::int64_t b = 0; b < v.batch; ++b) {
    for (std::int64_t h = 0; h < v.heads; ++h) {
      for (std::int64_t c = 0; c < v.channels; ++c) {
        float largest = 0;
        for (std::int64_t n = 0; n < v.tokens; ++n) {
          largest = std::max(largest, std::fabs(v.row(b, h, n)[c]));
        }
        channels += largest > 0 && largest <= reference::kSmallestAmax;
      }
    }
  }
  if (channels == 0) return {};
  return fmt::format("{} channels of V nowhere exceed 2^-100 and count as zero; scale V up",
                     channels);
}

// --input takes all names that follow it.
void refuse_key(const std::string& file) {
  try {
    parse_key(file);
  } catch (const SpecError&) {
    return;
  }
  throw UsageError(fmt::format(
      "--input {} is refused: it is the key of a kernel and no file; put the key before --input",
      file));
}

RunInputs from_files(const InputOptions& options) {
  for (const std::string& file : options.files) refuse_key(file);
  if (options.files.size() == 2 ||
      (options.files.size() == 1 && options.files[0].ends_with(".npy"))) {
    throw UsageError("--input takes one safetensors file, or npy files of Q, K and V");
  }
  if (options.files.size() == 3 && !options.prefix.empty()) {
    throw UsageError(
        fmt::format("--prefix {} is refused beside --input with npy files: it chooses tensors of a "
                    "safetensors file",
                    options.prefix));
  }
  try {
    reference::LoadedInputs loaded =
        reference::load_qkv(options.files, options.prefix, options.order);
    RunInputs result;
    result.io = chosen_dtype(options.dtype, loaded.type);
    result.warning = order_warning(loaded.inputs, options.order);
    if (result.warning.empty()) result.warning = zero_warning(loaded.inputs.v);
    result.values = std::move(loaded.inputs);
    result.origin = fmt::format("{}", fmt::join(options.files, ", "));
    if (!options.prefix.empty()) result.origin += " (" + options.prefix + ")";
    return result;
  } catch (const reference::FileError& error) {
    throw FileError(error.what());
  }
}

// What cannot be generated, by the option to change. Each size is in range by itself (see define_inputs()).
void check_shape(const reference::Shape& shape) {
  if (shape.q_heads % shape.kv_heads != 0) {
    throw UsageError(fmt::format("--kv-heads {} is refused: it must divide --heads {}",
                                 shape.kv_heads, shape.q_heads));
  }
  constexpr double kLargest = 1 << 28;
  const double channels = head_dim_for(std::max(shape.head_dim, shape.value_dim));  // as padded
  const double q = 1.0 * shape.batch * shape.q_heads * shape.q_len * channels;
  const double k = 1.0 * shape.batch * shape.kv_heads * shape.kv_len * channels;
  if (q > kLargest || k > kLargest) {
    throw UsageError(fmt::format(
        "Q of {:.0f} and K of {:.0f} elements (heads padded to {:.0f} channels) are refused: "
        "--dist makes at most {:.0f} per tensor; make --batch, --heads, --q-len or "
        "--kv-len smaller",
        q, k, channels, kLargest));
  }
}

RunInputs from_distribution(const InputOptions& options) {
  reference::Shape shape = options.shape;
  if (shape.kv_heads == 0) shape.kv_heads = shape.q_heads;
  if (shape.kv_len == 0) shape.kv_len = shape.q_len;
  if (shape.head_dim == 0) shape.head_dim = kDefaultHeadDim;
  check_shape(shape);
  RunInputs result;
  result.io = chosen_dtype(options.dtype, IoType::f16);
  try {
    result.values =
        reference::generate(options.distribution, shape, options.seed, io_type(result.io));
  } catch (const std::invalid_argument& error) {
    throw UsageError(error.what());
  }
  result.origin = fmt::format("{}, seed {}", options.distribution, options.seed);
  return result;
}

}  // namespace

void define_inputs(CLI::App& app, InputOptions& input) {
  const OptionGroup group(app, "Inputs");
  const CLI::Option* files =
      app.add_option("--input", input.files,
                     "a safetensors file with q, k, v, or npy files of Q, K and V")
          ->expected(1, 3);
  refuse_without(add_choice<reference::AxisOrder>(
                     app, "--input-layout", input.order,
                     {{"hnd", reference::AxisOrder::hnd}, {"nhd", reference::AxisOrder::nhd}},
                     "of the files: batch, head, token, channel or batch, token, head, channel "
                     "(default: hnd)"),
                 files);
  std::vector<std::string> names;
  for (const reference::Distribution& d : reference::distributions()) names.push_back(d.name);
  CLI::Option* distribution = app.add_option("--dist", input.distribution, "made-up inputs")
                                  ->check(one_of(names))
                                  ->capture_default_str();
  reference::Shape& shape = input.shape;
  shape = {.batch = 1, .q_heads = 2, .kv_heads = 0, .q_len = 256, .kv_len = 0, .head_dim = 0};
  constexpr std::uint64_t kMostHeads = 65535;  // a grid's y and z
  constexpr std::uint64_t kLongest = std::uint64_t{1} << 28;
  constexpr std::uint64_t kMostChannels = 4096;
  const auto size = [&](const char* name, std::int64_t& value, const char* what,
                        std::uint64_t most) {
    CLI::Option* option = app.add_option(name, value, what);
    if (value != 0) option->capture_default_str();
    require_whole(option, 1, most);
    refuse_beside(option, files, "the file has its own shape");
  };
  size("--batch", shape.batch, "of --dist", kMostHeads);
  size("--heads", shape.q_heads, "of --dist, of Q", kMostHeads);
  size("--kv-heads", shape.kv_heads, "of --dist; divides --heads (default: the same)", kMostHeads);
  size("--q-len", shape.q_len, "of --dist", kLongest);
  size("--kv-len", shape.kv_len, "of --dist (default: as --q-len)", kLongest);
  size("--head-dim", shape.head_dim, "of --dist (default: the kernel's if it is named, else 128)",
       kMostChannels);
  size("--value-dim", shape.value_dim,
       "of --dist, of V and O (default: the kernel's if it is named, else as --head-dim)",
       kMostChannels);
  CLI::Option* seed = app.add_option("--seed", input.seed, "of --dist")->capture_default_str();
  require_seed(seed);
  for (CLI::Option* made_up : {distribution, seed})
    refuse_beside(made_up, files, "it makes up inputs where no file is given");
  app.add_option("--dtype", input.dtype, "f16 or bf16 (default: as in the file, else f16)")
      ->check(one_of({"f16", "bf16"}));
  add_choice<std::optional<Causal>>(app, "--causal", input.causal,
                                    {{"none", Causal::none},
                                     {"top-left", Causal::top_left},
                                     {"bottom-right", Causal::bottom_right}},
                                    "the mask (default: none; top-left of a kernel that is named "
                                    "and causal)");
  app.add_option("--softmax-scale", input.softmax_scale, "(default: 1 / sqrt(head_dim))")
      ->check([](const std::string& text) {
        const bool positive = std::strtod(text.c_str(), nullptr) > 0;
        return positive ? std::string() : text + " is refused; it is a positive number";
      });
}

std::string_view causal_word(Causal causal) {
  return causal == Causal::none ? "none" : causal == Causal::top_left ? "top-left" : "bottom-right";
}

std::string dims_text(const reference::Inputs& inputs) {
  const std::int64_t channels = inputs.q.channels, of_v = inputs.v.channels;
  const std::string text = fmt::format("head_dim {}", channels);
  return channels == of_v ? text : fmt::format("{}, value_dim {}", text, of_v);
}

RunInputs load_run_inputs(const InputOptions& options) {
  RunInputs result = options.files.empty() ? from_distribution(options) : from_files(options);
  reference::Inputs& values = result.values;
  round_and_check(values.q, "q", result.io);
  round_and_check(values.k, "k", result.io);
  round_and_check(values.v, "v", result.io);
  result.causal = options.causal.value_or(Causal::none);
  values.causal = result.causal != Causal::none;
  if (result.causal == Causal::bottom_right)
    values.causal_offset = values.k.tokens - values.q.tokens;
  if (options.softmax_scale != 0) values.softmax_scale = checked_scale(options.softmax_scale);
  return result;
}

}  // namespace sagegen::cli
