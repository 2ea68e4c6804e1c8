// parse_key on any bytes: it returns a spec whose key is the input, or throws SpecError.
#include <cstdlib>
#include <string_view>

#include "sagegen/error.h"
#include "sagegen/spec.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const sagegen::KernelSpec spec = sagegen::parse_key(text);
    if (sagegen::key(spec) != text) std::abort();
    if (!(sagegen::canonical(spec) == spec)) std::abort();
    if (sagegen::violations(spec).empty() && sagegen::resources(spec).threads <= 0) std::abort();
  } catch (const sagegen::SpecError&) {
  }
  return 0;
}
