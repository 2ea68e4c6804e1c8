// kernel_of_options on any bytes, for every family: it returns a kernel whose own options give it again, or throws
// SpecError.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "sagegen/error.h"
#include "sagegen/kernel.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace sagegen;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  for (const Family* family : builtin_families().all()) {
    try {
      const Kernel kernel = kernel_of_options(*family, text, Target{89});
      if (!(kernel_of_options(*family, options_of(kernel), Target{89}) == kernel)) std::abort();
    } catch (const SpecError&) {
    }
  }
  return 0;
}
