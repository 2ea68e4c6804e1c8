#include "tools/pictures/measure/tiles.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace sagegen::pictures {

using dsl::kChunkBytes;

namespace {

// What a launch of a tile probe leaves.
struct TileRun {
  Bytes memory;
  Words results;
};
TileRun run_tile(const runtime::Device& device, const ParamLayout& layout, const Probe& probe,
                 int tile_bytes, const Bytes& source, std::int64_t thread_stride) {
  const runtime::Buffer from = upload(device, source);
  const runtime::Buffer memory(device, static_cast<std::size_t>(tile_bytes));
  const runtime::Buffer results(device,
                                static_cast<std::size_t>(probe.values * probe.sizes.threads) * 4);
  ParamPack params(layout);
  params.set(ProbeParams{.source = from.data(),
                         .thread_stride = thread_stride,
                         .memory = memory.data(),
                         .results = results.data()});
  launch(device, probe, params);
  return {.memory = download<std::uint8_t>(memory), .results = download<std::uint32_t>(results)};
}

// Passes of a copy follow each other through the tile: a thread's n-th chunk is that of the n-th pass in which its warp
// takes part.
Access copies_of(const MeasuredTile& tile) {
  std::vector<std::vector<int>> of_thread(static_cast<std::size_t>(tile.threads));
  for (std::size_t chunk = 0; chunk < tile.copied_by.size(); ++chunk) {
    of_thread[static_cast<std::size_t>(tile.copied_by[chunk])].push_back(static_cast<int>(chunk) *
                                                                         kChunkBytes);
  }
  Access access{.name = "cp.async", .requests = {}};
  for (int warp = 0; warp < tile.threads / kLanes; ++warp) {
    const std::size_t passes = of_thread[static_cast<std::size_t>(warp * kLanes)].size();
    for (std::size_t pass = 0; pass < passes; ++pass) {
      Request request{};
      for (int lane = 0; lane < kLanes; ++lane) {
        const auto& mine = of_thread[static_cast<std::size_t>(warp * kLanes + lane)];
        require(mine.size() == passes, "lanes of a warp copy unequal numbers of chunks");
        request[static_cast<std::size_t>(lane)] = mine[pass];
      }
      access.requests.push_back(request);
    }
  }
  return access;
}

// ldmatrix.x4 gives register m of the lanes 4 r .. 4 r + 3 row r of matrix m, whose address is that of lane 8 m + r;
// transposed, the lanes r / 2, r / 2 + 4, ... have it in their half r mod 2. Source: PTX ISA, ldmatrix. So what the
// lanes hold tells the addresses.
Access loads_of(const MeasuredTile& tile, bool transposed) {
  Access access{.name = transposed ? "ldmatrix.trans" : "ldmatrix", .requests = {}};
  const auto place = [&](int value, int thread, int part) {
    return tile.place[static_cast<std::size_t>(tile.byte(value, thread, part))];
  };
  for (int warp = 0; warp < tile.threads / kLanes; ++warp) {
    for (int first = 0; first < tile.values; first += 4) {
      Request request{};
      for (int matrix = 0; matrix < 4; ++matrix) {
        for (int row = 0; row < 8; ++row) {
          int address = 0;
          for (int byte = 0; byte < kChunkBytes; ++byte) {
            const int lane = transposed ? byte / 2 * 4 + row / 2 : 4 * row + byte / 4;
            const int part = transposed ? row % 2 * 2 + byte % 2 : byte % 4;
            const int at = place(first + matrix, warp * kLanes + lane, part);
            if (byte == 0) address = at;
            require(at == address + byte && address % kChunkBytes == 0,
                    "lanes hold no rows of matrices");
          }
          request[static_cast<std::size_t>(8 * matrix + row)] = address;
        }
      }
      access.requests.push_back(request);
    }
  }
  return access;
}

}  // namespace

MeasuredTile measure_tile(const runtime::Device& device, const Kernel& kernel, TileName name) {
  const Probe probe = tile_probe(kernel, name);
  const ParamLayout params = probe_layout(kernel);
  MeasuredTile tile{.layout = probe.sizes.layouts[static_cast<std::size_t>(name)],
                    .threads = probe.sizes.threads,
                    .values = probe.values,
                    .place = {},
                    .loaded = {},
                    .copied_by = {}};
  const int bytes = tile.layout.bytes();

  // Every byte says which one it is; tiles have less than 64 KiB. First the lower half of its number, then the upper one.
  std::vector<int> lies(static_cast<std::size_t>(bytes), 0);  // by byte of the shared memory
  tile.loaded.assign(static_cast<std::size_t>(tile.values * tile.threads) * 4, 0);
  for (const int shift : {0, 8}) {
    Bytes source(static_cast<std::size_t>(bytes));
    for (int i = 0; i < bytes; ++i)
      source[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(i >> shift);
    const TileRun run = run_tile(device, params, probe, bytes, source, 0);
    for (std::size_t i = 0; i < lies.size(); ++i) lies[i] |= run.memory[i] << shift;
    for (std::size_t i = 0; i < run.results.size(); ++i) {
      for (std::size_t part = 0; part < 4; ++part) {
        const auto value = static_cast<int>(run.results[i] >> (8 * part) & 0xFF);
        tile.loaded[4 * i + part] |= value << shift;
      }
    }
  }
  tile.place.assign(static_cast<std::size_t>(bytes), -1);
  for (std::size_t i = 0; i < lies.size(); ++i) {
    require(lies[i] < bytes, "shared memory has a byte that is none of the tile");
    tile.place[static_cast<std::size_t>(lies[i])] = static_cast<int>(i);
  }
  require(std::find(tile.place.begin(), tile.place.end(), -1) == tile.place.end(),
          "a byte of a tile does not arrive in shared memory");

  // Every thread copies from a tile of its own, whose chunks say whose they are.
  Words source(static_cast<std::size_t>(tile.threads) * static_cast<std::size_t>(bytes) / 4);
  for (std::size_t i = 0; i < source.size(); ++i)
    source[i] = static_cast<std::uint32_t>(i / (static_cast<std::size_t>(bytes) / 4));
  Bytes as_bytes(source.size() * 4);
  std::memcpy(as_bytes.data(), source.data(), as_bytes.size());
  const TileRun run = run_tile(device, params, probe, bytes, as_bytes, bytes);
  for (int chunk = 0; chunk < bytes / kChunkBytes; ++chunk) {
    std::uint32_t thread = 0;
    std::memcpy(&thread, run.memory.data() + chunk * kChunkBytes, sizeof(thread));
    require(thread < static_cast<std::uint32_t>(tile.threads), "a chunk is copied by no thread");
    tile.copied_by.push_back(static_cast<int>(thread));
  }
  return tile;
}

Tile drawn_tile(const MeasuredTile& tile, std::string name, DType type, std::string row_name,
                bool transposed) {
  Tile result{.name = std::move(name),
              .type = type,
              .row_name = std::move(row_name),
              .rows = tile.layout.rows,
              .row_bytes = tile.layout.row_bytes,
              .panel_bytes = tile.layout.panel_bytes,
              .places = {},
              .accesses = {copies_of(tile), loads_of(tile, transposed)}};
  for (std::size_t byte = 0; byte < tile.place.size(); byte += kChunkBytes)
    result.places.push_back(tile.place[byte]);
  return result;
}

}  // namespace sagegen::pictures
