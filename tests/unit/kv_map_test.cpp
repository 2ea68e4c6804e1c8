// Maps of KV cache formats: what is read, what is refused and by which line, and that what is written is read again.
#include <catch2/catch.hpp>

#include <random>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "tools/kv/kv_map.h"

using namespace sagegen;
using namespace sagegen::kv;
using Catch::Contains;

namespace {

const Pair kKv8 = *pair_of("KV8"), kK8V4 = *pair_of("K8V4"), kKv4 = *pair_of("KV4"),
           kKv2 = *pair_of("KV2");

Map uniform_map(std::initializer_list<std::pair<const char*, int>> runs) {
  Map map;
  for (const auto& [word, count] : runs)
    map.layers.insert(map.layers.end(), static_cast<std::size_t>(count), Layer{*pair_of(word)});
  return map;
}

// In the shape of the files of KVTuner's repository.
std::string kvtuner_text(const std::vector<std::pair<int, int>>& layers) {
  std::string text;
  for (std::size_t i = 0; i < layers.size(); ++i)
    text += fmt::format("{}:\n  nbits_key: {}\n  nbits_value: {}\n", i, layers[i].first,
                        layers[i].second);
  return text;
}

// Read, or why not.
struct Outcome {
  std::optional<MapFile> file;
  std::string why;
  int line = 0;
};
Outcome outcome(std::string_view text, const Model& model = {}) {
  try {
    return {.file = read_map(text, "m", model), .why = {}};
  } catch (const MapError& error) {
    return {.file = {}, .why = error.what(), .line = error.line()};
  }
}

Map map_of(std::string_view text, const Model& model = {}) {
  const Outcome got = outcome(text, model);
  INFO(got.why);
  REQUIRE(got.file);
  return got.file->map;
}

std::string line_of(std::string_view text, int number) {
  std::size_t begin = 0;
  for (int i = 1; i < number; ++i) begin = text.find('\n', begin) + 1;
  return std::string(text.substr(begin, text.find('\n', begin) - begin));
}

// Refused by that line, with all parts in the message.
void check_refused(std::string_view text, int line, const std::vector<std::string>& parts) {
  const Outcome got = outcome(text);
  INFO(text.substr(0, 400));
  CHECK_FALSE(got.file);
  CHECK(got.line == line);
  for (const std::string& part : parts) CHECK_THAT(got.why, Contains(part));
}

}  // namespace

TEST_CASE("kv map: KVTuner's files are read, and written back byte for byte") {
  const std::string text = kvtuner_text(
      {{8, 8}, {8, 4}, {4, 4}, {4, 2}, {2, 2}, {2, 4}, {4, 8}, {2, 8}, {8, 2}, {16, 16}, {16, 4}});
  const MapFile file = read_map(text, "m");
  CHECK(file.source == Source::kvtuner);
  CHECK(ranges_text(file.map) ==
        "0:KV8, 1:K8V4, 2:KV4, 3:K4V2, 4:KV2, 5:K2V4, 6:K4V8, 7:K2V8, 8:K8V2, 9:KV16, 10:K16V4");
  CHECK(write_kvtuner(file.map, "m") == text);

  const std::string heads =
      "0:\n  0:\n    nbits_key: 8\n    nbits_value: 4\n  1:\n    nbits_key: 4\n    nbits_value: 4\n"
      "1:\n  0:\n    nbits_key: 2\n    nbits_value: 2\n  1:\n    nbits_key: 2\n    nbits_value: "
      "2\n";
  CHECK(map_of(heads) == Map{{{kK8V4, kKv4}, {kKv2, kKv2}}});
  CHECK(write_kvtuner(map_of(heads), "m") == heads);
  CHECK(ranges_text(map_of(heads)) == "0:(heads 0:K8V4, 1:KV4), 1:KV2");

  // The same map in other words of YAML and JSON.
  const Map two{{{kKv8}, {kK8V4}}};
  for (const char* same : {"0: {nbits_key: 8, nbits_value: 8}\n1: {nbits_value: 4, nbits_key: 8}",
                           "# calibrated\r\n1:\r\n    nbits_key: 8\r\n    nbits_value: 4\r\n0:\r\n "
                           " nbits_key: 8 # bits\r\n  nbits_value: 8\r\n",
                           "\xef\xbb\xbf---\n{0: {nbits_key: 8, nbits_value: 8}, 1: {nbits_key: 8, "
                           "nbits_value: 4}}\n...\n",
                           "{\"0\": {\"nbits_key\": 8, \"nbits_value\": 8},\n \"1\": "
                           "{\"nbits_key\": 8, \"nbits_value\": 4}}"})
    CHECK(map_of(same) == two);
}

