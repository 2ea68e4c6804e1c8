// Micro-benchmarks of compute capability 9.0: small kernels that time themselves with in-kernel
// clocks and whose results the host knows. Nothing here is a number that was not measured: what the
// project assumed before is in assumed.cpp and is reported as assumed.
//
// Every kernel is one entry `micro` with one parameter block (Parameters); the frame around a body
// is in ptx.cpp. A benchmark loads and launches its kernels through a Session, which also decides
// what a dry run on the emulator does: few blocks, two iterations, results checked, no times.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "sagegen/runtime/device.h"

namespace sagegen::micro {

inline constexpr int kSchemaVersion = 1;
inline constexpr int kLanes = 32;
inline constexpr int kWarpsPerGroup = 4;  // of a warpgroup

using Words = std::vector<std::uint32_t>;

// ---- kernels ------------------------------------------------------------------------------------

// How often operations of one kind (low 9 bits of the machine code) stand in the hottest loop of
// the assembled kernel. Holds for ptxas of CUDA 13.0; the driver's compiler may differ, which is
// why cubins can be carried.
struct SassCount {
  const char* operation;  // "MUFU"
  int opcode;
  int count;
};

struct Program {
  std::string name;  // of its .ptx and .cubin
  std::string ptx;
  int threads = 128;
  int shared_bytes = 0;  // dynamic
  std::vector<SassCount> sass{};
};

struct alignas(64) Parameters {
  runtime::DevicePtr in = 0, out = 0, stamps = 0;
  std::uint32_t iterations = 0, option = 0;  // option: what a kernel says
  std::uint64_t zero = 0;                    // that no compiler can know
  std::uint64_t unused[3]{};
  runtime::TensorMap map{};  // at 64
};
static_assert(sizeof(Parameters) == 192);

// What each warp leaves: SM clocks and global nanoseconds at the start and stop of its timed part.
struct Stamp {
  std::uint64_t start, stop, global_start, global_stop;
  std::uint32_t sm, count;  // count: what a kernel says, mostly 0
};
static_assert(sizeof(Stamp) == 40);

// PTX text. Registers of the frame: %thread %lane %warp %cta %iterations %i %smem (.b32; %smem is
// the shared address of the dynamic shared memory), %in %out %stamps (global addresses), %p0-7,
// %r0-15, %rd0-15.
std::string kernel_ptx(const std::string& comment, int threads, const std::string& registers,
                       const std::string& body);
std::string counted_loop(const std::string& body);  // `iterations` times; not unrolled
// Before start_clock: registers of 32 or 64 bits that loads have filled are there when time starts.
std::string wait_for_loads(const std::vector<std::string>& registers, int bits = 32);
// Around the timed part. The first waits for the whole block. count: a .b32 register, or empty.
std::string start_clock();
std::string stop_clock(const std::string& count = {});
// out[block][word][thread] in blocks of `block_words`.
std::string store_thread_words(const std::string& prefix, int words, int threads, int block_words);
std::string copy_to_shared(int bytes, int threads);  // from %in; with the proxy fence and a barrier
std::string numbered(const std::string& prefix, int count, const char* separator = ", ");

// ---- results ------------------------------------------------------------------------------------

struct Series {
  std::string label, unit;
  std::vector<double> samples;
  enum class Keep { summary, all } keep = Keep::summary;  // all: the samples are a course over time
};

struct Outcome {
  std::vector<Series> series;
  std::string checked;    // what was compared with what
  std::string wrong;      // the first difference; empty: the results are right
  std::string finding{};  // what a benchmark has to say that is no number
};

// The emulator, this device or this driver cannot run it.
class NotExecuted : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// What was loaded, for the report.
struct LoadedCode {
  std::string program;
  std::string origin;     // "driver JIT" or "cubin"
  std::uint32_t crc = 0;  // of the text or image
  int registers = 0, local_bytes = 0;
  std::string log;
};

// ---- sessions -----------------------------------------------------------------------------------

struct SessionOptions {
  std::string cubins;  // directory; a program whose NAME.cubin is there is loaded from it
  double load_seconds = 2;
  // On an emulated device. rehearsal: one SM and fewer iterations, otherwise as on a real device,
  // so that tests reach the code around a measurement; what looks like a time means nothing, and
  // reports never hold it.
  enum class Emulated { dry, rehearsal } emulated = Emulated::dry;
};

class LoadedProgram {
 public:
  // image: PTX text or a cubin. Throws DriverError with the compiler's log.
  LoadedProgram(const runtime::Device& device, const Program& program, const std::string& image);
  ~LoadedProgram();
  LoadedProgram(const LoadedProgram&) = delete;
  LoadedProgram& operator=(const LoadedProgram&) = delete;
  // Several blocks are one for each SM: they get so much shared memory that no two fit on one.
  void launch(int blocks, const Parameters& parameters, runtime::StreamHandle stream) const;
  int threads() const { return threads_; }
  int warps() const { return threads_ / kLanes; }
  const LoadedCode& code() const { return code_; }

