// The grid: CTAs on host threads, each with its registers and shared memory, and one report of it all.

#include "runtime/emulator/exec/launch.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <stdexcept>
#include <thread>

#include "runtime/emulator/exec/checker.h"
#include "runtime/emulator/exec/host_threads.h"
#include "runtime/emulator/exec/launch_budget.h"
#include "runtime/emulator/exec/warp.h"

namespace sagegen::emulator {
namespace {

using runtime::Finding;

constexpr std::size_t kMaxFindings = FindingLog::kMost;
constexpr std::uint32_t kMaxThreads = 1024;
// See EmulatorOptions::instruction_limit. Most kernels execute many instructions only by going through
// much memory: a CTA of attention about one for four bytes of the K and V that it reads, with the largest
// tiles of queries one for two.
constexpr std::uint64_t kInstructionsOfAnyCta = 4'000'000;
constexpr std::uint64_t kInstructionsPerByte = 1;
constexpr std::uint8_t kPoison = 0xff;  // a NaN in every float format, a wild address

std::uint64_t count(const runtime::Dim3& d) { return std::uint64_t{d.x} * d.y * d.z; }

void check_request(const Program& program, const LaunchRequest& request) {
  auto refuse = [&](const std::string& why) {
    throw std::invalid_argument(fmt::format("launch of {}: {}", program.info.name, why));
  };
  std::uint64_t threads = count(request.block), ctas = count(request.grid);
  if (ctas == 0 || threads == 0) refuse("the grid or the block is empty");
  if (threads > kMaxThreads)
    refuse(fmt::format("{} threads per block; the limit is {}", threads, kMaxThreads));
  if (ctas > 0xffff'fff0u) refuse(fmt::format("{} blocks are more than the emulator takes", ctas));
  if (program.info.max_threads != 0 &&
      threads > static_cast<std::uint64_t>(program.info.max_threads)) {
    refuse(fmt::format("{} threads per block, but the kernel was compiled for at most {}", threads,
                       program.info.max_threads));
  }
  if (request.params.size() != program.info.param_bytes) {
    refuse(fmt::format("{} bytes of parameters; the kernel takes {}", request.params.size(),
                       program.info.param_bytes));
  }
  if (program.dynamic_shared_offset + request.dynamic_shared_bytes > kWindowBytes) {
    refuse(fmt::format("{} bytes of dynamic shared memory", request.dynamic_shared_bytes));
  }
}

template <class T>
struct Freed {
  void operator()(T* p) const { ::operator delete (p, std::align_val_t{128}); }
};
// Uninitialized, aligned to 128 bytes.
template <class T>
using AlignedArray = std::unique_ptr<T[], Freed<T>>;
template <class T>
AlignedArray<T> aligned_array(std::size_t n) {
  return AlignedArray<T>(static_cast<T*>(
      ::operator new (std::max<std::size_t>(n, 1) * sizeof(T), std::align_val_t{128})));
}

constexpr std::uint32_t kNoCta = 0xffff'ffff;

// What all host threads of a launch share.
struct Launch {
  Launch(const Program& p, const LaunchRequest& r, std::shared_ptr<const AddressMap> m,
         std::uint64_t limit)
      : program(p),
        request(r),
        map(std::move(m)),
        instruction_limit(limit),
        budget(r.options.launch_limit),
        ctas(static_cast<std::uint32_t>(count(r.grid))) {}

  const Program& program;
  const LaunchRequest& request;
  std::shared_ptr<const AddressMap> map;
  std::uint64_t instruction_limit;
  LaunchBudget budget;
  std::unique_ptr<GlobalRaces> races;  // with checks one of these, otherwise none
  std::unique_ptr<CtaRaces> ordered_races;
  std::uint32_t ctas = 0;
  std::atomic<std::uint32_t> next{0};
  // CTAs after the first that is stopped need not run; those before it must, since they may be, too.
  std::atomic<std::uint32_t> first_failed{kNoCta};
  void stop_behind(std::uint32_t linear) {
    std::uint32_t seen = first_failed.load();
    while (linear < seen && !first_failed.compare_exchange_weak(seen, linear)) {
    }
  }

  std::mutex mutex;  // guards what follows
  // By check and line, from the first CTA that has it, with its place among the findings of that CTA.
  struct Found {
    std::uint32_t cta = 0;
    std::size_t place = 0;
    Finding finding;
  };
  std::map<std::pair<std::string, int>, Found> found;
  std::uint32_t first_full = kNoCta;  // with more findings than are kept; such a CTA is stopped
  std::uint64_t warp_instructions = 0;
  Counts counts;
};

// One host thread's CTA, its memory reused from one CTA to the next.
class CtaRunner {
 public:
  explicit CtaRunner(Launch& launch)
      : launch_(launch), program_(launch.program), request_(launch.request) {
    checks_ = request_.options.checks == runtime::Checks::on;
    warps_ = static_cast<std::uint32_t>((count(request_.block) + kLanes - 1) / kLanes);
    row_words_ = std::size_t{program_.rows} * kLanes;
    cells_ = program_.rows + program_.predicates;
    rows_ = aligned_array<std::uint32_t>(row_words_ * warps_);
    predicates_.resize(std::size_t{program_.predicates} * warps_);
    if (checks_) {
      defined_.resize(std::size_t{cells_} * warps_);
      partial_.resize(std::size_t{program_.rows} * warps_);
      undefined_ = aligned_array<std::uint32_t>(row_words_ * warps_);
    }
    shared_end_ =
        static_cast<std::uint32_t>(program_.dynamic_shared_offset + request_.dynamic_shared_bytes);
    shared_ = aligned_array<std::uint8_t>(shared_end_);
    if (request_.options.counting == runtime::Counting::on) {
      counts_.executed.resize(program_.ops.size());
      counts_.wavefronts.resize(program_.ops.size());
      counts_.wavefronts_ideal.resize(program_.ops.size());
    }
  }

  void run_until_empty() {
    for (;;) {
      std::uint32_t linear = launch_.next.fetch_add(1);
      if (linear >= launch_.ctas || linear > launch_.first_failed.load()) break;
      run(linear);
    }
    std::lock_guard lock(launch_.mutex);
    launch_.warp_instructions += executed_;
    add(launch_.counts.executed, counts_.executed);
    add(launch_.counts.wavefronts, counts_.wavefronts);
    add(launch_.counts.wavefronts_ideal, counts_.wavefronts_ideal);
  }

 private:
  static void add(std::vector<std::uint64_t>& to, const std::vector<std::uint64_t>& from) {
    to.resize(from.size());
    for (std::size_t i = 0; i < from.size(); ++i) to[i] += from[i];
  }

  void run(std::uint32_t linear) {
    set_up(linear);
    std::unique_ptr<Checker> checker;
    if (checks_) {
      checker = std::make_unique<Checker>(cta_, launch_.races.get(), launch_.ordered_races.get());
      cta_.checker = checker.get();
    }
    try {
      run_cta(cta_);
    } catch (const Stop&) {
      launch_.stop_behind(linear);
    }
    std::uint64_t executed = 0;
    for (const Warp& w : cta_.warps) executed += w.executed;
    executed_ += executed;
    if (const auto last = launch_.budget.spend(linear, executed)) launch_.stop_behind(*last);
    if (request_.options.progress) request_.options.progress->ended.fetch_add(1);
    cta_.checker = nullptr;
    if (!log_.findings.empty()) record(linear);
  }

  void record(std::uint32_t linear) {
    std::lock_guard lock(launch_.mutex);
    if (log_.full) launch_.first_full = std::min(launch_.first_full, linear);
    for (std::size_t place = 0; place < log_.findings.size(); ++place) {
      Finding& finding = log_.findings[place];
      const auto [known, fresh] = launch_.found.try_emplace({finding.check, finding.ptx_line},
                                                            Launch::Found{linear, place, finding});
      if (fresh) continue;
      Launch::Found& found = known->second;
      const std::uint64_t count = found.finding.count + finding.count;
      if (linear < found.cta) found = {linear, place, std::move(finding)};
      found.finding.count = count;
    }
  }

  void set_up(std::uint32_t linear) {
    const runtime::Dim3& grid = request_.grid;
    cta_.request = &request_;
    cta_.map = launch_.map.get();
    cta_.instruction_limit = launch_.instruction_limit;
    cta_.linear = linear;
    cta_.id[0] = static_cast<int>(linear % grid.x);
    cta_.id[1] = static_cast<int>(linear / grid.x % grid.y);
    cta_.id[2] = static_cast<int>(linear / grid.x / grid.y);
    cta_.shared = shared_.get();
    cta_.shared_end = shared_end_;
    log_ = {};
    cta_.log = &log_;
    cta_.random = Random(request_.options.seed * 0x9e3779b97f4a7c15u + linear);
    cta_.barriers.fill({});
    cta_.passed_over = 0;
    cta_.hits.assign(program_.accesses.size(), nullptr);
    cta_.counts = request_.options.counting == runtime::Counting::on ? &counts_ : nullptr;
    std::memset(shared_.get(), kPoison, shared_end_);
    cta_.warps.resize(warps_);
    for (std::uint32_t i = 0; i < warps_; ++i) set_up_warp(i);
  }

  void set_up_warp(std::uint32_t index) {
    std::uint64_t threads = count(request_.block);
    Warp& w = cta_.warps[index];
    w = Warp{};
    w.cta = &cta_;
    w.program = &program_;
    w.ops = checks_ ? program_.checked.data() : program_.plain.data();
    w.pc = w.ops;
    w.index = static_cast<int>(index);
    std::uint64_t lanes = std::min<std::uint64_t>(kLanes, threads - std::uint64_t{index} * kLanes);
    w.live = w.active = lanes == kLanes ? kFullMask : (1u << lanes) - 1;
    w.rows = rows_.get() + row_words_ * index;
    w.predicates = predicates_.data() + std::size_t{program_.predicates} * index;
    std::memset(w.rows, kPoison, row_words_ * sizeof(std::uint32_t));
    std::fill_n(w.predicates, program_.predicates, kFullMask);
    w.predicates[kNever] = 0;
    w.local.assign(program_.info.local_bytes * kLanes, kPoison);
    if (checks_) {
      w.local_written.assign(program_.info.local_bytes * kLanes, 0);
      w.defined = defined_.data() + std::size_t{cells_} * index;
      std::fill_n(w.defined, cells_, 0u);
      w.partial = partial_.data() + std::size_t{program_.rows} * index;
      std::fill_n(w.partial, program_.rows, 0u);
      w.undefined = undefined_.get() + row_words_ * index;
      for (std::uint16_t p : {kAlways, kNever}) w.defined[program_.predicate_cell(p)] = kFullMask;
    }
    fill_constants(w);
    for (const SpecialRow& special : program_.specials) fill_special(w, special);
  }

  void fill_constants(Warp& w) {
    for (const ConstantRow& constant : program_.constants) {
      if (constant.wide) {
        std::fill_n(row64(w, constant.row), kLanes, constant.value);
      } else {
        std::fill_n(row32(w, constant.row), kLanes, static_cast<std::uint32_t>(constant.value));
      }
      if (checks_) w.defined[constant.row] = kFullMask;
    }
  }

  void fill_special(Warp& w, const SpecialRow& special) {
    for (std::uint32_t lane = 0; lane < kLanes; ++lane) {
      std::uint32_t value = special_value(w, special.which, lane);
      if (special.wide) {
        row64(w, special.row)[lane] = value;
      } else {
        row32(w, special.row)[lane] = value;
      }
    }
    if (checks_) w.defined[special.row] = kFullMask;
  }

  std::uint32_t special_value(const Warp& w, Special which, std::uint32_t lane) const {
    const runtime::Dim3 &block = request_.block, &grid = request_.grid;
    std::uint32_t thread = static_cast<std::uint32_t>(w.index) * kLanes + lane;
    std::uint32_t bit = 1u << lane;
    switch (which) {
      case Special::tid_x:
        return thread % block.x;
      case Special::tid_y:
        return thread / block.x % block.y;
      case Special::tid_z:
        return thread / block.x / block.y;
      case Special::ntid_x:
        return block.x;
      case Special::ntid_y:
        return block.y;
      case Special::ntid_z:
        return block.z;
      case Special::ctaid_x:
        return static_cast<std::uint32_t>(cta_.id[0]);
      case Special::ctaid_y:
        return static_cast<std::uint32_t>(cta_.id[1]);
      case Special::ctaid_z:
        return static_cast<std::uint32_t>(cta_.id[2]);
      case Special::nctaid_x:
        return grid.x;
      case Special::nctaid_y:
        return grid.y;
      case Special::nctaid_z:
        return grid.z;
      case Special::laneid:
        return lane;
      case Special::warpid:
        return static_cast<std::uint32_t>(w.index);
      case Special::nwarpid:
        return warps_;
      case Special::nsmid:
        return 1;
      case Special::lanemask_eq:
        return bit;
      case Special::lanemask_lt:
        return bit - 1;
      case Special::lanemask_le:
        return bit | (bit - 1);
      case Special::lanemask_gt:
        return ~(bit | (bit - 1));
      case Special::lanemask_ge:
        return ~(bit - 1);
      case Special::dynamic_smem_size:
        return static_cast<std::uint32_t>(request_.dynamic_shared_bytes);
      case Special::total_smem_size:
        return shared_end_ - static_cast<std::uint32_t>(kSharedStart);
      case Special::smid:
      case Special::gridid:
      case Special::clock:
      case Special::clock64:
      case Special::globaltimer:
        break;
    }
    return 0;
  }

  Launch& launch_;
  const Program& program_;
  const LaunchRequest& request_;
  bool checks_ = false;
  std::uint32_t warps_ = 0, cells_ = 0, shared_end_ = 0;
  std::size_t row_words_ = 0;
  AlignedArray<std::uint32_t> rows_;
  std::vector<std::uint32_t> predicates_, defined_, partial_;
  AlignedArray<std::uint32_t> undefined_;  // untouched where nothing is undefined in part
  AlignedArray<std::uint8_t> shared_;
  Cta cta_;
  FindingLog log_;
  Counts counts_;
  std::uint64_t executed_ = 0;
};

Finding describe_conflict(const Launch& launch, const GlobalRaces::Conflict& conflict) {
  const Program& program = launch.program;
  const runtime::Dim3& grid = launch.request.grid;
  auto position = [&](std::uint32_t linear) {
    return fmt::format("({}, {}, {})", linear % grid.x, linear / grid.x % grid.y,
                       linear / grid.x / grid.y);
  };
  auto what = [&](const GlobalRaces::Party& party) {
    const char* verb = party.kind == AccessKind::read          ? "reads"
                       : party.kind == AccessKind::write       ? "writes"
                       : party.kind == AccessKind::strong_read ? "reads (volatile)"
                                                               : "updates atomically";
    return fmt::format("CTA {} {} it at line {} ({})", position(party.cta), verb,
                       program.ops[party.op].line, program.text[party.op]);
  };
  Finding finding;
  finding.kernel = program.info.name;
  finding.check = "race";
  finding.message = fmt::format(
      "global address {:#x}: {} and {}, and {}", conflict.address, what(conflict.first),
      what(conflict.second),
      program.orders_ctas
          ? "no atomic with a fence before it in the one and behind it in the other orders them"
          : "nothing orders CTAs of one grid");
  finding.ptx_line = program.ops[conflict.first.op].line;
  finding.source = program.source_of(conflict.first.op);
  std::uint32_t linear = conflict.first.cta;
  finding.cta[0] = static_cast<int>(linear % grid.x);
  finding.cta[1] = static_cast<int>(linear / grid.x % grid.y);
  finding.cta[2] = static_cast<int>(linear / grid.x / grid.y);
  return finding;
}

// The launch has passed EmulatorOptions::launch_limit at CTA `linear`.
Finding describe_limit(const Launch& launch, std::uint32_t linear) {
  const runtime::Dim3& grid = launch.request.grid;
  Finding finding;
  finding.kernel = launch.program.info.name;
  finding.check = "launch-limit";
  finding.message = fmt::format(
      "{} of {} CTAs have executed more than {} warp instructions, {} for the start of each "
      "included, which is the limit of this launch. If the kernel is right, give a larger "
      "EmulatorOptions::launch_limit",
      linear + std::uint64_t{1}, launch.ctas, launch.request.options.launch_limit,
      LaunchBudget::kCtaInstructions);
  finding.cta[0] = static_cast<int>(linear % grid.x);
  finding.cta[1] = static_cast<int>(linear / grid.x % grid.y);
  finding.cta[2] = static_cast<int>(linear / grid.x / grid.y);
  return finding;
}

std::uint32_t host_threads(const Program& program, const LaunchRequest& request,
                           std::uint32_t ctas) {
  // Results depend on the order of CTAs, so that order is then fixed.
  if (program.orders_ctas) return 1;
  std::uint32_t threads = request.options.threads > 0
                              ? static_cast<std::uint32_t>(request.options.threads)
                              : std::max(1u, std::thread::hardware_concurrency());
  return std::min(threads, ctas);
}

void run_grid(Launch& launch) {
  run_on_threads(host_threads(launch.program, launch.request, launch.ctas),
                 [&] { CtaRunner(launch).run_until_empty(); });
}

std::uint64_t instruction_limit(const LaunchRequest& request, const DeviceMemory& memory) {
  const std::uint64_t of_launch = request.options.launch_limit;
  std::uint64_t limit = request.options.instruction_limit;
  if (limit == 0) limit = kInstructionsOfAnyCta + kInstructionsPerByte * memory.used_bytes();
  return of_launch == 0 ? limit : std::min(limit, of_launch);
}

std::vector<runtime::LineCount> line_counts(const Launch& launch) {
  std::vector<runtime::LineCount> lines;
  const Counts& counts = launch.counts;
  for (std::size_t op = 0; op < counts.executed.size(); ++op) {
    if (counts.executed[op] == 0) continue;
    lines.push_back({launch.program.ops[op].line, launch.program.text[op], counts.executed[op],
                     counts.wavefronts[op], counts.wavefronts_ideal[op]});
  }
  return lines;
}

// The same for any number of host threads: what CTAs behind a stopped one found, if they ran, is dropped.
void collect(Launch& launch, LaunchReport& report) {
  const std::uint32_t last = launch.first_failed.load();
  std::vector<Launch::Found*> found;
  for (auto& [key, each] : launch.found) {
    if (each.cta <= last) found.push_back(&each);
  }
  std::sort(found.begin(), found.end(), [](const Launch::Found* a, const Launch::Found* b) {
    return a->cta != b->cta ? a->cta < b->cta : a->place < b->place;
  });
  report.truncated = last != kNoCta && launch.first_full == last;
  for (Launch::Found* each : found) {
    if (last != kNoCta) each->finding.count = 1;  // it depends on how far the others came
    report.findings.push_back(std::move(each->finding));
  }
}

void limit(LaunchReport& report) {
  if (report.findings.size() <= kMaxFindings) return;
  report.findings.resize(kMaxFindings);
  report.truncated = true;
}

}  // namespace

LaunchReport launch(const Program& program, DeviceMemory& memory, const LaunchRequest& request) {
  check_request(program, request);
  auto start = std::chrono::steady_clock::now();
  bool checks = request.options.checks == runtime::Checks::on;
  Launch shared(program, request, checks ? memory.snapshot_with_shadows() : memory.snapshot(),
                instruction_limit(request, memory));
  if (checks && program.orders_ctas) {
    shared.ordered_races = std::make_unique<CtaRaces>();
  } else if (checks) {
    shared.races = std::make_unique<GlobalRaces>(*shared.map);
  }
  if (request.options.progress) {
    request.options.progress->ended = 0;
    request.options.progress->ctas = shared.ctas;
  }
  run_grid(shared);

  LaunchReport report;
  collect(shared, report);
  if (const auto passed = shared.budget.passed(); passed == shared.first_failed.load()) {
    Finding limit = describe_limit(shared, *passed);
    const bool stopped_itself =
        std::any_of(report.findings.begin(), report.findings.end(), [&](const Finding& finding) {
          return std::equal(finding.cta, finding.cta + 3, limit.cta);
        });
    if (!stopped_itself) report.findings.push_back(std::move(limit));
  }
  if (checks && shared.first_failed.load() == kNoCta) {
    for (const auto& conflict : shared.ordered_races != nullptr
                                    ? shared.ordered_races->conflicts()
                                    : shared.races->conflicts(kMaxFindings + 1)) {
      report.findings.push_back(describe_conflict(shared, conflict));
    }
  }
  limit(report);
  if (!checks) memory.assume_defined();
  report.counters.warp_instructions = shared.warp_instructions;
  report.counters.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  report.counters.lines = line_counts(shared);
  return report;
}

}  // namespace sagegen::emulator
