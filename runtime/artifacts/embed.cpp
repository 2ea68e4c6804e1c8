#include "runtime/artifacts/embed.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <utility>
#include <vector>

#include "runtime/artifacts/target_choice.h"

// Written by the assembler file that cmake/EmbedPtx.cmake generates.
extern "C" {
struct SagegenEmbeddedPtx {
  const char* key;
  const char* begin;
  const char* end;
};
extern const SagegenEmbeddedPtx sagegen_embedded_ptx[];
extern const std::size_t sagegen_embedded_ptx_count;
}

namespace sagegen::runtime {
namespace {

// A long list helps nobody: what is embedded for the kind asked for, or the number of kernels.
std::string what_exists(std::span<const EmbeddedKernel> kernels, const KernelSpec& spec) {
  if (kernels.empty()) {
    return "this library was built from an empty generated/ directory and embeds no PTX; run "
           "`sagegen generate` and build again, or pass the generator's emit() as the source";
  }
  std::string keys;
  int same_kind = 0;
  for (const EmbeddedKernel& kernel : kernels) {
    if (parse_key(kernel.key).kind != spec.kind) continue;
    ++same_kind;
    keys += fmt::format("\n  {}", kernel.key);
  }
  if (same_kind == 0) {
    return fmt::format("none of the {} embedded kernels is of the kind {}", kernels.size(),
                       to_string(spec.kind));
  }
  return fmt::format(
      "choose a mode that is embedded (K smoothing is, for every problem), or give the PTX of this "
      "one, "
      "as `sagegen emit` writes it; embedded kernels of this kind:{}",
      keys);
}

}  // namespace

std::vector<EmbeddedKernel> embedded_kernels() {
  std::vector<EmbeddedKernel> kernels;
  std::transform(sagegen_embedded_ptx, sagegen_embedded_ptx + sagegen_embedded_ptx_count,
                 std::back_inserter(kernels), [](const SagegenEmbeddedPtx& entry) {
                   const auto bytes = static_cast<std::size_t>(entry.end - entry.begin);
                   return EmbeddedKernel{.key = entry.key, .ptx = {entry.begin, bytes}};
                 });
  return kernels;
}

const EmbeddedKernel& find_kernel(std::span<const EmbeddedKernel> kernels, const KernelSpec& spec) {
  const KernelSpec wanted = canonical(spec);
  std::vector<Target> targets;  // of the same kernel
  std::vector<const EmbeddedKernel*> candidates;
  for (const EmbeddedKernel& kernel : kernels) {
    KernelSpec candidate = parse_key(kernel.key);
    const Target target = std::exchange(candidate.target, wanted.target);
    if (candidate != wanted) continue;
    targets.push_back(target);
    candidates.push_back(&kernel);
  }
  if (const auto found = closest_target(targets, wanted.target)) return *candidates[*found];
  throw SpecError(fmt::format("no embedded PTX for {}, nor for a lower target: {}", key(wanted),
                              what_exists(kernels, wanted)));
}

PtxSource embedded_ptx() {
  return [kernels = embedded_kernels()](const KernelSpec& spec) {
    return std::string(find_kernel(kernels, spec).ptx);
  };
}

}  // namespace sagegen::runtime
