// Probes of the bulk copies of compute capability 9.0: boxes of tensors between global and shared
// memory, with parts outside of the tensor and every swizzle, and plain runs of bytes. A case is
// one warp. Its results are the image of shared memory (loads) or of global memory (stores), with
// what no copy may touch.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "tools/hardware/probe_list.h"

namespace sagegen::hardware {
namespace {

using runtime::TensorMapFill;
using runtime::TensorMapLayout;
using runtime::TensorMapSwizzle;
using runtime::TensorMapType;

constexpr std::uint64_t kPitch = 256;  // bytes of a row
constexpr std::uint64_t kCaseBytes =
    2048;  // of operands that are part of the tensor: 16 words per thread
constexpr std::uint64_t kWidth = 200;  // bytes of a row inside the tensor
constexpr int kImageWords = 16;        // per thread, of shared memory
constexpr int kBarrier = 2048;         // offset in shared memory, behind the image
constexpr int kSharedBytes = 3072;

int element_bytes(TensorMapType type) {
  return type == TensorMapType::u8 ? 1 : type == TensorMapType::s32 ? 4 : 2;
}

// Bytes that a copy leaves alone keep this pattern.
std::string paint_shared() {
  std::string text = "\tmov.u32 %r6, 0xa5a5a5a5;\n\tmad.lo.u32 %r7, %lane, 4, %shared;\n";
  for (int i = 0; i < kImageWords; ++i) {
    text += fmt::format("\tst.shared.b32 [%r7+{}], %r6;\n", 4 * kLanes * i);
  }
  return text;
}

// Waits for the copy and reads the image. If the copy's bytes do not add up to those expected the
// barrier never flips: after many polls the last result is 0 instead of 1.
std::string wait_and_read() {
  std::string text =
      "\tmov.u32 %r8, 0;\n"
      "$poll:\n"
      "\tmbarrier.test_wait.parity.shared::cta.b64 %p1, [%r9], 0;\n"
      "\tadd.u32 %r8, %r8, 1;\n"
      "\tsetp.lt.u32 %p2, %r8, 1000000;\n"
      "\tnot.pred %p3, %p1;\n"
      "\tand.pred %p2, %p2, %p3;\n"
      "\t@%p2 bra $poll;\n"
      "\tbar.warp.sync 0xffffffff;\n";
  for (int i = 0; i < kImageWords; ++i) {
    text += fmt::format("\tld.shared.b32 %out{}, [%r7+{}];\n", i, 4 * kLanes * i);
  }
  return text + fmt::format("\tselp.b32 %out{}, 1, 0, %p1;\n", kImageWords);
}

// A barrier for one arrival at [%r9], visible to the copy unit.
std::string make_barrier() {
  return fmt::format(
      "\tadd.u32 %r9, %shared, {};\n"
      "\tsetp.eq.u32 %p4, %lane, 0;\n"
      "\t@%p4 mbarrier.init.shared::cta.b64 [%r9], 1;\n"
      "\tfence.proxy.async;\n"
      "\tbar.warp.sync 0xffffffff;\n",
      kBarrier);
}

// Coordinates are words of the case's operands, behind those of the tensor: %r10.., innermost
// first.
std::string read_coordinates(int rank) {
  std::string text;
  for (int i = 0; i < rank; ++i) {
    text += fmt::format("\tld.global.b32 %r{}, [%case_in+{}];\n", 10 + i,
                        kCaseBytes + 4 * static_cast<unsigned>(i));
  }
  return text;
}

struct BoxProbe {
  TensorMapType type = TensorMapType::u8;
  TensorMapSwizzle swizzle = TensorMapSwizzle::none;
  int rank = 2;
  int inner = 64;  // bytes of a row of the box
  TensorMapFill fill = TensorMapFill::zeros;
};

constexpr int kBoxCases = 24;

// The tensor of all cases: as many bytes per case as fit, and the cases as its outermost dimension.
TensorMapLayout tensor_of(const BoxProbe& box, std::uint64_t case_pitch) {
  const auto bytes = static_cast<std::uint64_t>(element_bytes(box.type));
  const auto inner = static_cast<std::uint32_t>(box.inner / element_bytes(box.type));
  TensorMapLayout layout{.type = box.type,
                         .rank = box.rank,
                         .shape = {kWidth / bytes},
                         .box = {inner},
                         .swizzle = box.swizzle,
                         .fill = box.fill};
  if (box.rank == 2) {
    layout.shape[1] = kBoxCases;
    layout.strides = {case_pitch};
    layout.box[1] = 16;
  } else if (box.rank == 3) {
    layout.shape[1] = 7;
    layout.shape[2] = kBoxCases;
    layout.strides = {kPitch, case_pitch};
    layout.box[1] = layout.box[2] = 4;
  } else {
    layout.shape[1] = 3;
    layout.shape[2] = 2;
    layout.shape[3] = kBoxCases;
    layout.strides = {kPitch, 4 * kPitch, case_pitch};
    layout.box[1] = 4;
    layout.box[2] = layout.box[3] = 2;
  }
  return layout;
}

// From a box entirely before the tensor to one entirely behind it, in each dimension.
std::uint32_t coordinate(const TensorMapLayout& layout, std::size_t dimension, Random& random) {
  const int box = static_cast<int>(layout.box[dimension]);
  const int shape = static_cast<int>(layout.shape[dimension]);
  return static_cast<std::uint32_t>(random.below(shape + 2 * box + 1) - box - box / 4);
}

std::string suffix(const BoxProbe& box) {
  constexpr const char* kSwizzles[] = {"plain", "swizzle32", "swizzle64", "swizzle128"};
  constexpr const char* kTypes[] = {"u8", "u16", "u32", "s32", "", "", "f16", "f32", "", "bf16"};
  return fmt::format("{}d_{}_{}x{}{}", box.rank, kTypes[static_cast<int>(box.type)],
                     kSwizzles[static_cast<int>(box.swizzle)], box.inner,
                     box.fill == TensorMapFill::nan ? "_nan" : "");
}

Probe on_hopper(std::string name, std::string what, int inputs, int outputs) {
  Probe probe;
  probe.name = std::move(name);
  probe.what = std::move(what);
  probe.compute_capability = 90;
  probe.target = "sm_90";
  probe.inputs = inputs;
  probe.outputs = outputs;
  probe.cases = kBoxCases;
  probe.shared_bytes = kSharedBytes;
  return probe;
}

// Runs `visit(inside, tensor byte, box byte)` for all bytes of a box whose first element has these
// coordinates.
template <typename Visit>
void for_each_byte(const TensorMapLayout& layout, const std::array<std::int64_t, 4>& first,
                   Visit visit) {
  const auto rank = static_cast<std::size_t>(layout.rank);
  const std::int64_t size = element_bytes(layout.type);
  std::int64_t elements = 1;
  for (std::size_t i = 0; i < rank; ++i) {
    elements *= layout.box[i];
  }
  for (std::int64_t element = 0; element < elements; ++element) {
    bool inside = true;
    std::int64_t address = 0;
    std::int64_t rest = element;
    for (std::size_t i = 0; i < rank; ++i) {
      const std::int64_t at = first[i] + rest % layout.box[i];
      rest /= layout.box[i];
      inside = inside && at >= 0 && at < static_cast<std::int64_t>(layout.shape[i]);
      address += at * (i == 0 ? size : static_cast<std::int64_t>(layout.strides[i - 1]));
    }
    for (std::int64_t byte = 0; byte < size; ++byte) {
      visit(inside, static_cast<std::size_t>(address + byte),
            static_cast<std::size_t>(element * size + byte));
    }
  }
}

// Where the swizzle puts a byte of the box.
std::size_t swizzled(std::size_t byte, TensorMapSwizzle swizzle) {
  const auto span = std::size_t{16} << static_cast<int>(swizzle);
  return byte ^ (byte >> 3 & (span - 16));
}

std::uint8_t get_byte(const Words& words, std::size_t at) {
  return static_cast<std::uint8_t>(words[at / 4] >> (8 * (at % 4)));
}

void put_byte(Words& words, std::size_t at, std::uint8_t value) {
  const auto shift = 8 * (at % 4);
  words[at / 4] = (words[at / 4] & ~(0xffu << shift)) | (std::uint32_t{value} << shift);
}

std::array<std::int64_t, 4> coordinates_of(const Words& operands, int index, int rank) {
  std::array<std::int64_t, 4> result{};
  for (std::size_t i = 0; i < static_cast<std::size_t>(rank); ++i) {
    result[i] = static_cast<std::int32_t>(
        operands[static_cast<std::size_t>(index * (kImageWords + 1) + kImageWords) * kLanes + i]);
  }
  return result;
}

Words expected_load(const TensorMapLayout& layout, const Words& operands, int index) {
  Words image(kImageWords * kLanes, 0xa5a5a5a5u);
  for_each_byte(layout, coordinates_of(operands, index, layout.rank),
                [&](bool inside, std::size_t from, std::size_t to) {
                  put_byte(image, swizzled(to, layout.swizzle),
                           inside ? get_byte(operands, from) : std::uint8_t{0});
                });
  image.insert(image.end(), kLanes, 1u);  // all bytes of the box arrived, those outside included
  return image;
}

Words expected_store(const TensorMapLayout& layout, const Words& operands, int index) {
  Words all(static_cast<std::size_t>(kBoxCases * kImageWords * kLanes), kUntouchedResult);
  auto first = coordinates_of(operands, index, 2);
  first[2] = index;
  const std::size_t image = static_cast<std::size_t>(index * (kImageWords + 1) * kLanes) * 4;
  for_each_byte(layout, first, [&](bool inside, std::size_t to, std::size_t from) {
    if (inside) {
      put_byte(all, to, get_byte(operands, image + swizzled(from, layout.swizzle)));
    }
  });
  const auto begin = all.begin() + index * kImageWords * kLanes;
  return {begin, begin + kImageWords * kLanes};
}

Words expected_run(const Words& operands, int index, std::uint32_t untouched) {
  const auto first =
      operands.begin() + static_cast<std::ptrdiff_t>(index) * (kImageWords + 1) * kLanes;
  Words image(first, first + kImageWords * kLanes);
  std::fill(image.begin() + first[kImageWords * kLanes] / 4, image.end(), untouched);
  return image;
}

Probe box_load(const BoxProbe& box) {
  Probe probe =
      on_hopper("tma_load_" + suffix(box),
                fmt::format("cp.async.bulk.tensor.{}d to shared memory, boxes partly outside, {}",
                            box.rank, suffix(box)),
                kImageWords + 1, kImageWords + 1);
  const TensorMapLayout layout = tensor_of(box, 4 * probe.input_words());
  std::uint64_t bytes = static_cast<std::uint64_t>(box.inner);
  for (std::size_t i = 1; i < static_cast<std::size_t>(box.rank); ++i) {
    bytes *= layout.box[i];
  }
  probe.map = layout;
  probe.body =
      paint_shared() + make_barrier() + read_coordinates(box.rank) +
      fmt::format(
          "\t@%p4 mbarrier.arrive.expect_tx.shared::cta.b64 %rd10, [%r9], {};\n"
          "\t@%p4 "
          "cp.async.bulk.tensor.{}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
          "[%shared], [%map, {}], [%r9];\n",
          bytes, box.rank, registers("%r", 10, box.rank)) +
      wait_and_read();
  probe.fill = [layout](int index, Random& random, Words& words) {
    random_words(index, random, words);
    for (std::size_t i = 0; i < static_cast<std::size_t>(layout.rank); ++i) {
      words[kImageWords * kLanes + i] = coordinate(layout, i, random);
    }
  };
  // Unknown until recorded: which NaN fills, and the pitch of rows that are narrower than the
  // swizzle.
  const bool full_rows =
      box.swizzle == TensorMapSwizzle::none || box.inner == 16 << static_cast<int>(box.swizzle);
  if (box.fill == TensorMapFill::zeros && full_rows) {
    probe.expected = [layout](const Words& operands, int index) {
      return expected_load(layout, operands, index);
    };
  }
  return probe;
}

// Each case stores to its own part of the results: boxes of 4 rows, cut off at the edges of the
// tensor.
Probe box_store(const BoxProbe& box) {
  Probe probe =
      on_hopper("tma_store_" + suffix(box),
                fmt::format("cp.async.bulk.tensor.{}d from shared memory, boxes partly outside, {}",
                            box.rank, suffix(box)),
                kImageWords + 1, kImageWords);
  TensorMapLayout layout = tensor_of(box, kCaseBytes);
  layout.box[2] = 1;
  probe.map = layout;
  probe.results = Probe::Results::by_body;
  std::string stores = "\tmad.lo.u32 %r7, %lane, 4, %shared;\n";
  for (int i = 0; i < kImageWords; ++i) {
    stores += fmt::format("\tst.shared.b32 [%r7+{}], %in{};\n", 4 * kLanes * i, i);
  }
  probe.body = stores +
               "\tsetp.eq.u32 %p4, %lane, 0;\n"
               "\tfence.proxy.async;\n"
               "\tbar.warp.sync 0xffffffff;\n" +
               read_coordinates(2) +
               "\tmov.b32 %r12, %case;\n"
               "\t@%p4 cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group "
               "[%map, {%r10, %r11, %r12}], [%shared];\n"
               "\tcp.async.bulk.commit_group;\n"
               "\tcp.async.bulk.wait_group 0;\n";
  probe.fill = [layout](int index, Random& random, Words& words) {
    random_words(index, random, words);
    for (std::size_t i = 0; i < 2; ++i) {
      words[kImageWords * kLanes + i] = coordinate(layout, i, random);
    }
  };
  probe.expected = [layout](const Words& operands, int index) {
    return expected_store(layout, operands, index);
  };
  return probe;
}

// Runs of 16 to 2048 bytes.
void fill_run(int index, Random& random, Words& words) {
  random_words(index, random, words);
  words[kImageWords * kLanes] = 16u * static_cast<std::uint32_t>(1 + random.below(128));
}

Probe run_load() {
  Probe probe = on_hopper("bulk_load", "cp.async.bulk to shared memory, 16 to 2048 bytes",
                          kImageWords + 1, kImageWords + 1);
  probe.body = paint_shared() + make_barrier() + read_coordinates(1) +
               "\t@%p4 mbarrier.arrive.expect_tx.shared::cta.b64 %rd10, [%r9], %r10;\n"
               "\t@%p4 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
               "[%shared], [%case_in], %r10, [%r9];\n" +
               wait_and_read();
  probe.fill = fill_run;
  probe.expected = [](const Words& operands, int index) {
    Words image = expected_run(operands, index, 0xa5a5a5a5u);
    image.insert(image.end(), kLanes, 1u);
    return image;
  };
  return probe;
}

Probe run_store() {
  Probe probe = on_hopper("bulk_store", "cp.async.bulk from shared memory, 16 to 2048 bytes",
                          kImageWords + 1, kImageWords);
  probe.results = Probe::Results::by_body;
  std::string stores = "\tmad.lo.u32 %r7, %lane, 4, %shared;\n";
  for (int i = 0; i < kImageWords; ++i) {
    stores += fmt::format("\tst.shared.b32 [%r7+{}], %in{};\n", 4 * kLanes * i, i);
  }
  probe.body = stores +
               "\tsetp.eq.u32 %p4, %lane, 0;\n"
               "\tfence.proxy.async;\n"
               "\tbar.warp.sync 0xffffffff;\n" +
               read_coordinates(1) +
               "\t@%p4 cp.async.bulk.global.shared::cta.bulk_group [%case_out], [%shared], %r10;\n"
               "\tcp.async.bulk.commit_group;\n"
               "\tcp.async.bulk.wait_group 0;\n";
  probe.fill = fill_run;
  probe.expected = [](const Words& operands, int index) {
    return expected_run(operands, index, kUntouchedResult);
  };
  return probe;
}

}  // namespace

void add_bulk_copy_probes(std::vector<Probe>& probes) {
  using Swizzle = TensorMapSwizzle;
  for (const int rank : {2, 3, 4}) {
    for (const Swizzle swizzle :
         {Swizzle::none, Swizzle::span_32, Swizzle::span_64, Swizzle::span_128}) {
      const int inner = swizzle == Swizzle::none ? 112 : 16 << static_cast<int>(swizzle);
      probes.push_back(box_load({.swizzle = swizzle, .rank = rank, .inner = inner}));
    }
  }
  probes.push_back(box_load({.swizzle = Swizzle::span_128, .rank = 2, .inner = 48}));
  for (const TensorMapType type : {TensorMapType::f16, TensorMapType::bf16, TensorMapType::s32}) {
    probes.push_back(
        box_load({.type = type, .swizzle = Swizzle::span_128, .rank = 2, .inner = 128}));
  }
  probes.push_back(box_load({.type = TensorMapType::f16,
                             .swizzle = Swizzle::span_128,
                             .rank = 2,
                             .inner = 128,
                             .fill = TensorMapFill::nan}));
  for (const Swizzle swizzle :
       {Swizzle::none, Swizzle::span_32, Swizzle::span_64, Swizzle::span_128}) {
    const int inner = swizzle == Swizzle::none ? 112 : 16 << static_cast<int>(swizzle);
    probes.push_back(box_store({.swizzle = swizzle, .rank = 3, .inner = inner}));
  }
  probes.push_back(box_store(
      {.type = TensorMapType::f16, .swizzle = Swizzle::span_128, .rank = 3, .inner = 128}));
  probes.push_back(run_load());
  probes.push_back(run_store());
}

}  // namespace sagegen::hardware
