#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "tools/pictures/pictures.h"
#include "tools/pictures/svg.h"

namespace sagegen::pictures {
namespace {

constexpr double kLeft = 16, kGap = 40, kMostWidth = 1640;
constexpr double kLabelSize = 9, kRowHeight = 16, kStrip = 22, kHeader = 26;
constexpr std::string_view kInk = "#222222", kFrame = "#111111", kGrid = "#8a8a8a";

// By lane mod 4, and whether lane / 4 is odd.
constexpr std::string_view kLaneColours[4][2] = {
    {"#cfe2f7", "#abcdf0"}, {"#d5ecd0", "#b4ddab"}, {"#fde8c6", "#fbd596"}, {"#f4d3e0", "#e9b2c9"}};
constexpr std::string_view kScaleColours[] = {"#1f5fa8", "#a83a1f", "#2d7d46", "#7a3fa0",
                                              "#8a6d00", "#00757a", "#a0245e", "#555555"};

std::string_view lane_colour(int lane) { return kLaneColours[lane % 4][lane / 4 % 2]; }
std::string_view scale_colour(int scale) {
  return kScaleColours[static_cast<std::size_t>(scale) % std::size(kScaleColours)];
}

// A matrix as it is drawn.
struct Matrix {
  std::string name;     // "Q"
  std::string operand;  // "A of mma.m16n8k32 s8"
  const Fragments* fragments;
  int shown;  // operands
  std::string row_name, column_name;
  const std::vector<int>* row_scale = nullptr;     // null: rows have none
  const std::vector<int>* column_scale = nullptr;  // null: columns have none
  const std::vector<int>* stored =
      nullptr;  // the row at each place of another order; null: there is none
  std::string note;
};

struct Holder {
  int operand, lane, reg, part;
};

using Holders = std::map<std::pair<int, int>, Holder>;  // by row and column

Holders holders_of(const Matrix& m) {
  Holders holders;
  const Fragments& f = *m.fragments;
  for (int operand = 0; operand < m.shown; ++operand) {
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int reg = 0; reg < f.registers; ++reg) {
        for (int part = 0; part < f.parts; ++part) {
          const Element& at = f.at(operand, lane, reg, part);
          holders[{at.row, at.column}] = {operand, lane, reg, part};
        }
      }
    }
  }
  return holders;
}

// Neighbours, in a row or a column, that are consecutive parts of one register.
struct Cell {
  int row, column, rows, columns;
  Holder first;
  int parts() const { return rows * columns; }
};

std::vector<Cell> cells_of(const Holders& holders) {
  const auto run = [&](std::pair<int, int> at, int down, int right) {
    const Holder& first = holders.at(at);
    int length = 1;
    for (;; ++length) {
      const auto next = holders.find({at.first + down * length, at.second + right * length});
      if (next == holders.end()) return length;
      const Holder& h = next->second;
      if (h.operand != first.operand || h.lane != first.lane || h.reg != first.reg ||
          h.part != first.part + length)
        return length;
    }
  };
  std::vector<Cell> cells;
  std::set<std::pair<int, int>> covered;
  for (const auto& [at, holder] : holders) {
    if (covered.count(at) > 0) continue;
    const int right = run(at, 0, 1), down = right > 1 ? 1 : run(at, 1, 0);
    for (int r = 0; r < down; ++r) {
      for (int c = 0; c < right; ++c) covered.insert({at.first + r, at.second + c});
    }
    cells.push_back({at.first, at.second, down, right, holder});
  }
  return cells;
}

std::string label_of(const Cell& cell, int parts_of_register) {
  std::string label = fmt::format("{} r{}", cell.first.lane, cell.first.reg);
  if (cell.parts() == parts_of_register) return label;
  for (int part = 0; part < cell.parts(); ++part)
    label += fmt::format("{}{}", part == 0 ? "." : "", cell.first.part + part);
  return label;
}

std::string plural(const std::string& name) { return name == "query" ? "queries" : name + "s"; }

std::string range(const std::string& name, int first, int count) {
  return count == 1 ? fmt::format("{} {}", name, first)
                    : fmt::format("{} {} to {}", plural(name), first, first + count - 1);
}

