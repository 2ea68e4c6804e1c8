// How a call of a plan is laid out: its steps, and the scratch tensors of the workspace.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "sagegen/runtime/plan.h"
#include "templates/attention/plan.h"
#include "templates/attention/plan_packed.h"

namespace sagegen::attention::plan_detail {

inline constexpr const char* kPlan = "attention";

enum Step {
  kStatistics,
  kValueStatistics,  // where V has channels of its own number
  kLargestKeys,
  kKeys,
  kValues,
  kLargestQueries,
  kQueries,
  kMeanQueries,
  kAttend,
  kSteps
};

enum Tensor {
  kQCodes,
  kQScale,
  kKCodes,
  kKScale,
  kVCodes,
  kVScale,
  kKSums,
  kVMaxima,
  kVSums,
  kVLeast,
  kVMean,
  kKMean,
  kLseCorrection,
  kQMean,
  kMeanScores,
  kKMaxima,
  kQMaxima,
  kTensors
};
inline constexpr runtime::Scratch kScratch[kTensors] = {
    {"q_codes", kQueries, kAttend},
    {"q_scale", kQueries, kAttend},
    {"k_codes", kKeys, kAttend},
    {"k_scale", kKeys, kAttend},
    {"v_codes", kValues, kAttend},
    {"v_scale", kValues, kAttend},
    {"k_sum_partial", kStatistics, kKeys},
    {"v_amax_partial", kStatistics, kValues},
    {"v_sum_partial", kStatistics, kValues},
    {"v_least_partial", kStatistics, kValues},
    {"v_mean", kValues, kAttend},
    {"k_mean", kLargestKeys, kAttend},
    {"lse_correction", kQueries, kAttend},
    {"q_mean", kLargestQueries, kAttend},
    {"mean_scores", kMeanQueries, kAttend},
    {"k_maxima", kLargestKeys, kKeys},
    {"q_maxima", kLargestQueries, kQueries},
};

// The kernel and its inputs, each at its step.
std::vector<std::optional<Kernel>> steps_of(const Kernel& kernel);

// A part of the problem that is attended at a time.
struct Part {
  std::int64_t first_batch = 0, batches = 0;
  std::int64_t first_head = 0, heads = 0;    // of Q; with pack_gqa of K and V
  std::int64_t first_block = 0, blocks = 0;  // of kMeanRows queries
};

// Heads that have rows of Q of their own, and the rows that each of them has for a query.
std::int64_t row_heads(const Spec& spec, const Shape& shape);
std::int64_t rows_of_query(const Spec& spec, const Shape& shape);

// How a call is cut into tiles and chunks, and where its scratch tensors lie.
struct Layout {
  std::int64_t q_len_padded, kv_len_padded;  // q_len_padded: of rows with pack_gqa
  std::int64_t chunk_len;                    // keys that one block of kv_statistics reduces
  std::int64_t chunks;
  WorkspaceRows queries, keys;
  Part part;                                 // the largest; the whole problem without mean scores
  std::array<std::int64_t, kTensors> bytes;  // 0: absent
  runtime::ScratchMap::Placed placed;
};

Layout layout_of(const Spec& spec, const Schedule& schedule, const runtime::ScratchMap& map,
                 const PlanOptions& options, const Shape& shape, Lse lse);

}  // namespace sagegen::attention::plan_detail
