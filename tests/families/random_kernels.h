// Random kernels of any family, for property tests. The same seed gives the same kernels on every machine.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <random>
#include <vector>

#include "sagegen/kernel.h"

namespace sagegen::test {

class RandomKernels {
 public:
  explicit RandomKernels(const Family& family, std::uint64_t seed)
      : family_(family), random_(seed) {}

  // Any combination of legal values of fields; rules refuse most of them.
  Kernel any() {
    const std::shared_ptr<void> spec = family_.new_spec(), schedule = family_.new_schedule();
    fill(family_.what, spec.get());
    fill(family_.how, schedule.get());
    return Kernel(family_, spec, schedule, any_target());
  }

  Kernel valid() {
    while (true) {
      const Kernel kernel = any();
      if (kernel.violations().empty()) return kernel;
    }
  }

  // One of any() with 1 to 3 of its fields overwritten by any number at all, as a cast or memory that nobody
  // wrote leaves them.
  Kernel garbage() {
    const Kernel kernel = any();
    const std::shared_ptr<void> spec = family_.new_spec(kernel.spec());
    const std::shared_ptr<void> schedule = family_.new_schedule(kernel.schedule());
    Target target = kernel.target();
    for (std::size_t times = 1 + below(3); times > 0; --times) {
      const int value = any_number();
      const std::size_t field = below(family_.what.size() + family_.how.size() + 1);
      if (field < family_.what.size()) {
        family_.what[field].set(spec.get(), value);
      } else if (field < family_.what.size() + family_.how.size()) {
        family_.how[field - family_.what.size()].set(schedule.get(), value);
      } else {
        target = {.sm = value, .suffix = static_cast<char>(value)};
      }
    }
    return Kernel(family_, spec, schedule, target);
  }

  std::size_t below(std::size_t n) { return static_cast<std::size_t>(random_() % n); }
  template <typename T>
  T pick(const std::vector<T>& from) {
    return from[below(from.size())];
  }

 private:
  void fill(const Fields& fields, void* object) {
    for (const Field& field : fields) field.set(object, pick(field.values.all()));
  }
  Target any_target() { return supported_targets()[below(supported_targets().size())].target; }
  int any_number() {
    const int value = static_cast<int>(static_cast<std::uint32_t>(random_()));
    if (below(2) == 0) return value;
    return pick(std::vector<int>{-1, 2, 3, 5, 6, 7, 8, 255, 256});  // near what there is
  }

  const Family& family_;
  std::mt19937_64 random_;
};

}  // namespace sagegen::test
