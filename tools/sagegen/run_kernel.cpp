#include "tools/sagegen/run_kernel.h"

#include <algorithm>
#include <charconv>
#include <string_view>

#include <fmt/format.h>

#include "tools/sagegen/errors.h"
#include "tools/sagegen/kernel_choice.h"
#include "tools/sagegen/options.h"

namespace sagegen::cli {
namespace {

// "q64k64w4s3" with the letters "qkws" -> 64, 64, 4, 3
std::vector<int> numbers_in(std::string_view text, std::string_view letters,
                            const std::string& refusal) {
  constexpr std::size_t kMostDigits = 6;
  std::vector<int> numbers;
  std::string_view rest = text;
  for (const char letter : letters) {
    int number = 0;
    const std::size_t begin = rest.starts_with(letter) ? 1 : 0;
    const std::size_t end = std::min(rest.find_first_not_of("0123456789", begin), rest.size());
    if (begin == 0 || end == begin || end - begin > kMostDigits) throw UsageError(refusal);
    std::from_chars(rest.data() + begin, rest.data() + end, number);
    numbers.push_back(number);
    rest.remove_prefix(end);
  }
  if (!rest.empty()) throw UsageError(refusal);
  return numbers;
}

TileSchedule schedule_of(const std::string& text) {
  const std::vector<int> n = numbers_in(
      text, "qkws",
      fmt::format("--schedule {} is refused; it is q<cta_q>k<cta_k>w<warps>s<stages> as in a "
                  "kernel's key, for example q128k64w4s2",
                  text));
  return {.cta_q = n[0], .cta_k = n[1], .warps = n[2], .stages = n[3]};
}

std::vector<int> groups_of(const std::string& text) {
  return numbers_in(text, "gx",
                    fmt::format("--groups {} is refused; it is g<q_group>x<k_group> as in a "
                                "kernel's key, for example g32x64",
                                text));
}

}  // namespace

void define_run_kernel(CLI::App& app, RunKernelOptions& options) {
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
                                 "int8 (what the target does best), int8-fp8 or int8-fp16")
                      ->check(CLI::IsMember({"int8", "int8-fp8", "int8-fp16"}))
                      ->capture_default_str());
  decided_by_both(app.add_option("--granularity", options.granularity, "per_thread or per_block")
                      ->check(CLI::IsMember({"per_thread", "per_block"}))
                      ->capture_default_str());
  CLI::Option* groups = app.add_option("--groups", options.groups,
                                       "rows of Q and of K that are scaled together, for example "
                                       "g32x64 (default: by granularity)");
  refuse_empty(groups);
  decided_by_both(groups);
  decided_by_both(app.add_option("--accumulation", options.accumulation,
                                 "f32 or two_level_f32 (default: by mode)")
                      ->check(CLI::IsMember({"f32", "two_level_f32"})));
  CLI::Option* schedule = app.add_option(
      "--schedule", options.schedule,
      "tiles, warps and stages, for example q64k64w4s3 (default: by target and head_dim)");
  refuse_empty(schedule);
  decided_by_both(schedule);
  refuse_beside(app.add_flag("--no-smooth-k", options.no_smooth_k, "do not subtract the mean of K"),
                set, "the set says it; change the set, or leave one of the two out");
  options.named = key;
  options.of_set = set;
}

std::optional<KernelSpec> kernel_by_key(const RunKernelOptions& options,
                                        const std::string& target) {
  if (options.key.empty()) return std::nullopt;
  KernelSpec kernel = kernel_of_key(options.key);
  if (kernel.kind != KernelKind::attention) {
    throw UsageError(fmt::format(
        "{} is refused: it prepares inputs of attention kernels, and runs with them; give the key "
        "of one, sage_fwd_...",
        options.key));
  }
  if (!target.empty()) kernel.target = parse_target(target);
  kernel.quant.smoothing = options.no_smooth_k ? Smoothing::none : Smoothing::k;
  return kernel;
}

std::vector<KernelSpec> kernels_of_set(const RunKernelOptions& options, const std::string& target) {
  const std::vector<KernelSpec> set =
      chosen_kernels({.keys = {}, .set_file = options.set_file, .target = target});
  std::vector<KernelSpec> kernels;
  for (KernelSpec kernel : set) {
    if (kernel.kind != KernelKind::attention) continue;
    for (const Smoothing smoothing : {Smoothing::k, Smoothing::none}) {
      kernel.quant.smoothing = smoothing;
      const KernelSpec quantize_k =
          kernels_for(kernel.problem, kernel.quant, kernel.schedule, kernel.target).quantize_k;
      if (std::find(set.begin(), set.end(), quantize_k) != set.end()) kernels.push_back(kernel);
    }
  }
  return kernels;
}

KernelSpec kernel_by_words(const RunKernelOptions& options, const AttentionProblem& problem,
                           Target target) {
  QuantSpec quant = default_quant(target, *from_string<Granularity>(options.granularity));
  if (options.mode == "int8-fp8") quant = with_pv(quant, DType::e4m3);
  if (options.mode == "int8-fp16") quant = with_pv(quant, DType::f16);
  if (options.no_smooth_k) quant.smoothing = Smoothing::none;
  if (!options.accumulation.empty())
    quant.accumulation = *from_string<Accumulation>(options.accumulation);
  if (!options.groups.empty()) {
    const std::vector<int> groups = groups_of(options.groups);
    quant.q_group = groups[0];
    quant.k_group = groups[1];
  }
  const TileSchedule schedule = options.schedule.empty() ? default_schedule(problem, quant, target)
                                                         : schedule_of(options.schedule);
  return {.problem = problem, .quant = quant, .schedule = schedule, .target = target};
}

void validate_attention(const KernelSpec& kernel) {
  validate(kernel);  // first, so that a bad problem is not blamed on a helper
  for (const KernelSpec& each :
       kernels_for(kernel.problem, kernel.quant, kernel.schedule, kernel.target).in_order()) {
    validate(each);
  }
}

InputOptions inputs_of_kernel(InputOptions options, const KernelSpec& kernel) {
  const bool causal = kernel.problem.mask == Mask::causal;
  if (!options.causal) options.causal = causal ? Causal::top_left : Causal::none;
  if (causal != (*options.causal != Causal::none)) {
    throw UsageError(fmt::format("--causal is refused: {} is {}; {}", key(kernel),
                                 causal ? "causal" : "not causal",
                                 causal ? "use top-left or bottom-right, or leave it out"
                                        : "leave it out, or take a kernel that is"));
  }
  options.dtype = to_string(kernel.problem.io);
  if (options.shape.head_dim == 0) options.shape.head_dim = kernel.problem.head_dim;
  return options;
}

void check_channels(const RunInputs& inputs, const KernelSpec& kernel) {
  const std::int64_t channels = inputs.values.q.channels;
  if (channels <= kernel.problem.head_dim) return;
  throw UsageError(
      fmt::format("inputs of {} channels are refused: {} takes at most {}; use a "
                  "kernel of a larger head_dim, or a smaller --head-dim",
                  channels, key(kernel), kernel.problem.head_dim));
}

}  // namespace sagegen::cli
