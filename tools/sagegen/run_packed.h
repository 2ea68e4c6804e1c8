// Attention of packed sequences on a device, and each sequence as a batch of its own, which judges it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "sagegen/runtime/graph.h"
#include "tools/sagegen/run_attention.h"
#include "tools/sagegen/run_mods.h"

namespace sagegen::cli {

struct SequenceLengths {
  std::vector<std::int64_t> queries, keys;
};

// A plan's packed call and its memory. The inputs of a job are those of a batch of the largest lengths: of sequence b
// the packed tensors have the first rows of batch b. Rows of the packed tensors that belong to no sequence hold NaN.
class PackedCall {
 public:
  // Of tensors of so many rows.
  PackedCall(const AttentionJob& job, const RunDevice& on, const attention::Plan& plan,
             std::int64_t total_q, std::int64_t total_kv);

  // Puts sequences where the last ones were: the first begins `before` rows from the start. Not more rows than there are.
  void set(const reference::Inputs& inputs, const SequenceLengths& lengths,
           std::int64_t before = 0);
  void set_sums(const std::vector<std::int32_t>& of_queries,
                const std::vector<std::int32_t>& of_keys);
  void fill_workspace(unsigned char byte) { workspace_.fill(byte); }

  // From here on run() replays a graph of the launches, which it is made of now.
  void capture();
  // Of each sequence; kernels, note and findings are in all of them. O and LSE are empty if a launch failed.
  std::vector<AttentionResult> run();
  // Whether the last run left the rows of O and of the LSE alone that belong to no sequence.
  bool walls_stand() const { return walls_stand_; }
  double run_ms() const { return run_ms_; }

 private:
  int value_dim() const;
  // width: channels of a row.
  std::size_t at(std::int64_t head, std::int64_t row, std::int64_t total, std::int64_t heads,
                 int width) const;
  runtime::TensorView view(const runtime::Buffer& buffer, std::int64_t heads, std::int64_t total,
                           int width) const;
  void upload(runtime::Buffer& to, const reference::Tensor& tensor,
              const std::vector<std::int64_t>& lengths, std::int64_t before, std::int64_t total,
              int width) const;
  // What the kernel writes.
  struct Written {
    std::vector<std::uint8_t> o;
    std::vector<float> lse, o_scales;
  };
  std::size_t element_bytes() const;  // of O
  void enqueue(runtime::StreamHandle stream) const;
  AttentionResult result_of(std::size_t sequence, std::int64_t first, Written& written) const;

  const AttentionJob& job_;
  const RunDevice& on_;
  const attention::Plan& plan_;
  std::int64_t total_q_, total_kv_, before_ = 0;
  attention::Shape shape_;
  SequenceLengths lengths_;
  runtime::Buffer q_, k_, v_, o_, lse_, o_scale_, sums_q_, sums_kv_, workspace_;
  std::vector<runtime::Buffer> mod_tensors_;
  attention::ModArguments mods_;
  std::unique_ptr<runtime::Graph> graph_;
  bool walls_stand_ = true;
  double run_ms_ = 0;
};

// The sequence as a batch of its own: what it is judged by and, with a kernel that may have no varlen, what it is to
// give. `packed` was made with these mods and this seed.
AttentionJob job_of_sequence(const AttentionJob& packed, const Kernel& kernel,
                             const SequenceLengths& lengths, std::size_t sequence,
                             const ModOptions& mods, std::uint64_t seed);

// What no keys give: O = 0, and the LSE of the sinks or -infinity.
bool is_of_no_keys(const AttentionJob& job, const AttentionResult& result);

}  // namespace sagegen::cli
