#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <bit>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "tools/hardware/recording.h"
#include "tools/reference/whole_file.h"

namespace sagegen::hardware {
namespace {

constexpr const char* kMagic = "sagegen-recording";
constexpr std::size_t kMaxFileBytes = std::size_t{64} << 20;
constexpr std::size_t kMaxHeaderBytes = 16 << 10;
constexpr std::size_t kMaxWords = std::size_t{1} << 24;
constexpr std::size_t kMaxExpansion = 1032;             // of zlib's format
constexpr std::size_t kShownBytes = 40;                 // of a value in a message
constexpr int kOldestDevice = 10, kNewestDevice = 999;  // compute capabilities

static_assert(std::endian::native == std::endian::little, "words are stored as they lie in memory");

// All first bytes of the words, then all second bytes, and so on: exponents and signs are alike,
// and zlib sees that only if they are neighbours.
std::string to_planes(const Words& words) {
  std::string planes;
  planes.reserve(words.size() * 4);
  for (int shift = 0; shift < 32; shift += 8) {
    for (const std::uint32_t word : words) {
      planes.push_back(static_cast<char>((word >> shift) & 0xffu));
    }
  }
  return planes;
}

Words from_planes(const std::string& planes) {
  Words words(planes.size() / 4);
  for (std::size_t i = 0; i < planes.size(); ++i) {
    words[i % words.size()] |= std::uint32_t{static_cast<unsigned char>(planes[i])}
                               << (8 * (i / words.size()));
  }
  return words;
}

std::string compressed(const std::string& bytes) {
  uLongf size = compressBound(bytes.size());
  std::string result(size, '\0');
  if (compress2(reinterpret_cast<Bytef*>(result.data()), &size,
                reinterpret_cast<const Bytef*>(bytes.data()), bytes.size(),
                Z_BEST_COMPRESSION) != Z_OK) {
    throw RecordingError("zlib cannot compress the results");
  }
  result.resize(size);
  return result;
}

Words decompressed(std::string_view payload, std::size_t words, const std::string& origin) {
  if (words > kMaxWords || words * 4 / kMaxExpansion > payload.size()) {
    throw RecordingError(
        fmt::format("{}: the header says {} words, too many for {} bytes of results", origin, words,
                    payload.size()));
  }
  std::string planes(words * 4, '\0');
  uLongf produced = planes.size();
  uLong consumed = payload.size();
  const int status = uncompress2(reinterpret_cast<Bytef*>(planes.data()), &produced,
                                 reinterpret_cast<const Bytef*>(payload.data()), &consumed);
  if (status == Z_OK && consumed < payload.size()) {
    throw RecordingError(fmt::format("{}: {} bytes follow the compressed results", origin,
                                     payload.size() - consumed));
  }
  if (status != Z_OK || produced != planes.size()) {
    const char* why = status == Z_DATA_ERROR ? "are damaged"
                      : status == Z_OK       ? "are fewer than the header says"
                                             : "are cut off or more than the header says";
    throw RecordingError(fmt::format("{}: the compressed results {}: {} bytes for {} words", origin,
                                     why, payload.size(), words));
  }
  return from_planes(planes);
}

// A whole number of the header; JSON would give 3.9, 1e300 or 2^32 + 89 as well.
template <typename T>
T number(const nlohmann::json& header, const char* key, T least = std::numeric_limits<T>::min(),
         T most = std::numeric_limits<T>::max()) {
  const nlohmann::json& value = header.at(key);
  const bool fits =
      value.is_number_unsigned() ? std::cmp_less_equal(value.get<std::uint64_t>(), most) &&
                                       std::cmp_greater_equal(value.get<std::uint64_t>(), least)
      : value.is_number_integer() ? std::cmp_less_equal(value.get<std::int64_t>(), most) &&
                                        std::cmp_greater_equal(value.get<std::int64_t>(), least)
                                  : false;
  if (!fits) {
    throw RecordingError(fmt::format("{} is {}, and must be a whole number from {} to {}", key,
                                     value.dump().substr(0, kShownBytes), least, most));
  }
  return value.get<T>();
}

}  // namespace

std::string format_recording(const Recording& recording) {
  const std::string payload = compressed(to_planes(recording.results));
  const nlohmann::ordered_json header = {
      {"format", kMagic},
      {"schema", kSchemaVersion},
      {"probe", recording.probe},
      {"device", recording.device},
      {"compute_capability", recording.compute_capability},
      {"driver_version", recording.driver_version},
      {"driver", recording.driver},
      {"api", recording.api},
      {"date", recording.date},
      {"generator", recording.generator},
      {"seed", recording.seed},
      {"cases", recording.cases},
      {"ptx_crc32", recording.ptx_crc},
      {"operands_crc32", recording.operands_crc},
      {"result_words", recording.results.size()},
      {"results_crc32",
       crc32(recording.results.data(), recording.results.size() * sizeof(std::uint32_t))},
      {"encoding", "byte planes, zlib"},
  };
  return header.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace) + '\n' + payload;
}