TEST_CASE("kv map: random maps are written and read again") {
  std::mt19937_64 random(20261130);
  const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random() % n); };
  constexpr int kBits[] = {2, 4, 8, 16};
  const auto storage = [&] {
    const int bits = kBits[below(4)];
    return bits == 16 ? kExact : integer(bits);
  };
  for (int i = 0; i < 60; ++i) {
    const std::size_t heads = below(2) == 0 ? 1 : 2 + below(7);
    Map map{std::vector<Layer>(1 + below(48), Layer(heads))};
    for (Layer& layer : map.layers)
      for (Pair& pair : layer) pair = {storage(), storage()};
    const std::string text = write_kvtuner(map, "m");
    REQUIRE(map_of(text) == map);
    REQUIRE(map_of(text, {.layers = static_cast<int>(map.layers.size()), .rest = {}}) == map);
    REQUIRE(write_kvtuner(map_of(text), "m") == text);
    if (heads == 1) REQUIRE(map_of(ranges_text(map)) == map);
  }
}

TEST_CASE(
    "kv map: a line of a good file that is changed gives another map, or is refused by that line") {
  const std::string uniform = kvtuner_text({{8, 8}, {8, 4}, {4, 4}, {4, 2}, {2, 2}});
  const std::string heads = write_kvtuner({{{kKv8, kKv4}, {kK8V4, kKv2}, {kKv4, kKv4}}}, "m");
  int read = 0, refused = 0;
  for (const std::string& good : {uniform, heads}) {
    const Map before = map_of(good);
    const int lines = static_cast<int>(std::count(good.begin(), good.end(), '\n'));
    for (int number = 1; number <= lines; ++number) {
      const std::string line = line_of(good, number);
      std::string front, back;
      for (int i = 1; i < number; ++i) front += line_of(good, i) + "\n";
      for (int i = number + 1; i <= lines; ++i) back += line_of(good, i) + "\n";
      const std::size_t colon = line.find(':');
      const std::string name = line.substr(0, colon);
      const std::string indent(line.find_first_not_of(' '), ' ');
      std::set<std::string> others{"",
                                   line + "\n" + line,
                                   line.substr(0, colon) + line.substr(colon + 1),
                                   name + "x:" + line.substr(colon + 1),
                                   name + ": 3",
                                   name + ": 8.0",
                                   name + ": -8",
                                   name + ": \"8\"",
                                   name + ": 08",
                                   name + ": [8]",
                                   name + ": &a 8",
                                   name + ": *a",
                                   name + ": !!int 8",
                                   name + ": ~",
                                   name + ": 4",
                                   name + ": 16",
                                   name + ":",
                                   " " + line,
                                   line + " 4",
                                   indent + "unknown: 8",
                                   indent + "7:",
                                   indent + "99999:",
                                   indent + "-1:",
                                   indent + "? " + line,
                                   indent + "- 8",
                                   line + "\n" + indent + "}",
                                   "\xff" + line,
                                   line + "\x01",
                                   "\t" + line,
                                   "---",
                                   "...",
                                   "%YAML 9"};
      for (const std::string& other : others) {
        if (other == line) continue;
        const std::string text = front + other + (other.empty() ? "" : "\n") + back;
        const Outcome got = outcome(text);
        INFO("line " << number << " is \"" << other << "\": " << got.why << "\n" << text);
        if (got.file) {
          ++read;
          // As YAML has it, an empty value or a repetition may leave what it was; nothing here does.
          REQUIRE(got.file->map != before);
          continue;
        }
        ++refused;
        // The line itself or, where it changes what its neighbours mean, one of these; of twins both are named.
        const bool names_it = std::abs(got.line - number) <= 1 ||
                              got.why.find(fmt::format("line {}", number)) != std::string::npos ||
                              got.why.find(fmt::format("line {}", number - 1)) != std::string::npos;
        // The parser itself notices later, and a document that ends too soon is incomplete as a whole.
        const bool is_syntax =
            got.why.find("this is not YAML") != std::string::npos && got.line >= number;
        const bool ends = other == "---" || other == "..." || other.starts_with('%');
        REQUIRE((names_it || is_syntax || ends));
        REQUIRE_THAT(got.why,
                     Catch::StartsWith(got.line == 0 ? "m: " : fmt::format("m:{}: ", got.line)));
      }
    }
  }
  CHECK(read > 20);
  CHECK(refused > 500);
}

