#include <catch2/catch.hpp>

#include "tests/fuzz/mutation_loop.h"

TEST_CASE("what sagegen emu reads from people survives mutations") {
  sagegen::fuzz::MutationLoop loop;
  loop.seeds = {
      "x:f16[64x128]=normal(7,-1.5,2e3)",
      "i32=-1024",
      "out : f32[1024]",
      "{u64=0,p:{f32[8]=\"a,b}.npy\",u8[]=x.safetensors:layer.0/q},&out+256}",
      "&0.1 + 8",
      "u64=0xffffffffffffffff",
      "f32[3]=scratch",
      "uniform(18446744073709551615, -1, 1)",
      "e4m3[16]=inf",
      "32x4x2",
      "# launch\nptx = \"k.ptx\"\ngrid = 8_0\n'arg' = [ \"f32[4]=iota\", 'i32=1', # one\n 3, ]\n",
      "atol = 1e-3\nblock = \"32x4\"\nentry = \"\\u00e9\\t\\\\\"\n"};
  loop.dictionary = {"{",
                     "}",
                     "[",
                     "]",
                     "x",
                     "=",
                     ":",
                     "&",
                     "+",
                     ",",
                     "(",
                     ")",
                     "\"",
                     "'",
                     "f16",
                     "s32",
                     "iota",
                     "zeros",
                     "nan",
                     "-",
                     ".",
                     ".npy",
                     ".bin",
                     "\n",
                     "#",
                     "\\U",
                     "\\u0041",
                     "e4m3[",
                     "0x",
                     " ",
                     "{{{{{{{{",
                     "[[",
                     "\r\n",
                     "\"\"\"",
                     "1e999",
                     ".safetensors:",
                     "18446744073709551616",
                     "1099511627777",
                     "\xef\xbb\xbf"};
  loop.iterations = 200000;
  CHECK(sagegen::fuzz::run(loop) > loop.iterations);
}
