/* The C API of sagegen: quantized attention with the embedded PTX, on a GPU or in the emulator.
 *
 *   sagegen_device* device;
 *   sagegen_attention* plan;
 *   sagegen_device_create("cuda:0", &device);
 *   const sagegen_attention_options options = {.struct_size = sizeof options,
 *                                              .kernel = "head_dim=128 io=bf16 causal"};
 *   sagegen_attention_create(device, &options, &plan);
 *   const sagegen_shape shape = {.struct_size = sizeof shape, .batch = 1, ...};
 *   sagegen_attention_workspace_bytes(plan, &shape, &bytes);
 *   sagegen_attention_run(plan, &shape, &arguments, workspace, bytes, stream);
 *
 * Every call that can fail returns a status and throws nothing. After a failure
 * sagegen_last_error() says what was asked, which rule refused it, and what to change. On failure
 * output parameters are left alone. A null handle or pointer where one is needed is
 * SAGEGEN_ARGUMENT_ERROR; the destroy functions ignore null.
 *
 * Structs that a call takes by pointer begin with struct_size: set it to the sizeof of the struct, and
 * what is not needed to 0, which is the default of every field. Later versions append fields. A library takes the
 * smaller structs of programs that were compiled before, and larger ones of those that were compiled later while
 * what it does not know is 0; otherwise SAGEGEN_ARGUMENT_ERROR. Of the elements of an array all have the
 * same size. Structs without struct_size, which lie in others or in arrays, never change.
 *
 * Device memory is a 64-bit address, as in the CUDA driver API; a stream is a CUstream, null for
 * the default stream. "cuda:N" uses the primary context of device N, which is that of the CUDA
 * runtime and of PyTorch, so that their memory and streams can be passed here. Calls leave the
 * calling thread's current context as they found it.
 *
 * Handles may be used by several threads at once if each call has its own workspace, and outlive
 * what they were made from: a plan keeps its device. */
#ifndef SAGEGEN_SAGEGEN_H
#define SAGEGEN_SAGEGEN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

/* Of this header; sagegen_version() and sagegen_abi_version() are those of the library. */
#define SAGEGEN_VERSION_MAJOR 0
#define SAGEGEN_VERSION_MINOR 1
#define SAGEGEN_VERSION_PATCH 0
#define SAGEGEN_ABI_VERSION 1

typedef enum sagegen_status {
  SAGEGEN_OK = 0,
  SAGEGEN_ARGUMENT_ERROR = 1, /* what the caller passed breaks a rule */
  SAGEGEN_SPEC_ERROR = 2,     /* no such kernel: impossible, or not in this library */
  SAGEGEN_DRIVER_ERROR = 3,   /* a call of the CUDA driver, or of the emulator, failed */
  SAGEGEN_OUT_OF_MEMORY = 4,
  SAGEGEN_INTERNAL_ERROR = 5, /* a bug in sagegen */
} sagegen_status;

const char* sagegen_version(void); /* "0.1.0" */
/* SAGEGEN_ABI_VERSION of the library, the number in its file name, libsagegen.so.1. It is raised when programs
 * that were compiled before have to be compiled again, because a function, a field or a value of an enum has
 * gone or means something else; what is appended does not raise it. */
int32_t sagegen_abi_version(void);
const char* sagegen_status_name(sagegen_status status);
/* Text of the calling thread's last call, never null, empty if that succeeded. Valid until its next call
 * returns, so that it may be an argument of that. */
const char* sagegen_last_error(void);

/* Told in a sentence of what went well enough to be no failure: an entry of the tuning database that is damaged, or a
 * schedule without code. In the thread whose call it is about; null, which is usual: nobody is told. The text is valid
 * during the call, which calls nothing of sagegen. */
typedef void (*sagegen_message_callback)(void* user, const char* text);
void sagegen_on_message(sagegen_message_callback callback, void* user);

/* ---- devices ---------------------------------------------------------------------------------- */

typedef struct sagegen_device sagegen_device;

/* name: "cuda:0", or "emulator:sm_89" (sm_80, sm_86, sm_89, sm_90, sm_120, ideal), which executes
 * the same PTX on the CPU with all checks on and is no measure of speed. */