TEST_CASE("kv map: refusals name the line, the field, the rule and what to write") {
  check_refused("", 0, {"m: ", "holds nothing", "0:"});
  check_refused("# nothing\n", 0, {"holds nothing"});
  check_refused("{}", 1, {"empty", "kv_cache_quantized_layers"});
  check_refused("- 1\n", 1, {"list", "KVTuner"});
  check_refused("layers: 3\n", 1, {"\"layers\" is no layer", "kv_cache_per_layer_dtype"});
  check_refused("0:\n  nbits_key: 8\n  nbits_value: 3\n", 3,
                {"layer 0: nbits_value \"3\"", "2, 4 or 8 bits", "16"});
  check_refused("0:\n  nbits_key: 8\n  nbits_value: \"8\"\n", 3, {"nbits_value"});
  check_refused("0:\n  nbits_key: 8\n", 2, {"layer 0 has no nbits_value"});
  check_refused("0:\n  nbits_key: 8\n  nbits_values: 8\n", 3,
                {"nbits_values", "did you mean nbits_value?"});
  check_refused("0:\n  nbits_key: 8\n  nbits_key: 4\n  nbits_value: 4\n", 3,
                {"\"nbits_key\"", "second time", "line 2"});
  check_refused("0: {nbits_key: 8, nbits_value: 8}\n0: {nbits_key: 8, nbits_value: 8}\n", 2,
                {"second time", "line 1"});
  check_refused("1: {nbits_key: 8, nbits_value: 8}\n2: {nbits_key: 8, nbits_value: 8}\n", 2,
                {"layer 0 is missing", "count from 0"});
  check_refused("0: {nbits_key: 8, nbits_value: 8}\n2: {nbits_key: 8, nbits_value: 8}\n", 2,
                {"layer 1 is missing"});
  // By the first layer that is behind the number of them.
  check_refused(
      "0: {nbits_key: 8, nbits_value: 8}\n3: {nbits_key: 8, nbits_value: 8}\n4: {nbits_key: 8, "
      "nbits_value: 8}\n",
      2, {"layer 3 is given and layer 1 is missing"});
  check_refused("'0': {nbits_key: 8, nbits_value: 8}\n", 1, {"without quotes"});
  check_refused("0: 8\n", 1, {"layer 0 is \"8\"", "map"});
  check_refused("5000: {nbits_key: 8, nbits_value: 8}\n", 1, {"1024"});
  // One form, with as many heads in all layers, all of them.
  const std::string two_heads =
      "0:\n  0: {nbits_key: 8, nbits_value: 8}\n  1: {nbits_key: 8, nbits_value: 8}\n";
  check_refused(two_heads + "1: {nbits_key: 8, nbits_value: 8}\n", 4,
                {"one pair for all KV heads", "layer 0 (line 1) has 2 KV heads"});
  check_refused(two_heads +
                    "1:\n  0: {nbits_key: 8, nbits_value: 8}\n  1: {nbits_key: 8, nbits_value: 8}\n"
                    "  2: {nbits_key: 8, nbits_value: 8}\n",
                4, {"3 KV heads", "2 KV heads"});
  check_refused("0:\n  nbits_key: 8\n  0: {nbits_key: 8, nbits_value: 8}\n", 2,
                {"nbits_key", "KV head 0 (line 3)"});
  check_refused("0:\n  0: {nbits_key: 8, nbits_value: 8}\n  2: {nbits_key: 8, nbits_value: 8}\n", 3,
                {"layer 0, KV head 1 is missing and KV head 2 is given"});
  // What stands for more than it says.
  check_refused("0: &a {nbits_key: 8, nbits_value: 8}\n1: *a\n", 1, {"anchors"});
  check_refused("0: {nbits_key: 8, nbits_value: 8}\n1: !!map {nbits_key: 8, nbits_value: 8}\n", 2,
                {"tag", "remove"});
  check_refused("0: {nbits_key: 8, nbits_value: 8}\n---\n0: {nbits_key: 8, nbits_value: 8}\n", 0,
                {"several documents"});
  check_refused("0:\n  {a: b}: 8\n", 2, {"names are words"});
  // Bytes and syntax.
  check_refused("0:\n  nbits_key: 8 # \xc3\x28\n", 2, {"UTF-8", "\\xc3"});
  check_refused(std::string_view("\xff\xfe"
                                 "0\0:\0",
                                 6),
                1, {"UTF-8"});
  check_refused("0:\n  nbits_key: [8\n", 3, {"not YAML"});
  check_refused("{\"0\": {\"nbits_key\": 8,\n \"nbits_value\": }}", 2, {"not JSON"});
  check_refused("{\"0\": {\"nbits_key\": 8,\n\"nbits_value\":\n 3\n}}", 3, {"nbits_value \"3\""});
  check_refused("{\"0\": {\"nbits_key\": 8,\n\"nbits_key\": 8}}", 2, {"second time", "line 1"});
}

