#include "tools/bench/micro/wgmma_stream.h"

#include <fmt/format.h>

#include <bit>
#include <cstring>

#include "tools/hardware/probe.h"

namespace sagegen::micro {

std::string WgmmaShape::name() const {
  return fmt::format("{}{}_n{}", fp8 ? "e4m3" : "s8", a_in_registers ? "_rega" : "", n);
}

Words swizzled(const std::vector<std::uint8_t>& bytes, int rows) {
  std::vector<std::uint8_t> image(bytes.size());
  for (int row = 0; row < rows; ++row) {
    for (int k = 0; k < kRowBytes; ++k) {
      const int address = row * kRowBytes + k;
      const int swizzled_address = address ^ ((address >> 7 & 7) << 4);
      image[static_cast<std::size_t>(swizzled_address)] = bytes[static_cast<std::size_t>(address)];
    }
  }
  Words words(image.size() / 4);
  std::memcpy(words.data(), image.data(), image.size());
  return words;
}

std::int64_t Operands::product(int row, int column) const {
  std::int64_t sum = 0;
  for (int k = 0; k < kRowBytes; ++k) sum += a_value(row, k) * b_value(column, k);
  return sum;
}

Operands wgmma_operands(const WgmmaShape& shape, int b_seed) {
  Operands operands;
  operands.a.resize(kRows * kRowBytes);
  operands.b.resize(static_cast<std::size_t>(shape.b_bytes()));
  hardware::Random a_random(1), b_random(static_cast<std::uint64_t>(b_seed));
  if (!shape.fp8) {
    for (int& value : operands.a) value = a_random.below(255) - 127;
    for (int& value : operands.b) value = b_random.below(255) - 127;
    return operands;
  }
  for (int row = 0; row < kRows; ++row) {
    for (int i = 0; i < 4; ++i) {
      operands.a[static_cast<std::size_t>(row * kRowBytes + a_random.below(kRowBytes))] =
          a_random.below(2) == 0 ? 1 : -1;
    }
  }
  for (int& value : operands.b) value = b_random.below(3) - 1;
  return operands;
}

std::vector<std::uint8_t> encoded(const WgmmaShape& shape, const std::vector<int>& values) {
  std::vector<std::uint8_t> bytes;
  bytes.reserve(values.size());
  for (const int value : values) {
    const int one = 0x38;  // e4m3
    bytes.push_back(static_cast<std::uint8_t>(!shape.fp8   ? value
                                              : value == 0 ? 0
                                              : value > 0  ? one
                                                           : one | 0x80));
  }
  return bytes;
}

Words wgmma_input(const WgmmaShape& shape, const Operands& operands) {
  const std::vector<std::uint8_t> a = encoded(shape, operands.a);
  Words words = swizzled(a, kRows);
  const Words b = swizzled(encoded(shape, operands.b), shape.n);
  words.insert(words.end(), b.begin(), b.end());
  // Register r of a step holds four values of k: rows 8 apart by its bit 0, k 16 apart by its bit
  // 1.
  for (int step = 0; step < kSteps; ++step) {
    for (int r = 0; r < 4; ++r) {
      for (int thread = 0; thread < kGroupThreads; ++thread) {
        const int lane = thread % kLanes;
        const int row = 16 * (thread / kLanes) + (lane >> 2) + 8 * (r & 1);
        const int k = kStepBytes * step + 16 * (r >> 1) + 4 * (lane & 3);
        std::uint32_t word = 0;
        std::memcpy(&word, &a[static_cast<std::size_t>(row * kRowBytes + k)], sizeof word);
        words.push_back(word);
      }
    }
  }
  return words;
}

Place accumulator_place(int reg, int thread) {
  const int lane = thread % kLanes;
  return {.row = 16 * (thread % kGroupThreads / kLanes) + (lane >> 2) + 8 * (reg >> 1 & 1),
          .column = 8 * (reg / 4) + 2 * (lane & 3) + (reg & 1)};
}

Words wgmma_expected(const WgmmaShape& shape, const Operands& operands, int threads,
                     std::int64_t count) {
  Words words;
  for (int reg = 0; reg < shape.accumulators(); ++reg) {
    for (int thread = 0; thread < threads; ++thread) {
      if (thread >= kGroupThreads) {  // all warpgroups do the same
        words.push_back(words[words.size() - kGroupThreads]);
        continue;
      }
      const Place place = accumulator_place(reg, thread);
      const std::int64_t value = count / kSteps * operands.product(place.row, place.column);
      words.push_back(shape.fp8 ? std::bit_cast<std::uint32_t>(static_cast<float>(value))
                                : static_cast<std::uint32_t>(value));
    }
  }
  return words;
}

std::string wgmma_registers(const WgmmaShape& shape) {
  return fmt::format("\t.reg .b32 %d<{}>, %a<{}>;\n\t.reg .b64 %da<{}>, %db<{}>;\n",
                     shape.accumulators(), 4 * kSteps, kSteps, kSteps);
}

std::string descriptors(const std::string& name, int offset) {
  constexpr unsigned kSwizzle128 = 1u << 30, kStride = 1024 >> 4, kLeading = 1u << 16;
  std::string text = fmt::format(
      "\tadd.s32 %r0, %smem, {};\n"
      "\tand.b32 %r0, %r0, 0x3ffff;\n"
      "\tshr.u32 %r0, %r0, 4;\n"
      "\tor.b32 %r0, %r0, {};\n"
      "\tmov.b32 %r1, {};\n"
      "\tmov.b64 {}0, {{%r0, %r1}};\n",
      offset, kLeading, kSwizzle128 | kStride, name);
  for (int step = 1; step < kSteps; ++step) {
    text += fmt::format("\tadd.s64 {0}{1}, {0}0, {2};\n", name, step, step * kStepBytes >> 4);
  }
  return text;
}

std::string wgmma_setup(const WgmmaShape& shape, int threads) {
  std::string text = copy_to_shared(shape.image_bytes(), threads);
  if (shape.a_in_registers) {
    text += fmt::format(
        "\tand.b32 %r0, %thread, {};\n"
        "\tmul.wide.u32 %rd0, %r0, 4;\n"
        "\tadd.s64 %rd0, %rd0, %in;\n",
        kGroupThreads - 1);
    std::vector<std::string> loaded;
    for (int i = 0; i < 4 * kSteps; ++i) {
      loaded.push_back(fmt::format("%a{}", i));
      text += fmt::format("\tld.global.b32 %a{}, [%rd0+{}];\n", i,
                          shape.image_bytes() + 4 * kGroupThreads * i);
    }
    text += wait_for_loads(loaded);
  } else {
    text += descriptors("%da", 0);
  }
  text += descriptors("%db", kRows * kRowBytes);
  for (int i = 0; i < shape.accumulators(); ++i) text += fmt::format("\tmov.b32 %d{}, 0;\n", i);
  return text;
}

std::string wgmma(const WgmmaShape& shape, int step, const std::string& scale_d) {
  const std::string a = shape.a_in_registers ? fmt::format("{{%a{}, %a{}, %a{}, %a{}}}", 4 * step,
                                                           4 * step + 1, 4 * step + 2, 4 * step + 3)
                                             : fmt::format("%da{}", step);
  return fmt::format("\twgmma.mma_async.sync.aligned.m64n{}k32.{} {{{}}}, {}, %db{}, {}{};\n",
                     shape.n, shape.fp8 ? "f32.e4m3.e4m3" : "s32.s8.s8",
                     numbered("%d", shape.accumulators()), a, step, scale_d,
                     shape.fp8 ? ", 1, 1" : "");
}

std::string wgmma_group(const WgmmaShape& shape, int count, int first) {
  std::string text = "\twgmma.fence.sync.aligned;\n";
  for (int i = 0; i < count; ++i) text += wgmma(shape, (first + i) % kSteps);
  return text +
         "\twgmma.commit_group.sync.aligned;\n"
         "\twgmma.wait_group.sync.aligned 0;\n";
}

Program wgmma_stream_program(const std::string& name, const WgmmaShape& shape, int warpgroups,
                             int group, int per_iteration) {
  const int threads = warpgroups * kGroupThreads;
  std::string steps;
  for (int i = 0; i < per_iteration; i += group) steps += wgmma_group(shape, group, i);
  return {.name = name,
          .ptx = kernel_ptx(
              fmt::format("{}: groups of {}", shape.name(), group), threads, wgmma_registers(shape),
              wgmma_setup(shape, threads) + start_clock() + counted_loop(steps) + stop_clock() +
                  store_thread_words("%d", shape.accumulators(), threads,
                                     shape.accumulators() * threads)),
          .threads = threads,
          .shared_bytes = shape.image_bytes(),
          .sass = {shape.sass(per_iteration)}};
}

}  // namespace sagegen::micro
