#include "tools/kv/tree.h"

#include <algorithm>
#include <array>
#include <istream>
#include <streambuf>
#include <utility>

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>
#include <nlohmann/json.hpp>

#include "tools/kv/kv_map.h"
#include "tools/reference/printable.h"

namespace sagegen::kv {
namespace {

constexpr std::size_t kMaxDepth = 16;  // of maps and lists in each other; a map of heads needs 3
constexpr std::size_t kMaxValues = 1 << 18;  // that are kept

std::string shown(std::string_view text) { return reference::printable(text, 80); }

bool is_digits(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

// Whether readers look at what stands there. Engines' files hold a lot else: the formats of thousands of weights.
bool wanted(std::string_view parent, std::string_view name, std::size_t depth) {
  constexpr std::array kTop{"quantization",
                            "quantization_config",
                            "text_config",
                            "num_hidden_layers",
                            "kv_cache_config",
                            "kv_cache_per_layer_dtype",
                            "kv-cache-per-layer-dtype",
                            "kv_cache_dtype",
                            "kv-cache-dtype",
                            "schema",
                            "schema_version",
                            "map"};
  if (depth == 1) return is_digits(name) || std::ranges::find(kTop, name) != kTop.end();
  if (depth > 2) return true;
  if (parent == "text_config") return name == "num_hidden_layers";
  if (parent == "kv_cache_config") return name == "dtype";
  return !parent.starts_with("quantization") || name.starts_with("kv_");
}

// Puts the tree together from the events of a parser. Nothing recurses here, and what is too deep is refused before a
// parser that recurses gets there.
class Builder {
 public:
  explicit Builder(std::string_view file) : file_(file) {}

  [[noreturn]] void refuse(int line, std::string_view what) const {
    throw MapError(file_, line, what);
  }

  void scalar(int line, std::string text, bool quoted) {
    if (skipping_ > 0) return;
    add({.kind = quoted ? Node::Kind::quoted : Node::Kind::plain,
         .line = line,
         .text = std::move(text),
         .items = {},
         .entries = {}});
  }

  void open(int line, Node::Kind kind) {
    if (open_.size() + skipping_ >= kMaxDepth)
      refuse(line,
             fmt::format("maps and lists are more than {} deep; a map of formats needs 3 levels",
                         kMaxDepth));
    if (skipping_ > 0 || skips_next()) {
      ++skipping_;
      return;
    }
    if (expects_key()) refuse(line, "a map or list stands for a name; names are words and numbers");
    count(line);
    open_.push_back({.kind = kind, .line = line, .text = {}, .items = {}, .entries = {}});
    keys_.emplace_back();
  }

  void close() {
    if (skipping_ > 0) {
      if (--skipping_ == 0)
        add({.line = keys_.back().key.line, .text = {}, .items = {}, .entries = {}});
      return;
    }
    Node node = std::move(open_.back());
    open_.pop_back();
    keys_.pop_back();
    refuse_twins(node);
    add(std::move(node));
  }

  bool is_done() const { return done_; }
  Node take() { return std::move(root_); }

 private:
  bool expects_key() const {
    return !open_.empty() && open_.back().kind == Node::Kind::map && !keys_.back().has;
  }

  bool skips_next() const {
    if (open_.empty() || open_.back().kind != Node::Kind::map || !keys_.back().has) return false;
    const std::string_view parent =
        open_.size() < 2 || open_[open_.size() - 2].kind != Node::Kind::map
            ? std::string_view()
            : std::string_view(keys_[keys_.size() - 2].key.text);
    return !wanted(parent, keys_.back().key.text, open_.size());
  }

  void count(int line) {
    if (++values_ > kMaxValues)
      refuse(line,
             fmt::format("there are more than {} values, the most that is read; maps of large "
                         "models have some 30000",
                         kMaxValues));
  }

  void add(Node node) {
    count(node.line);
    if (open_.empty()) {
      root_ = std::move(node);
      done_ = true;
    } else if (open_.back().kind == Node::Kind::list) {
      open_.back().items.push_back(std::move(node));
    } else if (expects_key()) {
      keys_.back() = {.has = true, .key = std::move(node)};
    } else {
      keys_.back().has = false;
      open_.back().entries.push_back(
          {.key = std::move(keys_.back().key), .value = std::move(node)});
    }
  }

  void refuse_twins(const Node& map) const {
    std::vector<const Node*> keys;
    keys.reserve(map.entries.size());
    for (const Entry& entry : map.entries) keys.push_back(&entry.key);
    std::ranges::stable_sort(keys, {}, [](const Node* key) { return std::string_view(key->text); });
    const auto twin = std::ranges::adjacent_find(
        keys, {}, [](const Node* key) { return std::string_view(key->text); });
    if (twin == keys.end()) return;
    refuse(twin[1]->line,
           fmt::format(
               "\"{}\" stands here for the second time, and for the first in line {}; readers of "
               "such files keep one of them and forget the other: remove one",
               shown((*twin)->text), (*twin)->line));
  }

  struct Key {
    bool has = false;
    Node key;
  };

  std::string_view file_;
  std::vector<Node> open_;
  std::vector<Key> keys_;     // of open_
  std::size_t skipping_ = 0;  // levels that are open in what is left out
  std::size_t values_ = 0;
  Node root_;
  bool done_ = false;
};

// ---- YAML ------------------------------------------------------------------------------------------------------------

class YamlEvents : public YAML::EventHandler {
 public:
  explicit YamlEvents(Builder& builder) : builder_(builder) {}

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    check(mark, "", anchor);
    builder_.scalar(mark.line + 1, "", false);
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override { refuse_anchor(mark); }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    check(mark, tag, anchor);
    builder_.scalar(mark.line + 1, value, tag == "!");  // the tag of what stands in quotes
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    check(mark, tag, anchor);
    builder_.open(mark.line + 1, Node::Kind::list);
  }
  void OnSequenceEnd() override { builder_.close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    check(mark, tag, anchor);
    builder_.open(mark.line + 1, Node::Kind::map);
  }
  void OnMapEnd() override { builder_.close(); }

 private:
  [[noreturn]] void refuse_anchor(const YAML::Mark& mark) const {
    builder_.refuse(
        mark.line + 1,
        "anchors (&name) and aliases (*name) are refused: a few of them stand for a file of any "
        "size; write each layer out");
  }
  void check(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) const {
    if (anchor != 0) refuse_anchor(mark);
    if (!tag.empty() && tag != "?" && tag != "!")
      builder_.refuse(
          mark.line + 1,
          fmt::format("the tag {} is refused: maps hold plain numbers and words; remove it",
                      shown(tag)));
  }

  Builder& builder_;
};

// Text as a stream, without a copy.
class TextBuffer : public std::streambuf {
 public:
  explicit TextBuffer(std::string_view text) {
    char* const begin = const_cast<char*>(text.data());  // which no reader writes to
    setg(begin, begin, begin + text.size());
  }
};

Node read_yaml(std::string_view text, Builder& builder) {
  TextBuffer buffer(text);
  std::istream stream(&buffer);
  YamlEvents events(builder);
  try {
    YAML::Parser parser(stream);
    if (!parser.HandleNextDocument(events) || !builder.is_done())
      builder.refuse(0, "the file holds nothing; a map begins with the first layer, \"0:\"");
    Node root = builder.take();
    if (parser.HandleNextDocument(events))
      builder.refuse(0,
                     "the file holds several documents (---), and a map is one; remove the others");
    return root;
  } catch (const YAML::Exception& error) {
    builder.refuse(std::max(error.mark.line, 0) + 1,
                   fmt::format("this is not YAML: {}", error.msg));
  }
}

// ---- JSON ------------------------------------------------------------------------------------------------------------

// Tells how far the parser has read. It looks one character ahead, behind numbers.
class CountedText {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  CountedText(const char* at, const char** read) : at_(at), read_(read) {}
  reference operator*() const { return *at_; }
  CountedText& operator++() {
    *read_ = ++at_;
    return *this;
  }
  CountedText operator++(int) {
    CountedText before = *this;
    ++*this;
    return before;
  }
  friend bool operator==(const CountedText& a, const CountedText& b) { return a.at_ == b.at_; }

