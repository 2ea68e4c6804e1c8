#include <fmt/format.h>

#include "sagegen/target.h"
#include "templates/attention/spec.h"
#include "tools/sagegen/app.h"

namespace sagegen::cli {
namespace {

struct TargetsOptions {};

std::string yes(bool value) { return value ? "yes" : "no"; }

Exit print_targets(const TargetsOptions&, Output& output) {
  Table table(
      {"target", "PTX", "smem/block", "smem/SM", "FP8 mma", "INT4 mma", "default PV", "devices"});
  Json list = Json::array();
  for (const TargetInfo& info : supported_targets()) {
    const std::string ptx = fmt::format("{}.{}", info.ptx_version / 10, info.ptx_version % 10);
    const std::string pv{to_string(attention::usual_spec(info.target).pv)};
    table.add({info.name, ptx, std::to_string(info.smem_per_block),
               std::to_string(info.smem_per_sm), yes(info.has(Feature::fp8_mma)),
               yes(info.has(Feature::s4_mma)), pv, info.devices});
    list.push_back({{"target", info.name},
                    {"ptx_version", ptx},
                    {"smem_per_block", info.smem_per_block},
                    {"smem_per_sm", info.smem_per_sm},
                    {"has_fp8_mma", info.has(Feature::fp8_mma)},
                    {"has_s4_mma", info.has(Feature::s4_mma)},
                    {"default_pv", pv},
                    {"devices", info.devices}});
  }
  output.text(table.text());
  output.json({{"targets", list}});
  return Exit::ok;
}

}  // namespace

void add_targets(App& app) {
  app.add<TargetsOptions>(
      "targets", "list the GPU targets that kernels are made for",
      "  sagegen targets\n  sagegen targets --json", [](CLI::App&, TargetsOptions&) {},
      print_targets);
}

}  // namespace sagegen::cli
