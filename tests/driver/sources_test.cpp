// Which target serves which device, and the sources of PTX.
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "runtime/artifacts/key_words.h"
#include "runtime/artifacts/target_choice.h"
#include "sagegen/runtime/artifacts.h"
#include "sagegen/runtime/bundle.h"
#include "sagegen/runtime/error.h"
#include "tests/driver/kernels.h"

using namespace sagegen;
using namespace sagegen::runtime;
using namespace sagegen::test;
using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;
namespace fs = std::filesystem;

namespace {

constexpr Target plain(int sm) { return {.sm = sm, .suffix = '\0'}; }
constexpr Target own(int sm) { return {.sm = sm, .suffix = 'a'}; }
constexpr Target family(int sm) { return {.sm = sm, .suffix = 'f'}; }

std::string names_of(const std::vector<Target>& targets, const std::vector<std::size_t>& which) {
  std::string names;
  for (const std::size_t i : which) names += (names.empty() ? "" : " ") + to_string(targets[i]);
  return names;
}

class Folder {
 public:
  Folder() {
    std::random_device random;
    path_ = fs::temp_directory_path() / ("sagegen_sources_" + std::to_string(random()));
    fs::create_directories(path_);
  }
  ~Folder() { fs::remove_all(path_); }
  const fs::path& path() const { return path_; }
  fs::path write(const std::string& name, const std::string& text) const {
    std::ofstream(path_ / name, std::ios::binary) << text;
    return path_ / name;
  }

 private:
  fs::path path_;
};

}  // namespace

TEST_CASE("where PTX of a target loads") {
  struct Case {
    Target ptx;
    std::vector<int> on, not_on;
  };
  const Case cases[] = {
      {plain(80), {80, 86, 89, 90, 100, 121}, {75}}, {plain(89), {89, 90, 103}, {80, 86}},
      {own(90), {90}, {89, 100, 120, 91}},           {own(100), {100}, {103}},
      {family(100), {100, 103}, {110, 120, 90}},     {family(103), {103}, {100, 110}},
      {family(120), {120, 121}, {130, 110}},
  };
  for (const Case& c : cases) {
    for (const int device : c.on) {
      INFO(to_string(c.ptx) << " on " << device);
      CHECK(loads_on(c.ptx, device));
    }
    for (const int device : c.not_on) {
      INFO(to_string(c.ptx) << " on " << device);
      CHECK_FALSE(loads_on(c.ptx, device));
    }
  }
}

TEST_CASE("a device takes its own architecture, then its family, then plain PTX") {
  const std::vector<Target> all{plain(80),   plain(86),   plain(89),  plain(90),   own(90),
                                own(100),    family(100), plain(103), family(103), plain(120),
                                family(120), own(120),    plain(121)};
  const auto of_device = [&](int capability) {
    return names_of(all, replacements(all, target_of_device(capability)));
  };
  CHECK(of_device(75).empty());
  CHECK(of_device(80) == "sm_80");
  CHECK(of_device(87) == "sm_86 sm_80");
  CHECK(of_device(90) == "sm_90a sm_90 sm_89 sm_86 sm_80");
  CHECK(of_device(100) == "sm_100a sm_100f sm_90 sm_89 sm_86 sm_80");
  CHECK(of_device(103) == "sm_103f sm_100f sm_103 sm_90 sm_89 sm_86 sm_80");
  CHECK(of_device(110) == "sm_103 sm_90 sm_89 sm_86 sm_80");
  CHECK(of_device(120) == "sm_120a sm_120f sm_120 sm_103 sm_90 sm_89 sm_86 sm_80");
  CHECK(of_device(121) == "sm_120f sm_121 sm_120 sm_103 sm_90 sm_89 sm_86 sm_80");
}

