// The reader of bundles on any bytes: texts by name, or ArtifactError.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "runtime/artifacts/bundle_format.h"
#include "sagegen/runtime/bundle.h"
#include "sagegen/runtime/error.h"

using namespace sagegen::runtime;

namespace {

void read_all(std::string bytes) {
  try {
    const Bundle bundle = Bundle::parse(std::move(bytes), "input");
    std::string_view previous;
    for (const std::string_view name : bundle.names()) {
      if (name.data()[name.size()] != '\0' || name <= previous) std::abort();
      previous = name;
      try {
        if (!bundle.find(name).has_value()) std::abort();
      } catch (const ArtifactError&) {  // the others may be sound
      }
    }
  } catch (const ArtifactError&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace bundle_format;
  std::string bytes(reinterpret_cast<const char*>(data), size);
  read_all(bytes);
  if (size < kHeaderBytes) return 0;
  // Once more with the checksum that belongs to the index, which otherwise shields all behind it.
  const auto number = [&](std::size_t at) {
    std::size_t value = 0;
    for (std::size_t i = 4; i-- > 0;) value = value << 8 | data[at + i];
    return value;
  };
  std::size_t end = kHeaderBytes + number(kCountAt) * kIndexBytes;
  if (end > size) return 0;
  for (std::size_t i = 0; i < number(kCountAt); ++i)
    end += number(kHeaderBytes + i * kIndexBytes) + 1;
  if (end > size) return 0;
  const std::uint64_t check =
      fnv1a(std::string_view(bytes).substr(kHeaderBytes, end - kHeaderBytes));
  for (int i = 0; i < 8; ++i)
    bytes[kCheckAt + static_cast<std::size_t>(i)] = static_cast<char>(check >> (8 * i) & 0xff);
  read_all(std::move(bytes));
  return 0;
}
