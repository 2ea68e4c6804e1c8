// What `sagegen tune` knows of schedules before it times them: what fp64 says of their results, and the static model
// of their machine code.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "sagegen/runtime/sweep.h"
#include "templates/attention/plan_tuner.h"
#include "tools/sagegen/run_attention.h"
#include "tools/sagegen/run_judge.h"

namespace sagegen::cli {

// Runs a small problem with rows beyond whole tiles, heads that share K and V where those of `shape` do, and judges it
// row by row. The device of `on` outlives it.
class TuneJudge {
 public:
  TuneJudge(const attention::Shape& shape, const RunDevice& on, runtime::ArtifactSource source)
      : shape_(shape), on_(on), source_(std::move(source)) {}
  runtime::Trial operator()(const Kernel& kernel, const attention::Plan& plan);

 private:
  const Expected& expected_for(const AttentionJob& job);

  attention::Shape shape_;
  const RunDevice& on_;
  runtime::ArtifactSource source_;
  std::map<std::pair<int, int>, Expected>
      expected_;  // by cta_q and cta_k: tiles of block-sparse masks
                  // and maxima go by these
};

// What the mods of a kernel are given in a problem of this shape. The tensors are kept in `keep`.
attention::ModArguments tune_mods(const Kernel& kernel, const attention::Shape& shape,
                                  const runtime::Device& device,
                                  std::vector<runtime::Buffer>& keep);

// What machine code says before anything runs: schedules that spill, or that the model expects to be far slower than the
// best one. By schedule; empty texts: nothing against it.
std::map<std::string, std::string> reasons_of_the_model(const Kernel& kernel,
                                                        const std::string& gpu);

}  // namespace sagegen::cli
