// `sagegen emu`: a PTX kernel from anywhere, run in the emulator with all checks.
#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "tools/reference/printable.h"
#include "tools/reference/whole_file.h"
#include "tools/sagegen/app.h"
#include "tools/sagegen/emu_launch.h"
#include "tools/sagegen/emu_options.h"
#include "tools/sagegen/emu_report.h"
#include "tools/sagegen/emu_values.h"
#include "tools/sagegen/errors.h"
#include "tools/sagegen/files.h"
#include "tools/sagegen/findings.h"
#include "tools/sagegen/interrupt.h"
#include "tools/sagegen/options.h"
#include "tools/sagegen/progress.h"

namespace sagegen::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kGrammar = R"(

The file is a PTX text, or a TOML file (.toml) with ptx = "FILE" and any option
by its name without the dashes; lists where an option may be given several
times. What the command line says goes first. File names in it count from its
folder.

Arguments, one --arg for each parameter of the kernel, in order; a name in front
(x:...) is for --out and --expect, which also take the position (0, 1, ..., and
2.1 for a field of a struct):
  i32=1024, f32=0.5          a number
  f16[64x128]=VALUE          the address of a buffer of so many elements
  f32[1024]                  a buffer that the kernel has to write: what it
                             leaves is a finding
  {u64=0,f32[8]=iota,i32=8}  a struct, laid out as C does
  &x, &x+256                 the address of another buffer, 256 bytes in
types: i8 u8 i16 u16 i32 u32 i64 u64 f16 bf16 f32 f64 e4m3 e5m2
VALUE: a number; zeros; iota (0, 1, 2, ...); normal or normal(SEED) or
  normal(SEED,MEAN,DEVIATION); uniform, uniform(SEED), uniform(SEED,LOW,HIGH);
  scratch (undefined, and not looked at afterwards); or a file: x.npy,
  x.safetensors:TENSOR, x.bin (bytes as they are). f32[]=x.npy takes the file's
  shape.)";

// ---- from options to a job ------------------------------------------------------------------------

struct Kernel {
  std::string ptx;
  runtime::PtxEntry entry;
};

Kernel load_kernel(const EmuCommand& command) {
  Kernel kernel;
  kernel.ptx = read_file(command.file);
  const std::string shown = reference::printable(command.file);
  const std::vector<runtime::PtxEntry> entries = runtime::ptx_entries(kernel.ptx);
  std::vector<std::string> names;
  for (const runtime::PtxEntry& entry : entries) names.push_back(entry.name);
  if (entries.empty()) throw FileError(fmt::format("{}: no .entry in it; is it PTX?", shown));
  if (command.entry.empty() && entries.size() > 1) {
    throw UsageError(fmt::format("{} has several entries; choose one by --entry: {}", shown,
                                 reference::printable(fmt::format("{}", fmt::join(names, ", ")))));
  }
  for (const runtime::PtxEntry& entry : entries) {
    if (!command.entry.empty() && entry.name != command.entry) continue;
    kernel.entry = entry;
    return kernel;
  }
  throw UsageError(fmt::format("--entry {}: {} has no such entry{}; it has: {}",
                               reference::printable(command.entry), shown,
                               suggestion(command.entry, names),
                               reference::printable(fmt::format("{}", fmt::join(names, ", ")))));
}

std::vector<ArgumentSpec> parse_arguments(const Launch& launch) {
  std::vector<ArgumentSpec> arguments;
  for (std::size_t i = 0; i < launch.command.arg.size(); ++i) {
    try {
      arguments.push_back(parse_argument(launch.command.arg[i]));
    } catch (const UsageError& error) {
      throw UsageError(fmt::format("{}, argument {}: {}", launch.origin("arg"), i, error.what()));
    }
  }
  return arguments;
}

runtime::Dim3 block_of(const std::string& text, const std::string& what) {
  const std::vector<std::uint64_t> extents = parse_extents(text, 3, what);
  runtime::Dim3 result;
  result.x = static_cast<unsigned>(extents[0]);
  if (extents.size() > 1) result.y = static_cast<unsigned>(extents[1]);
  if (extents.size() > 2) result.z = static_cast<unsigned>(extents[2]);
  return result;
}

runtime::LaunchSize size_of(const Launch& launch, const runtime::PtxEntry& entry) {
  constexpr unsigned kMostYZ = 65535;
  const EmuCommand& command = launch.command;
  runtime::LaunchSize size;
  size.grid = block_of(command.grid, launch.origin("grid"));
  if (size.grid.y > kMostYZ || size.grid.z > kMostYZ) {
    throw UsageError(fmt::format("{} {} is refused; y and z of a grid are at most {}",
                                 launch.origin("grid"), command.grid, kMostYZ));
  }
  size.block = entry.required_block;
  if (!command.block.empty()) size.block = block_of(command.block, launch.origin("block"));
  if (size.block.x == 0) {
    throw UsageError(
        fmt::format("{} has no .reqntid; give --block, the threads of a block, such as 128 or 32x4",
                    entry.name));
  }
  size.dynamic_smem = command.shared;
  return size;
}

