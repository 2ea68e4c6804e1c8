// The fastest schedule of a kernel for one problem on the device at hand.
//
//   Tuner tuner(device, kernel, shape, source, {.deployment = runtime::Deployment::graph});
//   const Tuner::Result result = tuner.tune();   // seconds to minutes; kept for TunedPlan, and for the next call
//
// It works in the caller's process: a kernel that never ends, or that takes the context with it, takes this, too.
// `sagegen tune` does the same in a child that is watched.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sagegen/runtime/stopwatch.h"
#include "sagegen/runtime/sweep.h"
#include "sagegen/runtime/tuning.h"
#include "templates/attention/plan.h"
#include "templates/attention/plan_shape_class.h"

namespace sagegen::attention {

struct TunerOptions {
  // Of entries; empty: tuning below runtime::cache_folder(). Journals of sweeps are in the folder sweeps beside it.
  std::filesystem::path database = {};
  runtime::Deployment deployment = runtime::Deployment::eager;
  // What the kernel is given, but for O and LSE, which are made; asked once, and if anything is to be done at all. Where
  // q, k and v have no data, they are made, too, of random numbers. Mods with tensors need theirs. Null: no tensor, and
  // masks of the end of a sequence, where few queries of many keys are.
  std::function<Arguments()> arguments = {};
  // Forget what an earlier sweep of the same problem found.
  bool again = false;
  // Whether what a schedule computes is right, and by which rule: what another rule said does not count. Null: O and LSE of the problem are compared, row by row, with those
  // of the default schedule, which is believed; `sagegen tune` compares all with fp64.
  std::function<runtime::Trial(const Kernel& kernel, const Plan& plan)> judge = {};
  std::string judged_by = "the caller";
  // Asked before each step: true ends the sweep, which goes on where it was when tune() is called again.
  std::function<bool()> stop = {};
  // A bound on workspaces says which schedules are tried, those that need no more than the default; workspaces of the sweep
  // are as large as they are.
  PlanOptions plan = {};
};

class Tuner {
 public:
  // Throws ArgumentError of a shape with sizes below 1, or packed, a deployment that the device does not have, and a kernel that attends codes
  // of the caller.
  Tuner(const runtime::Device& device, const Kernel& kernel, const Shape& shape,
        runtime::ArtifactSource source, TunerOptions options = {});
  ~Tuner();

  // ---- all of it ----

  struct Result {
    std::string
        schedule;  // the fastest, or the default where no other is clearly faster; empty if stopped before
    bool complete = false;
    double time = 0, usual_time = 0;  // medians, in units of stopwatch()
    std::filesystem::path
        stored;  // the entry; empty: a later one of the class is there, or nothing was timed
    struct Failure {
      std::string schedule;
      runtime::Trial trial;
    };
    std::vector<Failure> failures;  // what did not get into the race, and why
  };
  // Journal and entry are on the disk when this returns. Throws CacheError, also while another process times on the
  // device or has this sweep; ArtifactError of a journal that is none; ArgumentError of a shape or arguments that the
  // kernel does not take; DriverError of a device that is lost, of a default schedule that faults, and of memory that the device
  // does not have. Schedules whose code the source does not have are none of the sweep.
  Result tune();

  // ---- its parts, for those who drive a Sweep themselves ----

  // Those whose kernels can be, in the order of the rules' tables.
  const std::vector<std::string>& schedules() const { return schedules_; }
  std::size_t usual() const { return usual_; }
  const runtime::Stopwatch& stopwatch() const { return *stopwatch_; }
  const runtime::TuningKey& key() const { return key_; }
  // Compiles, loads and judges. Throws as tune() does, of arguments and memory.
  runtime::Trial check(const std::string& schedule);
  // Of the attention kernel; what prepares its inputs does not depend on the schedule. Throws DriverError.
  double sample(const std::string& schedule);
  // A fault left nothing that can be used in this process.
  bool device_is_lost() const { return lost_; }

 private:
  struct Tensors;
  struct Output {
    std::vector<float> o, lse;  // rows of channels, and rows
  };
  Kernel kernel_of(const std::string& schedule) const { return kernel_.with_schedule(schedule); }
  std::string why_not_here(const Kernel& kernel) const;
  Tensors& tensors();
  Output output_of(const Plan& plan);
  runtime::Trial compared(const Plan& plan);
  // Those whose code is there; the others are failures.
  std::vector<std::string> with_code(std::vector<Result::Failure>& failures) const;
  void check_all(runtime::Sweep& sweep);
  void race(runtime::Sweep& sweep);
  bool is_stopped() const { return options_.stop && options_.stop(); }

  runtime::Device device_;
  Kernel kernel_;
  Shape shape_;
  runtime::ArtifactSource source_;
  TunerOptions options_;
  runtime::TuningKey key_;
  bool emulated_ = false;
  std::vector<std::string> schedules_;
  std::size_t usual_ = 0;
  std::unique_ptr<runtime::Stopwatch> stopwatch_;
  std::unique_ptr<Tensors> tensors_;
  std::optional<Output> expected_;  // of the default
  std::map<std::string, std::unique_ptr<Plan>> plans_;
  bool lost_ = false;
};

// How many samples a clock asks for: of one that is exact, one.
runtime::RaceOptions race_options(const runtime::Stopwatch& stopwatch);
// All that the lines of a journal depend on, as far as the problem says it; and where it is, by that.
std::string sweep_subject(const runtime::TuningKey& key, const Shape& shape, const Kernel& usual);
std::filesystem::path sweep_journal(const std::filesystem::path& folder,
                                    const runtime::TuningKey& key, const std::string& subject);
// Keeps what a sweep that is over found out, unless a later one of the class is there. Returns the file; empty: not kept.
std::filesystem::path store_result(const runtime::TuningDatabase& database,
                                   const runtime::Sweep& sweep, const runtime::TuningKey& key,
                                   const Shape& shape, const Kernel& usual, std::string_view unit);
// Held while times are taken on a GPU: two processes would time each other. Null in the emulator, which counts. Throws
// CacheError that names the lock if another process has it.
std::unique_ptr<runtime::FileLock> timing_lock(const runtime::Device& device);

}  // namespace sagegen::attention
