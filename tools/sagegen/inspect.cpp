#include <fmt/format.h>

#include "sagegen/set.h"
#include "tools/sagegen/app.h"
#include "tools/sagegen/errors.h"
#include "tools/sagegen/inspect_model.h"
#include "tools/sagegen/inspect_svg.h"
#include "tools/sagegen/kernel_choice.h"
#include "tools/sagegen/options.h"

namespace sagegen::cli {
namespace {

struct InspectCommand {
  std::string key, gpu, svg;
  bool model = false, schedules = false;
};

// Target and launch, the same for every family.
Section resources_section(const Kernel& kernel) {
  const TargetInfo& info = target_info(kernel.target());
  const Resources need = kernel.resources();
  Section section{
      "resources",
      {fmt::format("target {}: {}; PTX {}.{}", info.name, info.devices, kernel.ptx_version() / 10,
                   kernel.ptx_version() % 10),
       fmt::format("{} threads per block ({} warps)", need.threads, need.threads / 32)}};
  if (need.dynamic_smem == 0) {
    section.lines.push_back("no shared memory asked for at launch");
  } else {
    constexpr int kSystemSmemPerBlock = 1024;
    section.lines.push_back(
        fmt::format("{} bytes of shared memory at launch, of {} that a block may have; {} blocks "
                    "fit an SM by shared memory",
                    need.dynamic_smem, info.smem_per_block,
                    info.smem_per_sm / (need.dynamic_smem + kSystemSmemPerBlock)));
  }
  const ParamLayout params = kernel.params();
  section.lines.push_back(fmt::format("parameter of {} bytes: {}", params.bytes(), params.text()));
  return section;
}

// What replaces the description: a prediction, drawings, or both.
Exit print_others(const Kernel& kernel, const InspectCommand& command, Output& output) {
  std::string text;
  Json json = Json::parse(to_json(kernel));
  if (command.model) {
    const ModelReport report = model_report(kernel, command.gpu);
    text += report.text;
    json["model"] = report.json;
  }
  if (command.schedules) {
    const ModelReport report = schedules_report(kernel, command.gpu);
    text += (text.empty() ? "" : "\n") + report.text;
    json["schedules"] = report.json;
  }
  if (!command.svg.empty()) {
    const Drawings drawings =
        write_drawings(kernel, command.svg, command.gpu, command.model || !command.gpu.empty());
    if (!text.empty()) text += "\n";
    for (const std::string& file : drawings.files) text += file + "\n";
    json["drawings"] = drawings.files;
    if (!drawings.no_pipeline.empty()) {
      text += fmt::format("pipeline.svg is not drawn: {}\n", drawings.no_pipeline);
      json["no_pipeline"] = drawings.no_pipeline;
    }
  }
  output.text(text);
  output.json(json);
  return Exit::ok;
}

Exit print_description(const InspectCommand& command, Output& output) {
  if (!command.gpu.empty() && !command.model && !command.schedules && command.svg.empty()) {
    throw UsageError(
        "--gpu says nothing without --model, --schedules or --svg; give one of these, or none");
  }
  const Kernel kernel = kernel_of_key(command.key);
  kernel.validate();
  if (command.model || command.schedules || !command.svg.empty())
    return print_others(kernel, command, output);
  std::vector<Section> sections = kernel.describe();
  sections.push_back(resources_section(kernel));
  std::string text = kernel.key() + "\n";
  Json described = Json::object();
  for (const Section& section : sections) {
    text += fmt::format("\n{}\n", section.title);
    for (const std::string& line : section.lines) text += fmt::format("  {}\n", line);
    described[section.title] = section.lines;
  }
  const Resources need = kernel.resources();
  output.text(text);
  Json json = Json::parse(to_json(kernel));
  json["threads"] = need.threads;
  json["dynamic_smem"] = need.dynamic_smem;
  json["param_bytes"] = kernel.params().bytes();
  json["description"] = described;
  output.json(json);
  return Exit::ok;
}

}  // namespace

void add_inspect(App& app) {
  app.add<InspectCommand>(
      "inspect",
      "say in words what a key means: spec, resources, scales, fragments; or how fast it may be; "
      "or draw it",
      "  sagegen inspect sage_quantrows_d128_f16_s8_r8_g32_fold__sm89\n"
      "  sagegen inspect --model --gpu L40S KEY        predicted speed; needs ptxas\n"
      "  sagegen inspect --schedules KEY               every schedule, fastest first\n"
      "  sagegen inspect --svg svg/ KEY                draws fragments, banks, pipeline",
      [](CLI::App& app_command, InspectCommand& command) {
        app_command.add_option("KEY", command.key, "a kernel's key")->required();
        app_command.add_flag("--model", command.model,
                             "predict the speed of an attention kernel from its machine code "
                             "instead; no measurement");
        app_command.add_flag("--schedules", command.schedules,
                             "predict every schedule that the rules let through instead, the "
                             "fastest first");
        refuse_empty(app_command.add_option(
            "--svg", command.svg,
            "draw an attention kernel instead, into this folder: fragments.svg, "
            "shared_memory.svg and, with ptxas, pipeline.svg"));
        CLI::Option* gpu =
            app_command.add_option("--gpu", command.gpu,
                                   "of --model, --schedules and of the pipeline: for this GPU, "
                                   "such as RTX4090 (default: the usual one "
                                   "of the target)");
        refuse_empty(gpu);
      },
      print_description);
}

}  // namespace sagegen::cli
