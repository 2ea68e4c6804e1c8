// A kernel as a value: family, what, how and where. It knows neither LLVM nor CUDA.
//
//   const Kernel kernel(attention::family(), {.head_dim = 64}, {}, Target{89});
//   kernel.key()         sage_fwd_d64_f16_qk_s8t_g32x64_smk_pv_e4m3_f32x2__q128k64w4s2__sm89
//   kernel.violations()  empty: it can be emitted
//
// The key is the kernel's name, file name, cache key and entry point: always a PTX identifier.
//   <owner>_<family>_<what>__<how>__<target>     (__<how> is absent in families with one schedule)
// Two kernels are equal if their keys are.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "sagegen/error.h"
#include "sagegen/family.h"

namespace sagegen {

template <typename Spec, typename Schedule>
class FamilyOf;

class Kernel {
 public:
  template <typename S, typename H>
  Kernel(const FamilyOf<S, H>& family, const std::type_identity_t<S>& spec,
         const std::type_identity_t<H>& schedule, Target target)
      : Kernel(family, std::make_shared<S>(spec), std::make_shared<H>(schedule), target) {}
  // With the usual schedule. Throws SpecError if the target is not supported.
  template <typename S, typename H>
  Kernel(const FamilyOf<S, H>& family, const std::type_identity_t<S>& spec, Target target)
      : Kernel(family, std::make_shared<S>(spec), family.usual(&spec, target_info(target)),
               target) {}
  // For code that knows no family. The objects must be of the family's types.
  Kernel(const Family& family, std::shared_ptr<const void> spec,
         std::shared_ptr<const void> schedule, Target target);

  const std::string& key() const { return body_->key; }
  std::string what()
      const;  // the key without schedule and target: what promises about numerics name
  std::string how() const;  // "q128k64w4s2"; empty in families with one schedule
  const Family& family() const { return *body_->family; }
  Target target() const { return body_->target; }

  // Why it cannot be emitted; empty if it can. validate() throws SpecError with all of it.
  Sentences violations() const;
  void validate() const;

  // Of a valid kernel.
  Resources resources() const;
  ParamLayout params() const;
  int ptx_version() const;             // of its PTX, x10
  std::vector<Kernel> inputs() const;  // the kernels that prepare its inputs, in launch order
  std::vector<Section> describe() const;

  Kernel on(Target target) const;                    // the same for another target
  Kernel with_schedule(std::string_view how) const;  // throws SpecError
  Kernel with_usual_schedule() const;
  std::vector<Kernel> schedules() const;  // the same with every legal schedule

  // Spec and schedule as the family's structs. Throws InternalError for another family's kernel.
  template <typename S, typename H>
  ViewOf<S, H> view(const FamilyOf<S, H>& family) const {
    require(family);
    return {*static_cast<const S*>(spec()), *static_cast<const H*>(schedule()),
            target_info(body_->target)};
  }
  const void* spec() const { return body_->spec.get(); }
  const void* schedule() const { return body_->schedule.get(); }

  friend bool operator==(const Kernel& a, const Kernel& b) { return a.key() == b.key(); }

 private:
  void require(const Family& family) const;

  struct Body {
    const Family* family;
    std::shared_ptr<const void> spec, schedule;
    Target target;
    std::string key;
  };
  std::shared_ptr<const Body> body_;
};

// Reads the form only: a key may name a kernel that violations() refuses. Throws SpecError that names the
// bad token, its position and what belongs there. parse_key(k.key()) == k.
Kernel parse_key(std::string_view text, const Families& families = builtin_families());

// A kernel from a text of options, "head_dim=64 io=bf16 causal": names of the family's fields, in any order,
// and "schedule=q64k64w4s2". What is not named is what is usual on the target. Throws SpecError.
Kernel kernel_of_options(const Family& family, std::string_view options, Target target);
// All fields and the schedule in that form. kernel_of_options(k.family(), options_of(k), k.target()) == k.
std::string options_of(const Kernel& kernel);

// {"key": "...", "family": "attention", "target": "sm_89", "what": {"head_dim": 64, ...}, "how": {...}}: numbers,
// words, true and false, as in a set description (set.h).
std::string to_json(const Kernel& kernel);

// A family of two structs. It must outlive its kernels: make it once, as a static.
template <typename Spec, typename Schedule = NoSchedule>
class FamilyOf final : public Family {
 public:
  using View = ViewOf<Spec, Schedule>;
  // Throws InternalError if resources or params are missing.
  explicit FamilyOf(FamilyDef<Spec, Schedule> def) : def_(std::move(def)) {
    if (def_.resources == nullptr || def_.params == nullptr) {
      throw InternalError("family " + std::string(def_.title) +
                          " says no resources or no params of its kernels");
    }
    owner = def_.owner;
    word = def_.word;
    title = def_.title;
    room = def_.room;
    version = def_.version;
    what = def_.what;
    how = def_.how;
  }
  std::shared_ptr<void> new_spec(const void* from = nullptr) const override {
    return copy<Spec>(from);
  }
  std::shared_ptr<void> new_schedule(const void* from = nullptr) const override {
    return copy<Schedule>(from);
  }
  void complete(void* spec, const Given& given, const TargetInfo& target) const override {
    if (def_.complete != nullptr) def_.complete(*static_cast<Spec*>(spec), given, target);
  }
  std::shared_ptr<void> usual(const void* spec, const TargetInfo& target) const override {
    if (def_.usual == nullptr) return std::make_shared<Schedule>();
    return std::make_shared<Schedule>(def_.usual(*static_cast<const Spec*>(spec), target));
  }
  Sentences broken_rules(const Kernel& kernel) const override {
    const View view = kernel.view(*this);
    Sentences sentences;
    for (const auto& layer : def_.rules) {
      for (const Rule<View>& rule : layer) {
        if (rule.broken(view)) sentences.push_back(rule.sentence(view));
      }
      if (!sentences.empty()) break;
    }
    return sentences;
  }
  Resources resources(const Kernel& kernel) const override {
    return def_.resources(kernel.view(*this));
  }
  ParamLayout params(const Kernel& kernel) const override {
    return def_.params(kernel.view(*this));
  }
  std::vector<Kernel> inputs(const Kernel& kernel) const override {
    return def_.inputs == nullptr ? std::vector<Kernel>{} : def_.inputs(kernel.view(*this));
  }
  std::vector<Section> describe(const Kernel& kernel) const override {
    return def_.describe == nullptr ? std::vector<Section>{} : def_.describe(kernel.view(*this));
  }

 private:
  template <typename T>
  static std::shared_ptr<void> copy(const void* from) {
    return from == nullptr ? std::make_shared<T>()
                           : std::make_shared<T>(*static_cast<const T*>(from));
  }
  FamilyDef<Spec, Schedule> def_;
};

}  // namespace sagegen
