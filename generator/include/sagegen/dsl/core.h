// What all verbs of a kernel share: the kernel that is being built.
#pragma once

#include <memory>
#include <string>

#include "sagegen/dsl/value.h"
#include "sagegen/target.h"
#include "sagegen/types.h"

namespace sagegen::dsl {

// The verbs are methods, in one class per chapter of the PTX ISA that builds on the one before:
// BuilderCore, ArithmeticVerbs, MemoryVerbs, WarpVerbs, KernelBuilder. Only the last is made.
class BuilderCore {
 public:
  BuilderCore(const BuilderCore&) = delete;
  BuilderCore& operator=(const BuilderCore&) = delete;

  Target target() const;
  int threads() const;  // of a block

  // Throws CodegenError "file:line: message". For helpers that find their arguments wrong.
  [[noreturn]] void fail(const std::string& message, SourceLoc loc = SourceLoc::here());

  struct Impl;  // for codegen
  Impl& impl() { return *impl_; }

 protected:
  explicit BuilderCore(std::unique_ptr<Impl> impl);
  ~BuilderCore();

  std::unique_ptr<Impl> impl_;
};

// For helpers that are made of verbs: while it lives, errors and line info name the helper's caller,
// whatever verbs run. The outermost one counts. Not around a lambda of the caller's.
class Caller {
 public:
  Caller(BuilderCore& k, SourceLoc loc);
  ~Caller();
  Caller(const Caller&) = delete;
  Caller& operator=(const Caller&) = delete;

 private:
  BuilderCore& k_;
  bool outermost_;
};

}  // namespace sagegen::dsl
