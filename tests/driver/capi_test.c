/* The C API as a C11 program uses it, on the emulator: attention against a plain computation in
 * double precision, the two halves of a run, and every way to misuse it. */
#define _XOPEN_SOURCE 700 /* mkdtemp */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sagegen/sagegen.h"

static int failures = 0;

static void expect(int ok, const char* what, int line) {
  if (ok) return;
  ++failures;
  printf("line %d: %s; last error: %s\n", line, what, sagegen_last_error());
}
#define EXPECT(condition) expect((condition), #condition, __LINE__)
#define EXPECT_ERROR(status, call, words)                \
  do {                                                   \
    EXPECT((call) == (status));                          \
    EXPECT(strstr(sagegen_last_error(), words) != NULL); \
  } while (0)

enum { kHeads = 2, kTokens = 70, kChannels = 64, kElements = kHeads * kTokens * kChannels };

static float from_bf16(uint16_t bits) {
  const uint32_t wide = (uint32_t)bits << 16;
  float value;
  memcpy(&value, &wide, sizeof value);
  return value;
}

/* Values in (-2, 2) that are exact in bf16. */
static void fill(uint16_t* tensor, uint32_t seed) {
  for (int i = 0; i < kElements; ++i) {
    seed = seed * 1664525u + 1013904223u;
    const float value = (float)((int)(seed >> 24) - 128) / 64.0f;
    uint32_t wide;
    memcpy(&wide, &value, sizeof wide);
    tensor[i] = (uint16_t)(wide >> 16);
  }
}

static void reference(const uint16_t* q, const uint16_t* k, const uint16_t* v, int causal,
                      double* o) {
  static double scores[kTokens];
  for (int row = 0; row < kHeads * kTokens; ++row) {
    const int head = row / kTokens * kTokens, keys = causal ? row % kTokens + 1 : kTokens;
    double sum = 0;
    for (int key = 0; key < keys; ++key) {
      double score = 0;
      for (int c = 0; c < kChannels; ++c)
        score +=
            (double)from_bf16(q[row * kChannels + c]) * from_bf16(k[(head + key) * kChannels + c]);
      scores[key] = exp(score / sqrt(kChannels));
      sum += scores[key];
    }
    for (int c = 0; c < kChannels; ++c) {
      double value = 0;
      for (int key = 0; key < keys; ++key)
        value += scores[key] * from_bf16(v[(head + key) * kChannels + c]);
      o[row * kChannels + c] = value / sum;
    }
  }
}

/* sum |a - b| / sum |a|; NaN if anything is NaN. */
static double relative_l1(const double* exact, const uint16_t* result) {
  double error = 0, norm = 0;
  for (int i = 0; i < kElements; ++i) {
    error += fabs(exact[i] - from_bf16(result[i]));
    norm += fabs(exact[i]);
  }
  return error / norm;
}

static sagegen_tensor hnd(uint64_t data) {
  return (sagegen_tensor){data, (int64_t)kElements, (int64_t)kTokens * kChannels, kChannels};
}

static sagegen_status create(sagegen_device* device, const char* kernel, sagegen_attention** plan) {
  const sagegen_attention_options options = {.struct_size = sizeof options, .kernel = kernel};
  return sagegen_attention_create(device, &options, plan);
}

static const sagegen_shape kShape = {.struct_size = sizeof kShape, .batch = 1, .q_heads = kHeads, .kv_heads = kHeads, .q_len = kTokens, .kv_len = kTokens};

static void test_attention(sagegen_device* device, const char* kernel) {
  static uint16_t inputs[3][kElements], outputs[2][kElements];
  static double exact[kElements];
  uint64_t memory[4], workspace = 0;
  size_t bytes = 0;
  for (int i = 0; i < 4; ++i)
    EXPECT(sagegen_memory_alloc(device, kElements * 2, &memory[i]) == SAGEGEN_OK);
  for (uint32_t i = 0; i < 3; ++i) {
    fill(inputs[i], i + 1);
    EXPECT(sagegen_memory_upload(device, memory[i], inputs[i], kElements * 2) == SAGEGEN_OK);
  }
  reference(inputs[0], inputs[1], inputs[2], strstr(kernel, "causal") != NULL, exact);

  sagegen_attention* plan = NULL;
  const sagegen_attention_options options = {.struct_size = sizeof options, .kernel = kernel};
  EXPECT(sagegen_attention_create(device, &options, &plan) == SAGEGEN_OK);
  EXPECT(strncmp(sagegen_attention_kernel(plan), "sage_fwd_d64_bf16_", 18) == 0);
  EXPECT(sagegen_attention_workspace_bytes(plan, &kShape, &bytes) == SAGEGEN_OK && bytes > 0);
  EXPECT(sagegen_memory_alloc(device, bytes, &workspace) == SAGEGEN_OK);

  const sagegen_arguments arguments = {.struct_size = sizeof arguments, .q = hnd(memory[0]), .k = hnd(memory[1]), .v = hnd(memory[2]), .o = hnd(memory[3])};
  EXPECT(sagegen_attention_run(plan, &kShape, &arguments, workspace, bytes, NULL) == SAGEGEN_OK);
  EXPECT(sagegen_device_synchronize(device) == SAGEGEN_OK);
  EXPECT(sagegen_memory_download(device, outputs[0], memory[3], kElements * 2) == SAGEGEN_OK);
  const double error = relative_l1(exact, outputs[0]);
  EXPECT(error > 0 && error < 0.06); /* e4m3 alone costs 0.036 on such inputs */

  memset(outputs[1], 0xff, sizeof outputs[1]);
  EXPECT(sagegen_memory_upload(device, memory[3], outputs[1], kElements * 2) == SAGEGEN_OK);
  EXPECT(sagegen_attention_quantize(plan, &kShape, &arguments, workspace, bytes, NULL) ==
         SAGEGEN_OK);
  EXPECT(sagegen_memory_download(device, outputs[1], memory[3], kElements * 2) == SAGEGEN_OK);
  EXPECT(outputs[1][0] == 0xffff); /* quantizing writes no output */
  EXPECT(sagegen_attention_attend(plan, &kShape, &arguments, workspace, bytes, NULL) == SAGEGEN_OK);
  EXPECT(sagegen_memory_download(device, outputs[1], memory[3], kElements * 2) == SAGEGEN_OK);
  EXPECT(memcmp(outputs[0], outputs[1], sizeof outputs[0]) == 0);

  sagegen_device_interrupt(device, 1);
  EXPECT_ERROR(SAGEGEN_DRIVER_ERROR,
               sagegen_attention_run(plan, &kShape, &arguments, workspace, bytes, NULL),
               "interrupted");
  sagegen_device_interrupt(device, 0);
  EXPECT(sagegen_attention_run(plan, &kShape, &arguments, workspace, bytes, NULL) == SAGEGEN_OK);

  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR,
               sagegen_attention_run(plan, &kShape, &arguments, workspace, 256, NULL), "workspace");
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR,
               sagegen_attention_run(plan, NULL, &arguments, workspace, bytes, NULL), "shape");
  const sagegen_shape uneven = {.struct_size = sizeof uneven, .batch = 1, .q_heads = 3, .kv_heads = 2, .q_len = kTokens, .kv_len = kTokens};
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_attention_workspace_bytes(plan, &uneven, &bytes),
               "kv_heads");
  sagegen_arguments tilted = arguments;
  tilted.causal_alignment = (sagegen_causal_alignment)7;
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR,
               sagegen_attention_run(plan, &kShape, &tilted, workspace, bytes, NULL),
               "causal_alignment");
  EXPECT(sagegen_memory_free(device, memory[0]) == SAGEGEN_OK);
  EXPECT_ERROR(SAGEGEN_DRIVER_ERROR,
               sagegen_attention_run(plan, &kShape, &arguments, workspace, bytes, NULL), "free");

  for (int i = 1; i < 4; ++i) EXPECT(sagegen_memory_free(device, memory[i]) == SAGEGEN_OK);
  EXPECT(sagegen_memory_free(device, workspace) == SAGEGEN_OK);
  sagegen_attention_destroy(plan);
}

enum { kQueries = 40 }; /* of the tests of masks and biases; kTokens keys */

/* Query i of kQueries sees the keys i + offset - left to i + offset, and a sink takes its part of the sum. */
static void windowed_reference(const uint16_t* q, const uint16_t* k, const uint16_t* v, int offset,
                               int left, const float* sinks, double* o, double* lse) {
  for (int row = 0; row < kHeads * kQueries; ++row) {
    const int head = row / kQueries, query = row % kQueries;
    double sum = exp(sinks[head]), values[kChannels] = {0};
    for (int key = 0; key < kTokens; ++key) {
      if (key < query + offset - left || key > query + offset) continue;
      double score = 0;
      for (int c = 0; c < kChannels; ++c) {
        score += (double)from_bf16(q[(head * kTokens + query) * kChannels + c]) *
                 from_bf16(k[(head * kTokens + key) * kChannels + c]);
      }
      const double weight = exp(score / sqrt(kChannels));
      sum += weight;
      for (int c = 0; c < kChannels; ++c)
        values[c] += weight * from_bf16(v[(head * kTokens + key) * kChannels + c]);
    }
    for (int c = 0; c < kChannels; ++c) o[row * kChannels + c] = values[c] / sum;
    lse[row] = log(sum);
  }
}

