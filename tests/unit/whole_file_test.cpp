// Whole files in and out: what readers of a file that is being replaced see, what stays when a write fails,
// what a read error looks like; and text from files as messages show it.
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <csignal>
#include <filesystem>
#include <string>
#include <thread>

#include "tests/bound_by_permissions.h"
#include "tools/reference/json_depth.h"
#include "tools/reference/printable.h"
#include "tools/reference/whole_file.h"

using namespace sagegen::reference;
using Catch::Contains;
namespace fs = std::filesystem;

namespace {

// A directory of its own that goes away with the test.
class Scratch {
 public:
  Scratch() : path_(fs::temp_directory_path() / fmt::format("sagegen_whole_file.{}", ::getpid())) {
    fs::remove_all(path_);
    fs::create_directories(path_);
  }
  ~Scratch() { fs::remove_all(path_); }
  fs::path operator/(const std::string& name) const { return path_ / name; }
  std::size_t entries() const {
    return static_cast<std::size_t>(
        std::distance(fs::directory_iterator(path_), fs::directory_iterator()));
  }

 private:
  fs::path path_;
};

unsigned permissions(const fs::path& path) {
  struct stat status {};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  return status.st_mode & 07777;
}

ino_t inode(const fs::path& path) {
  struct stat status {};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  return status.st_ino;
}

}  // namespace

TEST_CASE("what is written is read back, whatever bytes it holds") {
  const Scratch scratch;
  for (const std::string& bytes :
       {std::string(), std::string("a\0b\r\n\xff", 6), std::string(3'000'000, 'x')}) {
    write_whole_file(scratch / "f", bytes);
    CHECK(read_whole_file(scratch / "f") == bytes);
  }
  CHECK(scratch.entries() == 1);
  CHECK_FALSE(read_whole_file("/proc/self/status").empty());  // which says that it has 0 bytes
}

TEST_CASE("a read error is an error, and not the end of the file") {
  const Scratch scratch;
  // The first page of a process is never mapped, and reading it fails after a successful open.
  CHECK_THROWS_WITH(read_whole_file("/proc/self/mem"),
                    "/proc/self/mem: cannot be read: Input/output error");
  CHECK_THROWS_WITH(InputFile("/proc/self/mem"),
                    "/proc/self/mem: cannot be read: Input/output error");
  CHECK_THROWS_WITH(read_whole_file(scratch / ""), Contains("cannot be read: is a directory"));
  CHECK_THROWS_WITH(read_whole_file(scratch / "absent"), Contains("No such file"));
  CHECK_THROWS_WITH(read_whole_file("/dev/zero"), Contains("is a device"));
  CHECK_THROWS_WITH(InputFile("/dev/zero"), Contains("is a device"));
  CHECK_THROWS_WITH(read_whole_file(scratch / std::string(300, 'n')), Contains("name too long"));
  fs::create_symlink("loop", scratch / "loop");
  CHECK_THROWS_WITH(read_whole_file(scratch / "loop"), Contains("symbolic links"));
}

TEST_CASE("a file that becomes shorter while it is read piece by piece") {
  const Scratch scratch;
  write_whole_file(scratch / "f", "0123456789");
  const InputFile file(scratch / "f");
  CHECK(file.size() == 10);
  CHECK(file.read(2, 3) == std::vector<std::uint8_t>{'2', '3', '4'});
  CHECK_THROWS_WITH(file.read(8, 3), Contains("read 2 of 3 bytes at 8"));
  CHECK_THROWS_WITH(file.read(~std::uint64_t{0}, 3), Contains("read 0 of 3 bytes"));
  fs::resize_file(scratch / "f", 5);
  CHECK_THROWS_WITH(file.read(2, 8), Contains("read 3 of 8 bytes at 2"));
}

