// What the launch code has to know about PTX text: its entry points and how large their parameters
// are. The driver offers no query for the latter, and a block of the wrong size reads the caller's
// stack.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace sagegen::runtime {

struct PtxEntry {
  std::string name;
  std::vector<std::size_t> parameter_bytes;  // one per .param, 0 if its type is not understood
};

// The `.entry` declarations in order of appearance. Never throws on malformed text: what cannot be
// read is left out, and the driver's JIT reports it.
std::vector<PtxEntry> ptx_entries(std::string_view ptx);

}  // namespace sagegen::runtime
