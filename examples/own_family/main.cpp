// What a family outside sagegen's tree gets: keys, texts, sets, schedules, PTX, plans. Runs every schedule in the
// emulator (on a GPU: runtime::load_cuda() instead of make_emulator()) and compares with double precision.
#include <sagegen/emit.h>
#include <sagegen/runtime/emulator.h>
#include <sagegen/set.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>
#include <vector>

#include "hadamard.h"

using namespace sagegen;
namespace hadamard = acme::hadamard;

namespace {

const Families& families() {
  static const Families all = Families(builtin_families()).add(hadamard::family());
  return all;
}
const Templates& templates() {
  static const Templates all =
      Templates(builtin_templates()).add(hadamard::family(), hadamard::build);
  return all;
}

void require(bool holds, const char* what) {
  if (holds) return;
  std::printf("does not hold: %s\n", what);
  std::exit(1);
}

// ---- names --------------------------------------------------------------------------------------

void show_names() {
  const Kernel kernel(hadamard::family(), {.columns = 256}, Target{.sm = 80});
  std::printf("key        %s\n", kernel.key().c_str());
  require(kernel.key() == "acme_hadamard_c256_f16_s8__w4__sm80", "the key");
  require(parse_key(kernel.key(), families()) == kernel, "a key reads back");

  const std::string options = options_of(kernel);
  std::printf("options    %s\n", options.c_str());
  require(kernel_of_options(hadamard::family(), options, Target{.sm = 80}) == kernel,
          "options read back");
  std::printf("JSON       %s\n", to_json(kernel).c_str());

  // A set: two kernels, each with the one that measures for it. On sm_89 codes are e4m3 unless somebody
  // says otherwise.
  const std::vector<Kernel> set = read_set(
      "[[hadamard]]\n"
      "targets = ['sm_80', 'sm_89']\n"
      "columns = 512\n"
      "schedules = ['w8']\n"
      "[[kv_statistics]]\n"
      "targets = ['sm_89']\n"
      "k_sum = true\n",
      "example.toml", families());
  for (const Kernel& each : set) std::printf("in the set %s\n", each.key().c_str());
  require(set.size() == 5 && set[3].key() == "acme_hadamard_c512_f16_e4m3__w8__sm89", "the set");

  // Mistakes are told as those of sagegen's own families.
  for (const char* bad :
       {"acme_hadamard_c96_f16_s8__w4__sm89", "acme_hadamard_c128_f16_e4m3__w4__sm80"}) {
    for (const std::string& sentence : parse_key(bad, families()).violations())
      std::printf("refused    %s\n", sentence.c_str());
  }
  try {
    parse_key("acme_hadamard_c128_f16__w4__sm89", families());
    require(false, "a key without codes is refused");
  } catch (const SpecError& error) {
    std::printf("refused    %s\n", error.what());
  }
}

// ---- numbers ------------------------------------------------------------------------------------

// A bf16 is the upper half of an f32.
std::vector<std::uint16_t> bf16_numbers(std::size_t count) {
  std::vector<std::uint16_t> result(count);
  std::uint32_t state = 1;
  for (std::uint16_t& value : result) {
    state = state * 1664525u + 1013904223u;
    const float number = static_cast<float>(state >> 8) / static_cast<float>(1u << 21) - 4.0f;
    value = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(number) >> 16);
  }
  result[7] = 0x42c8;  // 100: an outlier
  return result;
}
double from_bf16(std::uint16_t bits) { return std::bit_cast<float>(std::uint32_t{bits} << 16); }

double value_of(DType type, std::uint8_t code) {
  if (type == DType::s8) return static_cast<std::int8_t>(code);
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  const double size =
      exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return code & 0x80 ? -size : size;
}

std::vector<double> rotated(const std::vector<std::uint16_t>& x, int columns) {
  const auto n = static_cast<std::size_t>(columns);
  std::vector<double> y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    for (std::size_t b = 0; b < n; ++b)
      y[i] += (std::popcount(i % n & b) % 2 == 0 ? 1 : -1) * from_bf16(x[i / n * n + b]);
    y[i] /= std::sqrt(columns);
  }
  return y;
}

void try_kernel(const runtime::Device& device, const Kernel& kernel) {
  constexpr std::int64_t kRows = 21;  // no multiple of any number of warps
  const auto [spec, schedule, target] = kernel.view(hadamard::family());
  const std::vector<std::uint16_t> x = bf16_numbers(static_cast<std::size_t>(kRows * spec.columns));
  runtime::Buffer x_memory(device, x.size() * 2), codes_memory(device, x.size()),
      scale_memory(device, 4);
  x_memory.upload(std::as_bytes(std::span(x)));

  const hadamard::Plan plan(device, kernel,
                            [](const Kernel& wanted) { return emit(wanted, {}, templates()); });
  const runtime::Buffer workspace(device, plan.workspace_bytes(kRows));
  plan.run(x_memory.data(), kRows, codes_memory.data(), scale_memory.data(), workspace.data(),
           workspace.bytes(), nullptr);
  device.synchronize();

  std::vector<std::uint8_t> codes(x.size());
  float scale = 0;
  codes_memory.download(std::as_writable_bytes(std::span(codes)));
  scale_memory.download(std::as_writable_bytes(std::span(&scale, 1)));

  const std::vector<double> y = rotated(x, spec.columns);
  double largest = 0, worst = 0;
  for (const double value : y) largest = std::max(largest, std::abs(value));
  for (std::size_t i = 0; i < y.size(); ++i) {
    // Half a step of the code, and a little for sums in f32.
    const double step = spec.codes == DType::s8 ? scale
                                                : std::max(scale * std::ldexp(1, -9),
                                                           std::abs(y[i]) * std::ldexp(1, -3));
    const double error = std::abs(value_of(spec.codes, codes[i]) * scale - y[i]) / step;
    worst = std::max(worst, std::isnan(error) ? INFINITY : error);
  }
  std::printf("%s: scale %.4f, largest error %.3f steps\n", kernel.key().c_str(), scale, worst);
  require(std::abs(scale * hadamard::largest_code(spec.codes) / largest - 1) < 1e-5, "the scale");
  require(worst <= 0.5 + 1e-4, "codes are within half a step");
}

}  // namespace

int main() {
  try {
    show_names();
    const runtime::Device device(runtime::make_emulator(),
                                 static_cast<int>(runtime::EmulatorProfile::sm_89));
    for (const char* options : {"io=bf16", "io=bf16 codes=s8 columns=512", "io=bf16 columns=256"}) {
      const Kernel kernel = kernel_of_options(hadamard::family(), options, Target{.sm = 89});
      const std::vector<Kernel> schedules = kernel.schedules();
      require(schedules.size() == 4, "four schedules are legal");
      for (const Kernel& each : schedules) try_kernel(device, each);
    }
  } catch (const Error& error) {
    std::printf("%s: %s\n", error.kind(), error.what());
    return 1;
  }
}
