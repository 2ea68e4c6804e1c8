#include "tools/sagegen/kv_predict.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "generator/vocabulary/suggestion.h"
#include "sagegen/runtime/artifacts.h"
#include "templates/decode/spec.h"
#include "tools/model/decode_bound.h"
#include "tools/model/ptxas.h"
#include "tools/reference/parallel_for.h"
#include "tools/sagegen/errors.h"
#include "tools/sagegen/generator.h"
#include "tools/sagegen/inspect_model.h"
#include "tools/sagegen/progress.h"

namespace sagegen::cli {
namespace {

constexpr const char* kUsualGpus[] = {"A100", "RTX3090", "RTX4090", "RTX5090", "H200"};

struct Predicted {
  kv::Pair pair;
  KvFormat format;
  const model::Gpu* gpu;
  std::optional<Kernel> kernel = {};
  model::DecodeBound bound = {};
  int bytes() const { return kv_token_bytes(format); }
};

std::vector<const model::Gpu*> gpus_of(const KvPredictCommand& command) {
  std::vector<const model::Gpu*> gpus;
  if (command.gpus.empty()) {
    for (const char* name : kUsualGpus) gpus.push_back(model::find_gpu(name));
  }
  for (const std::string& name : command.gpus) {
    const model::Gpu* gpu = model::find_gpu(name);
    if (gpu == nullptr) {
      std::vector<std::string> names;
      for (const model::Gpu& each : model::gpus()) names.emplace_back(each.name);
      throw UsageError(fmt::format("--gpu {}: use one of {}{}", name, fmt::join(names, ", "),
                                   suggestion(name, names)));
    }
    gpus.push_back(gpu);
  }
  return gpus;
}

std::vector<kv::Pair> pairs_of(const std::optional<kv::Map>& map) {
  std::vector<kv::Pair> pairs{{}};  // 16 bits, that all are compared with
  if (map) {
    for (const auto& [pair, count] : kv::counts(*map)) {
      if (pair != kv::Pair{}) pairs.push_back(pair);
    }
    return pairs;
  }
  for (const int k : {16, 8, 4, 2}) {
    for (const int v : {16, 8, 4, 2}) {
      const auto storage = [](int bits) { return bits == 16 ? kv::Storage{} : kv::integer(bits); };
      if (k != 16 || v != 16) pairs.push_back({storage(k), storage(v)});
    }
  }
  return pairs;
}

// PTX runs on what is newer: GPUs that no kernel of decode is for have that of the best older target.
void predict(Predicted& each, int rows) {
  const int architecture = each.gpu->architecture;
  const Target target =
      decode::target_on(runtime::best_target(architecture), each.gpu->shared_bytes);
  each.kernel = decode::usual_kernel(each.format, rows, target);
  const Artifact artifact = emit_kernel(*each.kernel, {});
  const model::Assembled assembled =
      model::assemble(artifact.code, fmt::format("sm_{}", architecture), "-v");
  if (assembled.cubin.empty()) {
    throw CodegenError(
        fmt::format("ptxas {} refuses the PTX of {}; another release may take it: {}",
                    model::ptxas_version(), artifact.key, assembled.report));
  }
  try {
    each.bound =
        model::decode_bound(model::read_cubin(assembled.cubin),
                            {.tile = each.kernel->view(decode::family()).schedule.tile,
                             .token_bytes = each.bytes(),
                             .launch = {.threads = artifact.resources.threads,
                                        .dynamic_shared = artifact.resources.dynamic_smem}},
                            *each.gpu);
  } catch (const model::NotModelled& error) {
    throw SpecError(
        fmt::format("{} on {} is not modelled: {}", artifact.key, each.gpu->name, error.what()));
  }
}

}  // namespace

Exit kv_predict(const std::optional<kv::Map>& map, const KvModel& model,
                const KvPredictCommand& command, Output& output) {
  const std::vector<const model::Gpu*> gpus = gpus_of(command);
  const int rows = kv_rows(model);
  constexpr int kMostRows = 16;
  if (rows > kMostRows) {
    throw UsageError(fmt::format(
        "--q-heads {} with {} KV heads is refused: a block has {} rows at most, and what more of "
        "them cost, tiles that read the same tokens again, is not predicted; use {}",
        model.all_q_heads(), model.kv_heads, kMostRows, kMostRows * model.kv_heads));
  }
  std::vector<Predicted> all;
  for (const model::Gpu* gpu : gpus) {
    for (const kv::Pair& pair : pairs_of(map)) {
      const std::optional<KvFormat> format = kv::format_of(pair, model.format);
      if (!format) {
        throw SpecError(fmt::format("{} is refused: no kernel stores it; use {}, or --integers",
                                    kv::to_string(pair), kv::to_string(kv::as_integers(pair))));
      }
      all.push_back({.pair = pair, .format = *format, .gpu = gpu});
    }
  }
  if (const std::string why = why_no_model(); !why.empty()) {
    output.text("nothing is predicted: " + why + "\n");
    output.json({{"kind", "prediction"}, {"skipped", why}, {"predictions", Json::array()}});
    return Exit::ok;
  }
  std::optional<Progress> progress(std::in_place, "assembling", all.size());
  reference::parallel_for(static_cast<std::int64_t>(all.size()), 0, [&](std::int64_t i) {
    predict(all[static_cast<std::size_t>(i)], rows);
    progress->advance();
  });
  progress.reset();
  Table table({"GPU", "pair", "bytes", "instructions", "memory clk", "busy clk", "busiest", "bound",
               "TB/s", "as 16 bits", "speed-up"});
  Json list = Json::array();
  const Predicted* exact = nullptr;  // 16 bits of the same GPU come first
  for (const Predicted& each : all) {
    if (each.pair == kv::Pair{}) exact = &each;
    const model::DecodeBound& bound = each.bound;
    const double equivalent = bound.equivalent_tb(each.bytes(), exact->bytes());
    const double speedup = equivalent / exact->bound.raw_tb;
    const std::string of = bound.by_memory() ? "memory" : std::string(bound.busiest);
    table.add({std::string(each.gpu->name), kv::to_string(each.pair), std::to_string(each.bytes()),
               fmt::format("{:.2f}", bound.instructions), fmt::format("{:.2f}", bound.memory),
               fmt::format("{:.2f}", bound.busy), std::string(bound.busiest), of,
               fmt::format("{:.2f}", bound.raw_tb), fmt::format("{:.2f}", equivalent),
               fmt::format("{:.2f}", speedup)});
    list.push_back({{"gpu", each.gpu->name},
                    {"pair", kv::to_string(each.pair)},
                    {"kernel", each.kernel->key()},
                    {"bytes_per_token", each.bytes()},
                    {"instructions_per_token", bound.instructions},
                    {"blocks_per_sm", bound.blocks},
                    {"memory_cycles", bound.memory},
                    {"busy_cycles", bound.busy},
                    {"busiest", bound.busiest},
                    {"bound", of},
                    {"raw_tb", bound.raw_tb},
                    {"equivalent_tb", equivalent},
                    {"speed_up", speedup}});
  }
  output.text(fmt::format(
      "predictions, no measurements: the loop over cached tokens of a KV head, {} query heads each, "
      "{} channels; ptxas {}\n\n{}",
      rows, model.format.head_dim, model::ptxas_version(), table.text()));
  output.json({{"kind", "prediction"},
               {"head_dim", model.format.head_dim},
               {"rows", rows},
               {"ptxas", model::ptxas_version()},
               {"predictions", list}});
  return Exit::ok;
}

}  // namespace sagegen::cli
