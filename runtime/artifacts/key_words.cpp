#include "runtime/artifacts/key_words.h"

#include <algorithm>
#include <charconv>
#include <tuple>

namespace sagegen::runtime {

std::string_view family_of_key(std::string_view key) {
  const std::size_t first = key.find('_');
  return first == key.npos ? key : key.substr(0, key.find('_', first + 1));
}

std::optional<Target> target_of_key(std::string_view key) {
  const std::size_t at = key.rfind("_sm");
  if (at == key.npos) return std::nullopt;
  std::string_view word = key.substr(at + 3);
  Target target{.sm = 0, .suffix = '\0'};
  if (word.ends_with('a') || word.ends_with('f')) {
    target.suffix = word.back();
    word.remove_suffix(1);
  }
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), target.sm);
  if (error != std::errc() || end != word.data() + word.size() || target.sm <= 0)
    return std::nullopt;
  return target;
}

std::vector<Target> targets_of(std::span<const std::string_view> keys) {
  std::vector<Target> targets;
  for (const std::string_view key : keys) {
    if (const auto target = target_of_key(key)) targets.push_back(*target);
  }
  const auto order = [](Target target) { return std::tuple(target.sm, target.suffix); };
  std::ranges::sort(targets, {}, order);
  targets.erase(std::unique(targets.begin(), targets.end()), targets.end());
  return targets;
}

}  // namespace sagegen::runtime