// KEY=REST of --out and --expect.
struct Keyed {
  std::string key, rest;
};

Keyed split(const std::string& text, const std::string& option, const char* example) {
  const std::size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0 || equals + 1 == text.size()) {
    throw UsageError(fmt::format("{} {} is refused; write KEY={}, such as {}", option,
                                 reference::printable(text),
                                 option.ends_with("out") ? "FILE" : "VALUE", example));
  }
  return {.key = text.substr(0, equals), .rest = text.substr(equals + 1)};
}

struct OutFile {
  EmuBuffer* buffer;
  fs::path path;
};

void refuse_scratch(const EmuBuffer& buffer, const std::string& about) {
  if (!buffer.is_scratch()) return;
  throw UsageError(fmt::format(
      "{}: {} is scratch, which is not looked at; leave \"=scratch\" away, or give it contents",
      about, buffer.key()));
}

// A result may not take the place of what the launch reads.
void check_not_read(const fs::path& path, const Launch& launch,
                    const std::vector<EmuBuffer>& buffers, const std::string& about) {
  std::vector<fs::path> read{launch.command.file};
  for (const EmuBuffer& buffer : buffers) {
    if (buffer.value.kind == ValueSpec::Kind::file)
      read.push_back(file_of(buffer.value.file, launch.directory("arg")));
  }
  for (const std::string& text : launch.command.expect) {
    const ValueSpec value = parse_value(split(text, launch.origin("expect"), "y=ref.npy").rest);
    if (value.kind == ValueSpec::Kind::file)
      read.push_back(file_of(value.file, launch.directory("expect")));
  }
  for (const fs::path& file : read) {
    if (!reference::is_same_file(path, file)) continue;
    throw UsageError(fmt::format("{}: {} is the same file as {}, which this launch reads", about,
                                 reference::printable(path.native()),
                                 reference::printable(file.native())));
  }
}

std::vector<Expected> open_expected(const Launch& launch, EmuArguments& arguments) {
  std::vector<Expected> result;
  for (const std::string& text : launch.command.expect) {
    const std::string about =
        fmt::format("{} {}", launch.origin("expect"), reference::printable(text));
    const Keyed keyed = split(text, launch.origin("expect"), "y=ref.npy or 2=zeros");
    EmuBuffer& buffer = arguments.find(keyed.key, about);
    refuse_scratch(buffer, about);
    try {
      const ValueSpec value = parse_value(keyed.rest);
      if (value.kind == ValueSpec::Kind::scratch) throw UsageError("scratch is no value to expect");
      result.push_back({.buffer = &buffer,
                        .text = spelled(value),
                        .source = open_source(value, buffer.type, &buffer.shape, 1,
                                              launch.directory("expect"), about),
                        .result = {}});
    } catch (const UsageError& error) {
      throw UsageError(fmt::format("{}: {}", about, error.what()));
    }
  }
  return result;
}

std::vector<OutFile> open_out(const Launch& launch, EmuArguments& arguments) {
  std::vector<OutFile> result;
  for (const std::string& text : launch.command.out) {
    const std::string about =
        fmt::format("{} {}", launch.origin("out"), reference::printable(text));
    const Keyed keyed = split(text, launch.origin("out"), "y=y.npy or 2=y.bin");
    EmuBuffer& buffer = arguments.find(keyed.key, about);
    refuse_scratch(buffer, about);
    const fs::path path = launch.directory("out") / keyed.rest;
    check_values_writable(path);
    check_not_read(path, launch, arguments.buffers(), about);
    result.push_back({.buffer = &buffer, .path = path});
  }
  return result;
}

// ---- the command ----------------------------------------------------------------------------------

std::string spelled(const runtime::Dim3& d) { return fmt::format("({}, {}, {})", d.x, d.y, d.z); }

struct Ran {
  double milliseconds = 0;
  std::vector<runtime::Finding> findings;
  bool stopped = false;  // by the launch's findings; what buffers hold is shown and not judged
};

runtime::Kernel load(const EmuDevice& on, const Kernel& kernel, const runtime::LaunchSize& size) {
  try {
    return {
        on.device, kernel.ptx, kernel.entry.name, {.dynamic_smem = size.dynamic_smem.value_or(0)}};
  } catch (const SpecError& error) {  // more than the device has was asked for
    throw UsageError(error.what());
  }
}

