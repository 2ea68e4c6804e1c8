// The parameter of a kernel: plain structs, "blocks", one after the other, passed by value as its only
// parameter. Templates read members through the blocks (KernelBuilder::params) and the runtime fills them,
// so there is one definition of every offset. A feature that is off has no block. A digest of names, types
// and offsets travels with each artifact: PTX of another layout is refused when it is loaded.
//
// A block names its members once:
//
//   struct RowsParams {
//     Address rows;
//     std::int32_t count;
//     static constexpr std::string_view kName = "rows";
//     static std::vector<ParamField> fields() {
//       return {param_field("rows", &RowsParams::rows), param_field("count", &RowsParams::count)};
//     }
//   };
//
// Conventions. Addresses are device addresses. Strides and lengths are in elements unless they say bytes.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace sagegen {

using Address = std::uint64_t;

// A caller's tensor [batch, head, token, channel] with any strides; channels are contiguous.
// Address and strides are multiples of 8 elements (16 bytes).
struct TensorParam {
  Address data;
  std::int64_t stride_batch;
  std::int64_t stride_head;
  std::int64_t stride_token;
};

struct ParamField {
  std::string_view name;
  std::string_view type;  // "u64"; for digests and messages
  std::uint32_t offset;   // bytes, in its block
  std::uint32_t bytes;
};

namespace detail {
template <typename T>
constexpr std::string_view param_type() {
  if constexpr (std::is_same_v<T, TensorParam>) return "tensor";
  if constexpr (std::is_same_v<T, Address>) return "address";
  if constexpr (std::is_same_v<T, std::int64_t>) return "s64";
  if constexpr (std::is_same_v<T, std::int32_t>) return "s32";
  if constexpr (std::is_same_v<T, float>) return "f32";
}

// How many members an aggregate has: as many as it can be initialized from.
struct AnyMember {
  template <typename T>
  operator T() const;
};
template <typename Block, typename... Before>
constexpr std::size_t member_count() {
  if constexpr (requires { Block{Before{}..., AnyMember{}}; }) {
    return member_count<Block, Before..., AnyMember>();
  } else {
    return sizeof...(Before);
  }
}
}  // namespace detail

// A pointer to a data member is its offset (Itanium C++ ABI, section 2.3.1).
template <typename Block, typename T>
std::size_t member_offset(T Block::*member) {
  static_assert(sizeof(member) == sizeof(std::ptrdiff_t) && std::is_standard_layout_v<Block>);
  return static_cast<std::size_t>(std::bit_cast<std::ptrdiff_t>(member));
}

template <typename Block, typename T>
ParamField param_field(std::string_view name, T Block::*member) {
  return {name, detail::param_type<T>(), static_cast<std::uint32_t>(member_offset(member)),
          static_cast<std::uint32_t>(sizeof(T))};
}

class ParamLayout {
 public:
  static constexpr std::size_t kMaxBytes = 4096;  // PTX ISA, kernel function parameters

  // Throws InternalError if fields() leaves a member out, if there is a hole between members (order them by
  // size), or if there is such a block already.
  template <typename Block>
  ParamLayout& add() {
    static_assert(std::is_trivially_copyable_v<Block> && std::is_standard_layout_v<Block>);
    add(Block::kName, sizeof(Block), alignof(Block), detail::member_count<Block>(),
        Block::fields());
    return *this;
  }
  // Bytes from the start. Throws InternalError if the kernel has no such block.
  template <typename Block>
  std::size_t offset() const {
    return offset(Block::kName);
  }
  std::size_t offset(std::string_view block) const { return find(block).offset; }
  bool has(std::string_view block) const;

  std::size_t bytes() const { return bytes_; }
  // "rows@0{rows:address@0, count:s32@8}": all that the digest is made of.
  const std::string& text() const { return text_; }
  std::uint64_t digest() const;

 private:
  void add(std::string_view name, std::size_t bytes, std::size_t align, std::size_t members,
           const std::vector<ParamField>& fields);

  friend class ParamPack;
  struct Block {
    std::string_view name;
    std::size_t offset;
    std::size_t bytes;  // without padding at the end
  };
  const Block& find(std::string_view name) const;
  std::vector<Block> blocks_;
  std::size_t bytes_ = 0;
  std::string text_;
};

// The bytes of one launch's parameter. What no block fills is zero, padding included.
class ParamPack {
 public:
  static constexpr std::size_t kMaxBytes = 1024;

  // Throws InternalError if the layout needs more than kMaxBytes.
  explicit ParamPack(const ParamLayout& layout);
  template <typename Block>
  void set(const Block& block) {
    const ParamLayout::Block& place = layout_.find(Block::kName);
    std::memcpy(bytes_.data() + place.offset, &block, place.bytes);
  }
  const void* data() const { return bytes_.data(); }
  std::size_t bytes() const { return layout_.bytes(); }

 private:
  const ParamLayout& layout_;
  alignas(64) std::array<std::byte, kMaxBytes> bytes_;
};

}  // namespace sagegen
