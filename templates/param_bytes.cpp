#include "sagegen/abi.h"
#include "templates/kernels.h"

namespace sagegen::templates {

std::size_t param_bytes(KernelKind kind) {
  switch (kind) {
    case KernelKind::attention:
      return sizeof(abi::AttentionParams);
    case KernelKind::kv_statistics:
      return sizeof(abi::KvStatisticsParams);
    case KernelKind::quantize_q:
      return sizeof(abi::QuantizeQParams);
    case KernelKind::quantize_k:
      return sizeof(abi::QuantizeKParams);
    case KernelKind::quantize_v:
      return sizeof(abi::QuantizeVParams);
  }
  return 0;
}

}  // namespace sagegen::templates