/* A window and sinks, asked for in a text of options and given by name. */
static void test_mods(sagegen_device* device) {
  enum { kOut = kHeads * kQueries * kChannels, kRows = kHeads * kQueries };
  static uint16_t inputs[3][kElements], outputs[2][kOut];
  static double exact[kOut], exact_lse[kRows];
  static float lse[kRows];
  const sagegen_shape shape = {.struct_size = sizeof shape, .batch = 1, .q_heads = kHeads, .kv_heads = kHeads, .q_len = kQueries, .kv_len = kTokens};
  const float sinks[kHeads] = {2.5f, -1.0f};
  uint64_t memory[6], workspace = 0;
  const size_t sizes[6] = {sizeof inputs[0],  sizeof inputs[1], sizeof inputs[2],
                           sizeof outputs[0], sizeof lse,       sizeof sinks};
  size_t bytes = 0;
  for (int i = 0; i < 6; ++i)
    EXPECT(sagegen_memory_alloc(device, sizes[i], &memory[i]) == SAGEGEN_OK);
  for (uint32_t i = 0; i < 3; ++i) {
    fill(inputs[i], i + 11);
    EXPECT(sagegen_memory_upload(device, memory[i], inputs[i], sizes[i]) == SAGEGEN_OK);
  }
  EXPECT(sagegen_memory_upload(device, memory[5], sinks, sizeof sinks) == SAGEGEN_OK);

  sagegen_attention* plan = NULL;
  const sagegen_attention_options options = {.struct_size = sizeof options, .kernel = "head_dim=64 io=bf16 causal=true window=true sinks=true"};
  EXPECT(sagegen_attention_create(device, &options, &plan) == SAGEGEN_OK);
  if (plan == NULL) return;
  EXPECT(strstr(sagegen_attention_kernel(plan), "_causal_window_sinks_") != NULL);
  EXPECT(sagegen_attention_workspace_bytes(plan, &shape, &bytes) == SAGEGEN_OK);
  EXPECT(sagegen_memory_alloc(device, bytes, &workspace) == SAGEGEN_OK);
  sagegen_arguments arguments = {.struct_size = sizeof arguments, .q = hnd(memory[0]), .k = hnd(memory[1]), .v = hnd(memory[2]), .lse = memory[4]};
  arguments.o = (sagegen_tensor){memory[3], kOut, (int64_t)kQueries * kChannels, kChannels};

  for (int bottom_right = 0; bottom_right < 2; ++bottom_right) {
    const int left = 9, offset = bottom_right ? kTokens - kQueries : 0;
    const sagegen_mod_argument mods[] = {{.name = "window.left", .integer = left},
                                         {.name = "window.right", .integer = bottom_right - 1},
                                         {.name = "sinks.logits", .integer = (int64_t)memory[5]}};
    arguments.causal_alignment = bottom_right ? SAGEGEN_BOTTOM_RIGHT : SAGEGEN_TOP_LEFT;
    arguments.mods = mods;
    arguments.mod_count = 3;
    windowed_reference(inputs[0], inputs[1], inputs[2], offset, left, sinks, exact, exact_lse);
    EXPECT(sagegen_attention_run(plan, &shape, &arguments, workspace, bytes, NULL) == SAGEGEN_OK);
    EXPECT(sagegen_memory_download(device, outputs[0], memory[3], sizeof outputs[0]) == SAGEGEN_OK);
    EXPECT(sagegen_memory_download(device, lse, memory[4], sizeof lse) == SAGEGEN_OK);
    double error = 0, norm = 0, lse_error = 0;
    for (int i = 0; i < kOut; ++i) {
      error += fabs(exact[i] - from_bf16(outputs[0][i]));
      norm += fabs(exact[i]);
    }
    for (int i = 0; i < kRows; ++i) lse_error += fabs(exact_lse[i] - lse[i]) / kRows;
    printf("window and sinks: error %g, of the LSE %g\n", error / norm, lse_error);
    EXPECT(error > 0 && error / norm < 0.06);
    EXPECT(lse_error > 0 && lse_error < 1.0 / 16); /* what rounding P may cost */

    EXPECT(sagegen_attention_quantize(plan, &shape, &arguments, workspace, bytes, NULL) ==
           SAGEGEN_OK);
    EXPECT(sagegen_attention_attend(plan, &shape, &arguments, workspace, bytes, NULL) ==
           SAGEGEN_OK);
    EXPECT(sagegen_memory_download(device, outputs[1], memory[3], sizeof outputs[1]) == SAGEGEN_OK);
    EXPECT(memcmp(outputs[0], outputs[1], sizeof outputs[0]) == 0);

    arguments.lse = 0; /* what smoothing takes from scores is for the sinks, too */
    EXPECT(sagegen_attention_run(plan, &shape, &arguments, workspace, bytes, NULL) == SAGEGEN_OK);
    EXPECT(sagegen_memory_download(device, outputs[1], memory[3], sizeof outputs[1]) == SAGEGEN_OK);
    EXPECT(memcmp(outputs[0], outputs[1], sizeof outputs[0]) == 0);
    arguments.lse = memory[4];
  }

  const int64_t logits = (int64_t)memory[5];
  const struct {
    sagegen_mod_argument mod; /* beside the sinks, or in their place */
    const char* words;
  } cases[] = {
      {{.name = "window.middle", .integer = 3}, "argument window.middle is unknown; there are"},
      {{.name = "", .integer = 3}, "is unknown; there are window.left, window.right, "},
      {{.name = NULL, .integer = 3}, "the name of a mod's argument is null"},
      {{.name = "window.left", .number = 3}, "window.left is given as a number; it is an integer"},
      {{.name = "softcap.cap", .integer = 30},
       "softcap.cap is given as an integer; it is a number"},
      {{.name = "softcap.cap", .number = 30}, "has no softcap; take one with softcap=true"},
      {{.name = "bias.data", .integer = logits}, "has no bias; take one with bias=true"},
      {{.name = "mask.stride_key", .integer = 1}, "has no mask"},
      {{.name = "blocksparse.tile_keys", .integer = 64}, "has no blocksparse"},
      {{.name = "sinks.logits", .integer = 0}, "sinks.logits is given twice"},
      {{.name = "sinks.logits", .integer = 0}, "sinks.logits is a null pointer"},
      {{.name = "sinks.logits", .integer = logits + 2}, "not aligned to 4 bytes"},
      {{.name = "sinks.logits", .integer = (int64_t)memory[3]}, "o spans"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; ++i) {
    const sagegen_mod_argument mods[] = {{.name = "sinks.logits", .integer = logits}, cases[i].mod};
    const int twice = strstr(cases[i].words, "given twice") != NULL;
    const int sinks = cases[i].mod.name != NULL && strcmp(cases[i].mod.name, "sinks.logits") == 0;
    arguments.mods = sinks && !twice ? mods + 1 : mods;
    arguments.mod_count = sinks && !twice ? 1 : 2;
    EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR,
                 sagegen_attention_run(plan, &shape, &arguments, workspace, bytes, NULL),
                 cases[i].words);
  }
  arguments.mods = NULL;
  arguments.mod_count = 1;
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR,
               sagegen_attention_attend(plan, &shape, &arguments, workspace, bytes, NULL),
               "arguments.mods is null");
  arguments.mod_count = 0; /* what a program made before there were mods gives */
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR,
               sagegen_attention_run(plan, &shape, &arguments, workspace, bytes, NULL),
               "sinks.logits is a null pointer");
  sagegen_attention_destroy(plan);

  /* A kernel without any takes none, and an empty list wherever it lies. */
  const sagegen_attention_options plain = {.struct_size = sizeof plain, .kernel = "head_dim=64 io=bf16"};
  EXPECT(sagegen_attention_create(device, &plain, &plan) == SAGEGEN_OK);
  const sagegen_mod_argument left = {.name = "window.left", .integer = 9};
  arguments.mods = &left;
  EXPECT(sagegen_attention_run(plan, &shape, &arguments, workspace, bytes, NULL) == SAGEGEN_OK);
  arguments.mod_count = 1;
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR,
               sagegen_attention_run(plan, &shape, &arguments, workspace, bytes, NULL),
               "has no window; take one with window=true");
  sagegen_attention_destroy(plan);
  for (int i = 0; i < 6; ++i) EXPECT(sagegen_memory_free(device, memory[i]) == SAGEGEN_OK);
  EXPECT(sagegen_memory_free(device, workspace) == SAGEGEN_OK);
}

static uint64_t rooms[32];
static size_t room_count = 0;

static uint64_t room(sagegen_device* device, int64_t bytes) {
  uint64_t address = 0;
  if (bytes == 0) return 0;
  EXPECT(sagegen_memory_alloc(device, (size_t)bytes, &address) == SAGEGEN_OK);
  rooms[room_count++] = address;
  return address;
}

static void free_rooms(sagegen_device* device) {
  while (room_count > 0) EXPECT(sagegen_memory_free(device, rooms[--room_count]) == SAGEGEN_OK);
}

/* K and V quantized once, then attended with two Q: what run() computes of each. */
/* Attention over keys 0..31 and over the rest, merged at once, and one after the other in place. */
static void test_parts(sagegen_device* device) {
  enum { kFirst = 32, kRows = kHeads * kTokens };
  static uint16_t inputs[3][kElements], outputs[2][kElements];
  static double exact[kElements];
  static float lse[2][kRows];
  uint64_t memory[3], o = 0, parts = 0, part_lse = 0, merged_lse = 0, workspace = 0;
  size_t bytes = 0;
  for (uint32_t i = 0; i < 3; ++i) {
    fill(inputs[i], i + 1);
    EXPECT(sagegen_memory_alloc(device, kElements * 2, &memory[i]) == SAGEGEN_OK);
    EXPECT(sagegen_memory_upload(device, memory[i], inputs[i], kElements * 2) == SAGEGEN_OK);
  }
  reference(inputs[0], inputs[1], inputs[2], 0, exact);
  EXPECT(sagegen_memory_alloc(device, kElements * 2, &o) == SAGEGEN_OK);
  EXPECT(sagegen_memory_alloc(device, 2 * kElements * 2, &parts) == SAGEGEN_OK);
  EXPECT(sagegen_memory_alloc(device, 2 * kRows * 4, &part_lse) == SAGEGEN_OK);
  EXPECT(sagegen_memory_alloc(device, kRows * 4, &merged_lse) == SAGEGEN_OK);

  sagegen_attention* plan = NULL;
  EXPECT(create(device, "head_dim=64 io=bf16", &plan) == SAGEGEN_OK);
  EXPECT(sagegen_attention_workspace_bytes(plan, &kShape, &bytes) == SAGEGEN_OK);
  EXPECT(sagegen_memory_alloc(device, bytes, &workspace) == SAGEGEN_OK);
  for (int part = 0; part < 2; ++part) {
    sagegen_shape shape = kShape;
    shape.kv_len = part == 0 ? kFirst : kTokens - kFirst;
    const uint64_t skipped = part == 0 ? 0 : (uint64_t)kFirst * kChannels * 2;
    const sagegen_arguments arguments = {.struct_size = sizeof arguments,
                                         .q = hnd(memory[0]),
                                         .k = hnd(memory[1] + skipped),
                                         .v = hnd(memory[2] + skipped),
                                         .o = hnd(parts + (uint64_t)part * kElements * 2),
                                         .lse = part_lse + (uint64_t)part * kRows * 4};
    EXPECT(sagegen_attention_run(plan, &shape, &arguments, workspace, bytes, NULL) == SAGEGEN_OK);
  }

  sagegen_merge* merge = NULL;
  const sagegen_merge_options options = {.struct_size = sizeof options, .kernel = "io=bf16"};
  EXPECT(sagegen_merge_create(device, &options, &merge) == SAGEGEN_OK);
  sagegen_merge_arguments arguments = {.struct_size = sizeof arguments,
                                       .parts = 2,
                                       .batch = 1,
                                       .heads = kHeads,
                                       .q_len = kTokens,
                                       .channels = kChannels,
                                       .part = hnd(parts),
                                       .part_stride = kElements,
                                       .part_lse = part_lse,
                                       .o = hnd(o),
                                       .lse = merged_lse};
  for (int way = 0; way < 2; ++way) {
    if (way == 0) {
      EXPECT(sagegen_merge_run(merge, &arguments, NULL) == SAGEGEN_OK);
    } else {
      arguments.parts = 1;
      EXPECT(sagegen_merge_run(merge, &arguments, NULL) == SAGEGEN_OK);
      arguments.part.data += kElements * 2;
      arguments.part_lse += kRows * 4;
      arguments.go_on = 1;
      EXPECT(sagegen_merge_run(merge, &arguments, NULL) == SAGEGEN_OK);
    }
    EXPECT(sagegen_device_synchronize(device) == SAGEGEN_OK);
    EXPECT(sagegen_memory_download(device, outputs[way], o, kElements * 2) == SAGEGEN_OK);
    EXPECT(sagegen_memory_download(device, lse[way], merged_lse, kRows * 4) == SAGEGEN_OK);
    const double error = relative_l1(exact, outputs[way]);
    EXPECT(error > 0 && error < 0.06); /* as attention over all of them */
  }
  for (int row = 0; row < kRows; ++row) EXPECT(fabs(lse[0][row] - lse[1][row]) < 1e-5);

  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_merge_run(NULL, &arguments, NULL), "merge is null");
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_merge_run(merge, NULL, NULL), "arguments is null");
  arguments.lse = 0;
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_merge_run(merge, &arguments, NULL), "lse");
  arguments.struct_size = 0;
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_merge_run(merge, &arguments, NULL), "struct_size");
  sagegen_merge* untouched = merge;
  const sagegen_merge_options wrong = {.struct_size = sizeof wrong, .kernel = "io=bf17"};
  EXPECT_ERROR(SAGEGEN_SPEC_ERROR, sagegen_merge_create(device, &wrong, &untouched), "bf16");
  EXPECT(untouched == merge);
  sagegen_merge_destroy(merge);
  sagegen_merge_destroy(NULL);
  sagegen_attention_destroy(plan);
  const uint64_t all[] = {memory[0], memory[1], memory[2], o, parts, part_lse, merged_lse, workspace};
  for (size_t i = 0; i < sizeof all / sizeof *all; ++i)
    EXPECT(sagegen_memory_free(device, all[i]) == SAGEGEN_OK);
}

