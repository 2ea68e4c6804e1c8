// The code cache, on a driver that "compiles": a kernel is compiled once, what is on the disk is never believed
// without a look, and nothing about a disk is an error.
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "runtime/driver/module_code.h"
#include "sagegen/runtime/artifacts.h"
#include "sagegen/runtime/bundle.h"
#include "sagegen/runtime/code_cache.h"
#include "sagegen/runtime/emulator.h"
#include "tests/bound_by_permissions.h"
#include "tests/driver/fake_plan.h"
#include "tests/tune/temporary_folder.h"

using namespace sagegen;
using namespace sagegen::test;
using Catch::Matchers::Contains;
using tests::TemporaryFolder;
namespace fs = std::filesystem;

namespace {

using Warnings = std::vector<std::string>;

// A process of its own, as far as the runtime can tell.
struct Machine {
  explicit Machine(const fs::path& folder, std::uint64_t most_bytes = std::uint64_t{1} << 30)
      : cache(std::make_shared<CodeCache>(CodeCacheOptions{
            .folder = folder, .most_bytes = most_bytes, .warn = [this](const std::string& text) {
              warnings.push_back(text);
            }})) {
    driver->set_compiles(true);
  }
  runtime::Kernel load(const std::string& entry = "some_kernel") {
    if (!device) device.emplace(driver, 0, cache);
    return {*device, fake_ptx(entry, 8), entry, 128, 0, 8};
  }
  auto calls(const std::string& name) const {
    return std::ranges::count(driver->calls(), name);
  }
  CodeKey key(const std::string& ptx) const { return {.ptx = ptx, .capability = 89, .cuda = 13000, .build = {}}; }

  Warnings warnings;
  std::shared_ptr<FakeDriver> driver = std::make_shared<FakeDriver>();
  std::shared_ptr<CodeCache> cache;
  std::optional<Device> device;
};

std::string bytes_of(const fs::path& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}
void write_bytes(const fs::path& file, const std::string& bytes) {
  std::ofstream(file, std::ios::binary) << bytes;
}

std::size_t files_in(const fs::path& folder) {
  std::error_code none;
  const fs::directory_iterator files(folder, none);
  return none ? 0 : static_cast<std::size_t>(std::distance(files, fs::directory_iterator()));
}
std::uint64_t bytes_in(const CodeCache& cache) {
  std::uint64_t bytes = 0;
  for (const CodeCache::Listed& listed : cache.list()) bytes += listed.bytes;
  return bytes;
}

// Sets a variable while it lives.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    if (value == nullptr)
      unsetenv(name);
    else
      setenv(name, value, 1);
  }
  ~Variable() {
    if (before_)
      setenv(name_, before_->c_str(), 1);
    else
      unsetenv(name_);
  }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
  std::optional<std::string> before_;
};

}  // namespace

TEST_CASE("a kernel is compiled by the first process, and loaded as machine code by the next") {
  const TemporaryFolder folder;
  Machine first(folder.path() / "code"), next(folder.path() / "code");
  first.load();
  CHECK(first.calls("cuLinkComplete") == 1);
  CHECK(first.calls("cuModuleLoadDataEx") == 1);
  REQUIRE(first.cache->list().size() == 1);
  const CodeCache::Listed listed = first.cache->list().front();
  CHECK(listed.why_not.empty());
  CHECK(listed.entry == "some_kernel");
  CHECK(listed.capability == 89);
  CHECK(listed.cuda == 13000);
  CHECK(listed.bytes == fs::file_size(listed.file));
  // In its own process, too, where nobody shares it.
  first.load();
  CHECK(first.calls("cuLinkComplete") == 1);

  const runtime::Kernel kernel = next.load();
  CHECK(next.calls("cuLinkCreate") == 0);
  CHECK(next.calls("cuModuleLoadDataEx") == 1);
  kernel.launch(Dim3{1, 1, 1}, std::uint64_t{5}, nullptr);
  CHECK(next.driver->launches().size() == 1);
  CHECK(first.warnings.empty());
  CHECK(next.warnings.empty());
}

