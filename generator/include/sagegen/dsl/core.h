// What all verbs of a kernel share: the kernel that is being built.
#pragma once

#include <memory>

#include "sagegen/dsl/value.h"
#include "sagegen/spec.h"

namespace sagegen::dsl {

// The verbs are methods, in one class per chapter of the PTX ISA that builds on the one before:
// BuilderCore, ArithmeticVerbs, MemoryVerbs, WarpVerbs, KernelBuilder. Only the last is made.
class BuilderCore {
 public:
  BuilderCore(const BuilderCore&) = delete;
  BuilderCore& operator=(const BuilderCore&) = delete;

  Target target() const;

  struct Impl;  // for codegen
  Impl& impl() { return *impl_; }

 protected:
  explicit BuilderCore(std::unique_ptr<Impl> impl);
  ~BuilderCore();

  std::unique_ptr<Impl> impl_;
};

}  // namespace sagegen::dsl
