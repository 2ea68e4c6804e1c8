// The readers of maps: each takes one engine's part of the tree.
#include <algorithm>
#include <string>

#include <fmt/format.h>

#include "generator/vocabulary/suggestion.h"
#include "tools/kv/kv_map.h"
#include "tools/kv/tree.h"
#include "tools/reference/printable.h"

namespace sagegen::kv {
namespace {

constexpr std::string_view kDtypeWords =
    "auto, bf16, fp16, fp8, fp8_e4m3, fp8_e5m2, nvfp4, fp4_e2m1, int8 and int4, or a pair such as "
    "K8V4";

std::string shown(std::string_view text) { return "\"" + reference::printable(text, 60) + "\""; }

std::string shown(const Node& node) {
  if (node.is_scalar()) return node.text.empty() ? "nothing" : shown(node.text);
  return node.kind == Node::Kind::map ? "a map" : "a list";
}

// Plain digits, as KVTuner, ModelOpt and the engines write numbers: no sign, no leading 0, at most 6.
std::optional<int> whole(std::string_view text) {
  if (text.empty() || text.size() > 6 || (text.size() > 1 && text[0] == '0') ||
      text.find_first_not_of("0123456789") != std::string_view::npos)
    return std::nullopt;
  int value = 0;
  for (const char c : text) value = 10 * value + (c - '0');
  return value;
}

struct NamedLayer {
  int index, line;
  Layer layer;
};

class Reader {
 public:
  Reader(std::string_view file, const Model& model, bool is_json)
      : file_(file), model_(model), names_are_quoted_(is_json) {}

  MapFile read(const Node& root) {
    if (root.is_scalar()) {
      if (root.text.find(':') == std::string::npos)
        refuse(root.line,
               fmt::format("{} is no map of formats; as a text it is like 0-3:fp8,4-35:int4",
                           shown(root)));
      return {ranges(root, kExactPair), Source::tensorrt_llm};
    }
    if (root.kind == Node::Kind::list)
      refuse(root.line, std::string("this is a list. ") + kWhatIsRead);
    const Entry* first = nullptr;
    MapFile (Reader::*reader)(const Entry&, const Node&) = nullptr;
    for (const Entry& entry : root.entries) {
      const auto found = reader_of(entry.key.text);
      if (found == nullptr) continue;
      if (reader != nullptr && (reader != found || found != &Reader::kvtuner))
        refuse(entry.key.line, fmt::format("{} and {} (line {}) are two maps; keep one of them",
                                           shown(entry.key), shown(first->key), first->key.line));
      if (reader == nullptr) first = &entry;
      reader = found;
    }
    if (reader == nullptr) {
      if (root.entries.empty()) refuse(root.line, std::string("the map is empty. ") + kWhatIsRead);
      const Node& key = root.entries.front().key;
      refuse(key.line, fmt::format("{} is no layer. {}", shown(key), kWhatIsRead));
    }
    return (this->*reader)(*first, root);
  }

 private:
  using ReaderOf = MapFile (Reader::*)(const Entry&, const Node&);

  static constexpr Pair kExactPair{};
  static constexpr const char* kWhatIsRead =
      "Maps are KVTuner's (0: nbits_key, nbits_value), ModelOpt's (kv_cache_quantized_layers below "
      "quantization or quantization_config), TensorRT-LLM's (kv_cache_config: dtype) and SGLang's "
      "(kv_cache_per_layer_dtype)";

  static ReaderOf reader_of(std::string_view name) {
    if (name == "quantization" || name == "quantization_config") return &Reader::modelopt;
    if (name == "kv_cache_config") return &Reader::tensorrt_llm;
    if (name == "kv_cache_per_layer_dtype" || name == "kv-cache-per-layer-dtype")
      return &Reader::sglang;
    if (name == "schema") return &Reader::own;
    if (!name.empty() && name.find_first_not_of("-0123456789") == std::string_view::npos)
      return &Reader::kvtuner;
    return nullptr;
  }

  [[noreturn]] void refuse(int line, std::string_view what) const {
    throw MapError(file_, line, what);
  }

