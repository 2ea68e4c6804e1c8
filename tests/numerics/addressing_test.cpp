// Where kernels find an element, whatever the strides: those of 0, and those that lead beyond 2^31 and 2^32 bytes and
// 2^31 elements, in each axis of each tensor of the caller and in every kernel that touches it. A tensor that spans
// gigabytes takes little memory in the emulator: nothing backs what nobody touches, and reading it is a finding. Of
// long sequences a few rows are judged.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "sagegen/emit.h"
#include "templates/attention/params.h"
#include "tests/numerics/scene.h"
#include "tools/reference/mods.h"
#include "tools/reference/rounding.h"
#include "tools/sagegen/run_judge.h"

using namespace sagegen;
namespace rt = sagegen::runtime;
namespace ref = sagegen::reference;
using test::Scene;
using test::spec_of;

namespace {

// A kernel that touches the caller's tensors, with its inputs, stands for each of the ways there are to do so:
// statistics of K and V, codes of both of each kind and of both of V, largest values of heads, mean queries, and the
// attention kernel that reads Q, K and V itself.
const std::vector<std::string>& keys() {
  static const std::vector<std::string> all{
      "sage_fwd_d32_f16_qk_s8t_g32x64_smk_pv_e4m3_f32x2__q128k64w4s2__sm89",
      "sage_fwd_d32_bf16_qk_s4t_g32x64_smqk_pv_f16_f32_causal__q128k64w4s2__sm80",
      "sage_fwd_d64_dv32_f16_qk_s8a_g32x64_sm0_pv_e4m3_f32x2_smv__q128k64w4s2__sm89",
      "sage_fwd_d32_dv64_bf16_qk_bf16t_g32x64_sm0_pv_bf16_f32__q64k32w4s2__sm80",
      "sage_fwd_d32_f16_qk_f16t_g32x64_sm0_pv_e4m3_f32x2_causal__q128k64w4s2__sm120"};
  return all;
}

enum Axis { kBatch, kHead, kToken };
constexpr std::array kAxisNames = {"batch", "head", "token"};
std::int64_t& stride_of(rt::TensorView& view, Axis axis) {
  return axis == kBatch ? view.stride_batch : axis == kHead ? view.stride_head : view.stride_token;
}

std::uint16_t to_bits(DType io, double value) {
  return io == DType::f16 ? ref::f16_bits(value) : ref::bf16_bits(value);
}

// Memory of a range of addresses, of which only what is written or read by name is there.
class SparseMemory {
 public:
  SparseMemory(const rt::Device& device, std::int64_t bytes)
      : device_(device), buffer_(device, static_cast<std::size_t>(bytes)) {}
  rt::DevicePtr data() const { return buffer_.data(); }
  template <typename T>
  void put(std::int64_t at_byte, const std::vector<T>& values) {
    const rt::Device::Scope scope(device_);
    rt::check(device_.api(),
              device_.api().copy_to_device(data() + static_cast<rt::DevicePtr>(at_byte),
                                           values.data(), values.size() * sizeof(T), nullptr),
              "copy");
  }
  template <typename T>
  std::vector<T> get(std::int64_t at_byte, std::size_t count) const {
    std::vector<T> values(count);
    const rt::Device::Scope scope(device_);
    rt::check(
        device_.api(),
        device_.api().copy_to_host(values.data(), data() + static_cast<rt::DevicePtr>(at_byte),
                                   values.size() * sizeof(T), nullptr),
        "copy");
    return values;
  }

