// Drawings as text: what is written is XML whatever is drawn, and the pipeline's figures are the simulation's.
#include <catch2/catch.hpp>
#include <string>

#include "tests/assembly/machine_code.h"
#include "tools/pictures/pictures.h"
#include "tools/pictures/svg.h"

namespace sagegen::pictures {
namespace {

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("a document holds what was drawn, and is as large") {
  Svg svg("a < b & \"c\"");
  svg.rect(10, 20, 100, 50.123456, {.fill = "#ffffff", .stroke = "#000000"}, "x > y");
  svg.line(0, 0, 30, 200, "#000000");
  svg.text(90, 40, "<&>", {.size = 10, .anchor = Anchor::middle, .bold = true});
  const std::string text = svg.document();
  CHECK(has(text, "<title>a &lt; b &amp; &quot;c&quot;</title>"));
  CHECK(has(text, "<title>x &gt; y</title>"));
  CHECK(has(text, ">&lt;&amp;&gt;</text>"));
  CHECK(has(text, R"(text-anchor="middle" font-weight="bold")"));
  CHECK(has(text, R"(height="50.12")"));
  CHECK(has(text, R"(viewBox="0 0 126 216")"));  // 110 x 200, and a margin
}

TEST_CASE("a text is as wide as its letters, whatever their bytes") {
  CHECK(text_width("abcd", 10) == 2 * text_width("ab", 10));
  CHECK(text_width("\xc3\xa4", 10) == text_width("a", 10));
}

TEST_CASE("the pipeline of a loop that waits in known ways") {
  using namespace model;
  using namespace sagegen::test;
  // Two mma, and additions between which a warp waits three cycles: the tensor core is busy for 32 of 62.
  ModelledLoop loop;
  for (int i = 0; i < 2; ++i) loop.path.steps.push_back({imma_s8(), false});
  for (int i = 0; i < 15; ++i) loop.path.steps.push_back({plain(0x021, {.stall = 4}), false});
  loop.warps = 1;
  const std::string one = draw_pipeline(loop, *find_gpu("RTX4090"), "a loop");
  CHECK(has(one, "does a tile of the main loop: 62 cycles"));
  CHECK(has(one, "warp 0: issues 27.4 %"));  // 17 of 62
  CHECK(has(one, "stall count 72.6 %"));     // 45 of 62
  CHECK(has(one, ">tensor core</text>"));
  CHECK(has(one, ">51.6 %</text>"));  // 32 of 62
  CHECK(has(one, "instruction 2 of 17: FADD"));
  CHECK_FALSE(has(one, ">MUFU</text>"));  // takes no part in it
  loop.warps = 2;
  CHECK(has(draw_pipeline(loop, *find_gpu("RTX4090"), "a loop"), "warp 1: issues"));
  loop.path.steps.clear();
  CHECK_THROWS_WITH(draw_pipeline(loop, *find_gpu("RTX4090"), "nothing"),
                    Catch::Contains("needs instructions"));
}

}  // namespace sagegen::pictures
