// read_set on any bytes: it returns valid kernels, or throws SpecError that begins with the file's name.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "sagegen/error.h"
#include "sagegen/set.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    for (const sagegen::Kernel& kernel : sagegen::read_set(text, "fuzz.toml")) {
      if (!kernel.violations().empty()) std::abort();
    }
  } catch (const sagegen::SpecError& error) {
    if (!std::string_view(error.what()).starts_with("fuzz.toml:")) std::abort();
  }
  return 0;
}
