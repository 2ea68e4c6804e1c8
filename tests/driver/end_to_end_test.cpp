// Attention from kernel to result on the emulator: emitted kernels, the plan's launches, real memory.
// How accurate the results are is the business of tests/numerics; here is what the plan promises:
// layouts, alignments of the mask, GQA, LSE, untouched inputs, dirty workspaces, threads, enormous
// strides.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "sagegen/emit.h"
#include "sagegen/runtime/emulator.h"
#include "templates/attention/plan.h"
#include "tests/driver/buffers.h"
#include "tools/reference/reference.h"

using namespace sagegen;
using namespace sagegen::runtime;
using Catch::Matchers::Contains;

namespace {

using Bits = std::vector<std::uint16_t>;  // f16 values

Bits to_bits(const reference::Tensor& tensor) {
  Bits bits;
  for (const float value : tensor.data) {
    const auto rounded = static_cast<_Float16>(value);
    std::uint16_t raw = 0;
    std::memcpy(&raw, &rounded, sizeof raw);
    bits.push_back(raw);
  }
  return bits;
}

std::vector<double> to_doubles(const Bits& bits) {
  std::vector<double> values;
  for (const std::uint16_t raw : bits) {
    _Float16 value = 0;
    std::memcpy(&value, &raw, sizeof raw);
    values.push_back(static_cast<double>(value));
  }
  return values;
}

// [batch, head, token, channel] to [batch, token, head, channel] and back.
Bits swap_heads_and_tokens(const Bits& bits, std::int64_t batch, std::int64_t outer,
                           std::int64_t inner, int channels) {
  Bits swapped(bits.size());
  for (std::int64_t b = 0; b < batch; ++b) {
    for (std::int64_t i = 0; i < outer; ++i) {
      for (std::int64_t j = 0; j < inner; ++j) {
        std::copy_n(bits.begin() + ((b * outer + i) * inner + j) * channels, channels,
                    swapped.begin() + ((b * inner + j) * outer + i) * channels);
      }
    }
  }
  return swapped;
}

std::shared_ptr<EmulatorDriver> emulator() {
  static const std::shared_ptr<EmulatorDriver> driver = make_emulator();
  return driver;
}

Device device_of(EmulatorProfile profile) {
  return Device(emulator(), static_cast<DeviceOrdinal>(profile));
}

attention::Plan plan_on(const Device& device, attention::Spec spec) {
  const Target target = best_target(device.compute_capability());
  const attention::Spec usual = attention::usual_spec(target);
  spec.pv = usual.pv;
  spec.accumulation = usual.accumulation;
  return attention::Plan(device, sagegen::Kernel(attention::family(), spec, target),
                         [](const sagegen::Kernel& kernel) { return emit(kernel); });
}

attention::Shape shape_of(const reference::Shape& s) {
  return {.batch = s.batch,
          .q_heads = s.q_heads,
          .kv_heads = s.kv_heads,
          .q_len = s.q_len,
          .kv_len = s.kv_len};
}

struct Outcome {
  Bits o;  // [batch, head, token, channel]
  std::vector<float> lse;
};

struct RunOptions {
  bool tokens_first = false;  // NHD
  bool wants_lse = true;
  attention::CausalAlignment causal = attention::CausalAlignment::top_left;
  unsigned char workspace_fill = 0xff;
  bool in_halves = false;  // quantize() once, then attend() twice, instead of run()
};

Outcome run(const Device& device, const attention::Plan& plan, const reference::Shape& s,
            const reference::Inputs& inputs, const RunOptions& options = {}) {
  const int d = static_cast<int>(s.head_dim);
  const auto arranged = [&](const reference::Tensor& tensor) {
    const Bits bits = to_bits(tensor);
    return options.tokens_first
               ? swap_heads_and_tokens(bits, tensor.batch, tensor.heads, tensor.tokens, d)
               : bits;
  };
  const auto view = [&](const Buffer& buffer, std::int64_t heads, std::int64_t tokens) {
    return options.tokens_first ? nhd(buffer.data(), heads, tokens, d)
                                : hnd(buffer.data(), heads, tokens, d);
  };
  const Bits q = arranged(inputs.q), k = arranged(inputs.k), v = arranged(inputs.v);
  const Buffer q_memory = upload(device, q), k_memory = upload(device, k),
               v_memory = upload(device, v);
  const Buffer o_memory(device, q.size() * sizeof(std::uint16_t));
  const auto rows = static_cast<std::size_t>(s.batch * s.q_heads * s.q_len);
  const Buffer lse_memory(device, rows * sizeof(float));
  const attention::Shape shape = shape_of(s);
  Buffer workspace(device, plan.workspace_bytes(shape));
  workspace.fill(options.workspace_fill);
  const Stream stream(device);
  const attention::Arguments arguments{.q = view(q_memory, s.q_heads, s.q_len),
                                       .k = view(k_memory, s.kv_heads, s.kv_len),
                                       .v = view(v_memory, s.kv_heads, s.kv_len),
                                       .o = view(o_memory, s.q_heads, s.q_len),
                                       .lse = options.wants_lse ? lse_memory.data() : 0,
                                       .softmax_scale = static_cast<float>(inputs.softmax_scale),
                                       .causal = options.causal};
  if (options.in_halves) {
    plan.quantize(shape, arguments, workspace.data(), workspace.bytes(), stream.handle());
    plan.attend(shape, arguments, workspace.data(), workspace.bytes(), stream.handle());
    plan.attend(shape, arguments, workspace.data(), workspace.bytes(), stream.handle());
  } else {
    plan.run(shape, arguments, workspace.data(), workspace.bytes(), stream.handle());
  }
  stream.synchronize();

  CHECK(download<std::uint16_t>(q_memory) == q);  // inputs are read and not written
  CHECK(download<std::uint16_t>(k_memory) == k);
  CHECK(download<std::uint16_t>(v_memory) == v);
  Outcome result{.o = download<std::uint16_t>(o_memory), .lse = {}};
  if (options.tokens_first) {
    result.o = swap_heads_and_tokens(result.o, s.batch, s.q_len, s.q_heads, d);
  }
  if (options.wants_lse) result.lse = download<float>(lse_memory);
  return result;
}

// For normal inputs. Codes of N(0, 1) have errors of about 0.0075, and a score sums as many as
// there are channels of Q and K: 0.085 for 64, 0.12 for 128, times the softmax scale. The LSE is a
// mean of scores, so three times that bounds it.
void check_close(const reference::Inputs& inputs, const Outcome& result) {
  const reference::Output exact = reference::attention(inputs);
  const reference::Metrics metrics = reference::compare(exact.o, to_doubles(result.o));
  CHECK(metrics.non_finite == 0);
  CHECK(metrics.relative_l1 < 0.06);  // e4m3 alone costs 0.036 on normal inputs
  CHECK(metrics.cosine_similarity > 0.997);
  const auto channels = static_cast<double>(inputs.q.channels);
  const double scale = inputs.softmax_scale != 0 ? inputs.softmax_scale : 1 / std::sqrt(channels);
  const double score_error = 0.0075 * std::sqrt(2 * channels) * scale;
  for (std::size_t i = 0; i < result.lse.size(); ++i) {
    if (std::isinf(exact.lse[i])) {
      CHECK(result.lse[i] == -std::numeric_limits<float>::infinity());
    } else {
      CHECK(result.lse[i] == Approx(exact.lse[i]).epsilon(0).margin(3 * score_error));
    }
  }
}

}  // namespace

