#include "tools/sagegen/emulation_cost.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <thread>

#include <fmt/format.h>

#include "tools/sagegen/errors.h"
#include "tools/sagegen/help.h"
#include "tools/sagegen/options.h"
#include "tools/sagegen/progress.h"

namespace sagegen::cli {
namespace {

// Nanoseconds of one core, fitted to runs of 3072 tokens with head_dim 64 and 128 on a Xeon with AVX-512.
struct Rates {
  double codes, halves;  // per multiplication of 8 or 16 bits on the tensor cores
  double loads;          // of K and V for a row of Q, per channel and key, where a tile has one row
  double mod, tensor;    // per score: of any mask or bias, and of one that is read from memory
};
constexpr Rates kChecked{.codes = 0.2, .halves = 1.2, .loads = 37, .mod = 20, .tensor = 280};
constexpr Rates kUnchecked{.codes = 0.1, .halves = 0.4, .loads = 15, .mod = 10, .tensor = 180};
constexpr double kJudging = 2.2;  // per multiplication of fp64, in three passes
constexpr double kMoment = 2;     // seconds of which nothing is said

std::string in_words(double seconds) {
  if (seconds < 1) return fmt::format("{:.1g} s", seconds);
  if (seconds < 100) return fmt::format("{:.0f} s", seconds);
  if (seconds < 100 * 60) return fmt::format("{:.0f} min", seconds / 60);
  return fmt::format("{:.0f} h", seconds / 3600);
}

// As `job`, of other lengths and without data: enough to estimate it.
AttentionJob of_lengths(const AttentionJob& job, std::int64_t q_len, std::int64_t kv_len) {
  AttentionJob other;
  other.spec = job.spec;
  other.schedule = job.schedule;
  other.causal = job.causal;
  const auto shape = [](const reference::Tensor& from, std::int64_t tokens) {
    reference::Tensor tensor;
    tensor.batch = from.batch;
    tensor.heads = from.heads;
    tensor.tokens = tokens;
    tensor.channels = from.channels;
    return tensor;
  };
  other.inputs.q = shape(job.inputs.q, q_len);
  other.inputs.k = shape(job.inputs.k, kv_len);
  other.inputs.v = shape(job.inputs.v, kv_len);
  other.inputs.mods.resize(job.inputs.mods.size());
  return other;
}

// A size that is estimated to take at most `seconds`, by halves of the tokens, in words.
std::string smaller_size(const AttentionJob& job, runtime::Checks checks, const JudgeOptions& judge,
                         double seconds) {
  std::int64_t q_len = job.inputs.q.tokens, kv_len = job.inputs.k.tokens;
  while (q_len > 1 || kv_len > 1) {
    q_len = std::max<std::int64_t>(q_len / 2, 1);
    kv_len = std::max<std::int64_t>(kv_len / 2, 1);
    if (estimated_seconds(of_lengths(job, q_len, kv_len), checks, judge) <= seconds)
      return fmt::format("q_len {} and kv_len {} would do, or fewer heads", q_len, kv_len);
  }
  return "not even one query and one key are within it";
}

bool asked(const std::string& question) {
  if (::isatty(STDIN_FILENO) != 1 || ::isatty(STDERR_FILENO) != 1) return false;
  const std::string text = question + "; go on? [y/N] ";
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
  const int answer = std::getchar();
  return answer == 'y' || answer == 'Y';
}

int bits_of(DType type) { return type == DType::f16 || type == DType::bf16 ? 16 : 8; }

}  // namespace

void define_limit(CLI::App& app, EmulationLimit& limit) {
  const OptionGroup group(app, "Emulator");
  CLI::Option* yes = app.add_flag("--yes", limit.yes, "start emulation however long it takes");
  CLI::Option* seconds =
      app.add_option("--limit", limit.seconds,
                     "ask before emulation that is estimated to take longer, or refuse it where "
                     "nobody can be asked; 0 for no limit")
          ->type_name("SECONDS")
          ->capture_default_str();
  require_number(seconds, std::numeric_limits<double>::max());
  refuse_beside(seconds, yes, "it is started however long it takes");
}

double visible_scores(double q_len, double kv_len, bool causal,
                      attention::CausalAlignment alignment) {
  if (!causal) return q_len * kv_len;
  const double shorter = std::min(q_len, kv_len);
  const double triangle = shorter * (shorter + 1) / 2;
  if (alignment == attention::CausalAlignment::top_left)
    return triangle + std::max(q_len - kv_len, 0.0) * kv_len;
  return triangle + std::max(kv_len - q_len, 0.0) * q_len;
}

double estimated_seconds(const AttentionJob& job, runtime::Checks checks,
                         const JudgeOptions& judge) {
  const attention::Spec& spec = job.spec;
  const reference::Tensor &q = job.inputs.q, &k = job.inputs.k;
  const double q_len = static_cast<double>(q.tokens), kv_len = static_cast<double>(k.tokens);
  const double heads = static_cast<double>(q.batch * q.heads);
  const double qk = spec.head_dim, pv = attention::value_dim(spec);
  const Rates rates = checks == runtime::Checks::on ? kChecked : kUnchecked;
  const double score = qk * (bits_of(spec.qk) == 16 ? rates.halves : rates.codes) +
                       pv * (bits_of(spec.pv) == 16 ? 2 * rates.codes : rates.codes) +
                       (qk + pv) * rates.loads / job.schedule.cta_q +
                       static_cast<double>(job.inputs.mods.size()) * rates.mod +
                       (spec.bias || spec.mask ? rates.tensor : 0);
  const double emulated = heads * visible_scores(q_len, kv_len, spec.causal, job.causal) * score;
  const double rows = static_cast<double>(rows_to_judge(job, judge).size());
  const double judged = rows * kv_len * (qk + pv) * kJudging;
  const double cores = std::max(std::thread::hardware_concurrency(), 1u);
  const double blocks = heads * std::ceil(q_len / job.schedule.cta_q);
  return 1e-9 * (emulated / std::min(cores, blocks) + judged / cores);
}

void confirm_emulation(const EmulationLimit& limit, const RunDevice& on, const AttentionJob& job,
                       runtime::Checks checks, const JudgeOptions& judge, std::size_t jobs,
                       const Output& output) {
  if (!on.emulator) return;
  const double seconds = static_cast<double>(jobs) * estimated_seconds(job, checks, judge);
  const std::string what =
      fmt::format("emulating this takes about {} (an estimate)", in_words(seconds));
  const bool within = limit.yes || limit.seconds == 0 || seconds <= limit.seconds;
  if (within) {
    if (seconds > kMoment) output.progress(what);
    return;
  }
  if (asked(what)) return;
  throw UsageError(
      fmt::format("{}, more than --limit {} s, and was not started; {}; --yes or a higher --limit "
                  "starts it all "
                  "the same",
                  what, limit.seconds,
                  smaller_size(job, checks, judge, limit.seconds / static_cast<double>(jobs))));
}

}  // namespace sagegen::cli
