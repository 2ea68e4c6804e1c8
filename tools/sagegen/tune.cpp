// `sagegen tune`: the fastest schedule for each problem on this device, into the database that applications read.
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <ctime>
#include <new>
#include <regex>

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "sagegen/runtime/error.h"
#include "tools/model/ptxas.h"
#include "tools/reference/whole_file.h"
#include "tools/sagegen/app.h"
#include "tools/sagegen/emulator_options.h"
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
#include "tools/sagegen/tune_judge.h"
#include "tools/sagegen/tune_report.h"
#include "tools/sagegen/tune_worker.h"

namespace sagegen::cli {
namespace {

using Clock = std::chrono::steady_clock;
using attention::Tuner;
using runtime::Deployment, runtime::Outcome, runtime::Sweep, runtime::SweepStep;

enum class UseModel { automatic, on, off };

struct TuneCommand {
  std::vector<std::string> plans;
  std::string mode = "int8", dtype = "f16", shapes_file, filter, shard, device = "auto", target,
              ptx, html, cache;
  int head_dim = 128;
  bool causal = false, again = false;
  attention::Shape shape{.batch = 1, .q_heads = 32, .kv_heads = 0, .q_len = 4096, .kv_len = 0};
  Deployment deployment = Deployment::eager;
  UseModel model = UseModel::automatic;
  double budget = 0;      // seconds; 0: as long as it takes
  double patience = 120;  // seconds of one step
  runtime::EmulatorOptions emulator;
  std::vector<const CLI::Option*> emulator_only;
};

struct TuneProblem {
  Kernel kernel;  // with the default schedule
  attention::Shape shape;
};

// ---- which problems -------------------------------------------------------------------------------

attention::Shape completed(attention::Shape shape, const std::string& origin) {
  if (shape.kv_heads == 0) shape.kv_heads = shape.q_heads;
  if (shape.kv_len == 0) shape.kv_len = shape.q_len;
  // Beyond these no product of sizes is.
  constexpr std::int64_t kMost = std::int64_t{1} << 30;
  for (const std::int64_t size :
       {shape.batch, shape.q_heads, shape.kv_heads, shape.q_len, shape.kv_len}) {
    if (size > kMost)
      throw UsageError(
          fmt::format("{}: a size of {} is refused: the most is {}", origin, size, kMost));
  }
  if (shape.batch < 1 || shape.q_len < 1 || shape.kv_len < 1 || shape.kv_heads < 1 ||
      shape.q_heads % shape.kv_heads != 0) {
    throw UsageError(
        fmt::format("{}: {} is no shape: sizes are 1 or more, and kv_heads divides heads", origin,
                    to_string(shape)));
  }
  return shape;
}

// "batch=1 heads=32 kv_heads=8 q_len=4096 kv_len=4096" in a line; # begins a comment.
std::vector<attention::Shape> shapes_of_file(const std::string& file) {
  std::vector<attention::Shape> shapes;
  const std::string text = read_file(file);
  int line_number = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    at = end + 1;
    ++line_number;
    line = line.substr(0, line.find('#'));
    attention::Shape shape{.batch = 1, .q_heads = 0, .kv_heads = 0, .q_len = 0, .kv_len = 0};
    static const std::regex word(R"([^ \t\r]+)");
    bool any = false;
    for (auto match = std::sregex_iterator(line.begin(), line.end(), word);
         match != std::sregex_iterator(); ++match) {
      const std::string pair = match->str();
      const std::size_t equals = pair.find('=');
      const std::string name = pair.substr(0, equals);
      std::int64_t* value = name == "batch"      ? &shape.batch
                            : name == "heads"    ? &shape.q_heads
                            : name == "kv_heads" ? &shape.kv_heads
                            : name == "q_len"    ? &shape.q_len
                            : name == "kv_len"   ? &shape.kv_len
                                                 : nullptr;
      const char* first = pair.data() + std::min(equals, pair.size() - 1) + 1;
      const char* last = pair.data() + pair.size();
      if (value == nullptr || equals == std::string::npos ||
          std::from_chars(first, last, *value).ptr != last || first == last || *value < 1) {
        throw FileError(
            fmt::format("{}:{}: \"{}\" is none of batch=N, heads=N, kv_heads=N, q_len=N, kv_len=N "
                        "with N from 1",
                        file, line_number, pair));
      }
      any = true;
    }
    if (!any) continue;
    if (shape.q_heads == 0 || shape.q_len == 0)
      throw FileError(fmt::format("{}:{}: a shape needs heads=N and q_len=N", file, line_number));
    try {
      shapes.push_back(completed(shape, fmt::format("{}:{}", file, line_number)));
    } catch (const UsageError& error) {
      throw FileError(error.what());
    }
  }
  if (shapes.empty())
    throw FileError(fmt::format("{}: no shape; a line is like: heads=32 q_len=4096", file));
  return shapes;
}

std::vector<Kernel> kernels_of(const TuneCommand& command, Target target) {
  std::vector<Kernel> kernels;
  if (command.plans.empty()) {
    RunKernelOptions words;
    words.mode = command.mode;
    attention::Spec spec{.head_dim = command.head_dim,
                         .io = command.dtype == "bf16" ? DType::bf16 : DType::f16,
                         .causal = command.causal};
    kernels.push_back(kernel_by_words(words, spec, target));
  }
  for (const std::string& plan : command.plans) kernels.push_back(attention_of_plan(plan, target));
  for (const Kernel& kernel : kernels) {
    validate_attention(kernel);
    if (attention::takes_given_codes(kernel.view(attention::family()).spec)) {
      throw UsageError(
          fmt::format("{} attends codes of the caller, which `sagegen tune` has none of; tune the "
                      "kernel without inputs=given, "
                      "whose loop is the same",
                      kernel.key()));
    }
  }
  return kernels;
}

std::vector<TuneProblem> problems_of(const TuneCommand& command, Target target) {
  const std::vector<attention::Shape> shapes =
      command.shapes_file.empty() ? std::vector{completed(command.shape, "the shape")}
                                  : shapes_of_file(command.shapes_file);
  std::vector<TuneProblem> all;
  for (const Kernel& kernel : kernels_of(command, target)) {
    for (const attention::Shape& shape : shapes) all.push_back({kernel, shape});
  }
  if (command.shard.empty()) return all;
  static const std::regex form("([0-9]{1,6})/([0-9]{1,6})");
  std::smatch match;
  std::size_t part = 0, parts = 0;
  if (std::regex_match(command.shard, match, form)) {
    part = std::stoul(match[1]);
    parts = std::stoul(match[2]);
  }
  if (part < 1 || part > parts) {
    throw UsageError(
        fmt::format("--shard {} is refused: it is I/N, with I from 1 to N, as 2/8", command.shard));
  }
  std::vector<TuneProblem> mine;
  for (std::size_t i = part - 1; i < all.size(); i += parts) mine.push_back(all[i]);
  return mine;
}

// Matched without backtracking, which takes no longer than pattern times schedule whatever is repeated in what. Back
// references need it, and are refused; so are patterns that are longer than any use.
std::regex schedule_filter(const std::string& text) {
  constexpr std::size_t kLongest = 500;
  try {
    if (text.size() <= kLongest)
      return std::regex(text, std::regex::ECMAScript | std::regex_constants::__polynomial);
  } catch (const std::regex_error&) {
  }
  throw UsageError(
      fmt::format("--filter {} is refused: it is a regular expression (ECMAScript) of at most {} "
                  "characters, without back references, such as q64.*s[23]",
                  text, kLongest));
}

// ---- one problem ----------------------------------------------------------------------------------

std::string time_text(std::time_t time) {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(time));
}