TEST_CASE("all that decides what the driver makes of a text parts entries") {
  const TemporaryFolder folder;
  const auto compiles = [&](const auto& change) {
    Machine machine(folder.path());
    change(*machine.driver);
    machine.load();
    return machine.calls("cuLinkComplete");
  };
  const auto usual = [](FakeDriver&) {};
  const auto capability = [](FakeDriver& driver) { driver.set_compute_capability(86); };
  const auto version = [](FakeDriver& driver) { driver.set_cuda_version(13010, 90); };
  const auto build = [](FakeDriver& driver) { driver.set_build("libcuda.so.580.1\t\n"); };
  for (const int once : {1, 0}) {
    CHECK(compiles(usual) == once);
    CHECK(compiles(capability) == once);
    CHECK(compiles(version) == once);
    CHECK(compiles(build) == once);
  }
  Machine other(folder.path());
  other.load("another_kernel");
  CHECK(other.calls("cuLinkComplete") == 1);
  CHECK(other.cache->list().size() == 5);
}

TEST_CASE("a damaged entry is none: one warning, kept aside, compiled and stored again") {
  const TemporaryFolder folder;
  Machine(folder.path()).load();
  const fs::path file = Machine(folder.path()).cache->list().front().file;
  const std::string good = bytes_of(file);
  const auto check = [&](const std::string& bytes) {
    write_bytes(file, bytes);
    Machine machine(folder.path());
    machine.load();
    machine.load();
    CHECK(machine.calls("cuLinkComplete") == 1);
    REQUIRE(machine.warnings.size() == 1);
    CHECK_THAT(machine.warnings.front(),
               Contains(file.string()) && Contains("the driver compiles again") && Contains("aside"));
    CHECK(bytes_of(file) == good);
  };
  for (std::size_t bytes = 0; bytes < good.size(); bytes += bytes < 120 ? 7 : 41) {
    INFO("cut to " << bytes << " bytes");
    check(good.substr(0, bytes));
  }
  for (std::size_t at = 0; at < good.size(); at += 11) {
    INFO("byte " << at << " changed");
    std::string bytes = good;
    bytes[at] = static_cast<char>(bytes[at] ^ 0x10);
    check(bytes);
  }
  check(good + "more");
  Machine machine(folder.path());
  machine.load("another_kernel");
  check(bytes_of(machine.cache->file_of(machine.key(fake_ptx("another_kernel", 8)))));
  CHECK(files_in(folder.path() / "aside") > 30);
}

TEST_CASE("machine code that the driver refuses is compiled again") {
  const TemporaryFolder folder;
  Machine machine(folder.path());
  const std::string ptx = fake_ptx("some_kernel", 8);
  machine.cache->store(machine.key(ptx), fake_machine_code(ptx, 75));
  machine.load();
  CHECK(machine.calls("cuLinkComplete") == 1);
  REQUIRE(machine.warnings.size() == 1);
  CHECK_THAT(machine.warnings.front(), Contains("the driver refuses it: FAKE_RESULT_209"));
  CHECK(machine.cache->find(machine.key(ptx)) == fake_machine_code(ptx, 89));
}

TEST_CASE("a lack of memory says nothing about an entry") {
  const TemporaryFolder folder;
  Machine(folder.path()).load();
  Machine machine(folder.path());
  machine.device.emplace(machine.driver, 0, machine.cache);
  // Of the calls that follow: current context, version, module.
  for (int call = 1; call < 8; ++call) {
    machine.driver->fail_call(machine.driver->call_count() + call, Result::out_of_memory);
    try {
      machine.load();
    } catch (const DriverError&) {
    }
  }
  CHECK(machine.warnings.empty());
  CHECK(machine.cache->list().size() == 1);
  CHECK(files_in(folder.path() / "aside") == 0);
}

TEST_CASE("where the linker fails the driver compiles as it loads") {
  const TemporaryFolder folder;
  Machine reference(folder.path() / "reference");
  reference.load();
  const auto& calls = reference.driver->calls();
  for (const char* name : {"cuLinkCreate", "cuLinkAddData", "cuLinkComplete"}) {
    INFO(name);
    Machine machine(folder.path() / "code");
    machine.driver->fail_call(
        static_cast<int>(std::ranges::find(calls, name) - calls.begin()) + 1, Result{1234});
    machine.load();
    CHECK(machine.calls("cuModuleLoadDataEx") == 1);
    CHECK(machine.driver->live() == std::vector<std::string>{"primary context"});
    CHECK(machine.driver->misuse().empty());
    CHECK(machine.cache->list().empty());
  }
}

