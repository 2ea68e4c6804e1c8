// The tensor file readers on any bytes: contents that survive being written and read, or FileError.
#include <cmath>
#include <cstdlib>

#include "tools/reference/tensor_file.h"

using namespace sagegen::reference;

namespace {

void require_same(const StoredTensor& a, const StoredTensor& b) {
  if (a.shape != b.shape || a.type != b.type || a.data.size() != b.data.size()) std::abort();
  for (std::size_t i = 0; i < a.data.size(); ++i) {
    const bool same = a.data[i] == b.data[i] || (std::isnan(a.data[i]) && std::isnan(b.data[i]));
    if (!same) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const Bytes bytes(data, size);
  try {
    const TensorFile file = parse_safetensors(bytes, "input");
    const TensorFile again = parse_safetensors(format_safetensors(file), "written");
    if (again.metadata != file.metadata || again.tensors.size() != file.tensors.size())
      std::abort();
    for (const StoredTensor& tensor : file.tensors) {
      if (again.find(tensor.name) == nullptr) std::abort();
      require_same(tensor, *again.find(tensor.name));
    }
  } catch (const FileError&) {
  }
  try {
    const StoredTensor tensor = parse_npy(bytes, "input");
    require_same(tensor, parse_npy(format_npy(tensor), "written"));
  } catch (const FileError&) {
  }
  try {
    const NpyArray array = parse_npy_array(bytes, "input");
    const NpyArray again = parse_npy_array(format_npy_array(array), "written");
    if (again.descr != array.descr || again.shape != array.shape || again.data != array.data)
      std::abort();
  } catch (const FileError&) {
  }
  return 0;
}
