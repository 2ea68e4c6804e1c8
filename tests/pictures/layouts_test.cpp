// Layouts that are drawn, against the formulas of the PTX ISA, which are written down here a second time, and accesses
// to shared memory against what the whole kernel does in the emulator.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "sagegen/emit.h"
#include "sagegen/runtime/emulator.h"
#include "templates/attention/plan.h"
#include "templates/quantize_values/spec.h"
#include "tools/pictures/bank_conflicts.h"
#include "tools/pictures/pictures.h"

namespace sagegen::pictures {
namespace {

const std::vector<std::string>& keys() {
  static const std::vector<std::string> all{
      "sage_fwd_d64_f16_qk_s8t_g32x64_smk_pv_e4m3_f32x2__q128k64w4s2__sm89",
      "sage_fwd_d128_f16_qk_s4t_g32x64_smk_pv_f16_f32__q128k64w4s2__sm80",
      "sage_fwd_d64_bf16_qk_s4t_g32x64_smqk_pv_e4m3_f32x2__q128k64w4s2__sm89",
      "sage_fwd_d128_f16_qk_s8b_g128x64_sm0_pv_f16_f32__q64k32w4s3__sm86",
      "sage_fwd_d64_bf16_qk_s8t_g32x64_smk_pv_f16_f32_causal_window_sinks__q128k64w4s2__sm120",
      "sage_fwd_d128_bf16_qk_s8t_g32x128_smk_pv_e4m3_f32x2__q64k128w4s1__sm120",
      "sage_fwd_d64_f16_qk_s8t_g16x128_smk_pv_e4m3_f32x2_bias_blocksparse__q64k64w4s2__sm89",
      "sage_fwd_d72_f16_qk_s8t_g32x64_smk_pv_e4m3_f32x2__q128k64w8s2__sm89",
      "sage_fwd_d72_f16_qk_s8t_g32x64_smk_pv_f16_f32__q128k64w8s2__sm80",
      "sage_fwd_d72_bf16_qk_s8t_g32x64_smk_pv_f16_f32__q128k32w4s2__sm86",
      "sage_fwd_d96_f16_qk_s4t_g32x64_smqk_pv_e4m3_f32x2__q128k64w4s2__sm89",
      "sage_fwd_d160_f16_qk_s4t_g32x64_smqk_pv_f16_f32__q64k64w4s1__sm80",
      "sage_fwd_d160_f16_qk_s8t_g32x64_smk_pv_e4m3_f32x2__q64k64w4s1__sm120",
      "sage_fwd_d256_f16_qk_s8t_g32x64_smk_pv_f16_f32__q64k32w4s1__sm89",
      "sage_fwd_d64_f16_qk_f16t_g32x64_sm0_pv_f16_f32__q128k64w4s2__sm80",
      "sage_fwd_d128_bf16_qk_bf16t_g32x64_sm0_pv_bf16_f32_causal__q64k32w4s2__sm86",
      "sage_fwd_d128_bf16_qk_bf16t_g32x64_sm0_pv_e4m3_f32x2__q64k64w4s1__sm120",
      "sage_fwd_d72_bf16_qk_bf16t_g32x64_sm0_pv_bf16_f32__q128k64w8s1__sm89",
      "sage_fwd_d64_f16_qk_s4t_g16x64_smqk_pv_f16_f32_packgqa_causal__q32k64w2s3__sm80",
      "sage_fwd_d64_f16_qk_f16t_g32x64_sm0_pv_f16_f32_packgqa__q32k64w2s3__sm80",
      "sage_fwd_d192_dv128_f16_qk_s8t_g32x64_smk_pv_e4m3_f32x2__q128k64w4s1__sm89",
      "sage_fwd_d64_dv72_f16_qk_s4t_g32x64_smqk_pv_f16_f32__q64k64w4s2__sm80",
      "sage_fwd_d96_dv32_bf16_qk_bf16t_g32x64_sm0_pv_bf16_f32__q64k64w4s1__sm80"};
  return all;
}

struct Case {
  Kernel kernel;
  attention::View view;
  Layouts layouts;
};

void each_case(const std::function<void(const Case&)>& check) {
  static const std::vector<Case> cases = [] {
    std::vector<Case> all;
    for (const std::string& key : keys()) {
      const Kernel kernel = parse_key(key);
      all.push_back({kernel, kernel.view(attention::family()), measure_layouts(kernel)});
    }
    return all;
  }();
  for (const Case& one : cases) {
    INFO(one.kernel.key());
    check(one);
  }
}

// Element of a register's part within one operand, by PTX ISA, "Matrix Fragments for mma.m16n8k16 / k32 / k64". bits: of
// an element. g is groupID, t threadID_in_group.
Element of_a(int lane, int reg, int part, int bits) {
  const int g = lane / 4, t = lane % 4, run = 32 / bits;
  return {.row = reg % 2 == 0 ? g : g + 8, .column = t * run + part + (reg < 2 ? 0 : 4 * run)};
}
Element of_b(int lane, int reg, int part, int bits) {  // k, n
  const int g = lane / 4, t = lane % 4, run = 32 / bits;
  return {.row = t * run + part + (reg == 0 ? 0 : 4 * run), .column = g};
}
Element of_c(int lane, int reg) {
  const int g = lane / 4, t = lane % 4;
  return {.row = reg < 2 ? g : g + 8, .column = 2 * t + reg % 2};
}

void each_part(const Fragments& f, const std::function<void(int, int, int, int)>& visit) {
  for (int operand = 0; operand < f.operands; ++operand) {
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int reg = 0; reg < f.registers; ++reg) {
        for (int part = 0; part < f.parts; ++part) visit(operand, lane, reg, part);
      }
    }
  }
}

