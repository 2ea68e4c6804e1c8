// The caller's tensors, as plans take them.
#pragma once

#include <cstdint>

#include "sagegen/params.h"
#include "sagegen/runtime/driver_api.h"

namespace sagegen::runtime {

// A tensor [batch, head, token, channel]. Element strides; channels are contiguous. HND: [batch, head, token,
// channel]; NHD: [batch, token, head, channel]. Strides are multiples of 8 and at least the number of channels; that
// of an axis of size 1 is ignored. Those of tensors that are only read may be 0: one row for the whole axis.
struct TensorView {
  DevicePtr data = 0;  // 16-byte aligned
  std::int64_t stride_batch = 0;
  std::int64_t stride_head = 0;
  std::int64_t stride_token = 0;

  TensorParam param() const { return {data, stride_batch, stride_head, stride_token}; }
};
TensorView hnd(DevicePtr data, std::int64_t heads, std::int64_t tokens, int head_dim);
TensorView nhd(DevicePtr data, std::int64_t heads, std::int64_t tokens, int head_dim);

}  // namespace sagegen::runtime
