// State that changes while a kernel runs.
#pragma once

#include "sagegen/dsl/value.h"

namespace sagegen::dsl {

// A mutable register. Reading gives the current value.
template <typename T>
class Var {
 public:
  Var() = default;
  T get() const;
  void set(T value) const;
  operator T() const { return get(); }
  const Var& operator=(T value) const {
    set(value);
    return *this;
  }

 private:
  friend class KernelBuilder;
  KernelBuilder* k_ = nullptr;
  llvm::Value* slot_ = nullptr;
};

}  // namespace sagegen::dsl
