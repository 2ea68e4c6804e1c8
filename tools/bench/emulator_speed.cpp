// Measures the PTX emulator: warp instructions per second of one host thread, by instruction mix, with
// checks off and on. Times are CPU times of that thread, so that other load on the machine hardly counts.
//
//   emulator_speed [seconds per figure, default 0.5]

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <string>

#include "sagegen/runtime/emulator.h"

namespace {

using namespace sagegen::runtime;

struct Mix {
  const char* name;
  const char* body;  // of a loop; %f0.. are floats in %w registers, %d1 a shared address
};

constexpr Mix kMixes[] = {
    {"ALU: fma, max, xor, add, shfl", R"(
      fma.rn.f32 %w1, %w2, %w3, %w1;
      max.f32 %w4, %w1, %w2;
      xor.b32 %w5, %w5, %w4;
      add.s32 %w6, %w6, %w5;
      shfl.sync.bfly.b32 %w7, %w6, 4, 31, -1;
      fma.rn.f32 %w2, %w3, %w2, %w1;
      max.f32 %w3, %w3, %w4;
      xor.b32 %w6, %w7, %w5;
      add.s32 %w5, %w6, 3;
      shfl.sync.bfly.b32 %w8, %w5, 1, 31, -1;)"},
    {"ALU without shfl", R"(
      fma.rn.f32 %w1, %w2, %w3, %w1;
      max.f32 %w4, %w1, %w2;
      xor.b32 %w5, %w5, %w4;
      add.s32 %w6, %w6, %w5;
      mul.rn.f32 %w7, %w1, %w4;
      add.rn.f32 %w2, %w3, %w1;
      max.f32 %w3, %w3, %w4;
      xor.b32 %w6, %w6, %w5;
      add.s32 %w5, %w6, 3;
      shl.b32 %w8, %w5, 3;)"},
    {"shared memory: st, ld, ld.v4", R"(
      st.shared.b32 [%d1], %w1;
      ld.shared.b32 %w2, [%d1];
      st.shared.v4.b32 [%d2], {%w1, %w2, %w3, %w4};
      ld.shared.v4.b32 {%w5, %w6, %w7, %w8}, [%d2];)"},
    {"ldmatrix.x4", R"(
      ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%w5, %w6, %w7, %w8}, [%d2];
      ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%w5, %w6, %w7, %w8}, [%d2];)"},
    {"ex2, cvt to e4m3", R"(
      ex2.approx.ftz.f32 %w1, %w2;
      ex2.approx.ftz.f32 %w4, %w3;
      cvt.rn.satfinite.e4m3x2.f32 %h1, %w1, %w4;)"},
    {"mma s8 m16n8k32", R"(
      mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%w10,%w11,%w12,%w13}, {%w5,%w6,%w7,%w8}, {%w1,%w2}, {%w10,%w11,%w12,%w13};)"},
    {"mma f16 m16n8k16", R"(
      mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%w10,%w11,%w12,%w13}, {%w5,%w6,%w7,%w8}, {%w1,%w2}, {%w10,%w11,%w12,%w13};)"},
    {"mma e4m3 m16n8k32", R"(
      mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%w10,%w11,%w12,%w13}, {%w5,%w6,%w7,%w8}, {%w1,%w2}, {%w10,%w11,%w12,%w13};)"},
};

std::string kernel_text(const Mix& mix) {
  std::string text = R"(.version 8.4
.target sm_89
.address_size 64
.visible .entry k(.param .u32 trips)
{
  .reg .pred %p<4>; .reg .b16 %h<4>; .reg .b32 %w<32>; .reg .b64 %d<8>;
  .shared .align 16 .b8 s[16384];
  mov.b64 %d3, s;
  mov.u32 %w20, %tid.x;
  mul.wide.u32 %d4, %w20, 4; add.s64 %d1, %d3, %d4;
  mul.wide.u32 %d4, %w20, 16; add.s64 %d2, %d3, %d4; add.s64 %d2, %d2, 4096;
  ld.param.b32 %w21, [trips];
)";
  for (int i = 0; i < 16; ++i) text += fmt::format("  cvt.rn.f32.u32 %w{}, %w20;\n", i);
  text += "  st.shared.v4.b32 [%d2], {%w1, %w2, %w3, %w4};\n  bar.sync 0;\n$loop:\n";
  for (int i = 0; i < 8; ++i) text += mix.body;
  text += R"(
  add.s32 %w21, %w21, -1;
  setp.ne.s32 %p1, %w21, 0;
  @%p1 bra $loop;
  ret;
})";
  return text;
}

double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

void require(Result result, const EmulatorDriver& driver, const char* what) {
  if (result == Result::success) return;
  fmt::print(stderr, "{}: {}: {}\n", what, driver.result_name(result), driver.last_error_detail());
  std::exit(1);
}

// Million warp instructions per second.
double measure(const Mix& mix, Checks checks, double seconds) {
  EmulatorOptions options;
  options.checks = checks;
  options.threads = 1;
  options.instruction_limit = ~std::uint64_t{0};
  auto driver = make_emulator(options);
  ContextHandle context = nullptr;
  ModuleHandle module = nullptr;
  FunctionHandle function = nullptr;
  std::string log;
  require(driver->init(), *driver, "init");
  DeviceOrdinal device = static_cast<DeviceOrdinal>(EmulatorProfile::sm_89);
  require(driver->primary_context_retain(&context, device), *driver, "context");
  require(driver->set_current(context), *driver, "context");
  require(driver->module_load(&module, kernel_text(mix).c_str(), &log), *driver, mix.name);
  require(driver->module_function(&function, module, "k"), *driver, mix.name);
  double best = 0, spent = 0;
  for (unsigned trips = 100; spent < seconds; trips = std::min(trips * 2, 20000u)) {
    void* params[] = {&trips};
    double start = cpu_seconds();
    require(driver->launch(function, {}, {128, 1, 1}, 0, nullptr, params), *driver, mix.name);
    double taken = cpu_seconds() - start;
    spent += taken;
    best = std::max(best, static_cast<double>(driver->last_launch().warp_instructions) / taken);
  }
  return best / 1e6;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string argument = argc > 1 ? argv[1] : "0.5";
  char* end = nullptr;
  const double seconds = std::strtod(argument.c_str(), &end);
  if (argc > 2 || *end != '\0' || !(seconds > 0 && seconds < 1e6)) {
    const bool help = argc == 2 && (argument == "--help" || argument == "-h");
    fmt::print(help ? stdout : stderr,
               "usage: emulator_speed [SECONDS]\n"
               "SECONDS per figure (default 0.5): warp instructions per second of the emulator\n");
    return help ? 0 : 2;
  }
  fmt::print("{:34} {:>14} {:>14}   million warp instructions per second\n",
             "one host thread, 4 warps", "checks off", "checks on");
  for (const Mix& mix : kMixes) {
    double off = measure(mix, Checks::off, seconds);
    double on = measure(mix, Checks::on, seconds);
    fmt::print("{:34} {:14.1f} {:14.1f}\n", mix.name, off, on);
  }
  return 0;
}
