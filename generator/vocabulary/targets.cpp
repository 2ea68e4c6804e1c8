// The targets whose kernels sagegen generates. Limits of shared memory: CUDA C++ Programming Guide,
// "Technical Specifications per Compute Capability" (1 KB of each block is the system's). PTX
// versions: the higher of the target's own and what its instructions ask for (e4m3 mma: 8.4).
#include <algorithm>
#include <cctype>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "generator/vocabulary/detail.h"
#include "generator/vocabulary/suggestion.h"
#include "sagegen/error.h"
#include "sagegen/target.h"

namespace sagegen {
namespace {

constexpr int kKiB = 1024;
constexpr int kNoDevice = 1000;  // more than any compute capability, times ten

std::string supported_names() {
  std::vector<std::string> names;
  for (const TargetInfo& info : supported_targets()) names.push_back(info.name);
  return fmt::format("{}", fmt::join(names, ", "));
}

// The number in "sm89", "SM-89", "compute_89", "8.9" or "89"; 0 for other words.
int number_meant(std::string_view text) {
  int number = 0, digits = 0;
  std::string letters;
  for (const char c : text) {
    if (c >= '0' && c <= '9') {
      number = std::min(number * 10 + (c - '0'), kNoDevice);
      ++digits;
    } else if (digits == 0 && c != '_' && c != '-' && c != ' ') {
      letters += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    } else if (digits > 0 && c != '.' && c != 'a' && c != 'f') {
      return 0;
    }
  }
  return letters.empty() || letters == "sm" || letters == "compute" ? number : 0;
}

// Words for GPUs that are no compute capability. First the longer ones of those that begin alike.
struct Called {
  const char* word;  // lower case; letters and digits alone
  int number;        // compute capability times ten
};
constexpr Called kCalled[] = {
    {"ampere", 80},     {"a100", 80},   {"a30", 80},         {"ga100", 80},      {"a10", 86},
    {"a40", 86},        {"rtxa", 86},   {"ga10", 86},        {"rtx6000ada", 89}, {"rtx30", 86},
    {"rtx40", 89},      {"rtx50", 120}, {"adalovelace", 89}, {"ada", 89},        {"lovelace", 89},
    {"l40", 89},        {"l4", 89},     {"ad10", 89},        {"hopper", 90},     {"h100", 90},
    {"h200", 90},       {"h800", 90},   {"gh200", 90},       {"h20", 90},        {"b100", 100},
    {"b200", 100},      {"gb200", 100}, {"b300", 103},       {"gb300", 103},     {"rtxpro", 120},
    {"blackwell", 120}, {"gb20", 120},  {"thor", 110},       {"orin", 87},       {"turing", 75},
    {"t4", 75},         {"rtx20", 75},  {"gtx16", 75},       {"volta", 70},      {"v100", 70},
};

// The number of "ada" or "GeForce RTX 4090"; 0 for other words.
int number_called(std::string_view text) {
  std::string word;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte) != 0) word += static_cast<char>(std::tolower(byte));
  }
  for (const char* const brand : {"nvidia", "geforce", "tesla"}) {
    if (word.starts_with(brand)) word.erase(0, std::string_view(brand).size());
  }
  if (word.size() >= 4 && std::isdigit(static_cast<unsigned char>(word[0])) != 0)
    word = "rtx" + word;
  for (const Called& called : kCalled) {
    if (word.starts_with(called.word)) return called.number;
  }
  return 0;
}

// "sm_90a": with what only this architecture, or its family, can do.
std::string advice_for_suffix(std::string_view text) {
  if (text.empty() || (text.back() != 'a' && text.back() != 'f')) return {};
  return fmt::format(
      "the suffix {} asks for what {} alone can do (such as wgmma of sm_90a), which no kernel "
      "uses; ",
      text.back(), text.back() == 'a' ? "one architecture" : "one family");
}

}  // namespace

const std::vector<TargetInfo>& supported_targets() {
  static const std::vector<TargetInfo> targets{
      {.target = {.sm = 80},
       .name = "sm_80",
       .ptx_version = 70,
       .smem_per_block = 163 * kKiB,
       .smem_per_sm = 164 * kKiB,
       .features = features(Feature::s4_mma, Feature::warps_take_turns),
       .devices = "A100, A30"},
      {.target = {.sm = 86},
       .name = "sm_86",
       .ptx_version = 71,
       .smem_per_block = 99 * kKiB,
       .smem_per_sm = 100 * kKiB,
       .features = features(Feature::s4_mma),
       .devices = "A10, A40, RTX 3050 to 3090, RTX A2000 to A6000"},
      {.target = {.sm = 89},
       .name = "sm_89",
       .ptx_version = 84,
       .smem_per_block = 99 * kKiB,
       .smem_per_sm = 100 * kKiB,
       .features = features(Feature::fp8_mma, Feature::s4_mma),
       .devices = "L4, L40, L40S, RTX 4050 to 4090, RTX 6000 Ada"},
      {.target = {.sm = 120},
       .name = "sm_120",
       .ptx_version = 87,
       .smem_per_block = 99 * kKiB,
       .smem_per_sm = 100 * kKiB,
       .features = features(Feature::fp8_mma, Feature::warps_take_turns),
       .devices = "RTX 5050 to 5090, RTX PRO 6000 Blackwell"},
  };
  return targets;
}

const TargetInfo* find_target(Target target) {
  for (const TargetInfo& info : supported_targets()) {
    if (info.target == target) return &info;
  }
  return nullptr;
}

const TargetInfo& target_info(Target target) {
  if (const TargetInfo* info = find_target(target)) return *info;
  throw SpecError(fmt::format("target {} is not supported; use one of {}", to_string(target),
                              supported_names()));
}

std::string target_advice(std::string_view text) {
  const int written = number_meant(text);
  const int number = written > 0 && written < kNoDevice ? written : number_called(text);
  const TargetInfo* below = nullptr;  // the newest target whose PTX loads on such a device
  for (const TargetInfo& info : supported_targets()) {
    if (info.target.sm <= number && (below == nullptr || info.target.sm > below->target.sm))
      below = &info;
  }
  const std::string suffix = written > 0 ? advice_for_suffix(text) : "";
  if (number >= 50 && below == nullptr) {
    return fmt::format(
        "compute capability {}.{} is too old: kernels need 8.0 or later; use one of {}",
        number / 10, number % 10, supported_names());
  }
  if (below == nullptr) {
    std::vector<std::string> names;
    for (const TargetInfo& info : supported_targets()) names.push_back(info.name);
    return fmt::format("use one of {}{}", supported_names(), suggestion(text, names));
  }
  if (below->target.sm == number)
    return fmt::format("{}write {} (targets: {})", suffix, below->name, supported_names());
  return fmt::format(
      "{}no kernels are made for compute capability {}.{} alone, but PTX of lower targets loads "
      "there; "
      "use {} (targets: {})",
      suffix, number / 10, number % 10, below->name, supported_names());
}

const TargetInfo* detail::target_meant(std::string_view text) {
  return find_target({.sm = number_meant(text)});
}

Target parse_target(std::string_view text) {
  for (const TargetInfo& info : supported_targets()) {
    if (info.name == text) return info.target;
  }
  throw SpecError(
      fmt::format("unknown target \"{}\"; {}", detail::shown(text), target_advice(text)));
}

std::string to_string(Target target) {
  std::string text = fmt::format("sm_{}", target.sm);
  if (target.suffix != '\0') text += target.suffix;
  return text;
}

}  // namespace sagegen