  const Node& map_of(const Node& node, std::string_view what) const {
    if (node.kind != Node::Kind::map)
      refuse(node.line, fmt::format("{} is {}; it is a map", what, shown(node)));
    return node;
  }

  // Of layers and heads.
  int index_of(const Node& key, std::string_view what, int most) const {
    const std::optional<int> index = whole(key.text);
    if (key.kind == Node::Kind::quoted && !names_are_quoted_ && index)
      refuse(key.line, fmt::format("{} is a text, and a {} is a number; write it without quotes",
                                   shown(key), what));
    if (!index)
      refuse(key.line, fmt::format("{} is refused: a {} is a whole number from 0, in plain digits",
                                   shown(key), what));
    if (*index >= most)
      refuse(key.line, fmt::format("{} {} is refused: {} are the most that is read, from 0 to {}",
                                   what, *index, most, most - 1));
    return *index;
  }

  // ---- what all have: layers by number ---------------------------------------------------------------------------

  // Puts them in their order, with `rest` in what is not named. Without `rest`, or a number of layers, all must be there.
  Map assembled(std::vector<NamedLayer> named, std::optional<Pair> rest, int count, int end_line) {
    std::ranges::stable_sort(named, {}, &NamedLayer::index);
    const auto twin = std::ranges::adjacent_find(named, {}, &NamedLayer::index);
    if (twin != named.end())
      refuse(twin[1].line,
             fmt::format(
                 "layer {} is given for the second time, and for the first in line {}; remove one",
                 twin->index, twin->line));
    const int layers = count == 0 ? static_cast<int>(named.size()) : count;
    if (layers == 0) refuse(end_line, "no layer is named");
    const std::size_t heads = named.empty() ? 1 : named.front().layer.size();
    Map map;
    std::vector<NamedLayer>::iterator next = named.begin();
    for (int i = 0; i < layers; ++i) {
      if (next != named.end() && next->index == i) {
        map.layers.push_back(std::move((next++)->layer));
      } else if (count != 0 && rest) {
        map.layers.emplace_back(heads, *rest);
      } else {
        refuse_missing(named, i, layers, count != 0, end_line);
      }
    }
    if (next != named.end())
      refuse(next->line, fmt::format("layer {} is refused: the model has {} layers, from 0 to {}",
                                     next->index, layers, layers - 1));
    return map;
  }

  [[noreturn]] void refuse_missing(const std::vector<NamedLayer>& named, int missing, int layers,
                                   bool is_told, int end_line) {
    const NamedLayer& last = named.empty() ? NamedLayer{0, end_line, {}} : named.back();
    if (is_told) {
      refuse(
          named.empty() || last.index < layers ? end_line : last.line,
          fmt::format("layer {} is missing, and nothing says what layers have that are not named; "
                      "name each of the {} layers, or say it (sagegen kv: --default)",
                      missing, layers));
    }
    // The first of those behind the number there would be if none was missing.
    const auto behind =
        std::ranges::find_if(named, [&](const NamedLayer& layer) { return layer.index >= layers; });
    const NamedLayer& stray = behind == named.end() ? last : *behind;
    refuse(stray.line,
           fmt::format("layer {} is given and layer {} is missing; {}", stray.index, missing,
                       named.front().index > 0
                           ? "layers count from 0, and all are there"
                           : "layers are all from 0 to the last, or the number of layers is "
                             "said (sagegen kv: --layers)"));
  }

  // ---- KVTuner ---------------------------------------------------------------------------------------------------

  Storage bits_of(const Node& node, std::string_view field) const {
    const std::optional<int> bits = whole(node.text);
    if (node.kind == Node::Kind::plain && bits == 16) return kExact;
    if (node.kind == Node::Kind::plain && (bits == 2 || bits == 4 || bits == 8))
      return integer(*bits);
    refuse(
        node.line,
        fmt::format("{} {} is refused: codes have 2, 4 or 8 bits, and 16 stores what comes as it "
                    "is; write one of these numbers",
                    field, shown(node)));
  }

  static bool is_bits(const Entry& entry) {
    return entry.key.text == "nbits_key" || entry.key.text == "nbits_value";
  }