/* Two layers of different formats: a prompt in two parts, a page that is copied and given in the place of the first one,
 * and decode attention over all of it. */
static void test_kv_cache(sagegen_device* device, const char* ptx) {
  enum { kPage = 32, kPages = 4, kQueries = kHeads * kChannels };
  static uint16_t inputs[3][kElements], output[kQueries];
  uint64_t memory[3], o = 0, pool = 0, places = 0, pages = 0, length = 0, lse = 0, workspace = 0;
  if (ptx == NULL) return;
  sagegen_kv_cache* cache = NULL;
  sagegen_kv_cache_options options = {.struct_size = sizeof options,
                                      .layers = "0:KV16, 1-2:K8V4",
                                      .format = "head_dim=64 io=bf16 page_tokens=32",
                                      .options = "kv_heads=2 q_heads=2",
                                      .ptx_directory = ptx};
  EXPECT(sagegen_kv_cache_create(device, &options, &cache) == SAGEGEN_OK);
  if (cache == NULL) return;
  EXPECT(sagegen_kv_cache_layers(cache) == 3 && sagegen_kv_cache_layers(NULL) == 0);
  EXPECT(strcmp(sagegen_kv_cache_note(cache), "") == 0 && sagegen_kv_cache_note(NULL) == NULL);
  for (uint32_t i = 0; i < 3; ++i) { /* of K and V: [token, head, channel]; of Q the first token */
    fill(inputs[i], i + 1);
    EXPECT(sagegen_memory_alloc(device, kElements * 2, &memory[i]) == SAGEGEN_OK);
    EXPECT(sagegen_memory_upload(device, memory[i], inputs[i], kElements * 2) == SAGEGEN_OK);
  }
  EXPECT(sagegen_memory_alloc(device, sizeof output, &o) == SAGEGEN_OK);
  EXPECT(sagegen_memory_alloc(device, kHeads * 4, &lse) == SAGEGEN_OK);
  int64_t slots[kTokens];
  for (int64_t t = 0; t < kTokens; ++t) slots[t] = t + kPage; /* pages 1, 2, 3 */
  const int32_t table[] = {0, 2, 3}, tokens = kTokens;        /* page 0 is a copy of page 1 */
  EXPECT(sagegen_memory_alloc(device, sizeof slots, &places) == SAGEGEN_OK);
  EXPECT(sagegen_memory_upload(device, places, slots, sizeof slots) == SAGEGEN_OK);
  EXPECT(sagegen_memory_alloc(device, sizeof table, &pages) == SAGEGEN_OK);
  EXPECT(sagegen_memory_upload(device, pages, table, sizeof table) == SAGEGEN_OK);
  EXPECT(sagegen_memory_alloc(device, sizeof tokens, &length) == SAGEGEN_OK);
  EXPECT(sagegen_memory_upload(device, length, &tokens, sizeof tokens) == SAGEGEN_OK);

  const int64_t bits[][2] = {{16, 16}, {8, 4}, {8, 4}};
  sagegen_kv_append_arguments append = {.struct_size = sizeof append};
  sagegen_kv_decode_arguments decode = {.struct_size = sizeof decode};
  for (int32_t layer = 0; layer < 3; ++layer) {
    sagegen_kv_layer format = {.struct_size = sizeof format};
    EXPECT(sagegen_kv_cache_layer(cache, layer, &format) == SAGEGEN_OK);
    EXPECT(format.k_bits == bits[layer][0] && format.v_bits == bits[layer][1]);
    EXPECT(format.head_dim == kChannels && format.page_tokens == kPage && format.smooths_k == 0);
    const int64_t token = (format.k_bits + format.v_bits) * kChannels / 8 + (layer > 0 ? 8 : 0);
    EXPECT(format.page_bytes == kHeads * kPage * token && format.stride_block == 16 * token);
    EXPECT(format.stride_head == kPage * token);
    const size_t pool_bytes = (size_t)(kPages * format.page_bytes);
    void* anything = malloc(pool_bytes);
    memset(anything, 0xff, pool_bytes);
    EXPECT(sagegen_memory_alloc(device, pool_bytes, &pool) == SAGEGEN_OK);
    EXPECT(sagegen_memory_upload(device, pool, anything, pool_bytes) == SAGEGEN_OK);
    free(anything);

    append.pool = (sagegen_kv_pool){.data = pool, .pages = kPages};
    for (int64_t first = 0; first < kTokens; first += 40) {
      const uint64_t skipped = (uint64_t)(first * kHeads * kChannels * 2);
      append.tokens = first == 0 ? 40 : kTokens - 40;
      append.k = (sagegen_tensor){memory[1] + skipped, 0, kChannels, kHeads * kChannels};
      append.v = (sagegen_tensor){memory[2] + skipped, 0, kChannels, kHeads * kChannels};
      append.slots = places + (uint64_t)first * 8;
      EXPECT(sagegen_kv_cache_append(cache, layer, &append, NULL) == SAGEGEN_OK);
    }
    const int64_t from[] = {1}, to[] = {0};
    const sagegen_kv_copy_arguments copy = {
        .struct_size = sizeof copy, .pool = append.pool, .count = 1, .from = from, .to = to};
    EXPECT(sagegen_kv_cache_copy_pages(cache, layer, &copy, NULL) == SAGEGEN_OK);

    decode.batch = 1;
    decode.q_len = 1;
    decode.max_pages = 3;
    decode.splits = 2;
    size_t bytes = 0;
    EXPECT(sagegen_kv_cache_workspace_bytes(cache, layer, &decode, &bytes) == SAGEGEN_OK);
    EXPECT(bytes > 0 && sagegen_memory_alloc(device, bytes, &workspace) == SAGEGEN_OK);
    decode.pool = append.pool;
    decode.q = (sagegen_tensor){memory[0], kQueries, kChannels, kChannels};
    decode.o = (sagegen_tensor){o, kQueries, kChannels, kChannels};
    decode.page_table = pages;
    decode.lengths = length;
    decode.lse = lse;
    EXPECT(sagegen_kv_cache_decode(cache, layer, &decode, workspace, bytes, NULL) == SAGEGEN_OK);
    EXPECT(sagegen_device_synchronize(device) == SAGEGEN_OK);
    EXPECT(sagegen_memory_download(device, output, o, sizeof output) == SAGEGEN_OK);
    double error = 0, norm = 0;
    for (int head = 0; head < kHeads; ++head) {
      double exact[kChannels] = {0}, sum = 0;
      for (int t = 0; t < kTokens; ++t) {
        const int row = (t * kHeads + head) * kChannels;
        double score = 0;
        for (int c = 0; c < kChannels; ++c)
          score += (double)from_bf16(inputs[0][head * kChannels + c]) * from_bf16(inputs[1][row + c]);
        const double weight = exp(score / sqrt(kChannels));
        sum += weight;
        for (int c = 0; c < kChannels; ++c) exact[c] += weight * from_bf16(inputs[2][row + c]);
      }
      for (int c = 0; c < kChannels; ++c) {
        error += fabs(exact[c] / sum - from_bf16(output[head * kChannels + c]));
        norm += fabs(exact[c] / sum);
      }
    }
    EXPECT(error < (layer == 0 ? 0.005 : 0.1) * norm);
    EXPECT(sagegen_memory_free(device, workspace) == SAGEGEN_OK);
    EXPECT(sagegen_memory_free(device, pool) == SAGEGEN_OK);
  }

  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_kv_cache_append(cache, 3, &append, NULL),
               "layer is 3; there are 0 to 2");
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_kv_cache_append(NULL, 0, &append, NULL),
               "cache is null");
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_kv_cache_decode(cache, 0, NULL, 0, 0, NULL),
               "arguments is null");
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_kv_cache_decode(cache, 0, &decode, 0, 0, NULL),
               "workspace");
  append.slots = 0;
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_kv_cache_append(cache, 0, &append, NULL), "slots");
  append.struct_size = 0;
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_kv_cache_append(cache, 0, &append, NULL),
               "struct_size");
  sagegen_kv_copy_arguments copy = {
      .struct_size = sizeof copy, .pool = {.data = o, .pages = kPages}, .count = 1};
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_kv_cache_copy_pages(cache, 0, &copy, NULL),
               "arguments.from is null");
  const int64_t beyond[] = {kPages};
  copy.from = copy.to = beyond;
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_kv_cache_copy_pages(cache, 0, &copy, NULL),
               "page 4 of copy 0");
  sagegen_kv_cache* untouched = cache;
  options.layers = NULL;
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_kv_cache_create(device, &options, &untouched),
               "options.layers is null");
  options.layers = "0:K8V4, 2:KV8";
  EXPECT_ERROR(SAGEGEN_SPEC_ERROR, sagegen_kv_cache_create(device, &options, &untouched),
               "layer 1 is missing");
  options.layers = "K8V4";
  options.options = "kv_heads=2 q_heads=3";
  EXPECT_ERROR(SAGEGEN_SPEC_ERROR, sagegen_kv_cache_create(device, &options, &untouched),
               "no multiple of kv_heads");
  EXPECT(untouched == cache);
  sagegen_kv_cache_destroy(cache);
  sagegen_kv_cache_destroy(NULL);
  const uint64_t all[] = {memory[0], memory[1], memory[2], o, lse, places, pages, length};
  for (size_t i = 0; i < sizeof all / sizeof *all; ++i)
    EXPECT(sagegen_memory_free(device, all[i]) == SAGEGEN_OK);
}