sagegen_status sagegen_device_create(const char* name, sagegen_device** device);
void sagegen_device_destroy(sagegen_device* device);
/* As the driver calls it. Valid while the handle lives; null for a null handle. */
const char* sagegen_device_name(const sagegen_device* device);
int sagegen_device_compute_capability(const sagegen_device* device); /* 89 for 8.9 */
/* Key of the index-th embedded attention kernel that this device and its driver can load, in a stable
 * order; null past the end. Valid while the library is loaded. */
const char* sagegen_device_kernel(const sagegen_device* device, size_t index);
sagegen_status sagegen_device_synchronize(sagegen_device* device);
/* While `on` is not 0, kernels end soon on the emulated device: a call that waits for one, in any
 * thread, fails with SAGEGEN_DRIVER_ERROR. May be called by a signal handler. Does nothing on a GPU. */
void sagegen_device_interrupt(sagegen_device* device, int32_t on);

/* For callers without CUDA. Copies are synchronous and on the default stream: synchronize what
 * other streams do first. */
sagegen_status sagegen_memory_alloc(sagegen_device* device, size_t bytes, uint64_t* address);
sagegen_status sagegen_memory_free(sagegen_device* device, uint64_t address); /* 0: nothing */
sagegen_status sagegen_memory_upload(sagegen_device* device, uint64_t to, const void* from,
                                     size_t bytes);
sagegen_status sagegen_memory_download(sagegen_device* device, void* to, uint64_t from,
                                       size_t bytes);

/* ---- attention: O = softmax(Q K^T * scale + mask) V -------------------------------------------- */

typedef struct sagegen_attention sagegen_attention;

/* Start with {.struct_size = sizeof options}. */
typedef struct sagegen_attention_options {
  size_t struct_size;
  /* Which kernel, in words between blanks: "head_dim=128 io=bf16 causal window smoothing=none". Null or empty: all of it
   * is usual.
   *
   *   head_dim=128   channels of one head of Q and K: 32, 64, 72, 80, 96, 128, 160, 192 or 256; value_dim those of V
   *                  and O, where they are others
   *   io=f16         of Q, K, V and O: f16 or bf16
   *   causal, window, softcap, bias, alibi, mask, sinks, blocksparse, skipsoftmax
   *                  masks and biases; their arguments are sagegen_mod_argument
   *   mode=int8-fp8  which numbers are multiplied in Q K^T and P V: int8-fp8, int8-fp16, int4-fp8, int4-fp16, or with Q
   *                  and K as they are bf16-fp8, 16bit; the same in two words are qk=s8 pv=e4m3. Absent: what suits the
   *                  device and its driver best
   *   smoothing=k    which means are subtracted before quantization: none, k, qk. Absent: K, with INT4 Q, too
   *   varlen, pack_gqa, out=s8, schedule=q64k64w4s2, ...
   *
   * or the key of an attention kernel, "sage_fwd_...", as sagegen_device_kernel and sagegen_mode_map_kernel have it.
   * docs/reference.md has every word under "Option texts". Code that is not embedded comes from ptx_directory. */
  const char* kernel;
  /* Directory with <key>.ptx, or a file as generated/kernels.bundle, searched instead of the embedded PTX. A
   * kernel that is not there for the device's target is taken from a lower one. Null: embedded PTX. */
  const char* ptx_directory;
  /* Which schedules run: "cached", those that `sagegen tune` found for this device; "tune", the same, and prepare finds
   * out what is missing, in seconds to minutes; "pinned FILE", those of a file that
   * `sagegen cache export` wrote, the same on every machine; "off", the default of the kernel. Null: what the environment variable SAGEGEN_TUNING
   * says, or cached. Code of other schedules is not embedded: ptx_directory has it, or the default stays and a message says so. */
  const char* tuning;
  /* What the workspace of run may take, in bytes: a call that needs more is cut by batches or heads of K and V, which run
   * one after the other in the same memory, with the same bits. 0: what it needs. */
  int64_t max_workspace_bytes;
  /* What the bits of a sequence may not depend on: "batch", what else is in the batch; "query_chunks", that and into which
   * calls its queries are cut; "growing_keys", chunked prefill. A kernel that cannot keep it is refused with the reason. All shapes run
   * one schedule then. Null: it may. docs/reference.md says where chunks begin. */
  const char* invariance;
} sagegen_attention_options;