  Pair bits_pair(const Node& node, const std::string& whose) const {
    std::optional<Storage> k, v;
    for (const Entry& entry : node.entries) {
      if (!is_bits(entry)) {
        refuse(entry.key.line,
               fmt::format("{}: {} is unknown; a layer, or each of its KV heads, has nbits_key and "
                           "nbits_value, and nothing else{}",
                           whose, shown(entry.key),
                           suggestion(entry.key.text, {"nbits_key", "nbits_value"})));
      }
      (entry.key.text == "nbits_key" ? k : v) = bits_of(entry.value, whose + ": " + entry.key.text);
    }
    if (!k || !v)
      refuse(node.line,
             fmt::format("{} has no {}; add it", whose, k ? "nbits_value" : "nbits_key"));
    return {*k, *v};
  }

  Layer bits_layer(const Entry& entry, int layer) const {
    const std::string whose = fmt::format("layer {}", layer);
    const Node& node = map_of(entry.value, whose);
    const auto is_head = [](const Entry& of) { return whole(of.key.text).has_value(); };
    const auto head = std::ranges::find_if(node.entries, is_head);
    if (head == node.entries.end()) return {bits_pair(node, whose)};
    const auto other = std::ranges::find_if_not(node.entries, is_head);
    if (other != node.entries.end())
      refuse(other->key.line,
             fmt::format(
                 "{}: {} stands beside KV head {} (line {}); a layer has nbits_key and nbits_value "
                 "itself, or each of its KV heads has them",
                 whose, shown(other->key), head->key.text, head->key.line));
    // The first that is behind the number of heads there are says which is missing.
    std::vector<const Entry*> heads(node.entries.size());
    const Entry* stray = nullptr;
    for (const Entry& of : node.entries) {
      const auto index = static_cast<std::size_t>(index_of(of.key, "KV head", kMaxHeads));
      if (index < heads.size())
        heads[index] = &of;
      else if (stray == nullptr)
        stray = &of;
    }
    Layer pairs;
    for (const Entry* of : heads) {
      const std::string who = fmt::format("layer {}, KV head {}", layer, pairs.size());
      if (of == nullptr)
        refuse(
            stray->key.line,
            fmt::format("{} is missing and KV head {} is given; heads are all from 0 to the last",
                        who, stray->key.text));
      pairs.push_back(bits_pair(map_of(of->value, who), who));
    }
    return pairs;
  }

  MapFile kvtuner(const Entry&, const Node& root) {
    std::vector<NamedLayer> named;
    for (const Entry& entry : root.entries) {
      const int layer = index_of(entry.key, "layer", kMaxLayers);
      named.push_back({layer, entry.key.line, bits_layer(entry, layer)});
      refuse_other_heads(named.front(), named.back());
    }
    return {assembled(std::move(named), model_.rest, model_.layers, root.entries.back().key.line),
            Source::kvtuner};
  }

  void refuse_other_heads(const NamedLayer& first, const NamedLayer& layer) const {
    if (layer.layer.size() == first.layer.size()) return;
    const auto form = [](const NamedLayer& of) {
      return of.layer.size() == 1 ? std::string("one pair for all KV heads")
                                  : fmt::format("{} KV heads", of.layer.size());
    };
    refuse(layer.line,
           fmt::format(
               "layer {} has {}, and layer {} (line {}) has {}; all layers of a map have the same",
               layer.index, form(layer), first.index, first.line, form(first)));
  }

  // ---- dtypes of engines -----------------------------------------------------------------------------------------

  Pair dtype(std::string_view word, int line, std::string_view whose) const {
    if (const std::optional<Pair> pair = pair_of(word)) return *pair;
    refuse(line, fmt::format("{}: {} is refused: dtypes are {}{}", whose, shown(word), kDtypeWords,
                             suggestion(word, {"auto", "bf16", "fp16", "fp8", "fp8_e4m3",
                                               "fp8_e5m2", "nvfp4", "fp4_e2m1", "int8", "int4"})));
  }

  std::optional<Pair> rest_or(std::optional<Pair> own) const {
    return model_.rest ? model_.rest : own;
  }