std::string tip_of(const Matrix& m, const Cell& cell) {
  std::string tip = fmt::format("{}, {}, {}: lane {}, register {} of operand {}, part {}", m.name,
                                range(m.row_name, cell.row, cell.rows),
                                range(m.column_name, cell.column, cell.columns), cell.first.lane,
                                cell.first.reg, cell.first.operand, cell.first.part);
  const auto add = [&](const std::vector<int>* scales, const std::string& name, int index) {
    if (scales != nullptr) {
      tip += fmt::format("; scale {} by {}", (*scales)[static_cast<std::size_t>(index)], name);
    }
  };
  add(m.row_scale, m.row_name, cell.row);
  add(m.column_scale, m.column_name, cell.column);
  return tip;
}

// How the operands of the warp follow each other, or nothing if they are not alike.
std::optional<std::string> repetition(const Matrix& m) {
  const Fragments& f = *m.fragments;
  std::set<int> rows, columns;
  for (int operand = 0; operand < f.operands; ++operand) {
    const Element& first = f.at(operand, 0, 0, 0);
    const int down = first.row - f.elements[0].row, right = first.column - f.elements[0].column;
    for (int i = 0; i < kLanes * f.registers * f.parts; ++i) {
      const auto index = static_cast<std::size_t>(i);
      const auto here = static_cast<std::size_t>(operand * kLanes * f.registers * f.parts + i);
      if (f.elements[here] !=
          Element{f.elements[index].row + down, f.elements[index].column + right})
        return std::nullopt;
    }
    rows.insert(down);
    columns.insert(right);
  }
  if (static_cast<int>(rows.size() * columns.size()) != f.operands) return std::nullopt;
  const auto every = [](const std::set<int>& shifts, const std::string& name) {
    if (shifts.size() == 1) return std::string();
    return fmt::format(", one every {} {}", *std::next(shifts.begin()), plural(name));
  };
  return fmt::format("{} operands{}{}", f.operands, every(rows, m.row_name),
                     every(columns, m.column_name));
}

struct Size {
  double width, height;
};

class Panel {
 public:
  explicit Panel(const Matrix& m) : m_(m), holders_(holders_of(m)), cells_(cells_of(holders_)) {
    for (const auto& [at, holder] : holders_) {
      rows_ = std::max(rows_, at.first + 1);
      columns_ = std::max(columns_, at.second + 1);
    }
    for (const Cell& cell : cells_) {
      const double width = text_width(label_of(cell, m.fragments->parts), kLabelSize) + 8;
      element_width_ = std::max(element_width_, width / cell.columns);
    }
    left_ =
        kHeader + (m.stored != nullptr ? kHeader + 14 : 0) + (m.row_scale != nullptr ? kStrip : 0);
    top_ = 40 + (m.column_scale != nullptr ? kRowHeight : 0);
    lines_ = {fmt::format("{}: {}", m.name, m.operand)};
    const std::optional<std::string> repeated = repetition(m);
    lines_.push_back(repeated ? *repeated : "the first operands; others differ");
    if (!m.note.empty()) lines_.push_back(m.note);
  }

  Size size() const {
    double width = left_ + columns_ * element_width_;
    width = std::max(width, text_width(lines_[0], 12));
    for (const std::string& line : lines_) width = std::max(width, text_width(line, 10));
    return {width, text_height() + top_ + rows_ * kRowHeight};
  }

  void draw(Svg& svg, double x, double y) const {
    svg.text(x, y + 12, lines_[0], {.size = 12, .bold = true});
    for (std::size_t i = 1; i < lines_.size(); ++i)
      svg.text(x, y + 14 + 14 * static_cast<double>(i), lines_[i], {.size = 10});
    const double cells_x = x + left_, cells_y = y + text_height() + top_;
    draw_headers(svg, x, cells_x, cells_y);
    for (const Cell& cell : cells_) {
      const double cx = cells_x + cell.column * element_width_,
                   cy = cells_y + cell.row * kRowHeight;
      const double width = cell.columns * element_width_, height = cell.rows * kRowHeight;
      svg.rect(cx, cy, width, height,
               {.fill = lane_colour(cell.first.lane), .stroke = kGrid, .stroke_width = 0.5},
               tip_of(m_, cell));
      svg.text(cx + width / 2, cy + height / 2 + 3.2, label_of(cell, m_.fragments->parts),
               {.size = kLabelSize, .anchor = Anchor::middle, .fill = kInk});
    }
    frame_operands(svg, cells_x, cells_y);
  }

 private:
  double text_height() const { return 16 + 14 * static_cast<double>(lines_.size() - 1); }

