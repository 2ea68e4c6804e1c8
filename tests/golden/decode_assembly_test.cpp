// Decode attention assembles without spills, its products are exactly those of the algorithm, and its main loop is as
// short as it was. Skipped (exit code 77) where there is no ptxas.
#include <algorithm>
#include <catch2/catch.hpp>

#include <array>
#include <exception>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "sagegen/emit.h"
#include "templates/decode/spec.h"
#include "tests/assembly/needs_ptxas.h"
#include "tools/model/decode_bound.h"
#include "tools/model/gpus.h"
#include "tools/model/hot_path.h"
#include "tools/model/loops.h"
#include "tools/model/ptxas.h"
#include "tools/reference/parallel_for.h"

namespace sagegen {
namespace {

// As ptxas 13.0 assembled them; another major version chooses other instructions. A change that makes a loop shorter
// lowers its figures here.
constexpr int kMeasuredWith = 13;
constexpr double kSlack = 1.02;

// Instructions of a warp for a token, with the copy of the next tile: of K and V of 2, 4, 8 and 16 bits, 128 channels,
// pages of whole tiles.
struct Measured {
  int architecture;  // sm_90 runs the PTX of sm_80
  int rows;
  double per_token[4][4];  // by bits of K and of V
};
constexpr Measured kMeasured[] = {
    {80,
     8,
     {{8.69, 9.03, 8.88, 7.53},
      {8.00, 8.50, 8.25, 6.81},
      {7.84, 8.25, 8.91, 8.56},
      {9.50, 10.06, 11.75, 9.62}}},
    {89,
     8,
     {{8.69, 9.03, 8.88, 10.62},
      {8.00, 8.50, 11.25, 10.12},
      {7.84, 10.31, 10.06, 9.88},
      {11.56, 12.06, 12.00, 10.50}}},
    {90,
     8,
     {{8.72, 9.19, 9.00, 7.41},
      {8.19, 8.81, 8.47, 6.78},
      {8.00, 8.38, 8.12, 8.44},
      {9.41, 9.97, 11.06, 9.69}}},
    {120,
     8,
     {{9.53, 9.94, 9.88, 10.38},
      {9.03, 9.50, 10.69, 9.81},
      {8.91, 10.44, 10.31, 9.06},
      {11.00, 11.44, 11.38, 10.19}}},
    {80,
     16,
     {{10.91, 11.31, 11.19, 9.19},
      {10.84, 11.38, 11.12, 9.06},
      {10.66, 11.03, 11.09, 10.50},
      {9.53, 9.91, 11.06, 8.88}}},
};

constexpr int kBits[] = {2, 4, 8, 16};

struct Job {
  Kernel kernel;
  int architecture;
  double measured = 0;
  model::Assembled assembled = {};
  model::Launch launch = {};
};

void check(const Job& job) {
  const auto view = job.kernel.view(decode::family());
  const int tile = view.schedule.tile, k_bits = view.spec.k_bits, rows = view.spec.rows;
  const bool float_keys = k_bits == 16 || view.spec.k_codes == KvCoding::e4m3;
  const bool zero_points = decode::kv_block(view.spec).k_has_zero_point();
  INFO(job.kernel.key() << " on sm_" << job.architecture << ": " << job.assembled.report);
  CHECK(model::complaint(job.assembled.report).empty());
  const model::Code code = model::read_cubin(job.assembled.cubin);
  const std::optional<model::HotPath> path = model::hot_path(code);
  REQUIRE(path);
  std::map<std::string_view, int> count;
  for (const model::Step& step : path->steps)
    ++count[model::operation_info(step.instruction, code.architecture).name];
  // Of 32 channels and 8 tokens each; 16 rows take two sums of Q in 16 bits.
  const int integer = tile / 8 * 4 * (rows == 16 && k_bits == 8 ? 2 : 1);
  // Of a block: zero points of K, or products of floats of 16 channels and 8 tokens; the sums; 16 channels of V.
  const int halves = rows / 8;
  const int floats = tile / 16 * ((float_keys ? 16 : zero_points ? 2 : 0) + halves * (1 + 8));
  CHECK(count["IMMA"] == (float_keys ? 0 : integer));
  CHECK(count["HMMA"] == floats);
  // Numbers of s32 and codes are used as they stand.
  for (const char* conversion : {"I2F", "I2FP", "HADD2"}) CHECK(count[conversion] == 0);
  const double per_token = static_cast<double>(path->steps.size()) / tile;
  if (model::ptxas_major_version() == kMeasuredWith) CHECK(per_token <= kSlack * job.measured);
}

struct Built {
  model::Assembled assembled;
  model::Launch launch;
};

Built build(const Job& job) {
  try {
    const Artifact artifact = emit(job.kernel);
    return {
        model::assemble(artifact.code, fmt::format("sm_{}", job.architecture), "-v"),
        {.threads = artifact.resources.threads, .dynamic_shared = artifact.resources.dynamic_smem}};
  } catch (const std::exception& error) {
    Built none;
    none.assembled.report = std::string("error: ") + error.what();
    return none;
  }
}

// Cases have kernels in common, which are built once.
void assemble_all(std::vector<Job>& jobs) {
  static std::map<std::pair<std::string, int>, Built> known;
  std::vector<std::pair<const Job*, Built*>> missing;
  for (const Job& job : jobs) {
    const auto [entry, is_new] = known.try_emplace({job.kernel.key(), job.architecture});
    if (is_new) missing.emplace_back(&job, &entry->second);
  }
  reference::parallel_for(static_cast<std::int64_t>(missing.size()), 0, [&](std::int64_t i) {
    const auto& [job, built] = missing[static_cast<std::size_t>(i)];
    *built = build(*job);
  });
  for (Job& job : jobs) {
    const Built& built = known.at({job.kernel.key(), job.architecture});
    job.assembled = built.assembled;
    job.launch = built.launch;
  }
}

TEST_CASE("the loops over tokens of all pairs of widths") {
  test::skip_without_ptxas();
  std::vector<Job> jobs;
  for (const Measured& row : kMeasured) {
    for (std::size_t k = 0; k < 4; ++k) {
      for (std::size_t v = 0; v < 4; ++v) {
        const int sm = row.architecture == 90 ? 80 : row.architecture;
        jobs.push_back(
            {Kernel(decode::family(), {.k_bits = kBits[k], .v_bits = kBits[v], .rows = row.rows},
                    Target{.sm = sm}),
             row.architecture, row.per_token[k][v]});
      }
    }
  }
  assemble_all(jobs);
  for (const Job& job : jobs) check(job);
}

// The same of K and V both, on sm_80, 89, 90 and 120.
struct MeasuredCodes {
  KvCoding coding;
  int bits, rows;
  double per_token[4];
};
constexpr MeasuredCodes kMeasuredCodes[] = {
    {KvCoding::e4m3, 8, 8, {20.38, 22.50, 20.16, 21.19}},
    {KvCoding::e4m3, 8, 16, {21.91, 22.50, 22.00, 23.31}},
    {KvCoding::symmetric, 8, 8, {7.84, 9.06, 7.78, 9.19}},
    {KvCoding::symmetric, 8, 16, {10.78, 11.88, 10.62, 13.00}},
    {KvCoding::symmetric, 4, 8, {8.66, 8.78, 8.62, 8.62}},
    {KvCoding::symmetric, 4, 16, {11.31, 11.31, 11.47, 11.59}},
    {KvCoding::symmetric, 2, 8, {8.50, 8.44, 8.44, 9.22}},
    {KvCoding::symmetric, 2, 16, {11.09, 11.09, 10.91, 11.38}},
};

TEST_CASE("the loops over tokens of codes without zero points") {
  test::skip_without_ptxas();
  constexpr int kArchitectures[] = {80, 89, 90, 120};
  std::vector<Job> jobs;
  for (const MeasuredCodes& row : kMeasuredCodes) {
    for (std::size_t i = 0; i < 4; ++i) {
      const decode::Spec spec{.k_bits = row.bits,
                              .v_bits = row.bits,
                              .k_codes = row.coding,
                              .v_codes = row.coding,
                              .rows = row.rows};
      const int sm = kArchitectures[i];
      jobs.push_back(
          {Kernel(decode::family(), spec, Target{.sm = sm == 90 ? 80 : sm}), sm, row.per_token[i]});
    }
  }
  assemble_all(jobs);
  for (const Job& job : jobs) check(job);
}

// An OR, which joins the mask's instruction, and a subtraction of each register of V: of 16 channels and tokens 4.
TEST_CASE("codes of V as normal numbers cost a subtraction of each operand") {
  test::skip_without_ptxas();
  constexpr int kWidths[] = {2, 4, 8};
  std::vector<Job> jobs;
  for (const int bits : kWidths) {
    const Kernel usual(decode::family(), {.k_bits = bits, .v_bits = bits}, Target{.sm = 80});
    decode::Schedule schedule = usual.view(decode::family()).schedule;
    for (const bool normal : {false, true}) {
      schedule.normal_codes = normal;
      jobs.push_back(
          {Kernel(decode::family(), {.k_bits = bits, .v_bits = bits}, schedule, Target{.sm = 80}),
           80});
    }
  }
  assemble_all(jobs);
  for (std::size_t i = 0; i < jobs.size(); i += 2) {
    const auto counted = [](const Job& job, std::string_view name) {
      INFO(job.kernel.key() << ": " << job.assembled.report);
      CHECK(model::complaint(job.assembled.report).empty());
      const model::Code code = model::read_cubin(job.assembled.cubin);
      const std::optional<model::HotPath> path = model::hot_path(code);
      REQUIRE(path);
      const auto is = [&](const model::Step& step) {
        return name.empty() ||
               model::operation_info(step.instruction, code.architecture).name == name;
      };
      return static_cast<int>(std::count_if(path->steps.begin(), path->steps.end(), is));
    };
    const int tile = jobs[i].kernel.view(decode::family()).schedule.tile;
    INFO(jobs[i + 1].kernel.key());
    CHECK(counted(jobs[i], "HADD2") == 0);
    CHECK(counted(jobs[i + 1], "HADD2") == tile / 16 * 8 * 4);
    const double more = static_cast<double>(counted(jobs[i + 1], "") - counted(jobs[i], "")) / tile;
    CAPTURE(more);
    // 2 instructions for a token are the subtractions.
    if (model::ptxas_major_version() == kMeasuredWith) CHECK(more <= 2.5);
  }
}

TEST_CASE("masks and changes of scores do without spills") {
  test::skip_without_ptxas();
  std::vector<Job> jobs;
  for (const int architecture : {80, 89, 90, 120}) {
    const auto add = [&](const decode::Spec& spec) {
      jobs.push_back(
          {Kernel(decode::family(), spec, Target{.sm = architecture == 90 ? 80 : architecture}),
           architecture});
    };
    for (const int bits : {4, 8, 16})
      add({.k_bits = bits, .v_bits = bits, .causal = true, .window = true, .sinks = true});
    add({.k_bits = 4, .v_bits = 4, .tree = true});
    add({.k_bits = 4,
         .v_bits = 4,
         .causal = true,
         .window = true,
         .softcap = true,
         .alibi = true,
         .sinks = true});
  }
  assemble_all(jobs);
  for (const Job& job : jobs) {
    INFO(job.kernel.key() << " on sm_" << job.architecture << ": " << job.assembled.report);
    CHECK(model::complaint(job.assembled.report).empty());
  }
}

// The block that has exact tokens is a way of its own through the kernel.
TEST_CASE("exact tokens cost the loop over codes nothing") {
  test::skip_without_ptxas();
  const auto instructions = [](const Job& job) {
    INFO(job.kernel.key() << " on sm_" << job.architecture << ": " << job.assembled.report);
    CHECK(model::complaint(job.assembled.report).empty());
    const std::optional<model::HotPath> path =
        model::hot_path(model::read_cubin(job.assembled.cubin));
    REQUIRE(path);
    return static_cast<double>(path->steps.size()) /
           job.kernel.view(decode::family()).schedule.tile;
  };
  std::vector<Job> jobs;
  for (const int architecture : {80, 86, 89, 90, 120}) {
    const auto add = [&](const decode::Spec& spec) {
      jobs.push_back(
          {Kernel(decode::family(), spec, Target{.sm = architecture == 90 ? 80 : architecture}),
           architecture});
    };
    for (const auto& [k, v, rows] : {std::array{4, 4, 8}, {8, 4, 8}, {2, 2, 16}}) {
      add({.k_bits = k, .v_bits = v, .rows = rows});
      add({.k_bits = k, .v_bits = v, .rows = rows, .exact = true});
    }
  }
  const std::size_t pairs = jobs.size();
  for (const int architecture : {80, 89, 120}) {
    jobs.push_back({Kernel(decode::family(),
                           {.k_bits = 4,
                            .v_bits = 4,
                            .causal = true,
                            .exact = true,
                            .window = true,
                            .sinks = true},
                           Target{.sm = architecture}),
                    architecture});
    jobs.push_back(
        {Kernel(decode::family(), {.k_bits = 8, .v_bits = 4, .exact = true, .tree = true},
                Target{.sm = architecture}),
         architecture});
  }
  assemble_all(jobs);
  for (std::size_t i = 0; i < pairs; i += 2) {
    const double without = instructions(jobs[i]), with = instructions(jobs[i + 1]);
    INFO(jobs[i + 1].kernel.key() << ": " << with << ", without exact tokens " << without);
    CHECK(with <= kSlack * without);
  }
  for (std::size_t i = pairs; i < jobs.size(); ++i) instructions(jobs[i]);
}

// With the rates of data sheets, as `sagegen kv bench` predicts; rows 8 are those of 1, 4 and 8 query heads of a KV head.
TEST_CASE("memory bounds all pairs of widths on all GPUs") {
  test::skip_without_ptxas();
  for (const char* name : {"A100", "RTX3090", "RTX4090", "RTX5090", "H200"}) {
    const model::Gpu& gpu = *model::find_gpu(name);
    const Target target{.sm = gpu.architecture == 90 ? 80 : gpu.architecture};
    std::vector<Job> jobs;
    for (const int k : kBits) {
      for (const int v : kBits)
        jobs.push_back({Kernel(decode::family(), {.k_bits = k, .v_bits = v, .rows = 8}, target),
                        gpu.architecture});
    }
    assemble_all(jobs);
    double of_16_bits = 0;
    for (auto job = jobs.rbegin(); job != jobs.rend(); ++job) {  // 16 bits first
      INFO(job->kernel.key() << " on " << name << ": " << job->assembled.report);
      REQUIRE_FALSE(job->assembled.cubin.empty());
      const auto view = job->kernel.view(decode::family());
      const int bytes = decode::kv_block(view.spec).bytes() / kKvBlockTokens;
      const model::DecodeBound bound = model::decode_bound(
          model::read_cubin(job->assembled.cubin),
          {.tile = view.schedule.tile, .token_bytes = bytes, .launch = job->launch}, gpu);
      INFO(bound.instructions << " instructions, " << bound.blocks << " blocks, " << bound.memory
                              << " cycles of memory, " << bound.busy << " of " << bound.busiest
                              << ", " << bound.raw_tb << " TB/s");
      CHECK(bound.by_memory());
      const double time = bytes / bound.raw_tb;
      if (job == jobs.rbegin()) of_16_bits = time;
      CHECK(time <= of_16_bits);
    }
  }
}

}  // namespace
}  // namespace sagegen
