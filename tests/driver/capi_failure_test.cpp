// Every driver call of a life through the C API fails once, behind a libcuda.so.1 of ours: one call of the API says so
// by its status and its text, leaves what it would have written as it was, and serves when it is called again.
#include <catch2/catch.hpp>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "sagegen/sagegen.h"
#include "tests/driver/fake_cuda.h"
#include "tests/driver/fault_walk.h"
#include "tests/tune/temporary_folder.h"

using namespace sagegen::test;
using Catch::Matchers::Contains;
using sagegen::tests::TemporaryFolder;

namespace {

struct Witness {
  struct Failure {
    sagegen_status status;
    std::string text;
  };
  std::vector<Failure> failures;
  std::vector<std::string> messages;
};

// What no call of the API gives.
template <typename Pointer>
Pointer untouched() {
  return reinterpret_cast<Pointer>(std::uintptr_t{0x5a5a5a50});
}

Witness live() {
  Witness witness;
  sagegen_on_message(
      [](void* user, const char* text) {
        static_cast<std::vector<std::string>*>(user)->emplace_back(text);
      },
      &witness.messages);
  // is_untouched: of what the call writes.
  const auto step = [&](const std::function<sagegen_status()>& call,
                        const std::function<bool()>& is_untouched = [] { return true; }) {
    const sagegen_status status = call();
    if (status == SAGEGEN_OK) return;
    witness.failures.push_back({status, sagegen_last_error()});
    CHECK(is_untouched());
    INFO(sagegen_last_error());
    REQUIRE(call() == SAGEGEN_OK);
  };
  auto* device = untouched<sagegen_device*>();
  step([&] { return sagegen_device_create("cuda:0", &device); },
       [&] { return device == untouched<sagegen_device*>(); });
  constexpr std::uint64_t kNoAddress = 77;
  std::uint64_t address = kNoAddress;
  step([&] { return sagegen_memory_alloc(device, 256, &address); },
       [&] { return address == kNoAddress; });
  char host[256] = {};
  step([&] { return sagegen_memory_upload(device, address, host, sizeof host); });

  sagegen_attention_options options;
  std::memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  options.kernel = "head_dim=64";
  options.tuning = "off";
  auto* attention = untouched<sagegen_attention*>();
  step([&] { return sagegen_attention_create(device, &options, &attention); },
       [&] { return attention == untouched<sagegen_attention*>(); });
  const sagegen_shape shape = {sizeof(sagegen_shape), 1, 2, 1, 100, 77, 0, 0};
  step([&] { return sagegen_attention_prepare(attention, &shape, 1); });
  std::size_t bytes = 0;
  step([&] { return sagegen_attention_workspace_bytes(attention, &shape, &bytes); });
  const auto tensor = [](std::uint64_t data, std::int64_t heads, std::int64_t rows) {
    return sagegen_tensor{data, heads * rows * 64, rows * 64, 64};
  };
  constexpr std::uint64_t kFar = std::uint64_t{1} << 48;
  sagegen_arguments arguments;
  std::memset(&arguments, 0, sizeof arguments);
  arguments.struct_size = sizeof arguments;
  arguments.q = tensor(1 * kFar, 2, 100);
  arguments.k = tensor(2 * kFar, 1, 77);
  arguments.v = tensor(3 * kFar, 1, 77);
  arguments.o = tensor(4 * kFar, 2, 100);
  const auto run = [&](const auto& call) {
    step([&, call] { return call(attention, &shape, &arguments, 5 * kFar, bytes, nullptr); });
  };
  run(sagegen_attention_run);
  run(sagegen_attention_quantize);
  run(sagegen_attention_attend);

  sagegen_merge_options merge_options;
  std::memset(&merge_options, 0, sizeof merge_options);
  merge_options.struct_size = sizeof merge_options;
  auto* merge = untouched<sagegen_merge*>();
  step([&] { return sagegen_merge_create(device, &merge_options, &merge); },
       [&] { return merge == untouched<sagegen_merge*>(); });
  sagegen_merge_arguments parts;
  std::memset(&parts, 0, sizeof parts);
  parts.struct_size = sizeof parts;
  parts.parts = 2;
  parts.batch = 1;
  parts.heads = 2;
  parts.q_len = 100;
  parts.channels = 64;
  parts.part = tensor(6 * kFar, 2, 100);
  parts.part_stride = 2 * 100 * 64;
  parts.part_lse = 7 * kFar;
  parts.o = tensor(8 * kFar, 2, 100);
  step([&] { return sagegen_merge_run(merge, &parts, nullptr); });
  sagegen_merge_destroy(merge);

  sagegen_code_sizes sizes;
  sizes.struct_size = sizeof sizes;
  step([&] { return sagegen_attention_code_sizes(attention, &shape, 0, &sizes); });
  int next = 16;
  const auto at = [&](std::int64_t size) {
    return size == 0 ? 0 : kFar * static_cast<std::uint64_t>(next++);
  };
  sagegen_query_codes queries;
  sagegen_key_value_codes keys_values;
  std::memset(&queries, 0, sizeof queries);
  std::memset(&keys_values, 0, sizeof keys_values);
  queries.struct_size = sizeof queries;
  keys_values.struct_size = sizeof keys_values;
  queries.codes = at(sizes.q_codes);
  queries.scale = at(sizes.q_scale);
  queries.mean = at(sizes.q_mean);
  queries.lse_correction = at(sizes.lse_correction);
  keys_values.k_codes = at(sizes.k_codes);
  keys_values.k_scale = at(sizes.k_scale);
  keys_values.k_mean = at(sizes.k_mean);
  keys_values.v_codes = at(sizes.v_codes);
  keys_values.v_scale = at(sizes.v_scale);
  keys_values.v_mean = at(sizes.v_mean);
  const auto workspace = static_cast<std::size_t>(sizes.workspace);
  step([&] {
    return sagegen_attention_quantize_keys_values(attention, &shape, &arguments, &keys_values,
                                                  5 * kFar, workspace, nullptr);
  });
  step([&] {
    return sagegen_attention_quantize_queries(attention, &shape, &arguments, &keys_values,
                                              &queries, 5 * kFar, workspace, nullptr);
  });
  step([&] {
    return sagegen_attention_attend_codes(attention, &shape, &queries, &keys_values, &arguments,
                                          5 * kFar, workspace, nullptr);
  });
  step([&] { return sagegen_device_synchronize(device); });
  step([&] { return sagegen_memory_download(device, host, address, sizeof host); });
  // What is freed stays so if it is only the caller's context that is not current again.
  step([&] {
    const auto is_memory = [](const std::string& what) { return what.starts_with("memory of"); };
    const std::vector<std::string> left = fake_cuda().live();
    if (std::ranges::none_of(left, is_memory)) return SAGEGEN_OK;
    return sagegen_memory_free(device, address);
  });
  sagegen_attention_destroy(attention);
  sagegen_device_destroy(device);
  sagegen_on_message(nullptr, nullptr);
  return witness;
}

}  // namespace

