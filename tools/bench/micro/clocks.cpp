// The SM clock under load, and what a launch costs.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <span>
#include <thread>

#include "sagegen/runtime/error.h"
#include "tools/bench/micro/chains.h"
#include "tools/bench/micro/wgmma_stream.h"

namespace sagegen::micro {
namespace {

using HostClock = std::chrono::steady_clock;

double microseconds_since(HostClock::time_point start) {
  return std::chrono::duration<double, std::micro>(HostClock::now() - start).count();
}

// ---- clock --------------------------------------------------------------------------------------

constexpr int kLaunchesUnderLoad = 100;  // if there are no pauses

// Clocks of an SM over global nanoseconds, of all blocks of a launch.
double median_megahertz(const std::vector<Stamp>& stamps) {
  std::vector<double> rates;
  for (const Stamp& stamp : stamps) {
    const auto nanoseconds = static_cast<double>(stamp.global_stop - stamp.global_start);
    if (nanoseconds > 0)
      rates.push_back(1000 * static_cast<double>(stamp.stop - stamp.start) / nanoseconds);
  }
  if (rates.empty()) throw std::runtime_error("no block saw the global timer advance");
  return quantile(rates, 0.5);
}

using ResultCheck = std::function<std::string(const Observed&, std::uint32_t iterations)>;

// Launches of a hundredth of the load's time, for as long as it lasts: queued one behind the other,
// or with pauses. The check sees the results of the first, short launch and of the last one.
Outcome run_load(Session& session, const LoadedProgram& program, LaunchPlan plan,
                 const ResultCheck& wrong_result, std::chrono::milliseconds pause) {
  plan.repetitions = 1;
  plan.iterations = session.iterations(128);
  Observed observed = observe(session, program, plan);
  Outcome outcome;
  outcome.checked = "the results of a short launch and of the last one";
  outcome.wrong = wrong_result(observed, plan.iterations);
  Series clock{"SM clock over time", "MHz", {}, Series::Keep::all};
  if (!session.dry() && outcome.wrong.empty()) {
    const Stamp& stamp = observed.stamp(0, 0, 0);
    const double nanoseconds = static_cast<double>(stamp.global_stop - stamp.global_start);
    const double wanted = 1e9 * session.load_seconds() / kLaunchesUnderLoad;
    plan.iterations *=
        static_cast<std::uint32_t>(std::clamp(wanted / std::max(nanoseconds, 1.0), 1.0, 1e4));
    const double launch_ms = 1e-6 * wanted + static_cast<double>(pause.count());
    const auto launches = static_cast<std::size_t>(1000 * session.load_seconds() / launch_ms) + 1;
    const std::size_t stamps = observed.runs[0].size();
    runtime::Buffer in(session.device(), plan.in.size() * sizeof(std::uint32_t));
    runtime::Buffer out(session.device(), observed.out.size() * sizeof(std::uint32_t));
    runtime::Buffer stamp_buffer(session.device(), launches * stamps * sizeof(Stamp));
    in.upload(std::as_bytes(std::span(plan.in)));
    out.fill(0xcd);
    for (std::size_t i = 0; i < launches; ++i) {
      program.launch(observed.blocks,
                     {.in = in.data(),
                      .out = out.data(),
                      .stamps = stamp_buffer.data() + i * stamps * sizeof(Stamp),
                      .iterations = plan.iterations},
                     nullptr);
      if (pause.count() == 0) continue;
      session.device().synchronize();
      std::this_thread::sleep_for(pause);
    }
    session.device().synchronize();
    out.download(std::as_writable_bytes(std::span(observed.out)));
    std::vector<Stamp> read(launches * stamps);
    stamp_buffer.download(std::as_writable_bytes(std::span(read)));
    for (std::size_t i = 0; i < launches; ++i) {
      const auto first = read.begin() + static_cast<std::ptrdiff_t>(i * stamps);
      clock.samples.push_back(
          median_megahertz({first, first + static_cast<std::ptrdiff_t>(stamps)}));
    }
    outcome.wrong = wrong_result(observed, plan.iterations);
  }
  outcome.series.push_back(clock);
  return outcome;
}

std::string wrong_chains(const Chains& chains, const Observed& observed, std::uint32_t iterations) {
  ChainState state = initial_state(chains);
  advance(chains, state, iterations);
  return compare_chains(chains, state, observed.out.data(), "block 0, warp 0");
}

Benchmark clock_under_wgmma() {
  const WgmmaShape shape{.n = 128};
  return {.name = "clock_under_wgmma",
          .what = "SM clock while three warpgroups of every SM run s8 wgmma on random data",
          .programs = {wgmma_stream_program("clock_under_wgmma", shape, 3, kStreamWgmma)},
          .not_emulated = "the emulator does not execute wgmma",
          .run = [shape](Session& session, const std::vector<Program>& programs) {
            const Operands operands = wgmma_operands(shape);
            const auto loaded = session.load(programs[0]);
            const int threads = programs[0].threads;
            return run_load(
                session, *loaded,
                {.in = wgmma_input(shape, operands),
                 .out_words = static_cast<std::size_t>(shape.accumulators() * threads)},
                [&](const Observed& observed, std::uint32_t iterations) {
                  return first_difference(observed,
                                          wgmma_expected(shape, operands, threads,
                                                         std::int64_t{iterations} * kStreamWgmma),
                                          "accumulators");
                },
                std::chrono::milliseconds(0));
          }};
}

Benchmark clock_under_chains(const std::string& name, const std::string& what, Chains chains,
                             int threads, std::chrono::milliseconds pause) {
  return {.name = name,
          .what = what,
          .programs = {chain_program(chains, name, threads)},
          .not_emulated = {},
          .run = [chains, pause](Session& session, const std::vector<Program>& programs) {
            const auto loaded = session.load(programs[0]);
            return run_load(
                session, *loaded,
                {.in = chain_input(chains),
                 .out_words = chain_words(chains) * static_cast<std::size_t>(loaded->warps())},
                [&](const Observed& observed, std::uint32_t iterations) {
                  // ex2 has reached its fixed point long before.
                  return wrong_chains(chains, observed, std::min(iterations, 64u));
                },
                pause);
          }};
}

// ---- launches -----------------------------------------------------------------------------------

constexpr int kLaunches = 1000, kGraphNodes = 100, kRepetitions = 20;

// One addition to a counter, so that a launch that did not happen is missed.
Program counting_program() {
  return {.name = "launch_overhead",
          .ptx = kernel_ptx("one addition", kLanes, "",
                            "\tsetp.eq.u32 %p0, %thread, 0;\n"
                            "\t@%p0 red.global.add.u32 [%out], 1;\n"),
          .threads = kLanes,
          .shared_bytes = 0,
          .sass = {}};
}

class Counter {
 public:
  explicit Counter(const runtime::Device& device) : buffer_(device, sizeof(std::uint32_t)) {
    buffer_.fill(0);
  }
  Parameters parameters() const { return {.out = buffer_.data()}; }
  std::string wrong(std::uint32_t launches) const {
    std::uint32_t count = 0;
    buffer_.download(std::as_writable_bytes(std::span(&count, 1)));
    return count == launches ? "" : fmt::format("{} launches counted, {} made", count, launches);
  }

