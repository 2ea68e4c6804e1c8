#include "tools/reference/allowance.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "tools/reference/allowance_codes.h"
#include "tools/reference/heads.h"
#include "tools/reference/mod_list.h"
#include "tools/reference/parallel_for.h"
#include "tools/reference/quantize.h"
#include "tools/reference/rounding.h"
#include "tools/reference/streaming_softmax.h"

namespace sagegen::reference {

using namespace bounds;

namespace {

// Numbers as in the header.
constexpr double kScoreRounding = 10 * 0x1p-24, kShortScale = 6 * 0x1p-24;
constexpr double kExponentials = 2 * 0x1p-22;  // P and a rescaling
// Octaves; larger units are taken off before.
constexpr double kLargestFoldedUnit = 0x1p-7;
constexpr double kBiasUnits = 0x1.8p23, kExactUnits = 0x1p22;
constexpr double kSmallShift = 0x1p-6;  // of the maximum, octaves: above, P rounds by itself
constexpr double kF32Sum = 0x1p-23;
constexpr double kQuotient = 0x1p-20;
constexpr double kMeanRounding = 0x1p-22;  // of V, times a share, added to what is left of V
constexpr double kLogarithm = 0x1p-20;     // lg2.approx is within 2^-22 absolute near 1
constexpr double kFlushed = 0x1p-126;      // f32 below this is 0
constexpr double kDeviations = 6;          // of a sum of keys that are wrong by themselves
constexpr double kWalk = 3;                // what keys reach that do not pull the same way
constexpr double kWideLse = 0x1p-6;        // above, the LSE's bound is worth a closer look
constexpr int kShifts = 8;                 // steps of it
constexpr double kGone = 400;              // octaves; P is 2^-400 then
constexpr double kCutTerms = 18;
constexpr double kHalfRounding = 0x1p-11, kHalfLeast = 0x1p-25;  // of a sum in f16
constexpr std::int64_t kKeysOfRounding = 8;
constexpr std::int64_t kBlockRows = 4;
constexpr std::int64_t kWidth = Panels::kPanelColumns;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Keys that a right kernel may get wrong the same way: the sum of what that does to O.
struct Pull {
  std::vector<double> sum;  // [channel]
  double squares = 0;

  void add(double weight, const std::vector<double>& off, double off_squared) {
    if (weight == 0) return;
    sum.resize(off.size());
    const double* from = off.data();
    double* to = sum.data();
    for (std::size_t c = 0; c < off.size(); ++c) to[c] += weight * from[c];
    squares += weight * weight * off_squared;
  }
  double length() const {
    double total = 0;
    for (const double x : sum) total += x * x;
    return std::sqrt(total);
  }
  double beyond_walk() const { return std::max(0.0, length() - kWalk * std::sqrt(squares)); }
};

// One row: everything is weighted against the row's final maximum, P in code units.
class RowBound {
 public:
  RowBound(const Inputs& in, const ModList& mods, const QuantModel& m,
           const DeviceArithmetic& arithmetic, const Head& head, const QueryCodes& queries,
           const Place& of_head)
      : in_(in),
        mods_(mods),
        m_(m),
        head_(head),
        queries_(queries),
        place_(of_head),
        has_mods_(!mods.empty()),
        changes_(mods.change_scores()),
        of_each_(m.scales == QuantModel::Scales::per_token),
        unquantized_(m.qk_bits == kUnquantized),
        step_(changes_ ? 0 : m.maximum_step),
        score_rounding_(kScoreRounding + (m.maximum_step > 0 ? kShortScale : 0)),
        cut_(kCutTerms * std::ldexp(1.0, -arithmetic.sum_bits)),
        two_level_(arithmetic.two_level),
        half_roundings_(arithmetic.half_roundings),
        scale_(base2_scale(in)) {}

  void compute(const float* q, std::int64_t token, double* o, double* lse, double* distance,
               double* of_codes, double* of_light, double* of_left) {
    const KeySpan seen = mods_.keys_of(token);
    first_ = seen.begin;
    visible_ = seen.end;
    std::fill_n(o, in_.v.channels, 0.0);
    *lse = *distance = *of_codes = 0;
    if (has_mods_) take_sink(q);
    top_ = -1;
    if (visible_ > 0) scores(token);
    if (top_ < 0) {
      if (sink_ > -kInfinity) *lse = lse_of_sink();
      return;
    }
    maxima();
    find_light_tiles();
    sums();
    outputs(o, of_codes);
    whole_row(token, o, distance, of_codes);
    if (of_left != nullptr) *of_left = left_of_means();
    if (of_light != nullptr) *of_light = cost_of_light();
    *lse = lse_bound(q);
  }

 private:
  // 10. of the header. What the mean of K is worth to the row, and its sink.
  void take_sink(const float* q) {
    mean_score_ = mean_score_error_ = 0;
    const double additions = static_cast<double>(in_.q.channels) / 8 + 8;
    for (std::int64_t c = 0; c < in_.q.channels; ++c) {
      const double one = q[c] * head_.mean[index(c)] * scale_;
      mean_score_ += one;
      mean_score_error_ += std::fabs(q[c]) * head_.mean_error[index(c)] * scale_ +
                           0x1p-24 * additions * std::fabs(one);
    }
    sink_ = mods_.sink(place_.batch, place_.head) * std::numbers::log2e;
    sink_own_ = 0;
    if (sink_ == -kInfinity) return;
    sink_own_ = kScoreRounding * std::fabs(sink_);
    if (!mods_.keep_differences()) return;
    sink_own_ += mean_score_error_ + kScoreRounding * std::fabs(mean_score_);
    sink_ -= mean_score_;
  }

  // Of a row that sees nothing else: what is taken off for the mean comes back.
  double lse_of_sink() const {
    const double size = std::fabs(sink_) + std::fabs(mean_score_) + std::log2(m_.p_max);
    return kScoreRounding * size * std::numbers::ln2 + kExponentials + kLogarithm;
  }

