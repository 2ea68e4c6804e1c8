#include "tools/pictures/layouts.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <span>
#include <utility>

#include "sagegen/dsl/emit.h"
#include "sagegen/emit.h"
#include "sagegen/runtime/device.h"
#include "sagegen/runtime/emulator.h"
#include "templates/attention/mod_list.h"
#include "templates/attention/scores.h"
#include "templates/quantize_values/params.h"
#include "templates/quantize_values/spec.h"
#include "templates/shared/rows.h"

namespace sagegen::pictures {
namespace {

using namespace dsl;
using attention::AttentionBlock;
using attention::AttentionPlan;
using attention::Mods;
using attention::RowOperands;
using attention::Scores;

using Bytes = std::vector<std::uint8_t>;
using Words = std::vector<std::uint32_t>;

void require(bool condition, const std::string& what) {
  if (!condition) throw InternalError("tools/pictures/layouts.cpp: " + what);
}

// ---- kernels that say what they see -----------------------------------------------------------------

struct ProbeParams {
  Address source;              // of tiles
  std::int64_t thread_stride;  // bytes from one thread's tile to the next one's
  Address memory;              // out: shared memory of a tile
  Address results;             // out: 32-bit values, [value][thread]

  static constexpr std::string_view kName = "probe";
  static std::vector<ParamField> fields() {
    using P = ProbeParams;
    return {param_field("source", &P::source), param_field("thread_stride", &P::thread_stride),
            param_field("memory", &P::memory), param_field("results", &P::results)};
  }
};

ParamLayout probe_layout(const Kernel& kernel) {
  ParamLayout layout = kernel.params();
  return layout.add<ProbeParams>();
}

// Stores values, one by one, for every thread of the block.
class Results {
 public:
  Results(KernelBuilder& k, const AttentionBlock& block)
      : k_(k),
        threads_(block.plan.threads),
        mine_(k.params<ProbeParams>()(&ProbeParams::results) + block.at.thread * 4) {}
  void add(I32 value) { k_.store(mine_ + std::int64_t{count_++} * threads_ * 4, value); }
  void add(F32 value) { add(k_.as_bits(value)); }
  template <std::size_t N>
  void add(const Fragment<N>& operand) {
    for (const I32 value : operand) add(value);
  }
  int count() const { return count_; }

