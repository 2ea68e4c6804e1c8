// The tables of docs/kv_cache.md, "The planner": build/bin/kv_planner [table], and [time].
#include <catch2/catch.hpp>
#include <ctime>
#include <iostream>

#include <fmt/format.h>

#include "tools/kv/planner/inputs.h"
#include "tools/kv/planner/state.h"
#include "tools/reference/tensor_file.h"

using namespace sagegen;
using namespace sagegen::kv;

namespace {

void print_row(const std::string& name, const std::vector<reference::Inputs>& layers,
               const CacheModel& cache) {
  PlannerState state({}, "");
  const std::vector<LayerErrors> errors = measure_layers(
      static_cast<int>(layers.size()), [&](int i) { return layers[static_cast<std::size_t>(i)]; },
      {.cache = cache}, state);
  const PlanOptions options{.cache = cache, .protect = 0};
  const Plan found = plan(errors, options);
  std::string row = fmt::format("| {}, {} |", name, to_string(cache));
  for (const auto& [k, v] : {std::pair(4, 2), {4, 4}, {8, 4}, {8, 8}}) {
    double squared = 0;
    for (const LayerErrors& layer : errors)
      squared += std::pow(layer.relative({storage_of(k), storage_of(v)}), 2);
    row += fmt::format(" {:.4f} |", std::sqrt(squared / static_cast<double>(errors.size())));
  }
  for (const double cap : {3, 4, 5, 6})
    row += fmt::format(" {:.4f} |", best_under(found, cap, options).error);
  PlanOptions guarded = options;
  guarded.protect = 2;
  const Plan with_protected = plan(errors, guarded);
  for (const double cap : {5, 6}) {
    const bool any = with_protected.front[0].nominal_bits <= cap;
    row += any ? fmt::format(" {:.4f} |", best_under(with_protected, cap, guarded).error) : " - |";
  }
  std::cout << row << fmt::format(" {} |\n", found.clusters.size());
  CHECK(found.front.size() > 1);
}

}  // namespace

TEST_CASE("errors of plans", "[.][table]") {
  const std::string path = SAGEGEN_SOURCE_DIR "/tests/data/minilm_layers.safetensors";
  std::vector<reference::Inputs> minilm;
  for (const std::string& prefix : recorded_layers(path))
    minilm.push_back(reference::load_qkv({path}, prefix).inputs);
  const std::vector<reference::Inputs> decoder =
      decoder_inputs({.layers = 16, .q_heads = 8, .kv_heads = 2, .head_dim = 64, .tokens = 256}, 1);
  const CacheModel kivi{.grouping = Grouping::kivi};
  for (const CacheModel& cache : {CacheModel{}, kivi}) print_row("MiniLM", minilm, cache);
  for (const CacheModel& cache :
       {CacheModel{}, CacheModel{.hadamard = true}, CacheModel{.smooth_k = true}, kivi})
    print_row("decoder", decoder, cache);
}

TEST_CASE("time of a layer of 32 query heads, 8 KV heads, 128 channels and 1024 tokens",
          "[.][time]") {
  reference::Inputs layer = reference::generate(
      "outlier", {.q_heads = 32, .kv_heads = 8, .q_len = 1024, .kv_len = 1024, .head_dim = 128}, 1,
      reference::IoType::f16);
  layer.causal = true;
  for (const CacheModel& cache : {CacheModel{}, CacheModel{.grouping = Grouping::kivi}}) {
    for (const std::int64_t queries : {128, 0}) {
      const std::clock_t begin = std::clock();  // of the processor, all threads together
      const LayerErrors errors = measure_layer(layer, {.cache = cache, .queries = queries});
      std::cout << fmt::format("{}, {}: {:.1f} s\n", to_string(cache),
                               queries > 0 ? "128 rows of a head" : "all rows",
                               static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC);
      CHECK(errors.relative({storage_of(4), storage_of(4)}) > 0);
    }
  }
}
