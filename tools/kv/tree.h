// YAML and JSON as one small tree with lines, which is all that readers of maps see.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace sagegen::kv {

struct Entry;

struct Node {
  enum class Kind { plain, quoted, list, map };  // of a scalar: written without or with quotes
  Kind kind = Kind::plain;
  int line = 1;
  std::string text;            // of a scalar
  std::vector<Node> items;     // of a list
  std::vector<Entry> entries;  // of a map, in their order; no name twice

  bool is_scalar() const { return kind == Kind::plain || kind == Kind::quoted; }
  // The value of that name, or null.
  const Node* find(std::string_view name) const;
};

struct Entry {
  Node key;  // a scalar
  Node value;
};

// Throws MapError, with the line, for what is neither, and for what no map needs and would cost: files that are too large
// or too deep, bytes that are no UTF-8, anchors, aliases, tags, several documents, names that stand twice. What stands
// under names that no map has ("quantized_layers" of weights, ...) is left out: its value is an empty scalar.
struct Tree {
  Node root;
  bool is_json = false;
};
Tree read_tree(std::string_view text, std::string_view file);

}  // namespace sagegen::kv