TEST_CASE("an error of PTX is the same with a code cache as without") {
  const TemporaryFolder folder;
  const auto error_of = [&](bool compiles) {
    Machine machine(folder.path());
    machine.driver->set_compiles(compiles);
    machine.driver->reject_ptx("ptxas fatal: unexpected instruction at line 7");
    try {
      machine.load();
    } catch (const DriverError& error) {
      return std::string(error.what());
    }
    return std::string("nothing");
  };
  CHECK_THAT(error_of(true), Contains("cuModuleLoadDataEx") && Contains("at line 7"));
  CHECK(error_of(true) == error_of(false));
}

TEST_CASE("drivers without a linker, and the emulator, leave no files") {
  const TemporaryFolder folder;
  Machine machine(folder.path() / "code");
  machine.driver->set_compiles(false);
  machine.load();
  CHECK(machine.calls("cuModuleLoadDataEx") == 1);
  CHECK(machine.calls("cuLinkCreate") == 0);

  const Device emulated(make_emulator(), static_cast<int>(EmulatorProfile::sm_89), machine.cache);
  const std::string ptx =
      ".version 8.4\n.target sm_89\n.address_size 64\n.visible .entry k()\n{\n\tret;\n}\n";
  const runtime::Kernel kernel(emulated, ptx, "k", {.block = {32, 1, 1}});
  kernel.launch(Dim3{1, 1, 1}, nullptr);
  // Nor does machine code disturb it.
  const MachineCode assembled{.target = {.sm = 89}, .cuda = 13000, .bytes = "\x7f" "ELF"};
  const std::string block =
      ".version 8.4\n.target sm_89\n.address_size 64\n.visible .entry k(.param .u64 p)\n{\n\tret;\n}\n";
  CHECK(runtime::Kernel(emulated, block, "k", 32, 0, 8, &assembled).note().empty());
  CHECK_FALSE(fs::exists(folder.path() / "code"));
}

TEST_CASE("where nothing can be written kernels are compiled, and one message says so") {
  const TemporaryFolder folder;
  const auto check = [](Machine& machine) {
    machine.load("one");
    machine.load("two");
    machine.load("one");
    return machine.calls("cuLinkComplete") == 3 && machine.warnings.size() == 1 &&
           machine.warnings.front().find("compiled without a code cache") != std::string::npos;
  };
  SECTION("a folder that cannot be one") {
    write_bytes(folder.path() / "file", "");
    Machine machine(folder.path() / "file" / "code");
    CHECK(check(machine));
  }
  SECTION("a full disk") {
    // The system takes only so many bytes of a file, as a disk that is full does.
    const pid_t child = fork();
    if (child == 0) {
      signal(SIGXFSZ, SIG_IGN);
      const rlimit limit{.rlim_cur = 100, .rlim_max = 100};
      setrlimit(RLIMIT_FSIZE, &limit);
      Machine machine(folder.path() / "code");
      _exit(check(machine) ? 7 : 8);
    }
    int status = 0;
    waitpid(child, &status, 0);
    REQUIRE(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 7);
    CHECK(files_in(folder.path() / "code") == 0);
  }
  SECTION("a folder of somebody else, which is read all the same") {
    Machine(folder.path()).load("there");
    fs::permissions(folder.path(), fs::perms::owner_read | fs::perms::owner_exec);
    bound_by_permissions([&] {
      Machine machine(folder.path());
      machine.load("there");
      CHECK(machine.calls("cuLinkComplete") == 0);
      CHECK(check(machine));
      CHECK_THROWS_WITH(machine.cache->clear(), Catch::Contains("Permission denied"));
    });
    CHECK(files_in(folder.path()) == 1);
    fs::permissions(folder.path(), fs::perms::owner_all);
  }
}