  // What mods make of the score of key j, in base 2, and of its uncertainty.
  void change(std::int64_t j, double score, double own, double common) {
    if (!mods_.keep_differences()) {
      const double more =
          mean_score_error_ + kScoreRounding * (std::fabs(mean_score_) + std::fabs(score));
      score += mean_score_;
      own += more;
      common += more;
    }
    ModList::Uncertain s = mods_.changed(place_, {.score = score * std::numbers::ln2,
                                                  .error = own * std::numbers::ln2,
                                                  .common = common * std::numbers::ln2});
    if (s.score == -kInfinity) return;
    score_[index(j)] = s.score * std::numbers::log2e;
    const double rounding = kScoreRounding * std::fabs(score_[index(j)]);
    own_[index(j)] = s.error * std::numbers::log2e + rounding;
    common_[index(j)] = s.common * std::numbers::log2e + rounding;
    slope_[index(j)] = s.slope;
  }

  // 2. of the header: the last bit of bias and maximum, where their difference is not exact.
  void fold_bias(double q_scale) {
    double largest = 0;
    for (const double score : score_)
      if (score > -kInfinity) largest = std::max(largest, std::fabs(score));
    largest += std::log2(m_.p_max) + step_;
    for (std::int64_t j = 0; j < visible_; ++j) {
      const double unit = q_scale * head_.keys.step[index(j)];
      const bool exact =
          step_ > 0 ? unit >= step_ || largest <= kExactUnits * unit : unit > kLargestFoldedUnit;
      if (unit == 0 || exact || score_[index(j)] == -kInfinity) continue;
      const double last_bit = std::ldexp(1.0, std::ilogb(kBiasUnits * unit + largest) - 23);
      own_[index(j)] += last_bit;
      folded_ = std::max(folded_, last_bit);
    }
  }

  // 11. of the header: adds what the sum of key j starts from. Returns how far that may be off.
  double start(std::int64_t j, const Starts& starts, double unit, double dot, double& score) {
    const double start = starts.score[index(j)], error = starts.error[index(j)];
    const double rounded = of_each_ ? start : rounded_start(start, unit);
    score += rounded;
    double own = error;
    if (unit >= kLeastUnit && !of_each_) {
      const double units = std::fabs(rounded) / unit;
      const double to_middle = 0.5 * unit - std::fabs(rounded - start);
      own = error >= to_middle ? error + unit : 0;
      // Nothing but rounding errors makes it so many.
      if (units + dot >= kExactUnits) own += unit * 0x1p-21 * (units + 1) * (dot + 1);
    }
    own += score_rounding_ * std::fabs(rounded);
    sum_own_[index(j)] = own;
    return own;
  }

  double integer_product(const std::int16_t* q, const std::int16_t* k) const {
    std::int32_t dot = 0;
    for (std::int64_t c = 0; c < in_.k.channels; ++c) dot += q[c] * k[c];
    return dot;
  }

  // Scores and, per key, the uncertainty of its score by itself.
  void scores(std::int64_t token) {
    score_.resize(index(visible_));
    own_.resize(score_.size());
    if (changes_) {
      common_.assign(score_.size(), 0.0);
      slope_.assign(score_.size(), 1.0);
    }
    folded_ = 0;
    place_.query = token;
    const std::int64_t row = queries_.order.of(token);
    const std::int16_t* q = queries_.row(row);
    const std::vector<int>& undecided = queries_.undecided[index(row)];
    const double q_scale = queries_.step[index(row)] * scale_;
    const Starts* const starts =
        queries_.starts.empty() ? nullptr : &queries_.starts[index(row / kMeanRows)];
    const double q_scale_error =
        queries_.scale_error.empty() ? 0 : queries_.scale_error[index(row)];
    sum_own_.assign(starts || unquantized_ ? score_.size() : 0, 0.0);
    for (std::int64_t j = 0; j < visible_; ++j) {
      if (has_mods_) {
        place_.key = j;
        score_[index(j)] = -kInfinity;
        own_[index(j)] = 0;
        if (j < first_ || mods_.hides(place_)) continue;
      }
      const std::int16_t* k = head_.keys.row(j);
      double dot = 0;
      if (unquantized_) {
        const Product product =
            product_of(in_.q.row(place_.batch, place_.head, token),
                       in_.k.row(place_.batch, head_.number, j), in_.k.channels, m_.output);
        dot = product.sum;
        sum_own_[index(j)] = scale_ * product.cut;
      } else {
        dot = integer_product(q, k);
      }
      const double unit = q_scale * head_.keys.step[index(j)];
      double score = unit * dot;
      double rounding =
          (score_rounding_ + head_.key_scale_error[index(j)] + q_scale_error) * std::fabs(score);
      if (unquantized_) rounding += sum_own_[index(j)];
      if (starts) rounding += start(j, *starts, unit, std::fabs(dot), score);
      double own = rounding;
      for (const int c : undecided) own += unit * (std::abs(k[c]) + 1);
      for (const int c : head_.keys.undecided[index(j)])
        own += q_scale * head_.key_slack[index(j)] * std::abs(q[c]);
      if (changes_) {
        change(j, score, own, rounding);
      } else {
        score_[index(j)] = score;
        own_[index(j)] = own;
      }
      if (top_ < 0 && score_[index(j)] > -kInfinity) top_ = j;
    }
    if (!changes_ && !of_each_ && !unquantized_) fold_bias(q_scale);
  }