// Every element of the warp's part, once.
void check_covers(const Fragments& f, int rows, int columns) {
  std::map<std::pair<int, int>, int> held;
  for (const Element& at : f.elements) ++held[{at.row, at.column}];
  CHECK(static_cast<int>(held.size()) == rows * columns);
  CHECK(f.elements.size() == held.size());
  for (const auto& [at, count] : held) {
    CHECK(at.first >= 0);
    CHECK(at.first < rows);
    CHECK(at.second >= 0);
    CHECK(at.second < columns);
  }
}

}  // namespace

TEST_CASE("every element is held exactly once by a warp") {
  each_case([](const Case& c) {
    const Layouts& l = c.layouts;
    const int rows = c.view.schedule.cta_q / c.view.schedule.warps, d = c.view.spec.head_dim,
              tile = c.view.schedule.cta_k;
    CHECK(l.queries == rows);
    CHECK(l.keys == tile);
    // Codes have their padding, and so has V.
    const int code_d = code_channels(c.view.spec.qk, d);
    check_covers(l.q, rows, code_d);
    check_covers(l.k, tile, code_d);
    check_covers(l.scores, rows, tile);
    check_covers(l.p, rows, tile);
    const int of_value = value_dim(c.view.spec);
    check_covers(l.v, tile, value_channels(of_value));
    check_covers(l.o, rows, of_value);
  });
}

TEST_CASE("Q, K and scores lie as the PTX ISA says") {
  each_case([](const Case& c) {
    const Layouts& l = c.layouts;
    const int width = bits(c.view.spec.qk), depth = 256 / width;
    CHECK(l.q.parts == 32 / width);
    const auto origin = [](const Fragments& f, int operand) { return f.at(operand, 0, 0, 0); };
    each_part(l.q, [&](int operand, int lane, int reg, int part) {
      const Element at = l.q.at(operand, lane, reg, part), in = of_a(lane, reg, part, width),
                    from = origin(l.q, operand);
      CHECK(from.row % 16 == 0);
      CHECK(from.column % depth == 0);
      CHECK(at == Element{from.row + in.row, from.column + in.column});
    });
    each_part(l.k, [&](int operand, int lane, int reg, int part) {
      const Element at = l.k.at(operand, lane, reg, part), in = of_b(lane, reg, part, width),
                    from = origin(l.k, operand);
      CHECK(from.row % 8 == 0);
      CHECK(at == Element{from.row + in.column, from.column + in.row});  // keys are columns of B
    });
    each_part(l.scores, [&](int operand, int lane, int reg, int) {
      const Element in = of_c(lane, reg), from = origin(l.scores, operand);
      CHECK(l.scores.at(operand, lane, reg, 0) ==
            Element{from.row + in.row, from.column + in.column});
    });
  });
}

