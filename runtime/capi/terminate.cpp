// What std::terminate says. The C++ library's own handler, which the linker takes where there is no other, brings in
// its demangler: 50 kB for the name of one type.
#include <cxxabi.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <typeinfo>

namespace __gnu_cxx {

// Weak: where the C++ library's own is linked in all the same, there are two.
[[gnu::weak]] void __verbose_terminate_handler() {
  static bool again = false;  // what() itself may throw
  if (again) std::abort();
  again = true;
  if (const std::type_info* type = abi::__cxa_current_exception_type()) {
    std::fprintf(stderr, "terminate called after throwing an instance of '%s'\n", type->name());
    try {
      throw;
    } catch (const std::exception& error) {
      std::fprintf(stderr, "  what():  %s\n", error.what());
    } catch (...) {
    }
  } else {
    std::fputs("terminate called without an active exception\n", stderr);
  }
  std::abort();
}

}  // namespace __gnu_cxx
