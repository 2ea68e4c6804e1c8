#include "tools/reference/json_depth.h"

namespace sagegen::reference {

bool nests_deeper_than(std::string_view json, int levels) {
  int open = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (in_string) {
      if (c == '\\') ++i;  // whatever is escaped ends no string
      if (c == '"') in_string = false;
      continue;
    }
    if (c == '"') in_string = true;
    if ((c == '[' || c == '{') && ++open > levels) return true;
    if (c == ']' || c == '}') --open;
  }
  return false;
}

}  // namespace sagegen::reference
