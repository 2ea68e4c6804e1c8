// Decode attention over a paged cache of few bits (templates/decode/plan.h): against attention in double precision over what
// the codes stand for. The cache is packed here from the description in templates/shared/kv_format.h.
#include <algorithm>
#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "sagegen/emit.h"
#include "sagegen/runtime/emulator.h"
#include "sagegen/runtime/graph.h"
#include "templates/decode/plan.h"
#include "tools/reference/rounding.h"

using namespace sagegen;
namespace rt = sagegen::runtime;
namespace ref = sagegen::reference;
using Catch::Matchers::Contains;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr std::int32_t kNoPage = 1'000'000;

double io_value(DType io, std::uint16_t bits) {
  return io == DType::f16 ? ref::f16_value(bits) : ref::bf16_value(bits);
}
std::uint16_t io_bits(DType io, double value) {
  return io == DType::f16 ? ref::f16_bits(ref::round_ieee(value, ref::kF16))
                          : ref::bf16_bits(ref::round_ieee(value, ref::kBf16));
}
double rounded(DType io, double value) { return io_value(io, io_bits(io, value)); }

struct Case {
  decode::Spec spec = {};
  std::string how = {};  // empty: the usual schedule with as many look-ups as the pages need
  int sm = 80;           // of the device; it runs the PTX of a target that is no newer
  int page_tokens = 64;
  KvPageLayout layout = KvPageLayout::hnd;
  std::vector<int> lengths = {1, 317, 530, 0};
  int kv_heads = 2, group = 4, q_len = 1;
  int splits = 1;
  double q_scale = 1;  // peaked scores: 4
  double v_scale = 1;
  std::uint64_t seed = 1;
  int spare_pages = 3;
  std::uint16_t poison = 0xFFFF;  // what lies in the pool where there is no token: NaN
  rt::EmulatorOptions emulator = {};
  std::vector<int> q_lens = {};  // of each sequence; empty: q_len
  bool chain = false;            // the tree of drafts is one: query i sees drafts 0 to i
  int left = 20, right = 0;      // of the window
  double cap = 2;                // of scores

  int queries(std::size_t b) const {
    return q_lens.empty() ? q_len : std::clamp(q_lens[b], 0, q_len);
  }
  // Of the token where a query stands.
  int position(std::size_t b, int query) const { return lengths[b] - queries(b) + query; }
  std::uint32_t tree_mask(std::size_t b, int query) const {
    if (chain) return (2u << query) - 1;
    return static_cast<std::uint32_t>(
               std::mt19937_64(seed * 1000 + 100 * b + static_cast<std::uint64_t>(query))()) |
           1u << query;
  }
  double slope(int head) const { return std::exp2(-1 - head % 8); }
  double sink(int head) const {
    return head % 3 == 0 ? -kInfinity : static_cast<float>(0.3 * head - 0.5);
  }
  bool sees(std::size_t b, int query, int token) const {
    const int here = position(b, query), draft = token - position(b, 0);
    if (spec.causal && token > here) return false;
    if (spec.tree && draft >= 0 && (tree_mask(b, query) >> draft & 1) == 0) return false;
    return !spec.window || (token >= here - left && (right < 0 || token <= here + right));
  }
  std::string masks() const {
    std::string text = fmt::format("{}{}", spec.causal ? " causal" : "", spec.tree ? " tree" : "");
    if (spec.window) text += fmt::format(" window {} {}", left, right);
    return text + (spec.softcap ? " softcap" : "") + (spec.alibi ? " alibi" : "") +
           (spec.sinks ? " sinks" : "") + (q_lens.empty() ? "" : " ragged");
  }

  int rows() const { return group * q_len; }
  Kernel kernel() const {
    const Target target{.sm = sm == 90 ? 89 : sm};
    const Kernel usual(decode::family(), spec, target);
    if (!how.empty()) return usual.with_schedule(how);
    decode::Schedule schedule = usual.view(decode::family()).schedule;
    if (page_tokens % schedule.tile != 0) schedule.lookups = decode::tile_blocks(schedule);
    return Kernel(decode::family(), spec, schedule, target);
  }
  KvFormat format() const {
    return {.head_dim = spec.head_dim,
            .io = spec.io,
            .k_bits = spec.k_bits,
            .v_bits = spec.v_bits,
            .k_codes = spec.k_codes,
            .v_codes = spec.v_codes,
            .page_tokens = page_tokens,
            .layout = layout};
  }
  std::string text() const {
    return fmt::format("{}: page {} {}, {} KV heads, group {}, q_len {}, {} splits, Q times {}{}",
                       kernel().key(), page_tokens, to_string(layout), kv_heads, group, q_len,
                       splits, q_scale, masks());
  }
};

// A row of K or V in few bits, and what it stands for.
struct Row {
  std::vector<unsigned> codes;  // of 16 bits: the bits
  std::uint16_t scale = 0, zero = 0;
  std::vector<double> values;
};

// Numbers of e4m3 by code; NaN is none of them.
double e4m3_number(unsigned code) {
  const int exponent = static_cast<int>(code >> 3 & 15), mantissa = static_cast<int>(code & 7);
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return code >= 128 ? -magnitude : magnitude;
}

unsigned nearest_e4m3(double x) {
  unsigned nearest = 0;
  for (unsigned code = 0; code < 256; ++code) {
    if (code % 128 == 127) continue;
    if (std::abs(e4m3_number(code) - x) < std::abs(e4m3_number(nearest) - x)) nearest = code;
  }
  return nearest;
}

Row without_zero_point(const std::vector<double>& x, int bits, KvCoding coding) {
  Row row;
  double amax = 0;
  for (const double value : x) amax = std::max(amax, std::abs(value));
  const bool floats = coding == KvCoding::e4m3;
  const int largest = floats ? 448 : (1 << (bits - 1)) - 1, offset = 1 << (bits - 1);
  row.scale = io_bits(DType::f16, std::max(amax / largest, 1e-4));
  const double scale = ref::f16_value(row.scale);
  for (const double value : x) {
    if (floats) {
      row.codes.push_back(nearest_e4m3(value / scale));
      row.values.push_back(scale * e4m3_number(row.codes.back()));
      continue;
    }
    const double number = std::clamp<double>(std::round(value / scale), -largest, largest);
    row.codes.push_back(static_cast<unsigned>(number + offset));
    row.values.push_back(scale * number);
  }
  return row;
}

Row quantized(const std::vector<double>& x, int bits, KvCoding coding, DType io) {
  if (coding != KvCoding::asymmetric) return without_zero_point(x, bits, coding);
  Row row;
  if (bits == 16) {
    for (const double value : x) {
      row.codes.push_back(io_bits(io, value));
      row.values.push_back(rounded(io, value));
    }
    return row;
  }
  const auto [least, most] = std::minmax_element(x.begin(), x.end());
  const int largest = (1 << bits) - 1;
  row.scale = io_bits(DType::f16, std::max((*most - *least) / largest, 1e-4));
  row.zero = io_bits(DType::f16, *least);
  const double scale = ref::f16_value(row.scale), zero = ref::f16_value(row.zero);
  for (const double value : x) {
    const double code = std::clamp(std::round((value - zero) / scale), 0.0, double(largest));
    row.codes.push_back(static_cast<unsigned>(code));
    row.values.push_back(scale * code + zero);
  }
  return row;
}

