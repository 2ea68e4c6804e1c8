// The table of tests/data/README.md is what the model of the quantization gives.
#include <catch2/catch.hpp>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "tools/reference/report.h"
#include "tools/reference/tensor_file.h"

using namespace sagegen::reference;

TEST_CASE("the table of tests/data/README.md is what the model gives") {
  const auto data = std::filesystem::path(SAGEGEN_SOURCE_DIR) / "tests" / "data";
  const std::string recorded = (data / "minilm_qkv.safetensors").string();
  std::vector<NamedInputs> sets;
  for (const std::string layer : {"layer0", "layer2", "layer5"}) {
    sets.push_back({"MiniLM " + layer, load_qkv({recorded}, layer).inputs});
  }
  for (const std::int64_t head_dim : {64, 128}) {
    for (const Distribution& d : distributions()) {
      sets.push_back(
          {d.name + ", head_dim " + std::to_string(head_dim),
           generate(
               d.name,
               {.q_heads = 2, .kv_heads = 2, .q_len = 1024, .kv_len = 1024, .head_dim = head_dim},
               1, IoType::f16)});
    }
  }
  std::stringstream readme;
  readme << std::ifstream(data / "README.md").rdbuf();
  CHECK_THAT(readme.str(), Catch::Contains(format_cost_table(sets, IoType::f16)));
}
