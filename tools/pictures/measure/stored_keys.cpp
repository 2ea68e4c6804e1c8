#include "tools/pictures/measure/stored_keys.h"

#include "sagegen/emit.h"
#include "templates/quantize_values/params.h"
#include "templates/quantize_values/spec.h"
#include "templates/shared/rows.h"
#include "tools/pictures/measure/digits.h"

namespace sagegen::pictures {

namespace {

// Runs the kernel that prepares V on values that are the digits of their keys.
std::vector<int> measure_stored_keys(const runtime::Device& device, const Kernel& of_attention,
                                     int keys) {
  namespace qv = quantize_values;
  qv::Spec spec = of_attention.view(qv::family()).spec;
  spec.smooth = false;  // the order of keys is the same
  const Kernel values(qv::family(), spec, of_attention.target());
  const int padded = (keys + qv::kKeys - 1) / qv::kKeys * qv::kKeys;
  const Artifact artifact = emit(values);
  const ParamLayout layout = values.params();
  const runtime::Kernel loaded(device, artifact.code, artifact.key, artifact.resources.threads,
                               static_cast<int>(artifact.resources.dynamic_smem), layout.bytes());
  std::vector<int> order(static_cast<std::size_t>(keys), 0);
  for (const int weight : {1, kDigits}) {
    std::vector<std::uint16_t> v;
    for (int key = 0; key < padded; ++key) {
      const auto code = static_cast<std::uint16_t>(code_of(spec.io, key / weight % kDigits));
      v.insert(v.end(), static_cast<std::size_t>(spec.head_dim), code);
    }
    const runtime::Buffer from = upload(device, v);
    // The largest code as the largest value: scales are 1.
    const runtime::Buffer amax =
        upload(device, std::vector<float>(static_cast<std::size_t>(spec.head_dim),
                                          largest_v_code(spec.codes, spec.octaves)));
    const runtime::Buffer codes(device,
                                static_cast<std::size_t>(padded * value_channels(spec.head_dim)));
    const runtime::Buffer scale(device, static_cast<std::size_t>(spec.head_dim) * 4);
    ParamPack params(layout);
    params.set(qv::Params{.v = {.data = from.data(),
                                .stride_batch = 0,
                                .stride_head = 0,
                                .stride_token = spec.head_dim},
                          .amax_partial = amax.data(),
                          .codes = codes.data(),
                          .scale = scale.data(),
                          .kv_len = padded,
                          .kv_len_padded = padded,
                          .chunks = 1});
    const runtime::Stream stream(device);
    loaded.launch_block({.x = static_cast<unsigned>(padded / qv::kKeys)}, params.data(),
                        params.bytes(), stream.handle());
    stream.synchronize();
    const Bytes stored = download<std::uint8_t>(codes);
    for (std::size_t place = 0; place < order.size(); ++place)
      order[place] += digit_of(DType::e4m3, stored[place]) * weight;
  }
  return order;
}

}  // namespace

std::vector<int> stored_keys(const runtime::Device& device, const Kernel& kernel,
                             const Sizes& sizes) {
  std::vector<int> order;
  for (int key = 0; key < sizes.cta_k; ++key) order.push_back(key);
  if (sizes.pv != DType::e4m3) return order;  // rows of the tile are keys
  for (const Kernel& input : kernel.inputs()) {
    if (&input.family() == &quantize_values::family())
      return measure_stored_keys(device, input, sizes.cta_k);
  }
  throw InternalError("tools/pictures/layouts.cpp: no kernel prepares the FP8 codes of V");
}

}  // namespace sagegen::pictures
