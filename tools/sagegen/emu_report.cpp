#include "tools/sagegen/emu_report.h"

#include <cmath>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace sagegen::cli {
namespace {

std::string type_of(const EmuBuffer& buffer) {
  return fmt::format("{}[{}]", info(buffer.type).name, fmt::join(buffer.shape, "x"));
}

std::vector<std::string> first_values(const EmuBuffer& buffer, int count) {
  std::vector<std::string> values;
  const std::size_t size = info(buffer.type).bytes;
  for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
    if ((i + 1) * size > buffer.after.size()) break;
    values.push_back(spelled(buffer.type, decode(buffer.type, buffer.after.data() + i * size)));
  }
  return values;
}

std::string state_of(const EmuBuffer& buffer, const Summary& summary) {
  if (buffer.is_scratch()) return "scratch";
  std::string state = buffer.is_changed() ? "written" : "unchanged";
  if (summary.nan > 0) state += fmt::format(", {} NaN", summary.nan);
  if (summary.infinite > 0) state += fmt::format(", {} infinite", summary.infinite);
  return state;
}

// Numbers that JSON has; null for the others.
Json number_json(Number value) {
  return std::isfinite(value) ? Json(static_cast<double>(value)) : Json(nullptr);
}

// "[3, 5]" of an element's number.
std::vector<std::uint64_t> index_of(std::uint64_t element,
                                    const std::vector<std::uint64_t>& shape) {
  std::vector<std::uint64_t> index(shape.size());
  for (std::size_t i = shape.size(); i-- > 0;) {
    index[i] = element % shape[i];
    element /= shape[i];
  }
  return index;
}

}  // namespace

std::string buffers_text(const std::vector<EmuBuffer>& buffers, int show) {
  if (buffers.empty()) return {};
  constexpr const char* kIndent = "       ";
  Table table(
      {kIndent, "buffer", "type", "address", "after", "least", "largest", "mean", "values"});
  for (const EmuBuffer& buffer : buffers) {
    const Summary s = summarize(buffer.type, buffer.after);
    std::vector<std::string> row{kIndent, buffer.key(), type_of(buffer),
                                 fmt::format("0x{:x}", buffer.buffer.data()), state_of(buffer, s)};
    const bool has_values = s.count > s.nan + s.infinite;
    row.push_back(has_values ? spelled(buffer.type, s.least) : "");
    row.push_back(has_values ? spelled(buffer.type, s.largest) : "");
    row.push_back(has_values ? spelled(ElementType::f32, s.mean) : "");
    const std::vector<std::string> first = first_values(buffer, show);
    row.push_back(first.empty() ? ""
                                : fmt::format("[{}{}]", fmt::join(first, ", "),
                                              first.size() < s.count ? ", ..." : ""));
    table.add(std::move(row));
  }
  return table.text();
}

Json buffers_json(const std::vector<EmuBuffer>& buffers, int show) {
  Json list = Json::array();
  for (const EmuBuffer& buffer : buffers) {
    Json one{{"position", buffer.position},
             {"name", buffer.name},
             {"type", info(buffer.type).name},
             {"shape", buffer.shape},
             {"address", fmt::format("0x{:x}", buffer.buffer.data())},
             {"scratch", buffer.is_scratch()}};
    if (!buffer.is_scratch()) {
      const Summary s = summarize(buffer.type, buffer.after);
      one.update({{"changed", buffer.is_changed()},
                  {"min", number_json(s.least)},
                  {"max", number_json(s.largest)},
                  {"mean", number_json(s.mean)},
                  {"nan", s.nan},
                  {"infinite", s.infinite}});
      Json values = Json::array();
      const std::size_t size = info(buffer.type).bytes;
      for (std::size_t i = 0; i < s.count && i < static_cast<std::size_t>(show); ++i)
        values.push_back(number_json(decode(buffer.type, buffer.after.data() + i * size)));
      one["values"] = values;
    }
    list.push_back(one);
  }
  return list;
}

std::string expected_text(const Expected& e) {
  const Comparison& c = e.result;
  if (c.differ == 0) {
    return fmt::format("expect   {}={}: all {} elements agree, largest difference {}\n",
                       e.buffer->key(), e.text, c.count, spelled(ElementType::f64, c.largest));
  }
  return fmt::format(
      "expect   {}={}: {} of {} elements differ, largest difference {}; the first at [{}]: {} "
      "instead of {}\n",
      e.buffer->key(), e.text, c.differ, c.count, spelled(ElementType::f64, c.largest),
      fmt::join(index_of(c.first, e.buffer->shape), ", "), spelled(e.buffer->type, c.got),
      spelled(ElementType::f64, c.expected));
}

Json expected_json(const std::vector<Expected>& expected) {
  Json list = Json::array();
  for (const Expected& e : expected) {
    const Comparison& c = e.result;
    Json one{{"buffer", e.buffer->key()},
             {"value", e.text},
             {"elements", c.count},
             {"differ", c.differ},
             {"largest_difference", number_json(c.largest)}};
    if (c.differ > 0) {
      one.update({{"first", index_of(c.first, e.buffer->shape)},
                  {"got", number_json(c.got)},
                  {"expected", number_json(c.expected)}});
    }
    list.push_back(one);
  }
  return list;
}

}  // namespace sagegen::cli
