// Quantized attention, SageAttention2 algorithm 1: what a kernel of this family computes and how it walks.
// Layout (HND, NHD or any strides), lengths, the GQA ratio, the alignment of the causal mask and the LSE
// output are launch arguments: they cost nothing at run time. Masks and biases are mods (mods/mods.def).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "sagegen/kernel.h"
#include "templates/shared/quantization.h"

namespace sagegen::attention {

// Whose codes a kernel attends. own: those of the kernels that prepare its inputs, in tensors padded to whole tiles,
// with softmax_scale * log2(e) in the scales of Q. given: the caller's, by strides, in rows that end where the problem
// does, and the softmax scale is a launch argument: codes of SageAttention, say. No kernel prepares anything then.
enum class InputSource { own, given };

// What O is written as. io: the caller's dtype. e4m3: times a number of the caller's, one for all of O, saturated at 448.
// s8: codes up to 127 with a scale for each row, its largest magnitude / 127, which the kernel writes, too.
enum class OutputFormat { io, e4m3, s8 };
std::string_view to_string(OutputFormat value);

struct Spec {
  int head_dim = 128;  // channels of one head: of Q and K, and of V unless value_dim says otherwise
  DType io = DType::f16;  // of Q, K, V and O: f16 or bf16
  DType qk = DType::s8;  // of Q and K in the first product: codes, s8 or s4, or the io dtype itself
  Granularity granularity = Granularity::per_thread;  // which elements share a scale
  int q_group = 32;  // rows of Q that are scaled together: 8 scales (per thread) or 1 (per block)
  int k_group = 64;  // rows of K that are scaled together: 4 scales (per thread) or 1 (per block)
  Smoothing smoothing = Smoothing::k;  // what is subtracted before quantization
  DType pv = DType::e4m3;              // of P and V in the second product: f16, bf16 or e4m3
  Accumulation accumulation = Accumulation::two_level_f32;  // how P V is summed over key tiles
  CodeRange code_range = CodeRange::usual;                  // where codes of P and V end
  ValueSmoothing v_smoothing = ValueSmoothing::none;        // what is subtracted from V
  Rotation rotation = Rotation::none;                       // of Q and K before quantization
  InputSource inputs = InputSource::own;                    // of codes and scales: whose they are
  int value_dim = 0;                                        // channels of V and O; 0: head_dim
  OutputFormat out = OutputFormat::io;                      // of O
  // Whether tiles of queries hold rows of all heads that share a KV head, query by query: for few queries of many.
  bool pack_gqa = false;
  bool varlen = false;                        // batches of packed sequences
#define SAGEGEN_MOD(name) bool name = false;  // whether the kernel has it
#include "templates/attention/mods/mods.def"
  friend bool operator==(const Spec&, const Spec&) = default;
};

// How the kernel walks the scores. Does not change which values are quantized together.
struct Schedule {
  int cta_q = 128;  // query rows of a thread block
  int cta_k = 64;   // keys of one step of the inner loop
  int warps = 4;    // each warp owns cta_q / warps rows
  int stages = 2;   // K and V tiles in flight or in use
  friend bool operator==(const Schedule&, const Schedule&) = default;
};

// Channels of V and O, and of the wider of the two products.
constexpr int value_dim(const Spec& spec) {
  return spec.value_dim != 0 ? spec.value_dim : spec.head_dim;
}
constexpr int wider_dim(const Spec& spec) {
  return spec.head_dim > value_dim(spec) ? spec.head_dim : value_dim(spec);
}

constexpr int output_bytes(const Spec& spec) { return spec.out == OutputFormat::io ? 2 : 1; }

using View = ViewOf<Spec, Schedule>;
const FamilyOf<Spec, Schedule>& family();

// What SageAttention2 does on this target: FP8 PV with two-level accumulation where e4m3 is a
// tensor-core type, FP16 PV elsewhere. per_block scales 128 rows of Q together instead of 32.
Spec usual_spec(Target target, Granularity granularity = Granularity::per_thread);
// The same with P V in another dtype and the accumulation that goes with it.
Spec with_pv(Spec spec, DType pv);

// What SageAttention2 smooths: K, and with INT4 codes Q, too. Nothing where Q and K have no codes.
Smoothing usual_smoothing(DType qk);

// Formats of the two products by the name that people give them: "int4-fp8" is INT4 Q K^T and FP8 P V. No format:
// that of io, 16-bit floating point.
struct Mode {
  std::string_view name;
  std::optional<DType> qk, pv;
};
std::span<const Mode> modes();
std::string_view mode_name(const Spec& spec);
// The formats that a mode has with the io of the spec, and the accumulation and smoothing that go with them.
Spec with_mode(Spec spec, const Mode& mode);

// True if Q and K reach the kernel as codes of quantize_rows with their scales; false if the kernel reads the
// caller's Q and K.
bool qk_is_quantized(const Spec& spec);
// True if V reaches the kernel as codes of quantize_values with one f32 scale per channel; false if the
// kernel reads the caller's V (P V of the io dtype, sums of f32, no mean subtracted).
bool v_is_quantized(const Spec& spec);
// True if codes and scales are the caller's.
inline bool takes_given_codes(const Spec& spec) { return spec.inputs == InputSource::given; }
// The kernel that does the same with codes of its own.
Kernel with_own_codes(const Kernel& kernel);
// Bytes of a row of codes of Q or K as long as it is: without padding.
constexpr int given_row_bytes(DType codes, int head_dim) { return head_dim * bits(codes) / 8; }
// Given FP8 codes of V have the keys of whole blocks of so many.
inline constexpr int kGivenValueKeys = 64;
// By how many octaves the codes of P and V end below those that f32 accumulators take.
CodeOctaves code_octaves(const Spec& spec);

// False if a device loads kernels of the spec, but emulates what they ask of its tensor cores: INT4 on sm_90 and
// later.
bool runs_on(const Spec& spec, int compute_capability);

// P is at most 2^p_offset: as large as its codes may be, but a multiple of maximum_step.
float p_offset(const Spec& spec);
// The maximum of a row of INT4 scores is rounded up to a multiple of this, in octaves: so what the softmax takes
// off the scores is exact while a unit of them is less, and of P an octave of range costs little beside INT4. 0:
// maxima are what they are. A unit of INT8 scores is so small a part of an octave that it may round.
float maximum_step(const Spec& spec);
// A row keeps its maximum while no score is above it by more than this, in octaves: P is at most
// 2^(p_offset + maximum_slack), and O and the sum of P are seldom rescaled. 0: the maximum is that of all scores so
// far. FP16 ends 16 octaves above 1. INT8 kernels at head_dim 128 would spill.
float maximum_slack(const Spec& spec);

// With Smoothing::qk: of the scores of the mean query with the keys of a tile, in whole lines of shared memory.
constexpr int mean_score_bytes(int cta_k) { return (4 * cta_k + 127) / 128 * 128; }
// Shared memory: the Q tile, then per stage one K tile (and scores of the mean query) and one V tile; in the end O.
std::int64_t shared_bytes(const Spec& spec, const Schedule& schedule);

}  // namespace sagegen::attention
