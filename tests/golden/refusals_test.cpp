// Nothing that a caller of emit() or of the code generator can write ends the process.
#include <catch2/catch.hpp>

#include "generator/codegen/codegen.h"
#include "sagegen/emit.h"
#include "templates/attention/spec.h"
#include "tests/golden/golden.h"
#include "tests/random_kernels.h"

namespace sagegen::golden {
namespace {

using Catch::Contains;

TEST_CASE("emit and trace refuse values outside an enumeration") {
  for (const int value : {-1, 2, 5, 7, 31, 32, 1 << 20}) {
    INFO(value);
    for (const Family* family : builtin_families().all()) {
      for (const Field& field : family->what) {
        if (field.values.words.empty() || field.values.has(value)) continue;
        INFO(family->title << " " << field.name);
        const std::shared_ptr<void> spec = family->new_spec();
        // A value that a bool cannot hold is another value of it.
        field.set(spec.get(), value);
        if (field.values.has(field.get(spec.get()))) continue;
        const sagegen::Kernel kernel(*family, spec, family->new_schedule(), Target{.sm = 89});
        CHECK_THROWS_AS(emit(kernel), SpecError);
        CHECK_THROWS_AS(trace(kernel), SpecError);
      }
    }
    CHECK_THROWS_WITH(emit(sagegen::Kernel(attention::family(), {}, Target{.sm = 89}),
                           {.line_info = static_cast<LineInfo>(value)}),
                      Contains("line_info " + std::to_string(value)));
  }
}

TEST_CASE("every kernel is emitted or refused") {
  test::RandomKernels random(11);
  int emitted = 0;
  for (int i = 0; i < 2000; ++i) {
    const sagegen::Kernel kernel = random.garbage();
    const bool valid = kernel.violations().empty();
    INFO(kernel.key());
    std::string name;
    try {
      name = emit(kernel).entry;
      ++emitted;
    } catch (const SpecError&) {
    }
    CHECK(name == (valid ? kernel.key() : ""));
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
