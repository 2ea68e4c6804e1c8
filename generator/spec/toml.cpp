// Set descriptions in TOML. A table's keys and their types are listed once, in read_space().
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <unordered_set>

#include <fmt/format.h>
#include <fmt/ranges.h>
#define TOML_EXCEPTIONS 1
#include <toml++/toml.h>

#include "generator/spec/detail.h"
#include "sagegen/error.h"

namespace sagegen {
namespace {

using detail::shown;

class Reader {
 public:
  explicit Reader(const std::string& file) : file_(file) {}

  std::vector<KernelSpec> read(const toml::table& root) const {
    std::vector<KernelSpec> result;
    std::unordered_set<std::string> seen;
    only_keys(root, {"attention"});
    const toml::node* list = root.get("attention");
    if (list == nullptr) refuse(root.source(), "no [[attention]] table; a set has at least one");
    if (!list->is_array_of_tables())
      refuse(list->source(), "attention must be written as [[attention]] tables");
    check_length(*list->as_array(), "the set", "[[attention]] tables");
    for (const toml::node& entry : *list->as_array()) {
      for (const KernelSpec& spec : expand(*entry.as_table())) {
        if (seen.insert(key(spec)).second) result.push_back(spec);
      }
    }
    return result;
  }

  [[noreturn]] void refuse(const toml::source_region& where, const std::string& what) const {
    throw SpecError(fmt::format("{}:{}:{}: {}", file_, where.begin.line, where.begin.column, what));
  }

 private:
  void only_keys(const toml::table& table, std::initializer_list<std::string_view> known) const {
    for (const auto& [name, node] : table) {
      if (std::find(known.begin(), known.end(), name.str()) == known.end()) {
        refuse(name.source(), fmt::format("unknown key \"{}\"; valid are {}", shown(name.str()),
                                          fmt::join(known, ", ")));
      }
    }
  }

  // Every element is compared with every other, and every table is a product of its lists.
  void check_length(const toml::array& array, std::string_view owner, std::string_view what) const {
    if (array.size() <= kMaxElements) return;
    refuse(
        array[kMaxElements].source(),
        fmt::format("{} has {} {}, at most {} are read; describe fewer kernels, or write several "
                    "files",
                    owner, array.size(), what, kMaxElements));
  }

  // Reads `name` as a non-empty list without repetitions, if it is there. `parse` turns one element
  // into a value or refuses.
  template <typename T, typename Parse>
  void list(const toml::table& table, std::string_view name, std::vector<T>& out,
            const Parse& parse) const {
    const toml::node* node = table.get(name);
    if (node == nullptr) return;
    const toml::array* array = node->as_array();
    if (array == nullptr || array->empty()) {
      refuse(node->source(), fmt::format("{} must be a list with at least one element", name));
    }
    check_length(*array, name, "elements");
    out.clear();
    for (const toml::node& element : *array) {
      const T value = parse(element);
      if (std::find(out.begin(), out.end(), value) != out.end()) {
        refuse(element.source(), fmt::format("{} lists the same value twice", name));
      }
      out.push_back(value);
    }
  }

  std::string text(const toml::node& node, std::string_view name) const {
    if (const auto value = node.value_exact<std::string>()) return *value;
    refuse(node.source(), fmt::format("{} must list strings", name));
  }

  int integer(const toml::node& node, std::string_view name) const {
    const auto value = node.value_exact<std::int64_t>();
    if (!value) refuse(node.source(), fmt::format("{} must be an integer", name));
    if (*value < 0 || *value > kMaxInteger) {
      refuse(node.source(),
             fmt::format("{} = {} is out of range (0 to {})", name, *value, kMaxInteger));
    }
    return static_cast<int>(*value);
  }

  template <typename Enum>
  void word_list(const toml::table& table, std::string_view name, std::vector<Enum>& out) const {
    list(table, name, out, [&](const toml::node& node) {
      const std::string word = text(node, name);
      if (const auto value = from_string<Enum>(word)) return *value;
      refuse(node.source(), fmt::format("unknown word \"{}\" in {}; valid are {}", shown(word),
                                        name, fmt::join(words<Enum>(), ", ")));
    });
  }

  TileSchedule schedule(const toml::node& node) const {
    const toml::table* table = node.as_table();
    if (table == nullptr) {
      refuse(node.source(), "schedules must list tables { cta_q, cta_k, warps, stages }");
    }
    only_keys(*table, {"cta_q", "cta_k", "warps", "stages"});
    const auto field = [&](std::string_view name) {
      const toml::node* value = table->get(name);
      if (value == nullptr) refuse(node.source(), fmt::format("a schedule needs {}", name));
      return integer(*value, name);
    };
    return {.cta_q = field("cta_q"),
            .cta_k = field("cta_k"),
            .warps = field("warps"),
            .stages = field("stages")};
  }

  SpecSpace read_space(const toml::table& table) const {
    only_keys(table, {"targets", "head_dims", "io", "masks", "granularities", "smoothings", "pv",
                      "schedules"});
    SpecSpace space;
    if (table.get("targets") == nullptr)
      refuse(table.source(), "targets is missing; list targets, for example [\"sm_89\"]");
    list(table, "targets", space.targets, [&](const toml::node& node) {
      const std::string word = text(node, "targets");
      try {
        return parse_target(shown(word));  // a target's name is shown unchanged
      } catch (const SpecError& error) {
        refuse(node.source(), error.what());
      }
    });
    list(table, "head_dims", space.head_dims,
         [&](const toml::node& node) { return integer(node, "head_dims"); });
    word_list(table, "io", space.io);
    word_list(table, "masks", space.masks);
    word_list(table, "granularities", space.granularities);
    word_list(table, "smoothings", space.smoothings);
    word_list(table, "pv", space.pv);
    list(table, "schedules", space.schedules,
         [&](const toml::node& node) { return schedule(node); });
    return space;
  }

  std::vector<KernelSpec> expand(const toml::table& table) const {
    return detail::expand(
        read_space(table), [&](const KernelSpec& spec, const std::vector<std::string>& sentences) {
          refuse(table.source(),
                 fmt::format("{} cannot be generated: {}", key(spec), fmt::join(sentences, "; ")));
        });
  }

  static constexpr std::int64_t kMaxInteger = 1'000'000;
  static constexpr std::size_t kMaxElements = 1000;
  const std::string& file_;
};
}  // namespace

std::vector<KernelSpec> read_spec_set(std::string_view toml_text, const std::string& file_name) {
  detail::check_set_limits(toml_text, file_name);
  const Reader reader(file_name);
  toml::table root;
  try {
    root = toml::parse(toml_text, file_name);
  } catch (const toml::parse_error& error) {
    reader.refuse(error.source(), shown(error.description(), 300));
  }
  return reader.read(root);
}

std::vector<KernelSpec> read_spec_set_file(const std::string& path) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"),
                                                             &std::fclose);
  const auto refuse = [&] {
    throw SpecError(
        fmt::format("cannot read the set description {}: {}", path, std::strerror(errno)));
  };
  if (!file) refuse();
  // One byte more than may be read, so that what is too large is seen and not kept.
  std::string text(detail::kMaxSetBytes + 1, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), file.get()));
  if (std::ferror(file.get()) != 0) refuse();  // half a set is another set
  return read_spec_set(text, path);
}

}  // namespace sagegen
