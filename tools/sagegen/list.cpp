#include <fmt/format.h>

#include "sagegen/set.h"
#include "tools/sagegen/app.h"
#include "tools/sagegen/kernel_choice.h"

namespace sagegen::cli {
namespace {

struct ListOptions {
  KernelChoice choice;
};

Exit print_list(const ListOptions& options, Output& output) {
  Table table({"kernel", "family", "target", "threads", "smem"});
  Json list = Json::array();
  const std::vector<Kernel> kernels = chosen_kernels(options.choice);
  for (const Kernel& kernel : kernels) {
    const Resources need = kernel.resources();
    table.add({kernel.key(), std::string(kernel.family().title), to_string(kernel.target()),
               std::to_string(need.threads), std::to_string(need.dynamic_smem)});
    list.push_back({{"key", kernel.key()},
                    {"family", kernel.family().title},
                    {"target", to_string(kernel.target())},
                    {"threads", need.threads},
                    {"dynamic_smem", need.dynamic_smem}});
  }
  output.text(table.text());
  output.json({{"kernels", list}});
  output.progress(fmt::format("{} kernels", kernels.size()));
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