 private:
  runtime::Buffer buffer_;
};

// A graph of launches, captured from a stream.
class LaunchGraph {
 public:
  LaunchGraph(const runtime::Device& device, const LoadedProgram& program,
              const Parameters& parameters, const runtime::Stream& stream, int nodes)
      : device_(device) {
    runtime::DriverApi& api = device_.api();
    runtime::Device::Scope scope(device_);
    runtime::check(api, api.stream_begin_capture(stream.handle()), "cuStreamBeginCapture");
    for (int i = 0; i < nodes; ++i) program.launch(1, parameters, stream.handle());
    runtime::GraphHandle graph = nullptr;
    runtime::check(api, api.stream_end_capture(stream.handle(), &graph), "cuStreamEndCapture");
    const runtime::Result result = api.graph_instantiate(&executable_, graph);
    api.graph_destroy(graph);
    runtime::check(api, result, "cuGraphInstantiateWithFlags");
  }
  ~LaunchGraph() {
    try {
      runtime::Device::Scope scope(device_);
      device_.api().graph_executable_destroy(executable_);
    } catch (const Error&) {  // the driver is shutting down
    }
  }
  LaunchGraph(const LaunchGraph&) = delete;
  LaunchGraph& operator=(const LaunchGraph&) = delete;
  void launch(const runtime::Stream& stream) const {
    runtime::Device::Scope scope(device_);
    runtime::check(device_.api(), device_.api().graph_launch(executable_, stream.handle()),
                   "cuGraphLaunch");
  }

