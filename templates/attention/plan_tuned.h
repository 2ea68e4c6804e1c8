// Attention with the schedule that a sweep found for each class of problems.
//
//   TunedPlan plan(device, kernel, source, {.warn = log});
//   plan.prepare(shapes);                     // at start: reads the database, loads kernels
//   plan.plan_for(shape).run(shape, ...);     // on the request path: nothing is read, compiled or allocated
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "sagegen/runtime/tuning.h"
#include "templates/attention/plan.h"
#include "templates/attention/plan_shape_class.h"

namespace sagegen::attention {

enum class TuningMode {
  off,     // the kernel's own schedule
  cached,  // what the database has for this device; the kernel's own schedule for the rest
  tune,    // as cached, and what the database does not have is found out by prepare(), in this process (Tuner)
  pinned,  // what a file of exported entries has, whatever device they were measured on: the same on every machine
};
// "off", "cached", "tune" or "pinned FILE", as SAGEGEN_TUNING has it. Throws ArgumentError that lists these.
struct TuningChoice {
  TuningMode mode = TuningMode::cached;
  std::filesystem::path pinned = {};
};
TuningChoice tuning_choice(std::string_view text);
// Cached where the variable is not set. Throws ArgumentError that names it.
TuningChoice tuning_choice_of_environment();

struct TuningOptions {
  TuningChoice choice = {};
  std::filesystem::path database = {};  // empty: tuning below runtime::cache_folder()
  runtime::Deployment deployment = runtime::Deployment::eager;
  // Told in a sentence why an entry is not used or a sweep found none, each once, and calls nothing of the plan; null: nobody is.
  std::function<void(const std::string&)> warn = {};
  PlanOptions plan = {};
};

class TunedPlan {
 public:
  // Loads the kernel as it is. Throws as Plan does; ArtifactError, ArgumentError of a pinned file.
  TunedPlan(const runtime::Device& device, const Kernel& kernel, runtime::ArtifactSource source,
            TuningOptions options);
  ~TunedPlan();

  // Looks up, with TuningMode::tune finds out, and loads what these shapes run; those that were prepared before cost nothing. A schedule that does not
  // load is warned of, and the default stays. May be called while others run; calls that belong together, from
  // workspace_bytes() to attend(), are of one plan_for(), which this does not change. Throws ArgumentError of a shape that
  // is not possible, and with TuningMode::tune DriverError of a device that is lost.
  void prepare(std::span<const Shape> shapes);

  // The plan for a shape: the default for classes that nobody prepared. Any number of threads; valid while this lives.
  const Plan& plan_for(const Shape& shape) const noexcept;
  const Plan& usual() const { return *usual_; }

  // The classes whose plan is not the default, for people: "h32g1q4096k4096 q64k64w4s2".
  std::vector<std::string> choices() const;

 private:
  struct Choice {
    ShapeClass shape;
    const Plan* plan;
  };
  using Table = std::vector<Choice>;  // sorted

  const Plan* choose(const Shape& shape);
  std::string pinned_schedule(const runtime::TuningKey& key) const;  // empty: the default
  std::string schedule_of_database(const runtime::TuningKey& key) const;
  std::string schedule_of_sweep(const Shape& shape) const;
  std::string why_not(const runtime::TuningEntry& entry) const;
  const Plan* plan_of(const std::string& schedule);
  void warn(const std::string& text) const;

  runtime::Device device_;
  Kernel kernel_;
  runtime::ArtifactSource source_;
  TuningOptions options_;
  runtime::DeviceFingerprint fingerprint_;
  std::vector<runtime::TuningEntry> pinned_;
  std::unique_ptr<const Plan> usual_;
  std::mutex mutex_;  // of all below; readers take the table alone
  std::vector<std::pair<std::string, std::unique_ptr<const Plan>>> plans_;  // by schedule
  std::vector<std::unique_ptr<const Table>> tables_;  // those before the last may still be read
  std::atomic<const Table*> table_{nullptr};
};

}  // namespace sagegen::attention
