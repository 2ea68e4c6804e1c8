// The rules for what a caller may pass to a plan. Pure arithmetic on addresses and strides: no memory is
// touched and nothing is launched. Everything throws ArgumentError that names plan, tensor, rule and numbers.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "sagegen/runtime/error.h"
#include "sagegen/runtime/tensor.h"

namespace sagegen::runtime {

// What a tensor's elements take, and how many of them one access moves: strides are multiples of that. Powers of two,
// as all alignments are.
struct ElementRule {
  std::int64_t bytes = 2, step = 8;
};

class ArgumentCheck {
 public:
  explicit ArgumentCheck(const char* plan) : plan_(plan) {}

  enum class Access { read, write };
  // A tensor [batch, heads, tokens, channels].
  void tensor(const char* name, const TensorView& view, std::int64_t batch, std::int64_t heads,
              std::int64_t tokens, int channels, Access access, const ElementRule& elements = {});
  // Contiguous bytes.
  void array(const char* name, DevicePtr data, std::uint64_t bytes, std::uint64_t alignment,
             Access access);
  // The plan's scratch memory, of which `needed` bytes are used: if none, it may lie anywhere.
  void workspace(DevicePtr data, std::size_t bytes, std::size_t needed);
  // What is written overlaps nothing else. Overlap is judged by the ranges of addresses that tensors span.
  void overlaps() const;

 private:
  // Bytes [begin, end) that a tensor spans, holes between its rows included.
  struct Range {
    const char* name;
    DevicePtr begin, end;
    Access access;
  };
  void add(const char* name, DevicePtr begin, std::uint64_t bytes, Access access);
  void address(const char* name, DevicePtr data, DevicePtr alignment) const;
  template <typename... Arguments>
  [[noreturn]] void refuse(std::string_view format, const Arguments&... arguments) const;

  static constexpr std::size_t kMost = 32;
  const char* plan_;
  std::array<Range, kMost> ranges_;
  std::size_t count_ = 0;
};

// Sizes of one call.
struct SizeRule {
  const char* name;
  std::int64_t value;
  std::int64_t limit;
  const char* reason;  // of the limit
};
inline constexpr std::int64_t kMaxGridYZ =
    65535;  // CUDA C++ Programming Guide, compute capabilities
inline constexpr std::int64_t kMaxLength = 0x7FFFFFFF;
void check_sizes(const char* plan, std::initializer_list<SizeRule> sizes);

// The length rounded up to a multiple of both units. Throws ArgumentError beyond kMaxLength.
std::int64_t padded_length(const char* plan, const char* name, std::int64_t length, int group,
                           int tile);
constexpr std::int64_t ceil_div(std::int64_t value, std::int64_t by) {
  return value / by + (value % by != 0);
}

}  // namespace sagegen::runtime
