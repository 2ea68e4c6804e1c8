// `sagegen compare`: what the modes of attention cost on given inputs in accuracy, and how fast they may be; and the
// fastest one within bounds, layer by layer, as a map that programs load.
#include <algorithm>
#include <cmath>
#include <optional>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "sagegen/runtime/artifacts.h"
#include "tools/model/ptxas.h"
#include "tools/reference/parallel_for.h"
#include "tools/reference/whole_file.h"
#include "tools/sagegen/app.h"
#include "tools/sagegen/compare_candidates.h"
#include "tools/sagegen/compare_pick.h"
#include "tools/sagegen/emulation_cost.h"
#include "tools/sagegen/errors.h"
#include "tools/sagegen/files.h"
#include "tools/sagegen/generator.h"
#include "tools/sagegen/inspect_model.h"
#include "tools/sagegen/interrupt.h"
#include "tools/sagegen/kernel_choice.h"
#include "tools/sagegen/options.h"
#include "tools/sagegen/progress.h"
#include "tools/sagegen/run_job.h"
#include "tools/sagegen/run_kernel.h"

namespace sagegen::cli {
namespace {

constexpr double kMargin = 1;  // percent; what the runs of a simulation differ by

struct CompareCommand {
  InputOptions input;
  std::vector<std::string> prefixes;
  ModOptions mods;
  CandidateOptions candidates;
  std::string target, device, out;
  std::vector<std::string> gpus;
  JudgeOptions judge;
  EmulationLimit limit;
  bool pick = false;
  Bounds bounds;
  double margin = kMargin;
};

// ---- errors -----------------------------------------------------------------------------------------

struct Layer {
  RunInputs inputs;
  // That are compared, and what masks and biases are given, of the first kernel: tiles of others may be different.
  reference::RowNumbers rows;
  std::vector<std::string> mods;
  LayerChoice choice;
};

Compared by_kernel(const AttentionJob& job, const Kernel& kernel, const RunDevice& on,
                   const runtime::LaunchProgress& launch, const JudgeOptions& options) {
  const AttentionResult result =
      run_with_progress(job, on, fmt::format("running {} on {}", kernel.key(), on.name), launch);
  const Judgement judgement = judge(job, result, on, options);
  return {.kernel = kernel,
          .errors = judgement.kernel,
          .sound = judgement.passed && result.findings.empty()};
}

// Exact attention and models that several kernels share are computed once.
class Models {
 public:
  explicit Models(const JudgeOptions& options) : options_(options) {}

  Errors errors(const AttentionJob& job) {
    const reference::QuantModel quant = quant_model(job);
    for (const Known& known : known_) {
      if (known.quant == quant && known.schedule.cta_q == job.schedule.cta_q) return known.errors;
    }
    const Exact& exact = exact_of(job);
    const Errors errors = model_errors(
        exact.rows, exact.output, reference::unrounded_model(job.inputs, quant, exact.rows), quant);
    known_.push_back({quant, job.schedule, errors});
    return errors;
  }

 private:
  // Tiles decide which rows are a sample, and what a block-sparse mask hides.
  struct Exact {
    attention::Schedule schedule;
    reference::RowNumbers rows;
    reference::Output output;
  };
  struct Known {
    reference::QuantModel quant;
    attention::Schedule schedule;
    Errors errors;
  };

  const Exact& exact_of(const AttentionJob& job) {
    for (const Exact& exact : exact_) {
      if (exact.schedule.cta_q == job.schedule.cta_q && exact.schedule.cta_k == job.schedule.cta_k)
        return exact;
    }
    const reference::RowNumbers rows = rows_to_judge(job, options_);
    exact_.push_back({job.schedule, rows, reference::attention(job.inputs, rows)});
    return exact_.back();
  }

