// Layout (NEP 1): "\x93NUMPY", version, header length (u16 in version 1, u32 in 2), a Python dict
// literal with descr, fortran_order and shape, the data.
#include <array>
#include <limits>
#include <optional>
#include <set>

#include <fmt/format.h>

#include "tools/reference/printable.h"
#include "tools/reference/tensor_bytes.h"
#include "tools/reference/tensor_file.h"

namespace sagegen::reference {

namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr std::size_t kHeaderAlignment = 64;

struct Header {
  std::string descr;
  bool fortran_order = false;
  std::vector<std::int64_t> shape;
};

// Reads the only form that numpy writes: three known keys, each once, in any order.
class HeaderParser {
 public:
  HeaderParser(std::string_view text, const Refuse& refuse) : text_(text), refuse_(refuse) {}

  Header parse() {
    Header header;
    std::set<std::string> seen;
    expect('{');
    while (!accept('}')) {
      const std::string key = quoted();
      expect(':');
      if (!seen.insert(key).second)
        throw refuse_(fmt::format("the header names '{}' twice", printable(key)));
      if (key == "descr") {
        header.descr = quoted();
      } else if (key == "fortran_order") {
        header.fortran_order = boolean();
      } else if (key == "shape") {
        header.shape = tuple();
      } else {
        throw refuse_(fmt::format("the header has an unknown key '{}'", printable(key)));
      }
      if (!accept(',')) {
        expect('}');
        break;
      }
    }
    skip_space();
    if (at_ != text_.size()) throw refuse_("the header goes on after its dictionary");
    if (seen.size() != 3) throw refuse_("the header needs descr, fortran_order and shape");
    return header;
  }

 private:
  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
  }
  bool accept(char c) {
    skip_space();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!accept(c))
      throw refuse_(fmt::format("the header is malformed at byte {}: expected '{}'", at_, c));
  }
  std::string quoted() {
    skip_space();
    const char quote = accept('"') ? '"' : '\'';
    if (quote == '\'') expect('\'');
    const std::size_t end = text_.find(quote, at_);
    if (end == std::string_view::npos) throw refuse_("the header has a string without an end");
    const std::string value(text_.substr(at_, end - at_));
    at_ = end + 1;
    return value;
  }
  bool boolean() {
    skip_space();
    for (const auto& [word, value] :
         {std::pair{std::string_view("True"), true}, {"False", false}}) {
      if (text_.substr(at_, word.size()) == word) {
        at_ += word.size();
        return value;
      }
    }
    throw refuse_("fortran_order is neither True nor False");
  }
  std::uint64_t extent() {
    skip_space();
    std::uint64_t value = 0;
    const std::size_t begin = at_;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') {
      if (at_ - begin >= 19) throw refuse_("shape holds a number of more than 19 digits");
      value = value * 10 + static_cast<std::uint64_t>(text_[at_++] - '0');
    }
    if (at_ == begin) throw refuse_("shape holds something else than whole numbers");
    return value;
  }
  std::vector<std::int64_t> tuple() {
    std::vector<std::int64_t> shape;
    expect('(');
    while (!accept(')')) {
      append_extent(shape, extent(), refuse_);
      if (!accept(',')) {
        expect(')');
        break;
      }
    }
    return shape;
  }

  std::string_view text_;
  const Refuse& refuse_;
  std::size_t at_ = 0;
};

// Bytes of an element; 0 for types that are not read. Bytes have no order, so numpy writes '|'.
std::size_t element_bytes(std::string_view descr) {
  for (const std::string_view one : {"|b1", "|i1", "|u1"}) {
    if (descr == one) return 1;
  }
  if (descr.size() != 3 || descr[0] != '<') return 0;
  const bool is_float = descr[1] == 'f';
  if (!is_float && descr[1] != 'i' && descr[1] != 'u') return 0;
  return descr[2] == '2' ? 2 : descr[2] == '4' ? 4 : descr[2] == '8' ? 8 : 0;
}

std::string_view descr_of(IoType type) {
  switch (type) {
    case IoType::f16:
      return "<f2";
    case IoType::f32:
      return "<f4";
    case IoType::bf16:
      break;
  }
  throw FileError("npy has no bf16; write a safetensors file or convert to f32");
}

}  // namespace

