#include "tools/sagegen/run_kernel.h"

#include <algorithm>
#include <string_view>

#include <fmt/format.h>

#include "tools/sagegen/errors.h"
#include "tools/sagegen/help.h"
#include "tools/sagegen/kernel_choice.h"
#include "tools/sagegen/options.h"

namespace sagegen::cli {
namespace {

// Sets the groups of "g32x64", as a key writes them.
void set_groups(const std::string& text, attention::Spec& spec, Given& given) {
  Fields groups;
  for (const Field& field : attention::family().what) {
    if (field.name == "q_group" || field.name == "k_group") groups.push_back(field);
  }
  std::string_view rest = text;
  if (read_key_text(groups, rest, &spec) != nullptr || !rest.empty()) {
    throw UsageError(
        fmt::format("--groups {} is refused; it is g<q_group>x<k_group> as in a "
                    "kernel's key, for example g32x64",
                    text));
  }
  given.insert(given.end(), {"q_group", "k_group"});
}

}  // namespace

std::vector<std::string> run_mode_words() {
  std::vector<std::string> words = mode_names();
  words.insert(words.begin(), {"int8", "int4"});
  return words;
}

void define_run_kernel(CLI::App& app, RunKernelOptions& options) {
  const OptionGroup group(app, "Kernel");
  CLI::Option* key = app.add_option(
      "KEY", options.key, "an attention kernel by its key (default: what the options below say)");
  CLI::Option* set =
      app.add_option("--set", options.set_file,
                     "every attention kernel of a set description in TOML, a line for each");
  refuse_empty(key);
  refuse_empty(set);
  refuse_beside(set, key, "a kernel named by its key comes from no set");
  const auto decided_by_both = [&](CLI::Option* option) {
    refuse_beside(option, key, "the key says it; change the key, or leave one of the two out");
    refuse_beside(option, set, "the set says it; change the set, or leave one of the two out");
  };
  decided_by_both(app.add_option("--mode", options.mode,
                                 "of Q K^T and P V; int8 and int4: with what the target does best; "
                                 "16bit and bf16-fp8: Q and K as they are, f16 or bf16")
                      ->check(one_of(run_mode_words()))
                      ->capture_default_str());
  decided_by_both(
      app.add_option("--granularity", options.granularity,
                     "rows of Q and K that share a scale: per_thread, per_block, "
                     "per_warp (per_block, --groups g32x64), per_token or per_tensor")
          ->check(one_of({"per_thread", "per_block", "per_warp", "per_token", "per_tensor"}))
          ->capture_default_str());
  CLI::Option* groups = app.add_option("--groups", options.groups,
                                       "rows of Q and of K that are scaled together, for example "
                                       "g32x64 (default: by granularity)");
  refuse_empty(groups);
  decided_by_both(groups);
  decided_by_both(app.add_option("--accumulation", options.accumulation,
                                 "f32, two_level_f32 or f32_f16 (default: by mode)")
                      ->check(one_of({"f32", "two_level_f32", "f32_f16"})));
  decided_by_both(app.add_option("--code-range", options.code_range,
                                 "usual or fine_v, with --accumulation f32_f16 and FP8: whether "
                                 "codes of P or of V have one octave more")
                      ->check(one_of({"usual", "fine_v"}))
                      ->capture_default_str());
  CLI::Option* schedule = app.add_option(
      "--schedule", options.schedule,
      "tiles, warps and stages, for example q64k64w4s3 (default: by target and head_dim)");
  refuse_empty(schedule);
  decided_by_both(schedule);
  decided_by_both(app.add_option("--smoothing", options.smoothing,
                                 "means that are subtracted before quantization: none, k (of K) or "
                                 "qk (default: k, with INT4 qk)")
                      ->check(one_of({"none", "k", "qk"})));
  decided_by_both(app.add_option("--v-smoothing", options.v_smoothing,
                                 "none or mean: whether of V the mean is subtracted before "
                                 "quantization, and added to the result")
                      ->check(one_of({"none", "mean"}))
                      ->capture_default_str());
  decided_by_both(app.add_option("--rotation", options.rotation,
                                 "none or hadamard: of Q and K before quantization, so that no "
                                 "channel is much larger than others")
                      ->check(one_of({"none", "hadamard"}))
                      ->capture_default_str());
  decided_by_both(app.add_flag("--pack-gqa", options.pack_gqa,
                               "tiles of queries hold rows of all heads that share one of K and V: "
                               "for few queries of many heads"));
  decided_by_both(
      app.add_option("--output", options.output,
                     "io, e4m3 (of O times 16) or s8 (a scale per row): what O is written as")
          ->check(one_of({"io", "e4m3", "s8"}))
          ->capture_default_str());
  options.named = key;
  options.of_set = set;
}

std::optional<Kernel> kernel_by_key(const RunKernelOptions& options, const std::string& target) {
  if (options.key.empty()) return std::nullopt;
  const Kernel kernel = kernel_of_key(options.key);
  if (&kernel.family() != &attention::family()) {
    throw UsageError(fmt::format(
        "{} is refused: it prepares inputs of attention kernels, and runs with them; give the key "
        "of one, sage_fwd_...",
        options.key));
  }
  return target.empty() ? kernel : kernel.on(parse_target(target));
}

std::vector<Kernel> kernels_of_set(const RunKernelOptions& options, const std::string& target) {
  std::vector<Kernel> kernels =
      chosen_kernels({.keys = {}, .set_file = options.set_file, .target = target});
  std::erase_if(kernels,
                [](const Kernel& kernel) { return &kernel.family() != &attention::family(); });
  return kernels;
}

Kernel kernel_by_words(const RunKernelOptions& options, attention::Spec spec, Target target) {
  const auto& family = attention::family();
  Given given{"granularity"};
  const bool per_warp = options.granularity == "per_warp";
  set_field(family.what, &spec, "granularity", per_warp ? "per_block" : options.granularity);
  if (per_warp) given.push_back("q_group");
  if (options.mode == "int4") spec.qk = DType::s4;
  for (const attention::Mode& mode : attention::modes()) {
    if (mode.name != options.mode) continue;
    spec = attention::with_mode(spec, mode);
    given.push_back("pv");
  }
  if (!options.accumulation.empty()) {
    set_field(family.what, &spec, "accumulation", options.accumulation);
    given.push_back("accumulation");
  }
  set_field(family.what, &spec, "code_range", options.code_range);
  set_field(family.what, &spec, "v_smoothing", options.v_smoothing);
  set_field(family.what, &spec, "rotation", options.rotation);
  spec.pack_gqa = options.pack_gqa;
  set_field(family.what, &spec, "out", options.output);
  if (!options.groups.empty()) set_groups(options.groups, spec, given);
  if (!options.smoothing.empty()) {
    set_field(family.what, &spec, "smoothing", options.smoothing);
    given.push_back("smoothing");
  }
  family.complete(&spec, given, target_info(target));
  const Kernel kernel(family, spec, target);
  if (options.schedule.empty()) return kernel;
  try {
    return kernel.with_schedule(options.schedule);
  } catch (const SpecError&) {
    throw UsageError(
        fmt::format("--schedule {} is refused; it is q<cta_q>k<cta_k>w<warps>s<stages> as in a "
                    "kernel's key, for example q128k64w4s2",
                    options.schedule));
  }
}

void validate_attention(const Kernel& kernel) {
  kernel.validate();  // first, so that a bad problem is not blamed on a helper
  for (const Kernel& input : kernel.inputs()) input.validate();
}

InputOptions inputs_of_kernel(InputOptions options, const Kernel& kernel) {
  const attention::Spec& spec = kernel.view(attention::family()).spec;
  const bool causal = spec.causal;
  if (!options.causal) options.causal = causal ? Causal::top_left : Causal::none;
  if (causal != (*options.causal != Causal::none)) {
    throw UsageError(fmt::format("--causal is refused: {} is {}; {}", kernel.key(),
                                 causal ? "causal" : "not causal",
                                 causal ? "use top-left or bottom-right, or leave it out"
                                        : "leave it out, or take a kernel that is"));
  }
  options.dtype = to_string(spec.io);
  if (options.shape.value_dim == 0) {
    // As many as Q and K have, unless the kernel has a number for V.
    const bool alike = spec.value_dim == 0 && options.shape.head_dim != 0;
    options.shape.value_dim = alike ? options.shape.head_dim : attention::value_dim(spec);
  }
  if (options.shape.head_dim == 0) options.shape.head_dim = spec.head_dim;
  return options;
}

void check_channels(const RunInputs& inputs, const Kernel& kernel) {
  const attention::Spec& spec = kernel.view(attention::family()).spec;
  if (inputs.values.q.channels > spec.head_dim) {
    throw UsageError(
        fmt::format("inputs of {} channels are refused: {} takes at most {}; use a "
                    "kernel of a larger head_dim, or a smaller --head-dim",
                    inputs.values.q.channels, kernel.key(), spec.head_dim));
  }
  if (inputs.values.v.channels > attention::value_dim(spec)) {
    throw UsageError(
        fmt::format("V of {} channels is refused: {} takes at most {}; use a "
                    "kernel of a larger value_dim, or a smaller --value-dim",
                    inputs.values.v.channels, kernel.key(), attention::value_dim(spec)));
  }
}

}  // namespace sagegen::cli
