#include "templates/attention/plan_tuned.h"

#include <algorithm>
#include <cstdlib>
#include <new>

#include <fmt/format.h>

#include "sagegen/runtime/error.h"
#include "templates/attention/plan_tuner.h"

namespace sagegen::attention {
namespace {

using runtime::ArgumentError, runtime::TuningEntry;

bool asks_database(TuningMode mode) {
  return mode == TuningMode::cached || mode == TuningMode::tune;
}

}  // namespace

TuningChoice tuning_choice(std::string_view text) {
  constexpr std::string_view kPinned = "pinned ";
  if (text == "off") return {.mode = TuningMode::off};
  if (text == "cached" || text.empty()) return {.mode = TuningMode::cached};
  if (text == "tune") return {.mode = TuningMode::tune};
  if (text.starts_with(kPinned) && text.size() > kPinned.size())
    return {.mode = TuningMode::pinned, .pinned = text.substr(kPinned.size())};
  throw ArgumentError(
      fmt::format("tuning \"{}\" is refused: it is off, cached, tune, or \"pinned FILE\"", text));
}

TuningChoice tuning_choice_of_environment() {
  const char* text = std::getenv("SAGEGEN_TUNING");
  try {
    return tuning_choice(text == nullptr ? "" : text);
  } catch (const ArgumentError& refused) {
    throw ArgumentError(fmt::format("SAGEGEN_TUNING: {}", refused.what()));
  }
}

TunedPlan::TunedPlan(const runtime::Device& device, const Kernel& kernel,
                     runtime::ArtifactSource source, TuningOptions options)
    : device_(device),
      kernel_(kernel),
      source_(std::move(source)),
      options_(std::move(options)),
      fingerprint_(runtime::fingerprint_of(device)) {
  if (options_.plan.invariance != Invariance::none) {
    // The cache may have something or not; a file is what the caller counts on.
    if (options_.choice.mode == TuningMode::pinned) {
      warn(
          fmt::format("pinned {} is not used: invariance {} needs one schedule for every shape; "
                      "the default is used",
                      options_.choice.pinned.string(), to_string(options_.plan.invariance)));
    }
    options_.choice.mode = TuningMode::off;
  }
  if (options_.choice.mode == TuningMode::pinned) {
    const std::filesystem::path& file = options_.choice.pinned;
    pinned_ = runtime::parse_tuning_entries(runtime::read_artifact(file), file.string());
  }
  if (asks_database(options_.choice.mode) && options_.database.empty()) {
    const std::filesystem::path folder = runtime::cache_folder();
    if (folder.empty()) {
      warn(
          "no folder for the tuning database: neither SAGEGEN_CACHE_DIR, nor XDG_CACHE_HOME, nor "
          "HOME is set; the default schedules are used");
      options_.choice.mode = TuningMode::off;
    } else {
      options_.database = folder / "tuning";
    }
  }
  usual_ = std::make_unique<Plan>(device_, kernel_, source_, options_.plan);
  tables_.push_back(std::make_unique<const Table>());
  table_ = tables_.back().get();
}

TunedPlan::~TunedPlan() = default;

void TunedPlan::warn(const std::string& text) const {
  if (options_.warn) options_.warn(text);
}

void TunedPlan::prepare(std::span<const Shape> shapes) {
  for (const Shape& shape : shapes) usual_->workspace_bytes(shape);  // throws if it is not possible
  if (options_.choice.mode == TuningMode::off) return;
  const std::scoped_lock lock(mutex_);
  Table table = *table_.load();
  const std::size_t before = table.size();
  for (const Shape& shape : shapes) {
    const ShapeClass of_it = shape_class(shape);
    const auto place = std::ranges::lower_bound(table, of_it, {}, &Choice::shape);
    if (place != table.end() && place->shape == of_it) continue;
    table.insert(place, {of_it, choose(shape)});
  }
  if (table.size() == before) return;
  tables_.push_back(std::make_unique<const Table>(std::move(table)));
  table_.store(tables_.back().get(), std::memory_order_release);
}

std::string TunedPlan::why_not(const TuningEntry& entry) const {
  if (std::string why = runtime::why_stale(entry, kernel_); !why.empty()) return why;
  return may_replace(kernel_, kernel_.with_schedule(entry.schedule))
             ? ""
             : "the bits of a block-sparse mask are of other tiles";
}

// Of whichever device and version: who pins wants this, and takes what it costs. Of several the one that was measured as
// here, and no count of an emulator on a GPU.
std::string TunedPlan::pinned_schedule(const runtime::TuningKey& key) const {
  const TuningEntry* best = nullptr;
  const auto likeness = [&](const TuningEntry& entry) {
    return 2 * (entry.key.device == key.device) + (entry.key.mode == key.mode);
  };
  for (const TuningEntry& entry : pinned_) {
    if (entry.key.what != key.what || entry.key.target != key.target ||
        entry.key.shape != key.shape || (entry.unit != "ns" && entry.key.device != key.device))
      continue;
    if (const std::string why = why_not(entry); !why.empty()) {
      warn(fmt::format("{}: the entry of {} {} is not used: {}; the default is used",
                       options_.choice.pinned.string(), key.what, key.shape, why));
      continue;
    }
    if (best == nullptr || likeness(entry) > likeness(*best)) best = &entry;
  }
  return best != nullptr ? best->schedule : "";
}

std::string TunedPlan::schedule_of_database(const runtime::TuningKey& key) const {
  const runtime::TuningDatabase database(options_.database);
  const runtime::TuningDatabase::Found found = database.find(key);
  if (!found.warning.empty()) warn(found.warning);
  if (!found.entry) return {};
  const std::string why = why_not(*found.entry);
  if (why.empty()) return found.entry->schedule;
  const std::filesystem::path file = database.file_of(key), aside = database.set_aside(file);
  warn(fmt::format("{}: {}; the default is used{}", file.string(), why,
                   aside.empty() ? "" : ", and the file is kept as " + aside.string()));
  return {};
}

std::string TunedPlan::schedule_of_sweep(const Shape& shape) const {
  // A packed shape is of the class of its largest lengths.
  Shape dense = shape;
  dense.total_q = dense.total_kv = 0;
  const auto refused = [&](const std::string& why) {
    warn(fmt::format("{} of {} is not tuned: {}; the default is used", to_string(dense),
                     kernel_.key(), why));
    return std::string();
  };
  try {
    Tuner tuner(
        device_, kernel_, dense, source_,
        {.database = options_.database, .deployment = options_.deployment, .plan = options_.plan});
    const Tuner::Result result = tuner.tune();
    if (result.schedule.empty()) return refused("its default schedule failed");
    if (!result.failures.empty() && result.failures.size() + 1 == tuner.schedules().size()) {
      const Tuner::Result::Failure& first = result.failures.front();
      return refused(fmt::format("no other schedule can be tried, {} for one: {}", first.schedule,
                                 first.trial.reason));
    }
    return result.schedule;
  } catch (const runtime::DriverError& error) {
    // Of a device that is lost, nothing that follows would work; memory that is taken has no part in that.
    if (error.result() != static_cast<int>(runtime::Result::out_of_memory)) throw;
    return refused(error.what());
  } catch (const Error& error) {
    return refused(error.what());
  } catch (const std::bad_alloc&) {
    return refused("the host has not enough memory");
  }
}

const Plan* TunedPlan::choose(const Shape& shape) {
  const runtime::TuningKey key =
      tuning_key(kernel_, shape_class(shape), options_.deployment, fingerprint_);
  const TuningMode mode = options_.choice.mode;
  std::string schedule =
      mode == TuningMode::pinned ? pinned_schedule(key) : schedule_of_database(key);
  if (schedule.empty() && mode == TuningMode::tune) schedule = schedule_of_sweep(shape);
  if (schedule.empty() || schedule == kernel_.how()) return usual_.get();
  if (options_.plan.max_workspace_bytes != 0 &&
      !needs_no_more(kernel_, kernel_.with_schedule(schedule))) {
    warn(
        fmt::format("schedule {} of {} is not used: its workspace may be larger, and "
                    "max_workspace_bytes bounds it; the default is used",
                    schedule, kernel_.key()));
    return usual_.get();
  }
  return plan_of(schedule);
}

const Plan* TunedPlan::plan_of(const std::string& schedule) {
  for (const auto& [how, plan] : plans_) {
    if (how == schedule) return plan ? plan.get() : usual_.get();
  }
  auto& made = plans_.emplace_back(schedule, nullptr);
  try {
    made.second =
        std::make_unique<Plan>(device_, kernel_.with_schedule(schedule), source_, options_.plan);
  } catch (const Error& error) {  // the code is missing, or the driver refuses it
    warn(fmt::format("schedule {} of {} is not used: {}; the default is used", schedule,
                     kernel_.key(), error.what()));
    return usual_.get();
  }
  return made.second.get();
}

const Plan& TunedPlan::plan_for(const Shape& shape) const noexcept {
  const ShapeClass of_it = shape_class(shape);
  const Table& table = *table_.load(std::memory_order_acquire);
  const auto place = std::ranges::lower_bound(table, of_it, {}, &Choice::shape);
  return place != table.end() && place->shape == of_it ? *place->plan : *usual_;
}

std::vector<std::string> TunedPlan::choices() const {
  std::vector<std::string> all;
  for (const Choice& choice : *table_.load(std::memory_order_acquire)) {
    if (choice.plan != usual_.get())
      all.push_back(fmt::format("{} {}", to_string(choice.shape), choice.plan->kernel().how()));
  }
  return all;
}

}  // namespace sagegen::attention
