#include "tools/sagegen/emu_values.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numbers>
#include <optional>
#include <random>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "tools/reference/printable.h"
#include "tools/reference/rounding.h"
#include "tools/reference/tensor_file.h"
#include "tools/sagegen/errors.h"
#include "tools/sagegen/files.h"

namespace sagegen::cli {
namespace {

constexpr reference::Format kE5m2{.fraction_bits = 2, .min_exponent = -14, .largest = 57344.0};

template <typename T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <typename T>
bool store(T value, std::byte* to) {
  std::memcpy(to, &value, sizeof value);
  return true;
}

template <typename T>
bool store_integer(Number value, std::byte* to) {
  // Powers of two, which any type holds: the largest value itself may need more digits than Number has.
  const Number beyond = std::ldexp(Number{1}, std::numeric_limits<T>::digits);
  const Number least = std::numeric_limits<T>::is_signed ? -beyond : 0;
  if (!(value >= least && value < beyond) || value != std::floor(value)) return false;
  return store(static_cast<T>(value), to);
}

// A double on the format's grid, if the format holds the number. `has_infinity`: e4m3 has none.
std::optional<double> rounded(Number value, reference::Format format, bool has_infinity = true) {
  if (std::isnan(value)) return std::numeric_limits<double>::quiet_NaN();
  if (std::isinf(value)) {
    if (!has_infinity) return std::nullopt;
    return static_cast<double>(value);
  }
  const double result = reference::round_ieee(static_cast<double>(value), format);
  if (std::isinf(result)) return std::nullopt;
  return result;
}

std::vector<std::uint64_t> unsigned_shape(const std::vector<std::int64_t>& shape) {
  return {shape.begin(), shape.end()};
}

std::string spelled_shape(const std::vector<std::uint64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, "x"));
}

// What a file holds: elements of its own type, and a shape if it says one.
struct FileValues {
  std::optional<std::vector<std::uint64_t>> shape;
  std::function<Number(std::size_t)> at;
  std::uint64_t count = 0;
};

FileValues values_of_bytes(ElementType type, std::vector<std::byte> bytes) {
  const std::size_t size = info(type).bytes;
  FileValues values;
  values.count = bytes.size() / size;
  values.at = [type, size, held = std::make_shared<std::vector<std::byte>>(std::move(bytes))](
                  std::size_t i) { return decode(type, held->data() + i * size); };
  return values;
}

std::vector<std::byte> as_bytes(const void* from, std::size_t count) {
  const auto* const begin = static_cast<const std::byte*>(from);
  return {begin, begin + count};
}

FileValues read_npy(const std::string& name, const std::string& text) {
  const reference::NpyArray array = reference::parse_npy_array(
      {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()}, name);
  ElementType type = ElementType::u8;  // of "|b1"
  for (const ElementInfo& one : element_types()) {
    if (one.npy != nullptr && array.descr == one.npy) type = one.type;
  }
  FileValues values = values_of_bytes(type, as_bytes(array.data.data(), array.data.size()));
  values.shape = unsigned_shape(array.shape);
  return values;
}

FileValues read_safetensors(const std::string& path, const std::string& tensor) {
  const reference::TensorFile file = reference::read_safetensors(path);
  std::vector<std::string> names;
  for (const reference::StoredTensor& one : file.tensors) names.push_back(one.name);
  if (tensor.empty() && names.size() != 1) {
    throw FileError(fmt::format("{}: it has {} tensors; choose one by {}:TENSOR: {}",
                                reference::printable(path), names.size(),
                                reference::printable(path),
                                reference::printable(fmt::format("{}", fmt::join(names, ", ")))));
  }
  const reference::StoredTensor* found = file.find(tensor.empty() ? names.front() : tensor);
  if (found == nullptr) {
    throw FileError(fmt::format("{}: it has no tensor {}; it has: {}", reference::printable(path),
                                reference::printable(tensor),
                                reference::printable(fmt::format("{}", fmt::join(names, ", ")))));
  }
  FileValues values = values_of_bytes(
      ElementType::f32, as_bytes(found->data.data(), found->data.size() * sizeof(float)));
  values.shape = unsigned_shape(found->shape);
  return values;
}

