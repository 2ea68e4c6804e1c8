#include "tools/sagegen/inspect_model.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <optional>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "generator/vocabulary/suggestion.h"
#include "templates/attention/spec.h"
#include "tools/model/prediction.h"
#include "tools/model/ptxas.h"
#include "tools/pictures/pictures.h"
#include "tools/reference/parallel_for.h"
#include "tools/sagegen/errors.h"
#include "tools/sagegen/generator.h"
#include "tools/sagegen/progress.h"

namespace sagegen::cli {
namespace {

using model::OperationClass;

std::string gpus_of(int architecture) {
  std::vector<std::string> names;
  for (const model::Gpu& gpu : model::gpus()) {
    if (gpu.architecture == architecture) names.emplace_back(gpu.name);
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

std::vector<std::string> gpu_names() {
  std::vector<std::string> names;
  for (const model::Gpu& gpu : model::gpus()) names.emplace_back(gpu.name);
  return names;
}

std::string all_gpus() {
  std::vector<std::string> names;
  for (const model::Gpu& gpu : model::gpus())
    names.push_back(fmt::format("{} (sm_{})", gpu.name, gpu.architecture));
  return fmt::format("{}", fmt::join(names, ", "));
}

model::HeadChannels channels_of(const Kernel& kernel) {
  if (&kernel.family() == &attention::family()) {
    const attention::Spec& spec = kernel.view(attention::family()).spec;
    return {spec.head_dim, code_channels(spec.qk, spec.head_dim), attention::value_dim(spec)};
  }
  throw SpecError(
      fmt::format("the model is about loops that multiply on tensor cores, and {} is no attention "
                  "kernel; use the key of one",
                  kernel.key()));
}

struct Assembly {
  model::Code code;
  int spilled_bytes;
};

Assembly assembled(const Kernel& kernel) {
  const std::string ptx = emit_kernel(kernel, {}).code;
  if (const std::string why = why_no_model(); !why.empty()) throw FileError(why);
  const model::Assembled result = model::assemble(ptx, to_string(kernel.target()), "-v");
  if (result.cubin.empty()) {
    throw CodegenError(
        fmt::format("ptxas {} refuses the PTX of {}; another release may take it: {}",
                    model::ptxas_version(), kernel.key(), result.report));
  }
  return {.code = model::read_cubin(result.cubin),
          .spilled_bytes = model::spilled_bytes(result.report)};
}

std::string text_of(const Kernel& kernel, const model::Gpu& gpu, const Assembly& assembly,
                    const model::Prediction& p) {
  const model::LoopCounts& counts = p.counts;
  std::string text =
      fmt::format("{}\n\nprediction for {}, no measurement\n", kernel.key(), gpu.name);
  text += fmt::format("  {} SMs at {} GHz ({})\n", gpu.sms, gpu.clock_ghz, gpu.source);
  text += fmt::format(
      "  ptxas {}: {} registers; {} bytes spilled, {} instructions of the loop spill\n",
      model::ptxas_version(), assembly.code.registers, assembly.spilled_bytes, counts.spills);
  text += fmt::format("  {} blocks on an SM, {} warps on each of its four sub-cores\n", p.blocks,
                      p.warps);
  text += fmt::format(
      "\nmain loop: what a warp issues for a tile of {} scores, no score hidden, with the copy of "
      "the next tile\n\n",
      counts.scores);
  Table table({"class", "instructions", "per score"});
  const auto add = [&](const std::string& name, int count) {
    table.add({name, std::to_string(count), fmt::format("{:.2f}", counts.slots_per_score(count))});
  };
  for (int c = 0; c < model::kOperationClasses; ++c) {
    const int count = counts.of(static_cast<OperationClass>(c));
    if (count > 0) add(std::string(to_string(static_cast<OperationClass>(c))), count);
  }
  add("all", counts.instructions);
  text += table.text();
  const model::Bounds& b = p.bounds;
  text += fmt::format(
      "\n  stall sum {} cycles\n"
      "  cycles that each resource is busy: tensor {:.0f}, issue {:.0f}, MUFU {:.0f}, FMA {:.0f}, "
      "ALU {:.0f}, "
      "shared memory {:.0f}; stall sum / warps {:.0f}\n"
      "  predicted: {:.0f} cycles of a sub-core per tile ({:.0f} to {:.0f}), {:.0f} TOPS; tensor "
      "cores that never "
      "wait: {:.0f} TOPS\n"
      "  differences below 10 % rank nothing\n",
      counts.stall_sum, b.tensor, b.issue, b.mufu, b.fma, b.alu, b.shared, b.stalls, p.cycles,
      p.lowest, p.highest, p.tops, p.roof);
  return text;
}

Json json_of(const model::Gpu& gpu, const Assembly& assembly, const model::Prediction& p) {
  const model::LoopCounts& counts = p.counts;
  Json classes = Json::array();
  for (int c = 0; c < model::kOperationClasses; ++c) {
    const int count = counts.of(static_cast<OperationClass>(c));
    if (count == 0) continue;
    classes.push_back({{"class", to_string(static_cast<OperationClass>(c))},
                       {"instructions", count},
                       {"slots_per_score", counts.slots_per_score(count)}});
  }
  const model::Bounds& b = p.bounds;
  return {{"kind", "prediction"},
          {"gpu", gpu.name},
          {"ptxas", model::ptxas_version()},
          {"registers", assembly.code.registers},
          {"spilled_bytes", assembly.spilled_bytes},
          {"blocks_per_sm", p.blocks},
          {"warps_per_subcore", p.warps},
          {"scores", counts.scores},
          {"instructions", counts.instructions},
          {"slots_per_score", counts.slots_per_score(counts.instructions)},
          {"spill_instructions", counts.spills},
          {"stall_sum", counts.stall_sum},
          {"classes", classes},
          {"bounds",
           {{"tensor", b.tensor},
            {"issue", b.issue},
            {"mufu", b.mufu},
            {"fma", b.fma},
            {"alu", b.alu},
            {"shared", b.shared},
            {"stalls", b.stalls}}},
          {"cycles", p.cycles},
          {"lowest_cycles", p.lowest},
          {"highest_cycles", p.highest},
          {"tops", p.tops},
          {"roof_tops", p.roof}};
}

// What all of the model begins with, and how its refusals are told. use(gpu, assembly, launch, head)
template <typename Use>
auto modelled(const Kernel& kernel, const std::string& gpu_name, const Use& use) {
  const model::HeadChannels head = channels_of(kernel);
  const model::Gpu& gpu = gpu_of_target(kernel.target(), gpu_name);
  const Assembly assembly = assembled(kernel);
  const Resources need = kernel.resources();
  const model::Launch launch{.threads = need.threads, .dynamic_shared = need.dynamic_smem};
  try {
    return use(gpu, assembly, launch, head);
  } catch (const model::NotModelled& error) {
    throw SpecError(fmt::format("{} on {} is not modelled: {}; use another key or --gpu",
                                kernel.key(), gpu.name, error.what()));
  }
}

}  // namespace

const model::Gpu& gpu_of_target(Target target, const std::string& name) {
  const int sm = target.sm;
  const model::Gpu* gpu = name.empty() ? model::usual_gpu(sm) : model::find_gpu(name);
  if (gpu == nullptr && name.empty()) {
    throw SpecError(
        fmt::format("the model knows no GPU of {}, but {}; take a kernel of another target",
                    to_string(target), all_gpus()));
  }
  if (gpu == nullptr)
    throw UsageError(
        fmt::format("--gpu {}: use one of {}{}", name, all_gpus(), suggestion(name, gpu_names())));
  if (gpu->architecture != sm) {
    throw UsageError(fmt::format(
        "--gpu {} is sm_{}, and the kernel's target is {}: machine code is for one architecture; "
        "use {}, or a kernel for sm_{}",
        gpu->name, gpu->architecture, to_string(target), gpus_of(sm), gpu->architecture));
  }
  return *gpu;
}

std::string why_no_model() {
  if (generator_state() == GeneratorState::absent)
    return "the model assembles what the generator emits, and this sagegen is built without it";
  if (!model::ptxas_path().empty()) return {};
  return fmt::format(
      "ptxas: the model assembles the kernel with it, and there is none {}; "
      "tools/install_ptxas.sh of the sources fetches it, and any CUDA toolkit has it",
      model::ptxas_places());
}

std::vector<double> predicted_tops(const Kernel& kernel,
                                   const std::vector<const model::Gpu*>& gpus) {
  const model::HeadChannels head = channels_of(kernel);
  const Assembly assembly = assembled(kernel);
  const Resources need = kernel.resources();
  std::vector<double> tops;
  for (const model::Gpu* gpu : gpus) {
    try {
      tops.push_back(model::predict(assembly.code,
                                    {.threads = need.threads, .dynamic_shared = need.dynamic_smem},
                                    head, *gpu)
                         .tops);
    } catch (const model::NotModelled&) {
      tops.push_back(std::numeric_limits<double>::quiet_NaN());
    }
  }
  return tops;
}

ModelReport model_report(const Kernel& kernel, const std::string& gpu_name) {
  return modelled(kernel, gpu_name,
                  [&](const model::Gpu& gpu, const Assembly& assembly, const model::Launch& launch,
                      model::HeadChannels head) {
                    const model::Prediction prediction =
                        model::predict(assembly.code, launch, head, gpu);
                    return ModelReport{.text = text_of(kernel, gpu, assembly, prediction),
                                       .json = json_of(gpu, assembly, prediction)};
                  });
}

namespace {

// A schedule of a kernel, and what is expected of it.
struct Expected {
  Kernel kernel;
  int registers = 0, spilled_bytes = 0;
  std::optional<model::Prediction> prediction = {};
  std::string why_none = {};  // of the prediction
};

bool inputs_are_legal(const Kernel& kernel) {
  return std::ranges::all_of(kernel.inputs(),
                             [](const Kernel& input) { return input.violations().empty(); });
}

Expected expected_of(const Kernel& kernel, const model::Gpu& gpu, model::HeadChannels head) {
  const Assembly assembly = assembled(kernel);
  Expected expected{.kernel = kernel,
                    .registers = assembly.code.registers,
                    .spilled_bytes = assembly.spilled_bytes};
  const Resources need = kernel.resources();
  try {
    expected.prediction = model::predict(
        assembly.code, {.threads = need.threads, .dynamic_shared = need.dynamic_smem}, head, gpu);
  } catch (const model::NotModelled& error) {
    expected.why_none = error.what();
  }
  return expected;
}

// Spills last, and what nobody knows anything of after them.
double rank_of(const Expected& expected) {
  if (!expected.prediction) return -1e30;
  return expected.prediction->tops - (expected.spilled_bytes > 0 ? 1e6 : 0);
}

std::vector<std::optional<Expected>> expected_of_schedules(const Kernel& kernel,
                                                           const model::Gpu& gpu) {
  const model::HeadChannels head = channels_of(kernel);
  if (const std::string why = why_no_model(); !why.empty()) throw FileError(why);
  std::vector<Kernel> kernels = kernel.schedules();
  std::erase_if(kernels, [](const Kernel& each) { return !inputs_are_legal(each); });
  std::vector<std::optional<Expected>> made(kernels.size());
  Progress progress("assembling schedules", kernels.size());
  reference::parallel_for(static_cast<std::int64_t>(kernels.size()), 0, [&](std::int64_t i) {
    const auto at = static_cast<std::size_t>(i);
    made[at] = expected_of(kernels[at], gpu, head);
    progress.advance();
  });
  return made;
}

}  // namespace

std::vector<ScheduleForecast> forecast_schedules(const Kernel& kernel,
                                                 const std::string& gpu_name) {
  std::vector<ScheduleForecast> forecasts;
  for (const auto& each : expected_of_schedules(kernel, gpu_of_target(kernel.target(), gpu_name))) {
    forecasts.push_back({.schedule = each->kernel.how(),
                         .spilled_bytes = each->spilled_bytes,
                         .tops = each->prediction ? each->prediction->tops : 0});
  }
  return forecasts;
}

ModelReport schedules_report(const Kernel& kernel, const std::string& gpu_name) {
  const model::Gpu& gpu = gpu_of_target(kernel.target(), gpu_name);
  std::vector<std::optional<Expected>> made = expected_of_schedules(kernel, gpu);
  std::ranges::stable_sort(made, std::greater(),
                           [](const std::optional<Expected>& each) { return rank_of(*each); });
  Table table({"schedule", "TOPS", "of roof", "blocks", "registers", "spilled", ""});
  Json json = Json::array();
  for (const std::optional<Expected>& each : made) {
    const std::string how = each->kernel.how();
    const std::string note = each->kernel == kernel ? "the key's" : each->why_none;
    const auto& p = each->prediction;
    table.add({how, p ? fmt::format("{:.0f}", p->tops) : "-",
               p ? fmt::format("{:.0f} %", 100 * p->tops / p->roof) : "-",
               p ? std::to_string(p->blocks) : "-", std::to_string(each->registers),
               std::to_string(each->spilled_bytes), note});
    Json line{{"schedule", how},
              {"key", each->kernel.key()},
              {"registers", each->registers},
              {"spilled_bytes", each->spilled_bytes}};
    if (p) {
      line.update(Json{{"tops", p->tops}, {"roof_tops", p->roof}, {"blocks_per_sm", p->blocks}});
    } else {
      line["not_modelled"] = each->why_none;
    }
    json.push_back(line);
  }
  const std::string text =
      fmt::format("{}\n\nprediction for {}, no measurement: {} schedules, ptxas {}\n\n{}\n  {}\n",
                  kernel.key(), gpu.name, made.size(), model::ptxas_version(), table.text(),
                  "differences below 10 % rank nothing");
  return {.text = text,
          .json = {{"kind", "prediction"},
                   {"gpu", gpu.name},
                   {"ptxas", model::ptxas_version()},
                   {"schedules", json}}};
}

std::string pipeline_drawing(const Kernel& kernel, const std::string& gpu_name) {
  return modelled(kernel, gpu_name,
                  [&](const model::Gpu& gpu, const Assembly& assembly, const model::Launch& launch,
                      model::HeadChannels head) {
                    return pictures::draw_pipeline(
                        model::modelled_loop(assembly.code, launch, head, gpu), gpu, kernel.key());
                  });
}

}  // namespace sagegen::cli