// An orthonormal Hadamard matrix of each so many channels: entry (i, j) has the sign of the bits that i and j share.
std::vector<double> rotated(const Case& c, std::vector<double> x) {
  if (c.spec.rotation == Rotation::none) return x;
  const auto block = static_cast<std::size_t>(rotation_block(c.spec.head_dim));
  std::vector<double> result(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    for (std::size_t j = i / block * block; j < i / block * block + block; ++j)
      result[i] += std::popcount(i & j & (block - 1)) % 2 == 0 ? x[j] : -x[j];
    result[i] /= std::sqrt(static_cast<double>(block));
  }
  return result;
}

// Inputs of a case; a sequence is the same whatever the others are.
struct Inputs {
  // By sequence and KV head: rows of K and V; by sequence, KV head and row: Q.
  std::vector<std::vector<std::vector<Row>>> k, v;
  std::vector<std::vector<std::vector<std::vector<double>>>> q;
};

Inputs inputs_of(const Case& c) {
  Inputs inputs;
  const int channels = kv_code_channels(c.spec.head_dim);
  for (std::size_t b = 0; b < c.lengths.size(); ++b) {
    std::mt19937_64 random(c.seed * 1000 + static_cast<std::uint64_t>(c.lengths[b]));
    std::normal_distribution<double> normal;
    const auto row = [&](double scale, double shift, int padded) {
      std::vector<double> x(static_cast<std::size_t>(padded));
      for (int i = 0; i < c.spec.head_dim; ++i)
        x[static_cast<std::size_t>(i)] = rounded(c.spec.io, scale * (normal(random) + shift));
      return x;
    };
    inputs.k.emplace_back(c.kv_heads);
    inputs.v.emplace_back(c.kv_heads);
    inputs.q.emplace_back(c.kv_heads);
    for (std::size_t h = 0; h < static_cast<std::size_t>(c.kv_heads); ++h) {
      for (int i = 0; i < c.lengths[b]; ++i) {
        inputs.k[b][h].push_back(
            quantized(rotated(c, row(1, 0, channels)), c.spec.k_bits, c.spec.k_codes, c.spec.io));
        inputs.v[b][h].push_back(
            quantized(row(c.v_scale, 0.3, channels), c.spec.v_bits, c.spec.v_codes, c.spec.io));
      }
      for (int r = 0; r < c.rows(); ++r)
        inputs.q[b][h].push_back(row(c.q_scale, 0, c.spec.head_dim));
    }
  }
  return inputs;
}

// The pool as numbers of f16 that are poison, but for the tokens that there are.
struct Cache {
  std::vector<std::byte> pool;
  std::vector<std::int32_t> table;  // [batch, max_pages]
  KvStrides strides;
  int pages = 0, max_pages = 0;
};

void write_row(std::byte* block, const Row& row, int token, int bits,
               const std::function<int(int token, int row_byte)>& at) {
  const int per_byte = 8 / std::min(bits, 8);
  const auto bytes = static_cast<int>(row.codes.size()) * bits / 8;
  for (int i = 0; i < bytes; ++i) {
    unsigned byte = 0;
    if (bits == 16) {
      byte = row.codes[static_cast<std::size_t>(i / 2)] >> (8 * (i % 2)) & 0xFF;
    } else {
      for (int j = 0; j < per_byte; ++j)
        byte |= row.codes[static_cast<std::size_t>(per_byte * i + j)] << (bits * j);
    }
    block[at(token, i)] = static_cast<std::byte>(byte);
  }
}

Cache packed(const Case& c, const Inputs& inputs) {
  const KvFormat format = c.format();
  const KvBlock block(format);
  Cache cache;
  cache.strides = kv_strides(format, c.kv_heads);
  std::vector<int> pages;
  for (const int length : c.lengths) {
    pages.push_back((length + c.page_tokens - 1) / c.page_tokens);
    cache.max_pages = std::max({cache.max_pages, pages.back(), 1});
  }
  cache.pages = std::accumulate(pages.begin(), pages.end(), c.spare_pages);
  cache.pool.resize(static_cast<std::size_t>(cache.pages * cache.strides.page));
  for (std::size_t at = 0; at < cache.pool.size(); at += sizeof c.poison)
    std::memcpy(&cache.pool[at], &c.poison, sizeof c.poison);
  std::vector<std::int32_t> free(static_cast<std::size_t>(cache.pages));
  std::iota(free.begin(), free.end(), 0);
  std::shuffle(free.begin(), free.end(), std::mt19937_64(c.seed));
  cache.table.assign(c.lengths.size() * static_cast<std::size_t>(cache.max_pages), kNoPage);
  for (std::size_t b = 0; b < c.lengths.size(); ++b) {
    std::int32_t* table = &cache.table[b * static_cast<std::size_t>(cache.max_pages)];
    for (int page = 0; page < pages[b]; ++page) {
      table[page] = free.back();
      free.pop_back();
    }
    for (int h = 0; h < c.kv_heads; ++h) {
      for (int token = 0; token < c.lengths[b]; ++token) {
        const int in_page = token % c.page_tokens, in_block = token % kKvBlockTokens;
        std::byte* at = cache.pool.data() + table[token / c.page_tokens] * cache.strides.page +
                        h * cache.strides.head + in_page / kKvBlockTokens * cache.strides.block;
        const auto t = static_cast<std::size_t>(token);
        const Row& k = inputs.k[b][static_cast<std::size_t>(h)][t];
        const Row& v = inputs.v[b][static_cast<std::size_t>(h)][t];
        write_row(at, k, in_block, c.spec.k_bits,
                  [&](int i, int byte) { return block.k_byte(i, byte); });
        write_row(at, v, in_block, c.spec.v_bits,
                  [&](int i, int byte) { return block.v_byte(i, byte); });
        const auto half = [&](int offset, std::uint16_t bits) {
          std::memcpy(at + offset, &bits, sizeof bits);
        };
        if (kv_quantized(c.spec.k_bits)) {
          half(block.s_k(in_block), k.scale);
          if (kv_has_zero_point(c.spec.k_codes)) half(block.z_k(in_block), k.zero);
        }
        if (kv_quantized(c.spec.v_bits)) {
          half(block.s_v(in_block), v.scale);
          if (kv_has_zero_point(c.spec.v_codes)) half(block.z_v(in_block), v.zero);
        }
      }
    }
    // Pages that no query of the sequence sees may have gone to others.
    const int seen_from = c.spec.window ? c.position(b, 0) - c.left : 0;
    for (int page = 0; (page + 1) * c.page_tokens <= seen_from && page < pages[b]; ++page)
      table[page] = kNoPage;
  }
  return cache;
}

struct Result {
  std::vector<double> o, lse;  // [batch, q_heads, q_len, head_dim], [batch, q_heads, q_len]
};

// Q as the kernel has it: whole multiples of a step of the row's largest number. In f32, lest ties go the other way.
std::vector<double> codes_of_q(const std::vector<double>& q, int largest) {
  float amax = 0;
  for (const double x : q) amax = std::max(amax, std::abs(static_cast<float>(x)));
  std::vector<double> codes = q;
  for (double& x : codes) {
    const float code = static_cast<float>(x) * (static_cast<float>(largest) / amax);
    x = amax == 0 ? 0 : std::nearbyint(static_cast<double>(code)) * amax / largest;
  }
  return codes;
}

