// Quantized attention as a plan of kernels: O = softmax(Q K^T * scale + mask) V, optionally with LSE.
//
// A Plan owns loaded kernels for one device and nothing else: the caller owns tensors, workspace and stream
// (sagegen/runtime/plan.h). One Plan may be used from many threads if each call has its own workspace.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "sagegen/runtime/plan.h"
#include "sagegen/runtime/tensor.h"
#include "templates/attention/mods/all.h"
#include "templates/attention/plan_codes.h"
#include "templates/attention/plan_invariance.h"
#include "templates/attention/spec.h"

namespace sagegen::attention {

struct Shape {
  std::int64_t batch = 1;
  std::int64_t q_heads = 1;
  std::int64_t kv_heads = 1;  // divides q_heads
  std::int64_t q_len = 1;
  std::int64_t kv_len = 1;
  // Of packed tensors (Arguments::cu_seqlens_q): the rows of all sequences together; q_len and kv_len are the most that
  // one of them may have. 0: nothing is packed, and every sequence has q_len queries and kv_len keys.
  std::int64_t total_q = 0;
  std::int64_t total_kv = 0;
};

enum class CausalAlignment { top_left, bottom_right };

// Q, K and V hold finite numbers, and scaled scores are within f32: nothing checks that on the device, and
// a NaN or infinity in them leaves O undefined. Where Q and K are not quantized, products of their elements and the
// sums of these are within f32, too, as those of f16 always are.
inline constexpr float kLargestSoftmaxScale = 1e25f;

// What mods ask for: mods/NAME.h. Of a mod that the kernel does not have, only the default is taken.
struct ModArguments {
#define SAGEGEN_MOD(name) attention::name::Arguments name = {};
#include "templates/attention/mods/mods.def"
};

// Sets one of them by its name, "window.left" or "softcap.cap": f32 fields from `number`, others, addresses
// among them, from `integer`. Throws ArgumentError that lists the names, or if the other one is not 0.
void set_mod_argument(ModArguments& arguments, std::string_view name, std::int64_t integer,
                      double number);

struct Arguments {
  runtime::TensorView q, k, v, o;
  // f32 [batch, q_heads, q_len], of packed tensors [q_heads, total_q], natural logarithm; 0: not wanted. It is that of
  // the weights in use, P as rounded, so that partial results merge as if computed at once. Beside what the codes of Q and K
  // change in the scores, the rounding of P costs at most, and usually far less:
  //   FP8   1/16, plus 2.2e-6 for each key whose weight is less than 3.5e-5 of the largest
  //   FP16  2^-11, plus 3e-8 for each key whose weight is less than 6.1e-5 of the largest; with
  //         Accumulation::f32 the tensor core truncates another 8.2e-8 per key
  //   BF16  2^-8, and the same of the tensor core
  // Q and K that are not quantized change a score by what the tensor core truncates of Q K^T: 2.2e-6 of the largest
  // product, or sum on the way, per 16 channels, times softmax_scale.
  // Accumulation::f32_f16 rounds sums of P: 2^-8 at most, usually 2^-11. A key that weighs little costs twice as
  // much in FP8, of twice the weight, with CodeRange::fine_v four times; 512 times less in FP16.
  runtime::DevicePtr lse = 0;
  // 0: 1 / sqrt(head_dim); otherwise > 0, at most kLargestSoftmaxScale, and no subnormal number where Q and K are not
  // quantized.
  float softmax_scale = 0.0f;
  // Where query i stands among the keys, for mods that count keys from there (causal, window): at key i, or
  // so that the last query stands at the last key.
  CausalAlignment causal = CausalAlignment::top_left;
  ModArguments mods = {};
  // i32 [batch + 1] on the device, for kernels with varlen; 0: nothing is packed. Sequence b has rows cu_seqlens[b] to
  // cu_seqlens[b + 1] - 1 of the packed tensors, which are [total, heads, channels] with strides of tokens and heads;
  // that of batches is ignored. Masks and biases count queries and keys from the first of a sequence; tensors of
  // scores and tiles are as large as those of a batch of the largest lengths.
  // Kernels read the lengths when they run, and the host never: what is captured in a graph may be replayed with other
  // ones. Each sequence gives what it would give as a batch of its own, the same bits; one without queries nothing, and
  // queries without keys O = 0 and the LSE -infinity (that of a sink, if there is one). These kernels take batches of
  // equal lengths, too.
  // Sums that are negative, fall, exceed the total or leave more than the largest length are undefined in what they
  // compute, and harmless to memory: nothing outside of the tensors and of the workspace is read or written.
  runtime::DevicePtr cu_seqlens_q = 0, cu_seqlens_kv = 0;
  // Of kernels with an OutputFormat of codes, 0 with others. e4m3: address of one f32, positive and finite, which O is
  // multiplied by: 1 / the scale of the codes. s8: f32 [batch, q_heads, q_len], packed [q_heads, total_q], the scales
  // that the kernel writes. Strides of o count bytes then: multiples of 16 (of 8 with 72 channels of V), as its address.
  runtime::DevicePtr o_scale = 0;
};

enum class Lse { unwanted, wanted };

struct PlanOptions {
  // With Smoothing::qk: of the workspace, what scores of mean queries may take, 4 bytes for each key and 128
  // queries of a head. Where that is less than all of them, heads, or their queries, are attended one part after
  // another; one block of 128 queries is the least.
  std::int64_t mean_score_bytes = std::int64_t{128} << 20;
  // What the workspace of run() may take; 0: what it needs. A call that needs more is made of several, one after the
  // other in the same memory, each for as many batches, or heads of K and V with their queries, as fit: the same bits. Of
  // packed sequences all are in each. It bounds calls with an LSE, and those without take no more. Calls on
  // codes of the caller's (plan_codes.h) are not bounded.
  std::int64_t max_workspace_bytes = 0;
  // What the bits of a sequence may not depend on (plan_invariance.h). A kernel that cannot keep it is refused with
  // SpecError, and with growing_keys a dense call whose first query, at key kv_len - q_len, is not where a chunk may begin,
  // with ArgumentError; of packed sequences lengths are the caller's to keep. TunedPlan takes the kernel's own schedule then,
  // whatever the shape: other tiles sum in another order.
  Invariance invariance = Invariance::none;
};

class Plan {
 public:
  // Loads the kernel and those that prepare its inputs; see LoadedSteps. Throws SpecError, DriverError,
  // ArgumentError of a negative bound, InternalError for a kernel of another family.
  Plan(const runtime::Device& device, const Kernel& kernel, const runtime::ArtifactSource& source,
       const PlanOptions& options = {});
  ~Plan();
  Plan(Plan&&) noexcept;