TEST_CASE("kv map: what is large or deep is refused before it costs") {
  check_refused(std::string(kMaxYamlBytes + 1, '#'), 0, {"1048576"});
  check_refused("{\"" + std::string(kMaxJsonBytes, 'a'), 0, {"16777216"});
  const auto times = [](int count, std::string_view text) {
    std::string all;
    for (int i = 0; i < count; ++i) all += text;
    return all;
  };
  check_refused(times(20, "[") + times(20, "]"), 1, {"16 deep"});
  check_refused(times(20, "{a: ") + "1" + times(20, "}"), 1, {"16 deep"});
  for (const char* open : {"[", "{a: ", "- ", "? ", "[a: "})
    check_refused(times(200000, open), 1, {"m:1: "});
  check_refused("{\"map\":" + times(1000000, "["), 1, {"16 deep"});
  check_refused("{\"other\":" + times(1000000, "{\"a\":"), 1, {"16 deep"});
  check_refused("{\"map\": [" + times(300000, "1,") + "1]}", 1, {"262144 values"});
  check_refused("\"0" + times(500000, "x"), 1, {"not YAML"});
  // What is no part of a map may be large: the formats of a million weights.
  const std::string many = "[" + times(300000, "1,") + "1]";
  CHECK(map_of("{\"weights\": " + many +
               ", \"num_hidden_layers\": 1, \"quantization_config\": {\"ignore\": " + many +
               ", \"kv_cache_quant_algo\": \"INT8\"}}") == Map{{{kKv8}}});
  std::string blocks;
  for (int i = 0; i < 20; ++i) blocks += std::string(static_cast<std::size_t>(i), ' ') + "a:\n";
  check_refused(blocks, 17, {"16 deep"});
}

TEST_CASE("kv map: mean bits and counts are those of the published maps") {
  // Counts of three of KVTuner's calibration presets, with the mean that its papers and table 3.5 of the reference give.
  const Map llama = uniform_map({{"KV2", 4}, {"KV4", 6}, {"K8V4", 2}, {"K4V2", 20}});  // kivi, 4_1
  const Map qwen =
      uniform_map({{"KV8", 1}, {"K8V2", 3}, {"K4V2", 7}, {"KV4", 17}});  // per token, 4_0
  const Map mistral =
      uniform_map({{"K4V8", 10}, {"KV2", 5}, {"K4V2", 7}, {"K8V4", 1}, {"KV4", 9}});  // kivi, 6_1
  for (const auto& [map, layers, mean] :
       {std::tuple(llama, 32u, "3.250"), std::tuple(qwen, 28u, "4.000"),
        std::tuple(mistral, 32u, "4.156")}) {
    const Map read = map_of(write_kvtuner(map, "m"));
    CHECK(read.layers.size() == layers);
    CHECK(fmt::format("{:.3f}", mean_nominal_bits(read)) == mean);
  }
  CHECK(counts(llama) == std::vector<std::pair<Pair, int>>{
                             {kK8V4, 2}, {kKv4, 6}, {*pair_of("K4V2"), 20}, {kKv2, 4}});
  CHECK(counts({{{kKv8, kKv4}, {kKv4, kKv4}}}) ==
        std::vector<std::pair<Pair, int>>{{kKv8, 1}, {kKv4, 3}});
  CHECK(mean_nominal_bits({{{kKv8, kKv4}, {kKv4, kKv4}}}) == 5.0);
}

