// An attention plan on the fake driver: kernels whose PTX declares the right parameter blocks and does
// nothing, and arguments that break no rule.
#pragma once

#include <memory>

#include "sagegen/runtime/tuning.h"
#include "templates/attention/plan.h"
#include "tests/driver/fake_driver.h"

namespace sagegen::test {

using namespace sagegen::runtime;

// PTX of the kernel that loads and does nothing.
std::string fake_ptx_of(const sagegen::Kernel& kernel);
ArtifactSource fake_source();

// Addresses that are far from each other; nothing lies there.
inline constexpr DevicePtr kQ = 0x1'0000'0000'0000;
inline constexpr DevicePtr kK = 0x2'0000'0000'0000;
inline constexpr DevicePtr kV = 0x3'0000'0000'0000;
inline constexpr DevicePtr kO = 0x4'0000'0000'0000;
inline constexpr DevicePtr kLse = 0x5'0000'0000'0000;
inline constexpr DevicePtr kWorkspace = 0x6'0000'0000'0000;
inline constexpr DevicePtr kBias = 0x7'0000'0000'0000;
inline constexpr DevicePtr kMask = 0x8'0000'0000'0000;
inline constexpr DevicePtr kSinks = 0x9'0000'0000'0000;
inline constexpr DevicePtr kBits = 0xa'0000'0000'0000;
inline constexpr DevicePtr kThresholds = 0xd'0000'0000'0000;
inline constexpr DevicePtr kCounts = 0xc'0000'0000'0000;
inline constexpr DevicePtr kSlopes = 0xb'0000'0000'0000;

// HND tensors at these addresses.
attention::Arguments plain_arguments(const attention::Shape& shape, int head_dim);

// The kernel of a spec whose pv and accumulation are those that are usual on the target.
sagegen::Kernel usual_kernel(attention::Spec spec = {}, Target target = {.sm = 89});

// What a sweep keeps of the class of a shape: `schedule` takes 90 where the default takes 100.
TuningEntry tuning_entry(const Device& device, const sagegen::Kernel& kernel,
                         const attention::Shape& shape, const std::string& schedule);

struct FakePlan {
  explicit FakePlan(const sagegen::Kernel& kernel = usual_kernel(),
                    const attention::PlanOptions& options = {});
  std::size_t workspace_bytes(const attention::Shape& shape) const {
    return plan.workspace_bytes(shape);
  }
  void run(const attention::Shape& shape, const attention::Arguments& arguments) {
    driver->clear_launches();
    plan.run(shape, arguments, kWorkspace, plan.workspace_bytes(shape), nullptr);
  }

  std::shared_ptr<FakeDriver> driver = std::make_shared<FakeDriver>();
  Device device{driver, 0};
  attention::PlanOptions options;
  attention::Spec spec;
  attention::Schedule schedule;
  attention::Plan plan;
};

}  // namespace sagegen::test
