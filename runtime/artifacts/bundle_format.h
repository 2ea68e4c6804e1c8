// What reader and writer of a bundle share; see bundle.h for the layout.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace sagegen::runtime::bundle_format {

inline constexpr std::string_view kMagic = "sgbundle";
inline constexpr std::uint32_t kVersion = 2, kOldestVersion = 1;  // written, and the oldest that is read
inline constexpr std::uint32_t kNoBase = 0xffffffff;
inline constexpr int kMostBases = 4;  // that stand behind one text: each is unpacked for it
inline constexpr std::size_t kVersionAt = 8, kCountAt = 12, kCheckAt = 16, kHeaderBytes = 24;
inline constexpr std::size_t kIndexBytes = 16;  // of one text

inline std::uint64_t fnv1a(std::string_view bytes) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const char byte : bytes) {
    hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001b3;
  }
  return hash;
}

}  // namespace sagegen::runtime::bundle_format