  // The running maximum of each tile, and what the kernel's may differ by. top_: the first key that
  // is seen.
  void maxima() {
    if (m_.maximum_slack > 0) return maxima_with_slack();
    tile_maximum_.clear();
    tile_own_.clear();
    maximum_ = score_[index(top_)];
    double top_own = own_[index(top_)];
    if (sink_ > maximum_) {
      top_ = -1;
      maximum_ = sink_;
      top_own = sink_own_;
    }
    for (std::int64_t begin = 0; begin < visible_; begin += m_.tile_keys) {
      const std::int64_t end = std::min<std::int64_t>(begin + m_.tile_keys, visible_);
      for (std::int64_t j = begin; j < end; ++j) {
        if (score_[index(j)] <= maximum_) continue;
        top_ = j;
        maximum_ = score_[index(j)];
        top_own = own_[index(j)];
      }
      tile_maximum_.push_back(maximum_);
      tile_own_.push_back(top_own);
    }
    if (step_ > 0) return grid_maxima();
    of_tops_ = 0;
    double largest = 0;
    for (std::int64_t t = 0; t < static_cast<std::int64_t>(tile_maximum_.size()); ++t) {
      if (is_gone(t)) continue;
      of_tops_ = std::max(of_tops_, tile_own_[index(t)]);
      largest = std::max(largest, std::fabs(tile_maximum_[index(t)]));
    }
    // What rounds the maximum is bounded by what P can lose; another key in its place is not.
    shift_ = std::min(kF32Sum * 2 * (largest + 16), std::log2(m_.p_max) + kSmallShift);
    shift_ += folded_ + of_tops_;
    for (std::int64_t j = 0; j < visible_; ++j) {
      if (is_gone(j / m_.tile_keys)) continue;
      const double above = score_[index(j)] - tile_maximum_[index(j / m_.tile_keys)];
      shift_ = std::max(shift_, folded_ + of_tops_ + above + uncertainty(j));
    }
    top_error_ = top_own;
    for (std::int64_t j = 0; j < visible_; ++j)
      top_error_ = std::max(top_error_, score_[index(j)] + own_[index(j)] - maximum_);
    if (sink_ == -kInfinity) return;
    shift_ = std::max(shift_, folded_ + of_tops_ + sink_ - tile_maximum_[0] + sink_own_);
    top_error_ = std::max(top_error_, sink_ + sink_own_ - maximum_);
  }

  // The same where maxima are multiples of a step: they differ where the largest score is as near to one
  // as it is uncertain, whichever key it belongs to, then by that many steps.
  void grid_maxima() {
    double largest = 0;
    for (const double maximum : tile_maximum_) largest = std::max(largest, std::fabs(maximum));
    top_error_ = 0;
    for (std::int64_t j = 0; j < visible_; ++j)
      top_error_ = std::max(top_error_, score_[index(j)] + own_[index(j)] - maximum_);
    if (sink_ > -kInfinity) top_error_ = std::max(top_error_, sink_ + sink_own_ - maximum_);

    of_tops_ = shift_ = 0;
    double low = sink_ - sink_own_, high = sink_ + sink_own_;
    const auto grid = [&](double x) { return on_grid(x, m_.p_max, step_); };
    maximum_ = grid(maximum_);
    for (double& maximum : tile_maximum_) maximum = grid(maximum);
    for (std::int64_t j = 0; j < visible_; ++j) {
      low = std::max(low, score_[index(j)] - own_[index(j)]);
      high = std::max(high, score_[index(j)] + own_[index(j)]);
      const std::int64_t t = j / m_.tile_keys;
      if ((j + 1) % m_.tile_keys != 0 && j + 1 != visible_) continue;
      if (high == -kInfinity || is_gone(t)) continue;
      shift_ = std::max(
          {shift_, grid(high) - tile_maximum_[index(t)], tile_maximum_[index(t)] - grid(low)});
    }
    if (largest > kExactUnits * step_)
      shift_ += std::min(kF32Sum * 2 * largest, std::log2(m_.p_max) + kSmallShift);
  }

  // A score that is uncertain: the largest of a tile.
  struct Top {
    std::int64_t key;
    double score = -kInfinity, low = -kInfinity, high = -kInfinity;
  };
  Top top_of(std::int64_t begin, std::int64_t end) const {
    Top top{.key = begin};
    for (std::int64_t j = begin; j < end; ++j) {
      const double score = score_[index(j)], own = own_[index(j)];
      if (score > top.score) top.key = j;
      top.score = std::max(top.score, score);
      top.low = std::max(top.low, score - own);
      top.high = std::max(top.high, score + own);
    }
    return top;
  }

  // How far the largest score may be off, whichever key it belongs to, or the sink. The maximum may be below it.
  double error_of_largest() const {
    double largest = sink_, own = sink_own_, high = sink_ + sink_own_;
    for (std::int64_t j = 0; j < visible_; ++j) {
      if (score_[index(j)] > largest) {
        largest = score_[index(j)];
        own = own_[index(j)];
      }
      high = std::max(high, score_[index(j)] + own_[index(j)]);
    }
    return std::max(own, high - largest);
  }

