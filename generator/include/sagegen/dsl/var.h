// State that changes while a kernel runs.
#pragma once

#include "sagegen/dsl/value.h"

namespace sagegen::dsl {

// A mutable register, made by KernelBuilder::var(). Reading gives the current value.
template <typename T>
class Var {
 public:
  Var() = default;
  T get(SourceLoc loc = SourceLoc::here()) const;
  void set(T value, SourceLoc loc = SourceLoc::here()) const;
  operator T() const { return read(); }
  const Var& operator=(Here<T> value) const {
    set(value.value, value.loc);
    return *this;
  }

 private:
  friend class KernelBuilder;
  T read() const;

  KernelBuilder* k_ = nullptr;
  llvm::Value* slot_ = nullptr;
};

}  // namespace sagegen::dsl
