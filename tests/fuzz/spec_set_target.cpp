// read_spec_set on any bytes: it returns valid kernels, or throws SpecError that begins with the file's name.
#include <cstdlib>
#include <string_view>

#include "sagegen/error.h"
#include "sagegen/spec.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    for (const sagegen::KernelSpec& spec : sagegen::read_spec_set(text, "fuzz.toml")) {
      if (!sagegen::violations(spec).empty()) std::abort();
    }
  } catch (const sagegen::SpecError& error) {
    if (!std::string_view(error.what()).starts_with("fuzz.toml:")) std::abort();
  }
  return 0;
}
