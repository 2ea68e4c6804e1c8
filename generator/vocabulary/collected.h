// Kernels in the order in which they come, each once.
#pragma once

#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "sagegen/kernel.h"

namespace sagegen::detail {

class Collected {
 public:
  void add(const Kernel& kernel) {
    if (seen_.insert(kernel.key()).second) list_.push_back(kernel);
  }
  std::vector<Kernel> take() { return std::move(list_); }

 private:
  std::vector<Kernel> list_;
  std::unordered_set<std::string> seen_;
};

}  // namespace sagegen::detail