 private:
  KernelBuilder& k_;
  int threads_;
  GlobalPtr mine_;
  int count_ = 0;
};

enum class TileName { q, k, v };

// What a thread block of a kernel is, in numbers.
struct Sizes {
  explicit Sizes(const AttentionPlan& plan)
      : threads(plan.threads),
        head_dim(plan.head_dim),
        cta_q(plan.cta_q),
        cta_k(plan.cta_k),
        warp_rows(plan.warp_rows),
        q_group(plan.q_group),
        k_group(plan.k_group),
        q_scales(plan.q_scales()),
        k_scales(plan.k_scales()),
        code_row_bytes(plan.code_row_bytes()),
        io(plan.io),
        qk(plan.qk),
        pv(plan.pv),
        v_quantized(plan.v_quantized),
        layouts{plan.q_tile, plan.k_tile, plan.v_tile} {}
  int threads, head_dim, cta_q, cta_k, warp_rows, q_group, k_group, q_scales, k_scales,
      code_row_bytes;
  DType io, qk, pv;
  bool v_quantized;
  std::array<TileLayout, 3> layouts;
};

struct Probe {
  Sizes sizes;
  Emitted kernel;
  int values = 0;  // of a thread
};

// body(builder, block, results)
template <typename Body>
Probe make_probe(const Kernel& kernel, const Body& body) {
  const attention::View view = kernel.view(attention::family());
  KernelBuilder k("probe", kernel.target(), view.schedule.warps * kLanes, probe_layout(kernel));
  const AttentionBlock block(k, view, Mods(k, attention::mods_of(k, view)));
  Results results(k, block);
  body(k, block, results);
  const Sizes sizes(block.plan);
  return {.sizes = sizes, .kernel = emit(k), .values = results.count()};
}

void wait_for_copies(KernelBuilder& k) {
  k.cp_async_commit();
  k.cp_async_wait(0);
  k.barrier();
}

// Copies a tile as the kernel does, stores the shared memory as it lies there, and then what the operands load.
Probe tile_probe(const Kernel& kernel, TileName name) {
  return make_probe(kernel, [&](KernelBuilder& k, const AttentionBlock& block, Results& results) {
    const AttentionPlan& plan = block.plan;
    const auto p = k.params<ProbeParams>();
    const I32 thread = block.at.thread;
    const TileLayout layout = Sizes(plan).layouts[static_cast<std::size_t>(name)];
    const std::array<std::int64_t, 3> offsets{0, plan.q_tile.bytes(),
                                              plan.q_tile.bytes() + plan.k_tile.bytes()};
    const SharedTile tile{layout, block.shared + offsets[static_cast<std::size_t>(name)]};
    const GlobalPtr source =
        p(&ProbeParams::source) + k.to_i64(thread) * p(&ProbeParams::thread_stride);
    copy_tile_async(k, tile, {source, k.i64(layout.row_bytes)}, thread, plan.threads);
    wait_for_copies(k);
    k.for_range(thread * kChunkBytes, k.i32(layout.bytes()), plan.threads * kChunkBytes,
                [&](I32 byte) {
                  k.store_v4(p(&ProbeParams::memory) + k.to_i64(byte), k.load_v4(tile.base + byte));
                });
    if (name == TileName::q) {
      const OperandA operand(k, tile.rows_from(block.at.warp_row));
      for (int row = 0; row < plan.warp_rows / 16; ++row) {
        for (int step = 0; step < plan.qk_steps(); ++step) results.add(operand.load(row, step));
      }
    } else if (name == TileName::k) {
      const OperandB operand(k, layout);
      for (int pair = 0; pair < plan.cta_k / 16; ++pair) {
        for (int step = 0; step < plan.qk_steps(); ++step) {
          for (const MmaB& half : operand.load(tile, pair, step)) results.add(half);
        }
      }
    } else {
      const OperandV operand(k, plan.pv, layout);
      for (int slice = 0; slice < plan.head_dim / OperandV::kChannels; ++slice) {
        for (const auto& step : operand.load(tile, slice)) {
          for (const MmaB& half : step) results.add(half);
        }
      }
    }
  });
}

// The kernel's way through one tile of keys, but for the softmax: P are the scores.
Probe product_probe(const Kernel& kernel) {
  return make_probe(kernel, [&](KernelBuilder& k, const AttentionBlock& block, Results& results) {
    const AttentionPlan& plan = block.plan;
    const I32 thread = block.at.thread, tile = k.i32(0);
    const SharedPtr keys = block.shared + std::int64_t{plan.q_tile.bytes()};
    const SharedPtr values = keys + std::int64_t{plan.k_tile.bytes()};
    block.inputs.load_queries(thread, {plan.q_tile, block.shared});
    block.inputs.load_keys(thread, tile, {plan.k_tile, keys});
    block.inputs.load_values(thread, tile, {plan.v_tile, values}, true);
    wait_for_copies(k);

    Scores scores(block);
    scores.load_scales(tile, thread);
    scores.next_tile();
    if (plan.queries_in_registers) scores.hold_queries();
    scores.multiply(keys);
    results.add(scores.scale);
    Accumulator& elements = scores.elements;
    for (int row = 0; row < elements.row_blocks(); ++row) {
      for (int column = 0; column < elements.column_blocks(); ++column) {
        for (I32& element : elements.block(row, column)) {
          element = k.as_bits(k.as_f32(element) - scores.bias);
          results.add(element);
        }
      }
    }

    std::vector<RowOperands> p(static_cast<std::size_t>(plan.cta_k / operand_keys(plan.pv)));
    for (std::size_t step = 0; step < p.size(); ++step) {
      for (int row = 0; row < elements.row_blocks(); ++row) {
        p[step].push_back(to_operand_a(k, plan.pv, elements, row, static_cast<int>(step)));
        results.add(p[step].back());
      }
    }

    const OperandV operand(k, plan.pv, plan.v_tile);
    for (int slice = 0; slice < plan.head_dim / OperandV::kChannels; ++slice) {
      const auto v = operand.load({plan.v_tile, values}, slice);
      Accumulator o(plan.warp_rows, OperandV::kChannels, k.i32(0));
      for (std::size_t step = 0; step < v.size(); ++step) {
        for (int column = 0; column < o.column_blocks(); ++column) {
          multiply_add(k, plan.pv_mma(), p[step], v[step][static_cast<std::size_t>(column)], o,
                       column);
        }
      }
      for (int row = 0; row < o.row_blocks(); ++row) {
        for (int column = 0; column < o.column_blocks(); ++column)
          results.add(o.block(row, column));
      }
    }
  });
}

// ---- their launches ----------------------------------------------------------------------------------

// The emulated device that the target is the best one for, or else the first one that loads its PTX.
runtime::Device device_for(Target target) {
  const std::shared_ptr<runtime::EmulatorDriver> driver = runtime::make_emulator();
  for (int ordinal = 0;; ++ordinal) {  // the last one loads all PTX
    runtime::Device device(driver, ordinal);
    if (device.compute_capability() >= target.sm) return device;
  }
}

template <typename T>
runtime::Buffer upload(const runtime::Device& device, const std::vector<T>& values) {
  runtime::Buffer buffer(device, values.size() * sizeof(T));
  buffer.upload(std::as_bytes(std::span(values)));
  return buffer;
}

template <typename T>
std::vector<T> download(const runtime::Buffer& buffer) {
  std::vector<T> values(buffer.bytes() / sizeof(T));
  buffer.download(std::as_writable_bytes(std::span(values)));
  return values;
}

void launch(const runtime::Device& device, const Probe& probe, const ParamPack& params) {
  const Emitted& kernel = probe.kernel;
  const runtime::Kernel loaded(device, kernel.ptx, kernel.entry, kernel.threads,
                               kernel.shared_bytes, kernel.param_bytes);
  const runtime::Stream stream(device);
  loaded.launch_block({.x = 1}, params.data(), params.bytes(), stream.handle());
  stream.synchronize();
}

// What a launch of a tile probe leaves.
struct TileRun {
  Bytes memory;
  Words results;
};
TileRun run_tile(const runtime::Device& device, const ParamLayout& layout, const Probe& probe,
                 int tile_bytes, const Bytes& source, std::int64_t thread_stride) {
  const runtime::Buffer from = upload(device, source);
  const runtime::Buffer memory(device, static_cast<std::size_t>(tile_bytes));
  const runtime::Buffer results(device,
                                static_cast<std::size_t>(probe.values * probe.sizes.threads) * 4);
  ParamPack params(layout);
  params.set(ProbeParams{.source = from.data(),
                         .thread_stride = thread_stride,
                         .memory = memory.data(),
                         .results = results.data()});
  launch(device, probe, params);
  return {.memory = download<std::uint8_t>(memory), .results = download<std::uint32_t>(results)};
}

// ---- tiles -------------------------------------------------------------------------------------------

// Where each byte of a tile, counted row by row, is found after it was copied.
struct MeasuredTile {
  TileLayout layout;
  int threads = 0, values = 0;
  std::vector<int> place;      // by byte of the tile: byte of its shared memory
  std::vector<int> loaded;     // by value, thread and byte of the value: byte of the tile
  std::vector<int> copied_by;  // by chunk of the shared memory: thread

