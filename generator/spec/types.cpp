#include "sagegen/types.h"

#include <algorithm>
#include <utility>

namespace sagegen {
namespace {

template <typename Enum>
using Words = std::vector<std::pair<Enum, std::string_view>>;

// One table per enumeration, in the order of its declaration.
template <typename Enum>
const Words<Enum>& table();

template <>
const Words<DType>& table() {
  static const Words<DType> words{{DType::f16, "f16"},  {DType::bf16, "bf16"}, {DType::f32, "f32"},
                                  {DType::s32, "s32"},  {DType::s8, "s8"},     {DType::s4, "s4"},
                                  {DType::e4m3, "e4m3"}};
  return words;
}

template <>
const Words<Mask>& table() {
  static const Words<Mask> words{{Mask::none, "none"}, {Mask::causal, "causal"}};
  return words;
}

template <>
const Words<Granularity>& table() {
  static const Words<Granularity> words{{Granularity::per_thread, "per_thread"},
                                        {Granularity::per_block, "per_block"}};
  return words;
}

template <>
const Words<Smoothing>& table() {
  static const Words<Smoothing> words{{Smoothing::none, "none"}, {Smoothing::k, "k"}};
  return words;
}

template <>
const Words<Accumulation>& table() {
  static const Words<Accumulation> words{{Accumulation::f32, "f32"},
                                         {Accumulation::two_level_f32, "two_level_f32"}};
  return words;
}

template <>
const Words<KernelKind>& table() {
  static const Words<KernelKind> words{{KernelKind::attention, "attention"},
                                       {KernelKind::kv_statistics, "kv_statistics"},
                                       {KernelKind::quantize_q, "quantize_q"},
                                       {KernelKind::quantize_k, "quantize_k"},
                                       {KernelKind::quantize_v, "quantize_v"}};
  return words;
}

template <typename Enum>
std::string_view word_of(Enum value) {
  for (const auto& [candidate, word] : table<Enum>()) {
    if (candidate == value) return word;
  }
  return "?";
}

}  // namespace

template <typename Enum>
std::optional<Enum> from_string(std::string_view word) {
  for (const auto& [value, candidate] : table<Enum>()) {
    if (candidate == word) return value;
  }
  return std::nullopt;
}

template <typename Enum>
const std::vector<std::string_view>& words() {
  static const std::vector<std::string_view> list = [] {
    std::vector<std::string_view> result;
    for (const auto& [value, word] : table<Enum>()) result.push_back(word);
    return result;
  }();
  return list;
}

template <typename Enum>
bool is_enumerator(Enum value) {
  return std::ranges::any_of(table<Enum>(),
                             [&](const auto& entry) { return entry.first == value; });
}

std::string_view to_string(DType value) { return word_of(value); }
std::string_view to_string(Mask value) { return word_of(value); }
std::string_view to_string(Granularity value) { return word_of(value); }
std::string_view to_string(Smoothing value) { return word_of(value); }
std::string_view to_string(Accumulation value) { return word_of(value); }
std::string_view to_string(KernelKind value) { return word_of(value); }

template std::optional<DType> from_string(std::string_view);
template std::optional<Mask> from_string(std::string_view);
template std::optional<Granularity> from_string(std::string_view);
template std::optional<Smoothing> from_string(std::string_view);
template std::optional<Accumulation> from_string(std::string_view);
template std::optional<KernelKind> from_string(std::string_view);

template bool is_enumerator(DType);
template bool is_enumerator(Mask);
template bool is_enumerator(Granularity);
template bool is_enumerator(Smoothing);
template bool is_enumerator(Accumulation);
template bool is_enumerator(KernelKind);

template const std::vector<std::string_view>& words<DType>();
template const std::vector<std::string_view>& words<Mask>();
template const std::vector<std::string_view>& words<Granularity>();
template const std::vector<std::string_view>& words<Smoothing>();
template const std::vector<std::string_view>& words<Accumulation>();
template const std::vector<std::string_view>& words<KernelKind>();

}  // namespace sagegen
