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

// Of one core, in nanoseconds: per score, and per multiplication of it in Q K and P V. Fitted to runs of head_dim 64 and
// 128, with and without checks, on a Xeon with AVX-512.
struct Rate {
  double per_score, per_product;
};
constexpr Rate kChecked{.per_score = 25, .per_product = 0.35};
constexpr Rate kUnchecked{.per_score = 10, .per_product = 0.12};
constexpr double kMoment = 2;  // seconds of which nothing is said

std::string in_words(double seconds) {
  if (seconds < 100) return fmt::format("{:.0f} s", seconds);
  if (seconds < 100 * 60) return fmt::format("{:.0f} min", seconds / 60);
  return fmt::format("{:.0f} h", seconds / 3600);
}

// A multiple of 64 tokens of Q, and as many of K in proportion, whose cost is `share` of that of `job`.
std::string smaller_size(const AttentionJob& job, double share) {
  const double q = static_cast<double>(job.inputs.q.tokens);
  const double kv = static_cast<double>(job.inputs.k.tokens);
  const auto scaled = [&](double tokens) {
    return std::max(std::floor(tokens * std::sqrt(share) / 64) * 64, std::min(tokens, 64.0));
  };
  return fmt::format("q_len {:.0f} and kv_len {:.0f}", scaled(q), scaled(kv));
}

bool asked(const std::string& question) {
  if (::isatty(STDIN_FILENO) != 1 || ::isatty(STDERR_FILENO) != 1) return false;
  const std::string text = question + "; go on? [y/N] ";
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
  const int answer = std::getchar();
  return answer == 'y' || answer == 'Y';
}

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

double estimated_seconds(const AttentionJob& job, runtime::Checks checks) {
  const reference::Tensor &q = job.inputs.q, &k = job.inputs.k;
  const double q_len = static_cast<double>(q.tokens);
  const double heads = static_cast<double>(q.batch * q.heads);
  const double scores =
      heads * visible_scores(q_len, static_cast<double>(k.tokens), job.spec.causal, job.causal);
  const Rate rate = checks == runtime::Checks::on ? kChecked : kUnchecked;
  const double channels = job.spec.head_dim + attention::value_dim(job.spec);
  const double work = 1e-9 * scores * (rate.per_score + rate.per_product * channels);
  const double blocks = heads * std::ceil(q_len / job.schedule.cta_q);
  const double cores = std::max(std::thread::hardware_concurrency(), 1u);
  return work / std::min(cores, blocks);
}

void confirm_emulation(const EmulationLimit& limit, const RunDevice& on, const AttentionJob& job,
                       runtime::Checks checks, std::size_t jobs, const Output& output) {
  if (!on.emulator) return;
  const double seconds = static_cast<double>(jobs) * estimated_seconds(job, checks);
  if (seconds <= kMoment) return;
  const std::string what =
      fmt::format("emulating this takes about {} (an estimate)", in_words(seconds));
  const bool within = limit.yes || limit.seconds == 0 || seconds <= limit.seconds;
  if (within) return output.progress(what);
  if (asked(what)) return;
  throw UsageError(fmt::format(
      "{}, more than --limit {:g} s, and was not started; {} would do with less, or fewer heads; "
      "give --yes or a higher --limit to start it all the same",
      what, limit.seconds, smaller_size(job, limit.seconds / seconds)));
}

}  // namespace sagegen::cli