  Map ranges(const Node& node, std::optional<Pair> rest) {
    std::vector<NamedLayer> named;
    std::string_view text = node.text;
    while (true) {
      const std::string_view part = trimmed(text.substr(0, text.find(',')));
      const std::size_t colon = part.find(':');
      const std::string_view where = trimmed(part.substr(0, colon));
      const std::size_t dash = where.find('-');
      const std::optional<int> first = whole(trimmed(where.substr(0, dash)));
      const std::optional<int> last =
          dash == std::string_view::npos ? first : whole(trimmed(where.substr(dash + 1)));
      if (colon == std::string_view::npos || !first || !last)
        refuse(
            node.line,
            fmt::format(
                "{} is refused: each part is LAYER:DTYPE or FIRST-LAST:DTYPE, with commas between "
                "them, as in 0-3:fp8,4:bf16",
                shown(part)));
      if (*first > *last || *last >= kMaxLayers)
        refuse(node.line,
               fmt::format("{} is refused: layers go up, and {} is the last that is read",
                           shown(part), kMaxLayers - 1));
      const Pair pair = dtype(trimmed(part.substr(colon + 1)), node.line, shown(part));
      for (int layer = *first; layer <= *last; ++layer) {
        named.push_back({layer, node.line, {pair}});
        if (named.size() > 2 * kMaxLayers)
          refuse(node.line, "layers are named several times; name each once");
      }
      if (text.find(',') == std::string_view::npos) break;
      text.remove_prefix(text.find(',') + 1);
    }
    return assembled(std::move(named), rest_or(rest), model_.layers, node.line);
  }

  static std::string_view trimmed(std::string_view text) {
    text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
    return text.substr(0, text.find_last_not_of(' ') + 1);
  }

  // {0: fp8} or "0-3:fp8", or one dtype of all.
  Map dtypes(const Node& node, std::string_view field, std::optional<Pair> rest) {
    if (node.is_scalar()) {
      if (node.text.find(':') != std::string::npos) return ranges(node, rest);
      return uniform(dtype(node.text, node.line, field), node, field);
    }
    std::vector<NamedLayer> named;
    for (const Entry& entry : map_of(node, field).entries) {
      const int layer = index_of(entry.key, "layer", kMaxLayers);
      const std::string whose = fmt::format("layer {}", layer);
      if (!entry.value.is_scalar())
        refuse(entry.value.line,
               fmt::format("{}: the dtype is {}; it is one word", whose, shown(entry.value)));
      named.push_back({layer, entry.key.line, {dtype(entry.value.text, entry.value.line, whose)}});
    }
    return assembled(std::move(named), rest_or(rest), model_.layers, node.line);
  }

  Map uniform(const Pair& pair, const Node& node, std::string_view field) const {
    if (model_.layers == 0)
      refuse(node.line, fmt::format("{} is one for all layers, and nothing says how many there "
                                    "are; say it (sagegen kv: --layers)",
                                    field));
    return {std::vector<Layer>(static_cast<std::size_t>(model_.layers), Layer{pair})};
  }

  MapFile tensorrt_llm(const Entry& entry, const Node&) {
    const Node* dtype_node = map_of(entry.value, entry.key.text).find("dtype");
    if (dtype_node == nullptr)
      refuse(entry.key.line, "kv_cache_config has no dtype, and so no formats of layers");
    return {dtypes(*dtype_node, "dtype", kExactPair), Source::tensorrt_llm};  // the others are auto
  }

  MapFile sglang(const Entry& entry, const Node& root) {
    std::optional<Pair> rest;
    for (const char* name : {"kv_cache_dtype", "kv-cache-dtype"}) {
      if (const Node* node = root.find(name)) {
        if (!node->is_scalar())
          refuse(node->line, fmt::format("{} is {}; it is one dtype", name, shown(*node)));
        rest = dtype(node->text, node->line, name);
      }
    }
    return {dtypes(entry.value, entry.key.text, rest), Source::sglang};
  }

  // ---- ModelOpt --------------------------------------------------------------------------------------------------

