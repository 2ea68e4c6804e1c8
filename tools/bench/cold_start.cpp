// From nothing to loaded: what the kernels of an engine cost at its start, by where they come from. Without a GPU on a
// driver that does nothing, so that what remains is sagegen's own part: unpacking, looking up, reading, checking.
//   cold_start BUNDLE [idle | cuda:N] [KERNELS]
// BUNDLE: generated/kernels.bundle, or one of `sagegen bundle --cubins`, whose machine code is loaded, too. With a GPU
// set CUDA_CACHE_DISABLE=1, or the driver's own cache serves the first two rows.
#include <fmt/format.h>
#include <stdlib.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "sagegen/attention.h"
#include "sagegen/error.h"
#include "sagegen/runtime/bundle.h"
#include "sagegen/runtime/code_cache.h"
#include "tools/bench/idle_driver.h"
#ifdef SAGEGEN_HAS_GENERATOR
#include "sagegen/emit.h"
#endif

namespace {

using namespace sagegen;
using namespace sagegen::runtime;

// "Compiles" to as many bytes as machine code has here: half of the text.
class CompilingIdleDriver final : public bench::IdleDriver {
 public:
  bool takes_machine_code() const override { return true; }
  bool can_compile() const override { return true; }
  Result compile(std::string* code, const char* ptx, std::string*) override {
    const std::string text = ptx;
    return code->assign(text, 0, text.size() / 2 + 1), Result::success;
  }
};

using Clock = std::chrono::steady_clock;
double milliseconds_since(Clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

struct Times {
  double total = 0, median = 0, slowest = 0;  // milliseconds
};
Times measure(const std::vector<sagegen::Kernel>& kernels,
              const std::function<void(std::size_t)>& work) {
  std::vector<double> each;
  Times times;
  for (std::size_t i = 0; i < kernels.size(); ++i) {
    const Clock::time_point begin = Clock::now();
    work(i);
    each.push_back(milliseconds_since(begin));
    times.total += each.back();
  }
  std::ranges::sort(each);
  times.median = each[each.size() / 2];
  times.slowest = each.back();
  return times;
}

void print(const std::string& what, const Times& times) {
  fmt::print("{:<52} {:>9.1f} {:>9.3f} {:>9.3f}\n", what, times.total, times.median, times.slowest);
}

class Folder {
 public:
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "sagegen-cold-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder: " + name);
    path = name;
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  std::filesystem::path path;
};

std::shared_ptr<DriverApi> open_driver(const std::string& name) {
  if (name == "idle") return std::make_shared<CompilingIdleDriver>();
  std::string why;
  std::shared_ptr<DriverApi> cuda = load_cuda(&why);
  if (!cuda) throw std::runtime_error(why);
  return cuda;
}

int number(const std::string& text, std::size_t from) {
  int value = 0;
  const char* const end = text.data() + text.size();
  if (from > text.size() || std::from_chars(text.data() + from, end, value).ptr != end || value < 0)
    throw std::runtime_error(fmt::format("\"{}\" is refused: idle, cuda:N, or a number", text));
  return value;
}

void report(const std::string& file, const std::string& name, std::size_t most) {
  const int ordinal = name == "idle" ? 0 : number(name, 5);
  const auto driver = open_driver(name);
  const Device device(driver, ordinal, nullptr);
  std::vector<sagegen::Kernel> kernels;
  const Bundle bundle = Bundle::read(file);
  for (const std::string_view key : bundle.names()) {
    if (key.find('.') != key.npos || kernels.size() == most) continue;  // machine code
    const sagegen::Kernel kernel = parse_key(key);
    if (loads_on(kernel.target(), device.compute_capability())) kernels.push_back(kernel);
  }
  if (kernels.empty()) throw std::runtime_error(file + " has no kernel for this device");
  fmt::print("{} kernels on {}\n{:<52} {:>9} {:>9} {:>9}\n", kernels.size(),
             name == "idle" ? "a driver that does nothing" : device.name(), "milliseconds", "all",
             "median", "slowest");

  std::vector<std::shared_ptr<const Artifact>> artifacts(kernels.size());
#ifdef SAGEGEN_HAS_GENERATOR
  print("generate PTX", measure(kernels, [&](std::size_t i) { emit(kernels[i]); }));
#endif
  print("open the bundle, unpack PTX", [&] {
    ArtifactSource source;
    return measure(kernels, [&](std::size_t i) {
      if (!source) source = ptx_bundle(file);
      artifacts[i] = source(kernels[i]);
    });
  }());
  const auto load = [&](const Device& on, std::size_t i, bool assembled = false) {
    const Artifact& artifact = *artifacts[i];
    const runtime::Kernel kernel(
        on, artifact.code, artifact.entry, artifact.resources.threads,
        artifact.resources.dynamic_smem, kernels[i].params().bytes(),
        assembled && artifact.assembled ? &*artifact.assembled : nullptr);
    if (assembled && !kernel.note().empty()) throw std::runtime_error(kernel.note());
  };
  print("load PTX, without a code cache", measure(kernels, [&](std::size_t i) { load(device, i); }));
  if (std::ranges::all_of(artifacts, [](const auto& artifact) { return artifact->assembled.has_value(); }))
    print("load the bundle's machine code", measure(kernels, [&](std::size_t i) { load(device, i, true); }));
  if (!driver->can_compile()) return;
  const Folder folder;
  const auto cache = std::make_shared<CodeCache>(CodeCacheOptions{.folder = folder.path / "code"});
  const Device cached(driver, ordinal, cache);
  print("load PTX, with a cold code cache", measure(kernels, [&](std::size_t i) { load(cached, i); }));
  print("load machine code, from the warm code cache",
        measure(kernels, [&](std::size_t i) { load(cached, i); }));
  int cuda = 0;
  check(*driver, driver->driver_version(&cuda), "cuDriverGetVersion");
  std::size_t bytes = 0;
  print("  of which: name, read, check, compare", measure(kernels, [&](std::size_t i) {
          const auto found = cache->find({.ptx = artifacts[i]->code,
                                          .capability = device.compute_capability(),
                                          .cuda = cuda,
                                          .build = driver->build()});
          if (!found) throw std::runtime_error("an entry is missing");
          bytes += found->size();
        }));
  fmt::print("{} bytes of machine code{}\n", bytes,
             name == "idle" ? ", made up: half of the PTX" : "");
}

}  // namespace

int main(int count, char** words) {
  try {
    if (count < 2 || count > 4)
      throw std::runtime_error("usage: cold_start BUNDLE [idle | cuda:N] [KERNELS]");
    report(words[1], count > 2 ? words[2] : "idle",
           count > 3 ? static_cast<std::size_t>(number(words[3], 0)) : 100);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