typedef struct sagegen_shape {
  size_t struct_size;
  int64_t batch, q_heads, kv_heads, q_len, kv_len; /* kv_heads divides q_heads */
  /* Of packed sequences (cu_seqlens_q below): the rows of all of them together; q_len and kv_len are the most that one
   * of them may have. 0: nothing is packed. */
  int64_t total_q, total_kv;
} sagegen_shape;

/* Never changes. Strides in elements; channels are contiguous. Strides are multiples of 8 and at least head_dim, of v and o at
 * least value_dim; that of an axis of size 1 is ignored. Those of q, k and v, which are only read, may be 0: one row
 * for the whole axis. data is aligned to 16 bytes. */
typedef struct sagegen_tensor {
  uint64_t data;
  int64_t stride_batch, stride_head, stride_token;
} sagegen_tensor;

typedef enum sagegen_causal_alignment {
  SAGEGEN_TOP_LEFT = 0,     /* query i sees keys 0..i */
  SAGEGEN_BOTTOM_RIGHT = 1, /* query i sees keys 0..i + kv_len - q_len */
} sagegen_causal_alignment;

/* Never changes. What a mod of the kernel, a mask or bias, is given, by name: "window.left" and "window.right" (keys beside
 * its own, negative: no bound), "softcap.cap" (a number), "sinks.logits" and "alibi.slopes" (addresses of f32
 * [q_heads]), "bias.data", "mask.data" and their "stride_batch", "stride_head", "stride_query", "stride_key" (in
 * elements of the kernel's dtype or bytes; 0: one value for the axis), "blocksparse.bits",
 * "blocksparse.tile_queries", "blocksparse.tile_keys", "skipsoftmax.threshold" (a number), "skipsoftmax.thresholds"
 * (address of f32 [batch]), "skipsoftmax.counts" (address of u32 [batch, 2], which the kernel adds to). A kernel has a mod if its options say so:
 * "head_dim=128 causal window". */
typedef struct sagegen_mod_argument {
  const char* name;
  int64_t integer; /* or an address */
  double number;
} sagegen_mod_argument;

/* Q, K and V hold finite numbers, and scaled scores are within f32, with modes bf16-fp8 and 16bit products of Q and
 * K and their sums, too: nothing checks that on the device, and a NaN or infinity in them leaves O undefined. */
typedef struct sagegen_arguments {
  size_t struct_size;
  sagegen_tensor q, k, v, o;
  /* f32 [batch, q_heads, q_len], or [q_heads, total_q] of packed sequences, natural logarithm; 0: not wanted. Of the weights in use, P as rounded.
   * Beside what the codes of Q and K change in the scores, that costs at most 1/16, plus 2.2e-6 for each
   * key whose weight is less than 3.5e-5 of the largest, with FP8 P; with FP16 P 2^-11 and 1.2e-7 per
   * key, with BF16 P 2^-8 and 8.2e-8 per key. Usually it is far less. */
  uint64_t lse;
  /* 0: 1 / sqrt(head_dim); otherwise > 0, at most 1e25, and with bf16-fp8 and 16bit not subnormal */
  float softmax_scale;
  int32_t causal_alignment;         /* sagegen_causal_alignment; also of windows */
  const sagegen_mod_argument* mods; /* mod_count of them */
  size_t mod_count;
  /* i32 [batch + 1] on the device, for kernels with varlen ("head_dim=128 varlen"); 0: nothing is packed.
   * Sequence b has rows cu_seqlens[b] to cu_seqlens[b + 1] - 1 of the packed tensors, [total, heads, channels] with
   * strides of tokens and heads. Kernels read the lengths when they run, so that a captured graph may be replayed with
   * other ones. A sequence without queries gives nothing, queries without keys O = 0 and the LSE -infinity, or that of
   * a sink. Masks and biases count from the first row of a sequence. Lengths beyond the bounds of the shape give
   * undefined numbers and touch no memory outside of the tensors. */
  uint64_t cu_seqlens_q, cu_seqlens_kv;
  /* Of kernels that write codes of O, "head_dim=128 out=e4m3" or "... out=s8"; 0 with others. e4m3: address of one
   * f32, which O is multiplied by, 1 / the scale of the codes, saturated at 448. s8: f32 [batch, q_heads, q_len], of
   * packed sequences [q_heads, total_q], a scale of each row, its largest magnitude / 127, which the kernel writes. Strides
   * of o count bytes then, multiples of 16 (of 8 with 72 channels of V), as its address is. */
  uint64_t o_scale;
} sagegen_arguments;