TEST_CASE("P and V agree about the key of each k, and O is their product's") {
  each_case([](const Case& c) {
    const Layouts& l = c.layouts;
    const int width = bits(c.view.spec.pv), depth = 256 / width;
    std::map<int, int> key_of_k;  // counted over all operands of the tile
    each_part(l.p, [&](int operand, int lane, int reg, int part) {
      const Element at = l.p.at(operand, lane, reg, part), in = of_a(lane, reg, part, width);
      CHECK(at.row % 16 == in.row);
      const int k = at.column / depth * depth + in.column;
      CHECK(key_of_k.emplace(k, at.column).first->second == at.column);
    });
    CHECK(static_cast<int>(key_of_k.size()) == l.keys);
    each_part(l.v, [&](int operand, int lane, int reg, int part) {
      const Element at = l.v.at(operand, lane, reg, part), in = of_b(lane, reg, part, width);
      CHECK(at.column % 8 == in.column);
      CHECK(key_of_k.at(at.row / depth * depth + in.row) == at.row);
    });
    each_part(l.o, [&](int operand, int lane, int reg, int) {
      const Element in = of_c(lane, reg), from = l.o.at(operand, 0, 0, 0);
      CHECK(l.o.at(operand, lane, reg, 0) == Element{from.row + in.row, from.column + in.column});
    });
    // A lane's P are its own scores.
    std::map<std::pair<int, int>, int> lane_of_score;
    each_part(l.scores, [&](int operand, int lane, int reg, int) {
      const Element at = l.scores.at(operand, lane, reg, 0);
      lane_of_score[{at.row, at.column}] = lane;
    });
    each_part(l.p, [&](int operand, int lane, int reg, int part) {
      const Element at = l.p.at(operand, lane, reg, part);
      CHECK(lane_of_score.at({at.row, at.column}) == lane);
    });
  });
}

TEST_CASE("keys of FP8 values are stored in the documented order, those of FP16 as they come") {
  constexpr int kOrder[] = {0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15};
  each_case([&](const Case& c) {
    const bool fp8 = c.view.spec.pv == DType::e4m3;
    CHECK(static_cast<int>(c.layouts.stored_key.size()) == c.view.schedule.cta_k);
    for (int place = 0; place < c.view.schedule.cta_k; ++place) {
      CHECK(c.layouts.stored_key[static_cast<std::size_t>(place)] ==
            (fp8 ? place / 16 * 16 + kOrder[place % 16] : place));
    }
  });
}

TEST_CASE("scales go by row mod 8 and (key mod 8) / 2 of a group, or by group") {
  each_case([](const Case& c) {
    const attention::Spec& spec = c.view.spec;
    CHECK(c.layouts.qk_is_scaled == attention::qk_is_quantized(spec));
    if (!c.layouts.qk_is_scaled) return;
    const bool per_thread = spec.granularity == Granularity::per_thread;
    for (int row = 0; row < c.layouts.queries; ++row) {
      const int group = row / spec.q_group;
      CHECK(c.layouts.q_scale[static_cast<std::size_t>(row)] ==
            (per_thread ? 8 * group + row % 8 : group));
    }
    for (int key = 0; key < c.layouts.keys; ++key) {
      const int group = key / spec.k_group;
      CHECK(c.layouts.k_scale[static_cast<std::size_t>(key)] ==
            (per_thread ? 4 * group + key % 8 / 2 : group));
    }
  });
}

TEST_CASE("no access of a kernel has a bank conflict, and without the swizzle they would") {
  int worst = 0;
  each_case([&](const Case& c) {
    for (const Tile& tile : c.layouts.tiles) {
      INFO(tile.name);
      REQUIRE(tile.accesses.size() == 2);
      for (const Access& access : tile.accesses) {
        INFO(access.name);
        const Conflicts conflicts = conflicts_of(access);
        CHECK(conflicts.phases == 4 * conflicts.requests);
        CHECK(conflicts.extra() == 0);
        CHECK(conflicts.worst == 1);
      }
      // Every chunk is copied once.
      CHECK(conflicts_of(tile.accesses[0]).requests * kLanes ==
            static_cast<int>(tile.places.size()));
      // Eight rows one after the other: of 64 bytes 4 in a bank group, of 128 and 256 all, of 96 two.
      const Conflicts plain = conflicts_of(in_order(tile, tile.accesses[1]));
      CHECK(plain.worst == std::gcd(8, tile.row_bytes / 16));
      worst = std::max(worst, plain.worst);
    }
  });
  CHECK(worst == 8);
}

