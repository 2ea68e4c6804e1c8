#include "templates/decode/cache_tiles.h"

#include <bit>

namespace sagegen::decode {

using namespace dsl;

namespace {

constexpr int kCopy = 16;              // bytes of a lane's copy
constexpr int kWarpCopy = 32 * kCopy;  // of all lanes

}  // namespace

// The exponent of f16 has one bit more, with a bias that is 8 larger: what is behind the sign moves down by a bit.
std::array<I32, 2> f16_of_e4m3(I32 word) {
  const auto of_upper_bytes = [](I32 bytes) {
    return (bytes & static_cast<std::int32_t>(0x80008000u)) | (bytes & 0x7F007F00) >> 1;
  };
  return {of_upper_bytes(word << 8), of_upper_bytes(word)};
}

TokenMask::TokenMask(const DecodeBlock& block, I32 tile)
    : block_(block), first_(tile * block.schedule.tile) {
  for (int half = 0; half < block.row_halves(); ++half) seen_.emplace_back(block, half);
}

Pred TokenMask::sees(int half, int in_block, int parity, int column) const {
  const I32 token = first_ + (16 * in_block + parity + 2 * column) + 4 * block_.lane.quad;
  return seen_[static_cast<std::size_t>(half)].has(token);
}

I32 TokenMask::pair_mask(I32 first, int distance) const {
  KernelBuilder& k = block_.k;
  const I32 none = k.i32(0);
  return k.select(first < block_.tokens, k.i32(0x0000FFFF), none) |
         k.select(first + distance < block_.tokens, k.i32(static_cast<std::int32_t>(0xFFFF0000u)),
                  none);
}

TokenParameters TokenMask::masked(const TokenParameters& parameters, int in_block) const {
  TokenParameters result = parameters;
  const bool k_codes = kv_quantized(block_.spec.k_bits), v_codes = kv_quantized(block_.spec.v_bits);
  for (std::size_t parity = 0; parity < 2; ++parity) {
    const I32 mask = quad_mask(in_block, static_cast<int>(parity));
    if (block_.cache.v_has_zero_point()) result.z_v[parity] = result.z_v[parity] & mask;
    if (v_codes) result.s_v[parity] = result.s_v[parity] & mask;
    if (k_codes) result.s_k[parity] = result.s_k[parity] & mask;
  }
  if (block_.cache.k_has_zero_point())
    result.z_k = result.z_k & pair_mask(first_ + 16 * in_block + 2 * block_.lane.row, 1);
  return result;
}

std::array<I32, 4> TokenMask::masked_v16(const std::array<I32, 4>& words, int in_block) const {
  const I32 even = quad_mask(in_block, 0), odd = quad_mask(in_block, 1);
  return {words[0] & even, words[1] & even, words[2] & odd, words[3] & odd};
}

CacheTile::CacheTile(const DecodeBlock& block, SharedPtr tile)
    : block_(block),
      key_lane_(tile + block.k.lane_idx() * block.cache.k_unit_bytes()),
      value_lane_(tile + block.k.lane_idx() * block.cache.v_unit_bytes()),
      quad_(tile + block.lane.quad * 16),
      pair_(tile + block.lane.quad * 8),
      row_(tile + block.lane.row * 4) {}

std::vector<I32> CacheTile::load(SharedPtr from, int bytes) const {
  KernelBuilder& k = block_.k;
  if (bytes == 16) {
    const auto words = k.load_v4(from);
    return {words.begin(), words.end()};
  }
  if (bytes == 8) {
    const auto words = k.load_v2(from);
    return {words.begin(), words.end()};
  }
  return {k.load<I32>(from)};
}

std::vector<I32> CacheTile::key_words(int in_block, int parity) const {
  const KvBlock& cache = block_.cache;
  const std::int64_t at = std::int64_t{in_block} * cache.bytes();
  if (cache.k_unit_has_both())
    return load(key_lane_ + (at + parity * cache.k_lane_bytes()), cache.k_lane_bytes());
  std::vector<I32> words;
  const int pieces = cache.k_lane_bytes() / 16;  // of a token
  for (int piece = 0; piece < pieces; ++piece) {
    const std::int64_t unit = std::int64_t{kWarpCopy} * (pieces * parity + piece);
    for (const I32 word : load(key_lane_ + (at + unit), 16)) words.push_back(word);
  }
  return words;
}

std::vector<I32> CacheTile::value_words(int in_block, int unit) const {
  const KvBlock& cache = block_.cache;
  const int bytes = cache.v_unit_bytes();
  return load(
      value_lane_ + std::int64_t{in_block * cache.bytes() + cache.v_offset() + 32 * bytes * unit},
      bytes);
}

TokenParameters CacheTile::parameters(int in_block) const {
  KernelBuilder& k = block_.k;
  const KvBlock& cache = block_.cache;
  const bool k_codes = kv_quantized(block_.spec.k_bits), v_codes = kv_quantized(block_.spec.v_bits);
  const std::int64_t at = std::int64_t{in_block} * cache.bytes();
  const bool v_zero_point = cache.v_has_zero_point();
  TokenParameters result;
  if (v_codes && (v_zero_point || k_codes)) {
    const auto quad = k.load_v4(quad_ + (at + (v_zero_point ? cache.z_v(0) : cache.s_v(0))));
    (v_zero_point ? result.z_v : result.s_v) = {quad[0], quad[2]};
    (k_codes ? result.s_k : result.s_v) = {quad[1], quad[3]};
    if (v_zero_point && k_codes) result.s_v = k.load_v2(pair_ + (at + cache.s_v(0)));
  } else if (v_codes) {
    result.s_v = k.load_v2(pair_ + (at + cache.s_v(0)));
  } else if (k_codes) {
    result.s_k = k.load_v2(pair_ + (at + cache.s_k(0)));
  }
  if (cache.k_has_zero_point()) result.z_k = k.load<I32>(row_ + (at + cache.z_k(0)));
  return result;
}

CacheRing::CacheRing(const DecodeBlock& block, const Tiles& tiles, I32 tile)
    : CacheRing(block,
                Source{.last_tile = tiles.end - 1,
                       .first_block = tiles.first_block,
                       .last_block = tiles.last_block,
                       .table = block.p(&Params::page_table) +
                                block.k.to_i64(block.sequence) *
                                    block.k.to_i64(block.p(&Params::max_pages) * 4),
                       .head = block.p(&Params::pool) +
                               block.k.to_i64(block.tile.kv_head) * block.p(&Params::head_stride) +
                               block.k.to_i64(block.k.lane_idx() * kCopy),
                       .warps = block.schedule.warps},
                tile) {}

CacheRing::CacheRing(const DecodeBlock& block, const ExactTokens& tokens, I32 number)
    : CacheRing(
          block,
          [&] {
            const auto p = block.k.params<ExactParams>();
            const I32 columns = tokens.sinks + p(&ExactParams::ring);
            return Source{
                .last_tile = tokens.count - 1,
                .first_block = {},
                .last_block = {},
                .table = p(&ExactParams::table) +
                         block.k.to_i64(block.sequence) * block.k.to_i64(columns * 4),
                .head = p(&ExactParams::pool) +
                        block.k.to_i64(block.tile.kv_head) * p(&ExactParams::head_stride) +
                        block.k.to_i64(block.k.lane_idx() * kCopy),
                .exact = &tokens,
                .warps = kExactWarps};
          }(),
          number) {}

CacheRing::CacheRing(const DecodeBlock& block, const Source& source, I32 tile)
    : block_(block),
      source_(source),
      ring_(block.shared + block.warp * (block.schedule.stages * tile_bytes())),
      ring_lane_(ring_ + block.k.lane_idx() * kCopy),
      to_copy_(block.k.var(tile)),
      filled_(block.k.var(block.k.i32(0))),
      read_(block.k.var(block.k.i32(0))) {
  for (int i = 0; i < block.schedule.lookups; ++i)
    found_.push_back({block.k.var(block.k.i32(0)), block.k.var(block.k.i32(0))});
  look_up();
  for (int stage = 1; stage < block.schedule.stages; ++stage) copy();
}

// Behind the last tile, and in it behind the last block, there is nothing to copy: the last one again, which is at hand.
void CacheRing::look_up() {
  KernelBuilder& k = block_.k;
  const auto& p = block_.p;
  if (source_.exact != nullptr) {
    const I32 place = source_.exact->place_of(k.min(to_copy_.get(), source_.last_tile));
    found_[0].page = k.load<I32>(source_.table + k.to_i64_unsigned(place) * std::int64_t{4});
    return;
  }
  const I32 first = k.min(to_copy_.get(), source_.last_tile) * tile_blocks(block_.schedule);
  for (std::size_t i = 0; i < found_.size(); ++i) {
    I32 index = i == 0 ? first : k.min(first + static_cast<int>(i), source_.last_block);
    // Pages before the window may be gone.
    if (block_.spec.window && found_.size() > 1) index = k.max(index, source_.first_block);
    const I32 page = quotient(k, index, p(&Params::page_reciprocal));
    found_[i].block = index - page * p(&Params::blocks_per_page);
    found_[i].page = k.load<I32>(source_.table + k.to_i64_unsigned(page) * std::int64_t{4});
  }
}

GlobalPtr CacheRing::block_of(std::size_t lookup) const {
  KernelBuilder& k = block_.k;
  const auto bytes = [&](const Var<I32>& count, std::int32_t Params::*stride) {
    return k.to_i64_unsigned(count.get()) * k.to_i64_unsigned(block_.p(stride));
  };
  if (source_.exact != nullptr) {
    const auto p = k.params<ExactParams>();
    return source_.head + k.to_i64_unsigned(found_[lookup].page.get()) *
                              k.to_i64_unsigned(p(&ExactParams::block_stride));
  }
  return source_.head + bytes(found_[lookup].page, &Params::page_stride) +
         bytes(found_[lookup].block, &Params::block_stride);
}

void CacheRing::copy() {
  KernelBuilder& k = block_.k;
  const int bytes = block_.cache.bytes();
  const SharedPtr slot = ring_lane_ + filled_.get();
  GlobalPtr from;
  for (int i = 0; i < tile_blocks(block_.schedule); ++i) {
    if (i < block_.schedule.lookups) {
      from = block_of(static_cast<std::size_t>(i));
    } else {
      from = from + k.to_i64_unsigned(block_.p(&Params::block_stride));
    }
    for (int at = 0; at < bytes; at += kWarpCopy) {
      const int lanes = (bytes - at) / kCopy;
      k.if_(lanes < 32 ? k.lane_idx() < lanes : k.pred(true),
            [&] { k.cp_async_16(slot + std::int64_t{i * bytes + at}, from + std::int64_t{at}); });
    }
  }
  k.cp_async_commit();
  advance(filled_);
  to_copy_ = to_copy_.get() + source_.warps;
  look_up();
}

void CacheRing::advance(const Var<I32>& slot) const {
  KernelBuilder& k = block_.k;
  const I32 next = slot.get() + tile_bytes();
  slot = k.select(next == block_.schedule.stages * tile_bytes(), k.i32(0), next);
}

// The slot that is filled is the one that was read last: all lanes have read it before they meet here.
CacheTile CacheRing::next(bool go_on) {
  KernelBuilder& k = block_.k;
  k.cp_async_wait(block_.schedule.stages - 2);
  k.warp_barrier();
  if (go_on) copy();
  const CacheTile tile(block_, ring_ + read_.get());
  advance(read_);
  return tile;
}

}  // namespace sagegen::decode
