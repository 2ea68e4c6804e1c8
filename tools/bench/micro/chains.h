// Independent chains of one operation per lane, in PTX and on the host. Used for rates, for
// latencies and as the work beside a stream of wgmma.
#pragma once

#include <array>
#include <functional>
#include <string>

#include "tools/bench/micro/micro.h"

namespace sagegen::micro {

// The values %x of one lane's chains; 64-bit operations use all bits, others the low 32.
struct ChainState {
  std::vector<std::array<std::uint64_t, kLanes>> x;  // [chain][lane]
  std::array<std::uint64_t, kLanes> a{}, b{};        // operands that stay
};

struct Chains {
  std::string name, what, unit;
  int chains = 8;
  int steps = 16;      // of each chain per iteration
  int operations = 1;  // per step
  int bits = 32;       // of a value
  const char* sass_name;
  int sass_opcode;
  // PTX of a step of chain c; other chains are %x0.., the operands %a and %b.
  std::function<std::string(int c, int step, int chains)> text;
  std::function<void(ChainState&, int c, int step)> advance;  // the same on the host, all lanes
  std::function<std::uint64_t(int c, int lane)> initial;
  std::function<std::uint64_t(int lane, bool second)> operand = nullptr;
  int ulps = 0;  // f32 results may differ by so many; 0: equal bits
  // PTX before the first and after the last step, with a place in shared memory of its own.
  int shared_bytes = 0;
  std::function<std::string(int offset, int chains)> setup = nullptr, finish = nullptr;
};

// All chains in a loop; out[block][warp][value][lane].
Program chain_program(const Chains& chains, const std::string& name, int threads);

const Chains& find_chains(const std::string& name);
const std::vector<Chains>& all_chains();

ChainState initial_state(const Chains& chains);
void advance(const Chains& chains, ChainState& state, std::uint32_t iterations);
Words chain_input(const Chains& chains);  // [value][lane], values of two words as [value][lane][2]
std::string chain_registers(const Chains& chains);
// From %in, offsets in bytes. Shared memory is ready after the next barrier.
std::string load_chains(const Chains& chains, int input_offset, int shared_offset);
std::string chain_steps(const Chains& chains);  // one iteration
// out[..][value][lane], values of one or two words, at %rd0.
std::string store_chains(const Chains& chains, int shared_offset);
std::size_t chain_words(const Chains& chains);  // per warp
// Empty if the words are the state.
std::string compare_chains(const Chains& chains, const ChainState& state, const std::uint32_t* out,
                           const std::string& where);

}  // namespace sagegen::micro