// largest: code of Q; 0: as it is.
Result expected(const Case& c, const Inputs& inputs, int largest) {
  const auto dim = static_cast<std::size_t>(c.spec.head_dim);
  const auto heads = static_cast<std::size_t>(c.kv_heads * c.group);
  const auto q_len = static_cast<std::size_t>(c.q_len), group = static_cast<std::size_t>(c.group);
  Result result;
  result.o.resize(c.lengths.size() * heads * q_len * dim);
  result.lse.resize(c.lengths.size() * heads * q_len, -kInfinity);
  for (std::size_t b = 0; b < c.lengths.size(); ++b) {
    for (std::size_t head = 0; head < heads; ++head) {
      const auto &k = inputs.k[b][head / group], &v = inputs.v[b][head / group];
      for (std::size_t i = 0; i < q_len; ++i) {
        std::vector<double> q = inputs.q[b][head / group][i * group + head % group];
        q = rotated(c, q);
        if (largest != 0) q = codes_of_q(q, largest);
        if (c.spec.k_bits == 16) {
          for (double& x : q) x = rounded(c.spec.io, x);
        }
        const int query = static_cast<int>(i), of_all = static_cast<int>(head);
        if (query >= c.queries(b)) continue;
        std::vector<double> scores;
        for (int token = 0; token < c.lengths[b]; ++token) {
          const auto& row = k[static_cast<std::size_t>(token)].values;
          double score = std::inner_product(q.begin(), q.end(), row.begin(), 0.0) /
                         std::sqrt(static_cast<double>(dim));
          if (c.spec.softcap) score = c.cap * std::tanh(score / c.cap);
          if (c.spec.alibi) score -= c.slope(of_all) * std::abs(c.position(b, query) - token);
          scores.push_back(c.sees(b, query, token) ? score : -kInfinity);
        }
        const double sink = c.spec.sinks ? c.sink(of_all) : -kInfinity;
        const double most = std::accumulate(scores.begin(), scores.end(), sink,
                                            [](double x, double y) { return std::max(x, y); });
        if (std::isinf(most)) continue;
        double sum = std::exp(sink - most);
        for (double& score : scores) sum += score = std::exp(score - most);
        const std::size_t row = (b * heads + head) * q_len + i;
        for (std::size_t token = 0; token < scores.size(); ++token) {
          for (std::size_t d = 0; d < dim; ++d)
            result.o[row * dim + d] += scores[token] / sum * v[token].values[d];
        }
        result.lse[row] = most + std::log(sum);
      }
    }
  }
  return result;
}

// Emitted once.
const Artifact& artifact_of(const Kernel& kernel) {
  static std::map<std::string, Artifact> artifacts;
  const auto found = artifacts.find(kernel.key());
  if (found != artifacts.end()) return found->second;
  return artifacts.emplace(kernel.key(), emit(kernel)).first->second;
}

rt::DeviceOrdinal ordinal_of(int sm) {
  const std::map<int, rt::EmulatorProfile> profiles{{80, rt::EmulatorProfile::sm_80},
                                                    {86, rt::EmulatorProfile::sm_86},
                                                    {89, rt::EmulatorProfile::sm_89},
                                                    {90, rt::EmulatorProfile::sm_90},
                                                    {120, rt::EmulatorProfile::sm_120}};
  return static_cast<rt::DeviceOrdinal>(profiles.at(sm));
}

template <typename T>
rt::Buffer buffer_of(const rt::Device& device, const std::vector<T>& values) {
  rt::Buffer buffer(device, values.size() * sizeof(T));
  buffer.upload(std::as_bytes(std::span(values)));
  return buffer;
}

// A call of a case, on the emulator.
class Run {
 public:
  Run(const Case& c, const Inputs& inputs)
      : case_(c),
        emulator_(rt::make_emulator(c.emulator)),
        device_(emulator_, ordinal_of(c.sm)),
        plan_(device_, c.kernel(), artifact_of) {
    const Cache cache = packed(c, inputs);
    const std::int64_t batch = static_cast<std::int64_t>(c.lengths.size());
    std::vector<std::uint16_t> q;  // [batch, q_heads, q_len, head_dim]; NaN where there is no query
    for (std::size_t b = 0; b < inputs.q.size(); ++b) {
      for (const auto& of_head : inputs.q[b]) {
        for (int g = 0; g < c.group; ++g) {
          for (int i = 0; i < c.q_len; ++i) {
            for (const double x : of_head[static_cast<std::size_t>(i * c.group + g)])
              q.push_back(i < c.queries(b) ? io_bits(c.spec.io, x) : std::uint16_t{0xFFFF});
          }
        }
      }
    }
    elements_ = q.size();
    q_ = buffer_of(device_, q);
    o_ = rt::Buffer(device_, 2 * q.size());
    lse_ = rt::Buffer(device_, 4 * q.size() / static_cast<std::size_t>(c.spec.head_dim));
    pool_ = buffer_of(device_, cache.pool);
    table_ = buffer_of(device_, cache.table);
    lengths_ = buffer_of(device_, c.lengths);
    shape = {.batch = batch,
             .q_heads = c.kv_heads * c.group,
             .kv_heads = c.kv_heads,
             .q_len = c.q_len,
             .page_tokens = c.page_tokens,
             .max_pages = cache.max_pages,
             .splits = c.splits};
    const auto tensor = [&](const rt::Buffer& buffer) {
      return rt::hnd(buffer.data(), shape.q_heads, c.q_len, c.spec.head_dim);
    };
    arguments = {.q = tensor(q_),
                 .pool = pool_.data(),
                 .strides = cache.strides,
                 .pool_pages = cache.pages,
                 .page_table = table_.data(),
                 .lengths = lengths_.data(),
                 .o = tensor(o_),
                 .lse = lse_.data()};
    if (!c.q_lens.empty()) {
      q_lens_ = buffer_of(device_, c.q_lens);
      arguments.q_lens = q_lens_.data();
    }
    if (c.spec.tree) {
      std::vector<std::uint32_t> masks;
      for (std::size_t b = 0; b < c.lengths.size(); ++b) {
        for (int i = 0; i < c.q_len; ++i) masks.push_back(c.tree_mask(b, i));
      }
      masks_ = buffer_of(device_, masks);
      arguments.tree_masks = masks_.data();
    }
    std::vector<float> slopes, sinks;
    for (int head = 0; head < c.kv_heads * c.group; ++head) {
      slopes.push_back(static_cast<float>(c.slope(head)));
      sinks.push_back(static_cast<float>(c.sink(head)));
    }
    slopes_ = buffer_of(device_, slopes);
    sinks_ = buffer_of(device_, sinks);
    decode::ModArguments& mods = arguments.mods;
    if (c.spec.window) mods.window = {.left = c.left, .right = c.right};
    if (c.spec.softcap) mods.softcap.cap = static_cast<float>(c.cap);
    if (c.spec.alibi) mods.alibi.slopes = slopes_.data();
    if (c.spec.sinks) mods.sinks.logits = sinks_.data();
    workspace_ = rt::Buffer(device_, plan_.workspace_bytes(shape));
    for (rt::Buffer* buffer : {&workspace_, &o_, &lse_}) {
      if (buffer->bytes() != 0) buffer->fill(0xFF);
    }
  }

