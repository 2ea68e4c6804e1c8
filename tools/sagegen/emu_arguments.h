// What `sagegen emu` passes to a kernel, as text: a small grammar for the command line and TOML alike.
//
//   argument = [NAME ':'] ( scalar | buffer | reference | struct )
//   scalar   = TYPE '=' NUMBER                             i32=1024
//   buffer   = TYPE '[' [N {'x' N}] ']' ['=' VALUE]        f16[64x128]=normal(7)
//   struct   = '{' argument {',' argument} '}'             {f32[8]=iota, i32=8}, laid out as C does
//   reference = '&' KEY ['+' BYTES]                        &x+256: the address of another buffer
//   VALUE    = NUMBER | 'zeros' | 'iota' | 'scratch' | 'normal' ['(' SEED [',' MEAN ',' DEVIATION] ')']
//            | 'uniform' ['(' SEED [',' LOW ',' HIGH] ')'] | FILE | '"' FILE '"'
//   KEY      = NAME | POSITION {'.' POSITION}              x, 2, 0.1: field 1 of argument 0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sagegen::cli {

// Holds every integer of 64 bits and every double.
using Number = long double;

enum class ElementType { i8, u8, i16, u16, i32, u32, i64, u64, f16, bf16, f32, f64, e4m3, e5m2 };
struct ElementInfo {
  ElementType type;
  const char* name;
  std::size_t bytes;
  bool is_float;
  const char* npy;  // numpy's name of the type, or null where it has none
};
const ElementInfo& info(ElementType type);
const std::vector<ElementInfo>& element_types();

// What a buffer holds before the launch, or what it is to hold after it.
struct ValueSpec {
  enum class Kind {
    output,   // nothing; the kernel has to write all of it
    scratch,  // nothing, and nobody looks at it afterwards
    number,
    zeros,
    iota,
    normal,
    uniform,
    file
  };
  Kind kind = Kind::output;
  std::string number;  // as written
  std::optional<std::uint64_t> seed;
  std::optional<std::array<double, 2>> range;  // mean and deviation, or low and high
  std::string file;                            // with ":TENSOR" of a safetensors file
  bool operator==(const ValueSpec&) const = default;
};

struct ArgumentSpec {
  enum class Kind { scalar, buffer, reference, structure };
  Kind kind = Kind::scalar;
  std::string name;  // may be empty
  ElementType type = ElementType::i32;
  std::optional<std::vector<std::uint64_t>> shape;  // of a buffer; not given: as in its file
  ValueSpec value;                                  // of a buffer, or the number of a scalar
  std::string target;                               // of a reference: a KEY
  std::uint64_t offset = 0;                         // of a reference, in bytes
  std::vector<ArgumentSpec> fields;                 // of a struct
  bool operator==(const ArgumentSpec&) const = default;
};

// Throw UsageError, which quotes the text and says where it stops to make sense and what could be there.
ArgumentSpec parse_argument(std::string_view text);
ValueSpec parse_value(std::string_view text);  // not output

// The shortest text that parses to the same.
std::string spelled(const ValueSpec& value);
std::string spelled(const ArgumentSpec& argument);

// "32x4x2" -> {32, 4, 2}, of 1 to `most` extents. `what` begins the UsageError: "--grid".
std::vector<std::uint64_t> parse_extents(std::string_view text, std::size_t most,
                                         const std::string& what);

// Exact; empty if the text is no number, or none that fits.
std::optional<Number> parse_number(std::string_view text);

}  // namespace sagegen::cli