TEST_CASE("kv map: bytes are those of the format that stores a pair") {
  for (int head_dim : {64, 80, 128, 256}) {
    const KvFormat base{.head_dim = head_dim};
    for (const char* word :
         {"KV8", "K8V4", "KV4", "K4V2", "KV2", "K2V8", "K16V4", "K4V16", "KV16"}) {
      const Pair pair = *pair_of(word);
      const KvFormat format = format_of(pair, base).value();
      CHECK(format.k_bits == pair.k.bits);
      CHECK(format.v_bits == pair.v.bits);
      CHECK(format.head_dim == head_dim);
      CHECK(token_bytes(pair, base) == kv_token_bytes(format));
      CHECK(mean_effective_bits({{{pair}}}, base) == kv_effective_bits(format));
    }
  }
  // Scale and zero point in f16: 0.25 bits of each of 128 channels (reference, 3.5).
  CHECK(mean_effective_bits({{{kKv4}}}, {}) == 4.25);
  CHECK(mean_effective_bits({{{kKv4}, {kKv8}}}, {}) == 6.25);
  // No kernel stores these; engines store a byte each, or half of one and a scale for 16.
  for (const auto& [word, bytes] :
       {std::pair("KVf8", 256), std::pair("KVf8e5m2", 256), std::pair("KVf4", 144),
        std::pair("Kf8Vf4", 200), std::pair("Kf8V4", 196), std::pair("KVf8", 256)}) {
    CHECK_FALSE(format_of(*pair_of(word), {}));
    CHECK(token_bytes(*pair_of(word), {}) == bytes);
    CHECK(format_of(as_integers(*pair_of(word)), {}));
  }
  CHECK(to_string(as_integers(*pair_of("Kf8Vf4"))) == "K8V4");
  CHECK(to_string(as_integers(*pair_of("K16Vf8e5m2"))) == "K16V8");
  CHECK_THROWS_WITH(write_kvtuner({{{kKv4}, {*pair_of("Kf8Vf4")}}}, "m"),
                    Contains("layer 1 has Kf8Vf4") && Contains("K8V4"));
}

TEST_CASE("kv map: names of pairs are read back, and engines' dtypes are known") {
  const Storage all[] = {integer(2), integer(4), integer(8), kExact, kFloat8, kFloat8E5m2, kFloat4};
  for (const Storage& k : all)
    for (const Storage& v : all) CHECK(pair_of(to_string(Pair{k, v})) == Pair{k, v});
  for (const char* word :
       {"", "K", "KV", "K8", "V8", "KV3", "K8V", "KV8V8", "k8v4", "int3", "FP8", "fp8 "})
    CHECK_FALSE(pair_of(word));
  const auto name = [](const char* word) { return to_string(pair_of(word).value()); };
  CHECK(name("auto") == "KV16");
  CHECK(name("bf16") == "KV16");
  CHECK(name("fp8") == "KVf8");
  CHECK(name("fp8_e5m2") == "KVf8e5m2");
  CHECK(name("nvfp4") == "KVf4");
  CHECK(name("fp4_e2m1") == "KVf4");
  CHECK(name("int4") == "KV4");
}

