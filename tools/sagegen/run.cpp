// `sagegen run`: attention on a device, judged against exact attention and against a double-precision model
// of the same quantization.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <functional>
#include <limits>
#include <optional>
#include <regex>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "tools/reference/tensor_file.h"
#include "tools/sagegen/app.h"
#include "tools/sagegen/emulation_cost.h"
#include "tools/sagegen/emulator_options.h"
#include "tools/sagegen/errors.h"
#include "tools/sagegen/files.h"
#include "tools/sagegen/findings.h"
#include "tools/sagegen/generator.h"
#include "tools/sagegen/interrupt.h"
#include "tools/sagegen/options.h"
#include "tools/sagegen/progress.h"
#include "tools/sagegen/run_attention.h"
#include "tools/sagegen/run_device.h"
#include "tools/sagegen/run_inputs.h"
#include "tools/sagegen/run_job.h"
#include "tools/sagegen/run_judge.h"
#include "tools/sagegen/run_kernel.h"
#include "tools/sagegen/run_mods.h"
#include "tools/sagegen/run_packed.h"
#include "tools/sagegen/run_split.h"

namespace sagegen::cli {
namespace {

struct RunCommand {
  InputOptions input;
  RunKernelOptions kernel;
  ModOptions mods;
  std::string device = "auto", target, ptx, out;
  bool lse = false;
  std::string seqlens, kv_seqlens;  // of packed sequences; empty: none are packed
  std::int64_t split = 1;           // parts of the keys
  std::optional<std::int64_t> max_workspace;
  attention::Invariance invariance = attention::Invariance::none;
  JudgeOptions judge;
  Layout layout = Layout::hnd;
  runtime::EmulatorOptions emulator;
  EmulationLimit limit;
  std::vector<const CLI::Option*> emulator_only;  // to tell whether they were given
};

// ---- from options to a job ------------------------------------------------------------------------

std::string ptx_words(const std::string& origin) {
  if (origin == "generator") return "from the generator";
  return origin == "embedded" ? "embedded" : "from " + origin;
}

AttentionJob job_of(const RunCommand& command, const RunInputs& inputs, const Kernel& kernel,
                    const RunDevice& on) {
  AttentionJob job = make_job(inputs, kernel, command.mods, command.input.seed);
  job.layout = command.layout;
  job.source = ptx_source(command.ptx, on);
  job.plan.max_workspace_bytes = command.max_workspace.value_or(0);
  job.plan.invariance = command.invariance;
  return job;
}

bool has_ptx(const runtime::ArtifactSource& source, const Kernel& kernel) {
  try {
    source(kernel);
    return true;
  } catch (const SpecError&) {
    return false;
  }
}

// Of the smallest head_dim and value_dim that hold the channels. Where PTX is not made but looked up, of the smallest ones
// that are there: the inputs are padded.
Kernel kernel_for(const RunCommand& command, const RunInputs& inputs, const RunDevice& on) {
  const std::int64_t channels = inputs.values.q.channels, of_v = inputs.values.v.channels;
  const auto kernel_of = [&](int head_dim, int value_dim) {
    attention::Spec asked{.head_dim = head_dim,
                          .io = inputs.io,
                          .value_dim = value_dim == head_dim ? 0 : value_dim,
                          .causal = inputs.values.causal};
    asked.varlen = !command.seqlens.empty();
    ask_for_mods(command.mods, asked);
    return kernel_by_words(command.kernel, asked, on.target);
  };
  const Kernel kernel = kernel_of(head_dim_for(channels), head_dim_for(of_v));
  validate_attention(kernel);
  if (ptx_origin(command.ptx) == "generator") return kernel;
  const runtime::ArtifactSource source = ptx_source(command.ptx, on);
  for (const int head_dim : head_dims().allowed) {
    if (head_dim < channels) continue;
    for (const int value_dim : head_dims().allowed) {
      if (value_dim < of_v || (channels == of_v && value_dim != head_dim)) continue;
      const Kernel padded = kernel_of(head_dim, value_dim);
      if (padded.violations().empty() && has_ptx(source, padded)) return padded;
    }
  }
  return kernel;  // what is missing is told when it is asked for
}

// ---- report ---------------------------------------------------------------------------------------

Json workspace_json(const WorkspaceReport& workspace) {
  Json tensors = Json::array();
  for (const attention::Plan::ScratchTensor& tensor : workspace.tensors)
    tensors.push_back({{"name", tensor.name}, {"offset", tensor.offset}, {"bytes", tensor.bytes}});
  return {{"bytes", workspace.bytes},
          {"calls", workspace.cut.calls},
          {"batches", workspace.cut.batches},
          {"kv_heads", workspace.cut.kv_heads},
          {"tensors", tensors}};
}

std::string workspace_text(const WorkspaceReport& workspace) {
  std::string text =
      fmt::format("memory   a workspace of {}, {} of at most {} and {} of K and V\n",
                  counted(workspace.bytes, "byte"),
                  counted(static_cast<std::uint64_t>(workspace.cut.calls), "call"),
                  counted(static_cast<std::uint64_t>(workspace.cut.batches), "batch", "batches"),
                  counted(static_cast<std::uint64_t>(workspace.cut.kv_heads), "head"));
  for (const attention::Plan::ScratchTensor& tensor : workspace.tensors)
    text += fmt::format("         {:<16} {:>12} bytes from {}\n", tensor.name, tensor.bytes,
                        tensor.offset);
  return text;
}

// Where calls that have a part of the queries begin, so that each has the bits of the whole: at multiples of so many.
std::int64_t chunk_queries(const AttentionJob& job, const RunDevice& on) {
  const Kernel kernel(attention::family(), job.spec, job.schedule, on.target);
  return attention::invariance(kernel, job.plan.invariance)
      .queries(job.spec.pack_gqa, job.inputs.q.heads / job.inputs.k.heads);
}

std::string invariance_text(const AttentionJob& job, const RunDevice& on) {
  const std::string level(to_string(job.plan.invariance));
  if (job.plan.invariance == attention::Invariance::batch)
    return "keeps    its bits (batch), whatever else is in the batch\n";
  return fmt::format(
      "keeps    its bits ({}) in chunks that begin at multiples of {}\n", level,
      counted(static_cast<std::uint64_t>(chunk_queries(job, on)), "query", "queries"));
}

Json setup_json(const RunCommand& command, const RunInputs& inputs, const AttentionJob& job,
                const RunDevice& on, const AttentionResult& result) {
  const reference::Inputs& in = job.inputs;
  Json fields{{"device", on.name},
              {"device_name", on.device.name()},
              {"target", to_string(on.target)},
              {"mode", attention::mode_name(job.spec)},
              {"granularity", to_string(job.spec.granularity)},
              {"smoothing", to_string(job.spec.smoothing)},
              {"accumulation", to_string(job.spec.accumulation)},
              {"code_range", to_string(job.spec.code_range)},
              {"v_smoothing", to_string(job.spec.v_smoothing)},
              {"rotation", to_string(job.spec.rotation)},
              {"pack_gqa", job.spec.pack_gqa},
              {"dtype", to_string(job.spec.io)},
              {"output", to_string(job.spec.out)},
              {"input", inputs.origin},
              {"shape",
               {{"batch", in.q.batch},
                {"heads", in.q.heads},
                {"kv_heads", in.k.heads},
                {"q_len", in.q.tokens},
                {"kv_len", in.k.tokens},
                {"head_dim", in.q.channels},
                {"value_dim", in.v.channels}}},
              {"kernel_head_dim", job.spec.head_dim},
              {"kernel_value_dim", attention::value_dim(job.spec)},
              {"causal", causal_word(inputs.causal)},
              {"mods", mod_names(job)},
              {"layout", job.layout == Layout::hnd ? "hnd" : "nhd"},
              {"warnings", Json::array()},
              {"ptx", ptx_origin(command.ptx)},
              {"kernels", result.kernels},
              {"emit_ms", result.emit_ms},
              {"load_ms", result.load_ms},
              {"run_ms", result.run_ms}};
  if (!inputs.warning.empty()) fields["warnings"].push_back(inputs.warning);
  if (result.tiles) {
    fields["skipsoftmax"] = {{"skipped", result.tiles->skipped},
                             {"computed", result.tiles->computed}};
  }
  if (command.max_workspace) fields["workspace"] = workspace_json(result.workspace);
  if (command.invariance != attention::Invariance::none) {
    fields["invariance"] = {{"level", std::string(to_string(command.invariance))},
                            {"chunk_queries", chunk_queries(job, on)}};
  }
  if (on.emulator) fields["checks"] = command.emulator.checks == runtime::Checks::on ? "on" : "off";
  return fields;
}

std::string setup_text(const RunCommand& command, const RunInputs& inputs, const AttentionJob& job,
                       const RunDevice& on, const AttentionResult& result) {
  const reference::Inputs& in = job.inputs;
  std::string text = fmt::format(
      "input    {}: batch {}, heads {} (K and V {}), q_len {}, kv_len {}, {}, {}, causal {}\n",
      inputs.origin, in.q.batch, in.q.heads, in.k.heads, in.q.tokens, in.k.tokens, dims_text(in),
      to_string(job.spec.io), causal_word(inputs.causal));
  if (!in.mods.empty()) text += fmt::format("mods     {}\n", fmt::join(mod_names(job), ", "));
  if (in.q.channels != job.spec.head_dim) {
    text += fmt::format("         channels padded with zeros from {} to {}; softmax scale of {}\n",
                        in.q.channels, job.spec.head_dim, in.q.channels);
  }
  if (in.v.channels != attention::value_dim(job.spec) &&
      (in.q.channels != in.v.channels || job.spec.value_dim != 0)) {
    text +=
        fmt::format("         channels of V padded with zeros from {} to {}, those of O dropped\n",
                    in.v.channels, attention::value_dim(job.spec));
  }
  text += fmt::format("device   {} ({})", on.name, on.device.name());
  if (on.emulator)
    text +=
        fmt::format(", checks {}", command.emulator.checks == runtime::Checks::on ? "on" : "off");
  if (!on.why_no_gpu.empty()) text += fmt::format("; no GPU: {}", on.why_no_gpu);
  text += fmt::format("\nmode     {}, {} scales, smoothing {}{}{}, accumulation {}{}\n",
                      attention::mode_name(job.spec), to_string(job.spec.granularity),
                      to_string(job.spec.smoothing),
                      job.spec.v_smoothing == ValueSmoothing::mean ? " and of V" : "",
                      job.spec.rotation == Rotation::hadamard ? ", rotation hadamard" : "",
                      to_string(job.spec.accumulation),
                      job.spec.pack_gqa ? ", heads that share K and V packed" : "");
  if (job.spec.out != attention::OutputFormat::io) {
    text += fmt::format("output   codes of {}{}\n", to_string(job.spec.out),
                        job.spec.out == attention::OutputFormat::e4m3
                            ? fmt::format(", of O times {}", job.output_factor)
                            : ", a scale per row");
  }
  text += fmt::format("kernels  {}, PTX {}, loaded in {:.1f} ms, ran in {:.1f} ms{}\n",
                      to_string(on.target), ptx_words(ptx_origin(command.ptx)), result.load_ms,
                      result.run_ms, on.emulator ? " (of the emulator, not of a GPU)" : "");
  for (const std::string& kernel : result.kernels) text += fmt::format("         {}\n", kernel);
  if (command.max_workspace) text += workspace_text(result.workspace);
  if (command.invariance != attention::Invariance::none) text += invariance_text(job, on);
  if (result.tiles) {
    const auto [skipped, computed] = *result.tiles;
    text += fmt::format("tiles    warps skipped {} of {}\n", skipped, skipped + computed);
  }
  return text;
}

void save_output(const std::string& path, const AttentionJob& job, const AttentionResult& result) {
  const reference::Tensor &q = job.inputs.q, &v = job.inputs.v;
  const auto narrow = [](const std::vector<double>& values) {
    return std::vector<float>(values.begin(), values.end());
  };
  reference::TensorFile file;
  file.metadata = {{"made_by", "sagegen " + tool_version()},
                   {"mode", std::string(attention::mode_name(job.spec))},
                   {"layout", "batch, head, token, channel"}};
  file.tensors = {
      {.name = "o",
       .type = job.spec.io == DType::f16 ? reference::IoType::f16 : reference::IoType::bf16,
       .shape = {q.batch, q.heads, q.tokens, v.channels},
       .data = narrow(result.o)},
      {.name = "lse",
       .type = reference::IoType::f32,
       .shape = {q.batch, q.heads, q.tokens},
       .data = narrow(result.lse)}};
  make_folders_of(path);
  try {
    reference::write_safetensors(path, file);
  } catch (const reference::FileError& error) {
    throw FileError(error.what());
  }
}

// ---- the command ----------------------------------------------------------------------------------

// The result may not take the place of what it is computed from, by whatever name or link.
void check_out(const RunCommand& command) {
  check_writable(command.out);
  std::vector<std::string> read = command.input.files;
  std::error_code ignored;
  std::filesystem::directory_iterator entry(command.ptx, ignored);
  for (; !ignored && entry != std::filesystem::directory_iterator(); entry.increment(ignored))
    read.push_back(entry->path().string());
  for (const std::string& file : read) {
    if (!reference::is_same_file(command.out, file)) continue;
    throw UsageError(fmt::format(
        "--out {} is refused: it is the same file as {}, which this run reads", command.out, file));
  }
}

// A mask can hide everything; what is left to judge is that O is 0.
constexpr const char* kAllHidden = "no query sees a key";
bool all_hidden(const AttentionResult& result) {
  return !result.lse.empty() && std::ranges::all_of(result.lse, [](double lse) {
    return lse == -std::numeric_limits<double>::infinity();
  });
}

std::optional<Kernel> named_kernel(const RunCommand& command) {
  const std::optional<Kernel> named = kernel_by_key(command.kernel, command.target);
  if (named) validate_attention(*named);
  return named;
}

// What every run of one kernel begins with.
struct Opened {
  RunInputs inputs;
  RunDevice on;
  Kernel kernel;
  AttentionJob job;
};
Opened open_run(const RunCommand& command, const InputOptions& input,
                const std::optional<Kernel>& named, const runtime::EmulatorOptions& emulator,
                Output& output) {
  RunInputs inputs = load_run_inputs(named ? inputs_of_kernel(input, *named) : input);
  if (named) check_channels(inputs, *named);
  if (named) check_mods(command.mods, {*named});
  if (!inputs.warning.empty()) output.progress("warning: " + inputs.warning);
  RunDevice on = open_run_device(
      command.device, named ? to_string(named->target()) : command.target, emulator);
  check_emulator_options(command.emulator, command.emulator_only,
                         on.name);  // --device auto may have found a GPU
  if (!on.note.empty()) output.progress(fmt::format("{}: {}", on.name, on.note));
  Kernel kernel = named ? *named : kernel_for(command, inputs, on);
  AttentionJob job = job_of(command, inputs, kernel, on);
  return {std::move(inputs), std::move(on), std::move(kernel), std::move(job)};
}

Exit run_one(const RunCommand& command, const runtime::EmulatorOptions& emulator, Output& output) {
  const auto [inputs, on, kernel, job] =
      open_run(command, command.input, named_kernel(command), emulator, output);
  confirm_emulation(command.limit, on, job, emulator.checks, command.judge, 1, output);
  const std::string running = fmt::format("running on {}", on.name);
  const AttentionResult result =
      run_with_progress(job, on, running, *emulator.progress, [&] { output.progress(running); });
  if (!result.note.empty()) output.progress(fmt::format("{}: {}", on.name, result.note));
  if (all_hidden(result)) output.progress(fmt::format("warning: {}", kAllHidden));

  Json fields = setup_json(command, inputs, job, on, result);
  if (all_hidden(result)) fields["warnings"].push_back(kAllHidden);
  std::string text = setup_text(command, inputs, job, on, result);
  if (!result.o.empty()) output.progress("computing exact attention and the model");
  const Judgement judgement = judge(job, result, on, command.judge);
  text += judgement_text(judgement, job, command.judge, command.lse);
  fields.update(judgement_json(judgement, job, command.judge));
  const bool passed = result.findings.empty() && judgement.passed;
  if (!command.out.empty() && !result.o.empty()) save_output(command.out, job, result);
  fields["passed"] = passed;
  fields["findings"] = findings_json(result.findings);
  if (on.emulator) text += findings_text(result.findings);
  output.text(text);
  output.json(fields);
  return passed ? Exit::ok : Exit::check_failed;
}

// ---- many results ---------------------------------------------------------------------------------

struct SetLine {
  std::string key;
  Json fields;
  std::string text;  // what was found
  bool passed = false;
};

SetLine line_of(const Kernel& kernel, const AttentionJob& job, const RunDevice& on,
                const AttentionResult& result, const JudgeOptions& options) {
  const Judgement judgement = judge(job, result, on, options);
  SetLine line{.key = kernel.key(),
               .fields = judgement_json(judgement, job, options),
               .text = {},
               .passed = judgement.passed && result.findings.empty()};
  line.fields["findings"] = result.findings.size();
  const auto say = [&](const std::string& part) {
    line.text += (line.text.empty() ? "" : ", ") + part;
  };
  if (!judgement.stopped) {
    say(fmt::format("relative L1 {:.4g}", judgement.kernel.o.relative_l1));
    if (std::isfinite(judgement.limit))
      line.text += fmt::format(" of at most {:.4g}", judgement.limit);
    const std::int64_t rows =
        judgement.row.rows_beyond + judgement.row.rows_apart + judgement.row.lse_beyond;
    if (rows > 0) say(fmt::format("bounds of rows MISSED {} times", rows));
    if (!judgement.impossible.none()) say("values that no weights give");
  }
  if (all_hidden(result)) say(kAllHidden);
  if (!result.findings.empty()) {
    const runtime::Finding& first = result.findings.front();
    say(fmt::format("{} findings, the first: {} in {} line {}", result.findings.size(), first.check,
                    first.kernel, first.ptx_line));
  }
  return line;
}

// ---- packed sequences -----------------------------------------------------------------------------

// "100,37,0,512"
std::vector<std::int64_t> lengths_of(const char* option, const std::string& text) {
  constexpr std::int64_t kLongest = std::int64_t{1} << 24;
  std::vector<std::int64_t> lengths;
  const char* at = text.data();
  const char* const end = at + text.size();
  for (;; ++at) {
    std::int64_t length = -1;
    const auto [stop, error] = std::from_chars(at, end, length);
    if (error != std::errc() || length < 0 || length > kLongest || (stop != end && *stop != ',')) {
      throw UsageError(
          fmt::format("{} {} is refused: it is the lengths of the sequences, each from 0 to {}, as "
                      "in 100,37,0,512",
                      option, text, kLongest));
    }
    lengths.push_back(length);
    if (stop == end) return lengths;
    at = stop;
  }
}

SequenceLengths lengths_of(const RunCommand& command) {
  SequenceLengths lengths;
  lengths.queries = lengths_of("--seqlens", command.seqlens);
  lengths.keys =
      command.kv_seqlens.empty() ? lengths.queries : lengths_of("--kv-seqlens", command.kv_seqlens);
  if (lengths.queries.size() != lengths.keys.size()) {
    throw UsageError(fmt::format(
        "--kv-seqlens {} is refused: it has {} sequences and --seqlens {}; give as many",
        command.kv_seqlens, lengths.keys.size(), lengths.queries.size()));
  }
  return lengths;
}

// A batch of the largest lengths, of which each sequence has the first rows.
InputOptions inputs_of_lengths(InputOptions input, const SequenceLengths& lengths) {
  const auto most = [](const std::vector<std::int64_t>& of) {
    return std::max<std::int64_t>(std::ranges::max(of), 1);
  };
  input.shape.batch = static_cast<std::int64_t>(lengths.queries.size());
  input.shape.q_len = most(lengths.queries);
  input.shape.kv_len = most(lengths.keys);
  return input;
}

// The result of a sequence, judged as a batch of its own; one without keys has its own rule.
SetLine line_of_sequence(const RunCommand& command, const AttentionJob& packed,
                         const Kernel& kernel, const SequenceLengths& lengths, std::size_t sequence,
                         const RunDevice& on, const AttentionResult& result) {
  const std::int64_t q_len = lengths.queries[sequence], kv_len = lengths.keys[sequence];
  SetLine line;
  line.key = fmt::format("sequence {}", sequence);
  const AttentionJob job =
      job_of_sequence(packed, kernel, lengths, sequence, command.mods, command.input.seed);
  if (q_len == 0) {
    line.text = "no queries";
    line.passed = result.findings.empty();
  } else if (kv_len == 0 && !result.o.empty()) {
    line.passed = is_of_no_keys(job, result) && result.findings.empty();
    line.text =
        line.passed ? "no keys: O is 0" : "no keys, and O or its LSE is not what that gives";
  } else {
    line = line_of(kernel, job, on, result, command.judge);
    line.key = fmt::format("sequence {}", sequence);
  }
  Json fields{{"q_len", q_len}, {"kv_len", kv_len}, {"passed", line.passed}};
  if (!line.fields.is_null()) fields.update(line.fields);
  line.fields = fields;
  line.text = fmt::format("{} queries, {} keys: {}", q_len, kv_len, line.text);
  return line;
}

Exit run_sequences(const RunCommand& command, const runtime::EmulatorOptions& emulator,
                   Output& output) {
  const SequenceLengths lengths = lengths_of(command);
  const InputOptions input = inputs_of_lengths(command.input, lengths);
  const std::optional<Kernel> named = named_kernel(command);
  if (named && !named->view(attention::family()).spec.varlen) {
    throw UsageError(fmt::format(
        "--seqlens is refused: {} has no varlen, and takes batches of one length; take a key with "
        "varlen, or leave the key out",
        named->key()));
  }
  const auto [inputs, on, kernel, job] = open_run(command, input, named, emulator, output);
  confirm_emulation(command.limit, on, job, emulator.checks, command.judge, 1, output);
  double emit_ms = 0;
  const auto load_begin = std::chrono::steady_clock::now();
  const attention::Plan plan(on.device, kernel, timed(job.source, emit_ms), job.plan);
  const double load_ms = ms_since(load_begin);
  const auto rows = [](const std::vector<std::int64_t>& of) {
    std::int64_t sum = 0;
    for (const std::int64_t length : of) sum += length;
    return std::max<std::int64_t>(sum, 1);
  };
  PackedCall call(job, on, plan, rows(lengths.queries), rows(lengths.keys));
  call.set(job.inputs, lengths);
  std::optional<InterruptScope> interruptible;
  if (on.emulator) interruptible.emplace();
  const std::string running = fmt::format("running on {}", on.name);
  output.progress(running);
  const std::vector<AttentionResult> results = [&] {
    const Progress progress(running, [&] {
      return Steps{emulator.progress->ended, emulator.progress->ctas};
    });
    return call.run();
  }();
  interruptible.reset();  // what follows ends by the signal, as usual

  AttentionResult shown = results.front();
  shown.emit_ms = emit_ms;
  shown.load_ms = load_ms;
  shown.run_ms = call.run_ms();
  Json fields = setup_json(command, inputs, job, on, shown);
  std::string text = setup_text(command, inputs, job, on, shown) + "\n";
  Json sequences = Json::array();
  bool passed = true;
  for (std::size_t b = 0; b < results.size(); ++b) {
    const SetLine line = line_of_sequence(command, job, kernel, lengths, b, on, results[b]);
    passed = passed && line.passed;
    text += fmt::format("{:<6}  {}: {}\n", line.passed ? "passed" : "FAILED", line.key, line.text);
    sequences.push_back(line.fields);
  }
  fields["sequences"] = sequences;
  fields["passed"] = passed;
  fields["findings"] = findings_json(shown.findings);
  if (on.emulator) text += findings_text(shown.findings);
  output.text(text);
  output.json(fields);
  return passed ? Exit::ok : Exit::check_failed;
}

// ---- a set ----------------------------------------------------------------------------------------

// `begin` is told of the job before it runs.
SetLine run_kernel_of_set(const RunCommand& command, const Kernel& kernel,
                          const runtime::EmulatorOptions& emulator,
                          const std::function<void(const AttentionJob&, const RunDevice&)>& begin) {
  InputOptions options = command.input;
  const attention::Spec& spec = kernel.view(attention::family()).spec;
  if (!spec.causal) options.causal.reset();  // an alignment of the others
  const RunInputs inputs = load_run_inputs(inputs_of_kernel(options, kernel));
  check_channels(inputs, kernel);
  const RunDevice on = open_run_device(command.device, to_string(kernel.target()), emulator);
  check_emulator_options(command.emulator, command.emulator_only, on.name);
  const AttentionJob job = job_of(command, inputs, kernel, on);
  begin(job, on);
  SetLine line;
  try {
    const AttentionResult result = run_with_progress(
        job, on, fmt::format("running {} on {}", kernel.key(), on.name), *emulator.progress);
    line = line_of(kernel, job, on, result, command.judge);
  } catch (const runtime::DriverError& error) {  // of this kernel; the next may do better
    line = {.key = kernel.key(),
            .fields = {{"error", error.what()}},
            .text = std::regex_replace(error.what(), std::regex("\\s*\n\\s*"), "; ")};
  }
  Json fields{{"key", line.key},
              {"device", on.name},
              {"mode", attention::mode_name(spec)},
              {"output", to_string(spec.out)},
              {"value_dim", attention::value_dim(spec)},
              {"smoothing", to_string(spec.smoothing)},
              {"v_smoothing", to_string(spec.v_smoothing)},
              {"rotation", to_string(spec.rotation)},
              {"pack_gqa", spec.pack_gqa},
              {"passed", line.passed}};
  fields.update(line.fields);
  line.fields = fields;
  return line;
}

Exit run_set(const RunCommand& command, const runtime::EmulatorOptions& emulator, Output& output) {
  if (command.input.causal == Causal::none) {
    throw UsageError(
        "--causal none is refused beside --set: its kernels say whether they are causal; use "
        "top-left or bottom-right, or leave it out");
  }
  const std::vector<Kernel> kernels = kernels_of_set(command.kernel, command.target);
  check_mods(command.mods, kernels);
  Json lines = Json::array();
  std::size_t passed = 0;
  const auto begin = [&](const AttentionJob& job, const RunDevice& on) {
    if (lines.empty())  // the first stands for all
      confirm_emulation(command.limit, on, job, emulator.checks, command.judge, kernels.size(),
                        output);
  };
  for (const Kernel& kernel : kernels) {
    const SetLine line = run_kernel_of_set(command, kernel, emulator, begin);
    passed += line.passed;
    lines.push_back(line.fields);
    output.text(
        fmt::format("{:<6}  {}: {}\n", line.passed ? "passed" : "FAILED", line.key, line.text));
    if (was_interrupted()) break;
  }
  const bool all = passed == kernels.size();
  std::string summary = fmt::format("{} of {} kernels passed\n", passed, kernels.size());
  if (!all) summary += "`sagegen run KEY`, with the same options, says more of one\n";
  output.text(summary);
  output.json({{"set", command.kernel.set_file}, {"kernels", lines}, {"passed", all}});
  return all ? Exit::ok : Exit::check_failed;
}

// ---- parts of the keys ----------------------------------------------------------------------------

void check_split(const RunCommand& command, const AttentionJob& job) {
  const auto refuse = [&](const std::string& why) {
    throw UsageError(fmt::format("--split {} is refused: {}", command.split, why));
  };
  const std::int64_t keys = job.inputs.k.tokens;
  if (command.split > keys)
    refuse(fmt::format("there are {} keys; give at most as many parts", keys));
  if (job.inputs.causal || !job.inputs.mods.empty()) {
    refuse(
        "masks, biases and sinks count keys from the first one of a call, which is that of a part; "
        "leave them out");
  }
  if (job.spec.out != attention::OutputFormat::io)
    refuse("parts of O are merged as they are, and not as codes; leave --output out");
}

SetLine line_of_part(const RunCommand& command, const SplitRun& run, std::size_t part,
                     const Kernel& kernel, const RunDevice& on) {
  SetLine line = line_of(kernel, run.jobs[part], on, run.parts[part], command.judge);
  line.key = fmt::format("part {}", part);
  const std::int64_t keys = run.jobs[part].inputs.k.tokens;
  line.text = fmt::format("{} keys: {}", keys, line.text);
  Json fields{{"kv_len", keys}, {"passed", line.passed}};
  fields.update(line.fields);
  line.fields = fields;
  return line;
}

Exit run_parts(const RunCommand& command, const runtime::EmulatorOptions& emulator,
               Output& output) {
  const auto [inputs, on, kernel, job] =
      open_run(command, command.input, named_kernel(command), emulator, output);
  check_split(command, job);
  confirm_emulation(command.limit, on, job, emulator.checks, command.judge, 1, output);
  output.progress(fmt::format("running on {}", on.name));
  std::optional<InterruptScope> interruptible;
  if (on.emulator) interruptible.emplace();
  const SplitRun run = run_split(job, on, equal_parts(job.inputs.k.tokens, command.split));
  interruptible.reset();  // what follows ends by the signal, as usual

  Json fields = setup_json(command, inputs, job, on, run.all);
  std::string text = setup_text(command, inputs, job, on, run.all);
  bool passed = run.all.findings.empty() && !run.all.o.empty();
  Json lines = Json::array();
  std::vector<reference::Output> parts;
  for (std::size_t i = 0; i < run.parts.size(); ++i) {
    const SetLine line = line_of_part(command, run, i, kernel, on);
    passed &= line.passed;
    lines.push_back(line.fields);
    text += fmt::format("{:<6}  {}: {}\n", line.passed ? "passed" : "FAILED", line.key, line.text);
    parts.push_back({run.parts[i].o, run.parts[i].lse});
  }
  fields["split"] = lines;
  if (!run.all.o.empty()) {
    const std::int64_t channels = job.inputs.v.channels;
    const reference::IoType io =
        job.spec.io == DType::f16 ? reference::IoType::f16 : reference::IoType::bf16;
    const MergeJudgement merge = judge_merge(parts, {run.all.o, run.all.lse}, channels, io);
    text += fmt::format("{:<6}  merge: O {:.3f} and LSE {:.3f} of their bounds against fp64\n",
                        merge.passed() ? "passed" : "FAILED", merge.o, merge.lse);
    fields["merge"] = {{"o_of_bound", merge.o}, {"lse_of_bound", merge.lse}};
    // Its rows are of other groups and means than those of a call for all keys, which bounds of rows are about.
    const Judgement all = judge(job, run.all, on, command.judge);
    // Of an O of zeros there is no relative limit, and nothing that may differ.
    const double limit = (std::isfinite(all.limit) ? all.limit : 0) + l1_of_rounded_parts(parts, channels, io);
    const bool within = all.kernel.o.relative_l1 <= limit;
    text += fmt::format("{:<6}  all keys: relative L1 {:.4g} of at most {:.4g}, LSE {:.3g}\n",
                        within ? "passed" : "FAILED", all.kernel.o.relative_l1, limit,
                        all.kernel.lse.max_abs);
    fields["relative_l1"] = all.kernel.o.relative_l1;
    fields["limit"] = limit;
    fields["lse"] = {{"max_abs", all.kernel.lse.max_abs},
                     {"non_finite", all.kernel.lse.non_finite}};
    passed = passed && merge.passed() && within;
  }
  fields["passed"] = passed;
  fields["findings"] = findings_json(run.all.findings);
  if (on.emulator) text += findings_text(run.all.findings);
  output.text(text);
  output.json(fields);
  return passed ? Exit::ok : Exit::check_failed;
}

Exit run_command(const RunCommand& command, Output& output) {
  check_emulator_options(command.emulator, command.emulator_only, command.device);
  if (!command.out.empty()) check_out(command);
  runtime::EmulatorOptions emulator = command.emulator;
  emulator.interrupt = interrupt_flag();
  emulator.progress = std::make_shared<runtime::LaunchProgress>();
  if (!command.seqlens.empty()) return run_sequences(command, emulator, output);
  if (command.split > 1) return run_parts(command, emulator, output);
  return command.kernel.set_file.empty() ? run_one(command, emulator, output)
                                         : run_set(command, emulator, output);
}

void define_run(CLI::App& app, RunCommand& command) {
  define_run_kernel(app, command.kernel);
  define_inputs(app, command.input);
  refuse_without(app.add_option("--prefix", command.input.prefix,
                                "take PREFIX.q, PREFIX.k, PREFIX.v of the safetensors file"),
                 app.get_option("--input"));
  app.get_option("--prefix")->group("Inputs");
  CLI::Option* dtype = app.get_option("--dtype");
  refuse_beside(dtype, command.kernel.named,
                "the key says it; change the key, or leave one of the two out");
  refuse_beside(dtype, command.kernel.of_set,
                "the set says it; change the set, or leave one of the two out");
  define_mods(app, command.mods);
  app.add_option("--device", command.device, "auto, cuda:N, emulator or emulator:PROFILE")
      ->capture_default_str();
  app.add_option("--target", command.target,
                 "make PTX for sm_80, ... (default: the device's best)");
  add_choice<Layout>(app, "--layout", command.layout, {{"hnd", Layout::hnd}, {"nhd", Layout::nhd}},
                     "of the tensors on the device (default: hnd)");
  refuse_beside(app.add_flag("--lse", command.lse,
                             "report the error of the log-sum-exp, too (--json always does)"),
                command.kernel.of_set, "a kernel's line has no room for it; --json reports it");
  define_judge(app, command.judge);
  app.add_option("--ptx", command.ptx,
                 "generator, embedded, a directory with <key>.ptx files, which may be edited, or a "
                 "bundle, as generated/kernels.bundle (default: generator if it is built in)");
  command.emulator_only = define_emulator_options(app, command.emulator);
  define_limit(app, command.limit);
  CLI::Option* seqlens =
      app.add_option("--seqlens", command.seqlens,
                     "packed sequences of so many queries, each judged; kernels read the "
                     "lengths on the device (varlen)");
  refuse_empty(seqlens);
  refuse_beside(seqlens, command.kernel.of_set, "its kernels are run one by one on a dense batch");
  for (const char* own : {"--batch", "--q-len", "--kv-len", "--input"})
    refuse_beside(app.get_option(own), seqlens, "the lengths of the sequences say the shape");
  CLI::Option* kv_seqlens =
      app.add_option("--kv-seqlens", command.kv_seqlens, "of their keys (default: as --seqlens)");
  refuse_empty(kv_seqlens);
  refuse_without(kv_seqlens, seqlens);
  app.add_option("--max-workspace", command.max_workspace,
                 "BYTES: what the workspace may take; more is attended by batches or heads, one "
                 "after another, and the report says what it holds")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 62));
  CLI::Option* split =
      app.add_option("--split", command.split,
                     "N: attention over N parts of the keys, each judged, merged by their "
                     "log-sum-exp (merge_partials)")
          ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 16));
  refuse_beside(split, command.kernel.of_set, "its kernels are run one by one on all keys");
  refuse_beside(split, seqlens, "parts are of a dense batch");
  using enum attention::Invariance;
  refuse_beside(
      add_choice<attention::Invariance>(
          app, "--invariant", command.invariance,
          {{"batch", batch}, {"query_chunks", query_chunks}, {"growing_keys", growing_keys}},
          "what its bits must not depend on: the rest of the batch, where queries are cut "
          "into calls, or keys that grow, too; kernels that cannot are refused"),
      split, "sums over parts of the keys have other bits");
  CLI::Option* out = app.add_option("--out", command.out, "write o and lse to a safetensors file");
  refuse_empty(out);
  refuse_beside(out, command.kernel.of_set, "it holds the result of one kernel");
  refuse_beside(out, seqlens, "it holds the result of one shape");
  refuse_beside(out, split, "it holds the result of one call");
}

}  // namespace

