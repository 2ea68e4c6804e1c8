// Rows of 16-bit floats, rotated by a Hadamard matrix and quantized with one scale for all of them: outliers of a
// channel are spread over the row before they can cost the others their precision.
//
//   y = H x / sqrt(columns) for every row x, H[a][b] = (-1)^popcount(a & b);   code = y / scale, rounded
//
// Two kernels of one family, the second of which needs what the first finds: `measure` gives the largest |y| of
// each block of rows.
#pragma once

#include <sagegen/kernel.h>
#include <sagegen/runtime/plan.h>
#include <sagegen/types.h>

#include <cstdint>

namespace sagegen::dsl {
class KernelBuilder;
}

namespace acme::hadamard {

using namespace sagegen;

// What decides the numbers, ...
struct Spec {
  int columns = 128;
  DType io = DType::f16;
  DType codes = DType::s8;
  bool measure = false;
};
// ... and what decides how fast they come.
struct Schedule {
  int warps = 4;  // of a block; each has a row
};

using View = ViewOf<Spec, Schedule>;
const FamilyOf<Spec, Schedule>& family();
void build(dsl::KernelBuilder& k, const Kernel& kernel);

// Launch parameters. grid (rows / warps, rounded up).
struct Params {
  Address x;  // f16 or bf16 [rows, columns]
  std::int32_t rows;
  static constexpr std::string_view kName = "hadamard";
  static std::vector<ParamField> fields() {
    return {param_field("x", &Params::x), param_field("rows", &Params::rows)};
  }
};
struct MeasureParams {
  Address largest;  // out f32 [blocks]
  static constexpr std::string_view kName = "measure";
  static std::vector<ParamField> fields() {
    return {param_field("largest", &MeasureParams::largest)};
  }
};
struct QuantizeParams {
  Address largest;  // f32 [blocks]
  Address codes;    // out s8 or e4m3 [rows, columns]
  Address scale;    // out f32
  std::int32_t blocks;
  static constexpr std::string_view kName = "quantize";
  static std::vector<ParamField> fields() {
    using P = QuantizeParams;
    return {param_field("largest", &P::largest), param_field("codes", &P::codes),
            param_field("scale", &P::scale), param_field("blocks", &P::blocks)};
  }
};

// Codes restore y as code * scale.
constexpr float largest_code(DType codes) { return codes == DType::e4m3 ? 448.0f : 127.0f; }

class Plan {
 public:
  // A kernel that is no `measure`. Throws SpecError, DriverError.
  Plan(const runtime::Device& device, const Kernel& kernel, const runtime::ArtifactSource& source);

  std::size_t workspace_bytes(std::int64_t rows) const;
  // Enqueues both kernels. Throws ArgumentError before anything is launched.
  void run(runtime::DevicePtr x, std::int64_t rows, runtime::DevicePtr codes,
           runtime::DevicePtr scale, runtime::DevicePtr workspace, std::size_t bytes,
           runtime::StreamHandle stream) const;

 private:
  Spec spec_;
  Schedule schedule_;
  runtime::LoadedSteps steps_;
};

}  // namespace acme::hadamard