  // Bytes of workspace that run() needs for this shape, 256-byte aligned; fewer where no LSE is wanted, and 0, for
  // which a null pointer will do, where nothing is quantized. Throws
  // ArgumentError if the shape is not possible (zero or negative sizes, kv_heads does not divide q_heads, too
  // large), or if PlanOptions::max_workspace_bytes is less than the least that it takes, which the text says.
  std::size_t workspace_bytes(const Shape& shape, Lse lse = Lse::wanted) const;

  // Where the tensors of the workspace lie, for tests and people: those whose lives do not meet share memory.
  struct ScratchTensor {
    std::string_view name;
    std::int64_t offset, bytes;  // from the start of the workspace; 0 bytes: absent
  };
  std::vector<ScratchTensor> scratch(const Shape& shape, Lse lse = Lse::wanted) const;

  // How run() is cut so that its workspace is within PlanOptions::max_workspace_bytes: calls, and the batches and heads of
  // K and V of the largest, which scratch() is of. Not cut: 1 call, of all.
  struct Cut {
    std::int64_t calls, batches, kv_heads;
  };
  Cut cut(const Shape& shape, Lse lse = Lse::wanted) const;

  // Enqueues all kernels. Throws ArgumentError naming tensor and rule before anything is launched:
  // null or misaligned data, bad strides, a scale that is not positive, a workspace that is too
  // small, or memory that is written (o, lse, workspace, s8 o_scale, skipsoftmax.counts) and overlaps anything else. Overlap is
  // judged by the ranges of addresses that tensors span.
  void run(const Shape& shape, const Arguments& arguments, runtime::DevicePtr workspace,
           std::size_t workspace_bytes, runtime::StreamHandle stream) const;

  // The two halves of run(), for callers that quantize once or that time them apart. attend() reads
  // what quantize() left in the workspace for the same shape and arguments, with Smoothing::qk the caller's K,
  // too. Same checks as run(). Where that is cut() into several calls these throw ArgumentError: codes of one would be
  // overwritten by the next.
  void quantize(const Shape& shape, const Arguments& arguments, runtime::DevicePtr workspace,
                std::size_t workspace_bytes, runtime::StreamHandle stream) const;
  void attend(const Shape& shape, const Arguments& arguments, runtime::DevicePtr workspace,
              std::size_t workspace_bytes, runtime::StreamHandle stream) const;

  // The same in pieces, whose tensors the caller owns (plan_codes.h): K and V are quantized once, and attended with as
  // many Q as there are, of whichever lengths. All of it gives the bits that run() gives. Checks are those of run(), and
  // the codes are among what may not overlap; packed sequences are refused, run() takes them.

  // What the caller allocates for a shape; lse: for lse_correction.
  CodeSizes code_sizes(const Shape& shape, Lse lse = Lse::wanted) const;
  // Reads q and softmax_scale of the arguments, and where to.lse_correction is not 0 keys_values.k_mean; of the shape
  // all but kv_len.
  void quantize_queries(const Shape& shape, const Arguments& arguments,
                        const KeyValueCodes& keys_values, const QueryCodes& to,
                        runtime::DevicePtr workspace, std::size_t workspace_bytes,
                        runtime::StreamHandle stream) const;
  // Reads k and v of the arguments, those of them that the kernel has as codes; of the shape batch, kv_heads and kv_len.
  void quantize_keys_values(const Shape& shape, const Arguments& arguments, const KeyValueCodes& to,
                            runtime::DevicePtr workspace, std::size_t workspace_bytes,
                            runtime::StreamHandle stream) const;
  // Attends codes of whichever origin. Of q, k and v only those are read that the kernel does not have as codes, and with
  // Smoothing::qk k, for the scores of mean queries. softmax_scale is that of quantize_queries(); with given codes it is
  // multiplied into the scales of Q, unless it is folded in.
  void attend_codes(const Shape& shape, const QueryCodes& queries, const KeyValueCodes& keys_values,
                    const Arguments& arguments, runtime::DevicePtr workspace,
                    std::size_t workspace_bytes, runtime::StreamHandle stream) const;

  const Kernel& kernel() const;                   // as asked for
  std::vector<std::string> kernel_names() const;  // entry points as loaded, in launch order
  // Which kernels are those of an older target because of the driver, as a sentence; empty if none is.
  const std::string& note() const;

 private:
  struct Impl;
  enum class Part { all, quantize, attend };
  void enqueue(Part part, const Shape& shape, const Arguments& arguments,
               runtime::DevicePtr workspace, std::size_t workspace_bytes,
               runtime::StreamHandle stream) const;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sagegen::attention