/* Sinks and a window that have all tokens, so that nothing but 16 bits is read; what the codes hold is gathered. Of two
 * sequences the second one has no query. */
static void test_kv_exact(sagegen_device* device, const char* ptx) {
  enum { kQueries = kHeads * kChannels, kPages = 6, kBlocks = 12 };
  static uint16_t inputs[3][kElements], output[2 * kQueries], rows[kElements];
  uint64_t memory[3], o = 0, pool = 0, blocks = 0, places = 0, workspace = 0, numbers = 0, gathered = 0;
  if (ptx == NULL) return;
  sagegen_kv_cache* cache = NULL;
  const sagegen_kv_cache_options options = {
      .struct_size = sizeof options,
      .layers = "K8V4, KV16",
      .format = "head_dim=64 io=bf16 page_tokens=32",
      .options = "kv_heads=2 q_heads=2 gather sinks=32 window=32 unit=32",
      .ptx_directory = ptx};
  EXPECT(sagegen_kv_cache_create(device, &options, &cache) != SAGEGEN_OK); /* gather of KV16 has no PTX there */
  sagegen_kv_cache_options of_codes = options;
  of_codes.layers = "K8V4";
  EXPECT(sagegen_kv_cache_create(device, &of_codes, &cache) == SAGEGEN_OK);
  if (cache == NULL) return;
  sagegen_kv_layer layer = {.struct_size = sizeof layer};
  EXPECT(sagegen_kv_cache_layer(cache, 0, &layer) == SAGEGEN_OK);
  EXPECT(layer.exact_blocks == kBlocks / 2 && layer.exact_block_bytes == kHeads * 16 * 4 * kChannels);
  EXPECT(sagegen_kv_cache_exact_place(cache, 31, 70) == 31);
  EXPECT(sagegen_kv_cache_exact_place(cache, 40, 70) == 40);
  EXPECT(sagegen_kv_cache_exact_place(cache, 40, 170) == -1);
  EXPECT(sagegen_kv_cache_exact_place(cache, 100, 170) == -1);
  EXPECT(sagegen_kv_cache_exact_place(cache, 160, 170) == 32);
  EXPECT(sagegen_kv_cache_exact_place(NULL, 1, 2) == -1 && sagegen_kv_cache_exact_place(cache, 7, 7) == -1);
  for (uint32_t i = 0; i < 3; ++i) {
    fill(inputs[i], i + 1);
    EXPECT(sagegen_memory_alloc(device, kElements * 2, &memory[i]) == SAGEGEN_OK);
    EXPECT(sagegen_memory_upload(device, memory[i], inputs[i], kElements * 2) == SAGEGEN_OK);
  }
  const size_t pool_bytes = (size_t)(kPages * layer.page_bytes);
  EXPECT(sagegen_memory_alloc(device, pool_bytes, &pool) == SAGEGEN_OK);
  EXPECT(sagegen_memory_alloc(device, (size_t)(kBlocks * layer.exact_block_bytes), &blocks) == SAGEGEN_OK);
  EXPECT(sagegen_memory_alloc(device, sizeof output, &o) == SAGEGEN_OK);
  EXPECT(sagegen_memory_alloc(device, 2 * sizeof rows, &gathered) == SAGEGEN_OK);
  /* The slots of pages 3, 4, 5 and of blocks from the last one down; tables, lengths, q_lens, indptr. */
  int64_t slots[2 * kTokens];
  int32_t all_numbers[6 + kBlocks + 2 + 2 + 3] = {3, 4, 5, 0, 1, 2};
  int32_t *table = all_numbers + 6, *lengths = table + kBlocks, *q_lens = lengths + 2, *indptr = q_lens + 2;
  for (int32_t i = 0; i < kBlocks; ++i) table[i] = kBlocks - 1 - i;
  lengths[0] = kTokens, q_lens[0] = 1, indptr[1] = indptr[2] = kTokens; /* the rest is 0 */
  for (int64_t t = 0; t < kTokens; ++t) {
    const int64_t place = sagegen_kv_cache_exact_place(cache, t, kTokens);
    slots[t] = 3 * 32 + t;
    slots[kTokens + t] = table[place / 16] * 16 + place % 16;
  }
  EXPECT(sagegen_memory_alloc(device, sizeof slots, &places) == SAGEGEN_OK);
  EXPECT(sagegen_memory_upload(device, places, slots, sizeof slots) == SAGEGEN_OK);
  EXPECT(sagegen_memory_alloc(device, sizeof all_numbers, &numbers) == SAGEGEN_OK);
  EXPECT(sagegen_memory_upload(device, numbers, all_numbers, sizeof all_numbers) == SAGEGEN_OK);
  sagegen_kv_append_arguments append = {.struct_size = sizeof append,
                                        .pool = {.data = pool, .pages = kPages},
                                        .tokens = kTokens,
                                        .k = {memory[1], 0, kChannels, kHeads * kChannels},
                                        .v = {memory[2], 0, kChannels, kHeads * kChannels},
                                        .slots = places};
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_kv_cache_append(cache, 0, &append, NULL), "exact.slots is a null pointer");
  append.exact_pool = (sagegen_kv_pool){.data = blocks, .pages = kBlocks};
  append.exact_slots = places + 8 * kTokens;
  EXPECT(sagegen_kv_cache_append(cache, 0, &append, NULL) == SAGEGEN_OK);

  sagegen_kv_decode_arguments decode = {.struct_size = sizeof decode,
                                        .pool = {.data = pool, .pages = kPages},
                                        .batch = 2,
                                        .q_len = 1,
                                        .max_pages = 3,
                                        .splits = 1,
                                        .q = {memory[0], kQueries, kChannels, kChannels},
                                        .page_table = numbers,
                                        .lengths = numbers + 4 * (6 + kBlocks),
                                        .o = {o, kQueries, kChannels, kChannels},
                                        .q_lens = numbers + 4 * (6 + kBlocks + 2),
                                        .exact_table = numbers + 4 * 6};
  size_t bytes = 0;
  EXPECT(sagegen_kv_cache_workspace_bytes(cache, 0, &decode, &bytes) == SAGEGEN_OK && bytes > 0);
  EXPECT(sagegen_memory_alloc(device, bytes, &workspace) == SAGEGEN_OK);
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_kv_cache_decode(cache, 0, &decode, workspace, bytes, NULL),
               "exact.pool_blocks is 0");
  decode.exact_pool = append.exact_pool;
  EXPECT(sagegen_kv_cache_decode(cache, 0, &decode, workspace, bytes, NULL) == SAGEGEN_OK);
  EXPECT(sagegen_device_synchronize(device) == SAGEGEN_OK);
  EXPECT(sagegen_memory_download(device, output, o, sizeof output) == SAGEGEN_OK);
  double error = 0, norm = 0;
  for (int head = 0; head < kHeads; ++head) {
    double exact[kChannels] = {0}, sum = 0;
    for (int t = 0; t < kTokens; ++t) {
      const int row = (t * kHeads + head) * kChannels;
      double score = 0;
      for (int c = 0; c < kChannels; ++c)
        score += (double)from_bf16(inputs[0][head * kChannels + c]) * from_bf16(inputs[1][row + c]);
      const double weight = exp(score / sqrt(kChannels));
      sum += weight;
      for (int c = 0; c < kChannels; ++c) exact[c] += weight * from_bf16(inputs[2][row + c]);
    }
    for (int c = 0; c < kChannels; ++c) {
      error += fabs(exact[c] / sum - from_bf16(output[head * kChannels + c]));
      norm += fabs(exact[c] / sum);
    }
  }
  EXPECT(error < 0.005 * norm);
  for (int i = 0; i < kQueries; ++i) EXPECT(from_bf16(output[kQueries + i]) == 0);

  const sagegen_kv_gather_arguments gather = {.struct_size = sizeof gather,
                                              .pool = decode.pool,
                                              .batch = 2,
                                              .rows = kTokens,
                                              .longest = kTokens,
                                              .max_pages = 3,
                                              .page_table = decode.page_table,
                                              .indptr = numbers + 4 * (6 + kBlocks + 4),
                                              .k = {gathered, 0, kChannels, kHeads * kChannels},
                                              .v = {gathered + sizeof rows, 0, kChannels, kHeads * kChannels}};
  EXPECT(sagegen_kv_cache_gather(cache, 0, &gather, NULL) == SAGEGEN_OK);
  EXPECT(sagegen_device_synchronize(device) == SAGEGEN_OK);
  for (uint32_t i = 0; i < 2; ++i) {
    EXPECT(sagegen_memory_download(device, rows, gathered + i * sizeof rows, sizeof rows) == SAGEGEN_OK);
    double worst = 0, largest = 0;
    for (int e = 0; e < kElements; ++e) {
      const double x = from_bf16(inputs[1 + i][e]);
      if (fabs(x - from_bf16(rows[e])) > worst) worst = fabs(x - from_bf16(rows[e]));
      if (fabs(x) > largest) largest = fabs(x);
    }
    EXPECT(worst > 0 && worst < (i == 0 ? 2.0 / 255 : 2.0 / 15) * largest);
  }
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_kv_cache_gather(cache, 1, &gather, NULL), "layer is 1");
  sagegen_kv_cache_destroy(cache);
  const uint64_t all[] = {memory[0], memory[1], memory[2], o, pool, blocks, places, workspace, numbers, gathered};
  for (size_t i = 0; i < sizeof all / sizeof *all; ++i)
    EXPECT(sagegen_memory_free(device, all[i]) == SAGEGEN_OK);
}