 private:
  runtime::Device device_;
  int threads_, shared_bytes_;
  LoadedCode code_;
  runtime::ModuleHandle module_ = nullptr;
  runtime::FunctionHandle function_ = nullptr;
};

class Session {
 public:
  Session(const runtime::Device& device, const SessionOptions& options);

  const runtime::Device& device() const { return device_; }
  bool emulated() const { return emulated_; }  // there are results, but no times
  bool dry() const { return dry_; }            // and few iterations of everything
  int multiprocessors() const { return multiprocessors_; }
  double load_seconds() const { return options_.load_seconds; }
  int repetitions(int wanted) const { return dry_ ? 1 : wanted; }
  std::uint32_t iterations(std::uint32_t wanted) const {
    return dry_ ? 2 : emulated_ ? std::min(wanted, 16u) : wanted;
  }
  int blocks() const { return dry_ ? 2 : multiprocessors_; }

  std::string cubin_path(const Program& program) const;  // empty: none is carried
  std::shared_ptr<LoadedProgram> load(const Program& program);
  std::shared_ptr<LoadedProgram> load_ptx(const Program& program);
  std::shared_ptr<LoadedProgram> load_cubin(
      const Program& program);            // NotExecuted if none is carried
  std::vector<LoadedCode> take_loaded();  // since the last call

 private:
  runtime::Device device_;
  SessionOptions options_;
  bool emulated_, dry_;
  int multiprocessors_ = 0;
  std::vector<LoadedCode> loaded_;
};

// One kernel, launched once to warm up and then `repetitions` times, one block on every SM.
struct Observed {
  int blocks = 0, warps = 0;
  std::vector<std::vector<Stamp>> runs;  // [repetition][block * warps + warp]
  Words out;                             // of the last run
  // Clocks from the first start to the last stop of some warps of a block.
  double span(int run, int block, int first_warp, int warp_count) const;
  const Stamp& stamp(int run, int block, int warp) const {
    return runs[static_cast<std::size_t>(run)][static_cast<std::size_t>(block * warps + warp)];
  }
};
struct LaunchPlan {
  Words in;
  std::size_t out_words = 0;  // per block
  std::uint32_t iterations = 0, option = 0;
  int repetitions = 5;
  std::function<void(Parameters&)> prepare = nullptr;  // once the buffers are there
};
Observed observe(Session& session, const LoadedProgram& program, const LaunchPlan& plan);

// Clocks of a block / `operations`, or the reverse, of every block and repetition.
std::vector<double> clocks_per(const Observed& observed, double operations, int first_warp = 0,
                               int warp_count = 0);
std::vector<double> per_clock(const Observed& observed, double operations);
// Of at least one sample; linear between the closest ranks.
double quantile(std::vector<double> samples, double q);

// Empty if every block of the last run starts with `expected`; otherwise what differs first.
std::string first_difference(const Observed& observed, const Words& expected, const char* what);

// ---- benchmarks ---------------------------------------------------------------------------------

struct Benchmark {
  std::string name;  // [a-z0-9_]
  std::string what;  // one line
  std::vector<Program> programs;
  std::string not_emulated;  // why a dry run cannot execute it; empty: it can
  std::function<Outcome(Session&, const std::vector<Program>&)> run;
};

// All benchmarks, in a fixed order, with distinct names.
std::vector<Benchmark> all_benchmarks();
void add_throughput_benchmarks(std::vector<Benchmark>& list);  // throughput.cpp
void add_mma_benchmarks(std::vector<Benchmark>& list);         // mma.cpp
void add_wgmma_benchmarks(std::vector<Benchmark>& list);       // wgmma.cpp
void add_contention_benchmarks(std::vector<Benchmark>& list);  // contention.cpp
void add_preset_benchmarks(std::vector<Benchmark>& list);      // presets.cpp
void add_clobber_benchmark(std::vector<Benchmark>& list);      // clobber.cpp
void add_memory_benchmarks(std::vector<Benchmark>& list);      // memory.cpp
void add_clock_benchmarks(std::vector<Benchmark>& list);       // clocks.cpp

// What the project's plans assumed before anything was measured.
struct Assumed {
  const char* benchmark;
  double value;
  const char* unit;
  const char* source;
};
const std::vector<Assumed>& assumed_values();
std::optional<Assumed> assumed_value(const std::string& benchmark);

// ---- runs ---------------------------------------------------------------------------------------

struct RunOptions {
  std::string device = "cuda:0", out;
  std::vector<std::string> only;
  std::string command;  // for the report
  SessionOptions session{};
  // A benchmark that takes longer than this and the time under load has failed.
  std::chrono::milliseconds patience{20000};
};
// Writes the report after every benchmark and keeps what an earlier run of the same device, driver
// and code has finished. The device is opened in child processes only: a benchmark that faults,
// hangs or takes its process with it fails, and the next child goes on behind it. The number of
// benchmarks that failed. Throws std::runtime_error.
int run_benchmarks(const RunOptions& options);
int run_benchmarks(const RunOptions& options, std::vector<Benchmark> all);

}  // namespace sagegen::micro
