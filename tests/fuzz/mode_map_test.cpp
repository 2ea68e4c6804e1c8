#include <catch2/catch.hpp>

#include "tests/fuzz/mutation_loop.h"

TEST_CASE("the reader of maps of layers survives mutated texts") {
  const std::string int8 = "sage_fwd_d64_f16_qk_s8t_g32x64_smk_pv_f16_f32__q128k64w4s2__sm80";
  sagegen::fuzz::MutationLoop loop;
  loop.seeds = {"sagegen.modes\t1\n# remark\n\nlayer0\t" + int8 + "\tfor people\n*\t" + int8 + "\n",
                "sagegen.modes\t1\na\tsage_fwd_d128_bf16_qk_s4t_g32x64_smqk_pv_e4m3_f32x2_causal__"
                "q128k64w4s2__sm89\nb\tsage_quantv_d128_f16_e4m3__sm120",
                "sagegen.modes\t1\n"};
  loop.dictionary = {"\t",
                     "\n",
                     "\r",
                     "*",
                     "#",
                     "layer0",
                     "sagegen.modes\t1\n",
                     int8,
                     "__",
                     "qk_s4",
                     std::string("\0", 1)};
  loop.iterations = 50000;
  CHECK(sagegen::fuzz::run(loop) > loop.iterations);
}