/* A workspace of half the size gives the same bits; what cannot be kept is refused. */
static void test_bounds(sagegen_device* device) {
  static uint16_t inputs[kElements], outputs[2][kElements];
  uint64_t memory[4], workspace = 0;
  size_t whole = 0, cut = 0;
  for (uint32_t i = 0; i < 4; ++i) {
    fill(inputs, i + 1);
    EXPECT(sagegen_memory_alloc(device, kElements * 2, &memory[i]) == SAGEGEN_OK);
    EXPECT(sagegen_memory_upload(device, memory[i], inputs, kElements * 2) == SAGEGEN_OK);
  }
  sagegen_attention_options options = {.struct_size = sizeof options,
                                       .kernel = "head_dim=64 io=bf16"};
  for (int bounded = 0; bounded < 2; ++bounded) {
    sagegen_attention* plan = NULL;
    size_t* bytes = bounded ? &cut : &whole;
    options.max_workspace_bytes = bounded ? (int64_t)(whole - 1) : 0;
    EXPECT(sagegen_attention_create(device, &options, &plan) == SAGEGEN_OK);
    EXPECT(sagegen_attention_workspace_bytes(plan, &kShape, bytes) == SAGEGEN_OK);
    if (!bounded) EXPECT(sagegen_memory_alloc(device, whole, &workspace) == SAGEGEN_OK);
    const sagegen_arguments arguments = {.struct_size = sizeof arguments, .q = hnd(memory[0]), .k = hnd(memory[1]), .v = hnd(memory[2]), .o = hnd(memory[3])};
    EXPECT(sagegen_attention_run(plan, &kShape, &arguments, workspace, *bytes, NULL) == SAGEGEN_OK);
    EXPECT(sagegen_device_synchronize(device) == SAGEGEN_OK);
    EXPECT(sagegen_memory_download(device, outputs[bounded], memory[3], kElements * 2) == SAGEGEN_OK);
    sagegen_attention_destroy(plan);
  }
  EXPECT(cut > 0 && cut < whole);
  EXPECT(memcmp(outputs[0], outputs[1], sizeof outputs[0]) == 0);

  sagegen_attention* plan = NULL;
  options.max_workspace_bytes = 1;
  EXPECT(sagegen_attention_create(device, &options, &plan) == SAGEGEN_OK);
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_attention_workspace_bytes(plan, &kShape, &cut),
               "max_workspace_bytes");
  sagegen_attention_destroy(plan);
  plan = NULL;
  options.max_workspace_bytes = 0;
  options.invariance = "batch";
  EXPECT(sagegen_attention_create(device, &options, &plan) == SAGEGEN_OK);
  sagegen_attention_destroy(plan);
  plan = NULL;
  options.invariance = "growing_keys";
  EXPECT_ERROR(SAGEGEN_SPEC_ERROR, sagegen_attention_create(device, &options, &plan), "causal");
  options.invariance = "always";
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_attention_create(device, &options, &plan),
               "query_chunks");
  EXPECT(plan == NULL);
  for (int i = 0; i < 4; ++i) EXPECT(sagegen_memory_free(device, memory[i]) == SAGEGEN_OK);
  EXPECT(sagegen_memory_free(device, workspace) == SAGEGEN_OK);
}

static void test_codes(sagegen_device* device, const char* kernel) {
  static uint16_t inputs[4][kElements], outputs[2][kElements];
  static float lse[2][kHeads * kTokens];
  uint64_t memory[4], workspace = 0;
  size_t bytes = 0;
  for (uint32_t i = 0; i < 4; ++i) {
    fill(inputs[i], i + 21);
    memory[i] = room(device, sizeof inputs[i]);
    EXPECT(sagegen_memory_upload(device, memory[i], inputs[i], sizeof inputs[i]) == SAGEGEN_OK);
  }
  sagegen_attention* plan = NULL;
  const sagegen_attention_options options = {.struct_size = sizeof options, .kernel = kernel};
  EXPECT(sagegen_attention_create(device, &options, &plan) == SAGEGEN_OK);
  if (plan == NULL) return;
  sagegen_arguments arguments = {.struct_size = sizeof arguments, .k = hnd(memory[2]), .v = hnd(memory[3])};
  arguments.o = hnd(room(device, sizeof outputs[0]));
  arguments.lse = room(device, sizeof lse[0]);

  sagegen_code_sizes sizes = {.struct_size = sizeof sizes};
  EXPECT(sagegen_attention_code_sizes(plan, &kShape, 1, &sizes) == SAGEGEN_OK);
  EXPECT(sizes.q_codes > 0 && sizes.k_mean > 0 && sizes.v_mean == 0 && sizes.lse_correction > 0);
  const sagegen_query_codes queries = {.struct_size = sizeof queries, .codes = room(device, sizes.q_codes),
                                       .scale = room(device, sizes.q_scale),
                                       .mean = room(device, sizes.q_mean),
                                       .lse_correction = room(device, sizes.lse_correction)};
  const sagegen_key_value_codes keys_values = {.struct_size = sizeof keys_values, .k_codes = room(device, sizes.k_codes),
                                               .k_scale = room(device, sizes.k_scale),
                                               .k_mean = room(device, sizes.k_mean),
                                               .v_codes = room(device, sizes.v_codes),
                                               .v_scale = room(device, sizes.v_scale)};
  const uint64_t small = room(device, sizes.workspace);
  const size_t small_bytes = (size_t)sizes.workspace;
  EXPECT(sagegen_attention_workspace_bytes(plan, &kShape, &bytes) == SAGEGEN_OK);
  EXPECT(small_bytes < bytes);
  workspace = room(device, (int64_t)bytes);
  EXPECT(sagegen_attention_quantize_keys_values(plan, &kShape, &arguments, &keys_values, small,
                                                small_bytes, NULL) == SAGEGEN_OK);
  for (int i = 0; i < 2; ++i) {
    arguments.q = hnd(memory[i]);
    EXPECT(sagegen_attention_quantize_queries(plan, &kShape, &arguments, &keys_values, &queries,
                                              small, small_bytes, NULL) == SAGEGEN_OK);
    EXPECT(sagegen_attention_attend_codes(plan, &kShape, &queries, &keys_values, &arguments, small,
                                          small_bytes, NULL) == SAGEGEN_OK);
    EXPECT(sagegen_memory_download(device, outputs[0], arguments.o.data, sizeof outputs[0]) ==
           SAGEGEN_OK);
    EXPECT(sagegen_memory_download(device, lse[0], arguments.lse, sizeof lse[0]) == SAGEGEN_OK);
    EXPECT(sagegen_attention_run(plan, &kShape, &arguments, workspace, bytes, NULL) == SAGEGEN_OK);
    EXPECT(sagegen_memory_download(device, outputs[1], arguments.o.data, sizeof outputs[1]) ==
           SAGEGEN_OK);
    EXPECT(sagegen_memory_download(device, lse[1], arguments.lse, sizeof lse[1]) == SAGEGEN_OK);
    EXPECT(memcmp(outputs[0], outputs[1], sizeof outputs[0]) == 0);
    EXPECT(memcmp(lse[0], lse[1], sizeof lse[0]) == 0);
  }
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR,
               sagegen_attention_quantize_queries(plan, &kShape, &arguments, NULL, &queries, small,
                                                  small_bytes, NULL),
               "k_mean is a null pointer");
  sagegen_query_codes less = queries;
  less.scale = 0;
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR,
               sagegen_attention_attend_codes(plan, &kShape, &less, &keys_values, &arguments, small,
                                              small_bytes, NULL),
               "q_scale is a null pointer");
  for (int field = 0; field < 6; ++field) { /* what only kernels of given codes have */
    sagegen_query_codes q = queries;
    sagegen_key_value_codes kv = keys_values;
    int64_t* strides[] = {&q.strides.row,      &q.scale_stride,    &kv.k_strides.head,
                          &kv.v_strides.batch, &kv.k_scale_stride, NULL};
    const char* words[] = {"codes of Q", "codes of Q", "codes of K",
                           "codes of V", "codes of K", "codes of Q"};
    if (strides[field] == NULL)
      q.scale_is_folded = 1;
    else
      *strides[field] = kChannels;
    EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR,
                 sagegen_attention_attend_codes(plan, &kShape, &q, &kv, &arguments, small,
                                                small_bytes, NULL),
                 words[field]);
    EXPECT(strstr(sagegen_last_error(), "inputs=given") != NULL);
  }
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR,
               sagegen_attention_attend_codes(plan, &kShape, NULL, &keys_values, &arguments, small,
                                              small_bytes, NULL),
               "queries is null");
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR,
               sagegen_attention_quantize_keys_values(plan, &kShape, &arguments, NULL, small,
                                                      small_bytes, NULL),
               "to is null");
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_attention_code_sizes(plan, &kShape, 0, NULL),
               "sizes is null");
  sagegen_attention_destroy(plan);
  free_rooms(device);
}

static void test_kernels(sagegen_device* device) {
  size_t count = 0, loaded = 0;
  for (const char* key; (key = sagegen_device_kernel(device, count)) != NULL; ++count) {
    EXPECT(strstr(key, "sm120") == NULL); /* cannot run on an sm_89 */
    if (strstr(key, "_d64_") == NULL) continue;
    sagegen_attention* plan = NULL;
    const sagegen_attention_options options = {.struct_size = sizeof options, .kernel = key};
    EXPECT(sagegen_attention_create(device, &options, &plan) == SAGEGEN_OK);
    EXPECT(strcmp(sagegen_attention_kernel(plan), key) == 0);
    sagegen_attention_destroy(plan);
    ++loaded;
  }
  EXPECT(loaded > 0 && count > loaded);
}

