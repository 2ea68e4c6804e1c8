// An Attention on the fake driver: kernels whose PTX declares the right parameter blocks and does
// nothing, and arguments that break no rule.
#pragma once

#include <memory>

#include "sagegen/runtime/attention.h"
#include "tests/driver/fake_driver.h"

namespace sagegen::test {

PtxSource fake_source();

// Addresses that are far from each other; nothing lies there.
inline constexpr DevicePtr kQ = 0x1'0000'0000'0000;
inline constexpr DevicePtr kK = 0x2'0000'0000'0000;
inline constexpr DevicePtr kV = 0x3'0000'0000'0000;
inline constexpr DevicePtr kO = 0x4'0000'0000'0000;
inline constexpr DevicePtr kLse = 0x5'0000'0000'0000;
inline constexpr DevicePtr kWorkspace = 0x6'0000'0000'0000;

// HND tensors at these addresses.
AttentionArguments plain_arguments(const AttentionShape& shape, int head_dim);

struct PlanOptions {
  AttentionProblem problem;
  Target target{.sm = 89};
  Granularity granularity = Granularity::per_thread;
  Smoothing smoothing = Smoothing::k;
};

struct FakePlan {
  explicit FakePlan(const PlanOptions& options = {});
  std::size_t workspace_bytes(const AttentionShape& shape) const {
    return attention.workspace_bytes(shape);
  }
  void run(const AttentionShape& shape, const AttentionArguments& arguments) {
    driver->clear_launches();
    attention.run(shape, arguments, kWorkspace, attention.workspace_bytes(shape), nullptr);
  }

  std::shared_ptr<FakeDriver> driver = std::make_shared<FakeDriver>();
  Device device{driver, 0};
  AttentionProblem problem;
  QuantSpec quant;
  TileSchedule schedule;
  Attention attention;
};

}  // namespace sagegen::test