  // 14. of the header. top_: the key that the last maximum belongs to, if any.
  void maxima_with_slack() {
    const auto grid = [&](double x) { return step_ > 0 ? on_grid(x, m_.p_max, step_) : x; };
    double largest = 0;
    for (const double score : score_)
      if (score > -kInfinity) largest = std::max(largest, std::fabs(score));
    const double rounding = kF32Sum * 2 * (largest + 16) + folded_ + kExponentials;
    std::vector<double> shifts;  // by tile
    tile_maximum_.clear();
    tile_own_.clear();
    maximum_ = grid(sink_);
    top_ = -1;
    top_error_ = error_of_largest();
    double top_own = sink_own_;
    for (std::int64_t begin = 0; begin < visible_; begin += m_.tile_keys) {
      const Top top = top_of(begin, std::min<std::int64_t>(begin + m_.tile_keys, visible_));
      const double limit = maximum_ + m_.maximum_slack;
      const double off = (step_ > 0 ? shift_of_sink() : top_own) + rounding;
      const bool decided = top.low > limit + off || top.high <= limit - off;
      shifts.push_back(decided ? 0 : m_.maximum_slack + step_);
      if (top.score > limit) {
        top_ = top.key;
        top_own = own_[index(top_)];
        maximum_ = grid(top.score);
        shifts.back() += step_ > 0 ? std::max(grid(top.high) - maximum_, maximum_ - grid(top.low))
                                   : top_own + top.high - top.score;
      }
      tile_maximum_.push_back(maximum_);
      tile_own_.push_back(top_own);
    }
    of_tops_ = 0;
    shift_ = shift_of_sink();
    for (std::int64_t t = 0; t < static_cast<std::int64_t>(shifts.size()); ++t) {
      if (is_gone(t)) continue;
      shift_ = std::max(shift_, shifts[index(t)]);
      if (step_ == 0) of_tops_ = std::max(of_tops_, tile_own_[index(t)]);
    }
    if (step_ > 0 && largest <= kExactUnits * step_) return;
    shift_ += std::min(rounding, std::log2(m_.p_max) + m_.maximum_slack + kSmallShift);
  }
  // What a sink that is uncertain does to the grid.
  double shift_of_sink() const {
    if (step_ == 0 || sink_ == -kInfinity) return 0;
    const auto grid = [&](double x) { return on_grid(x, m_.p_max, step_); };
    return std::max(grid(sink_ + sink_own_) - grid(sink_), grid(sink_) - grid(sink_ - sink_own_));
  }

  // A tile of keys that mods take so far below the rest that nothing of it is left in the end, nor
  // of what f32 does to scores of that size.
  bool is_gone(std::int64_t t) const {
    return has_mods_ && tile_maximum_[index(t)] + 2 * tile_own_[index(t)] < maximum_ - kGone;
  }

  // 15. of the header.
  void find_light_tiles() {
    light_.assign(tile_maximum_.size(), false);
    const double share = has_mods_ ? mods_.least_weight(place_.batch) : 0;
    if (share == 0) return;
    double before = sink_ + sink_own_;  // the largest score so far
    for (std::size_t t = 0; t < light_.size(); ++t) {
      const auto begin = static_cast<std::int64_t>(t) * m_.tile_keys;
      const Top top = top_of(begin, std::min<std::int64_t>(begin + m_.tile_keys, visible_));
      const double off =
          2 * (of_tops_ + folded_ + kExponentials) + kScoreRounding * std::fabs(before);
      light_[t] = top.low < before + std::log2(share) + off;
      before = std::max(before, top.high);
    }
  }

  // 13. of the header: what is summed beside the means of V, of all channels.
  double left_of_means() const {
    double left = 0;
    for (std::int64_t c = 0; c < in_.v.channels; ++c)
      left += std::fabs(head_.value_scale[index(c)] * n_[index(c)] / s_);
    return left;
  }

  // Of all channels, in units of O.
  double cost_of_light() const {
    const double s_error = std::min(s_light_, s_ / 2);
    double cost = 0;
    for (std::int64_t c = 0; c < in_.v.channels; ++c) {
      const double value = std::fabs(n_[index(c)]) / s_;
      cost +=
          head_.value_scale[index(c)] * (n_light_[index(c)] + value * s_light_) / (s_ - s_error);
      if (!head_.value_mean.empty())
        cost += std::fabs(head_.value_mean[index(c)]) * share_error(s_light_);
    }
    return cost;
  }

  // What the sink adds to S, and how far the kernel's may be off: as a tile before the first one.
  double sink_weight() const { return m_.p_max * std::exp2(sink_ - maximum_); }
  double sink_error() const {
    const double below = sink_ - maximum_, weight = std::exp2(below);
    const double off = sink_own_ + of_tops_ + 2 * kExponentials + std::min(shift_, kSmallShift);
    return m_.p_max * std::max(std::exp2(std::min(below + off, shift_)) - weight,
                               weight * (1 - std::exp2(-off)));
  }

  double uncertainty(std::int64_t j) const {
    if (j == top_ && step_ == 0) return kExponentials;
    return own_[index(j)] + of_tops_ + kExponentials;
  }
  // How much lower the kernel's maximum may be.
  double lower_shift() const { return step_ > 0 ? shift_ : 0; }

  // How far the kernel's code of P may be from the model's.
  double code_error(double x, double p, double code, double uncertainty) const {
    const double top = m_.p_max * std::exp2(m_.maximum_slack);
    if (shift_ <= kSmallShift && uncertainty <= 1) {
      const double octaves = uncertainty + lower_shift();
      const double up = octaves * std::numbers::ln2 * (1 + octaves);
      const double down = (uncertainty + shift_) * std::numbers::ln2;
      const double high = round_pv(m_.pv, std::min(p * (1 + up), top));
      const double least = p * std::max(1 - down, 0.0);
      // An exponential below the smallest normal f32 is 0; only bf16 has numbers there.
      const double low = least < kFlushed ? 0 : round_pv(m_.pv, least);
      return std::max(high - code, code - low);
    }
    const double high = m_.p_max * std::exp2(std::min(x + uncertainty, m_.maximum_slack + shift_));
    const double off = std::max(high - p, p * (1 - std::exp2(-uncertainty)));
    // Half a step of P 2^-c, times 2^c: P 2^-c lies in the octave of `high`, or lower.
    const double rounding =
        high > 0
            ? half_step(m_.pv) * std::min(high, std::ldexp(std::exp2(shift_), std::ilogb(high)))
            : 0;
    return off + rounding + std::min(half_least(m_.pv) * std::exp2(shift_), high) +
           std::fabs(code - p);
  }

  void sums() {
    const auto width = index(head_.values.padded_columns());
    n_.assign(width, 0.0);
    n_error_.assign(width, 0.0);
    n_cut_.assign(width, 0.0);
    n_values_.assign(width, 0.0);
    n_light_.assign(width, 0.0);
    key_code_.clear();
    key_edge_.clear();
    key_error_.clear();
    tile_error_.clear();
    s_ = s_error_ = s_cut_ = s_light_ = 0;
    if (sink_ > -kInfinity) {
      s_ = sink_weight();
      s_error_ = sink_error();
    }
    next_undecided_ = 0;
    code_.resize(index(m_.tile_keys));
    error_.resize(code_.size());
    for (std::int64_t t = 0; t < static_cast<std::int64_t>(tile_maximum_.size()); ++t) sum_tile(t);
  }

