// ld and st, all spaces and widths.

#include <fmt/format.h>

#include <cstring>

#include "runtime/emulator/exec/checker.h"
#include "runtime/emulator/exec/definedness.h"
#include "runtime/emulator/exec/forms.h"

namespace sagegen::emulator {
namespace {

constexpr std::uint32_t kMaxVectorBytes = 32;
constexpr int kMaxElements = 8;

// Operands of ld: destinations, address{, cache policy}; of st: address, sources{, cache policy}.
const std::uint16_t* operands(const Warp& w, const Op& op, const Access& access) {
  return access.count > 4 ? pooled(w, op) : op.r.data();
}

template <class T, class Row>
void gather(Row* d, const LanePointers& data, std::size_t offset, std::uint32_t mask) {
  auto one = [&](int lane) {
    T value;
    std::memcpy(&value, data[lane] + offset, sizeof value);
    d[lane] = static_cast<Row>(value);  // sign-extends if T is signed
  };
  if (mask == kFullMask) {
    for (int lane = 0; lane < kLanes; ++lane) one(lane);
  } else {
    for_lanes(mask, one);
  }
}

template <class Row>
void gather_element(Row* d, const LanePointers& data, std::size_t offset, std::uint32_t mask,
                    const Access& access) {
  switch (access.bytes) {
    case 1:
      return access.sign_extend ? gather<std::int8_t>(d, data, offset, mask)
                                : gather<std::uint8_t>(d, data, offset, mask);
    case 2:
      return access.sign_extend ? gather<std::int16_t>(d, data, offset, mask)
                                : gather<std::uint16_t>(d, data, offset, mask);
    case 4:
      return access.sign_extend ? gather<std::int32_t>(d, data, offset, mask)
                                : gather<std::uint32_t>(d, data, offset, mask);
    default:
      return gather<std::uint64_t>(d, data, offset, mask);
  }
}

void gather_row(const Warp& w, std::uint16_t row, const LanePointers& data, std::size_t offset,
                std::uint32_t mask, const Access& access) {
  if (access.register_bytes == 8) {
    gather_element(row64(w, row), data, offset, mask, access);
    return;
  }
  gather_element(row32(w, row), data, offset, mask, access);
  if (access.register_bytes == 2 && access.sign_extend) {
    for_lanes(mask, [&](int lane) { row32(w, row)[lane] &= 0xffff; });
  }
}

Target element_of(Target target, const Access& access, int element) {
  std::size_t offset = std::size_t{access.bytes} * element;
  target.address += offset;
  target.data += offset;
  if (target.written != nullptr) target.written += offset;
  return target;
}

AccessKind read_kind(const Access& a) {
  return a.strong ? AccessKind::strong_read : AccessKind::read;
}
AccessKind write_kind(const Access& a) {
  return a.strong ? AccessKind::strong_write : AccessKind::write;
}

// Access::detail of ld.acquire and st.release: as with a fence behind it, before it.
constexpr std::uint32_t kFenced = 1, kFencedInCta = 2;
void fence_of(const Warp& w, const Access& access) {
  if (access.detail == 0) return;
  w.cta->checker->fence(w.index, access.detail == kFenced ? Scope::wider : Scope::cta);
}

bool is_shared_access(const Access& access) { return access.space == Space::shared; }

// Bytes as they lie in the register: an undefined sign is one in all bits above, too.
void mark_loaded(const Warp& w, std::uint16_t row, int lane, const Access& access,
                 std::uint32_t undefined_bytes) {
  std::uint64_t bits = bits_of_bytes(undefined_bytes);
  const std::uint32_t width = 8u * access.bytes;
  if (access.sign_extend && (bits >> (width - 1) & 1) != 0) bits |= ~low_bits(width);
  set_undefined_bits(w, row, access.register_bytes, lane, bits);
}

template <bool kChecked>
void load(Warp& w, const Op& op, std::uint32_t mask) {
  const Access& access = w.program->accesses[op.imm];
  const std::uint16_t* r = operands(w, op, access);
  std::uint16_t base = r[access.count];
  std::uint32_t bytes = std::uint32_t{access.bytes} * access.count;
  LaneAddresses addresses = lane_addresses(w, access, base);
  LanePointers data;
  if constexpr (kChecked) {
    LaneTargets targets;
    const std::uint32_t lost = undefined_addresses(w, op, base, mask, "address");
    locate_targets(w, op, op.imm, mask & ~lost, addresses, bytes, "reads", targets);
    send_nowhere(w, lost, targets);
    std::array<std::uint32_t, kMaxElements> undefined = {};  // lanes, per element
    for_lanes(mask, [&](int lane) {
      data[lane] = targets[lane].data;
      Checker& checker = *w.cta->checker;
      if (checker.read(w, op, lane, targets[lane], bytes, read_kind(access))) return;
      for (int e = 0; e < access.count; ++e) {
        const Target element = element_of(targets[lane], access, e);
        const bool good = checker.undefined_bytes(element, access.bytes) == 0;
        undefined[e] |= static_cast<std::uint32_t>(!good) << lane;
      }
    });
    for (int e = 0; e < access.count; ++e) {
      set_defined_row(w, r[e], ~undefined[e], mask);
      for_lanes(undefined[e], [&](int lane) {
        const Target element = element_of(targets[lane], access, e);
        mark_loaded(w, r[e], lane, access, w.cta->checker->undefined_bytes(element, access.bytes));
      });
    }
    fence_of(w, access);
  } else {
    locate_lanes(w, op, op.imm, mask, addresses, bytes, "reads", data);
  }
  if (w.cta->counts != nullptr && is_shared_access(access)) {
    count_wavefronts(w, op, mask, addresses, bytes);
  }
  for (int e = 0; e < access.count; ++e) {
    gather_row(w, r[e], data, std::size_t{access.bytes} * e, mask, access);
  }
}

// The bytes that a lane stores from one register.
inline void take_bytes(const Warp& w, std::uint16_t row, int lane, const Access& access,
                       std::uint8_t* to) {
  std::uint64_t value =
      access.register_bytes == 8 ? row64(w, row)[lane] : std::uint64_t{row32(w, row)[lane]};
  std::memcpy(to, &value, access.bytes);
}

template <class T, class Row>
void scatter(const Row* s, const LanePointers& data, std::size_t offset, std::uint32_t mask) {
  auto one = [&](int lane) {
    T value = static_cast<T>(s[lane]);
    std::memcpy(data[lane] + offset, &value, sizeof value);
  };
  if (mask == kFullMask) {
    for (int lane = 0; lane < kLanes; ++lane) one(lane);
  } else {
    for_lanes(mask, one);
  }
}

template <class Row>
void scatter_element(const Row* s, const LanePointers& data, std::size_t offset, std::uint32_t mask,
                     std::uint8_t bytes) {
  switch (bytes) {
    case 1:
      return scatter<std::uint8_t>(s, data, offset, mask);
    case 2:
      return scatter<std::uint16_t>(s, data, offset, mask);
    case 4:
      return scatter<std::uint32_t>(s, data, offset, mask);
    default:
      return scatter<std::uint64_t>(s, data, offset, mask);
  }
}

template <bool kChecked>
void store(Warp& w, const Op& op, std::uint32_t mask) {
  const Access& access = w.program->accesses[op.imm];
  const std::uint16_t* r = operands(w, op, access);
  std::uint32_t bytes = std::uint32_t{access.bytes} * access.count;
  LaneAddresses addresses = lane_addresses(w, access, r[0]);
  if (w.cta->counts != nullptr && is_shared_access(access)) {
    count_wavefronts(w, op, mask, addresses, bytes);
  }
  if constexpr (kChecked) {
    LaneTargets targets;
    const std::uint32_t lost = undefined_addresses(w, op, r[0], mask, "address");
    locate_targets(w, op, op.imm, mask & ~lost, addresses, bytes, "writes", targets);
    send_nowhere(w, lost, targets);
    fence_of(w, access);
    std::array<std::uint8_t, kLanes * kMaxVectorBytes> values;
    std::uint32_t whole = mask;  // lanes whose elements are all defined
    for (int e = 0; e < access.count; ++e) whole &= defined_row(w, r[1 + e]);
    for_lanes(mask, [&](int lane) {
      std::uint8_t* value = values.data() + lane * bytes;
      for (int e = 0; e < access.count; ++e) {
        take_bytes(w, r[1 + e], lane, access, value + e * access.bytes);
      }
      Checker& checker = *w.cta->checker;
      if ((whole >> lane & 1) != 0) {
        checker.write(w, op, lane, targets[lane], bytes, value, true, write_kind(access));
        return;
      }
      for (int e = 0; e < access.count; ++e) {
        const std::uint64_t bits =
            undefined_bits(w, r[1 + e], access.register_bytes, lane) & low_bits(8u * access.bytes);
        checker.write_partly(w, op, lane, element_of(targets[lane], access, e), access.bytes,
                             value + e * access.bytes, undefined_bytes_of(bits),
                             write_kind(access));
      }
    });
    w.cta->checker->same_instruction(w, op, mask, targets.data(), bytes, values.data());
    for_lanes(mask, [&](int lane) {
      std::memcpy(targets[lane].data, values.data() + lane * bytes, bytes);
    });
  } else {
    LanePointers data;
    locate_lanes(w, op, op.imm, mask, addresses, bytes, "writes", data);
    for (int e = 0; e < access.count; ++e) {
      std::size_t offset = std::size_t{access.bytes} * e;
      if (access.register_bytes == 8) {
        scatter_element(row64(w, r[1 + e]), data, offset, mask, access.bytes);
      } else {
        scatter_element(row32(w, r[1 + e]), data, offset, mask, access.bytes);
      }
    }
  }
}

// ---- modifiers -----------------------------------------------------------------------------------

void read_space(ModifierReader& m, Access& access, bool is_store) {
  if (m.take_any({"global"}) != "")
    access.space = Space::global;
  else if (m.take_any({"shared", "shared::cta"}) != "")
    access.space = Space::shared;
  else if (m.take_any({"local"}) != "")
    access.space = Space::local;
  else if (m.take_any({"param", "param::entry", "param::func"}) != "")
    access.space = Space::param;
  else if (!is_store && m.take_any({"const"}) != "")
    access.space = Space::constant;
}

void read_semantics(ModifierReader& m, Access& access) {
  if (m.take("volatile")) {
    access.strong = true;
  } else if (const std::string_view order = m.take_any({"relaxed", "acquire", "release"});
             !order.empty()) {
    access.strong = true;
    const std::string_view scope = m.take_any({"cta", "cluster", "gpu", "sys"});
    if (scope.empty()) m.refuse("a scope");
    const bool wide = scope == "gpu" || scope == "sys";
    if (order != "relaxed") access.detail = wide ? kFenced : kFencedInCta;
  } else {
    m.take("weak");
  }
}

void read_type(ModifierReader& m, Access& access) {
  struct Type {
    std::string_view name;
    std::uint8_t bytes;
    bool sign;
  };
  static constexpr Type kTypes[] = {
      {"b8", 1, false},  {"u8", 1, false},  {"s8", 1, true},   {"b16", 2, false}, {"u16", 2, false},
      {"s16", 2, true},  {"b32", 4, false}, {"u32", 4, false}, {"s32", 4, true},  {"f32", 4, false},
      {"b64", 8, false}, {"u64", 8, false}, {"s64", 8, false}, {"f64", 8, false}};
  for (const Type& type : kTypes) {
    if (!m.take(type.name)) continue;
    access.bytes = type.bytes;
    access.sign_extend = type.sign;
    return;
  }
  m.refuse("a type");
}

}  // namespace

std::vector<Form> memory_forms(const ptx::Instruction& instruction) {
  const std::string& opcode = instruction.opcode;
  bool is_store = opcode == "st";
  if (!is_store && opcode != "ld" && opcode != "ldu") return {};
  ModifierReader m(instruction);
  Form form;
  Access& access = form.access;
  read_semantics(m, access);
  read_space(m, access, is_store);
  bool hint = false;
  for (std::string_view cache; !(cache = m.take_any({"ca",
                                                     "cg",
                                                     "cs",
                                                     "lu",
                                                     "cv",
                                                     "wb",
                                                     "wt",
                                                     "nc",
                                                     "L1::evict_normal",
                                                     "L1::evict_unchanged",
                                                     "L1::evict_first",
                                                     "L1::evict_last",
                                                     "L1::no_allocate",
                                                     "L2::evict_normal",
                                                     "L2::evict_first",
                                                     "L2::evict_last",
                                                     "L2::64B",
                                                     "L2::128B",
                                                     "L2::256B",
                                                     "L2::cache_hint"}))
                                    .empty();) {
    hint |= cache == "L2::cache_hint";
  }
  if (std::string_view vector = m.take_any({"v2", "v4", "v8"}); !vector.empty()) {
    access.count = static_cast<std::uint8_t>(vector[1] - '0');
  }
  read_type(m, access);
  m.finish();
  if (std::uint32_t{access.bytes} * access.count > kMaxVectorBytes) {
    throw UnknownForm(
        fmt::format("{} accesses more than 32 bytes per thread", text_of(instruction)));
  }
  std::string data(access.count, is_store ? 'X' : 'x');
  if (access.count > 1) data = "{" + data + "}";
  form.format = (is_store ? "A" + data : data + "A") + (hint ? "D" : "");
  form.plain = is_store ? store<false> : load<false>;
  form.checked = is_store ? store<true> : load<true>;
  form.taint = Taint::custom;
  form.orders_ctas = access.detail == kFenced && access.space != Space::shared;
  return {form};
}

}  // namespace sagegen::emulator