  void draw_headers(Svg& svg, double x, double cells_x, double cells_y) const {
    const TextStyle small{.size = kLabelSize, .anchor = Anchor::end, .fill = kInk};
    const double names_y = cells_y - top_ + 14;
    svg.text(cells_x, names_y, m_.column_name + ", across; " + m_.row_name + ", down",
             {.size = kLabelSize, .fill = "#555555"});
    // Rows: their number, the place where they are stored, their scale.
    double row_x = cells_x - 4;
    if (m_.row_scale != nullptr) {
      row_x = cells_x - kStrip;
      for (int row = 0; row < rows_; ++row)
        draw_scale(svg, row_x, cells_y + row * kRowHeight, kStrip, scale_of(m_.row_scale, row));
      row_x -= 4;
    }
    for (int row = 0; row < rows_; ++row)
      svg.text(row_x, cells_y + (row + 0.5) * kRowHeight + 3.2, std::to_string(row), small);
    if (m_.stored != nullptr) {
      svg.text(x, cells_y - 6, "stored", {.size = kLabelSize, .fill = "#555555"});
      for (std::size_t place = 0; place < m_.stored->size(); ++place) {
        const int row = (*m_.stored)[place];
        if (row >= rows_) continue;
        svg.text(x + 30, cells_y + (row + 0.5) * kRowHeight + 3.2, std::to_string(place),
                 {.size = kLabelSize, .anchor = Anchor::end, .fill = "#9a3412"});
      }
    }
    // Columns: their number where a cell begins, their scale.
    const double scale_y = cells_y - (m_.column_scale != nullptr ? kRowHeight : 0);
    std::set<int> begins;
    for (const Cell& cell : cells_) begins.insert(cell.column);
    for (const int column : begins) {
      svg.text(cells_x + column * element_width_ + 2, scale_y - 5, std::to_string(column),
               {.size = kLabelSize, .fill = kInk});
    }
    if (m_.column_scale == nullptr) return;
    for (int column = 0; column < columns_; ++column)
      draw_scale(svg, cells_x + column * element_width_, scale_y, element_width_,
                 scale_of(m_.column_scale, column));
  }

  static int scale_of(const std::vector<int>* scales, int index) {
    return (*scales)[static_cast<std::size_t>(index)];
  }

  static void draw_scale(Svg& svg, double x, double y, double width, int scale) {
    svg.rect(x, y, width, kRowHeight,
             {.fill = scale_colour(scale), .stroke = "#ffffff", .stroke_width = 1});
    svg.text(x + width / 2, y + kRowHeight / 2 + 3.2, fmt::format("s{}", scale),
             {.size = kLabelSize, .anchor = Anchor::middle, .fill = "#ffffff"});
  }

  void frame_operands(Svg& svg, double cells_x, double cells_y) const {
    for (int operand = 0; operand < m_.shown; ++operand) {
      int top = rows_, left = columns_, bottom = 0, right = 0;
      for (const auto& [at, holder] : holders_) {
        if (holder.operand != operand) continue;
        top = std::min(top, at.first);
        left = std::min(left, at.second);
        bottom = std::max(bottom, at.first + 1);
        right = std::max(right, at.second + 1);
      }
      svg.rect(cells_x + left * element_width_, cells_y + top * kRowHeight,
               (right - left) * element_width_, (bottom - top) * kRowHeight,
               {.fill = {}, .stroke = kFrame, .stroke_width = 2});
    }
  }

  Matrix m_;
  Holders holders_;
  std::vector<Cell> cells_;
  std::vector<std::string> lines_;
  int rows_ = 0, columns_ = 0;
  double element_width_ = 0, left_ = 0, top_ = 0;
};

std::vector<int> numbers(int count) {
  std::vector<int> all;
  for (int i = 0; i < count; ++i) all.push_back(i);
  return all;
}

std::string shape(const Fragments& f, int rows_or_columns, DType type) {
  // What one operand has of k: all its elements by those of m or n.
  const int k = kLanes * f.registers * f.parts / rows_or_columns;
  return fmt::format("m16n8k{} {}", k, to_string(type));
}

