// A safetensors file that is read piece by piece: its header, then the tensors that are asked for. Internal
// to tools/reference.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "tools/reference/tensor_file.h"
#include "tools/reference/whole_file.h"

namespace sagegen::reference {

// A tensor as the header describes it; its type and its size are checked when it is decoded, so that those
// which nobody asks for may have any.
struct TensorEntry {
  std::string name, dtype;
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0, end = 0;  // bytes, counted from the beginning of the data
};

struct SafetensorsHeader {
  std::map<std::string, std::string> metadata;
  std::vector<TensorEntry>
      entries;                   // in the order of their data, which fill the file without holes
  std::uint64_t data_begin = 0;  // in the file
};

class SafetensorsFile {
 public:
  // Reads the header. Throws FileError, as every member does.
  explicit SafetensorsFile(const std::string& path);

  const SafetensorsHeader& header() const { return header_; }
  const TensorEntry* find(std::string_view name) const;
  StoredTensor read(const TensorEntry& entry) const;

 private:
  std::string file_;  // for messages
  InputFile input_;
  SafetensorsHeader header_;
};

}  // namespace sagegen::reference