 private:
  runtime::Device device_;
  runtime::GraphExecutableHandle executable_ = nullptr;
};

Outcome run_launches(Session& session, const std::vector<Program>& programs) {
  const auto loaded = session.load(programs[0]);
  const runtime::Stream stream(session.device());
  const Counter counter(session.device());
  const Parameters parameters = counter.parameters();
  const int repetitions = session.repetitions(kRepetitions);
  std::uint32_t launched = 0;
  Series single{"one launch, until it is done", "us", {}};
  Series many{fmt::format("{} launches back to back, each", kLaunches), "us", {}};
  const auto launch = [&] {
    loaded->launch(1, parameters, stream.handle());
    ++launched;
  };
  launch();
  stream.synchronize();
  for (int i = 0; i < repetitions; ++i) {
    const auto start = HostClock::now();
    launch();
    stream.synchronize();
    single.samples.push_back(microseconds_since(start));
  }
  for (int i = 0; i < repetitions; ++i) {
    const int count = session.dry() ? 4 : kLaunches;
    const auto start = HostClock::now();
    for (int j = 0; j < count; ++j) launch();
    stream.synchronize();
    many.samples.push_back(microseconds_since(start) / count);
  }
  Outcome outcome;
  outcome.series = {single, many};
  outcome.checked = "a counter that every launch raises";
  outcome.wrong = counter.wrong(launched);
  return outcome;
}

Outcome run_graph(Session& session, const std::vector<Program>& programs) {
  const auto loaded = session.load(programs[0]);
  const runtime::Stream stream(session.device());
  const Counter counter(session.device());
  std::uint32_t launched = 0;
  Outcome outcome;
  for (const int nodes : {1, kGraphNodes}) {
    const LaunchGraph graph(session.device(), *loaded, counter.parameters(), stream, nodes);
    Series series{nodes == 1 ? "replay of one launch, until it is done"
                             : fmt::format("replay of {} launches, each", nodes),
                  "us",
                  {}};
    for (int i = -1; i < session.repetitions(kRepetitions); ++i) {
      const auto start = HostClock::now();
      graph.launch(stream);
      stream.synchronize();
      launched += static_cast<std::uint32_t>(nodes);
      if (i >= 0) series.samples.push_back(microseconds_since(start) / nodes);
    }
    outcome.series.push_back(series);
  }
  outcome.checked = "a counter that every launch raises";
  outcome.wrong = counter.wrong(launched);
  return outcome;
}

}  // namespace

void add_clock_benchmarks(std::vector<Benchmark>& list) {
  Program graph = counting_program();
  graph.name = "graph_replay";
  list.push_back({.name = "launch_overhead",
                  .what = "launches of a kernel that only counts, by the host's clock",
                  .programs = {counting_program()},
                  .not_emulated = {},
                  .run = run_launches});
  list.push_back({.name = "graph_replay",
                  .what = "the same launches, captured and replayed",
                  .programs = {graph},
                  .not_emulated = "graphs of the emulator save no time",
                  .run = run_graph});
  Chains light = find_chains("ex2");
  light.steps *= light.chains;
  light.chains = 1;
  list.push_back(clock_under_chains("clock_idle",
                                    "SM clock in short launches of one warp, 50 ms apart", light,
                                    kLanes, std::chrono::milliseconds(50)));
  list.push_back(clock_under_chains("clock_under_ex2", "SM clock while every SM runs ex2",
                                    find_chains("ex2"), 512, std::chrono::milliseconds(0)));
  list.push_back(clock_under_wgmma());
}

}  // namespace sagegen::micro
