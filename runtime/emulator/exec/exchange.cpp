// Exchanges between the lanes of a warp: shfl, vote, match, redux, elect, activemask. Members that have
// exited, or never were because the block ends inside the warp, take no part; a value that shfl reads from
// one of them, or from a lane that is no member, is undefined.

#include <algorithm>

#include "runtime/emulator/exec/definedness.h"
#include "runtime/emulator/exec/forms.h"
#include "runtime/emulator/exec/warp.h"

namespace sagegen::emulator {
namespace {

// False if the lanes have to wait for others.
template <bool kChecked>
bool members_of(Warp& w, const Op& op, std::uint16_t row, std::uint32_t mask) {
  if constexpr (kChecked) require_defined(w, op, row, mask, "member mask");
  return gather_members(w, op, row, mask);
}

// shfl.sync d|p, a, b, c, members
template <bool kChecked, Shuffle kMode>
void shuffle(Warp& w, const Op& op, std::uint32_t mask) {
  if (!members_of<kChecked>(w, op, op.r[5], mask)) return;
  std::uint32_t* d = row32(w, op.r[0]);
  const std::uint32_t* a = row32(w, op.r[2]);
  const std::uint32_t* b = row32(w, op.r[3]);
  const std::uint32_t* c = row32(w, op.r[4]);
  const std::uint32_t* members = row32(w, op.r[5]);
  std::uint32_t result[kLanes];
  std::uint32_t valid = 0, defined = 0;
  std::uint64_t undefined[kLanes] = {};
  std::uint32_t a_defined = kFullMask;
  if constexpr (kChecked) {
    a_defined = defined_row(w, op.r[2]);
    require_defined(w, op, op.r[3], mask, "source lane");
    require_defined(w, op, op.r[4], mask, "clamp and segment mask");
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    int segment = static_cast<int>(c[lane] >> 8 & 31);
    int clamp = static_cast<int>(c[lane] & 31);
    int distance = static_cast<int>(b[lane] & 31);
    int min_lane = lane & segment;
    int max_lane = min_lane | (clamp & ~segment);
    int source = 0;
    bool in_range = false;
    switch (kMode) {
      case Shuffle::up:
        source = lane - distance;
        in_range = source >= max_lane;
        break;
      case Shuffle::down:
        source = lane + distance;
        in_range = source <= max_lane;
        break;
      case Shuffle::bfly:
        source = lane ^ distance;
        in_range = source <= max_lane;
        break;
      case Shuffle::idx:
        source = min_lane | (distance & ~segment);
        in_range = source <= max_lane;
        break;
    }
    if (!in_range) source = lane;
    source &= 31;
    const std::uint32_t group = members[lane] & mask;
    const bool absent = (group >> source & 1) == 0;
    result[lane] = absent ? kFullMask : a[source];
    valid |= static_cast<std::uint32_t>(in_range) << lane;
    defined |= ((a_defined & group) >> source & 1) << lane;
    if constexpr (kChecked) {
      if (absent) {
        undefined[lane] = kFullMask;
      } else if ((a_defined >> source & 1) == 0) {
        undefined[lane] = undefined_bits(w, op.r[2], 4, source);
      }
    }
  }
  if (mask == kFullMask) {
    std::copy(result, result + kLanes, d);
  } else {
    for_lanes(mask, [&](int lane) { d[lane] = result[lane]; });
  }
  set_predicate(w, op.r[1], valid, mask);
  if constexpr (kChecked) {
    set_defined_row(w, op.r[0], defined, mask);
    for_lanes(mask & ~defined,
              [&](int lane) { set_undefined_bits(w, op.r[0], 4, lane, undefined[lane]); });
    set_defined_predicate(w, op.r[1], kFullMask, mask);
  }
}

enum class Vote : std::uint32_t { all, any, uni, ballot };

// vote.sync d, p, members. Members of different groups vote apart.
template <bool kChecked, Vote kMode>
void vote(Warp& w, const Op& op, std::uint32_t mask) {
  if (!members_of<kChecked>(w, op, op.r[2], mask)) return;
  std::uint32_t p = predicate_operand(w, op, 1);
  const std::uint32_t* members = row32(w, op.r[2]);
  std::uint32_t p_defined = kFullMask;
  if constexpr (kChecked) p_defined = defined_predicate(w, op.r[1]);
  std::uint32_t result = 0, defined = 0;
  std::uint32_t undefined[kLanes];
  for_lanes(mask, [&](int lane) {
    std::uint32_t group = members[lane] & mask;
    std::uint32_t yes = p & group;
    bool holds = kMode == Vote::all   ? yes == group
                 : kMode == Vote::any ? yes != 0
                                      : yes == 0 || yes == group;
    if constexpr (kMode == Vote::ballot) {
      row32(w, op.r[0])[lane] = yes;
    } else {
      result |= static_cast<std::uint32_t>(holds) << lane;
    }
    // One vote can decide, whatever the others are.
    const std::uint32_t known = group & p_defined;
    undefined[lane] = group & ~p_defined;
    const bool one_holds = (known & p) != 0, one_fails = (known & ~p) != 0;
    const bool decided = known == group || (kMode == Vote::all && one_fails) ||
                         (kMode == Vote::any && one_holds) ||
                         (kMode == Vote::uni && one_holds && one_fails);
    defined |= static_cast<std::uint32_t>(decided) << lane;
  });
  if constexpr (kMode != Vote::ballot) set_predicate(w, op.r[0], result, mask);
  if constexpr (kChecked) {
    if constexpr (kMode == Vote::ballot) {
      for_lanes(mask, [&](int lane) { set_undefined_bits(w, op.r[0], 4, lane, undefined[lane]); });
    } else {
      set_defined_predicate(w, op.r[0], defined, mask);
    }
  }
}

template <bool kChecked, bool kWide>
std::uint64_t lane_value(const Warp& w, std::uint16_t row, int lane) {
  return kWide ? row64(w, row)[lane] : std::uint64_t{row32(w, row)[lane]};
}

// match.any d, a, members: the members whose value is the same as this lane's.
template <bool kChecked, bool kWide>
void match_any(Warp& w, const Op& op, std::uint32_t mask) {
  if (!members_of<kChecked>(w, op, op.r[2], mask)) return;
  if constexpr (kChecked) require_defined(w, op, op.r[1], mask, "value to match");
  std::uint32_t result[kLanes];
  for_lanes(mask, [&](int lane) {
    result[lane] = 0;
    for_lanes(row32(w, op.r[2])[lane] & mask, [&](int other) {
      bool same = lane_value<kChecked, kWide>(w, op.r[1], lane) ==
                  lane_value<kChecked, kWide>(w, op.r[1], other);
      result[lane] |= static_cast<std::uint32_t>(same) << other;
    });
  });
  for_lanes(mask, [&](int lane) { row32(w, op.r[0])[lane] = result[lane]; });
  if constexpr (kChecked) set_defined_row(w, op.r[0], kFullMask, mask);
}

// match.all d|p, a, members: the members if all have one value, otherwise 0.
template <bool kChecked, bool kWide>
void match_all(Warp& w, const Op& op, std::uint32_t mask) {
  if (!members_of<kChecked>(w, op, op.r[3], mask)) return;
  if constexpr (kChecked) require_defined(w, op, op.r[2], mask, "value to match");
  std::uint32_t result[kLanes];
  std::uint32_t all = 0;
  for_lanes(mask, [&](int lane) {
    bool same = true;
    std::uint32_t group = row32(w, op.r[3])[lane] & mask;
    for_lanes(group, [&](int other) {
      same &= lane_value<kChecked, kWide>(w, op.r[2], lane) ==
              lane_value<kChecked, kWide>(w, op.r[2], other);
    });
    result[lane] = same ? group : 0;
    all |= static_cast<std::uint32_t>(same) << lane;
  });
  for_lanes(mask, [&](int lane) { row32(w, op.r[0])[lane] = result[lane]; });
  set_predicate(w, op.r[1], all, mask);
  if constexpr (kChecked) {
    set_defined_row(w, op.r[0], kFullMask, mask);
    set_defined_predicate(w, op.r[1], kFullMask, mask);
  }
}

enum class Reduction : std::uint32_t { add, min_s, max_s, min_u, max_u, bit_and, bit_or, bit_xor };

std::uint32_t combine(Reduction what, std::uint32_t a, std::uint32_t b) {
  auto s = [](std::uint32_t x) { return static_cast<std::int32_t>(x); };
  switch (what) {
    case Reduction::add:
      return a + b;
    case Reduction::min_s:
      return s(a) < s(b) ? a : b;
    case Reduction::max_s:
      return s(a) > s(b) ? a : b;
    case Reduction::min_u:
      return std::min(a, b);
    case Reduction::max_u:
      return std::max(a, b);
    case Reduction::bit_and:
      return a & b;
    case Reduction::bit_or:
      return a | b;
    case Reduction::bit_xor:
      break;
  }
  return a ^ b;
}

// redux.sync d, a, members
template <bool kChecked>
void reduce(Warp& w, const Op& op, std::uint32_t mask) {
  if (!members_of<kChecked>(w, op, op.r[2], mask)) return;
  auto what = static_cast<Reduction>(op.imm);
  std::uint32_t result[kLanes];
  std::uint32_t defined = 0;
  for_lanes(mask, [&](int lane) {
    std::uint32_t group = row32(w, op.r[2])[lane] & mask;
    std::uint32_t value = row32(w, op.r[1])[first_lane(group)];
    for_lanes(group & (group - 1),
              [&](int other) { value = combine(what, value, row32(w, op.r[1])[other]); });
    result[lane] = value;
    if constexpr (kChecked) {
      defined |= static_cast<std::uint32_t>((group & ~defined_row(w, op.r[1])) == 0) << lane;
    }
  });
  for_lanes(mask, [&](int lane) { row32(w, op.r[0])[lane] = result[lane]; });
  if constexpr (kChecked) set_defined_row(w, op.r[0], defined, mask);
}

// elect.sync d|p, members: any member may be elected; here the lowest.
template <bool kChecked>
void elect(Warp& w, const Op& op, std::uint32_t mask) {
  if (!members_of<kChecked>(w, op, op.r[2], mask)) return;
  std::uint32_t elected = 0;
  for_lanes(mask, [&](int lane) {
    int leader = first_lane(row32(w, op.r[2])[lane] & mask);
    elected |= 1u << leader;
    row32(w, op.r[0])[lane] = static_cast<std::uint32_t>(leader);
  });
  set_predicate(w, op.r[1], elected, mask);
  if constexpr (kChecked) {
    set_defined_row(w, op.r[0], kFullMask, mask);
    set_defined_predicate(w, op.r[1], kFullMask, mask);
  }
}

void active_mask(Warp& w, const Op& op, std::uint32_t mask) {
  for_lanes(mask, [&](int lane) { row32(w, op.r[0])[lane] = mask; });
}

template <bool kChecked>
Handler shuffle_for(Shuffle mode) {
  switch (mode) {
    case Shuffle::up:
      return shuffle<kChecked, Shuffle::up>;
    case Shuffle::down:
      return shuffle<kChecked, Shuffle::down>;
    case Shuffle::bfly:
      return shuffle<kChecked, Shuffle::bfly>;
    case Shuffle::idx:
      break;
  }
  return shuffle<kChecked, Shuffle::idx>;
}
template <Vote kMode>
void add_vote(FormTable& t, const char* name, const char* format) {
  t.add_checked(name, format, vote<false, kMode>, vote<true, kMode>, Taint::custom);
}

}  // namespace

Handler careful_shuffle(Shuffle mode, ShuffleChecks checks) {
  return checks == ShuffleChecks::on ? shuffle_for<true>(mode) : shuffle_for<false>(mode);
}

void register_exchange(FormTable& t) {
  add_vote<Vote::all>(t, "vote.sync.all.pred", "pPW");
  add_vote<Vote::any>(t, "vote.sync.any.pred", "pPW");
  add_vote<Vote::uni>(t, "vote.sync.uni.pred", "pPW");
  add_vote<Vote::ballot>(t, "vote.sync.ballot.b32", "wPW");
  t.add_checked("match.any.sync.b32", "wWW", match_any<false, false>, match_any<true, false>,
                Taint::custom);
  t.add_checked("match.any.sync.b64", "wDW", match_any<false, true>, match_any<true, true>,
                Taint::custom);
  t.add_checked("match.all.sync.b32", "vWW", match_all<false, false>, match_all<true, false>,
                Taint::custom);
  t.add_checked("match.all.sync.b64", "vDW", match_all<false, true>, match_all<true, true>,
                Taint::custom);
  auto add_reduction = [&](const char* name, Reduction what) {
    t.add_checked(name, "wWW", reduce<false>, reduce<true>, Taint::custom,
                  static_cast<std::uint32_t>(what));
  };
  add_reduction("redux.sync.add{.u32|.s32}", Reduction::add);
  add_reduction("redux.sync.min.s32", Reduction::min_s);
  add_reduction("redux.sync.max.s32", Reduction::max_s);
  add_reduction("redux.sync.min.u32", Reduction::min_u);
  add_reduction("redux.sync.max.u32", Reduction::max_u);
  add_reduction("redux.sync.and.b32", Reduction::bit_and);
  add_reduction("redux.sync.or.b32", Reduction::bit_or);
  add_reduction("redux.sync.xor.b32", Reduction::bit_xor);
  t.add_checked("elect.sync", "vW", elect<false>, elect<true>, Taint::custom);
  t.add("activemask.b32", "w", active_mask);
}

}  // namespace sagegen::emulator
