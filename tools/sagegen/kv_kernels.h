// The kernels that a model needs whose layers' KV caches have the formats of a map; `sagegen kv emit` makes them.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "sagegen/kernel.h"
#include "tools/kv/kv_map.h"
#include "tools/sagegen/app.h"

namespace sagegen::cli {

// What a model has beside its map.
struct KvModel {
  KvFormat format;  // all but its bits
  int kv_heads = 8;
  int q_heads = 0;  // 0: four for each KV head

  int all_q_heads() const { return q_heads == 0 ? 4 * kv_heads : q_heads; }
};

// Of layers, or heads of layers, that have the same pair.
struct KvKernels {
  kv::Pair pair;
  KvFormat format;
  std::vector<int> layers;  // with at least one head of it
  Kernel append, decode;    // of one token of each sequence
};

// Query heads of a KV head. Throws UsageError.
int kv_rows(const KvModel& model);
// Of each distinct pair, the most bits first. Throws SpecError of a pair that no kernel stores, and of a kernel that cannot be.
// decode_target: empty for `target`.
std::vector<KvKernels> kv_kernels(const kv::Map& map, const KvModel& model, Target target,
                                  std::optional<Target> decode_target = {});

struct KvEmitCommand {
  std::string target, bundle;
};
// folder: empty, or where <key>.ptx is written.
Exit kv_emit(const kv::Map& map, const KvModel& model, const KvEmitCommand& command,
             const std::string& folder, Output& output);

}  // namespace sagegen::cli
