#include "tools/model/simulation.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>

namespace sagegen::model {

namespace {

constexpr int kSubcores = 4;
constexpr int kSharedBytes = 128;  // of shared memory, per cycle

// ---- a step as the sub-core sees it --------------------------------------------------------------

enum class Effect { none, barrier, wait_scoreboard, copy, close_copies };

struct Operation {
  Pipe pipe = Pipe::none;
  double occupancy = 0;  // cycles that its pipe is taken
  int latency = 0;
  Effect effect = Effect::none;
  Control control;
  bool jumps = false;
  int scoreboard = 0,
      outstanding = 0;   // of wait_scoreboard: at most so many results may be missing
  double l2_cycles = 0;  // of a copy: of the SM's way to the L2 cache
};

bool is_queued(Pipe pipe) { return pipe == Pipe::mufu || pipe == Pipe::memory; }

// Of two copies under opposite predicates one is executed; the other one costs a slot alone.
bool is_other_half(const Instruction& copy, const std::vector<Step>& path) {
  if (copy.guard() < Instruction::kNegated) return false;
  return std::any_of(path.begin(), path.end(), [&](const Step& step) {
    return step.instruction.operation() == operation::kCopy &&
           step.instruction.guard() == copy.guard() - Instruction::kNegated;
  });
}

int latency_of(OperationClass operation_class, const Assumptions& a) {
  switch (operation_class) {
    case OperationClass::mufu:
      return a.mufu_latency;
    case OperationClass::matrix_load:
      return a.matrix_load_latency;
    case OperationClass::shared:
      return a.shared_latency;
    case OperationClass::shuffle:
      return a.shuffle_latency;
    case OperationClass::global:
      return a.global_latency;
    case OperationClass::copy:
      return a.copy_latency;
    case OperationClass::spill:
      return a.spill_latency;
    case OperationClass::constant:
      return a.constant_latency;
    case OperationClass::special:
      return a.special_latency;
    default:
      return a.shortest_latency;
  }
}

double mma_cycles(const MmaWork& work, const Gpu& gpu) {
  const int rate = gpu.rate(work.kind);
  if (rate == 0) {
    throw std::runtime_error(std::string(gpu.name) + " has no rate for mma of " +
                             std::string(to_string(work.kind)));
  }
  return static_cast<double>(work.multiplications) * kSubcores / rate;
}

Operation operation_of(const Step& step, const std::vector<Step>& path, const Gpu& gpu,
                       double shared_stretch, const Assumptions& a) {
  const Instruction& instruction = step.instruction;
  const OperationInfo info = operation_info(instruction, gpu.architecture);
  Operation result{.pipe = info.pipe,
                   .occupancy = static_cast<double>(a.half_warp),
                   .latency = latency_of(info.operation_class, a),
                   .control = instruction.control(),
                   .jumps = step.jumps};
  const int shared_cycles = shared_memory_cycles(instruction, gpu.architecture);
  switch (info.pipe) {
    case Pipe::tensor: {
      const MmaWork work = mma_work(instruction);
      result.occupancy = work.multiplications == 0 ? 0 : mma_cycles(work, gpu);
      break;
    }
    case Pipe::minmax:
      result.pipe = gpu.minmax_on_fp32 ? Pipe::fma : Pipe::alu;
      break;
    case Pipe::mufu:
      result.occupancy = a.mufu_occupancy;
      if (info.operation_class != OperationClass::mufu) result.latency = a.conversion_latency;
      break;
    case Pipe::memory:
      result.occupancy = shared_cycles == 0 ? a.global_occupancy : shared_stretch * shared_cycles;
      if (info.operation_class == OperationClass::shuffle)
        result.occupancy = std::max<double>(a.half_warp, result.occupancy);
      break;
    default:
      break;
  }
  if (instruction.is_never_executed()) return result;
  switch (instruction.operation()) {
    case operation::kBarrier:
      result.effect = Effect::barrier;
      break;
    case operation::kWaitScoreboard:
      result.effect = Effect::wait_scoreboard;
      result.outstanding = static_cast<int>(instruction.bits(38, 6));
      result.scoreboard = static_cast<int>(instruction.bits(44, 3));
      break;
    case operation::kCloseCopyGroup:
      result.effect = Effect::close_copies;
      break;
    case operation::kCopy:
      if (is_other_half(instruction, path)) {
        result.pipe = Pipe::none;
        break;
      }
      result.effect = Effect::copy;
      result.l2_cycles = kSubcores * kSharedBytes * shared_cycles / a.l2_bytes_per_cycle;
      break;
    default:
      break;
  }
  return result;
}

// ---- the sub-core --------------------------------------------------------------------------------

constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::max();

struct Warp {
  int block = 0;
  std::int64_t ready = 0;                                     // when the stall count has run out
  std::int64_t released = 0;                                  // from a barrier
  std::int64_t yielded = -kNever;                             // when it last did
  std::size_t next = 0;                                       // of the path
  std::array<std::vector<double>, kScoreboards + 2> missing;  // results, by when they come
  std::vector<double> copies;                                 // of the group that is open
};

class Subcore {
 public:
  Subcore(std::vector<Operation> path, const Gpu& gpu, const SubcoreLoad& load,
          const Assumptions& assumptions, const Run& run, Observer* observer)
      : path_(std::move(path)),
        observer_(observer),
        two_fma_pipes_(gpu.fp32_lanes > 64),
        a_(assumptions),
        scheduling_(run.scheduling),
        random_(run.seed),
        warps_(static_cast<std::size_t>(load.warps)) {
    for (std::size_t w = 0; w < warps_.size(); ++w) {
      warps_[w].block = static_cast<int>(w) / load.warps_per_block;
      warps_[w].ready = static_cast<std::int64_t>(static_cast<double>(w) * run.start_distance *
                                                  static_cast<double>(path_.size()));
    }
  }

