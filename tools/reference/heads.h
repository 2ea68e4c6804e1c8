// How the parts of the reference walk through heads and their rows.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <utility>
#include <vector>

#include "tools/reference/reference.h"

namespace sagegen::reference {

// Throws std::invalid_argument if the shapes do not fit together, or rows do not ascend or exist.
void check_rows(const Inputs& in, const RowNumbers& rows);

// Softmax scale in base 2: exp(x * scale) == exp2(x * base2_scale).
inline double base2_scale(const Inputs& in) {
  const double scale = in.softmax_scale != 0.0
                           ? in.softmax_scale
                           : 1.0 / std::sqrt(static_cast<double>(in.q.channels));
  return scale * std::numbers::log2e;
}

// [token, channel] of one head.
inline std::vector<double> head_rows(const Tensor& t, std::int64_t batch, std::int64_t head) {
  const float* begin = t.data.data() + (batch * t.heads + head) * t.tokens * t.channels;
  return {begin, begin + t.tokens * t.channels};
}

// The rows of one key/value head, by the query heads that share it.
struct HeadRows {
  std::int64_t batch = 0, kv_head = 0;
  std::int64_t first_row = 0;  // where they begin in the list of rows
  std::vector<std::pair<std::int64_t, std::vector<std::int64_t>>> queries;  // head, its tokens
};

// visit(HeadRows) for every key/value head that has rows, in their order.
template <typename Visit>
void for_each_kv_head(const Inputs& in, const RowNumbers& rows, const Visit& visit) {
  const std::int64_t group = in.q.heads / in.k.heads;
  auto next = rows.begin();
  while (next != rows.end()) {
    const std::int64_t of_kv_head = *next / in.q.tokens / group;
    HeadRows head{.batch = of_kv_head / in.k.heads,
                  .kv_head = of_kv_head % in.k.heads,
                  .first_row = next - rows.begin(),
                  .queries = {}};
    for (; next != rows.end() && *next / in.q.tokens / group == of_kv_head; ++next) {
      const std::int64_t q_head = *next / in.q.tokens % in.q.heads;
      if (head.queries.empty() || head.queries.back().first != q_head)
        head.queries.push_back({q_head, {}});
      head.queries.back().second.push_back(*next % in.q.tokens);
    }
    visit(head);
  }
}

}  // namespace sagegen::reference
