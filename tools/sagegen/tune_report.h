// What a sweep found, as a table, as JSON, and as a page with drawings.
#pragma once

#include <string>
#include <vector>

#include "sagegen/runtime/sweep.h"
#include "sagegen/runtime/tuning.h"
#include "templates/attention/plan.h"
#include "tools/sagegen/output.h"

namespace sagegen::cli {

struct TunedSchedule {
  std::string schedule;
  runtime::Outcome outcome = runtime::Outcome::passed;
  std::string reason;
  double time = 0;   // median; 0: not timed
  double ratio = 0;  // to the default's, of the same rounds
  std::size_t samples = 0;
};

struct TunedProblem {
  Kernel kernel;  // with the default schedule
  attention::Shape shape;
  std::string shape_class;
  std::string unit;
  std::string winner;  // empty: the default failed
  bool complete = false;
  std::size_t steps_left = 0;
  std::vector<TunedSchedule> schedules;  // the fastest first, then those that were not timed
  std::string stored;                    // the file of the entry; empty: none
  std::string error = {};                // why the problem is not possible

  const TunedSchedule& of(const std::string& schedule) const;
};

struct TuneReport {
  runtime::DeviceFingerprint device;
  std::string device_name;  // "cuda:0"
  std::string deployment;
  std::string measured;
  std::vector<TunedProblem> problems;
};

std::string report_text(const TuneReport& report);
Json report_json(const TuneReport& report);
// One file that needs nothing else: no script, no font, no network.
std::string report_html(const TuneReport& report);

}  // namespace sagegen::cli
