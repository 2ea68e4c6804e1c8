// The micro-benchmarks without a GPU: their report, their restart, and that a wrong kernel is
// noticed.
#include <fmt/format.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "sagegen/runtime/emulator.h"
#include "tools/bench/micro/chains.h"
#include "tools/bench/micro/wgmma_stream.h"

namespace sagegen::micro {
namespace {

using Catch::Matchers::Contains;
using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

// Benchmarks that a dry run does not execute. One leaves this list when the emulator learns its
// instructions.
const std::set<std::string> kNotEmulated = {"bulk_16384_bytes",
                                            "bulk_8192_bytes",
                                            "clock_under_wgmma",
                                            "contention_e4m3_rega_n128_cvt_e4m3x2",
                                            "contention_e4m3_rega_n128_dfma",
                                            "contention_e4m3_rega_n128_ex2",
                                            "contention_e4m3_rega_n128_ffma",
                                            "contention_e4m3_rega_n128_fmnmx",
                                            "contention_e4m3_rega_n128_lds128",
                                            "contention_e4m3_rega_n128_lop3",
                                            "contention_s8_n128_cvt_e4m3x2",
                                            "contention_s8_n128_dfma",
                                            "contention_s8_n128_ex2",
                                            "contention_s8_n128_ffma",
                                            "contention_s8_n128_fmnmx",
                                            "contention_s8_n128_lds128",
                                            "contention_s8_n128_lop3",
                                            "graph_replay",
                                            "preset_dfma",
                                            "preset_e5m2",
                                            "preset_moves",
                                            "preset_none",
                                            "ptxas_clobber",
                                            "tma_128_rows",
                                            "tma_128_rows_4",
                                            "tma_64_rows",
                                            "tma_64_rows_4",
                                            "wgmma_e4m3_rega_n128_1wg",
                                            "wgmma_e4m3_rega_n128_2wg",
                                            "wgmma_e4m3_rega_n128_3wg",
                                            "wgmma_e4m3_rega_n136_1wg",
                                            "wgmma_e4m3_rega_n256_1wg",
                                            "wgmma_e4m3_rega_n64_1wg",
                                            "wgmma_e4m3_rega_n64_2wg",
                                            "wgmma_e4m3_rega_n64_3wg",
                                            "wgmma_groups_e4m3_rega_n128_1wg",
                                            "wgmma_groups_e4m3_rega_n128_3wg",
                                            "wgmma_groups_s8_n128_1wg",
                                            "wgmma_groups_s8_n128_3wg",
                                            "wgmma_interleave_s8_n128_2wg_2_16",
                                            "wgmma_interleave_s8_n128_2wg_4_4",
                                            "wgmma_interleave_s8_n128_3wg_2_16",
                                            "wgmma_s8_n128_1wg",
                                            "wgmma_s8_n128_2wg",
                                            "wgmma_s8_n128_3wg",
                                            "wgmma_s8_n256_1wg",
                                            "wgmma_s8_n64_1wg",
                                            "wgmma_s8_rega_n128_1wg",
                                            "wgmma_s8_rega_n128_2wg",
                                            "wgmma_s8_rega_n128_3wg"};

class Directory {
 public:
  Directory() : path_(fs::temp_directory_path() / fmt::format("sagegen_micro_{}", ::getpid())) {
    fs::create_directories(path_);
  }
  ~Directory() { fs::remove_all(path_); }
  std::string file(const std::string& name) const { return (path_ / name).string(); }

