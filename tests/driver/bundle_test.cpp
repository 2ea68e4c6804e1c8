// Bundles: texts by name in one compressed file.
#include <catch2/catch.hpp>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "runtime/artifacts/bundle_format.h"
#include "sagegen/runtime/bundle.h"
#include "sagegen/runtime/error.h"

using namespace sagegen::runtime;
using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;

namespace {

using Texts = std::map<std::string, std::string>;

std::string bundle_of(const Texts& texts) {
  std::vector<NamedText> list;
  for (const auto& [name, text] : texts) list.push_back({name, text});
  return write_bundle(std::move(list));
}

// Assembly of `lines` lines over `families` families, whose members differ in a few lines.
Texts like_kernels(int families, int members, int lines) {
  std::mt19937_64 random(7);
  Texts texts;
  for (int family = 0; family < families; ++family) {
    std::vector<std::string> body;
    for (int i = 0; i < lines; ++i) {
      body.push_back("\tfma.rn.f32 \t%f" + std::to_string(random() % 4000) + ", %f" +
                     std::to_string(random() % 4000) + ";\n");
    }
    for (int member = 0; member < members; ++member) {
      for (int i = 0; i < lines / 20; ++i)
        body[random() % body.size()] =
            "\tmov.b32 \t%r" + std::to_string(random() % 4000) + ", 0;\n";
      std::string text;
      for (const std::string& line : body) text += line;
      texts["kernel_" + std::to_string(family) + "_" + std::to_string(member)] = text;
    }
  }
  return texts;
}

void store(std::string& bytes, std::size_t at, std::uint64_t number, int width) {
  for (int i = 0; i < width; ++i)
    bytes[at + static_cast<std::size_t>(i)] = static_cast<char>(number >> (8 * i) & 0xff);
}

// With the checksum that its index asks for, so that what the checksum hides is read.
std::string sealed(std::string bytes, std::size_t index_and_names) {
  store(bytes, bundle_format::kCheckAt,
        bundle_format::fnv1a(
            std::string_view(bytes).substr(bundle_format::kHeaderBytes, index_and_names)),
        8);
  return bytes;
}

std::string why_refused(const std::string& bytes) {
  try {
    const Bundle bundle = Bundle::parse(bytes, "B");
    for (const std::string_view name : bundle.names()) bundle.find(name);
  } catch (const ArtifactError& error) {
    return error.what();
  }
  return "taken";
}

}  // namespace

TEST_CASE("a bundle gives back every text by its name") {
  Texts texts = like_kernels(3, 4, 200);
  texts["empty"] = "";
  texts["a byte of each"] = [] {
    std::string all;
    for (int i = 0; i < 256; ++i) all += static_cast<char>(i);
    return all;
  }();
  const std::string bytes = bundle_of(texts);
  const Bundle bundle = Bundle::view(bytes, "B");
  REQUIRE(bundle.names().size() == texts.size());
  auto expected = texts.begin();
  for (const std::string_view name : bundle.names()) {
    CHECK(name == expected->first);
    CHECK(name.data()[name.size()] == '\0');
    CHECK(bundle.find(name) == (expected++)->second);
  }
  CHECK(bundle.find("kernel_0") == std::nullopt);
  CHECK(bundle.find("") == std::nullopt);
  CHECK(bundle.find("zzz") == std::nullopt);
  CHECK(Bundle().names().empty());
  CHECK(Bundle().find("empty") == std::nullopt);
  const Bundle none = Bundle::parse(bundle_of({}), "B");
  CHECK(none.names().empty());
  CHECK(none.find("empty") == std::nullopt);
}

TEST_CASE("the bytes of a bundle do not depend on the order of its texts") {
  const Texts texts = like_kernels(2, 5, 100);
  std::vector<NamedText> list;
  for (const auto& [name, text] : texts) list.push_back({name, text});
  const std::string bytes = write_bundle(list);
  std::mt19937_64 random(1);
  for (int i = 0; i < 3; ++i) {
    std::shuffle(list.begin(), list.end(), random);
    CHECK(write_bundle(list) == bytes);
  }
}

TEST_CASE("kernels that resemble each other are stored as differences") {
  const std::size_t one = bundle_of(like_kernels(3, 1, 400)).size();
  CHECK(bundle_of(like_kernels(3, 8, 400)).size() < 3 * one);
}