  void sum_tile(std::int64_t t) {
    const std::int64_t begin = t * m_.tile_keys;
    const std::int64_t keys = std::min<std::int64_t>(m_.tile_keys, visible_ - begin);
    if (has_mods_ && sees_nothing_of(begin, begin + keys)) {
      skip_tile(begin + keys);
      return;
    }
    const double below = tile_maximum_[index(t)] - maximum_;
    const double weight = std::exp2(below);
    // P of a small shift rounds to the code it has without; what rescales the tile is shifted.
    double weight_error = shift_ <= kSmallShift ? weight * (std::exp2(shift_) - 1) : 0;
    if (below != 0) {
      const double off = 2 * of_tops_ + kExponentials;
      weight_error +=
          std::max(std::exp2(std::min(below + off, 0.0)) - weight, weight * (1 - std::exp2(-off)));
    }
    tile_error_.push_back(weight > 0 ? weight_error / weight : 0);
    std::vector<double>& largest = largest_;
    largest.assign(index((keys + kFusedKeys - 1) / kFusedKeys), 0.0);
    const double least = smallest_normal(m_.pv);
    double sum = two_level_ ? 0 : s_;
    for (std::int64_t i = 0; i < keys; ++i) {
      const std::int64_t j = begin + i;
      const double x = score_[index(j)] - tile_maximum_[index(t)];
      const double p = m_.p_max * std::exp2(x), code = round_pv(m_.pv, p);
      code_[index(i)] = weight * code;
      error_[index(i)] =
          (weight + weight_error) * code_error(x, p, code, uncertainty(j)) + weight_error * code;
      double& top = largest[index(i / kFusedKeys)];
      top = std::max({top, weight * code, weight * least});
      key_code_.push_back(code_[index(i)]);
      if (m_.pv == QuantModel::Pv::e4m3) key_edge_.push_back(edge_of(p, code));
      key_error_.push_back(error_[index(i)]);
      if (light_[index(t)]) {
        error_[index(i)] += code_[index(i)];
        s_light_ += error_[index(i)];
      }
      s_error_ += error_[index(i)];
    }
    double of_codes = 0, cut = 0;
    for (std::int64_t i = 0; i < keys; ++i) {
      sum += code_[index(i)];
      of_codes += error_[index(i)];
      if (i % kFusedKeys == kFusedKeys - 1 || i == keys - 1)
        cut += cut_ * std::max(largest[index(i / kFusedKeys)], sum);
      if (i % kKeysOfRounding == kKeysOfRounding - 1 || i == keys - 1)
        cut += rounding_of(sum + of_codes + cut, weight / m_.v_max);
    }
    s_cut_ += cut;
    s_ = two_level_ ? s_ + sum : sum;
    s_cut_ += kF32Sum * s_;
    for (; next_undecided_ < head_.undecided_values.size() &&
           head_.undecided_values[next_undecided_].key < begin + keys;
         ++next_undecided_) {
      const UndecidedValue& value = head_.undecided_values[next_undecided_];
      const std::size_t i = index(value.key - begin);
      n_error_[index(value.channel)] += value.step * (code_[i] + error_[i]);
      n_values_[index(value.channel)] += value.step * (code_[i] + error_[i]);
    }
    for (std::int64_t c = 0; c < head_.values.padded_columns(); c += kWidth) {
      sum_channels(begin, keys, c, weight);
    }
  }

  // What f16 takes from a sum at most; least: what its smallest step is worth.
  double rounding_of(double sum, double least) const {
    return half_roundings_ * std::max(kHalfRounding * std::fabs(sum), kHalfLeast * least);
  }

  bool sees_nothing_of(std::int64_t begin, std::int64_t end) const {
    const auto from = score_.begin();
    return std::all_of(from + begin, from + end, [](double s) { return s == -kInfinity; });
  }

  // Whether a kernel walks the tile or not, its sums are what they were.
  void skip_tile(std::int64_t end) {
    tile_error_.push_back(0);
    key_code_.resize(index(end));
    key_error_.resize(index(end));
    if (m_.pv == QuantModel::Pv::e4m3) key_edge_.resize(index(end));
    while (next_undecided_ < head_.undecided_values.size() &&
           head_.undecided_values[next_undecided_].key < end)
      ++next_undecided_;
  }

  // P V of a tile, eight channels.
  void sum_channels(std::int64_t begin, std::int64_t keys, std::int64_t channel, double weight) {
    using Eight = std::array<double, kWidth>;
    const double* v = head_.values.data.data() + channel * head_.values.rows + begin * kWidth;
    const double* v_largest = head_.largest_value.data.data() + channel * head_.largest_value.rows +
                              begin / kFusedKeys * kWidth;
    double* const total = n_.data() + channel;
    Eight sum{}, error{}, cut{};
    if (!two_level_) std::copy_n(total, kWidth, sum.begin());
    for (std::int64_t first = 0; first < keys; first += kFusedKeys) {
      const Eight before = sum;
      const std::int64_t last = std::min(first + kFusedKeys, keys);
      for (std::int64_t i = first; i < last; ++i) {
        const double code = code_[index(i)], code_error = error_[index(i)];
        for (std::size_t c = 0; c < kWidth; ++c) {
          const double value = v[index(i * kWidth) + c];
          sum[c] += code * value;
          error[c] += code_error * std::fabs(value);
        }
        if (half_roundings_ == 0 || (i % kKeysOfRounding != kKeysOfRounding - 1 && i != keys - 1))
          continue;
        for (std::size_t c = 0; c < kWidth; ++c)
          cut[c] += rounding_of(std::fabs(sum[c]) + error[c] + cut[c], weight);
      }
      const double p = largest_[index(first / kFusedKeys)];
      for (std::size_t c = 0; c < kWidth; ++c) {
        const double term = p * v_largest[index(first / kFusedKeys * kWidth) + c];
        cut[c] += cut_ * std::max({term, std::fabs(before[c]), std::fabs(sum[c])});
      }
    }
    for (std::size_t c = 0; c < kWidth; ++c) {
      total[c] = two_level_ ? total[c] + sum[c] : sum[c];
      n_error_[index(channel) + c] += error[c];
      if (light_[index(begin / m_.tile_keys)]) n_light_[index(channel) + c] += error[c];
      n_cut_[index(channel) + c] += cut[c] + kF32Sum * std::fabs(total[c]);
    }
  }

