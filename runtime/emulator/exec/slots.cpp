#include "runtime/emulator/exec/slots.h"

#include <fmt/format.h>

#include <algorithm>
#include <queue>

#include "runtime/emulator/ptx/module.h"

namespace sagegen::emulator {
namespace {

class BitSet {
 public:
  explicit BitSet(std::size_t bits) : words_((bits + 63) / 64) {}
  bool test(std::size_t i) const { return (words_[i / 64] >> (i % 64) & 1) != 0; }
  void set(std::size_t i) { words_[i / 64] |= std::uint64_t{1} << (i % 64); }
  // this |= (in & ~killed) | generated; true if that changed anything.
  bool absorb(const BitSet& in, const BitSet& killed, const BitSet& generated) {
    std::uint64_t changed = 0;
    for (std::size_t w = 0; w < words_.size(); ++w) {
      std::uint64_t next = words_[w] | (in.words_[w] & ~killed.words_[w]) | generated.words_[w];
      changed |= next ^ words_[w];
      words_[w] = next;
    }
    return changed != 0;
  }
  void merge(const BitSet& other) {
    for (std::size_t w = 0; w < words_.size(); ++w) words_[w] |= other.words_[w];
  }
  template <class F>
  void for_each(F&& f) const {
    for (std::size_t w = 0; w < words_.size(); ++w) {
      for (std::uint64_t bits = words_[w]; bits != 0; bits &= bits - 1) {
        f(w * 64 + static_cast<std::size_t>(__builtin_ctzll(bits)));
      }
    }
  }

 private:
  std::vector<std::uint64_t> words_;
};

// The hull of a register's life, in body order; inclusive, so that no destination of an instruction
// shares a row with one of its sources.
struct Life {
  std::uint32_t id = 0;
  int first = 0, last = -1;
  bool empty() const { return last < first; }
  void include(int at) {
    if (empty()) {
      first = last = at;
    } else {
      first = std::min(first, at);
      last = std::max(last, at);
    }
  }
};

constexpr std::uint32_t kUnused = 0xffff'ffff;  // a virtual register that the body does not name

// What flows between blocks: the registers that some block reads before it writes them.
class LiveBlocks {
 public:
  // `number`: per virtual register, its place among all that the body names.
  LiveBlocks(const SlotRequest& request, const ptx::ControlFlow& flow,
             const std::vector<std::uint32_t>& number, std::size_t registers)
      : flow_(flow), blocks_(flow.blocks.size()), bit_(registers, kNoBit) {
    std::vector<std::size_t> written(registers, blocks_);  // in which block last
    std::vector<const Births*> births(request.uses.size(), nullptr);
    for (const Births& each : request.births) births[static_cast<std::size_t>(each.at)] = &each;
    const auto visit = [&](const auto& read, const auto& write) {
      for (std::size_t b = 0; b < blocks_; ++b) {
        for (int i = flow.blocks[b].first; i < flow.blocks[b].end; ++i) {
          if (const Births* born = births[static_cast<std::size_t>(i)]; born != nullptr) {
            for (const std::uint32_t id : born->ids) {
              if (number[id] == kUnused) continue;
              written[number[id]] = b;
              write(b, number[id]);
            }
          }
          for (const RegisterUse& use : request.uses[i]) {
            if (!use.written && written[number[use.id]] != b) read(b, number[use.id]);
          }
          for (const RegisterUse& use : request.uses[i]) {
            if (!use.written || request.guarded[i]) continue;
            written[number[use.id]] = b;
            write(b, number[use.id]);
          }
        }
      }
      std::fill(written.begin(), written.end(), blocks_);
    };
    visit(
        [&](std::size_t, std::uint32_t reg) {
          if (bit_[reg] != kNoBit) return;
          bit_[reg] = register_.size();
          register_.push_back(reg);
        },
        [](std::size_t, std::uint32_t) {});
    words_ = (register_.size() + 63) / 64;
    if (words_ * blocks_ > kMaxWords) refuse(request.line);
    in_.assign(blocks_, BitSet(register_.size()));
    generated_ = killed_ = in_;
    visit([&](std::size_t b, std::uint32_t reg) { generated_[b].set(bit_[reg]); },
          [&](std::size_t b, std::uint32_t reg) {
            if (bit_[reg] != kNoBit) killed_[b].set(bit_[reg]);
          });
    spread(request.line);
  }

  // Calls f(register) for what is live where a block begins and where it ends.
  template <class F>
  void for_each_in(std::size_t block, F&& f) const {
    in_[block].for_each([&](std::size_t bit) { f(register_[bit]); });
  }
  template <class F>
  void for_each_out(std::size_t block, F&& f) const {
    out(block).for_each([&](std::size_t bit) { f(register_[bit]); });
  }

 private:
  static constexpr std::size_t kNoBit = ~std::size_t{0};
  static constexpr std::size_t kMaxWords = std::size_t{1} << 24;
  static constexpr std::size_t kMaxWork = std::size_t{1} << 31;  // words looked at

  [[noreturn]] void refuse(int line) const {
    throw ptx::ParseError(line, fmt::format("{} registers live across {} basic blocks, too many to "
                                            "analyze; split the function",
                                            register_.size(), blocks_));
  }

  BitSet out(std::size_t b) const {
    BitSet live(register_.size());
    for (int s : flow_.blocks[b].successors) {
      if (s != flow_.exit_block()) live.merge(in_[static_cast<std::size_t>(s)]);
    }
    return live;
  }