 private:
  rt::Device device_;
  rt::Buffer buffer_;
};

// A tensor of the caller with any strides, packed unless told otherwise.
class StridedTensor {
 public:
  // stride: of one axis, in place of the packed one; negative: none.
  StridedTensor(const rt::Device& device, const ref::Tensor& like, DType io, Axis axis,
                std::int64_t stride)
      : like_(like),
        io_(io),
        view_(rt::hnd(0, like.heads, like.tokens, static_cast<int>(like.channels))),
        memory_(
            device, kElementBytes * [&] {
              if (stride >= 0) stride_of(view_, axis) = stride;
              return at(like.batch - 1, like.heads - 1, like.tokens - 1) + like.channels;
            }()) {
    view_.data = memory_.data();
  }
  void upload() {
    each_row([&](std::int64_t at, const float* row) {
      std::vector<std::uint16_t> bits;
      for (std::int64_t c = 0; c < like_.channels; ++c) bits.push_back(to_bits(io_, row[c]));
      memory_.put(kElementBytes * at, bits);
    });
  }
  std::vector<double> download() const {
    std::vector<double> values;
    each_row([&](std::int64_t at, const float*) {
      for (const std::uint16_t bits :
           memory_.get<std::uint16_t>(kElementBytes * at, static_cast<std::size_t>(like_.channels)))
        values.push_back(io_ == DType::f16 ? ref::f16_value(bits) : ref::bf16_value(bits));
    });
    return values;
  }
  const rt::TensorView& view() const { return view_; }

 private:
  static constexpr std::int64_t kElementBytes = 2;
  std::int64_t at(std::int64_t b, std::int64_t h, std::int64_t n) const {
    return b * view_.stride_batch + h * view_.stride_head + n * view_.stride_token;
  }
  template <typename Visit>
  void each_row(const Visit& visit) const {
    for (std::int64_t b = 0; b < like_.batch; ++b) {
      for (std::int64_t h = 0; h < like_.heads; ++h) {
        for (std::int64_t n = 0; n < like_.tokens; ++n) visit(at(b, h, n), like_.row(b, h, n));
      }
    }
  }

