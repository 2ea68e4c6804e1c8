#include "tests/numerics/scene.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numbers>
#include <utility>

#include <fmt/format.h>

#include "sagegen/emit.h"
#include "tools/sagegen/run_mods.h"

namespace sagegen::test {

namespace ref = sagegen::reference;

const attention::Spec& spec_of(const Kernel& kernel) {
  return kernel.view(attention::family()).spec;
}
const attention::Schedule& schedule_of(const Kernel& kernel) {
  return kernel.view(attention::family()).schedule;
}

namespace {

// More than the rules allow in each direction, and numbers between those that they allow.
constexpr std::array kQueryTiles = {8, 16, 32, 48, 64, 96, 128, 192, 256, 512};
constexpr std::array kKeyTiles = {8, 16, 32, 48, 64, 96, 128, 256};
constexpr std::array kWarps = {1, 2, 3, 4, 5, 8, 16};
constexpr std::array kStages = {0, 1, 2, 3, 4, 5};

}  // namespace

bool is_legal(const Kernel& kernel) {
  const auto legal = [](const Kernel& each) { return each.violations().empty(); };
  if (!legal(kernel)) return false;
  const std::vector<Kernel> inputs = kernel.inputs();
  return std::all_of(inputs.begin(), inputs.end(), legal);
}

std::vector<Kernel> legal_schedules(const Kernel& numbers) {
  std::vector<Kernel> legal;
  const auto add = [&](const attention::Schedule& schedule) {
    attention::Spec spec = spec_of(numbers);
    const Kernel kernel(attention::family(), spec, schedule, numbers.target());
    if (is_legal(kernel)) return legal.push_back(kernel);
    spec.q_group = spec.k_group = 128;
    const Kernel wider(attention::family(), spec, schedule, numbers.target());
    if (is_legal(wider)) legal.push_back(wider);
  };
  for (const int cta_q : kQueryTiles) {
    for (const int cta_k : kKeyTiles) {
      for (const int warps : kWarps) {
        for (const int stages : kStages) {
          add({.cta_q = cta_q, .cta_k = cta_k, .warps = warps, .stages = stages});
        }
      }
    }
  }
  return legal;
}

Artifact emitted(const Kernel& kernel) {
  static std::map<std::string, Artifact> made;
  Artifact& artifact = made[kernel.key()];
  if (artifact.code.empty()) artifact = emit(kernel);
  return artifact;
}

ref::IoType io_type(DType io) { return io == DType::f16 ? ref::IoType::f16 : ref::IoType::bf16; }

ref::Inputs inputs_for(const Kernel& kernel, const std::string& distribution, ref::Shape shape,
                       std::uint64_t seed) {
  shape.head_dim = spec_of(kernel).head_dim;
  shape.value_dim = attention::value_dim(spec_of(kernel));
  return ref::generate(distribution, shape, seed, io_type(spec_of(kernel).io));
}

ref::Inputs scores_by_tile(const Kernel& kernel, ref::Shape shape, std::uint64_t seed,
                           const std::function<double(std::int64_t tile)>& octaves,
                           const std::function<double(std::int64_t query)>& worth) {
  ref::Inputs in = inputs_for(kernel, "normal", shape, seed);
  constexpr float kNoise = 0.25f, kQuery = 4;
  for (ref::Tensor* tensor : {&in.q, &in.k}) {
    for (float& x : tensor->data) x *= kNoise;
  }
  const double scale = std::sqrt(static_cast<double>(in.q.channels)) * std::numbers::ln2;
  for (std::int64_t head = 0; head < in.q.heads; ++head) {
    for (std::int64_t i = 0; i < in.q.tokens; ++i)
      in.q.row(0, head, i)[0] = kQuery * static_cast<float>(worth(i));
  }
  for (std::int64_t head = 0; head < in.k.heads; ++head) {
    for (std::int64_t j = 0; j < in.k.tokens; ++j)
      in.k.row(0, head, j)[0] = static_cast<float>(scale / kQuery * octaves(j / 64));
  }
  for (ref::Tensor* tensor : {&in.q, &in.k}) ref::round_to(io_type(spec_of(kernel).io), *tensor);
  return in;
}

cli::RunDevice device_of(const Scene& scene) {
  const std::string target = to_string(scene.kernel.target());
  return cli::open_run_device("emulator:" + (scene.profile.empty() ? target : scene.profile),
                              target, scene.emulator);
}

cli::AttentionJob job_of(const Scene& scene) {
  const Kernel& kernel = scene.kernel;
  cli::AttentionJob job{.inputs = scene.inputs,
                        .spec = spec_of(kernel),
                        .schedule = schedule_of(kernel),
                        .layout = scene.layout,
                        .causal = scene.alignment,
                        .source = emitted};
  ref::Inputs& in = job.inputs;
  in.causal = spec_of(kernel).causal;
  if (scene.alignment == attention::CausalAlignment::bottom_right) {
    in.causal_offset = in.k.tokens - in.q.tokens;
  }
  if (in.mods.empty()) {  // what is usual for the mods of the kernel
    constexpr std::uint64_t kSeed = 3;
    cli::RunMods mods = cli::make_mods({}, kernel, in, kSeed);
    in.mods = std::move(mods.twins);
    job.mods = std::move(mods.give);
  }
  return job;
}

std::string text_of(const cli::AttentionJob& job, const cli::RunDevice& on) {
  const auto sizes = [](const ref::Tensor& t) {
    return fmt::format("[{}, {}, {}, {}]", t.batch, t.heads, t.tokens, t.channels);
  };
  const Kernel kernel(attention::family(), job.spec, job.schedule, on.target);
  return fmt::format("{} on {}, q {}, k {}, {}, causal offset {}", kernel.key(), on.name,
                     sizes(job.inputs.q), sizes(job.inputs.k),
                     job.layout == cli::Layout::nhd ? "NHD" : "HND", job.inputs.causal_offset);
}

std::string text_of(const runtime::Finding& f) {
  return fmt::format("{} in {} line {}: {}", f.check, f.kernel, f.ptx_line, f.message);
}

}  // namespace sagegen::test