  // Of channel c, without the rounding of the output.
  double quotient(std::int64_t c, double n_error, double s_error) const {
    double largest = 0;
    for (std::int64_t block = 0; block * kFusedKeys < visible_; ++block)
      largest = std::max(
          largest,
          head_.largest_value
              .data[index((c / kWidth * head_.largest_value.rows + block) * kWidth + c % kWidth)]);
    const double value = std::fabs(n_[index(c)]) / s_;
    double error = 2 * largest;  // both are weighted means
    if (s_error < s_) error = std::min(error, (n_error + value * s_error) / (s_ - s_error));
    return head_.value_scale[index(c)] * (error * (1 + kQuotient) + value * kQuotient);
  }

  // What keys have of the weights, all but a sink's, and how far that may be off.
  double share() const { return sink_ > -kInfinity ? (s_ - sink_weight()) / s_ : 1; }
  double share_error(double s_error) const {
    if (sink_ == -kInfinity) return 0;
    return s_error < s_ ? std::min((1 + share()) * s_error / (s_ - s_error), 1.0) : 1;
  }
  // O of channel c, and 13. of the header.
  double finished(std::int64_t c) const {
    const double left = head_.value_scale[index(c)] * n_[index(c)] / s_;
    return head_.value_mean.empty() ? left : left + head_.value_mean[index(c)] * share();
  }
  double error_of_mean(std::size_t c) const {
    return head_.value_mean.empty() ? 0 : 2 * head_.value_mean_error[c];
  }
  double mean_error(std::int64_t c, double s_error) const {
    if (head_.value_mean.empty()) return 0;
    const double left = head_.value_scale[index(c)] * std::fabs(n_[index(c)]) / s_,
                 mean = std::fabs(head_.value_mean[index(c)]);
    return error_of_mean(index(c)) + left * head_.value_scale_error[index(c)] +
           mean * share_error(s_error) + kMeanRounding * (mean + left);
  }

  void outputs(double* o, double* of_codes) const {
    double largest = 0;  // of the row
    for (std::int64_t c = 0; c < in_.v.channels; ++c) {
      *of_codes += quotient(c, n_error_[index(c)], s_error_) + error_of_mean(index(c));
      const double s_error = s_error_ + s_cut_;
      const double error =
          quotient(c, n_error_[index(c)] + n_cut_[index(c)], s_error) + mean_error(c, s_error);
      o[c] = error;
      largest = std::max(largest, std::fabs(finished(c)) + error);
    }
    // Half a step where the value may end up.
    for (std::int64_t c = 0; c < in_.v.channels; ++c)
      o[c] = o[c] + half_output_step(m_, std::fabs(finished(c)) + o[c], largest) + kFlushed;
  }

  // What is the same for all keys, or small: of log2 P.
  double common_error(std::int64_t j) const {
    if (changes_) return common_[index(j)] + kExponentials;
    double error =
        (score_rounding_ + head_.key_scale_error[index(j)]) * std::fabs(score_[index(j)]) +
        folded_ + kExponentials;
    if (!sum_own_.empty()) error += sum_own_[index(j)];
    return error;
  }

  // Keys that may lose or get a step of P together: of one code, on the same side of it.
  std::size_t edge_of(double p, double code) const {
    constexpr int kOctaves = 20, kSteps = 8;
    int exponent = 0;
    const double part = std::frexp(code / m_.p_max, &exponent);
    if (code == 0 || exponent <= -kOctaves) return 0;
    const int step = static_cast<int>((2 * part - 1) * kSteps);
    return static_cast<std::size_t>(((exponent + kOctaves) * kSteps + step) * 2 + (p > code) + 1);
  }

  // 9. of the header. o: the bounds of the elements.
  void whole_row(std::int64_t token, const double* o, double* distance, double* of_codes) const {
    const auto channels = index(in_.v.channels);
    double worst = 0;
    for (std::size_t c = 0; c < channels; ++c) worst += o[c] * o[c];
    *distance = std::sqrt(worst);
    const double least_sum = s_ - s_error_ - s_cut_;
    if (least_sum < s_ / 2 || head_.all_undecided) return;

    const double codes = pulls(token) / least_sum;
    double rest = 0, largest = 0;
    for (std::size_t c = 0; c < channels; ++c)
      largest = std::max(largest, std::fabs(finished(static_cast<std::int64_t>(c))) + o[c]);
    for (std::size_t c = 0; c < channels; ++c) {
      const double scale = head_.value_scale[c], value = scale * std::fabs(n_[c]) / s_;
      const auto channel = static_cast<std::int64_t>(c);
      const double end = std::fabs(finished(channel)) + o[c];
      const double one = (scale * (n_cut_[c] + n_values_[c]) + value * s_cut_) / least_sum +
                         value * kQuotient + half_output_step(m_, end, largest) + kFlushed +
                         mean_error(channel, s_cut_);
      rest += one * one;
    }
    *distance = std::min(*distance, codes * (1 + kQuotient) + std::sqrt(rest));
    double of_values = 0;
    for (std::size_t c = 0; c < channels; ++c)
      of_values += head_.value_scale[c] * n_values_[c] / least_sum + error_of_mean(c);
    *of_codes = std::min(*of_codes, std::sqrt(static_cast<double>(channels)) * codes + of_values);
  }

