// A family of kernels is a value: two plain structs, tables about them, and functions of one kernel.
//
// Spec is what decides the numbers that come out; promises about numerics hold for a Spec. Schedule is what
// the tuner may change: it decides how fast they come, and no more of them than the order and rounding of
// f32 sums. A kernel is one Spec, one Schedule and one target (kernel.h).
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sagegen/fields.h"
#include "sagegen/params.h"
#include "sagegen/target.h"

namespace sagegen {

class Kernel;

// What a launch of a kernel needs.
struct Resources {
  int threads = 0;       // per block
  int dynamic_smem = 0;  // bytes per block
  int ptx_version =
      0;  // of the PTX ISA, x10, if it has to be newer than that of the target's kernels
};

// Sentences that say what was asked, which rule refuses it, the numbers, and what to change.
using Sentences = std::vector<std::string>;

// A description in words, for people.
struct Section {
  std::string title;
  Sentences lines;
};

// Names of fields that somebody has set; the others may be completed with what is usual.
using Given = std::vector<std::string_view>;
bool is_given(const Given& given, std::string_view name);

// A rule of validity.
template <typename View>
struct Rule {
  bool (*broken)(const View&);
  std::string (*sentence)(const View&);
};
// A layer's rules see only what the layers before it let through, and all of them see legal field values and
// a supported target: no rule guards itself, and one mistake is reported once.
template <typename View>
using RuleLayers = std::vector<std::vector<Rule<View>>>;

// Of a family with one schedule.
struct NoSchedule {};

// What a family's functions are given.
template <typename SpecT, typename ScheduleT>
struct ViewOf {
  const SpecT& spec;
  const ScheduleT& schedule;
  const TargetInfo& target;
};

// What makes a family; FamilyOf (kernel.h) is made from it.
template <typename Spec, typename Schedule = NoSchedule>
struct FamilyDef {
  using View = ViewOf<Spec, Schedule>;

  std::string_view owner = "sage";  // first word of every key; yours is your project's
  std::string_view word;            // second word: "fwd"
  std::string_view title;           // in sets, reports and messages: "attention"
  std::string_view room;            // where its source lies: "templates/attention"
  int version = 1;                  // raised when the same key comes to mean other numbers
  Fields what;                      // of Spec
  Fields how = {};                  // of Schedule
  RuleLayers<View> rules = {};
  Resources (*resources)(const View&) = nullptr;  // required
  ParamLayout (*params)(const View&) = nullptr;   // required
  // Fills what is not given with what is usual on the target. Null: the defaults of Spec are usual. This
  // and usual() are asked for any values, also for those that the rules refuse.
  void (*complete)(Spec&, const Given&, const TargetInfo&) = nullptr;
  // The schedule to begin with. Null: the defaults of Schedule.
  Schedule (*usual)(const Spec&, const TargetInfo&) = nullptr;
  // The kernels that prepare this one's inputs, in launch order. Null: none.
  std::vector<Kernel> (*inputs)(const View&) = nullptr;
  std::vector<Section> (*describe)(const View&) = nullptr;
};

// A family as code sees it that knows none in particular.
class Family {
 public:
  virtual ~Family() = default;
  std::string_view owner, word, title, room;
  int version = 1;
  Fields what, how;

  // A copy of a Spec or Schedule, or one at its defaults for null.
  virtual std::shared_ptr<void> new_spec(const void* from = nullptr) const = 0;
  virtual std::shared_ptr<void> new_schedule(const void* from = nullptr) const = 0;
  virtual void complete(void* spec, const Given& given, const TargetInfo& target) const = 0;
  virtual std::shared_ptr<void> usual(const void* spec, const TargetInfo& target) const = 0;
  // The family's own rules; fields and target are legal.
  virtual Sentences broken_rules(const Kernel& kernel) const = 0;
  virtual Resources resources(const Kernel& kernel) const = 0;
  virtual ParamLayout params(const Kernel& kernel) const = 0;
  virtual std::vector<Kernel> inputs(const Kernel& kernel) const = 0;
  virtual std::vector<Section> describe(const Kernel& kernel) const = 0;
};

// A list of families. Ours is builtin_families(); a user adds their own to a copy. The families must
// outlive the list and every kernel of theirs.
class Families {
 public:
  // Throws InternalError for two families with the same title, or with the same word of one owner, and for
  // tables of fields that would give two kernels one key, or that keys, sets and option texts could not be
  // read with: whatever fits here round-trips in all of them.
  Families& add(const Family& family);
  const std::vector<const Family*>& all() const { return list_; }
  const Family* find_title(std::string_view title) const;                        // or null
  const Family* find_word(std::string_view owner, std::string_view word) const;  // or null
  // Throws SpecError that lists what exists.
  const Family& of_title(std::string_view title) const;

 private:
  std::vector<const Family*> list_;
};

// The families of this library (templates/rooms.def).
const Families& builtin_families();

}  // namespace sagegen