TEST_CASE("what takes a target's place loads wherever that one does") {
  std::vector<Target> all;
  for (const int sm : {80, 86, 89, 90, 100, 103, 110, 120, 121}) {
    all.push_back(plain(sm));
    if (sm >= 90) all.push_back(own(sm));
    if (sm >= 100) all.push_back(family(sm));
  }
  for (const Target wanted : all) {
    const std::vector<std::size_t> found = replacements(all, wanted);
    REQUIRE_FALSE(found.empty());
    CHECK(all[found.front()] == wanted);
    for (std::size_t i = 0; i < all.size(); ++i) {
      bool reaches = true;
      for (int device = 75; device < 140; ++device)
        reaches = reaches && (!loads_on(wanted, device) || loads_on(all[i], device));
      INFO(to_string(all[i]) << " for " << to_string(wanted));
      CHECK(reaches == (std::ranges::find(found, i) != found.end()));
    }
  }
  CHECK_FALSE(closest_target({}, plain(90)).has_value());
}

TEST_CASE("a target is chosen where kernels for it exist, and not before") {
  const std::vector<Target> today{plain(80), plain(86), plain(89), plain(120)};
  std::vector<Target> hopper = today;
  hopper.push_back(own(90));
  CHECK(best_target(90, today) == plain(89));
  CHECK(best_target(90, hopper) == own(90));
  CHECK(best_target(100, hopper) == plain(89));
  CHECK(best_target(89, hopper) == plain(89));
  CHECK_THROWS_WITH(best_target(75, hopper),
                    Contains("7.5") && Contains("sm_80, sm_86, sm_89, sm_120, sm_90a"));
  CHECK_THROWS_AS(best_target(90, {}), SpecError);
  // The driver compiles sm_89 from CUDA 12.4 on.
  CHECK(choose_target(90, 12020, today).target == plain(86));
  CHECK(choose_target(90, 12020, std::vector{plain(80), plain(89)}).target == plain(80));
  CHECK(choose_target(89, 12020, std::vector{plain(89)}).target == plain(89));
  CHECK_FALSE(default_targets().empty());
  for (const Target target : default_targets()) CHECK_NOTHROW(target_info(target));
}

TEST_CASE("the words of a key that say kind and target") {
  for (const Target target : {plain(80), own(90), family(120)}) {
    CHECK(target_of_key(attention_for(target).key()) == target);
  }
  CHECK(family_of_key(attention_for(plain(80)).key()) == "sage_fwd");
  CHECK(family_of_key("one") == "one");
  CHECK(family_of_key("one_two") == "one_two");
  for (const char* odd : {"", "sm", "x_sm", "x_sma", "x_sm89b", "x_sm89_", "x_sm-8", "sm89",
                          "x_sm0", "x_sm99999999999", "x_smooth"}) {
    INFO(odd);
    CHECK_FALSE(target_of_key(odd).has_value());
  }
  const std::vector<std::string_view> keys{"a_sm120f", "b_sm80", "c_sm90a", "d_sm80", "README"};
  CHECK(targets_of(keys) == std::vector{plain(80), own(90), family(120)});
}

TEST_CASE("a directory falls back to a lower target as the embedded set does") {
  const Folder folder;
  const ArtifactSource source = ptx_directory(folder.path());
  folder.write(attention_for(plain(80)).key() + ".ptx", "of sm_80");
  CHECK(source(attention_for(plain(80)))->code == "of sm_80");
  CHECK(source(attention_for(plain(89)))->code == "of sm_80");
  CHECK(source(attention_for(own(90)))->code == "of sm_80");
  folder.write(attention_for(plain(89)).key() + ".ptx", "of sm_89");
  CHECK(source(attention_for(plain(89)))->code == "of sm_89");
  CHECK(source(attention_for(plain(86)))->code == "of sm_80");
  const sagegen::Kernel other(attention::family(), {.head_dim = 64}, plain(89));
  CHECK_THROWS_WITH(source(other), Contains(other.key()) && Contains(folder.path().string()) &&
                                       Contains("sagegen emit --out") &&
                                       Contains(attention_for(plain(80)).key()));
  CHECK_THROWS_WITH(ptx_directory("/nowhere")(other),
                    Contains("/nowhere") && Contains("none at all"));
  CHECK_THROWS_AS(ptx_directory("/nowhere")(other), SpecError);
}