NpyArray parse_npy_array(Bytes bytes, const std::string& file) {
  const Refuse refuse = [&](const std::string& rule) {
    return FileError(fmt::format("{}: {}", file, rule));
  };
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (text.substr(0, kMagic.size()) != kMagic)
    throw refuse("not an npy file (it begins otherwise)");
  if (bytes.size() < kMagic.size() + 2) throw refuse("truncated before the version");
  const int major = bytes[6], minor = bytes[7];
  if ((major != 1 && major != 2) || minor != 0) {
    throw refuse(fmt::format("npy version {}.{}; versions 1.0 and 2.0 can be read", major, minor));
  }
  const std::size_t length_size = major == 1 ? 2 : 4, header_begin = 8 + length_size;
  if (bytes.size() < header_begin) throw refuse("truncated in the header length");
  const std::size_t header_size = major == 1 ? little_endian<std::uint16_t>(bytes.data() + 8)
                                             : little_endian<std::uint32_t>(bytes.data() + 8);
  if (header_size > bytes.size() - header_begin) {
    throw refuse(fmt::format("the header length says {} bytes, but {} follow it", header_size,
                             bytes.size() - header_begin));
  }
  Header header = HeaderParser(text.substr(header_begin, header_size), refuse).parse();

  const std::size_t element_size = element_bytes(header.descr);
  if (element_size == 0) {
    throw refuse(fmt::format(
        "dtype is '{}'; '<f2', '<f4', '<f8', '|b1' and integers of 1 to 8 bytes, the lowest first, "
        "can be read",
        printable(header.descr)));
  }
  if (header.fortran_order) {
    throw refuse("the array is in Fortran order; save numpy.ascontiguousarray(array)");
  }
  const Bytes data = bytes.subspan(header_begin + header_size);
  check_size(header.shape, element_size, data.size(), refuse);
  return {.descr = std::move(header.descr),
          .shape = std::move(header.shape),
          .data = {data.begin(), data.end()}};
}

StoredTensor parse_npy(Bytes bytes, const std::string& file) {
  NpyArray array = parse_npy_array(bytes, file);
  if (array.descr[1] != 'f') {
    throw FileError(
        fmt::format("{}: dtype is '{}'; '<f2', '<f4' and '<f8' can be read", file, array.descr));
  }
  StoredTensor tensor;
  tensor.name = file;
  tensor.type = array.descr == "<f2" ? IoType::f16 : IoType::f32;
  tensor.shape = std::move(array.shape);
  tensor.data = decode(array.data, element_bytes(array.descr), tensor.type);
  return tensor;
}

std::vector<std::uint8_t> format_npy_array(const NpyArray& array) {
  std::string shape;
  for (const std::int64_t extent : array.shape) shape += fmt::format("{}, ", extent);
  if (array.shape.size() > 1) shape.resize(shape.size() - 2);
  if (array.shape.size() == 1) shape.pop_back();
  std::string header =
      fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}), }}", array.descr, shape);
  const std::size_t fixed = kMagic.size() + 2 + 2;
  const std::size_t used = (fixed + header.size() + 1) % kHeaderAlignment;
  header.append((kHeaderAlignment - used) % kHeaderAlignment, ' ');
  header += '\n';
  if (header.size() > std::numeric_limits<std::uint16_t>::max()) {
    throw FileError(fmt::format("cannot write an npy file with {} dimensions", array.shape.size()));
  }

  std::vector<std::uint8_t> bytes(kMagic.begin(), kMagic.end());
  bytes.push_back(1);
  bytes.push_back(0);
  append_little_endian(bytes, static_cast<std::uint16_t>(header.size()));
  bytes.insert(bytes.end(), header.begin(), header.end());
  bytes.insert(bytes.end(), array.data.begin(), array.data.end());
  return bytes;
}

std::vector<std::uint8_t> format_npy(const StoredTensor& tensor) {
  check_writable(tensor);
  NpyArray array{.descr = std::string(descr_of(tensor.type)), .shape = tensor.shape, .data = {}};
  encode(tensor, array.data);
  return format_npy_array(array);
}

}  // namespace sagegen::reference
