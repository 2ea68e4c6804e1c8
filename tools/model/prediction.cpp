#include "tools/model/prediction.h"

#include <algorithm>
#include <cstdint>

#include "tools/model/simulation.h"

namespace sagegen::model {

namespace {

int round_up(int value, int unit) { return (value + unit - 1) / unit * unit; }

std::string of_gpu(const Gpu& gpu) {
  return std::string(gpu.name) + " (sm_" + std::to_string(gpu.architecture) + ")";
}

void require_rates(const HotPath& path, const Gpu& gpu) {
  for (const Step& step : path.steps) {
    const MmaWork work = mma_work(step.instruction);
    if (work.multiplications == 0 || gpu.rate(work.kind) > 0) continue;
    throw NotModelled("the loop multiplies " + std::string(to_string(work.kind)) + ", for which " +
                      of_gpu(gpu) + " has no rate");
  }
}

}  // namespace

HotPath modelled_path(const Code& code, const Gpu& gpu) {
  if (code.architecture != gpu.architecture) {
    throw NotModelled("the code is for sm_" + std::to_string(code.architecture) +
                      ", and the GPU is " + of_gpu(gpu));
  }
  if (std::any_of(code.instructions.begin(), code.instructions.end(), is_asynchronous_mma))
    throw NotModelled(
        "the code multiplies by wgmma, which works beside the warps; the model is of mma.sync");
  std::optional<HotPath> path = hot_path(code);
  if (!path) {
    throw NotModelled(
        "the code has no loop with the two products on tensor cores that attention has, Q K of "
        "integers or of f16, and P V");
  }
  require_rates(*path, gpu);
  return std::move(*path);
}

LoopCounts count_loop(const HotPath& path, int architecture, HeadChannels head) {
  LoopCounts counts;
  for (const Step& step : path.steps) {
    const MmaWork work = mma_work(step.instruction);
    const OperationClass c = operation_info(step.instruction, architecture).operation_class;
    ++counts.instructions;
    ++counts.of_class[static_cast<std::size_t>(c)];
    counts.stall_sum += step.instruction.control().stall;
    counts.multiplications[static_cast<std::size_t>(work.kind)] += work.multiplications;
  }
  counts.spills = counts.of(OperationClass::spill);
  MmaKindSet kinds = 0;
  for (std::size_t kind = 0; kind < kMmaKinds; ++kind)
    if (counts.multiplications[kind] > 0) kinds |= set_of(static_cast<MmaKind>(kind));
  const QkProducts qk = qk_products(kinds);
  std::int64_t products = 0;
  for (std::size_t kind = 0; kind < kMmaKinds; ++kind)
    if (qk.has(static_cast<MmaKind>(kind))) products += counts.multiplications[kind];
  // Of P V there are those of V's channels, and the sum of P is eight channels more.
  constexpr int kSumChannels = 8;
  const int of_score = qk.with_pv ? head.multiplied + head.values + kSumChannels : head.multiplied;
  if (head.multiplied <= 0 || products == 0 || products % of_score != 0) {
    throw NotModelled("the loop does " + std::to_string(products) + " multiplications of Q K" +
                      (qk.with_pv ? " and P V" : "") + ", which are no scores of head_dim " +
                      std::to_string(head.all));
  }
  counts.scores = static_cast<int>(products / of_score);
  return counts;
}

Bounds bounds_of(const HotPath& path, const Gpu& gpu, int warps) {
  constexpr double kHalfWarp = 2, kQuarterOfHalf = 8;  // cycles on 16 and on 4 lanes
  Bounds bounds;
  int fma = 0, heavy = 0, stalls = 0;
  for (const Step& step : path.steps) {
    const Instruction& instruction = step.instruction;
    const MmaWork work = mma_work(instruction);
    if (work.multiplications > 0)
      bounds.tensor += static_cast<double>(work.multiplications) * kSubcores / gpu.rate(work.kind);
    bounds.issue += 1;
    bounds.shared += kSubcores * shared_memory_cycles(instruction, gpu.architecture);
    stalls += instruction.control().stall;
    Pipe pipe = operation_info(instruction, gpu.architecture).pipe;
    if (pipe == Pipe::minmax) pipe = gpu.minmax_on_fp32 ? Pipe::fma : Pipe::alu;
    if (pipe == Pipe::mufu) bounds.mufu += kQuarterOfHalf;
    if (pipe == Pipe::alu) bounds.alu += kHalfWarp;
    if (pipe == Pipe::fma) ++fma;
    if (pipe == Pipe::fma_heavy) ++heavy;
  }
  constexpr int kOnePipe = 64;
  bounds.fma = gpu.fp32_lanes <= kOnePipe ? kHalfWarp * (fma + heavy)
                                          : std::max<double>(fma + heavy, kHalfWarp * heavy);
  bounds.stalls = static_cast<double>(stalls) / warps;
  return bounds;
}

int blocks_per_sm(const Code& code, const Launch& launch, const Gpu& gpu) {
  constexpr int kRegisterUnit = 256, kSharedUnit = 128,
                kSystemShared = 1024;  // of a warp; of a block
  const int warps = launch.threads / kThreads;
  const int of_warp = round_up(std::max(code.registers, 1) * kThreads, kRegisterUnit);
  const int by_registers = gpu.registers / kSubcores / of_warp * kSubcores / warps;
  const int shared =
      round_up(code.static_shared + launch.dynamic_shared + kSystemShared, kSharedUnit);
  return std::min({by_registers, gpu.shared_bytes / shared, gpu.warps / warps});
}

int blocks_that_fit(const Code& code, const Launch& launch, const Gpu& gpu) {
  if (launch.threads < kThreads || launch.threads % kThreads != 0) {
    throw NotModelled("a block has " + std::to_string(launch.threads) +
                      " threads; whole warps are modelled");
  }
  const int blocks = blocks_per_sm(code, launch, gpu);
  if (blocks == 0) {
    throw NotModelled("a block of " + std::to_string(launch.threads) + " threads with " +
                      std::to_string(code.registers) + " registers each and " +
                      std::to_string(launch.dynamic_shared) +
                      " bytes of shared memory does not fit " + of_gpu(gpu));
  }
  return blocks;
}

ModelledLoop modelled_loop(const Code& code, const Launch& launch, HeadChannels head,
                           const Gpu& gpu) {
  ModelledLoop loop;
  loop.path = modelled_path(code, gpu);
  loop.counts = count_loop(loop.path, code.architecture, head);
  loop.blocks = blocks_that_fit(code, launch, gpu);
  // What does not go evenly into four sub-cores is left out.
  const int warps_of_block = launch.threads / kThreads;
  const int all_warps = loop.blocks * warps_of_block;
  loop.busy_subcores = std::min(all_warps, kSubcores);
  loop.warps = all_warps / loop.busy_subcores;
  loop.warps_per_block = std::clamp(warps_of_block / kSubcores, 1, loop.warps);
  return loop;
}

Prediction predict(const Code& code, const Launch& launch, HeadChannels head, const Gpu& gpu,
                   const Assumptions& assumptions) {
  const ModelledLoop modelled = modelled_loop(code, launch, head, gpu);
  Prediction result;
  result.counts = modelled.counts;
  result.blocks = modelled.blocks;
  result.warps = modelled.warps;
  result.bounds = bounds_of(modelled.path, gpu, result.warps);
  const SimulatedLoop loop =
      simulate(modelled.path.steps, gpu, result.warps, modelled.warps_per_block, assumptions);
  result.cycles = loop.cycles;
  result.lowest = loop.lowest;
  result.highest = loop.highest;
  const auto tops_at = [&](double cycles, int subcores) {
    const double operations = 2.0 * (head.all + head.values) * result.counts.scores;
    return operations * subcores * gpu.sms * gpu.clock_ghz / cycles / 1e3;
  };
  result.tops = tops_at(result.cycles, modelled.busy_subcores);
  result.roof = tops_at(result.bounds.tensor, kSubcores);
  return result;
}

}  // namespace sagegen::model
