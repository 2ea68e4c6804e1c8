#include <fmt/format.h>

#include "sagegen/runtime/device.h"
#include "sagegen/runtime/emulator.h"
#include "templates/attention/plan.h"
#include "tools/sagegen/app.h"

namespace sagegen::cli {
namespace {

struct DevicesOptions {};

struct Row {
  std::string name;  // as `run --device` takes it
  std::string what;
  int compute_capability;
  std::string target;  // best target, or why there is none
  std::string note;    // why it is a lower one than the device's
  int multiprocessors;
  double gib;
};

std::string target_or_reason(const runtime::Device& device, std::string& note) {
  try {
    note = runtime::best_target_note(device);
    return to_string(runtime::best_target(device));
  } catch (const SpecError& error) {
    return error.what();
  }
}

Row row_of(const runtime::Device& device, const std::string& name) {
  std::string note;
  std::string target = target_or_reason(device, note);
  return {.name = name,
          .what = device.name(),
          .compute_capability = device.compute_capability(),
          .target = std::move(target),
          .note = std::move(note),
          .multiprocessors = device.attribute(runtime::DeviceAttribute::multiprocessor_count),
          .gib = static_cast<double>(device.total_memory()) / (1024.0 * 1024.0 * 1024.0)};
}

Exit print_devices(const DevicesOptions&, Output& output) {
  std::vector<Row> rows;
  std::string why;
  if (const auto cuda = runtime::load_cuda(&why)) {
    int count = 0;
    runtime::check(*cuda, cuda->device_count(&count), "cuDeviceGetCount");
    for (int i = 0; i < count; ++i)
      rows.push_back(row_of(runtime::Device(cuda, i), fmt::format("cuda:{}", i)));
  }
  const auto emulator = runtime::make_emulator();
  int profiles = 0;
  runtime::check(*emulator, emulator->init(), "cuInit");
  runtime::check(*emulator, emulator->device_count(&profiles), "cuDeviceGetCount");
  for (int i = 0; i < profiles; ++i) {
    const auto profile = static_cast<runtime::EmulatorProfile>(i);
    rows.push_back(row_of(runtime::Device(emulator, i), "emulator:" + runtime::to_string(profile)));
  }
  Table table({"device", "name", "capability", "target", "SMs", "GiB"});
  Json list = Json::array();
  for (const Row& row : rows) {
    const std::string capability =
        fmt::format("{}.{}", row.compute_capability / 10, row.compute_capability % 10);
    table.add({row.name, row.what, capability, row.target, std::to_string(row.multiprocessors),
               fmt::format("{:.1f}", row.gib)});
    list.push_back({{"device", row.name},
                    {"name", row.what},
                    {"compute_capability", capability},
                    {"target", row.target},
                    {"multiprocessors", row.multiprocessors},
                    {"memory_gib", row.gib}});
    if (!row.note.empty()) list.back()["note"] = row.note;
  }
  output.text(table.text());
  for (const Row& row : rows) {
    if (!row.note.empty()) output.text(fmt::format("{}: {}\n", row.name, row.note));
  }
  if (!why.empty()) output.text("no CUDA device: " + why + "\n");
  Json fields{{"devices", list}, {"cuda", why.empty()}};
  if (!why.empty()) fields["why_no_cuda"] = why;
  output.json(fields);
  return Exit::ok;
}

}  // namespace

void add_devices(App& app) {
  app.add<DevicesOptions>(
      "devices", "list what kernels can run on here, and say why a GPU is not there",
      "  sagegen devices\n  sagegen devices --json", [](CLI::App&, DevicesOptions&) {},
      print_devices);
}

}  // namespace sagegen::cli
