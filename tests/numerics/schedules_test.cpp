// Every schedule that the rules let through computes attention: cta_q, cta_k, warps, stages, 16 and 32 rows
// of a warp, on the emulator with all checks on, at lengths that cross tiles and go around every pipeline
// more than once. Then every quantization that the rules let through, each with a schedule by chance.
//
// Each result is judged as `sagegen run` judges it: against exact attention, and row by row against the
// model of the quantization, within what formats and arithmetic explain. That is also what holds the
// schedules of one quantization together: two that differ in cta_k round P below other maxima and sum it
// in other tiles, so nothing closer than both their bounds binds them to each other. Those that differ in
// warps and stages alone do the same arithmetic, and have to give the same bits.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cstdint>
#include <cstdio>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "sagegen/emit.h"
#include "tests/numerics/scene.h"
#include "tools/sagegen/run_judge.h"

using namespace sagegen;
namespace rt = sagegen::runtime;
namespace ref = sagegen::reference;
using attention::CausalAlignment;
using cli::Layout;
using test::is_legal;
using test::legal_schedules;
using test::Scene;
using test::schedule_of;
using test::spec_of;

namespace {

// ---- what is legal -----------------------------------------------------------------------------

constexpr std::array kGroups = {8, 16, 32, 64, 128, 256};

Kernel with(const attention::Spec& spec, const attention::Schedule& schedule, Target target) {
  return {attention::family(), spec, schedule, target};
}

Kernel numbers_of(int head_dim, bool causal, DType io, DType pv, Target target,
                  DType qk = DType::s8) {
  attention::Spec spec = attention::with_pv(
      {.head_dim = head_dim, .io = io, .qk = qk, .smoothing = attention::usual_smoothing(qk)}, pv);
  spec.causal = causal;
  return with(spec, {}, target);
}

// The target that lets through most schedules; see "no other target".
Target roomiest(DType pv) { return {.sm = pv == DType::e4m3 ? 89 : 80}; }

Kernel in_f16(const Kernel& kernel) {
  attention::Spec spec = spec_of(kernel);
  spec.accumulation = Accumulation::f32_f16;
  return with(spec, {}, kernel.target());
}

// V reaches the kernel in three forms: FP8 codes and the caller's f16, each with both masks, and FP16 codes
// (of bf16), which no mask cares about: each with a mask of its own, and on sm_120, whose PTX has other
// instructions than the older targets', as far as that has room. INT4 tiles of Q and K are half as large: with
// FP8 and FP16 P V, a mask each. Where P V is summed in f16, FP16 codes are of f16, too: with FP16 and FP8 P V, a mask
// each.
std::vector<std::vector<Kernel>> every_schedule() {
  std::vector<std::vector<Kernel>> forms;
  for (const int head_dim : {64, 128}) {
    for (const DType pv : {DType::e4m3, DType::f16}) {
      for (const bool causal : {false, true}) {
        forms.push_back(
            legal_schedules(numbers_of(head_dim, causal, DType::f16, pv, roomiest(pv))));
      }
    }
    forms.push_back(legal_schedules(
        numbers_of(head_dim, head_dim == 64, DType::bf16, DType::f16, roomiest(DType::f16))));
    for (Kernel& kernel : forms.back()) {
      const Kernel newer = kernel.on({.sm = 120});
      if (is_legal(newer)) kernel = newer;
    }
    for (const DType pv : {DType::e4m3, DType::f16}) {
      const bool causal = (head_dim == 64) == (pv == DType::f16);
      forms.push_back(
          legal_schedules(numbers_of(head_dim, causal, DType::f16, pv, roomiest(pv), DType::s4)));
      forms.push_back(
          legal_schedules(in_f16(numbers_of(head_dim, !causal, DType::f16, pv, roomiest(pv)))));
    }
  }
  return forms;
}

// By chance: the same in every run, and other with another --rng-seed.
class Chance {
 public:
  explicit Chance(std::uint64_t seed) : random_(seed + 100 * Catch::rngSeed()) {}
  template <typename Range>
  auto one_of(const Range& range) {
    return range[random_() % range.size()];
  }

