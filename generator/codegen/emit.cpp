#include "sagegen/dsl/emit.h"

#include "generator/codegen/codegen.h"
#include "generator/dsl/impl.h"

namespace sagegen::dsl {

Emitted emit(KernelBuilder& k, SourceLoc loc) {
  k.impl().at(loc);
  codegen::verify(k);
  codegen::optimize(k);
  const BuilderCore::Impl& impl = k.impl();
  return {.entry = impl.function->getName().str(),
          .ptx = codegen::print_ptx(k),
          .target = impl.target,
          .threads = impl.threads,
          .shared_bytes = impl.shared_bytes,
          .param_bytes = impl.param_bytes};
}

std::string ir_text(KernelBuilder& k) { return codegen::ir_text(k); }

}  // namespace sagegen::dsl