Recording parse_recording(std::string_view bytes, const std::string& origin) {
  const std::size_t end = bytes.substr(0, kMaxHeaderBytes).find('\n');
  // Without a line's end there is no header, and a file of brackets would take many times its size.
  const std::string_view line = end == std::string_view::npos ? "" : bytes.substr(0, end);
  const auto header = nlohmann::json::parse(line, nullptr, false);
  if (!header.is_object() || !header.contains("format") || header["format"] != kMagic) {
    throw RecordingError(fmt::format("{}: not a recording", origin));
  }
  Recording recording;
  std::size_t words = 0;
  std::uint32_t crc = 0;
  try {
    if (const int schema = number<int>(header, "schema", 0); schema != kSchemaVersion) {
      throw RecordingError(fmt::format("schema {}, and this program reads {}: record again", schema,
                                       kSchemaVersion));
    }
    recording.probe = header.at("probe");
    recording.device = header.at("device");
    recording.compute_capability =
        number<int>(header, "compute_capability", kOldestDevice, kNewestDevice);
    recording.driver_version = number<int>(header, "driver_version", 0);
    recording.driver = header.at("driver");
    recording.api = header.at("api");
    recording.date = header.at("date");
    recording.generator = number<int>(header, "generator", 0);
    recording.seed = number<std::uint64_t>(header, "seed");
    recording.cases = number<int>(header, "cases", 1);
    recording.ptx_crc = number<std::uint32_t>(header, "ptx_crc32");
    recording.operands_crc = number<std::uint32_t>(header, "operands_crc32");
    words = number<std::size_t>(header, "result_words", 1);
    crc = number<std::uint32_t>(header, "results_crc32");
  } catch (const nlohmann::json::exception& e) {
    throw RecordingError(fmt::format("{}: header: {}", origin, e.what()));
  } catch (const RecordingError& e) {
    throw RecordingError(fmt::format("{}: header: {}", origin, e.what()));
  }
  recording.results = decompressed(bytes.substr(end + 1), words, origin);
  if (crc32(recording.results.data(), words * sizeof(std::uint32_t)) != crc) {
    throw RecordingError(fmt::format("{}: the checksum of the results is wrong", origin));
  }
  return recording;
}

void save(const Recording& recording, const std::string& path) {
  try {
    reference::write_whole_file(path, format_recording(recording));
  } catch (const reference::FileError& error) {
    throw RecordingError(error.what());
  }
}

Recording load(const std::string& path) {
  std::error_code error;  // what has no size is refused when it is read
  const std::uintmax_t size = std::filesystem::file_size(path, error);
  if (!error && size > kMaxFileBytes) {
    throw RecordingError(
        fmt::format("{}: {} bytes, and no recording has more than {}", path, size, kMaxFileBytes));
  }
  try {
    return parse_recording(reference::read_whole_file(path), path);
  } catch (const reference::FileError& failure) {
    throw RecordingError(failure.what());
  }
}

}  // namespace sagegen::hardware
