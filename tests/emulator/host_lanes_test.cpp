// Which vector instructions of the host are used, and that the choice reaches the code.
#include "runtime/emulator/numerics/host_lanes.h"

#include <catch2/catch.hpp>

#include <cstdlib>
#include <stdexcept>

#include "runtime/emulator/exec/forms.h"
#include "runtime/emulator/numerics/mma_kernels.h"

namespace sagegen::emulator {

TEST_CASE(
    "lanes: the widest, or those that the variable names, or an error that says what there is") {
  for (HostLanes widest : {HostLanes::baseline, HostLanes::avx2, HostLanes::avx512}) {
    CHECK(choose_lanes(nullptr, widest) == widest);
    CHECK(choose_lanes("", widest) == widest);
    CHECK(choose_lanes("baseline", widest) == HostLanes::baseline);
  }
  CHECK(choose_lanes("avx2", HostLanes::avx512) == HostLanes::avx2);
  CHECK(choose_lanes("avx512", HostLanes::avx512) == HostLanes::avx512);
  CHECK_THROWS_WITH(choose_lanes("avx512", HostLanes::avx2),
                    "SAGEGEN_EMULATOR_LANES is \"avx512\"; this processor has baseline, avx2, and "
                    "without the variable the widest is used");
  CHECK_THROWS_WITH(
      choose_lanes("AVX2", HostLanes::baseline),
      Catch::StartsWith("SAGEGEN_EMULATOR_LANES is \"AVX2\"; this processor has baseline,"));
  CHECK_THROWS_AS(choose_lanes("avx2 ", HostLanes::avx512), std::invalid_argument);
}

TEST_CASE("lanes: the choice of this process reaches lane loops and mma kernels") {
  const char* asked = std::getenv("SAGEGEN_EMULATOR_LANES");
  const HostLanes lanes = choose_lanes(asked, widest_lanes());
  CHECK(host_lanes() == lanes);
  CHECK(&form_table() == &form_table(lanes));
  const tile::Host host = lanes == HostLanes::avx512 ? tile::Host::avx512
                          : lanes == HostLanes::avx2 ? tile::Host::avx2
                                                     : tile::Host::portable;
  CHECK(&tile::host_kernels() == tile::kernels_for(host));
  CHECK(&form_table(HostLanes::baseline) != &form_table(HostLanes::avx512));
}

}  // namespace sagegen::emulator