struct Session {
  const TuneCommand& command;
  const RunDevice& on;
  const Heart& heart;
  std::optional<Death>& death;
  std::filesystem::path cache;
  runtime::DeviceFingerprint fingerprint;
  Clock::time_point end;     // of the budget
  std::string journal = {};  // of the problem at hand, by its name
  std::string where = {};    // "problem 2 of 8: "

  // Steps of several problems may have the same name.
  std::string step(const std::string& schedule) const { return journal + "\t" + schedule; }
  void beat(const std::string& schedule) const { heart.beat(step(schedule)); }

  bool is_over() const { return was_interrupted() || Clock::now() >= end; }
};

// All that a journal's lines depend on.
std::string subject_of(const Session& session, const TuneProblem& problem,
                       const runtime::TuningKey& key) {
  const TuneCommand& command = session.command;
  std::string text = attention::sweep_subject(key, problem.shape, problem.kernel) + ", PTX " +
                     ptx_origin(command.ptx);
  if (!command.filter.empty()) text += ", filter " + command.filter;
  if (command.model != UseModel::automatic)
    text += command.model == UseModel::on ? ", model on" : ", model off";
  return text;
}

runtime::TuningKey key_of(const Session& session, const TuneProblem& problem) {
  return attention::tuning_key(problem.kernel, attention::shape_class(problem.shape),
                               session.command.deployment, session.fingerprint);
}

