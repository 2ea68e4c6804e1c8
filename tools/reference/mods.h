// What a mod of attention means, in double: which keys a query sees, how scores change, what else
// counts in the sum of a row. The definition that kernels with mods are judged by; the causal mask,
// the oldest one, is a part of Inputs.
//
// Scores are natural logarithms here, q . k softmax_scale as the formula has it: a kernel that
// smooths K or counts in octaves has to see to it that the same comes out. A key counts for a query
// if keys_of of all mods have it, hides of none does, and its changed score is not -infinity. A row
// that sees no key has O = 0, and its LSE is that of its sinks, -infinity without any.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace sagegen::reference {

// One score. Heads are those of Q.
struct Place {
  std::int64_t batch = 0, head = 0, query = 0, key = 0;
};

// Keys begin to end - 1.
struct KeySpan {
  std::int64_t begin = 0, end = 0;
};

// How many there are of each.
struct Extent {
  std::int64_t batch = 0, heads = 0, queries = 0, keys = 0;
};

// Hooks may be empty, are called from many threads at once, and get places inside the extent only.
struct ScoreMod {
  std::string name;  // for messages

  // Throws std::invalid_argument if the mod does not fit a problem of this size.
  std::function<void(const Extent&)> check;

  // The keys that a query sees, if they are one range. It may reach beyond the keys there are.
  std::function<KeySpan(std::int64_t query)> keys_of;
  // Whether a query does not see a key.
  std::function<bool(const Place&)> hides;
  // The score that takes the place of `score`; -infinity hides the key. Mods change scores in the
  // order of their list, before keys are hidden.
  std::function<double(const Place&, double score)> changes;
  // A logit that joins the maximum and the sum of every row of a head but has no V; -infinity is
  // none.
  std::function<double(std::int64_t batch, std::int64_t head)> sink;

  // A share of the largest weight that a row has seen so far: a kernel may leave out tiles in which no key has that
  // much. 0, as without it: none. No part of what is exact.
  std::function<double(std::int64_t batch)> least_weight;

  // What allowance() has to know of `changes`, as a function f of the score: f'(score), none if it
  // is 1 everywhere (a term that is added); the largest |f'| and |f''|; how far a kernel's f32
  // arithmetic may take f(before) = after off, for an exact `before`. Roundings of the scores
  // before and after are not its own.
  std::function<double(const Place&, double score)> derivative;
  double steepest = 1, bend = 0;
  std::function<double(const Place&, double before, double after)> rounding;
};

// Distances between neighbours in an array of [batch, head, query, key], in elements; 0: the same
// for all.
using Strides = std::array<std::int64_t, 4>;

// Query i sees keys i + offset - left to i + offset + right; a negative `left` or `right` is no
// bound.
ScoreMod window(std::int64_t left, std::int64_t right, std::int64_t offset);

// cap tanh(score / cap), cap > 0 and finite. tanh_error: relative, of the device's tanh (2^-11: PTX
// ISA, tanh.approx.f32).
ScoreMod soft_cap(double cap, double tanh_error = 0x1p-11);

// One share per batch, in [0, 1).
ScoreMod skip_softmax(std::vector<float> thresholds);

// One logit per head of Q.
ScoreMod sinks(std::vector<float> logits);

// score + values[b, h, i, j], values as a kernel reads them, rounded to their dtype. -infinity
// hides, and so does what is -infinity in f32 after the change to base 2. Refuses NaN and +infinity.
ScoreMod bias(std::vector<float> values, const Strides& strides);

// Query i sees key j if visible[b, h, i, j] is not 0.
ScoreMod mask(std::vector<std::uint8_t> visible, const Strides& strides);

// score - slopes[h] |i + offset - j|. Refuses slopes that are not finite.
ScoreMod alibi(std::vector<float> slopes, std::int64_t offset);

// Tiles of tile_q queries and tile_k keys, and a bit for each: set if its keys are seen. The bit of
// key tile t is bit t mod 32 of word t / 32 of its row; strides, in words, are those of [batch,
// head, query tile]. group: heads whose rows a tile has, query by query; heads of the bits are so many fewer.
ScoreMod block_sparse(std::vector<std::uint32_t> words, std::int64_t tile_q, std::int64_t tile_k,
                      const std::array<std::int64_t, 3>& strides, std::int64_t group = 1);

}  // namespace sagegen::reference