 private:
  const char* at_;
  const char** read_;
};

class JsonEvents : public nlohmann::json_sax<nlohmann::json> {
 public:
  JsonEvents(std::string_view text, Builder& builder)
      : builder_(builder), begin_(text.data()), counted_(begin_), read_(begin_) {}

  CountedText from(const char* at) { return {at, &read_}; }

  bool null() override { return plain("null"); }
  bool boolean(bool value) override { return plain(value ? "true" : "false"); }
  bool number_integer(number_integer_t value) override { return plain(fmt::format("{}", value)); }
  bool number_unsigned(number_unsigned_t value) override { return plain(fmt::format("{}", value)); }
  bool number_float(number_float_t, const string_t& text) override { return plain(text); }
  bool string(string_t& text) override { return quoted(text); }
  bool binary(binary_t&) override { return false; }  // JSON has none
  bool key(string_t& text) override { return quoted(text); }
  bool start_object(std::size_t) override { return open(Node::Kind::map); }
  bool start_array(std::size_t) override { return open(Node::Kind::list); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool parse_error(std::size_t, const std::string&,
                   const nlohmann::json::exception& error) override {
    const std::string_view text = error.what();
    builder_.refuse(line(), fmt::format("this is not JSON: {}",
                                        text.substr(std::min(text.find("] ") + 2, text.size()))));
  }

 private:
  // Of the last character that belongs to what was just read.
  int line() {
    const char* const last = read_ == begin_ ? begin_ : read_ - 1;
    line_ += static_cast<int>(std::count(counted_, last, '\n'));
    counted_ = last;
    return line_;
  }
  bool plain(std::string text) {
    builder_.scalar(line(), std::move(text), false);
    return true;
  }
  bool quoted(const std::string& text) {
    builder_.scalar(line(), text, true);
    return true;
  }
  bool open(Node::Kind kind) {
    builder_.open(line(), kind);
    return true;
  }
  bool close() {
    builder_.close();
    return true;
  }

  Builder& builder_;
  const char *begin_, *counted_, *read_;
  int line_ = 1;
};

Node read_json(std::string_view text, Builder& builder) {
  JsonEvents events(text, builder);
  nlohmann::json::sax_parse(events.from(text.data()), events.from(text.data() + text.size()),
                            &events);
  return builder.take();
}

bool looks_like_json(std::string_view text) {
  const auto next = [&](std::size_t from) {
    return std::min(text.find_first_not_of(" \t\r\n", from), text.size());
  };
  const std::size_t first = next(0);
  if (first == text.size() || text[first] != '{') return false;
  const std::size_t second = next(first + 1);
  return second < text.size() && (text[second] == '"' || text[second] == '}');
}

void check_bytes(std::string_view text, std::size_t most, const Builder& builder) {
  if (text.size() > most)
    builder.refuse(
        0,
        fmt::format(
            "the file has {} bytes, and {} are the most that is read; a map has some 40 for each "
            "layer and KV head",
            text.size(), most));
  int line = 1;
  for (std::size_t begin = 0; begin < text.size(); ++line) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view row = text.substr(begin, end - begin);
    if (row.ends_with('\r')) row.remove_suffix(1);
    if (reference::without_controls(row) != row)
      builder.refuse(line, fmt::format("bytes that are no text in UTF-8: {}", shown(row)));
    begin = end + 1;
  }
}

}  // namespace

const Node* Node::find(std::string_view name) const {
  const auto found = std::ranges::find(
      entries, name, [](const Entry& entry) { return std::string_view(entry.key.text); });
  return found == entries.end() ? nullptr : &found->value;
}

Tree read_tree(std::string_view text, std::string_view file) {
  Builder builder(file);
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);  // a byte order mark
  const bool is_json = looks_like_json(text);
  check_bytes(text, is_json ? kMaxJsonBytes : kMaxYamlBytes, builder);
  return {.root = is_json ? read_json(text, builder) : read_yaml(text, builder),
          .is_json = is_json};
}

}  // namespace sagegen::kv
