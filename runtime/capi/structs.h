// How structs of the C API grow: they begin with struct_size, the sizeof that the caller was compiled with, and fields are
// appended. What the caller's is too short for is 0, the default; what it has beyond ours has to be.
#pragma once

#include <cstddef>
#include <vector>

#include "sagegen/sagegen.h"

namespace sagegen::capi {

// first_size: that of version 1.0, which is never changed; ours: that of this library.
struct StructType {
  const char* name;
  std::size_t first_size, size;
};

template <typename T>
struct First;  // one for each struct that is passed by pointer
#define SAGEGEN_STRUCT(type, bytes)                                                            \
  template <>                                                                                  \
  struct First<type> {                                                                         \
    static constexpr StructType kType{#type, bytes, sizeof(type)};                             \
    static_assert(offsetof(type, struct_size) == 0 && sizeof(type) >= (bytes), "append alone"); \
  }
SAGEGEN_STRUCT(sagegen_attention_options, 32);
SAGEGEN_STRUCT(sagegen_shape, 64);
SAGEGEN_STRUCT(sagegen_arguments, 192);
SAGEGEN_STRUCT(sagegen_query_codes, 80);
SAGEGEN_STRUCT(sagegen_key_value_codes, 112);
SAGEGEN_STRUCT(sagegen_code_sizes, 96);
SAGEGEN_STRUCT(sagegen_merge_options, 24);
SAGEGEN_STRUCT(sagegen_merge_arguments, 152);
SAGEGEN_STRUCT(sagegen_kv_cache_options, 40);
SAGEGEN_STRUCT(sagegen_kv_layer, 72);
SAGEGEN_STRUCT(sagegen_kv_append_arguments, 232);
SAGEGEN_STRUCT(sagegen_kv_decode_arguments, 176);
SAGEGEN_STRUCT(sagegen_kv_gather_arguments, 176);
SAGEGEN_STRUCT(sagegen_kv_copy_arguments, 72);
#undef SAGEGEN_STRUCT

// The caller's struct_size. Throws ArgumentError that says what it is and what it should be.
std::size_t checked_size(const void* from, const StructType& type, const char* call);
// to: `type.size` bytes, all 0. Throws ArgumentError of a size that is none, and of fields that this library does not know.
void read_struct(void* to, const void* from, const StructType& type, const char* call);
// As much of ours as the caller's has room for, all but struct_size; what it has beyond is 0.
void write_struct(void* to, const void* from, const StructType& type, const char* call);
[[noreturn]] void refuse_other_size(std::size_t index, std::size_t size, std::size_t first,
                                    const StructType& type, const char* call);
// Throws ArgumentError for null.
void need(const void* pointer, const char* call, const char* what);

template <typename T>
T read(const T* from, const char* call, const char* what) {
  need(from, call, what);
  T ours = {};
  read_struct(&ours, from, First<T>::kType, call);
  return ours;
}

// Of an array, whose elements lie as far apart as the first one says.
template <typename T>
std::vector<T> read_array(const T* first, std::size_t count, const char* call, const char* what) {
  std::vector<T> ours;  // as large as what could be read: a count may be anything
  if (count == 0) return ours;
  need(first, call, what);
  const std::size_t stride = checked_size(first, First<T>::kType, call);
  for (std::size_t i = 0; i < count; ++i) {
    ours.emplace_back();
    const void* each = reinterpret_cast<const std::byte*>(first) + i * stride;
    const std::size_t size = checked_size(each, First<T>::kType, call);
    if (size != stride) refuse_other_size(i, size, stride, First<T>::kType, call);
    read_struct(&ours[i], each, First<T>::kType, call);
  }
  return ours;
}

template <typename T>
void write(T* to, const T& ours, const char* call) {
  write_struct(to, &ours, First<T>::kType, call);
}

}  // namespace sagegen::capi
