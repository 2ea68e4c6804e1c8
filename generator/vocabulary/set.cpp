// Set descriptions in TOML.
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include <fmt/format.h>
#include <fmt/ranges.h>
#define TOML_EXCEPTIONS 1
#include <toml++/toml.h>

#include "generator/vocabulary/collected.h"
#include "generator/vocabulary/detail.h"
#include "generator/vocabulary/suggestion.h"
#include "sagegen/error.h"
#include "sagegen/set.h"

namespace sagegen {
namespace {

using detail::Collected;
using detail::shown;

class Reader {
 public:
  Reader(const std::string& file, const Families& families) : file_(file), families_(families) {}

  std::vector<Kernel> read(const toml::table& root) const {
    Collected result;
    std::vector<std::string_view> titles;
    for (const Family* family : families_.all()) titles.push_back(family->title);
    only_keys(root, titles);
    if (root.empty())
      refuse(root.source(), fmt::format("no table of kernels; write [[{}]]", titles.front()));
    // Tables in the order of the file, whatever their family: TOML sorts them by name.
    std::vector<std::pair<std::string_view, const toml::table*>> tables;
    for (const auto& [title, node] : root) {
      if (!node.is_array_of_tables()) {
        refuse(node.source(),
               fmt::format("{} must be written as [[{}]] tables", title.str(), title.str()));
      }
      check_length(*node.as_array(), "the set", fmt::format("[[{}]] tables", title.str()));
      for (const toml::node& entry : *node.as_array())
        tables.emplace_back(title.str(), entry.as_table());
    }
    std::ranges::stable_sort(tables, {},
                             [](const auto& table) { return table.second->source().begin.line; });
    std::size_t combinations = 0;
    for (const auto& [title, table] : tables) {
      const KernelProduct product = read_product(families_.of_title(title), *table);
      combinations += size(product);
      if (combinations > kMaxCombinations) {
        refuse(
            table->source(),
            fmt::format("with this table the set has more than {} combinations of targets, fields "
                        "and schedules, the most that is read; describe fewer kernels, or write "
                        "several files",
                        kMaxCombinations));
      }
      const auto refused = [&, where = table](const Kernel& kernel, const Sentences& sentences) {
        refuse(where->source(),
               fmt::format("{} cannot be generated: {}", kernel.key(), fmt::join(sentences, "; ")));
      };
      for (const Kernel& kernel : enumerate(product, families_, refused)) result.add(kernel);
    }
    return result.take();
  }

  [[noreturn]] void refuse(const toml::source_region& where, const std::string& what) const {
    throw SpecError(fmt::format("{}:{}:{}: {}", file_, where.begin.line, where.begin.column, what));
  }

 private:
  void only_keys(const toml::table& table, const std::vector<std::string_view>& known) const {
    for (const auto& [name, node] : table) {
      if (std::find(known.begin(), known.end(), name.str()) == known.end()) {
        refuse(name.source(), fmt::format("unknown key \"{}\"; valid are {}{}", shown(name.str()),
                                          fmt::join(known, ", "),
                                          suggestion(name.str(), {known.begin(), known.end()})));
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

  // A value, or the values of a non-empty list without repetitions, as words. check(word) throws SpecError
  // for what is none, which is told at its place.
  template <typename Check>
  std::vector<std::string> words(const toml::node& node, std::string_view name,
                                 const Check& check) const {
    const auto checked = [&](const toml::node& element) {
      std::string text = word(element, name);
      try {
        check(text);
      } catch (const SpecError& error) {
        refuse(element.source(), error.what());
      }
      return text;
    };
    const toml::array* array = node.as_array();
    if (array == nullptr) return {checked(node)};
    if (array->empty())
      refuse(node.source(), fmt::format("{} must be a value or a list with at least one", name));
    check_length(*array, name, "elements");
    std::vector<std::string> result;
    for (const toml::node& element : *array) {
      std::string text = checked(element);
      if (std::ranges::find(result, text) != result.end())
        refuse(element.source(), fmt::format("{} lists the same value twice", name));
      result.push_back(std::move(text));
    }
    return result;
  }

  std::string word(const toml::node& node, std::string_view name) const {
    if (const auto text = node.value_exact<std::string>()) return *text;
    if (const auto flag = node.value_exact<bool>()) return *flag ? "true" : "false";
    if (const auto number = node.value_exact<std::int64_t>()) return std::to_string(*number);
    refuse(node.source(), fmt::format("{} must be strings, whole numbers or true and false", name));
  }

  KernelProduct read_product(const Family& family, const toml::table& table) const {
    std::vector<std::string_view> known{"targets"};
    for (const Field& field : family.what) known.push_back(field.name);
    if (!family.how.empty()) known.push_back("schedules");
    only_keys(table, known);
    const toml::node* targets = table.get("targets");
    if (targets == nullptr)
      refuse(table.source(), "targets is missing; list targets, for example [\"sm_89\"]");

    KernelProduct product{.family = family.title, .targets = {}, .fields = {}, .schedules = {}};
    words(*targets, "targets", [&](const std::string& name) {
      product.targets.push_back(parse_target(shown(name)));  // a target's name is shown unchanged
    });
    const std::shared_ptr<void> scratch = family.new_spec();
    for (const Field& field : family.what) {  // in this order, whatever that of the file
      const toml::node* node = table.get(field.name);
      if (node == nullptr) continue;
      const auto check = [&](const std::string& value) {
        set_field(family.what, scratch.get(), field.name, value);
      };
      product.fields.emplace_back(field.name, words(*node, field.name, check));
    }
    if (const toml::node* schedules = table.get("schedules")) {
      const Kernel any(family, family.new_spec(), family.new_schedule(), product.targets.front());
      product.schedules = words(*schedules, "schedules",
                                [&](const std::string& schedule) { any.with_schedule(schedule); });
    }
    return product;
  }

  // Exact up to the limit; beyond, some number beyond it.
  static std::size_t size(const KernelProduct& product) {
    std::size_t size = product.targets.size() * std::max<std::size_t>(product.schedules.size(), 1);
    for (const auto& [name, words] : product.fields) {
      if (size <= kMaxCombinations) size *= words.size();
    }
    return size;
  }

  static constexpr std::size_t kMaxElements = 1000;
  static constexpr std::size_t kMaxCombinations = 100'000;  // a second or so
  const std::string& file_;
  const Families& families_;
};

}  // namespace

std::vector<Kernel> read_set(std::string_view toml_text, const std::string& file_name,
                             const Families& families) {
  detail::check_set_limits(toml_text, file_name);
  const Reader reader(file_name, families);
  toml::table root;
  try {
    root = toml::parse(toml_text, file_name);
  } catch (const toml::parse_error& error) {
    reader.refuse(error.source(), shown(error.description(), 300));
  }
  return reader.read(root);
}

std::vector<Kernel> read_set_file(const std::string& path, const Families& families) {
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
  return read_set(text, path, families);
}

}  // namespace sagegen
