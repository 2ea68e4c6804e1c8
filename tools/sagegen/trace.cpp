#include <fmt/format.h>

#include "tools/sagegen/app.h"
#include "tools/sagegen/files.h"
#include "tools/sagegen/generator.h"
#include "tools/sagegen/kernel_choice.h"
#include "tools/sagegen/options.h"

namespace sagegen::cli {
namespace {

struct TraceCommand {
  std::string key, out;
  bool line_info = false;
};

// "3 LLVM IR optimized" -> "3-llvm-ir-optimized.txt"
std::string stage_file(std::size_t number, const Stage& stage) {
  std::string name = std::to_string(number) + "-";
  for (char c : stage.title) {
    name += std::isalnum(static_cast<unsigned char>(c)) ? static_cast<char>(std::tolower(c)) : '-';
  }
  return name + (stage.title == "PTX" ? ".ptx" : stage.title.starts_with("LLVM") ? ".ll" : ".txt");
}

Exit print_trace(const TraceCommand& command, Output& output) {
  const Kernel kernel = kernel_of_key(command.key);
  const std::vector<Stage> stages =
      trace_kernel(kernel, {.line_info = command.line_info ? LineInfo::on : LineInfo::off});
  Table table({"stage", "lines", "ms", "file"});
  Json list = Json::array();
  for (std::size_t i = 0; i < stages.size(); ++i) {
    const Stage& stage = stages[i];
    const auto lines =
        std::count(stage.text.begin(), stage.text.end(), '\n') + !stage.text.ends_with('\n');
    list.push_back(
        {{"title", stage.title}, {"milliseconds", stage.milliseconds}, {"lines", lines}});
    if (command.out.empty()) {
      list.back()["text"] = stage.text;
      output.bytes(fmt::format("==== {}. {} ({:.2f} ms, {} lines)\n{}\n", i + 1, stage.title,
                               stage.milliseconds, lines, stage.text));
    } else {
      const std::string file = command.out + "/" + stage_file(i + 1, stage);
      write_file(file, stage.text);
      list.back()["file"] = file;
      table.add(
          {stage.title, std::to_string(lines), fmt::format("{:.2f}", stage.milliseconds), file});
    }
  }
  if (!command.out.empty()) output.text(table.text());
  output.json({{"key", kernel.key()}, {"stages", list}});
  return Exit::ok;
}

}  // namespace

void add_trace(App& app) {
  app.add<TraceCommand>(
      "trace", "show every stage of one kernel, from spec to PTX",
      "  sagegen trace sage_quantrows_d128_f16_s8_r8_g32_fold__sm89\n"
      "  sagegen trace --out stages/ KEY          one file per stage",
      [](CLI::App& app_command, TraceCommand& command) {
        app_command.add_option("KEY", command.key, "a kernel's key")->required();
        refuse_empty(
            app_command.add_option("--out", command.out, "write one file per stage into DIR"));
        app_command.add_flag("--lineinfo", command.line_info, "with locations of the template");
      },
      print_trace);
}

}  // namespace sagegen::cli