/* Which kernel each layer of a model runs, as `sagegen compare --pick --out FILE` chooses it. A text: the first line
 * is "sagegen.modes<TAB>1", each further one "layer<TAB>key"; "*" are all layers without a line, and what follows a
 * second tab, lines that begin with #, and empty lines are for people. */
typedef struct sagegen_mode_map sagegen_mode_map;
/* SAGEGEN_SPEC_ERROR for a file that cannot be read, or is none of these: the text names file and line. */
sagegen_status sagegen_mode_map_load(const char* path, sagegen_mode_map** map);
void sagegen_mode_map_destroy(sagegen_mode_map* map);
/* Key of the layer's kernel, for `kernel` of sagegen_attention_options; valid while the map lives.
 * SAGEGEN_ARGUMENT_ERROR if the map has no line for it. */
sagegen_status sagegen_mode_map_kernel(const sagegen_mode_map* map, const char* layer,
                                       const char** key);

/* Loads the kernels; on a GPU the driver compiles them. */
sagegen_status sagegen_attention_create(sagegen_device* device,
                                        const sagegen_attention_options* options,
                                        sagegen_attention** attention);
void sagegen_attention_destroy(sagegen_attention* attention);
/* Key of the attention kernel as asked for. Valid while the handle lives; null for a null handle.
 * The PTX that was found may be that of an older target. */
const char* sagegen_attention_kernel(const sagegen_attention* attention);
/* What an old driver costs: why a lower target than the device's was chosen, or kernels of an older target
 * were loaded. Empty if nothing. Valid while the handle lives; null for a null handle. */
const char* sagegen_attention_note(const sagegen_attention* attention);
/* Looks up and loads what these shapes, and others of their classes, run from now on (docs/tuning.md). At start, and before
 * their workspaces are asked for: what quantize left, attend of another schedule does not read. Other shapes run the
 * default schedule. On no other call anything is read from disk or compiled. */
sagegen_status sagegen_attention_prepare(sagegen_attention* attention, const sagegen_shape* shapes,
                                         size_t count);
/* Key of the attention kernel that a shape runs; valid while the handle lives. */
sagegen_status sagegen_attention_kernel_for(const sagegen_attention* attention,
                                            const sagegen_shape* shape, const char** key);
sagegen_status sagegen_attention_workspace_bytes(const sagegen_attention* attention,
                                                 const sagegen_shape* shape, size_t* bytes);

/* Only enqueue launches on `stream`: nothing is allocated or synchronized, and a CUDA graph may
 * capture them. The workspace is aligned to 256 bytes, or null if 0 bytes are needed; what a call writes (o, lse, workspace, the s8 o_scale, skipsoftmax.counts)
 * overlaps nothing. run = quantize, then attend; attend reads what quantize of the same shape and
 * arguments left in the workspace. */
sagegen_status sagegen_attention_run(const sagegen_attention* attention, const sagegen_shape* shape,
                                     const sagegen_arguments* arguments, uint64_t workspace,
                                     size_t workspace_bytes, void* stream);
sagegen_status sagegen_attention_quantize(const sagegen_attention* attention,
                                          const sagegen_shape* shape,
                                          const sagegen_arguments* arguments, uint64_t workspace,
                                          size_t workspace_bytes, void* stream);
sagegen_status sagegen_attention_attend(const sagegen_attention* attention,
                                        const sagegen_shape* shape,
                                        const sagegen_arguments* arguments, uint64_t workspace,
                                        size_t workspace_bytes, void* stream);

/* ---- parts of the keys --------------------------------------------------------------------------
 *
 * Attention over parts of the keys, with the LSE of each, merges as if it had been computed at once: split KV, ring
 * attention. Parts are taken in their order, and equal arguments give equal bits. */

