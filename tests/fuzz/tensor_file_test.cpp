#include <catch2/catch.hpp>

#include "tests/fuzz/mutation_loop.h"
#include "tools/reference/tensor_file.h"

using namespace sagegen::reference;

namespace {

StoredTensor tensor(const char* name, IoType type, std::vector<std::int64_t> shape,
                    std::size_t count) {
  return {.name = name,
          .type = type,
          .shape = std::move(shape),
          .data = std::vector<float>(count, 1.5f)};
}

std::string text(const std::vector<std::uint8_t>& bytes) { return {bytes.begin(), bytes.end()}; }

}  // namespace

TEST_CASE("the tensor file readers survive mutated files") {
  sagegen::fuzz::MutationLoop loop;
  loop.seeds = {
      text(format_safetensors({.metadata = {{"origin", "here"}},
                               .tensors = {tensor("q", IoType::f16, {1, 2, 3, 4}, 24),
                                           tensor("k", IoType::bf16, {2, 4}, 8),
                                           tensor("v", IoType::f32, {0, 4}, 0)}})),
      text(format_safetensors({.metadata = {}, .tensors = {tensor("a", IoType::f32, {}, 1)}})),
      text(format_safetensors({})),
      text(format_npy(tensor("a", IoType::f16, {1, 2, 3, 4}, 24))),
      text(format_npy(tensor("a", IoType::f32, {}, 1))),
  };
  std::string version2 = loop.seeds[3];
  version2[6] = '\x02';
  version2.insert(10, 2, '\0');
  loop.seeds.push_back(version2);
  loop.dictionary = {"\"F16\"",
                     "\"shape\":[",
                     "-1",
                     "0",
                     "281474976710656",
                     "18446744073709551615",
                     "\"data_offsets\":[0,4]",
                     "{",
                     "}",
                     "[[[[",
                     "\"__metadata__\":{",
                     "'<f8'",
                     "(",
                     "True",
                     "1e9",
                     std::string(8, '\xFF'),
                     std::string(8, '\0')};
  loop.iterations = 60000;
  CHECK(sagegen::fuzz::run(loop) > loop.iterations);
}
