// Runs benchmarks one after the other in a child process, and in another one when that is lost, and
// keeps a report that is complete at any moment.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "sagegen/runtime/emulator.h"
#include "sagegen/runtime/error.h"
#include "tools/bench/micro/micro.h"
#include "tools/hardware/child.h"
#include "tools/hardware/probe.h"
#include "tools/hardware/recording.h"
#include "tools/reference/json_depth.h"
#include "tools/reference/whole_file.h"

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

// Nothing in the place of what is no JSON. Reports nest a few levels.
Json read_report(const std::string& path) {
  constexpr int kMaxDepth = 32;
  const std::string text = reference::read_whole_file(path);
  if (reference::nests_deeper_than(text, kMaxDepth)) return Json(Json::value_t::discarded);
  return Json::parse(text, nullptr, false);
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
      all += reference::read_whole_file(path);
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
          {"driver", hardware::driver_release(device)},
          {"command", options.command},
          {"date", utc_now()},
          {"benchmarks", Json::object()}};
}

// What the file holds if it is of this device and driver. Otherwise nothing, and the file is kept
// as FILE.previous. A file that is no report of ours is not touched.
Json finished_before(const std::string& path, const Json& head) {
  if (!std::filesystem::exists(path)) return Json::object();
  const Json old = read_report(path);
  if (!old.is_object() || !old.contains("benchmarks") || !old["benchmarks"].is_object()) {
    throw std::runtime_error(
        fmt::format("{}: exists and is not a report of sagegen-micro; choose another --out", path));
  }
  for (const char* key : {"schema", "dry", "device", "compute_capability", "multiprocessors",
                          "driver_version", "driver"}) {
    if (old.contains(key) && old[key] == head[key]) continue;
    std::filesystem::rename(path, path + ".previous");
    fmt::print(stderr, "{}: of another {}; kept as {}.previous\n", path, key, path);
    return Json::object();
  }
  return old["benchmarks"];
}

// Compared as JSON: converted to 32 bits, 2^32 + crc would pass.
bool is_finished(const Json& entry, std::uint32_t crc, double load_seconds) {
  const auto holds = [&](const char* key, const Json& wanted) {
    return entry.contains(key) && entry[key] == wanted;
  };
  return entry.is_object() && holds("status", "finished") && holds("code_crc32", crc) &&
         holds("load_seconds", load_seconds);
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
    std::fflush(stdout);
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

// What a child shares with its parent.
struct Progress {
  std::atomic<std::size_t> step = 0;  // changes whenever the child gets on
  std::size_t next = 0;               // benchmarks before this one are done or being done
  bool running = false;               // and the last of them is being done
  bool done = false;
  int failed = 0, kept = 0, ran = 0;
  char error[1024] = "";  // why there is no point in another child
};

// The benchmarks asked for. What failed before, or was cut off, comes last.
std::vector<Benchmark> in_order(std::vector<Benchmark> list, const RunOptions& options) {
  for (const std::string& name : options.only) {
    if (std::none_of(list.begin(), list.end(),
                     [&](const Benchmark& b) { return b.name == name; })) {
      throw std::runtime_error(
          fmt::format("no benchmark is named '{}'; `sagegen-micro list` gives the names", name));
    }
  }
  std::erase_if(list, [&](const Benchmark& benchmark) {
    return !options.only.empty() && std::find(options.only.begin(), options.only.end(),
                                              benchmark.name) == options.only.end();
  });
  if (!std::filesystem::exists(options.out)) return list;
  const Json report = read_report(options.out);
  const auto entries = report.is_object() ? report.find("benchmarks") : report.end();
  if (entries == report.end() || !entries->is_object()) return list;
  std::stable_partition(list.begin(), list.end(), [&](const Benchmark& benchmark) {
    const auto found = entries->find(benchmark.name);
    return found == entries->end() ||
           (found->is_object() && found->value("status", "") == "finished");
  });
  return list;
}

void write_report(const RunOptions& options, const Json& report) {
  reference::write_whole_file(options.out, report.dump(2) + "\n");
}

// The life of a child: until all is done, or the device has failed.
void run_from(const std::vector<Benchmark>& list, const RunOptions& options, Progress& progress) {
  const runtime::Device device = open_device(options.device);
  if (device.compute_capability() != 90) {
    throw std::runtime_error(fmt::format(
        "{} has compute capability {}.{}; these kernels are for 9.0 only", device.name(),
        device.compute_capability() / 10, device.compute_capability() % 10));
  }
  Session session(device, options.session);
  Json report = head_of(device, session, options);
  report["benchmarks"] = finished_before(options.out, report);
  while (progress.next < list.size()) {
    const Benchmark& benchmark = list[progress.next++];
    ++progress.step;
    Json& entry = report["benchmarks"][benchmark.name];
    if (is_finished(entry, code_crc(session, benchmark), session.load_seconds())) {
      ++progress.kept;
      continue;
    }
    entry = {{"status", "started"}, {"date", utc_now()}};
    write_report(options, report);
    progress.running = true;
    entry = entry_of(session, benchmark);
    progress.running = false;
    ++progress.ran;
    progress.failed += entry["status"] == "failed" ? 1 : 0;
    print_entry(benchmark.name, entry);
    write_report(options, report);
    if (entry["status"] == "failed" && device_is_lost(device)) return;
  }
  progress.done = true;
}

// Of a benchmark that took its process with it.
void note_failure(const RunOptions& options, const std::string& name, const std::string& why) {
  Json report = read_report(options.out);
  Json& entry = report["benchmarks"][name];
  entry["status"] = "failed";
  entry["reason"] = why;
  print_entry(name, entry);
  write_report(options, report);
}

std::string why_ended(const hardware::ChildEnd& end, std::chrono::milliseconds patience) {
  using How = hardware::ChildEnd::How;
  if (end.how == How::too_slow) {
    return fmt::format("no end after {} s", static_cast<double>(patience.count()) / 1000);
  }
  return fmt::format("its process {} {}",
                     end.how == How::signalled ? "died of signal" : "exited with", end.code);
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

int run_benchmarks(const RunOptions& options) { return run_benchmarks(options, all_benchmarks()); }

int run_benchmarks(const RunOptions& options, std::vector<Benchmark> all) {
  const std::vector<Benchmark> list = in_order(std::move(all), options);
  const auto patience =
      options.patience +
      std::chrono::milliseconds(static_cast<int>(1000 * options.session.load_seconds));
  const hardware::Shared<Progress> progress;
  const auto work = [&] {
    try {
      run_from(list, options, *progress);
      return 0;
    } catch (const std::exception& e) {
      *fmt::format_to_n(progress->error, sizeof progress->error - 1, "{}", e.what()).out = '\0';
      return 1;
    }
  };
  while (!progress->done) {
    const hardware::ChildEnd end = hardware::run_in_child(work, progress->step, patience);
    if (progress->error[0] != '\0') throw std::runtime_error(progress->error);
    if (progress->running) {
      progress->running = false;
      ++progress->ran;
      ++progress->failed;
      note_failure(options, list[progress->next - 1].name, why_ended(end, patience));
    } else if (end.how != hardware::ChildEnd::How::exited || end.code != 0) {
      throw std::runtime_error(
          fmt::format("no benchmark was running: {}", why_ended(end, patience)));
    }
  }
  fmt::print("{} run ({} failed), {} kept from before: {}\n", progress->ran, progress->failed,
             progress->kept, options.out);
  return progress->failed;
}

}  // namespace sagegen::micro
