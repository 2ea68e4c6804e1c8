#include "tests/assembly/sass.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <stdexcept>

namespace sagegen::assembly {

namespace {

// ---- the file: a 64-bit ELF ------------------------------------------------------------

template <typename Value>
Value at(const std::string& bytes, std::size_t offset) {
  Value value{};
  if (offset > bytes.size() || bytes.size() - offset < sizeof value) {
    throw std::runtime_error("the cubin ends early");
  }
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

int architecture_of(const std::string& cubin) {
  constexpr std::size_t kAbiVersion = 8, kFlags = 0x30;
  const auto flags = at<std::uint32_t>(cubin, kFlags);
  return static_cast<int>((at<std::uint8_t>(cubin, kAbiVersion) >= 8 ? flags >> 8 : flags) & 0xff);
}

// ---- the flow of control ---------------------------------------------------------------

using Edges = std::vector<std::vector<std::size_t>>;

// Where a relative branch goes. The distance from the next instruction is in words of 4 bytes: bits
// 34-81, and from sm_90 on 8 lower bits in bits 16-23.
std::int64_t branch_target(const Code& code, std::size_t index) {
  const Instruction& branch = code.instructions[index];
  auto words = static_cast<std::int64_t>((branch.high & 0x3ffff) << 30 | branch.low >> 34);
  if (words >> 47 != 0) words -= std::int64_t{1} << 48;
  if (code.architecture >= 90) {
    words = words * 256 + static_cast<std::int64_t>(branch.low >> 16 & 0xff);
  }
  constexpr std::int64_t kWordsPerInstruction = 4;
  return static_cast<std::int64_t>(index) + 1 + words / kWordsPerInstruction;
}

// Besides its guard a branch may carry a second predicate (bits 87-90), another form of operands or,
// before sm_90, a divergence condition (bits 32-33).
bool falls_through(const Code& code, const Instruction& branch) {
  constexpr std::uint64_t kPlainForm = 0x947;
  const bool divergent = code.architecture < 90 && (branch.low >> 32 & 3) == 3;
  return !branch.is_always_executed() || (branch.low & 0xfff) != kPlainForm || divergent ||
         (branch.high >> 23 & 0xf) != 7;
}

// BSYNC, where threads meet again, counts as falling through although it may jump: that changes no loop
// of the kernels here, and tracking its barriers is not needed.
Edges successors(const Code& code) {
  Edges next(code.instructions.size());
  for (std::size_t i = 0; i < next.size(); ++i) {
    const Instruction& instruction = code.instructions[i];
    bool falls = true, jumps = false;
    switch (instruction.operation()) {
      case operation::kBranch:
        jumps = true;
        falls = falls_through(code, instruction);
        break;
      case operation::kCallRelative:  // also serves as a plain jump
        jumps = true;
        break;
      case operation::kExit:
      case operation::kKill:
        falls = !instruction.is_always_executed() && !instruction.is_never_executed();
        break;
      case operation::kReturn:
      case operation::kJump:
      case operation::kIndirectBranch:
        falls = false;
        break;
      default:
        break;
    }
    if (falls && i + 1 < next.size()) next[i].push_back(i + 1);
    const std::int64_t target = jumps ? branch_target(code, i) : -1;
    if (target >= 0 && target < static_cast<std::int64_t>(next.size())) {
      next[i].push_back(static_cast<std::size_t>(target));
    }
  }
  return next;
}

Edges reversed(const Edges& next) {
  Edges previous(next.size());
  for (std::size_t from = 0; from < next.size(); ++from) {
    for (const std::size_t to : next[from]) previous[to].push_back(from);
  }
  return previous;
}

constexpr std::size_t kNone = ~std::size_t{0};

// What is reached from an instruction along the edges if `without` is taken out.
std::vector<bool> reached(const Edges& edges, std::size_t from, std::size_t without) {
  std::vector<bool> seen(edges.size());
  std::vector<std::size_t> open;
  const auto visit = [&](std::size_t i) {
    if (i == without || seen[i]) return;
    seen[i] = true;
    open.push_back(i);
  };
  visit(from);
  while (!open.empty()) {
    const std::size_t i = open.back();
    open.pop_back();
    for (const std::size_t to : edges[i]) visit(to);
  }
  return seen;
}

}  // namespace

Code read_cubin(const std::string& cubin) {
  constexpr std::uint16_t kMachineCuda = 190;
  if (cubin.substr(0, 4) !=
          "\x7f"
          "ELF" ||
      at<std::uint16_t>(cubin, 0x12) != kMachineCuda) {
    throw std::runtime_error("not a cubin");
  }
  const std::string wanted = ".text.";
  const auto sections = at<std::uint64_t>(cubin, 0x28);
  const auto size = at<std::uint16_t>(cubin, 0x3a), sections_count = at<std::uint16_t>(cubin, 0x3c),
             names = at<std::uint16_t>(cubin, 0x3e);
  const auto name_table = at<std::uint64_t>(cubin, sections + names * size + 24u);
  std::vector<std::size_t> kernels;  // headers of their sections
  for (std::size_t i = 0; i < sections_count; ++i) {
    const std::size_t header = sections + i * size;
    const std::size_t name = name_table + at<std::uint32_t>(cubin, header);
    if (cubin.compare(std::min(name, cubin.size()), wanted.size(), wanted) == 0) {
      kernels.push_back(header);
    }
  }
  if (kernels.size() != 1) {
    throw std::runtime_error("the cubin has " + std::to_string(kernels.size()) +
                             " kernels; one is read");
  }
  const auto offset = at<std::uint64_t>(cubin, kernels[0] + 24);
  const auto bytes = at<std::uint64_t>(cubin, kernels[0] + 32);
  Code code{.architecture = architecture_of(cubin), .instructions = {}};
  for (std::uint64_t i = 0; i < bytes; i += sizeof(Instruction)) {
    code.instructions.push_back(at<Instruction>(cubin, offset + i));
  }
  return code;
}

std::vector<Loop> find_loops(const Code& code) {
  const Edges next = successors(code), previous = reversed(next);
  if (next.empty()) return {};
  const std::vector<bool> reachable = reached(next, 0, kNone);
  std::map<std::size_t, std::vector<std::size_t>> latches;  // of each header
  for (std::size_t i = 0; i < next.size(); ++i) {
    if (!reachable[i]) continue;
    for (const std::size_t header : next[i]) {
      if (header <= i && !reached(next, 0, header)[i]) latches[header].push_back(i);
    }
  }
  std::vector<Loop> loops;
  for (const auto& [header, ends] : latches) {
    std::vector<bool> in_body(next.size());
    in_body[header] = true;
    for (const std::size_t latch : ends) {
      const std::vector<bool> before = reached(previous, latch, header);
      for (std::size_t i = 0; i < next.size(); ++i) in_body[i] = in_body[i] || before[i];
    }
    Loop loop;
    for (std::size_t i = 0; i < next.size(); ++i) {
      if (!in_body[i] || !reachable[i]) continue;
      loop.body.push_back(i);
      const std::vector<bool> around = reached(next, header, i);
      if (std::none_of(ends.begin(), ends.end(), [&](std::size_t end) { return around[end]; })) {
        loop.every.push_back(i);
      }
    }
    loops.push_back(loop);
  }
  return loops;
}

int count(const Code& code, const std::vector<std::size_t>& indices, int operation) {
  return static_cast<int>(std::count_if(indices.begin(), indices.end(), [&](std::size_t i) {
    return code.instructions[i].operation() == operation;
  }));
}

}  // namespace sagegen::assembly