std::filesystem::path journal_of(const Session& session, const TuneProblem& problem) {
  const runtime::TuningKey key = key_of(session, problem);
  return attention::sweep_journal(session.cache / "sweeps", key, subject_of(session, problem, key));
}

bool prunes_by_model(const Session& session, const Kernel& kernel, std::string& gpu) {
  const TuneCommand& command = session.command;
  if (command.model == UseModel::off ||
      (command.model == UseModel::automatic && session.on.emulator))
    return false;
  if (const std::string why = why_no_model(); !why.empty()) {
    if (command.model == UseModel::on) throw FileError(why);
    return false;
  }
  // "NVIDIA GeForce RTX 4090" is RTX4090 to the model; of one that it does not know it says nothing.
  std::string name = session.fingerprint.name;
  std::erase(name, ' ');
  for (const model::Gpu& known : model::gpus()) {
    if (known.architecture == kernel.target().sm && name.find(known.name) != std::string::npos)
      gpu = known.name;
  }
  return command.model == UseModel::on || !gpu.empty();
}

void check_candidates(const Session& session, Tuner& tuner, Sweep& sweep,
                      const std::map<std::string, std::string>& reasons) {
  std::optional<std::regex> filter;
  if (!session.command.filter.empty()) filter = schedule_filter(session.command.filter);
  const std::size_t all = sweep.schedules().size();
  std::atomic<std::uint64_t> done{all - sweep.checks_left()};
  Progress progress(session.where + "checking schedules",
                    [&] { return Steps{.done = done, .total = all}; });
  for (auto step = sweep.next(); step && step->kind == SweepStep::Kind::check;
       step = sweep.next(), ++done) {
    if (session.is_over()) return sweep.rest();
    const std::string& schedule = sweep.schedules()[step->candidate];
    const bool usual = step->candidate == sweep.usual();
    if (filter && !usual && !std::regex_search(schedule, *filter)) {
      sweep.checked(step->candidate, {Outcome::pruned, "not in --filter"});
      continue;
    }
    const auto reason = reasons.find(schedule);
    if (!usual && reason != reasons.end() && !reason->second.empty()) {
      sweep.checked(step->candidate, {Outcome::pruned, reason->second});
      continue;
    }
    sweep.begin(step->candidate);
    session.beat(schedule);
    const runtime::Trial trial = tuner.check(schedule);
    session.heart.beat("");
    if (was_interrupted())
      return sweep.rest();  // a launch was cut off, which is no fault of its own
    sweep.checked(step->candidate, trial);
    if (tuner.device_is_lost()) end_for_a_fresh_child();
  }
}

void race(const Session& session, Tuner& tuner, Sweep& sweep, Output& output) {
  std::optional<std::size_t> leader;
  std::atomic<std::uint64_t> done{0}, left{0};
  Progress progress(session.where + "timing",
                    [&] { return Steps{.done = done, .total = done + left}; });
  while (const auto step = sweep.next()) {
    if (sweep.race() != nullptr) {
      done = sweep.race()->samples();
      left = sweep.race()->samples_left();
    }
    if (step->kind != SweepStep::Kind::sample || session.is_over()) return;
    const std::string& schedule = sweep.schedules()[step->candidate];
    session.beat(schedule);
    double time = 0;
    try {
      time = tuner.sample(schedule);
    } catch (const runtime::DriverError& error) {
      session.heart.beat("");
      if (was_interrupted()) return;
      if (error.result() == static_cast<int>(runtime::Result::out_of_memory)) throw;
      sweep.checked(step->candidate, {Outcome::faulted, std::string(error.what()).substr(0, 300)});
      if (tuner.device_is_lost()) end_for_a_fresh_child();
      continue;
    }
    session.heart.beat("");
    if (was_interrupted()) return;
    sweep.sampled(time);
    const runtime::Race& all = *sweep.race();
    if (const auto first = all.standings().front();
        first.ratio > 0 && leader != first.candidate && all.samples() > sweep.schedules().size()) {
      leader = first.candidate;
      output.progress(fmt::format("best so far: {:.3f} of the default's, about {} samples left",
                                  first.ratio, all.samples_left()));
    }
  }
}

