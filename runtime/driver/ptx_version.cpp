#include "runtime/driver/ptx_version.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <iterator>

namespace sagegen::runtime {
namespace {

struct Release {
  int ptx, cuda;
};
constexpr Release kReleases[] = {{70, 11000}, {71, 11010}, {72, 11020}, {73, 11030}, {74, 11040},
                                 {75, 11050}, {76, 11060}, {77, 11070}, {78, 11080}, {80, 12000},
                                 {81, 12010}, {82, 12020}, {83, 12030}, {84, 12040}, {85, 12050},
                                 {86, 12070}, {87, 12080}, {88, 12090}, {90, 13000}};

}  // namespace

int ptx_version(std::string_view ptx) {
  constexpr std::string_view kDirective = ".version";
  while (!ptx.empty()) {
    std::string_view line = ptx.substr(0, ptx.find('\n'));
    ptx.remove_prefix(std::min(line.size() + 1, ptx.size()));
    line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
    if (!line.starts_with(kDirective)) continue;
    line.remove_prefix(kDirective.size());
    line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
    int major = 0, minor = 0;
    const char* end = line.data() + line.size();
    const auto first = std::from_chars(line.data(), end, major);
    if (first.ec != std::errc() || first.ptr == end || *first.ptr != '.') return 0;
    const auto second = std::from_chars(first.ptr + 1, end, minor);
    const bool plausible = second.ec == std::errc() && major > 0 && major < 100 && minor >= 0;
    return plausible && minor < 10 ? 10 * major + minor : 0;
  }
  return 0;
}

int first_cuda_with(int ptx_version) {
  const auto found =
      std::ranges::find_if(kReleases, [&](const Release& r) { return r.ptx >= ptx_version; });
  return found == std::end(kReleases) ? std::rbegin(kReleases)->cuda : found->cuda;
}

std::string cuda_name(int cuda_version) {
  return fmt::format("{}.{}", cuda_version / 1000, cuda_version % 1000 / 10);
}

}  // namespace sagegen::runtime
