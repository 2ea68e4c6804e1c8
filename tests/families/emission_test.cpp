// Every legal schedule of every family becomes PTX that needs exactly what the family says: threads, shared
// memory, parameters. The PTX is read as a runtime reads it.
#include <catch2/catch.hpp>

#include <set>

#include "sagegen/emit.h"
#include "sagegen/runtime/ptx_entry.h"
#include "tests/families/random_kernels.h"

using namespace sagegen;

namespace {

void check(const Kernel& kernel) {
  INFO(kernel.key());
  const Artifact artifact =
      emit(kernel);  // throws unless it carves the shared memory that was said
  const Resources need = kernel.resources();
  const ParamLayout params = kernel.params();
  CHECK(artifact.key == kernel.key());
  CHECK(artifact.entry == kernel.key());
  CHECK(artifact.resources.threads == need.threads);
  CHECK(artifact.resources.dynamic_smem == need.dynamic_smem);
  CHECK(artifact.params == params.digest());
  CHECK(params_of_ptx(artifact.code) == params.digest());
  CHECK(runtime::ptx_target(artifact.code) == to_string(kernel.target()));
  const std::vector<runtime::PtxEntry> entries = runtime::ptx_entries(artifact.code);
  REQUIRE(entries.size() == 1);
  const runtime::PtxEntry& entry = entries.front();
  CHECK(entry.name == kernel.key());
  CHECK(entry.parameter_bytes() == std::vector<std::size_t>{params.bytes()});
  CHECK(entry.required_block.x == static_cast<unsigned>(need.threads));
  CHECK(entry.required_block.y <= 1);
  CHECK(entry.required_block.z <= 1);
}

// A valid kernel of each value of each field, on every target that has one.
std::vector<Kernel> one_of_each_value(const Family& family, test::RandomKernels& random) {
  std::set<std::string> wanted;
  const auto labels = [&](const Kernel& kernel) {
    std::vector<std::string> list;
    for (const Field& field : family.what)
      list.push_back(std::string(field.name) + field.word(field.get(kernel.spec())));
    for (const Field& field : family.how)
      list.push_back(std::string(field.name) + field.word(field.get(kernel.schedule())));
    list.push_back(to_string(kernel.target()));
    return list;
  };
  std::vector<Kernel> kernels;
  for (int tries = 0; tries < 300; ++tries) {
    const Kernel kernel = random.valid();
    bool fresh = false;
    for (const std::string& label : labels(kernel)) fresh |= wanted.insert(label).second;
    if (fresh) kernels.push_back(kernel);
  }
  return kernels;
}

}  // namespace

TEST_CASE("a kernel with each value of each field becomes PTX that needs what its family says",
          "[fast]") {
  for (const Family* family : builtin_families().all()) {
    test::RandomKernels random(*family, 1);
    const std::vector<Kernel> kernels = one_of_each_value(*family, random);
    CHECK(kernels.size() >= 2);
    for (const Kernel& kernel : kernels) check(kernel);
  }
}

TEST_CASE("every legal schedule becomes PTX that needs what its family says", "[full]") {
  for (const Family* family : builtin_families().all()) {
    test::RandomKernels random(*family, 2);
    std::set<std::string> done;
    // All schedules of what is usual on a target, and of some other kernels.
    std::vector<Kernel> starts;
    for (const TargetInfo& info : supported_targets()) {
      const Kernel usual = kernel_of_options(*family, "", info.target);
      if (usual.violations().empty()) starts.push_back(usual);
    }
    for (int i = 0; i < 4; ++i) starts.push_back(random.valid());
    for (const Kernel& start : starts) {
      for (const Kernel& kernel : start.schedules()) {
        if (done.insert(kernel.key()).second) check(kernel);
      }
    }
    for (int i = 0; i < 100; ++i) {
      const Kernel kernel = random.valid();
      if (done.insert(kernel.key()).second) check(kernel);
    }
    CHECK(done.size() > 4);
  }
}
