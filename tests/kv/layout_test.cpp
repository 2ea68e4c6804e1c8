// What `sagegen kv layout` writes, compiled and run: every byte of a block, and of pools, is where the library has it.
#include <catch2/catch.hpp>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "sagegen/error.h"
#include "tools/kv/layout.h"

using namespace sagegen;

namespace {

struct Folder {
  std::filesystem::path path;
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "sagegen_layout_XXXXXX").string();
    path = mkdtemp(name.data());
  }
  ~Folder() { std::filesystem::remove_all(path); }
};

std::string written_by(const std::string& command) {
  FILE* pipe = popen(command.c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::string text;
  char buffer[4096];
  for (std::size_t got = 0; (got = fread(buffer, 1, sizeof buffer, pipe)) > 0;)
    text.append(buffer, got);
  REQUIRE(pclose(pipe) == 0);
  return text;
}

constexpr int kHeads = 3, kPage = 5;

// All places that a format has, in the order in which the programs print them.
std::string expected(const KvFormat& format) {
  const KvBlock block(format);
  const KvStrides strides = kv_strides(format, kHeads);
  std::string text = fmt::format("{} {} {}\n", kv_digest(format), strides.page, block.bytes());
  for (int head = 0; head < kHeads; ++head) {
    for (int token = 0; token < format.page_tokens; ++token)
      text += fmt::format("{}\n", kPage * strides.page + head * strides.head +
                                      token / kKvBlockTokens * strides.block);
  }
  for (int token = 0; token < kKvBlockTokens; ++token) {
    for (int byte = 0; byte < block.k_row_bytes(); ++byte)
      text += fmt::format("{}\n", block.k_byte(token, byte));
    for (int byte = 0; byte < block.v_row_bytes(); ++byte)
      text += fmt::format("{}\n", block.v_byte(token, byte));
    if (block.k_of_tokens()) text += fmt::format("{}\n", block.s_k(token));
    if (block.k_of_tokens() && block.k_has_zero_point())
      text += fmt::format("{}\n", block.z_k(token));
    if (kv_quantized(format.v_bits)) text += fmt::format("{}\n", block.s_v(token));
    if (block.v_has_zero_point()) text += fmt::format("{}\n", block.z_v(token));
  }
  if (block.k_of_channels()) {
    for (int channel = 0; channel < block.channels; ++channel)
      text += fmt::format("{}\n", block.k_channel(channel));
  }
  return text;
}

std::vector<std::string> parameters(const KvFormat& format) {
  const KvBlock block(format);
  std::vector<std::string> names;
  if (block.k_of_tokens()) names.emplace_back("k_scale");
  if (block.k_of_tokens() && block.k_has_zero_point()) names.emplace_back("k_zero");
  if (kv_quantized(format.v_bits)) names.emplace_back("v_scale");
  if (block.v_has_zero_point()) names.emplace_back("v_zero");
  return names;
}

std::string c_program(const KvFormat& format) {
  std::string text = fmt::format(R"(#include <inttypes.h>
#include <stdio.h>
#include "layout.h"
int main(void) {{
  printf("%" PRIu64 " %" PRId64 " %d\n", (uint64_t)KV_DIGEST, kv_page_bytes({0}), KV_BLOCK_BYTES);
  for (int head = 0; head < {0}; ++head)
    for (int token = 0; token < KV_PAGE_TOKENS; ++token) printf("%" PRId64 "\n", kv_block_offset({0}, {1}, head, token));
  for (int token = 0; token < KV_BLOCK_TOKENS; ++token) {{
    for (int byte = 0; byte < KV_K_ROW_BYTES; ++byte) printf("%d\n", kv_k_byte(token, byte));
    for (int byte = 0; byte < KV_V_ROW_BYTES; ++byte) printf("%d\n", kv_v_byte(token, byte));
)",
                                 kHeads, kPage);
  for (const std::string& name : parameters(format))
    text += fmt::format("    printf(\"%d\\n\", kv_{}(token));\n", name);
  text += "  }\n";
  if (format.k_codes == KvCoding::channel)
    text +=
        "  for (int channel = 0; channel < KV_CHANNELS; ++channel) printf(\"%d\\n\", "
        "kv_k_channel(channel));\n";
  return text + "  return 0;\n}\n";
}

std::string python_program(const KvFormat& format) {
  std::string text = fmt::format(R"(from layout import *
print(KV_DIGEST, kv_page_bytes({0}), KV_BLOCK_BYTES)
for head in range({0}):
    for token in range(KV_PAGE_TOKENS):
        print(kv_block_offset({0}, {1}, head, token))
for token in range(KV_BLOCK_TOKENS):
    for byte in range(KV_K_ROW_BYTES):
        print(kv_k_byte(token, byte))
    for byte in range(KV_V_ROW_BYTES):
        print(kv_v_byte(token, byte))
)",
                                 kHeads, kPage);
  for (const std::string& name : parameters(format))
    text += fmt::format("    print(kv_{}(token))\n", name);
  if (format.k_codes == KvCoding::channel)
    text += "for channel in range(KV_CHANNELS):\n    print(kv_k_channel(channel))\n";
  return text;
}

void write(const std::filesystem::path& file, const std::string& text) {
  std::ofstream(file) << text;
}

std::vector<KvFormat> formats() {
  std::vector<KvFormat> all;
  int turn = 0;
  for (const int k_bits : {2, 4, 8, 16}) {
    for (const int v_bits : {2, 4, 8, 16}) {
      all.push_back({.head_dim = std::vector{64, 80, 128, 256}[static_cast<std::size_t>(turn % 4)],
                     .k_bits = k_bits,
                     .v_bits = v_bits,
                     .page_tokens = turn % 3 == 0 ? 528 : 48,
                     .layout = turn % 2 == 0 ? KvPageLayout::hnd : KvPageLayout::nhd});
      ++turn;
    }
    ++turn;
  }
  all.push_back({.k_codes = KvCoding::e4m3, .v_codes = KvCoding::e4m3});
  all.push_back({.k_bits = 4, .v_bits = 4, .v_codes = KvCoding::symmetric});
  all.push_back({.k_bits = 4, .k_codes = KvCoding::symmetric});
  all.push_back({.k_bits = 4, .v_bits = 4, .k_codes = KvCoding::channel});
  all.push_back({.head_dim = 256, .k_bits = 2, .v_bits = 16, .k_codes = KvCoding::channel});
  return all;
}

}  // namespace

TEST_CASE("the header of C says of every byte where it lies") {
  for (const KvFormat& format : formats()) {
    INFO(to_string(format));
    const Folder folder;
    write(folder.path / "layout.h", kv::layout_text(format, kv::Language::c, "kv"));
    write(folder.path / "main.c", c_program(format));
    const std::string program = (folder.path / "main").string();
    REQUIRE(std::system(fmt::format("{} -std=c99 -pedantic -Wall -Wextra -Werror -o {} {}.c",
                                    SAGEGEN_TEST_CC, program, program)
                            .c_str()) == 0);
    CHECK(written_by(program) == expected(format));
  }
}

TEST_CASE("the module of Python says of every byte where it lies") {
  for (const KvFormat& format : formats()) {
    INFO(to_string(format));
    const Folder folder;
    write(folder.path / "layout.py", kv::layout_text(format, kv::Language::python, "kv"));
    write(folder.path / "main.py", python_program(format));
    CHECK(written_by(fmt::format("{} {}/main.py", SAGEGEN_TEST_PYTHON, folder.path.string())) ==
          expected(format));
  }
}

TEST_CASE("names that C and Python would not take are refused") {
  for (const char* prefix : {"", "9kv", "kv-1", "k v", "k\"v"})
    CHECK_THROWS_AS(kv::layout_text({}, kv::Language::c, prefix), SpecError);
  CHECK_THROWS_AS(kv::layout_text({.page_tokens = 24}, kv::Language::c, "kv"), SpecError);
}
