#include "templates/attention/plan_tuner.h"

#include <sys/stat.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <ctime>
#include <limits>
#include <random>
#include <span>

#include <fmt/format.h>

#include "sagegen/runtime/emulator.h"
#include "sagegen/runtime/error.h"

namespace sagegen::attention {
namespace {

using runtime::ArgumentError, runtime::Buffer, runtime::Outcome, runtime::Sweep, runtime::SweepStep,
    runtime::Trial;

// A first sentence is enough in a table.
std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

// That of the problem, and no fault of a schedule.
bool is_out_of_memory(const runtime::DriverError& error) {
  return error.result() == static_cast<int>(runtime::Result::out_of_memory);
}

// Keeps all code by its key: a sweep asks whether there is any, what it needs, and for plans.
runtime::ArtifactSource kept(runtime::ArtifactSource source) {
  if (!source) return source;
  return
      [source = std::move(source), all = std::map<std::string, runtime::ArtifactSource::Shared>()](
          const Kernel& kernel) mutable {
        runtime::ArtifactSource::Shared& artifact = all[kernel.key()];
        if (!artifact) artifact = source(kernel);
        return artifact;
      };
}

bool inputs_are_legal(const Kernel& kernel) {
  return std::ranges::all_of(kernel.inputs(),
                             [](const Kernel& input) { return input.violations().empty(); });
}

// ---- numbers --------------------------------------------------------------------------------------

// Of sign, exponent and mantissa as IEEE has them; of e4m3 no infinity and no NaN but the last code.
float decoded(unsigned code, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const unsigned mantissa = code & ((1u << mantissa_bits) - 1);
  const int exponent = static_cast<int>(code >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const bool special = exponent_bits == 5 && exponent == 31;
  float magnitude = 0;
  if (special || (exponent_bits == 4 && (code & 0x7f) == 0x7f)) {
    magnitude = special && mantissa == 0 ? std::numeric_limits<float>::infinity()
                                         : std::numeric_limits<float>::quiet_NaN();
  } else if (exponent == 0) {
    magnitude = std::ldexp(static_cast<float>(mantissa), 1 - bias - mantissa_bits);
  } else {
    magnitude = std::ldexp(static_cast<float>(mantissa | (1u << mantissa_bits)),
                           exponent - bias - mantissa_bits);
  }
  return (code >> (exponent_bits + mantissa_bits)) & 1 ? -magnitude : magnitude;
}
float of_f16(unsigned code) { return decoded(code, 5, 10); }
float of_e4m3(unsigned code) { return decoded(code, 4, 3); }
float of_bf16(unsigned code) { return std::bit_cast<float>(code << 16); }

// Numbers as activations have them, in io: a sum of uniform ones is close enough to a normal one, and each is a
// multiple of 2^-5 below 4 in magnitude, which both types hold exactly.
std::vector<std::uint16_t> random_bits(DType io, std::size_t count) {
  std::vector<std::uint16_t> bits(count);
  std::mt19937 random(1);
  for (std::uint16_t& each : bits) {
    const std::uint32_t draw = random();
    int sum = 0;
    for (int part = 0; part < 4; ++part) sum += static_cast<int>((draw >> (8 * part)) & 0x3f);
    const float value = static_cast<float>(sum - 126) / 32.0f;
    const auto word = std::bit_cast<std::uint32_t>(value);
    if (io == DType::bf16) {
      each = static_cast<std::uint16_t>(word >> 16);
    } else {
      const std::uint32_t magnitude = word & 0x7fffffff;
      constexpr std::uint32_t kBias = (127 - 15) << 23;
      each = static_cast<std::uint16_t>((word >> 16 & 0x8000) |
                                        (magnitude == 0 ? 0 : (magnitude - kBias) >> 13));
    }
  }
  return bits;
}

// By pieces: a problem may be larger than what the host has left.
Buffer filled(const runtime::Device& device, const std::vector<std::uint16_t>& pattern,
              std::size_t elements) {
  constexpr std::size_t kRepeats = 64, kElement = sizeof(std::uint16_t);
  std::vector<std::uint16_t> piece;
  for (std::size_t i = 0; i < kRepeats && piece.size() < elements; ++i)
    piece.insert(piece.end(), pattern.begin(), pattern.end());
  Buffer buffer(device, elements * kElement);
  runtime::Device::Scope scope(device);
  runtime::DriverApi& api = device.api();
  for (std::size_t at = 0; at < elements; at += piece.size()) {
    check(api,
          api.copy_to_device(buffer.data() + at * kElement, piece.data(),
                             std::min(piece.size(), elements - at) * kElement, nullptr),
          "cuMemcpyHtoDAsync");
  }
  check(api, api.stream_synchronize(nullptr), "cuStreamSynchronize");
  scope.restore();
  return buffer;
}

template <typename T>
std::vector<T> downloaded(const Buffer& buffer, std::size_t count) {
  std::vector<T> values(count);
  buffer.download(std::as_writable_bytes(std::span(values)));
  return values;
}

std::string time_text(std::time_t time) {
  std::tm parts{};
  gmtime_r(&time, &parts);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", parts.tm_year + 1900, parts.tm_mon + 1,
                     parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec);
}

// How far O of two schedules may be apart, relative to its sum of magnitudes, and their LSE. The most that was seen,
// of all schedules of INT8, INT4 and 16-bit kernels with softmax scales from 0.08 to 0.5 on normal numbers, is a tenth.
constexpr double kMostOfAll = 0.005, kMostOfRow = 0.02, kMostOfLse = 0.01;

std::filesystem::path default_database() {
  const std::filesystem::path cache = runtime::cache_folder();
  if (!cache.empty()) return cache / "tuning";
  throw runtime::CacheError(
      "there is no folder to keep results in: neither SAGEGEN_CACHE_DIR, nor XDG_CACHE_HOME, nor "
      "HOME is set; give TunerOptions::database");
}

[[noreturn]] void throw_lost(const Sweep& sweep, std::size_t candidate) {
  const std::optional<Trial>& trial = sweep.trial(candidate);
  throw runtime::DriverError(
      static_cast<int>(runtime::Result::launch_failed), "cuStreamSynchronize",
      fmt::format("schedule {} left a device that is of no use in this process: {}; a new process "
                  "that tunes the same goes on from here",
                  sweep.schedules()[candidate], trial ? trial->reason : ""));
}

// When the last line of a journal was written: that is when a sweep was over, whoever asks again.
std::string written(const std::filesystem::path& journal) {
  struct stat status = {};
  return time_text(::stat(journal.c_str(), &status) == 0 ? status.st_mtime : std::time(nullptr));
}

}  // namespace

// ---- what a sweep is about, and what is kept of it ------------------------------------------------

runtime::RaceOptions race_options(const runtime::Stopwatch& stopwatch) {
  if (!stopwatch.is_exact()) return {};
  return {
      .first_rounds = 1, .middle_rounds = 0, .final_rounds = 0, .tie = 0, .most_duel_rounds = 0};
}

std::string sweep_subject(const runtime::TuningKey& key, const Shape& shape, const Kernel& usual) {
  return fmt::format("{} {} on {}, {}, {}, {}, default {}", key.what, to_string(shape),
                     to_string(key.device), key.target, key.mode, key.generator, usual.how());
}

std::filesystem::path sweep_journal(const std::filesystem::path& folder,
                                    const runtime::TuningKey& key, const std::string& subject) {
  // A name that says what is in it, and ends with what tells it from all others.
  return folder / fmt::format("{}-{}-{}.sweep", key.target, key.shape, runtime::sum_text(subject));
}

std::filesystem::path store_result(const runtime::TuningDatabase& database, const Sweep& sweep,
                                   const runtime::TuningKey& key, const Shape& shape,
                                   const Kernel& usual, std::string_view unit) {
  const runtime::Race& race = *sweep.race();
  if (race.samples() == 0) return {};  // there was one alone
  const auto time_of = [&](std::size_t candidate) {
    for (const runtime::Race::Standing& standing : race.standings()) {
      if (sweep.racing()[standing.candidate] == candidate) return standing.time;
    }
    return 0.0;
  };
  const std::size_t winner = sweep.racing()[race.winner()];
  const runtime::TuningEntry entry{.key = key,
                                   .schedule = sweep.schedules()[winner],
                                   .usual = usual.how(),
                                   .params = usual.params().digest(),
                                   .unit = std::string(unit),
                                   .time = time_of(winner),
                                   .usual_time = time_of(sweep.usual()),
                                   .samples = race.samples(),
                                   .measured = written(sweep.journal()),
                                   .conditions = to_string(shape)};
  const runtime::TuningDatabase::Found there = database.find(key);
  // What was measured later, on another problem of the class, stays.
  if (there.entry && there.entry->measured > entry.measured) return {};
  if (there.entry != entry) database.store(entry);
  return database.file_of(key);
}

std::unique_ptr<runtime::FileLock> timing_lock(const runtime::Device& device) {
  if (dynamic_cast<runtime::EmulatorDriver*>(&device.api()) != nullptr) return nullptr;
  using Attribute = runtime::DeviceAttribute;
  const std::filesystem::path file =
      // Of this machine, whichever cache and user.
      std::filesystem::temp_directory_path() /
      fmt::format(
          "sagegen-gpu-{:04x}-{:02x}-{:02x}.lock", device.attribute(Attribute::pci_domain_id),
          device.attribute(Attribute::pci_bus_id), device.attribute(Attribute::pci_device_id));
  auto lock = std::make_unique<runtime::FileLock>(file);
  if (lock->held()) return lock;
  throw runtime::CacheError(fmt::format(
      "another process tunes on GPU {} now, and each would spoil the other's times; wait for it "
      "({} is its lock)",
      device.ordinal(), file.string()));
}

// ---- the problem on the device --------------------------------------------------------------------

struct Tuner::Tensors {
  Tensors(const runtime::Device& device, const Kernel& kernel, const Shape& shape,
          const Arguments& given)
      : view(kernel.view(family())), rows(shape.batch * shape.q_heads * shape.q_len) {
    const Spec& spec = view.spec;
    const auto elements = [&](std::int64_t heads, std::int64_t tokens, int channels) {
      return static_cast<std::size_t>(shape.batch * heads * tokens * channels);
    };
    arguments = given;
    const int dim = spec.head_dim;
    value_dim = attention::value_dim(spec);
    if (given.q.data == 0 && given.k.data == 0 && given.v.data == 0) {
      constexpr std::size_t kPattern = 65521;  // a prime: rows begin differently
      const std::vector<std::uint16_t> pattern = random_bits(spec.io, kPattern);
      q = filled(device, pattern, elements(shape.q_heads, shape.q_len, dim));
      k = filled(device, pattern, elements(shape.kv_heads, shape.kv_len, dim));
      v = filled(device, pattern, elements(shape.kv_heads, shape.kv_len, value_dim));
      arguments.q = runtime::hnd(q.data(), shape.q_heads, shape.q_len, dim);
      arguments.k = runtime::hnd(k.data(), shape.kv_heads, shape.kv_len, dim);
      arguments.v = runtime::hnd(v.data(), shape.kv_heads, shape.kv_len, value_dim);
    }
    const std::size_t outputs = elements(shape.q_heads, shape.q_len, value_dim);
    o = Buffer(device, outputs * sizeof(std::uint16_t));
    arguments.o = runtime::hnd(o.data(), shape.q_heads, shape.q_len, value_dim);
    lse = Buffer(device, static_cast<std::size_t>(rows) * sizeof(float));
    arguments.lse = lse.data();
    if (spec.out == OutputFormat::io) return;
    const bool of_rows = spec.out == OutputFormat::s8;
    o_scale = Buffer(device, (of_rows ? static_cast<std::size_t>(rows) : 1) * sizeof(float));
    if (!of_rows) o_scale.upload(std::as_bytes(std::span(&kFactor, 1)));
    arguments.o_scale = o_scale.data();
  }

