// A call that is cut into several, so that its workspace is within a bound (PlanOptions::max_workspace_bytes).
#pragma once

#include "templates/attention/plan_layout.h"

namespace sagegen::attention::plan_detail {

// As many batches, else heads of K and V of one batch, as fit, in nearly equal parts.
struct CutLayout {
  Shape part;     // the largest
  Layout layout;  // of it
  std::int64_t calls = 1;
};

// Where to cut is decided with an LSE, wanted or not: what is enough for a call with one is enough for a call without.
// Throws ArgumentError if not even the least part fits, or if it cannot be cut.
CutLayout cut_layout(const Spec& spec, const Schedule& schedule, const runtime::ScratchMap& map,
                     const PlanOptions& options, const Shape& shape, Lse lse);

// Shape and arguments of the part that begins there.
struct CutCall {
  Shape shape;
  Arguments arguments;
};
CutCall part_of_call(const Spec& spec, const Schedule& schedule, const Shape& shape,
                     const Arguments& arguments, const Shape& largest, std::int64_t batch,
                     std::int64_t kv_head);

}  // namespace sagegen::attention::plan_detail
