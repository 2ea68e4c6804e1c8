// Nothing that a caller of emit() or of the code generator can write ends the process.
#include <catch2/catch.hpp>

#include "generator/codegen/codegen.h"
#include "sagegen/emit.h"
#include "tests/golden/golden.h"
#include "tests/unit/spec_test_support.h"

namespace sagegen::golden {
namespace {

using Catch::Contains;

TEST_CASE("emit and trace refuse values outside an enumeration") {
  for (const int value : {-1, 2, 5, 7, 31, 32, 1 << 20}) {
    INFO(value);
    const auto refuses = [](const KernelSpec& spec) {
      CHECK_THROWS_AS(emit(spec), SpecError);
      CHECK_THROWS_AS(trace(spec), SpecError);
    };
    KernelSpec spec;
    spec.kind = static_cast<KernelKind>(value == 2 ? 9 : value);
    refuses(spec);
    refuses({.problem = {.io = static_cast<DType>(value)}});
    refuses({.problem = {.mask = static_cast<Mask>(value)}});
    refuses({.quant = {.qk = static_cast<DType>(value)}});
    refuses({.quant = {.granularity = static_cast<Granularity>(value)}});
    refuses(
        {.kind = KernelKind::quantize_k, .quant = {.smoothing = static_cast<Smoothing>(value)}});
    refuses({.quant = {.pv = static_cast<DType>(value)}});
    refuses({.quant = {.accumulation = static_cast<Accumulation>(value)}});
    CHECK_THROWS_WITH(emit({}, {.line_info = static_cast<LineInfo>(value)}),
                      Contains("line_info " + std::to_string(value)));
  }
}

TEST_CASE("every spec is emitted or refused") {
  test::RandomSpecs random(11);
  int emitted = 0;
  for (int i = 0; i < 2000; ++i) {
    const KernelSpec spec = random.garbage();
    const bool valid = violations(spec).empty();
    INFO(key(spec));
    std::string name;
    try {
      name = emit(spec).name;
      ++emitted;
    } catch (const SpecError&) {
    }
    CHECK(name == (valid ? key(spec) : ""));
  }
  CHECK(emitted > 20);
}

TEST_CASE("the stages of code generation have an order") {
  const Target target{.sm = 80};
  const auto build = [](Kernel& t) {
    const dsl::Var<dsl::I32> sum = t.k.var(t.a);
    t.k.for_range(t.a, t.b, 1, [&](dsl::I32 i) { sum = sum + i; });
    t.keep(sum);
  };
  Kernel kernel(target);
  build(kernel);
  CHECK_THROWS_WITH(codegen::print_ptx(kernel.k), Contains("before optimize()"));
  codegen::ir_text(kernel.k);
  CHECK_THROWS_WITH(codegen::print_ptx(kernel.k), Contains("before optimize()"));
  CHECK_THROWS_WITH(kernel.keep(kernel.a), Contains("nothing can follow"));
  codegen::optimize(kernel.k);
  CHECK_THROWS_AS(kernel.k.barrier(), CodegenError);
  CHECK(codegen::print_ptx(kernel.k) == ptx_of(target, build));
}

}  // namespace
}  // namespace sagegen::golden