TunedProblem result_of(const TuneProblem& problem, const Tuner& tuner, const Sweep& sweep) {
  TunedProblem result{
      .kernel = problem.kernel,
      .shape = problem.shape,
      .shape_class = to_string(attention::shape_class(problem.shape)),
      .unit = std::string(tuner.stopwatch().unit()),
      .winner = {},
      .complete = !sweep.next(),
      .steps_left = sweep.checks_left() + (sweep.race() ? sweep.race()->samples_left() : 0),
      .schedules = {},
      .stored = {}};
  std::vector<bool> listed(sweep.schedules().size());
  const auto add = [&](std::size_t candidate, const runtime::Race::Standing* standing) {
    TunedSchedule line;
    line.schedule = sweep.schedules()[candidate];
    if (const auto& trial = sweep.trial(candidate)) {
      line.outcome = trial->outcome;
      line.reason = trial->reason;
    }
    if (standing != nullptr) {
      line.time = standing->time;
      line.ratio = standing->ratio;
      line.samples = standing->samples;
    }
    listed[candidate] = true;
    result.schedules.push_back(std::move(line));
  };
  if (const runtime::Race* all = sweep.race()) {
    for (const runtime::Race::Standing& standing : all->standings())
      add(sweep.racing()[standing.candidate], &standing);
    const std::size_t winner = sweep.racing()[all->winner()];
    if (sweep.trial(winner)->outcome == Outcome::passed) result.winner = sweep.schedules()[winner];
  }
  for (std::size_t i = 0; i < listed.size(); ++i) {
    if (!listed[i] && sweep.trial(i)) add(i, nullptr);
  }
  return result;
}

void check_and_race(Session& session, const TuneProblem& problem, Tuner& tuner, Sweep& sweep,
                    Output& output) {
  if (sweep.checks_left() > 0) {
    std::string gpu;
    std::map<std::string, std::string> reasons;
    if (prunes_by_model(session, problem.kernel, gpu))
      reasons = reasons_of_the_model(problem.kernel, gpu);
    check_candidates(session, tuner, sweep, reasons);
  }
  race(session, tuner, sweep, output);
}

TunedProblem tune_problem(Session& session, const TuneProblem& problem, Output& output) {
  const TuneCommand& command = session.command;
  const runtime::TuningKey key = key_of(session, problem);
  const runtime::ArtifactSource source = ptx_source(command.ptx, session.on);
  TuneJudge judge(problem.shape, session.on, source);
  std::vector<runtime::Buffer> mod_tensors;
  attention::TunerOptions options;
  options.deployment = command.deployment;
  options.arguments = [&] {
    attention::Arguments arguments;
    arguments.causal = attention::CausalAlignment::bottom_right;
    arguments.mods = tune_mods(problem.kernel, problem.shape, session.on.device, mod_tensors);
    return arguments;
  };
  options.judge = std::ref(judge);
  Tuner tuner(session.on.device, problem.kernel, problem.shape, source, options);
  const std::filesystem::path journal = journal_of(session, problem);
  session.journal = journal.filename().string();
  Sweep sweep(journal, subject_of(session, problem, key), tuner.schedules(), tuner.usual(),
              attention::race_options(tuner.stopwatch()));
  for (std::size_t i = 0; session.death && i < sweep.schedules().size(); ++i) {
    if (session.death->step != session.step(sweep.schedules()[i])) continue;
    sweep.checked(i, session.death->trial);
    session.death.reset();
  }
  std::string error;
  try {
    check_and_race(session, problem, tuner, sweep, output);
  } catch (const runtime::ArgumentError& refused) {  // of this problem; the next may be possible
    sweep.rest();
    error = refused.what();
  } catch (const std::bad_alloc&) {
    sweep.rest();
    error = "there is not enough memory for it";
  }
  TunedProblem result = result_of(problem, tuner, sweep);
  result.error = error;
  // One that left out schedules on request is an experiment.
  const bool whole = result.complete && !result.winner.empty() && command.filter.empty();
  if (whole) {
    result.stored = attention::store_result(runtime::TuningDatabase(session.cache / "tuning"),
                                            sweep, key, problem.shape, problem.kernel, result.unit);
  }
  return result;
}

