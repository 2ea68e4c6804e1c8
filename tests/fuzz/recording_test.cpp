#include <catch2/catch.hpp>

#include "tests/fuzz/mutation_loop.h"
#include "tools/hardware/recording.h"

using namespace sagegen::hardware;

TEST_CASE("the reader of recordings survives mutated files") {
  Recording recording;
  recording.probe = "mma";
  recording.device = "a device";
  recording.api = "cuda";
  recording.date = "2026-01-31";
  sagegen::fuzz::MutationLoop loop;
  loop.seeds.push_back(format_recording(recording));
  for (std::uint32_t i = 0; i < 300; ++i) {
    recording.results.push_back(0x3f800000u + i * 77u);
  }
  loop.seeds.push_back(format_recording(recording));
  recording.results.assign(5000, 7u);
  loop.seeds.push_back(format_recording(recording));
  loop.dictionary = {"\"result_words\":",
                     "\"schema\":2,",
                     "{",
                     "[[[[",
                     "\n",
                     "-1",
                     "4294967296",
                     "18446744073709551615",
                     "1e300",
                     "null",
                     std::string(4, '\xFF'),
                     std::string("\x78\xda", 2)};
  loop.iterations = 40000;
  CHECK(sagegen::fuzz::run(loop) > loop.iterations);
}
