/* Causal attention with heads that share K and V, on a GPU or, without one, in the emulator, compared with double
 * precision. What a caller with memory and streams of its own leaves out: the sagegen_memory_ calls. */
#include <math.h>
#include <sagegen/sagegen.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 1, Q_HEADS = 4, KV_HEADS = 2, TOKENS = 200, CHANNELS = 64 };

/* Every call tells by its status whether it succeeded, and sagegen_last_error() says what to change. */
static void check(sagegen_status status, const char* what) {
  if (status == SAGEGEN_OK) return;
  fprintf(stderr, "%s: %s: %s\n", what, sagegen_status_name(status), sagegen_last_error());
  exit(1);
}
#define CHECK(call) check(call, #call)

static void note(void* user, const char* text) {
  (void)user;
  fprintf(stderr, "note: %s\n", text);
}

/* ---- f16 ------------------------------------------------------------------------------------------ */

static double of_f16(uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  const double magnitude =
      exponent == 0 ? ldexp(mantissa, -24) : ldexp(1024 + mantissa, exponent - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}

/* Numbers between -2 and 2 that look like nothing in particular, each of few bits. */
static uint16_t number(uint32_t* state) {
  *state = *state * 1664525u + 1013904223u;
  const uint32_t bits = *state >> 16;
  return (uint16_t)((bits & 0x8000) | (11 + bits % 5) << 10 | (bits & 0x3f0));
}

static uint16_t* numbers(size_t count, uint32_t seed) {
  uint16_t* values = malloc(count * sizeof *values);
  if (values == NULL) abort();
  for (size_t i = 0; i < count; ++i) values[i] = number(&seed);
  return values;
}

/* ---- memory --------------------------------------------------------------------------------------- */

static uint64_t upload(sagegen_device* device, const uint16_t* values, size_t count) {
  uint64_t address = 0;
  CHECK(sagegen_memory_alloc(device, count * sizeof *values, &address));
  CHECK(sagegen_memory_upload(device, address, values, count * sizeof *values));
  return address;
}

/* [batch, head, token, channel] without gaps; elements. */
static sagegen_tensor tensor(uint64_t data, int64_t heads) {
  const sagegen_tensor view = {.data = data,
                               .stride_batch = heads * TOKENS * CHANNELS,
                               .stride_head = TOKENS * CHANNELS,
                               .stride_token = CHANNELS};
  return view;
}

/* ---- double precision ----------------------------------------------------------------------------- */

/* Relative L1 of O, and the largest difference of the LSE. */
static void judge(const uint16_t* q, const uint16_t* k, const uint16_t* v, const uint16_t* o,
                  const float* lse, double* error, double* lse_error) {
  double difference = 0, sum = 0;
  *lse_error = 0;
  for (int head = 0; head < Q_HEADS; ++head) {
    const size_t shared = (size_t)(head / (Q_HEADS / KV_HEADS)) * TOKENS * CHANNELS;
    for (int i = 0; i < TOKENS; ++i) {
      const size_t row = (size_t)(head * TOKENS + i);
      double weights = 0, expected[CHANNELS] = {0};
      for (int j = 0; j <= i; ++j) {
        double score = 0;
        for (int c = 0; c < CHANNELS; ++c)
          score += of_f16(q[row * CHANNELS + c]) * of_f16(k[shared + (size_t)j * CHANNELS + c]);
        const double weight = exp(score / sqrt(CHANNELS));
        weights += weight;
        for (int c = 0; c < CHANNELS; ++c)
          expected[c] += weight * of_f16(v[shared + (size_t)j * CHANNELS + c]);
      }
      for (int c = 0; c < CHANNELS; ++c) {
        difference += fabs(of_f16(o[row * CHANNELS + c]) - expected[c] / weights);
        sum += fabs(expected[c] / weights);
      }
      *lse_error = fmax(*lse_error, fabs(lse[row] - log(weights)));
    }
  }
  *error = difference / sum;
}

int main(void) {
  if (sagegen_abi_version() != SAGEGEN_ABI_VERSION) {
    fprintf(stderr, "the library has version %d of the interface, this program %d\n",
            sagegen_abi_version(), SAGEGEN_ABI_VERSION);
    return 1;
  }
  sagegen_on_message(note, NULL);

  sagegen_device* device = NULL;
  if (sagegen_device_create("cuda:0", &device) != SAGEGEN_OK)
    CHECK(sagegen_device_create("emulator:sm_89", &device));

  sagegen_attention* attention = NULL;
  const sagegen_attention_options options = {.struct_size = sizeof options,
                                             .kernel = "head_dim=64 io=f16 causal"};
  CHECK(sagegen_attention_create(device, &options, &attention));

  /* At start: what `sagegen tune` found for these shapes is looked up, and loaded. */
  const sagegen_shape shape = {.struct_size = sizeof shape,
                               .batch = BATCH,
                               .q_heads = Q_HEADS,
                               .kv_heads = KV_HEADS,
                               .q_len = TOKENS,
                               .kv_len = TOKENS};
  CHECK(sagegen_attention_prepare(attention, &shape, 1));
  size_t workspace_bytes = 0;
  CHECK(sagegen_attention_workspace_bytes(attention, &shape, &workspace_bytes));

  enum { Q_COUNT = Q_HEADS * TOKENS * CHANNELS, KV_COUNT = KV_HEADS * TOKENS * CHANNELS };
  uint16_t *q = numbers(Q_COUNT, 1), *k = numbers(KV_COUNT, 2), *v = numbers(KV_COUNT, 3);
  uint64_t o_memory = 0, lse_memory = 0, workspace = 0;
  CHECK(sagegen_memory_alloc(device, Q_COUNT * sizeof *q, &o_memory));
  CHECK(sagegen_memory_alloc(device, Q_HEADS * TOKENS * sizeof(float), &lse_memory));
  CHECK(sagegen_memory_alloc(device, workspace_bytes, &workspace));
  const uint64_t q_memory = upload(device, q, Q_COUNT), k_memory = upload(device, k, KV_COUNT),
                 v_memory = upload(device, v, KV_COUNT);

  /* Only enqueues; a null stream is the default one. */
  const sagegen_arguments arguments = {.struct_size = sizeof arguments,
                                       .q = tensor(q_memory, Q_HEADS),
                                       .k = tensor(k_memory, KV_HEADS),
                                       .v = tensor(v_memory, KV_HEADS),
                                       .o = tensor(o_memory, Q_HEADS),
                                       .lse = lse_memory};
  CHECK(sagegen_attention_run(attention, &shape, &arguments, workspace, workspace_bytes, NULL));
  CHECK(sagegen_device_synchronize(device));

  uint16_t* o = malloc(Q_COUNT * sizeof *o);
  float* lse = malloc(Q_HEADS * TOKENS * sizeof *lse);
  if (o == NULL || lse == NULL) abort();
  CHECK(sagegen_memory_download(device, o, o_memory, Q_COUNT * sizeof *o));
  CHECK(sagegen_memory_download(device, lse, lse_memory, Q_HEADS * TOKENS * sizeof *lse));
  double error = 0, lse_error = 0;
  judge(q, k, v, o, lse, &error, &lse_error);
  printf("%s on %s\n", sagegen_attention_kernel(attention), sagegen_device_name(device));
  printf("relative L1 of O %.4f, largest difference of the LSE %.4f\n", error, lse_error);

  const uint64_t all[] = {q_memory, k_memory, v_memory, o_memory, lse_memory, workspace};
  for (size_t i = 0; i < sizeof all / sizeof *all; ++i) CHECK(sagegen_memory_free(device, all[i]));
  sagegen_attention_destroy(attention);
  sagegen_device_destroy(device);
  free(q), free(k), free(v), free(o), free(lse);
  /* What INT8 scores and FP8 weights cost on such numbers: no more than this. */
  return error <= 0.05 && lse_error <= 0.07 ? 0 : 1;
}
