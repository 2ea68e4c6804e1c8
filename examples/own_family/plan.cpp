// The two launches that make one result, and the memory between them.
#include <sagegen/error.h>
#include <sagegen/runtime/argument_check.h>

#include "hadamard.h"

namespace acme::hadamard {

using namespace sagegen::runtime;
using sagegen::Kernel;  // runtime::Kernel is a loaded one

namespace {

constexpr const char* kPlan = "hadamard";
enum Step { kMeasure, kQuantize };
constexpr Scratch kScratch[] = {{"largest", kMeasure, kQuantize}};

const ScratchMap& scratch_map() {
  static const ScratchMap map(kScratch);
  return map;
}

std::vector<std::optional<Kernel>> steps_of(const Kernel& kernel) {
  kernel.validate();
  if (kernel.view(family()).spec.measure)
    throw SpecError(kernel.key() + " only measures; a plan is made of the kernel that quantizes");
  return {kernel.inputs().at(0), kernel};
}

ScratchMap::Placed placed(std::int64_t blocks) {
  const std::int64_t bytes[] = {scratch_bytes(kPlan, {blocks, 4})};
  return scratch_map().place(bytes, kPlan);
}

}  // namespace

Plan::Plan(const Device& device, const Kernel& kernel, const ArtifactSource& source)
    : spec_(kernel.view(family()).spec),
      schedule_(kernel.view(family()).schedule),
      steps_(device, steps_of(kernel), kernel, source) {}

std::size_t Plan::workspace_bytes(std::int64_t rows) const {
  check_sizes(kPlan, {{"rows", rows, kMaxLength, "row numbers are 32-bit"}});
  return static_cast<std::size_t>(placed(ceil_div(rows, schedule_.warps)).bytes);
}

void Plan::run(DevicePtr x, std::int64_t rows, DevicePtr codes, DevicePtr scale,
               DevicePtr workspace, std::size_t bytes, StreamHandle stream) const {
  using Access = ArgumentCheck::Access;
  const std::size_t needed = workspace_bytes(rows);
  const std::uint64_t elements = static_cast<std::uint64_t>(rows) * spec_.columns;
  ArgumentCheck check(kPlan);
  check.array("x", x, 2 * elements, 4, Access::read);
  check.array("codes", codes, elements, 4, Access::write);
  check.array("scale", scale, 4, 4, Access::write);
  check.workspace(workspace, bytes, needed);
  check.overlaps();

  const std::int64_t blocks = ceil_div(rows, schedule_.warps);
  const DevicePtr largest = workspace + static_cast<DevicePtr>(placed(blocks).offset[0]);
  const Dim3 grid{.x = static_cast<unsigned>(blocks)};
  const Params common{.x = x, .rows = static_cast<std::int32_t>(rows)};

  ParamPack measure = steps_.params(kMeasure);
  measure.set(common);
  measure.set(MeasureParams{.largest = largest});
  steps_.launch(kMeasure, grid, measure, stream);

  ParamPack quantize = steps_.params(kQuantize);
  quantize.set(common);
  quantize.set(QuantizeParams{.largest = largest,
                              .codes = codes,
                              .scale = scale,
                              .blocks = static_cast<std::int32_t>(blocks)});
  steps_.launch(kQuantize, grid, quantize, stream);
}

}  // namespace acme::hadamard