 private:
  std::mt19937_64 random_;
};

// One kernel of each quantization, with a head_dim, a dtype, a mask, a target and a schedule by chance.
std::vector<Kernel> every_quantization(Chance& chance) {
  std::vector<Kernel> all;
  std::map<std::pair<DType, int>, std::vector<Kernel>> schedules;  // by pv and head_dim
  for (const DType pv : {DType::e4m3, DType::f16}) {
    for (const int head_dim : {64, 128}) {
      schedules[{pv, head_dim}] =
          legal_schedules(numbers_of(head_dim, false, DType::f16, pv, roomiest(pv)));
    }
  }
  // Kernels that compute what `spec` says; none if its groups suit no schedule.
  const auto kernels_of = [&](const attention::Spec& spec, Target target) {
    std::vector<Kernel> kernels;
    for (const Kernel& scheduled : schedules.at({spec.pv, spec.head_dim})) {
      const Kernel kernel = with(spec, schedule_of(scheduled), target);
      if (is_legal(kernel)) kernels.push_back(kernel);
    }
    return kernels;
  };
  const auto add = [&](attention::Spec spec) {
    spec.head_dim = chance.one_of(std::array{64, 128});
    spec.io = chance.one_of(std::array{DType::f16, DType::bf16});
    spec.causal = chance.one_of(std::array{false, true});
    spec.v_smoothing = chance.one_of(std::array{ValueSmoothing::none, ValueSmoothing::mean});
    spec.qk = chance.one_of(std::array{DType::s8, DType::s4});
    int sm = spec.pv == DType::e4m3 ? chance.one_of(std::array{89, 120})
                                    : chance.one_of(std::array{80, 86, 89, 120});
    if (spec.qk == DType::s4 && sm == 120) sm = 89;
    all.push_back(chance.one_of(kernels_of(spec, {.sm = sm})));
  };
  const auto add_groups = [&](attention::Spec spec) {
    for (const Granularity granularity : {Granularity::per_thread, Granularity::per_block,
                                          Granularity::per_token, Granularity::per_tensor}) {
      for (const Smoothing smoothing : {Smoothing::k, Smoothing::none, Smoothing::qk}) {
        for (const DType pv : {DType::e4m3, DType::f16}) {
          spec.granularity = granularity;
          spec.smoothing = smoothing;
          spec.pv = pv;
          for (const Accumulation sum :
               {Accumulation::f32, Accumulation::two_level_f32, Accumulation::f32_f16}) {
            spec.accumulation = sum;
            add(spec);
          }
          if (pv != DType::e4m3) continue;
          attention::Spec fine_v = spec;
          fine_v.code_range = CodeRange::fine_v;
          add(fine_v);
        }
      }
    }
  };
  for (const int q_group : kGroups) {
    for (const int k_group : kGroups) {
      const attention::Spec groups{.q_group = q_group, .k_group = k_group};
      attention::Spec int4 = groups;
      int4.qk = DType::s4;
      if (!kernels_of(groups, {.sm = 89}).empty() && !kernels_of(int4, {.sm = 89}).empty())
        add_groups(groups);
    }
  }
  return all;
}

// ---- runs --------------------------------------------------------------------------------------

// Orders of warps and copies, all of them legal, in turn.
rt::EmulatorOptions orders(std::uint64_t turn) {
  constexpr std::array kAsync = {rt::AsyncPolicy::late, rt::AsyncPolicy::eager,
                                 rt::AsyncPolicy::random};
  constexpr std::array kWarpOrders = {rt::SchedulePolicy::round_robin, rt::SchedulePolicy::random,
                                      rt::SchedulePolicy::reverse};
  return {.schedule = kWarpOrders[turn / 3 % 3], .async = kAsync[turn % 3], .seed = turn};
}

struct Bits {
  std::vector<double> o, lse;
  friend bool operator==(const Bits&, const Bits&) = default;
};

// One set of inputs, for kernels that differ in warps and stages alone.
struct Trial {
  Scene scene;
  std::optional<Bits> first = {};  // of the first of them
};

void run(Trial& trial, const cli::RunDevice& on, const attention::Plan& plan) {
  const cli::AttentionJob job = test::job_of(trial.scene);
  INFO(test::text_of(job, on));
  const cli::AttentionResult result = cli::run_attention(job, on, plan);
  on.emulator->clear_findings();
  for (const rt::Finding& finding : result.findings) FAIL_CHECK(test::text_of(finding));
  if (result.o.empty()) return;  // stopped by a finding
  const Bits bits{.o = result.o, .lse = result.lse};
  if (trial.first) {  // which has been judged
    CHECK((bits == *trial.first));
    return;
  }
  trial.first = bits;
  const int capability = on.device.compute_capability();
  const cli::JudgeOptions all_rows{.rows = 0};
  const cli::Expected expected = cli::expected_of(job, capability, all_rows);
  const cli::Judgement judgement = cli::judge(job, result, capability, expected);
  if (!judgement.passed) FAIL_CHECK(cli::judgement_text(judgement, job, all_rows, true));
}

void run_kernel(const Kernel& kernel, std::vector<Trial>& trials, std::uint64_t turn) {
  const Scene any{.kernel = kernel, .inputs = {}, .emulator = orders(turn)};
  const cli::RunDevice on = test::device_of(any);
  // The attention kernel is of no use to the next one, unlike those that prepare its inputs.
  const auto source = [&](const Kernel& wanted) {
    return wanted == kernel ? emit(wanted) : test::emitted(wanted);
  };
  const attention::Plan plan(on.device, kernel, source);
  for (Trial& trial : trials) {
    trial.scene.kernel = kernel;
    run(trial, on, plan);
  }
}

// A query tile and one row of the next beside a key too few for a tile: a causal mask hides all keys from
// the first rows. Nearly a query tile beside as many tiles as turn four stages twice, the last of one key.
// And one by one.
std::vector<Trial> ragged_trials(const Kernel& kernel, std::uint64_t seed) {
  const std::int64_t cta_q = schedule_of(kernel).cta_q, cta_k = schedule_of(kernel).cta_k;
  const auto trial = [&](ref::Shape shape, Layout layout) {
    return Trial{.scene = {.kernel = kernel,
                           .inputs = test::inputs_for(kernel, "normal", shape, ++seed),
                           .layout = layout,
                           .alignment = CausalAlignment::bottom_right}};
  };
  return {
      trial({.q_heads = 2, .kv_heads = 1, .q_len = cta_q + 1, .kv_len = cta_k - 1}, Layout::hnd),
      trial({.q_len = cta_q - 1, .kv_len = 7 * cta_k + 1}, Layout::nhd),
      trial({.q_len = 1, .kv_len = 1}, Layout::nhd)};
}

bool differ_in_warps_and_stages_alone(const Kernel& a, const Kernel& b) {
  attention::Schedule schedule = schedule_of(a);
  schedule.warps = schedule_of(b).warps;
  schedule.stages = schedule_of(b).stages;
  return with(spec_of(a), schedule, a.target()) == b;
}

void run_schedules(const std::vector<Kernel>& kernels) {
  std::vector<Trial> trials;
  for (std::size_t i = 0; i < kernels.size(); ++i) {
    if (i == 0 || !differ_in_warps_and_stages_alone(kernels[i], kernels[i - 1]))
      trials = ragged_trials(kernels[i], i);
    run_kernel(kernels[i], trials, i);
  }
}

// Lengths at the edges of groups of scales and of the blocks of V's codes.
void run_quantizations(const std::vector<Kernel>& kernels, Chance& chance) {
  constexpr std::array kQueries = {1, 15, 17, 33, 65, 127, 130};
  constexpr std::array kKeys = {1, 31, 63, 65, 129, 200};
  for (std::size_t i = 0; i < kernels.size(); ++i) {
    const ref::Shape shape{.batch = 1 + static_cast<std::int64_t>(i % 2),
                           .q_heads = 2,
                           .kv_heads = 1,
                           .q_len = chance.one_of(kQueries),
                           .kv_len = chance.one_of(kKeys)};
    const std::string distribution =
        chance.one_of(std::array<std::string, 3>{"normal", "outlier", "k_bias"});
    ref::Inputs inputs = test::inputs_for(kernels[i], distribution, shape, i);
    // As it is; where scores are scaled before the softmax; where one key takes nearly all weight.
    inputs.softmax_scale = chance.one_of(std::array{0.0, 0.0, 30.0, 1e4});
    std::vector<Trial> trials{
        {.scene = {.kernel = kernels[i],
                   .inputs = inputs,
                   .layout = chance.one_of(std::array{Layout::hnd, Layout::nhd}),
                   .alignment = chance.one_of(
                       std::array{CausalAlignment::top_left, CausalAlignment::bottom_right})}}};
    run_kernel(kernels[i], trials, i);
  }
}

template <typename Of>
std::set<int> each(const std::vector<Kernel>& kernels, const Of& of) {
  std::set<int> numbers;
  for (const Kernel& kernel : kernels) numbers.insert(of(schedule_of(kernel)));
  return numbers;
}

bool have_all_numbers(const std::vector<Kernel>& kernels) {
  using Numbers = std::set<int>;
  return each(kernels, [](const auto& s) { return s.cta_q; }) == Numbers{16, 32, 64, 128, 256} &&
         each(kernels, [](const auto& s) { return s.cta_k; }) == Numbers{16, 32, 64, 128} &&
         each(kernels, [](const auto& s) { return s.warps; }) == Numbers{1, 2, 4, 8} &&
         each(kernels, [](const auto& s) { return s.stages; }) == Numbers{1, 2, 3, 4} &&
         each(kernels, [](const auto& s) { return s.cta_q / s.warps; }) == Numbers{16, 32};
}

}  // namespace

