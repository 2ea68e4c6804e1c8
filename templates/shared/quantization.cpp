#include "templates/shared/quantization.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <string>
#include <vector>

namespace sagegen {

std::string_view to_string(Granularity value) {
  switch (value) {
    case Granularity::per_thread:
      return "per_thread";
    case Granularity::per_block:
      return "per_block";
    case Granularity::per_token:
      return "per_token";
    case Granularity::per_tensor:
      return "per_tensor";
  }
  return "?";
}

std::string_view to_string(ValueSmoothing value) {
  return value == ValueSmoothing::mean ? "mean" : "none";
}

std::string_view to_string(Rotation value) {
  return value == Rotation::hadamard ? "hadamard" : "none";
}

std::string_view to_string(Smoothing value) {
  switch (value) {
    case Smoothing::none:
      return "none";
    case Smoothing::k:
      return "k";
    case Smoothing::qk:
      return "qk";
  }
  return "?";
}

std::string_view to_string(Accumulation value) {
  switch (value) {
    case Accumulation::f32:
      return "f32";
    case Accumulation::two_level_f32:
      return "two_level_f32";
    case Accumulation::f32_f16:
      return "f32_f16";
  }
  return "?";
}

std::string_view to_string(CodeRange value) {
  switch (value) {
    case CodeRange::usual:
      return "usual";
    case CodeRange::fine_v:
      return "fine_v";
  }
  return "?";
}

Values head_dims() { return numbers({32, 64, 72, 80, 96, 128, 160, 192, 256}); }
int head_dim_for(std::int64_t channels) {
  for (const int head_dim : head_dims().allowed) {
    if (channels <= head_dim) return head_dim;
  }
  return static_cast<int>(channels);
}
Values io_types() { return words<DType>({{DType::f16, "f16"}, {DType::bf16, "bf16"}}); }
Values value_code_types() { return words<DType>({{DType::f16, "f16"}, {DType::e4m3, "e4m3"}}); }
Values code_types() { return words<DType>({{DType::s8, "s8"}, {DType::s4, "s4"}}); }
Values groups() { return numbers({16, 32, 64, 128}); }

std::string head_dim_advice(int head_dim) {
  std::vector<std::string> all;
  for (const int each : head_dims().allowed) all.push_back(std::to_string(each));
  const std::string last = all.back();
  all.pop_back();
  std::string advice = head_dim < 1 ? "a head has channels" : "larger heads are not generated yet";
  if (head_dim >= 1 && head_dim_for(head_dim) != head_dim) {
    advice = fmt::format(
        "pad the channels of Q, K and V with zeros up to {} and keep the softmax scale of the "
        "original head_dim",
        head_dim_for(head_dim));
  }
  return fmt::format("kernels exist for {} and {}; {}", fmt::join(all, ", "), last, advice);
}

std::string no_room_for_mean(DType codes, int head_dim) {
  return fmt::format(
      "{} at head_dim {} is refused: sums of {} products of codes up to {:.0f} leave no room below "
      "2^22 for the score of a mean query to start from",
      to_string(codes), head_dim, head_dim, largest_code(codes));
}

std::string io_advice(int) { return "Q, K, V and O are f16 or bf16; convert them first"; }

std::string codes_advice(int) { return "Q and K are quantized to integers; use s8 or s4"; }

std::string value_codes_advice(int) { return "V is quantized to f16 or e4m3; use one of them"; }

std::string group_advice(int) {
  return fmt::format(
      "a group of rows that share scales is a power of two from {} to {}, as each row takes a "
      "register of its quantization",
      kMinGroup, kMaxGroup);
}

}  // namespace sagegen
