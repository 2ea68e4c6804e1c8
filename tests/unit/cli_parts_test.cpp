// Parts of the command-line tool that need no process: digests, tables, kernel choice, descriptions.
#include <catch2/catch.hpp>
#include <cmath>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <set>
#include <string>
#include <thread>

#include "sagegen/error.h"
#include "tools/sagegen/app.h"
#include "tools/sagegen/command_tree.h"
#include "tools/sagegen/emulation_cost.h"
#include "tools/sagegen/help.h"
#include "tools/sagegen/kernel_choice.h"
#include "tools/sagegen/output.h"
#include "tools/sagegen/progress.h"
#include "tools/sagegen/run_attention.h"
#include "tools/sagegen/sha256.h"

using namespace sagegen;
using namespace sagegen::cli;

TEST_CASE("SHA-256: the vectors of FIPS 180-4 and of its example documents") {
  CHECK(sha256("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(sha256("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(sha256(std::string(1000000, 'a')) ==
        "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST_CASE("SHA-256: lengths around the padding's boundaries") {
  // Digests of n times 'x', from another implementation.
  const std::pair<std::size_t, const char*> cases[] = {
      {1, "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"},
      {54, "45f316e10b2c99abf374b22bda893cf3300d77263f1e272349ed414680522952"},
      {55, "d5e285683cd4efc02d021a5c62014694958901005d6f71e89e0989fac77e4072"},
      {56, "04c26261370ee7541549d16dee320c723e3fd14671e66a099afe0a377c16888e"},
      {57, "ae14a2563ccf969d99aca69ce6bb74981f734bbf9f655f73b8f06db68cab5217"},
      {63, "75220b47218278e656f2013bb8f0c455a25eaf01e86c64924e9d48d89776d6f2"},
      {64, "7ce100971f64e7001e8fe5a51973ecdfe1ced42befe7ee8d5fd6219506b5393c"},
      {65, "9537c5fdf120482f7d58d25e9ed583f52c02b4e304ea814db1633ad565aed7e9"},
      {119, "000b48d4edf0fa7bee3c6236ecd2785baa5db4eeb8bb54341b029e0d9fa5fb0c"},
      {120, "13f05a0b594787f5ecd315edc96141bd3243203d1b7d4f0836f37308b276ba98"},
      {128, "24da1b81d0b16df6428eee73c69fcb2a93c76bc6df706f0c6670fe6bfe800464"},
  };
  for (const auto& [length, digest] : cases) {
    INFO(length);
    CHECK(sha256(std::string(length, 'x')) == digest);
  }
}

TEST_CASE("tables align columns, numbers to the right") {
  Table table({"name", "n"});
  table.add({"a", "5"});
  table.add({"long", "1234"});
  CHECK(table.text() ==
        "name     n\n"
        "a        5\n"
        "long  1234\n");
}

TEST_CASE("chosen kernels: each once, filtered or made for a target") {
  const std::string key89 = "sage_quantrows_d64_f16_s8_r8_g32_fold__sm89";
  const auto keys = [](const KernelChoice& choice) {
    std::vector<std::string> result;
    for (const Kernel& kernel : chosen_kernels(choice)) result.push_back(kernel.key());
    return result;
  };
  CHECK(keys({.keys = {key89, key89}, .set_file = {}, .target = {}}) == std::vector{key89});
  CHECK(keys({.keys = {key89}, .set_file = {}, .target = "sm_120"}) ==
        std::vector<std::string>{"sage_quantrows_d64_f16_s8_r8_g32_fold__sm120"});
  CHECK(keys({.keys = {key89}, .set_file = {}, .target = "all"}).size() ==
        supported_targets().size());
  CHECK(keys({}) == keys({.keys = {}, .set_file = {}, .target = "all"}));
  std::size_t sum = 0;
  for (const TargetInfo& info : supported_targets()) {
    for (const Kernel& kernel : chosen_kernels({.keys = {}, .set_file = {}, .target = info.name})) {
      CHECK(kernel.target() == info.target);
      ++sum;
    }
  }
  CHECK(sum == default_set().size());
}

TEST_CASE("every kernel of the default set can be described, and each differently") {
  std::set<std::string> texts;
  for (const Kernel& kernel : default_set()) {
    std::string text = to_string(kernel.target()) + "\n";
    for (const Section& section : kernel.describe()) {
      CHECK_FALSE(section.lines.empty());
      for (const std::string& line : section.lines) text += line + "\n";
    }
    INFO(kernel.key());
    CHECK(texts.insert(text).second);
  }
}

TEST_CASE("the model of a job follows its quantization") {
  AttentionJob job;
  reference::QuantModel model = quant_model(job);  // INT8 + FP8
  CHECK(model.qk_bits == 8);
  CHECK(model.scales == reference::QuantModel::Scales::per_thread);
  CHECK(model.smooth_k);
  CHECK(model.pv == reference::QuantModel::Pv::e4m3);
  CHECK((model.v_scaled && model.v_max == 448.0));
  CHECK((model.maximum_step == 0 && model.p_max == Approx(448.0)));
  job.spec.qk = DType::s4;  // maxima are whole octaves, and so is p_offset
  model = quant_model(job);
  CHECK((model.qk_bits == 4 && model.maximum_step == 1 && model.p_max == 256.0));
  job.spec = attention::usual_spec({.sm = 80}, Granularity::per_block);
  job.spec.smoothing = Smoothing::none;
  model = quant_model(job);
  CHECK(model.scales == reference::QuantModel::Scales::per_block);
  CHECK_FALSE(model.smooth_k);
  CHECK(model.q_group == 128);
  CHECK_FALSE(model.v_scaled);  // f16 V is read as it is
  CHECK((model.p_max == 1.0 && model.maximum_slack == 0));
  job.spec.head_dim = 64;  // its registers do for maxima that stay
  CHECK(quant_model(job).maximum_slack == 8);
  job.spec.head_dim = 128;
  job.spec.io = DType::bf16;
  model = quant_model(job);
  CHECK((model.v_scaled && model.v_max == 1024.0));
  CHECK(model.output == reference::IoType::bf16);

  job.spec = {.accumulation = Accumulation::f32_f16};
  model = quant_model(job);
  CHECK((model.p_max == 224 && model.v_max == 3.5));
  job.spec.code_range = CodeRange::fine_v;
  model = quant_model(job);
  CHECK((model.p_max == 112 && model.v_max == 7));
  job.spec = {.pv = DType::f16, .accumulation = Accumulation::f32_f16};
  model = quant_model(job);  // f16 V is quantized, too
  CHECK((model.v_scaled && model.p_max == 512 && model.v_max == 1));
}

TEST_CASE(
    "accuracy bounds are wider only where tensor cores keep 13 bits, or f16 of a tile's sums") {
  const attention::Spec fp8, fp16 = with_pv(fp8, DType::f16);
  CHECK(accuracy_bound(fp8, 89).limit(0.02) == Approx(0.02 * 1.05 + 5e-4));
  CHECK(accuracy_bound(fp8, 120).limit(0.02) == Approx(0.02 * 1.02 + 2e-4));
  CHECK(accuracy_bound(fp16, 89).limit(0.02) == Approx(0.02 * 1.02 + 2e-4));
  attention::Spec half8 = fp8, half16 = fp16;
  half8.accumulation = half16.accumulation = Accumulation::f32_f16;
  CHECK(accuracy_bound(half8, 89).limit(0.02) ==
        Approx(0.02 * 1.05 + 5e-4 + 7.97e-4).epsilon(1e-3));
  CHECK(accuracy_bound(half8, 120).limit(0.02) ==
        Approx(0.02 * 1.02 + 2e-4 + 7.97e-4).epsilon(1e-3));
  CHECK(accuracy_bound(half16, 86).limit(0.02) ==
        Approx(0.02 * 1.02 + 2e-4 + 1.13e-3).epsilon(1e-3));

  // Sums are rounded as often as the device does: Hopper multiplies FP8 as f16.
  CHECK(device_arithmetic(fp8, 89).half_roundings == 0);
  CHECK(device_arithmetic(half8, 89).half_roundings == 1);
  CHECK(device_arithmetic(half8, 90).half_roundings == 4);
  CHECK(device_arithmetic(half8, 120).half_roundings == 1);
  CHECK(device_arithmetic(half16, 90).half_roundings == 1);
  CHECK((device_arithmetic(half8, 89).two_level && device_arithmetic(half8, 89).sum_bits == 13));
}

TEST_CASE("progress: how far the work is, and when it will end") {
  CHECK(progress_line("emitting", 0, 98, 2) == "emitting: 0 of 98");
  CHECK(progress_line("emitting", 49, 98, 3) == "emitting: 49 of 98, 3 s left");
  CHECK(progress_line("emitting", 98, 98, 3) == "emitting: 98 of 98, 0 s left");
  CHECK(progress_line("emitting", 1, 61, 5) == "emitting: 1 of 61, 5 min left");
  CHECK(progress_line("emitting", 1, 3601, 4) == "emitting: 1 of 3601, 4 h left");
  CHECK(progress_line("running", 0, 0, 12.4) == "running: 12 s");
}

TEST_CASE("progress is told while the work goes on, and taken off a terminal when it ends") {
  using std::chrono::milliseconds;
  for (const bool terminal : {true, false}) {
    std::string said;
    std::atomic<int> lines = 0;
    {
      Progress progress("counting", 4,
                        {.terminal = terminal,
                         .patience = milliseconds(1),
                         .interval = milliseconds(1),
                         .write = [&](const std::string& text) { said += text, ++lines; }});
      progress.advance(3);
      const int before = lines;
      while (lines < before + 2) std::this_thread::sleep_for(milliseconds(1));
    }
    CHECK(said.find("counting: 3 of 4, 0 s left") != std::string::npos);
    CHECK(said.ends_with(terminal ? "\r\x1b[K" : "left\n"));
  }
}

TEST_CASE("progress of work that counts its own steps") {
  using std::chrono::milliseconds;
  std::string said;
  std::atomic<int> lines = 0;
  std::atomic<std::uint64_t> done = 3;
  const auto two_lines_more = [&] {
    const int before = lines;
    while (lines < before + 2) std::this_thread::sleep_for(milliseconds(1));
  };
  {
    Progress progress("running",
                      [&] {
                        return Steps{done, 12};
                      },
                      {.patience = milliseconds(1),
                       .interval = milliseconds(1),
                       .write = [&](const std::string& text) { said += text, ++lines; }});
    two_lines_more();
    done = 9;
    two_lines_more();
  }
  CHECK(said.find("running: 3 of 12, ") < said.find("running: 9 of 12, "));
  CHECK(said.find("running: 9 of 12, ") != std::string::npos);
}

TEST_CASE("progress says nothing about work that ends soon") {
  std::string said;
  {
    Progress progress("counting", 4,
                      {.patience = std::chrono::hours(1),
                       .write = [&](const std::string& text) { said += text; }});
    progress.advance(4);
  }
  CHECK(said.empty());
}

TEST_CASE("help: words fill lines") {
  CHECK(filled("one two  three\nfour", 2, 10) == "  one two\n  three\n  four\n");
  CHECK(filled("incomprehensible", 2, 10) == "  incomprehensible\n");
  CHECK(filled("", 2, 10).empty());
}

TEST_CASE("help: long commands go on behind a backslash, but not within quotes") {
  const std::string command =
      "  sagegen run " + std::string(50, 'x') + " \"a b c d e f g h i\" end";
  CHECK(folded(command) ==
        "  sagegen run " + std::string(50, 'x') + " \\\n      \"a b c d e f g h i\" end");
  CHECK(folded("  sagegen run\n  sagegen list") == "  sagegen run\n  sagegen list");
}

TEST_CASE("every example in the help can be parsed") {
  std::size_t count = 0;
  for (const CommandEntry& command : commands_of(App().tree())) {
    std::string text = App().tree().get_subcommand(command.name)->get_footer();
    for (std::size_t at = 0; (at = text.find("  sagegen ", at)) != std::string::npos;) {
      std::string line = text.substr(at + 10, text.find('\n', at) - at - 10);
      at += 10;
      line.resize(std::min({line.size(), line.find("  "), line.find(" | ")}));
      INFO(line);
      App app;
      CHECK_NOTHROW(app.tree().parse(line));
      ++count;
    }
  }
  CHECK(count > 2 * commands_of(App().tree()).size());
  App app;
  CHECK_THROWS(app.tree().parse("run --frobnicate"));
}

TEST_CASE("options as data: names, values, words") {
  App app;
  const CommandEntry run = entry_of(*app.tree().get_subcommand("run"));
  const auto find = [&](const std::string& name) {
    const auto found = std::ranges::find_if(run.options, [&](const OptionEntry& option) {
      return std::ranges::find(option.names, name) != option.names.end();
    });
    REQUIRE(found != run.options.end());
    return *found;
  };
  CHECK((find("KEY").is_positional && find("KEY").value == "KEY"));
  CHECK(find("--layout").words == std::vector<std::string>{"hnd", "nhd"});
  CHECK((find("--layout").is_enumerated && !find("--target").is_enumerated));
  CHECK(find("--target").words == std::vector<std::string>{"sm_80", "sm_86", "sm_89", "sm_120"});
  CHECK((find("--lse").most == 0 && find("--q-len").most == 1 && find("--input").most == 3));
  CHECK((find("--q-len").value == "N" && find("--out").value == "FILE" &&
         find("-q").names.size() == 2));
}

TEST_CASE("scores that causal masks leave, and what emulating them is estimated to take") {
  using attention::CausalAlignment;
  const auto visible = [](int q_len, int kv_len, bool causal, CausalAlignment alignment) {
    double count = 0;
    for (int q = 0; q < q_len; ++q) {
      for (int k = 0; k < kv_len; ++k) {
        const int last = alignment == CausalAlignment::top_left ? q : q + kv_len - q_len;
        count += !causal || k <= last;
      }
    }
    return count;
  };
  for (const auto& [q_len, kv_len] : {std::pair{5, 5}, {3, 7}, {7, 3}, {1, 9}, {9, 1}}) {
    for (const CausalAlignment alignment :
         {CausalAlignment::top_left, CausalAlignment::bottom_right}) {
      for (const bool causal : {false, true})
        CHECK(visible_scores(q_len, kv_len, causal, alignment) ==
              visible(q_len, kv_len, causal, alignment));
    }
  }
  const auto seconds = [](std::int64_t tokens, bool causal, runtime::Checks checks) {
    AttentionJob job;
    job.schedule.cta_q = 128;
    job.spec.causal = causal;
    job.inputs.q.heads = 64;
    job.inputs.q.tokens = tokens;  // without data, of which nothing is asked
    job.inputs.k = job.inputs.v = job.inputs.q;
    return estimated_seconds(job, checks, {.rows = 1});
  };
  const double once = seconds(1024, false, runtime::Checks::on);
  CHECK(seconds(2048, false, runtime::Checks::on) == Approx(4 * once).epsilon(0.01));
  CHECK(seconds(1024, true, runtime::Checks::on) == Approx(once / 2).epsilon(0.01));
  CHECK(seconds(1024, false, runtime::Checks::off) < once);
}
