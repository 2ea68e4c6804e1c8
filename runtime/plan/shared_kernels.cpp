#include "runtime/plan/shared_kernels.h"

#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

namespace sagegen::runtime {
namespace {

// One code on one device. Two codes may have one entry point: a directory of edited PTX.
struct Loaded {
  std::shared_ptr<const Artifact> artifact;
  std::mutex loading;
  std::weak_ptr<const Kernel> kernel;
};

// A loaded kernel keeps its device and so the driver alive: while an entry is in use, its address is that
// of no other driver.
using Place =
    std::tuple<const DriverApi*, DeviceOrdinal, std::string>;  // driver, device, entry point

class Registry {
 public:
  std::shared_ptr<Loaded> find(const Place& place,
                               const std::shared_ptr<const Artifact>& artifact) {
    const std::lock_guard lock(mutex_);
    std::vector<std::shared_ptr<Loaded>>& codes = entries_[place];
    // What nobody uses or loads is forgotten, whatever driver it was of.
    std::erase_if(codes, [](const std::shared_ptr<Loaded>& loaded) {
      return loaded.use_count() == 1 && loaded->kernel.expired();
    });
    for (const std::shared_ptr<Loaded>& loaded : codes) {
      if (loaded->artifact == artifact || loaded->artifact->code == artifact->code) return loaded;
    }
    codes.push_back(std::make_shared<Loaded>());
    codes.back()->artifact = artifact;
    return codes.back();
  }

 private:
  std::mutex mutex_;
  std::map<Place, std::vector<std::shared_ptr<Loaded>>> entries_;
};

Registry& registry() {
  static Registry* const registry = new Registry;  // plans of static life may outlive statics
  return *registry;
}

}  // namespace

std::shared_ptr<const Kernel> shared_kernel(const Device& device,
                                            const std::shared_ptr<const Artifact>& artifact,
                                            std::size_t param_bytes) {
  const std::shared_ptr<Loaded> loaded =
      registry().find({&device.api(), device.ordinal(), artifact->entry}, artifact);
  const std::lock_guard lock(loaded->loading);
  if (std::shared_ptr<const Kernel> kernel = loaded->kernel.lock()) return kernel;
  auto kernel = std::make_shared<const Kernel>(device, artifact->code, artifact->entry,
                                               artifact->resources.threads,
                                               artifact->resources.dynamic_smem, param_bytes,
                                               artifact->assembled ? &*artifact->assembled : nullptr);
  loaded->kernel = kernel;
  return kernel;
}

}  // namespace sagegen::runtime
