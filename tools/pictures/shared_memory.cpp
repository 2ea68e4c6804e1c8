#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "tools/pictures/bank_conflicts.h"
#include "tools/pictures/pictures.h"
#include "tools/pictures/svg.h"

namespace sagegen::pictures {
namespace {

constexpr double kLeft = 16;
constexpr int kLineBytes = kBankGroups * kChunkBytes;
constexpr int kLines = 8;  // that are drawn: no swizzle has a longer period
constexpr double kCellWidth = 66, kCellHeight = 22, kSmallCell = 24;
constexpr std::string_view kGrid = "#8a8a8a", kFrame = "#111111", kQuiet = "#555555";
// By chunk of the row; rows have up to 16.
constexpr std::string_view kChunkColours[] = {"#cfe2f7", "#d5ecd0", "#fde8c6", "#f4d3e0",
                                              "#dcd6f2", "#cdeceb", "#f3dccb", "#e3e3d0"};

struct Chunk {
  int row, chunk;
};

std::map<int, Chunk> chunks_by_place(const Tile& tile) {
  std::map<int, Chunk> chunks;
  for (int row = 0; row < tile.rows; ++row) {
    for (int chunk = 0; chunk < tile.row_chunks(); ++chunk)
      chunks[tile.place(row, chunk)] = {row, chunk};
  }
  return chunks;
}

std::span<const int> phase_of(const Request& request, int phase) {
  return std::span(request).subspan(static_cast<std::size_t>(phase * kPhaseLanes), kPhaseLanes);
}

// The first lines of the tile, with what the first phase of an access touches framed.
double draw_lines(Svg& svg, double x, double y, const Tile& tile, const Access& framed) {
  const std::map<int, Chunk> chunks = chunks_by_place(tile);
  const std::span<const int> phase = phase_of(framed.requests.at(0), 0);
  const std::set<int> touched(phase.begin(), phase.end());
  constexpr double kHeader = 46;
  for (int group = 0; group < kBankGroups; ++group) {
    svg.text(x + kHeader + (group + 0.5) * kCellWidth, y + 10,
             fmt::format("{}-{}", 4 * group, 4 * group + 3),
             {.size = 9, .anchor = Anchor::middle, .fill = kQuiet});
  }
  svg.text(x, y + 10, "bank", {.size = 9, .fill = kQuiet});
  const int lines = std::min(kLines, static_cast<int>(chunks.size()) / kBankGroups);
  for (int line = 0; line < lines; ++line) {
    const double cy = y + 16 + line * kCellHeight;
    svg.text(x + kHeader - 6, cy + 14, fmt::format("+{}", line * kLineBytes),
             {.size = 9, .anchor = Anchor::end, .fill = kQuiet});
    for (int group = 0; group < kBankGroups; ++group) {
      const int place = line * kLineBytes + group * kChunkBytes;
      const Chunk& at = chunks.at(place);
      const double cx = x + kHeader + group * kCellWidth;
      svg.rect(
          cx, cy, kCellWidth, kCellHeight,
          {.fill = kChunkColours[static_cast<std::size_t>(at.chunk) % std::size(kChunkColours)],
           .stroke = kGrid,
           .stroke_width = 0.5},
          fmt::format("{} {} of {}, bytes {} to {}: at +{}", tile.row_name, at.row, tile.name,
                      at.chunk * kChunkBytes, at.chunk * kChunkBytes + kChunkBytes - 1, place));
      svg.text(cx + kCellWidth / 2, cy + 14.5, fmt::format("{} . {}", at.row, at.chunk),
               {.size = 10, .anchor = Anchor::middle});
    }
  }
  for (const int place : touched) {
    if (place / kLineBytes >= lines) continue;
    svg.rect(x + kHeader + place % kLineBytes / kChunkBytes * kCellWidth + 1.5,
             y + 16 + place / kLineBytes * kCellHeight + 1.5, kCellWidth - 3, kCellHeight - 3,
             {.fill = {}, .stroke = kFrame, .stroke_width = 2});
  }
  return kHeader + kBankGroups * kCellWidth;
}

// How many chunks the phases of the first request ask of each bank group.
void draw_phases(Svg& svg, double x, double y, const Access& access) {
  for (int phase = 0; phase < kPhases; ++phase) {
    const auto groups = bank_groups(phase_of(access.requests.at(0), phase));
    const double cy = y + phase * kSmallCell;
    svg.text(x + 66, cy + 16,
             fmt::format("lanes {}-{}", phase * kPhaseLanes, (phase + 1) * kPhaseLanes - 1),
             {.size = 9, .anchor = Anchor::end, .fill = kQuiet});
    for (int group = 0; group < kBankGroups; ++group) {
      const int count = groups[static_cast<std::size_t>(group)];
      svg.rect(x + 72 + group * kSmallCell, cy, kSmallCell, kSmallCell,
               {.fill = count == 0   ? "#ffffff"
                        : count == 1 ? "#c9e8c2"
                                     : "#f2a9a0",
                .stroke = kGrid,
                .stroke_width = 0.5});
      svg.text(x + 72 + (group + 0.5) * kSmallCell, cy + 16, std::to_string(count),
               {.size = 10, .anchor = Anchor::middle});
    }
  }
}

std::string verdict(const Conflicts& c) {
  return c.extra() == 0 ? "no conflicts"
                        : fmt::format("{} conflicts, up to {}-way", c.extra(), c.worst);
}

double draw_tile(Svg& svg, double y, const Tile& tile) {
  svg.text(
      kLeft, y + 12,
      fmt::format("{}: {} rows ({}) of {} bytes ({}), in panels of {} bytes", tile.name, tile.rows,
                  tile.row_name, tile.row_bytes, to_string(tile.type), tile.panel_bytes),
      {.size = 12, .bold = true});
  const Access& load = tile.accesses.back();
  const double width = draw_lines(svg, kLeft, y + 26, tile, load);
  const double right = kLeft + width + 50;
  double phases_x = right;
  for (const Access& access : tile.accesses) {
    svg.text(phases_x, y + 36, access.name + ", first of the block", {.size = 10, .bold = true});
    draw_phases(svg, phases_x, y + 44, access);
    phases_x += 72 + kBankGroups * kSmallCell + 40;
  }
  double text_y = y + 44 + kPhases * kSmallCell + 24;
  for (const Access& access : tile.accesses) {
    const Conflicts c = conflicts_of(access), plain = conflicts_of(in_order(tile, access));
    svg.text(right, text_y,
             fmt::format("{}: {} of the block per tile, {} phases, {} wavefronts: {}", access.name,
                         c.requests, c.phases, c.wavefronts, verdict(c)),
             {.size = 11, .fill = c.extra() == 0 ? "#222222" : "#b42318"});
    svg.text(right + 16, text_y + 15,
             fmt::format("with rows one after the other it would be {} wavefronts: {}",
                         plain.wavefronts, verdict(plain)),
             {.size = 11, .fill = kQuiet});
    text_y += 38;
  }
  return y + 26 + 16 + kLines * kCellHeight + 44;
}

}  // namespace

std::string draw_shared_memory(const Layouts& layouts, const std::string& title) {
  Svg svg(title + ": shared memory");
  svg.text(kLeft, 30, title, {.size = 15, .bold = true});
  svg.text(kLeft, 50,
           "the first KiB of each tile in shared memory, and what the accesses of a block ask of "
           "its banks, as the kernel's own copies and loads did it in the emulator",
           {.size = 11});
  svg.text(kLeft, 70,
           "cell: row . chunk of 16 bytes; colour: chunk; frame: the eight chunks that the first "
           "eight lanes of the first ldmatrix read at once;",
           {.size = 11});
  svg.text(kLeft, 86,
           "right: how many chunks each phase of eight lanes asks of the eight groups of four "
           "banks: 1 leaves in one wavefront, n take n",
           {.size = 11});
  double y = 112;
  for (const Tile& tile : layouts.tiles) y = draw_tile(svg, y, tile);
  return svg.document();
}

}  // namespace sagegen::pictures
