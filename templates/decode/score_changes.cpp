#include "templates/decode/score_changes.h"

namespace sagegen::decode {

using namespace dsl;

ScoreChanges::ScoreChanges(const DecodeBlock& block, const Queries& queries)
    : block_(block), queries_(queries) {
  if (!changes_scores(block.spec)) return;
  for (int half = 0; half < block.row_halves(); ++half) {
    attention::ScoreElement row;
    row.batch = block.sequence;
    row.head = block.tile.kv_head * block.rows.heads() + block.rows.head(block.row(half));
    row.query = block.rows.query(block.row(half));
    row.position = block.mods.position(row.query);
    rows_.push_back(row);
  }
}

void ScoreChanges::apply(I32 tile, Scores& scores) const {
  if (rows_.empty()) return;
  const I32 first_key = tile * block_.schedule.tile + 4 * block_.lane.quad;
  for (std::size_t half = 0; half < rows_.size(); ++half) {
    attention::ScoreElement at = rows_[half];
    at.first_key = first_key;
    const F32 scale = queries_.scale(static_cast<int>(half));
    for (std::size_t i = 0; i < scores.size(); ++i) {
      for (std::size_t parity = 0; parity < 2; ++parity) {
        for (std::size_t column = 0; column < 2; ++column) {
          at.behind_first = static_cast<int>(kKvBlockTokens * i + parity + 2 * column);
          at.key = first_key + at.behind_first;
          F32& score = scores[i][parity][half][column];
          score = block_.mods.changed(at, score * scale);
        }
      }
    }
  }
}

}  // namespace sagegen::decode