  // Of all warps together: the scheduler prefers one, and where a pipe is always full the others starve. Whole rounds
  // are measured, so that it makes no difference when in a round each warp ends.
  double cycles_per_pass(int iterations) {
    const std::size_t last = warps_.size() * static_cast<std::size_t>(iterations) - 1;
    const std::size_t first = warps_.size() * static_cast<std::size_t>(iterations / 3 + 1) - 1;
    for (; passes_.size() <= last; ++now_) step();
    return static_cast<double>(passes_[last] - passes_[first]) / static_cast<double>(last - first);
  }

 private:
  double random_share() { return static_cast<double>(random_()) / 4294967296.0; }

  void step() {
    if (observer_ != nullptr) note_what_holds();
    for (const std::size_t w : order()) {
      if (!try_to_issue(warps_[w], static_cast<int>(w))) continue;
      last_ = w;
      has_issued_ = true;
      break;
    }
    if (observer_ != nullptr) report_waits();
  }

  // Before anything issues: what does may fill a pipe, which is not what held the others.
  void note_what_holds() {
    issuer_ = kNobody;
    held_.clear();
    for (Warp& warp : warps_) held_.push_back(what_holds(warp, path_[warp.next]));
  }

  void report_waits() const {
    for (int w = 0; w < static_cast<int>(warps_.size()); ++w) {
      if (w != issuer_)
        observer_->waited(now_, w, held_[static_cast<std::size_t>(w)].value_or(Wait::other_warp));
    }
  }

  const std::vector<std::size_t>& order() {
    order_.clear();
    const bool oldest = scheduling_ == Scheduling::same_then_oldest;
    const bool yields = has_issued_ && !oldest && warps_[last_].yielded == now_ - 1;
    if (has_issued_ && !yields) order_.push_back(last_);
    for (std::size_t i = 0; i < warps_.size(); ++i) {
      const std::size_t w = oldest ? i : warps_.size() - 1 - i;
      if (!has_issued_ || w != last_) order_.push_back(w);
    }
    if (yields) order_.push_back(last_);
    return order_;
  }

  int still_missing(std::vector<double>& results) const {
    std::erase_if(results, [&](double when) { return when <= static_cast<double>(now_); });
    return static_cast<int>(results.size());
  }

  // Nothing if the warp can issue the operation now.
  std::optional<Wait> what_holds(Warp& warp, const Operation& operation) {
    if (warp.released > now_) return Wait::barrier;
    if (warp.ready > now_) return Wait::stall_count;
    for (std::size_t s = 0; s < kScoreboards; ++s) {
      if ((operation.control.wait_mask >> s & 1) != 0 && still_missing(warp.missing[s]) > 0)
        return Wait::scoreboard;
    }
    if (operation.effect == Effect::wait_scoreboard) {
      auto& results = warp.missing[static_cast<std::size_t>(operation.scoreboard)];
      if (still_missing(results) > operation.outstanding) return Wait::scoreboard;
    }
    if (is_full(operation)) return Wait::pipe;
    return std::nullopt;
  }

