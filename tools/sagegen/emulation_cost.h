// How long emulated attention will take, counted before it starts: what takes minutes is told, and what takes longer than
// the user's limit is not started unasked.
#pragma once

#include <cstdint>
#include <string>

#include <CLI/CLI.hpp>

#include "tools/sagegen/output.h"
#include "tools/sagegen/run_attention.h"
#include "tools/sagegen/run_judge.h"

namespace sagegen::cli {

struct EmulationLimit {
  bool yes = false;      // start it however long it takes
  double seconds = 300;  // 0: none
};

// --yes and --limit.
void define_limit(CLI::App& app, EmulationLimit& limit);

// Pairs of a query and a key that the causal mask leaves. Other masks are not counted.
double visible_scores(double q_len, double kv_len, bool causal,
                      attention::CausalAlignment alignment);

// Seconds for attention of `job` on all cores, with its comparison with fp64: an estimate, from multiplications counted
// and measured rates (emulation_cost.cpp), that may well be off by a factor of two. `checks` of the emulator.
double estimated_seconds(const AttentionJob& job, runtime::Checks checks,
                         const JudgeOptions& judge);

// Says how long it will take if that is more than a moment. Above the limit it asks on a terminal, and else throws
// UsageError, which names a size that is within. Says nothing on GPUs. `jobs`: how many as `job` there are.
void confirm_emulation(const EmulationLimit& limit, const RunDevice& on, const AttentionJob& job,
                       runtime::Checks checks, const JudgeOptions& judge, std::size_t jobs,
                       const Output& output);

}  // namespace sagegen::cli
