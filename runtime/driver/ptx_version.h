// Which driver compiles which PTX (PTX ISA, "Release Notes", table of PTX versions).
#pragma once

#include <string>
#include <string_view>

namespace sagegen::runtime {

// 84 for PTX that says `.version 8.4`; 0 if it says none. Comments before it are skipped.
int ptx_version(std::string_view ptx);

// The first CUDA version that compiles this PTX version, as cuDriverGetVersion counts: 12040 for 84. That of
// the newest PTX version of the table for newer ones.
int first_cuda_with(int ptx_version);

// "12.4" for 12040
std::string cuda_name(int cuda_version);

}  // namespace sagegen::runtime