TEST_CASE("beyond the limit what was used longest ago goes, and what was set aside before it") {
  const TemporaryFolder folder;
  Machine machine(folder.path());
  std::vector<fs::path> files;
  const auto load = [&](int number) {
    const std::string entry = "kernel_" + std::to_string(number);
    machine.load(entry);
    files.push_back(machine.cache->file_of(machine.key(fake_ptx(entry, 8))));
    REQUIRE(fs::exists(files.back()));
  };
  for (int i = 0; i < 4; ++i) load(i);
  const std::uint64_t each = fs::file_size(files.front());
  const auto used = [&](int i, int hours_ago) {
    fs::last_write_time(files[static_cast<std::size_t>(i)],
                        fs::file_time_type::clock::now() - std::chrono::hours(hours_ago));
  };
  for (int i = 0; i < 4; ++i) used(i, 10 - i);
  // Used now: it is the youngest.
  Machine(folder.path()).load("kernel_0");
  write_bytes(folder.path() / "aside.code", std::string(each, 'x'));
  fs::create_directories(folder.path() / "aside");
  fs::rename(folder.path() / "aside.code", folder.path() / "aside" / "a.code");

  Machine small(folder.path(), 4 * each);
  small.load("kernel_4");  // 5 entries and one aside
  CHECK(files_in(folder.path() / "aside") == 0);
  CHECK(fs::exists(files[0]));
  CHECK_FALSE(fs::exists(files[1]));
  CHECK(fs::exists(files[2]));
  CHECK(fs::exists(files[3]));
  CHECK(bytes_in(*small.cache) == 4 * each);
  small.load("kernel_5");
  CHECK_FALSE(fs::exists(files[2]));
  CHECK(fs::exists(files[3]));

  Machine none(folder.path() / "none", each - 1);
  none.load("kernel_0");
  CHECK(none.cache->list().empty());
  CHECK(none.warnings.empty());
}

