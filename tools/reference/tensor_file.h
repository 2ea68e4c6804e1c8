// Tensor files: safetensors (F16, BF16, F32) and npy (versions 1 and 2; f2, f4, f8; C order).
//
// The readers trust nothing: sizes are checked against the bytes that are there before anything is
// allocated, and every refusal is a FileError that names the file, the tensor and the broken rule.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tools/reference/reference.h"
#include "tools/reference/whole_file.h"

namespace sagegen::reference {

// A tensor as a file holds it, in C order. Values of f8 files are rounded to float.
struct StoredTensor {
  std::string name;
  IoType type = IoType::f32;
  std::vector<std::int64_t> shape;
  std::vector<float> data;
};

struct TensorFile {
  std::map<std::string, std::string> metadata;
  std::vector<StoredTensor> tensors;  // in the order of their data
  const StoredTensor* find(std::string_view name) const;
};

// An array of any type that npy files hold, as bytes in C order.
struct NpyArray {
  std::string descr;  // "<f4", "|u1": numpy's name of the type
  std::vector<std::int64_t> shape;
  std::vector<std::uint8_t> data;
};

using Bytes = std::span<const std::uint8_t>;

// `file` is only used in messages.
TensorFile parse_safetensors(Bytes bytes, const std::string& file);
StoredTensor parse_npy(Bytes bytes, const std::string& file);
NpyArray parse_npy_array(Bytes bytes, const std::string& file);

// The same tensors always give the same bytes. Values are rounded to each tensor's type.
std::vector<std::uint8_t> format_safetensors(const TensorFile& contents);
std::vector<std::uint8_t> format_npy(const StoredTensor& tensor);
std::vector<std::uint8_t> format_npy_array(const NpyArray& array);

// Files may be pipes. Writing replaces a file as a whole (whole_file.h).
TensorFile read_safetensors(const std::string& path);
StoredTensor read_npy(const std::string& path);
void write_safetensors(const std::string& path, const TensorFile& contents);
void write_npy(const std::string& path, const StoredTensor& tensor);

// What the four dimensions of a tensor are, from the outermost: [batch, head, token, channel] or
// [batch, token, head, channel].
enum class AxisOrder { hnd, nhd };

// Q, K and V of one attention, 4-D. With one path: a safetensors file with tensors `q`, `k`, `v`, or
// `<prefix>.q` and so on, of which only these three are read. With three: npy files of Q, K, V in this
// order. Refuses shapes that do not belong together, empty tensors, NaN and infinity.
struct LoadedInputs {
  Inputs inputs;              // [batch, head, token, channel], whatever the order in the file
  IoType type = IoType::f16;  // of Q, K and V as stored; f32 if they differ
};
LoadedInputs load_qkv(const std::vector<std::string>& paths, const std::string& prefix = {},
                      AxisOrder order = AxisOrder::hnd);

// Whether the sizes look as if the file had the other order: more heads than tokens in both Q and K.
bool looks_misordered(const Inputs& inputs);

// The prefixes for which a file has q, k and v; "" if it has them bare.
std::vector<std::string> qkv_prefixes(const TensorFile& file);

}  // namespace sagegen::reference