 private:
  fs::path path_;
};

std::string read(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

RunOptions dry_run(const std::string& out, std::vector<std::string> only = {}) {
  return {.device = "emulator:sm_90", .out = out, .only = std::move(only), .command = "run"};
}

runtime::Device emulated_device() {
  return runtime::Device(runtime::make_emulator(),
                         static_cast<int>(runtime::EmulatorProfile::sm_90));
}

TEST_CASE("names are distinct, and assumed values belong to benchmarks") {
  std::set<std::string> names, programs;
  for (const Benchmark& benchmark : all_benchmarks()) {
    CHECK(names.insert(benchmark.name).second);
    CHECK(benchmark.name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_") ==
          std::string::npos);
    CHECK(!benchmark.what.empty());
    CHECK(!benchmark.programs.empty());
    for (const Program& program : benchmark.programs) CHECK(programs.insert(program.name).second);
  }
  for (const Assumed& assumed : assumed_values()) CHECK(names.count(assumed.benchmark) == 1);
}

TEST_CASE("a dry run executes what the emulator can, is right, and stores no times") {
  const Directory directory;
  const std::string out = directory.file("dry.json");
  CHECK(run_benchmarks(dry_run(out)) == 0);
  const Json report = Json::parse(read(out));
  CHECK(report["dry"] == true);
  CHECK(report["compute_capability"] == 90);
  CHECK(report["benchmarks"].size() == all_benchmarks().size());
  std::set<std::string> not_executed;
  for (const auto& [name, entry] : report["benchmarks"].items()) {
    INFO(name);
    CHECK(!entry.contains("host_seconds"));
    if (entry["status"] == "not executed") {
      CHECK(!entry["reason"].get<std::string>().empty());
      CHECK(!entry.contains("results"));
      not_executed.insert(name);
      continue;
    }
    CHECK(entry["status"] == "finished");
    CHECK(entry["check"]["passed"] == true);
    CHECK(!entry["results"].empty());
    for (const Json& series : entry["results"]) {
      CHECK(series["samples"] == 0);
      for (const char* key : {"median", "p10", "p90"}) CHECK(series[key].is_null());
      CHECK(!series.contains("trace"));
    }
  }
  CHECK(not_executed == kNotEmulated);
}

TEST_CASE("a run keeps what an earlier one finished, and repeats what has changed or was cut off") {
  const Directory directory;
  const std::string out = directory.file("report.json");
  const std::vector<std::string> only = {"rate_ffma", "rate_lop3", "launch_overhead"};
  CHECK(run_benchmarks(dry_run(out, only)) == 0);
  Json report = Json::parse(read(out));
  const auto mark = [&](const char* name) { report["benchmarks"][name]["date"] = "before"; };
  for (const std::string& name : only) mark(name.c_str());
  report["benchmarks"]["rate_lop3"]["code_crc32"] = 1;            // of another kernel
  report["benchmarks"]["launch_overhead"]["status"] = "started";  // and never ended
  std::ofstream(out) << report.dump();
  CHECK(run_benchmarks(dry_run(out, only)) == 0);
  Json again = Json::parse(read(out));
  CHECK(again["benchmarks"]["rate_ffma"]["date"] == "before");
  for (const char* name : {"rate_lop3", "launch_overhead"}) {
    CHECK(again["benchmarks"][name]["date"] != "before");
    CHECK(again["benchmarks"][name]["status"] == "finished");
  }
  again["driver"] = "580.159.04";  // of another machine: nothing counts
  again["benchmarks"]["rate_ffma"]["date"] = "before";
  std::ofstream(out) << again.dump();
  CHECK(run_benchmarks(dry_run(out, {"rate_ffma"})) == 0);
  const Json last = Json::parse(read(out));
  CHECK(last["benchmarks"].size() == 1);
  CHECK(last["benchmarks"]["rate_ffma"]["date"] != "before");
  CHECK(last["driver"] == "");
  CHECK(Json::parse(read(out + ".previous"))["driver"] == "580.159.04");
  // A checksum that is right in its lowest 32 bits only.
  Json wider = last;
  Json& code = wider["benchmarks"]["rate_ffma"]["code_crc32"];
  code = code.get<std::uint64_t>() + (std::uint64_t{1} << 32);
  wider["benchmarks"]["rate_ffma"]["date"] = "before";
  std::ofstream(out) << wider.dump();
  CHECK(run_benchmarks(dry_run(out, {"rate_ffma"})) == 0);
  CHECK(Json::parse(read(out))["benchmarks"]["rate_ffma"]["date"] != "before");
}

// Endings of a benchmark that no exception reports. SIGUSR1 ends a process, and Catch does not
// catch it.
TEST_CASE("a benchmark that takes its process with it costs itself only") {
  const Directory directory;
  RunOptions options = dry_run(directory.file("report.json"));
  options.session.load_seconds = 0.1;
  options.patience = std::chrono::milliseconds(2900);
  const auto made = [](const char* name, void (*act)()) {
    return Benchmark{.name = name,
                     .what = "test",
                     .programs = {},
                     .not_emulated = {},
                     .run = [act](Session&, const std::vector<Program>&) {
                       act();
                       return Outcome{.series = {}, .checked = "nothing", .wrong = {}};
                     }};
  };
  const auto fine = [] {};
  const std::vector<Benchmark> list = {
      made("first", fine),
      made("dies", [] { std::raise(SIGUSR1); }),
      made("second", fine),
      made("exits", [] { ::_exit(0); }),
      made("throws", [] { throw std::runtime_error("as it says"); }),
      made("hangs",
           [] {
             for (;;) ::pause();
           }),
      made("last", fine)};
  CHECK(run_benchmarks(options, list) == 4);
  const Json report = Json::parse(read(options.out));
  CHECK(report["benchmarks"].size() == list.size());
  const std::map<std::string, std::string> reasons = {{"dies", "its process died of signal 10"},
                                                      {"exits", "its process exited with 0"},
                                                      {"throws", "as it says"},
                                                      {"hangs", "no end after 3 s"}};
  for (const auto& [name, entry] : report["benchmarks"].items()) {
    INFO(name);
    const auto reason = reasons.find(name);
    CHECK(entry["status"] == (reason == reasons.end() ? "finished" : "failed"));
    CHECK(entry.value("reason", "") == (reason == reasons.end() ? "" : reason->second));
  }
  // Later: only what failed, and it can be right then.
  std::vector<Benchmark> better;
  for (const Benchmark& benchmark : list) better.push_back(made(benchmark.name.c_str(), fine));
  CHECK(run_benchmarks(options, better) == 0);
  for (const auto& [name, entry] : Json::parse(read(options.out))["benchmarks"].items()) {
    CHECK(entry["status"] == "finished");
    CHECK((entry["date"] == report["benchmarks"][name]["date"]) == !reasons.contains(name));
  }
}

TEST_CASE("bad requests are refused with what is allowed, and foreign files are left alone") {
  const Directory directory;
  const std::string out = directory.file("notes.txt");
  CHECK_THROWS_WITH(run_benchmarks(dry_run(out, {"rate_fma"})),
                    Contains("'rate_fma'") && Contains("list"));
  RunOptions other = dry_run(out);
  other.device = "emulator:sm_89";
  CHECK_THROWS_WITH(run_benchmarks(other), Contains("emulator:sm_90"));
  other.device = "cuda:x";
  CHECK_THROWS_WITH(run_benchmarks(other), Contains("cuda:0"));
  std::ofstream(out) << "not a report";
  CHECK_THROWS_WITH(run_benchmarks(dry_run(out, {"rate_ffma"})), Contains("--out"));
  CHECK(read(out) == "not a report");
}

TEST_CASE(
    "what follows a measurement: every benchmark of the emulator gives samples, and means of "
    "them") {
  Session session(
      emulated_device(),
      {.cubins = "", .load_seconds = 1e-3, .emulated = SessionOptions::Emulated::rehearsal});
  CHECK(!session.dry());
  CHECK(session.emulated());
  for (const Benchmark& benchmark : all_benchmarks()) {
    if (!benchmark.not_emulated.empty()) continue;
    INFO(benchmark.name);
    const Outcome outcome = benchmark.run(session, benchmark.programs);
    CHECK(outcome.wrong == "");
    CHECK(!outcome.checked.empty());
    CHECK(!outcome.series.empty());
    for (const Series& series : outcome.series) {
      CHECK(!series.samples.empty());
      for (const double sample : series.samples) CHECK((std::isfinite(sample) && sample > 0));
    }
    for (const LoadedCode& code : session.take_loaded()) CHECK(code.origin == "driver JIT");
  }
  CHECK(quantile({3, 1, 2}, 0.5) == 2);
  CHECK(quantile({4, 1}, 0.1) == Approx(1.3));
  CHECK(quantile({7}, 0.9) == 7);
}

// The PTX without the lines of the loop that write a register.
std::string without_writes(const std::string& ptx, const std::string& reg, int most) {
  std::istringstream lines(ptx);
  std::string result;
  bool in_loop = false;
  for (std::string line; std::getline(lines, line);) {
    in_loop = (in_loop || line.starts_with("$loop")) && line.find("bra $loop") == std::string::npos;
    const std::size_t first_operand = line.find(' ', 1);
    const std::size_t at = line.find(reg);
    const bool writes =
        in_loop && at != std::string::npos && first_operand != std::string::npos &&
        (at == first_operand + 1 || line.compare(first_operand + 1, 2, "{%") == 0) &&
        line.find(',') > at;
    if (writes && most-- > 0) continue;
    result += line + "\n";
  }
  return result;
}

TEST_CASE("what a kernel loads is used before its time starts") {
  int loads = 0;
  for (const Benchmark& benchmark : all_benchmarks()) {
    for (const Program& program : benchmark.programs) {
      const std::size_t start = program.ptx.find("\tmov.u64 %clock0");
      if (start == std::string::npos) continue;
      INFO(program.name);
      std::istringstream lines(program.ptx.substr(0, start));
      std::set<std::string> waiting;
      for (std::string line; std::getline(lines, line);) {
        std::erase_if(waiting,
                      [&](const std::string& reg) { return line.ends_with(", " + reg + ";"); });
        if (line.find("ld.global.b") == std::string::npos) continue;
        const std::size_t reg = line.find('%');
        waiting.insert(line.substr(reg, line.find(',') - reg));
        ++loads;
      }
      CHECK(waiting == std::set<std::string>{});
    }
  }
  CHECK(loads > 500);
}

TEST_CASE("a kernel that leaves out a chain, or one step of one that counts, is wrong") {
  Session session(emulated_device(), {});
  int tried = 0;
  for (const Benchmark& benchmark : all_benchmarks()) {
    const bool is_rate =
        benchmark.name.starts_with("rate_") || benchmark.name.starts_with("latency_");
    const bool is_mma = benchmark.name.starts_with("mma_");
    if (!is_rate && !is_mma) continue;
    INFO(benchmark.name);
    const std::string reg = is_mma ? "%d0" : "%x0";
    std::vector<Program> programs = benchmark.programs;
    programs[0].ptx = without_writes(benchmark.programs[0].ptx, reg, 1 << 20);
    REQUIRE(programs[0].ptx != benchmark.programs[0].ptx);
    CHECK(!benchmark.run(session, programs).wrong.empty());
    ++tried;
    // Others run into a value that one step more or less does not change.
    const bool counts = is_mma || benchmark.name.ends_with("ffma") ||
                        benchmark.name.ends_with("fadd") || benchmark.name.ends_with("shfl") ||
                        benchmark.name.ends_with("lop3") || benchmark.name.ends_with("lds128") ||
                        benchmark.name.ends_with("dfma");
    if (!counts) continue;
    programs[0].ptx = without_writes(benchmark.programs[0].ptx, reg, 1);
    CHECK(!benchmark.run(session, programs).wrong.empty());
  }
  CHECK(tried == 22);
}

TEST_CASE("the emulator refuses a kernel of wgmma, with a reason that is no other") {
  Session session(emulated_device(), {});
  for (const Benchmark& benchmark : all_benchmarks()) {
    if (benchmark.not_emulated.empty() || benchmark.name == "graph_replay") continue;
    INFO(benchmark.name);
    CHECK_THROWS_WITH(
        benchmark.run(session, benchmark.programs),
        Contains("wgmma") || Contains("bulk") || Contains("mbarrier") || Contains("fence.proxy."));
  }
}

// What a contention kernel does beside its wgmma can be executed: the worker goes on until the
// other side has finished, or until it has slept, and its values are those of the steps that it
// reports.
TEST_CASE(
    "the worker of a contention kernel works as long as the other side, and says how far it came") {
  Session session(emulated_device(), {});
  int tried = 0;
  for (const Benchmark& benchmark : all_benchmarks()) {
    const std::string prefix = "contention_s8_n128_";
    if (!benchmark.name.starts_with(prefix)) continue;
    INFO(benchmark.name);
    const Chains& work = find_chains(benchmark.name.substr(prefix.size()));
    Program program = benchmark.programs[0];
    std::istringstream lines(program.ptx);
    program.ptx.clear();
    for (std::string line; std::getline(lines, line);) {
      if (line.starts_with("\twgmma") || line.find("fence.proxy") != std::string::npos) continue;
      program.ptx += line + "\n";
    }
    const std::string sleep = "131072";  // clocks that the stream would take
    REQUIRE(program.ptx.find(sleep) != std::string::npos);
    program.ptx.replace(program.ptx.find(sleep), sleep.size(), "2000");
    const WgmmaShape shape{.n = 128};
    Words in = wgmma_input(shape, wgmma_operands(shape));
    const Words chains = chain_input(work);
    in.insert(in.end(), chains.begin(), chains.end());
    const auto accumulators = static_cast<std::size_t>(shape.accumulators() * kGroupThreads);
    const auto loaded = session.load(program);
    for (const std::uint32_t option : {0u, 1u, 2u}) {
      const Observed observed =
          observe(session, *loaded,
                  {.in = in,
                   .out_words = accumulators + kWarpsPerGroup * chain_words(work),
                   .iterations = 2,
                   .option = option});
      for (int warp = 0; warp < kWarpsPerGroup; ++warp) {
        const std::uint32_t count = observed.stamp(0, 1, kWarpsPerGroup + warp).count;
        CHECK((option == 1 ? count == 0 : count > 0));
        if (option == 2) CHECK(count > 1);  // the sleep is longer than the empty stream
        ChainState state = initial_state(work);
        advance(work, state, count);
        const std::size_t block = accumulators + kWarpsPerGroup * chain_words(work);
        const std::size_t start =
            block + accumulators + static_cast<std::size_t>(warp) * chain_words(work);
        CHECK(compare_chains(work, state, &observed.out[start], "worker") == "");
      }
    }
    ++tried;
  }
  CHECK(tried == 7);
}

// The accumulators that the host expects hold whole rounds of the four steps of k.
TEST_CASE("streams of wgmma take the steps of k in turns") {
  int tried = 0;
  for (const Benchmark& benchmark : all_benchmarks()) {
    if (!benchmark.name.starts_with("wgmma_") && !benchmark.name.starts_with("contention_"))
      continue;
    for (const Program& program : benchmark.programs) {
      INFO(program.name);
      std::istringstream lines(program.ptx);
      int next = 0;
      for (std::string line; std::getline(lines, line);) {
        if (!line.starts_with("\twgmma.mma_async")) continue;
        const std::string b = fmt::format(", %db{},", next);
        const std::string a = fmt::format("}}, %da{},", next);
        const std::string a_register = fmt::format("}}, {{%a{},", 4 * next);
        CHECK(line.find(b) != std::string::npos);
        CHECK((line.find(a) != std::string::npos || line.find(a_register) != std::string::npos));
        next = (next + 1) % kSteps;
        ++tried;
      }
      CHECK(next == 0);
    }
  }
  CHECK(tried > 1000);
}

// ---- layouts ------------------------------------------------------------------------------------

TEST_CASE("accumulator registers cover a tile once") {
  std::set<std::pair<int, int>> places;
  for (int reg = 0; reg < 64; ++reg) {
    for (int thread = 0; thread < kGroupThreads; ++thread) {
      const Place place = accumulator_place(reg, thread);
      CHECK((place.row >= 0 && place.row < kRows && place.column >= 0 && place.column < 128));
      places.emplace(place.row, place.column);
    }
  }
  CHECK(places.size() == std::size_t{kRows} * 128);
  // PTX ISA, the accumulator fragment of wgmma: thread 5 of warp 2, registers 6 and 7.
  CHECK((accumulator_place(6, 2 * 32 + 5).row == 41 &&
         accumulator_place(6, 2 * 32 + 5).column == 10));
  CHECK(accumulator_place(7, 2 * 32 + 5).column == 11);
}

TEST_CASE("tiles are swizzled in chunks of 16 bytes by the row in a group of eight") {
  std::vector<std::uint8_t> bytes(16 * kRowBytes);
  for (std::size_t i = 0; i < bytes.size(); ++i)
    bytes[i] = static_cast<std::uint8_t>(i * 7 + i / 256);
  const Words image = swizzled(bytes, 16);
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < kRowBytes; ++k) {
      const int chunk = (k / 16) ^ (row % 8);
      const int at = row * kRowBytes + chunk * 16 + k % 16;
      const std::uint32_t word = image[static_cast<std::size_t>(at / 4)];
      CHECK(static_cast<std::uint8_t>(word >> (8 * (at % 4))) ==
            bytes[static_cast<std::size_t>(row * kRowBytes + k)]);
    }
  }
}

// A warp's fragments of wgmma are those of mma.sync m16n8k32 (PTX ISA): the emulator multiplies the
// fragments that the benchmarks would pass, and gives the products that they expect.
TEST_CASE("fragments of A and accumulators are those of mma.sync") {
  const WgmmaShape shape{.a_in_registers = true, .n = 8};
  const Operands operands = wgmma_operands(shape);
  const Words input = wgmma_input(shape, operands);
  const auto fragments = static_cast<std::size_t>(shape.image_bytes() / 4);
  Words in(input.begin() + static_cast<std::ptrdiff_t>(fragments), input.end());
  for (int step = 0; step < kSteps;
       ++step) {  // B: registers of lane 4c+t hold k 4t.. and 16+4t.. of column c
    for (int half = 0; half < 2; ++half) {
      for (int thread = 0; thread < kGroupThreads; ++thread) {
        const int lane = thread % kLanes;
        std::uint32_t word = 0;
        for (int e = 0; e < 4; ++e) {
          const int value =
              operands.b_value(lane >> 2, kStepBytes * step + 16 * half + 4 * (lane & 3) + e);
          word |= static_cast<std::uint32_t>(value & 0xff) << (8 * e);
        }
        in.push_back(word);
      }
    }
  }
  std::string body =
      "\tmul.wide.u32 %rd0, %thread, 4;\n"
      "\tadd.s64 %rd0, %rd0, %in;\n";
  for (int i = 0; i < 4 * kSteps; ++i) {
    body += fmt::format("\tld.global.b32 %a{}, [%rd0+{}];\n", i, 4 * kGroupThreads * i);
  }
  for (int i = 0; i < 2 * kSteps; ++i) {
    body +=
        fmt::format("\tld.global.b32 %b{}, [%rd0+{}];\n", i, 4 * kGroupThreads * (4 * kSteps + i));
  }
  for (int i = 0; i < 4; ++i) body += fmt::format("\tmov.b32 %d{}, 0;\n", i);
  for (int step = 0; step < kSteps; ++step) {
    body += fmt::format(
        "\tmma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {{%d0, %d1, %d2, %d3}}, "
        "{{%a{}, %a{}, %a{}, %a{}}}, {{%b{}, %b{}}}, {{%d0, %d1, %d2, %d3}};\n",
        4 * step, 4 * step + 1, 4 * step + 2, 4 * step + 3, 2 * step, 2 * step + 1);
  }
  body += store_thread_words("%d", 4, kGroupThreads, 4 * kGroupThreads);
  const Program program{
      .name = "fragments",
      .ptx = kernel_ptx("fragments", kGroupThreads, "\t.reg .b32 %a<16>, %b<8>, %d<4>;\n", body),
      .threads = kGroupThreads};
  Session session(emulated_device(), {});
  const auto loaded = session.load(program);
  const Observed observed = observe(session, *loaded, {.in = in, .out_words = 4 * kGroupThreads});
  CHECK(first_difference(observed, wgmma_expected(shape, operands, kGroupThreads, kSteps),
                         "products") == "");
}

}  // namespace
}  // namespace sagegen::micro
