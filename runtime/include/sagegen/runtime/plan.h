// The engine of plans: any sequence of kernels that makes one result, with the memory between them.
//
// A plan is made once for one kernel on one device: it loads the kernels that prepare the inputs and the
// kernel itself, and owns nothing else. Running it only enqueues launches on the caller's stream; it
// allocates nothing, does not synchronize and may be captured in a CUDA graph. A room builds its plan on top
// (templates/attention/plan.h); so can a user's own family.
//
// Scratch tensors lie in the caller's workspace. Each lives from the first step that touches it to the last;
// tensors whose lives do not meet share memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "sagegen/runtime/artifacts.h"
#include "sagegen/runtime/device.h"

namespace sagegen::runtime {

inline constexpr std::int64_t kWorkspaceAlignment =
    256;  // bytes, of the workspace and of every tensor in it

// A tensor of the workspace. Steps are numbered in launch order from 0, absent ones included.
struct Scratch {
  std::string_view name;
  int first_step, last_step;
};

// Which scratch tensors share memory, worked out once: each slot is as large as its largest tensor.
class ScratchMap {
 public:
  static constexpr std::size_t kMostTensors = 24;
  explicit ScratchMap(std::span<const Scratch> tensors);

  // Where the tensors of one call lie, in bytes from the start of the workspace. 0 bytes: absent.
  struct Placed {
    std::array<std::int64_t, kMostTensors> offset;
    std::int64_t bytes;  // of the workspace
  };
  // Throws ArgumentError, naming the plan, if all of it exceeds 2^63 bytes.
  Placed place(std::span<const std::int64_t> bytes, std::string_view plan) const;

  std::size_t slots() const { return slots_; }
  std::size_t slot_of(std::size_t tensor) const { return slot_[tensor]; }

 private:
  std::size_t tensors_, slots_ = 0;
  std::array<std::size_t, kMostTensors> slot_;
};

// bytes = product of the factors. Throws ArgumentError, naming the plan, beyond 2^63.
std::int64_t scratch_bytes(std::string_view plan, std::initializer_list<std::int64_t> factors);

// The kernels of a plan, loaded.
class LoadedSteps {
 public:
  // `kernels` in launch order, empty where a step is absent; `asked` is the one that the caller named, and
  // the one that every error names. They are judged as a whole and before anything is loaded. Kernels that
  // are loaded already on this device, for any plan of the process, are shared. One whose PTX the driver
  // refuses as too new (CUDA_ERROR_UNSUPPORTED_PTX_VERSION) is asked of the source for older targets too,
  // and note() says so. Throws SpecError, DriverError.
  LoadedSteps(const Device& device, std::vector<std::optional<sagegen::Kernel>> kernels,
              const sagegen::Kernel& asked, const ArtifactSource& source);

  const Device& device() const { return device_; }
  bool has(std::size_t step) const { return steps_[step].has_value(); }
  // A parameter for the step, which is not absent; blocks that nobody sets are zero.
  ParamPack params(std::size_t step) const { return ParamPack(steps_[step].value().layout); }
  void launch(std::size_t step, Dim3 grid, const ParamPack& params, StreamHandle stream) const;
  // The same for a caller that is in a Device::Scope of device(), once for all steps.
  void launch_in_scope(std::size_t step, Dim3 grid, const ParamPack& params,
                       StreamHandle stream) const;

  std::vector<std::string> entries() const;  // as loaded, in launch order
  // Which kernels are those of an older target because of the driver, and why machine code beside PTX was not loaded,
  // as sentences; empty if none is.
  const std::string& note() const { return note_; }

 private:
  struct Step {
    std::shared_ptr<const Kernel> kernel;
    ParamLayout layout;
  };
  Device device_;
  std::vector<std::optional<Step>> steps_;
  std::string note_;
};

}  // namespace sagegen::runtime