/* K whose channels have a bias: without smoothing the codes of K mean little. */
static double error_with(sagegen_device* device, const char* kernel) {
  enum { kWide = 128, kRows = 70, kCount = kRows * kWide };
  static _Alignas(16) uint16_t q[kCount], k[kCount], v[kCount], o[kCount];
  const sagegen_shape shape = {.struct_size = sizeof shape, .batch = 1, .q_heads = 1, .kv_heads = 1, .q_len = kRows, .kv_len = kRows};
  for (int i = 0; i < kCount; ++i) {
    /* f16: 4 and -4 by channel; 513 in the channels of 4 of odd tokens, else 512, which one scale makes
     * the same code; 1.75 in odd tokens, else 0 */
    q[i] = i % 2 ? 0xc400 : 0x4400;
    k[i] = i / kWide % 2 && i % 2 == 0 ? 0x6002 : 0x6000;
    v[i] = (uint16_t)(i / kWide % 2 ? 0x3f00 : 0);
  }
  uint64_t memory[4], workspace = 0;
  size_t bytes = 0;
  const uint16_t* inputs[3] = {q, k, v};
  for (int i = 0; i < 4; ++i)
    EXPECT(sagegen_memory_alloc(device, sizeof q, &memory[i]) == SAGEGEN_OK);
  for (int i = 0; i < 3; ++i)
    EXPECT(sagegen_memory_upload(device, memory[i], inputs[i], sizeof q) == SAGEGEN_OK);
  sagegen_attention* plan = NULL;
  const sagegen_attention_options options = {.struct_size = sizeof options, .kernel = kernel};
  EXPECT(sagegen_attention_create(device, &options, &plan) == SAGEGEN_OK);
  EXPECT(strcmp(sagegen_attention_note(plan), "") == 0);
  EXPECT(sagegen_attention_workspace_bytes(plan, &shape, &bytes) == SAGEGEN_OK);
  EXPECT(sagegen_memory_alloc(device, bytes, &workspace) == SAGEGEN_OK);
  const sagegen_tensor layout = {0, kCount, kCount, kWide};
  sagegen_arguments arguments = {.struct_size = sizeof arguments, .q = layout, .k = layout, .v = layout, .o = layout};
  arguments.q.data = memory[0], arguments.k.data = memory[1];
  arguments.v.data = memory[2], arguments.o.data = memory[3];
  EXPECT(sagegen_attention_run(plan, &shape, &arguments, workspace, bytes, NULL) == SAGEGEN_OK);
  EXPECT(sagegen_memory_download(device, o, memory[3], sizeof o) == SAGEGEN_OK);
  double error = 0;
  for (int row = 0; row < kRows; ++row) {
    double weights = 0, sum = 0;
    for (int key = 0; key < kRows; ++key) {
      double score = 0;
      for (int c = 0; c < kWide; ++c)
        score += (q[row * kWide + c] == 0x4400 ? 4 : -4) * (k[key * kWide + c] == 0x6002);
      const double weight = exp(score / sqrt(kWide));
      weights += weight;
      sum += key % 2 ? 1.75 * weight : 0;
    }
    const uint16_t bits = o[row * kWide];
    const double value = bits == 0 ? 0 : ldexp(1024 + (bits & 0x3ff), (bits >> 10) - 25);
    error += fabs(value - sum / weights);
  }
  for (int i = 0; i < 4; ++i) EXPECT(sagegen_memory_free(device, memory[i]) == SAGEGEN_OK);
  EXPECT(sagegen_memory_free(device, workspace) == SAGEGEN_OK);
  sagegen_attention_destroy(plan);
  return error / kRows;
}

static void test_smoothing(sagegen_device* device) {
  const char* kernels[][2] = {
      {"head_dim=128 mode=int8-fp8", "head_dim=128 mode=int8-fp8 smoothing=none"},
      {"mode=int8-fp16 head_dim=128", "smoothing=none head_dim=128 mode=int8-fp16"},
      {"sage_fwd_d128_f16_qk_s8t_g32x64_smk_pv_e4m3_f32x2__q128k64w4s2__sm89",
       "sage_fwd_d128_f16_qk_s8t_g32x64_sm0_pv_e4m3_f32x2__q128k64w4s2__sm89"},
      {"head_dim=128 smoothing=k", "smoothing=none head_dim=128 io=f16"}};
  for (int i = 0; i < 4; ++i) {
    const double smoothed = error_with(device, kernels[i][0]);
    const double plain = error_with(device, kernels[i][1]);
    printf("%s: error %g with K smoothing, %g without\n", kernels[i][0], smoothed, plain);
    EXPECT(plain > 3 * smoothed); /* the word reaches the kernels */
  }
  /* Less its mean, a K of two values is exact in INT4, too. All queries are the same: their mean is
   * all there is, and less that, nothing is lost. */
  const double int4 = error_with(device, "head_dim=128 mode=int4-fp8");
  printf("int4-fp8: error %g\n", int4);
  EXPECT(int4 > 0 && int4 < 0.02);
  const double same = error_with(device, "head_dim=128 mode=int4-fp8 smoothing=qk");
  EXPECT(same == int4); /* what is usual */
}

/* An error speaks of what was asked, not of a kernel that would have prepared its inputs. */
static void test_errors_name_what_was_asked(void) {
  sagegen_device* ampere = NULL;
  sagegen_attention* plan = NULL;
  EXPECT(sagegen_device_create("emulator:sm_80", &ampere) == SAGEGEN_OK);
  const sagegen_attention_options fp8 = {.struct_size = sizeof fp8, .kernel = "head_dim=128 mode=int8-fp8"};
  EXPECT_ERROR(SAGEGEN_SPEC_ERROR, sagegen_attention_create(ampere, &fp8, &plan),
               "mode int8-fp8 needs FP8 tensor cores");
  EXPECT(strstr(sagegen_last_error(), "8.0") && strstr(sagegen_last_error(), "int8-fp16"));
  const char* head_dims[] = {"head_dim=112", "head_dim=320"};
  for (int i = 0; i < 2; ++i) {
    const sagegen_attention_options odd = {.struct_size = sizeof odd, .kernel = head_dims[i]};
    EXPECT_ERROR(SAGEGEN_SPEC_ERROR, sagegen_attention_create(ampere, &odd, &plan),
                 i == 0 ? "up to 128" : "larger heads are not generated yet");
    EXPECT(strstr(sagegen_last_error(), "kvstats") == NULL);
  }
  EXPECT(plan == NULL);
  sagegen_device_destroy(ampere);
}

/* Modes and options whose kernels are not embedded: what was looked for says what the names mean. */
static void test_unquantized_modes(sagegen_device* device) {
  sagegen_attention* plan = NULL;
  const struct {
    const char* kernel;
    const char* words;
  } cases[] = {
      {"head_dim=64 mode=16bit", "sage_fwd_d64_f16_qk_f16t_g32x64_sm0_pv_f16_f32__q"},
      {"head_dim=128 io=bf16 causal mode=16bit",
       "sage_fwd_d128_bf16_qk_bf16t_g32x64_sm0_pv_bf16_f32_causal__q"},
      {"mode=bf16-fp8 head_dim=64 io=bf16",
       "sage_fwd_d64_bf16_qk_bf16t_g32x64_sm0_pv_e4m3_f32x2__q"},
      {"head_dim=64 mode=bf16-fp8",
       "sage_fwd_d64_f16_qk_f16t_g32x64_sm0_pv_e4m3_f32x2__q"},
      {"head_dim=64 smoothing=k mode=16bit", "use smoothing none"},
      {"head_dim=64 qk=f16 pv=f16", "sage_fwd_d64_f16_qk_f16t_g32x64_sm0_pv_f16_f32__q"},
      {"head_dim=64 io=bf16 pack_gqa=true causal=true",
       "sage_fwd_d64_bf16_qk_s8t_g16x64_smk_pv_e4m3_f32x2_packgqa_causal__q32k64w2s3__sm89"},
      {"head_dim=64 pack_gqa=true blocksparse=true", "_packgqa_blocksparse__q32k64w2s3__sm89"},
      {"head_dim=64 pack_gqa=true inputs=given", "use pack_gqa with inputs own"},
      {"head_dim=192 value_dim=128 qk=f16",
       "sage_fwd_d192_dv128_f16_qk_f16t_g32x64_sm0_pv_e4m3_f32x2__q"},
      {"head_dim=128 out=s8 causal=true",
       "sage_fwd_d128_f16_qk_s8t_g32x64_smk_pv_e4m3_f32x2_out_s8_causal__q"},
      {"head_dim=64 pack_gqa=true varlen=true out=s8",
       "sage_fwd_d64_f16_qk_s8t_g16x64_smk_pv_e4m3_f32x2_out_s8_packgqa_varlen__q32k64w2s3__sm89"},
      {"head_dim=64 inputs=given out=s8",
       "sage_fwd_d64_f16_qk_s8t_g32x64_sm0_pv_e4m3_f32x2_given_out_s8__q"},
      {"head_dim=192 value_dim=100", "zeros up to 128"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; ++i)
    EXPECT_ERROR(SAGEGEN_SPEC_ERROR, create(device, cases[i].kernel, &plan), cases[i].words);
  sagegen_device* ampere = NULL;
  EXPECT(sagegen_device_create("emulator:sm_80", &ampere) == SAGEGEN_OK);
  EXPECT_ERROR(SAGEGEN_SPEC_ERROR, create(ampere, cases[2].kernel, &plan),
               "mode bf16-fp8 needs FP8 tensor cores");
  EXPECT(strstr(sagegen_last_error(), "16bit") != NULL);
  sagegen_device_destroy(ampere);
  EXPECT(plan == NULL);
}

/* PTX that cannot be read is the caller's affair, no bug of the library. */
static void test_unreadable_ptx(sagegen_device* device) {
  char directory[] = "/tmp/sagegen_capi_XXXXXX", file[128];
  sagegen_attention* plan = NULL;
  EXPECT(mkdtemp(directory) != NULL);
  snprintf(file, sizeof file, "%s/sage_kvstats_d64_f16_ksum_vmax__sm89.ptx", directory);
  EXPECT(mkdir(file, 0700) == 0);
  const sagegen_attention_options options = {.struct_size = sizeof options, .kernel = "head_dim=64", .ptx_directory = directory};
  EXPECT_ERROR(SAGEGEN_SPEC_ERROR, sagegen_attention_create(device, &options, &plan),
               "cannot be read: Is a directory");
  EXPECT(plan == NULL);
  EXPECT(rmdir(file) == 0 && rmdir(directory) == 0);
}

/* Layers of one model with kernels of their own, loaded by the key that the map gives. */
static void test_mode_map(sagegen_device* device) {
  const char* const fp16 = "sage_fwd_d64_f16_qk_s8t_g32x64_smk_pv_f16_f32__q128k64w4s2__sm89";
  const char* const fp8 = "sage_fwd_d64_f16_qk_s8t_g32x64_smk_pv_e4m3_f32x2__q128k64w4s2__sm89";
  char file[] = "/tmp/sagegen_modes_XXXXXX";
  const int descriptor = mkstemp(file);
  EXPECT(descriptor >= 0);
  FILE* stream = fdopen(descriptor, "w");
  fprintf(stream, "sagegen.modes\t1\n# two layers\nfirst\t%s\nsecond\t%s\tfor people\n", fp16, fp8);
  EXPECT(fclose(stream) == 0);

  sagegen_mode_map* map = NULL;
  const char* key = NULL;
  EXPECT(sagegen_mode_map_load(file, &map) == SAGEGEN_OK);
  const char* const layers[] = {"first", "second"};
  for (int i = 0; i < 2; ++i) {
    EXPECT(sagegen_mode_map_kernel(map, layers[i], &key) == SAGEGEN_OK);
    EXPECT(strcmp(key, i == 0 ? fp16 : fp8) == 0);
    sagegen_attention* plan = NULL;
    const sagegen_attention_options options = {.struct_size = sizeof options, .kernel = key};
    EXPECT(sagegen_attention_create(device, &options, &plan) == SAGEGEN_OK);
    EXPECT(plan != NULL && strcmp(sagegen_attention_kernel(plan), key) == 0);
    sagegen_attention_destroy(plan);
  }
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_mode_map_kernel(map, "third", &key),
               "no line for layer \"third\"");
  EXPECT(strstr(sagegen_last_error(), "first, second") != NULL);
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_mode_map_kernel(NULL, "first", &key), "map is null");
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_mode_map_kernel(map, NULL, &key), "layer is null");
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_mode_map_kernel(map, "first", NULL), "key is null");
  EXPECT(key != NULL && strcmp(key, fp8) == 0); /* as the last call that succeeded left it */
  sagegen_mode_map_destroy(map);

  map = NULL;
  stream = fopen(file, "w");
  EXPECT(stream != NULL);
  fprintf(stream, "sagegen.modes\t1\nfirst\tint8\n");
  EXPECT(fclose(stream) == 0);
  EXPECT_ERROR(SAGEGEN_SPEC_ERROR, sagegen_mode_map_load(file, &map), file);
  EXPECT(strstr(sagegen_last_error(), ":2: ") != NULL);
  EXPECT(unlink(file) == 0);
  EXPECT_ERROR(SAGEGEN_SPEC_ERROR, sagegen_mode_map_load(file, &map), "cannot be read");
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_mode_map_load(NULL, &map), "path is null");
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_mode_map_load(file, NULL), "map is null");
  EXPECT(map == NULL);
  sagegen_mode_map_destroy(NULL);
}

