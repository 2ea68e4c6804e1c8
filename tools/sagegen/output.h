// What commands print: aligned tables for people or one JSON object for programs on stdout, progress on
// stderr.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

namespace sagegen::cli {

using Json = nlohmann::ordered_json;
enum class OutputFormat { text, json };

// Columns padded to their widest cell; numbers (cells that begin with a digit) are right-aligned.
class Table {
 public:
  explicit Table(std::vector<std::string> header) : rows_{std::move(header)} {}
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  std::string text() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

// "1 call", "2 calls", "0 entries": of what has not just an s, `many` says it.
std::string counted(std::uint64_t count, std::string_view one, std::string_view many = {});

// A line on stderr, unless --quiet asks for silence.
void tell(const std::string& line);

class Output {
 public:
  Output(std::string command, OutputFormat format)
      : command_(std::move(command)), format_(format) {}

  bool is_json() const { return format_ == OutputFormat::json; }
  // Text mode only. Control characters are shown and not obeyed, and of very long lines the middle is left out:
  // files may have put them there.
  void text(const std::string& text) const;
  // Text mode only: what sagegen made itself, byte for byte.
  void bytes(const std::string& text) const;
  // JSON mode only. Adds "schema" ("sagegen.<command>") and "schema_version" in front.
  void json(const Json& fields) const;
  // tell(), in both modes.
  void progress(const std::string& line) const { tell(line); }

 private:
  static constexpr int kSchemaVersion = 1;
  std::string command_;
  OutputFormat format_;
};

}  // namespace sagegen::cli