  ref::Tensor like_;
  DType io_;
  rt::TensorView view_;
  SparseMemory memory_;
};

enum Which { kQ, kK, kV, kO };
constexpr std::array kTensorNames = {"q", "k", "v", "o"};

// The stride of one axis of one tensor in place of that of packed rows.
struct Placed {
  Which tensor = kQ;
  Axis axis = kBatch;
  std::int64_t stride = -1;
};
std::string text_of(const Placed& placed) {
  return std::string(kTensorNames[placed.tensor]) + ".stride_" + kAxisNames[placed.axis] + " " +
         std::to_string(placed.stride);
}

// Runs, and demands what `sagegen run` demands of every row.
void check(const cli::AttentionJob& job, const cli::RunDevice& on, const std::vector<Placed>& all,
           const attention::ModArguments& mods = {}) {
  const ref::Inputs& in = job.inputs;
  const attention::Plan plan(
      on.device, Kernel(attention::family(), job.spec, job.schedule, on.target), job.source);
  std::string text = test::text_of(job, on);
  for (const Placed& placed : all) text += ", " + text_of(placed);
  INFO(text);
  const auto tensor = [&](Which which, const ref::Tensor& like) {
    Placed found{.tensor = which};
    for (const Placed& placed : all) found = placed.tensor == which ? placed : found;
    return StridedTensor(on.device, like, job.spec.io, found.axis, found.stride);
  };
  StridedTensor q = tensor(kQ, in.q), k = tensor(kK, in.k), v = tensor(kV, in.v),
                o = tensor(kO, {in.q.batch, in.q.heads, in.q.tokens, in.v.channels});
  for (StridedTensor* read : {&q, &k, &v}) read->upload();
  const attention::Shape shape{.batch = in.q.batch,
                               .q_heads = in.q.heads,
                               .kv_heads = in.k.heads,
                               .q_len = in.q.tokens,
                               .kv_len = in.k.tokens};
  const auto rows = static_cast<std::size_t>(in.q.batch * in.q.heads * in.q.tokens);
  const rt::Buffer lse(on.device, rows * sizeof(float));
  const rt::Buffer workspace(on.device, std::max<std::size_t>(plan.workspace_bytes(shape), 1));
  const attention::Arguments arguments{.q = q.view(),
                                       .k = k.view(),
                                       .v = v.view(),
                                       .o = o.view(),
                                       .lse = lse.data(),
                                       .causal = job.causal,
                                       .mods = mods};
  cli::AttentionResult result;
  try {
    plan.run(shape, arguments, workspace.data(), workspace.bytes(), nullptr);
    on.device.synchronize();
    result.o = o.download();
    std::vector<float> lse_values(rows);
    lse.download(std::as_writable_bytes(std::span(lse_values)));
    result.lse.assign(lse_values.begin(), lse_values.end());
  } catch (const rt::DriverError&) {
    if (on.emulator->findings().empty()) throw;
  }
  result.findings = on.emulator->findings();
  for (const rt::Finding& finding : result.findings) FAIL_CHECK(test::text_of(finding));
  const cli::JudgeOptions all_rows{.rows = 0};
  const cli::Judgement judgement = cli::judge(job, result, on, all_rows);
  if (!judgement.passed) UNSCOPED_INFO(cli::judgement_text(judgement, job, all_rows, true));
  CHECK(judgement.passed);
}

constexpr ref::Shape kShape{.batch = 3, .q_heads = 6, .kv_heads = 3, .q_len = 70, .kv_len = 70};

Scene scene_of(const Kernel& kernel, const ref::Shape& shape) {
  return {.kernel = kernel, .inputs = test::inputs_for(kernel, "outlier", shape, 5)};
}

// The first batch, head or token in place of all.
void broadcast(ref::Tensor& tensor, Axis axis) {
  for (std::int64_t b = 0; b < tensor.batch; ++b) {
    for (std::int64_t h = 0; h < tensor.heads; ++h) {
      for (std::int64_t n = 0; n < tensor.tokens; ++n) {
        const float* from =
            tensor.row(axis == kBatch ? 0 : b, axis == kHead ? 0 : h, axis == kToken ? 0 : n);
        std::copy_n(from, tensor.channels, tensor.row(b, h, n));
      }
    }
  }
}
ref::Tensor& tensor_of(ref::Inputs& in, Which which) {
  return which == kQ ? in.q : which == kK ? in.k : in.v;
}

void check_broadcast(const Kernel& kernel, const std::vector<std::pair<Which, Axis>>& axes) {
  Scene scene = scene_of(kernel, kShape);
  std::vector<Placed> placed;
  for (const auto& [which, axis] : axes) {
    broadcast(tensor_of(scene.inputs, which), axis);
    placed.push_back({which, axis, 0});
  }
  const cli::RunDevice on = test::device_of(scene);
  check(test::job_of(scene), on, placed);
}

// So that the axis ends beyond 2^31 elements, which is 2^32 bytes, and has passed 2^31 bytes before. Of tokens, of
// which one tile has many, those in the second tile of 64 are beyond. Heads of Q and O are twice those of K and V.
Placed far(Which which, Axis axis) {
  constexpr std::int64_t kElements = std::int64_t{1} << 31;
  const bool many_heads = axis == kHead && (which == kQ || which == kO);
  const std::int64_t steps = axis == kToken ? 64 : many_heads ? 4 : 2;
  return {which, axis, kElements / steps + 8};
}

}  // namespace

TEST_CASE("strides of 0: one row, head or batch read many times", "[fast]") {
  // K and V of one batch for all, as of a common prefix; one head for all, where others take GQA.
  const Kernel kernel = parse_key(keys()[0]);
  check_broadcast(kernel, {{kK, kBatch}, {kV, kBatch}});
  check_broadcast(kernel, {{kK, kHead}, {kV, kHead}});
  check_broadcast(parse_key(keys()[3]), {{kK, kHead}, {kV, kHead}});
}

