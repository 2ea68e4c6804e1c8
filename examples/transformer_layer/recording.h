// Tensors of a safetensors file, f16 [batch, head, token, channel].
#pragma once

#include <cstdint>
#include <string>
#include <vector>

struct Recorded {
  std::int64_t heads = 0, tokens = 0, channels = 0;
  std::vector<std::uint16_t> bits;  // f16, [head, token, channel]
};

// Throws std::runtime_error that says what is missing. Of one batch.
Recorded read_recorded(const std::string& file, const std::string& name);

double of_f16(std::uint16_t bits);
std::uint16_t to_f16(double value);  // to nearest even
