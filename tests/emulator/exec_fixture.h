// Runs hand-written PTX on the executor, without the driver.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "runtime/emulator/exec/forms.h"
#include "runtime/emulator/exec/launch.h"

namespace sagegen::emulator::test {

// A device with memory, one kernel, and its launches. The kernel takes device addresses as 64-bit
// parameters p0, p1, ... and is written as a body: registers %p<16>, %h<16>, %w<64>, %d<32> exist, and
// %d20, %d21, ... already hold the parameters.
class Bench {
 public:
  explicit Bench(Profile profile = Profile::sm_89) : profile_(profile) {}

  // `shared`: declarations at function level, such as ".shared .align 16 .b8 s[1024];".
  void kernel(const std::string& body, int parameters, const std::string& shared = "");
  void module_text(const std::string& text);  // a whole module; its first entry is the kernel
  void use_lanes(HostLanes lanes) { table_ = &form_table(lanes); }

  template <class T>
  Address upload(const std::vector<T>& values) {
    Address at = memory.allocate(values.size() * sizeof(T));
    memory.write(at, values.data(), values.size() * sizeof(T));
    return at;
  }
  template <class T>
  std::vector<T> download(Address at, std::size_t count) {
    std::vector<T> values(count);
    memory.read(values.data(), at, count * sizeof(T));
    return values;
  }

  LaunchReport run(unsigned blocks, unsigned threads, const std::vector<std::uint64_t>& parameters);

  DeviceMemory memory{std::size_t{1} << 28};
  runtime::EmulatorOptions options;
  std::size_t dynamic_shared = 0;
  const Program& program() const { return *program_; }

 private:
  Profile profile_;
  const FormTable* table_ = &form_table();
  std::shared_ptr<const Program> program_;
};

// What tests that compare lanes run with: all that this processor has, or the one that
// SAGEGEN_EMULATOR_LANES names.
std::vector<HostLanes> usable_lanes();

// The check of the only finding, or "" if there is none.
std::string only_check(const LaunchReport& report);
std::string messages(const LaunchReport& report);

// ---- one instruction on many operands ------------------------------------------------------------

// Registers of the instruction under test, by kind: %h1.. are the low 16 bits of the operands, %w1..
// the low 32, %d1.. all 64; %p1.. their bit 0. Results go to %h0, %w0, %d0 or %p0.
using Reference =
    std::function<std::uint64_t(std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t)>;

struct InstructionTest {
  std::string text;  // "add.s32 %w0, %w1, %w2;"; %h0, %w0, %d0 start as 0 and %p0 as false
  Reference expected;
  // Operand values to combine; random bits are added to them.
  std::vector<std::uint64_t> interesting = {};
  bool random_bits = true;
  std::string result =
      "";  // the register to compare; empty: the first of %h0, %w0, %d0, %p0 in text
};
// Runs it on a few thousand operand tuples and compares every result; checks are on.
void check_instruction(const InstructionTest& test);

// What instructions make of each value: a thread has it in %d1 and leaves its result in %d0; %d3 is the
// address of the value.
std::vector<std::uint64_t> run_wide(const std::string& text,
                                    const std::vector<std::uint64_t>& inputs);

// Interesting values.
std::vector<std::uint64_t> integers();
std::vector<std::uint64_t> floats32();
std::vector<std::uint64_t> floats64();
std::vector<std::uint64_t> halves();   // f16
std::vector<std::uint64_t> bhalves();  // bf16

inline float as_float(std::uint64_t bits) {
  std::uint32_t low = static_cast<std::uint32_t>(bits);
  float value;
  std::memcpy(&value, &low, sizeof value);
  return value;
}
inline double as_double(std::uint64_t bits) {
  double value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline std::uint32_t bits_of(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
inline std::uint64_t bits_of(double value) {
  std::uint64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

}  // namespace sagegen::emulator::test
