#include "templates/decode/merge.h"

#include <functional>
#include <limits>

#include "templates/shared/tensor.h"

namespace sagegen::decode {

using namespace dsl;

namespace {

constexpr float kLn2 = 0.693147182f;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLargestF16 = 65504.0f;
constexpr float kLowest = std::numeric_limits<float>::lowest();
constexpr int kPart = 4;   // channels of a row that a thread merges at a time
constexpr int kLoads = 4;  // of splits, that are under way at a time
constexpr std::int64_t kF32 = 4;

using Part = std::array<F32, kPart>;

// Of a row over some tokens: O = sum of P V, not divided by the sum of P; where there are none, the sum is 0.
struct Result {
  Part o;
  F32 maximum, sum;  // of the scores, in octaves
};

class Merge {
 public:
  explicit Merge(const DecodeBlock& block)
      : block_(block),
        k_(block.k),
        p_(block.p),
        tile_(block.reread_tile()),
        sums_(block.shared + std::int64_t{o_bytes(block.spec, block.schedule)}) {}

  void write_warp(const Softmax& softmax, const Values& values) const;
  void merge_warps() const;
  void merge_splits() const;

 private:
  int rows() const { return block_.spec.rows; }
  int parts() const { return block_.cache.channels / kPart; }
  int row_bytes() const { return o_row_bytes(block_.spec); }
  I32 splits() const { return k_.grid_dim(0); }

  // Each row of the block that there is, and a part of its channels.
  void for_parts(const std::function<void(I32 row, I32 part)>& body) const;
  void write_sums_of_warp(const Softmax& softmax) const;
  Result of_warps(I32 row, I32 part) const;
  Part load(SharedPtr from) const;
  // Rows of the tile that the tensors have, those without a query of the sequence among them.
  I32 tile_rows() const { return k_.min(p_(&Params::rows) - tile_.first_row, k_.i32(rows())); }
  // The KV head, over all sequences.
  I32 head_of_all() const {
    return block_.sequence * block_.by_row_tiles(k_.grid_dim(1)) + tile_.kv_head;
  }
  // Rows of a split in partials and partial_sums, R of params.h.
  I32 rows_apart() const { return k_.min(p_(&Params::rows), k_.i32(rows())); }
  // Of a split, in these.
  I64 partial(I32 split, I32 row) const;
  void write_partial(I32 row, I32 part, const Result& result) const;
  Pred is_last_of_splits() const;
  // Of a row beside the tokens that have this maximum and sum: the maximum of both, the share of what these have summed, and
  // its weight.
  struct Sink {
    F32 maximum, share, weight;
  };
  Sink sink_beside(I32 row, F32 maximum, F32 sum) const;
  void write_weights() const;
  void write(I32 row, I32 part, const Part& o, F32 inverse) const;
  void write_lse(I32 row, F32 maximum, F32 sum) const;
  F32 inverse_of(F32 sum) const { return k_.select(sum > 0.0f, 1.0f / sum, k_.f32(0.0f)); }
  SharedPtr weight(I32 row, I32 split) const {
    return block_.shared + (row * kMostSplits + split) * 4;
  }
  SharedPtr inverse(I32 row) const {
    return block_.shared + std::int64_t{4 * rows() * kMostSplits} + row * 4;
  }