typedef struct sagegen_merge sagegen_merge;

typedef struct sagegen_merge_options {
  size_t struct_size;
  /* "io=bf16 parts=f32 out=io": f16 (usual) or bf16, and whether O of the parts and the merged O are of that, io
   * (usual), or f32, which loses nothing where results are merged again and again. Null: all of it is usual. */
  const char* kernel;
  const char* ptx_directory; /* as of sagegen_attention_options */
} sagegen_merge_options;

typedef struct sagegen_merge_arguments {
  size_t struct_size;
  /* Of packed sequences batch is 1 and q_len all rows; channels: a multiple of 8. */
  int64_t parts, batch, heads, q_len, channels;
  /* O of the first part, [batch, heads, q_len, channels]; elements from there to the next part. 0: all are that one. */
  sagegen_tensor part;
  int64_t part_stride;
  /* f32 [batch, heads, q_len] of the first part, natural logarithms; -infinity: it saw no key, and its O is not read.
   * Elements from there to the next part; 0: batch * heads * q_len. */
  uint64_t part_lse;
  int64_t part_lse_stride;
  sagegen_tensor o;
  /* f32 [batch, heads, q_len]; 0: not wanted. Where no part saw a key O = 0 and the LSE is -infinity. */
  uint64_t lse;
  /* Not 0: o and lse hold a result, which is merged with the parts, before them, in place. The first call has 0. */
  int64_t go_on;
} sagegen_merge_arguments;

/* Of every number of channels and of parts. */
sagegen_status sagegen_merge_create(sagegen_device* device, const sagegen_merge_options* options,
                                    sagegen_merge** merge);
void sagegen_merge_destroy(sagegen_merge* merge);
/* Only enqueues one launch, as sagegen_attention_run does; there is no workspace. o and lse overlap nothing that is read. */
sagegen_status sagegen_merge_run(const sagegen_merge* merge,
                                 const sagegen_merge_arguments* arguments, void* stream);

/* ---- a KV cache of few bits ---------------------------------------------------------------------
 *
 * Keys and values of a model that decodes, in 2, 4, 8 or 16 bits each, another pair for each layer. Pages, page tables
 * and memory are the caller's; the cache has the kernels and owns no memory of the device. docs/reference.md, "Low-bit KV
 * cache", says what the bytes mean. */

typedef struct sagegen_kv_cache sagegen_kv_cache;

typedef struct sagegen_kv_cache_options {
  size_t struct_size;
  /* The pair of each layer, in ranges as `sagegen kv show` prints them: "0-1:KV8, 2-29:K8V4, 30-31:KV8". Behind a pair
   * may stand what else differs: "0:KV16 page_tokens=32". */
  const char* layers;
  /* What all layers have: "head_dim=128 io=bf16 page_tokens=64 layout=nhd". Null: 128 channels, f16, pages of 64 tokens, hnd. */
  const char* format;
  /* "kv_heads=8 q_heads=32 q_len=1 addressing=pages rope=neox smooth_k rotation=hadamard causal". q_len: the most queries of a
   * sequence in a decode; addressing=slots is usual. The rest is off where it is not named: what is done to new keys (rotary
   * embedding, minus a mean, a Hadamard matrix), and whether several queries see only tokens before theirs. gather: loads the
   * kernels of sagegen_kv_cache_gather, too. "sinks=32 window=128 unit=32 taken_back=16": tokens that are kept in 16 bits
   * beside their codes, the first ones of a sequence and the last ones; up to unit - 1 more than the window are, and a
   * sequence may become shorter by taken_back. sinks and unit are multiples of 32, the others of 16. */
  const char* options;
  const char* ptx_directory; /* as of sagegen_attention_options */
} sagegen_kv_cache_options;

typedef struct sagegen_kv_layer {
  size_t struct_size;
  int64_t head_dim, k_bits, v_bits, page_tokens;
  int64_t page_bytes;                /* of all KV heads: page i of a contiguous pool begins i * page_bytes bytes from its start */
  int64_t stride_head, stride_block; /* bytes within such a page, to the next head and to the next 16 tokens */
  int64_t smooths_k; /* not 0: append subtracts k_mean, and an LSE is less by softmax_scale (q . k_mean) */
  /* Of exact tokens: blocks of 16 tokens of a sequence, 0: the layer has none beside its codes; and bytes of a block of all KV
   * heads, of which heads lie one behind the other. */
  int64_t exact_blocks, exact_block_bytes;
} sagegen_kv_layer;

