#include "tools/sagegen/findings.h"

#include <fmt/format.h>

namespace sagegen::cli {
namespace {

Json json_of(const runtime::Finding& finding) {
  return {{"kernel", finding.kernel},   {"check", finding.check},
          {"message", finding.message}, {"ptx_line", finding.ptx_line},
          {"source", finding.source},   {"cta", {finding.cta[0], finding.cta[1], finding.cta[2]}},
          {"warp", finding.warp},       {"lane", finding.lane},
          {"count", finding.count}};
}

std::string text_of(const runtime::Finding& f) {
  std::string where = fmt::format("{}, block ({}, {}, {})", f.kernel, f.cta[0], f.cta[1], f.cta[2]);
  if (f.warp >= 0) where += fmt::format(", warp {}", f.warp);
  if (f.lane >= 0) where += fmt::format(", lane {}", f.lane);
  if (f.ptx_line > 0) where += fmt::format(", PTX line {}", f.ptx_line);
  if (!f.source.empty()) where += ", " + f.source;
  if (f.count > 1) where += fmt::format(" ({} times)", f.count);
  return fmt::format("  {}: {}\n    in {}\n", f.check, f.message, where);
}

}  // namespace

Json findings_json(const std::vector<runtime::Finding>& findings) {
  Json list = Json::array();
  for (const runtime::Finding& finding : findings) list.push_back(json_of(finding));
  return list;
}

std::string findings_text(const std::vector<runtime::Finding>& findings) {
  std::string text = fmt::format("findings {}\n", findings.size());
  for (const runtime::Finding& finding : findings) text += text_of(finding);
  return text;
}

}  // namespace sagegen::cli
