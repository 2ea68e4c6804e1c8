// The map that says which kernel each layer runs.
#include <catch2/catch.hpp>
#include <string>

#include "sagegen/attention.h"
#include "sagegen/runtime/error.h"

using namespace sagegen;
using attention::ModeMap;
using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;
using runtime::ArgumentError, runtime::ArtifactError;

namespace {

const std::string kHead = "sagegen.modes\t1\n";
const std::string kInt4 = "sage_fwd_d64_f16_qk_s4t_g32x64_smqk_pv_f16_f32__q128k64w4s2__sm80";
const std::string kInt8 = "sage_fwd_d64_f16_qk_s8t_g32x64_smk_pv_f16_f32__q128k64w4s2__sm80";

ModeMap parse(const std::string& body) { return ModeMap::parse(kHead + body, "modes.txt"); }

void refused(const std::string& text, const std::string& at, const std::string& why) {
  INFO(text);
  CHECK_THROWS_AS(ModeMap::parse(text, "modes.txt"), ArtifactError);
  CHECK_THROWS_WITH(ModeMap::parse(text, "modes.txt"),
                    StartsWith("modes.txt:" + at + ": ") && Contains(why));
}

}  // namespace

TEST_CASE("a map gives each layer its kernel, and the others that of *") {
  const ModeMap map = parse("# remark\n\nlayer 0\t" + kInt4 + "\tfor people\n*\t" + kInt8);
  CHECK(map.layers().size() == 2);
  CHECK(map.kernel_for("layer 0").key() == kInt4);
  CHECK(map.kernel_for("layer 1").key() == kInt8);
  CHECK(map.kernel_for("").key() == kInt8);
}

TEST_CASE("a layer that the map does not know is refused with those that it knows") {
  const ModeMap map = parse("a\t" + kInt4 + "\nb\t" + kInt8 + "\n");
  CHECK_THROWS_AS(map.kernel_for("c"), ArgumentError);
  CHECK_THROWS_WITH(map.kernel_for("c"),
                    Contains("modes.txt") && Contains("\"c\"") && Contains("it has a, b"));
  CHECK_THROWS_WITH(parse("").kernel_for("c"), Contains("no layer"));
}

TEST_CASE("maps that are none are refused with the line") {
  refused("", "1", "first line");
  refused("{}\n", "1", "first line");
  refused("sagegen.modes\t2\na\t" + kInt8, "1", "first line");
  refused(kHead + "a\n", "2", "a line is a layer, a tab");
  refused(kHead + "a " + kInt8 + "\n", "2", "a line is a layer, a tab");
  refused(kHead + "\t" + kInt8 + "\n", "2", "a line is a layer, a tab");
  refused(kHead + "a\t" + kInt8 + "\n\na\t" + kInt4, "4", "a line already");
  refused(kHead + "a\tint8-fp16\n", "2", "int8-fp16");
  refused(kHead + "a\t" + kInt8 + "\r\n", "2", "position");
  refused(kHead + "a\tsage_quantv_d128_f16_e4m3__sm120\n", "2", "an attention kernel");
  // A key of the right form, of a kernel that cannot be.
  refused(kHead + "a\tsage_fwd_d64_f16_qk_s8t_g32x64_smk_pv_e4m3_f32x2__q128k64w4s2__sm80\n", "2",
          "pv e4m3 is refused on sm_80");
}

TEST_CASE("a file that is not there is named") {
  CHECK_THROWS_AS(ModeMap::read("/no/modes.txt"), ArtifactError);
  CHECK_THROWS_WITH(ModeMap::read("/no/modes.txt"), Contains("/no/modes.txt"));
}
