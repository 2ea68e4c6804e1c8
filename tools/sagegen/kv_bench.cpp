#include "tools/sagegen/kv_bench.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <span>
#include <vector>

#include <fmt/format.h>

#include "templates/decode/plan.h"
#include "tools/sagegen/errors.h"
#include "tools/sagegen/interrupt.h"
#include "tools/sagegen/progress.h"
#include "tools/sagegen/run_device.h"
#include "tools/sagegen/run_job.h"

namespace sagegen::cli {
namespace {

constexpr std::int64_t kUsualTokens[] = {2048, 8192, 32768};
constexpr std::int64_t kEmulated = std::int64_t{1} << 20;  // tokens of all heads: seconds
constexpr int kRounds = 5;
// Of all memory, whatever it is: codes, and numbers of f16 and bf16 that are small and finite.
constexpr std::uint8_t kByte = 0x2C;

template <typename T>
runtime::Buffer upload(const runtime::Device& device, const std::vector<T>& values) {
  runtime::Buffer buffer(device, values.size() * sizeof(T));
  buffer.upload(std::as_bytes(std::span(values)));
  return buffer;
}

// What the calls of a context share.
struct Batch {
  Batch(const RunDevice& on, const KvModel& model, std::int64_t batch, std::int64_t tokens_each)
      : sequences(batch),
        tokens(tokens_each),
        pages_each((tokens_each + model.format.page_tokens - 1) / model.format.page_tokens) {
    std::vector<std::int32_t> order(static_cast<std::size_t>(pages()));
    std::iota(order.begin(), order.end(), 0);
    std::ranges::shuffle(order, std::mt19937(1));
    table = upload(on.device, order);
    lengths = upload(on.device, std::vector<std::int32_t>(static_cast<std::size_t>(sequences),
                                                          static_cast<std::int32_t>(tokens)));
    const auto rows = static_cast<std::size_t>(sequences * model.all_q_heads());
    const std::size_t bytes = 2 * rows * static_cast<std::size_t>(model.format.head_dim);
    q = runtime::Buffer(on.device, bytes);
    q.fill(kByte);
    o = runtime::Buffer(on.device, bytes);
  }
  std::int64_t pages() const { return sequences * pages_each; }

  std::int64_t sequences, tokens, pages_each;
  runtime::Buffer table, lengths, q, o;
};

struct Contestant {
  kv::Pair pair;
  KvFormat format;
  std::vector<int> layers = {};
  decode::Plan plan;
  std::vector<double> samples = {};

