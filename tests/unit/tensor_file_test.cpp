// Tensor files: bytes that numpy and the safetensors package wrote, round trips, and every rule
// broken once.
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <thread>

#include "tools/reference/tensor_file.h"

using namespace sagegen::reference;

namespace {

Bytes bytes_of(const std::string& text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

std::string safetensors(const std::string& header, const std::string& data) {
  std::string text;
  for (int i = 0; i < 8; ++i) text += static_cast<char>(header.size() >> (8 * i) & 0xFF);
  return text + header + data;
}

std::string npy(const std::string& header, const std::string& data) {
  std::string text = std::string("\x93NUMPY\x01\x00", 8);
  text += static_cast<char>(header.size() & 0xFF);
  text += static_cast<char>(header.size() >> 8);
  return text + header + data;
}

std::string safetensors_error(const std::string& text) {
  try {
    parse_safetensors(bytes_of(text), "x.safetensors");
  } catch (const FileError& e) {
    return e.what();
  }
  return "no error";
}
std::string npy_error(const std::string& text) {
  try {
    parse_npy(bytes_of(text), "x.npy");
  } catch (const FileError& e) {
    return e.what();
  }
  return "no error";
}

// A directory of its own that goes away with the test.
class Scratch {
 public:
  Scratch()
      : path_(std::filesystem::temp_directory_path() /
              fmt::format("sagegen_tensor_file_test.{}", ::getpid())) {
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~Scratch() { std::filesystem::remove_all(path_); }
  std::string file(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

StoredTensor stored(const std::string& name, std::vector<std::int64_t> shape,
                    IoType type = IoType::f16) {
  StoredTensor t{.name = name, .type = type, .shape = std::move(shape), .data = {}};
  std::int64_t count = 1;
  for (const std::int64_t extent : t.shape) count *= extent;
  for (std::int64_t i = 0; i < count; ++i) t.data.push_back(static_cast<float>(i % 100) / 8 - 3);
  return t;
}

const std::string kTwo = R"({"q":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}})";

}  // namespace

TEST_CASE("safetensors written by the safetensors package") {
  const std::string header =
      R"({"__metadata__":{"a":"b"},"k":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
      R"("q":{"dtype":"F16","shape":[1,3],"data_offsets":[4,10]}} )";
  const std::string data("\x00\x00\xc0\x3f\x00\x3c\x00\xc1\xff\x7b", 10);
  const TensorFile file = parse_safetensors(bytes_of(safetensors(header, data)), "f");
  CHECK(file.metadata == std::map<std::string, std::string>{{"a", "b"}});
  REQUIRE(file.tensors.size() == 2);
  CHECK(file.tensors[0].name == "k");
  CHECK(file.find("k")->type == IoType::f32);
  CHECK(file.find("k")->data == std::vector<float>{1.5f});
  CHECK(file.find("q")->type == IoType::f16);
  CHECK(file.find("q")->shape == std::vector<std::int64_t>{1, 3});
  CHECK(file.find("q")->data == std::vector<float>{1.0f, -2.5f, 65504.0f});
  CHECK(file.find("v") == nullptr);
}

TEST_CASE("npy written by numpy, versions 1 and 2") {
  const StoredTensor half =
      parse_npy(bytes_of(npy("{'descr': '<f2', 'fortran_order': False, 'shape': (1, 3), }      \n",
                             std::string("\x00\x3c\x00\xc1\xff\x7b", 6))),
                "f");
  CHECK(half.type == IoType::f16);
  CHECK(half.shape == std::vector<std::int64_t>{1, 3});
  CHECK(half.data == std::vector<float>{1.0f, -2.5f, 65504.0f});

  const std::string header = "{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }  \n";
  std::string text("\x93NUMPY\x02\x00", 8);
  text += static_cast<char>(header.size());
  text += std::string(3, '\0') + header;
  text += std::string("\x9a\x99\x99\x99\x99\x99\xb9\x3f\xfc\xa9\xf1\xd2\x4d\x62\x50\xbf", 16);
  const StoredTensor wide = parse_npy(bytes_of(text), "f");
  CHECK(wide.type == IoType::f32);
  CHECK(wide.data == std::vector<float>{0.1f, -1e-3f});

  const StoredTensor scalar =
      parse_npy(bytes_of(npy("{'shape': (), \"descr\": '<f4', 'fortran_order': False}\n",
                             std::string("\0\0\x60\x40", 4))),
                "f");
  CHECK(scalar.shape.empty());
  CHECK(scalar.data == std::vector<float>{3.5f});
}

TEST_CASE("written files read back the same, in every type") {
  TensorFile file;
  file.metadata = {{"origin", "a \"test\" \n"}, {"empty", ""}};
  file.tensors = {stored("half", {2, 3, 4, 5}, IoType::f16), stored("brain", {7}, IoType::bf16),
                  stored("single", {}, IoType::f32), stored("none", {3, 0, 2}, IoType::f32)};
  file.tensors[0].data[3] = -0.0f;
  file.tensors[0].data[4] = std::numeric_limits<float>::infinity();
  const std::vector<std::uint8_t> bytes = format_safetensors(file);
  CHECK((bytes.size() - 120 * 2 - 7 * 2 - 4) % 8 == 0);  // data begin on a multiple of 8
  const TensorFile back = parse_safetensors(bytes, "f");
  CHECK(back.metadata == file.metadata);
  REQUIRE(back.tensors.size() == 4);
  for (const StoredTensor& want : file.tensors) {
    const StoredTensor* got = back.find(want.name);
    REQUIRE(got != nullptr);
    CHECK(got->type == want.type);
    CHECK(got->shape == want.shape);
    CHECK(got->data == want.data);
  }
  CHECK(format_safetensors(back).size() == bytes.size());
  for (const auto& shape : {std::vector<std::int64_t>{}, {5}, {2, 3}, {1, 2, 3, 4}, {0, 9}}) {
    for (const IoType type : {IoType::f16, IoType::f32}) {
      const StoredTensor want = stored("f", shape, type);
      const StoredTensor got = parse_npy(format_npy(want), "f");
      CHECK(got.shape == want.shape);
      CHECK(got.type == want.type);
      CHECK(got.data == want.data);
    }
  }
}

TEST_CASE("values are rounded to the type that is written") {
  StoredTensor t{.name = "t", .type = IoType::f16, .shape = {3}, .data = {0.1f, 1e-9f, 1e9f}};
  const StoredTensor back = parse_npy(format_npy(t), "f");
  CHECK(back.data[0] == 0.0999755859375f);
  CHECK(back.data[1] == 0.0f);
  CHECK(std::isinf(back.data[2]));
}

TEST_CASE("every truncation of a valid file is refused") {
  const std::string tensors = safetensors(kTwo, "abcd"),
                    array =
                        npy("{'descr': '<f2', 'fortran_order': False, 'shape': (2,), }\n", "abcd");
  CHECK(safetensors_error(tensors) == "no error");
  CHECK(npy_error(array) == "no error");
  for (std::size_t n = 0; n < tensors.size(); ++n)
    REQUIRE(safetensors_error(tensors.substr(0, n)) != "no error");
  for (std::size_t n = 0; n < array.size(); ++n)
    REQUIRE(npy_error(array.substr(0, n)) != "no error");
  CHECK(safetensors_error(tensors + "e") != "no error");
  CHECK(npy_error(array + "e") != "no error");
}

TEST_CASE("safetensors: each rule, broken once") {
  const auto one = [](const std::string& dtype, const std::string& shape,
                      const std::string& offsets, const std::string& data) {
    const std::string header = fmt::format(R"({{"q":{{"dtype":{},"shape":{},"data_offsets":{}}}}})",
                                           dtype, shape, offsets);
    return safetensors_error(safetensors(header, data));
  };
  using Catch::Contains;
  CHECK_THAT(safetensors_error("abc"), Contains("x.safetensors: 3 bytes"));
  CHECK_THAT(safetensors_error(std::string(8, '\xFF') + "{}"),
             Contains("18446744073709551615") && Contains("2 follow"));
  CHECK_THAT(safetensors_error(std::string("\x09\0\0\0\0\0\0\0{}", 10)),
             Contains("says 9 bytes, but 2 follow"));
  CHECK_THAT(safetensors_error(safetensors("{\"q\":", "")), Contains("not valid JSON"));
  CHECK_THAT(safetensors_error(safetensors("{}x", "")), Contains("not valid JSON"));
  CHECK_THAT(safetensors_error(safetensors("\"\xFF\"", "")), Contains("not valid JSON"));
  CHECK_THAT(safetensors_error(safetensors("[]", "")), Contains("not a JSON object"));
  CHECK_THAT(safetensors_error(safetensors(R"({"__metadata__":[]})", "")),
             Contains("__metadata__ is not an object"));
  CHECK_THAT(safetensors_error(safetensors(R"({"__metadata__":{"n":1}})", "")),
             Contains("__metadata__ 'n' is not a string"));
  CHECK_THAT(
      safetensors_error(safetensors(R"({"q":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},)"
                                    R"("q":{"dtype":"F16","shape":[1],"data_offsets":[2,4]}})",
                                    "abcd")),
      Contains("names 'q' twice"));
  CHECK_THAT(
      safetensors_error(safetensors(
          R"({"q":{"dtype":"F16","dtype":"F32","shape":[2],"data_offsets":[0,4]}})", "abcd")),
      Contains("names 'dtype' twice"));
  CHECK_THAT(safetensors_error(safetensors(R"({"q":7})", "")),
             Contains("tensor 'q': expected an object with exactly"));
  CHECK_THAT(safetensors_error(safetensors(R"({"q":{"dtype":"F16","shape":[2]}})", "")),
             Contains("exactly"));
  CHECK_THAT(safetensors_error(safetensors(
                 R"({"q":{"dtype":"F16","shape":[2],"data_offsets":[0,4],"x":1}})", "abcd")),
             Contains("exactly"));
  CHECK_THAT(one("5", "[2]", "[0,4]", "abcd"), Contains("dtype is not a string"));
  CHECK_THAT(one("\"I64\"", "[2]", "[0,4]", "abcd"),
             Contains("tensor 'q': dtype is 'I64'; F16, BF16 and F32"));
  CHECK_THAT(one("\"F16\"", "2", "[0,4]", "abcd"), Contains("shape is not an array"));
  CHECK_THAT(one("\"F16\"", "[-2]", "[0,4]", "abcd"), Contains("whole numbers"));
  CHECK_THAT(one("\"F16\"", "[2.0]", "[0,4]", "abcd"), Contains("whole numbers"));
  CHECK_THAT(one("\"F16\"", "[18446744073709551616]", "[0,4]", "abcd"), Contains("whole numbers"));
  CHECK_THAT(one("\"F16\"", "[9223372036854775807]", "[0,4]", "abcd"),
             Contains("larger than any file"));
  CHECK_THAT(one("\"F16\"", "[281474976710656,281474976710656,0]", "[0,4]", "abcd"),
             Contains("does not fill"));
  CHECK_THAT(one("\"F16\"", "[65536,65536,65536,65536]", "[0,0]", ""),
             Contains("does not fill the 0 bytes"));
  CHECK_THAT(one("\"F16\"", "[4294967296,2147483648,2]", "[0,4]", "abcd"),
             Contains("does not fill the 4 bytes"));
  CHECK_THAT(one("\"F16\"", "[3]", "[0,4]", "abcd"), Contains("shape [3] with 2 bytes an element"));
  CHECK_THAT(one("\"F32\"", "[1]", "[0,5]", "abcde"), Contains("does not fill the 5 bytes"));
  CHECK_THAT(one("\"F16\"", "[2]", "4", "abcd"), Contains("data_offsets is not a pair"));
  CHECK_THAT(one("\"F16\"", "[2]", "[0,4,8]", "abcd"), Contains("data_offsets is not a pair"));
  CHECK_THAT(one("\"F16\"", "[2]", "[-4,0]", "abcd"), Contains("data_offsets is not a pair"));
  CHECK_THAT(one("\"F16\"", "[2]", "[4,0]", "abcd"), Contains("[4, 0] do not lie in the 4 bytes"));
  CHECK_THAT(one("\"F16\"", "[2]", "[0,6]", "abcd"), Contains("[0, 6] do not lie in the 4 bytes"));
  CHECK_THAT(one("\"F16\"", "[2]", "[18446744073709551612,0]", "abcd"), Contains("do not lie"));
  CHECK_THAT(one("\"F16\"", "[1]", "[0,2]", "abcd"), Contains("2 bytes after the last tensor"));
  CHECK_THAT(one("\"F16\"", "[1]", "[2,4]", "abcd"), Contains("begin at 2, 2 bytes after"));
  CHECK_THAT(
      safetensors_error(safetensors(R"({"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},)"
                                    R"("b":{"dtype":"F16","shape":[2],"data_offsets":[2,6]}})",
                                    "abcdef")),
      Contains("tensor 'b'") && Contains("2 bytes before the end") && Contains("overlap"));
}

TEST_CASE("npy arrays of integers and booleans are their bytes") {
  const std::string ints =
      npy("{'descr': '<i4', 'fortran_order': False, 'shape': (1,), }\n", "abcd");
  const NpyArray array = parse_npy_array(bytes_of(ints), "x.npy");
  CHECK(array.descr == "<i4");
  CHECK(array.shape == std::vector<std::int64_t>{1});
  CHECK(array.data == std::vector<std::uint8_t>{'a', 'b', 'c', 'd'});
  CHECK(parse_npy_array(format_npy_array(array), "f").data == array.data);
  const std::string flags =
      npy("{'descr': '|b1', 'fortran_order': False, 'shape': (2,2), }\n", "abcd");
  CHECK(parse_npy_array(bytes_of(flags), "x.npy").shape == std::vector<std::int64_t>{2, 2});
  for (const char* descr : {"<i1", "|i2", ">i4", "<i3", "<c8", "|S4", "<U1"}) {
    const std::string bad =
        npy(std::string("{'descr': '") + descr + "', 'fortran_order': False, 'shape': (1,), }\n",
            "abcd");
    CHECK_THROWS_WITH(parse_npy_array(bytes_of(bad), "x.npy"),
                      Catch::Contains(descr) && Catch::Contains("integers of 1 to 8 bytes"));
  }
}

TEST_CASE("npy: each rule, broken once") {
  using Catch::Contains;
  const auto header = [](const std::string& text, const std::string& data = "abcd") {
    return npy_error(npy(text, data));
  };
  CHECK_THAT(npy_error("PK\x03\x04"), Contains("x.npy: not an npy file"));
  CHECK_THAT(npy_error(std::string("\x93NUMPY\x03\x00", 8)), Contains("version 3.0"));
  CHECK_THAT(npy_error(std::string("\x93NUMPY\x01\x00\xFF\xFF{", 11)),
             Contains("says 65535 bytes, but 1 follow"));
  CHECK_THAT(header("{'descr': '>f4', 'fortran_order': False, 'shape': (1,)}"),
             Contains("dtype is '>f4'"));
  CHECK_THAT(header("{'descr': '<i4', 'fortran_order': False, 'shape': (1,)}"),
             Contains("dtype is '<i4'"));
  CHECK_THAT(header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"),
             Contains("dtype is '|O'"));
  CHECK_THAT(header("{'descr': '<f4', 'fortran_order': True, 'shape': (1,)}"),
             Contains("Fortran order"));
  CHECK_THAT(header("{'descr': '<f4', 'fortran_order': 0, 'shape': (1,)}"),
             Contains("neither True nor False"));
  CHECK_THAT(header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}"),
             Contains("whole numbers"));
  CHECK_THAT(header("{'descr': '<f4', 'fortran_order': False, 'shape': (1 2)}"),
             Contains("malformed"));
  CHECK_THAT(header("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}"),
             Contains("19 digits"));
  CHECK_THAT(header("{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999999999999,)}"),
             Contains("larger than any file"));
  CHECK_THAT(header("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296,)}"),
             Contains("does not fill"));
  CHECK_THAT(header("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}"),
             Contains("shape [2]") && Contains("4 bytes of its data"));
  CHECK_THAT(header("{'descr': '<f4', 'fortran_order': False}"),
             Contains("needs descr, fortran_order and shape"));
  CHECK_THAT(header("{'descr': '<f4', 'descr': '<f4', 'shape': (1,)}"), Contains("'descr' twice"));
  CHECK_THAT(header("{'descr': '<f4', 'evil': 1, 'shape': (1,)}"), Contains("unknown key 'evil'"));
  CHECK_THAT(header("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} x"),
             Contains("goes on"));
  CHECK_THAT(header("{'descr': '<f4"), Contains("string without an end"));
  CHECK_THAT(header("print(1)"), Contains("malformed at byte 0"));
}

TEST_CASE("load_qkv: one safetensors file, bare or with a prefix, grouped heads") {
  const Scratch scratch;
  TensorFile file;
  file.tensors = {stored("layer0.q", {1, 4, 5, 8}),        stored("layer0.k", {1, 2, 7, 8}),
                  stored("layer0.v", {1, 2, 7, 8}),        stored("layer1.q", {1, 4, 5, 8}),
                  stored("q", {2, 1, 3, 8}, IoType::bf16), stored("k", {2, 1, 3, 8}, IoType::bf16),
                  stored("v", {2, 1, 3, 8}, IoType::bf16)};
  const std::string path = scratch.file("a.safetensors");
  write_safetensors(path, file);
  CHECK(qkv_prefixes(read_safetensors(path)) == std::vector<std::string>{"layer0", ""});

  const LoadedInputs grouped = load_qkv({path}, "layer0");
  CHECK(grouped.type == IoType::f16);
  CHECK(grouped.inputs.q.heads == 4);
  CHECK(grouped.inputs.k.heads == 2);
  CHECK(grouped.inputs.k.tokens == 7);
  CHECK(grouped.inputs.v.channels == 8);
  CHECK(grouped.inputs.q.data == file.tensors[0].data);
  CHECK(attention(grouped.inputs).o.size() == 4u * 5 * 8);

  const LoadedInputs bare = load_qkv({path});
  CHECK(bare.type == IoType::bf16);
  CHECK(bare.inputs.q.batch == 2);
  CHECK_THROWS_WITH(load_qkv({path}, "layer1"),
                    Catch::Contains("no tensor 'layer1.k'") && Catch::Contains("layer0, '' (without a prefix)"));
}

TEST_CASE("load_qkv reads what is asked for, and nothing beside it") {
  const Scratch scratch;
  const std::string path = scratch.file("a.safetensors");
  const auto tensor = [](const char* name, const char* dtype, const char* shape,
                         std::uint64_t begin, std::uint64_t end) {
    return fmt::format(R"("{}":{{"dtype":"{}","shape":{},"data_offsets":[{},{}]}})", name, dtype,
                       shape, begin, end);
  };
  // 64 GiB of zeros that no disk holds lie between k and v.
  constexpr std::uint64_t kBig = std::uint64_t{1} << 36;
  const std::string header = "{" + tensor("q", "F16", "[1,1,1,2]", 0, 4) + "," +
                             tensor("k", "F16", "[1,1,1,2]", 4, 8) + "," +
                             tensor("big", "F32", "[17179869184]", 8, 8 + kBig) + "," +
                             tensor("v", "F16", "[1,1,1,2]", 8 + kBig, 12 + kBig) + "," +
                             tensor("step", "I64", "[]", 12 + kBig, 20 + kBig) + "," +
                             tensor("mask", "BOOL", "[3]", 20 + kBig, 23 + kBig) + "}";
  std::string text = safetensors(header, std::string("\x00\x3c\x00\x40\x00\x44\x00\x48", 8));
  std::ofstream(path, std::ios::binary) << text;
  std::filesystem::resize_file(path, text.size() - 8 + 23 + kBig);
  const LoadedInputs loaded = load_qkv({path});
  CHECK(loaded.inputs.q.data == std::vector<float>{1, 2});
  CHECK(loaded.inputs.k.data == std::vector<float>{4, 8});
  CHECK(loaded.inputs.v.data == std::vector<float>{0, 0});
  // What is asked for has to be of a type that can be read.
  CHECK_THROWS_WITH(
      parse_safetensors(bytes_of(safetensors("{" + tensor("step", "I64", "[]", 0, 8) + "}",
                                             std::string(8, '\0'))),
                        "f"),
      Catch::Contains("tensor 'step': dtype is 'I64'"));
}

TEST_CASE("a header of many tensors is read in one go") {
  // With a cost that grows with the square of their number, this takes many minutes.
  constexpr int kTensors = 300'000;
  std::string header = "{", data;
  for (int i = 0; i < kTensors; ++i) {
    header += fmt::format(R"({}"layer{}.{}":{{"dtype":"F16","shape":[1],"data_offsets":[{},{}]}})",
                          i == 0 ? "" : ",", i / 3, "qkv"[i % 3], 2 * i, 2 * i + 2);
  }
  header += "}";
  data.resize(2 * kTensors);
  const TensorFile file = parse_safetensors(bytes_of(safetensors(header, data)), "f");
  CHECK(file.tensors.size() == kTensors);
  CHECK(file.tensors.back().name == "layer99999.v");
  CHECK(qkv_prefixes(file).size() == kTensors / 3);
  const Scratch scratch;
  std::ofstream(scratch.file("f"), std::ios::binary) << safetensors(header, data);
  CHECK_THROWS_WITH(load_qkv({scratch.file("f")}), Catch::Contains("there is no tensor 'q'") &&
                                                       Catch::Contains("layer0, layer1, ") &&
                                                       Catch::Contains("bytes ..."));
}

TEST_CASE("a deep header is refused where it becomes deep") {
  using Catch::Contains;
  const std::string deep(90'000'000, '[');
  CHECK_THAT(safetensors_error(safetensors(deep, "")), Contains("not a JSON object"));
  CHECK_THAT(safetensors_error(safetensors(R"({"q":)" + deep, "")),
             Contains("tensor 'q': expected an object"));
  CHECK_THAT(safetensors_error(safetensors(R"({"q":{"shape":)" + deep, "")),
             Contains("shape holds something else"));
  CHECK_THAT(safetensors_error(safetensors(R"({"q":{"data_offsets":)" + deep, "")),
             Contains("data_offsets is not a pair"));
  CHECK_THAT(safetensors_error(safetensors(R"({"__metadata__":{"a":)" + deep, "")),
             Contains("__metadata__ 'a' is not a string"));
  std::string ones = "1";
  for (int i = 0; i < 64; ++i) ones += ",1";
  CHECK_THAT(safetensors_error(safetensors(
                 R"({"q":{"dtype":"F16","shape":[)" + ones + R"(],"data_offsets":[0,2]}})", "ab")),
             Contains("more than 64 dimensions"));
  CHECK_THAT(
      npy_error(npy("{'descr': '<f2', 'fortran_order': False, 'shape': (" + ones + ")}", "ab")),
      Contains("more than 64 dimensions"));
}

TEST_CASE("names in files are cut and quoted in errors") {
  const std::string name = "\\u001b[31m" + std::string(1'000'000, 'n');
  for (const std::string& header :
       {R"({")" + name + R"(":7})", R"({"__metadata__":{")" + name + R"(":1}})",
        R"({"q":{"dtype":")" + name + R"(","shape":[],"data_offsets":[0,0]}})",
        R"({"q":")" + name + "\x1b", R"({"a":{")" + name + R"(":1}})"}) {
    const std::string error = safetensors_error(safetensors(header, ""));
    CHECK(error != "no error");
    CHECK(error.size() < 1000);
    CHECK(error.find('\x1b') == std::string::npos);
  }
  for (const std::string& header : {std::string("{'\x1b[31m") + std::string(1000, 'n') + "': 1}",
                                    std::string("{'descr': '\x1b[31m', 'fortran_order': False, "
                                                "'shape': ()}")}) {
    const std::string error = npy_error(npy(header, ""));
    CHECK(error != "no error");
    CHECK(error.size() < 500);
    CHECK(error.find('\x1b') == std::string::npos);
  }
}

TEST_CASE("load_qkv: files in the order batch, token, head, channel") {
  const Scratch scratch;
  const std::string path = scratch.file("a.safetensors");
  const StoredTensor q = stored("q", {2, 5, 4, 8}), k = stored("k", {2, 7, 2, 8}),
                     v = stored("v", {2, 7, 2, 8});
  write_safetensors(path, {.metadata = {}, .tensors = {q, k, v}});
  const Inputs inputs = load_qkv({path}, "", AxisOrder::nhd).inputs;
  CHECK((inputs.q.batch == 2 && inputs.q.heads == 4 && inputs.q.tokens == 5));
  CHECK((inputs.k.heads == 2 && inputs.k.tokens == 7 && inputs.k.channels == 8));
  const auto index = [](std::size_t b, std::size_t h, std::size_t n, std::size_t d) {
    return std::pair{((b * 4 + h) * 5 + n) * 8 + d, ((b * 5 + n) * 4 + h) * 8 + d};
  };
  bool same = true;
  for (std::size_t i = 0; i < 2u * 4 * 5 * 8; ++i) {
    const auto [here, there] = index(i / 160, i / 40 % 4, i / 8 % 5, i % 8);
    same = same && inputs.q.data[here] == q.data[there];
  }
  CHECK(same);
  // Read the other way, the heads do not fit.
  CHECK_THROWS_WITH(load_qkv({path}), Catch::Contains("read as [batch, head, token, channel]") &&
                                          Catch::Contains("as [batch, token, head, channel] they"));
  // Indices in errors are those of the file.
  StoredTensor broken = k;
  broken.data[static_cast<std::size_t>((1 * 2 + 1) * 8 + 3)] = INFINITY;
  write_safetensors(path, {.metadata = {}, .tensors = {q, broken, v}});
  CHECK_THROWS_WITH(load_qkv({path}, "", AxisOrder::nhd), Catch::Contains("[0, 1, 1, 3]"));
}

TEST_CASE("an order that cannot be told from the shape is guessed from its sizes") {
  const auto inputs = [](std::int64_t heads, std::int64_t q_len, std::int64_t kv_len) {
    Inputs made;
    made.q.heads = made.k.heads = heads;
    made.q.tokens = q_len;
    made.k.tokens = kv_len;
    return made;
  };
  CHECK(looks_misordered(inputs(1000, 4, 4)));
  CHECK_FALSE(looks_misordered(inputs(4, 1000, 1000)));
  CHECK_FALSE(looks_misordered(inputs(32, 1, 4096)));  // decoding
  CHECK_FALSE(looks_misordered(inputs(8, 8, 8)));
}

TEST_CASE("load_qkv: pipes") {
  const Scratch scratch;
  TensorFile file;
  file.tensors = {stored("q", {1, 2, 50, 64}), stored("k", {1, 2, 50, 64}),
                  stored("v", {1, 2, 50, 64})};
  const std::vector<std::uint8_t> bytes = format_safetensors(file);
  REQUIRE(::mkfifo(scratch.file("pipe").c_str(), 0600) == 0);
  const auto feed = [&](const std::vector<std::uint8_t>& what) {
    return std::thread([&scratch, what] {
      std::ofstream(scratch.file("pipe"), std::ios::binary)
          .write(reinterpret_cast<const char*>(what.data()),
                 static_cast<std::streamsize>(what.size()));
    });
  };
  std::thread writer = feed(bytes);
  CHECK(load_qkv({scratch.file("pipe")}).inputs.v.data == file.tensors[2].data);
  writer.join();
  writer = feed(format_npy(file.tensors[0]));
  CHECK(read_npy(scratch.file("pipe")).data == file.tensors[0].data);
  writer.join();
}

TEST_CASE("load_qkv: three npy files") {
  const Scratch scratch;
  const std::vector<std::string> paths = {scratch.file("q.npy"), scratch.file("k.npy"),
                                          scratch.file("v.npy")};
  write_npy(paths[0], stored("", {1, 2, 5, 8}));
  write_npy(paths[1], stored("", {1, 2, 6, 8}));
  write_npy(paths[2], stored("", {1, 2, 6, 8}, IoType::f32));
  const LoadedInputs loaded = load_qkv(paths);
  CHECK(loaded.type == IoType::f32);  // mixed
  CHECK(loaded.inputs.k.tokens == 6);
  CHECK_THROWS_WITH(load_qkv(paths, "layer0"), Catch::Contains("npy files have none"));
}

TEST_CASE("load_qkv refuses what is not one attention") {
  const Scratch scratch;
  const std::string path = scratch.file("a.safetensors");
  const auto error = [&](StoredTensor q, StoredTensor k, StoredTensor v) -> std::string {
    write_safetensors(path,
                      {.metadata = {}, .tensors = {std::move(q), std::move(k), std::move(v)}});
    try {
      load_qkv({path});
    } catch (const FileError& e) {
      return e.what();
    }
    return "no error";
  };
  using Catch::Contains;
  const StoredTensor q = stored("q", {1, 2, 5, 8}), k = stored("k", {1, 2, 6, 8}),
                     v = stored("v", {1, 2, 6, 8});
  CHECK(error(q, k, v) == "no error");
  CHECK_THAT(error(stored("q", {2, 5, 8}), k, v),
             Contains("tensor 'q': shape [2, 5, 8] has 3 dimensions"));
  CHECK_THAT(error(q, stored("k", {1, 2, 7, 8}), v),
             Contains("k [1, 2, 7, 8], v [1, 2, 6, 8]: k and v must"));
  CHECK_THAT(error(stored("q", {2, 2, 5, 8}), k, v), Contains("same batch"));
  CHECK_THAT(error(stored("q", {1, 2, 5, 4}), k, v), Contains("same channels"));
  CHECK_THAT(error(stored("q", {1, 3, 5, 8}), k, v), Contains("multiple"));
  CHECK_THAT(error(q, stored("k", {1, 2, 0, 8}), v),
             Contains("tensor 'k'") && Contains("holds no values"));
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    StoredTensor broken = k;
    broken.data[static_cast<std::size_t>((1 * 6 + 4) * 8 + 3)] = bad;
    CHECK_THAT(error(q, broken, v),
               Contains("tensor 'k': the value at [0, 1, 4, 3]") && Contains("finite"));
  }
  CHECK_THROWS_WITH(load_qkv({}), Contains("0 files given"));
  CHECK_THROWS_WITH(load_qkv({path, path}), Contains("2 files given"));
  CHECK_THROWS_WITH(load_qkv({scratch.file("absent")}),
                    Contains("absent: cannot be read: No such file"));
  CHECK_THROWS_WITH(load_qkv({scratch.file("")}), Contains("cannot be read: is a directory"));
}

TEST_CASE("what cannot be written is refused") {
  StoredTensor t = stored("t", {2, 3});
  t.data.pop_back();
  CHECK_THROWS_WITH(format_npy(t),
                    Catch::Contains("tensor 't'") && Catch::Contains("does not fill"));
  t = stored("t", {2}, IoType::bf16);
  CHECK_THROWS_WITH(format_npy(t), Catch::Contains("npy has no bf16"));
  CHECK_THROWS_WITH(format_safetensors({.metadata = {}, .tensors = {t, t}}),
                    Catch::Contains("two tensors named 't'"));
  t.name = "__metadata__";
  CHECK_THROWS_AS(format_safetensors({.metadata = {}, .tensors = {t}}), FileError);
  t.name = "\xFF";
  CHECK_THROWS_WITH(format_safetensors({.metadata = {}, .tensors = {t}}),
                    Catch::Contains("cannot write the header"));
  CHECK_THROWS_WITH(write_npy("/no/such/directory/t.npy", stored("t", {2})),
                    Catch::Contains("cannot be written: No such file"));
}
