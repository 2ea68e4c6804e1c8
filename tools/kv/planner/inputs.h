// Inputs for the planner: those that were recorded, and some that need no model.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tools/reference/reference.h"

namespace sagegen::kv {

// The layers of a safetensors file with `<prefix>.q`, `.k` and `.v` of each: their prefixes, by the last number in them,
// which counts from 0 (layer0, model.layers.11.self_attn). Reads names only. Throws reference::FileError for a file in
// which no layer is, or not every one.
std::vector<std::string> recorded_layers(const std::string& path);

// A decoder with random weights: its attention has the structure of a language model's (rotary positions, heads of Q that
// share heads of K and V, channels of K that are far from zero and large, layers of different sharpness), but it has learned
// nothing. What a plan says of it is about the planner, not about any model.
struct DecoderShape {
  int layers = 8, q_heads = 8, kv_heads = 2, head_dim = 64;
  std::int64_t tokens = 256;
  // Channels of K, in each KV head, that a bias moves by about this many standard deviations before positions turn them:
  // those that turn the least, as in Llama and Qwen.
  int outlier_channels = 4;
  double outlier = 12;
  // About the standard deviation of a row's scores, but for what the bias adds, of the first layer and of the last one;
  // those between are geometric means.
  double first_sharpness = 0.5, last_sharpness = 3;
};

// Q and K after rotation, and V, of each layer, causal, rounded to f16. The same shape and seed give the same values, up to
// the rounding of sin, cos and exp2 of the machine. Throws SpecError for impossible shapes.
std::vector<reference::Inputs> decoder_inputs(const DecoderShape& shape, std::uint64_t seed);

}  // namespace sagegen::kv