  Pair algorithm(const Node& node, const std::string& whose) const {
    static const std::vector<std::pair<std::string, Pair>> known{
        {"FP8", {kFloat8, kFloat8}},
        {"NVFP4", {kFloat4, kFloat4}},
        {"NVFP4_AFFINE", {kFloat4, kFloat4}},
        {"FP8_K_NVFP4_V", {kFloat8, kFloat4}},
        {"INT8", {integer(8), integer(8)}}};
    const auto found = std::ranges::find(known, node.text, &std::pair<std::string, Pair>::first);
    if (node.kind != Node::Kind::map && node.kind != Node::Kind::list && found != known.end())
      return found->second;
    std::vector<std::string> names;
    for (const auto& [name, pair] : known) names.push_back(name);
    refuse(node.line,
           fmt::format("{}: {} is refused: algorithms of KV caches are FP8, NVFP4, NVFP4_AFFINE, "
                       "FP8_K_NVFP4_V and INT8{}",
                       whose, shown(node), suggestion(node.text, names)));
  }

  // "model.layers.3.self_attn": its one part that is a number.
  NamedLayer quantized_layer(const Entry& entry) const {
    const std::string& name = entry.key.text;
    std::optional<int> layer;
    for (std::size_t begin = 0; begin <= name.size();) {
      const std::size_t end = std::min(name.find('.', begin), name.size());
      if (const std::optional<int> number =
              whole(std::string_view(name).substr(begin, end - begin))) {
        if (layer)
          refuse(entry.key.line,
                 fmt::format("{} is refused: it has two numbers, and one says which layer it is",
                             shown(name)));
        layer = number;
      }
      begin = end + 1;
    }
    if (!layer || *layer >= kMaxLayers)
      refuse(entry.key.line,
             fmt::format(
                 "{} is refused: the number of its layer, from 0 to {}, is a part of a name, as in "
                 "model.layers.0.self_attn",
                 shown(name), kMaxLayers - 1));
    const Node& node = map_of(entry.value, fmt::format("layer {}", *layer));
    const Node* algo = node.find("quant_algo");
    for (const Entry& of : node.entries) {
      if (of.key.text != "quant_algo")
        refuse(
            of.key.line,
            fmt::format(
                "layer {}: {} is unknown; a layer of a KV cache has quant_algo, and nothing else",
                *layer, shown(of.key)));
    }
    if (algo == nullptr)
      refuse(node.line, fmt::format("layer {} has no quant_algo; add it", *layer));
    return {
        *layer, entry.key.line, {algorithm(*algo, fmt::format("layer {}: quant_algo", *layer))}};
  }

  MapFile modelopt(const Entry& entry, const Node& root) {
    count_layers(root);
    const Node& part = map_of(entry.value, entry.key.text);
    static const std::vector<std::string> known{"kv_cache_quant_algo", "kv_cache_quantized_layers",
                                                "kv_cache_schema_version", "kv_cache_scheme"};
    for (const Entry& of : part.entries) {
      if (of.key.text.starts_with("kv_") && std::ranges::find(known, of.key.text) == known.end())
        refuse(of.key.line,
               fmt::format("{} is unknown{}", shown(of.key), suggestion(of.key.text, known)));
    }
    const Node* algo = part.find("kv_cache_quant_algo");
    const Node* layers = part.find("kv_cache_quantized_layers");
    if (layers != nullptr) return {quantized_layers(*layers, algo, part), Source::modelopt};
    if (algo != nullptr && algo->text == "MIXED_PRECISION")
      refuse(algo->line,
             "kv_cache_quant_algo is MIXED_PRECISION, and there are no kv_cache_quantized_layers "
             "that say which");
    if (algo != nullptr && algo->text != "null")
      return {uniform(algorithm(*algo, "kv_cache_quant_algo"), *algo, "kv_cache_quant_algo"),
              Source::modelopt};
    if (const Node* scheme = part.find("kv_cache_scheme");
        scheme != nullptr && scheme->text != "null")
      return {uniform(scheme_of(*scheme), *scheme, "kv_cache_scheme"), Source::modelopt};
    refuse(entry.key.line,
           fmt::format("{} says nothing of the KV cache: neither kv_cache_quantized_layers, nor "
                       "kv_cache_quant_algo, nor kv_cache_scheme",
                       entry.key.text));
  }

