// A prompt that comes in chunks, on a low-bit KV cache: append() writes the chunk, gather() gives back the prefix, or all,
// and attention of packed sequences stands at the end of it. Against attention in double precision over K and V as the format
// leaves them, or, of the chunk, as they came.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <map>
#include <numeric>
#include <random>
#include <span>
#include <vector>

#include "sagegen/emit.h"
#include "sagegen/runtime/emulator.h"
#include "templates/attention/plan.h"
#include "templates/attention/spec.h"
#include "templates/shared/plan_kv_cache.h"
#include "tools/reference/rounding.h"

using namespace sagegen;
namespace rt = sagegen::runtime;
namespace ref = sagegen::reference;

namespace {

constexpr int kDim = 64, kKvHeads = 2, kGroup = 3, kQHeads = kKvHeads * kGroup;
constexpr int kPageTokens = 48;

using Row = std::vector<double>;

const Artifact& artifact_of(const Kernel& kernel) {
  static std::map<std::string, Artifact> artifacts;
  const auto found = artifacts.find(kernel.key());
  if (found != artifacts.end()) return found->second;
  return artifacts.emplace(kernel.key(), emit(kernel)).first->second;
}

template <typename T>
rt::Buffer upload(const rt::Device& device, const std::vector<T>& values) {
  rt::Buffer buffer(device, values.size() * sizeof(T));
  buffer.upload(std::as_bytes(std::span(values)));
  return buffer;
}

double rounded(double x) { return ref::round_ieee(x, ref::kF16); }

// What 4 bits make of a row (templates/kv_append/spec.h).
Row stored(Row x) {
  const auto [least, most] = std::ranges::minmax_element(x);
  const double zero = rounded(*least), scale = rounded((*most - zero) * (1 + 0x1p-11) / 15);
  for (double& value : x)
    value = zero + scale * std::clamp(std::nearbyint((value - zero) / scale), 0.0, 15.0);
  return x;
}

Row attention(const Row& q, const std::vector<Row>& k, const std::vector<Row>& v,
              std::size_t keys) {
  Row scores, o(kDim);
  for (std::size_t i = 0; i < keys; ++i) {
    scores.push_back(std::inner_product(q.begin(), q.end(), k[i].begin(), 0.0) /
                     std::sqrt(double{kDim}));
  }
  const double most = *std::ranges::max_element(scores);
  double sum = 0;
  for (double& score : scores) sum += score = std::exp(score - most);
  for (std::size_t i = 0; i < keys; ++i) {
    for (std::size_t d = 0; d < o.size(); ++d) o[d] += scores[i] / sum * v[i][d];
  }
  return o;
}

enum class Sees { what_the_cache_holds, its_chunk_as_it_came };

struct Errors {
  double of_reference = 0;  // of O against attention over what it is to see
  double of_other = 0;      // against what the other choice sees: what the test can tell apart
};

Errors errors_of(Sees sees, const attention::Spec& attends) {
  const std::vector<int> prefixes{70, 0, 33}, chunks{40, 17, 64};
  const std::size_t batch = prefixes.size();
  const rt::Device device(rt::make_emulator({}), static_cast<int>(rt::EmulatorProfile::sm_89));
  const Target target{.sm = 89};
  const KvFormat format{.head_dim = kDim, .k_bits = 4, .v_bits = 4, .page_tokens = kPageTokens};
  const KvCache cache(device, {.kv_heads = kKvHeads, .q_heads = kQHeads, .gather = true}, {format},
                      artifact_of);
  const attention::Plan attend(device, Kernel(attention::family(), attends, target), artifact_of);

  std::mt19937_64 random(3);
  std::normal_distribution<double> normal;
  const int max_pages = (33 + 64 + kPageTokens - 1) / kPageTokens + 1;
  const auto pages = static_cast<std::int64_t>(batch) * max_pages;
  std::vector<std::int32_t> table(static_cast<std::size_t>(pages));
  std::iota(table.begin(), table.end(), 0);
  std::ranges::shuffle(table, random);

  std::vector<std::uint16_t> k_bits, v_bits, q_bits;  // of all tokens, as attention has them
  std::vector<std::int64_t> slots;
  std::vector<std::int32_t> q_starts{0}, kv_starts{0};
  std::vector<std::vector<std::vector<Row>>> k(batch), v(batch), k_cache(batch), v_cache(batch);
  std::vector<Row> q;  // [token of a chunk, head]
  const auto add = [&](std::vector<std::uint16_t>& bits, double offset) {
    Row row;
    for (int d = 0; d < kDim; ++d) {
      row.push_back(rounded(normal(random) + offset));
      bits.push_back(ref::f16_bits(row.back()));
    }
    return row;
  };
  for (std::size_t b = 0; b < batch; ++b) {
    k[b].resize(kKvHeads);
    v[b] = k_cache[b] = v_cache[b] = k[b];
    for (int token = 0; token < prefixes[b] + chunks[b]; ++token) {
      const auto page = table[b * static_cast<std::size_t>(max_pages) +
                              static_cast<std::size_t>(token / kPageTokens)];
      slots.push_back(std::int64_t{page} * kPageTokens + token % kPageTokens);
      for (std::size_t h = 0; h < kKvHeads; ++h) {
        const Row key = add(k_bits, 0), value = add(v_bits, 0.5);
        k_cache[b][h].push_back(stored(key));
        v_cache[b][h].push_back(stored(value));
        const bool exact = token >= prefixes[b];
        k[b][h].push_back(exact ? key : k_cache[b][h].back());
        v[b][h].push_back(exact ? value : v_cache[b][h].back());
      }
    }
    for (int row = 0; row < chunks[b] * kQHeads; ++row) q.push_back(add(q_bits, 0));
    q_starts.push_back(q_starts.back() + chunks[b]);
    kv_starts.push_back(kv_starts.back() + prefixes[b] + chunks[b]);
  }
  const std::int64_t total_q = q_starts.back(), total_kv = kv_starts.back();

  rt::Buffer pool(device, static_cast<std::size_t>(cache.pool_bytes(0, pages)));
  pool.fill(0xFF);
  const rt::Buffer new_k = upload(device, k_bits), new_v = upload(device, v_bits);
  // Rows of a chunk that are attended to as they came are where kv_gather leaves them alone.
  const rt::Buffer k_rows = upload(device, k_bits), v_rows = upload(device, v_bits);
  const rt::Buffer places = upload(device, slots), on_device = upload(device, table),
                   kv_sums = upload(device, kv_starts), q_sums = upload(device, q_starts),
                   lengths =
                       upload(device, std::vector<std::int32_t>(prefixes.begin(), prefixes.end())),
                   q_rows = upload(device, q_bits);
  rt::Buffer o_rows(device, 2 * q_bits.size());
  const auto rows_of = [](rt::DevicePtr data, int heads, std::int64_t rows) {
    return rt::nhd(data, heads, rows, kDim);
  };
  const KvPool in_pages{.data = pool.data(), .pages = pages};
  cache.append(0, in_pages, total_kv,
               {.k = rows_of(new_k.data(), kKvHeads, total_kv),
                .v = rows_of(new_v.data(), kKvHeads, total_kv),
                .slots = places.data()},
               {});
  cache.gather(0, in_pages,
               {.batch = static_cast<std::int64_t>(batch),
                .rows = total_kv,
                .longest = 110,
                .max_pages = max_pages},
               {.page_table = on_device.data(),
                .indptr = kv_sums.data(),
                .lengths = sees == Sees::its_chunk_as_it_came ? lengths.data() : 0,
                .k = rows_of(k_rows.data(), kKvHeads, total_kv),
                .v = rows_of(v_rows.data(), kKvHeads, total_kv)},
               {});
  const attention::Shape shape{.batch = static_cast<std::int64_t>(batch),
                               .q_heads = kQHeads,
                               .kv_heads = kKvHeads,
                               .q_len = 64,
                               .kv_len = 110,
                               .total_q = total_q,
                               .total_kv = total_kv};
  const rt::Buffer workspace(device, std::max<std::size_t>(attend.workspace_bytes(shape), 256));
  attend.run(shape,
             {.q = rows_of(q_rows.data(), kQHeads, total_q),
              .k = rows_of(k_rows.data(), kKvHeads, total_kv),
              .v = rows_of(v_rows.data(), kKvHeads, total_kv),
              .o = rows_of(o_rows.data(), kQHeads, total_q),
              .causal = attention::CausalAlignment::bottom_right,
              .cu_seqlens_q = q_sums.data(),
              .cu_seqlens_kv = kv_sums.data()},
             workspace.data(), workspace.bytes(), {});
  device.synchronize();
  std::vector<std::uint16_t> o(q_bits.size());
  o_rows.download(std::as_writable_bytes(std::span(o)));

  const bool exact = sees == Sees::its_chunk_as_it_came;
  double square = 0, error = 0, other = 0;
  std::size_t row = 0;
  for (std::size_t b = 0; b < batch; ++b) {
    for (int token = 0; token < chunks[b]; ++token) {
      const auto keys = static_cast<std::size_t>(prefixes[b] + token + 1);
      for (std::size_t head = 0; head < kQHeads; ++head, ++row) {
        const std::size_t h = head / kGroup;
        const Row chunk_exact = attention(q[row], k[b][h], v[b][h], keys);
        const Row all_stored = attention(q[row], k_cache[b][h], v_cache[b][h], keys);
        for (std::size_t d = 0; d < kDim; ++d) {
          const double got = ref::f16_value(o[row * kDim + d]);
          const double want = exact ? chunk_exact[d] : all_stored[d];
          square += want * want;
          error += std::pow(got - want, 2);
          other += std::pow(got - (exact ? all_stored[d] : chunk_exact[d]), 2);
        }
      }
    }
  }
  return {.of_reference = std::sqrt(error / square), .of_other = std::sqrt(other / square)};
}

}  // namespace

TEST_CASE("a chunk of a prompt sees its prefix in the cache, and itself as one likes", "[fast]") {
  for (const Sees sees : {Sees::what_the_cache_holds, Sees::its_chunk_as_it_came}) {
    CAPTURE(static_cast<int>(sees));
    attention::Spec spec{.head_dim = kDim,
                         .qk = DType::f16,
                         .smoothing = Smoothing::none,
                         .pv = DType::f16,
                         .accumulation = Accumulation::f32,
                         .varlen = true,
                         .causal = true};
    const Errors in_16_bits = errors_of(sees, spec);
    CAPTURE(in_16_bits.of_reference, in_16_bits.of_other);
    CHECK(in_16_bits.of_reference < 1e-3);
    CHECK(in_16_bits.of_other > 2e-2);  // the choice is one
    const Errors in_8_bits = errors_of(sees, {.head_dim = kDim, .varlen = true, .causal = true});
    CAPTURE(in_8_bits.of_reference, in_8_bits.of_other);
    CHECK(in_8_bits.of_reference < 3e-2);
  }
}
