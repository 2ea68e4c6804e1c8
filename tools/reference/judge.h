// Judges a result of attention row by row. Three questions, each with a bound that follows from the
// formats (allowance.h), none from what kernels were seen to do:
//
// - judge_rows: is every element of the chosen rows, every row as a whole, and their LSE, as near to the
//   model of the quantization as the formats and the device's arithmetic allow? A row that is zero or
//   another's is as far from its model as that is long: the whole sees it where elements cannot. Exact attention and the model are
//   computed for these rows only, so that inputs of any length are judged in seconds.
// - check_every_row: is every row of the output possible at all? O is a weighted mean of the visible
//   dequantized V, so every element lies between the least and the largest of its channel; it is finite; a
//   row that sees no key is 0 and its LSE -infinity. Cheap: linear in the sizes of O and V. With mods, V
//   counts from the first key that a query sees to the last one, 0 if there is a sink; a sink alone has an LSE.
// - compare (reference.h): the error of all chosen rows together, against exact attention.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "tools/reference/allowance.h"
#include "tools/reference/reference.h"

namespace sagegen::reference {

// About `count` rows, `count` > 0: all if there are no more; else, of every head (of some heads, chosen at
// random, if there are fewer rows than heads), the first and the last, those at the edges of the first and the
// last tile of `tile_rows`, and as many random ones or more.
RowNumbers sample_rows(const Inputs& inputs, std::int64_t count, std::int64_t tile_rows,
                       std::uint64_t seed);

// Rows of a whole output, in the order of `rows`.
Output take_rows(const Output& whole, const RowNumbers& rows);

// The row whose relative L1 is largest; NaN is larger than all. A row that is 0 where it should be has 0, and one
// that is not and should be, infinity. expected, got: of `rows`, in this order. Row 0 and 0 if there are none.
struct RowError {
  std::int64_t row = 0;  // its number
  double relative_l1 = 0;
};
RowError worst_row(const RowNumbers& rows, const Output& expected, const Output& got);

// A value and its bound. `of_bound`: |got - model| / bound, infinite if `got` is not finite and `model` is.
struct Judged {
  std::int64_t row = 0;      // its number
  std::int64_t channel = 0;  // 0 of an LSE
  double got = 0, model = 0, bound = 0, of_bound = 0;
};

struct RowVerdict {
  Judged worst_o, worst_lse;  // nearest to their bounds, or farthest beyond
  Judged farthest;  // got: the distance of the row to its model, root of the sum of squares
  std::int64_t rows_beyond = 0, lse_beyond = 0;
  std::int64_t rows_apart = 0;  // farther from their models than a row may be
  bool met() const { return rows_beyond == 0 && lse_beyond == 0 && rows_apart == 0; }
};

// model: of unrounded_model(); all are of `rows`, in this order. `rows` must not be empty.
RowVerdict judge_rows(const RowNumbers& rows, const Output& model, const Allowance& allowance,
                      const Output& got);

// What no right kernel writes.
struct Impossible {
  std::int64_t non_finite = 0;     // elements of O and of the LSE, where exact values are finite
  std::int64_t outside_range = 0;  // elements of O beyond what V holds
  std::int64_t masked = 0;         // elements of rows that see no key, not 0 or (LSE) not -infinity
  std::optional<Judged> first;  // in the order of rows; model, bound: middle and half of the range
  bool none() const { return non_finite == 0 && outside_range == 0 && masked == 0; }
};

// got: of all rows.
Impossible check_every_row(const Inputs& inputs, const QuantModel& model,
                           const DeviceArithmetic& arithmetic, const Output& got);

}  // namespace sagegen::reference