  // From the last block to the first, and again those whose successors have changed.
  void spread(int line) {
    std::vector<std::vector<std::size_t>> previous(blocks_);
    std::queue<std::size_t> waiting;
    std::vector<bool> is_waiting(blocks_, true);
    for (std::size_t b = blocks_; b-- > 0;) {
      waiting.push(b);
      for (int s : flow_.blocks[b].successors) {
        if (s != flow_.exit_block()) previous[static_cast<std::size_t>(s)].push_back(b);
      }
    }
    for (std::size_t work = 0; !waiting.empty(); waiting.pop()) {
      const std::size_t b = waiting.front();
      is_waiting[b] = false;
      work += words_ * (2 + flow_.blocks[b].successors.size());
      if (work > kMaxWork) refuse(line);
      if (!in_[b].absorb(out(b), killed_[b], generated_[b])) continue;
      for (std::size_t before : previous[b]) {
        if (is_waiting[before]) continue;
        is_waiting[before] = true;
        waiting.push(before);
      }
    }
  }

  const ptx::ControlFlow& flow_;
  std::size_t blocks_;
  std::vector<std::size_t> bit_;         // per register
  std::vector<std::uint32_t> register_;  // per bit
  std::size_t words_ = 0;                // of one set
  std::vector<BitSet> in_, generated_, killed_;
};

// Lives of the registers that the body names, numbered densely: texts may declare millions.
// `unwritten`: see SlotAssignment.
std::vector<Life> find_lives(const SlotRequest& request, const ptx::ControlFlow& flow,
                             std::vector<std::vector<std::uint32_t>>& unwritten) {
  std::vector<std::uint32_t> dense(request.size.size(), kUnused);
  std::vector<Life> lives;
  for (const auto& uses : request.uses) {
    for (const RegisterUse& use : uses) {
      if (dense[use.id] != kUnused) continue;
      dense[use.id] = static_cast<std::uint32_t>(lives.size());
      lives.push_back({.id = use.id});
    }
  }
  const LiveBlocks live(request, flow, dense, lives.size());
  for (std::size_t b = 0; b < flow.blocks.size(); ++b) {
    const ptx::BasicBlock& block = flow.blocks[b];
    if (block.first == block.end) continue;
    live.for_each_in(b, [&](std::size_t id) { lives[id].include(block.first); });
    live.for_each_out(b, [&](std::size_t id) { lives[id].include(block.end - 1); });
    for (int i = block.first; i < block.end; ++i) {
      for (const RegisterUse& use : request.uses[i]) lives[dense[use.id]].include(i);
    }
  }
  // Is a register born here read first, in the rest of the block or behind it? Numbers of births, from 1.
  std::vector<std::size_t> read(lives.size()), written(lives.size()), behind(lives.size());
  for (const Births& each : request.births) {
    const std::size_t number = unwritten.size() + 1;
    const auto b = static_cast<std::size_t>(flow.block_of[static_cast<std::size_t>(each.at)]);
    int last = each.at;
    for (const std::uint32_t id : each.ids) {
      if (dense[id] != kUnused) last = std::max(last, lives[dense[id]].last);
    }
    if (last >= flow.blocks[b].end - 1) {
      live.for_each_out(b, [&](std::size_t id) { behind[id] = number; });
    }
    for (int i = each.at + 1; i <= std::min(last, flow.blocks[b].end - 1); ++i) {
      for (const RegisterUse& use : request.uses[i]) {
        if (!use.written && written[dense[use.id]] != number) read[dense[use.id]] = number;
      }
      for (const RegisterUse& use : request.uses[i]) {
        if (use.written && !request.guarded[i]) written[dense[use.id]] = number;
      }
    }
    std::vector<std::uint32_t>& found = unwritten.emplace_back();
    for (const std::uint32_t id : each.ids) {
      const std::uint32_t at = dense[id];
      if (at == kUnused) continue;
      if (read[at] != number && (behind[at] != number || written[at] == number)) continue;
      lives[at].include(each.at);
      found.push_back(id);
    }
  }
  return lives;
}

// Linear scan over lives sorted by their start; returns how many slots were needed.
std::uint32_t scan(std::vector<Life> lives, std::vector<std::uint32_t>& slot) {
  std::sort(lives.begin(), lives.end(), [](const Life& a, const Life& b) {
    return a.first != b.first ? a.first < b.first : a.id < b.id;
  });
  using Busy = std::pair<int, std::uint32_t>;  // last use, slot
  std::priority_queue<Busy, std::vector<Busy>, std::greater<>> busy;
  std::priority_queue<std::uint32_t, std::vector<std::uint32_t>, std::greater<>> free;
  std::uint32_t slots = 0;
  for (const Life& life : lives) {
    while (!busy.empty() && busy.top().first < life.first) {
      free.push(busy.top().second);
      busy.pop();
    }
    std::uint32_t chosen = slots;
    if (free.empty()) {
      ++slots;
    } else {
      chosen = free.top();
      free.pop();
    }
    slot[life.id] = chosen;
    busy.emplace(life.last, chosen);
  }
  return slots;
}

}  // namespace

SlotAssignment assign_slots(const SlotRequest& request, const ptx::ControlFlow& flow) {
  std::vector<Life> single, paired;
  SlotAssignment result;
  for (const Life& life : find_lives(request, flow, result.unwritten)) {
    if (life.empty() || request.size[life.id] == 0) continue;
    (request.size[life.id] == 2 ? paired : single).push_back(life);
  }
  result.row.assign(request.size.size(), 0);
  std::uint32_t singles = scan(single, result.row);
  std::uint32_t pairs = scan(paired, result.row);
  for (const Life& life : paired) result.row[life.id] = singles + 2 * result.row[life.id];
  result.rows = singles + 2 * pairs;
  return result;
}

}  // namespace sagegen::emulator
