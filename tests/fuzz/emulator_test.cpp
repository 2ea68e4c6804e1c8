#include <catch2/catch.hpp>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <random>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "tests/fuzz/mutation_loop.h"

namespace {

std::vector<std::string> corpus(std::initializer_list<const char*> folders) {
  std::set<std::filesystem::path> files;  // sorted, so that every machine runs the same inputs
  for (const char* const folder : folders) {
    const auto path =
        std::filesystem::path(SAGEGEN_SOURCE_DIR) / "tests" / "fuzz" / "corpus" / folder;
    for (const auto& entry : std::filesystem::directory_iterator(path)) files.insert(entry.path());
  }
  std::vector<std::string> texts;
  for (const std::filesystem::path& path : files) {
    std::ifstream file(path);
    std::stringstream text;
    text << file.rdbuf();
    texts.push_back(text.str());
  }
  return texts;
}

// Words and single characters, so that exchanging two of them often gives a legal program.
std::vector<std::string> tokens(const std::string& text) {
  std::vector<std::string> out;
  const std::regex token(R"([%$\w]+|\s+|.)");
  for (std::sregex_iterator it(text.begin(), text.end(), token), end; it != end; ++it) {
    out.push_back(it->str());
  }
  return out;
}

}  // namespace

TEST_CASE("the emulator survives mutated bytes") {
  sagegen::fuzz::MutationLoop loop;
  loop.seeds = corpus({"emulator", "ptx"});
  REQUIRE(loop.seeds.size() >= 5);
  loop.dictionary = {"%r1", "%rd1",       "0",   "-1",  "@%p1 ",   "bar.sync 0;\n",  "ret;",
                     "+64", "0f7FC00000", ".v4", "_",   ".global", "bra $L_head;\n", ".shared",
                     ".s8", "0x80000000", "%p1", ".u64"};
  loop.iterations = 2000;
  CHECK(sagegen::fuzz::run(loop) > loop.iterations);
}

TEST_CASE("the emulator survives exchanged words") {
  std::mt19937_64 random(5);
  const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random() % n); };
  std::vector<std::vector<std::string>> seeds;
  for (const std::string& text : corpus({"emulator"})) seeds.push_back(tokens(text));
  const auto is_word = [](const std::string& token) {
    return token[0] == '%' || token[0] == '$' || std::isalnum(static_cast<unsigned char>(token[0]));
  };
  for (int round = 0; round < 6000; ++round) {
    std::vector<std::string> text = seeds[below(seeds.size())];
    for (std::size_t changes = 1 + below(3); changes > 0;) {
      std::string& to = text[below(text.size())];
      const std::vector<std::string>& other = seeds[below(seeds.size())];
      const std::string& from = other[below(other.size())];
      if (!is_word(to) || !is_word(from)) continue;
      to = from;
      --changes;
    }
    std::string joined;
    for (const std::string& token : text) joined += token;
    sagegen::fuzz::run(joined);
  }
}