/* Never changes. Pages of a layer, aligned to 16 bytes. Strides in bytes, multiples of 16; all 0: contiguous. */
typedef struct sagegen_kv_pool {
  uint64_t data;
  int64_t pages;
  int64_t stride_page, stride_head, stride_block;
} sagegen_kv_pool;

typedef struct sagegen_kv_append_arguments {
  size_t struct_size;
  sagegen_kv_pool pool;
  int64_t tokens;      /* of all sequences: of a step as of prompts, whole or in parts; 0: nothing is done */
  sagegen_tensor k, v; /* [1, kv_heads, tokens, head_dim]: stride_token and stride_head of any layout */
  /* With addressing=slots: i64 [tokens], page * page_tokens + place in the page; one that the pool does not have is skipped. */
  uint64_t slots;
  /* With addressing=pages: i32 [sequences + 1], [sequences + 1], [page_entries], [sequences], as FlashInfer's
   * append_paged_kv_cache has them. Tokens of a sequence are its last ones. */
  uint64_t append_indptr, page_indptr, page_indices, last_page_len;
  int64_t sequences, page_entries;
  /* With a rope: i64 [tokens]; f32 [table_rows, rotary / 2], their rows rope_stride elements apart, 0: no gap; channels
   * that are rotated, 0: all. */
  uint64_t positions, cos, sin;
  int64_t table_rows, rope_stride, rotary;
  uint64_t k_mean; /* f32 [kv_heads, head_dim], with smooth_k; not read of layers whose keys have 16 bits */
  /* With sinks or a window, of layers with exact tokens: their pool, whose pages are blocks (stride_block does not count); i64
   * [tokens]: block * 16 + place in the block, or -1 for a token that is left out. */
  sagegen_kv_pool exact_pool;
  uint64_t exact_slots;
} sagegen_kv_append_arguments;

typedef struct sagegen_kv_decode_arguments {
  size_t struct_size;
  sagegen_kv_pool pool;
  int64_t batch, q_len;
  int64_t max_pages; /* columns of the page table */
  int64_t splits;    /* of the tokens of a sequence; 0: as many as fill the device. Equal splits give equal bits */
  sagegen_tensor q;  /* [batch, q_heads, q_len, head_dim], embedded and not rotated by the Hadamard matrix */
  uint64_t page_table; /* i32 [batch, max_pages]; what is behind the last page of a sequence is not read */
  uint64_t lengths;    /* i32 [batch]: tokens, those of q among them */
  sagegen_tensor o;
  uint64_t lse;         /* f32 [batch, q_heads, q_len], natural logarithms; 0: not wanted */
  double softmax_scale; /* 0: 1 / sqrt(head_dim) */
  /* i32 [batch]: queries of each sequence, the first so many rows of q, the others are padding with O = 0; 0: q_len each. */
  uint64_t q_lens;
  /* With exact tokens: their pool, whose pages are blocks (stride_block does not count); i32 [batch, exact_blocks]: blocks of
   * each sequence. */
  sagegen_kv_pool exact_pool;
  uint64_t exact_table;
} sagegen_kv_decode_arguments;

/* Tokens back in 16 bits, for attention on a prompt whose prefix is in the cache: K and V as a packed call reads them. */
typedef struct sagegen_kv_gather_arguments {
  size_t struct_size;
  sagegen_kv_pool pool;
  int64_t batch;
  int64_t rows;        /* that k and v have room for */
  int64_t longest;     /* the most tokens that a sequence may have */
  int64_t max_pages;   /* columns of the page table */
  uint64_t page_table; /* i32 [batch, max_pages] */
  uint64_t indptr;     /* i32 [batch + 1], as cu_seqlens_kv: sequence b has the rows indptr[b] to indptr[b + 1] - 1 */
  uint64_t lengths;    /* i32 [batch]: tokens that are wanted; rows behind them are left alone. 0: as many as there are rows */
  sagegen_tensor k, v; /* [1, kv_heads, rows, head_dim] */
  uint64_t k_mean;     /* as of append: it is added again */
} sagegen_kv_gather_arguments;

