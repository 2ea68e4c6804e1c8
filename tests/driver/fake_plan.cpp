#include "tests/driver/fake_plan.h"

#include "templates/attention/plan_shape_class.h"

namespace sagegen::test {

std::string fake_ptx_of(const sagegen::Kernel& kernel) {
  const ParamLayout layout = kernel.params();
  return params_line(layout.digest()) + fake_ptx(kernel.key(), layout.bytes());
}

ArtifactSource fake_source() {
  return [](const sagegen::Kernel& kernel) { return artifact_of_ptx(kernel, fake_ptx_of(kernel)); };
}

attention::Arguments plain_arguments(const attention::Shape& shape, int head_dim) {
  return attention::Arguments{.q = hnd(kQ, shape.q_heads, shape.q_len, head_dim),
                              .k = hnd(kK, shape.kv_heads, shape.kv_len, head_dim),
                              .v = hnd(kV, shape.kv_heads, shape.kv_len, head_dim),
                              .o = hnd(kO, shape.q_heads, shape.q_len, head_dim)};
}

sagegen::Kernel usual_kernel(attention::Spec spec, Target target) {
  const attention::Spec usual = attention::usual_spec(target, spec.granularity);
  spec.q_group = usual.q_group;
  spec.pv = usual.pv;
  spec.accumulation = usual.accumulation;
  return {attention::family(), spec, target};
}

TuningEntry tuning_entry(const Device& device, const sagegen::Kernel& kernel,
                         const attention::Shape& shape, const std::string& schedule) {
  return {.key = attention::tuning_key(kernel, attention::shape_class(shape), Deployment::eager,
                                       fingerprint_of(device)),
          .schedule = schedule,
          .usual = kernel.how(),
          .params = kernel.params().digest(),
          .unit = "ns",
          .time = 90,
          .usual_time = 100,
          .samples = 10,
          .measured = "2026-11-30T12:00:00Z",
          .conditions = ""};
}

FakePlan::FakePlan(const sagegen::Kernel& kernel, const attention::PlanOptions& plan_options)
    : options(plan_options),
      spec(kernel.view(attention::family()).spec),
      schedule(kernel.view(attention::family()).schedule),
      plan(device, kernel, fake_source(), options) {}

}  // namespace sagegen::test
