// Runs a small kernel of the DSL in the emulator, with a buffer in and a buffer out.
#pragma once

#include <bit>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "sagegen/dsl/emit.h"
#include "sagegen/runtime/device.h"
#include "sagegen/runtime/emulator.h"

namespace sagegen::golden {

struct BufferParams {
  std::uint64_t in;
  std::uint64_t out;
};

struct Buffers {
  dsl::GlobalPtr in, out;
};

// One block. out is zero before.
template <typename Out, typename In>
std::vector<Out> run(const std::vector<In>& in, std::size_t outs, int threads,
                     const std::function<void(dsl::KernelBuilder&, const Buffers&)>& build) {
  dsl::KernelBuilder k("emulated", {.sm = 89}, threads, sizeof(BufferParams));
  const auto p = k.params<BufferParams>();
  build(k, {p(&BufferParams::in), p(&BufferParams::out)});
  const dsl::Emitted emitted = dsl::emit(k);

  const runtime::Device device(runtime::make_emulator(),
                               static_cast<int>(runtime::EmulatorProfile::sm_89));
  const runtime::Kernel kernel(device, emitted.ptx, emitted.entry, emitted.threads,
                               emitted.shared_bytes, emitted.param_bytes);
  runtime::Buffer from(device, in.size() * sizeof(In)), to(device, outs * sizeof(Out));
  from.upload(std::as_bytes(std::span(in)));
  to.fill(0);
  const runtime::Stream stream(device);
  kernel.launch({}, BufferParams{from.data(), to.data()}, stream.handle());
  stream.synchronize();
  std::vector<Out> out(outs);
  to.download(std::as_writable_bytes(std::span(out)));
  return out;
}

}  // namespace sagegen::golden
