// The kernels that products of choices stand for.
#include <memory>

#include "generator/vocabulary/collected.h"
#include "sagegen/set.h"

namespace sagegen {
namespace {

using detail::Collected;

void add_with_inputs(const Kernel& kernel, const Refused& refused, Collected& to) {
  Sentences sentences = kernel.violations();
  if (!sentences.empty()) return refused(kernel, sentences);
  const std::vector<Kernel> inputs = kernel.inputs();
  for (const Kernel& input : inputs) {
    sentences = input.violations();
    if (!sentences.empty()) return refused(input, sentences);
  }
  for (const Kernel& input : inputs) to.add(input);
  to.add(kernel);
}

}  // namespace

std::vector<Kernel> enumerate(const KernelProduct& product, const Families& families,
                              const Refused& refused) {
  const Family& family = families.of_title(product.family);
  Collected result;
  Given given;
  for (const auto& [name, values] : product.fields) given.push_back(name);
  for (const Target target : product.targets) {
    const TargetInfo& info = target_info(target);
    const auto add = [&](const void* chosen) {
      const std::shared_ptr<void> spec = family.new_spec(chosen);
      family.complete(spec.get(), given, info);
      const Kernel usual(family, spec, family.usual(spec.get(), info), target);
      if (product.schedules.empty()) add_with_inputs(usual, refused, result);
      for (const std::string& how : product.schedules)
        add_with_inputs(usual.with_schedule(how), refused, result);
    };
    const std::shared_ptr<void> spec = family.new_spec();
    const auto walk = [&](const auto& self, std::size_t depth) -> void {
      if (depth == product.fields.size()) return add(spec.get());
      const auto& [name, values] = product.fields[depth];
      for (const std::string& value : values) {
        set_field(family.what, spec.get(), name, value);
        self(self, depth + 1);
      }
    };
    walk(walk, 0);
  }
  return result.take();
}

}  // namespace sagegen