  void run(rt::StreamHandle stream = nullptr) { try_run(shape, arguments, stream); }
  void try_run(const decode::Shape& of, const decode::Arguments& with,
               rt::StreamHandle stream = nullptr) const {
    plan_.run(of, with, workspace_.data(), workspace_.bytes(), stream);
  }
  void set_lengths(const std::vector<int>& lengths) {
    lengths_.upload(std::as_bytes(std::span(lengths)));
  }
  // They are the last of the workspace.
  std::vector<std::int32_t> tickets(const Case& c) const {
    std::vector<std::byte> all(workspace_.bytes());
    workspace_.download(all);
    const int row_tiles = (c.rows() + c.spec.rows - 1) / c.spec.rows;
    std::vector<std::int32_t> tickets(c.lengths.size() *
                                      static_cast<std::size_t>(c.kv_heads * row_tiles));
    const std::size_t bytes = 4 * tickets.size();
    std::memcpy(tickets.data(), all.data() + all.size() - (bytes + 255) / 256 * 256, bytes);
    return tickets;
  }
  // Of the last run; findings of the emulator fail the test.
  Result result() const {
    device_.synchronize();
    for (const rt::Finding& finding : emulator_->findings())
      FAIL_CHECK(finding.check << ": " << finding.message << ", PTX line " << finding.ptx_line);
    Result result;
    std::vector<std::uint16_t> o(elements_);
    std::vector<float> lse(elements_ / static_cast<std::size_t>(case_.spec.head_dim));
    o_.download(std::as_writable_bytes(std::span(o)));
    lse_.download(std::as_writable_bytes(std::span(lse)));
    for (const std::uint16_t bits : o) result.o.push_back(io_value(case_.spec.io, bits));
    result.lse.assign(lse.begin(), lse.end());
    return result;
  }
  // How often a warp has executed an instruction whose name begins so, in the last run; with Counting::on.
  std::uint64_t executed(const std::string& opcode) const {
    std::uint64_t count = 0;
    for (const rt::LineCount& line : emulator_->last_launch().lines)
      count += line.opcode.rfind(opcode, 0) == 0 ? line.executed : 0;
    return count;
  }
  void set_q_lens(const std::vector<int>& q_lens) {
    q_lens_.upload(std::as_bytes(std::span(q_lens)));
  }
  const decode::Plan& plan() const { return plan_; }
  const rt::Device& device() const { return device_; }

  decode::Shape shape;
  decode::Arguments arguments;

 private:
  Case case_;
  std::shared_ptr<rt::EmulatorDriver> emulator_;
  rt::Device device_;
  decode::Plan plan_;
  std::size_t elements_ = 0;
  rt::Buffer q_, o_, lse_, pool_, table_, lengths_, q_lens_, masks_, slopes_, sinks_, workspace_;
};

Result run(const Case& c, const Inputs& inputs) {
  Run call(c, inputs);
  call.run();
  return call.result();
}

// Relative L2 of O.
double difference(const std::vector<double>& a, const std::vector<double>& b) {
  double error = 0, all = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    error += (a[i] - b[i]) * (a[i] - b[i]);
    all += b[i] * b[i];
  }
  return std::sqrt(error / all);
}

// What the kernel loses beside the rounding of Q: roundings of P, of P times scales, and of O. One of f16 is at most 2^-11,
// the root of the mean of squares 2^-11 / sqrt(3); one of bf16 eight times as much. In sums of many they are less.
double kernel_tolerance(const decode::Spec& spec) {
  const double f16 = 0x1p-11 / std::sqrt(3.0), bf16 = 8 * f16;
  if (spec.io == DType::f16) return std::sqrt(3.0) * f16;
  return std::sqrt(spec.v_bits == 16 ? 2 * bf16 * bf16 : bf16 * bf16 + 2 * f16 * f16);
}
// Q in 8 bits has steps of 1/127 of its largest number; in 16 and 14 bits nothing is left of them.
int largest_code_of_q(const decode::Spec& spec) {
  if (spec.k_bits == 16 || spec.k_codes == KvCoding::e4m3) return 0;
  if (spec.k_bits == 8) return kv_code_channels(spec.head_dim) <= 128 ? 32639 : 8127;
  return 127;
}

// tanh.approx is wrong by 2^-11 of its value at most, and so is a score; most of them are within 4 times that of Q.
double softcap_tolerance(const Case& c) { return c.spec.softcap ? 0x1p-11 * c.q_scale : 0; }

// yes: also against Q that is not rounded, of which 8 bits lose so much where tokens are many.
enum class AgainstExactQ { no, yes };
void check(const Case& c, AgainstExactQ against = AgainstExactQ::yes) {
  INFO(c.text());
  const Inputs inputs = inputs_of(c);
  const double tolerance = kernel_tolerance(c.spec) + softcap_tolerance(c);
  const Result result = run(c, inputs);
  const Result want = expected(c, inputs, largest_code_of_q(c.spec));
  CHECK(difference(result.o, want.o) < tolerance);
  double worst = 0;
  for (std::size_t i = 0; i < want.lse.size(); ++i) {
    if (std::isinf(want.lse[i])) {
      CHECK(result.lse[i] == want.lse[i]);
      for (int d = 0; d < c.spec.head_dim; ++d)
        REQUIRE(
            result.o[i * static_cast<std::size_t>(c.spec.head_dim) + static_cast<std::size_t>(d)] ==
            0);
    } else {
      worst = std::max(worst, std::abs(result.lse[i] - want.lse[i]));
    }
  }
  CHECK(worst < (c.spec.io == DType::bf16 ? 4e-3 : 1e-3) + 4 * softcap_tolerance(c));
  if (against == AgainstExactQ::no) return;
  const double exact = difference(result.o, expected(c, inputs, 0).o);
  CAPTURE(exact);
  if (c.spec.k_bits >= 8) {
    CHECK(exact < tolerance);
  } else if (c.q_scale == 1) {
    CHECK(exact < 4e-3 + tolerance);
  }
}

TEST_CASE("a call of each product of K, and of V, in short", "[fast]") {
  check({.spec = {.k_bits = 4, .v_bits = 4}});
  check({.spec = {.k_bits = 8, .v_bits = 2}, .sm = 90, .page_tokens = 48, .splits = 3});
  check({.spec = {.k_bits = 2, .v_bits = 8}, .sm = 120, .page_tokens = 16, .group = 8});
  check({.spec = {.k_bits = 16, .v_bits = 16}, .sm = 89, .layout = KvPageLayout::nhd});
}

constexpr KvCoding kSymmetric = KvCoding::symmetric, kE4m3 = KvCoding::e4m3;

TEST_CASE("codes without zero points, in short", "[fast]") {
  check({.spec = {.k_codes = kE4m3, .v_codes = kE4m3}});
  check({.spec = {.v_bits = 4, .k_codes = kE4m3, .rows = 16}, .sm = 89, .group = 16, .splits = 3});
  check({.spec = {.k_bits = 4, .v_codes = kE4m3}, .sm = 120, .page_tokens = 48});
  for (const int bits : {2, 4, 8})
    check({.spec = {.k_bits = bits, .v_bits = bits, .k_codes = kSymmetric, .v_codes = kSymmetric}});
}