void draw_legend(Svg& svg, double y) {
  double x = kLeft;
  const auto word = [&](const std::string& text) {
    svg.text(x, y + 12, text, {.size = 11});
    x += text_width(text, 11) + 10;
  };
  word(
      "cell: lane, register of the operand (\"13 r1\"), elements of the register (\".23\", the "
      "lowest bits are 0) where it does not hold them all;");
  x = kLeft;
  y += 20;
  word("colour: lane mod 4 =");
  for (int t = 0; t < 4; ++t) {
    for (int odd = 0; odd < 2; ++odd)
      svg.rect(x + 16 * odd, y + 1, 16, 14, {.fill = kLaneColours[t][odd], .stroke = kGrid});
    x += 38;
    word(std::to_string(t));
  }
  word("(darker: lane / 4 is odd);  scale:");
  for (int scale = 0; scale < 4; ++scale) {
    svg.rect(x, y, 22, 16, {.fill = scale_colour(scale), .stroke = "#ffffff"});
    svg.text(x + 11, y + 11.5, fmt::format("s{}", scale),
             {.size = kLabelSize, .anchor = Anchor::middle, .fill = "#ffffff"});
    x += 22;
  }
  x += 10;
  word("... from the first one of the block or tile;  thick frame: one operand of mma");
}

}  // namespace

std::string draw_fragments(const Layouts& l, const std::string& title) {
  const std::vector<int> channels = numbers(l.value_channels);
  const std::vector<int>* v_scale = l.v_is_scaled ? &channels : nullptr;
  const std::vector<int>* q_scale = l.qk_is_scaled ? &l.q_scale : nullptr;
  const std::vector<int>* k_scale = l.qk_is_scaled ? &l.k_scale : nullptr;
  const bool permuted = l.stored_key != numbers(l.keys);
  const std::string qk = shape(l.q, 16, l.qk), pv = shape(l.p, 16, l.pv);
  std::vector<Matrix> matrices;
  matrices.push_back({.name = "Q",
                      .operand = "A of " + qk,
                      .fragments = &l.q,
                      .shown = 1,
                      .row_name = "query",
                      .column_name = "channel",
                      .row_scale = q_scale,
                      .note = {}});
  matrices.push_back({.name = "K",
                      .operand = "B of " + qk,
                      .fragments = &l.k,
                      .shown = 2,
                      .row_name = "key",
                      .column_name = "channel",
                      .row_scale = k_scale,
                      .note = {}});
  matrices.push_back({.name = "scores",
                      .operand = "C of " + qk,
                      .fragments = &l.scores,
                      .shown = 2,
                      .row_name = "query",
                      .column_name = "key",
                      .row_scale = q_scale,
                      .column_scale = k_scale,
                      .note = {}});
  matrices.push_back({.name = "P",
                      .operand = "A of " + pv,
                      .fragments = &l.p,
                      .shown = 1,
                      .row_name = "query",
                      .column_name = "key",
                      .note = "each lane has the scores that it had; P has no scale"});
  matrices.push_back({.name = "O",
                      .operand = "C of " + pv,
                      .fragments = &l.o,
                      .shown = 2,
                      .row_name = "query",
                      .column_name = "channel",
                      .column_scale = v_scale,
                      .note = l.v_is_scaled ? "times the scale of the channel of V, at the end"
                                            : "V has no scale"});
  matrices.push_back({.name = "V",
                      .operand = "B of " + pv,
                      .fragments = &l.v,
                      .shown = 2,
                      .row_name = "key",
                      .column_name = "channel",
                      .column_scale = v_scale,
                      .stored = permuted ? &l.stored_key : nullptr,
                      .note = permuted ? "stored: the key's place in the order of the codes in "
                                         "memory, in which a register holds four in a row"
                                       : ""});

  Svg svg(title + ": fragments");
  svg.text(kLeft, 30, title, {.size = 15, .bold = true});
  svg.text(kLeft, 50,
           fmt::format("fragments of the first warp of a block ({} queries, tiles of {} keys), as "
                       "the kernel's own loads and products left them in the emulator",
                       l.queries, l.keys),
           {.size = 11});
  draw_legend(svg, 62);
  double x = kLeft, y = 118, row_height = 0;
  for (const Matrix& matrix : matrices) {
    const Panel panel(matrix);
    const Size size = panel.size();
    if (x > kLeft && x + size.width > kMostWidth) {
      x = kLeft;
      y += row_height + kGap;
      row_height = 0;
    }
    panel.draw(svg, x, y);
    x += size.width + kGap;
    row_height = std::max(row_height, size.height);
  }
  return svg.document();
}

}  // namespace sagegen::pictures