Ran run(const EmuDevice& on, const runtime::Kernel& kernel, const runtime::LaunchSize& size,
        EmuArguments& arguments, const runtime::EmulatorOptions& options) {
  Ran ran;
  const runtime::Stream stream(on.device);
  const auto begin = std::chrono::steady_clock::now();
  try {
    const std::vector<runtime::KernelArgument> list = arguments.list();
    kernel.launch_list(size, stream.handle(), list);
    stream.synchronize();
  } catch (const runtime::DriverError&) {
    ran.findings = on.emulator->findings();
    if (ran.findings.empty()) throw;
    ran.stopped = true;
    runtime::EmulatorOptions unchecked = options;  // what the launch did not write is no news
    unchecked.checks = runtime::Checks::off;
    on.emulator->configure(unchecked);
  }
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;
  ran.milliseconds = took.count();
  arguments.download();
  if (!ran.stopped) ran.findings = on.emulator->findings();
  return ran;
}

Exit emu(const EmuCommand& given, Output& output) {
  Launch launch = complete(given);
  EmuCommand& command = launch.command;
  const Kernel kernel = load_kernel(command);
  const std::vector<ArgumentSpec> specs = parse_arguments(launch);
  check_arguments(kernel.entry, specs);
  const runtime::LaunchSize size = size_of(launch, kernel.entry);

  command.emulator.interrupt = interrupt_flag();
  const auto progress = std::make_shared<runtime::LaunchProgress>();
  command.emulator.progress = progress;
  const EmuDevice on =
      open_emulated(command.target, runtime::ptx_target(kernel.ptx), command.emulator);
  const runtime::Kernel loaded = load(on, kernel, size);
  EmuArguments arguments(on.device, specs, launch.directory("arg"));
  std::vector<Expected> expected = open_expected(launch, arguments);
  const std::vector<OutFile> out = open_out(launch, arguments);

  const Ran ran = [&] {
    const InterruptScope interruptible;
    const Progress shown(fmt::format("running {}", kernel.entry.name), [&] {
      return Steps{progress->ended, progress->ctas};
    });
    return run(on, loaded, size, arguments, command.emulator);
  }();
  bool passed = ran.findings.empty();
  std::string verdicts;
  for (Expected& e : expected) {
    if (ran.stopped) break;
    e.result = compare(e.buffer->type, e.buffer->after, e.source, command.tolerance);
    passed = passed && e.result.differ == 0;
    verdicts += expected_text(e);
  }
  if (ran.stopped && !expected.empty())
    verdicts = "expect   not compared: the launch has findings\n";
  for (const OutFile& file : out) {
    if (!ran.stopped)
      write_values(file.path, file.buffer->type, file.buffer->shape, file.buffer->after);
  }

  const std::uint64_t instructions = on.emulator->last_launch().warp_instructions;
  const int static_smem = loaded.attribute(runtime::FunctionAttribute::shared_size_bytes);
  const char* const checks = command.emulator.checks == runtime::Checks::on ? "on" : "off";
  std::vector<std::string> texts;
  for (const ArgumentSpec& spec : specs) texts.push_back(spelled(spec));
  output.text(fmt::format(
      "kernel   {} of {}, grid {}, block {}, shared memory {} + {} bytes\n"
      "given    {}\n"
      "device   {} ({}), checks {}; {} warp instructions in {:.1f} ms (of the emulator)\n{}{}{}",
      kernel.entry.name, reference::printable(command.file), spelled(size.grid),
      spelled(size.block), static_smem, command.shared,
      texts.empty() ? "nothing" : fmt::format("{}", fmt::join(texts, ", ")), on.name,
      on.device.name(), checks, instructions, ran.milliseconds,
      buffers_text(arguments.buffers(), command.show), verdicts, findings_text(ran.findings)));
  const auto triple = [](const runtime::Dim3& d) { return Json{d.x, d.y, d.z}; };
  output.json({{"ptx", command.file},
               {"entry", kernel.entry.name},
               {"device", on.name},
               {"grid", triple(size.grid)},
               {"block", triple(size.block)},
               {"static_shared", static_smem},
               {"dynamic_shared", command.shared},
               {"checks", checks},
               {"arguments", texts},
               {"run_ms", ran.milliseconds},
               {"warp_instructions", instructions},
               {"buffers", buffers_json(arguments.buffers(), command.show)},
               {"expect", ran.stopped ? Json::array() : expected_json(expected)},
               {"passed", passed},
               {"findings", findings_json(ran.findings)}});
  return passed ? Exit::ok : Exit::check_failed;
}

}  // namespace

void add_emu(App& app) {
  app.add<EmuCommand>(
      "emu", "run any PTX kernel in the emulator, with buffers and numbers from the command line",
      std::string("  sagegen emu scale.ptx --grid 4 --block 256 --arg 'x:f32[1000]=iota' "
                  "--arg 'y:f32[1000]' --arg i32=1000\n"
                  "  sagegen emu copy.ptx --block 256 --arg 'f16[]=x.npy' --arg 'y:f16[64x128]' "
                  "--out y=y.npy --expect y=ref.npy --rtol 1e-3\n"
                  "  sagegen emu launch.toml --order random --order-seed 7") +
          kGrammar,
      define_emu, emu);
}

}  // namespace sagegen::cli
