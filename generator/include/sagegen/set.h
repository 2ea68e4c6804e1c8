// Sets of kernels: products of choices, in code or as TOML.
//
//   [[attention]]                       # the title of a family
//   targets = ["sm_80", "sm_89"]        # required
//   head_dim = [64, 128]                # any field of the family: one value or a list
//   causal = [false, true]
//   schedules = ["q128k64w4s2"]         # absent: the usual one of each kernel
//
// A table stands for the kernels of the product and for the kernels that prepare their inputs. A field that
// is not named has what is usual on the target.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sagegen/kernel.h"

namespace sagegen {

struct KernelProduct {
  std::string_view family = "attention";  // title
  std::vector<Target> targets = {};
  // Field name and the words of its values.
  std::vector<std::pair<std::string, std::vector<std::string>>> fields = {};
  std::vector<std::string> schedules = {};  // empty: the usual one
};

// Each kernel once, in a stable order: targets outermost, then fields and schedules as they are given; of
// each kernel its inputs first. `refused` hears of every kernel that is left out and why, and may throw.
// Throws SpecError for names and words that do not exist.
using Refused = std::function<void(const Kernel& kernel, const Sentences& sentences)>;
std::vector<Kernel> enumerate(
    const KernelProduct& product, const Families& families = builtin_families(),
    const Refused& refused = [](const Kernel&, const Sentences&) {});

// Reads a set description. Unlike in enumerate(), a kernel that violations() refuses is an error. Errors
// carry `file:line:column` and say what is valid.
std::vector<Kernel> read_set(std::string_view toml_text, const std::string& file_name,
                             const Families& families = builtin_families());
std::vector<Kernel> read_set_file(const std::string& path,
                                  const Families& families = builtin_families());

}  // namespace sagegen
