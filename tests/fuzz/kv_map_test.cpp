#include <catch2/catch.hpp>

#include "tests/fuzz/mutation_loop.h"

TEST_CASE("read_map survives mutated maps of KV caches") {
  sagegen::fuzz::MutationLoop loop;
  loop.seeds = {
      "0:\n  nbits_key: 8\n  nbits_value: 8\n1:\n  nbits_key: 4\n  nbits_value: 2\n",
      "0:\n  0:\n    nbits_key: 8\n    nbits_value: 8\n  1:\n    nbits_key: 16\n    nbits_value: "
      "2\n",
      "{\"quantization\": {\"kv_cache_quant_algo\": \"MIXED_PRECISION\", "
      "\"kv_cache_quantized_layers\": "
      "{\"model.layers.0.self_attn\": {\"quant_algo\": \"FP8\"},\n\"model.layers.1.self_attn\": "
      "{\"quant_algo\": \"NVFP4\"}}, "
      "\"kv_cache_schema_version\": 1}}",
      "{\"num_hidden_layers\": 4, \"quantization_config\": {\"kv_cache_scheme\": {\"num_bits\": 8, "
      "\"type\": \"float\"}}}",
      "kv_cache_config:\n  dtype: \"0-1:fp8,2-3:nvfp4\"\n",
      "kv_cache_per_layer_dtype: {0: bf16, 3: int8}\nkv_cache_dtype: fp4_e2m1\n",
      "0-1:bf16,2:K8V4,3:int4",
      "{\"schema\": \"sagegen.kv\", \"schema_version\": 1, \"map\": [\"K8V4\", \"KVf8\"]}",
      "{\"schema\": \"sagegen.kv\", \"schema_version\": 1, \"map\": [[\"K8V4\", \"KV2\"]]}"};
  loop.dictionary = {"0:",
                     "nbits_key: ",
                     "nbits_value: 4\n",
                     "\n  ",
                     "&a ",
                     "*a",
                     "!!int ",
                     "<<: ",
                     "---\n",
                     "...\n",
                     "? ",
                     "- ",
                     "| \n",
                     "> \n",
                     "[",
                     "]",
                     "{",
                     "}",
                     ": ",
                     ",",
                     "#",
                     "\"",
                     "'",
                     "~",
                     "null",
                     "1e9",
                     "-1",
                     "0x8",
                     "08",
                     "\\u0000",
                     "\\ud83d",
                     "%YAML 1.2\n",
                     "\t",
                     "\r\n",
                     "\xc3\xa9",
                     "\xff\xfe",
                     "fp8",
                     "KV16",
                     "99999999999999999999",
                     "kv_cache_quantized_layers",
                     "0-3:"};
  loop.iterations = 20000;
  CHECK(sagegen::fuzz::run(loop) > loop.iterations);
}