TEST_CASE("wavefronts are counted by bank") {
  const auto access = [](const std::function<int(int)>& address) {
    Access result{.name = "", .requests = {Request{}}};
    for (int lane = 0; lane < kLanes; ++lane)
      result.requests[0][static_cast<std::size_t>(lane)] = address(lane);
    return result;
  };
  CHECK(conflicts_of(access([](int lane) { return 16 * lane; })).wavefronts == 4);
  CHECK(conflicts_of(access([](int lane) { return 128 * lane; })).wavefronts == 32);
  CHECK(conflicts_of(access([](int lane) { return 128 * lane; })).worst == 8);
  CHECK(conflicts_of(access([](int lane) { return 32 * lane; })).extra() == 4);
  // One chunk for all lanes is one wavefront.
  CHECK(conflicts_of(access([](int) { return 64; })).wavefronts == 4);
  const std::array<int, 8> groups = bank_groups(std::vector<int>{0, 128, 16, 1040});
  CHECK(groups == std::array<int, 8>{2, 2, 0, 0, 0, 0, 0, 0});
}

TEST_CASE("the whole kernel makes these accesses and no others") {
  each_case([](const Case& c) {
    const Kernel& kernel = c.kernel;
    const attention::View& view = c.view;
    if (view.spec.bias || view.spec.blocksparse || view.spec.sinks) return;  // want tensors
    const bool mean_scores = view.spec.smoothing == Smoothing::qk;  // are copied with K, in no tile
    // Rows of Q are padded to whole groups, and to those that share a mean.
    const int queries =
        std::max({view.schedule.cta_q, view.spec.q_group, mean_scores ? kMeanRows : 0});
    const auto blocks = static_cast<std::uint64_t>(queries / view.schedule.cta_q);
    std::map<std::string, std::uint64_t> expected;  // by opcode, of one tile of keys
    for (const Tile& tile : c.layouts.tiles) {
      for (const Access& access : tile.accesses)
        expected[access.name] += blocks * access.requests.size();
    }

    const auto driver = runtime::make_emulator({.counting = runtime::Counting::on});
    int ordinal = 0;
    while (runtime::Device(driver, ordinal).compute_capability() != kernel.target().sm) ++ordinal;
    const runtime::Device device(driver, ordinal);
    const attention::Plan plan(device, kernel, [](const Kernel& each) { return emit(each); });
    if (mean_scores) expected["cp.async"] += blocks;  // by one warp
    const std::int64_t d = view.spec.head_dim, of_value = value_dim(view.spec);
    const attention::Shape shape{
        .batch = 1, .q_heads = 1, .kv_heads = 1, .q_len = queries, .kv_len = view.schedule.cta_k};
    const auto buffer_of = [&](std::int64_t rows, std::int64_t channels) {
      return runtime::Buffer(device, static_cast<std::size_t>(rows * channels) * 2);
    };
    runtime::Buffer q = buffer_of(shape.q_len, d), o = buffer_of(shape.q_len, of_value);
    runtime::Buffer k = buffer_of(shape.kv_len, d), v = buffer_of(shape.kv_len, of_value);
    for (runtime::Buffer* buffer : {&q, &k, &v}) buffer->fill(0x3c);
    const runtime::Buffer workspace(device, plan.workspace_bytes(shape));
    attention::Arguments arguments;
    arguments.q = runtime::hnd(q.data(), 1, shape.q_len, d);
    arguments.k = runtime::hnd(k.data(), 1, shape.kv_len, d);
    arguments.v = runtime::hnd(v.data(), 1, shape.kv_len, of_value);
    arguments.o = runtime::hnd(o.data(), 1, shape.q_len, of_value);
    plan.run(shape, arguments, workspace.data(), workspace.bytes(), nullptr);

    std::map<std::string, std::uint64_t> executed;
    for (const runtime::LineCount& line : driver->last_launch().lines) {
      const bool transposed = line.opcode.find(".trans") != std::string::npos;
      if (line.opcode.starts_with("ldmatrix")) {
        executed[transposed ? "ldmatrix.trans" : "ldmatrix"] += line.executed;
        CHECK(line.shared_wavefronts == line.shared_wavefronts_ideal);
      } else if (line.opcode.starts_with("cp.async.cg")) {
        executed["cp.async"] += line.executed;
      }
    }
    for (const auto& [name, count] : expected) {
      INFO(name);
      CHECK(executed[name] == count);
    }
    CHECK(executed.size() == expected.size());
  });
}

TEST_CASE("layouts are of attention kernels that can be") {
  CHECK_THROWS_WITH(measure_layouts(parse_key("sage_quantv_d128_f16_e4m3__sm120")),
                    Catch::Contains("no attention kernel") || Catch::Contains("is none"));
  CHECK_THROWS_AS(measure_layouts(parse_key(
                      "sage_fwd_d64_f16_qk_s8t_g32x64_smk_pv_e4m3_f32x2__q128k64w4s2__sm80")),
                  SpecError);
}

}  // namespace sagegen::pictures