TEST_CASE("codes with and without zero points, in all pairs", "[full]") {
  struct Codes {
    int bits;
    KvCoding coding;
  };
  const std::vector<Codes> all{{2, KvCoding::asymmetric}, {4, KvCoding::asymmetric},
                               {8, KvCoding::asymmetric}, {16, KvCoding::asymmetric},
                               {2, kSymmetric},           {4, kSymmetric},
                               {8, kSymmetric},           {8, kE4m3}};
  constexpr int kDevices[] = {80, 89, 90, 120};
  int number = 0;
  for (const Codes& k : all) {
    for (const Codes& v : all) {
      if (kv_has_zero_point(k.coding) && kv_has_zero_point(v.coding)) continue;
      ++number;
      const bool wide = number % 3 == 0;
      Case c{.spec = {.head_dim = number % 5 == 0 ? 64 : 128,
                      .io = number % 4 == 0 ? DType::bf16 : DType::f16,
                      .k_bits = k.bits,
                      .v_bits = v.bits,
                      .k_codes = k.coding,
                      .v_codes = v.coding,
                      .rows = wide ? 16 : 8,
                      .rotation = number % 7 == 0 ? Rotation::hadamard : Rotation::none},
             .sm = kDevices[number % 4],
             .page_tokens = number % 2 == 0 ? 48 : 64,
             .lengths = {1, 101, 0},
             .group = wide ? 16 : 4,
             .splits = number % 2 == 0 ? 1 : 3,
             .seed = static_cast<std::uint64_t>(number)};
      check(c);
    }
  }
}

TEST_CASE("codes without zero points: channels of heads, peaked scores, large and small values",
          "[full]") {
  for (const KvCoding coding : {kSymmetric, kE4m3}) {
    for (const int head_dim : {8, 96, 256}) {
      check(
          {.spec = {.head_dim = head_dim, .k_codes = coding, .v_codes = coding}, .lengths = {65}});
      if (head_dim == 256) continue;  // 8 rows are the most
      check({.spec = {.head_dim = head_dim, .k_codes = coding, .v_codes = coding, .rows = 16},
             .lengths = {65}});
    }
    for (const double scale : {0.05, 4.0}) {
      check({.spec = {.k_codes = coding, .v_codes = coding},
             .lengths = {317},
             .q_scale = scale,
             .v_scale = scale == 4.0 ? 1.0 : 50.0});
      check({.spec = {.io = DType::bf16, .k_codes = coding, .v_codes = coding},
             .lengths = {65},
             .q_scale = scale,
             .v_scale = 0.05});
    }
  }
}

TEST_CASE("all pairs of widths, for groups, pages, layouts, splits and devices", "[full]") {
  constexpr int kBits[] = {2, 4, 8, 16}, kDevices[] = {80, 89, 90, 120};
  constexpr int kGroups[] = {1, 4, 8, 16}, kPages[] = {16, 48, 64, 528};
  int number = 0;
  for (const int k_bits : kBits) {
    for (const int v_bits : kBits) {
      for (const int group : kGroups) {
        // Each group with each page, layout and number of splits, over the pairs.
        const int shifted = number / 4 + number % 4;
        check({.spec = {.k_bits = k_bits, .v_bits = v_bits, .rows = group == 16 ? 16 : 8},
               .sm = kDevices[(number / 4) % 4],
               .page_tokens = kPages[shifted % 4],
               .layout = shifted % 3 == 0 ? KvPageLayout::nhd : KvPageLayout::hnd,
               .group = group,
               .splits = number % 2 == 0 ? 1 : 3,
               .seed = static_cast<std::uint64_t>(number)});
        ++number;
      }
    }
  }
}

TEST_CASE("bf16, and channels of heads", "[full]") {
  for (const int head_dim : {64, 96, 128, 256, 8}) {
    const int rows = head_dim == 256 ? 8 : 16;  // so many have codes of K at 256 channels
    for (const DType io : {DType::f16, DType::bf16}) {
      const int bits = head_dim % 64 == 0 ? 4 : 2;
      check({.spec = {.head_dim = head_dim, .io = io, .k_bits = bits, .v_bits = bits},
             .lengths = {65},
             .splits = 2});
      check({.spec = {.head_dim = head_dim, .io = io, .k_bits = 8, .v_bits = 8},
             .sm = 90,
             .lengths = {65}});
      check(
          {.spec = {.head_dim = head_dim, .io = io, .k_bits = 16, .v_bits = 16}, .lengths = {65}});
      check({.spec = {.head_dim = head_dim, .io = io, .k_bits = 16, .v_bits = bits},
             .lengths = {65}});
      check({.spec = {.head_dim = head_dim, .io = io, .k_bits = bits, .v_bits = 16, .rows = rows},
             .lengths = {65}});
      check({.spec = {.head_dim = head_dim, .io = io, .k_bits = 8, .v_bits = 8, .rows = rows},
             .lengths = {65}});
    }
  }
}

TEST_CASE("Q is rotated as keys were", "[full]") {
  for (const int head_dim : {64, 96, 128, 256}) {
    for (const int bits : {2, 4, 8, 16}) {
      check({.spec = {.head_dim = head_dim,
                      .k_bits = bits,
                      .v_bits = 8,
                      .rows = bits == 4 && head_dim < 256 ? 16 : 8,
                      .rotation = Rotation::hadamard},
             .lengths = {317}});
    }
  }
}

TEST_CASE("peaked scores, small and large values", "[full]") {
  for (const int bits : {2, 4, 8, 16}) {
    check({.spec = {.k_bits = bits, .v_bits = bits}, .q_scale = 4});
    check({.spec = {.k_bits = bits, .v_bits = bits, .rows = 16}, .group = 16, .q_scale = 4});
    check({.spec = {.k_bits = bits, .v_bits = bits}, .q_scale = 0.05, .v_scale = 50});
    check({.spec = {.k_bits = bits, .v_bits = bits}, .v_scale = 0.05});
  }
}

TEST_CASE("several queries see all tokens, or with a causal mask those up to their own", "[full]") {
  for (const bool causal : {false, true}) {
    check({.spec = {.k_bits = 4, .v_bits = 4, .causal = causal}, .group = 2, .q_len = 4});
    // Sequences with fewer tokens than queries, and queries in several tiles and splits.
    check({.spec = {.k_bits = 8, .v_bits = 8, .rows = 16, .causal = causal},
           .lengths = {1, 3, 16, 17, 33, 34, 70},
           .group = 2,
           .q_len = 7,
           .splits = 3});
    check({.spec = {.k_bits = 16, .v_bits = 16, .rows = 16, .causal = causal},
           .how = "t16s2w2l1",
           .lengths = {2, 15, 16, 31, 64},
           .group = 1,
           .q_len = 16});
  }
}

TEST_CASE("every schedule computes the same, but for the order of sums", "[full]") {
  for (const char* how :
       {"t16s2w4l1", "t16s3w2l1", "t16s4w8l1", "t32s2w8l1", "t32s4w2l1", "t32s3w4l2", "t32s2w4l2"})
    check({.spec = {.k_bits = 4, .v_bits = 2}, .how = how, .splits = 2});
}

bool same(const Result& a, const Result& b) { return a.o == b.o && a.lse == b.lse; }

// The rows of one sequence.
Result of_sequence(const Case& c, const Result& all, std::size_t sequence) {
  const auto rows = static_cast<std::size_t>(c.kv_heads * c.rows());
  const auto part = [&](const std::vector<double>& values, std::size_t count) {
    const auto begin = values.begin() + static_cast<std::ptrdiff_t>(sequence * count);
    return std::vector<double>(begin, begin + static_cast<std::ptrdiff_t>(count));
  };
  return {part(all.o, rows * static_cast<std::size_t>(c.spec.head_dim)), part(all.lse, rows)};
}