TEST_CASE("kv map: ModelOpt's layers") {
  const std::string layers = R"("kv_cache_quantized_layers": {
      "model.layers.0.self_attn": {"quant_algo": "FP8"},
      "model.layers.2.self_attn": {"quant_algo": "FP8_K_NVFP4_V"},
      "model.layers.1.self_attn": {"quant_algo": "NVFP4"}
    }, "kv_cache_schema_version": 1)";
  const std::string all = R"({"producer": {"name": "modelopt", "version": "0.44"},
  "quantization": {"quant_algo": null, "quantized_layers": {"model.layers.0.mlp": {"quant_algo": "FP8", "group_size": [[[1]]]}},
    "kv_cache_quant_algo": "MIXED_PRECISION",
    )" + layers + "}}";
  const MapFile file = read_map(all, "m");
  CHECK(file.source == Source::modelopt);
  CHECK(ranges_text(file.map) == "0:KVf8, 1:KVf4, 2:Kf8Vf4");
  // What is left out has the model's dtype, once the number of layers is known.
  CHECK(ranges_text(map_of(all, {.layers = 5, .rest = {}})) ==
        "0:KVf8, 1:KVf4, 2:Kf8Vf4, 3-4:KV16");
  CHECK(ranges_text(map_of(all, {.layers = 5, .rest = kKv4})) ==
        "0:KVf8, 1:KVf4, 2:Kf8Vf4, 3-4:KV4");
  const std::string config =
      "{\"num_hidden_layers\": 4, \"id2label\": {\"0\": \"a\"},\n\"quantization_config\": {" +
      layers + "}}";
  CHECK(ranges_text(map_of(config)) == "0:KVf8, 1:KVf4, 2:Kf8Vf4, 3:KV16");
  CHECK_THAT(outcome(config, {.layers = 8, .rest = {}}).why,
             Contains("num_hidden_layers is \"4\"") || Contains("num_hidden_layers is 4"));
  // One algorithm of all.
  CHECK(ranges_text(map_of("{\"text_config\": {\"num_hidden_layers\": 2}, \"quantization_config\": "
                           "{\"kv_cache_scheme\": {\"dynamic\": false, "
                           "\"num_bits\": 8, \"type\": \"float\"}}}")) == "0-1:KVf8");
  CHECK(ranges_text(map_of("{\"quantization\": {\"kv_cache_quant_algo\": \"INT8\"}}",
                           {.layers = 3, .rest = {}})) == "0-2:KV8");

  const auto replaced = [&](std::string text, std::string_view from, std::string_view to) {
    const std::size_t at = text.find(from);
    REQUIRE(at != std::string::npos);
    return text.replace(at, from.size(), to);
  };
  check_refused(replaced(all, "\"NVFP4\"", "\"NVFP5\""), 7,
                {"layer 1: quant_algo", "NVFP5", "did you mean NVFP4?"});
  check_refused(replaced(all, "layers.2", "layers.0"), 6, {"second time", "line 5"});
  check_refused(replaced(all, "layers.2.self", "layers.7.self"), 6,
                {"layer 7 is given and layer 2 is missing", "--layers"});
  check_refused(replaced(all, "layers.2.self", "layers.x.self"), 6, {"number of its layer"});
  check_refused(replaced(all, "layers.2.self", "layers.2.1.self"), 6, {"two numbers"});
  check_refused(replaced(all, "_version\": 1", "_version\": 2"), 8,
                {"kv_cache_schema_version is \"2\""});
  check_refused(replaced(all, "kv_cache_schema_version", "kv_cache_schema"), 8,
                {"kv_cache_schema", "did you mean"});
  check_refused(replaced(all, "MIXED_PRECISION", "FP8"), 6, {"MIXED_PRECISION", "line 3"});
  check_refused(replaced(all, "{\"quant_algo\": \"NVFP4\"}",
                         "{\"quant_algo\": \"NVFP4\", \"group_size\": 16}"),
                7, {"group_size", "unknown"});
  check_refused(replaced(all, "kv_cache_quantized_layers", "kv_cache_quantised_layers"), 4,
                {"did you mean kv_cache_quantized_layers?"});
  check_refused("{\"quantization\": {\"kv_cache_quant_algo\": \"FP8\"}}", 1,
                {"how many", "--layers"});
  check_refused("{\"quantization\": {\"kv_cache_quant_algo\": \"MIXED_PRECISION\"}}", 1,
                {"kv_cache_quantized_layers"});
  check_refused("{\"quantization\": {\"quant_algo\": \"FP8\"}}", 1,
                {"says nothing of the KV cache"});
}

