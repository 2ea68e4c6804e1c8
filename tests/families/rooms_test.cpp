// Where families lie: rooms.def names each room once, its folder has what a room has, and the keys that it has
// ever released still name its kernels.
#include <catch2/catch.hpp>

#include <filesystem>
#include <fstream>
#include <set>

#include "sagegen/set.h"

using namespace sagegen;
namespace fs = std::filesystem;

namespace {

const fs::path kTree = SAGEGEN_SOURCE_DIR;

// The keys of a room with the options that they stand for.
std::vector<std::pair<std::string, std::string>> released_keys(const Family& family) {
  std::ifstream file(kTree / family.room / "keys.txt");
  std::vector<std::pair<std::string, std::string>> keys;
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] == '#') continue;
    const std::size_t space = std::min(line.find(' '), line.size());
    keys.emplace_back(line.substr(0, space), line.substr(space));
  }
  return keys;
}

// The names in rooms.def.
std::vector<std::string> rooms() {
  constexpr std::string_view kBegin = "SAGEGEN_ROOM(";
  std::ifstream file(kTree / "templates" / "rooms.def");
  std::vector<std::string> names;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(kBegin))
      names.push_back(line.substr(kBegin.size(), line.find(')') - kBegin.size()));
  }
  return names;
}

// True if one of the room's sources has the function that fills a builder (rooms.def).
bool defines_build(const fs::path& folder) {
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() != ".cpp") continue;
    std::ifstream file(entry.path());
    for (std::string line; std::getline(file, line);) {
      if (line.starts_with("void build(") && line.find("KernelBuilder& k") != std::string::npos)
        return true;
    }
  }
  return false;
}

}  // namespace

TEST_CASE("every room is a family, and its folder has what a room has") {
  const std::vector<std::string> names = rooms();
  REQUIRE(names.size() == builtin_families().all().size());
  std::set<std::string> words;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const Family& family = *builtin_families().all()[i];
    INFO(names[i]);
    CHECK(family.room == "templates/" + names[i]);
    CHECK(family.title == names[i]);
    CHECK(family.owner == "sage");
    CHECK(family.version >= 1);
    CHECK(words.insert(std::string(family.word)).second);
    const fs::path folder = kTree / family.room;
    for (const char* file : {"spec.h", "params.h", "family.cpp", "keys.txt"}) {
      INFO(file);
      CHECK(fs::is_regular_file(folder / file));
    }
    CHECK(defines_build(folder));
  }
}

TEST_CASE("every folder but the shared ones is a room") {
  std::set<std::string> folders;
  for (const auto& entry : fs::directory_iterator(kTree / "templates")) {
    if (entry.is_directory()) folders.insert(entry.path().filename().string());
  }
  const std::vector<std::string> names = rooms();
  std::set<std::string> expected(names.begin(), names.end());
  expected.insert("shared");
  expected.insert("include");  // headers for applications
  CHECK(folders == expected);
}

TEST_CASE("released keys name the kernels that they always named") {
  for (const Family* family : builtin_families().all()) {
    std::set<std::string> seen;
    for (const auto& [key, options] : released_keys(*family)) {
      INFO(key);
      CHECK(seen.insert(key).second);
      const Kernel kernel = parse_key(key);
      CHECK(&kernel.family() == family);
      CHECK(kernel.key() == key);
      CHECK(kernel.violations().empty());
      CHECK(kernel_of_options(*family, options, kernel.target()) == kernel);
    }
    CHECK_FALSE(seen.empty());
  }
}

TEST_CASE("every kernel of a default set is released") {
  std::set<std::string> released;
  for (const Family* family : builtin_families().all()) {
    for (const auto& [key, options] : released_keys(*family)) released.insert(key);
  }
  std::size_t sets = 0;
  for (const Family* family : builtin_families().all()) {
    const fs::path set = kTree / family->room / "set.toml";
    if (!fs::exists(set)) continue;
    ++sets;
    for (const Kernel& kernel : read_set_file(set.string())) {
      INFO(kernel.key() << " is not in " << kernel.family().room << "/keys.txt: add it there");
      CHECK(released.count(kernel.key()) == 1);
    }
  }
  CHECK(sets > 0);
}
