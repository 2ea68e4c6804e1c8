// What a kernel computes, how it is tiled and what it runs on. This is the vocabulary that generator,
// runtime and tools share; it knows neither LLVM nor CUDA.
//
// Two halves that must not mix: AttentionProblem and QuantSpec decide the numbers that come out,
// TileSchedule decides how fast they come, and no more of them than the order and rounding of f32 sums.
// The tuner may change the schedule and nothing else.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sagegen/types.h"

namespace sagegen {

// What the user asks for. Layout (HND, NHD or any strides), lengths, GQA ratio, the alignment of the
// causal mask (top-left or bottom-right) and the LSE output are launch arguments, not properties of
// the kernel: they cost nothing at run time. See abi.h.
struct AttentionProblem {
  int head_dim = 128;     // channels of one head
  DType io = DType::f16;  // dtype of Q, K, V and O: f16 or bf16
  Mask mask = Mask::none;
  friend bool operator==(const AttentionProblem&, const AttentionProblem&) = default;
};

// What decides the numbers: SageAttention2 sections 3.1 to 3.3.
struct QuantSpec {
  DType qk = DType::s8;                               // codes of Q and K
  Granularity granularity = Granularity::per_thread;  // which elements share a scale
  int q_group = 32;  // rows of Q that are scaled together: 8 scales (per thread) or 1 (per block)
  int k_group = 64;  // rows of K that are scaled together: 4 scales (per thread) or 1 (per block)
  Smoothing smoothing = Smoothing::k;  // what is subtracted before quantization
  DType pv = DType::e4m3;              // dtype of P and V in the second product
  Accumulation accumulation = Accumulation::two_level_f32;  // how P V is summed over key tiles
  friend bool operator==(const QuantSpec&, const QuantSpec&) = default;
};

// How the attention kernel walks the scores. Does not change which values are quantized together.
struct TileSchedule {
  int cta_q = 128;  // query rows of a thread block
  int cta_k = 64;   // keys of one step of the inner loop
  int warps = 4;    // each warp owns cta_q / warps rows
  int stages = 2;   // K and V tiles in flight or in use
  friend bool operator==(const TileSchedule&, const TileSchedule&) = default;
};

// A `.target` of PTX: sm_89, or with a suffix sm_90a, sm_120f.
struct Target {
  int sm = 89;
  char suffix = '\0';  // '\0', 'a' (this architecture only) or 'f' (this family)
  friend bool operator==(const Target&, const Target&) = default;
};

// One kernel. Fields that its kind does not depend on hold their defaults (see canonical()).
struct KernelSpec {
  KernelKind kind = KernelKind::attention;
  AttentionProblem problem = {};
  QuantSpec quant = {};
  TileSchedule schedule = {};
  Target target = {};
  friend bool operator==(const KernelSpec&, const KernelSpec&) = default;
};

// ---- targets ------------------------------------------------------------------------------------

struct TargetInfo {
  Target target;
  std::string name;     // "sm_89"
  int ptx_version;      // lowest PTX ISA version that all kernels of this target assemble with, x10
  int smem_per_block;   // bytes of shared memory that one block may ask for
  int smem_per_sm;      // bytes of shared memory of one SM
  bool has_fp8_mma;     // mma.sync e4m3 is one tensor-core instruction
  bool has_s4_mma;      // mma.sync s4 is one tensor-core instruction
  std::string devices;  // examples, for people
};

const std::vector<TargetInfo>& supported_targets();
const TargetInfo& target_info(Target target);  // throws SpecError that lists what exists
Target parse_target(std::string_view text);    // "sm_89"; throws SpecError
std::string to_string(Target target);

// ---- key ----------------------------------------------------------------------------------------

// The kernel's name, file name, cache key and entry point. Always a PTX identifier, so '_' separates
// its tokens. One form per kind:
//   sage_fwd_d128_f16_causal_qk_s8t_g32x64_pv_e4m3_f32x2_q128k64w4s2_sm89   attention
//   sage_kvstats_d128_f16_ksumvmax_sm89       kv_statistics: ksum, vmax or both
//   sage_quantk_d128_f16_s8t_g64_smooth_sm89  quantize_k: smooth or plain
//   sage_quantv_d128_f16_e4m3_sm89            quantize_v
//   sage_quantq_d128_f16_s8t_g32_sm89         quantize_q
// s8t, s8b: granularity per_thread, per_block. g32x64: q_group, k_group. f32, f32x2: accumulation
// f32, two_level_f32. q128k64w4s2: cta_q, cta_k, warps, stages.
// parse_key(key(s)) == canonical(s) for every valid s.
std::string key(const KernelSpec& spec);

// Reads the form only: a key may name a kernel that violations() refuses. Throws SpecError naming the
// bad token, its position and what belongs there.
KernelSpec parse_key(std::string_view text);

// The spec with every field that its kind does not depend on at its default. kv_statistics knows of V
// only whether somebody quantizes it: its canonical pv is e4m3 if so and f16 if not, on every target.
KernelSpec canonical(const KernelSpec& spec);

// ---- validity -----------------------------------------------------------------------------------

// Sentences that say what was asked, which rule refuses it, the numbers, and what to change.
std::vector<std::string> violations(const KernelSpec& spec);
void validate(const KernelSpec& spec);  // throws SpecError with all violations

// ---- resources and the set of kernels -----------------------------------------------------------

// What a launch of a valid spec needs. Pure arithmetic, so a runtime without the generator knows it.
struct KernelResources {
  int threads = 0;       // per block
  int dynamic_smem = 0;  // bytes per block
};
KernelResources resources(const KernelSpec& spec);

// The kernels that together compute one attention, in launch order: at most four come before `attention`.
struct AttentionKernels {
  std::optional<KernelSpec> kv_statistics;  // K mean and V maxima; absent when nobody needs them
  KernelSpec quantize_k;
  std::optional<KernelSpec> quantize_v;  // absent when the attention kernel reads V as it is
  KernelSpec quantize_q;
  KernelSpec attention;
  std::vector<KernelSpec> in_order() const;
};
AttentionKernels kernels_for(const AttentionProblem& problem, const QuantSpec& quant,
                             const TileSchedule& schedule, Target target);

// True if V reaches the attention kernel as codes of quantize_v with one f32 scale per channel; false
// if the kernel reads the caller's V (f16 in, f16 PV).
bool v_is_quantized(const AttentionProblem& problem, const QuantSpec& quant);

// What SageAttention2 does on this target: FP8 PV with two-level accumulation where e4m3 is a
// tensor-core type, FP16 PV elsewhere. per_block scales 128 rows of Q together instead of 32.
QuantSpec default_quant(Target target, Granularity granularity = Granularity::per_thread);
// The same with P V in another dtype and the accumulation that goes with it.
QuantSpec with_pv(QuantSpec quant, DType pv);
TileSchedule default_schedule(const AttentionProblem& problem, const QuantSpec& quant,
                              Target target);

// The attention kernels of a product of choices and the kernels that prepare their inputs: canonical,
// each once, in a stable order (targets outermost, then the fields as they are declared; of each
// attention the order of kernels_for). Combinations that violations() refuses are left out.
struct SpecSpace {
  std::vector<Target> targets;
  std::vector<int> head_dims{64, 128};
  std::vector<DType> io{DType::f16, DType::bf16};
  std::vector<Mask> masks{Mask::none, Mask::causal};
  std::vector<Granularity> granularities{Granularity::per_thread};
  std::vector<Smoothing> smoothings{Smoothing::k};
  std::vector<DType> pv;                // empty: what default_quant says
  std::vector<TileSchedule> schedules;  // empty: default_schedule of each problem and target
};
std::vector<KernelSpec> enumerate(const SpecSpace& space);

// ---- TOML ---------------------------------------------------------------------------------------

// Reads a set description: a list of [[attention]] tables, each a SpecSpace whose keys are lists of
// words (templates/specs/default.toml shows all of them). Unlike in enumerate(), a combination that
// violations() refuses is an error. Errors carry `file:line:column` and list what is valid.
std::vector<KernelSpec> read_spec_set(std::string_view toml_text, const std::string& file_name);
std::vector<KernelSpec> read_spec_set_file(const std::string& path);

}  // namespace sagegen
