#include <catch2/catch.hpp>

#include "sagegen/runtime/bundle.h"
#include "tests/fuzz/mutation_loop.h"

using namespace sagegen::runtime;

TEST_CASE("the reader of bundles survives mutated files") {
  std::string body;
  for (int i = 0; i < 60; ++i) body += "\tadd.s32 \t%r" + std::to_string(i * i) + ", %r1, %r2;\n";
  const std::string other = body.substr(0, 700) + "\tret;\n" + body.substr(700);
  sagegen::fuzz::MutationLoop loop;
  loop.seeds = {write_bundle({{"a", body}, {"b", other}, {"c", "short"}, {"d", ""}}),
                write_bundle({{"kernel", body}}), write_bundle({})};
  loop.dictionary = {"sgbundle",
                     std::string(4, '\0'),
                     std::string(4, '\xff'),
                     std::string("\1\0\0\0", 4),
                     std::string("\2\0\0\0", 4),
                     "\x28\xb5\x2f\xfd"};
  loop.iterations = 60000;
  CHECK(sagegen::fuzz::run(loop) > loop.iterations);
}
