// The attention and the norm of a transformer layer on recorded activations: y = RMSNorm(x + attention(q, k, v)), in one
// stream, eagerly and as a graph that is captured once and replayed. Runs on a GPU, or without one in the emulator, and
// compares with double precision.
#include <sagegen/attention.h>
#include <sagegen/emit.h>
#include <sagegen/runtime/artifacts.h>
#include <sagegen/runtime/device.h>
#include <sagegen/runtime/emulator.h>
#include <sagegen/runtime/graph.h>

#include <cmath>
#include <cstdio>
#include <span>

#include "add_rms_norm.h"
#include "recording.h"

using namespace sagegen;
using namespace sagegen::runtime;

namespace {

constexpr float kEpsilon = 1e-6f;

// ---- the layer ------------------------------------------------------------------------------------

class Layer {
 public:
  Layer(const Device& device, const attention::Shape& shape, int head_dim)
      : device_(device),
        shape_(shape),
        head_dim_(head_dim),
        target_(best_target(device)),
        // What is embedded in the library, and the generator for the rest: head_dim 32 is not.
        plan_(
            device,
            kernel_of_options(attention::family(), "head_dim=" + std::to_string(head_dim), target_),
            chain({embedded_ptx(),
                   ArtifactSource([](const sagegen::Kernel& kernel) { return emit(kernel); })}),
            {.choice = attention::tuning_choice_of_environment(),
             .warn =
                 [](const std::string& text) {
                   std::fprintf(stderr, "note: %s\n", text.c_str());
                 }}),
        norm_(load(device, add_rms_norm(target_))) {
    // At start: what `sagegen tune` found for shapes like this one is looked up and loaded.
    plan_.prepare(std::span(&shape_, 1));
    workspace_ =
        Buffer(device, plan_.plan_for(shape_).workspace_bytes(shape_, attention::Lse::unwanted));
    attended_ = Buffer(device, static_cast<std::size_t>(shape.q_len * columns()) * 2);
  }

  int columns() const { return static_cast<int>(shape_.q_heads) * head_dim_; }
  const attention::Plan& plan() const { return plan_.plan_for(shape_); }

  // q, k, v: f16 [head, token, channel]; x, y: f16 [token, head, channel], rows of columns(); weight: f32 [columns].
  // Only enqueues: nothing is allocated, and nothing waits.
  void run(DevicePtr q, DevicePtr k, DevicePtr v, DevicePtr x, DevicePtr weight, DevicePtr y,
           StreamHandle stream) const {
    const std::int64_t heads = shape_.q_heads;
    plan().run(shape_,
               {.q = hnd(q, heads, shape_.q_len, head_dim_),
                .k = hnd(k, heads, shape_.kv_len, head_dim_),
                .v = hnd(v, heads, shape_.kv_len, head_dim_),
                .o = nhd(attended_.data(), heads, shape_.q_len, head_dim_)},
               workspace_.data(), workspace_.bytes(), stream);
    norm_.launch({.x = static_cast<unsigned>(shape_.q_len)},
                 AddRmsNormParams{x, attended_.data(), weight, y, columns(), kEpsilon}, stream);
  }

 private:
  static runtime::Kernel load(const Device& device, const dsl::Emitted& emitted) {
    return {device,          emitted.ptx,          emitted.entry,
            emitted.threads, emitted.shared_bytes, emitted.param_bytes};
  }