void add_run(App& app) {
  app.add<RunCommand>(
      "run", "compute attention and compare it with fp64 and with a model of the quantization",
      "  sagegen run --dist outlier --heads 4 --q-len 1024\n"
      "  sagegen run --input qkv.safetensors --device cuda:0 --out o.safetensors\n"
      "  sagegen run --input q.npy k.npy v.npy --causal bottom-right --dtype bf16\n"
      "  sagegen run --device emulator --target sm_80 --mode int8-fp16 --granularity per_block "
      "--json\n"
      "  sagegen run --causal bottom-right --window 128,0 --sinks 0\n"
      "  sagegen run --seqlens 100,37,0,512 --causal bottom-right\n"
      "  sagegen run --heads 32 --max-workspace 1000000    in as many calls as that takes\n"
      "  sagegen run --split 4 --kv-len 1000               split KV, merged\n"
      "  sagegen run --invariant query_chunks --q-len 256  the same bits in any chunks\n"
      "  sagegen run --schedule q64k64w4s3                 other tiles, warps, stages\n"
      "  sagegen run KEY --causal bottom-right             one kernel of `sagegen list`\n"
      "  sagegen run --set mine.toml --q-len 200           every kernel of a set",
      define_run, run_command);
}

}  // namespace sagegen::cli