  int byte(int value, int thread, int part) const {
    return loaded[static_cast<std::size_t>((value * threads + thread) * 4 + part)];
  }
};

MeasuredTile measure_tile(const runtime::Device& device, const Kernel& kernel, TileName name) {
  const Probe probe = tile_probe(kernel, name);
  const ParamLayout params = probe_layout(kernel);
  MeasuredTile tile{.layout = probe.sizes.layouts[static_cast<std::size_t>(name)],
                    .threads = probe.sizes.threads,
                    .values = probe.values,
                    .place = {},
                    .loaded = {},
                    .copied_by = {}};
  const int bytes = tile.layout.bytes();

  // Every byte says which one it is: first the lower half of its number, then the upper one.
  std::vector<int> lies(static_cast<std::size_t>(bytes), 0);  // by byte of the shared memory
  tile.loaded.assign(static_cast<std::size_t>(tile.values * tile.threads) * 4, 0);
  for (const int shift : {0, 8}) {
    Bytes source(static_cast<std::size_t>(bytes));
    for (int i = 0; i < bytes; ++i)
      source[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(i >> shift);
    const TileRun run = run_tile(device, params, probe, bytes, source, 0);
    for (std::size_t i = 0; i < lies.size(); ++i) lies[i] |= run.memory[i] << shift;
    for (std::size_t i = 0; i < run.results.size(); ++i) {
      for (std::size_t part = 0; part < 4; ++part) {
        const auto value = static_cast<int>(run.results[i] >> (8 * part) & 0xFF);
        tile.loaded[4 * i + part] |= value << shift;
      }
    }
  }
  tile.place.assign(static_cast<std::size_t>(bytes), -1);
  for (std::size_t i = 0; i < lies.size(); ++i)
    tile.place[static_cast<std::size_t>(lies[i])] = static_cast<int>(i);
  require(std::find(tile.place.begin(), tile.place.end(), -1) == tile.place.end(),
          "a byte of a tile does not arrive in shared memory");

  // Every thread copies from a tile of its own, whose chunks say whose they are.
  Words source(static_cast<std::size_t>(tile.threads) * static_cast<std::size_t>(bytes) / 4);
  for (std::size_t i = 0; i < source.size(); ++i)
    source[i] = static_cast<std::uint32_t>(i / (static_cast<std::size_t>(bytes) / 4));
  Bytes as_bytes(source.size() * 4);
  std::memcpy(as_bytes.data(), source.data(), as_bytes.size());
  const TileRun run = run_tile(device, params, probe, bytes, as_bytes, bytes);
  for (int chunk = 0; chunk < bytes / kChunkBytes; ++chunk) {
    std::uint32_t thread = 0;
    std::memcpy(&thread, run.memory.data() + chunk * kChunkBytes, sizeof(thread));
    require(thread < static_cast<std::uint32_t>(tile.threads), "a chunk is copied by no thread");
    tile.copied_by.push_back(static_cast<int>(thread));
  }
  return tile;
}

// Passes of a copy follow each other through the tile: a thread's n-th chunk is that of its n-th pass.
Access copies_of(const MeasuredTile& tile) {
  std::vector<std::vector<int>> of_thread(static_cast<std::size_t>(tile.threads));
  for (std::size_t chunk = 0; chunk < tile.copied_by.size(); ++chunk) {
    of_thread[static_cast<std::size_t>(tile.copied_by[chunk])].push_back(static_cast<int>(chunk) *
                                                                         kChunkBytes);
  }
  Access access{.name = "cp.async", .requests = {}};
  for (int warp = 0; warp < tile.threads / kLanes; ++warp) {
    for (std::size_t pass = 0; pass < of_thread[0].size(); ++pass) {
      Request request{};
      for (int lane = 0; lane < kLanes; ++lane) {
        const auto& mine = of_thread[static_cast<std::size_t>(warp * kLanes + lane)];
        require(mine.size() == of_thread[0].size(), "threads copy unequal numbers of chunks");
        request[static_cast<std::size_t>(lane)] = mine[pass];
      }
      access.requests.push_back(request);
    }
  }
  return access;
}

// ldmatrix.x4 gives register m of the lanes 4 r .. 4 r + 3 row r of matrix m, whose address is that of lane 8 m + r;
// transposed, the lanes r / 2, r / 2 + 4, ... have it in their half r mod 2. Source: PTX ISA, ldmatrix. So what the
// lanes hold tells the addresses.
Access loads_of(const MeasuredTile& tile, bool transposed) {
  Access access{.name = transposed ? "ldmatrix.trans" : "ldmatrix", .requests = {}};
  const auto place = [&](int value, int thread, int part) {
    return tile.place[static_cast<std::size_t>(tile.byte(value, thread, part))];
  };
  for (int warp = 0; warp < tile.threads / kLanes; ++warp) {
    for (int first = 0; first < tile.values; first += 4) {
      Request request{};
      for (int matrix = 0; matrix < 4; ++matrix) {
        for (int row = 0; row < 8; ++row) {
          int address = 0;
          for (int byte = 0; byte < kChunkBytes; ++byte) {
            const int lane = transposed ? byte / 2 * 4 + row / 2 : 4 * row + byte / 4;
            const int part = transposed ? row % 2 * 2 + byte % 2 : byte % 4;
            const int at = place(first + matrix, warp * kLanes + lane, part);
            if (byte == 0) address = at;
            require(at == address + byte && address % kChunkBytes == 0,
                    "lanes hold no rows of matrices");
          }
          request[static_cast<std::size_t>(8 * matrix + row)] = address;
        }
      }
      access.requests.push_back(request);
    }
  }
  return access;
}

// element(byte of the tile, bit of the byte)
template <typename ElementOf>
Fragments fragments_of(const MeasuredTile& tile, int registers, int element_bits,
                       const ElementOf& element) {
  Fragments result{.operands = tile.values / registers,
                   .registers = registers,
                   .parts = 32 / element_bits,
                   .elements = {}};
  for (int operand = 0; operand < result.operands; ++operand) {
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int reg = 0; reg < registers; ++reg) {
        for (int part = 0; part < result.parts; ++part) {
          const int bit = part * element_bits;
          result.elements.push_back(
              element(tile.byte(operand * registers + reg, lane, bit / 8), bit % 8));
        }
      }
    }
  }
  return result;
}

Tile drawn_tile(const MeasuredTile& tile, std::string name, DType type, std::string row_name,
                bool transposed) {
  Tile result{.name = std::move(name),
              .type = type,
              .row_name = std::move(row_name),
              .rows = tile.layout.rows,
              .row_bytes = tile.layout.row_bytes,
              .panel_bytes = tile.layout.panel_bytes,
              .places = {},
              .accesses = {copies_of(tile), loads_of(tile, transposed)}};
  for (std::size_t byte = 0; byte < tile.place.size(); byte += kChunkBytes)
    result.places.push_back(tile.place[byte]);
  return result;
}

// ---- products ----------------------------------------------------------------------------------------

// Small whole numbers, which all formats hold, as codes of P and V.
constexpr int kDigits = 16;

std::uint32_t code_of(DType type, int digit) {
  if (digit == 0) return 0;
  const int exponent = std::bit_width(static_cast<unsigned>(digit)) - 1;
  const int fraction_bits = type == DType::e4m3 ? 3 : type == DType::f16 ? 10 : 7;
  const int bias = type == DType::e4m3 ? 7 : type == DType::f16 ? 15 : 127;
  const int fraction = (digit << fraction_bits >> exponent) - (1 << fraction_bits);
  return static_cast<std::uint32_t>((exponent + bias) << fraction_bits | fraction);
}

int digit_of(DType type, std::uint32_t code) {
  for (int digit = 0; digit < kDigits; ++digit) {
    if (code_of(type, digit) == code) return digit;
  }
  require(false, fmt::format("{:#x} is no digit in {}", code, to_string(type)));
  return 0;
}

// One launch asks for one digit of one coordinate: rows of Q and K multiply to the digit of the query, or of the key, or
// to 1; V holds the digit of the channel, or 1. What is asked for by query, or by key, has scales that say their number.
enum class Coordinate { query, key, channel };
struct Question {
  Coordinate coordinate;
  int weight;  // of the digit

