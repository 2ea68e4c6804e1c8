#include "sagegen/params.h"

#include <algorithm>

#include <fmt/format.h>

#include "sagegen/error.h"

namespace sagegen {

void ParamLayout::add(std::string_view name, std::size_t bytes, std::size_t align,
                      std::size_t members, const std::vector<ParamField>& fields) {
  if (has(name)) throw InternalError(fmt::format("parameter block {} stands twice", name));
  if (fields.size() != members) {
    throw InternalError(fmt::format("parameter block {} has {} members, and its fields() names {}",
                                    name, members, fields.size()));
  }
  bytes_ = (bytes_ + align - 1) / align * align;
  text_ += fmt::format("{}{}@{}{{", text_.empty() ? "" : " ", name, bytes_);
  std::size_t end = 0;
  for (const ParamField& field : fields) {
    if (field.offset != end) {
      throw InternalError(fmt::format(
          "parameter block {}: {} is at byte {}, and what is named before it ends at byte {}", name,
          field.name, field.offset, end));
    }
    text_ += fmt::format("{}{}:{}@{}", end == 0 ? "" : ", ", field.name, field.type, field.offset);
    end = field.offset + field.bytes;
  }
  text_ += '}';
  blocks_.push_back({name, bytes_, end});
  bytes_ += bytes;
  if (bytes_ > kMaxBytes)
    throw InternalError(fmt::format("parameters of {} bytes; {} are possible", bytes_, kMaxBytes));
}

bool ParamLayout::has(std::string_view block) const {
  return std::ranges::any_of(blocks_, [&](const Block& known) { return known.name == block; });
}

const ParamLayout::Block& ParamLayout::find(std::string_view name) const {
  for (const Block& block : blocks_) {  // the same literal, as a rule
    if (block.name.data() == name.data() && block.name.size() == name.size()) return block;
  }
  for (const Block& block : blocks_) {
    if (block.name == name) return block;
  }
  throw InternalError(fmt::format("this kernel has no parameter block {}; it has {}", name,
                                  text_.empty() ? "none" : text_));
}

// FNV-1a, 64 bits.
std::uint64_t ParamLayout::digest() const {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text_) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

ParamPack::ParamPack(const ParamLayout& layout) : layout_(layout) {
  if (layout.bytes() > kMaxBytes) {
    throw InternalError(
        fmt::format("parameters of {} bytes; a launch passes {}", layout.bytes(), kMaxBytes));
  }
  std::memset(bytes_.data(), 0, layout.bytes());
}

}  // namespace sagegen