  const JudgeOptions& options_;
  std::vector<Exact> exact_;
  std::vector<Known> known_;
};

Layer compare_layer(const CompareCommand& command, const std::string& name, Target target,
                    const RunDevice* on, const runtime::LaunchProgress& launch, Output& output) {
  Layer layer;
  InputOptions input = command.input;
  input.prefix = layer.choice.layer = name;
  layer.inputs = load_run_inputs(input);
  if (!layer.inputs.warning.empty()) output.progress("warning: " + layer.inputs.warning);

  attention::Spec asked{.head_dim = head_dim_for(layer.inputs.values.q.channels),
                        .io = layer.inputs.io,
                        .value_dim = head_dim_for(layer.inputs.values.v.channels),
                        .causal = layer.inputs.values.causal};
  if (asked.value_dim == asked.head_dim) asked.value_dim = 0;
  ask_for_mods(command.mods, asked);
  const std::vector<Kernel> kernels = candidates(
      command.candidates, asked, target, on == nullptr ? ErrorsOf::formats : ErrorsOf::kernels);
  const bool is_first = command.prefixes.empty() || command.prefixes.front() == name;
  Models models(command.judge);
  std::optional<Progress> progress;  // kernels that run say themselves how far they are
  if (on == nullptr)
    progress.emplace(fmt::format("comparing on {}", layer.inputs.origin), kernels.size());
  for (const Kernel& kernel : kernels) {
    AttentionJob job = make_job(layer.inputs, kernel, command.mods, command.input.seed);
    if (layer.rows.empty()) {
      layer.rows = rows_to_judge(job, command.judge);
      layer.mods = mod_names(job);
    }
    if (on == nullptr) {
      layer.choice.compared.push_back({.kernel = kernel, .errors = models.errors(job)});
      progress->advance();
    } else {
      job.source = ptx_source("", *on);
      if (layer.choice.compared.empty() && is_first) {  // it stands for all
        confirm_emulation(command.limit, *on, job, runtime::Checks::on, command.judge,
                          kernels.size() * std::max<std::size_t>(command.prefixes.size(), 1),
                          output);
      }
      layer.choice.compared.push_back(by_kernel(job, kernel, *on, launch, command.judge));
      if (was_interrupted()) break;
    }
  }
  return layer;
}

// ---- speeds -----------------------------------------------------------------------------------------

using Gpus = std::vector<const model::Gpu*>;

void predict_speeds(std::vector<Layer>& layers, const Gpus& gpus) {
  std::map<std::string, std::vector<double>> known;
  std::vector<const Kernel*> kernels;
  for (const Layer& layer : layers) {
    for (const Compared& each : layer.choice.compared) {
      if (known.try_emplace(each.kernel.key()).second) kernels.push_back(&each.kernel);
    }
  }
  Progress progress("assembling kernels to predict their speed", kernels.size());
  reference::parallel_for(static_cast<std::int64_t>(kernels.size()), 0, [&](std::int64_t i) {
    const Kernel& kernel = *kernels[static_cast<std::size_t>(i)];
    known.at(kernel.key()) = predicted_tops(kernel, gpus);
    progress.advance();
  });
  for (Layer& layer : layers) {
    for (Compared& each : layer.choice.compared) each.tops = known.at(each.kernel.key());
    std::ranges::stable_sort(layer.choice.compared, std::greater(), [](const Compared& each) {
      return std::isnan(each.tops.front()) ? 0 : each.tops.front();
    });
  }
}

// ---- picks ------------------------------------------------------------------------------------------

void check_out(const CompareCommand& command) {
  check_writable(command.out);
  for (const std::string& file : command.input.files) {
    if (!reference::is_same_file(command.out, file)) continue;
    throw UsageError(
        fmt::format("--out {} is refused: it is the same file as {}, which holds the inputs",
                    command.out, file));
  }
  for (const std::string& prefix : command.prefixes) {
    if (is_layer_name(prefix)) continue;
    throw UsageError(fmt::format(
        "--out is refused with --prefix \"{}\": in the map, \"*\" are all other layers, lines "
        "that begin with # are comments, and control characters end names; rename the tensors",
        prefix));
  }
}

void check_options(const CompareCommand& command) {
  std::set<std::string> names;
  for (const std::string& prefix : command.prefixes) {
    if (!names.insert(prefix).second)
      throw UsageError(fmt::format("--prefix {} stands twice; give it once", prefix));
  }
  std::set<const Measure*> bounded;
  for (const Bound& bound : command.bounds) bounded.insert(bound.measure);
  if (command.pick && command.bounds.empty()) {
    std::vector<std::string> options;
    for (const Measure& measure : measures()) options.emplace_back(measure.option);
    throw UsageError(fmt::format(
        "--pick needs a bound: the fastest of all needs no comparison; give one or more of {}",
        fmt::join(options, ", ")));
  }
  if (command.pick) {
    if (const std::string why = why_no_model(); !why.empty())
      throw FileError(fmt::format("--pick needs predicted speeds. {}", why));
  }
  if (!command.out.empty()) check_out(command);
}

// How PTX of the picked kernels and of those that prepare their inputs is made; empty if the library carries all
// of it, be it for a lower target whose PTX loads in its place.
std::string emit_command(const std::vector<Kernel>& picked) {
  const std::vector<Kernel> embedded = default_set();
  std::set<std::string> keys;
  bool all_embedded = true;
  const auto need = [&](const Kernel& kernel) {
    keys.insert(kernel.key());
    all_embedded &= std::ranges::any_of(embedded, [&](const Kernel& each) {
      return each.on(kernel.target()) == kernel &&
             runtime::loads_on(each.target(), kernel.target().sm);
    });
  };
  for (const Kernel& kernel : picked) {
    need(kernel);
    for (const Kernel& input : kernel.inputs()) need(input);
  }
  if (all_embedded) return {};
  return fmt::format("sagegen emit --out ptx/ {}", fmt::join(keys, " "));
}

// ---- report -----------------------------------------------------------------------------------------

std::string cell(double value) { return std::isnan(value) ? "-" : fmt::format("{:.4g}", value); }

std::string gpu_names(const Gpus& gpus) {
  std::vector<std::string_view> names;
  for (const model::Gpu* gpu : gpus) names.push_back(gpu->name);
  return fmt::format("{}", fmt::join(names, ", "));
}

std::string place_text(const Layer& layer, std::int64_t row) {
  const Place place = place_of(row, layer.inputs.values.q);
  return fmt::format("[{}, {}, {}]", place.batch, place.head, place.token);
}

std::vector<Kernel> all_kernels(const std::vector<Layer>& layers) {
  std::vector<Kernel> kernels;
  for (const Layer& layer : layers) {
    for (const Compared& each : layer.choice.compared) kernels.push_back(each.kernel);
  }
  return kernels;
}

std::string head_text(const std::vector<Layer>& layers, Target target, const RunDevice* on,
                      const Gpus& gpus, const std::string& no_speed) {
  std::string text;
  for (const Layer& layer : layers) {
    const reference::Inputs& in = layer.inputs.values;
    text += fmt::format(
        "inputs   {}: batch {}, heads {} (K and V {}), q_len {}, kv_len {}, {}, {}, "
        "causal {}{}{}; {} of {} rows compared\n",
        layer.inputs.origin, in.q.batch, in.q.heads, in.k.heads, in.q.tokens, in.k.tokens,
        dims_text(in), to_string(layer.inputs.io), causal_word(layer.inputs.causal),
        layer.mods.empty() ? "" : ", ", fmt::join(layer.mods, ", "), layer.rows.size(),
        in.q.batch * in.q.heads * in.q.tokens);
  }
  text += fmt::format("target   {}\n", to_string(target));
  text += on == nullptr
              ? std::string(
                    "errors   of the number formats alone, by a model in double precision; "
                    "--device compares what kernels compute\n")
              : fmt::format("errors   of what the kernels compute on {}\n", on->name);
  text += no_speed.empty()
              ? fmt::format(
                    "speed    predicted for {}, no measurement (ptxas {}): of attention without "
                    "the kernels that prepare\n         its inputs; differences below 10 % rank "
                    "nothing\n",
                    gpu_names(gpus), model::ptxas_version())
              : fmt::format("speed    none: {}\n", no_speed);
  return text;
}

std::string table_text(const std::vector<Layer>& layers, const RunDevice* on, const Gpus& gpus) {
  const std::vector<Kernel> kernels = all_kernels(layers);
  const std::vector<std::string> fields = differences(kernels);
  std::vector<std::string> header;
  if (layers.size() > 1) header.push_back("layer");
  if (fields.empty()) header.push_back("mode");
  header.insert(header.end(), fields.begin(), fields.end());
  for (const char* name : {"cosine", "rel. L1", "RMSE", "worst row", "at", "LSE"})
    header.push_back(name);
  if (on != nullptr) header.push_back("judged");
  for (const model::Gpu* gpu : gpus) header.push_back(fmt::format("{} TOPS", gpu->name));
  Table table(header);
  for (const Layer& layer : layers) {
    for (const Compared& each : layer.choice.compared) {
      std::vector<std::string> row;
      if (layers.size() > 1) row.push_back(layer.choice.layer);
      if (fields.empty())
        row.emplace_back(attention::mode_name(each.kernel.view(attention::family()).spec));
      for (const std::string& field : fields) row.push_back(word_of(each.kernel, field));
      const Errors& e = each.errors;
      row.push_back(std::isnan(e.o.cosine_similarity)
                        ? "-"
                        : fmt::format("{:.4f} %", 100 * e.o.cosine_similarity));
      row.push_back(cell(e.o.relative_l1));
      row.push_back(cell(e.o.rmse));
      row.push_back(cell(e.worst_row.relative_l1));
      row.push_back(place_text(layer, e.worst_row.row));
      row.push_back(cell(e.lse.max_abs));
      if (on != nullptr) row.push_back(each.sound ? "passed" : "FAILED");
      for (const double tops : each.tops)
        row.push_back(std::isnan(tops) ? "-" : fmt::format("{:.0f}", tops));
      table.add(row);
    }
  }
  return "\n" + table.text();
}

Json errors_json(const Layer& layer, const Errors& errors) {
  const Place place = place_of(errors.worst_row.row, layer.inputs.values.q);
  return {{"cosine_similarity", errors.o.cosine_similarity},
          {"relative_l1", errors.o.relative_l1},
          {"rmse", errors.o.rmse},
          {"max_abs", errors.o.max_abs},
          {"non_finite", errors.o.non_finite},
          {"worst_row",
           {{"relative_l1", errors.worst_row.relative_l1},
            {"at", {place.batch, place.head, place.token}}}},
          {"lse", {{"max_abs", errors.lse.max_abs}, {"non_finite", errors.lse.non_finite}}}};
}

Json layer_json(const CompareCommand& command, const Layer& layer, const RunDevice* on,
                const Gpus& gpus) {
  const reference::Inputs& in = layer.inputs.values;
  Json list = Json::array();
  for (const Compared& each : layer.choice.compared) {
    Json fields = Json::parse(to_json(each.kernel));
    fields.update(errors_json(layer, each.errors));
    if (on != nullptr) fields["passed"] = each.sound;
    for (std::size_t i = 0; i < each.tops.size(); ++i)
      fields["predicted_tops"][std::string(gpus[i]->name)] = each.tops[i];
    if (command.pick) fields["within"] = within(each, command.bounds);
    list.push_back(fields);
  }
  Json fields{
      {"layer", layer.choice.layer},
      {"input", layer.inputs.origin},
      {"shape",
       {{"batch", in.q.batch},
        {"heads", in.q.heads},
        {"kv_heads", in.k.heads},
        {"q_len", in.q.tokens},
        {"kv_len", in.k.tokens},
        {"head_dim", in.q.channels},
        {"value_dim", in.v.channels}}},
      {"causal", causal_word(layer.inputs.causal)},
      {"mods", layer.mods},
      {"judged", {{"rows", layer.rows.size()}, {"of", in.q.batch * in.q.heads * in.q.tokens}}},
      {"kernels", list}};
  if (command.pick) {
    const auto& picked = layer.choice.picked;
    const std::vector<Compared>& all = layer.choice.compared;
    fields["picked"] = picked ? Json(all[*picked].kernel.key()) : Json();
    if (!picked) fields["nearest"] = all[nearest(all, command.bounds)].kernel.key();
  }
  return fields;
}

// ---- the command ------------------------------------------------------------------------------------

// What --pick adds to a report. False if a layer has no kernel within the bounds.
bool pick_layers(const CompareCommand& command, std::vector<Layer>& layers, const Gpus& gpus,
                 std::string& text, Json& json) {
  text += fmt::format("\npicked   the fastest with {}\n", bounds_text(command.bounds));
  std::vector<LayerChoice> choices;
  std::vector<Kernel> kernels;
  bool all = true;
  for (Layer& layer : layers) {
    LayerChoice& choice = layer.choice;
    choice.picked = pick(choice.compared, command.bounds, command.margin);
    const std::string name = choice.layer.empty() ? "" : choice.layer + ": ";
    if (choice.picked) {
      kernels.push_back(choice.compared[*choice.picked].kernel);
      text += fmt::format("         {}{}\n", name, kernels.back().key());
    } else {
      all = false;
      const Compared& next = choice.compared[nearest(choice.compared, command.bounds)];
      std::vector<std::string> misses;
      for (const Bound& bound : command.bounds) {
        if (!bound.met(next.errors))
          misses.push_back(
              fmt::format("{} {:.6g}", bound.measure->name, bound.measure->of(next.errors)));
      }
      if (!next.sound) misses.push_back("FAILED as judged");
      text += fmt::format("         {}none; nearest is {} with {}\n", name, next.kernel.key(),
                          fmt::join(misses, ", "));
    }
    choices.push_back(choice);
  }
  const std::optional<Compared> others =
      all ? pick_for_others(choices, command.bounds, command.margin) : std::nullopt;
  if (others) kernels.push_back(others->kernel);
  if (all && layers.size() > 1)
    text += fmt::format("         other layers: {}\n",
                        others ? others->kernel.key() : "none, as no kernel is within on each");
  if (const std::string emit = emit_command(kernels); !emit.empty())
    text += fmt::format("         the library does not carry all of these: `{}`\n", emit);
  for (const Bound& bound : command.bounds) {
    std::string name = bound.measure->option + 2;  // without the dashes
    std::ranges::replace(name, '-', '_');
    json["bounds"][name] = bound.limit;
  }
  json["others"] = others ? Json(others->kernel.key()) : Json();
  if (!all || command.out.empty()) return all;
  write_file(command.out,
             mode_map_text(choices, others,
                           {fmt::format("sagegen {}: the fastest with {}", tool_version(),
                                        bounds_text(command.bounds)),
                            fmt::format("speeds are predictions for {}", gpus.front()->name)}));
  text += fmt::format("written  {}\n", command.out);
  json["out"] = command.out;
  return all;
}

// The target that options name; empty if none does.
std::string target_word(const CompareCommand& command) {
  if (!command.target.empty() || command.gpus.empty()) return command.target;
  const model::Gpu* gpu = model::find_gpu(command.gpus.front());
  if (gpu == nullptr) return {};  // refused later, with those that there are
  try {
    return to_string(parse_target(fmt::format("sm_{}", gpu->architecture)));
  } catch (const SpecError& error) {
    throw UsageError(fmt::format("--gpu {}: {}", gpu->name, error.what()));
  }
}

Exit compare(const CompareCommand& command, Output& output) {
  check_options(command);
  runtime::EmulatorOptions emulator;
  emulator.interrupt = interrupt_flag();
  emulator.progress = std::make_shared<runtime::LaunchProgress>();
  const std::string asked = target_word(command);
  std::optional<RunDevice> on;
  if (!command.device.empty()) on = open_run_device(command.device, asked, emulator);
  const RunDevice* const device = on ? &*on : nullptr;
  const Target target = on ? on->target : asked.empty() ? kUsualTarget : parse_target(asked);

  Gpus gpus;
  std::string no_speed = why_no_model();
  for (const std::string& name : command.gpus.empty() ? std::vector<std::string>{""} : command.gpus)
    gpus.push_back(&gpu_of_target(target, name));

  std::vector<Layer> layers;
  const std::vector<std::string> names =
      command.prefixes.empty() ? std::vector<std::string>{""} : command.prefixes;
  // A layer that is not there is told before the first one is compared.
  for (std::size_t i = 1; i < names.size(); ++i) {
    InputOptions input = command.input;
    input.prefix = names[i];
    load_run_inputs(input);
  }
  for (const std::string& name : names) {
    layers.push_back(compare_layer(command, name, target, device, *emulator.progress, output));
    if (was_interrupted()) break;
  }
  const bool whole = !was_interrupted();
  if (!whole) no_speed = "interrupted";
  if (no_speed.empty()) {
    try {
      predict_speeds(layers, gpus);
    } catch (const CodegenError& error) {  // an assembler that is older than the PTX
      if (command.pick) throw;
      no_speed = error.what();
    }
  }
  if (!no_speed.empty()) gpus.clear();

  std::string text =
      head_text(layers, target, device, gpus, no_speed) + table_text(layers, device, gpus);
  Json json{{"target", to_string(target)}, {"errors_of", on ? on->name : "formats"}};
  if (no_speed.empty()) {
    json["speed"] = {{"kind", "prediction"}, {"ptxas", model::ptxas_version()}};
    for (const model::Gpu* gpu : gpus) json["speed"]["gpus"].push_back(gpu->name);
  } else {
    json["no_speed"] = no_speed;
  }
  bool good = whole;
  for (const Layer& layer : layers) {
    good = good && std::ranges::all_of(layer.choice.compared, &Compared::sound);
  }
  if (command.pick && whole) good = pick_layers(command, layers, gpus, text, json) && good;
  for (const Layer& layer : layers)
    json["layers"].push_back(layer_json(command, layer, device, gpus));
  output.text(text);
  output.json(json);
  return good ? Exit::ok : Exit::check_failed;
}

void define_compare(CLI::App& app, CompareCommand& command) {
  define_inputs(app, command.input);
  refuse_without(app.add_option("--prefix", command.prefixes,
                                "of the tensors PREFIX.q, PREFIX.k, PREFIX.v of the safetensors "
                                "file; several are layers, compared one by one"),
                 app.get_option("--input"));
  app.get_option("--prefix")->group("Inputs");
  define_mods(app, command.mods);
  define_candidates(app, command.candidates);
  app.add_option("--target", command.target,
                 "of the kernels: sm_80, ... (default: that of --gpu or --device, else sm_89)");
  app.add_option("--gpu", command.gpus,
                 "predict speeds for these GPUs of the target, such as RTX4090; picks are for the "
                 "first (default: the target's usual one)");
  refuse_empty(app.add_option("--device", command.device,
                              "compare what kernels compute on auto, cuda:N, emulator or "
                              "emulator:PROFILE (default: the error of their number formats)"));
  define_judge(app, command.judge);
  define_limit(app, command.limit);
  CLI::Option* pick = app.add_flag(
      "--pick", command.pick, "name the fastest kernel within bounds, for each layer; needs ptxas");
  define_bounds(app, command.bounds);
  for (const Measure& measure : measures()) refuse_without(app.get_option(measure.option), pick);
  CLI::Option* margin =
      app.add_option("--speed-margin", command.margin,
                     "of --pick: what is slower by at most so many percent counts as equally "
                     "fast, and the more accurate is taken")
          ->capture_default_str();
  require_number(margin, 100);
  CLI::Option* out = app.add_option(
      "--out", command.out, "of --pick: write which layer runs which kernel, for programs to load");
  refuse_empty(out);
  for (CLI::Option* option : {margin, out}) refuse_without(option, pick);
}

}  // namespace

void add_compare(App& app) {
  app.add<CompareCommand>(
      "compare",
      "compare the modes of attention on given inputs, and pick the fastest within bounds",
      "  sagegen compare --dist outlier --target sm_80\n"
      "  sagegen compare --input qkv.safetensors --prefix layer0 layer1 --gpu RTX4090 L40S\n"
      "  sagegen compare --input qkv.safetensors --only smoothing=qk \"qk=s8 pv=f16\"\n"
      "  sagegen compare --device emulator --only accumulation=f32  what kernels do\n"
      "  sagegen compare --input qkv.safetensors --prefix layer0 layer1 --pick --min-cosine 0.998 "
      "--max-l1 0.05 --out modes.txt",
      define_compare, compare);
}

}  // namespace sagegen::cli
