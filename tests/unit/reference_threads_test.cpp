// Exact attention where the system makes no threads, or fewer than there are processors.
#include <atomic>
#include <catch2/catch.hpp>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "tests/few_threads.h"
#include "tools/reference/parallel_for.h"

using namespace sagegen::reference;
using sagegen::test::FewThreads;

TEST_CASE("parallel_for does everything once with the threads that can be made") {
  constexpr std::int64_t kCount = 100;
  std::vector<std::atomic<int>> done(kCount);
  const FewThreads few(GENERATE(0u, 1u, 3u));
  parallel_for(kCount, 8, [&](std::int64_t i) { ++done[static_cast<std::size_t>(i)]; });
  for (const auto& times : done) CHECK(times == 1);
}

TEST_CASE("parallel_for rethrows what its only thread throws") {
  const FewThreads few(0);
  CHECK_THROWS_WITH(parallel_for(9, 8, [](std::int64_t) { throw std::runtime_error("broken"); }),
                    "broken");
}
