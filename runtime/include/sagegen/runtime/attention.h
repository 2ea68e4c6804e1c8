// Quantized attention as a plan of kernels: O = softmax(Q K^T * scale + mask) V, optionally with
// LSE.
//
// An Attention owns loaded kernels for one problem on one device and nothing else: the caller owns
// tensors, workspace and stream. run() only enqueues launches on the caller's stream; it allocates
// nothing, does not synchronize and may be captured in a CUDA graph. One Attention may be used from
// many threads if each call has its own workspace.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "sagegen/runtime/device.h"
#include "sagegen/spec.h"

namespace sagegen::runtime {

struct AttentionShape {
  std::int64_t batch = 1;
  std::int64_t q_heads = 1;
  std::int64_t kv_heads = 1;  // divides q_heads
  std::int64_t q_len = 1;
  std::int64_t kv_len = 1;
};

// Element strides; channels are contiguous. HND: [batch, head, token, channel]; NHD: [batch, token,
// head, channel]. Strides are multiples of 8 and at least head_dim; that of an axis of size 1 is
// ignored. Those of Q, K and V, which are only read, may be 0: one row for the whole axis.
struct TensorView {
  DevicePtr data = 0;  // 16-byte aligned
  std::int64_t stride_batch = 0;
  std::int64_t stride_head = 0;
  std::int64_t stride_token = 0;
};
TensorView hnd(DevicePtr data, std::int64_t heads, std::int64_t tokens, int head_dim);
TensorView nhd(DevicePtr data, std::int64_t heads, std::int64_t tokens, int head_dim);

enum class CausalAlignment { top_left, bottom_right };

// Q, K and V hold finite numbers, and scaled scores are within f32: nothing checks that on the device, and
// a NaN or infinity in them leaves O undefined.
inline constexpr float kLargestSoftmaxScale = 1e25f;

struct AttentionArguments {
  TensorView q, k, v, o;
  // f32 [batch, q_heads, q_len], natural logarithm; 0: not wanted. It is that of the weights in use, P as
  // rounded, so that partial results merge as if computed at once. Beside what the codes of Q and K
  // change in the scores, the rounding of P costs at most, and usually far less:
  //   FP8   1/16, plus 2.2e-6 for each key whose weight is less than 3.5e-5 of the largest
  //   FP16  2^-11, plus 3e-8 for each key whose weight is less than 6.1e-5 of the largest; with
  //         Accumulation::f32 the tensor core truncates another 8.2e-8 per key
  DevicePtr lse = 0;
  float softmax_scale = 0.0f;  // 0: 1 / sqrt(head_dim); otherwise > 0, at most kLargestSoftmaxScale
  CausalAlignment causal = CausalAlignment::top_left;  // ignored without a causal mask
};

// Where PTX comes from: the generator, the embedded set, or a file. The text holds one entry point;
// its name may be that of the same kernel for an older target.
using PtxSource = std::function<std::string(const KernelSpec&)>;

// PTX of generated/, embedded in the library. artifacts.h has other sources, and the rule by which all of them
// take a kernel that is not there for the target asked for from another one.
PtxSource embedded_ptx();

// The target to ask for on a device, of those the library carries kernels for (all supported ones if it carries
// none): its own architecture (sm_90a), else its family (sm_120f), else the highest plain one below. 86 -> sm_86,
// 87 -> sm_86, 90 -> sm_89 as long as there are no kernels of sm_90a, 121 -> sm_120. Throws SpecError below 80.
Target best_target(int compute_capability);

// The same for a device and its driver: a lower target where the driver is too old for that PTX (sm_89 needs
// a driver of CUDA 12.4, sm_120 of 12.8), which may cost FP8. The note is a sentence that says so, empty
// where nothing is lost. Throw SpecError, DriverError.
Target best_target(const Device& device);
std::string best_target_note(const Device& device);

class Attention {
 public:
  // Loads the kernels of kernels_for(problem, quant, schedule, target). A kernel whose PTX the driver
  // refuses as too new (CUDA_ERROR_UNSUPPORTED_PTX_VERSION) is asked of the source for older targets too,
  // and note() says so. Throws SpecError, DriverError; errors name the attention kernel, also where a kernel
  // that prepares its inputs fails.
  Attention(const Device& device, const AttentionProblem& problem, const QuantSpec& quant,
            const TileSchedule& schedule, Target target, const PtxSource& source);
  ~Attention();
  Attention(Attention&&) noexcept;

  // Bytes of workspace that run() needs for this shape, 256-byte aligned. Throws ArgumentError if
  // the shape is not possible (zero or negative sizes, kv_heads does not divide q_heads, too
  // large).
  std::size_t workspace_bytes(const AttentionShape& shape) const;

  // Enqueues all kernels. Throws ArgumentError naming tensor and rule before anything is launched:
  // null or misaligned data, bad strides, a scale that is not positive, a workspace that is too
  // small, or memory that is written (o, lse, workspace) and overlaps anything else. Overlap is
  // judged by the ranges of addresses that tensors span.
  void run(const AttentionShape& shape, const AttentionArguments& arguments, DevicePtr workspace,
           std::size_t workspace_bytes, StreamHandle stream) const;

  // The two halves of run(), for callers that quantize once or that time them apart. attend() reads
  // what quantize() left in the workspace for the same shape and arguments. Same checks as run().
  void quantize(const AttentionShape& shape, const AttentionArguments& arguments,
                DevicePtr workspace, std::size_t workspace_bytes, StreamHandle stream) const;
  void attend(const AttentionShape& shape, const AttentionArguments& arguments, DevicePtr workspace,
              std::size_t workspace_bytes, StreamHandle stream) const;

  const AttentionKernels& kernels() const;        // as asked for
  std::vector<std::string> kernel_names() const;  // entry points as loaded, in launch order
  // Which kernels are those of an older target because of the driver, as a sentence; empty if none is.
  const std::string& note() const;

 private:
  struct Impl;
  struct Call;
  enum class Part { all, quantize, attend };
  void enqueue(Part part, const AttentionShape& shape, const AttentionArguments& arguments,
               DevicePtr workspace, std::size_t workspace_bytes, StreamHandle stream) const;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sagegen::runtime