typedef struct sagegen_kv_copy_arguments {
  size_t struct_size;
  sagegen_kv_pool pool;
  size_t count; /* page from[i] to page to[i], one after the other; the arrays are the host's */
  const int64_t* from;
  const int64_t* to;
} sagegen_kv_copy_arguments;

/* Loads the kernels of all layers; layers of equal formats share them. */
sagegen_status sagegen_kv_cache_create(sagegen_device* device,
                                       const sagegen_kv_cache_options* options,
                                       sagegen_kv_cache** cache);
void sagegen_kv_cache_destroy(sagegen_kv_cache* cache);
int32_t sagegen_kv_cache_layers(const sagegen_kv_cache* cache); /* 0 for a null handle */
/* As sagegen_attention_note. */
const char* sagegen_kv_cache_note(const sagegen_kv_cache* cache);
sagegen_status sagegen_kv_cache_layer(const sagegen_kv_cache* cache, int32_t layer,
                                      sagegen_kv_layer* result);
/* The calls below only enqueue work on `stream`, as sagegen_attention_run does. A page that is given to another sequence
 * needs no call: what is behind the tokens of a sequence may be anything. (In the emulator it is written once: fill a new pool.) */
sagegen_status sagegen_kv_cache_append(const sagegen_kv_cache* cache, int32_t layer,
                                       const sagegen_kv_append_arguments* arguments, void* stream);
/* Of sizes alone: addresses may be 0. */
sagegen_status sagegen_kv_cache_workspace_bytes(const sagegen_kv_cache* cache, int32_t layer,
                                                const sagegen_kv_decode_arguments* arguments,
                                                size_t* bytes);
sagegen_status sagegen_kv_cache_decode(const sagegen_kv_cache* cache, int32_t layer,
                                       const sagegen_kv_decode_arguments* arguments,
                                       uint64_t workspace, size_t workspace_bytes, void* stream);
/* With the option gather. Of keys that were rotated by a Hadamard matrix the rows are those before it. */
sagegen_status sagegen_kv_cache_gather(const sagegen_kv_cache* cache, int32_t layer,
                                       const sagegen_kv_gather_arguments* arguments, void* stream);
/* Where a token of a sequence goes among exact ones, that has `length` tokens when all of the call are in: place / 16 is the column
 * of its exact_table, place % 16 the place in that block. -1: it is left out, or there are no exact tokens. */
int64_t sagegen_kv_cache_exact_place(const sagegen_kv_cache* cache, int64_t token, int64_t length);
/* Before a page that several sequences have is written: each call copies pages of one layer. */
sagegen_status sagegen_kv_cache_copy_pages(const sagegen_kv_cache* cache, int32_t layer,
                                           const sagegen_kv_copy_arguments* arguments,
                                           void* stream);

/* ---- attention on codes -------------------------------------------------------------------------
 *
 * The same in pieces, whose tensors the caller owns: K and V are quantized once and attended with as many Q as there
 * are, of whichever lengths, or all of them were quantized elsewhere. docs/reference.md, "Codes and scales", has the
 * formulas. They run the default schedule. Packed sequences are refused. Set what the kernel has: what
 * sagegen_attention_code_sizes gives no bytes stays 0.
 *
 * Below, LqP and LkP are q_len and kv_len rounded up as there; Dc and Dv channels rounded up. A kernel with
 * inputs=given has neither: codes are as long as the problem and lie by strides, as those of SageAttention do, and
 * only sagegen_attention_attend_codes attends them. */

/* Never changes. Bytes between neighbours, multiples of 16; 0: one row for the whole axis. That of an axis of size 1 is ignored. All 0
 * without inputs=given, where tensors are contiguous. */
typedef struct sagegen_code_strides {
  int64_t batch, head, row; /* row: token; of FP8 codes of V channel */
} sagegen_code_strides;

