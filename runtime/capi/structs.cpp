#include "runtime/capi/structs.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include <fmt/format.h>

#include "sagegen/runtime/error.h"

namespace sagegen::capi {
namespace {

// No struct gets there: what says so was not set, and is not followed into memory that is not the caller's.
constexpr std::size_t kLargest = 4096;

}  // namespace

std::size_t checked_size(const void* from, const StructType& type, const char* call) {
  std::size_t size = 0;
  std::memcpy(&size, from, sizeof size);
  const auto refuse = [&](const std::string& why) {
    throw runtime::ArgumentError(fmt::format("{}: struct_size of {} is {}; {}", call, type.name, size, why));
  };
  if (size == 0) {
    refuse(fmt::format("set it to sizeof({0}), as {{.struct_size = sizeof({0}), ...}} does, and all fields that are not "
                       "needed to 0", type.name));
  }
  if (size < type.first_size || size > kLargest || size % sizeof(std::size_t) != 0) {
    refuse(fmt::format("no version of that struct has this size: it has {} bytes in this library ({}) and had {} in the "
                       "first one; set struct_size to sizeof({})",
                       type.size, SAGEGEN_VERSION, type.first_size, type.name));
  }
  return size;
}

void read_struct(void* to, const void* from, const StructType& type, const char* call) {
  const std::size_t size = checked_size(from, type, call);
  std::memcpy(to, from, std::min(size, type.size));
  const auto* bytes = static_cast<const unsigned char*>(from);
  if (size <= type.size || std::all_of(bytes + type.size, bytes + size, [](unsigned char b) { return b == 0; })) return;
  throw runtime::ArgumentError(fmt::format(
      "{}: {} has {} bytes, of which this library ({}) knows the first {}, and what follows is not 0: the program was "
      "compiled for a newer library and asks for something that this one does not have; leave the new fields 0, or use "
      "the libsagegen of that sagegen.h",
      call, type.name, size, SAGEGEN_VERSION, type.size));
}

void write_struct(void* to, const void* from, const StructType& type, const char* call) {
  const std::size_t size = checked_size(to, type, call);
  auto* bytes = static_cast<unsigned char*>(to);
  const std::size_t known = std::min(size, type.size);
  std::memcpy(bytes + sizeof size, static_cast<const unsigned char*>(from) + sizeof size, known - sizeof size);
  std::fill(bytes + known, bytes + size, static_cast<unsigned char>(0));
}

void refuse_other_size(std::size_t index, std::size_t size, std::size_t first, const StructType& type,
                       const char* call) {
  throw runtime::ArgumentError(fmt::format("{}: struct_size of {} is {} in element {} and {} in the first one; all elements of an "
                                  "array have the same size",
                                  call, type.name, size, index, first));
}

void need(const void* pointer, const char* call, const char* what) {
  if (pointer == nullptr) throw runtime::ArgumentError(fmt::format("{}: {} is null", call, what));
}

}  // namespace sagegen::capi