  int digit(int number) const { return number / weight % kDigits; }
};

// A digit as the sum of some codes, against ones; INT4 ends at 7.
constexpr int kTerms = 3, kLargestTerm = 7;

Bytes codes_of(DType type, int rows, int row_bytes,
               const std::function<int(int row, int term)>& code) {
  Bytes bytes(static_cast<std::size_t>(rows * row_bytes), 0);
  for (int row = 0; row < rows; ++row) {
    for (int term = 0; term < kTerms; ++term) {
      const int bit = term * bits(type);
      bytes[static_cast<std::size_t>(row * row_bytes + bit / 8)] |=
          static_cast<std::uint8_t>(code(row, term) << (bit % 8));
    }
  }
  return bytes;
}

// By value and thread.
Words run_product(const runtime::Device& device, const ParamLayout& layout, const Probe& probe,
                  const Question& question) {
  const Sizes& s = probe.sizes;
  const int q_rows = std::max(s.cta_q, s.q_group),
            k_rows = std::max({s.cta_k, s.k_group, quantize_values::kKeys});
  const auto asks_for = [&](Coordinate coordinate) { return question.coordinate == coordinate; };
  const auto term_of = [](int digit, int term) {
    return std::clamp(digit - kLargestTerm * term, 0, kLargestTerm);
  };
  const Bytes q = codes_of(s.qk, q_rows, s.code_row_bytes, [&](int row, int term) {
    if (asks_for(Coordinate::key)) return 1;
    return term_of(asks_for(Coordinate::query) ? question.digit(row) : 1, term);
  });
  const Bytes k = codes_of(s.qk, k_rows, s.code_row_bytes, [&](int row, int term) {
    return asks_for(Coordinate::key) ? term_of(question.digit(row), term) : 1;
  });
  const int element_bytes = s.pv == DType::e4m3 ? 1 : 2;
  Bytes v(static_cast<std::size_t>(k_rows * s.head_dim * element_bytes), 0);
  for (int key = 0; key < k_rows; ++key) {
    for (int channel = 0; channel < s.head_dim; ++channel) {
      const std::uint32_t code =
          code_of(s.pv, asks_for(Coordinate::channel) ? question.digit(channel) : 1);
      const int index = s.pv == DType::e4m3 ? channel * k_rows + key : key * s.head_dim + channel;
      std::memcpy(v.data() + index * element_bytes, &code, static_cast<std::size_t>(element_bytes));
    }
  }
  const auto scales = [](int count, bool numbered) {
    std::vector<float> all;
    for (int i = 0; i < count; ++i) all.push_back(numbered ? static_cast<float>(i + 1) : 1.0f);
    return all;
  };
  const runtime::Buffer q_codes = upload(device, q), k_codes = upload(device, k),
                        values = upload(device, v);
  const runtime::Buffer q_scale =
      upload(device, scales(q_rows / s.q_group * s.q_scales, asks_for(Coordinate::query)));
  const runtime::Buffer k_scale =
      upload(device, scales(k_rows / s.k_group * s.k_scales, asks_for(Coordinate::key)));
  const runtime::Buffer results(device, static_cast<std::size_t>(probe.values * s.threads) * 4);

  ParamPack params(layout);
  params.set(attention::Params{
      .q_codes = q_codes.data(),
      .q_scale = q_scale.data(),
      .k_codes = k_codes.data(),
      .k_scale = k_scale.data(),
      .v = {.data = values.data(), .stride_batch = 0, .stride_head = 0, .stride_token = s.head_dim},
      .v_scale = 0,
      .o = {},
      .lse = 0,
      .q_len = s.cta_q,
      .q_len_padded = q_rows,
      .kv_len = s.cta_k,
      .kv_len_padded = k_rows,
      .heads_per_kv_head = 1});
  params.set(ProbeParams{.source = 0, .thread_stride = 0, .memory = 0, .results = results.data()});
  launch(device, probe, params);
  return download<std::uint32_t>(results);
}

int whole(std::uint32_t f32_bits) {
  const float value = std::bit_cast<float>(f32_bits);
  const int result = static_cast<int>(value);
  require(static_cast<float>(result) == value, fmt::format("{} is no whole number", value));
  return result;
}

// Values of the first warp that a launch of the product probe leaves: what it says of one coordinate.
struct ProductRun {
  std::vector<int> scale;         // by lane
  std::vector<int> scores, p, o;  // by operand, lane, register and part
};

class Products {
 public:
  Products(const runtime::Device& device, const Kernel& kernel)
      : device_(device), layout_(probe_layout(kernel)), probe_(product_probe(kernel)) {}