FileValues read_values(const std::string& name, ElementType type,
                       const std::filesystem::path& directory) {
  const std::filesystem::path path = file_of(name, directory);
  const std::string shown = reference::printable(path.native());
  try {
    if (path.extension() == ".npy") return read_npy(shown, read_file(path));
    if (path.extension() == ".safetensors") {
      const std::size_t colon = name.find(".safetensors:");
      return read_safetensors(
          path.string(), colon == std::string::npos ? "" : name.substr(name.find(':', colon) + 1));
    }
    const std::string bytes = read_file(path);
    if (bytes.size() % info(type).bytes != 0) {
      throw FileError(fmt::format("{}: {} bytes are no whole number of {}, which has {}", shown,
                                  bytes.size(), info(type).name, info(type).bytes));
    }
    return values_of_bytes(type, as_bytes(bytes.data(), bytes.size()));
  } catch (const reference::FileError& error) {
    throw FileError(error.what());
  }
}

Source from_file(const ValueSpec& value, ElementType type, const std::vector<std::uint64_t>* shape,
                 const std::filesystem::path& directory) {
  FileValues values = read_values(value.file, type, directory);
  Source source;
  source.shape =
      shape != nullptr ? *shape : values.shape.value_or(std::vector<std::uint64_t>{values.count});
  if (element_count(source.shape) != values.count) {
    throw FileError(
        fmt::format("{}: it has {} elements{}, and {} takes {}; give [] to take the file's shape",
                    reference::printable(file_of(value.file, directory).native()), values.count,
                    values.shape ? " " + spelled_shape(*values.shape) : "",
                    spelled_shape(source.shape), element_count(source.shape)));
  }
  source.next = std::move(values.at);
  return source;
}

// 53 random bits in [0, 1). std::mt19937_64 is the same everywhere, the standard distributions are not.
double unit(std::mt19937_64& random) { return static_cast<double>(random() >> 11) * 0x1p-53; }

std::function<Number(std::size_t)> normal(std::uint64_t seed, double mean, double deviation) {
  return [random = std::mt19937_64(seed), mean, deviation](std::size_t) mutable -> Number {
    const double radius = std::sqrt(-2.0 * std::log(1.0 - unit(random)));
    return mean + deviation * radius * std::cos(2.0 * std::numbers::pi * unit(random));
  };
}

std::function<Number(std::size_t)> uniform(std::uint64_t seed, double low, double high) {
  return [random = std::mt19937_64(seed), low, high](std::size_t) mutable -> Number {
    return low + (high - low) * unit(random);
  };
}

// Whole numbers from `low` to `high`, both included. The remainder favours none visibly: 2^64 is far more.
std::function<Number(std::size_t)> uniform_whole(std::uint64_t seed, Number low, Number high) {
  const auto more = static_cast<std::uint64_t>(high - low);
  return [random = std::mt19937_64(seed), low, more](std::size_t) mutable -> Number {
    const std::uint64_t drawn = random();
    return low + static_cast<Number>(more == ~std::uint64_t{0} ? drawn : drawn % (more + 1));
  };
}

Number least_of(ElementType type) {
  const ElementInfo& element = info(type);
  return element.name[0] == 'u' ? 0
                                : -std::ldexp(Number{1}, static_cast<int>(8 * element.bytes) - 1);
}

Number largest_of(ElementType type) {
  const ElementInfo& element = info(type);
  const int bits = static_cast<int>(8 * element.bytes) - (element.name[0] == 'u' ? 0 : 1);
  return std::ldexp(Number{1}, bits) - 1;
}

std::function<Number(std::size_t)> random_values(const ValueSpec& value, ElementType type,
                                                 std::uint64_t seed, const std::string& about) {
  const bool is_float = info(type).is_float;
  const std::uint64_t chosen = value.seed.value_or(seed);
  if (value.kind == ValueSpec::Kind::normal) {
    if (!is_float) {
      throw UsageError(fmt::format("{}: normal makes fractions, which {} cannot hold; use uniform",
                                   about, info(type).name));
    }
    const std::array<double, 2> range = value.range.value_or(std::array{0.0, 1.0});
    return normal(chosen, range[0], range[1]);
  }
  if (is_float) {
    const std::array<double, 2> range = value.range.value_or(std::array{-1.0, 1.0});
    return uniform(chosen, range[0], range[1]);
  }
  const Number low = value.range ? (*value.range)[0] : least_of(type);
  const Number high = value.range ? (*value.range)[1] : largest_of(type);
  if (low < least_of(type) || high > largest_of(type) || low != std::floor(low) ||
      high != std::floor(high)) {
    throw UsageError(fmt::format("{}: uniform needs whole numbers from {} to {} for {}", about,
                                 spelled(type, least_of(type)), spelled(type, largest_of(type)),
                                 info(type).name));
  }
  return uniform_whole(chosen, low, high);
}

}  // namespace

