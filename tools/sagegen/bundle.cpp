// `sagegen bundle`: PTX of plans in one file, with every schedule that a sweep may try, for machines without a generator.
#include <cstdio>
#include <map>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "sagegen/runtime/bundle.h"
#include "tools/model/ptxas.h"
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

struct BundleCommand {
  std::vector<std::string> plans;
  std::string target, out;
  bool usual_alone = false, cubins = false;
};

// By key. What prepares the inputs may depend on the schedule, which says how they are padded.
using Kernels = std::map<std::string, Kernel>;

void add_with_inputs(const Kernel& kernel, Kernels& kernels) {
  for (const Kernel& input : kernel.inputs()) {
    if (!input.violations().empty()) return;  // the schedule is none for these inputs
  }
  kernels.emplace(kernel.key(), kernel);
  for (const Kernel& input : kernel.inputs()) kernels.emplace(input.key(), input);
}

std::vector<Target> targets_of(const std::string& text) {
  if (text != "all") return {parse_target(text)};
  std::vector<Target> all;
  for (const TargetInfo& info : supported_targets()) all.push_back(info.target);
  return all;
}

struct Chosen {
  Kernels kernels;
  std::size_t plans = 0;  // of all targets
  Sentences left_out;     // plans that a target does not have
};

Chosen choose(const BundleCommand& command) {
  const std::vector<Target> targets = targets_of(command.target);
  Chosen chosen;
  for (const std::string& plan : command.plans) {
    std::string refusal;
    bool any = false;
    for (const Target target : targets) {
      try {
        const Kernel kernel = attention_of_plan(plan, target);
        add_with_inputs(kernel, chosen.kernels);
        if (!command.usual_alone) {
          for (const Kernel& other : kernel.schedules()) add_with_inputs(other, chosen.kernels);
        }
        ++chosen.plans;
        any = true;
      } catch (const SpecError& error) {
        refusal = fmt::format("{} for {}: {}", plan, to_string(target), error.what());
        chosen.left_out.push_back(refusal);
      }
    }
    // One that no target has is a mistake.
    if (!any) throw SpecError(refusal);
  }
  return chosen;
}

struct Cubin {
  std::string name, bytes;
};

// 13000 for "13.0.88".
int cuda_version_of(const std::string& ptxas) {
  int major = 0, minor = 0;
  std::sscanf(ptxas.c_str(), "%d.%d", &major, &minor);
  return 1000 * major + 10 * minor;
}

void need_ptxas() {
  if (model::ptxas_version().empty())
    throw FileError(fmt::format(
        "ptxas: --cubins assembles with it, and there is none {}; tools/install_ptxas.sh gets it",
        model::ptxas_places()));
}

// Of every artifact, in the same order. Throws CodegenError of one that ptxas refuses.
std::vector<Cubin> assemble(const std::vector<Artifact>& artifacts,
                            const std::vector<Kernel>& kernels) {
  const int cuda = cuda_version_of(model::ptxas_version());
  std::vector<Cubin> cubins(artifacts.size());
  Progress progress("assembling", artifacts.size());
  reference::parallel_for(static_cast<std::int64_t>(artifacts.size()), 0, [&](std::int64_t i) {
    const auto at = static_cast<std::size_t>(i);
    model::Assembled made =
        model::assemble(artifacts[at].code, to_string(kernels[at].target()));
    if (made.cubin.empty())
      throw CodegenError(fmt::format(
          "ptxas {} refuses the PTX of {}; another release may take it, or leave --cubins out: {}",
          model::ptxas_version(), artifacts[at].key, made.report));
    cubins[at] = {runtime::machine_code_name(artifacts[at].key, cuda), std::move(made.cubin)};
    progress.advance();
  });
  return cubins;
}

Exit bundle_command(const BundleCommand& command, Output& output) {
  check_writable(command.out);
  if (command.cubins) need_ptxas();
  const Chosen chosen = choose(command);
  std::vector<Kernel> kernels;
  for (const auto& [key, kernel] : chosen.kernels) kernels.push_back(kernel);
  std::vector<Artifact> artifacts(kernels.size());
  std::optional<Progress> progress(std::in_place, "emitting", kernels.size());
  reference::parallel_for(static_cast<std::int64_t>(kernels.size()), 0, [&](std::int64_t i) {
    const auto at = static_cast<std::size_t>(i);
    artifacts[at] = emit_kernel(kernels[at], {});
    progress->advance();
  });
  std::vector<runtime::NamedText> texts;
  std::size_t bytes = 0, cubin_bytes = 0;
  for (const Artifact& artifact : artifacts) {
    texts.push_back({artifact.key, artifact.code});
    bytes += artifact.code.size();
  }
  const std::vector<Cubin> cubins = command.cubins ? assemble(artifacts, kernels) : std::vector<Cubin>();
  for (const Cubin& cubin : cubins) {
    texts.push_back({cubin.name, cubin.bytes});
    cubin_bytes += cubin.bytes.size();
  }
  progress.emplace("packing", 0);
  const std::string packed = runtime::write_bundle(std::move(texts));
  progress.reset();
  write_file(command.out, packed);
  for (const std::string& sentence : chosen.left_out) output.progress("left out: " + sentence);
  const std::string with_cubins =
      command.cubins ? fmt::format(" and {} of machine code by ptxas {}", cubin_bytes,
                                   model::ptxas_version())
                     : "";
  output.text(fmt::format("{}: {} of {}, {} bytes of PTX{} in {}\n", command.out,
                          counted(kernels.size(), "kernel"),
                          counted(static_cast<std::uint64_t>(chosen.plans), "plan"), bytes,
                          with_cubins, counted(packed.size(), "byte")));
  Json keys = Json::array(), left_out = Json::array();
  for (const Kernel& kernel : kernels) keys.push_back(kernel.key());
  for (const std::string& sentence : chosen.left_out) left_out.push_back(sentence);
  output.json({{"file", command.out},
               {"plans", chosen.plans},
               {"ptx_bytes", bytes},
               {"cubin_bytes", cubin_bytes},
               {"ptxas", command.cubins ? Json(model::ptxas_version()) : Json(nullptr)},
               {"bytes", packed.size()},
               {"left_out", left_out},
               {"kernels", keys}});
  return Exit::ok;
}

}  // namespace

void add_bundle(App& app) {
  app.add<BundleCommand>(
      "bundle",
      "pack PTX of attention, with every schedule, into one file for machines without a generator",
      "  sagegen bundle --plan \"head_dim=128 causal=true\" --target sm_89 --out "
      "candidates.bundle\n"
      "  sagegen tune --ptx candidates.bundle --plan \"head_dim=128 causal=true\"\n"
      "  sagegen bundle --plan head_dim=128 --target sm_89 --usual --cubins --out ready.bundle\n"
      "  sagegen bundle --plan head_dim=64 --plan head_dim=128 --target all --usual --out "
      "mine.bundle",
      [](CLI::App& options, BundleCommand& command) {
        options
            .add_option("--plan", command.plans,
                        "a key, or options as \"head_dim=64 causal=true\"; again and again")
            ->required();
        options.add_option("--target", command.target, "sm_80, ... or all")->required();
        options.add_flag("--usual", command.usual_alone, "the default schedules alone");
        options.add_flag("--cubins", command.cubins,
                         "machine code by ptxas beside the PTX, which the driver need not compile");
        refuse_empty(options.add_option("--out", command.out, "file to write")->required());
      },
      bundle_command);
}

}  // namespace sagegen::cli
