// atom and red: one lane after the other, in lane order. A kernel with global atomics runs its CTAs in
// order, so results do not depend on the host's threads.

#include <fmt/format.h>

#include <bit>
#include <cstring>

#include "runtime/emulator/exec/checker.h"
#include "runtime/emulator/exec/forms.h"
#include "runtime/emulator/exec/half.h"

namespace sagegen::emulator {
namespace {

enum class Operation : std::uint8_t {
  add,
  minimum,
  maximum,
  exchange,
  compare_exchange,
  bit_and,
  bit_or,
  bit_xor,
  increment,
  decrement,
};
enum class Type : std::uint8_t { u32, s32, u64, s64, f32, f64, f16x2, bf16x2 };

struct Detail {
  Operation operation = Operation::add;
  Type type = Type::u32;
  bool returns = false;                     // atom; red does not
  bool releases = false, acquires = false;  // as with a fence before it, behind it
  Scope scope = Scope::wider;               // of these

  std::uint32_t pack() const {
    return static_cast<std::uint32_t>(operation) | static_cast<std::uint32_t>(type) << 8 |
           static_cast<std::uint32_t>(returns) << 16 | static_cast<std::uint32_t>(releases) << 17 |
           static_cast<std::uint32_t>(acquires) << 18 | static_cast<std::uint32_t>(scope) << 19;
  }
  static Detail unpack(std::uint32_t bits) {
    return {static_cast<Operation>(bits & 0xff),
            static_cast<Type>(bits >> 8 & 0xff),
            (bits >> 16 & 1) != 0,
            (bits >> 17 & 1) != 0,
            (bits >> 18 & 1) != 0,
            static_cast<Scope>(bits >> 19 & 1)};
  }
};

template <class T>
T integer_update(Operation operation, T old, T b, T c) {
  using U = std::make_unsigned_t<T>;
  switch (operation) {
    case Operation::add:
      return static_cast<T>(static_cast<U>(old) + static_cast<U>(b));
    case Operation::minimum:
      return std::min(old, b);
    case Operation::maximum:
      return std::max(old, b);
    case Operation::exchange:
      return b;
    case Operation::compare_exchange:
      return old == b ? c : old;
    case Operation::bit_and:
      return old & b;
    case Operation::bit_or:
      return old | b;
    case Operation::bit_xor:
      return old ^ b;
    case Operation::increment:
      return old >= b ? T{0} : static_cast<T>(old + 1);
    case Operation::decrement:
      return old == 0 || old > b ? b : static_cast<T>(old - 1);
  }
  return old;
}

std::uint64_t update(const Detail& d, bool flush, std::uint64_t old, std::uint64_t b,
                     std::uint64_t c) {
  switch (d.type) {
    case Type::u32:
      return integer_update<std::uint32_t>(d.operation, static_cast<std::uint32_t>(old),
                                           static_cast<std::uint32_t>(b),
                                           static_cast<std::uint32_t>(c));
    case Type::s32:
      return static_cast<std::uint32_t>(
          integer_update<std::int32_t>(d.operation, static_cast<std::int32_t>(old),
                                       static_cast<std::int32_t>(b), static_cast<std::int32_t>(c)));
    case Type::u64:
      return integer_update<std::uint64_t>(d.operation, old, b, c);
    case Type::s64:
      return static_cast<std::uint64_t>(
          integer_update<std::int64_t>(d.operation, static_cast<std::int64_t>(old),
                                       static_cast<std::int64_t>(b), static_cast<std::int64_t>(c)));
    case Type::f32: {
      float x = std::bit_cast<float>(static_cast<std::uint32_t>(old));
      float y = std::bit_cast<float>(static_cast<std::uint32_t>(b));
      float sum = flush ? flush_denormal(flush_denormal(x) + flush_denormal(y)) : x + y;
      return std::bit_cast<std::uint32_t>(canonical_nan(sum));
    }
    case Type::f64:
      return std::bit_cast<std::uint64_t>(std::bit_cast<double>(old) + std::bit_cast<double>(b));
    case Type::f16x2:
      return half_pair<HalfF16>(static_cast<std::uint32_t>(old), static_cast<std::uint32_t>(b),
                                [](double x, double y) { return x + y; });
    case Type::bf16x2:
      break;
  }
  return half_pair<HalfBf16>(static_cast<std::uint32_t>(old), static_cast<std::uint32_t>(b),
                             [](double x, double y) { return x + y; });
}

std::uint64_t operand(const Warp& w, std::uint16_t row, int lane, std::uint32_t bytes) {
  return bytes == 8 ? row64(w, row)[lane] : std::uint64_t{row32(w, row)[lane]};
}

// Operands: {d,} address, b{, c}.
template <bool kChecked>
void atomic(Warp& w, const Op& op, std::uint32_t mask) {
  const Access& access = w.program->accesses[op.imm];
  Detail detail = Detail::unpack(access.detail);
  std::uint32_t bytes = access.bytes;
  int first = detail.returns ? 1 : 0;
  std::uint16_t base = op.r[first], b = op.r[first + 1], c = op.r[first + 2];
  bool has_c = detail.operation == Operation::compare_exchange;
  std::uint32_t lost = 0;  // lanes that update nothing, and get zero
  if constexpr (kChecked) {
    lost = undefined_addresses(w, op, base, mask, "address");
    if (detail.releases) w.cta->checker->fence(w.index, detail.scope);
  }
  LaneAddresses addresses = lane_addresses(w, access, base);
  for_lanes(mask, [&](int lane) {
    const Target target = (lost >> lane & 1) != 0
                              ? nowhere(w)
                              : locate(w, op, op.imm, lane, addresses[lane], bytes, "writes");
    std::uint64_t old = 0;
    std::memcpy(&old, target.data, bytes);
    bool flush = target.space == Space::global;  // f32 sums in global memory flush subnormals
    std::uint64_t next = update(detail, flush, old, operand(w, b, lane, bytes),
                                has_c ? operand(w, c, lane, bytes) : 0);
    if constexpr (kChecked) {
      Checker& checker = *w.cta->checker;
      bool old_defined = checker.read(w, op, lane, target, bytes, AccessKind::strong_read);
      bool new_defined = (defined_row(w, b) >> lane & 1) != 0 &&
                         (!has_c || (defined_row(w, c) >> lane & 1) != 0) &&
                         (old_defined || detail.operation == Operation::exchange);
      checker.write(w, op, lane, target, bytes, &next, new_defined, AccessKind::strong_write);
      if (detail.returns) {
        set_defined_row(w, op.r[0], old_defined ? kFullMask : 0, 1u << lane);
      }
    }
    std::memcpy(target.data, &next, bytes);
    if (!detail.returns) return;
    if (bytes == 8) {
      row64(w, op.r[0])[lane] = old;
    } else {
      row32(w, op.r[0])[lane] = static_cast<std::uint32_t>(old);
    }
  });
  if constexpr (kChecked) {
    if (detail.acquires) w.cta->checker->fence(w.index, detail.scope);
  }
}

struct NamedType {
  std::string_view name;
  Type type;
  bool wide;
};
constexpr NamedType kTypes[] = {{"u32", Type::u32, false},     {"b32", Type::u32, false},
                                {"s32", Type::s32, false},     {"u64", Type::u64, true},
                                {"b64", Type::u64, true},      {"s64", Type::s64, true},
                                {"f32", Type::f32, false},     {"f64", Type::f64, true},
                                {"f16x2", Type::f16x2, false}, {"bf16x2", Type::bf16x2, false}};

bool combines(Operation operation, std::string_view type) {
  bool is_float = type[0] == 'f' || type.starts_with("bf");
  switch (operation) {
    case Operation::add:
      return type[0] != 'b' || is_float;
    case Operation::minimum:
    case Operation::maximum:
      return type[0] == 'u' || type[0] == 's';
    case Operation::increment:
    case Operation::decrement:
      return type == "u32";
    default:
      return type == "b32" || type == "b64";
  }
}

}  // namespace

std::vector<Form> atomic_forms(const ptx::Instruction& instruction) {
  bool returns = instruction.opcode == "atom";
  if (!returns && instruction.opcode != "red") return {};
  ModifierReader m(instruction);
  const std::string_view semantics = m.take_any({"relaxed", "acquire", "release", "acq_rel"});
  const std::string_view scope = m.take_any({"cta", "cluster", "gpu", "sys"});
  Form form;
  if (m.take("global"))
    form.access.space = Space::global;
  else if (m.take("shared") || m.take("shared::cta"))
    form.access.space = Space::shared;

  static constexpr std::pair<std::string_view, Operation> kOperations[] = {
      {"add", Operation::add},
      {"min", Operation::minimum},
      {"max", Operation::maximum},
      {"exch", Operation::exchange},
      {"cas", Operation::compare_exchange},
      {"and", Operation::bit_and},
      {"or", Operation::bit_or},
      {"xor", Operation::bit_xor},
      {"inc", Operation::increment},
      {"dec", Operation::decrement}};
  Detail detail{.returns = returns};
  detail.releases = semantics == "release" || semantics == "acq_rel";
  detail.acquires = semantics == "acquire" || semantics == "acq_rel";
  if (scope == "cta" || scope == "cluster") detail.scope = Scope::cta;
  bool known = false;
  for (auto [name, operation] : kOperations) {
    if (!known && m.take(name)) {
      detail.operation = operation;
      known = true;
    }
  }
  if (!known) m.refuse("an operation");
  bool swaps =
      detail.operation == Operation::exchange || detail.operation == Operation::compare_exchange;
  if (swaps && !returns)
    throw UnknownForm(fmt::format("{}: red has no exch or cas", text_of(instruction)));
  m.take("noftz");  // f16x2 and bf16x2: subnormals are kept, as here always
  std::string_view type = m.peek();
  const NamedType* found = nullptr;
  for (const NamedType& t : kTypes) {
    if (m.take(t.name)) {
      found = &t;
      break;
    }
  }
  if (found == nullptr || !combines(detail.operation, type)) {
    throw UnknownForm(fmt::format("unknown type .{} of {}", type, text_of(instruction)));
  }
  m.finish();
  detail.type = found->type;
  form.access.bytes = found->wide ? 8 : 4;
  form.access.strong = true;
  form.access.detail = detail.pack();
  std::string value = found->wide ? "D" : "W";
  std::string destination = found->wide ? "d" : "w";
  form.format = (returns ? destination : "") + "A" + value;
  if (detail.operation == Operation::compare_exchange) form.format += value;
  form.plain = atomic<false>;
  form.checked = atomic<true>;
  form.taint = Taint::custom;
  form.orders_ctas = form.access.space != Space::shared;
  return {form};
}

}  // namespace sagegen::emulator
