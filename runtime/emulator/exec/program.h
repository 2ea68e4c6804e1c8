// A decoded entry function: flat arrays that the warp loop walks. Nothing here changes after decode().
//
// Registers of a warp are rows of 32 lanes x 32 bits, contiguous in one file per warp; a 64-bit register
// takes two rows (32 x 64 bits) and a 16-bit one a row whose upper halves are zero. Virtual registers of
// the PTX share rows when their lives do not overlap. Immediates, symbols and special registers are
// rows too, filled before a warp starts, so a handler sees only row numbers. Predicates are 32-bit
// masks in a second array.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "runtime/emulator/exec/launch.h"

namespace sagegen::emulator {

struct Warp;
struct Op;
// Executes one instruction for the lanes of `mask`, which is never 0.
using Handler = void (*)(Warp& warp, const Op& op, std::uint32_t mask);

inline constexpr int kLanes = 32;
inline constexpr std::uint32_t kFullMask = 0xffff'ffff;
inline constexpr int kInlineOperands = 6;

inline constexpr std::uint16_t kAlways = 0;  // predicate numbers with fixed values
inline constexpr std::uint16_t kNever = 1;
inline constexpr std::uint16_t kPredicateSink = 2;
inline constexpr std::uint16_t kFirstPredicate = 3;

// A predecoded instruction. op.r[i] is the i-th operand in the order of the form's format (forms.h).
struct Op {
  Handler run = nullptr;
  std::array<std::uint16_t, kInlineOperands> r = {};
  std::uint16_t guard = kAlways;
  std::uint8_t guard_negated : 1 = 0;
  std::uint8_t joins : 1 = 0;  // lanes of a divergent branch rejoin here
  std::uint8_t negated = 0;    // bit i: predicate operand i is used as its complement
  std::uint32_t pool = 0;      // all operands, for forms with more than fit in r
  std::uint32_t imm = 0;       // immediate, branch target, or index into Program's side tables
};

// nowhere: of no access in the text. It is where accesses go that were reported: reads give zeros,
// writes change nothing.
enum class Space : std::uint8_t { generic, global, constant, shared, local, param, nowhere };

// A memory operand with everything about the access that the text fixes.
struct Access {
  std::int64_t offset = 0;
  Space space = Space::generic;
  std::uint8_t bytes = 4;  // of one element
  std::uint8_t count = 1;  // elements: 1, 2, 4
  bool sign_extend = false;
  bool wide_base = true;            // the base register has 64 bits
  bool strong = false;              // volatile, relaxed, acquire, release: no race with atomics
  std::uint8_t register_bytes = 4;  // of the data registers: 2, 4, 8
  std::uint32_t immediate = 0;      // the form's immediate operand, such as cp.async's size
  std::uint32_t detail = 0;         // what the family packs into it
};

struct MmaDetail {
  MmaShape shape;
  MmaFunction run = nullptr;
  MmaDoubleFunction run_double = nullptr;  // f64 instead
  // Registers per operand of an m16n8 instruction with 32-bit registers; D has as many as C.
  std::uint8_t a = 4, b = 2, c = 4;
  bool f16_accumulators = false;  // two elements in a register of C and D
};

// How an instruction passes on "undefined": not at all, from any source to every destination, or in its
// own handler.
enum class Taint : std::uint8_t { none, propagate, custom };

// What of the destinations is undefined if parts of the sources are: see definedness.h. Without a rule
// all of it is.
struct SpreadRule {
  Handler run = nullptr;    // called before the instruction runs
  std::uint32_t bytes = 0;  // of each operand in the order of Op::r, 4 bits each; 0: a predicate
  std::uint16_t detail = 0;
};

inline constexpr std::uint32_t kNoRejoin = 0xffff'ffff;
inline constexpr std::uint32_t kNoTarget = 0xffff'ffff;

struct OpInfo {
  int body_index = 0;  // into Program::text, line and source below; the last op has none
  int line = 0;
  int source_file = 0, source_line = 0;
  std::uint32_t rejoin = kNoRejoin;  // of a conditional branch: op index
  std::uint32_t target = kNoTarget;  // of a branch: op index
  bool ends_path = false;            // an unguarded branch or exit: the next op does not follow
  Taint taint = Taint::none;
  std::uint16_t destinations = 0, sources = 0;  // definedness cells at taint_pool[cells...]
  std::uint32_t cells = 0;
};

struct ConstantRow {
  std::uint16_t row = 0;
  bool wide = false;
  std::uint64_t value = 0;
};

enum class Special : std::uint8_t {
  tid_x,
  tid_y,
  tid_z,
  ntid_x,
  ntid_y,
  ntid_z,
  ctaid_x,
  ctaid_y,
  ctaid_z,
  nctaid_x,
  nctaid_y,
  nctaid_z,
  laneid,
  warpid,
  nwarpid,
  smid,
  nsmid,
  lanemask_eq,
  lanemask_lt,
  lanemask_le,
  lanemask_gt,
  lanemask_ge,
  dynamic_smem_size,
  total_smem_size,
  gridid,
  clock,
  clock64,
  globaltimer,
};
struct SpecialRow {
  std::uint16_t row = 0;
  bool wide = false;
  Special which = Special::tid_x;
};

class Program {
 public:
  ProgramInfo info;
  Profile profile = Profile::ideal;

  std::vector<Op> plain;    // handlers without checks ...
  std::vector<Op> checked;  // ... and with; same length and order
  std::vector<OpInfo> ops;  // parallel to both
  std::vector<SpreadRule>
      spread;                     // too: for Taint::propagate, if a lane of a source is not defined
  std::vector<std::string> text;  // opcode with modifiers, per op
  std::vector<std::uint16_t> pool;
  std::vector<std::uint16_t> taint_pool;
  std::vector<Access> accesses;
  std::vector<MmaDetail> mmas;
  std::vector<ConstantRow> constants;
  std::vector<SpecialRow> specials;
  std::map<int, std::string> files;  // by .file index; those that the ops come from

  std::uint32_t rows = 0;
  std::uint32_t predicates = kFirstPredicate;
  std::size_t dynamic_shared_offset = kSharedStart;  // where dynamic shared memory starts
  // Global atomics, ld.acquire, st.release: CTAs then run in order, so that results are deterministic.
  bool orders_ctas = false;

  // Definedness cells: one per row, then one per predicate.
  std::uint32_t predicate_cell(std::uint16_t predicate) const { return rows + predicate; }
  // "file:line" of the template, or empty.
  std::string source_of(std::size_t op) const;
};

}  // namespace sagegen::emulator
