// Partial results of attention over parts of the keys, merged by their log-sum-exp (spec.h).
//
//   // Split KV: one call, all parts in one tensor.
//   plan.run({.parts = n, ...}, {.parts = o_of_parts, .part_lse = lse_of_parts, .o = o, .lse = lse}, stream);
//   // Ring attention: each part as it comes, into O and LSE in place. Its first call has go_on false.
//   plan.run({.parts = 1, ...}, {.parts = o_of_part, ..., .o = o, .lse = lse, .go_on = true}, stream);
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "sagegen/runtime/plan.h"
#include "sagegen/runtime/tensor.h"
#include "templates/merge_partials/spec.h"

namespace sagegen::merge_partials {

struct Shape {
  std::int64_t parts = 1;
  std::int64_t batch = 1, heads = 1, q_len = 1;  // of packed sequences: 1, heads, all rows
  std::int64_t channels = 128;                   // of O: a multiple of 8, at most kMostChannels
};

struct Arguments {
  // [batch, heads, q_len, channels] of part 0, and elements from there to the next part; 0: as for tensors, all parts are
  // that one. Of f32 elements strides are multiples of 4.
  runtime::TensorView parts;
  std::int64_t part_stride = 0;
  // f32 [batch, heads, q_len] of part 0, natural logarithms, as attention writes them; a part that saw no key has
  // -infinity, and its O is not read. From there to the next part; 0: batch * heads * q_len elements.
  runtime::DevicePtr part_lse = 0;
  std::int64_t part_lse_stride = 0;
  runtime::TensorView o;
  // f32 [batch, heads, q_len]; 0: not wanted. Where no part saw a key O = 0 and the LSE is -infinity.
  runtime::DevicePtr lse = 0;
  // O and LSE hold a result, which is merged with the parts, before them: in place.
  bool go_on = false;
};

// What is merged is what attention over all the keys gives, but for roundings: of each O that is read and of the one that
// is written to its dtype, and of f32. These are of O, for each part, its |O| times its weight, 2^-20 and 2^-23 for
// each part and 2^-22 for each unit by which its LSE is below the largest; of the LSE as much for the parts, and 2^-22 of
// its size. Parts are taken in their order, whatever the shape: equal arguments give equal bits. Finite O, and LSE that
// are finite or -infinity, give finite O, but that O of f32 which is too large for the dtype of O becomes infinity.
class Plan {
 public:
  // Throws SpecError, DriverError, InternalError for a kernel of another family.
  Plan(const runtime::Device& device, const Kernel& kernel, const runtime::ArtifactSource& source);
  ~Plan();
  Plan(Plan&&) noexcept;

  // Enqueues one kernel; there is no workspace. Throws ArgumentError naming tensor and rule before that: shapes that are not
  // possible, null or misaligned data, bad strides, go_on without an lse, or O or LSE that overlap anything that is read.
  void run(const Shape& shape, const Arguments& arguments, runtime::StreamHandle stream) const;

  const Kernel& kernel() const;
  std::vector<std::string> kernel_names() const;  // entry point as loaded
  // Whether the kernel is that of an older target because of the driver, as a sentence; empty if not.
  const std::string& note() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sagegen::merge_partials