TEST_CASE("bits do not depend on pages, layouts, other sequences or order of blocks", "[full]") {
  for (const int splits : {1, 3}) {
    const Case c{.spec = {.k_bits = 4, .v_bits = 4}, .how = "t32s3w4l2", .splits = splits};
    const Inputs inputs = inputs_of(c);
    const Result first = run(c, inputs);
    for (const int page_tokens : {16, 48, 528}) {
      for (const KvPageLayout layout : {KvPageLayout::hnd, KvPageLayout::nhd}) {
        Case other = c;
        other.page_tokens = page_tokens;
        other.layout = layout;
        INFO(other.text());
        CHECK(same(first, run(other, inputs)));
      }
    }
    Case whole = c;  // one look-up for a tile
    whole.how = "t32s3w4l1";
    CHECK(same(first, run(whole, inputs)));
    for (const std::uint64_t seed : {1, 2, 3}) {
      Case shaken = c;
      shaken.emulator = {
          .schedule = rt::SchedulePolicy::random, .async = rt::AsyncPolicy::random, .seed = seed};
      CHECK(same(first, run(shaken, inputs)));
    }
    Case alone = c;
    alone.lengths = {530};
    CHECK(same(of_sequence(c, first, 2), run(alone, inputs_of(alone))));
  }
}

TEST_CASE("a captured call serves other lengths, tokens and splits that come to nothing",
          "[full]") {
  Case c{.spec = {.k_bits = 4, .v_bits = 4}, .lengths = {530, 317}, .splits = 3};
  const Inputs inputs = inputs_of(c);
  Run call(c, inputs);
  const rt::Graph graph(call.device(), [&](rt::StreamHandle stream) { call.run(stream); });
  rt::Stream stream(call.device());
  for (const std::vector<int>& lengths :
       {std::vector{530, 317}, std::vector{1, 0}, std::vector{33, 200}, std::vector{530, 317}}) {
    call.set_lengths(lengths);
    graph.launch(stream.handle());
    stream.synchronize();
    Case shorter = c;
    shorter.lengths = lengths;
    const Result want = expected(shorter, inputs, 127), result = call.result();
    INFO(lengths[0] << ", " << lengths[1]);
    CHECK(difference(result.o, want.o) < kernel_tolerance(c.spec));
    // Every ticket is back at 0.
    CHECK(call.tickets(c) == std::vector<std::int32_t>(4, 0));
  }
}

TEST_CASE("a length beyond the page table counts as all of its pages", "[full]") {
  Case c{.spec = {.k_bits = 4, .v_bits = 4}, .page_tokens = 16, .lengths = {64}, .splits = 2};
  const Inputs inputs = inputs_of(c);
  const Result all = run(c, inputs);
  Run call(c, inputs);
  for (const int length : {65, 1 << 20, std::numeric_limits<int>::max()}) {
    call.set_lengths({length});
    call.run();
    CHECK(same(all, call.result()));
  }
  call.set_lengths({-1});
  call.run();
  const Result none = call.result();
  CHECK(std::all_of(none.o.begin(), none.o.end(), [](double x) { return x == 0; }));
}

TEST_CASE("splits fill the device, with enough tokens each", "[full]") {
  const Case c{.spec = {.k_bits = 4, .v_bits = 4}};
  const Run call(c, inputs_of(c));
  decode::Shape shape = call.shape;
  shape.splits = 0;
  const std::int64_t blocks =
      2 * call.device().attribute(rt::DeviceAttribute::multiprocessor_count);
  shape.max_pages = 15;  // of 64 tokens
  CHECK(call.plan().splits(shape) == 1);
  CHECK(call.plan().workspace_bytes(shape) == 0);
  shape.max_pages = 1 << 16;
  shape.batch = 1;
  shape.kv_heads = shape.q_heads = 1;
  CHECK(call.plan().splits(shape) == std::min<std::int64_t>(blocks, decode::kMostSplits));
  CHECK(call.plan().workspace_bytes(shape) > 0);
  shape.kv_heads = shape.q_heads = blocks;
  CHECK(call.plan().splits(shape) == 1);
}

TEST_CASE("what a plan refuses, it refuses with the rule and what to change", "[fast]") {
  const Case c{.spec = {.k_bits = 4, .v_bits = 4}, .lengths = {40}, .splits = 2};
  const Run call(c, inputs_of(c));
  const auto refuses = [&](const std::function<void(decode::Shape&, decode::Arguments&)>& change,
                           const std::string& words) {
    decode::Shape shape = call.shape;
    decode::Arguments arguments = call.arguments;
    change(shape, arguments);
    CHECK_THROWS_WITH(call.try_run(shape, arguments), Contains(words));
  };
  using Shape = decode::Shape;
  using Arguments = decode::Arguments;
  refuses([](Shape& s, Arguments&) { s.batch = 0; }, "batch is 0");
  refuses([](Shape& s, Arguments&) { s.q_heads = 9; }, "q_heads 9 is no multiple of kv_heads 2");
  refuses([](Shape& s, Arguments&) { s.q_len = 17; }, "q_len is 17");
  refuses([](Shape& s, Arguments&) { s.q_len = 16, s.kv_heads = 60'000, s.q_heads = 60'000; },
          "take 120000 blocks in y with 8 rows each");
  refuses([](Shape&, Arguments& a) { a.q_lens = a.lengths + 2; }, "q_lens is at");
  refuses([](Shape&, Arguments& a) { a.tree_masks = a.lengths; }, "has no tree");
  refuses([](Shape&, Arguments& a) { a.mods.window.left = 8; }, "has no window");
  refuses([](Shape&, Arguments& a) { a.mods.sinks.logits = a.lengths; }, "has no sinks");
  refuses([](Shape& s, Arguments&) { s.page_tokens = 48; }, "a schedule with 2 look-ups");
  refuses([](Shape& s, Arguments&) { s.page_tokens = 40; }, "pages of whole blocks of 16 tokens");
  refuses([](Shape& s, Arguments&) { s.max_pages = 1 << 26; }, "32-bit numbers");
  refuses([](Shape& s, Arguments&) { s.splits = 257; }, "there are 1 to 256");
  refuses([](Shape& s, Arguments&) { s.splits = 4; }, "the workspace has");
  refuses([](Shape&, Arguments& a) { a.strides.page += 8; }, "strides.page");
  refuses([](Shape&, Arguments& a) { a.strides.block = std::int64_t{1} << 31; }, "strides.block");
  refuses([](Shape&, Arguments& a) { a.strides.head = -16; }, "strides.head");
  refuses([](Shape&, Arguments& a) { a.pool_pages = 0; }, "pool_pages is 0");
  refuses([](Shape&, Arguments& a) { a.pool += 8; }, "pool is at");
  refuses([](Shape&, Arguments& a) { a.page_table = 0; }, "page_table is a null pointer");
  refuses([](Shape&, Arguments& a) { a.lengths += 2; }, "lengths is at");
  refuses([](Shape&, Arguments& a) { a.o = a.q; }, "must not overlap");
  refuses([](Shape&, Arguments& a) { a.lse = a.o.data; }, "must not overlap");
  refuses([](Shape&, Arguments& a) { a.softmax_scale = -1; }, "softmax_scale is -1");
  refuses([](Shape&, Arguments& a) { a.softmax_scale = 1e-30f; }, "must be 2^-60 to 2^20");
  refuses([](Shape&, Arguments& a) { a.strides = {}; }, "strides.page is 0 bytes");
  refuses([](Shape&, Arguments& a) { a.strides.head = 16; }, "of 2 it must be at least a block");
}

