// Every instruction of the committed kernels is one that the emulator knows, and every kernel decodes for
// the device it is made for. Skipped (exit code 77) while generated/ has no PTX.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

#include "runtime/emulator/device/profiles.h"
#include "runtime/emulator/exec/launch.h"
#include "runtime/emulator/ptx/module.h"
#include "tests/generated_kernels.h"

namespace sagegen::emulator {
namespace {

std::string spelled(const ptx::Instruction& instruction) {
  std::string out = instruction.opcode;
  for (const std::string& modifier : instruction.modifiers) out += "." + modifier;
  return out;
}

struct Use {
  int count = 0;
  std::string example;  // key:line
};

// What nvcc, Triton and people write beyond that; exec_foreign_test.cpp has the results.
TEST_CASE("the emulator knows instructions of foreign PTX") {
  for (const char* text : {"add.cc.u32",
                           "addc.u32",
                           "addc.cc.s64",
                           "sub.cc.s32",
                           "subc.u64",
                           "subc.cc.u32",
                           "mad.lo.cc.u32",
                           "mad.hi.cc.s64",
                           "madc.lo.u64",
                           "madc.hi.cc.u32",
                           "set.lt.u32.f32",
                           "set.gtu.or.s32.f64",
                           "set.eq.f16x2.f16x2",
                           "set.ne.bf16.bf16",
                           "sin.approx.f32",
                           "cos.approx.ftz.f32",
                           "tanh.approx.f32",
                           "tanh.approx.f16x2",
                           "tanh.approx.bf16",
                           "rcp.approx.ftz.f64",
                           "rsqrt.approx.f64",
                           "rsqrt.approx.ftz.f64",
                           "add.rz.f64",
                           "sub.rm.f64",
                           "mul.rp.f64",
                           "div.rz.f64",
                           "fma.rm.f64",
                           "mad.rp.f64",
                           "rcp.rz.f64",
                           "sqrt.rm.f64",
                           "rcp.rp.ftz.f32",
                           "mad.rz.ftz.sat.f32",
                           "dp2a.lo.s32.u32",
                           "dp2a.hi.u32.u32",
                           "mul24.lo.s32",
                           "mul24.hi.u32",
                           "mad24.lo.u32",
                           "mad24.hi.sat.s32",
                           "mad.hi.sat.s32",
                           "mad.hi.u64",
                           "sad.u16",
                           "slct.f64.f32",
                           "mov.v4.f32",
                           "mov.v2.b64",
                           "ldmatrix.sync.aligned.trans.m8n8.x4.shared.b16",
                           "cvt.sat.rn.f16.f32",
                           "ld.global.L1::no_allocate.nc.v4.u32",
                           "atom.global.relaxed.gpu.add.u32"}) {
    ptx::Instruction instruction;
    std::stringstream parts(text);
    std::getline(parts, instruction.opcode, '.');
    for (std::string modifier; std::getline(parts, modifier, '.');) {
      instruction.modifiers.push_back(modifier);
    }
    INFO(text);
    CHECK(why_unknown(instruction).empty());
  }
}

TEST_CASE("the emulator knows every instruction of generated/") {
  const std::map<std::string, std::string> kernels = test::generated_kernels();
  if (kernels.empty()) {
    std::puts("skipped: generated/ has no PTX; run `sagegen generate`");
    std::exit(77);
  }
  std::map<std::string, Use> uses;
  std::map<std::string, std::string> unknown;
  int devices_decoded = 0;
  for (const auto& [name, ptx] : kernels) {
    INFO(name);
    const ptx::Module module = ptx::parse(ptx);
    CHECK_FALSE(module.functions.empty());
    for (const ptx::Function& function : module.functions) {
      for (const ptx::Instruction& instruction : function.body) {
        const std::string text = spelled(instruction);
        Use& use = uses[text];
        if (use.count++ > 0) continue;
        use.example = name + ":" + std::to_string(instruction.line);
        if (std::string why = why_unknown(instruction); !why.empty()) unknown[text] = why;
      }
    }
    for (int ordinal = 0; ordinal < device_count(); ++ordinal) {
      const DeviceDescription& device = device_description(ordinal);
      if (!why_not_loadable(module.target, device).empty()) continue;
      SymbolAddresses symbols;
      for (const ptx::Variable& variable : module.globals)
        symbols.emplace(variable.name, kGlobalBase);
      for (const ptx::Function& function : module.functions) {
        INFO(device.name);
        CHECK_NOTHROW(decode(module, function, device.arithmetic, symbols));
        ++devices_decoded;
      }
    }
  }
  std::printf("%zu distinct instructions in %zu kernels:\n", uses.size(), kernels.size());
  for (const auto& [text, use] : uses) {
    std::printf("%7d  %s  (%s)\n", use.count, text.c_str(), use.example.c_str());
  }
  for (const auto& [text, why] : unknown) {
    INFO(uses[text].example << ": " << why);
    CHECK(text.empty());
  }
  CHECK(uses.size() > 50);
  CHECK(devices_decoded > 0);
}

}  // namespace
}  // namespace sagegen::emulator
