#include "runtime/driver/module_code.h"

#include <fmt/format.h>

#include <optional>
#include <utility>

#include "runtime/driver/ptx_version.h"
#include "sagegen/runtime/artifacts.h"
#include "sagegen/runtime/code_cache.h"

namespace sagegen::runtime {
namespace {

// The code is at fault, not what is left of the machine.
bool is_about_code(Result result) {
  return result == Result::invalid_image || result == Result::no_binary_for_gpu ||
         result == Result::invalid_ptx || result == Result::invalid_value;
}

class Loader {
 public:
  Loader(const Device& device, const std::string& ptx)
      : device_(device), driver_(device.api()), ptx_(ptx) {}

  LoadedModule load(const MachineCode* assembled) {
    if (assembled != nullptr && driver_.takes_machine_code() && load_assembled(*assembled))
      return std::move(loaded_);
    if (device_.code_cache() != nullptr && driver_.can_compile() && knows_driver() &&
        (load_cached(*device_.code_cache()) || compile(*device_.code_cache())))
      return std::move(loaded_);
    loaded_.log.clear();
    take(ptx_);
    return std::move(loaded_);
  }

 private:
  bool take(const std::string& code) {
    ModuleHandle module = nullptr;
    loaded_.result = driver_.module_load(&module, code.c_str(), &loaded_.log);
    if (loaded_.result == Result::success) loaded_.module = module;
    return loaded_.module != nullptr;
  }

  bool knows_driver() {
    return cuda_ != 0 || driver_.driver_version(&cuda_) == Result::success;
  }

  bool load_assembled(const MachineCode& code) {
    std::string why = knows_driver()
                          ? why_it_does_not_run(code, device_.compute_capability(), cuda_)
                          : std::string("the driver does not say its version");
    if (why.empty()) {
      if (take(code.bytes)) return true;
      why = fmt::format("the driver refuses it: {}", driver_.result_name(loaded_.result));
    }
    loaded_.note = fmt::format(
        "the machine code for {} and CUDA {} is not loaded, the PTX beside it is: {}",
        to_string(code.target), cuda_name(code.cuda), why);
    return false;
  }

  CodeKey key() const {
    return {.ptx = ptx_,
            .capability = device_.compute_capability(),
            .cuda = cuda_,
            .build = driver_.build()};
  }

  bool load_cached(CodeCache& cache) {
    const std::optional<std::string> code = cache.find(key());
    if (!code) return false;
    if (take(*code)) return true;
    if (is_about_code(loaded_.result))
      cache.refused(key(), fmt::format("{}: the driver refuses it: {}", cache.file_of(key()).string(),
                                       driver_.result_name(loaded_.result)));
    return false;
  }

  bool compile(CodeCache& cache) {
    std::string code, log;
    if (driver_.compile(&code, ptx_.c_str(), &log) != Result::success || !take(code)) return false;
    cache.store(key(), code);
    return true;
  }

  const Device& device_;
  DriverApi& driver_;
  const std::string& ptx_;
  int cuda_ = 0;
  LoadedModule loaded_;
};

}  // namespace

std::string why_it_does_not_run(const MachineCode& code, int compute_capability,
                                int cuda_version) {
  if (code.target.sm / 10 != compute_capability / 10 || !loads_on(code.target, compute_capability))
    return fmt::format("the device has compute capability {}.{}", compute_capability / 10,
                       compute_capability % 10);
  if (code.cuda / 1000 > cuda_version / 1000)
    return fmt::format("the driver is of CUDA {}", cuda_name(cuda_version));
  return {};
}

LoadedModule load_module(const Device& device, const std::string& ptx,
                         const MachineCode* assembled) {
  return Loader(device, ptx).load(assembled);
}

}  // namespace sagegen::runtime