  // The pipe, or the queue in front of it.
  bool is_full(const Operation& operation) {
    const auto now = static_cast<double>(now_);
    switch (operation.pipe) {
      case Pipe::none:
      case Pipe::minmax:  // is one of the others by now
        return false;
      case Pipe::tensor:
        return tensor_free_ > now + a_.waiting_mma * operation.occupancy;
      case Pipe::fma:
        return !fma_light_is_free() && fma_heavy_free_ > now;
      case Pipe::fma_heavy:
        return fma_heavy_free_ > now;
      case Pipe::alu:
        return alu_free_ > now;
      case Pipe::uniform:
        return uniform_free_ > now;
      case Pipe::mufu:
      case Pipe::memory:
        std::erase_if(queue_, [&](double begin) { return begin <= now; });
        return static_cast<int>(queue_.size()) >= a_.queue_length || queue_open_ > now;
    }
    return false;
  }

  bool fma_light_is_free() const {
    return two_fma_pipes_ && fma_light_free_ <= static_cast<double>(now_);
  }

  struct Service {
    Pipe unit;
    double begin, end;
  };

  // Of a pipe that is not full.
  Service take_pipe(const Operation& operation) {
    const auto now = static_cast<double>(now_);
    const auto take = [&](Pipe unit, double& free) {
      const double begin = std::max(now, free);
      free = begin + operation.occupancy;
      return Service{unit, begin, free};
    };
    switch (operation.pipe) {
      case Pipe::none:
      case Pipe::minmax:
        break;
      case Pipe::tensor:
        return take(Pipe::tensor, tensor_free_);
      case Pipe::fma:
        if (fma_light_is_free()) return take(Pipe::fma, fma_light_free_);
        return take(Pipe::fma_heavy, fma_heavy_free_);
      case Pipe::fma_heavy:
        return take(Pipe::fma_heavy, fma_heavy_free_);
      case Pipe::alu:
        return take(Pipe::alu, alu_free_);
      case Pipe::uniform:
        return take(Pipe::uniform, uniform_free_);
      case Pipe::mufu:
        return enter_queue(take(Pipe::mufu, mufu_free_));
      case Pipe::memory:
        return enter_queue(take(Pipe::memory, memory_free_));
    }
    return {Pipe::none, now, now};
  }

  Service enter_queue(const Service& service) {
    queue_open_ = static_cast<double>(now_ + a_.queue_interval);
    queue_.push_back(service.begin);
    return service;
  }

  double when_done(Warp& warp, const Operation& operation, double begin) {
    const auto now = static_cast<double>(now_);
    double done = begin + operation.latency;
    if (is_queued(operation.pipe)) {
      done += std::floor(operation.latency * a_.latency_jitter * random_share());
      if (operation.pipe == Pipe::memory && operation.occupancy > a_.global_occupancy)
        done += operation.occupancy;
    }
    if (operation.effect == Effect::copy) {
      l2_free_ = std::max(l2_free_, now) + operation.l2_cycles;
      done = std::max(done, l2_free_ + operation.latency - a_.copy_lead);
      warp.copies.push_back(done);
    } else if (operation.effect == Effect::close_copies) {
      for (const double copy : warp.copies) done = std::max(done, copy);
      warp.copies.clear();
    }
    return done;
  }

  bool try_to_issue(Warp& warp, int index) {
    const Operation& operation = path_[warp.next];
    if (what_holds(warp, operation)) return false;
    const Service service = take_pipe(operation);
    if (observer_ != nullptr) {
      issuer_ = index;
      observer_->issued({now_, index, warp.next, service.unit, service.begin, service.end});
    }
    const Control& control = operation.control;
    // What waits in front of the tensor core has left the warp.
    const double begin = operation.pipe == Pipe::tensor ? static_cast<double>(now_) : service.begin;
    const double done = when_done(warp, operation, begin);
    if (control.write_scoreboard != Control::kNoScoreboard)
      warp.missing[static_cast<std::size_t>(control.write_scoreboard)].push_back(done);
    if (control.read_scoreboard != Control::kNoScoreboard) {
      warp.missing[static_cast<std::size_t>(control.read_scoreboard)].push_back(begin +
                                                                                a_.operand_read);
    }
    warp.ready = now_ + std::max(1, control.stall) + (operation.jumps ? a_.jump : 0);
    if (control.yields) warp.yielded = now_;
    if (operation.effect == Effect::barrier) arrive(warp);
    if (++warp.next == path_.size()) {
      warp.next = 0;
      passes_.push_back(now_);
    }
    return true;
  }

