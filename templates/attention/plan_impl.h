// What a plan holds.
#pragma once

#include <fmt/format.h>

#include "sagegen/error.h"
#include "sagegen/runtime/argument_check.h"
#include "templates/attention/plan_call.h"
#include "templates/attention/plan_cut.h"

namespace sagegen::attention {

struct Plan::Impl {
  static const Kernel& invariant(const Kernel& asked, Invariance level) {
    const InvarianceRule rule = attention::invariance(asked, level);
    if (!rule.holds) throw SpecError(rule.why);
    return asked;
  }

  // What a driver would load, but nobody wants.
  static const runtime::Device& checked(const runtime::Device& device, const Spec& spec,
                                        const Kernel& asked) {
    if (runs_on(spec, device.compute_capability())) return device;
    throw SpecError(fmt::format(
        "{} is refused on a device of compute capability {}.{}: its tensor cores have no INT4, and "
        "the driver would emulate each product by about 190 instructions; use qk s8",
        asked.key(), device.compute_capability() / 10, device.compute_capability() % 10));
  }

  Impl(const runtime::Device& device, const Kernel& asked, const runtime::ArtifactSource& source,
       const PlanOptions& plan_options)
      : kernel(invariant(asked, plan_options.invariance)),
        options(plan_options),
        spec(asked.view(family()).spec),
        schedule(asked.view(family()).schedule),
        scratch(plan_detail::kScratch),
        steps(checked(device, spec, asked), plan_detail::steps_of(asked), asked, source) {}

  void check(const Shape& shape, const Arguments& arguments, const plan_detail::Layout& layout,
             runtime::DevicePtr workspace, std::size_t workspace_bytes) const;
  void check_numbers(const Arguments& arguments) const;
  void check_chunk(const Shape& shape, const Arguments& arguments) const;
  void check_attended(runtime::ArgumentCheck& check, const Shape& shape,
                      const Arguments& arguments) const;
  void launch(Part part, const plan_detail::Call& call, runtime::StreamHandle stream) const;
  plan_detail::Layout layout_within(const Shape& shape, const Arguments& arguments,
                                    const plan_detail::Layout& largest) const;
  // Refuses a call that has something quantized, where the codes are given.
  void need_quantizers(const char* call) const;

  plan_detail::Layout layout_of(const Shape& shape, Lse lse) const {
    return plan_detail::layout_of(spec, schedule, scratch, options, shape, lse);
  }

  plan_detail::CutLayout cut_layout(const Shape& shape, Lse lse) const {
    return plan_detail::cut_layout(spec, schedule, scratch, options, shape, lse);
  }

  plan_detail::Call call(const Shape& shape, const Arguments& arguments,
                         const plan_detail::Layout& layout, runtime::DevicePtr workspace) const {
    return {.spec = spec,
            .schedule = schedule,
            .steps = steps,
            .shape = shape,
            .arguments = arguments,
            .layout = layout,
            .workspace = workspace};
  }

  Kernel kernel;
  PlanOptions options;
  Spec spec;
  Schedule schedule;
  runtime::ScratchMap scratch;
  runtime::LoadedSteps steps;
};

}  // namespace sagegen::attention
