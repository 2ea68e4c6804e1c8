#include "tools/sagegen/output.h"

#include <algorithm>
#include <cstdio>
#include <string_view>

#include <fmt/format.h>

#include "tools/reference/printable.h"
#include "tools/sagegen/progress.h"

namespace sagegen::cli {
namespace {

constexpr std::size_t kMaxLine = 4000;  // bytes

bool is_number(const std::string& cell) {
  return !cell.empty() &&
         (std::isdigit(static_cast<unsigned char>(cell[0])) != 0 || cell[0] == '-');
}

}  // namespace

std::string Table::text() const {
  std::vector<std::size_t> width(rows_[0].size(), 0);
  std::vector<bool> right(rows_[0].size(), rows_.size() > 1);
  for (std::size_t row = 0; row < rows_.size(); ++row) {
    for (std::size_t column = 0; column < rows_[row].size(); ++column) {
      width[column] = std::max(width[column], rows_[row][column].size());
      if (row > 0 && !is_number(rows_[row][column])) right[column] = false;
    }
  }
  std::string text;
  for (const std::vector<std::string>& row : rows_) {
    std::string line;
    for (std::size_t column = 0; column < row.size(); ++column) {
      if (column > 0) line += "  ";
      line += right[column] ? fmt::format("{:>{}}", row[column], width[column])
                            : fmt::format("{:<{}}", row[column], width[column]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

void Output::text(const std::string& text) const {
  std::string shown;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size() - 1) + 1;
    shown += reference::printable(std::string_view(text).substr(begin, end - begin), kMaxLine);
    begin = end;
  }
  bytes(shown);
}

void Output::bytes(const std::string& text) const {
  if (format_ == OutputFormat::text) std::fwrite(text.data(), 1, text.size(), stdout);
}

void Output::json(const Json& fields) const {
  if (format_ != OutputFormat::json) return;
  Json object{{"schema", "sagegen." + command_}, {"schema_version", kSchemaVersion}};
  object.update(fields);
  // Text of a damaged file may be no UTF-8; a report must come out all the same.
  // Escaped beyond ASCII, because a terminal may take some of that for commands.
  const std::string text = object.dump(2, ' ', true, Json::error_handler_t::replace) + "\n";
  std::fwrite(text.data(), 1, text.size(), stdout);
}

std::string counted(std::uint64_t count, std::string_view one, std::string_view many) {
  if (count == 1) return fmt::format("1 {}", one);
  return many.empty() ? fmt::format("{} {}s", count, one) : fmt::format("{} {}", count, many);
}

void tell(const std::string& line) {
  if (is_silent()) return;
  const std::string text = reference::without_controls(line) + "\n";
  std::fwrite(text.data(), 1, text.size(), stderr);
}

}  // namespace sagegen::cli