TEST_CASE("every driver call behind the C API that fails is told, and the same call serves again") {
  FakeDriver& driver = fake_cuda();
  driver.set_compiles(true);
  driver.set_current(driver.foreign_context());
  const int first = driver.call_count();
  // A cache of its own each time: every life compiles.
  const auto live_anew = [] {
    const TemporaryFolder folder;
    setenv("SAGEGEN_CODE_CACHE", folder.path().c_str(), 1);
    return live();
  };
  const Witness sound = live_anew();
  CHECK(sound.failures.empty());
  CHECK(sound.messages.empty());
  REQUIRE(driver.live().empty());
  const std::vector<std::string> calls(driver.calls().begin() + first, driver.calls().end());
  CHECK(std::ranges::count(calls, "cuLinkComplete") > 3);

  const Result results[] = {Result::out_of_memory, Result::launch_failed, Result{1234}};
  std::size_t lost = 0;  // of calls that give back
  int told = 0;
  for (std::size_t n = 0; n < calls.size(); ++n) {
    const Result result = results[n % 3];
    const std::string& call = calls[n];
    const std::string purpose = purpose_of(calls, n);
    INFO("call " << n << " of " << calls.size() << ": " << call << " for " << purpose);
    driver.set_current(driver.foreign_context());
    driver.fail_call(driver.call_count() + 1 + static_cast<int>(n), result);
    const Witness witness = live_anew();
    driver.fail_call(0, Result::success);
    if (!witness.failures.empty()) {
      ++told;
      REQUIRE(witness.failures.size() == 1);
      const Witness::Failure& failure = witness.failures.front();
      // While libcuda is opened, nothing that a caller could do is at fault.
      const bool opens = failure.text.find("cannot be used") != std::string::npos;
      CHECK(failure.status == (result == Result::out_of_memory && !opens ? SAGEGEN_OUT_OF_MEMORY
                                                                        : SAGEGEN_DRIVER_ERROR));
      CHECK_THAT(failure.text, Contains(call) && Contains(driver.result_name(result)));
      CHECK(driver.current() == driver.foreign_context());
      CHECK(driver.live().size() == lost);
    } else {
      const bool compiles = call.starts_with("cuLink") || call == "cuModuleLoadDataEx" ||
                            call == "cuDriverGetVersion" ||
                            call == "cuDeviceGetAttribute";  // a clock, by which results are kept
      CHECK((gives_back(purpose) || compiles));
      CHECK(driver.live().size() <= lost + (gives_back(purpose) ? 1 : 0));
      lost = driver.live().size();
    }
    CHECK(driver.misuse().empty());
  }
  CHECK(told > 50);
  driver.set_current(driver.foreign_context());
  CHECK(live_anew().failures.empty());
}