  const Sizes& sizes() const { return probe_.sizes; }

  // Fragments without elements.
  Fragments scores() const {
    return {.operands = sizes().warp_rows / 16 * (sizes().cta_k / 8),
            .registers = 4,
            .parts = 1,
            .elements = {}};
  }
  Fragments p() const {
    return {.operands = sizes().warp_rows / 16 * (sizes().cta_k / operand_keys(sizes().pv)),
            .registers = 4,
            .parts = sizes().pv == DType::e4m3 ? 4 : 2,
            .elements = {}};
  }
  Fragments o() const {
    return {.operands = sizes().warp_rows / 16 * (sizes().head_dim / 8),
            .registers = 4,
            .parts = 1,
            .elements = {}};
  }

  ProductRun run(const Question& question) const {
    const Words words = run_product(device_, layout_, probe_, question);
    int value = 0;
    const auto word = [&](int of_value, int lane) {
      return words[static_cast<std::size_t>(of_value * sizes().threads + lane)];
    };
    ProductRun result;
    for (int lane = 0; lane < kLanes; ++lane) result.scale.push_back(whole(word(value, lane)));
    ++value;
    const auto read = [&](const Fragments& shape, std::vector<int>& to, const auto& decode) {
      for (int operand = 0; operand < shape.operands; ++operand) {
        for (int lane = 0; lane < kLanes; ++lane) {
          for (int reg = 0; reg < shape.registers; ++reg) {
            const std::uint32_t bits_of_register =
                word(value + operand * shape.registers + reg, lane);
            for (int part = 0; part < shape.parts; ++part)
              to.push_back(decode(bits_of_register, part));
          }
        }
      }
      value += shape.operands * shape.registers;
    };
    read(scores(), result.scores, [](std::uint32_t bits, int) { return whole(bits); });
    const int p_bits = 32 / p().parts;
    read(p(), result.p, [&](std::uint32_t bits, int part) {
      return digit_of(sizes().pv, bits >> (part * p_bits) & ((1u << p_bits) - 1));
    });
    read(o(), result.o, [](std::uint32_t bits, int) { return whole(bits); });
    require(value == probe_.values, "not all values of the probe were read");
    return result;
  }

