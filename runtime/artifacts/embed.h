// The PTX that the library carries, and the rule by which a kernel is looked up in it.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "sagegen/runtime/attention.h"

namespace sagegen::runtime {

struct EmbeddedKernel {
  std::string_view key;  // text of a KernelSpec key
  std::string_view ptx;
};

// What cmake/EmbedPtx.cmake put into the library from generated/; empty if that was empty.
std::vector<EmbeddedKernel> embedded_kernels();

// The kernel of `spec`, or the same kernel for the closest target (target_choice.h). Throws SpecError
// that lists what exists.
const EmbeddedKernel& find_kernel(std::span<const EmbeddedKernel> kernels, const KernelSpec& spec);

}  // namespace sagegen::runtime
