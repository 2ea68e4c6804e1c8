// Small PTX texts for tests.
#pragma once

#include <string>
#include <string_view>

namespace sagegen::emulator::test {

// A module for sm_89 with the given text at module level.
inline std::string ptx_module(std::string_view text) {
  return ".version 8.4\n.target sm_89\n.address_size 64\n" + std::string(text);  // text: line 4
}

// A module with one entry `k` without parameters, and registers %p<8>, %rs<8>, %r<32>, %rd<16>.
inline std::string ptx_body(std::string_view body) {
  return ptx_module(
      ".visible .entry k()\n{\n"
      ".reg .pred %p<8>; .reg .b16 %rs<8>; .reg .b32 %r<32>; .reg .b64 %rd<16>;\n" +
      std::string(body) + "}\n");  // body: line 7
}

}  // namespace sagegen::emulator::test
