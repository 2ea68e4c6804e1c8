// Attention as what is tuned: a problem on a device, whose schedules are checked against fp64 and timed.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "sagegen/runtime/stopwatch.h"
#include "sagegen/runtime/sweep.h"
#include "templates/attention/plan_tuned.h"
#include "tools/sagegen/run_attention.h"
#include "tools/sagegen/run_judge.h"
#include "tools/sagegen/run_mods.h"

namespace sagegen::cli {

struct TuneProblem {
  Kernel kernel;  // with the default schedule
  attention::Shape shape;
};
std::string to_string(
    const attention::Shape& shape);  // "batch 1, heads 32 (K and V 8), q_len 4096, kv_len 4096"

// What machine code says before anything runs: schedules that spill, or that the model expects to be far slower than the
// best one. By schedule; empty texts: nothing against it.
std::map<std::string, std::string> reasons_of_the_model(const Kernel& kernel,
                                                        const std::string& gpu);

class TuneSubject {
 public:
  TuneSubject(TuneProblem problem, const RunDevice& on, runtime::ArtifactSource source,
              runtime::Deployment deployment);
  ~TuneSubject();

  // The schedules whose kernels can be, in the order of the rules' tables.
  const std::vector<std::string>& schedules() const { return schedules_; }
  std::size_t usual() const { return usual_; }

  // Compiles, loads, runs a small problem with rows beyond whole tiles, and judges it row by row.
  runtime::Trial check(const std::string& schedule);
  // Of the attention kernel on the whole problem; what prepares its inputs does not depend on the schedule. Throws
  // DriverError.
  double sample(const std::string& schedule);
  const runtime::Stopwatch& stopwatch() const { return *stopwatch_; }
  // The context is lost to a fault: nothing else runs in this process.
  bool device_is_lost() const { return lost_; }

 private:
  struct Tensors;
  Kernel kernel_of(const std::string& schedule) const {
    return problem_.kernel.with_schedule(schedule);
  }
  std::string why_not_here(const Kernel& kernel) const;
  const Expected& expected_for(const AttentionJob& job);
  runtime::Trial judged(const Kernel& kernel);

  TuneProblem problem_;
  RunDevice on_;
  runtime::ArtifactSource source_;
  std::vector<std::string> schedules_;
  std::size_t usual_ = 0;
  std::unique_ptr<runtime::Stopwatch> stopwatch_;
  std::unique_ptr<Tensors> tensors_;
  std::map<std::string, std::unique_ptr<attention::Plan>> plans_;
  std::map<std::pair<int, int>, Expected> expected_;  // by cta_q and cta_k: tiles of block-sparse masks
                                                      // and maxima go by these
  bool lost_ = false;
};

}  // namespace sagegen::cli
