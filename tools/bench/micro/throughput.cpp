// Rates and latencies of single operations.
#include <fmt/format.h>

#include "tools/bench/micro/chains.h"

namespace sagegen::micro {

Program chain_program(const Chains& chains, const std::string& name, int threads) {
  const std::string store = fmt::format(
      "\tmov.u32 %r0, %ntid.x;\n"
      "\tmad.lo.s32 %r0, %cta, %r0, %thread;\n"
      "\tshr.u32 %r0, %r0, 5;\n"
      "\tmul.lo.u32 %r0, %r0, {};\n"
      "\tadd.s32 %r0, %r0, %lane;\n"
      "\tmul.wide.u32 %rd0, %r0, {};\n"
      "\tadd.s64 %rd0, %rd0, %out;\n",
      chains.chains * kLanes, chains.bits / 8);
  return {.name = name,
          .ptx = kernel_ptx(name + ": " + chains.what, threads, chain_registers(chains),
                            load_chains(chains, 0, 0) + start_clock() +
                                counted_loop(chain_steps(chains)) + stop_clock() + store +
                                store_chains(chains, 0)),
          .threads = threads,
          .shared_bytes = chains.shared_bytes,
          .sass = {{chains.sass_name, chains.sass_opcode,
                    chains.chains * chains.steps * chains.operations}}};
}

namespace {

constexpr int kThreads = 512;

Outcome run_chains(Session& session, const Chains& chains, const Program& program, bool latency) {
  const std::uint32_t iterations = session.iterations(latency ? 256 : 128);
  const auto loaded = session.load(program);
  const std::size_t words = chain_words(chains);
  const auto warps = static_cast<std::size_t>(loaded->warps());
  const Observed observed =
      observe(session, *loaded,
              {.in = chain_input(chains), .out_words = words * warps, .iterations = iterations});
  ChainState state = initial_state(chains);
  advance(chains, state, iterations);
  Outcome outcome;
  for (std::size_t w = 0; w * words < observed.out.size() && outcome.wrong.empty(); ++w) {
    outcome.wrong = compare_chains(chains, state, &observed.out[w * words],
                                   fmt::format("block {}, warp {}", w / warps, w % warps));
  }
  outcome.checked = "every lane's values after the last step, recomputed by the host";
  const double steps =
      static_cast<double>(iterations) * chains.steps * chains.chains * chains.operations;
  if (latency) {
    outcome.series = {{"latency", "clocks", clocks_per(observed, steps)}};
  } else {
    outcome.series = {{"rate", chains.unit + " per clock and SM",
                       per_clock(observed, steps * static_cast<double>(warps) * kLanes)}};
  }
  return outcome;
}

Benchmark chain_benchmark(Chains chains, bool latency) {
  if (latency) {
    chains.steps *= chains.chains;
    chains.chains = 1;
  }
  const std::string name = (latency ? "latency_" : "rate_") + chains.name;
  return {.name = name,
          .what = latency ? fmt::format("one warp, one dependent chain: {}", chains.what)
                          : fmt::format("{} warps of {} chains: {}", kThreads / kLanes,
                                        chains.chains, chains.what),
          .programs = {chain_program(chains, name, latency ? kLanes : kThreads)},
          .not_emulated = {},
          .run = [chains, latency](Session& session, const std::vector<Program>& programs) {
            return run_chains(session, chains, programs[0], latency);
          }};
}

}  // namespace

void add_throughput_benchmarks(std::vector<Benchmark>& list) {
  for (const Chains& chains : all_chains()) list.push_back(chain_benchmark(chains, false));
  for (const char* name : {"ex2", "ffma", "i2f", "dfma", "shfl", "lds128"}) {
    list.push_back(chain_benchmark(find_chains(name), true));
  }
}

}  // namespace sagegen::micro
