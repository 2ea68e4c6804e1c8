#include "tools/kv/kv_map.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

namespace sagegen::kv {
namespace {

struct Named {
  std::string_view name;
  Storage storage;
};

// What stands behind K, V and KV in the name of a pair.
constexpr Named kStorages[] = {{"2", integer(2)}, {"4", integer(4)}, {"8", integer(8)},
                               {"16", kExact},    {"f8", kFloat8},   {"f8e5m2", kFloat8E5m2},
                               {"f4", kFloat4}};

// Engines' words: TensorRT-LLM's KvCacheConfig.dtype, SGLang's --kv-cache-dtype, vLLM's.
constexpr Named kDtypes[] = {{"auto", kExact},     {"bf16", kExact},      {"bfloat16", kExact},
                             {"fp16", kExact},     {"float16", kExact},   {"half", kExact},
                             {"fp8", kFloat8},     {"fp8_e4m3", kFloat8}, {"fp8_e5m2", kFloat8E5m2},
                             {"nvfp4", kFloat4},   {"fp4_e2m1", kFloat4}, {"int8", integer(8)},
                             {"int4", integer(4)}, {"int2", integer(2)}};

template <std::size_t size>
std::optional<Storage> named(const Named (&table)[size], std::string_view name) {
  const auto* const found = std::ranges::find(table, name, &Named::name);
  return found == std::end(table) ? std::nullopt : std::optional(found->storage);
}

std::string_view name_of(const Storage& storage) {
  return std::ranges::find(kStorages, storage, &Named::storage)->name;
}

bool has_kernel(const Storage& storage) {
  return storage.kind == Kind::integer || storage.kind == Kind::exact;
}

// K or V of a token and head, as engines store what no kernel of ours does.
int bytes_of(const Storage& storage, int head_dim) {
  switch (storage.kind) {
    case Kind::float8:
    case Kind::float8_e5m2:
      return head_dim;
    case Kind::float4:
      return (head_dim + 1) / 2 + (head_dim + 15) / 16;
    case Kind::integer:
      return (head_dim * storage.bits + 7) / 8 + 4;  // scale and zero point, f16
    case Kind::exact:
      return 2 * head_dim;
  }
  return 0;
}

template <typename Of>
double mean(const Map& map, Of of) {
  double sum = 0;
  std::size_t count = 0;
  for (const Layer& layer : map.layers) {
    for (const Pair& pair : layer) sum += of(pair);
    count += layer.size();
  }
  return count == 0 ? 0 : sum / static_cast<double>(count);
}

// Of equal ones that follow each other: "0-3:" and what each has.
template <typename Items, typename Text>
std::string runs(const Items& items, Text text_of) {
  std::string text;
  for (std::size_t begin = 0, end = 0; begin < items.size(); begin = end) {
    while (end < items.size() && items[end] == items[begin]) ++end;
    text += fmt::format("{}{}{}:{}", begin == 0 ? "" : ", ", begin,
                        end - begin == 1 ? "" : fmt::format("-{}", end - 1), text_of(items[begin]));
  }
  return text;
}

}  // namespace

std::string to_string(const Pair& pair) {
  if (pair.k == pair.v) return fmt::format("KV{}", name_of(pair.k));
  return fmt::format("K{}V{}", name_of(pair.k), name_of(pair.v));
}

std::optional<Pair> pair_of(std::string_view word) {
  if (const auto both = named(kDtypes, word)) return Pair{*both, *both};
  if (word.starts_with("KV")) {
    const auto both = named(kStorages, word.substr(2));
    return both ? std::optional(Pair{*both, *both}) : std::nullopt;
  }
  const std::size_t v = word.find('V');
  if (!word.starts_with('K') || v == std::string_view::npos) return std::nullopt;
  const auto k = named(kStorages, word.substr(1, v - 1)),
             value = named(kStorages, word.substr(v + 1));
  return k && value ? std::optional(Pair{*k, *value}) : std::nullopt;
}

std::string_view to_string(Source source) {
  switch (source) {
    case Source::kvtuner:
      return "kvtuner";
    case Source::modelopt:
      return "modelopt";
    case Source::tensorrt_llm:
      return "tensorrt_llm";
    case Source::sglang:
      return "sglang";
    case Source::sagegen:
      return "sagegen";
  }
  return "?";
}

MapError::MapError(std::string_view file, int line, std::string_view what)
    : Error(line == 0 ? fmt::format("{}: {}", file, what)
                      : fmt::format("{}:{}: {}", file, line, what)),
      line_(line) {}

std::vector<std::pair<Pair, int>> counts(const Map& map) {
  std::vector<std::pair<Pair, int>> counts;
  for (const Layer& layer : map.layers) {
    for (const Pair& pair : layer) {
      const auto found = std::ranges::find(counts, pair, &std::pair<Pair, int>::first);
      if (found == counts.end())
        counts.emplace_back(pair, 1);
      else
        ++found->second;
    }
  }
  std::ranges::sort(counts, [](const auto& a, const auto& b) {
    const auto rank = [](const Pair& pair) {
      return std::array{-pair.k.bits - pair.v.bits, -pair.k.bits, static_cast<int>(pair.k.kind),
                        static_cast<int>(pair.v.kind)};
    };
    return rank(a.first) < rank(b.first);
  });
  return counts;
}

double mean_nominal_bits(const Map& map) {
  return mean(map, [](const Pair& pair) { return (pair.k.bits + pair.v.bits) / 2.0; });
}

double mean_effective_bits(const Map& map, const KvFormat& base) {
  return mean(
      map, [&](const Pair& pair) { return 8.0 * token_bytes(pair, base) / (2.0 * base.head_dim); });
}

std::optional<KvFormat> format_of(const Pair& pair, const KvFormat& base) {
  if (!has_kernel(pair.k) || !has_kernel(pair.v)) return std::nullopt;
  KvFormat format = base;
  format.k_bits = pair.k.bits;
  format.v_bits = pair.v.bits;
  return format;
}

int token_bytes(const Pair& pair, const KvFormat& base) {
  const std::optional<KvFormat> format = format_of(pair, base);
  return format ? kv_token_bytes(*format)
                : bytes_of(pair.k, base.head_dim) + bytes_of(pair.v, base.head_dim);
}

Pair as_integers(const Pair& pair) {
  const auto of = [](const Storage& storage) {
    return has_kernel(storage) ? storage : integer(storage.bits);
  };
  return {of(pair.k), of(pair.v)};
}

std::string ranges_text(const Map& map) {
  return runs(map.layers, [](const Layer& layer) {
    if (layer.size() == 1) return to_string(layer.front());
    if (std::ranges::all_of(layer, [&](const Pair& pair) { return pair == layer.front(); }))
      return to_string(layer.front());
    return fmt::format("(heads {})", runs(layer, [](const Pair& pair) { return to_string(pair); }));
  });
}

std::string write_kvtuner(const Map& map, std::string_view file) {
  std::string text;
  for (std::size_t i = 0; i < map.layers.size(); ++i) {
    const Layer& layer = map.layers[i];
    text += fmt::format("{}:\n", i);
    for (std::size_t head = 0; head < layer.size(); ++head) {
      const Pair& pair = layer[head];
      if (!has_kernel(pair.k) || !has_kernel(pair.v)) {
        throw MapError(
            file, 0,
            fmt::format(
                "layer {} has {}, and KVTuner's files know integers of 2, 4 and 8 bits, and 16; "
                "{} has as many bits",
                i, to_string(pair), to_string(as_integers(pair))));
      }
      const bool per_head = layer.size() > 1;
      if (per_head) text += fmt::format("  {}:\n", head);
      const std::string_view indent = per_head ? "    " : "  ";
      text +=
          fmt::format("{0}nbits_key: {1}\n{0}nbits_value: {2}\n", indent, pair.k.bits, pair.v.bits);
    }
  }
  return text;
}

}  // namespace sagegen::kv
