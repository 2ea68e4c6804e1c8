// parse_key on any bytes: it returns a kernel whose key is the input, or throws SpecError.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "sagegen/error.h"
#include "sagegen/kernel.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const sagegen::Kernel kernel = sagegen::parse_key(text);
    if (kernel.key() != text) std::abort();
    if (kernel.violations().empty() && kernel.resources().threads <= 0) std::abort();
  } catch (const sagegen::SpecError&) {
  }
  return 0;
}