Number decode(ElementType type, const std::byte* from) {
  switch (type) {
    case ElementType::i8:
      return load<std::int8_t>(from);
    case ElementType::u8:
      return load<std::uint8_t>(from);
    case ElementType::i16:
      return load<std::int16_t>(from);
    case ElementType::u16:
      return load<std::uint16_t>(from);
    case ElementType::i32:
      return load<std::int32_t>(from);
    case ElementType::u32:
      return load<std::uint32_t>(from);
    case ElementType::i64:
      return static_cast<Number>(load<std::int64_t>(from));
    case ElementType::u64:
      return static_cast<Number>(load<std::uint64_t>(from));
    case ElementType::f16:
      return reference::f16_value(load<std::uint16_t>(from));
    case ElementType::bf16:
      return reference::bf16_value(load<std::uint16_t>(from));
    case ElementType::f32:
      return load<float>(from);
    case ElementType::f64:
      return load<double>(from);
    case ElementType::e4m3:
      return reference::e4m3_value(load<std::uint8_t>(from));
    case ElementType::e5m2:  // the upper half of f16
      return reference::f16_value(static_cast<std::uint16_t>(load<std::uint8_t>(from) << 8));
  }
  return 0;
}

bool encode(ElementType type, Number value, std::byte* to) {
  switch (type) {
    case ElementType::i8:
      return store_integer<std::int8_t>(value, to);
    case ElementType::u8:
      return store_integer<std::uint8_t>(value, to);
    case ElementType::i16:
      return store_integer<std::int16_t>(value, to);
    case ElementType::u16:
      return store_integer<std::uint16_t>(value, to);
    case ElementType::i32:
      return store_integer<std::int32_t>(value, to);
    case ElementType::u32:
      return store_integer<std::uint32_t>(value, to);
    case ElementType::i64:
      return store_integer<std::int64_t>(value, to);
    case ElementType::u64:
      return store_integer<std::uint64_t>(value, to);
    case ElementType::f16:
      if (const auto on_grid = rounded(value, reference::kF16))
        return store(reference::f16_bits(*on_grid), to);
      return false;
    case ElementType::bf16:
      if (const auto on_grid = rounded(value, reference::kBf16))
        return store(reference::bf16_bits(*on_grid), to);
      return false;
    case ElementType::f32:
      if (const auto on_grid = rounded(value, reference::kF32))
        return store(static_cast<float>(*on_grid), to);
      return false;
    case ElementType::f64:
      return store(static_cast<double>(value), to);
    case ElementType::e4m3:
      if (const auto on_grid = rounded(value, reference::kE4m3, false))
        return store(reference::e4m3_bits(*on_grid), to);
      return false;
    case ElementType::e5m2:
      if (const auto on_grid = rounded(value, kE5m2))
        return store(static_cast<std::uint8_t>(reference::f16_bits(*on_grid) >> 8), to);
      return false;
  }
  return false;
}

std::uint64_t element_count(const std::vector<std::uint64_t>& shape) {
  std::uint64_t count = 1;
  for (const std::uint64_t extent : shape) count *= extent;
  return count;
}

std::filesystem::path file_of(const std::string& name, const std::filesystem::path& directory) {
  constexpr std::string_view kSuffix = ".safetensors:";
  const std::size_t colon = name.find(kSuffix);
  const std::string file =
      colon == std::string::npos ? name : name.substr(0, colon + kSuffix.size() - 1);
  return directory / file;  // an absolute one stays
}

Source open_source(const ValueSpec& value, ElementType type,
                   const std::vector<std::uint64_t>* shape, std::uint64_t seed,
                   const std::filesystem::path& directory, const std::string& about) {
  using Kind = ValueSpec::Kind;
  if (value.kind == Kind::file) return from_file(value, type, shape, directory);
  Source source;
  if (shape != nullptr) source.shape = *shape;
  switch (value.kind) {
    case Kind::number:
      source.next = [number = *parse_number(value.number)](std::size_t) { return number; };
      break;
    case Kind::iota:
      source.next = [type](std::size_t i) {  // integers of few bits start again
        const bool wraps = !info(type).is_float && info(type).bytes < sizeof i;
        const int bits = static_cast<int>(8 * info(type).bytes) - (info(type).name[0] == 'i');
        return static_cast<Number>(wraps ? i & ((std::size_t{1} << bits) - 1) : i);
      };
      break;
    case Kind::normal:
    case Kind::uniform:
      source.next = random_values(value, type, seed, about);
      break;
    default:
      source.next = [](std::size_t) { return Number{0}; };
      break;
  }
  return source;
}

