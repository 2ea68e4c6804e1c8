#include "runtime/emulator/exec/slots.h"

#include <algorithm>
#include <queue>

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

// Lives of the registers that the body names, numbered densely: texts may declare millions.
std::vector<Life> find_lives(const SlotRequest& request, const ptx::ControlFlow& flow) {
  constexpr std::uint32_t kUnused = 0xffff'ffff;
  std::vector<std::uint32_t> dense(request.size.size(), kUnused);
  std::vector<Life> lives;
  for (const auto& uses : request.uses) {
    for (const RegisterUse& use : uses) {
      if (dense[use.id] != kUnused) continue;
      dense[use.id] = static_cast<std::uint32_t>(lives.size());
      lives.push_back({.id = use.id});
    }
  }
  std::size_t registers = lives.size();
  std::size_t blocks = flow.blocks.size();
  std::vector<BitSet> live_in(blocks, BitSet(registers));
  std::vector<BitSet> generated(blocks, BitSet(registers)), killed(blocks, BitSet(registers));
  for (std::size_t b = 0; b < blocks; ++b) {
    for (int i = flow.blocks[b].first; i < flow.blocks[b].end; ++i) {
      for (const RegisterUse& use : request.uses[i]) {
        if (!use.written && !killed[b].test(dense[use.id])) generated[b].set(dense[use.id]);
      }
      for (const RegisterUse& use : request.uses[i]) {
        if (use.written && !request.guarded[i]) killed[b].set(dense[use.id]);
      }
    }
  }
  auto live_out = [&](std::size_t b) {
    BitSet out(registers);
    for (int s : flow.blocks[b].successors) {
      if (s != flow.exit_block()) out.merge(live_in[s]);
    }
    return out;
  };
  for (bool changed = true; changed;) {
    changed = false;
    for (std::size_t b = blocks; b-- > 0;) {
      changed |= live_in[b].absorb(live_out(b), killed[b], generated[b]);
    }
  }

  for (std::size_t b = 0; b < blocks; ++b) {
    const ptx::BasicBlock& block = flow.blocks[b];
    if (block.first == block.end) continue;
    live_in[b].for_each([&](std::size_t id) { lives[id].include(block.first); });
    live_out(b).for_each([&](std::size_t id) { lives[id].include(block.end - 1); });
    for (int i = block.first; i < block.end; ++i) {
      for (const RegisterUse& use : request.uses[i]) lives[dense[use.id]].include(i);
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
  for (const Life& life : find_lives(request, flow)) {
    if (life.empty() || request.size[life.id] == 0) continue;
    (request.size[life.id] == 2 ? paired : single).push_back(life);
  }
  SlotAssignment result;
  result.row.assign(request.size.size(), 0);
  std::uint32_t singles = scan(single, result.row);
  std::uint32_t pairs = scan(paired, result.row);
  for (const Life& life : paired) result.row[life.id] = singles + 2 * result.row[life.id];
  result.rows = singles + 2 * pairs;
  return result;
}

}  // namespace sagegen::emulator