TEST_CASE("a plan with masks refuses what is no mask", "[fast]") {
  const auto refuses = [](const Case& c, const std::function<void(decode::Arguments&)>& change,
                          const std::string& words) {
    const Run call(c, inputs_of(c));
    decode::Arguments arguments = call.arguments;
    change(arguments);
    CHECK_THROWS_WITH(call.try_run(call.shape, arguments), Contains(words));
  };
  using Arguments = decode::Arguments;
  refuses(
      {.spec = {.tree = true}, .lengths = {1}}, [](Arguments& a) { a.tree_masks = 0; },
      "tree_masks is a null pointer");
  refuses(
      {.spec = {.softcap = true}, .lengths = {1}}, [](Arguments& a) { a.mods = {}; },
      "softcap: cap is 0");
  refuses(
      {.spec = {.sinks = true}, .lengths = {1}}, [](Arguments& a) { a.mods = {}; },
      "sinks.logits is a null pointer");
  const auto rule = [](const decode::Spec& spec) {
    const std::vector<std::string> rules =
        Kernel(decode::family(), spec, Target{.sm = 80}).violations();
    REQUIRE(rules.size() == 1);
    return rules[0];
  };
  CHECK_THAT(rule({.causal = true, .tree = true}), Contains("tree with causal is refused"));
  CHECK_THAT(rule({.tree = true, .window = true}), Contains("tree with window is refused"));
  CHECK_THAT(rule({.tree = true, .alibi = true}), Contains("tree with alibi is refused"));
  CHECK_THAT(rule({.head_dim = 256, .rows = 16}), Contains("rows 16 with head_dim 256"));
}

TEST_CASE("rows of a KV head in tiles, ragged queries, and masks, in short", "[fast]") {
  check({.spec = {.k_bits = 4, .v_bits = 4, .causal = true},
         .lengths = {1, 40},
         .kv_heads = 1,
         .group = 8,
         .q_len = 5,
         .q_lens = {2, 4}});
  check({.spec = {.k_bits = 8,
                  .v_bits = 8,
                  .causal = true,
                  .window = true,
                  .softcap = true,
                  .sinks = true},
         .page_tokens = 16,
         .lengths = {5, 90},
         .q_len = 5,
         .splits = 2});
}

TEST_CASE("queries and groups, with each mask, over ragged batches, pages and pairs", "[full]") {
  struct Masks {
    decode::Spec spec;
    int sm, left, right;
  };
  const std::vector<Masks> all{
      {{.k_bits = 4, .v_bits = 4}, 80, 0, 0},
      {{.k_bits = 4, .v_bits = 2, .causal = true}, 89, 0, 0},
      {{.k_bits = 8, .v_bits = 4, .tree = true}, 80, 0, 0},
      {{.k_bits = 4, .v_bits = 4, .causal = true, .window = true}, 80, 20, 0},
      {{.k_bits = 16, .v_bits = 16, .window = true}, 120, 17, 9},
      {{.k_bits = 8, .v_bits = 8, .causal = true, .window = true, .sinks = true}, 90, 0, -1},
      {{.k_bits = 2, .v_bits = 8, .tree = true, .softcap = true, .sinks = true}, 80, 0, 0},
      {{.k_bits = 8, .v_bits = 2, .causal = true, .alibi = true}, 80, 0, 0},
      {{.k_bits = 4,
        .v_bits = 16,
        .causal = true,
        .window = true,
        .softcap = true,
        .alibi = true,
        .sinks = true},
       80,
       33,
       0}};
  constexpr int kPages[] = {16, 48, 64, 528};
  int number = 0;
  for (const Masks& masks : all) {
    for (const int q_len : {1, 2, 5, 16}) {
      for (const int group : {1, 4, 8}) {
        Case c{.spec = masks.spec,
               .sm = masks.sm,
               .page_tokens = kPages[(number + number / 4) % 4],
               .lengths = {0, 9, 50, 97},
               .kv_heads = group == 1 ? 2 : 1,
               .group = group,
               .q_len = q_len,
               .splits = number % 2 == 0 ? 1 : 2,
               .seed = static_cast<std::uint64_t>(number),
               .left = masks.left,
               .right = masks.right};
        c.spec.rows = number % 4 == 3 ? 16 : 8;
        if (number % 3 != 0) c.q_lens = {q_len, 1, q_len / 2, q_len - 1};
        check(c, AgainstExactQ::no);
        ++number;
      }
    }
  }
}

TEST_CASE("codes of V as normal numbers give the O of codes as they stand", "[fast]") {
  struct Kind {
    int k_bits, v_bits, rows;
    KvCoding v_codes;
    const char* how;
  };
  for (const Kind& kind : {Kind{4, 4, 8, KvCoding::asymmetric, "t32s2w2l1"},
                           Kind{8, 8, 16, KvCoding::symmetric, "t16s2w4l1"},
                           Kind{16, 2, 8, KvCoding::asymmetric, "t16s2w2l1"}}) {
    Case c{.spec = {.k_bits = kind.k_bits,
                    .v_bits = kind.v_bits,
                    .v_codes = kind.v_codes,
                    .rows = kind.rows},
           .how = kind.how,
           .lengths = {1, 130, 97},
           .splits = 2};
    const Inputs inputs = inputs_of(c);
    const Result plain = run(c, inputs);
    c.how = std::string(kind.how) + "_normal";
    check(c);
    // Products are the same but for a power of two. Tensor cores add them aligned to the largest exponent, which of a subnormal
    // number says less of its size: what is cut off differs, and so may an O be rounded to f16.
    const Result normal = run(c, inputs);
    INFO(c.text());
    CHECK(difference(normal.o, plain.o) < 0x1p-13);
    CHECK(normal.lse == plain.lse);
  }
  const Kernel floats(decode::family(), {.v_codes = KvCoding::e4m3},
                      decode::Schedule{.tile = 16, .normal_codes = true}, Target{.sm = 80});
  REQUIRE(floats.violations().size() == 1);
  CHECK_THAT(floats.violations()[0], Contains("normal_codes is refused"));
}

// What follows are bugs that others had.
TEST_CASE("a tile that spans pages finds each of its pages", "[full]") {
  for (const int page_tokens : {16, 48})
    check({.spec = {.k_bits = 4, .v_bits = 4, .causal = true, .window = true},
           .how = "t32s2w2l2",
           .page_tokens = page_tokens,
           .lengths = {200, 215, 216, 217},
           .q_len = 3,
           .left = 70});
}

TEST_CASE("a window begins at each query's own position", "[full]") {
  for (const int left : {0, 1, 15, 16, 31, 47})
    check({.spec = {.k_bits = 8, .v_bits = 8, .causal = true, .window = true},
           .how = "t16s2w2l1",
           .page_tokens = 16,
           .lengths = {16, 33, 64, 100},
           .kv_heads = 1,
           .group = 2,
           .q_len = 16,
           .q_lens = {16, 7, 16, 3},
           .left = left});
}

