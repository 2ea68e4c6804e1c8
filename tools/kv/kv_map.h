// Which formats the KV caches of a model's layers have: what a planner finds, and what engines and papers write down.
// Files hold names of formats and numbers of bits; bytes come from KvFormat, with what the tool is told of the model.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sagegen/error.h"
#include "templates/shared/kv_format.h"

namespace sagegen::kv {

// What K or V of a layer is stored as. integer: codes of 2, 4 or 8 bits with scale and zero point of each token; exact:
// the dtype of the model, 16 bits. The kernels store these (KvFormat). Engines also store float8 (e4m3), float8_e5m2 and
// float4 (e2m1 with a scale of 8 bits for 16 values: nvfp4, fp4_e2m1), for which there is no kernel here.
enum class Kind { integer, float8, float8_e5m2, float4, exact };
struct Storage {
  Kind kind = Kind::exact;
  int bits = 16;  // nominal: of a code
  friend bool operator==(const Storage&, const Storage&) = default;
};
constexpr Storage integer(int bits) { return {Kind::integer, bits}; }
inline constexpr Storage kFloat8{Kind::float8, 8}, kFloat8E5m2{Kind::float8_e5m2, 8},
    kFloat4{Kind::float4, 4}, kExact{};

struct Pair {
  Storage k, v;
  friend bool operator==(const Pair&, const Pair&) = default;
};
// "K8V4", "KV8" where both are the same; "Kf8V4" with e4m3, f8e5m2 and f4 likewise. pair_of() reads it back, and the dtypes
// of engines, which K and V share: auto, bf16, fp16, fp8, fp8_e4m3, fp8_e5m2, nvfp4, fp4_e2m1, int8, int4, ...
std::string to_string(const Pair& pair);
std::optional<Pair> pair_of(std::string_view word);

using Layer = std::vector<Pair>;  // one: of all KV heads; else of each, as many in all layers

struct Map {
  std::vector<Layer> layers;
  friend bool operator==(const Map&, const Map&) = default;
};

// ---- what a map comes to ---------------------------------------------------------------------------------------------

// How often each pair occurs: in how many layers or, of a map per KV head, heads of layers. The most bits first.
std::vector<std::pair<Pair, int>> counts(const Map& map);
// Mean over layers, heads, K and V of the nominal bits: "4.0-bit" of papers.
double mean_nominal_bits(const Map& map);
// The same with scales, zero points and channels that fill up: of the bytes that are stored.
double mean_effective_bits(const Map& map, const KvFormat& base);
// The format that stores a pair, like `base` in all but the bits; empty if no kernel stores it.
std::optional<KvFormat> format_of(const Pair& pair, const KvFormat& base);
// Of one token and KV head. Where no kernel stores it: as engines do, float8 with no scales but those of the tensor.
int token_bytes(const Pair& pair, const KvFormat& base);
// The pair of integers of as many bits, which a kernel stores.
Pair as_integers(const Pair& pair);
// Layers, or heads of them, that follow each other and have the same: "0-3:K8V4, 4:(heads 0-1:KV8, 2-7:KV4)". Without
// heads read_map() reads it.
std::string ranges_text(const Map& map);

// ---- files -----------------------------------------------------------------------------------------------------------

// What was found in a file, which rule refuses it, and what to change; the text begins with "file:line: ".
class MapError : public Error {
 public:
  MapError(std::string_view file, int line, std::string_view what);
  const char* kind() const noexcept override { return "file error"; }
  int line() const { return line_; }  // 1 is the first; 0: the file as a whole

 private:
  int line_;
};

// kvtuner: calibration_presets of its repository, YAML: layer -> {nbits_key, nbits_value}, or layer -> KV head -> that.
// modelopt: kv_cache_quantized_layers (schema 1) of hf_quant_config.json or config.json, or one algorithm of all layers.
// tensorrt_llm: kv_cache_config.dtype of its YAML, {0: fp8} or the text "0-3:fp8,4-35:nvfp4", also as the whole file.
// sglang: kv_cache_per_layer_dtype of its YAML, in the same two ways, beside a kv_cache_dtype of all other layers.
// sagegen: what `sagegen kv show --json` prints.
enum class Source { kvtuner, modelopt, tensorrt_llm, sglang, sagegen };
std::string_view to_string(Source source);

// What a file need not say.
struct Model {
  int layers = 0;  // 0: as many as are named, which then are 0 to the last
  std::optional<Pair>
      rest;  // what is not named has; without it what the engine gives it, if it says
};

struct MapFile {
  Map map;
  Source source = Source::kvtuner;
};
// Reads what is there: JSON if it begins like an object with names in quotes, else YAML. Throws MapError.
MapFile read_map(std::string_view text, std::string_view file, const Model& model = {});

// Files of at most so many bytes, layers and heads are read.
inline constexpr std::size_t kMaxYamlBytes = 1 << 20, kMaxJsonBytes = 16 << 20;
inline constexpr int kMaxLayers = 1024, kMaxHeads = 256;

// The bytes that KVTuner's tools write: read_map() of it is the map again, and what they wrote is written back as it was.
// Throws MapError for what that format has no words for, by the layer.
std::string write_kvtuner(const Map& map, std::string_view file);

}  // namespace sagegen::kv