TEST_CASE("strides of 0 of each axis of Q, K and V, in every kernel that reads them", "[full]") {
  for (const std::string& key : keys()) {
    for (const Which which : {kQ, kK, kV}) {
      for (const Axis axis : {kBatch, kHead, kToken})
        check_broadcast(parse_key(key), {{which, axis}});
    }
    check_broadcast(parse_key(key), {{kQ, kToken}, {kK, kBatch}, {kV, kHead}});
  }
}

TEST_CASE("offsets beyond 2^31 bytes, 2^32 bytes and 2^31 elements", "[fast]") {
  const Scene scene = scene_of(parse_key(keys()[3]), kShape);
  for (const Placed& placed : {far(kK, kToken), far(kO, kHead), far(kV, kBatch)}) {
    const cli::RunDevice on = test::device_of(scene);
    check(test::job_of(scene), on, {placed});
  }
}

TEST_CASE("such offsets in each axis of Q, K, V and O, in every kernel that touches them",
          "[full]") {
  for (const std::string& key : keys()) {
    const Scene scene = scene_of(parse_key(key), kShape);
    for (const Which which : {kQ, kK, kV, kO}) {
      for (const Axis axis : {kBatch, kHead, kToken}) {
        const cli::RunDevice on = test::device_of(scene);
        check(test::job_of(scene), on, {far(which, axis)});
      }
    }
  }
}

namespace {

// Elements [batch, head, query, key] of a bias or a mask: packed, but for one axis, whose steps are as large as far()
// has them. Packed axes are in the order of the axes, or with queries last where keys are the far one.
enum ScoreAxisName { kOfBatch, kOfHead, kOfQuery, kOfKey };
constexpr std::array kScoreAxes = {"batch", "head", "query", "key"};

struct FarScores {
  attention::ScoreTensor tensor;
  std::unique_ptr<SparseMemory> memory;
};

template <typename T>
FarScores place_far(const rt::Device& device, const std::vector<T>& packed,
                    const std::array<std::int64_t, 4>& sizes, ScoreAxisName far_axis) {
  constexpr std::int64_t kBytes = std::int64_t{1} << 32;
  const std::array<std::int64_t, 4> steps_to_far{2, 4, 64, 64};
  std::array<std::int64_t, 4> strides{}, packed_strides{};
  std::int64_t stride = 1, packed_stride = 1;
  for (const int axis : {kOfKey, kOfQuery, kOfHead, kOfBatch}) {
    packed_strides[static_cast<std::size_t>(axis)] = packed_stride;
    packed_stride *= sizes[static_cast<std::size_t>(axis)];
    if (axis == far_axis) continue;
    strides[static_cast<std::size_t>(axis)] = stride;
    stride *= sizes[static_cast<std::size_t>(axis)];
  }
  const auto item = static_cast<std::int64_t>(sizeof(T));
  strides[far_axis] = kBytes / item / steps_to_far[far_axis] + 8;
  const std::int64_t end = (sizes[far_axis] - 1) * strides[far_axis] + stride;
  FarScores result{.tensor = {}, .memory = std::make_unique<SparseMemory>(device, end * item)};
  // All that shares an index of the far axis lies in one piece.
  for (std::int64_t far = 0; far < sizes[far_axis]; ++far) {
    std::vector<T> piece(static_cast<std::size_t>(stride));
    for (std::size_t i = 0; i < packed.size(); ++i) {
      std::int64_t to = 0, index_of_far = 0;
      for (std::size_t axis = 0; axis < 4; ++axis) {
        const std::int64_t index =
            static_cast<std::int64_t>(i) / packed_strides[axis] % sizes[axis];
        if (axis == static_cast<std::size_t>(far_axis))
          index_of_far = index;
        else
          to += index * strides[axis];
      }
      if (index_of_far == far) piece[static_cast<std::size_t>(to)] = packed[i];
    }
    result.memory->put(far * strides[far_axis] * item, piece);
  }
  result.tensor = {.data = result.memory->data(),
                   .stride_batch = strides[kOfBatch],
                   .stride_head = strides[kOfHead],
                   .stride_query = strides[kOfQuery],
                   .stride_key = strides[kOfKey]};
  return result;
}

// Bias, or mask, with one axis far apart.
void check_far_scores(const Kernel& kernel, bool mask, ScoreAxisName axis) {
  const ref::Shape shape{.batch = 3, .q_heads = 6, .kv_heads = 3, .q_len = 66, .kv_len = 68};
  Scene scene = scene_of(kernel, shape);
  const std::array<std::int64_t, 4> sizes{shape.batch, shape.q_heads, shape.q_len, shape.kv_len};
  const ref::Strides packed{sizes[1] * sizes[2] * sizes[3], sizes[2] * sizes[3], sizes[3], 1};
  const auto count = static_cast<std::size_t>(sizes[0] * packed[0]);
  std::vector<float> values;
  std::vector<std::uint16_t> bits;
  std::vector<std::uint8_t> seen;
  for (std::size_t i = 0; i < count; ++i) {
    const float value = static_cast<float>(i * 37 % 101) / 32 - 1.5f;  // exact in 16 bits
    values.push_back(value);
    bits.push_back(to_bits(spec_of(kernel).io, value));
    seen.push_back(i * 31 % 7 < 5 ? 1 : 0);
  }
  scene.inputs.mods = {mask ? ref::mask(seen, packed) : ref::bias(values, packed)};
  const cli::RunDevice on = test::device_of(scene);
  const FarScores far_scores =
      mask ? place_far(on.device, seen, sizes, axis) : place_far(on.device, bits, sizes, axis);
  attention::ModArguments mods;
  (mask ? mods.mask : mods.bias) = far_scores.tensor;
  INFO((mask ? "mask" : "bias") << ", far " << kScoreAxes[axis]);
  check(test::job_of(scene), on, {}, mods);
}

}  // namespace

