// `sagegen kv plan`, but for the words of the group.
#include <catch2/catch.hpp>
#include <filesystem>

#include "tests/tune/temporary_folder.h"
#include "tools/reference/whole_file.h"
#include "tools/sagegen/errors.h"
#include "tools/sagegen/kv_plan.h"
#include "tools/sagegen/progress.h"

using namespace sagegen;
using namespace sagegen::cli;
using Catch::Contains;

namespace {

// The command refers to the options that it was read from.
struct Parsed {
  CLI::App app;
  KvPlanCommand command;
  explicit Parsed(const std::string& words) {
    command.inputs = SAGEGEN_SOURCE_DIR "/tests/data/minilm_layers.safetensors";
    define_kv_plan(app, command);
    app.parse(words);
  }
};

Exit planned(const KvPlanCommand& command) {
  silence_progress();
  Output output("kv plan", OutputFormat::json);
  return kv_plan(
      command,
      [](const kv::Map& map, std::string_view) {
        std::string text;
        for (const kv::Layer& layer : map.layers) text += kv::to_string(layer[0]) + "\n";
        return text;
      },
      output);
}

}  // namespace

TEST_CASE("options of sagegen kv plan") {
  const Parsed none("");
  const KvPlanCommand& usual = none.command;
  CHECK(usual.plan.protect == 2);
  CHECK(usual.measure.queries == 128);
  CHECK(usual.causal == Causal::bottom_right);
  const Parsed all(
      "--mode kivi --group 64 --residual 128 --hadamard --smooth-k --queries 0 --candidates 4,8,16 "
      "--cap-bits 5.5 "
      "--bits effective --protect 0 --per-head --similar 1 --context 100000 --causal none "
      "--softmax-scale 0.5");
  const KvPlanCommand& command = all.command;
  CHECK(command.measure.cache == kv::CacheModel{.grouping = kv::Grouping::kivi,
                                                .group = 64,
                                                .residual = 128,
                                                .smooth_k = true,
                                                .hadamard = true});
  CHECK(command.measure.queries == 0);
  CHECK(command.plan.code_bits == std::vector{4, 8, 16});
  CHECK(command.cap_bits == 5.5);
  CHECK(command.plan.bits == kv::BitMeasure::effective);
  CHECK(command.plan.protect == 0);
  CHECK(command.plan.per_head);
  CHECK(command.plan.similar == 1);
  CHECK(command.plan.context == 100'000);
  CHECK(command.causal == Causal::none);
  CHECK(command.softmax_scale == 0.5);
  for (const char* words : {"--candidates 3", "--mode int4", "--cap-bits 65", "--protect -1"})
    CHECK_THROWS_AS(Parsed(words), CLI::ValidationError);
}

TEST_CASE("a plan writes its map, its page and its state, and the next one goes on") {
  const tests::TemporaryFolder folder;
  Parsed read("--causal none --protect 1 --cap-bits 5 --queries 10");
  KvPlanCommand& command = read.command;
  command.out = folder.path() / "map";
  command.html = folder.path() / "page.html";
  command.state = folder.path() / "state.json";
  CHECK(planned(command) == Exit::ok);
  const std::string map = reference::read_whole_file(command.out);
  CHECK(map.starts_with("KV8\n"));
  CHECK(map.ends_with("\nKV8\n"));
  const std::string page = reference::read_whole_file(command.html);
  CHECK_THAT(page, Contains("minilm_layers.safetensors: 6 layers, 4 KV heads, head_dim 32"));
  const std::string state = reference::read_whole_file(command.state);
  CHECK(planned(command) == Exit::ok);
  CHECK(reference::read_whole_file(command.state) == state);
  CHECK(reference::read_whole_file(command.out) == map);
  CHECK(reference::read_whole_file(command.html) == page);
  command.causal = Causal::bottom_right;
  CHECK_THROWS_WITH(planned(command), Contains("layer 0 was measured with inputs of digest"));
}

TEST_CASE("options that would have no effect are refused") {
  for (const char* words : {"--group 64", "--residual 64"}) {
    CHECK_THROWS_WITH(planned(Parsed(words).command), Contains("is refused without --mode kivi"));
  }
}

TEST_CASE("plans that cannot be made leave no file behind") {
  const tests::TemporaryFolder folder;
  Parsed read("--causal none --cap-bits 3 --queries 4");
  KvPlanCommand& command = read.command;
  command.out = folder.path() / "map";
  CHECK_THROWS_WITH(planned(command), Contains("a cap of 3 bits is refused"));
  CHECK(!std::filesystem::exists(command.out));
  command.out = folder.path() / "none" / "map" / "";
  CHECK_THROWS_AS(planned(command), cli::FileError);
}
