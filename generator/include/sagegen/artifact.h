// A kernel as code: what emission gives and what a runtime loads.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "sagegen/family.h"
#include "sagegen/target.h"

namespace sagegen {

// What an assembler made of PTX: a cubin.
struct MachineCode {
  Target target;    // it runs on later devices of the same major version; with `a` on its own alone
  int cuda = 0;     // version of the assembler, 13000 for 13.0
  std::string bytes;
};

struct Artifact {
  std::string key;  // of the kernel that was asked for
  std::string
      entry;  // entry point of the code: the key, or that of the same kernel for a lower target
  std::string code;  // PTX
  Resources resources;
  std::uint64_t params = 0;  // ParamLayout::digest() that the code was made with
  std::optional<MachineCode> assembled = {};  // of `code`, where somebody has done it beforehand
};

// "// sagegen parameters: 0123456789abcdef", the line of a kernel's PTX that carries Artifact::params: a
// comment, which every tool that hands PTX on leaves alone.
std::string params_line(std::uint64_t digest);
// Of the first such line; empty if the text has none.
std::optional<std::uint64_t> params_of_ptx(std::string_view ptx);

}  // namespace sagegen