TEST_CASE("a bias and a mask beyond 2^31 and 2^32 bytes in each axis", "[full]") {
  for (const char* key :
       {"sage_fwd_d32_f16_qk_s8t_g32x64_smk_pv_e4m3_f32x2%s__q128k64w4s2__sm89",
        "sage_fwd_d32_bf16_qk_bf16t_g32x64_sm0_pv_bf16_f32%s__q64k32w4s2__sm80"}) {
    for (const bool mask : {false, true}) {
      std::string text = key;
      text.replace(text.find("%s"), 2, mask ? "_mask" : "_bias");
      for (const ScoreAxisName axis : {kOfBatch, kOfHead, kOfQuery, kOfKey})
        check_far_scores(parse_key(text), mask, axis);
    }
  }
}

namespace {

// Memory for some rows of each head, so far apart that the last one begins beyond 2^31 elements of f32. An address is
// never given twice: what is taken and given back in between keeps them apart.
std::vector<rt::Buffer> far_apart(const rt::Device& device, std::int64_t heads, std::size_t bytes) {
  constexpr std::size_t kBetween = std::size_t{7} << 30;
  std::vector<rt::Buffer> pieces;
  for (std::int64_t head = 0; head < heads; ++head) {
    pieces.emplace_back(device, bytes);
    const rt::Buffer between(device, kBetween);
  }
  return pieces;
}

}  // namespace

