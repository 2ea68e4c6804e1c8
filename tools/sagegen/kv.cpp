// `sagegen kv`: maps of the formats that layers' KV caches have: what they come to, which is best, their kernels and layouts.
#include <algorithm>
#include <filesystem>
#include <optional>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "tools/kv/kv_map.h"
#include "tools/kv/layout.h"
#include "tools/reference/printable.h"
#include "tools/sagegen/app.h"
#include "tools/sagegen/errors.h"
#include "tools/sagegen/files.h"
#include "tools/sagegen/help.h"
#include "tools/sagegen/kv_bench.h"
#include "tools/sagegen/kv_check.h"
#include "tools/sagegen/kv_kernels.h"
#include "tools/sagegen/kv_plan.h"
#include "tools/sagegen/kv_predict.h"
#include "tools/sagegen/options.h"

namespace sagegen::cli {
namespace {

enum class Action { show, plan, emit, check, predict, bench, layout };
constexpr std::pair<const char*, Action> kActions[] = {
    {"show", Action::show},    {"plan", Action::plan},       {"emit", Action::emit},
    {"check", Action::check},  {"predict", Action::predict}, {"bench", Action::bench},
    {"layout", Action::layout}};
// An option, and the actions that have it: any other would ignore it.
struct OwnOption {
  const CLI::Option* option;
  std::vector<Action> of;
};

struct KvCommand {
  Action action = Action::show;
  std::string map, rest, out;
  int layers = 0;
  int kv_heads = 0;  // 0: as many as the map has, or kUsualHeads
  bool integers = false;
  KvFormat format;
  int q_heads = 0;
  KvPlanCommand plan;
  KvEmitCommand emit;
  KvCheckCommand check;
  KvPredictCommand predict;
  KvBenchCommand bench;
  kv::Language language = kv::Language::c;
  std::string prefix = "kv";
  const CLI::Option *context = nullptr, *device = nullptr;
  std::vector<OwnOption> own;
};

constexpr int kUsualHeads = 8;

// "0-3:fp8,4-35:nvfp4" in the place of a file.
bool is_text_of_ranges(const std::string& map) {
  return map.find(':') != std::string::npos && map.find('/') == std::string::npos &&
         map.find_first_of("0123456789") == 0 && !std::filesystem::exists(map);
}

kv::MapFile read_any(const KvCommand& command) {
  kv::Model model{.layers = command.layers, .rest = {}};
  if (!command.rest.empty()) model.rest = kv::pair_of(command.rest);
  if (is_text_of_ranges(command.map)) return kv::read_map(command.map, "MAP", model);
  return kv::read_map(read_file(command.map), reference::printable(command.map), model);
}

kv::MapFile read(const KvCommand& command) {
  kv::MapFile file = read_any(command);
  if (!command.integers) return file;
  for (kv::Layer& layer : file.map.layers)
    std::ranges::transform(layer, layer.begin(), kv::as_integers);
  return file;
}

void check_format(const KvFormat& format) {
  try {
    validate(format);
  } catch (const SpecError& error) {
    throw UsageError(error.what());
  }
}

int kv_heads_of(const KvCommand& command, const kv::Map& map) {
  const int in_map = static_cast<int>(map.layers.front().size());
  if (in_map == 1) return command.kv_heads == 0 ? kUsualHeads : command.kv_heads;
  if (command.kv_heads != 0 && command.kv_heads != in_map)
    throw UsageError(fmt::format(
        "--kv-heads {} is refused: {} has a pair for each of {} KV heads; leave the option out",
        command.kv_heads, command.map, in_map));
  return in_map;
}

// What is stored as no kernel here does it, with the pair that one stores in its place.
std::string without_kernel(const Json& formats) {
  std::vector<std::string> pairs;
  for (const Json& format : formats) {
    if (format["kernel"].is_null())
      pairs.push_back(fmt::format("{} (use {})", format["pair"].get<std::string>(),
                                  format["instead"].get<std::string>()));
  }
  if (pairs.empty()) return {};
  return filled(fmt::format("no kernel stores {}: they know integers and 16 bits. --integers takes "
                            "integers of as many "
                            "bits",
                            fmt::join(pairs, ", ")),
                0);
}

Json map_json(const kv::Map& map) {
  Json layers = Json::array();
  for (const kv::Layer& layer : map.layers) {
    if (layer.size() == 1) {
      layers.push_back(kv::to_string(layer.front()));
      continue;
    }
    Json heads = Json::array();
    for (const kv::Pair& pair : layer) heads.push_back(kv::to_string(pair));
    layers.push_back(heads);
  }
  return layers;
}

Exit show(const KvCommand& command, Output& output) {
  check_format(command.format);
  const kv::MapFile file = read(command);
  const kv::Map& map = file.map;
  const int heads = kv_heads_of(command, map);
  const int in_map = static_cast<int>(map.layers.front().size());
  Json counts = Json::object(), formats = Json::array();
  Table table({"pair", in_map == 1 ? "layers" : "heads of layers", "nominal bits", "effective bits",
               "bytes per token and head", "kernel"});
  std::int64_t bytes = 0;
  for (const auto& [pair, count] : kv::counts(map)) {
    const std::optional<KvFormat> format = kv::format_of(pair, command.format);
    const int of_head = kv::token_bytes(pair, command.format);
    const kv::Map alone{{{pair}}};
    bytes += static_cast<std::int64_t>(of_head) * count * heads / in_map;
    counts[kv::to_string(pair)] = count;
    Json json{{"pair", kv::to_string(pair)},
              {"count", count},
              {"bits_nominal", kv::mean_nominal_bits(alone)},
              {"bits_effective", kv::mean_effective_bits(alone, command.format)},
              {"bytes_per_token_and_head", of_head},
              {"kernel", format ? Json(to_string(*format)) : Json(nullptr)}};
    if (!format) json["instead"] = kv::to_string(kv::as_integers(pair));
    formats.push_back(json);
    table.add({kv::to_string(pair), fmt::format("{}", count),
               fmt::format("{:.2f}", kv::mean_nominal_bits(alone)),
               fmt::format("{:.3f}", kv::mean_effective_bits(alone, command.format)),
               fmt::format("{}", of_head), format ? "yes" : "none"});
  }
  const double nominal = kv::mean_nominal_bits(map),
               effective = kv::mean_effective_bits(map, command.format);
  if (!command.out.empty()) write_file(command.out, kv::write_kvtuner(map, command.out));

  const std::size_t layers = map.layers.size();
  std::string text = table.text();
  text += fmt::format("\n{} layers, {} KV heads of {} channels: {} ({})\n", layers, heads,
                      command.format.head_dim,
                      in_map == 1 ? "one pair for all heads of a layer" : "a pair for each head",
                      to_string(file.source));
  text += fmt::format("mean bits: {:.3f} nominal, {:.3f} effective\n", nominal, effective);
  text += fmt::format(
      "bytes per token: {}, {:.1f} per layer; {:.4f} GB for 1000 tokens, {:.4f} GB with 16 bits\n",
      bytes, static_cast<double>(bytes) / static_cast<double>(layers),
      static_cast<double>(bytes) * 1e-6,
      static_cast<double>(layers) * heads * command.format.head_dim * 4e-6);
  text += without_kernel(formats);
  text += "layers:\n" + filled(kv::ranges_text(map), 2);
  if (!command.out.empty()) text += fmt::format("written: {}\n", command.out);
  output.text(text);
  Json json{{"source", to_string(file.source)},
            {"layers", layers},
            {"kv_heads", heads},
            {"head_dim", command.format.head_dim},
            {"page_tokens", command.format.page_tokens},
            {"counts", counts},
            {"mean_bits_nominal", nominal},
            {"mean_bits_effective", effective},
            {"bytes_per_token", bytes},
            {"formats", formats},
            {"map", map_json(map)}};
  if (!command.out.empty()) json["file"] = command.out;
  output.json(json);
  return Exit::ok;
}

void define_show(CLI::App& options, KvCommand& command) {
  require_whole(
      options.add_option(
          "--layers", command.layers,
          "layers of the model, where MAP names only some (default: those that it names)"),
      1, kv::kMaxLayers);
  options
      .add_option("--default", command.rest,
                  "dtype or pair (int4, K8V4) of layers that MAP does not name")
      ->check([](const std::string& word) {
        return kv::pair_of(word) ? std::string()
                                 : fmt::format(
                                       "{} is refused: it is a dtype (bf16, fp8, nvfp4, "
                                       "int8, int4, ...) or a "
                                       "pair such as K8V4, KV4 or KV16",
                                       word);
      });
  options.add_flag("--integers", command.integers,
                   "take integers of as many bits for fp8 and nvfp4, which no kernel stores");
  require_whole(options.add_option("--head-dim", command.format.head_dim,
                                   "channels of a head (default: 128)"),
                1, 256);
  require_whole(options.add_option("--kv-heads", command.kv_heads,
                                   "KV heads of a layer (default: as many as MAP has, or 8)"),
                1, kv::kMaxHeads);
  require_whole(options.add_option("--page-tokens", command.format.page_tokens,
                                   "tokens of a page (default: 64)"),
                1, 1 << 16);
  add_choice<DType>(options, "--io", command.format.io,
                    {{"f16", DType::f16}, {"bf16", DType::bf16}},
                    "what K and V are where 16 bits store them (default: f16)");
}

void define_kernels(CLI::App& options, KvCommand& command) {
  const auto heads = options.add_option("--q-heads", command.q_heads,
                                        "query heads of a layer (default: four for each KV head)");
  require_whole(heads, 1, 1 << 16);
  const auto target =
      options.add_option("--target", command.emit.target, "make PTX for sm_80, ...");
  const auto bundle = options.add_option("--bundle", command.emit.bundle,
                                         "file for all kernels, as `sagegen bundle` writes");
  const auto gpu = options.add_option("--gpu", command.predict.gpus,
                                      "A100, RTX4090, ...; again and again (default: five)");
  const auto device = options.add_option(
      "--device", command.check.device,
      "emulator, emulator:PROFILE, cuda:N (default: emulator; bench: a GPU if there is one)");
  command.device = device;
  const auto ptx = options.add_option(
      "--ptx", command.check.ptx,
      "generator, a directory with <key>.ptx files, which may be edited, or a bundle "
      "(default: generator)");
  const auto dist = options.add_option("--dist", command.check.distribution,
                                       "distribution of Q, K and V (default: normal)");
  const auto seed = options.add_option("--seed", command.check.seed, "of the inputs (default: 1)");
  require_seed(seed);
  const auto batch = options.add_option("--batch", command.bench.batch, "sequences (default: 8)");
  require_whole(batch, 1, 1 << 12);
  const auto deployment = add_choice<std::optional<runtime::Deployment>>(
      options, "--deployment", command.bench.deployment,
      {{"eager", runtime::Deployment::eager}, {"graph", runtime::Deployment::graph}},
      "launches one by one, or a graph of them (default: graph on a GPU)");
  for (CLI::Option* each : {bundle, ptx}) refuse_empty(each);
  for (CLI::Option* each : {heads, target, bundle, gpu, device, ptx, dist, seed, batch, deployment})
    each->group("Kernels");
  CLI::Option* const language =
      add_choice<kv::Language>(options, "--language", command.language,
                               {{"c", kv::Language::c}, {"python", kv::Language::python}},
                               "a header or a module (default: c)");
  CLI::Option* const prefix =
      options.add_option("--prefix", command.prefix, "what its names begin with (default: kv)");
  for (CLI::Option* each : {language, prefix}) each->group("Layouts");
  using enum Action;
  command.own.push_back({heads, {emit, check, predict, bench}});
  for (const CLI::Option* each : {target, bundle}) command.own.push_back({each, {emit}});
  command.own.push_back({gpu, {predict}});
  for (const CLI::Option* each : {language, prefix}) command.own.push_back({each, {layout}});
  for (const CLI::Option* each : {device, ptx}) command.own.push_back({each, {check, bench}});
  for (const CLI::Option* each : {dist, seed}) command.own.push_back({each, {check}});
  for (const CLI::Option* each : {batch, deployment}) command.own.push_back({each, {bench}});
}

void refuse_options_of_others(const KvCommand& command) {
  for (const auto& [option, of] : command.own) {
    if (option->count() == 0 || std::ranges::find(of, command.action) != of.end()) continue;
    std::vector<std::string> names;
    for (const auto& [name, action] : kActions) {
      if (std::ranges::find(of, action) != of.end()) names.emplace_back(name);
    }
    throw UsageError(fmt::format("{} is refused: it is an option of sagegen kv {}",
                                 option->get_name(), fmt::join(names, ", ")));
  }
}

// MAP is the text of a format.
Exit show_layout(const KvCommand& command, Output& output) {
  KvFormat format;
  std::string text;
  try {
    format = kv_format_of(command.map);
    text = kv::layout_text(format, command.language, command.prefix);
  } catch (const SpecError& error) {
    throw UsageError(error.what());
  }
  const std::string digest = fmt::format("{:016x}", kv_digest(format));
  Json json{{"format", to_string(format)},
            {"digest", digest},
            {"language", command.language == kv::Language::c ? "c" : "python"},
            {"block_bytes", KvBlock(format).bytes()},
            {"bytes_per_token_and_head", kv_token_bytes(format)}};
  if (command.out.empty()) {
    json["text"] = text;
    output.text(text);
  } else {
    write_file(command.out, text);
    json["file"] = command.out;
    output.text(fmt::format("written: {}\n", command.out));
  }
  output.json(json);
  return Exit::ok;
}

Exit run_kernels(const KvCommand& command, Output& output) {
  check_format(command.format);
  std::optional<kv::Map> map;
  if (!command.map.empty()) map = read(command).map;
  KvModel model{.format = command.format,
                .kv_heads = command.kv_heads == 0 ? kUsualHeads : command.kv_heads,
                .q_heads = command.q_heads};
  if (map) model.kv_heads = kv_heads_of(command, *map);
  switch (command.action) {
    case Action::emit:
      return kv_emit(*map, model, command.emit, command.out, output);
    case Action::check: {
      KvCheckCommand check = command.check;
      if (command.context->count() > 0) check.tokens = command.plan.plan.context;
      return kv_check(*map, model, check, output);
    }
    case Action::bench: {
      KvBenchCommand bench = command.bench;
      if (command.device->count() > 0) bench.device = command.check.device;
      bench.ptx = command.check.ptx;
      if (command.context->count() > 0) bench.tokens = command.plan.plan.context;
      return kv_bench(map, model, bench, output);
    }
    default:
      return kv_predict(map, model, command.predict, output);
  }
}

Exit run(KvCommand command, Output& output) {
  refuse_options_of_others(command);
  if (command.map.empty() && command.action != Action::predict && command.action != Action::bench)
    throw UsageError(command.action == Action::layout
                         ? "MAP is required: a format such as \"head_dim=128 k_bits=4 v_bits=2\""
                         : "MAP is required: a file, or ranges such as 0-3:fp8,4-31:K8V4");
  if (command.action == Action::show) return show(command, output);
  if (command.action == Action::layout) return show_layout(command, output);
  if (command.action != Action::plan) return run_kernels(command, output);
  command.plan.inputs = command.map;
  command.plan.out = command.out;
  return kv_plan(command.plan, kv::write_kvtuner, output);
}

}  // namespace

void add_kv(App& app) {
  app.add<KvCommand>(
      "kv",
      "formats of the KV caches of a model's layers: plan and show them, make kernels, judge them",
      "  sagegen kv show map.yaml --kv-heads 8 --head-dim 128      KVTuner's\n"
      "  sagegen kv show hf_quant_config.json --layers 32 --integers --out map.yaml\n"
      "  sagegen kv show 0-1:bf16,62-63:bf16 --layers 64 --default int4\n"
      "  sagegen kv show map.yaml --json\n"
      "  sagegen kv plan layers.safetensors --cap-bits 4 --protect 0 --out map.yaml\n"
      "  sagegen kv emit map.yaml --target sm_89 --bundle kv.bundle\n"
      "  sagegen kv check 0-1:K8V4 --kv-heads 2 --device emulator:sm_89\n"
      "  sagegen kv predict map.yaml --gpu H200 RTX4090\n"
      "  sagegen kv bench map.yaml --context 8192\n"
      "  sagegen kv layout 'head_dim=128 k_bits=8 v_bits=4 page_tokens=528' --out kv.h",
      [](CLI::App& options, KvCommand& command) {
        std::vector<std::pair<std::string, Action>> actions(std::begin(kActions),
                                                            std::end(kActions));
        add_choice<Action>(options, "ACTION", command.action, actions,
                           "show: what a map comes to; plan: a map for what layers do to inputs; "
                           "emit: the kernels that a map needs; check: run and judge them; "
                           "predict: what bounds their speed; bench: how long they take; layout: "
                           "where bytes of a cache lie, for C and Python")
            ->required();
        options.add_option(
            "MAP", command.map,
            "plan: safetensors with Q, K and V of all layers; else: KVTuner's YAML, "
            "ModelOpt's hf_quant_config.json or config.json, "
            "TensorRT-LLM's or SGLang's YAML, what "
            "show --json prints, or ranges such as 0-3:fp8,4-31:K8V4; "
            "predict and bench need none; layout: a format, such as 'k_bits=4 v_bits=2'");
        const auto added_by = [&](const auto& define) {
          const std::vector<CLI::Option*> before = options.get_options();
          define();
          std::vector<CLI::Option*> all = options.get_options();
          std::erase_if(all, [&](CLI::Option* each) {
            return std::ranges::find(before, each) != before.end();
          });
          return all;
        };
        using enum Action;
        for (const CLI::Option* each : added_by([&] { define_kv_plan(options, command.plan); }))
          command.own.push_back({each, {plan}});
        command.context = options.get_option("--context");
        for (auto& [option, of] : command.own) {
          if (option == command.context) of.insert(of.end(), {check, bench});
        }
        for (CLI::Option* each : added_by([&] { define_show(options, command); })) {
          each->group("Maps");
          command.own.push_back({each, {show, emit, check, predict, bench}});
        }
        define_kernels(options, command);
        CLI::Option* out = options.add_option(
            "--out", command.out,
            "show, plan: write the map as KVTuner's YAML, too; emit: write DIR/<key>.ptx; "
            "layout: the file");
        refuse_empty(out);
        command.own.push_back({out, {show, plan, emit, layout}});
      },
      [](const KvCommand& command, Output& output) {
        try {
          return run(command, output);
        } catch (const kv::MapError& error) {
          throw FileError(error.what());
        }
      });
}

}  // namespace sagegen::cli