 private:
  runtime::Device device_;
  ParamLayout layout_;
  Probe probe_;
};

// Coordinates come in two digits.
void measure_products(const Products& products, Layouts& to) {
  const Sizes& s = products.sizes();
  to.scores = products.scores();
  to.p = products.p();
  to.o = products.o();
  const auto resize = [](Fragments& f) {
    f.elements.resize(static_cast<std::size_t>(f.operands * kLanes * f.registers * f.parts));
  };
  resize(to.scores);
  resize(to.p);
  resize(to.o);
  const auto add = [](Fragments& f, int Element::*coordinate, const std::vector<int>& digits,
                      int weight, int divisor = 1) {
    for (std::size_t i = 0; i < digits.size(); ++i) {
      require(digits[i] % divisor == 0, "a sum of equal products is no multiple of their number");
      f.elements[i].*coordinate += digits[i] / divisor * weight;
    }
  };
  std::array<int, kLanes> q_scale{}, k_scale{};
  for (const int weight : {1, kDigits}) {
    const ProductRun by_query = products.run({Coordinate::query, weight});
    add(to.scores, &Element::row, by_query.scores, weight);
    add(to.p, &Element::row, by_query.p, weight);
    add(to.o, &Element::row, by_query.o, weight, s.cta_k);
    const ProductRun by_key = products.run({Coordinate::key, weight});
    add(to.scores, &Element::column, by_key.scores, weight);
    add(to.p, &Element::column, by_key.p, weight);
    const ProductRun by_channel = products.run({Coordinate::channel, weight});
    add(to.o, &Element::column, by_channel.o, weight, s.cta_k);
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      q_scale[lane] = by_query.scale[lane] - 1;
      k_scale[lane] = by_key.scale[lane] - 1;
    }
  }