// A launch of the first block of each head of sequences so long that the LSE of the third head begins beyond 2^31
// elements; what the kernel reads and O are no longer than the block.
TEST_CASE("an LSE of more than 2^31 elements", "[fast]") {
  const Kernel kernel =
      parse_key("sage_fwd_d32_f16_qk_f16t_g32x64_sm0_pv_f16_f32__q64k32w4s2__sm80");
  constexpr std::int64_t kHeads = 3, kRows = 64, kKeys = 70;
  const Scene scene = scene_of(
      kernel, {.batch = 1, .q_heads = kHeads, .kv_heads = 1, .q_len = kRows, .kv_len = kKeys});
  const cli::RunDevice on = test::device_of(scene);
  const auto tensor = [&](const ref::Tensor& like) {
    return StridedTensor(on.device, like, DType::f16, kBatch, -1);
  };
  StridedTensor q = tensor(scene.inputs.q), k = tensor(scene.inputs.k), v = tensor(scene.inputs.v),
                o = tensor(scene.inputs.q);
  for (StridedTensor* read : {&q, &k, &v}) read->upload();
  const Artifact artifact = test::emitted(kernel);
  const ParamLayout layout = kernel.params();
  const rt::Kernel loaded(on.device, artifact.code, artifact.key, artifact.resources.threads,
                          static_cast<int>(artifact.resources.dynamic_smem), layout.bytes());
  const auto run = [&](rt::DevicePtr lse, std::int64_t q_len) {
    ParamPack params(layout);
    attention::Params block{};
    block.v = v.view().param();
    block.o = o.view().param();
    block.lse = lse;
    block.q_len = block.q_len_padded = static_cast<std::int32_t>(q_len);
    block.kv_len = block.kv_len_padded = kKeys;
    block.heads_per_kv_head = kHeads;
    params.set(block);
    params.set(
        attention::UnquantizedParams{.q = q.view().param(), .k = k.view().param(), .unit = 0.25f});
    loaded.launch_block({.x = 1, .y = kHeads}, params.data(), params.bytes(), nullptr);
    on.device.synchronize();
  };
  std::vector<float> packed(kHeads * kRows), of_head(kRows);
  const rt::Buffer together(on.device, packed.size() * sizeof(float));
  run(together.data(), kRows);
  together.download(std::as_writable_bytes(std::span(packed)));
  CHECK(std::isfinite(packed[0]));
  CHECK(packed[0] != packed[kRows]);

  const std::vector<rt::Buffer> apart = far_apart(on.device, kHeads, kRows * sizeof(float));
  const auto distance = static_cast<std::int64_t>(apart[1].data() - apart[0].data());
  REQUIRE(apart[2].data() - apart[1].data() == static_cast<rt::DevicePtr>(distance));
  REQUIRE(distance / 4 * 2 > std::int64_t{1} << 31);
  run(apart[0].data(), distance / 4);
  for (std::size_t head = 0; head < apart.size(); ++head) {
    apart[head].download(std::as_writable_bytes(std::span(of_head)));
    CHECK(std::equal(of_head.begin(), of_head.end(),
                     packed.begin() + static_cast<std::ptrdiff_t>(head) * kRows));
  }
  for (const rt::Finding& finding : on.emulator->findings()) FAIL_CHECK(test::text_of(finding));
}

