// Uses the installed package as an application would: attention in the emulator, no GPU needed.
//   consumer attention   runs the embedded kernels
//   consumer device      only opens a device (a package without embedded PTX)
//   consumer set         reads a set description, which a package may refuse
#include <sagegen/attention.h>
#include <sagegen/error.h>
#include <sagegen/runtime/device.h>
#include <sagegen/runtime/driver_api.h>
#include <sagegen/runtime/emulator.h>
#include <sagegen/runtime/error.h>
#include <sagegen/runtime/ptx_entry.h>
#include <sagegen/set.h>
#include <sagegen/types.h>
#ifdef CONSUMER_HAS_GENERATOR
#include <sagegen/emit.h>
#endif

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <vector>

using namespace sagegen;
using namespace sagegen::runtime;

namespace {

// Small integers as f16 bits, and back.
std::uint16_t half(int value) {
  if (value == 0) return 0;
  const int magnitude = std::abs(value);
  const int exponent = static_cast<int>(std::log2(magnitude));
  const int mantissa = (magnitude << (10 - exponent)) & 0x3ff;
  return static_cast<std::uint16_t>((value < 0 ? 0x8000 : 0) | (exponent + 15) << 10 | mantissa);
}

double value_of(std::uint16_t bits) {
  const int exponent = bits >> 10 & 0x1f;
  const int mantissa = bits & 0x3ff;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}

// Channels of V that are constant over the keys come out as they are, whatever the weights are, but
// for the rounding of the weights to e4m3, which is at most 1/16.
int run_attention(const Device& device, const ArtifactSource& source) {
  constexpr int kQueries = 33, kKeys = 70, kChannels = 128;
  const Target target = best_target(device.compute_capability());
  attention::Spec spec = attention::usual_spec(target);
  spec.head_dim = kChannels;
  const auto map = attention::ModeMap::parse(
      std::string(attention::kModeMapHead) + "\n*\t" +
          sagegen::Kernel(attention::family(), spec, target).key() + "\n",
      "map of the consumer");
  const attention::Plan plan(device, map.kernel_for("layer 0"), source);

  std::vector<std::uint16_t> q(kQueries * kChannels), k(kKeys * kChannels), v(kKeys * kChannels);
  for (std::size_t i = 0; i < q.size(); ++i) q[i] = half(static_cast<int>(i * 7 % 5) - 2);
  for (std::size_t i = 0; i < k.size(); ++i) k[i] = half(static_cast<int>(i * 11 % 7) - 3);
  for (std::size_t i = 0; i < v.size(); ++i) v[i] = half(static_cast<int>(i % kChannels % 9) - 4);
  const auto upload = [&](const std::vector<std::uint16_t>& from) {
    Buffer buffer(device, from.size() * 2);
    buffer.upload(std::as_bytes(std::span(from)));
    return buffer;
  };
  const Buffer q_memory = upload(q), k_memory = upload(k), v_memory = upload(v);
  const Buffer o_memory(device, q.size() * 2);
  const attention::Shape shape{
      .batch = 1, .q_heads = 1, .kv_heads = 1, .q_len = kQueries, .kv_len = kKeys};
  const Buffer workspace(device, plan.workspace_bytes(shape));
  const Stream stream(device);
  plan.run(shape,
           {.q = hnd(q_memory.data(), 1, kQueries, kChannels),
            .k = hnd(k_memory.data(), 1, kKeys, kChannels),
            .v = hnd(v_memory.data(), 1, kKeys, kChannels),
            .o = hnd(o_memory.data(), 1, kQueries, kChannels)},
           workspace.data(), workspace.bytes(), stream.handle());
  stream.synchronize();

  std::vector<std::uint16_t> o(q.size());
  o_memory.download(std::as_writable_bytes(std::span(o)));
  for (std::size_t i = 0; i < o.size(); ++i) {
    const double expected = static_cast<int>(i % kChannels % 9) - 4;
    if (std::abs(value_of(o[i]) - expected) > std::abs(expected) / 16) {
      std::printf("o[%zu] is %g instead of %g\n", i, value_of(o[i]), expected);
      return 1;
    }
  }
  for (const std::string& name : plan.kernel_names()) std::printf("ran %s\n", name.c_str());
  return 0;
}

int read_a_set() {
  try {
    const std::size_t kernels = read_set("[[attention]]\ntargets = [\"sm_89\"]\n", "a set").size();
    std::printf("%zu kernels in the set\n", kernels);
  } catch (const SpecError& e) {
    std::printf("no set: %s\n", e.what());
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc == 2 && std::string(argv[1]) == "set") return read_a_set();
    std::string why;
    if (load_cuda(&why) == nullptr) std::printf("no GPU: %s\n", why.c_str());
    const Device device(make_emulator(), static_cast<int>(EmulatorProfile::sm_89));
    std::printf("%s, compute capability %d\n", device.name().c_str(), device.compute_capability());
#ifdef CONSUMER_HAS_GENERATOR
    const auto emitted = [](const sagegen::Kernel& kernel) { return emit(kernel); };
    if (run_attention(device, emitted) != 0) return 1;
#endif
    if (argc == 2 && std::string(argv[1]) == "attention")
      return run_attention(device, embedded_ptx());
    return device.compute_capability() == 89 ? 0 : 1;
  } catch (const Error& e) {
    std::printf("%s: %s\n", e.kind(), e.what());
    return 1;
  }
}
