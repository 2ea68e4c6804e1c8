#include "tools/sagegen/kv_kernels.h"

#include <algorithm>
#include <optional>

#include <fmt/format.h>

#include "sagegen/runtime/bundle.h"
#include "templates/decode/spec.h"
#include "templates/kv_append/spec.h"
#include "tools/reference/parallel_for.h"
#include "tools/sagegen/errors.h"
#include "tools/sagegen/files.h"
#include "tools/sagegen/generator.h"
#include "tools/sagegen/progress.h"

namespace sagegen::cli {
namespace {

std::vector<int> layers_with(const kv::Map& map, const kv::Pair& pair) {
  std::vector<int> layers;
  for (std::size_t i = 0; i < map.layers.size(); ++i) {
    if (std::ranges::find(map.layers[i], pair) != map.layers[i].end())
      layers.push_back(static_cast<int>(i));
  }
  return layers;
}

// "0-3, 7"
std::string ranges(const std::vector<int>& numbers) {
  std::string text;
  for (std::size_t i = 0; i < numbers.size();) {
    std::size_t end = i + 1;
    while (end < numbers.size() && numbers[end] == numbers[end - 1] + 1) ++end;
    text += fmt::format("{}{}", text.empty() ? "" : ", ", numbers[i]);
    if (end - i > 1) text += fmt::format("-{}", numbers[end - 1]);
    i = end;
  }
  return text;
}

void validate_kernel(const Kernel& kernel) {
  const Sentences violations = kernel.violations();
  if (!violations.empty()) throw SpecError(fmt::format("{}: {}", kernel.key(), violations.front()));
}

}  // namespace

int kv_rows(const KvModel& model) {
  if (model.all_q_heads() % model.kv_heads != 0) {
    throw UsageError(fmt::format(
        "--q-heads {} with {} KV heads is refused: as many query heads share each KV head; use a "
        "multiple such as {}",
        model.all_q_heads(), model.kv_heads, 4 * model.kv_heads));
  }
  return model.all_q_heads() / model.kv_heads;
}

std::vector<KvKernels> kv_kernels(const kv::Map& map, const KvModel& model, Target target,
                                  std::optional<Target> decode_target) {
  std::vector<KvKernels> all;
  for (const auto& [pair, count] : kv::counts(map)) {
    const std::optional<KvFormat> format = kv::format_of(pair, model.format);
    std::vector<int> layers = layers_with(map, pair);
    if (!format) {
      throw SpecError(fmt::format(
          "layer {} has {}, which no kernel stores: they know integers and 16 bits; use {}, or "
          "--integers",
          layers.front(), kv::to_string(pair), kv::to_string(kv::as_integers(pair))));
    }
    KvKernels of_pair{
        .pair = pair,
        .format = *format,
        .layers = std::move(layers),
        .append = Kernel(kv_append::family(),
                         {.head_dim = format->head_dim,
                          .io = format->io,
                          .k_bits = format->k_bits,
                          .v_bits = format->v_bits},
                         target),
        .decode = decode::usual_kernel(*format, kv_rows(model), decode_target.value_or(target))};
    validate_kernel(of_pair.append);
    validate_kernel(of_pair.decode);
    all.push_back(std::move(of_pair));
  }
  return all;
}

Exit kv_emit(const kv::Map& map, const KvModel& model, const KvEmitCommand& command,
             const std::string& folder, Output& output) {
  if (command.target.empty())
    throw UsageError("--target is required: sagegen kv emit makes kernels for one; use sm_89, ...");
  if (!command.bundle.empty()) check_writable(command.bundle);
  const std::vector<KvKernels> pairs = kv_kernels(map, model, parse_target(command.target));
  std::vector<Artifact> artifacts(2 * pairs.size());
  std::optional<Progress> progress(std::in_place, "emitting", artifacts.size());
  reference::parallel_for(static_cast<std::int64_t>(artifacts.size()), 0, [&](std::int64_t i) {
    const auto at = static_cast<std::size_t>(i);
    artifacts[at] = emit_kernel(at % 2 == 0 ? pairs[at / 2].append : pairs[at / 2].decode, {});
    progress->advance();
  });
  progress.reset();
  Table table({"pair", "layers", "kernel", "bytes"});
  Json list = Json::array();
  std::vector<runtime::NamedText> texts;
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < artifacts.size(); ++i) {
    const KvKernels& of_pair = pairs[i / 2];
    const Artifact& artifact = artifacts[i];
    const std::string name = kv::to_string(of_pair.pair);
    bytes += artifact.code.size();
    texts.push_back({artifact.key, artifact.code});
    table.add({name, ranges(of_pair.layers), artifact.key, std::to_string(artifact.code.size())});
    list.push_back({{"key", artifact.key},
                    {"family", i % 2 == 0 ? "kv_append" : "decode"},
                    {"pair", name},
                    {"layers", of_pair.layers},
                    {"bytes", artifact.code.size()},
                    {"threads", artifact.resources.threads},
                    {"dynamic_smem", artifact.resources.dynamic_smem}});
    if (folder.empty()) continue;
    const std::string file = fmt::format("{}/{}.ptx", folder, artifact.key);
    write_file(file, artifact.code);
    list.back()["file"] = file;
  }
  if (!command.bundle.empty()) write_file(command.bundle, runtime::write_bundle(std::move(texts)));
  std::string text =
      table.text() + fmt::format("{} for {} of {}, {} bytes of PTX\n",
                                 counted(artifacts.size(), "kernel"), counted(pairs.size(), "pair"),
                                 counted(map.layers.size(), "layer"), bytes);
  if (!command.bundle.empty()) text += fmt::format("written: {}\n", command.bundle);
  output.text(text);
  Json fields{{"target", command.target}, {"kernels", list}, {"bytes", bytes}};
  if (!command.bundle.empty()) fields["bundle"] = command.bundle;
  output.json(fields);
  return Exit::ok;
}

}  // namespace sagegen::cli
