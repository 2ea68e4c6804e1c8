// What `run` and `compare` compute on: tensors from files or from a named distribution.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <CLI/CLI.hpp>

#include "sagegen/types.h"
#include "tools/reference/reference.h"
#include "tools/reference/tensor_file.h"

namespace sagegen::cli {

enum class Causal { none, top_left, bottom_right };
std::string_view causal_word(Causal causal);  // as --causal takes it

struct InputOptions {
  std::vector<std::string> files;  // one safetensors file, or npy files of Q, K and V
  std::string prefix;              // of the tensors' names in a safetensors file
  reference::AxisOrder order = reference::AxisOrder::hnd;  // of the files
  std::string distribution = "normal";
  // Of the distribution. 0 in kv_heads and kv_len: as for the queries; in head_dim: 128; in value_dim: head_dim.
  reference::Shape shape;
  std::uint64_t seed = 1;
  std::string dtype;             // f16, bf16 or empty: as in the file, else f16
  std::optional<Causal> causal;  // not given: none
  double softmax_scale = 0;      // 0: 1 / sqrt(head_dim)
};

struct RunInputs {
  reference::Inputs values;  // rounded to `io`
  DType io = DType::f16;
  Causal causal = Causal::none;
  std::string origin;   // in words: file or distribution and seed
  std::string warning;  // empty, or why the result may not be what was meant
};

// All but --prefix, of which commands take one or several.
void define_inputs(CLI::App& app, InputOptions& input);

// "head_dim 192", and "value_dim 128" where V has another number of channels.
std::string dims_text(const reference::Inputs& inputs);

// Throws FileError (naming file, tensor, index), UsageError.
RunInputs load_run_inputs(const InputOptions& options);

}  // namespace sagegen::cli