TEST_CASE("bases have bases, up to four") {
  using namespace bundle_format;
  const auto base_at = [](std::size_t text) { return kHeaderBytes + kIndexBytes * text + 12; };
  const auto base_of = [&](const std::string& bytes, std::size_t text) {
    std::uint32_t base = 0;
    for (std::size_t i = 4; i-- > 0;)
      base = base << 8 | static_cast<unsigned char>(bytes[base_at(text) + i]);
    return base;
  };
  const Texts texts = like_kernels(2, 40, 300);  // each member is like the one before
  const std::string bytes = bundle_of(texts);
  int most = 0;
  for (std::size_t text = 0; text < texts.size(); ++text) {
    int bases = 0;
    for (std::size_t at = text; base_of(bytes, at) != kNoBase; at = base_of(bytes, at)) ++bases;
    most = std::max(most, bases);
  }
  CHECK(most > 1);
  CHECK(most <= kMostBases);
  const Bundle bundle = Bundle::view(bytes, "B");
  for (const auto& [name, text] : texts) CHECK(bundle.find(name) == text);

  // Frames that need no prefix are the same behind any.
  std::string chain =
      bundle_of({{"a", "1"}, {"b", "2"}, {"c", "3"}, {"d", "4"}, {"e", "5"}, {"f", "6"}});
  constexpr std::size_t kSealed = 6 * (kIndexBytes + 2);
  for (std::size_t text = 0; text < 4; ++text) store(chain, base_at(text), text + 1, 4);
  CHECK(why_refused(sealed(chain, kSealed)) == "taken");
  store(chain, kVersionAt, 1, 4);  // of the former version, which is read
  CHECK(why_refused(sealed(chain, kSealed)) == "taken");
  store(chain, base_at(4), 5, 4);
  CHECK_THAT(why_refused(sealed(chain, kSealed)), Contains("base of a"));
  store(chain, base_at(0), kNoBase, 4);
  CHECK(why_refused(sealed(chain, kSealed)) == "taken");
  store(chain, base_at(5), 1, 4);  // b to f stand behind each other
  CHECK_THAT(why_refused(sealed(chain, kSealed)), Contains("base of b"));
}

TEST_CASE("one text is read without the others") {
  const Texts texts = like_kernels(30, 4, 1500);  // 120 texts of 40 KB
  const std::string bytes = bundle_of(texts);
  const Bundle bundle = Bundle::view(bytes, "B");
  // Damage to a frame is damage to the texts that need it, and to no other.
  std::string damaged = bytes;
  damaged[damaged.size() - 1] ^= 1;
  const Bundle other = Bundle::view(damaged, "B");
  CHECK_THROWS_AS(other.find(other.names().back()), ArtifactError);
  for (const std::string_view name : other.names().first(100)) CHECK(other.find(name).has_value());
  const auto microseconds = [](auto work) {
    double best = 1e9;
    for (int i = 0; i < 20; ++i) {
      const auto begin = std::chrono::steady_clock::now();
      work();
      best = std::min(
          best, std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin)
                    .count());
    }
    return best;
  };
  const double all = microseconds([&] {
    for (const std::string_view name : bundle.names()) bundle.find(name);
  });
  const double worst = microseconds([&] { bundle.find("kernel_7_3"); });
  INFO(all << " us for all, " << worst << " us for one");
  CHECK(worst < all / 20);  // of 120
}

TEST_CASE("a bundle that cannot be written is refused") {
  CHECK_THROWS_WITH(write_bundle({{"a", "1"}, {"b", "2"}, {"a", "3"}}),
                    Contains("two") && Contains("a"));
  CHECK_THROWS_AS(write_bundle({{"", "1"}}), ArtifactError);
  CHECK_THROWS_AS(write_bundle({{std::string_view("a\0b", 3), "1"}}), ArtifactError);
}