  // A lane has one product of two scales for all its scores, which so tell whose they are.
  to.q_scale.assign(static_cast<std::size_t>(s.warp_rows), -1);
  to.k_scale.assign(static_cast<std::size_t>(s.cta_k), -1);
  const auto set = [](std::vector<int>& scales, int index, int scale) {
    int& known = scales.at(static_cast<std::size_t>(index));
    require(known == -1 || known == scale, "scores of one row have unequal scales");
    known = scale;
  };
  for (int operand = 0; operand < to.scores.operands; ++operand) {
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int reg = 0; reg < to.scores.registers; ++reg) {
        const Element& at = to.scores.at(operand, lane, reg, 0);
        set(to.q_scale, at.row, q_scale[static_cast<std::size_t>(lane)]);
        set(to.k_scale, at.column, k_scale[static_cast<std::size_t>(lane)]);
      }
    }
  }
}

// ---- the order of keys in V --------------------------------------------------------------------------

// Runs the kernel that prepares V on values that are the digits of their keys.
std::vector<int> measure_stored_keys(const runtime::Device& device, const Kernel& values,
                                     int keys) {
  namespace qv = quantize_values;
  const qv::Spec spec = values.view(qv::family()).spec;
  const int padded = (keys + qv::kKeys - 1) / qv::kKeys * qv::kKeys;
  const Artifact artifact = emit(values);
  const ParamLayout layout = values.params();
  const runtime::Kernel loaded(device, artifact.code, artifact.key, artifact.resources.threads,
                               static_cast<int>(artifact.resources.dynamic_smem), layout.bytes());
  std::vector<int> order(static_cast<std::size_t>(keys), 0);
  for (const int weight : {1, kDigits}) {
    std::vector<std::uint16_t> v;
    for (int key = 0; key < padded; ++key) {
      const auto code = static_cast<std::uint16_t>(code_of(spec.io, key / weight % kDigits));
      v.insert(v.end(), static_cast<std::size_t>(spec.head_dim), code);
    }
    const runtime::Buffer from = upload(device, v);
    // The largest code as the largest value: scales are 1.
    const runtime::Buffer amax = upload(
        device,
        std::vector<float>(static_cast<std::size_t>(spec.head_dim), largest_v_code(spec.codes)));
    const runtime::Buffer codes(device, static_cast<std::size_t>(padded * spec.head_dim));
    const runtime::Buffer scale(device, static_cast<std::size_t>(spec.head_dim) * 4);
    ParamPack params(layout);
    params.set(qv::Params{.v = {.data = from.data(),
                                .stride_batch = 0,
                                .stride_head = 0,
                                .stride_token = spec.head_dim},
                          .amax_partial = amax.data(),
                          .codes = codes.data(),
                          .scale = scale.data(),
                          .kv_len = padded,
                          .kv_len_padded = padded,
                          .chunks = 1});
    const runtime::Stream stream(device);
    loaded.launch_block({.x = static_cast<unsigned>(padded / qv::kKeys)}, params.data(),
                        params.bytes(), stream.handle());
    stream.synchronize();
    const Bytes stored = download<std::uint8_t>(codes);
    for (std::size_t place = 0; place < order.size(); ++place)
      order[place] += digit_of(DType::e4m3, stored[place]) * weight;
  }
  return order;
}