  void arrive(Warp& warp) {
    warp.released = kNever;
    const auto is_missing = [&](const Warp& other) {
      return other.block == warp.block && other.released != kNever;
    };
    if (std::any_of(warps_.begin(), warps_.end(), is_missing)) return;
    const std::int64_t when =
        now_ + a_.barrier_latency + static_cast<std::int64_t>(a_.barrier_jitter * random_share());
    for (Warp& other : warps_) {
      if (other.block == warp.block) other.released = when;
    }
  }

  static constexpr int kNobody = -1;

  std::vector<Operation> path_;
  Observer* observer_;
  std::vector<std::optional<Wait>> held_;  // by warp, if somebody watches
  int issuer_ = kNobody;                   // of this cycle, if somebody watches
  bool two_fma_pipes_;
  const Assumptions& a_;
  Scheduling scheduling_;
  std::mt19937 random_;
  std::vector<Warp> warps_;
  std::vector<std::size_t> order_;
  std::size_t last_ = 0;
  bool has_issued_ = false;
  std::int64_t now_ = 0;
  std::vector<std::int64_t> passes_;  // when each one ended
  double tensor_free_ = 0, fma_light_free_ = 0, fma_heavy_free_ = 0, alu_free_ = 0;
  double uniform_free_ = 0, mufu_free_ = 0, memory_free_ = 0, l2_free_ = 0;
  std::vector<double> queue_;  // begins of service of what is in front of the MIO
  double queue_open_ = 0;
};

double shared_cycles_of(const std::vector<Step>& path, int architecture) {
  double cycles = 0;
  for (const Step& step : path) cycles += shared_memory_cycles(step.instruction, architecture);
  return cycles;
}

}  // namespace

std::string_view to_string(Wait wait) {
  switch (wait) {
    case Wait::barrier:
      return "barrier";
    case Wait::stall_count:
      return "stall count";
    case Wait::scoreboard:
      return "scoreboard";
    case Wait::pipe:
      return "pipe full";
    case Wait::other_warp:
      return "other warp issues";
  }
  return {};
}

double simulate_run(const std::vector<Step>& path, const Gpu& gpu, const SubcoreLoad& load,
                    const Assumptions& assumptions, const Run& run, Observer* observer) {
  constexpr int kFewest = 3;
  if (path.empty() || load.warps < 1 || load.warps_per_block < 1 || run.iterations < kFewest) {
    throw std::runtime_error(
        "a simulation needs instructions, a warp, and at least 3 iterations to measure");
  }
  std::vector<Operation> operations;
  for (const Step& step : path)
    operations.push_back(operation_of(step, path, gpu, load.shared_stretch, assumptions));
  return Subcore(std::move(operations), gpu, load, assumptions, run, observer)
      .cycles_per_pass(run.iterations);
}

SimulatedLoop simulate(const std::vector<Step>& path, const Gpu& gpu, int warps,
                       int warps_per_block, const Assumptions& assumptions) {
  SubcoreLoad load{.warps = warps, .warps_per_block = warps_per_block, .shared_stretch = 1.6};
  const auto run = [&](Scheduling scheduling, int seed) {
    return simulate_run(path, gpu, load, assumptions,
                        {.scheduling = scheduling,
                         .start_distance = 0.3 + 0.7 * seed,
                         .seed = static_cast<std::uint32_t>(seed),
                         .iterations = assumptions.iterations});
  };
  // The other sub-cores are as busy as this one turns out to be: a fixed point, which is near after three steps
  // of two runs each.
  const double shared = kSubcores * shared_cycles_of(path, gpu.architecture);
  constexpr int kFixedPointSteps = 3;
  constexpr double kOthers = 0.75;
  for (int i = 0; i < kFixedPointSteps && shared > 0; ++i) {
    const double cycles =
        (run(Scheduling::same_then_youngest, 0) + run(Scheduling::same_then_youngest, 1)) / 2;
    load.shared_stretch = 1 / (1 - kOthers * std::min(1.0, shared / cycles));
  }
  std::vector<double> runs;
  for (const Scheduling scheduling :
       {Scheduling::same_then_youngest, Scheduling::same_then_oldest}) {
    for (int seed = 0; seed < assumptions.seeds; ++seed) runs.push_back(run(scheduling, seed));
  }
  double inverse = 0;
  for (const double cycles : runs) inverse += 1 / cycles;
  const auto [lowest, highest] = std::minmax_element(runs.begin(), runs.end());
  return {.cycles = static_cast<double>(runs.size()) / inverse,
          .lowest = *lowest,
          .highest = *highest,
          .shared_stretch = load.shared_stretch};
}

}  // namespace sagegen::model