// ---- the command ----------------------------------------------------------------------------------

void check_command(const TuneCommand& command) {
  if (!command.filter.empty()) (void)schedule_filter(command.filter);
  if (command.patience < 0.001)
    throw UsageError("--patience is refused: no step ends in less than 0.001 s");
  if (command.html.empty()) return;
  check_writable(command.html);
  if (!command.shapes_file.empty() && reference::is_same_file(command.html, command.shapes_file)) {
    throw UsageError(fmt::format("--html {} is refused: it is the same file as --shapes {}",
                                 command.html, command.shapes_file));
  }
}

std::filesystem::path cache_of(const TuneCommand& command) {
  const std::filesystem::path folder =
      command.cache.empty() ? runtime::cache_folder() : std::filesystem::path(command.cache);
  if (!folder.empty()) return folder;
  throw UsageError(
      "there is no folder to keep results in: neither SAGEGEN_CACHE_DIR, nor XDG_CACHE_HOME, nor "
      "HOME is set; give "
      "--cache DIR");
}

Exit work(const TuneCommand& command, Watched& watched, Clock::time_point end, Output& output) {
  runtime::EmulatorOptions emulator = command.emulator;
  emulator.interrupt = interrupt_flag();
  const RunDevice on = open_run_device(command.device, command.target, emulator);
  check_emulator_options(command.emulator, command.emulator_only, on.name);
  const InterruptScope interruptible;
  Session session{.command = command,
                  .on = on,
                  .heart = watched.heart,
                  .death = watched.death,
                  .cache = cache_of(command),
                  .fingerprint = runtime::fingerprint_of(on.device),
                  .end = end};
  const std::vector<TuneProblem> problems = problems_of(command, on.target);
  const std::unique_ptr<runtime::FileLock> lock = attention::timing_lock(on.device);
  if (command.again && watched.children_before == 0) {
    for (const TuneProblem& problem : problems)
      std::filesystem::remove(journal_of(session, problem));
  }
  TuneReport report{.device = session.fingerprint,
                    .device_name = on.name,
                    .deployment = std::string(to_string(command.deployment)),
                    .measured = time_text(std::time(nullptr)),
                    .problems = {}};
  if (command.model == UseModel::automatic && !on.emulator && watched.children_before == 0) {
    if (const std::string why = model::why_named_ptxas_fails(); !why.empty())
      output.progress(why + "; nothing is pruned by the model");
  }
  std::size_t number = 0;
  for (const TuneProblem& problem : problems) {
    ++number;
    if (problems.size() > 1)
      session.where = fmt::format("problem {} of {}: ", number, problems.size());
    output.progress(fmt::format("problem {} of {}: {}, {}", number, problems.size(),
                                problem.kernel.what(), to_string(problem.shape)));
    report.problems.push_back(tune_problem(session, problem, output));
    if (session.is_over()) break;
  }
  const bool failed = std::ranges::any_of(report.problems, [](const TunedProblem& problem) {
    return !problem.error.empty() || (problem.complete && problem.winner.empty());
  });
  const bool all = report.problems.size() == problems.size() &&
                   std::ranges::all_of(report.problems, &TunedProblem::complete);
  if (!command.html.empty()) write_file(command.html, report_html(report));
  output.text(report_text(report));
  if (!all && session.is_over()) {
    output.text(fmt::format("\n{}; the same command goes on from here\n",
                            was_interrupted() ? "interrupted" : "the budget is used up"));
  }
  Json json = report_json(report);
  json["complete"] = all;
  output.json(json);
  return failed || was_interrupted() ? Exit::check_failed : Exit::ok;
}

Exit tune_command(const TuneCommand& command, Output& output) {
  check_emulator_options(command.emulator, command.emulator_only, command.device);
  check_command(command);
  const auto patience =
      std::chrono::milliseconds(static_cast<std::int64_t>(command.patience * 1000));
  constexpr int kMostDeaths = 100;
  const auto budget = command.budget > 0 ? std::chrono::duration<double>(command.budget)
                                         : std::chrono::duration<double>(std::chrono::years(1));
  const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(budget);
  Watched watched = watch(patience, kMostDeaths);
  if (!watched.is_child) return static_cast<Exit>(watched.exit_status);
  return work(command, watched, end, output);
}