  // O in f32, rows of value_dim channels.
  std::vector<float> output() const {
    const std::size_t count = static_cast<std::size_t>(rows) * static_cast<std::size_t>(value_dim);
    std::vector<float> values(count);
    if (view.spec.out == OutputFormat::io) {
      const auto bits = downloaded<std::uint16_t>(o, count);
      std::ranges::transform(bits, values.begin(), view.spec.io == DType::f16 ? of_f16 : of_bf16);
      return values;
    }
    const auto codes = downloaded<std::uint8_t>(o, count);
    if (view.spec.out == OutputFormat::e4m3) {
      std::ranges::transform(codes, values.begin(), of_e4m3);
      return values;
    }
    const auto scales = downloaded<float>(o_scale, static_cast<std::size_t>(rows));
    for (std::size_t i = 0; i < count; ++i)
      values[i] = static_cast<float>(static_cast<std::int8_t>(codes[i])) *
                  scales[i / static_cast<std::size_t>(value_dim)];
    return values;
  }

  static constexpr float kFactor =
      16;  // of O where that is e4m3: means of normal numbers are small
  View view;
  std::int64_t rows;
  int value_dim = 0;
  Buffer q, k, v, o, lse, o_scale, workspace;
  Arguments arguments;
};

// ---- the parts ------------------------------------------------------------------------------------

Tuner::Tuner(const runtime::Device& device, const Kernel& kernel, const Shape& shape,
             runtime::ArtifactSource source, TunerOptions options)
    : device_(device),
      kernel_(kernel),
      shape_(shape),
      source_(kept(std::move(source))),
      options_(std::move(options)),
      key_(tuning_key(kernel, shape_class(shape), options_.deployment,
                      runtime::fingerprint_of(device))),
      emulated_(dynamic_cast<runtime::EmulatorDriver*>(&device.api()) != nullptr),
      stopwatch_(runtime::make_stopwatch(device, options_.deployment)) {
  if (takes_given_codes(kernel_.view(family()).spec)) {
    throw ArgumentError(
        fmt::format("tuning {} is refused: it attends codes of the caller; tune the kernel without "
                    "inputs=given, whose loop is the same",
                    kernel_.key()));
  }
  if (shape_.total_q != 0 || shape_.total_kv != 0) {
    throw ArgumentError(
        "tuning a packed shape is refused: its lengths are known on the device alone; take the "
        "batch of sequences of the largest lengths");
  }
  for (const std::int64_t size :
       {shape_.batch, shape_.q_heads, shape_.kv_heads, shape_.q_len, shape_.kv_len}) {
    if (size < 1)
      throw ArgumentError("tuning " + to_string(shape_) + " is refused: sizes are 1 or more");
  }
  const bool bounded = options_.plan.max_workspace_bytes != 0;
  options_.plan.max_workspace_bytes = 0;
  const std::string usual = kernel_.how();
  for (const Kernel& each : kernel_.schedules()) {
    if (!inputs_are_legal(each) || !may_replace(kernel_, each)) continue;
    if (bounded && !needs_no_more(kernel_, each)) continue;
    if (each.how() == usual) usual_ = schedules_.size();
    schedules_.push_back(each.how());
  }
  if (usual_ >= schedules_.size() || schedules_[usual_] != usual)
    throw InternalError("the default schedule of " + kernel_.key() + " is none of its schedules");
}

Tuner::~Tuner() = default;

Tuner::Tensors& Tuner::tensors() {
  if (!tensors_) {
    Arguments given;
    given.causal = CausalAlignment::bottom_right;
    if (options_.arguments) given = options_.arguments();
    tensors_ = std::make_unique<Tensors>(device_, kernel_, shape_, given);
  }
  return *tensors_;
}

// On a GPU the driver says what its JIT made of the kernel.
std::string Tuner::why_not_here(const Kernel& kernel) const {
  const Resources need = kernel.resources();
  const int shared = device_.attribute(runtime::DeviceAttribute::max_shared_memory_per_block_optin);
  if (need.dynamic_smem > shared)
    return fmt::format("needs {} bytes of shared memory, the device has {}", need.dynamic_smem,
                       shared);
  if (emulated_ || kernel.how() == kernel_.how()) return {};
  const runtime::ArtifactSource::Shared artifact = source_(kernel);
  const runtime::Kernel loaded(device_, artifact->code, artifact->entry, need.threads,
                               need.dynamic_smem, kernel.params().bytes());
  const int local = loaded.attribute(runtime::FunctionAttribute::local_size_bytes);
  return local > 0 ? fmt::format("spills {} bytes per thread", local) : "";
}

Trial Tuner::check(const std::string& schedule) {
  const Kernel kernel = kernel_of(schedule);
  std::unique_ptr<Plan>& plan = plans_[schedule];
  try {
    if (std::string why = why_not_here(kernel); !why.empty())
      return {Outcome::pruned, std::move(why)};
    plan = std::make_unique<Plan>(device_, kernel, source_, options_.plan);
  } catch (const SpecError& error) {
    return {Outcome::refused, first_line(error.what())};
  } catch (const CodegenError& error) {
    return {Outcome::refused, first_line(error.what())};
  } catch (const runtime::DriverError& error) {
    if (is_out_of_memory(error)) throw;
    return {Outcome::refused, first_line(error.what())};
  }
  try {
    Trial trial = options_.judge ? options_.judge(kernel, *plan) : compared(*plan);
    if (trial.outcome != Outcome::passed) plan.reset();
    return trial;
  } catch (const runtime::DriverError& error) {
    if (is_out_of_memory(error)) throw;
    // What a kernel did to the context no other can run in.
    lost_ = !emulated_;
    return {Outcome::faulted, first_line(error.what())};
  }
}

Tuner::Output Tuner::output_of(const Plan& plan) {
  Tensors& at = tensors();
  // What a kernel leaves alone is no number.
  at.o.fill(0xff);
  at.lse.fill(0xff);
  const std::size_t bytes = plan.workspace_bytes(shape_);
  if (at.workspace.bytes() < bytes) at.workspace = Buffer(device_, bytes);
  const runtime::Stream stream(device_);
  Arguments arguments = at.arguments;
  arguments.mods.skipsoftmax = {};  // which tiles are skipped depends on the schedule
  plan.run(shape_, arguments, at.workspace.data(), bytes, stream.handle());
  stream.synchronize();
  return {at.output(), downloaded<float>(at.lse, static_cast<std::size_t>(at.rows))};
}

// Schedules round P against other maxima and add in another order, which is all that may tell them apart.
Trial Tuner::compared(const Plan& plan) {
  const Output found = output_of(plan);
  if (!expected_) {
    const bool is_usual = plan.kernel().how() == kernel_.how();
    expected_ = is_usual ? found : output_of(Plan(device_, kernel_, source_, options_.plan));
  }
  const auto channels = static_cast<std::size_t>(tensors().value_dim);
  const std::size_t rows = found.lse.size();
  // Rows that cancel are judged as if they were as long as others.
  double mean = 0;
  for (const float value : expected_->o) mean += std::abs(value);
  mean /= static_cast<double>(rows);
  double all = 0;
  for (std::size_t row = 0; row < rows; ++row) {
    double length = 0, difference = 0;
    for (std::size_t i = row * channels; i < (row + 1) * channels; ++i) {
      length += std::abs(expected_->o[i]);
      difference += std::abs(static_cast<double>(found.o[i]) - expected_->o[i]);
    }
    all += difference;
    const float lse = found.lse[row], expected = expected_->lse[row];
    const double share = difference / std::max({length, mean / 4, 1e-30});
    if (!(share <= kMostOfRow) || !(lse == expected || std::abs(lse - expected) <= kMostOfLse)) {
      return {Outcome::wrong,
              fmt::format("row {} differs from that of {} by {:.3g} of its length (limit {:.3g}), "
                          "its LSE is {:.6g} for {:.6g} (limit {:.3g})",
                          row, kernel_.how(), share, kMostOfRow, lse, expected, kMostOfLse)};
    }
  }
  const double share = all / std::max(mean * static_cast<double>(rows), 1e-30);
  if (share <= kMostOfAll) return {};
  return {Outcome::wrong, fmt::format("differs from {} by {:.3g} of O (limit {:.3g})",
                                      kernel_.how(), share, kMostOfAll)};
}

double Tuner::sample(const std::string& schedule) {
  Tensors& at = tensors();
  std::unique_ptr<Plan>& plan = plans_[schedule];
  if (!plan) plan = std::make_unique<Plan>(device_, kernel_of(schedule), source_, options_.plan);
  const std::size_t bytes = plan->workspace_bytes(shape_, Lse::unwanted);
  if (at.workspace.bytes() < bytes) at.workspace = Buffer(device_, bytes);
  Arguments arguments = at.arguments;
  arguments.lse = 0;
  try {
    const runtime::Stream stream(device_);
    plan->quantize(shape_, arguments, at.workspace.data(), bytes, stream.handle());
    stream.synchronize();
    return stopwatch_->time([&](runtime::StreamHandle timed) {
      plan->attend(shape_, arguments, at.workspace.data(), bytes, timed);
    });
  } catch (const runtime::DriverError& error) {
    lost_ = !emulated_ && !is_out_of_memory(error);
    throw;
  }
}

// ---- all of it ------------------------------------------------------------------------------------

void Tuner::check_all(Sweep& sweep) {
  for (auto step = sweep.next(); step && step->kind == SweepStep::Kind::check;
       step = sweep.next()) {
    if (is_stopped()) return sweep.rest();
    sweep.begin(step->candidate);
    try {
      const Trial trial = check(sweep.schedules()[step->candidate]);
      // A launch that was cut off is no fault of its own.
      if (trial.outcome == Outcome::faulted && !lost_ && is_stopped()) return sweep.rest();
      // Without the default nothing can be compared; whether it is to blame, nobody knows.
      if (trial.outcome == Outcome::faulted && step->candidate == sweep.usual()) {
        throw runtime::DriverError(static_cast<int>(runtime::Result::launch_failed),
                                   "cuStreamSynchronize",
                                   "the default schedule " + kernel_.how() + ": " + trial.reason);
      }
      sweep.checked(step->candidate, trial);
    } catch (...) {  // of the problem, and no fault of the candidate
      sweep.rest();
      throw;
    }
    if (lost_) throw_lost(sweep, step->candidate);
  }
}

void Tuner::race(Sweep& sweep) {
  for (auto step = sweep.next(); step && step->kind == SweepStep::Kind::sample;
       step = sweep.next()) {
    if (is_stopped()) return;
    try {
      sweep.sampled(sample(sweep.schedules()[step->candidate]));
    } catch (const runtime::DriverError& error) {
      if (is_out_of_memory(error)) throw;
      if (!lost_ && is_stopped()) return;
      if (step->candidate == sweep.usual()) throw;
      sweep.checked(step->candidate, {Outcome::faulted, first_line(error.what())});
      if (lost_) throw_lost(sweep, step->candidate);
    }
  }
}

std::vector<std::string> Tuner::with_code(std::vector<Result::Failure>& failures) const {
  std::vector<std::string> here;
  for (const std::string& schedule : schedules_) {
    try {
      if (schedule != kernel_.how()) source_(kernel_of(schedule));
      here.push_back(schedule);
    } catch (const SpecError& error) {
      failures.push_back({schedule, {Outcome::refused, first_line(error.what())}});
    }
  }
  return here;
}

Tuner::Result Tuner::tune() {
  const std::filesystem::path database =
      options_.database.empty() ? default_database() : options_.database;
  const std::unique_ptr<runtime::FileLock> lock = timing_lock(device_);
  Result result;
  const std::vector<std::string> here = with_code(result.failures);
  const auto usual =
      static_cast<std::size_t>(std::ranges::find(here, kernel_.how()) - here.begin());
  std::string candidates;
  for (const std::string& schedule : here) candidates += schedule + "\n";
  const std::string subject = fmt::format(
      "{}, of {}, judged by {}", sweep_subject(key_, shape_, kernel_),
      runtime::sum_text(candidates), options_.judge ? options_.judged_by : "the default");
  const std::filesystem::path journal =
      sweep_journal(database.parent_path() / "sweeps", key_, subject);
  std::error_code ignored;
  if (options_.again) std::filesystem::remove(journal, ignored);
  Sweep sweep(journal, subject, here, usual, race_options(*stopwatch_));
  check_all(sweep);
  race(sweep);
  result.complete = !sweep.next();
  for (std::size_t i = 0; i < here.size(); ++i) {
    if (const auto& trial = sweep.trial(i); trial && trial->outcome != Outcome::passed)
      result.failures.push_back({here[i], *trial});
  }
  const runtime::Race* all = sweep.race();
  if (all == nullptr || !result.complete) return result;
  const std::size_t winner = sweep.racing()[all->winner()];
  if (sweep.trial(winner)->outcome != Outcome::passed) return result;  // the default failed
  result.schedule = here[winner];
  for (const runtime::Race::Standing& standing : all->standings()) {
    const std::size_t candidate = sweep.racing()[standing.candidate];
    if (candidate == winner) result.time = standing.time;
    if (candidate == usual) result.usual_time = standing.time;
  }
  result.stored = store_result(runtime::TuningDatabase(database), sweep, key_, shape_, kernel_,
                               stopwatch_->unit());
  return result;
}

}  // namespace sagegen::attention
