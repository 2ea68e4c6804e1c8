#include "templates/attention/plan_choice.h"

#include <algorithm>
#include <optional>
#include <vector>

#include <fmt/format.h>

#include "generator/vocabulary/unknown_word.h"
#include "sagegen/error.h"
#include "sagegen/runtime/artifacts.h"
#include "templates/attention/spec.h"

namespace sagegen::attention {
namespace {

constexpr std::string_view kMode = "mode";

struct Word {
  std::string_view name;
  std::optional<std::string_view> value;  // absent: a flag by itself
};

std::vector<Word> split(std::string_view text) {
  constexpr std::string_view kBlanks = " \t\n";
  std::vector<Word> words;
  while (true) {
    text.remove_prefix(std::min(text.find_first_not_of(kBlanks), text.size()));
    if (text.empty()) return words;
    const std::string_view word = text.substr(0, text.find_first_of(kBlanks));
    text.remove_prefix(word.size());
    const std::size_t equals = word.find('=');
    if (equals == std::string_view::npos)
      words.push_back({word, {}});
    else
      words.push_back({word.substr(0, equals), word.substr(equals + 1)});
  }
}

const Word* find(const std::vector<Word>& words, std::string_view name) {
  const auto found = std::ranges::find(words, name, &Word::name);
  return found == words.end() ? nullptr : &*found;
}

const Mode* find_mode(std::string_view name) {
  const auto found = std::ranges::find(modes(), name, &Mode::name);
  return found == modes().end() ? nullptr : &*found;
}

void refuse_unknown(const std::vector<Word>& words) {
  std::vector<std::string> known = detail::option_names(family());
  known.emplace_back(kMode);
  for (const Word& word : words) {
    if (std::ranges::find(known, word.name) != known.end()) continue;
    if (!word.value && find_mode(word.name) != nullptr) {
      throw SpecError(fmt::format("option \"{0}\" is refused: write name=value; did you mean mode={0}?",
                                  word.name));
    }
    throw SpecError(detail::unknown_option(word.name, known));
  }
}

const Mode& mode_of(const Word& word, const std::vector<Word>& words) {
  if (std::ranges::count(words, kMode, &Word::name) > 1)
    throw SpecError("option mode stands twice; give it once");
  for (const std::string_view same : {"qk", "pv"}) {
    if (find(words, same) == nullptr) continue;
    throw SpecError(fmt::format("mode says what qk and pv are, and {} is given beside it; leave one of the "
                                "two out", same));
  }
  if (const Mode* mode = find_mode(word.value.value_or(""))) return *mode;
  std::vector<std::string> names;
  for (const Mode& each : modes()) names.emplace_back(each.name);
  throw SpecError(detail::unknown_value(kMode, word.value.value_or(""), names));
}

// FP8 where the device has it, whatever its driver: the load then says what the driver lacks.
Target fp8_target(const runtime::Device& device, const Mode& mode) {
  const int capability = device.compute_capability();
  const Target target = runtime::best_target(capability);
  if (target_info(target).has(Feature::fp8_mma)) return target;
  throw SpecError(fmt::format(
      "attention: mode {} needs FP8 tensor cores, and {} (compute capability {}.{}) has none; use P V of 16 bits "
      "(int8-fp16, int4-fp16, 16bit), or leave mode out for what suits the device",
      mode.name, device.name(), capability / 10, capability % 10));
}

// The same words with the formats that the mode stands for in place of its name.
std::string spelled_out(const std::vector<Word>& words, const Mode* mode) {
  std::string text, io(to_string(Spec{}.io));
  const auto add = [&](std::string_view name, std::string_view equals, std::string_view value) {
    text += fmt::format("{}{}{}{}", text.empty() ? "" : " ", name, equals, value);
  };
  for (const Word& word : words) {
    if (word.name == "io") io = word.value.value_or("");
    if (word.name != kMode) add(word.name, word.value ? "=" : "", word.value.value_or(""));
  }
  if (mode != nullptr) {
    add("qk", "=", mode->qk ? to_string(*mode->qk) : io);
    add("pv", "=", mode->pv ? to_string(*mode->pv) : io);
  }
  return text;
}

}  // namespace

KernelChoice choose_kernel(const runtime::Device& device, std::string_view text) {
  if (text.starts_with("sage_")) {
    const Kernel kernel = parse_key(text);
    if (&kernel.family() != &family()) {
      throw SpecError(fmt::format("\"{}\" is the key of a kernel that prepares inputs; an attention kernel's begins with "
                                  "sage_fwd_", text));
    }
    return {kernel, {}};
  }
  const std::vector<Word> words = split(text);
  refuse_unknown(words);
  const Word* named = find(words, kMode);
  const Mode* mode = named == nullptr ? nullptr : &mode_of(*named, words);
  const auto is_given = [&](std::string_view name) { return find(words, name) != nullptr; };
  const bool fp8 = mode != nullptr && mode->pv == DType::e4m3;
  const bool decided = std::ranges::any_of(
      std::vector<std::string_view>{"qk", "pv", "accumulation", "code_range", "out", "schedule"}, is_given);
  const Target target = fp8       ? fp8_target(device, *mode)
                        : decided ? runtime::best_target(device.compute_capability())
                                  : runtime::best_target(device);
  return {kernel_of_options(family(), spelled_out(words, mode), target),
          fp8 || decided ? "" : runtime::best_target_note(device)};
}

}  // namespace sagegen::attention