  // The length of sum dP (V - o), from codes of Q and K, scores and codes of P.
  double pulls(std::int64_t token) const {
    const auto of_value = index(in_.v.channels), padded = n_.size();
    const std::int64_t row = queries_.order.of(token);
    const std::int16_t* q = queries_.row(row);
    const std::vector<int>& undecided = queries_.undecided[index(row)];
    std::vector<Pull> of_q(undecided.size()), of_k(index(in_.k.channels)), edges(400), maxima;
    Pull light;  // a tile
    double of_light = 0;
    std::vector<double> off(padded), mean(padded), scale(padded, 0.0);  // padding weighs nothing
    std::copy_n(head_.value_scale.begin(), of_value, scale.begin());
    for (std::size_t c = 0; c < padded; ++c) mean[c] = n_[c] / s_;
    std::vector<double> of_sink(padded, 0.0);  // what it takes from the mean of V
    for (std::size_t c = 0; c < head_.value_mean.size(); ++c)
      of_sink[c] = head_.value_mean[c] * (1 - share());
    double squares = 0, linear = 0, maximum = 0;
    for (std::int64_t j = 0; j < visible_; ++j) {
      const std::int64_t t = j / m_.tile_keys;
      if (maxima.empty() || tile_maximum_[index(t)] != maximum) maxima.emplace_back();
      maximum = tile_maximum_[index(t)];
      if (j % m_.tile_keys == 0) of_light += std::exchange(light, {}).length();
      if (has_mods_ && key_code_[index(j)] == 0 && key_error_[index(j)] == 0) continue;
      std::array<double, kWidth> squared{};
      for (std::size_t first = 0; first < padded; first += kWidth) {
        const double* v =
            head_.values.data.data() + first * index(head_.values.rows) + index(j * kWidth);
        for (std::size_t c = 0; c < kWidth; ++c) {
          const double one = (v[c] - mean[first + c]) * scale[first + c] + of_sink[first + c];
          off[first + c] = one;
          squared[c] += one * one;
        }
      }
      const double length = std::accumulate(squared.begin(), squared.end(), 0.0);
      const double code = key_code_[index(j)], error = key_error_[index(j)];
      squares += error * error * length;
      const double octaves = uncertainty(j);
      // What is the same for all keys, and of the rest what is not proportional to the score's error.
      const double beside =
          octaves < 1 ? octaves * octaves : std::exp2(octaves) - 1 - octaves * std::numbers::ln2;
      double straight = code * (common_error(j) * std::numbers::ln2 + beside);
      if (m_.pv != QuantModel::Pv::e4m3) {
        const bool vanishes = code <= 4 * kFlushed;  // as all that are as small do
        straight += vanishes ? error : std::min(error, 2 * half_step(m_.pv) * code);
      }
      linear += straight * std::sqrt(length);
      if (m_.pv == QuantModel::Pv::e4m3) edges[key_edge_[index(j)]].add(error, off, length);
      if (light_[index(t)]) light.add(code + error, off, length);
      maxima.back().add(code * tile_error_[index(t)], off, length);
      double octave = code * scale_ * queries_.step[index(row)] * std::numbers::ln2;
      if (changes_) octave *= slope_[index(j)];
      for (const int c : head_.keys.undecided[index(j)])
        of_k[index(c)].add(octave * head_.key_slack[index(j)] * q[c], off, length);
      const std::int16_t* k = head_.keys.row(j);
      for (std::size_t i = 0; i < undecided.size(); ++i)
        of_q[i].add(octave * head_.keys.step[index(j)] * k[undecided[i]], off, length);
    }
    double total = kDeviations * std::sqrt(squares) + linear + of_light + light.length();
    if (sink_ > -kInfinity) {
      double length = 0;  // of o: the sink's V is 0
      for (std::int64_t c = 0; c < in_.v.channels; ++c) length += finished(c) * finished(c);
      total += sink_error() * std::sqrt(length);
    }
    for (const Pull& pull : of_q) total += pull.length();
    for (const auto* group : {&of_k, &edges, &maxima})
      for (const Pull& pull : *group) total += pull.beyond_walk();
    return total;
  }

  // How far log S, with the maximum it belongs to, may be off: 8. of the header.
  double shifted_sums() const {
    const double lowest = -of_tops_ - lower_shift(), step = (shift_ - lowest) / kShifts;
    double low = 0, high = 0;
    if (sink_ > -kInfinity) {
      low = sink_weight() * std::exp2(-sink_own_ - kExponentials);
      high = sink_weight() * std::exp2(sink_own_ + kExponentials);
    }
    for (std::int64_t begin = 0; begin < visible_; begin += m_.tile_keys) {
      const std::int64_t end = std::min<std::int64_t>(begin + m_.tile_keys, visible_);
      const double maximum = tile_maximum_[index(begin / m_.tile_keys)];
      if (has_mods_ && sees_nothing_of(begin, end)) continue;
      const double weight = std::exp2(maximum - maximum_);
      double least = kInfinity, most = 0, sum_before = 0;
      for (int i = 0; i <= kShifts; ++i) {
        const double shift = lowest + i * step;
        double sum_high = 0, sum_low = 0;
        for (std::int64_t j = begin; j < end; ++j) {
          const double x = score_[index(j)] - maximum - shift;
          const double off = own_[index(j)] + kExponentials;
          sum_high += round_pv(m_.pv, m_.p_max * std::exp2(std::min(x + off, m_.maximum_slack)));
          sum_low += round_pv(m_.pv, m_.p_max * std::exp2(std::min(x - off, m_.maximum_slack)));
        }
        if (i > 0) {
          most = std::max(most, sum_before * std::exp2(shift));
          least = std::min(least, sum_low * std::exp2(shift - step));
        }
        sum_before = sum_high;
      }
      if (!light_[index(begin / m_.tile_keys)]) low += weight * least;
      high += weight * most;
    }
    low -= s_cut_;
    high += s_cut_;
    if (low <= 0) return kInfinity;
    return std::max(std::log(high / s_), std::log(s_ / low)) + kExponentials;
  }