std::vector<std::byte> fill(Source& source, ElementType type, const std::string& about) {
  const std::uint64_t count = element_count(source.shape);
  const std::size_t size = info(type).bytes;
  std::vector<std::byte> bytes(count * size);
  for (std::size_t i = 0; i < count; ++i) {
    const Number value = source.next(i);
    if (encode(type, value, bytes.data() + i * size)) continue;
    throw UsageError(fmt::format("{}: element {} is {}, which {} cannot hold; take another type",
                                 about, i, spelled(ElementType::f64, value), info(type).name));
  }
  return bytes;
}

Summary summarize(ElementType type, std::span<const std::byte> bytes) {
  Summary summary;
  const std::size_t size = info(type).bytes;
  Number sum = 0;
  std::uint64_t finite = 0;
  summary.count = bytes.size() / size;
  for (std::size_t i = 0; i < summary.count; ++i) {
    const Number value = decode(type, bytes.data() + i * size);
    if (std::isnan(value)) {
      ++summary.nan;
    } else if (std::isinf(value)) {
      ++summary.infinite;
    } else {
      summary.least = finite == 0 ? value : std::min(summary.least, value);
      summary.largest = finite == 0 ? value : std::max(summary.largest, value);
      sum += value;
      ++finite;
    }
  }
  constexpr Number kNone = std::numeric_limits<Number>::quiet_NaN();
  summary.mean = finite == 0 ? kNone : sum / static_cast<Number>(finite);
  if (finite == 0) summary.least = summary.largest = kNone;
  return summary;
}

Comparison compare(ElementType type, std::span<const std::byte> got, Source& expected,
                   const Tolerance& tolerance) {
  Comparison result;
  const std::size_t size = info(type).bytes;
  result.count = got.size() / size;
  for (std::size_t i = 0; i < result.count; ++i) {
    const Number a = decode(type, got.data() + i * size);
    const Number b = expected.next(i);
    const Number difference = std::fabs(a - b);
    if (std::isfinite(difference)) result.largest = std::max(result.largest, difference);
    const bool same = a == b || (std::isnan(a) && std::isnan(b));
    if (same ||
        (std::isfinite(difference) && difference <= tolerance.atol + tolerance.rtol * std::fabs(b)))
      continue;
    if (result.differ++ > 0) continue;
    result.first = i;
    result.got = a;
    result.expected = b;
  }
  return result;
}

void check_values_writable(const std::filesystem::path& path) {
  if (path.extension() != ".npy" && path.extension() != ".bin") {
    throw UsageError(fmt::format("--out {} is refused; a file to write ends in .npy or .bin",
                                 reference::printable(path.native())));
  }
  check_writable(path);
}

void write_values(const std::filesystem::path& path, ElementType type,
                  const std::vector<std::uint64_t>& shape, std::span<const std::byte> bytes) {
  if (path.extension() == ".bin") {
    write_file(path, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    return;
  }
  reference::NpyArray array{.descr = "<f4", .shape = {shape.begin(), shape.end()}, .data = {}};
  const ElementInfo& element = info(type);
  if (element.npy != nullptr) {
    array.descr = element.npy;
    array.data.resize(bytes.size());
    std::memcpy(array.data.data(), bytes.data(), bytes.size());
  } else {
    const std::size_t count = bytes.size() / element.bytes;
    array.data.resize(count * sizeof(float));
    for (std::size_t i = 0; i < count; ++i) {
      const auto value = static_cast<float>(decode(type, bytes.data() + i * element.bytes));
      std::memcpy(array.data.data() + i * sizeof value, &value, sizeof value);
    }
  }
  const std::vector<std::uint8_t> file = reference::format_npy_array(array);
  write_file(path, {reinterpret_cast<const char*>(file.data()), file.size()});
}

std::string spelled(ElementType type, Number value) {
  if (std::isnan(value)) return "nan";  // its sign means nothing
  if (!info(type).is_float && std::isfinite(value) && value == std::floor(value))
    return fmt::format("{:.0f}", value);
  if (type == ElementType::f64) return fmt::format("{}", static_cast<double>(value));
  return fmt::format("{}", static_cast<float>(value));
}

}  // namespace sagegen::cli