TEST_CASE("a reader meets the old bytes or the new ones, and never a part") {
  const Scratch scratch;
  const fs::path path = scratch / "f";
  const std::string texts[] = {std::string(1'000'000, 'a'), std::string(2'000'000, 'b')};
  write_whole_file(path, texts[0]);
  std::atomic<bool> done = false;
  std::thread writer([&] {
    for (int i = 1; i <= 100; ++i) write_whole_file(path, texts[i % 2]);
    done = true;
  });
  bool whole = true;
  while (!done) {
    const std::string seen = read_whole_file(path);
    whole = whole && (seen == texts[0] || seen == texts[1]);
  }
  writer.join();
  CHECK(whole);
  CHECK(scratch.entries() == 1);
}

TEST_CASE("permissions: of the umask for a new file, and kept for an old one") {
  const Scratch scratch;
  const mode_t before = ::umask(027);
  write_whole_file(scratch / "new", "x");
  ::umask(before);
  CHECK(permissions(scratch / "new") == 0640);
  REQUIRE(::chmod((scratch / "new").c_str(), 0604) == 0);
  write_whole_file(scratch / "new", "y");
  CHECK(permissions(scratch / "new") == 0604);
}

TEST_CASE("a symbolic link keeps its place, and what it points to is replaced") {
  const Scratch scratch;
  fs::create_directory(scratch / "d");
  write_whole_file(scratch / "d/target", "old");
  fs::create_symlink("d/target", scratch / "link");
  fs::create_symlink(scratch / "link", scratch / "link to link");
  write_whole_file(scratch / "link to link", "new");
  CHECK(fs::is_symlink(scratch / "link"));
  CHECK(fs::is_symlink(scratch / "link to link"));
  CHECK(read_whole_file(scratch / "d/target") == "new");
  fs::create_symlink("d/made", scratch / "dangling");
  write_whole_file(scratch / "dangling", "made");
  CHECK(read_whole_file(scratch / "d/made") == "made");
  fs::create_symlink("loop", scratch / "loop");
  CHECK_THROWS_WITH(write_whole_file(scratch / "loop", "x"), Contains("symbolic links"));
}

TEST_CASE("a write that fails leaves the old file, and nothing else") {
  const Scratch scratch;
  write_whole_file(scratch / "f", "kept");
  const ino_t old = inode(scratch / "f");
  rlimit limit{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &limit) == 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{.rlim_cur = 1000, .rlim_max = limit.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
  const std::string large(5000, 'x');
  CHECK_THROWS_WITH(write_whole_file(scratch / "f", large),
                    Contains("cannot be written: File too large"));
  CHECK_THROWS_AS(write_whole_file(scratch / "g", large), FileError);
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &limit) == 0);
  std::signal(SIGXFSZ, handler);
  CHECK(read_whole_file(scratch / "f") == "kept");
  CHECK(inode(scratch / "f") == old);
  CHECK(scratch.entries() == 1);
}