/* Two sequences in one packed call, by a kernel that is not embedded, against each as a batch of its own. */
static void test_packed(sagegen_device* device, const char* ptx_directory) {
  enum { kLengths = 3 };
  static uint16_t inputs[3][kElements], outputs[2][kElements];
  static float lse[2][kHeads * kTokens];
  const int32_t sums[kLengths] = {0, 45, kTokens};
  sagegen_shape shape = {.struct_size = sizeof shape, .batch = 2,
                         .q_heads = kHeads,
                         .kv_heads = kHeads,
                         .q_len = kTokens,
                         .kv_len = kTokens,
                         .total_q = kTokens,
                         .total_kv = kTokens};
  uint64_t memory[6], workspace = 0;
  const size_t sizes[6] = {kElements * 2, kElements * 2, kElements * 2,
                           kElements * 2, sizeof lse[0], sizeof sums};
  size_t bytes = 0;
  for (int i = 0; i < 6; ++i)
    EXPECT(sagegen_memory_alloc(device, sizes[i], &memory[i]) == SAGEGEN_OK);
  for (uint32_t i = 0; i < 3; ++i) {
    fill(inputs[i], i + 21);
    EXPECT(sagegen_memory_upload(device, memory[i], inputs[i], sizes[i]) == SAGEGEN_OK);
  }
  EXPECT(sagegen_memory_upload(device, memory[5], sums, sizeof sums) == SAGEGEN_OK);
  sagegen_arguments arguments = {.struct_size = sizeof arguments, .q = hnd(memory[0]),
                                 .k = hnd(memory[1]),
                                 .v = hnd(memory[2]),
                                 .o = hnd(memory[3]),
                                 .lse = memory[4],
                                 .cu_seqlens_q = memory[5],
                                 .cu_seqlens_kv = memory[5]};

  sagegen_attention* plan = NULL;
  const sagegen_attention_options embedded = {.struct_size = sizeof embedded, .kernel = "head_dim=64 io=bf16"};
  EXPECT(sagegen_attention_create(device, &embedded, &plan) == SAGEGEN_OK);
  EXPECT(sagegen_attention_workspace_bytes(plan, &shape, &bytes) == SAGEGEN_OK && bytes > 0);
  EXPECT(sagegen_memory_alloc(device, bytes, &workspace) == SAGEGEN_OK);
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR,
               sagegen_attention_run(plan, &shape, &arguments, workspace, bytes, NULL),
               "take one with varlen=true");
  sagegen_attention_destroy(plan);
  plan = NULL;

  const sagegen_attention_options options = {.struct_size = sizeof options, .kernel = "head_dim=64 io=bf16 varlen=true",
                                             .ptx_directory = ptx_directory};
  if (ptx_directory == NULL) {
    EXPECT_ERROR(SAGEGEN_SPEC_ERROR, sagegen_attention_create(device, &options, &plan), "_varlen_");
    printf("packed sequences: not run, as no PTX of them is given\n");
  } else {
    EXPECT(sagegen_attention_create(device, &options, &plan) == SAGEGEN_OK);
  }
  if (plan != NULL) {
    EXPECT(strstr(sagegen_attention_kernel(plan), "_varlen_") != NULL);
    EXPECT(sagegen_attention_run(plan, &shape, &arguments, workspace, bytes, NULL) == SAGEGEN_OK);
    EXPECT(sagegen_memory_download(device, outputs[0], memory[3], sizes[3]) == SAGEGEN_OK);
    EXPECT(sagegen_memory_download(device, lse[0], memory[4], sizes[4]) == SAGEGEN_OK);
    /* Each by itself: the same plan, and nothing packed. */
    for (int b = 0; b < 2; ++b) {
      const int64_t first = sums[b], count = sums[b + 1] - first;
      const uint64_t skipped = (uint64_t)first * kChannels * 2;
      const sagegen_shape one = {.struct_size = sizeof one, .batch = 1, .q_heads = kHeads, .kv_heads = kHeads, .q_len = count, .kv_len = count};
      sagegen_arguments alone = {.struct_size = sizeof alone, .q = hnd(memory[0] + skipped),
                                 .k = hnd(memory[1] + skipped),
                                 .v = hnd(memory[2] + skipped),
                                 .o = hnd(memory[3] + skipped),
                                 .lse = memory[4]};
      EXPECT(sagegen_attention_run(plan, &one, &alone, workspace, bytes, NULL) == SAGEGEN_OK);
      EXPECT(sagegen_memory_download(device, outputs[1], memory[3], sizes[3]) == SAGEGEN_OK);
      EXPECT(sagegen_memory_download(device, lse[1], memory[4], sizes[4]) == SAGEGEN_OK);
      for (int h = 0; h < kHeads; ++h) {
        const size_t row = (size_t)h * kTokens + (size_t)first;
        EXPECT(memcmp(outputs[0] + row * kChannels, outputs[1] + row * kChannels,
                      (size_t)count * kChannels * 2) == 0);
        EXPECT(memcmp(lse[0] + row, lse[1] + (size_t)(h * count), (size_t)count * sizeof(float)) ==
               0);
      }
    }
    arguments.cu_seqlens_kv = 0;
    EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR,
                 sagegen_attention_run(plan, &shape, &arguments, workspace, bytes, NULL),
                 "cu_seqlens_q is given without cu_seqlens_kv");
    arguments.cu_seqlens_q = 0;
    EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR,
                 sagegen_attention_run(plan, &shape, &arguments, workspace, bytes, NULL),
                 "total_q is 70, and cu_seqlens_q is not given");
    sagegen_attention_destroy(plan);
  }
  shape.total_kv = -1;
  EXPECT(sagegen_attention_create(device, &embedded, &plan) == SAGEGEN_OK);
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_attention_workspace_bytes(plan, &shape, &bytes),
               "total_kv is -1");
  sagegen_attention_destroy(plan);
  for (int i = 0; i < 6; ++i) EXPECT(sagegen_memory_free(device, memory[i]) == SAGEGEN_OK);
  EXPECT(sagegen_memory_free(device, workspace) == SAGEGEN_OK);
}

static void test_misuse(sagegen_device* device) {
  sagegen_device* none = NULL;
  sagegen_attention* plan = NULL;
  uint64_t address = 0;
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_device_create("emulator:sm_77", &none), "sm_120");
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_device_create("tpu:0", &none), "cuda:0");
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_device_create("cuda:x", &none), "cuda:N");
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_device_create(NULL, &none), "name is null");
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_device_create("emulator:sm_89", NULL), "null");
  EXPECT(none == NULL);
  EXPECT(sagegen_device_create("cuda:9999", &none) != SAGEGEN_OK && none == NULL);

  const struct {
    const char *kernel, *words;
  } cases[] = {
      {"head_dim=63", "up to 64"},
      {"head_dim=64 colour=red", "unknown option \"colour\"; valid are head_dim, "},
      {"head_dim=64 widow", "skipsoftmax, schedule, mode; did you mean window?"},
      {"head_dim=64 mod=16bit", "did you mean mode?"},
      {"head_dim=64 io=fp16", "io = \"fp16\" is refused: it must be f16 or bf16; did you mean f16?"},
      {"head_dim=64 io", "write name=value, f16 or bf16"},
      {"head_dim=64 causal=yes", "false or true"},
      {"head_dim=64 head_dim=64", "head_dim stands twice"},
      {"head_dim=64 mode=int3", "int8-fp16, int4-fp8"},
      {"head_dim=64 mode=int8_fp8", "did you mean int8-fp8?"},
      {"head_dim=64 mode", "mode = \"\" is refused"},
      {"int8-fp8", "did you mean mode=int8-fp8?"},
      {"mode=16bit mode=16bit", "mode stands twice"},
      {"mode=int8-fp8 pv=e4m3", "mode says what qk and pv are, and pv is given beside it"},
      {"sage_fwd_nonsense", "nonsense"},
      {"sage_quantrows_d64_f16_s8_r8_g32_fold__sm89", "sage_fwd_"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; ++i)
    EXPECT_ERROR(SAGEGEN_SPEC_ERROR, create(device, cases[i].kernel, &plan), cases[i].words);
  sagegen_attention_options options = {
      .struct_size = sizeof options, .kernel = "head_dim=64", .ptx_directory = "/nowhere"};
  EXPECT_ERROR(SAGEGEN_SPEC_ERROR, sagegen_attention_create(device, &options, &plan), "/nowhere");
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, create(NULL, "head_dim=64", &plan), "device is null");
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_attention_create(device, NULL, &plan), "options is null");
  EXPECT(plan == NULL);
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_memory_alloc(device, 0, &address), "0 bytes");
  EXPECT(sagegen_memory_alloc(device, SIZE_MAX / 2, &address) == SAGEGEN_OUT_OF_MEMORY);
  EXPECT(address == 0);
  EXPECT(sagegen_memory_free(device, 12345) == SAGEGEN_DRIVER_ERROR);
  EXPECT(sagegen_memory_free(device, 0) == SAGEGEN_OK);
  EXPECT(strcmp(sagegen_last_error(), "") == 0); /* of the last call, which succeeded */
  EXPECT(sagegen_device_kernel(NULL, 0) == NULL && sagegen_device_name(NULL) == NULL);
  EXPECT(sagegen_attention_kernel(NULL) == NULL && sagegen_attention_note(NULL) == NULL);
  sagegen_device_interrupt(NULL, 1);
  sagegen_device_destroy(NULL);
  sagegen_attention_destroy(NULL);
}

