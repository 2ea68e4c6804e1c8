// The kernels, written in the DSL: one function per KernelKind fills a builder from a validated spec.
// Arguments, shapes and grids of every kernel are in sagegen/abi.h.
#pragma once

#include "sagegen/dsl/kernel_builder.h"
#include "sagegen/spec.h"

namespace sagegen::templates {

void build_attention(dsl::KernelBuilder& k, const KernelSpec& spec);
void build_kv_statistics(dsl::KernelBuilder& k, const KernelSpec& spec);
void build_quantize_q(dsl::KernelBuilder& k, const KernelSpec& spec);
void build_quantize_k(dsl::KernelBuilder& k, const KernelSpec& spec);
void build_quantize_v(dsl::KernelBuilder& k, const KernelSpec& spec);

}  // namespace sagegen::templates
