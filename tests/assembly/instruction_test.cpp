// Single instructions: fields, classes, what they multiply. The words were assembled by ptxas 13.0.
#include <algorithm>
#include <catch2/catch.hpp>

#include "tests/assembly/machine_code.h"
#include "tools/model/operation_class.h"

namespace sagegen::model {
namespace {

using namespace sagegen::test;

TEST_CASE("control fields are read, and written where they are read") {
  // LDG: stall 1, write scoreboard 3, read scoreboard 2.
  const Instruction load{.low = 0x0000000806eb7981, .high = 0x0004e2000c1e1900};
  CHECK(load.control() ==
        Control{.stall = 1, .yields = false, .write_scoreboard = 3, .read_scoreboard = 2});
  // IMMA: stall 3, waits for scoreboard 2. FFMA: stall 4 and yields.
  CHECK(Instruction{.low = 0x000000c0c4807237, .high = 0x044fe60000405ccc}.control() ==
        Control{.stall = 3, .wait_mask = 4});
  CHECK(Instruction{.low = 0xc10ceaed77747423, .high = 0x000fc800000081eb}.control() ==
        Control{.stall = 4, .yields = true});

  Instruction changed = load;
  const Control all{
      .stall = 15, .yields = true, .write_scoreboard = 5, .read_scoreboard = 0, .wait_mask = 0x2a};
  changed.set(all);
  CHECK(changed.control() == all);
  changed.set(load.control());
  CHECK(changed.low == load.low);
  CHECK(changed.high == load.high);
}

struct Known {
  int architecture;
  std::uint64_t low, high;
  const char* name;
  OperationClass operation_class;
  Pipe pipe;
};

constexpr Known kKnown[] = {
    {89, 0x000000c0c4807237, 0x044fe60000405ccc, "IMMA", OperationClass::mma, Pipe::tensor},
    {80, 0x000000949818723c, 0x002fe20000001818, "HMMA", OperationClass::mma, Pipe::tensor},
    {89, 0x0000008c7480727a, 0x000fe20000002cff, "QMMA", OperationClass::mma, Pipe::tensor},
    {89, 0x0000000400047308, 0x002e620000001000, "MUFU", OperationClass::mufu, Pipe::mufu},
    {89, 0x0000780000047b06, 0x000e620000209000, "I2F", OperationClass::conversion, Pipe::mufu},
    {89, 0xcb40000080807421, 0x000fe20000000000, "FADD", OperationClass::fp32, Pipe::fma},
    {89, 0xc10ceaed77747423, 0x000fc800000081eb, "FFMA", OperationClass::fp32, Pipe::fma},
    {89, 0x00000080817d7209, 0x000fe40007800000, "FMNMX", OperationClass::minmax, Pipe::minmax},
    {120, 0x0000000a0c0c7c48, 0x000fe2000bfe0100, "VIMNMX", OperationClass::minmax, Pipe::minmax},
    {89, 0x0000008cbd77723e, 0x002fc800048070ff, "F2FP", OperationClass::pack, Pipe::alu},
    {89, 0x00000000eac4783b, 0x000fe20000000200, "LDSM", OperationClass::matrix_load, Pipe::memory},
    {89, 0x00000010ff008388, 0x000fe80000000c00, "STS", OperationClass::shared, Pipe::memory},
    {89, 0x0000000004117fae, 0x0003e2000b901c48, "LDGSTS", OperationClass::copy, Pipe::memory},
    {89, 0x0c201f007d767f89, 0x000e6400000e0000, "SHFL", OperationClass::shuffle, Pipe::memory},
    {89, 0x0000040005057a24, 0x004fe200078e0208, "IMAD", OperationClass::integer, Pipe::fma_heavy},
    {89, 0xff7fffffffa87424, 0x000fe200078e00ff, "IMAD.MOV", OperationClass::move, Pipe::fma_heavy},
    {89, 0x00000a0000017a02, 0x000fe40000000f00, "MOV", OperationClass::move, Pipe::alu},
    {89, 0xff80000080807808, 0x000fe20001000000, "FSEL", OperationClass::select, Pipe::alu},
    {89, 0x0000003f04047890, 0x000fc8000fffe03f, "UIADD3", OperationClass::uniform, Pipe::uniform},
    {89, 0x0000003f3f3ff290, 0x000fea000fffe03f, "UIADD3", OperationClass::padding, Pipe::none},
    {89, 0x00000000fffff984, 0x000fe20000000800, "LDS", OperationClass::padding, Pipe::none},
    {89, 0x0000000806eb7981, 0x0004e2000c1e1900, "LDG", OperationClass::global, Pipe::memory},
    {120, 0x0000df00ff017b82, 0x000fe20000000800, "LDC", OperationClass::constant, Pipe::memory},
    {89, 0x0000000000057919, 0x000ea20000002700, "S2R", OperationClass::special, Pipe::memory},
    {89, 0x0000000000007b1d, 0x000fe20000010000, "BAR", OperationClass::synchronization,
     Pipe::none},
    {89, 0x000002c000000947, 0x000fea0003800000, "BRA", OperationClass::branch, Pipe::none},
    {89, 0x0000000000007918, 0x000fc00000000000, "NOP", OperationClass::padding, Pipe::none},
    // One number, two meanings.
    {120, 0x0000000402047235, 0x000fc600078e0200, "IADD.64", OperationClass::integer, Pipe::alu},
    {80, 0x0000000402047235, 0x000fc600078e0200, "HFMA2.MMA", OperationClass::fp16,
     Pipe::fma_heavy},
    {120, 0x000000010409784a, 0x000fe2000ffe0100, "UVIMNMX", OperationClass::uniform,
     Pipe::uniform},
};

TEST_CASE("each instruction has its class and its pipe") {
  for (const Known& known : kKnown) {
    const OperationInfo info =
        operation_info({.low = known.low, .high = known.high}, known.architecture);
    INFO(known.name << " on sm_" << known.architecture << " is " << info.name << ", "
                    << to_string(info.operation_class));
    CHECK(info.name == known.name);
    CHECK(info.operation_class == known.operation_class);
    CHECK(info.pipe == known.pipe);
  }
  const OperationInfo unknown = operation_info(plain(0x1ff), 89);
  CHECK(unknown.name.empty());
  CHECK(unknown.operation_class == OperationClass::unknown);
  for (const int spill : {0x183, 0x187})
    CHECK(operation_info(plain(spill), 89).operation_class == OperationClass::spill);
}

TEST_CASE("classes have names of their own") {
  std::vector<std::string_view> names;
  for (int c = 0; c < kOperationClasses; ++c) {
    const std::string_view name = to_string(static_cast<OperationClass>(c));
    CHECK_FALSE(name.empty());
    CHECK(std::count(names.begin(), names.end(), name) == 0);
    names.push_back(name);
  }
}

struct Mma {
  std::uint64_t low, high;  // without control fields
  int multiplications;
  MmaKind kind;
};

// mma.sync of each shape and type, in this order.
constexpr Mma kMma[] = {
    {0x237, 0x405400, 16 * 8 * 16, MmaKind::s8},       // m16n8k16 s8
    {0x237, 0x405c00, 16 * 8 * 32, MmaKind::s8},       // m16n8k32 s8
    {0x237, 0x400c00, 16 * 8 * 32, MmaKind::s8},       // u8
    {0x237, 0x445c00, 16 * 8 * 32, MmaKind::s8},       // satfinite
    {0x237, 0x005400, 8 * 8 * 16, MmaKind::s8},        // m8n8k16
    {0x237, 0x585c00, 16 * 8 * 32, MmaKind::s4},       // m16n8k32 s4
    {0x237, 0x785400, 16 * 8 * 64, MmaKind::s4},       // m16n8k64 s4
    {0x237, 0x780400, 16 * 8 * 64, MmaKind::s4},       // u4
    {0x237, 0x385400, 8 * 8 * 32, MmaKind::s4},        // m8n8k32
    {0x23c, 0x001000, 16 * 8 * 8, MmaKind::f16_f32},   // m16n8k8
    {0x23c, 0x001800, 16 * 8 * 16, MmaKind::f16_f32},  // m16n8k16
    {0x23c, 0x041800, 16 * 8 * 16, MmaKind::f16_f32},  // bf16
    {0x23c, 0x000800, 16 * 8 * 16, MmaKind::f16_f16},  // f16 sums
    {0x23c, 0x081000, 0, MmaKind::s8},                 // tf32: no kind here
    {0x27a, 0x002c00, 16 * 8 * 32, MmaKind::f8_f32},   // e4m3
    {0x27a, 0x006c00, 16 * 8 * 32, MmaKind::f8_f32},   // e5m2 e4m3
    {0x27a, 0x000c00, 16 * 8 * 32, MmaKind::f8_f16},   // f16 sums
    {0x27a, 0x002400, 16 * 8 * 16, MmaKind::f8_f32},   // m16n8k16
};

TEST_CASE("an mma multiplies what its shape says, in the kind of its types") {
  for (const Mma& mma : kMma) {
    const MmaWork work = mma_work(of_bits(mma.low, mma.high, {.stall = 1}));
    INFO(std::hex << mma.low << " " << mma.high);
    CHECK(work.multiplications == mma.multiplications);
    if (mma.multiplications > 0) CHECK(work.kind == mma.kind);
  }
  CHECK(mma_work(plain(0x021)).multiplications == 0);
  CHECK(mma_work({.low = kNever | 0x237, .high = 0x405c00}).multiplications == 0);
  CHECK(is_integer(MmaKind::s4));
  CHECK_FALSE(is_integer(MmaKind::f8_f16));
}

TEST_CASE("wgmma is told from mma.sync") {
  for (const int operation : {0x1f0, 0x1f1, 0x1f3, 0x1ea})
    CHECK(is_asynchronous_mma(plain(operation)));
  for (const Instruction& i : {imma_s8(), hmma_f32(), qmma_f32(), plain(0x021)})
    CHECK_FALSE(is_asynchronous_mma(i));
}

TEST_CASE("accesses to shared memory take a cycle for 128 bytes of a warp") {
  const auto cycles = [](std::uint64_t low, std::uint64_t high, int architecture = 89) {
    return shared_memory_cycles({.low = low, .high = high}, architecture);
  };
  CHECK(cycles(0x00000000eac4783b, 0x000fe20000000200) == 4);  // LDSM.x4
  CHECK(cycles(0x00000000eac4783b, 0x000fe20000000100) == 2);  // LDSM.x2
  CHECK(cycles(0x0000000002147984, 0x000fe20000000c00) == 4);  // LDS.128
  CHECK(cycles(0x00000010ff008388, 0x000fe80000000800) == 1);  // STS
  CHECK(cycles(0x0000000004117fae, 0x0003e2000b901c48) == 4);  // 16 bytes per lane
  CHECK(cycles(0x0c201f007d767f89, 0x000e6400000e0000) == 1);  // SHFL
  CHECK(cycles(0x00000000fffff984, 0x000fe20000000800) == 0);  // @!PT LDS
  CHECK(cycles(0xcb40000080807421, 0x000fe20000000000) == 0);  // FADD
}

}  // namespace
}  // namespace sagegen::model
