#include <fmt/format.h>

#include "sagegen/spec.h"
#include "tools/sagegen/app.h"
#include "tools/sagegen/describe.h"
#include "tools/sagegen/kernel_choice.h"

namespace sagegen::cli {
namespace {

struct InspectCommand {
  std::string key;
};

Exit print_description(const InspectCommand& command, Output& output) {
  const KernelSpec spec = kernel_of_key(command.key);
  validate(spec);
  std::string text = key(spec) + "\n";
  Json sections = Json::object();
  for (const Section& section : describe(spec)) {
    text += fmt::format("\n{}\n", section.title);
    for (const std::string& line : section.lines) text += fmt::format("  {}\n", line);
    sections[section.title] = section.lines;
  }
  const KernelResources need = resources(spec);
  output.text(text);
  output.json({{"key", key(spec)},
               {"kind", to_string(spec.kind)},
               {"target", to_string(spec.target)},
               {"head_dim", spec.problem.head_dim},
               {"io", to_string(spec.problem.io)},
               {"threads", need.threads},
               {"dynamic_smem", need.dynamic_smem},
               {"description", sections}});
  return Exit::ok;
}

}  // namespace

void add_inspect(App& app) {
  app.add<InspectCommand>(
      "inspect", "say in words what a key means: spec, resources, scales, fragments",
      "  sagegen inspect sage_fwd_d128_f16_none_qk_s8t_g32x64_pv_e4m3_f32x2_q128k64w4s2_sm89",
      [](CLI::App& app_command, InspectCommand& command) {
        app_command.add_option("KEY", command.key, "a kernel's key")->required();
      },
      print_description);
}

}  // namespace sagegen::cli
