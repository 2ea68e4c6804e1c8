// Keys and set descriptions, large and hostile.
#include "sagegen/error.h"
#include "sagegen/set.h"
#include "tests/fuzz/large_cases.h"

using namespace sagegen;
using namespace sagegen::fuzz;

namespace {

std::string key_refusal(const std::string& text) {
  try {
    parse_key(text);
  } catch (const SpecError& error) {
    return error.what();
  }
  return {};
}

std::string set_refusal(const std::string& text) {
  try {
    for (const Kernel& kernel : read_set(text, "large.toml")) {
      if (!kernel.violations().empty()) return "a kernel that cannot be";
    }
  } catch (const SpecError& error) {
    return error.what();
  }
  return {};
}

const std::string kTable = "[[attention]]\ntargets = [\"sm_89\"]\n";

// Every choice of a table of 256 kernels.
const std::string kBusyTable =
    "[[attention]]\ntargets = ['sm_80', 'sm_86', 'sm_89', 'sm_120']\nhead_dim = [64, 128]\n"
    "io = ['f16', 'bf16']\ncausal = [false, true]\nsmoothing = ['k', 'none']\npv = 'f16'\n"
    "schedules = ['q128k64w4s1', 'q128k64w4s2', 'q64k64w4s1', 'q64k64w4s2']\n";

}  // namespace

TEST_CASE("large keys") {
  constexpr std::size_t kMega = 1'000'000;
  check_large(
      {
          {"a name of 50 MB", [] { return std::string(50 * kMega, 'n'); },
           "at position 1 is not the word sage"},
          {"50 MB of underscores", [] { return std::string(50 * kMega, '_'); }, "the word sage"},
          {"a number of 50 MB", [] { return "sage_fwd_d" + std::string(50 * kMega, '1'); },
           "d<head_dim>"},
          {"10 million tokens behind the target",
           [] { return "sage_quantv_d64_f16_e4m3__sm89" + times(10 * kMega, "_sage"); },
           "follows the target"},
          {"escape sequences", [] { return times(kMega, "\x1b[31m_"); },
           "at position 1 is not the word sage"},
          {"zero bytes", [] { return std::string(kMega, '\0'); },
           "at position 1 is not the word sage"},
      },
      key_refusal);
}

TEST_CASE("large set descriptions") {
  constexpr std::size_t kMega = 1'000'000;
  const std::string size = "more than 262144 bytes";
  check_large(
      {
          {"300,000 dotted parts of a key", [] { return times(300'000, "a.") + "b = 1\n"; }, size},
          {"100,000 dotted parts of a key", [] { return times(100'000, "a.") + "b = 1\n"; },
           "more than 8 parts"},
          {"a header of 100,000 parts", [] { return "[" + times(100'000, "a.") + "b]\n"; },
           "more than 8 parts"},
          {"60,000 quoted parts", [] { return times(60'000, "\"\".") + "b = 1\n"; },
           "more than 8 parts"},
          {"8 parts inside 8 braces, often",
           [] {
             const std::string deep = times(8, "{a.a.a.a.a.a.a.a=") + "1" + times(8, "}");
             return numbered(1500, "x#=" + deep + "\n");
           },
           "unknown key"},
          {"200,000 brackets", [] { return "x = " + times(200'000, "["); }, "more than 8 deep"},
          {"60,000 inline tables", [] { return "x = " + times(60'000, "{a="); },
           "more than 8 deep"},
          {"90 MB of brackets", [] { return std::string(90 * kMega, '['); }, size},
          {"a name of 50 MB", [] { return std::string(50 * kMega, 'n') + " = 1\n"; }, size},
          {"a name of 250 kB", [] { return std::string(250'000, 'n') + " = 1\n"; }, "unknown key"},
          {"a word of 250 kB",
           [] { return kTable + "io = ['" + std::string(250'000, 'w') + "']\n"; },
           "is refused: it must be f16 or bf16"},
          {"120,000 accented letters", [] { return times(120'000, "\xc3\xa9"); },
           "a letter beyond ASCII"},
          {"a list of 100,000 numbers",
           [] { return kTable + "head_dim = [" + times(100'000, "1,") + "]\n"; },
           "at most 1000 are read"},
          {"a list of 40,000 different numbers",
           [] { return kTable + "head_dim = [" + numbered(40'000, "#,") + "]\n"; },
           "at most 1000 are read"},
          {"40,000 keys", [] { return numbered(20'000, "a#=1\n"); }, "unknown key"},
          {"7,000 tables", [] { return times(7'000, "[[attention]]\ntargets=['sm_89']\n"); },
           "at most 1000 are read"},
          {"as many kernels as fit", [] { return times(100'000 / 256, kBusyTable); }, ""},
          {"more kernels than that", [] { return times(100'000 / 256 + 1, kBusyTable); },
           "more than 100000 combinations"},
          {"a product of more than 10^19",
           [] {
             const std::string all = "= [" + numbered(1000, "#,") + "]\n";
             return kTable + "head_dim" + all + "q_group" + all + "k_group" + all +
                    "io = ['f16']\n" + "schedules = [" + numbered(1000, "'q#k1w1s1',") +
                    "]\n[[quantize_rows]]\n" + "targets = 'sm_80'\nhead_dim" + all + "group" + all +
                    "scales" + all;
           },
           "more than 100000 combinations"},
          {"100,000 empty strings", [] { return times(80'000, "'' "); }, "large.toml:"},
          {"comments without an end",
           [] { return times(4'000, "#" + std::string(60, 'c') + "\n"); }, "no table of kernels"},
          {"a string without an end", [] { return "x = \"\"\"" + times(200'000, "\\"); },
           "large.toml:"},
          {"a number of 250,000 digits", [] { return "x = " + std::string(250'000, '9'); },
           "large.toml:"},
      },
      set_refusal);
}