TEST_CASE("attention on every emulated device") {
  const reference::Shape s{
      .batch = 2, .q_heads = 4, .kv_heads = 2, .q_len = 70, .kv_len = 101, .head_dim = 64};
  const reference::Inputs inputs = reference::generate("normal", s, 7, reference::IoType::f16);
  for (const EmulatorProfile profile :
       {EmulatorProfile::sm_80, EmulatorProfile::sm_86, EmulatorProfile::sm_89,
        EmulatorProfile::sm_90, EmulatorProfile::sm_120, EmulatorProfile::ideal}) {
    INFO(to_string(profile));
    const Device device = device_of(profile);
    const attention::Plan plan = plan_on(device, {.head_dim = 64});
    check_close(inputs, run(device, plan, s, inputs));
  }
  CHECK(emulator()->findings().empty());
}

TEST_CASE("layout, workspace contents and the LSE output do not change a bit of O") {
  const reference::Shape s{
      .batch = 2, .q_heads = 2, .kv_heads = 1, .q_len = 33, .kv_len = 65, .head_dim = 128};
  const reference::Inputs inputs = reference::generate("normal", s, 11, reference::IoType::f16);
  const Device device = device_of(EmulatorProfile::sm_89);
  const attention::Plan plan = plan_on(device, {.head_dim = 128});
  const Outcome reference_result = run(device, plan, s, inputs);
  check_close(inputs, reference_result);
  const auto same = [&](const RunOptions& options) {
    return run(device, plan, s, inputs, options).o == reference_result.o;
  };
  CHECK(same({.tokens_first = true}));
  CHECK(same({.wants_lse = false}));
  CHECK(same({.workspace_fill = 0x00}));
  CHECK(same({.workspace_fill = 0x7f}));
  CHECK(same({.in_halves = true}));
  CHECK(run(device, plan, s, inputs, {.in_halves = true}).lse == reference_result.lse);
  CHECK(emulator()->findings().empty());
}

