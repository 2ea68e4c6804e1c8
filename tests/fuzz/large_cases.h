// Large hostile files, made by code. A parser answers each within limits of time and memory: it accepts it,
// or refuses it with a short printable message.
#pragma once

#include <catch2/catch.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "tests/fuzz/limited_child.h"

namespace sagegen::fuzz {

struct LargeCase {
  std::string name;
  std::function<std::string()> text;  // makes the file
  std::string refusal;                // a part of the message; empty: the file is accepted
  ChildLimits limits = {};
};

// Returns the refusal, or an empty string.
using Parse = std::function<std::string(const std::string& text)>;

inline std::string times(std::size_t count, std::string_view piece) {
  std::string all;
  all.reserve(count * piece.size());
  for (std::size_t i = 0; i < count; ++i) all += piece;
  return all;
}

// The piece with every '#' replaced by 0, 1, ...
inline std::string numbered(std::size_t count, std::string_view piece) {
  std::string all;
  for (std::size_t i = 0; i < count; ++i) {
    for (const char c : piece) {
      if (c == '#') {
        all += std::to_string(i);
      } else {
        all += c;
      }
    }
  }
  return all;
}

inline void check_large(const std::vector<LargeCase>& cases, const Parse& parse) {
  constexpr std::size_t kLongestMessage = 4000;
  for (const LargeCase& large : cases) {
    const std::string text = large.text();
    const ChildOutcome outcome = run_limited(large.limits, [&] { return parse(text); });
    const std::string end = to_string(outcome.end, large.limits);
    std::printf("%s: %zu kB, %s, %.2f s, peak %zu MB%s%s\n", large.name.c_str(), text.size() / 1000,
                end.c_str(), outcome.cpu_seconds, outcome.peak_bytes >> 20,
                outcome.message.empty() ? "" : ": ", outcome.message.substr(0, 160).c_str());
    INFO(large.name << ": " << end << ": " << outcome.message.substr(0, kLongestMessage));
    using End = ChildOutcome::End;
    CHECK(outcome.end == (large.refusal.empty() ? End::accepted : End::refused));
    CHECK_THAT(outcome.message, Catch::Contains(large.refusal));
    CHECK(outcome.message.size() <= kLongestMessage);
    CHECK(std::all_of(outcome.message.begin(), outcome.message.end(),
                      [](char c) { return c == '\n' || (c >= ' ' && c <= '~'); }));
  }
}

}  // namespace sagegen::fuzz
