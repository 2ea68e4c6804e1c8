// Runs benchmarks one after the other and keeps a report that is complete at any moment.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "sagegen/runtime/emulator.h"
#include "sagegen/runtime/error.h"
#include "tools/bench/micro/micro.h"
#include "tools/hardware/probe.h"

namespace sagegen::micro {
namespace {

using Json = nlohmann::ordered_json;

// "cuda:0", "emulator:sm_90".
runtime::Device open_device(const std::string& text) {
  if (text == "emulator:sm_90") {
    return runtime::Device(runtime::make_emulator(),
                           static_cast<int>(runtime::EmulatorProfile::sm_90));
  }
  const std::string prefix = "cuda:";
  const std::string number = text.starts_with(prefix) ? text.substr(prefix.size()) : "";
  if (number.empty() || number.size() > 3 ||
      number.find_first_not_of("0123456789") != std::string::npos) {
    throw std::runtime_error(fmt::format(
        "device '{}': there are cuda:0, cuda:1, ... and emulator:sm_90 (a dry run)", text));
  }
  std::string why;
  auto api = runtime::load_cuda(&why);
  if (api == nullptr) throw std::runtime_error(fmt::format("device {}: {}", text, why));
  return runtime::Device(api, std::stoi(number));
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

void write_atomically(const std::string& path, const std::string& text) {
  const std::string temporary = path + ".part";
  {
    std::ofstream file(temporary, std::ios::binary | std::ios::trunc);
    file << text;
    file.close();
    if (!file) throw std::runtime_error(fmt::format("{}: cannot be written", temporary));
  }
  std::filesystem::rename(temporary, path);
}

Json series_json(const Series& series, bool emulated) {
  Json json = {{"label", series.label}, {"unit", series.unit}};
  if (emulated || series.samples.empty()) {
    json.update({{"median", nullptr}, {"p10", nullptr}, {"p90", nullptr}, {"samples", 0}});
    return json;
  }
  if (series.keep == Series::Keep::all) json["trace"] = series.samples;
  json.update({{"median", quantile(series.samples, 0.5)},
               {"p10", quantile(series.samples, 0.1)},
               {"p90", quantile(series.samples, 0.9)},
               {"samples", series.samples.size()}});
  return json;
}

// Of everything that a benchmark would run: the PTX, and the cubins in its place.
std::uint32_t code_crc(const Session& session, const Benchmark& benchmark) {
  std::string all;
  for (const Program& program : benchmark.programs) {
    all += program.ptx;
    if (const std::string path = session.cubin_path(program); !path.empty()) {
      std::ifstream file(path, std::ios::binary);
      all.append(std::istreambuf_iterator<char>(file), {});
    }
  }
  return hardware::crc32(all.data(), all.size());
}

Json head_of(const runtime::Device& device, const Session& session, const RunOptions& options) {
  int driver = 0;
  runtime::check(device.api(), device.api().driver_version(&driver), "cuDriverGetVersion");
  return {{"schema", kSchemaVersion},
          {"dry", session.emulated()},
          {"device", device.name()},
          {"compute_capability", device.compute_capability()},
          {"multiprocessors", session.multiprocessors()},
          {"driver_version", driver},
          {"command", options.command},
          {"date", utc_now()},
          {"benchmarks", Json::object()}};
}

// What the file holds if it is of this device and driver. Otherwise nothing, and the file is kept
// as FILE.previous. A file that is no report of ours is not touched.
Json finished_before(const std::string& path, const Json& head) {
  if (!std::filesystem::exists(path)) return Json::object();
  std::ifstream file(path);
  const Json old = Json::parse(file, nullptr, false);
  if (!old.is_object() || !old.contains("benchmarks") || !old["benchmarks"].is_object()) {
    throw std::runtime_error(
        fmt::format("{}: exists and is not a report of sagegen-micro; choose another --out", path));
  }
  for (const char* key :
       {"schema", "dry", "device", "compute_capability", "multiprocessors", "driver_version"}) {
    if (old.contains(key) && old[key] == head[key]) continue;
    std::filesystem::rename(path, path + ".previous");
    fmt::print(stderr, "{}: of another {}; kept as {}.previous\n", path, key, path);
    return Json::object();
  }
  return old["benchmarks"];
}

bool is_finished(const Json& entry, std::uint32_t crc, double load_seconds) {
  return entry.is_object() && entry.value("status", "") == "finished" &&
         entry.value("code_crc32", 0u) == crc && entry.value("load_seconds", 0.0) == load_seconds;
}

Json entry_of(Session& session, const Benchmark& benchmark) {
  Json entry = {{"what", benchmark.what}, {"status", "finished"}, {"date", utc_now()}};
  entry["code_crc32"] = code_crc(session, benchmark);
  entry["load_seconds"] = session.load_seconds();
  if (const auto assumed = assumed_value(benchmark.name)) {
    entry["assumed"] = {
        {"value", assumed->value}, {"unit", assumed->unit}, {"source", assumed->source}};
  }
  const auto start = std::chrono::steady_clock::now();
  try {
    if (session.emulated() && !benchmark.not_emulated.empty())
      throw NotExecuted(benchmark.not_emulated);
    const Outcome outcome = benchmark.run(session, benchmark.programs);
    entry["check"] = {{"what", outcome.checked}, {"passed", outcome.wrong.empty()}};
    if (!outcome.finding.empty()) entry["finding"] = outcome.finding;
    if (!outcome.wrong.empty()) {
      entry["status"] = "failed";
      entry["reason"] = "the results are wrong: " + outcome.wrong;
    }
    // Times of a kernel with wrong results are under a name that nobody takes for a result.
    Json& results = entry[outcome.wrong.empty() ? "results" : "of_wrong_results"] = Json::array();
    for (const Series& series : outcome.series) {
      results.push_back(series_json(series, session.emulated()));
    }
  } catch (const NotExecuted& e) {
    entry["status"] = "not executed";
    entry["reason"] = e.what();
  } catch (const std::exception& e) {
    entry["status"] = "failed";
    entry["reason"] = e.what();
  }
  entry["code"] = Json::array();
  for (const LoadedCode& code : session.take_loaded()) {
    entry["code"].push_back({{"program", code.program},
                             {"origin", code.origin},
                             {"crc32", code.crc},
                             {"registers", code.registers},
                             {"local_bytes", code.local_bytes},
                             {"log", code.log}});
  }
  if (!session.emulated()) {
    entry["host_seconds"] =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  return entry;
}

void print_entry(const std::string& name, const Json& entry) {
  if (entry["status"] != "finished") {
    fmt::print("{:28} {}: {}\n", name, entry["status"].get<std::string>(),
               entry["reason"].get<std::string>());
    return;
  }
  if (entry.contains("finding")) {
    fmt::print("{:28} {}\n", name, entry["finding"].get<std::string>());
  }
  for (const Json& series : entry["results"]) {
    const std::string label = series["label"], unit = series["unit"];
    if (series["median"].is_null()) {
      fmt::print("{:28} {}: dry, the result is right\n", name, label);
    } else {
      fmt::print("{:28} {}: {:.5g} [{:.5g}, {:.5g}] {}\n", name, label,
                 series["median"].get<double>(), series["p10"].get<double>(),
                 series["p90"].get<double>(), unit);
    }
  }
  std::fflush(stdout);
}

// After a fault the context is lost: every later call fails as well.
bool device_is_lost(const runtime::Device& device) {
  try {
    device.synchronize();
    return false;
  } catch (const Error&) {
    return true;
  }
}

}  // namespace

std::vector<Benchmark> all_benchmarks() {
  std::vector<Benchmark> list;
  add_throughput_benchmarks(list);
  add_mma_benchmarks(list);
  add_wgmma_benchmarks(list);
  add_contention_benchmarks(list);
  add_preset_benchmarks(list);
  add_clobber_benchmark(list);
  add_memory_benchmarks(list);
  add_clock_benchmarks(list);
  return list;
}

int run_benchmarks(const RunOptions& options) {
  std::vector<Benchmark> list = all_benchmarks();
  for (const std::string& name : options.only) {
    if (std::none_of(list.begin(), list.end(),
                     [&](const Benchmark& b) { return b.name == name; })) {
      throw std::runtime_error(
          fmt::format("no benchmark is named '{}'; `sagegen-micro list` gives the names", name));
    }
  }
  const runtime::Device device = open_device(options.device);
  if (device.compute_capability() != 90) {
    throw std::runtime_error(fmt::format(
        "{} has compute capability {}.{}; these kernels are for 9.0 only", device.name(),
        device.compute_capability() / 10, device.compute_capability() % 10));
  }
  Session session(device, options.session);
  Json report = head_of(device, session, options);
  report["benchmarks"] = finished_before(options.out, report);
  // What failed before, or was cut off, comes last: it may take the device down again.
  std::stable_partition(list.begin(), list.end(), [&](const Benchmark& benchmark) {
    const Json& entries = report["benchmarks"];
    const auto found = entries.find(benchmark.name);
    return found == entries.end() || found->value("status", "") == "finished";
  });
  int failed = 0, kept = 0, ran = 0;
  for (const Benchmark& benchmark : list) {
    if (!options.only.empty() &&
        std::find(options.only.begin(), options.only.end(), benchmark.name) == options.only.end()) {
      continue;
    }
    Json& entry = report["benchmarks"][benchmark.name];
    if (is_finished(entry, code_crc(session, benchmark), session.load_seconds())) {
      ++kept;
      continue;
    }
    entry = {{"status", "started"}, {"date", utc_now()}};
    write_atomically(options.out, report.dump(2) + "\n");
    entry = entry_of(session, benchmark);
    ++ran;
    failed += entry["status"] == "failed" ? 1 : 0;
    print_entry(benchmark.name, entry);
    write_atomically(options.out, report.dump(2) + "\n");
    if (entry["status"] == "failed" && device_is_lost(device)) {
      fmt::print(stderr,
                 "the device's context is lost after {}; start again to go on with the others\n",
                 benchmark.name);
      break;
    }
  }
  fmt::print("{} run ({} failed), {} kept from before: {}\n", ran, failed, kept, options.out);
  return failed;
}

}  // namespace sagegen::micro