/* Addresses; aligned to 16 bytes, scales of inputs=given to 4. */
typedef struct sagegen_query_codes {
  size_t struct_size;
  uint64_t codes; /* INT8 or two INT4 in a byte, the first in the low half: [batch, q_heads, LqP, Dc] */
  uint64_t scale; /* f32 [batch, q_heads, LqP / q_group, 8 or 1], or one per row or head */
  uint64_t mean;  /* f32 [batch, q_heads, LqP / 128, head_dim]: with smoothing qk */
  /* f32 [batch, q_heads, LqP], q_len with inputs=given: what K smoothing took from scores, in natural logarithms.
   * Needed for an LSE, and by sinks and soft caps. */
  uint64_t lse_correction;
  /* Only with inputs=given: */
  sagegen_code_strides strides; /* of codes */
  int64_t scale_stride;         /* scales from one head to the next; 0: no gap */
  int64_t scale_is_folded;      /* not 0: softmax_scale * log2(e) is in the scales */
} sagegen_query_codes;

typedef struct sagegen_key_value_codes {
  size_t struct_size;
  uint64_t k_codes; /* [batch, kv_heads, LkP, Dc] */
  uint64_t k_scale; /* f32 [batch, kv_heads, LkP / k_group, 4 or 1], or one per row or head */
  uint64_t k_mean;  /* f32 [batch, kv_heads, head_dim]: with K smoothing */
  /* FP8 [batch, kv_heads, Dv, LkP], in every 16 keys in the order 0 1 8 9 2 3 10 11 4 5 12 13 6 7 14 15; or FP16
   * [batch, kv_heads, LkP, Dv] */
  uint64_t v_codes;
  uint64_t v_scale; /* f32 [batch, kv_heads, value_dim], which is head_dim unless the kernel says otherwise */
  uint64_t v_mean;  /* f32 [batch, kv_heads, value_dim]: with v_smoothing=mean */
  /* Only with inputs=given: */
  sagegen_code_strides k_strides, v_strides; /* of codes */
  int64_t k_scale_stride;                    /* as scale_stride of Q */
} sagegen_key_value_codes;

/* Bytes of these tensors without gaps, and of the workspace that each call below needs at most. 0: the kernel has
 * none. */
typedef struct sagegen_code_sizes {
  size_t struct_size; /* the caller's; what follows is written as far as that goes */
  int64_t q_codes, q_scale, q_mean, lse_correction;
  int64_t k_codes, k_scale, k_mean, v_codes, v_scale, v_mean;
  int64_t workspace;
} sagegen_code_sizes;

/* lse: not 0 if lse_correction is wanted; it has bytes without, too, where masks and biases need it. */
sagegen_status sagegen_attention_code_sizes(const sagegen_attention* attention,
                                            const sagegen_shape* shape, int32_t lse,
                                            sagegen_code_sizes* sizes);
/* Reads q and softmax_scale of the arguments, and where to->lse_correction is not 0 k_mean of keys_values, which may be
 * null otherwise; of the shape all but kv_len. */
sagegen_status sagegen_attention_quantize_queries(const sagegen_attention* attention,
                                                  const sagegen_shape* shape,
                                                  const sagegen_arguments* arguments,
                                                  const sagegen_key_value_codes* keys_values,
                                                  const sagegen_query_codes* to, uint64_t workspace,
                                                  size_t workspace_bytes, void* stream);
/* Reads k and v of the arguments, and batch, kv_heads and kv_len of the shape. */
sagegen_status sagegen_attention_quantize_keys_values(const sagegen_attention* attention,
                                                      const sagegen_shape* shape,
                                                      const sagegen_arguments* arguments,
                                                      const sagegen_key_value_codes* to,
                                                      uint64_t workspace, size_t workspace_bytes,
                                                      void* stream);
/* Of q, k and v only those are read that the kernel does not have as codes, and with smoothing qk k. softmax_scale is
 * that of the scales of Q; with inputs=given it is multiplied into them, unless scale_is_folded. */
sagegen_status sagegen_attention_attend_codes(const sagegen_attention* attention,
                                              const sagegen_shape* shape,
                                              const sagegen_query_codes* queries,
                                              const sagegen_key_value_codes* keys_values,
                                              const sagegen_arguments* arguments,
                                              uint64_t workspace, size_t workspace_bytes,
                                              void* stream);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif

#endif /* SAGEGEN_SAGEGEN_H */
