// For tests of machine code: a machine may lack the assembler.
#pragma once

#include <cstdio>
#include <cstdlib>

#include "tools/model/ptxas.h"

namespace sagegen::test {

// Ends the test program as skipped (exit code 77) if there is no ptxas.
inline void skip_without_ptxas() {
  if (!model::ptxas_path().empty()) return;
  std::printf("skipped: there is no ptxas %s\n", model::ptxas_places().c_str());
  std::exit(77);
}

}  // namespace sagegen::test