TEST_CASE("both alignments of the causal mask, with more and with fewer queries than keys") {
  const Device device = device_of(EmulatorProfile::sm_89);
  const attention::Plan plan = plan_on(device, {.head_dim = 64, .causal = true});
  for (const auto& [q_len, kv_len] : {std::pair{40, 90}, std::pair{90, 40}, std::pair{64, 64}}) {
    const reference::Shape s{
        .batch = 1, .q_heads = 1, .kv_heads = 1, .q_len = q_len, .kv_len = kv_len, .head_dim = 64};
    reference::Inputs inputs = reference::generate("normal", s, 3, reference::IoType::f16);
    inputs.causal = true;
    for (const attention::CausalAlignment alignment :
         {attention::CausalAlignment::top_left, attention::CausalAlignment::bottom_right}) {
      INFO(q_len << " queries, " << kv_len << " keys, offset " << inputs.causal_offset);
      inputs.causal_offset = alignment == attention::CausalAlignment::top_left ? 0 : kv_len - q_len;
      const Outcome result = run(device, plan, s, inputs, {.causal = alignment});
      check_close(inputs, result);
      for (int row = 0; row < -inputs.causal_offset; ++row) {  // sees no key
        for (int c = 0; c < 64; ++c)
          CHECK((result.o[static_cast<std::size_t>(row * 64 + c)] & 0x7fff) == 0);
      }
    }
  }
  CHECK(emulator()->findings().empty());
}

TEST_CASE("the caller's softmax scale is used") {
  const reference::Shape s{.q_len = 20, .kv_len = 30, .head_dim = 64};
  reference::Inputs inputs = reference::generate("normal", s, 5, reference::IoType::f16);
  const Device device = device_of(EmulatorProfile::sm_80);
  const attention::Plan plan = plan_on(device, {.head_dim = 64});
  const Outcome standard = run(device, plan, s, inputs);
  inputs.softmax_scale = 0.5;
  const Outcome sharper = run(device, plan, s, inputs);
  check_close(inputs, sharper);
  CHECK(sharper.o != standard.o);
}