  const DecodeBlock& block_;
  KernelBuilder& k_;
  const ParamReader<Params>& p_;
  const RowTile tile_;
  const SharedPtr sums_;  // [warps, rows, 2]: maximum and sum
};

void Merge::for_parts(const std::function<void(I32 row, I32 part)>& body) const {
  const int all = rows() * parts();
  for (int first = 0; first < all; first += k_.threads()) {
    const I32 item = block_.thread + first;
    const I32 row = item / parts(), part = item % parts();
    k_.if_(row < tile_rows(), [&] { body(row, part); });
  }
}

void Merge::write_warp(const Softmax& softmax, const Values& values) const {
  const SharedPtr o = block_.shared + block_.warp * (rows() * row_bytes());
  const bool codes = kv_quantized(block_.spec.v_bits);
  for (int half = 0; half < block_.row_halves(); ++half) {
    const SharedPtr of_rows = o + (block_.lane.quad * 2 + 8 * half) * row_bytes();
    const auto zero_points = softmax.sums_of_zero_points(half);
    for (std::size_t tile = 0; tile < values.tiles().size(); ++tile) {
      const ChannelTile& channels = values.tiles()[tile];
      const SharedPtr of_tile = of_rows + block_.lane.row * (4 * channels.factor);
      for (int upper = 0; upper < 2; ++upper) {
        const auto u = static_cast<std::size_t>(upper);
        for (int column = 0; column < 2; ++column) {
          F32 value = values.sum(tile, half, upper, column);
          if (codes)
            value = k_.fma(value, k_.f32(channels.unit[u]),
                           zero_points[static_cast<std::size_t>(column)]);
          k_.store(of_tile + std::int64_t{4 * channels.first[u] + column * row_bytes()}, value);
        }
      }
    }
  }
  write_sums_of_warp(softmax);
}

// Every lane of a quad has the maximum of its row, every lane of a column the sums of two.
void Merge::write_sums_of_warp(const Softmax& softmax) const {
  const SharedPtr of_warp = sums_ + block_.warp * (8 * rows());
  for (int half = 0; half < block_.row_halves(); ++half) {
    const auto sums = softmax.sums(half);
    const F32 maximum = softmax.maximum(half);
    k_.if_(block_.lane.quad == 0, [&] { k_.store(of_warp + block_.tile_row(half) * 8, maximum); });
    k_.if_(block_.lane.row == 0, [&] {
      const SharedPtr first = of_warp + (block_.lane.quad * 2 + 8 * half) * 8;
      for (std::size_t column = 0; column < 2; ++column)
        k_.store(first + static_cast<std::int64_t>(8 * column + 4), sums[column]);
    });
  }
}

Part Merge::load(SharedPtr from) const {
  const auto words = k_.load_v4(from);
  Part part;
  for (std::size_t i = 0; i < part.size(); ++i) part[i] = k_.as_f32(words[i]);
  return part;
}

Result Merge::of_warps(I32 row, I32 part) const {
  const int warps = block_.schedule.warps;
  std::vector<F32> maxima, sums;
  F32 maximum = k_.f32(kLowest);
  for (int warp = 0; warp < warps; ++warp) {
    const auto of_warp = k_.load_v2(sums_ + (row * 8 + 8 * warp * rows()));
    maxima.push_back(k_.as_f32(of_warp[0]));
    sums.push_back(k_.as_f32(of_warp[1]));
    maximum = k_.max(maximum, maxima.back());
  }
  Result result{.o = {}, .maximum = maximum, .sum = k_.f32(0.0f)};
  result.o.fill(k_.f32(0.0f));
  for (int warp = 0; warp < warps; ++warp) {
    const auto w = static_cast<std::size_t>(warp);
    const F32 weight = k_.exp2(maxima[w] - maximum);
    const Part o = load(block_.shared +
                        (row * row_bytes() + part * (4 * kPart) + warp * rows() * row_bytes()));
    result.sum = k_.fma(sums[w], weight, result.sum);
    for (std::size_t i = 0; i < o.size(); ++i) result.o[i] = k_.fma(o[i], weight, result.o[i]);
  }
  // Rows without a query have attended with zeros.
  const Pred asked = row < tile_.rows_asked;
  result.sum = k_.select(asked, result.sum, k_.f32(0.0f));
  for (F32& channel : result.o) channel = k_.select(asked, channel, k_.f32(0.0f));
  return result;
}

void Merge::merge_warps() const {
  for_parts([&](I32 row, I32 part) {
    const Result result = of_warps(row, part);
    if (block_.spec.exact) {  // never a split alone
      write_partial(row, part, result);
      return;
    }
    k_.if_else(
        splits() == 1,
        [&] {
          F32 maximum = result.maximum, sum = result.sum, inverse;
          if (block_.mods.have_sink()) {
            const Sink sink = sink_beside(row, maximum, sum);
            maximum = sink.maximum;
            sum = k_.fma(sum, sink.share, sink.weight);
            inverse = inverse_of(sum) * sink.share;
          } else {
            inverse = inverse_of(sum);
          }
          write(row, part, result.o, inverse);
          k_.if_(part == 0, [&] { write_lse(row, maximum, sum); });
        },
        [&] { write_partial(row, part, result); });
  });
}

I64 Merge::partial(I32 split, I32 row) const {
  const I64 of_split = k_.to_i64(block_.row_tile_of_all()) * k_.to_i64(splits()) + k_.to_i64(split);
  return of_split * k_.to_i64(rows_apart()) + k_.to_i64(row);
}

void Merge::write_partial(I32 row, I32 part, const Result& result) const {
  const I64 index = partial(block_.split, row);
  std::array<I32, kPart> words;
  for (std::size_t i = 0; i < words.size(); ++i) words[i] = k_.as_bits(result.o[i]);
  k_.store_v4(p_(&Params::partials) + index * (kF32 * block_.cache.channels) +
                  k_.to_i64(part * (4 * kPart)),
              words);
  k_.if_(part == 0, [&] {
    F32 of_results = result.maximum;
    if (const int apart = block_.octaves_of_results - block_.octaves(); apart != 0)
      of_results = of_results + static_cast<float>(apart);
    // Without a key it has no weight, whatever the others have.
    const F32 maximum = k_.select(result.sum > 0.0f, of_results, k_.f32(-kInfinity));
    k_.store_v2(p_(&Params::partial_sums) + index * std::int64_t{8},
                {k_.as_bits(maximum), k_.as_bits(result.sum)});
  });
}

// The ticket is back at 0 for the next launch: no other block of the head asks any more.
Pred Merge::is_last_of_splits() const {
  k_.barrier();
  const SharedPtr answer = block_.shared;
  k_.if_(block_.thread == 0, [&] {
    k_.fence();  // behind the barrier: it publishes what the others have stored, too
    const GlobalPtr ticket =
        p_(&Params::tickets) + k_.to_i64(block_.row_tile_of_all()) * std::int64_t{4};
    const I32 before = k_.atomic_add(ticket, k_.i32(1));
    k_.if_(before == splits() - 1, [&] { k_.store(ticket, k_.i32(0)); });
    k_.store(answer, before);
  });
  k_.barrier();
  return k_.load<I32>(answer) == splits() - 1;
}

Merge::Sink Merge::sink_beside(I32 row, F32 maximum, F32 sum) const {
  const I32 of_head = tile_.first_row + row;
  attention::ScoreRow at;
  at.batch = block_.sequence;
  at.head = tile_.kv_head * block_.rows.heads() + block_.rows.head(of_head);
  at.query = block_.rows.query(of_head);
  at.head_of_all = head_of_all() * block_.rows.heads() + block_.rows.head(of_head);
  const F32 none = k_.f32(-kInfinity);
  // A row without a query has none, and -infinity is none.
  const F32 sink = k_.select(row < tile_.rows_asked, block_.mods.sink(at), none);
  const F32 of_tokens = k_.select(sum > 0.0f, maximum, none);
  const F32 most = k_.max(k_.max(of_tokens, sink), k_.f32(kLowest));
  const float octaves = static_cast<float>(block_.octaves_of_results);
  return {most, k_.exp2(of_tokens - most), k_.exp2(sink - most + octaves)};
}

// A warp for each row: weights of the splits, behind the last of them zeros, and the inverse of the sum.
void Merge::write_weights() const {
  const int warps = block_.schedule.warps;
  const I32 lane = k_.lane_idx();
  for (int first = 0; first < rows(); first += warps) {
    const I32 row = block_.warp + first;
    k_.if_(row < tile_rows(), [&] {
      const GlobalPtr of_row =
          p_(&Params::partial_sums) + partial(k_.i32(0), row) * std::int64_t{8};
      const I64 stride = k_.to_i64(rows_apart()) * std::int64_t{8};
      const auto for_splits = [&](const std::function<void(I32 split, std::array<F32, 2>)>& body) {
        k_.for_range(k_.i32(0), splits(), 32, [&](I32 begin) {
          const I32 split = begin + lane;
          const I32 there = k_.min(split, splits() - 1);
          const auto words = k_.load_v2(of_row + k_.to_i64(there) * stride);
          const Pred is_there = split < splits();
          body(split,
               {k_.select(is_there, k_.as_f32(words[0]), k_.f32(-kInfinity)), k_.as_f32(words[1])});
        });
      };
      const Var<F32> most = k_.var(k_.f32(kLowest)), sum = k_.var(k_.f32(0.0f));
      for_splits([&](I32, std::array<F32, 2> of) { most = k_.max(most.get(), of[0]); });
      F32 maximum = warp_max(k_, most.get()), weight_of_sink = k_.f32(0.0f);
      if (block_.mods.have_sink()) {
        const Sink sink = sink_beside(row, maximum, k_.f32(1.0f));
        maximum = sink.maximum;
        weight_of_sink = sink.weight;
      }
      for_splits([&](I32 split, std::array<F32, 2> of) {
        const F32 share = k_.exp2(of[0] - maximum);
        sum = k_.fma(of[1], share, sum.get());
        k_.store(weight(row, split), share);
      });
      F32 all = warp_sum(k_, sum.get());
      if (block_.mods.have_sink()) all = all + weight_of_sink;
      k_.if_(lane == 0, [&] {
        k_.store(inverse(row), inverse_of(all));
        write_lse(row, maximum, all);
      });
    });
  }
}

void Merge::merge_splits() const {
  k_.if_(splits() > 1, [&] {
    k_.if_(is_last_of_splits(), [&] {
      k_.fence();
      k_.barrier();  // all have read the answer
      write_weights();
      k_.barrier();
      for_parts([&](I32 row, I32 part) {
        const std::int64_t row_of_o = kF32 * block_.cache.channels;
        const GlobalPtr first = p_(&Params::partials) + partial(k_.i32(0), row) * row_of_o +
                                k_.to_i64(part * (4 * kPart));
        const I64 stride = k_.to_i64(rows_apart()) * row_of_o;
        std::array<Var<F32>, kPart> sum;
        for (Var<F32>& channel : sum) channel = k_.var(k_.f32(0.0f));
        k_.for_range(k_.i32(0), splits(), kLoads, [&](I32 begin) {
          for (int i = 0; i < kLoads; ++i) {
            const I32 there = k_.min(begin + i, splits() - 1);
            const auto words = k_.load_v4(first + k_.to_i64(there) * stride);
            const F32 share = k_.load<F32>(weight(row, begin + i));
            for (std::size_t c = 0; c < sum.size(); ++c)
              sum[c] = k_.fma(k_.as_f32(words[c]), share, sum[c].get());
          }
        });
        Part o;
        for (std::size_t c = 0; c < o.size(); ++c) o[c] = sum[c].get();
        write(row, part, o, k_.load<F32>(inverse(row)));
      });
    });
  });
}

void Merge::write(I32 row, I32 part, const Part& o, F32 inverse) const {
  const DType io = block_.spec.io;
  const GlobalPtr to =
      head_of(k_, p_, &Params::o, block_.sequence, tile_.kv_head * block_.rows.heads()) +
      block_.rows.offset(p_, &Params::o, tile_.first_row + row) +
      k_.to_i64(part * (kPart * static_cast<int>(kElementBytes)));
  // What codes stand for may be a little more than f16 has.
  const auto mean = [&](std::size_t i) {
    const F32 value = o[i] * inverse;
    if (io != DType::f16) return value;
    return k_.max(k_.min(value, k_.f32(kLargestF16)), k_.f32(-kLargestF16));
  };
  std::array<I32, 2> words;
  for (std::size_t i = 0; i < 2; ++i) {
    const F32 first = mean(2 * i);
    words[i] = k_.pack2(io, first, mean(2 * i + 1));
  }
  const bool padded = block_.spec.head_dim < block_.cache.channels;
  k_.if_(padded ? part < block_.spec.head_dim / kPart : k_.pred(true),
         [&] { k_.store_v2(to, words); });
}

void Merge::write_lse(I32 row, F32 maximum, F32 sum) const {
  const GlobalPtr lse = p_(&Params::lse);
  k_.if_(!k_.is_null(lse), [&] {
    const I32 of_head = tile_.first_row + row;
    const I32 head = head_of_all() * block_.rows.heads() + block_.rows.head(of_head);
    const I64 index =
        k_.to_i64(head) * k_.to_i64(p_(&Params::q_len)) + k_.to_i64(block_.rows.query(of_head));
    const float octaves = static_cast<float>(block_.octaves_of_results);
    k_.store(lse + index * kF32, (maximum + (k_.log2(sum) - octaves)) * kLn2);
  });
}

}  // namespace

void merge_and_write(const DecodeBlock& block, const Softmax& softmax, const Values& values) {
  const Merge merge(block);
  block.k.barrier();  // rings of other warps
  merge.write_warp(softmax, values);
  block.k.barrier();
  merge.merge_warps();
  merge.merge_splits();
}

}  // namespace sagegen::decode