// Kernels that attend a part of the problem are told where it begins. Told that the part is the end of a sequence of
// 2^29 or 2^30 queries more, and given addresses that are as much lower, they have to come to the same places.
TEST_CASE("queries beyond 2^29 and 2^30: their codes, scales, corrections and O", "[fast]") {
  struct Late {
    const char* key;
    std::int64_t first;
    std::int64_t scale_bytes;  // of a row, on average
  };
  constexpr Late kLate[] = {{"sage_fwd_d32_f16_qk_s8r_g32x64_smqk_pv_e4m3_f32x2__q128k64w4s2__sm89",
                             std::int64_t{1} << 29, 4},
                            {"sage_fwd_d32_bf16_qk_s4t_g16x64_smqk_pv_f16_f32__q64k64w4s2__sm80",
                             std::int64_t{1} << 30, 2},
                            {"sage_fwd_d32_f16_qk_s8t_g32x64_smqk_pv_e4m3_f32x2__q128k64w4s2__sm89",
                             std::int64_t{1} << 30, 1}};
  constexpr std::int64_t kRows = 128, kKeys = 70;
  for (const Late& late : kLate) {
    INFO(late.key);
    const Kernel kernel = parse_key(late.key);
    const attention::Spec& spec = spec_of(kernel);
    const Scene scene = scene_of(
        kernel, {.batch = 1, .q_heads = 1, .kv_heads = 1, .q_len = kRows, .kv_len = kKeys});
    const cli::RunDevice on = test::device_of(scene);
    const attention::Plan plan(on.device, kernel, test::emitted);
    const auto tensor = [&](const ref::Tensor& like) {
      return StridedTensor(on.device, like, spec.io, kBatch, -1);
    };
    StridedTensor q = tensor(scene.inputs.q), k = tensor(scene.inputs.k),
                  v = tensor(scene.inputs.v), o = tensor(scene.inputs.q),
                  o_late = tensor(scene.inputs.q);
    for (StridedTensor* read : {&q, &k, &v}) read->upload();
    const attention::Shape shape{.q_len = kRows, .kv_len = kKeys};
    const rt::Buffer workspace(on.device, plan.workspace_bytes(shape));
    plan.run(shape, {.q = q.view(), .k = k.view(), .v = v.view(), .o = o.view()}, workspace.data(),
             workspace.bytes(), nullptr);
    const auto scratch = [&](std::string_view name) {
      for (const auto& each : plan.scratch(shape, attention::Lse::unwanted)) {
        if (each.name == name) return workspace.data() + static_cast<rt::DevicePtr>(each.offset);
      }
      return rt::DevicePtr{0};
    };
    const auto before = [&](rt::DevicePtr address, std::int64_t bytes_of_row) {
      return address - static_cast<rt::DevicePtr>(late.first * bytes_of_row);
    };
    attention::Params block{};
    block.q_codes = before(scratch("q_codes"), code_row_bytes(spec.qk, spec.head_dim));
    block.q_scale = before(scratch("q_scale"), late.scale_bytes);
    block.k_codes = scratch("k_codes");
    block.k_scale = scratch("k_scale");
    block.v.data = scratch("v_codes");
    block.v_scale = scratch("v_scale");
    block.o = o_late.view().param();
    block.o.data = before(block.o.data, 2 * block.o.stride_token);
    block.q_len = block.q_len_padded = static_cast<std::int32_t>(late.first + kRows);
    block.kv_len = kKeys;
    block.kv_len_padded = 128;
    block.heads_per_kv_head = 1;
    const Artifact artifact = test::emitted(kernel);
    const ParamLayout layout = kernel.params();
    const rt::Kernel loaded(on.device, artifact.code, artifact.key, artifact.resources.threads,
                            static_cast<int>(artifact.resources.dynamic_smem), layout.bytes());
    ParamPack params(layout);
    params.set(block);
    params.set(attention::MeanScoreParams{
        .mean_scores = scratch("mean_scores"),
        .heads = 1,
        .first_batch = 0,
        .first_head = 0,
        .first_block = static_cast<std::int32_t>(late.first / kMeanRows)});
    const auto blocks = static_cast<unsigned>(kRows / test::schedule_of(kernel).cta_q);
    try {
      loaded.launch_block({.x = blocks}, params.data(), params.bytes(), nullptr);
      on.device.synchronize();
      CHECK(o_late.download() == o.download());
    } catch (const rt::DriverError& error) {
      FAIL_CHECK(error.what());
    }
    for (const rt::Finding& finding : on.emulator->findings()) FAIL_CHECK(test::text_of(finding));
  }
}

TEST_CASE("sequences of 2^17 + 77 keys", "[slow]") {
  for (const std::string& key : keys()) {
    const Kernel kernel = parse_key(key);
    Scene scene = scene_of(kernel, {.batch = 1,
                                    .q_heads = 1,
                                    .kv_heads = 1,
                                    .q_len = 5,
                                    .kv_len = (std::int64_t{1} << 17) + 77});
    scene.alignment = attention::CausalAlignment::bottom_right;
    const cli::RunDevice on = test::device_of(scene);
    check(test::job_of(scene), on, {});
  }
}
