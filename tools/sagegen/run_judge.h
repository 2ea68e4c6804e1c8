// What `run` says about a result: the error against exact attention, every judged row against the bound
// of its formats, and every row against what is possible.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>

#include <CLI/CLI.hpp>

#include "tools/reference/judge.h"
#include "tools/sagegen/output.h"
#include "tools/sagegen/run_attention.h"

namespace sagegen::cli {

struct JudgeOptions {
  std::optional<std::int64_t> rows;  // to judge; 0: all; not given: as many as take seconds
  std::uint64_t seed = 1;            // of the random ones among them
};
void define_judge(CLI::App& app, JudgeOptions& options);
// In order; of a sample the first, the last, those at the edges of tiles, and random ones.
reference::RowNumbers rows_to_judge(const AttentionJob& job, const JudgeOptions& options);

// Where a row of this number is.
struct Place {
  std::int64_t batch, head, token;
};
Place place_of(std::int64_t row, const reference::Tensor& q);

struct LseError {
  double max_abs = 0;
  std::int64_t non_finite = 0;  // NaN, or infinite where the exact value is not, or the reverse
};

inline constexpr double kNone = std::numeric_limits<double>::quiet_NaN();  // null in JSON

// Of some rows against exact attention.
struct Errors {
  reference::Metrics o{kNone, kNone, kNone, kNone, 0};
  reference::RowError worst_row;
  LseError lse{kNone, 0};
};
Errors errors_of(const reference::RowNumbers& rows, const reference::Output& exact,
                 const reference::Output& got);
// Of the number formats alone. model: of unrounded_model(); O counts in the format that kernels write.
Errors model_errors(const reference::RowNumbers& rows, const reference::Output& exact,
                    reference::Output model, const reference::QuantModel& quant);

struct Judgement {
  reference::RowNumbers rows;  // judged against fp64; empty if a kernel was stopped
  Errors kernel, model;
  AccuracyBound bound;
  double slack = kNone;  // relative L1 that a right kernel may have beyond `bound`, see l1_slack()
  double limit = kNone;  // of the relative L1
  bool within_limit = false;
  reference::RowVerdict row;
  reference::Impossible impossible;
  bool stopped = false;  // by findings: there is no result, and nothing to compare
  bool passed = false;
};

// What the judged rows have to come to on a device of this compute capability. It takes far longer than to
// judge by it, and depends on the job's numbers and on cta_k alone: one serves all such schedules.
struct Expected {
  reference::RowNumbers rows;
  reference::Output exact, model;  // model: unrounded_model()
  reference::Allowance allowance;
};
Expected expected_of(const AttentionJob& job, int compute_capability, const JudgeOptions& options);

Judgement judge(const AttentionJob& job, const AttentionResult& result, int compute_capability,
                const Expected& expected);
// Both in turn; a run that was stopped expects nothing.
Judgement judge(const AttentionJob& job, const AttentionResult& result, const RunDevice& on,
                const JudgeOptions& options);

std::string judgement_text(const Judgement& judgement, const AttentionJob& job,
                           const JudgeOptions& options, bool with_lse);
Json judgement_json(const Judgement& judgement, const AttentionJob& job,
                    const JudgeOptions& options);

}  // namespace sagegen::cli
