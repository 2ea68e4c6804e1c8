// Assigns rows of the register file to the virtual registers of a function.
//
// LLVM prints PTX with thousands of registers, each written once. Given rows of their own they would
// not fit a cache; sharing rows by liveness keeps the file of a warp at a few dozen kilobytes. It is
// exact per lane: a lane that could read a register before writing it keeps the register alive from the
// entry, so its row is never another one's, and an uninitialized read stays visible as one.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/emulator/ptx/cfg.h"

namespace sagegen::emulator {

struct RegisterUse {
  std::uint32_t id = 0;  // of a virtual register
  bool written = false;
};

// Where registers of a function begin a new life: they hold nothing there, whatever an earlier call left.
struct Births {
  int at = 0;  // instruction
  std::vector<std::uint32_t> ids;
};

struct SlotRequest {
  // Per virtual register: rows it takes, 1 or 2; 0 for what takes none.
  std::vector<std::uint8_t> size;
  // Per instruction of the body, in order; a guarded write does not end a life.
  std::vector<std::vector<RegisterUse>> uses;
  std::vector<bool> guarded;
  std::vector<Births> births;
  int line = 0;  // of the function, for an error
};

struct SlotAssignment {
  std::vector<std::uint32_t> row;  // per virtual register; unused ones have 0
  std::uint32_t rows = 0;
  // Of each of the request's births: the registers that may be read before they are written, whose rows
  // are theirs from there on.
  std::vector<std::vector<std::uint32_t>> unwritten;
};

// Throws ptx::ParseError where more registers live across more blocks than can be followed in a second or so.
SlotAssignment assign_slots(const SlotRequest& request, const ptx::ControlFlow& flow);

}  // namespace sagegen::emulator