  // {"type": "float", "num_bits": 8}, or the name of an algorithm.
  Pair scheme_of(const Node& node) const {
    if (node.is_scalar()) return algorithm(node, "kv_cache_scheme");
    const Node *type = node.find("type"), *bits = node.find("num_bits");
    if (type != nullptr && bits != nullptr && bits->text == "8") {
      if (type->text == "float") return {kFloat8, kFloat8};
      if (type->text == "int") return {integer(8), integer(8)};
    }
    refuse(node.line, "kv_cache_scheme is refused: it has num_bits 8 and the type float or int");
  }

  Map quantized_layers(const Node& layers, const Node* algo, const Node& part) {
    const Node* version = part.find("kv_cache_schema_version");
    if (version == nullptr || version->text != "1")
      refuse(version == nullptr ? layers.line : version->line,
             fmt::format("kv_cache_schema_version is {}, and 1 is the one that is known",
                         version == nullptr ? "missing" : shown(*version)));
    std::vector<NamedLayer> named;
    for (const Entry& entry : map_of(layers, "kv_cache_quantized_layers").entries)
      named.push_back(quantized_layer(entry));
    if (algo != nullptr && algo->text != "MIXED_PRECISION") {
      const Pair all = algorithm(*algo, "kv_cache_quant_algo");
      for (const NamedLayer& layer : named) {
        if (layer.layer.front() != all)
          refuse(layer.line,
                 fmt::format(
                     "layer {} has another algorithm than kv_cache_quant_algo (line {}), which "
                     "would be MIXED_PRECISION",
                     layer.index, algo->line));
      }
    }
    return assembled(std::move(named), rest_or(kExactPair), model_.layers, layers.line);
  }

  // config.json says how many layers there are.
  void count_layers(const Node& root) {
    const Node* text_model = root.find("text_config");
    const Node* count = root.find("num_hidden_layers");
    if (count == nullptr && text_model != nullptr) count = text_model->find("num_hidden_layers");
    if (count == nullptr) return;
    const std::optional<int> layers = whole(count->text);
    if (!layers || *layers == 0 || *layers > kMaxLayers)
      refuse(count->line,
             fmt::format("num_hidden_layers {} is refused: it is a whole number from 1 to {}",
                         shown(*count), kMaxLayers));
    if (model_.layers != 0 && model_.layers != *layers)
      refuse(count->line, fmt::format("num_hidden_layers is {}, and {} layers were asked for",
                                      *layers, model_.layers));
    model_.layers = *layers;
  }

  // ---- our own ---------------------------------------------------------------------------------------------------

  MapFile own(const Entry& entry, const Node& root) {
    const Node *version = root.find("schema_version"), *map = root.find("map");
    if (entry.value.text != "sagegen.kv" || version == nullptr || version->text != "1")
      refuse(
          entry.key.line,
          "this is no output of `sagegen kv show --json`, whose schema is sagegen.kv, version 1");
    if (map == nullptr || map->kind != Node::Kind::list)
      refuse(root.line, "there is no list \"map\", which has a pair for each layer");
    std::vector<NamedLayer> named;
    for (const Node& item : map->items) {
      const int layer = static_cast<int>(named.size());
      if (layer >= kMaxLayers)
        refuse(item.line, fmt::format("there are more than {} layers", kMaxLayers));
      const std::string whose = fmt::format("layer {}", layer);
      Layer pairs;
      if (item.is_scalar()) pairs.push_back(dtype(item.text, item.line, whose));
      for (const Node& head : item.items) pairs.push_back(dtype(head.text, head.line, whose));
      if (pairs.empty() || pairs.size() > kMaxHeads)
        refuse(item.line,
               fmt::format("{} is {}; it is a pair, or a list of pairs of 1 to {} KV heads", whose,
                           shown(item), kMaxHeads));
      named.push_back({layer, item.line, std::move(pairs)});
      refuse_other_heads(named.front(), named.back());
    }
    return {assembled(std::move(named), std::nullopt, model_.layers, map->line), Source::sagegen};
  }

  std::string_view file_;
  Model model_;
  bool names_are_quoted_;
};

}  // namespace

MapFile read_map(std::string_view text, std::string_view file, const Model& model) {
  const Tree tree = read_tree(text, file);
  return Reader(file, model, tree.is_json).read(tree.root);
}

}  // namespace sagegen::kv