  Device device_;
  attention::Shape shape_;
  int head_dim_;
  Target target_;
  attention::TunedPlan plan_;
  runtime::Kernel norm_;
  Buffer workspace_, attended_;
};

// ---- double precision -----------------------------------------------------------------------------

std::vector<double> expected(const Recorded& q, const Recorded& k, const Recorded& v,
                             const std::vector<std::uint16_t>& x,
                             const std::vector<float>& weight) {
  const std::int64_t columns = q.heads * q.channels;
  const auto at = [](const Recorded& tensor, std::int64_t head, std::int64_t token,
                     std::int64_t c) {
    return of_f16(
        tensor
            .bits[static_cast<std::size_t>((head * tensor.tokens + token) * tensor.channels + c)]);
  };
  std::vector<double> y;
  for (std::int64_t i = 0; i < q.tokens; ++i) {
    std::vector<double> row;
    for (std::int64_t h = 0; h < q.heads; ++h) {
      std::vector<double> o(static_cast<std::size_t>(q.channels));
      double sum = 0;
      for (std::int64_t j = 0; j < k.tokens; ++j) {
        double score = 0;
        for (std::int64_t c = 0; c < q.channels; ++c) score += at(q, h, i, c) * at(k, h, j, c);
        const double p = std::exp(score / std::sqrt(static_cast<double>(q.channels)));
        sum += p;
        for (std::int64_t c = 0; c < q.channels; ++c)
          o[static_cast<std::size_t>(c)] += p * at(v, h, j, c);
      }
      for (const double value : o) row.push_back(value / sum);
    }
    double squares = 0;
    for (std::size_t c = 0; c < row.size(); ++c) {
      row[c] += of_f16(x[static_cast<std::size_t>(i * columns) + c]);
      squares += row[c] * row[c];
    }
    const double scale = 1 / std::sqrt(squares / static_cast<double>(columns) + kEpsilon);
    for (std::size_t c = 0; c < row.size(); ++c)
      y.push_back(row[c] * scale * static_cast<double>(weight[c]));
  }
  return y;
}

double relative_l1(const std::vector<std::uint16_t>& got, const std::vector<double>& want) {
  double difference = 0, sum = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    difference += std::abs(of_f16(got[i]) - want[i]);
    sum += std::abs(want[i]);
  }
  return difference / sum;
}

template <typename T>
Buffer upload(const Device& device, const std::vector<T>& values) {
  Buffer buffer(device, values.size() * sizeof(T));
  buffer.upload(std::as_bytes(std::span(values)));
  return buffer;
}

int run(const std::string& file, const std::string& name) {
  const Recorded q = read_recorded(file, name + ".q"), k = read_recorded(file, name + ".k"),
                 v = read_recorded(file, name + ".v");
  std::string why;
  std::shared_ptr<DriverApi> driver = load_cuda(&why);
  if (!driver) driver = make_emulator();
  const Device device(driver, 0);

  const Layer layer(
      device,
      {.batch = 1, .q_heads = q.heads, .kv_heads = q.heads, .q_len = q.tokens, .kv_len = k.tokens},
      static_cast<int>(q.channels));
  // The recording has neither the residual stream nor the weights of the norm: any will do.
  std::vector<std::uint16_t> x;
  std::vector<float> weight;
  for (std::int64_t i = 0; i < q.tokens * layer.columns(); ++i)
    x.push_back(to_f16(std::sin(0.7 * static_cast<double>(i))));
  for (int c = 0; c < layer.columns(); ++c) weight.push_back(1 + 0.01f * static_cast<float>(c % 7));

  const Buffer q_memory = upload(device, q.bits), k_memory = upload(device, k.bits),
               v_memory = upload(device, v.bits), x_memory = upload(device, x),
               weight_memory = upload(device, weight);
  Buffer y_memory(device, x.size() * 2);
  const Stream stream(device);
  const auto enqueue = [&](StreamHandle to) {
    layer.run(q_memory.data(), k_memory.data(), v_memory.data(), x_memory.data(),
              weight_memory.data(), y_memory.data(), to);
  };
  const auto result = [&] {
    stream.synchronize();
    std::vector<std::uint16_t> y(x.size());
    y_memory.download(std::as_writable_bytes(std::span(y)));
    return y;
  };

  enqueue(stream.handle());
  const std::vector<std::uint16_t> eager = result();
  const double error = relative_l1(eager, expected(q, k, v, x, weight));
  std::printf("%s, %lld heads, %lld tokens, on %s: %s\n", name.c_str(),
              static_cast<long long>(q.heads), static_cast<long long>(q.tokens),
              device.name().c_str(), layer.plan().kernel().key().c_str());
  constexpr double kAllowed = 0.01;  // of INT8 scores and FP8 weights, on these layers
  std::printf("relative L1 of the layer against double precision: %.4f, allowed %.4f\n", error,
              kAllowed);

  // Made once, replayed as often as there are tokens to come: addresses stay, memory is what it is at each replay.
  y_memory.fill(0);
  const Graph graph(device, enqueue);
  for (int i = 0; i < 2; ++i) graph.launch(stream.handle());
  const bool same = result() == eager;
  std::printf("replayed as a graph: %s\n", same ? "the same bits" : "other bits");
  return error <= kAllowed && same ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: transformer_layer FILE.safetensors LAYER\n");
    return 2;
  }
  try {
    return run(argv[1], argv[2]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "transformer_layer: %s\n", error.what());
    return 1;
  }
}
