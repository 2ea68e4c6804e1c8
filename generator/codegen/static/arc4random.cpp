// For binaries that are carried to machines with an older C library: LLVM's static libraries, built where
// glibc has it, ask for arc4random, which came with glibc 2.36. They name temporary files with it.
#include <sys/random.h>

#include <cerrno>
#include <cstdint>

extern "C" std::uint32_t arc4random() noexcept {
  std::uint32_t value = 0;
  while (getrandom(&value, sizeof value, 0) < 0 && errno == EINTR) {
  }
  return value;
}
