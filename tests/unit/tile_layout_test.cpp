// Where tiles put their chunks in shared memory: every chunk has its own place, and no access pattern
// of the templates meets a bank twice. The layout functions are those that the kernels are built with.
#include <algorithm>
#include <catch2/catch.hpp>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "sagegen/dsl/tile.h"
#include "templates/shared/quantization.h"

using namespace sagegen;
using dsl::kBankBytes;
using dsl::kChunkBytes;
using dsl::TileLayout;

namespace {

struct Case {
  std::string name;
  TileLayout layout;
};

// The tiles of every schedule that the rules allow, by what reads them.
std::vector<Case> cases() {
  std::vector<Case> all;
  for (const int head_dim : head_dims().allowed) {
    const std::string d = ", head_dim " + std::to_string(head_dim);
    for (const int rows : {16, 32, 64, 128, 256}) {
      const std::string n = std::to_string(rows) + " rows" + d;
      const int int8 = code_row_bytes(DType::s8, head_dim),
                int4 = code_row_bytes(DType::s4, head_dim), values = value_channels(head_dim);
      all.push_back({"queries, " + n, {rows, int8, dsl::OperandA::kPanelBytes}});
      all.push_back({"INT4 queries, " + n, {rows, int4, dsl::OperandA::kPanelBytes}});
      all.push_back({"output, " + n, {rows, output_row_bytes(head_dim), kBankBytes}});
      if (rows < 32) continue;
      all.push_back({"keys, " + n, dsl::OperandB::layout(DType::s8, rows, int8)});
      all.push_back({"INT4 keys, " + n, dsl::OperandB::layout(DType::s4, rows, int4)});
      all.push_back({"f16 values, " + n, dsl::OperandV::layout(DType::f16, rows, values)});
      if (rows < 64) continue;
      all.push_back({"e4m3 values, " + n, dsl::OperandV::layout(DType::e4m3, rows, values)});
    }
  }
  return all;
}

int chunks(const TileLayout& layout) { return layout.row_bytes / kChunkBytes; }

// Wavefronts of one access: how often the busiest of the 32 banks is met. addresses: one per lane, each
// of `bytes` bytes.
int wavefronts(const std::vector<int>& addresses, int bytes) {
  std::vector<std::set<int>> lines(32);  // by bank, the 128-byte lines that are asked of it
  for (const int address : addresses) {
    for (int word = address / 4; word < (address + bytes) / 4; ++word) {
      lines[static_cast<std::size_t>(word % 32)].insert(word / 32);
    }
  }
  std::size_t most = 0;
  for (const auto& line : lines) most = std::max(most, line.size());
  return static_cast<int>(most);
}

// The worst ldmatrix of a layout: eight rows, one after the other, at one chunk column.
int worst_matrix(const TileLayout& layout, const std::function<int(int, int)>& offset) {
  int worst = 0;
  for (int row = 0; row < layout.rows; row += 8) {
    for (int chunk = 0; chunk < chunks(layout); ++chunk) {
      std::vector<int> addresses;
      for (int r = 0; r < 8; ++r) addresses.push_back(offset(row + r, chunk));
      worst = std::max(worst, wavefronts(addresses, kChunkBytes));
    }
  }
  return worst;
}

}  // namespace

TEST_CASE("every chunk of a tile has a place of its own") {
  for (const auto& [name, layout] : cases()) {
    INFO(name);
    std::set<int> places;
    for (int row = 0; row < layout.rows; ++row) {
      for (int chunk = 0; chunk < chunks(layout); ++chunk) {
        const int place = layout.offset(row, chunk);
        CHECK(place % kChunkBytes == 0);
        CHECK(place >= 0);
        CHECK(place < layout.bytes());
        places.insert(place);
      }
    }
    CHECK(static_cast<int>(places.size()) == layout.bytes() / kChunkBytes);
  }
}

TEST_CASE("the eight rows of an ldmatrix matrix meet every bank once") {
  for (const auto& [name, layout] : cases()) {
    INFO(name);
    CHECK(worst_matrix(layout, [&](int row, int chunk) { return layout.offset(row, chunk); }) == 1);
  }
  // Without the swizzle they do not: rows of 64 bytes meet every bank four times, of 128 eight times.
  const TileLayout keys{64, 64, 64}, wide{64, 128, 128};
  CHECK(worst_matrix(keys, [](int row, int chunk) { return row * 64 + chunk * 16; }) == 4);
  CHECK(worst_matrix(wide, [](int row, int chunk) { return row * 128 + chunk * 16; }) == 8);
}

TEST_CASE("eight neighbouring lanes of a cp.async write every bank once") {
  for (const auto& [name, layout] : cases()) {
    INFO(name);
    // Threads take the chunks of a panel row by row, panel by panel.
    std::vector<int> in_order;
    for (int panel = 0; panel < layout.row_bytes / layout.panel_bytes; ++panel) {
      for (int row = 0; row < layout.rows; ++row) {
        for (int c = 0; c < layout.chunks_per_row(); ++c) {
          in_order.push_back(layout.offset(row, panel * layout.chunks_per_row() + c));
        }
      }
    }
    for (std::size_t lane = 0; lane < in_order.size(); lane += 8) {
      const std::vector<int> eight(in_order.begin() + static_cast<std::ptrdiff_t>(lane),
                                   in_order.begin() + static_cast<std::ptrdiff_t>(lane + 8));
      CHECK(wavefronts(eight, kChunkBytes) == 1);
    }
  }
}

TEST_CASE("a warp that stores accumulators, four bytes a lane, meets every bank once") {
  for (const auto& [name, layout] : cases()) {
    INFO(name);
    for (int chunk = 0; chunk < chunks(layout); ++chunk) {
      std::vector<int> addresses;
      for (int lane = 0; lane < 32; ++lane) {
        addresses.push_back(layout.offset(lane / 4, chunk) + 4 * (lane % 4));
      }
      CHECK(wavefronts(addresses, 4) == 1);
    }
  }
}

TEST_CASE("whole blocks of 8 rows and whole panels are a constant away") {
  for (const auto& [name, layout] : cases()) {
    INFO(name);
    const int panel = layout.chunks_per_row();
    for (int row = 0; row < layout.rows; ++row) {
      for (int chunk = 0; chunk < chunks(layout); ++chunk) {
        const int first_row = row / 8 * 8, first_chunk = chunk / panel * panel;
        CHECK(layout.offset(row, chunk) ==
              layout.offset(first_row, first_chunk) + layout.offset(row % 8, chunk % panel));
      }
    }
  }
}