void define_tune(CLI::App& app, TuneCommand& command) {
  CLI::Option* plan = app.add_option("--plan", command.plans,
                                     "what to tune, again and again: a key, or options as "
                                     "\"head_dim=64 causal=true\" (default: what --head-dim, "
                                     "--mode, --dtype and --causal say)");
  CLI::Option* head_dim =
      app.add_option("--head-dim", command.head_dim, "of the kernel")->capture_default_str();
  require_whole(head_dim, 1, 256);
  CLI::Option* mode = app.add_option("--mode", command.mode, "as `sagegen run --mode`")
                          ->check(one_of(run_mode_words()))
                          ->capture_default_str();
  CLI::Option* dtype = app.add_option("--dtype", command.dtype, "f16 or bf16")
                           ->check(one_of({"f16", "bf16"}))
                           ->capture_default_str();
  CLI::Option* causal = app.add_flag("--causal", command.causal, "with a causal mask");
  for (CLI::Option* option : {head_dim, mode, dtype, causal})
    refuse_beside(option, plan, "the plan says it");
  constexpr std::uint64_t kMost = std::uint64_t{1} << 30;
  CLI::Option* shapes = app.add_option(
      "--shapes", command.shapes_file,
      "file of problems, a line each: batch=1 heads=32 kv_heads=8 q_len=4096 kv_len=4096");
  refuse_empty(shapes);
  const auto size = [&](const char* name, std::int64_t& value, const char* text) {
    CLI::Option* option = app.add_option(name, value, text);
    require_whole(option, 1, kMost);
    refuse_beside(option, shapes, "the file says the shapes");
  };
  size("--batch", command.shape.batch, "of the problem (default: 1)");
  size("--heads", command.shape.q_heads, "of Q (default: 32)");
  size("--kv-heads", command.shape.kv_heads, "of K and V (default: as --heads)");
  size("--q-len", command.shape.q_len, "queries (default: 4096)");
  size("--kv-len", command.shape.kv_len, "keys (default: as --q-len)");
  app.add_option("--device", command.device, "auto, cuda:N, emulator or emulator:PROFILE")
      ->capture_default_str();
  app.add_option("--target", command.target,
                 "make PTX for sm_80, ... (default: the device's best)");
  app.add_option("--ptx", command.ptx, "where PTX is from, as `sagegen run --ptx`");
  add_choice<Deployment>(app, "--deployment", command.deployment,
                         {{"eager", Deployment::eager}, {"graph", Deployment::graph}},
                         "how launches are made where the result is used (default: eager)");
  refuse_empty(app.add_option("--filter", command.filter,
                              "schedules that match this regular expression, and the default"));
  refuse_empty(app.add_option("--shard", command.shard,
                              "I/N: every N-th problem from the I-th, for a fleet"));
  require_number(app.add_option("--budget", command.budget,
                                "stop after so many seconds; the same command goes on"),
                 1e9);
  require_number(app.add_option("--patience", command.patience,
                                "seconds that one step may take before it counts as hung")
                     ->capture_default_str(),
                 1e6);
  add_choice<UseModel>(
      app, "--model", command.model,
      {{"auto", UseModel::automatic}, {"on", UseModel::on}, {"off", UseModel::off}},
      "prune by ptxas and the static model (default: on a GPU that the model knows)");
  app.add_flag("--again", command.again, "forget what an earlier sweep of the same problems found");
  refuse_empty(app.add_option(
      "--cache", command.cache,
      "folder of results (default: SAGEGEN_CACHE_DIR, or sagegen in the user's cache)"));
  refuse_empty(app.add_option("--html", command.html, "write a page with drawings"));
  command.emulator_only = define_emulator_options(app, command.emulator);
}

}  // namespace

void add_tune(App& app) {
  app.add<TuneCommand>(
      "tune",
      "find the fastest schedule for each problem on a device, and keep it for applications",
      "  sagegen tune --head-dim 128 --causal --q-len 4096\n"
      "  sagegen tune --plan \"head_dim=64 io=bf16\" --plan KEY --shapes shapes.txt --html "
      "report.html\n"
      "  sagegen tune --device emulator:sm_89 --head-dim 64 --q-len 256 --heads 1 --budget 60 "
      "--json\n"
      "  sagegen tune --shapes shapes.txt --shard 3/8      one of eight machines",
      define_tune, tune_command);
}

}  // namespace sagegen::cli