  std::int64_t bytes(const KvModel& model, const Batch& batch) const {
    return std::int64_t{kv_token_bytes(format)} * model.kv_heads * batch.sequences * batch.tokens;
  }
  double median() const {
    std::vector<double> sorted = samples;
    std::ranges::sort(sorted);
    return sorted[sorted.size() / 2];
  }
};

kv::Map map_of_all_pairs() {
  kv::Map map;
  const auto storage = [](int bits) { return bits == 16 ? kv::Storage{} : kv::integer(bits); };
  for (const int k : {16, 8, 4, 2}) {
    for (const int v : {16, 8, 4, 2}) map.layers.push_back({{storage(k), storage(v)}});
  }
  return map;
}

std::vector<Contestant> contestants(const std::optional<kv::Map>& map, const KvModel& model,
                                    const RunDevice& on, const runtime::ArtifactSource& source) {
  std::vector<Contestant> all;
  const Target target = decode::best_target(on.device);
  const auto add = [&](const KvKernels& each, bool in_map) {
    all.push_back({.pair = each.pair,
                   .format = each.format,
                   .layers = in_map ? each.layers : std::vector<int>{},
                   .plan = decode::Plan(on.device, each.decode, source)});
  };
  const std::vector<KvKernels> exact = kv_kernels({{{kv::Pair{}}}}, model, on.target, target);
  const std::vector<KvKernels> wanted =
      kv_kernels(map.value_or(map_of_all_pairs()), model, on.target, target);
  if (wanted.front().pair != kv::Pair{}) add(exact.front(), false);
  for (const KvKernels& each : wanted) add(each, map.has_value());
  return all;
}

// Microseconds where the stopwatch has nanoseconds.
std::string shown(double sample, bool is_time) {
  return is_time ? fmt::format("{:.2f}", sample / 1e3) : fmt::format("{:.0f}", sample);
}

}  // namespace

Exit kv_bench(const std::optional<kv::Map>& map, const KvModel& model,
              const KvBenchCommand& command, Output& output) {
  runtime::EmulatorOptions options;
  options.interrupt = interrupt_flag();
  options.checks = runtime::Checks::off;
  const RunDevice on = open_run_device(command.device, "", options);
  kv_rows(model);
  const bool is_time = on.emulator == nullptr;
  std::vector<std::int64_t> contexts;
  if (command.tokens > 0)
    contexts = {command.tokens};
  else if (is_time)
    contexts.assign(std::begin(kUsualTokens), std::end(kUsualTokens));
  else
    contexts = {kUsualTokens[0]};
  for (const std::int64_t tokens : contexts) {
    if (!is_time && tokens * command.batch * model.kv_heads > kEmulated) {
      throw UsageError(fmt::format(
          "--context {} with {} sequences and {} KV heads is refused: the emulator takes minutes "
          "for more than {} tokens of all heads; use --batch 1, or less",
          tokens, command.batch, model.kv_heads, kEmulated));
    }
  }
  const runtime::Deployment deployment = command.deployment.value_or(
      is_time ? runtime::Deployment::graph : runtime::Deployment::eager);
  const std::unique_ptr<runtime::Stopwatch> stopwatch =
      runtime::make_stopwatch(on.device, deployment);
  std::vector<Contestant> all = contestants(map, model, on, ptx_source(command.ptx, on));
  const std::string unit = is_time ? "us" : std::string(stopwatch->unit());
  Table table({"tokens", "pair", "MB of cache", unit, is_time ? "GB/s" : "instructions a token",
               is_time ? "as fast as 16 bits" : "of those of 16 bits"});
  Json list = Json::array();
  const int rounds = stopwatch->is_exact() ? 1 : kRounds;
  {
    InterruptScope interruptible;
    Progress progress("timing", all.size() * contexts.size() * static_cast<std::size_t>(rounds));
    for (const std::int64_t tokens : contexts) {
      const Batch batch(on, model, command.batch, tokens);
      const decode::Shape shape{.batch = batch.sequences,
                                .q_heads = model.all_q_heads(),
                                .kv_heads = model.kv_heads,
                                .page_tokens = model.format.page_tokens,
                                .max_pages = batch.pages_each};
      std::size_t pool_bytes = 0, workspace_bytes = 0;
      for (const Contestant& each : all) {
        const std::int64_t page = kv_strides(each.format, model.kv_heads).page;
        pool_bytes = std::max(pool_bytes, static_cast<std::size_t>(batch.pages() * page));
        workspace_bytes = std::max(workspace_bytes, each.plan.workspace_bytes(shape));
      }
      runtime::Buffer pool(on.device, pool_bytes), workspace(on.device, workspace_bytes);
      pool.fill(kByte);
      on.device.synchronize();
      const std::int64_t channels = model.format.head_dim;
      for (Contestant& each : all) each.samples.clear();
      for (int round = 0; round < rounds; ++round) {
        for (Contestant& each : all) {
          const decode::Arguments arguments{
              .q = runtime::hnd(batch.q.data(), model.all_q_heads(), 1, channels),
              .pool = pool.data(),
              .strides = kv_strides(each.format, model.kv_heads),
              .pool_pages = batch.pages(),
              .page_table = batch.table.data(),
              .lengths = batch.lengths.data(),
              .o = runtime::hnd(batch.o.data(), model.all_q_heads(), 1, channels)};
          each.samples.push_back(stopwatch->time([&](runtime::StreamHandle stream) {
            each.plan.run(shape, arguments, workspace.data(), workspace.bytes(), stream);
          }));
          progress.advance();
          if (was_interrupted())
            throw Interrupted("nothing is told of calls that were not all timed");
        }
      }
      const double exact = all.front().median();
      for (const Contestant& each : all) {
        const double sample = each.median();
        const auto bytes = static_cast<double>(each.bytes(model, batch));
        const double rate =
            is_time ? bytes / sample
                    : sample / static_cast<double>(batch.sequences * tokens * model.kv_heads);
        table.add({std::to_string(tokens), kv::to_string(each.pair),
                   fmt::format("{:.2f}", bytes / 1e6), shown(sample, is_time),
                   fmt::format("{:.2f}", rate),
                   fmt::format("{:.2f}", is_time ? exact / sample : sample / exact)});
        list.push_back({{"tokens", tokens},
                        {"pair", kv::to_string(each.pair)},
                        {"layers", each.layers},
                        {"kernel", each.plan.kernel().key()},
                        {"splits", each.plan.splits(shape)},
                        {"cache_bytes", each.bytes(model, batch)},
                        {"samples", each.samples},
                        {"median", sample}});
      }
    }
  }
  std::string text = fmt::format(
      "decode on {}: {} sequences, {} KV heads, {} query heads, {} channels; {}\n\n{}", on.name,
      command.batch, model.kv_heads, model.all_q_heads(), model.format.head_dim,
      is_time ? fmt::format("{} launches, medians of {} rounds, caches of the GPU cold",
                            to_string(deployment), rounds)
              : std::string("counts of instructions in the emulator, no times"),
      table.text());
  output.text(text);
  output.json({{"device", on.name},
               {"target", to_string(decode::best_target(on.device))},
               {"unit", stopwatch->unit()},
               {"deployment", to_string(deployment)},
               {"batch", command.batch},
               {"kv_heads", model.kv_heads},
               {"q_heads", model.all_q_heads()},
               {"head_dim", model.format.head_dim},
               {"page_tokens", model.format.page_tokens},
               {"calls", list}});
  return Exit::ok;
}

}  // namespace sagegen::cli
