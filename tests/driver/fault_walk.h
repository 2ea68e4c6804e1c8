// Lives in which every driver call fails once: what a call is made for, as its record tells.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "tests/driver/fake_driver.h"

namespace sagegen::test {

inline bool contains_any(const std::vector<std::string>& texts, std::string_view word) {
  return std::ranges::any_of(texts, [&](const std::string& text) {
    return text.find(word) != std::string::npos;
  });
}

inline bool is_about_contexts(const std::string& call) {
  return call == "cuCtxSetCurrent" || call == "cuCtxGetCurrent";
}

// What a call is made for: calls about contexts surround what needs the context.
inline std::string purpose_of(const std::vector<std::string>& calls, std::size_t index) {
  const auto is_get = [&](std::size_t i) { return calls[i] == "cuCtxGetCurrent"; };
  if (!is_about_contexts(calls[index])) return calls[index];
  const bool enters = is_get(index) || (index > 0 && is_get(index - 1));
  std::size_t at = index;
  while (at < calls.size() && is_about_contexts(calls[at])) at = enters ? at + 1 : at - 1;
  return at < calls.size() ? calls[at] : calls[index];
}

// Nobody can act on a failure of these: it costs what they were to give back, and nothing else.
inline bool gives_back(const std::string& call) {
  for (const char* name : {"cuModuleUnload", "cuMemFree", "cuStreamDestroy", "cuEventDestroy",
                           "cuGraphDestroy", "cuGraphExecDestroy", "cuLinkDestroy",
                           "cuDevicePrimaryCtxRelease"}) {
    if (call == name) return true;
  }
  return false;
}

}  // namespace sagegen::test