/* A text that a call failed with is an argument of the next one, as a whole and from somewhere in the middle. */
static void test_last_error_as_argument(sagegen_device* device) {
  sagegen_attention* plan = NULL;
  EXPECT(create(device, "head_dim=64 colour=red", &plan) == SAGEGEN_SPEC_ERROR);
  const char* const words = sagegen_last_error();
  char copy[1000], expected[64];
  snprintf(copy, sizeof copy, "%s", words);
  EXPECT_ERROR(SAGEGEN_SPEC_ERROR, create(device, words, &plan), "unknown option \"unknown\"");
  EXPECT(strcmp(words, copy) == 0);
  EXPECT(create(device, "head_dim=64 shade=red", &plan) == SAGEGEN_SPEC_ERROR);
  const char* const middle = strstr(sagegen_last_error(), "valid");
  snprintf(expected, sizeof expected, "unknown option \"%.5s\"", middle);
  EXPECT_ERROR(SAGEGEN_SPEC_ERROR, create(device, middle, &plan), expected);
  sagegen_device* none = NULL;
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_device_create(sagegen_last_error(), &none), "device \"unknown option");
  /* of a call that succeeds, too */
  const char* const last = sagegen_last_error();
  snprintf(copy, sizeof copy, "%s", last);
  EXPECT(sagegen_device_synchronize(device) == SAGEGEN_OK);
  EXPECT(strcmp(last, copy) == 0 && strcmp(sagegen_last_error(), "") == 0);
  EXPECT(plan == NULL && none == NULL);
}

/* What says of itself how large it is: programs of other versions, and those that forgot. tests/driver/capi_structs_test.cpp
 * has the versions that are not there yet. */
static void test_struct_sizes(sagegen_device* device) {
  sagegen_attention* plan = NULL;
  struct {
    sagegen_attention_options known;
    uint64_t later;
  } newer = {.known = {.struct_size = sizeof newer, .kernel = "head_dim=64 io=bf16"}};
  EXPECT(sagegen_attention_create(device, &newer.known, &plan) == SAGEGEN_OK);
  newer.later = 1;
  sagegen_attention* none = NULL;
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_attention_create(device, &newer.known, &none),
               "sagegen_attention_options has 56 bytes");
  EXPECT(strstr(sagegen_last_error(), "knows the first 48") != NULL);
  newer.known.struct_size = sizeof newer.known; /* an old program: what lies behind its struct is not looked at */
  EXPECT(sagegen_attention_create(device, &newer.known, &none) == SAGEGEN_OK);
  sagegen_attention_destroy(none);
  none = NULL;

  const size_t wrong[] = {0, 8, 24, 31, sizeof newer.known + 1, (size_t)1 << 40};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; ++i) {
    newer.known.struct_size = wrong[i];
    EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_attention_create(device, &newer.known, &none),
                 "struct_size of sagegen_attention_options is ");
    EXPECT(strstr(sagegen_last_error(), wrong[i] == 0 ? "{.struct_size = sizeof(sagegen_attention_options), ...}"
                                                      : "set struct_size to sizeof(sagegen_attention_options)") != NULL);
  }
  EXPECT(none == NULL);

  /* Each struct that is read, without a size. */
  const sagegen_shape no_shape = {.batch = 1, .q_heads = kHeads, .kv_heads = kHeads, .q_len = 1, .kv_len = 1};
  const sagegen_arguments no_arguments = {0}, arguments = {.struct_size = sizeof arguments};
  const sagegen_query_codes no_queries = {0}, queries = {.struct_size = sizeof queries};
  const sagegen_key_value_codes no_keys = {0}, keys = {.struct_size = sizeof keys};
  sagegen_code_sizes sizes = {0};
  size_t bytes = 7;
  const char* key = NULL;
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_attention_workspace_bytes(plan, &no_shape, &bytes), "sagegen_shape is 0");
  EXPECT(bytes == 7);
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_attention_kernel_for(plan, &no_shape, &key), "sagegen_shape is 0");
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_attention_run(plan, &no_shape, &arguments, 0, 0, NULL), "sagegen_shape is 0");
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_attention_run(plan, &kShape, &no_arguments, 0, 0, NULL),
               "sagegen_arguments is 0");
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_attention_code_sizes(plan, &kShape, 0, &sizes), "sagegen_code_sizes is 0");
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR,
               sagegen_attention_quantize_queries(plan, &kShape, &arguments, NULL, &no_queries, 0, 0, NULL),
               "sagegen_query_codes is 0");
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR,
               sagegen_attention_quantize_keys_values(plan, &kShape, &arguments, &no_keys, 0, 0, NULL),
               "sagegen_key_value_codes is 0");
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR,
               sagegen_attention_attend_codes(plan, &kShape, &no_queries, &keys, &arguments, 0, 0, NULL),
               "sagegen_query_codes is 0");
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR,
               sagegen_attention_attend_codes(plan, &kShape, &queries, &no_keys, &arguments, 0, 0, NULL),
               "sagegen_key_value_codes is 0");

  /* An array of a program of a later version: elements lie as far apart as they say. */
  struct {
    sagegen_shape known;
    uint64_t later;
  } shapes[2] = {{.known = kShape}, {.known = kShape}};
  shapes[0].known.struct_size = shapes[1].known.struct_size = sizeof *shapes;
  EXPECT(sagegen_attention_prepare(plan, &shapes[0].known, 2) == SAGEGEN_OK);
  shapes[1].known.kv_heads = 3;
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_attention_prepare(plan, &shapes[0].known, 2), "kv_heads");
  shapes[1].known.struct_size = sizeof(sagegen_shape);
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_attention_prepare(plan, &shapes[0].known, 2), "64 in element 1 and 72 in the first");

  /* An output is written as far as it goes, and 0 where it goes on. */
  struct {
    sagegen_code_sizes known;
    int64_t later[2];
  } out = {.known = {.struct_size = sizeof out.known}, .later = {5, 6}};
  EXPECT(sagegen_attention_code_sizes(plan, &kShape, 1, &out.known) == SAGEGEN_OK);
  EXPECT(out.known.q_codes > 0 && out.known.workspace > 0 && out.later[0] == 5 && out.later[1] == 6);
  EXPECT(out.known.struct_size == sizeof out.known);
  out.known.struct_size += 8;
  EXPECT(sagegen_attention_code_sizes(plan, &kShape, 1, &out.known) == SAGEGEN_OK);
  EXPECT(out.later[0] == 0 && out.later[1] == 6);
  sagegen_attention_destroy(plan);
}

static void test_versions(void) {
  char version[32];
  snprintf(version, sizeof version, "%d.%d.%d", SAGEGEN_VERSION_MAJOR, SAGEGEN_VERSION_MINOR, SAGEGEN_VERSION_PATCH);
  EXPECT(strcmp(sagegen_version(), version) == 0);
  EXPECT(sagegen_abi_version() == SAGEGEN_ABI_VERSION);
}

static int messages;
static char message[400];
static void take_message(void* user, const char* text) {
  ++*(int*)user;
  snprintf(message, sizeof message, "%s", text);
}

/* An exported entry says that large problems run a schedule of which there is no code here: the default stays, and one
 * message says so. Everything else about tuning has tests in C++. */
static void test_tuning(sagegen_device* device) {
  const char* const pinned = "capi_test_pinned.txt";
  FILE* file = fopen(pinned, "w");
  EXPECT(file != NULL);
  fputs("sagegen.tuned-set\t1\n", file);
  fclose(file);
  char choice[64];
  snprintf(choice, sizeof choice, "pinned %s", pinned);
  sagegen_attention* plan = NULL;
  sagegen_attention_options options = {.struct_size = sizeof options, .kernel = "head_dim=64", .tuning = choice};
  EXPECT(sagegen_attention_create(device, &options, &plan) == SAGEGEN_OK);
  const sagegen_shape shapes[] = {{sizeof(sagegen_shape), 1, 2, 1, 256, 256, 0, 0},
                                  {sizeof(sagegen_shape), 1, 2, 2, 1, 100, 0, 0}};
  sagegen_on_message(take_message, &messages);
  EXPECT(sagegen_attention_prepare(plan, shapes, 2) == SAGEGEN_OK);
  EXPECT(sagegen_attention_prepare(plan, NULL, 0) == SAGEGEN_OK);
  EXPECT(messages == 0);
  const char* key = NULL;
  EXPECT(sagegen_attention_kernel_for(plan, shapes, &key) == SAGEGEN_OK);
  EXPECT(key != NULL && strcmp(key, sagegen_attention_kernel(plan)) == 0);
  const sagegen_shape impossible = {sizeof impossible, 1, 3, 2, 1, 1, 0, 0};
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_attention_prepare(plan, &impossible, 1), "kv_heads");
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_attention_prepare(plan, NULL, 1), "shapes is null");
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_attention_kernel_for(plan, NULL, &key), "shape is null");
  sagegen_attention_destroy(plan);
  file = fopen(pinned, "w");
  fputs("sagegen.tuned-set\t9\n", file);
  fclose(file);
  EXPECT_ERROR(SAGEGEN_SPEC_ERROR, sagegen_attention_create(device, &options, &plan), pinned);
  options.tuning = "sometimes";
  EXPECT_ERROR(SAGEGEN_ARGUMENT_ERROR, sagegen_attention_create(device, &options, &plan), "\"pinned FILE\"");
  remove(pinned);
  sagegen_on_message(NULL, NULL);
}

int main(int argc, char** argv) { /* a directory with PTX of kernels that are not embedded, or nothing */
  sagegen_device* device = NULL;
  EXPECT(sagegen_device_create("emulator:sm_89", &device) == SAGEGEN_OK);
  if (device == NULL) return 1;
  EXPECT(sagegen_device_compute_capability(device) == 89);
  EXPECT(sagegen_device_name(device)[0] != '\0' && sagegen_version()[0] != '\0');
  EXPECT(strcmp(sagegen_status_name(SAGEGEN_DRIVER_ERROR), "driver error") == 0);
  test_attention(device, "head_dim=64 io=bf16");
  test_attention(device, "head_dim=64 io=bf16 mode=int8-fp16 causal");
  test_mods(device);
  test_codes(device, "head_dim=64 io=bf16 mode=int8-fp8");
  test_codes(device, "head_dim=64 io=bf16 mode=int8-fp16");
  test_parts(device);
  test_bounds(device);
  test_kernels(device);
  test_mode_map(device);
  test_smoothing(device);
  test_errors_name_what_was_asked();
  test_unquantized_modes(device);
  test_unreadable_ptx(device);
  test_packed(device, argc > 1 ? argv[1] : NULL);
  test_kv_cache(device, argc > 1 ? argv[1] : NULL);
  test_kv_exact(device, argc > 1 ? argv[1] : NULL);
  test_misuse(device);
  test_last_error_as_argument(device);
  test_struct_sizes(device);
  test_versions();
  test_tuning(device);
  sagegen_device_destroy(device);
  printf("%d failures\n", failures);
  return failures != 0;
}
