// The contents of buffers that `sagegen emu` makes, reads, compares and shows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "tools/sagegen/emu_arguments.h"

namespace sagegen::cli {

// One element of `type` from and to its bytes. encode() rounds to nearest in floating-point types and
// returns false, writing nothing, where the type cannot hold the number: a fraction in an integer type, or
// what is out of range (infinities and NaN only in types that have them).
Number decode(ElementType type, const std::byte* from);
bool encode(ElementType type, Number value, std::byte* to);

// Elements in C order, to be asked for from the first to the last.
struct Source {
  std::vector<std::uint64_t> shape;
  std::function<Number(std::size_t)> next;
};

// What `value` says, for a buffer of `type`; `shape`: as declared, or null where the file has it. A
// relative file name is looked for in `directory`. `seed`: of random values without one. Throws FileError,
// UsageError; `about` begins their text where it is not the file's name.
Source open_source(const ValueSpec& value, ElementType type,
                   const std::vector<std::uint64_t>* shape, std::uint64_t seed,
                   const std::filesystem::path& directory, const std::string& about);

// The elements of `source` as bytes. UsageError if one does not fit the type.
std::vector<std::byte> fill(Source& source, ElementType type, const std::string& about);

// Where the file of a value or of --out lies, without the name of a tensor.
std::filesystem::path file_of(const std::string& name, const std::filesystem::path& directory);

// Of values of any type; what is not finite is counted and left out of the rest.
struct Summary {
  std::uint64_t count = 0, nan = 0, infinite = 0;
  Number least = 0, largest = 0, mean = 0;
};
Summary summarize(ElementType type, std::span<const std::byte> bytes);

// |got - expected| <= atol + rtol * |expected|; NaN matches NaN and an infinity itself.
struct Tolerance {
  double atol = 0, rtol = 0;
};
struct Comparison {
  std::uint64_t count = 0, differ = 0;
  std::uint64_t first = 0;       // that differs
  Number got = 0, expected = 0;  // of the first
  Number largest = 0;            // |got - expected| where both are finite
};
Comparison compare(ElementType type, std::span<const std::byte> got, Source& expected,
                   const Tolerance& tolerance);

// Writes .npy (types that numpy lacks as f32) or .bin (the bytes as they are). FileError.
void write_values(const std::filesystem::path& path, ElementType type,
                  const std::vector<std::uint64_t>& shape, std::span<const std::byte> bytes);
// FileError if write_values() could not write such a file, or not there.
void check_values_writable(const std::filesystem::path& path);

// "1024", "0.25": integers in full, others with as many digits as the type has.
std::string spelled(ElementType type, Number value);

std::uint64_t element_count(const std::vector<std::uint64_t>& shape);

}  // namespace sagegen::cli