TEST_CASE("a damaged bundle is refused by name and reason") {
  const std::string good = bundle_of({{"one", "text of one"}, {"two", "text of two"}});
  constexpr std::size_t kIndex = bundle_format::kHeaderBytes, kNames = kIndex + 2 * 16;
  constexpr std::size_t kSealed = 2 * 16 + 8;  // index, and two names of three letters
  CHECK(why_refused(good) == "taken");
  CHECK_THAT(why_refused(""),
             StartsWith("B: ") && Contains("no bundle") && Contains("sagegen generate"));
  CHECK_THAT(why_refused(".version 8.4\n.target sm_89 and so on, at length"),
             Contains("no bundle"));
  std::string bad = good;
  for (const int version : {0, 3}) {
    store(bad, bundle_format::kVersionAt, static_cast<std::uint64_t>(version), 4);
    CHECK_THAT(why_refused(bad), Contains("version " + std::to_string(version) + ",") &&
                                     Contains("reads versions 1 to 2"));
  }
  bad = good;
  store(bad, bundle_format::kCountAt, 0xffffffff, 4);
  CHECK_THAT(why_refused(bad), Contains("ends inside its index"));
  CHECK_THAT(why_refused(good + "x"), Contains("bytes, and its index describes"));
  for (std::size_t size = 0; size < good.size(); ++size) {
    CHECK(why_refused(good.substr(0, size)) != "taken");
  }
  for (std::size_t bit = 0; bit < 8 * good.size(); ++bit) {  // every single bit
    bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
    const bool only_header_of_frame = why_refused(bad) == "taken";
    INFO(bit);
    // A frame's descriptor has bits that mean nothing (RFC 8878, 3.1.1.1.1.3): the text is still right.
    if (only_header_of_frame) CHECK(Bundle::view(bad, "B").find("one") == "text of one");
  }
  bad = good;
  bad[kNames] = 'x';
  CHECK_THAT(why_refused(bad), Contains("index is damaged"));
  CHECK_THAT(why_refused(sealed(bad, kSealed)), Contains("not in order"));
  bad = good;
  bad[kNames + 1] = '\0';
  CHECK_THAT(why_refused(sealed(bad, kSealed)), Contains("name 0 is malformed"));
  bad = good;
  store(bad, kIndex + 8, 0xfffffff0, 4);
  CHECK_THAT(why_refused(sealed(bad, kSealed)), Contains("one is said to have 4294967280 bytes"));
  bad = good;
  store(bad, kIndex + 8, 12, 4);
  CHECK_THAT(why_refused(sealed(bad, kSealed)), Contains("one is damaged (its size)"));
  for (const std::uint64_t base : {0u, 2u, 0xfffffffeu}) {  // itself, and none
    bad = good;
    store(bad, kIndex + 12, base, 4);
    CHECK_THAT(why_refused(sealed(bad, kSealed)), Contains("base of one"));
  }
  bad = good;
  store(bad, kIndex + 12, 1, 4);
  store(bad, kIndex + 16 + 12, 0, 4);  // each the base of the other
  CHECK_THAT(why_refused(sealed(bad, kSealed)), Contains("base of one"));
}

TEST_CASE("a frame of libzstd's past is refused before libzstd reads it") {
  const std::string good = bundle_of({{"one", "text of one"}, {"two", "text of two"}});
  constexpr std::size_t kFrames = bundle_format::kHeaderBytes + 2 * 16 + 8;
  for (const std::uint64_t magic : {0xfd2fb525u, 0xfd2fb526u, 0xfd2fb527u, 0x184d2a50u, 0u}) {
    std::string bad = good;
    store(bad, kFrames, magic, 4);  // no checksum covers it
    INFO(magic);
    CHECK_THAT(why_refused(bad), Contains("one is damaged (it is no zstd frame)"));
  }
  std::string bad = good;  // one frame of three bytes, and the other has the rest
  constexpr std::size_t kIndex = bundle_format::kHeaderBytes;
  const auto bytes = [&](std::size_t text) {
    return static_cast<unsigned char>(good[kIndex + 16 * text + 4]);
  };
  store(bad, kIndex + 4, 3, 4);
  store(bad, kIndex + 16 + 4, std::uint64_t{bytes(0)} + bytes(1) - 3, 4);
  CHECK_THAT(why_refused(sealed(bad, 2 * 16 + 8)),
             Contains("one is damaged (it is no zstd frame)"));
}

TEST_CASE("a bundle is read from a file") {
  namespace fs = std::filesystem;
  const fs::path file = fs::temp_directory_path() / "sagegen_bundle_test.bundle";
  std::ofstream(file, std::ios::binary) << bundle_of({{"one", "text"}});
  const Bundle bundle = Bundle::read(file);
  fs::remove(file);
  const Bundle copy = bundle;
  CHECK(copy.find("one") == "text");
  CHECK(copy.origin() == file.string());
  CHECK_THROWS_WITH(Bundle::read(file), Contains(file.string()) && Contains("No such file"));
  CHECK_THROWS_WITH(Bundle::read(fs::temp_directory_path()),
                    Contains("cannot be read: Is a directory"));
}