TEST_CASE("PTX that is there and cannot be read is no missing kernel") {
  const Folder folder;
  const std::string file = attention_for(plain(89)).key() + ".ptx";
  folder.write(attention_for(plain(80)).key() + ".ptx", "of sm_80");
  folder.write(file, "");
  CHECK_THROWS_AS(ptx_directory(folder.path())(attention_for(plain(89))), ArtifactError);
  fs::remove(folder.path() / file);
  fs::create_directory(folder.path() / file);
  CHECK_THROWS_WITH(ptx_directory(folder.path())(attention_for(plain(89))),
                    Contains(file + ": cannot be read: Is a directory"));
  CHECK_THROWS_AS(ptx_bundle(folder.path() / "none"), ArtifactError);
  CHECK_THROWS_AS(ptx_at(folder.write("text", "no bundle")), ArtifactError);
}

TEST_CASE("a bundle file is a source, too") {
  const Folder folder;
  const std::string of_80 = attention_for(plain(80)).key(),
                    of_120 = attention_for(plain(120)).key();
  const fs::path file =
      folder.write("kernels", write_bundle({{of_80, "of sm_80"}, {of_120, "of sm_120"}}));
  for (const ArtifactSource& source : {ptx_bundle(file), ptx_at(file)}) {
    CHECK(source(attention_for(plain(120)))->code == "of sm_120");
    CHECK(source(attention_for(plain(90)))->code == "of sm_80");
    CHECK_THROWS_WITH(
        source(attention_for(plain(75))),
        Contains(file.string()) && Contains("sm_80, sm_120, which do not load on sm_75"));
  }
  folder.write(of_80 + ".ptx", "of sm_80");
  CHECK(ptx_at(folder.path())(attention_for(plain(90)))->code == "of sm_80");
}

TEST_CASE("a chain takes the first source that has the kernel, and else tells what all say") {
  const Set low({plain(80)}), high({plain(120)});
  const auto generator = [](const sagegen::Kernel& kernel) {
    if (kernel.target().sm == 75) throw CodegenError("the generator says no");
    return artifact_of_ptx(kernel, "made");
  };
  CHECK(chain({low.source(), high.source()})(attention_for(plain(120)))->code == "sm_80");
  CHECK(chain({high.source(), low.source()})(attention_for(plain(120)))->code == "sm_120");
  CHECK(chain({high.source(), low.source()})(attention_for(plain(89)))->code == "sm_80");
  CHECK(chain({high.source(), generator})(attention_for(plain(89)))->code == "made");
  CHECK_THROWS_AS(chain({low.source(), high.source(), generator})(attention_for(plain(75))),
                  SpecError);
  CHECK_THROWS_WITH(chain({low.source(), high.source(), generator})(attention_for(plain(75))),
                    StartsWith("none of 3 sources has PTX of sage_fwd_") && Contains("\n- ") &&
                        Contains("for sm_80, which") && Contains("for sm_120, which") &&
                        Contains("the generator says no"));
  CHECK_THROWS_WITH(chain({low.source()})(attention_for(plain(75))), StartsWith("no PTX of"));
}

TEST_CASE("a chain does not pass over damage") {
  const Set low({plain(80)});
  const auto damaged = [](const sagegen::Kernel&) -> Artifact { throw ArtifactError("damaged"); };
  CHECK_THROWS_AS(chain({damaged, low.source()})(attention_for(plain(80))), ArtifactError);
  CHECK(chain({low.source(), damaged})(attention_for(plain(80)))->code == "sm_80");
  CHECK_THROWS_AS(chain({}), ArgumentError);
  CHECK_THROWS_WITH(chain({low.source(), {}}), Contains("source 1"));
}