TEST_CASE("pipes and devices are written to as they are") {
  write_whole_file("/dev/null", "x");
  CHECK(fs::is_character_file("/dev/null"));
  CHECK_THROWS_WITH(write_whole_file("/dev/full", "x"),
                    "/dev/full: cannot be written: No space left on device");
  const Scratch scratch;
  REQUIRE(::mkfifo((scratch / "pipe").c_str(), 0600) == 0);
  std::string seen;
  std::thread reader([&] { seen = read_whole_file(scratch / "pipe"); });
  const std::string text(300'000, 'p');
  write_whole_file(scratch / "pipe", text);
  reader.join();
  CHECK(seen == text);
}

TEST_CASE("what cannot be written is known before") {
  const Scratch scratch;
  CHECK(why_not_writable(scratch / "new").empty());
  CHECK(scratch.entries() == 0);
  CHECK(why_not_writable(scratch / "") == "is a directory");
  CHECK_THAT(why_not_writable(scratch / "absent/f"), Contains("there is no directory"));
  write_whole_file(scratch / "f", "");
  CHECK_THAT(why_not_writable(scratch / "f/g"), Contains("there is no directory"));
  CHECK_THAT(why_not_writable(scratch / std::string(300, 'n')), Contains("name too long"));
  // A name of the greatest length leaves no room for an ending.
  write_whole_file(scratch / std::string(255, 'n'), "x");
  fs::permissions(scratch / "f", fs::perms::owner_read);
  sagegen::test::bound_by_permissions([&] {
    CHECK(why_not_writable(scratch / "f") == "Permission denied");
    CHECK_THROWS_AS(write_whole_file(scratch / "f", "x"), FileError);
  });
}

TEST_CASE("one file under two names") {
  const Scratch scratch;
  write_whole_file(scratch / "a", "");
  write_whole_file(scratch / "b", "");
  fs::create_hard_link(scratch / "a", scratch / "hard");
  fs::create_symlink("a", scratch / "soft");
  CHECK(is_same_file(scratch / "a", scratch / "./a"));
  CHECK(is_same_file(scratch / "a", scratch / "hard"));
  CHECK(is_same_file(scratch / "soft", scratch / "hard"));
  CHECK_FALSE(is_same_file(scratch / "a", scratch / "b"));
  CHECK_FALSE(is_same_file(scratch / "absent", scratch / "absent"));
  CHECK_FALSE(is_same_file("/dev/null", "/dev/null"));
}

TEST_CASE("text from outside is shown, and not obeyed") {
  CHECK(without_controls("plain\n\ttext \xc3\xa4 \xe2\x82\xac \xf0\x9f\x98\x80") ==
        "plain\n\ttext \xc3\xa4 \xe2\x82\xac \xf0\x9f\x98\x80");
  CHECK(without_controls("\x1b[31m\r\x7f") == "\\x1b[31m\\x0d\\x7f");
  CHECK(without_controls("\xc2\x9b"
                         "31m") == "\\xc2\\x9b31m");  // CSI in one character
  CHECK(without_controls(std::string_view("\0", 1)) == "\\x00");
  // No UTF-8: alone, cut off, too long a form, a surrogate, beyond the last character.
  for (const std::string_view bad : {"\x80", "\xe2\x82", "\xc0\xaf", "\xe0\x80\x80", "\xed\xa0\x80",
                                     "\xf4\x90\x80\x80", "\xf0\x80\x80\x80", "\xff"}) {
    CHECK(without_controls(bad).size() == 4 * bad.size());
  }
}

TEST_CASE("long text keeps its beginning and its end") {
  CHECK(printable("short", 5) == "short");
  CHECK(printable("0123456789", 6) == "0123[... 4 bytes ...]89");
  const std::string shown = printable("begin" + std::string(50'000'000, 'x') + "end");
  CHECK(shown.size() < 250);
  CHECK(shown.starts_with("begin"));
  CHECK(shown.ends_with("end"));
  // Not within a character.
  std::string euros;
  for (int i = 0; i < 100; ++i) euros += "\xe2\x82\xac";
  for (std::size_t most = 10; most < 40; ++most)
    CHECK(printable(euros, most).find("\\x") == std::string::npos);
}

TEST_CASE("the depth of JSON is known without a tree of it") {
  CHECK_FALSE(nests_deeper_than("", 0));
  CHECK(nests_deeper_than("[", 0));
  CHECK_FALSE(nests_deeper_than(R"({"a":[1,{"b":2}],"c":[[]]})", 3));
  CHECK(nests_deeper_than(R"({"a":[1,{"b":2}],"c":[[]]})", 2));
  CHECK_FALSE(nests_deeper_than(R"(["[[[[", "\"[[[[", "\\"])", 1));
  CHECK(nests_deeper_than(R"(["\\", [1]])", 1));
  CHECK(nests_deeper_than(std::string(90'000'000, '['), 100));
  std::string wide = "[";
  for (int i = 0; i < 1000; ++i) wide += "[],";
  CHECK_FALSE(nests_deeper_than(wide, 2));
}