TEST_CASE("8 processes share a folder that is too small for what they load") {
  const TemporaryFolder folder;
  constexpr int kProcesses = 8, kKernels = 24, kRounds = 3;
  Machine measure(folder.path() / "measure");
  measure.load("kernel_10");
  const std::uint64_t each = bytes_in(*measure.cache), most = 10 * each;
  std::vector<pid_t> children;
  for (int p = 0; p < kProcesses; ++p) {
    const pid_t child = fork();
    if (child == 0) {
      int status = 7;
      try {
        for (int round = 0; round < kRounds; ++round) {
          Machine machine(folder.path() / "code", most);
          for (int i = 0; i < kKernels; ++i)
            machine.load("kernel_" + std::to_string(10 + (i * (p + 1) + round) % kKernels));
          if (!machine.warnings.empty()) status = 8;
        }
      } catch (...) {
        status = 9;
      }
      _exit(status);
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = 0;
    waitpid(child, &status, 0);
    REQUIRE(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 7);
  }
  Machine last(folder.path() / "code", most);
  for (const CodeCache::Listed& listed : last.cache->list()) CHECK(listed.why_not.empty());
  CHECK(bytes_in(*last.cache) <= most);
  last.load("kernel_99");
  CHECK(bytes_in(*last.cache) <= most);
  for (const auto& file : fs::directory_iterator(folder.path() / "code"))
    CHECK((file.path().extension() == ".code" || file.path().filename() == ".lock"));
}

TEST_CASE("what is abandoned goes with clear(), and what was set aside") {
  const TemporaryFolder folder;
  Machine machine(folder.path());
  machine.load("one");
  machine.load("two");
  write_bytes(folder.path() / ".sm89-0.code.AbCdEf", "half");
  fs::last_write_time(folder.path() / ".sm89-0.code.AbCdEf",
                      fs::file_time_type::clock::now() - std::chrono::hours(2));
  write_bytes(folder.path() / ".sm89-1.code.AbCdEf", "is being written");
  write_bytes(folder.path() / "notes.txt", "mine");
  write_bytes(machine.cache->file_of(machine.key(fake_ptx("one", 8))), "damaged");
  Machine(folder.path()).load("one");
  CHECK(files_in(folder.path() / "aside") == 1);
  CHECK(machine.cache->clear() == 2);
  CHECK(files_in(folder.path() / "aside") == 0);
  CHECK(fs::exists(folder.path() / "notes.txt"));
  CHECK(fs::exists(folder.path() / ".sm89-1.code.AbCdEf"));
  CHECK_FALSE(fs::exists(folder.path() / ".sm89-0.code.AbCdEf"));
  CHECK(CodeCache({.folder = folder.path() / "none"}).clear() == 0);
}

TEST_CASE("the environment says whether and where") {
  Warnings told;
  const auto warn = [&](const std::string& text) { told.push_back(text); };
  const Variable directory("SAGEGEN_CACHE_DIR", "/somewhere"), xdg("XDG_CACHE_HOME", nullptr),
      force("CUDA_FORCE_PTX_JIT", nullptr), bytes("SAGEGEN_CODE_CACHE_BYTES", nullptr);
  SECTION("usual") {
    const Variable unset("SAGEGEN_CODE_CACHE", nullptr);
    CHECK(code_cache_of_environment(warn)->folder() == "/somewhere/code");
    CHECK(told.empty());
    const Variable jit("CUDA_FORCE_PTX_JIT", "1");
    CHECK(code_cache_of_environment(warn) == nullptr);
  }
  SECTION("off") {
    const Variable off("SAGEGEN_CODE_CACHE", "off");
    CHECK(code_cache_of_environment(warn) == nullptr);
    CHECK(code_cache_folder().empty());
    CHECK(told.empty());
  }
  SECTION("a folder") {
    const Variable own("SAGEGEN_CODE_CACHE", "/fast/disk");
    CHECK(code_cache_of_environment(warn)->folder() == "/fast/disk");
  }
  SECTION("neither") {
    const Variable on("SAGEGEN_CODE_CACHE", "on");
    CHECK(code_cache_of_environment(warn)->folder() == "/somewhere/code");
    REQUIRE(told.size() == 1);
    CHECK_THAT(told.front(), Contains("neither off nor a folder"));
  }
  SECTION("a limit that is no number") {
    const Variable many("SAGEGEN_CODE_CACHE_BYTES", "1G");
    CHECK(code_cache_of_environment(warn) != nullptr);
    REQUIRE(told.size() == 1);
    CHECK_THAT(told.front(), Contains("SAGEGEN_CODE_CACHE_BYTES=\"1G\" is no number of bytes") &&
                                 Contains("whole") && Contains("536870912"));
  }
  SECTION("no folder at all") {
    const Variable unset("SAGEGEN_CODE_CACHE", nullptr), none("SAGEGEN_CACHE_DIR", nullptr),
        home("HOME", nullptr);
    CHECK(code_cache_of_environment(warn) == nullptr);
    REQUIRE(told.size() == 1);
    CHECK_THAT(told.front(), Contains("no folder for the code cache"));
  }
}

TEST_CASE("a device has the cache of the environment, unless it is given one") {
  const TemporaryFolder folder;
  const Variable own("SAGEGEN_CODE_CACHE", folder.path().c_str()),
      force("CUDA_FORCE_PTX_JIT", nullptr);
  const auto driver = std::make_shared<FakeDriver>();
  CHECK(Device(driver, 0).code_cache() == nullptr);  // it does not compile
  driver->set_compiles(true);
  const Device device(driver, 0);
  REQUIRE(device.code_cache() != nullptr);
  CHECK(device.code_cache()->folder() == folder.path());
  CHECK(Device(driver, 0, nullptr).code_cache() == nullptr);
}

TEST_CASE("machine code runs on later devices of its major version, with its driver or a later one") {
  const auto runs = [](Target target, int capability, int cuda = 13000) {
    return why_it_does_not_run({.target = target, .cuda = 13000, .bytes = {}}, capability, cuda)
        .empty();
  };
  CHECK(runs({.sm = 80}, 80));
  CHECK(runs({.sm = 80}, 86));
  CHECK(runs({.sm = 80}, 89));
  CHECK_FALSE(runs({.sm = 86}, 80));
  CHECK_FALSE(runs({.sm = 89}, 90));
  CHECK_FALSE(runs({.sm = 120}, 90));
  CHECK(runs({.sm = 90, .suffix = 'a'}, 90));
  CHECK_FALSE(runs({.sm = 100, .suffix = 'a'}, 103));
  CHECK(runs({.sm = 120, .suffix = 'f'}, 121));
  CHECK(runs({.sm = 89}, 89, 13020));
  CHECK(runs({.sm = 89}, 89, 14000));
  CHECK_FALSE(runs({.sm = 89}, 89, 12090));
  CHECK(why_it_does_not_run({.target = {.sm = 89}, .cuda = 13000, .bytes = {}}, 89, 12090) ==
        "the driver is of CUDA 12.9");
}

TEST_CASE("machine code beside PTX is loaded where it runs, else the PTX with a note") {
  const TemporaryFolder folder;
  Machine machine(folder.path());
  machine.device.emplace(machine.driver, 0, machine.cache);
  const std::string ptx = fake_ptx("k", 8);
  const auto load = [&](const MachineCode& code) {
    return runtime::Kernel(*machine.device, ptx, "k", 128, 0, 8, &code);
  };
  CHECK(load({.target = {.sm = 86}, .cuda = 13000, .bytes = fake_machine_code(ptx, 86)})
            .note()
            .empty());
  CHECK(machine.calls("cuModuleLoadDataEx") == 1);
  CHECK(machine.calls("cuLinkCreate") == 0);
  CHECK(machine.cache->list().empty());

  CHECK_THAT(load({.target = {.sm = 90}, .cuda = 13000, .bytes = fake_machine_code(ptx, 90)}).note(),
             Contains("for sm_90 and CUDA 13.0 is not loaded") &&
                 Contains("the device has compute capability 8.9"));
  CHECK(machine.calls("cuLinkComplete") == 1);
  // One that is not what it says.
  CHECK_THAT(load({.target = {.sm = 89}, .cuda = 13000, .bytes = fake_machine_code(ptx, 75)}).note(),
             Contains("the driver refuses it: FAKE_RESULT_209"));
}

TEST_CASE("a bundle has machine code beside PTX, for the device that it runs on") {
  const TemporaryFolder folder;
  const sagegen::Kernel kernel = usual_kernel();
  std::vector<std::string> owned;  // names and texts
  std::vector<NamedText> texts;
  const auto add = [&](const std::string& name, const std::string& text) {
    owned.insert(owned.end(), {name, text});
  };
  std::vector<sagegen::Kernel> all = kernel.inputs();
  all.push_back(kernel);
  for (const sagegen::Kernel& each : all) {
    const std::string ptx = fake_ptx_of(each);
    add(each.key(), ptx);
    add(machine_code_name(each.key(), 12080), fake_machine_code("old", 89));
    add(machine_code_name(each.key(), 13000), fake_machine_code(ptx, 89));
  }
  for (std::size_t i = 0; i < owned.size(); i += 2) texts.push_back({owned[i], owned[i + 1]});
  write_bytes(folder.path() / "b", write_bundle(texts));
  const ArtifactSource source = ptx_bundle(folder.path() / "b");
  REQUIRE(source(kernel)->assembled);
  CHECK(source(kernel)->assembled->target == Target{.sm = 89});
  CHECK(source(kernel)->assembled->cuda == 13000);

  Machine machine(folder.path() / "code");
  machine.device.emplace(machine.driver, 0, machine.cache);
  const attention::Plan plan(*machine.device, kernel, source);
  CHECK(plan.note().empty());
  CHECK(machine.calls("cuLinkCreate") == 0);
  CHECK(machine.calls("cuModuleLoadDataEx") == static_cast<long>(all.size()));

  // sm_89 serves a device of 9.0 as PTX alone.
  Machine later(folder.path() / "code");
  later.driver->set_compute_capability(90);
  later.device.emplace(later.driver, 0, later.cache);
  const attention::Plan on_later(*later.device, kernel, source);
  CHECK_THAT(on_later.note(), Contains("machine code for sm_89 and CUDA 13.0 is not loaded"));
  CHECK(later.calls("cuLinkComplete") == static_cast<long>(all.size()));
  // Messages list keys.
  CHECK_THROWS_WITH(source(usual_kernel({.head_dim = 64})), !Contains(".cubin"));
}