TEST_CASE("tiles before the window cost nothing", "[full]") {
  const auto products = [](int length, int q_len, int left) {
    const Case c{.spec = {.k_bits = 4, .v_bits = 4, .causal = true, .window = true},
                 .lengths = {length},
                 .kv_heads = 1,
                 .q_len = q_len,
                 .emulator = {.counting = rt::Counting::on},
                 .left = left};
    Run call(c, inputs_of(c));
    call.run();
    call.result();
    return call.executed("mma");
  };
  // 1000 and 104 tokens are as many behind the last whole tile.
  for (const int q_len : {1, 16}) {
    CHECK(products(1000, q_len, 31) == products(104, q_len, 31));
    CHECK(products(1000, q_len, 31) < products(1000, q_len, 900));
  }
}

TEST_CASE("several queries are as many rows of the plan", "[full]") {
  const Case c{.spec = {.k_bits = 4, .v_bits = 4, .causal = true},
               .lengths = {200, 33},
               .group = 8,
               .q_len = 16,
               .splits = 3};
  Run call(c, inputs_of(c));
  // 16 tiles of 8 rows: of each split and row 128 channels, a maximum and a sum.
  const std::size_t rows = 2 * 2 * 3 * 128;
  CHECK(call.plan().workspace_bytes(call.shape) == rows * (128 + 2) * 4 + 256);
  call.run();
  call.result();
  CHECK(call.tickets(c) == std::vector<std::int32_t>(2 * 2 * 16, 0));
  check(c);
}

TEST_CASE("infinite scales of codes 0 behind the last token count for nothing", "[full]") {
  for (const int bits : {2, 4, 8, 16}) {
    for (const bool tree : {false, true})
      check({.spec = {.k_bits = bits, .v_bits = bits, .causal = !tree, .tree = tree},
             .lengths = {1, 33, 40},
             .kv_heads = 1,
             .q_len = 4,
             .poison = 0x7C00});
  }
}

TEST_CASE("ragged queries have the bits of a call of their own, a chain those of a causal mask",
          "[full]") {
  const Case c{.spec = {.k_bits = 4, .v_bits = 4, .causal = true},
               .lengths = {97, 61},
               .q_len = 6,
               .splits = 2,
               .q_lens = {6, 3}};
  const Inputs inputs = inputs_of(c);
  const Result ragged = run(c, inputs);
  Case chain = c;
  chain.spec.causal = false;
  chain.spec.tree = chain.chain = true;
  CHECK(same(ragged, run(chain, inputs)));
  Case alone = c;
  alone.lengths = {61};
  alone.q_lens = {};
  alone.q_len = 3;
  Inputs of_alone = inputs;
  of_alone.k.erase(of_alone.k.begin());
  of_alone.v.erase(of_alone.v.begin());
  of_alone.q.erase(of_alone.q.begin());
  const Result own = run(alone, of_alone);
  const Result in_batch = of_sequence(c, ragged, 1);
  for (std::size_t head = 0; head < 8; ++head) {
    for (std::size_t i = 0; i < 3; ++i) CHECK(in_batch.lse[6 * head + i] == own.lse[3 * head + i]);
    CHECK(std::equal(own.o.begin() + static_cast<std::ptrdiff_t>(3 * 128 * head),
                     own.o.begin() + static_cast<std::ptrdiff_t>(3 * 128 * (head + 1)),
                     in_batch.o.begin() + static_cast<std::ptrdiff_t>(6 * 128 * head)));
  }
}

TEST_CASE("a captured call serves other numbers of queries", "[full]") {
  Case c{.spec = {.k_bits = 4, .v_bits = 4, .causal = true},
         .lengths = {70, 70},
         .q_len = 5,
         .splits = 2,
         .q_lens = {5, 5}};
  const Inputs inputs = inputs_of(c);
  Run call(c, inputs);
  const rt::Graph graph(call.device(), [&](rt::StreamHandle stream) { call.run(stream); });
  rt::Stream stream(call.device());
  // What is beyond 0 to 5 counts as these.
  for (const std::vector<int>& q_lens :
       {std::vector{1, 4}, std::vector{0, 2}, std::vector{-1, 9}}) {
    call.set_q_lens(q_lens);
    graph.launch(stream.handle());
    stream.synchronize();
    c.q_lens = q_lens;
    const Result want = expected(c, inputs, 127), result = call.result();
    INFO(q_lens[0] << ", " << q_lens[1]);
    CHECK(difference(result.o, want.o) < kernel_tolerance(c.spec));
    for (std::size_t row = 0; row < want.lse.size(); ++row)
      CHECK(std::isinf(want.lse[row]) == std::isinf(result.lse[row]));
  }
}

TEST_CASE("queries of zeros weigh all tokens alike", "[full]") {
  for (const int bits : {2, 4, 8, 16})
    check({.spec = {.k_bits = bits, .v_bits = bits}, .lengths = {33}, .q_scale = 0});
}

// With a scale that is a power of two the score of what is hidden and the maximum of a row without keys are one number.
TEST_CASE("a query that sees no token has none, whatever the scale", "[fast]") {
  for (const int bits : {4, 16}) {
    const Case c{.spec = {.k_bits = bits, .v_bits = bits, .causal = true},
                 .lengths = {1},
                 .group = 2,
                 .q_len = 2};
    for (const float scale : {0.69314718f, 0x1p-60f}) {
      Run call(c, inputs_of(c));
      call.arguments.softmax_scale = scale;
      call.run();
      const Result result = call.result();
      for (std::size_t row = 0; row < result.lse.size(); ++row) {
        INFO(c.text() << ", scale " << scale << ", row " << row);
        const bool sees = row % 2 == 1;  // of the two queries the last one
        CHECK(std::isinf(result.lse[row]) != sees);
        const auto o = result.o.begin() + static_cast<std::ptrdiff_t>(128 * row);
        CHECK(std::all_of(o, o + 128, [](double x) { return x == 0; }) != sees);
      }
    }
  }
}

void check_largest(const decode::Spec& spec) {
  for (const double sign : {1.0, -1.0}) {
    const Case c{.spec = spec, .lengths = {70}, .splits = 2};
    Inputs inputs = inputs_of(c);
    const auto extreme = [&](int bits, KvCoding coding, std::size_t i) {
      std::vector<double> x(128);
      for (std::size_t d = 0; d < x.size(); ++d)
        x[d] = (d + (sign > 0 ? i : 0)) % 3 == 0 ? -65504 : 65504;
      return quantized(x, bits, coding, DType::f16);
    };
    for (std::size_t h = 0; h < inputs.k[0].size(); ++h) {
      for (std::size_t i = 0; i < inputs.k[0][h].size(); ++i) {
        inputs.k[0][h][i] = extreme(spec.k_bits, spec.k_codes, i);
        inputs.v[0][h][i] = extreme(spec.v_bits, spec.v_codes, 2 * i);
      }
      for (auto& row : inputs.q[0][h]) row.assign(row.size(), 65504);
    }
    const Result result = run(c, inputs);
    INFO(c.text());
    CHECK(std::all_of(result.o.begin(), result.o.end(), [](double x) { return std::isfinite(x); }));
  }
}

TEST_CASE("finite Q and caches give finite O, as large as they may be", "[full]") {
  for (const int k_bits : {2, 4, 8, 16}) {
    for (const int v_bits : {2, 4, 8, 16}) check_largest({.k_bits = k_bits, .v_bits = v_bits});
  }
  for (const int bits : {2, 4, 8}) {
    check_largest({.k_bits = bits, .v_bits = bits, .k_codes = kSymmetric, .v_codes = kSymmetric});
  }
  check_largest({.k_codes = kE4m3, .v_codes = kE4m3});
}

}  // namespace
