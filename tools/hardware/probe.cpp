#include "tools/hardware/probe.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace sagegen::hardware {

std::uint64_t Random::next() {
  state_ += 0x9e3779b97f4a7c15u;
  std::uint64_t z = state_;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

std::uint32_t crc32(const void* data, std::size_t bytes) {
  static const std::array<std::uint32_t, 256> table = [] {
    std::array<std::uint32_t, 256> values{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      std::uint32_t value = i;
      for (int bit = 0; bit < 8; ++bit) {
        value = (value >> 1) ^ ((value & 1u) != 0 ? 0xedb88320u : 0u);
      }
      values[i] = value;
    }
    return values;
  }();
  std::uint32_t crc = 0xffffffffu;
  const auto* byte = static_cast<const unsigned char*>(data);
  for (std::size_t i = 0; i < bytes; ++i) {
    crc = (crc >> 8) ^ table[(crc ^ byte[i]) & 0xffu];
  }
  return ~crc;
}

std::string probe_ptx(const Probe& probe) {
  const int threads = probe.threads();
  std::string text = fmt::format(
      "// {}: {}\n"
      ".version {}.{}\n"
      ".target {}\n"
      ".address_size 64\n\n"
      ".visible .entry probe(\n"
      "\t.param .align {} .b8 probe_param_0[{}]\n"
      ")\n"
      ".maxntid {}\n"
      "{{\n"
      "\t.reg .pred %p<8>;\n"
      "\t.reg .b16 %h<8>;\n"
      "\t.reg .b32 %in<{}>;\n"
      "\t.reg .b32 %out<{}>;\n"
      "\t.reg .b32 %r<16>;\n"
      "\t.reg .b32 %case;\n"
      "\t.reg .b32 %lane;\n"
      "\t.reg .b32 %shared;\n"
      "\t.reg .b64 %rd<16>;\n"
      "\t.reg .b64 %case_in;\n"
      "\t.reg .b64 %case_out;\n"
      "\t.reg .b64 %map;\n",
      probe.name, probe.what, probe.ptx_version / 10, probe.ptx_version % 10, probe.target,
      probe.map ? 64 : 8, probe.map ? 192 : 24, kWarpsPerBlock * kLanes, probe.inputs,
      std::max(probe.outputs, 1));
  if (probe.shared_bytes != 0) {
    text += fmt::format("\t.shared .align 1024 .b8 probe_shared[{}];\n",
                        probe.cases_per_block() * probe.shared_bytes);
  }
  text += fmt::format(
      "\tmov.u32 %r0, %tid.x;\n"
      "\tmov.u32 %r1, %ctaid.x;\n"
      "\tshr.u32 %r2, %r0, {};\n"
      "\tand.b32 %lane, %r0, {};\n"
      "\tmad.lo.s32 %case, %r1, {}, %r2;\n",
      probe.warps == 1 ? 5 : 7, threads - 1, probe.cases_per_block());
  text +=
      "\tld.param.b32 %r4, [probe_param_0+16];\n"
      "\tsetp.ge.u32 %p0, %case, %r4;\n"
      "\t@%p0 bra $done;\n"
      "\tld.param.b64 %rd0, [probe_param_0];\n"
      "\tld.param.b64 %rd1, [probe_param_0+8];\n"
      "\tcvta.to.global.u64 %rd2, %rd0;\n"
      "\tcvta.to.global.u64 %rd3, %rd1;\n"
      "\tmul.wide.u32 %rd4, %lane, 4;\n";
  text += fmt::format(
      "\tmul.wide.u32 %rd5, %case, {};\n"
      "\tadd.s64 %case_in, %rd2, %rd5;\n"
      "\tadd.s64 %rd6, %case_in, %rd4;\n"
      "\tmul.wide.u32 %rd7, %case, {};\n"
      "\tadd.s64 %case_out, %rd3, %rd7;\n"
      "\tadd.s64 %rd8, %case_out, %rd4;\n",
      4 * probe.input_words(), 4 * probe.output_words());
  if (probe.map) {
    text +=
        "\tmov.b64 %rd9, probe_param_0;\n"
        "\tcvta.param.u64 %map, %rd9;\n"
        "\tadd.s64 %map, %map, 64;\n";
  }
  if (probe.shared_bytes != 0) {
    text += fmt::format(
        "\tmov.b64 %rd9, probe_shared;\n"
        "\tcvt.u32.u64 %r5, %rd9;\n"
        "\tmad.lo.s32 %shared, %r2, {}, %r5;\n",
        probe.shared_bytes);
  }
  for (int i = 0; i < probe.inputs; ++i) {
    text += fmt::format("\tld.global.b32 %in{}, [%rd6+{}];\n", i, 4 * threads * i);
  }
  text += probe.body;
  if (probe.results == Probe::Results::registers) {
    for (int i = 0; i < probe.outputs; ++i) {
      text += fmt::format("\tst.global.b32 [%rd8+{}], %out{};\n", 4 * threads * i, i);
    }
  }
  text += "$done:\n\tret;\n}\n";
  return text;
}

Words probe_operands(const Probe& probe, std::uint64_t seed) {
  Words all;
  all.reserve(static_cast<std::size_t>(probe.cases) * probe.input_words());
  Words words(probe.input_words());
  for (int index = 0; index < probe.cases; ++index) {
    // A stream of its own for each case of each probe.
    const std::uint32_t name = crc32(probe.name.data(), probe.name.size());
    Random random((seed * 0x100000001b3u) ^ (std::uint64_t{name} << 32) ^
                  static_cast<std::uint64_t>(index));
    std::fill(words.begin(), words.end(), 0u);
    probe.fill(index, random, words);
    all.insert(all.end(), words.begin(), words.end());
  }
  return all;
}

}  // namespace sagegen::hardware
