// Random kernels of every registered family, for property tests. The same seed gives the same kernels on
// every machine.
#pragma once

#include <cstdint>
#include <memory>
#include <random>

#include "sagegen/kernel.h"

namespace sagegen::test {

class RandomKernels {
 public:
  explicit RandomKernels(std::uint64_t seed, const Families& families = builtin_families())
      : random_(seed), families_(families) {}

  // Any combination of legal values; most are refused by some rule.
  Kernel any() {
    const Family& family = *families_.all()[below(families_.all().size())];
    return any_of(family);
  }
  Kernel any_of(const Family& family) {
    const Draft draft = draw(family);
    return {family, draft.spec, draft.schedule, draft.target};
  }

  Kernel valid() {
    while (true) {
      Kernel kernel = any();
      if (kernel.violations().empty()) return kernel;
    }
  }
  Kernel valid_of(const Family& family) {
    while (true) {
      Kernel kernel = any_of(family);
      if (kernel.violations().empty()) return kernel;
    }
  }

  // One of the kernels of any() with 1 to 3 of its fields overwritten by any number at all, as a cast or
  // memory that nobody wrote leaves them.
  Kernel garbage() {
    const Family& family = *families_.all()[below(families_.all().size())];
    Draft draft = draw(family);
    for (std::size_t times = 1 + below(3); times > 0; --times) {
      int value = static_cast<int>(static_cast<std::uint32_t>(random_()));
      if (below(2) == 0) value = static_cast<int>(below(11)) - 1;  // near what there is
      const std::size_t which = below(family.what.size() + family.how.size() + 1);
      if (which < family.what.size()) {
        family.what[which].set(draft.spec.get(), value);
      } else if (which < family.what.size() + family.how.size()) {
        family.how[which - family.what.size()].set(draft.schedule.get(), value);
      } else {
        draft.target = {.sm = value, .suffix = static_cast<char>(value)};
      }
    }
    return {family, draft.spec, draft.schedule, draft.target};
  }

  std::size_t below(std::size_t n) { return static_cast<std::size_t>(random_() % n); }

 private:
  struct Draft {
    std::shared_ptr<void> spec, schedule;
    Target target;
  };

  Draft draw(const Family& family) {
    Draft draft{family.new_spec(), family.new_schedule(),
                supported_targets()[below(supported_targets().size())].target};
    set_all(family.what, draft.spec.get());
    set_all(family.how, draft.schedule.get());
    return draft;
  }

  void set_all(const Fields& fields, void* object) {
    for (const Field& field : fields) {
      const std::vector<int> values = field.values.all();
      field.set(object, values[below(values.size())]);
    }
  }

  std::mt19937_64 random_;
  const Families& families_;
};

}  // namespace sagegen::test