TEST_CASE("a sample of the schedules and of the quantizations", "[fast]") {
  Chance chance(1);
  const std::vector<std::vector<Kernel>> forms = every_schedule();
  std::vector<Kernel> schedules;
  while (schedules.size() < 24 || !have_all_numbers(schedules)) {
    schedules.push_back(chance.one_of(chance.one_of(forms)));
  }
  run_schedules(schedules);

  const std::vector<Kernel> all = every_quantization(chance);
  std::vector<Kernel> quantizations;
  for (int i = 0; i < 12; ++i) quantizations.push_back(chance.one_of(all));
  run_quantizations(quantizations, chance);
}

TEST_CASE("every legal schedule", "[full]") {
  std::vector<Kernel> all;
  for (const std::vector<Kernel>& form : every_schedule()) {
    std::printf("%3zu schedules of kernels like %s\n", form.size(), form.front().key().c_str());
    std::fflush(stdout);
    all.insert(all.end(), form.begin(), form.end());
  }
  std::printf("%zu kernels\n", all.size());
  CHECK(have_all_numbers(all));
  run_schedules(all);
}

TEST_CASE("every legal quantization", "[full]") {
  Chance chance(2);
  const std::vector<Kernel> all = every_quantization(chance);
  std::printf("%zu quantizations\n", all.size());
  // Groups of 16 to 128 rows of Q, and of 64 and 128 of K.
  CHECK(all.size() == 4 * 2 * 4 * 3 * (4 + 3));
  run_quantizations(all, chance);
}

TEST_CASE("no other target allows a schedule that the roomiest refuses", "[full]") {
  for (const int head_dim : {64, 128}) {
    for (const DType pv : {DType::e4m3, DType::f16}) {
      const auto schedules_on = [&](Target target) {
        std::vector<Kernel> kernels =
            legal_schedules(numbers_of(head_dim, false, DType::f16, pv, target));
        for (Kernel& kernel : kernels) kernel = kernel.on(roomiest(pv));
        return kernels;
      };
      const std::vector<Kernel> most = schedules_on(roomiest(pv));
      for (const TargetInfo& info : supported_targets()) {
        for (const Kernel& kernel : schedules_on(info.target)) {
          INFO(info.name << ", " << kernel.key());
          CHECK(std::find(most.begin(), most.end(), kernel) != most.end());
        }
      }
    }
  }
}