TEST_CASE("one Attention serves two threads that have their own workspaces") {
  const Device device = device_of(EmulatorProfile::sm_89);
  const attention::Plan plan = plan_on(device, {.head_dim = 64});
  constexpr int kThreads = 2, kRepeats = 4;
  std::vector<reference::Shape> shapes;
  std::vector<reference::Inputs> inputs;
  std::vector<Outcome> expected;
  for (int i = 0; i < kThreads; ++i) {
    shapes.push_back(
        {.q_heads = 2, .kv_heads = 1, .q_len = 50 + 30 * i, .kv_len = 90 - 40 * i, .head_dim = 64});
    inputs.push_back(reference::generate(
        "normal", shapes.back(), 20 + static_cast<std::uint64_t>(i), reference::IoType::f16));
    expected.push_back(run(device, plan, shapes.back(), inputs.back()));
  }
  // Catch2's assertions are for one thread: threads only collect.
  std::vector<std::vector<Bits>> outputs(kThreads);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      const reference::Shape& s = shapes[i];
      const Buffer q = upload(device, to_bits(inputs[i].q)),
                   k = upload(device, to_bits(inputs[i].k)),
                   v = upload(device, to_bits(inputs[i].v));
      const Buffer o(device, q.bytes());
      const Buffer workspace(device, plan.workspace_bytes(shape_of(s)));
      const Stream stream(device);
      for (int repeat = 0; repeat < kRepeats; ++repeat) {
        plan.run(shape_of(s),
                 {.q = hnd(q.data(), s.q_heads, s.q_len, 64),
                  .k = hnd(k.data(), s.kv_heads, s.kv_len, 64),
                  .v = hnd(v.data(), s.kv_heads, s.kv_len, 64),
                  .o = hnd(o.data(), s.q_heads, s.q_len, 64)},
                 workspace.data(), workspace.bytes(), stream.handle());
        stream.synchronize();
        outputs[i].push_back(download<std::uint16_t>(o));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (std::size_t i = 0; i < kThreads; ++i) {
    REQUIRE(outputs[i].size() == kRepeats);
    for (const Bits& output : outputs[i]) CHECK(output == expected[i].o);
  }
  CHECK(emulator()->findings().empty());
}

TEST_CASE("what the emulator finds is part of the driver error") {
  const reference::Shape s{.q_len = 10, .kv_len = 10, .head_dim = 64};
  const Device device = device_of(EmulatorProfile::sm_89);
  const attention::Plan plan = plan_on(device, {.head_dim = 64});
  const Bits values(640);
  const Buffer k = upload(device, values), v = upload(device, values), o(device, 1280);
  const DevicePtr freed = Buffer(device, 1280).data();
  const Buffer workspace(device, plan.workspace_bytes(shape_of(s)));
  emulator()->clear_findings();
  CHECK_THROWS_WITH(
      plan.run(shape_of(s),
               {.q = hnd(freed, 1, 10, 64),
                .k = hnd(k.data(), 1, 10, 64),
                .v = hnd(v.data(), 1, 10, 64),
                .o = hnd(o.data(), 1, 10, 64)},
               workspace.data(), workspace.bytes(), nullptr),
      Contains("cuLaunchKernel") && Contains("sage_quantrows_d64") && Contains("free"));
  CHECK_FALSE(emulator()->findings().empty());
  emulator()->clear_findings();
}

TEST_CASE("a stride of 0 reads one row for the whole axis") {
  const reference::Shape s{
      .batch = 2, .q_heads = 4, .kv_heads = 2, .q_len = 70, .kv_len = 65, .head_dim = 64};
  const Device device = device_of(EmulatorProfile::sm_89);
  const attention::Plan plan = plan_on(device, {.head_dim = 64});
  const reference::Inputs varied = reference::generate("normal", s, 5, reference::IoType::f16);
  for (reference::Tensor reference::Inputs::*const tensor :
       {&reference::Inputs::q, &reference::Inputs::k, &reference::Inputs::v}) {
    for (std::int64_t TensorView::*const axis :
         {&TensorView::stride_batch, &TensorView::stride_head, &TensorView::stride_token}) {
      // Every row along the axis is written out for what is expected; only the first is read then.
      reference::Inputs inputs = varied;
      reference::Tensor& x = inputs.*tensor;
      for (std::int64_t b = 0; b < x.batch; ++b) {
        for (std::int64_t h = 0; h < x.heads; ++h) {
          for (std::int64_t n = 0; n < x.tokens; ++n) {
            const std::int64_t row = ((axis == &TensorView::stride_batch ? 0 : b) * x.heads +
                                      (axis == &TensorView::stride_head ? 0 : h)) *
                                         x.tokens +
                                     (axis == &TensorView::stride_token ? 0 : n);
            const std::int64_t to = ((b * x.heads + h) * x.tokens + n) * x.channels;
            std::copy_n(x.data.begin() + row * x.channels, x.channels, x.data.begin() + to);
          }
        }
      }
      const Bits expected = run(device, plan, s, inputs).o;
      attention::Arguments arguments;
      std::vector<Buffer> memory;
      for (const auto& [from, view] : {std::pair{&varied.q, &arguments.q},
                                       {&varied.k, &arguments.k},
                                       {&varied.v, &arguments.v}}) {
        memory.push_back(upload(device, to_bits(*from)));
        *view = hnd(memory.back().data(), from->heads, from->tokens, 64);
        if (from == &(varied.*tensor)) view->*axis = 0;
      }
      const Buffer o(device, expected.size() * sizeof(std::uint16_t));
      arguments.o = hnd(o.data(), s.q_heads, s.q_len, 64);
      const Buffer workspace(device, plan.workspace_bytes(shape_of(s)));
      plan.run(shape_of(s), arguments, workspace.data(), workspace.bytes(), nullptr);
      CHECK(download<std::uint16_t>(o) == expected);
    }
  }
  CHECK(emulator()->findings().empty());
}

TEST_CASE("strides beyond 2^32 bytes reach the right rows") {
  // Two slabs of memory, more than 2^32 bytes apart because the emulator never hands out an address
  // twice. Whichever axis has two entries, its stride leads from the first slab to the second.
  constexpr std::int64_t kRows = 2, kChannels = 64;
  const Device device = device_of(EmulatorProfile::sm_89);
  const attention::Plan plan = plan_on(device, {.head_dim = kChannels});
  const std::size_t slab_bytes = kRows * kRows * kChannels * sizeof(std::uint16_t);
  Buffer low(device, slab_bytes);
  for (int i = 0; i < 520; ++i)
    Buffer(device, std::size_t{1} << 23);  // small ones: the host reuses them
  Buffer high(device, slab_bytes);
  const auto stride = static_cast<std::int64_t>((high.data() - low.data()) / sizeof(std::uint16_t));
  REQUIRE(stride > std::int64_t{1} << 31);

  const reference::Shape s{.batch = kRows,
                           .q_heads = kRows,
                           .kv_heads = kRows,
                           .q_len = kRows,
                           .kv_len = kRows,
                           .head_dim = kChannels};
  const attention::Shape shape = shape_of(s);
  const reference::Inputs inputs = reference::generate("normal", s, 42, reference::IoType::f16);
  const Bits expected = run(device, plan, s, inputs).o;

  enum Axis { batch, head, token };
  enum Which { q, k, v, o };
  for (const Which which : {q, k, v, o}) {
    for (const Axis axis : {batch, head, token}) {
      INFO("tensor " << which << " axis " << axis);
      // Element (b, h, n) of the chosen tensor lies in the slab given by its index along `axis`, at
      // the place given by the other two.
      const auto place = [&](std::int64_t b, std::int64_t h, std::int64_t n) {
        const std::int64_t index[] = {b, h, n};
        std::int64_t within = 0;
        for (const Axis other : {batch, head, token}) {
          if (other != axis) within = within * kRows + index[other];
        }
        return std::pair{index[axis], within * kChannels};
      };
      TensorView view{.data = low.data(),
                      .stride_batch = place(1, 0, 0).second,
                      .stride_head = place(0, 1, 0).second,
                      .stride_token = place(0, 0, 1).second};
      (axis == batch  ? view.stride_batch
       : axis == head ? view.stride_head
                      : view.stride_token) = stride;
      const auto for_each_row = [&](Bits(&slabs)[2], Bits& contiguous, bool scatter) {
        for (std::int64_t row = 0; row < kRows * kRows * kRows; ++row) {
          const auto [slab, offset] = place(row / 4, row / 2 % 2, row % 2);
          const auto there = slabs[slab].begin() + offset;
          const auto here = contiguous.begin() + row * kChannels;
          scatter ? std::copy_n(here, kChannels, there) : std::copy_n(there, kChannels, here);
        }
      };

      Bits tensors[] = {to_bits(inputs.q), to_bits(inputs.k), to_bits(inputs.v), expected};
      Bits slabs[] = {Bits(slab_bytes / 2), Bits(slab_bytes / 2)};
      if (which != o) {
        for_each_row(slabs, tensors[which], true);
        low.upload(std::as_bytes(std::span(slabs[0])));
        high.upload(std::as_bytes(std::span(slabs[1])));
      }
      const Buffer memory[] = {upload(device, tensors[q]), upload(device, tensors[k]),
                               upload(device, tensors[v]), Buffer(device, expected.size() * 2)};
      TensorView views[4];
      for (const Which other : {q, k, v, o}) {
        views[other] = hnd(memory[other].data(), kRows, kRows, kChannels);
      }
      views[which] = view;
      const Buffer workspace(device, plan.workspace_bytes(shape));
      plan.run(shape, {.q = views[q], .k = views[k], .v = views[v], .o = views[o]},
               workspace.data(), workspace.bytes(), nullptr);
      Bits result = expected;
      if (which == o) {
        slabs[0] = download<std::uint16_t>(low);
        slabs[1] = download<std::uint16_t>(high);
        std::fill(result.begin(), result.end(), std::uint16_t{0});
        for_each_row(slabs, result, false);
      } else {
        result = download<std::uint16_t>(memory[o]);
      }
      CHECK(result == expected);
    }
  }
  CHECK(emulator()->findings().empty());
}
