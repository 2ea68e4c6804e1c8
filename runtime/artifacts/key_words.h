// The words of a kernel's key that the choice among stored kernels needs: which kernels are of a kind, and
// which targets they are for. Everything else of a key is its family's affair.
#pragma once

#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "sagegen/target.h"

namespace sagegen::runtime {

// "sage_fwd" of "sage_fwd_d64_..._sm89": kernels of one kind share it.
std::string_view family_of_key(std::string_view key);

// sm_120f of "..._sm120f"; nothing if the last word is no target.
std::optional<Target> target_of_key(std::string_view key);

// Each target of these keys once, lowest first. Names that are no keys are passed over.
std::vector<Target> targets_of(std::span<const std::string_view> keys);

}  // namespace sagegen::runtime
