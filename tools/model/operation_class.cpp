#include "tools/model/operation_class.h"

#include <algorithm>
#include <iterator>

namespace sagegen::model {

namespace {

using Class = OperationClass;

struct Row {
  int operation;  // bits 0-8
  OperationInfo info;
};

// Ascending. Each was assembled from PTX that asks for it; names are those of NVIDIA's disassembler.
constexpr Row kRows[] = {
    {0x002, {"MOV", Class::move, Pipe::alu}},
    {0x003, {"P2R", Class::select, Pipe::alu}},
    {0x004, {"R2P", Class::select, Pipe::alu}},
    {0x005, {"CS2R", Class::move, Pipe::alu}},
    {0x006, {"VOTE", Class::select, Pipe::alu}},
    {0x007, {"SEL", Class::select, Pipe::alu}},
    {0x008, {"FSEL", Class::select, Pipe::alu}},
    {0x009, {"FMNMX", Class::minmax, Pipe::minmax}},
    {0x00a, {"FSET", Class::select, Pipe::alu}},
    {0x00b, {"FSETP", Class::select, Pipe::alu}},
    {0x00c, {"ISETP", Class::select, Pipe::alu}},
    {0x00f, {"VIMNMX3", Class::minmax, Pipe::minmax}},
    {0x010, {"IADD3", Class::integer, Pipe::alu}},
    {0x011, {"LEA", Class::integer, Pipe::alu}},
    {0x012, {"LOP3", Class::integer, Pipe::alu}},
    {0x013, {"IABS", Class::integer, Pipe::alu}},
    {0x016, {"PRMT", Class::integer, Pipe::alu}},
    {0x017, {"IMNMX", Class::minmax, Pipe::minmax}},
    {0x019, {"SHF", Class::integer, Pipe::alu}},
    {0x01a, {"SGXT", Class::integer, Pipe::alu}},
    {0x01b, {"BMSK", Class::integer, Pipe::alu}},
    {0x01c, {"PLOP3", Class::select, Pipe::alu}},
    {0x020, {"FMUL", Class::fp32, Pipe::fma}},
    {0x021, {"FADD", Class::fp32, Pipe::fma}},
    {0x023, {"FFMA", Class::fp32, Pipe::fma}},
    {0x024, {"IMAD", Class::integer, Pipe::fma_heavy}},
    {0x025, {"IMAD.WIDE", Class::integer, Pipe::fma_heavy}},
    {0x026, {"IDP", Class::integer, Pipe::fma_heavy}},
    {0x027, {"IMAD.HI", Class::integer, Pipe::fma_heavy}},
    {0x028, {"DMUL", Class::fp64, Pipe::none}},
    {0x029, {"DADD", Class::fp64, Pipe::none}},
    {0x02a, {"DSETP", Class::fp64, Pipe::none}},
    {0x02b, {"DFMA", Class::fp64, Pipe::none}},
    {0x02f, {"ELECT", Class::special, Pipe::memory}},
    {0x030, {"HADD2", Class::fp16, Pipe::fma_heavy}},
    {0x031, {"HFMA2", Class::fp16, Pipe::fma_heavy}},
    {0x032, {"HMUL2", Class::fp16, Pipe::fma_heavy}},
    {0x033, {"HSET2", Class::fp16, Pipe::fma_heavy}},
    {0x034, {"HSETP2", Class::fp16, Pipe::fma_heavy}},
    {0x035, {"HFMA2.MMA", Class::fp16, Pipe::fma_heavy}},
    {0x036, {"VIADD", Class::integer, Pipe::alu}},
    {operation::kImma, {"IMMA", Class::mma, Pipe::tensor}},
    {0x039, {"I2IP", Class::integer, Pipe::alu}},
    {operation::kLoadMatrix, {"LDSM", Class::matrix_load, Pipe::memory}},
    {operation::kHmma, {"HMMA", Class::mma, Pipe::tensor}},
    {0x03d, {"BMMA", Class::mma, Pipe::tensor}},
    {0x03e, {"F2FP", Class::pack, Pipe::alu}},
    {0x03f, {"DMMA", Class::mma, Pipe::tensor}},
    {0x040, {"HMNMX2", Class::minmax, Pipe::minmax}},
    {0x044, {"STSM", Class::shared, Pipe::memory}},
    {0x045, {"I2FP", Class::conversion, Pipe::alu}},
    {0x046, {"VIADDMNMX", Class::minmax, Pipe::minmax}},
    {0x048, {"VIMNMX", Class::minmax, Pipe::minmax}},
    {0x049, {"FFMA2", Class::fp32, Pipe::fma}},
    {0x04a, {"FMUL2", Class::fp32, Pipe::fma}},
    {0x04b, {"FADD2", Class::fp32, Pipe::fma}},
    {0x056, {"UFMUL", Class::uniform, Pipe::uniform}},
    {0x074, {"FMNMX3", Class::minmax, Pipe::minmax}},
    {0x076, {"FMNMX3", Class::minmax, Pipe::minmax}},
    {operation::kQmma, {"QMMA", Class::mma, Pipe::tensor}},
    {0x07f, {"OMMA", Class::mma, Pipe::tensor}},
    {0x082, {"UMOV", Class::uniform, Pipe::uniform}},
    {0x086, {"VOTEU", Class::uniform, Pipe::uniform}},
    {0x087, {"USEL", Class::uniform, Pipe::uniform}},
    {0x08c, {"UISETP", Class::uniform, Pipe::uniform}},
    {0x090, {"UIADD3", Class::uniform, Pipe::uniform}},
    {0x091, {"ULEA", Class::uniform, Pipe::uniform}},
    {0x092, {"ULOP3", Class::uniform, Pipe::uniform}},
    {0x096, {"UPRMT", Class::uniform, Pipe::uniform}},
    {0x097, {"UIADD3.64", Class::uniform, Pipe::uniform}},
    {0x099, {"USHF", Class::uniform, Pipe::uniform}},
    {0x09a, {"USGXT", Class::uniform, Pipe::uniform}},
    {0x09c, {"UPLOP3", Class::uniform, Pipe::uniform}},
    {0x0a4, {"UIMAD", Class::uniform, Pipe::uniform}},
    {0x0a5, {"UIMAD.WIDE", Class::uniform, Pipe::uniform}},
    {0x0a6, {"UIMAD.HI", Class::uniform, Pipe::uniform}},
    {0x0b9, {"ULDC", Class::uniform, Pipe::uniform}},
    {0x0bd, {"UFLO", Class::uniform, Pipe::uniform}},
    {0x0bf, {"UPOPC", Class::uniform, Pipe::uniform}},
    {0x0ca, {"R2UR", Class::uniform, Pipe::uniform}},
    {0x100, {"FLO", Class::conversion, Pipe::mufu}},
    {0x101, {"BREV", Class::integer, Pipe::mufu}},
    {0x104, {"F2F", Class::conversion, Pipe::mufu}},
    {0x105, {"F2I", Class::conversion, Pipe::mufu}},
    {0x106, {"I2F", Class::conversion, Pipe::mufu}},
    {0x107, {"FRND", Class::conversion, Pipe::mufu}},
    {0x108, {"MUFU", Class::mufu, Pipe::mufu}},
    {0x109, {"POPC", Class::conversion, Pipe::mufu}},
    {operation::kNop, {"NOP", Class::padding, Pipe::none}},
    {0x119, {"S2R", Class::special, Pipe::memory}},
    {operation::kWaitScoreboard, {"DEPBAR", Class::synchronization, Pipe::none}},
    {operation::kBarrier, {"BAR", Class::synchronization, Pipe::none}},
    {0x141, {"BSYNC", Class::synchronization, Pipe::none}},
    {0x142, {"BREAK", Class::synchronization, Pipe::none}},
    {0x143, {"CALL", Class::branch, Pipe::none}},
    {operation::kCallRelative, {"CALL.REL", Class::branch, Pipe::none}},
    {0x145, {"BSSY", Class::synchronization, Pipe::none}},
    {0x146, {"YIELD", Class::synchronization, Pipe::none}},
    {operation::kBranch, {"BRA", Class::branch, Pipe::none}},
    {0x148, {"WARPSYNC", Class::synchronization, Pipe::none}},
    {operation::kIndirectBranch, {"BRX", Class::branch, Pipe::none}},
    {operation::kJump, {"JMP", Class::branch, Pipe::none}},
    {operation::kExit, {"EXIT", Class::branch, Pipe::none}},
    {operation::kReturn, {"RET", Class::branch, Pipe::none}},
    {0x155, {"BMOV", Class::synchronization, Pipe::none}},
    {0x156, {"BMOV", Class::synchronization, Pipe::none}},
    {operation::kKill, {"KILL", Class::branch, Pipe::none}},
    {0x15c, {"BPT", Class::branch, Pipe::none}},
    {0x15d, {"NANOSLEEP", Class::synchronization, Pipe::none}},
    {0x180, {"LD", Class::global, Pipe::memory}},
    {0x181, {"LDG", Class::global, Pipe::memory}},
    {0x182, {"LDC", Class::constant, Pipe::memory}},
    {0x183, {"LDL", Class::spill, Pipe::memory}},
    {0x184, {"LDS", Class::shared, Pipe::memory}},
    {0x185, {"ST", Class::global, Pipe::memory}},
    {0x186, {"STG", Class::global, Pipe::memory}},
    {0x187, {"STL", Class::spill, Pipe::memory}},
    {operation::kStoreShared, {"STS", Class::shared, Pipe::memory}},
    {0x189, {"SHFL", Class::shuffle, Pipe::memory}},
    {0x18c, {"ATOMS", Class::synchronization, Pipe::none}},
    {0x18f, {"CCTL", Class::synchronization, Pipe::none}},
    {0x192, {"MEMBAR", Class::synchronization, Pipe::none}},
    {0x1a1, {"MATCH", Class::special, Pipe::memory}},
    {0x1a7, {"SYNCS", Class::synchronization, Pipe::none}},
    {0x1ab, {"ERRBAR", Class::synchronization, Pipe::none}},
    {0x1ac, {"LDCU", Class::uniform, Pipe::uniform}},
    {operation::kCopy, {"LDGSTS", Class::copy, Pipe::memory}},
    {operation::kCloseCopyGroup, {"LDGDEPBAR", Class::synchronization, Pipe::none}},
    {0x1b2, {"SYNCS", Class::synchronization, Pipe::none}},
    {0x1b4, {"UTMALDG", Class::copy, Pipe::none}},
    {0x1b5, {"UTMASTG", Class::copy, Pipe::none}},
    {0x1ba, {"UBLKCP", Class::copy, Pipe::none}},
    {0x1c2, {"R2UR", Class::uniform, Pipe::uniform}},
    {0x1c3, {"S2UR", Class::special, Pipe::memory}},
    {0x1c4, {"REDUX", Class::special, Pipe::memory}},
    {0x1c5, {"WARPGROUP", Class::synchronization, Pipe::none}},
    {0x1c6, {"FENCE", Class::synchronization, Pipe::none}},
    {0x1c7, {"UCGABAR", Class::synchronization, Pipe::none}},
    {0x1c8, {"USETMAXREG", Class::synchronization, Pipe::none}},
    {0x1ea, {"UTCMMA", Class::mma, Pipe::tensor}},
    {0x1f0, {"HGMMA", Class::mma, Pipe::tensor}},
    {0x1f1, {"IGMMA", Class::mma, Pipe::tensor}},
    {0x1f2, {"BGMMA", Class::mma, Pipe::tensor}},
    {0x1f3, {"QGMMA", Class::mma, Pipe::tensor}},
};
static_assert(std::is_sorted(std::begin(kRows), std::end(kRows),
                             [](const Row& a, const Row& b) { return a.operation < b.operation; }));

constexpr int kRegisters = 1;  // Instruction::form()
constexpr int kImmediateB = 2;
constexpr int kConstantB = 3, kUniformB = 7;

// IMAD by a register that reads as 0 is how ptxas moves on the FP32 pipe.
bool imad_moves(const Instruction& i) {
  constexpr int kZero = Instruction::kZeroRegister;
  if (i.form() == kRegisters) return i.source_b() == kZero;
  const bool multiplicand_is_c =
      i.form() == kImmediateB || i.form() == kConstantB || i.form() == kUniformB;
  return i.source_a() == kZero && (!multiplicand_is_c || i.source_c() == kZero);
}

bool half_moves_immediate(const Instruction& i) {
  constexpr int kZero = Instruction::kZeroRegister;
  return i.form() == kImmediateB && i.source_a() == kZero && i.source_c() == kZero;
}

bool half_unpacks(const Instruction& i) {
  constexpr int kZero = Instruction::kZeroRegister;
  return i.form() == kRegisters && (i.source_a() == kZero || i.source_b() == kZero);
}

}  // namespace

std::string_view to_string(OperationClass operation_class) {
  constexpr std::string_view kNames[kOperationClasses] = {"mma",         "mufu",
                                                          "conversion",  "fp32",
                                                          "minmax",      "fp16",
                                                          "unpack",      "pack",
                                                          "matrix load", "shared",
                                                          "copy",        "shuffle",
                                                          "integer",     "select",
                                                          "move",        "uniform",
                                                          "global",      "constant",
                                                          "spill",       "special",
                                                          "fp64",        "synchronization",
                                                          "branch",      "padding",
                                                          "unknown"};
  return kNames[static_cast<int>(operation_class)];
}

OperationInfo operation_info(const Instruction& instruction, int architecture) {
  const int operation = instruction.operation();
  const Row* row = std::lower_bound(std::begin(kRows), std::end(kRows), operation,
                                    [](const Row& r, int wanted) { return r.operation < wanted; });
  OperationInfo info;
  if (row != std::end(kRows) && row->operation == operation) info = row->info;
  constexpr int kBlackwell = 100, kConsumerBlackwell = 120;
  switch (operation) {
    case 0x024:
      if (imad_moves(instruction)) info = {"IMAD.MOV", Class::move, Pipe::fma_heavy};
      break;
    case 0x005:
      if (instruction.bits(72, 8) != 255) info.operation_class = Class::special;
      break;
    case 0x030:
      if (half_unpacks(instruction)) info = {"HADD2.F32", Class::unpack, Pipe::fma_heavy};
      break;
    case 0x031:
      if (half_moves_immediate(instruction)) info.operation_class = Class::move;
      break;
    case 0x035:  // a number with two meanings
      if (architecture >= kConsumerBlackwell)
        info = {"IADD.64", Class::integer, Pipe::alu};
      else if (architecture >= kBlackwell)
        info = {};
      else if (half_moves_immediate(instruction))
        info.operation_class = Class::move;
      break;
    case 0x04a:
      if (architecture >= kConsumerBlackwell) info = {"UVIMNMX", Class::uniform, Pipe::uniform};
      break;
    case 0x05a:
      if (architecture >= kBlackwell) info = {"UI2F", Class::uniform, Pipe::uniform};
      break;
    case 0x05c:
      if (architecture >= kBlackwell) info = {"UF2I", Class::uniform, Pipe::uniform};
      break;
    default:
      break;
  }
  if (instruction.is_never_executed()) info = {info.name, Class::padding, Pipe::none};
  return info;
}

std::string_view to_string(MmaKind kind) {
  constexpr std::string_view kNames[kMmaKinds] = {
      "s8", "s4", "f16, f32 sums", "f16, f16 sums", "f8, f32 sums", "f8, f16 sums"};
  return kNames[static_cast<int>(kind)];
}

// Bits 75 and 85 are the depth, 86 the rows of IMMA; 83 and 84 its types of 4 bits, or tf32 of HMMA.
MmaWork mma_work(const Instruction& i) {
  constexpr int kColumns = 8, kRows16 = 16;
  const bool deep = i.bits(75, 1) != 0;
  if (i.is_never_executed()) return {};
  switch (i.operation()) {
    case operation::kImma: {
      const bool four_bits = i.bits(83, 2) != 0;
      const bool deeper = i.bits(85, 1) != 0, all_rows = i.bits(86, 1) != 0;
      const int rows = all_rows ? kRows16 : 8;
      const int depth = deeper && all_rows ? 64 : deep || deeper ? 32 : 16;
      return {.multiplications = rows * kColumns * depth,
              .kind = four_bits ? MmaKind::s4 : MmaKind::s8};
    }
    case operation::kHmma:
      if (i.bits(83, 1) != 0) return {};
      return {.multiplications = kRows16 * kColumns * (deep ? 16 : 8),
              .kind = i.bits(76, 1) != 0 ? MmaKind::f16_f32 : MmaKind::f16_f16};
    case operation::kQmma:
      return {.multiplications = kRows16 * kColumns * (deep ? 32 : 16),
              .kind = i.bits(77, 1) != 0 ? MmaKind::f8_f32 : MmaKind::f8_f16};
    default:
      return {};
  }
}

bool is_asynchronous_mma(const Instruction& instruction) {
  constexpr int kTensorMemory = 0x1ea, kFirstWgmma = 0x1f0, kLastWgmma = 0x1f3;
  const int operation = instruction.operation();
  return operation == kTensorMemory || (operation >= kFirstWgmma && operation <= kLastWgmma);
}

int shared_memory_cycles(const Instruction& i, int architecture) {
  if (i.is_never_executed()) return 0;
  // Bits of a lane: 4 is 32, 5 is 64, 6 is 128, less is narrower.
  const auto of_width = [](std::uint64_t width) { return width == 5 ? 2 : width == 6 ? 4 : 1; };
  constexpr int kMatrices[] = {1, 2, 4, 4};
  constexpr int kShuffle = 0x189, kLoadShared = 0x184;
  switch (i.operation()) {
    case operation::kLoadMatrix:
      return kMatrices[i.bits(72, 2)];
    case kLoadShared:
    case operation::kStoreShared:
      return of_width(i.bits(73, 3));
    case operation::kCopy:
      return architecture >= 100 ? kMatrices[i.bits(74, 2)] : of_width(i.bits(73, 3));
    case kShuffle:
      return 1;
    default:
      return 0;
  }
}

}  // namespace sagegen::model
