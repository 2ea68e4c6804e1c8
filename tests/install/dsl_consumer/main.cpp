// Writes a kernel with the installed kernel language, and sees that misuse is an error with this file's line.
#include <sagegen/dsl/emit.h>
#include <sagegen/dsl/kernel_builder.h>
#include <sagegen/dsl/tile.h>
#include <sagegen/error.h>

#include <cstdint>
#include <cstdio>
#include <string>

#if __has_include(<llvm/IR/Module.h>)
#error "LLVM's headers are in the way: this program must build without them"
#endif

using namespace sagegen;

struct Params {
  std::uint64_t x;  // f32 [n], in and out
  float factor;
  std::int32_t n;
};

int main() {
  dsl::KernelBuilder k("my_scale", Target{.sm = 89}, 128, sizeof(Params));
  const auto p = k.params<Params>();
  const dsl::I32 i = k.block_idx(0) * 128 + k.thread_idx();
  k.if_(i < p(&Params::n), [&] {
    const dsl::GlobalPtr x = p(&Params::x) + k.to_i64(i) * 4;
    k.store(x, k.load<dsl::F32>(x) * p(&Params::factor));
  });
  const dsl::Emitted kernel = dsl::emit(k);
  std::printf("%s: %zu bytes of PTX, %d threads\n", kernel.entry.c_str(), kernel.ptx.size(),
              kernel.threads);
  if (kernel.ptx.find(".entry my_scale(") == std::string::npos ||
      kernel.param_bytes != sizeof(Params)) {
    return 1;
  }
  try {
    dsl::emit(k);
  } catch (const CodegenError& error) {
    const std::string place = "main.cpp:" + std::to_string(__LINE__ - 2);
    return std::string(error.what()).find(place) == std::string::npos ? 1 : 0;
  }
  return 1;
}
