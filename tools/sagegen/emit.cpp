#include <algorithm>
#include <chrono>
#include <optional>

#include <fmt/format.h>

#include "tools/reference/parallel_for.h"
#include "tools/sagegen/app.h"
#include "tools/sagegen/errors.h"
#include "tools/sagegen/files.h"
#include "tools/sagegen/generator.h"
#include "tools/sagegen/kernel_choice.h"
#include "tools/sagegen/options.h"
#include "tools/sagegen/progress.h"

namespace sagegen::cli {
namespace {

struct EmitCommand {
  KernelChoice choice;
  std::string out;
  bool to_stdout = false, line_info = false, time = false;
  int repeats = 5;
};

struct Timed {
  Artifact artifact;
  double milliseconds;  // median over the repeats
};

Timed emit_timed(const Kernel& wanted, const EmitCommand& command, Progress& progress) {
  using Clock = std::chrono::steady_clock;
  const EmitOptions options{.line_info = command.line_info ? LineInfo::on : LineInfo::off};
  const int repeats = command.time ? command.repeats : 1;
  Artifact artifact;
  std::vector<double> times;
  for (int i = 0; i < repeats; ++i) {
    const auto begin = Clock::now();
    artifact = emit_kernel(wanted, options);
    times.push_back(std::chrono::duration<double, std::milli>(Clock::now() - begin).count());
    progress.advance();
  }
  std::nth_element(times.begin(), times.begin() + repeats / 2, times.end());
  return {std::move(artifact), times[static_cast<std::size_t>(repeats / 2)]};
}

void check_options(const EmitCommand& command) {
  if (command.to_stdout && !command.out.empty())
    throw UsageError("--stdout and --out exclude each other");
  if (command.to_stdout && command.time)
    throw UsageError("--stdout prints PTX and --time prints a table");
}

Exit emit_kernels(const EmitCommand& command, Output& output) {
  check_options(command);
  if (command.to_stdout && output.is_json())
    throw UsageError("--stdout and --json exclude each other");
  const std::vector<Kernel> kernels = chosen_kernels(command.choice);
  if (command.to_stdout && kernels.size() != 1) {
    throw UsageError(
        fmt::format("--stdout prints one kernel, and {} are chosen; name one key", kernels.size()));
  }
  Table table(command.time ? std::vector<std::string>{"kernel", "bytes", "median ms"}
                           : std::vector<std::string>{"kernel", "bytes", "ms"});
  Json list = Json::array();
  double median_sum = 0;
  std::size_t bytes = 0;
  const int repeats = command.time ? command.repeats : 1;
  std::string printed;
  std::optional<Progress> progress(std::in_place, "emitting",
                                   kernels.size() * static_cast<std::size_t>(repeats));
  const auto begin = std::chrono::steady_clock::now();
  std::vector<Timed> timed(kernels.size());
  const int threads = command.time ? 1 : 0;  // what is timed has the machine for itself
  reference::parallel_for(static_cast<std::int64_t>(kernels.size()), threads, [&](std::int64_t i) {
    const auto index = static_cast<std::size_t>(i);
    timed[index] = emit_timed(kernels[index], command, *progress);
  });
  const double total =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
  for (std::size_t i = 0; i < kernels.size(); ++i) {
    const Kernel& kernel = kernels[i];
    const Timed& emitted = timed[i];
    const Artifact& artifact = emitted.artifact;
    median_sum += emitted.milliseconds;
    bytes += artifact.code.size();
    const std::string file =
        command.out.empty() ? std::string{} : fmt::format("{}/{}.ptx", command.out, artifact.key);
    if (!file.empty()) write_file(file, artifact.code);
    if (command.to_stdout) printed = artifact.code;
    table.add({artifact.key, std::to_string(artifact.code.size()),
               fmt::format("{:.2f}", emitted.milliseconds)});
    list.push_back({{"key", artifact.key},
                    {"target", to_string(kernel.target())},
                    {"bytes", artifact.code.size()},
                    {"threads", artifact.resources.threads},
                    {"dynamic_smem", artifact.resources.dynamic_smem},
                    {"milliseconds", emitted.milliseconds}});
    if (!file.empty()) list.back()["file"] = file;
  }
  progress.reset();  // before the first line of the result
  std::string summary =
      fmt::format("{}, {} bytes of PTX, {:.1f} ms", counted(kernels.size(), "kernel"), bytes,
                  command.time ? median_sum : total);
  if (command.time) {
    summary += fmt::format(" (medians of {}, which took {:.1f} ms)",
                           counted(static_cast<std::uint64_t>(repeats), "repeat"), total);
  }
  if (command.to_stdout)
    output.bytes(printed);
  else
    output.text(table.text() + summary + "\n");
  output.json({{"kernels", list},
               {"bytes", bytes},
               {"repeats", repeats},
               {"sum_of_medians_ms", median_sum},
               {"total_ms", total}});
  return Exit::ok;
}

}  // namespace

void add_emit(App& app) {
  app.add<EmitCommand>(
      "emit", "make PTX",
      "  sagegen emit --target sm_89 --out ptx/        the default set for one target\n"
      "  sagegen emit --target all --time              median ms of every kernel\n"
      "  sagegen emit --mode 16bit --out ptx/          all that a mode needs\n"
      "  sagegen emit --stdout --lineinfo KEY          with the template's lines\n"
      "  sagegen emit --target sm_120 --stdout KEY     made for another target",
      [](CLI::App& app_command, EmitCommand& command) {
        define_kernel_choice(app_command, command.choice);
        refuse_empty(app_command.add_option("--out", command.out, "write DIR/<key>.ptx"));
        app_command.add_flag("--stdout", command.to_stdout,
                             "print the PTX of one kernel and nothing else");
        app_command.add_flag("--lineinfo", command.line_info,
                             ".loc directives that name the template's lines");
        const CLI::Option* time =
            app_command.add_flag("--time", command.time, "emit repeatedly and report the median");
        CLI::Option* repeats = app_command.add_option("--repeats", command.repeats, "of --time")
                                   ->capture_default_str();
        require_whole(repeats, 1, 10000);
        refuse_without(repeats, time);
      },
      emit_kernels);
}

}  // namespace sagegen::cli