std::vector<int> stored_keys(const runtime::Device& device, const Kernel& kernel,
                             const Sizes& sizes) {
  std::vector<int> order;
  for (int key = 0; key < sizes.cta_k; ++key) order.push_back(key);
  if (sizes.pv != DType::e4m3) return order;  // rows of the tile are keys
  for (const Kernel& input : kernel.inputs()) {
    if (&input.family() == &quantize_values::family())
      return measure_stored_keys(device, input, sizes.cta_k);
  }
  throw InternalError("tools/pictures/layouts.cpp: no kernel prepares the FP8 codes of V");
}

}  // namespace

Layouts measure_layouts(const Kernel& kernel) {
  if (&kernel.family() != &attention::family()) {
    throw SpecError(
        fmt::format("layouts are measured of attention kernels, and {} is none; use the key of one",
                    kernel.key()));
  }
  kernel.validate();
  const runtime::Device device = device_for(kernel.target());
  Layouts result;
  const Products products(device, kernel);
  measure_products(products, result);
  const Sizes& s = products.sizes();
  result.queries = s.warp_rows;
  result.keys = s.cta_k;
  result.head_dim = s.head_dim;
  result.io = s.io;
  result.qk = s.qk;
  result.pv = s.pv;
  result.v_is_scaled = s.v_quantized;
  result.stored_key = stored_keys(device, kernel, s);

  const auto code = [&](int byte, int bit) {
    return Element{.row = byte / s.code_row_bytes,
                   .column = (byte % s.code_row_bytes * 8 + bit) / bits(s.qk)};
  };
  const auto value = [&](int byte, int) {
    if (s.pv == DType::e4m3) {
      return Element{.row = result.stored_key[static_cast<std::size_t>(byte % s.cta_k)],
                     .column = byte / s.cta_k};
    }
    return Element{.row = byte / 2 / s.head_dim, .column = byte / 2 % s.head_dim};
  };
  const bool by_channel = s.pv == DType::e4m3;
  const MeasuredTile q = measure_tile(device, kernel, TileName::q),
                     k = measure_tile(device, kernel, TileName::k),
                     v = measure_tile(device, kernel, TileName::v);
  result.q = fragments_of(q, 4, bits(s.qk), code);
  result.k = fragments_of(k, 2, bits(s.qk), code);
  result.v = fragments_of(v, 2, bits(s.pv), value);
  result.tiles = {drawn_tile(q, "Q", s.qk, "query", false), drawn_tile(k, "K", s.qk, "key", false),
                  drawn_tile(v, "V", s.pv, by_channel ? "channel" : "key", !by_channel)};
  return result;
}

}  // namespace sagegen::pictures
