// Runs a libFuzzer entry without libFuzzer: a deterministic loop of mutations of seed texts, so that every
// compiler and every CI run exercises the fuzz targets. Same seeds and `seed` give the same inputs on every
// machine. The entry fails by crashing, by a sanitizer, or by letting an exception escape.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace sagegen::fuzz {

struct MutationLoop {
  std::vector<std::string> seeds;       // valid inputs; each is also run unchanged
  std::vector<std::string> dictionary;  // pieces that mutations insert
  std::uint64_t seed = 1;
  int iterations = 10000;
  std::size_t max_size = 64 * 1024;
};

// std::mt19937_64 is specified to the bit; the standard distributions are not, so none is used.
class Mutator {
 public:
  explicit Mutator(const MutationLoop& loop) : loop_(loop), random_(loop.seed) {}

  std::string next() {
    std::string text = pick(loop_.seeds);
    for (std::size_t n = 1 + below(4); n > 0; --n) mutate(text);
    if (text.size() > loop_.max_size) text.resize(loop_.max_size);
    return text;
  }

 private:
  std::size_t below(std::size_t n) { return n == 0 ? 0 : static_cast<std::size_t>(random_() % n); }
  const std::string& pick(const std::vector<std::string>& from) { return from[below(from.size())]; }

  void mutate(std::string& text) {
    const std::size_t at = below(text.size() + 1);
    const std::size_t span = below(std::min<std::size_t>(text.size() - at, 64) + 1);
    switch (below(loop_.dictionary.empty() ? 6 : 7)) {
      case 0:
        text.erase(at, span);
        break;
      case 1:
        text.resize(at);
        break;
      case 2:
        text.insert(at, text.substr(at, span));
        break;
      case 3:
        text.insert(at, 1, static_cast<char>(below(256)));
        break;
      case 4:
        if (at < text.size()) text[at] = static_cast<char>(text[at] ^ (1 << below(8)));
        break;
      case 5: {
        const std::string& other = pick(loop_.seeds);
        text = text.substr(0, at) + other.substr(below(other.size() + 1));
        break;
      }
      default:
        text.insert(at, pick(loop_.dictionary));
        break;
    }
  }

  const MutationLoop& loop_;
  std::mt19937_64 random_;
};

inline void run(const std::string& text) {
  // A copy without the terminator, so that a sanitizer sees every read behind the end.
  const std::vector<std::uint8_t> bytes(text.begin(), text.end());
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

// Returns the number of inputs that were run.
inline int run(const MutationLoop& loop) {
  for (const std::string& text : loop.seeds) run(text);
  Mutator mutator(loop);
  for (int i = 0; i < loop.iterations; ++i) run(mutator.next());
  return static_cast<int>(loop.seeds.size()) + loop.iterations;
}

}  // namespace sagegen::fuzz