TEST_CASE("kv map: ranges, and the YAML of TensorRT-LLM and SGLang") {
  const Model of_36{.layers = 36, .rest = {}};
  CHECK(ranges_text(map_of("0-3:fp8,4-35:nvfp4")) == "0-3:KVf8, 4-35:KVf4");
  CHECK(ranges_text(map_of("\"4-35:nvfp4, 0-3 : fp8\"", of_36)) == "0-3:KVf8, 4-35:KVf4");
  CHECK(ranges_text(map_of("2:fp8", of_36)) == "0-1:KV16, 2:KVf8, 3-35:KV16");
  CHECK(ranges_text(map_of("0-1:K8V4,2:KV2")) == "0-1:K8V4, 2:KV2");
  const MapFile file = read_map(
      "backend: pytorch\nkv_cache_config:\n  enable_block_reuse: true\n  dtype: "
      "\"0-3:fp8,4-35:nvfp4\"\n",
      "m");
  CHECK(file.source == Source::tensorrt_llm);
  CHECK(ranges_text(file.map) == "0-3:KVf8, 4-35:KVf4");
  CHECK(ranges_text(map_of("kv_cache_config:\n  dtype:\n    0: fp8\n    35: nvfp4\n", of_36)) ==
        "0:KVf8, 1-34:KV16, 35:KVf4");
  CHECK(ranges_text(map_of("kv_cache_config: {dtype: fp8}", of_36)) == "0-35:KVf8");

  const std::string sglang = "kv_cache_per_layer_dtype:\n  0: bf16\n  1: bf16\n  3: fp8_e5m2\n";
  CHECK(ranges_text(map_of(sglang, {.layers = 5, .rest = kKv4})) ==
        "0-1:KV16, 2:KV4, 3:KVf8e5m2, 4:KV4");
  CHECK(read_map(sglang, "m", {.layers = 5, .rest = kKv4}).source == Source::sglang);
  CHECK(ranges_text(map_of(sglang + "kv_cache_dtype: int8\n", {.layers = 5, .rest = {}})) ==
        "0-1:KV16, 2:KV8, 3:KVf8e5m2, 4:KV8");
  CHECK(ranges_text(map_of("kv-cache-dtype: fp4_e2m1\nkv-cache-per-layer-dtype: 0-1:bf16\n",
                           {.layers = 4, .rest = {}})) == "0-1:KV16, 2-3:KVf4");

  const auto refused = [](std::string_view text, const Model& model) {
    return outcome(text, model).why;
  };
  CHECK_THAT(refused(sglang, {.layers = 5, .rest = {}}),
             Contains("layer 2 is missing") && Contains("--default"));
  CHECK_THAT(refused("0-36:fp8", of_36), Contains("layer 36 is refused: the model has 36 layers"));
  check_refused(sglang, 4, {"layer 3 is given and layer 2 is missing", "--layers"});
  check_refused("0-3:fp8,3:bf16", 1, {"layer 3", "second time"});
  check_refused("0-3:fp8,9-4:bf16", 1, {"\"9-4:bf16\"", "go up"});
  check_refused("0-3,4-35:fp8", 1, {"\"0-3\"", "FIRST-LAST:DTYPE"});
  check_refused("0-3:fp8,", 1, {"FIRST-LAST:DTYPE"});
  check_refused("0-3:fp9", 1, {"\"fp9\"", "did you mean fp8?", "K8V4"});
  check_refused("0-1000000:fp8", 1, {"FIRST-LAST:DTYPE"});
  check_refused("0-1024:fp8", 1, {"1023"});
  check_refused("kv_cache_per_layer_dtype:\n  0-3: bf16\n", 2, {"\"0-3\"", "plain digits"});
  check_refused("kv_cache_per_layer_dtype:\n  0: e4m3\n", 2, {"layer 0: \"e4m3\""});
  check_refused("kv_cache_config: {}\n", 1, {"no dtype"});
  check_refused("kv_cache_per_layer_dtype: {0: bf16}\nkv_cache_config: {dtype: fp8}\n", 2,
                {"kv_cache_per_layer_dtype", "line 1"});
  check_refused("0: {nbits_key: 8, nbits_value: 8}\nkv_cache_config: {dtype: fp8}\n", 2,
                {"two maps"});
}
