// Attention over parts of the keys, each as a call of its own, and what the plan of merge_partials makes of them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tools/reference/reference.h"
#include "tools/sagegen/run_attention.h"

namespace sagegen::cli {

struct SplitRun {
  std::vector<AttentionJob> jobs;  // of each part, and its result
  std::vector<AttentionResult> parts;
  AttentionResult all;  // merged, with the kernels, times and findings of all of it
};

// So many keys in nearly equal parts, the first ones longer by one. Not more parts than keys.
std::vector<std::int64_t> equal_parts(std::int64_t keys, std::int64_t parts);

// The keys are cut into parts of these lengths. Of kernels without masks and sinks, which count keys from the first one of a
// part, and with O as it is. Where a part has findings `all` has them, and no result.
SplitRun run_split(const AttentionJob& job, const RunDevice& on,
                   const std::vector<std::int64_t>& lengths);

// How near the merge is to the same in double precision; 1 is the bound (tools/reference/merge.h).
struct MergeJudgement {
  double o = 0, lse = 0;  // the largest share of the bound; infinite for NaN
  bool passed() const { return o <= 1 && lse <= 1; }
};
MergeJudgement judge_merge(const std::vector<reference::Output>& parts,
                           const reference::Output& got, std::int64_t channels,
                           reference::IoType out);

// The relative L1 error that rounding O of the parts to their format brings, at most.
double l1_of_rounded_parts(std::vector<reference::Output> parts, std::int64_t channels,
                           reference::IoType type);

}  // namespace sagegen::cli
