// Partial results of a row merged by their log-sum-exp. Weights are exp(LSE of the part - the largest LSE), divided by
// their sum before anything is multiplied: O is a mean of the parts, but for roundings no larger than they are.
#include <array>
#include <functional>
#include <limits>

#include "sagegen/dsl/kernel_builder.h"
#include "templates/merge_partials/params.h"
#include "templates/merge_partials/spec.h"
#include "templates/shared/quantization.h"
#include "templates/shared/tensor.h"

namespace sagegen::merge_partials {

using namespace dsl;

namespace {

constexpr float kLn2 = 0.693147181f;
constexpr float kLargest = std::numeric_limits<float>::max();
constexpr std::int64_t kF32 = 4;

using Channels = std::array<F32, kLaneChannels>;

Channels load(KernelBuilder& k, DType type, GlobalPtr from) {
  Channels channels;
  if (type == DType::f32) {
    for (std::size_t half = 0; half < 2; ++half) {
      const auto words = k.load_v4(from + static_cast<std::int64_t>(16 * half));
      for (std::size_t i = 0; i < 4; ++i) channels[4 * half + i] = k.as_f32(words[i]);
    }
    return channels;
  }
  const auto words = k.load_v4(from);
  for (std::size_t i = 0; i < words.size(); ++i) {
    const auto pair = k.unpack2(type, words[i]);
    channels[2 * i] = pair[0];
    channels[2 * i + 1] = pair[1];
  }
  return channels;
}

void store(KernelBuilder& k, DType type, GlobalPtr to, const Channels& channels) {
  std::array<I32, 4> words;
  if (type == DType::f32) {
    for (std::size_t half = 0; half < 2; ++half) {
      for (std::size_t i = 0; i < 4; ++i) words[i] = k.as_bits(channels[4 * half + i]);
      k.store_v4(to + static_cast<std::int64_t>(16 * half), words);
    }
    return;
  }
  for (std::size_t i = 0; i < words.size(); ++i)
    words[i] = k.pack2(type, channels[2 * i], channels[2 * i + 1]);
  k.store_v4(to, words);
}

class MergePartials {
 public:
  MergePartials(KernelBuilder& k, const Spec& spec) : k_(k), spec_(spec), p_(k.params<Params>()) {}
  void build();

 private:
  // Of the thread's channels of a row of the block's head.
  GlobalPtr at(TensorParam Params::*tensor, DType type, I32 row, I32 lane) const {
    const std::int64_t bytes = bits(type) / 8;
    const I64 stride = p_(tensor, &TensorParam::stride_token) * bytes;
    return head_of(k_, p_, tensor, k_.block_idx(2), k_.block_idx(1), bytes) +
           k_.to_i64(row) * stride + k_.to_i64(lane) * (kLaneChannels * bytes);
  }
  // What the accumulator counts for, and after it each part in its order.
  void for_parts(const std::function<void(F32 lse, I32 part)>& body) const {
    k_.for_range(k_.i32(0), p_(&Params::part_count), 1, [&](I32 part) {
      body(k_.load<F32>(part_lse_ + k_.to_i64(part) * (p_(&Params::part_lse_stride) * kF32)), part);
    });
  }

  KernelBuilder& k_;
  const Spec& spec_;
  ParamReader<Params> p_;
  GlobalPtr part_lse_;  // of the row
};

void MergePartials::build() {
  const DType in = stored_type(spec_, spec_.parts), out = stored_type(spec_, spec_.out);
  const I32 lanes = p_(&Params::lanes), rows = p_(&Params::rows), q_len = p_(&Params::q_len);
  const I32 thread_row = k_.thread_idx() / lanes, lane = k_.thread_idx() % lanes;
  const I32 first = k_.block_idx(0) * rows;
  const Pred works = thread_row < rows && first + thread_row < q_len;
  // Threads without a row read the LSE of another one of the block, which nobody writes before the barrier.
  const I32 row = k_.min(first + k_.min(thread_row, rows - 1), q_len - 1);
  const I32 head = k_.block_idx(2) * k_.grid_dim(1) + k_.block_idx(1);
  const I64 lse_bytes = (k_.to_i64(head) * k_.to_i64(q_len) + k_.to_i64(row)) * kF32;
  part_lse_ = p_(&Params::part_lse) + lse_bytes;

  const Pred goes_on = p_(&Params::go_on) != 0;
  const Var<F32> so_far = k_.var(k_.f32(-std::numeric_limits<float>::infinity()));
  k_.if_(goes_on, [&] { so_far = k_.load<F32>(p_(&Params::lse) + lse_bytes); });
  const Var<F32> most = k_.var(so_far.get());
  for_parts([&](F32 lse, I32) { most = k_.max(most.get(), lse); });
  // Where there is nothing to merge all weights are exp(-infinity - 0).
  const F32 largest = k_.select(most.get() >= -kLargest, most.get(), k_.f32(0.0f));
  const auto weight = [&](F32 lse) { return k_.exp2((lse - largest) * kLog2E); };
  const Var<F32> sum = k_.var(weight(so_far));
  for_parts([&](F32 lse, I32) { sum = sum.get() + weight(lse); });
  const F32 inverse = k_.select(sum.get() > 0.0f, 1.0f / sum.get(), k_.f32(0.0f));

  k_.barrier();  // all lanes have read the LSE that is written in place
  const GlobalPtr lse = p_(&Params::lse);
  k_.if_(works && lane == 0 && !k_.is_null(lse),
         [&] { k_.store(lse + lse_bytes, k_.fma(k_.log2(sum), k_.f32(kLn2), largest)); });
  k_.if_(works, [&] {
    std::array<Var<F32>, kLaneChannels> mean;
    for (Var<F32>& channel : mean) channel = k_.var(k_.f32(0.0f));
    const auto add = [&](DType type, GlobalPtr from, F32 share) {
      k_.if_(share > 0.0f, [&] {
        const Channels part = load(k_, type, from);
        for (std::size_t i = 0; i < mean.size(); ++i)
          mean[i] = k_.fma(part[i], share, mean[i].get());
      });
    };
    const GlobalPtr o = at(&Params::o, out, row, lane), parts = at(&Params::parts, in, row, lane);
    const I64 part_bytes = p_(&Params::part_stride) * std::int64_t{bits(in) / 8};
    add(out, o, weight(so_far) * inverse);
    for_parts([&](F32 part_lse, I32 part) {
      add(in, parts + k_.to_i64(part) * part_bytes, weight(part_lse) * inverse);
    });
    Channels result;
    for (std::size_t i = 0; i < result.size(); ++i) {
      result[i] = mean[i].get();
      // Shares may sum to a little more than 1: of f32 as large as can be that would be infinity.
      if (in == DType::f32 || out == DType::f32)
        result[i] = k_.max(k_.min(result[i], k_.f32(kLargest)), k_.f32(-kLargest));
    }
    store(k_, out, o, result);
  });
}

}  // namespace

void build(KernelBuilder& k, const Kernel& kernel) {
  MergePartials(k, kernel.view(family()).spec).build();
}

}  // namespace sagegen::merge_partials
