// The arithmetic that exact attention and the model of the quantization share: blocked products and
// an online softmax in base 2, all in double. What differs between the two is how the operands are
// made and whether the probabilities are rounded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace sagegen::reference {

class ModList;

// A matrix with its columns in groups of kPanelColumns, each group contiguous:
// [group][row][column]. The last group is padded with zeros.
struct Panels {
  static constexpr std::int64_t kPanelColumns = 8;
  std::int64_t rows = 0, columns = 0;
  std::vector<double> data;

  Panels() = default;
  Panels(std::int64_t row_count, std::int64_t column_count);
  std::int64_t padded_columns() const {
    return (columns + kPanelColumns - 1) / kPanelColumns * kPanelColumns;
  }
  double& at(std::int64_t row, std::int64_t column) {
    return data[static_cast<std::size_t>((column / kPanelColumns * rows + row) * kPanelColumns +
                                         column % kPanelColumns)];
  }
};

// One key/value head. The score of query i and key j in base 2 is
//   (query row i . column j of keys) * query.scale[i] * key_scale[j],
// where the product, if queries have starts, begins with the start of key j to the nearest whole number of that scale
// (whole_starts), or the start is added.
struct KeyValues {
  Panels keys;                      // [channel, key]
  std::vector<double> key_scale;    // [key]
  Panels values;                    // [key, channel]
  std::vector<double> value_scale;  // [channel], applied to the finished row
  std::vector<double>
      value_mean;  // [channel], of which a row gets what its keys have of the weights; empty: none
};

struct Queries {
  std::int64_t count = 0, channels = 0;
  std::vector<double> rows;            // [query, channel]
  std::vector<double> scale;           // [query]
  std::vector<double> lse_shift;       // [query], added to the natural logarithm of the sum
  std::vector<std::int64_t> position;  // [query], its token, for the mask; ascending
  std::int64_t batch = 0, head = 0;    // theirs, for mods
  // Of runs of queries: [key], in base 2. Empty: none.
  std::vector<std::vector<double>> starts = {};
  std::vector<std::int64_t> start_run = {};  // [query], its run; empty if there are no starts
  bool whole_starts = true;
};

// Rounds `count` values in place; empty: no rounding.
using Rounding = std::function<void(double* values, std::int64_t count)>;

struct SoftmaxOptions {
  bool causal = false;
  std::int64_t causal_offset = 0;  // key j is visible to query i if j <= i + offset
  std::int64_t tile_keys = 64;     // the running maximum moves once per tile; a multiple of 8
  double p_max = 1.0;              // probabilities are multiplied by this before they are rounded
  Rounding round_p;
  double maximum_step = 0;   // see on_grid()
  double maximum_slack = 0;  // in octaves: the maximum moves where a score is above it by more
  // If any but the causal mask, which is above: changed scores take the place of scores, hidden
  // keys weigh nothing, a sink is in the first maximum and sum. Where changes do not keep the
  // differences of a row's scores, they get scores with lse_shift.
  const ModList* mods = nullptr;
};

// A start in whole units. Where a unit is next to nothing the start counts as it is.
inline constexpr double kLeastUnit = 0x1p-100;
double rounded_start(double start, double unit);

// How many keys a query sees under a causal mask: all j <= query + causal_offset.
std::int64_t causal_keys(std::int64_t query, std::int64_t causal_offset, std::int64_t key_count);

// The maximum of scores in base 2 that P is taken against: what it is above log2(p_max) is rounded up to a
// multiple of the step; a step of 0 leaves it as it is, and so does a maximum of 2^22 steps or more.
double on_grid(double maximum, double p_max, double step);

// Rows [first, last) of the output, o: [last - first, channels of V], lse: [last - first]. The row sum is
// that of the probabilities as rounded, so a row of o is a convex combination of values.
// A row that sees no key gives 0 and -infinity.
void attend(const Queries& queries, const KeyValues& kv, std::int64_t first, std::int64_t last,
            const SoftmaxOptions& options, double* o, double* lse);

}  // namespace sagegen::reference
