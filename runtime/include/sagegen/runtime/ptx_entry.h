// What a launch has to know about PTX text: its entry points and their parameters. The driver offers no
// query for these, and arguments of the wrong size read the caller's stack.
//
// Source: PTX ISA, kernel function parameters (.param, .ptr) and performance-tuning directives (.reqntid,
// .maxntid).
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "sagegen/runtime/driver_api.h"

namespace sagegen::runtime {

// One .param of an entry.
struct PtxParameter {
  std::string name;
  std::string type;           // "u64", "f32"; of one element where it is an array
  bool is_array = false;      // a struct by value, as compilers print it: .b8 name[24]
  std::size_t bytes = 0;      // 0: its type or its length is not understood
  std::size_t alignment = 1;  // bytes
  std::size_t offset = 0;     // bytes from the start of all parameters
};

struct PtxEntry {
  std::string name;
  std::vector<PtxParameter> parameters;
  Dim3 required_block{.x = 0, .y = 0, .z = 0};  // .reqntid; zeros: not given
  Dim3 largest_block{.x = 0, .y = 0, .z = 0};   // .maxntid; zeros: not given

  std::vector<std::size_t> parameter_bytes() const;  // one per parameter
};

// The `.entry` declarations in order of appearance. Takes microseconds: only what stands before and between
// the entries is looked at closely, not their bodies. Never throws on malformed text: what cannot be read
// is left out, and the driver's JIT reports it.
std::vector<PtxEntry> ptx_entries(std::string_view ptx);

// "sm_89" of the text's first `.target`; empty if there is none.
std::string ptx_target(std::string_view ptx);

}  // namespace sagegen::runtime
