// Kernel bodies under every check, for the tests of checks: a body that must trigger exactly one, and a twin
// that must not.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include "tests/emulator/exec_fixture.h"

namespace sagegen::emulator::test {

using u8 = std::uint8_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;

inline constexpr const char* kPreamble = R"(
    mov.u32 %w1, %tid.x; mov.u32 %w2, %ctaid.x; shr.u32 %w3, %w1, 5;
    mul.wide.u32 %d1, %w1, 4; add.u64 %d2, %d20, %d1;            // global word of the thread
    mov.b64 %d3, s; add.u64 %d4, %d3, %d1;                       // shared word of the thread
    mul.wide.u32 %d5, %w1, 16; add.u64 %d6, %d3, %d5; add.u64 %d7, %d20, %d5;   // 16 bytes of it
)";

struct Report {
  std::string check, message;
  int line = 0, warp = 0, lane = 0;
};

// Runs a body on `blocks` x `threads`; %d20 is an array of 4096 defined words, %d21 one of 4096
// undefined ones.
inline Report run_body(const std::string& body, unsigned blocks, unsigned threads,
                       const std::function<void(Bench&)>& prepare = nullptr) {
  Bench bench;
  if (prepare) prepare(bench);
  bench.kernel(kPreamble + body, 2, ".shared .align 16 .b8 s[16384]; .local .align 16 .b8 l[64];");
  std::vector<u32> words(4096);
  for (u32 i = 0; i < 4096; ++i) words[i] = i * 3;
  Address defined = bench.upload(words), undefined = bench.memory.allocate(4096 * 4);
  LaunchReport report = bench.run(blocks, threads, {defined, undefined});
  if (report.findings.empty()) return {};
  const runtime::Finding& f = report.findings[0];
  return {f.check, messages(report), f.ptx_line, f.warp, f.lane};
}

inline std::string check_of(const std::string& body, unsigned blocks = 1, unsigned threads = 64) {
  Report report = run_body(body, blocks, threads);
  UNSCOPED_INFO(report.message);
  return report.check;
}

}  // namespace sagegen::emulator::test