  double lse_bound(const float* q) const {
    const double natural = scale_ * std::numbers::ln2;
    double correction = 0, of_mean = 0;
    for (std::int64_t c = 0; c < in_.q.channels; ++c) {
      correction += std::fabs(q[c] * head_.mean[index(c)]) * natural;
      of_mean += std::fabs(q[c]) * head_.mean_error[index(c)] * natural;
    }
    if (!mods_.keep_differences()) correction = of_mean = 0;  // a part of the scores
    const double count = std::log(static_cast<double>(visible_ + (sink_ > -kInfinity)));
    double of_sum = count + 1;
    const double s_error = s_error_ + s_cut_;
    if (s_error < s_) of_sum = std::min(of_sum, -std::log1p(-s_error / s_));
    of_sum += top_error_ * std::numbers::ln2;
    if (of_sum > kWideLse && shift_ <= 1) of_sum = std::min(of_sum, shifted_sums());
    const double top = std::fabs(maximum_) * std::numbers::ln2;
    const double additions = static_cast<double>(in_.q.channels) / 8 + 8;
    return of_sum + of_mean + 0x1p-24 * (additions * correction + 8 * (top + count + correction)) +
           kLogarithm;
  }

  const Inputs& in_;
  const ModList& mods_;
  const QuantModel& m_;
  const Head& head_;
  const QueryCodes& queries_;
  Place place_;
  const bool has_mods_, changes_;
  const bool of_each_;      // score has a scale of its own: it is scaled before the softmax
  const bool unquantized_;  // Q and K
  const double step_;       // of maxima
  const double score_rounding_;
  const double cut_;
  const bool two_level_;
  const double half_roundings_;
  const double scale_;

  std::int64_t first_ = 0, visible_ = 0;
  std::int64_t top_ = 0;  // the key that the maximum belongs to; -1 if that is the sink's
  double maximum_ = 0;
  double sink_ = -kInfinity, sink_own_ = 0;       // among the scores, and its uncertainty
  double mean_score_ = 0, mean_score_error_ = 0;  // q . mean of K
  std::vector<double> common_, slope_;            // [key], of changed scores
  std::vector<double> sum_own_;  // [key], of f32 sums and what sums start from; empty: 0
  std::vector<double> score_, own_, tile_maximum_, tile_own_;
  double folded_ = 0, of_tops_ = 0, shift_ = 0;
  double top_error_ = 0;                        // of the largest score, whichever key it belongs to
  std::vector<double> code_, error_, largest_;  // of a tile, weighted
  std::vector<double> n_, n_error_, n_cut_;     // [channel]: sum, error of codes, of summing
  std::vector<double> n_values_;                // part of n_error_: codes of V
  std::vector<double> key_code_, key_error_;    // of all keys, weighted
  std::vector<bool> light_;                     // [tile]: it may be left out
  std::vector<double> n_light_;                 // part of n_error_: such tiles
  double s_light_ = 0;                          // part of s_error_
  std::vector<std::size_t> key_edge_;           // of all keys, in e4m3: edge_of()
  std::vector<double> tile_error_;              // relative, of a tile's weight
  double s_ = 0, s_error_ = 0, s_cut_ = 0;
  std::size_t next_undecided_ = 0;
};

}  // namespace

Allowance allowance(const Inputs& in, const QuantModel& m, const DeviceArithmetic& arithmetic,
                    const RowNumbers& rows, int threads, const Progress& progress) {
  check_rows(in, rows);
  const ModList mods(in);
  if (m.tile_keys % kFusedKeys != 0 || m.pv == QuantModel::Pv::exact)
    throw std::invalid_argument("bounds are for tiles of whole 16 keys, and P in a format");
  Allowance out;
  out.o.resize(rows.size() * static_cast<std::size_t>(in.v.channels));
  out.lse.resize(rows.size());
  out.distance.resize(rows.size());
  out.codes.resize(rows.size());
  const bool may_skip = std::any_of(in.mods.begin(), in.mods.end(),
                                    [](const ScoreMod& mod) { return bool(mod.least_weight); });
  if (may_skip) out.light.resize(rows.size());
  if (m.smooth_v) out.left.resize(rows.size());
  for_each_kv_head(in, rows, [&](const HeadRows& group) {
    const Head head = head_codes(in, m, group.batch, group.kv_head);
    std::int64_t row = group.first_row;
    for (const auto& [q_head, tokens] : group.queries) {
      const QueryCodes queries = query_codes(in, m, group.batch, q_head, tokens, head);
      const auto count = static_cast<std::int64_t>(tokens.size());
      parallel_for((count + kBlockRows - 1) / kBlockRows, threads, [&](std::int64_t block) {
        RowBound bound(in, mods, m, arithmetic, head, queries,
                       {.batch = group.batch, .head = q_head});
        const std::int64_t first = block * kBlockRows, last = std::min(first + kBlockRows, count);
        for (std::int64_t i = first; i < last; ++i) {
          const std::int64_t token = tokens[static_cast<std::size_t>(i)];
          bound.compute(in.q.row(group.batch, q_head, token), token,
                        out.o.data() + (row + i) * in.v.channels, out.lse.data() + row + i,
                        out.distance.data() + row + i, out.codes.data() + row + i,
                        may_skip ? out.light.data() + row + i : nullptr,
                        m.smooth_v ? out.left.data() + row + i : nullptr);
        }
        if (progress) progress(last - first);
      });
      row += count;
    }
  });
  return out;
}

}  // namespace sagegen::reference
