// Values of the kernel DSL: small typed handles that are free to copy. The instructions they stand for
// live in the KernelBuilder; nothing here owns anything.
// Their operators are in operators.h.
#pragma once

namespace llvm {
class Value;
}

namespace sagegen::dsl {

class KernelBuilder;

// Where a template called a verb. Defaulted arguments of verbs capture it, so errors and line info name
// the template's line.
struct SourceLoc {
  const char* file;
  int line;
  static constexpr SourceLoc here(const char* file = __builtin_FILE(),
                                  int line = __builtin_LINE()) {
    return {file, line};
  }
};

struct ValueBase {
  KernelBuilder* k = nullptr;
  llvm::Value* v = nullptr;
};

struct Pred : ValueBase {};
// Also the raw bits of a packed register: 4 x s8, 4 x e4m3, 2 x f16, 8 x s4.
struct I32 : ValueBase {};
struct I64 : ValueBase {};
struct F32 : ValueBase {};

enum class Space { global, shared };

// A byte address. + moves by bytes.
template <Space S>
struct Ptr : ValueBase {};
using GlobalPtr = Ptr<Space::global>;
using SharedPtr = Ptr<Space::shared>;

template <typename T>
class Var;

// An operand with the line that uses it. An operator cannot have a defaulted argument, but the conversion
// of its operand can: I32 operator+(Here<I32>, I32) knows where the + stands. Never written by hand.
template <typename T>
struct Here {
  Here(T operand, SourceLoc at = SourceLoc::here()) : value(operand), loc(at) {}
  Here(const Var<T>& operand, SourceLoc at = SourceLoc::here()) : value(operand.get(at)), loc(at) {}
  T value;
  SourceLoc loc;
};

}  // namespace sagegen::dsl
