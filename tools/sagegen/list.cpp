#include <fmt/format.h>

#include "sagegen/spec.h"
#include "tools/sagegen/app.h"
#include "tools/sagegen/kernel_choice.h"

namespace sagegen::cli {
namespace {

struct ListOptions {
  KernelChoice choice;
};

Exit print_list(const ListOptions& options, Output& output) {
  Table table({"kernel", "kind", "target", "threads", "smem"});
  Json list = Json::array();
  const std::vector<KernelSpec> specs = chosen_kernels(options.choice);
  for (const KernelSpec& spec : specs) {
    const KernelResources need = resources(spec);
    table.add({key(spec), std::string(to_string(spec.kind)), to_string(spec.target),
               std::to_string(need.threads), std::to_string(need.dynamic_smem)});
    list.push_back({{"key", key(spec)},
                    {"kind", to_string(spec.kind)},
                    {"target", to_string(spec.target)},
                    {"threads", need.threads},
                    {"dynamic_smem", need.dynamic_smem}});
  }
  output.text(table.text());
  output.json({{"kernels", list}});
  output.progress(fmt::format("{} kernels", specs.size()));
  return Exit::ok;
}

}  // namespace

void add_list(App& app) {
  app.add<ListOptions>(
      "list", "list the kernels of a set",
      "  sagegen list                              the default set\n"
      "  sagegen list --target sm_89               of one target\n"
      "  sagegen list --set my_kernels.toml --json",
      [](CLI::App& command, ListOptions& options) {
        define_kernel_choice(command, options.choice);
      },
      print_list);
}

}  // namespace sagegen::cli
