// What the emulator found, as reports show it.
#pragma once

#include <string>
#include <vector>

#include "sagegen/runtime/emulator.h"
#include "tools/sagegen/output.h"

namespace sagegen::cli {

Json findings_json(const std::vector<runtime::Finding>& findings);
// "findings 2", then two lines for each.
std::string findings_text(const std::vector<runtime::Finding>& findings);

}  // namespace sagegen::cli
