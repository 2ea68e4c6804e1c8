#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <random>
#include <set>

#include <fmt/format.h>
#include <catch2/catch.hpp>

#include "sagegen/runtime/emulator.h"
#include "sagegen/runtime/error.h"
#include "sagegen/runtime/tuning.h"
#include "templates/attention/spec.h"
#include "tests/bound_by_permissions.h"
#include "tests/tune/temporary_folder.h"

using namespace sagegen;
using runtime::TuningDatabase, runtime::TuningEntry, runtime::TuningKey;
using tests::TemporaryFolder;
namespace fs = std::filesystem;

namespace {

Kernel usual_kernel() {
  return Kernel(attention::family(), attention::usual_spec(Target{.sm = 89}), Target{.sm = 89});
}

TuningEntry entry_of(int number = 0) {
  const Kernel kernel = usual_kernel();
  return {.key = {.what = kernel.what(),
                  .target = "sm_89",
                  .shape = fmt::format("q{}", number),
                  .mode = "eager",
                  .generator = runtime::generator_id(kernel),
                  .device = {.name = "A GPU\twith a tab \\ and\nmore",
                             .multiprocessors = 128,
                             .clock_khz = 2520000,
                             .memory_clock_khz = 10501000,
                             .memory_bus_bits = 384,
                             .driver = "CUDA 13.0"}},
          .schedule = "q64k64w4s2",
          .usual = kernel.how(),
          .params = kernel.params().digest(),
          .unit = "ns",
          .time = 1234.5678901234567,
          .usual_time = 1300,
          .samples = 99,
          .measured = "2026-11-30T12:00:00Z",
          .conditions = "batch 1"};
}

std::string text_of(const fs::path& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

void write_text(const fs::path& file, const std::string& text) {
  std::ofstream(file, std::ios::binary) << text;
}

// In a process of its own; its exit status, or minus the signal that ended it.
template <typename Work>
pid_t start(Work&& work) {
  const pid_t child = fork();
  if (child == 0) {
    int status = 99;
    try {
      status = work();
    } catch (...) {
    }
    _exit(status);
  }
  return child;
}
int end_of(pid_t child) {
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

}  // namespace

TEST_CASE("An entry is found as it was stored", "[database]") {
  const TemporaryFolder folder;
  const TuningDatabase database(folder.path() / "a" / "b");
  CHECK(!database.find(entry_of().key).entry);
  CHECK(database.find(entry_of().key).warning.empty());
  CHECK(database.list().empty());
  database.store(entry_of());
  const TuningDatabase::Found found =
      TuningDatabase(folder.path() / "a" / "b").find(entry_of().key);
  REQUIRE(found.entry);
  CHECK(*found.entry == entry_of());
  CHECK(found.warning.empty());
}

TEST_CASE("Every word of the key counts", "[database]") {
  const TemporaryFolder folder;
  const TuningDatabase database(folder.path());
  database.store(entry_of());
  const std::vector<std::function<void(TuningKey&)>> changes{
      [](TuningKey& key) { key.what += "x"; },
      [](TuningKey& key) { key.target = "sm_86"; },
      [](TuningKey& key) { key.shape += "1"; },
      [](TuningKey& key) { key.mode = "graph"; },
      [](TuningKey& key) { key.generator = "0.1.1 attention 1"; },
      [](TuningKey& key) { key.device.name = "Another"; },
      [](TuningKey& key) { ++key.device.multiprocessors; },
      [](TuningKey& key) { ++key.device.clock_khz; },
      [](TuningKey& key) { ++key.device.memory_clock_khz; },
      [](TuningKey& key) { ++key.device.memory_bus_bits; },
      [](TuningKey& key) { key.device.driver = "CUDA 13.1"; }};
  std::set<fs::path> files{database.file_of(entry_of().key)};
  for (const auto& change : changes) {
    TuningKey key = entry_of().key;
    change(key);
    CHECK(!database.find(key).entry);
    CHECK(database.find(key).warning.empty());
    CHECK(files.insert(database.file_of(key)).second);
  }
}

TEST_CASE("A damaged entry is none, warned of once, and kept aside", "[database]") {
  const TemporaryFolder folder;
  const TuningDatabase database(folder.path());
  const TuningKey key = entry_of().key;
  const fs::path file = database.file_of(key);
  const std::string good = runtime::to_text(entry_of());
  std::mt19937 random(1);
  const auto tried = [&](const std::string& text) {
    write_text(file, text);
    const TuningDatabase::Found found = database.find(key);
    INFO(text);
    CHECK(!found.entry);
    CHECK_THAT(found.warning, Catch::Contains(file.string()));
    CHECK(!fs::exists(file));
    CHECK(text_of(folder.path() / "aside" / file.filename()) == text);
    fs::remove(folder.path() / "aside" / file.filename());
    CHECK(database.find(key).warning.empty());
  };
  for (std::size_t cut = 0; cut < good.size(); cut += 7) tried(good.substr(0, cut));
  for (int flip = 0; flip < 200; ++flip) {
    std::string text = good;
    text[random() % text.size()] ^= static_cast<char>(1 << random() % 8);
    tried(text);
  }
  tried(good + good);
  tried(good + "x");
  std::string newer = good;
  newer.replace(newer.find("\t1\n"), 3, "\t2\n");
  tried(newer);
  TuningEntry foreign = entry_of();
  foreign.key.device.name = "another GPU";
  tried(runtime::to_text(foreign));
  // What was set aside before stays.
  for (const char* text : {"one", "two"}) {
    write_text(file, text);
    CHECK(!database.find(key).entry);
  }
  CHECK(text_of(folder.path() / "aside" / file.filename()) == "one");
  CHECK(text_of(folder.path() / "aside" / (file.filename().string() + ".2")) == "two");
  write_text(file, good);
  CHECK(database.find(key).entry == entry_of());
}

TEST_CASE("What cannot be read is a warning and stays where it is", "[database]") {
  const TemporaryFolder folder;
  const TuningDatabase database(folder.path());
  fs::create_directory(database.file_of(entry_of().key));
  const TuningDatabase::Found found = database.find(entry_of().key);
  CHECK(!found.entry);
  CHECK_THAT(found.warning, Catch::Contains("cannot be read"));
  CHECK(fs::exists(database.file_of(entry_of().key)));
  CHECK_THROWS_AS(database.store(entry_of()), runtime::CacheError);
}

TEST_CASE("An entry of another time is stale", "[database]") {
  const Kernel kernel = usual_kernel();
  CHECK(runtime::why_stale(entry_of(), kernel).empty());
  TuningEntry entry = entry_of();
  entry.params ^= 1;
  CHECK_THAT(runtime::why_stale(entry, kernel), Catch::Contains("layout digest"));
  entry = entry_of();
  entry.schedule = "q64k64w4s99";
  CHECK_THAT(runtime::why_stale(entry, kernel), Catch::Contains("stages 99 is refused"));
  entry.schedule = "";
  CHECK(!runtime::why_stale(entry, kernel).empty());
}

TEST_CASE("A list names what is no entry, and clear() takes entries alone", "[database]") {
  const TemporaryFolder folder;
  const TuningDatabase database(folder.path());
  for (int i = 0; i < 5; ++i) database.store(entry_of(i));
  write_text(folder.path() / "notes.txt", "mine");
  write_text(folder.path() / "sm_89-0000000000000000.tuned", "broken");
  fs::copy(database.file_of(entry_of().key), folder.path() / "sm_89-1111111111111111.tuned");
  int good = 0, bad = 0;
  for (const TuningDatabase::Listed& listed : database.list()) {
    listed.entry ? ++good : ++bad;
    CHECK(listed.entry.has_value() == listed.why_not.empty());
  }
  CHECK(good == 5);
  CHECK(bad == 2);
  CHECK(database.clear() == 7);
  CHECK(fs::exists(folder.path() / "notes.txt"));
  CHECK(database.list().empty());
}

TEST_CASE("What one machine exports hits on an equal one, and the newer entry wins", "[database]") {
  const TemporaryFolder folder;
  const TuningDatabase a(folder.path() / "a"), b(folder.path() / "b");
  for (int i = 0; i < 4; ++i) a.store(entry_of(i));
  std::vector<TuningEntry> all;
  for (const auto& listed : a.list()) all.push_back(*listed.entry);
  const std::string text = runtime::to_text(all);
  const std::vector<TuningEntry> read = runtime::parse_tuning_entries(text, "file");
  CHECK(read == all);

  TuningEntry older = entry_of(0), newer = entry_of(1);
  older.measured = "2025-01-01T00:00:00Z";
  newer.measured = "2027-01-01T00:00:00Z";
  b.store(older);
  b.store(newer);
  CHECK(runtime::merge(b, read) == 3);
  CHECK(b.find(entry_of(0).key).entry == entry_of(0));
  CHECK(b.find(newer.key).entry == newer);
  CHECK(b.find(entry_of(3).key).entry == entry_of(3));
  CHECK(runtime::merge(b, read) == 0);

  CHECK(
      runtime::parse_tuning_entries(runtime::to_text(std::vector<TuningEntry>{}), "file").empty());
  CHECK_THROWS_AS(runtime::parse_tuning_entries("", "file"), runtime::ArtifactError);
  for (std::size_t cut = 21; cut + 1 < text.size(); cut += 11) {
    const std::string part = text.substr(0, cut);
    if (part.ends_with('\n') && part.rfind("\nsum\t") != std::string::npos &&
        part.find('\n', part.rfind("\nsum\t") + 1) == part.size() - 1)
      continue;  // whole entries
    CHECK_THROWS_AS(runtime::parse_tuning_entries(part, "file"), runtime::ArtifactError);
  }
}

TEST_CASE("A full disk and a read-only folder leave what was there", "[database]") {
  const TemporaryFolder folder;
  const TuningDatabase database(folder.path());
  database.store(entry_of());
  TuningEntry other = entry_of();
  other.time = 1;
  // The system takes only so many bytes of a file, as a disk that is full does.
  const int limited = end_of(start([&] {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{.rlim_cur = 100, .rlim_max = 100};
    setrlimit(RLIMIT_FSIZE, &limit);
    try {
      database.store(other);
    } catch (const runtime::CacheError& error) {
      return std::string(error.what()).find("cannot be written") != std::string::npos ? 7 : 8;
    }
    return 9;
  }));
  CHECK(limited == 7);
  CHECK(database.find(entry_of().key).entry == entry_of());
  // Nothing is left beside it.
  CHECK(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()) == 1);

  // No descriptors, as in a process that has leaked them.
  const int none = end_of(start([&] {
    const rlimit limit{.rlim_cur = 0, .rlim_max = 0};
    setrlimit(RLIMIT_NOFILE, &limit);
    const TuningDatabase::Found found = database.find(entry_of().key);
    if (found.entry || found.warning.empty()) return 8;
    try {
      database.store(other);
    } catch (const runtime::CacheError&) {
      return 7;
    }
    return 9;
  }));
  CHECK(none == 7);
  CHECK(database.find(entry_of().key).entry == entry_of());

  test::bound_by_permissions([&] {
    fs::permissions(folder.path(), fs::perms::owner_read | fs::perms::owner_exec);
    CHECK_THROWS_WITH(database.store(other), Catch::Contains("Permission denied"));
    CHECK_THROWS_WITH(database.clear(), Catch::Contains("Permission denied"));
    CHECK(database.find(entry_of().key).entry == entry_of());
    fs::permissions(folder.path(), fs::perms::none);
    CHECK_THAT(database.find(entry_of().key).warning,
               Catch::Contains("Permission denied; the default is used"));
    fs::permissions(folder.path(), fs::perms::owner_all);
    CHECK(database.find(entry_of().key).entry == entry_of());
  });
  const TuningDatabase below_a_file(database.file_of(entry_of().key) / "folder");
  CHECK(!below_a_file.find(entry_of().key).entry);
  CHECK_THROWS_AS(below_a_file.store(entry_of()), runtime::CacheError);
}

TEST_CASE("1000 kills during writes lose nothing that was acknowledged", "[database]") {
  const TemporaryFolder folder;
  const TuningDatabase database(folder.path());
  std::mt19937 random(1);
  constexpr int kKeys = 5;
  std::vector<std::uint64_t> acknowledged(kKeys);  // the last number per key; numbers grow
  std::uint64_t number = 0, writes = 0;
  for (int kills = 0; kills < 1000; ++kills) {
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    const pid_t child = start([&] {
      for (std::uint64_t mine = number;;) {
        TuningEntry entry = entry_of(static_cast<int>(++mine % kKeys));
        entry.samples = mine;
        database.store(entry);
        if (write(ends[1], &mine, sizeof mine) != sizeof mine) return 3;
      }
    });
    close(ends[1]);
    std::uint64_t stored = 0;
    const auto take = [&] {
      if (read(ends[0], &stored, sizeof stored) != sizeof stored) return false;
      acknowledged[stored % kKeys] = number = stored;
      ++writes;
      return true;
    };
    // After some writes, in the middle of the next.
    for (std::size_t left = random() % 3; left > 0 && take();) --left;
    usleep(static_cast<useconds_t>(random() % 1500));
    kill(child, SIGKILL);
    CHECK(end_of(child) == -SIGKILL);
    while (take()) {
    }
    close(ends[0]);
    for (int key = 0; key < kKeys; ++key) {
      const TuningDatabase::Found found = database.find(entry_of(key).key);
      REQUIRE(found.warning.empty());
      REQUIRE(found.entry.has_value() >= (acknowledged[static_cast<std::size_t>(key)] != 0));
      if (found.entry) REQUIRE(found.entry->samples >= acknowledged[static_cast<std::size_t>(key)]);
    }
    number += kKeys;
  }
  CHECK(writes > 1000);
  for (const auto& listed : database.list()) CHECK(listed.entry);
}

TEST_CASE("8 processes that write and read the same entries see whole ones", "[database]") {
  const TemporaryFolder folder;
  const TuningDatabase database(folder.path());
  for (int key = 0; key < 3; ++key) database.store(entry_of(key));
  std::vector<pid_t> children;
  for (int process = 0; process < 8; ++process) {
    children.push_back(start([&, process] {
      for (int i = 0; i < 150; ++i) {
        TuningEntry entry = entry_of(i % 3);
        entry.conditions = std::string(static_cast<std::size_t>(100 * process), 'x');
        database.store(entry);
        const TuningDatabase::Found found = database.find(entry_of((i + 1) % 3).key);
        if (!found.entry || !found.warning.empty()) return 1;
      }
      return 0;
    }));
  }
  for (const pid_t child : children) CHECK(end_of(child) == 0);
  CHECK(database.list().size() == 3);
}

TEST_CASE("One process holds the lock, and its end gives it back", "[database]") {
  const TemporaryFolder folder;
  const fs::path file = folder.path() / "locks" / "gpu";
  int ends[2], back[2];
  REQUIRE(pipe(ends) == 0);
  REQUIRE(pipe(back) == 0);
  const pid_t child = start([&] {
    const runtime::FileLock lock(file);
    char byte = lock.held() ? 'y' : 'n';
    if (write(ends[1], &byte, 1) != 1) return 3;
    (void)!read(back[0], &byte, 1);
    return 0;
  });
  char byte = 0;
  REQUIRE(read(ends[0], &byte, 1) == 1);
  CHECK(byte == 'y');
  CHECK(!runtime::FileLock(file).held());
  kill(child, SIGKILL);
  end_of(child);
  CHECK(runtime::FileLock(file).held());
}

TEST_CASE("A fingerprint says what a device is", "[database]") {
  const runtime::Device device(runtime::make_emulator(), 2);
  const runtime::DeviceFingerprint found = runtime::fingerprint_of(device);
  CHECK(found.name == device.name());
  CHECK(found.multiprocessors > 0);
  CHECK(found.driver == "emulator");
  CHECK(found == runtime::fingerprint_of(device));
  CHECK(found != runtime::fingerprint_of(runtime::Device(runtime::make_emulator(), 0)));
}
