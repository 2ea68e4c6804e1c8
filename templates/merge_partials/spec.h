// Partial results of attention, each over some of the keys, merged by their log-sum-exp: what attention over all of these
// keys gives. Of split KV, of ring attention, of a prefix that sequences share (FlashInfer's merge_states, vLLM's
// merge_attn_states).
#pragma once

#include <string_view>

#include "sagegen/kernel.h"
#include "sagegen/types.h"

namespace sagegen::merge_partials {

// What O is stored as: the dtype of Q, K and V, or f32, which loses nothing where results are merged again and again.
enum class Stored { io, f32 };
std::string_view to_string(Stored value);

struct Spec {
  DType io = DType::f16;
  Stored parts = Stored::io;  // the partial results
  Stored out =
      Stored::io;  // the merged one, and the one that is merged with where a call goes on (plan.h)
};

// A lane has so many channels of a row; the number of channels is a launch argument.
inline constexpr int kLaneChannels = 8;
inline constexpr int kThreads = 128;
// All lanes of a row are in one block: what is merged in place is read by all of them before it is written.
inline constexpr int kMostChannels = kThreads * kLaneChannels;

constexpr DType stored_type(const Spec& spec, Stored as) {
  return as == Stored::f32 ? DType::f32 : spec.io;
}

using View = ViewOf<Spec, NoSchedule>;
const FamilyOf<Spec>& family();

}  // namespace sagegen::merge_partials
