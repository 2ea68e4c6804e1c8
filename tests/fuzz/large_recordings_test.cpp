// Recordings of devices, large and hostile.
#include "tests/fuzz/large_cases.h"
#include "tools/hardware/recording.h"

using namespace sagegen::fuzz;
using namespace sagegen::hardware;

namespace {

constexpr std::size_t kMega = 1'000'000;

std::string refusal(const std::string& text) {
  try {
    parse_recording(text, "large");
  } catch (const RecordingError& error) {
    return error.what();
  }
  return {};
}

// A valid header with `words` in place of the number of results, then `payload`.
std::string recording(const std::string& words, const std::string& payload) {
  Recording empty;
  empty.probe = "mma";
  empty.device = "a device";
  empty.api = "cuda";
  empty.date = "2026-01-31";
  empty.compute_capability = 89;
  empty.cases = 1;
  empty.results = {1};
  std::string text = format_recording(empty);
  text.resize(text.find('\n') + 1);
  const std::string key = "\"result_words\":1,";
  text.replace(text.find(key), key.size(), "\"result_words\":" + words + ",");
  return text + payload;
}

std::string compressed_zeros(std::size_t words) {
  Recording zeros;
  zeros.results.assign(words, 0);
  const std::string text = format_recording(zeros);
  return text.substr(text.find('\n') + 1);
}

}  // namespace

TEST_CASE("large recordings") {
  check_large(
      {
          {"16 million words of a small file",
           [] { return recording("16000000", std::string(64, 'x')); }, "too many for 64 bytes"},
          {"2^64 - 1 words", [] { return recording("18446744073709551615", "x"); }, "large: "},
          {"results that expand a thousand times, and a wrong sum",
           [] { return recording("16000000", compressed_zeros(16 * kMega)); }, "checksum"},
          {"more results than the header says",
           [] { return recording("1000", compressed_zeros(16 * kMega)); }, "large: "},
          {"60 MB behind the results",
           [] { return recording("1", compressed_zeros(1) + std::string(60 * kMega, 'x')); },
           "follow the compressed results"},
          {"90 MB of brackets", [] { return std::string(90 * kMega, '['); }, "not a recording"},
          {"16,000 brackets", [] { return times(16'000, "[") + "\n"; }, "not a recording"},
          {"a line of 10 kB that is deep", [] { return times(2'500, "{\"\":") + "\n"; },
           "not a recording"},
      },
      refusal);
}
