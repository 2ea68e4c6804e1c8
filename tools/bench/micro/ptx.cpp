// The frame that all kernels share, and pieces of it.
#include <fmt/format.h>

#include "tools/bench/micro/micro.h"

namespace sagegen::micro {

std::string numbered(const std::string& prefix, int count, const char* separator) {
  std::string text;
  for (int i = 0; i < count; ++i) {
    text += fmt::format("{}{}{}", i == 0 ? "" : separator, prefix, i);
  }
  return text;
}

std::string kernel_ptx(const std::string& comment, int threads, const std::string& registers,
                       const std::string& body) {
  return fmt::format(
             "// {}\n"
             ".version 8.4\n"
             ".target sm_90a\n"
             ".address_size 64\n\n"
             ".extern .shared .align 1024 .b8 micro_shared[];\n"
             ".visible .entry micro(\n"
             "\t.param .align 64 .b8 micro_param_0[{}]\n"
             ")\n"
             ".maxntid {}\n"
             ".minnctapersm 1\n"
             "{{\n",
             comment, sizeof(Parameters), threads) +
         "\t.reg .pred %p<8>;\n"
         "\t.reg .b32 %thread, %lane, %warp, %cta, %iterations, %i, %smem, %sm;\n"
         "\t.reg .b32 %r<16>;\n"
         "\t.reg .b64 %in, %out, %stamps, %clock0, %clock1, %g0, %g1;\n"
         "\t.reg .b64 %rd<16>;\n" +
         registers +
         "\tmov.u32 %thread, %tid.x;\n"
         "\tmov.u32 %cta, %ctaid.x;\n"
         "\tshr.u32 %warp, %thread, 5;\n"
         "\tand.b32 %lane, %thread, 31;\n"
         "\tld.param.b64 %in, [micro_param_0];\n"
         "\tcvta.to.global.u64 %in, %in;\n"
         "\tld.param.b64 %out, [micro_param_0+8];\n"
         "\tcvta.to.global.u64 %out, %out;\n"
         "\tld.param.b64 %stamps, [micro_param_0+16];\n"
         "\tcvta.to.global.u64 %stamps, %stamps;\n"
         "\tld.param.b32 %iterations, [micro_param_0+24];\n"
         "\tmov.b64 %rd0, micro_shared;\n"
         "\tcvt.u32.u64 %smem, %rd0;\n" +
         body + "\tret;\n}\n";
}

std::string counted_loop(const std::string& body) {
  return "\tmov.b32 %i, 0;\n"
         "$loop:\n"
         "\t.pragma \"nounroll\";\n" +
         body +
         "\tadd.s32 %i, %i, 1;\n"
         "\tsetp.lt.u32 %p0, %i, %iterations;\n"
         "\t@%p0 bra $loop;\n";
}

namespace {

// %rd0: the warp's stamp; %p0: the lane that writes it.
std::string find_stamp() {
  return fmt::format(
      "\tmov.u32 %r0, %ntid.x;\n"
      "\tmad.lo.s32 %r0, %cta, %r0, %thread;\n"
      "\tshr.u32 %r0, %r0, 5;\n"
      "\tmul.wide.u32 %rd0, %r0, {};\n"
      "\tadd.s64 %rd0, %rd0, %stamps;\n"
      "\tsetp.eq.u32 %p0, %lane, 0;\n",
      sizeof(Stamp));
}

}  // namespace

// A load is waited for where its register is first used: here that is a store, to a place that
// stop_clock writes again.
std::string wait_for_loads(const std::vector<std::string>& registers, int bits) {
  std::string text = find_stamp() + "\tmov.b32 %r0, 0;\n";
  for (const std::string& reg : registers) {
    text += bits == 64 ? fmt::format(
                             "\tmov.b64 {{%r1, %r2}}, {};\n"
                             "\txor.b32 %r0, %r0, %r1;\n"
                             "\txor.b32 %r0, %r0, %r2;\n",
                             reg)
                       : fmt::format("\txor.b32 %r0, %r0, {};\n", reg);
  }
  return text + "\t@%p0 st.global.b32 [%rd0+36], %r0;\n";
}

std::string start_clock() {
  return "\tmov.u64 %g0, %globaltimer;\n"
         "\tbar.sync 0;\n"
         "\tmov.u64 %clock0, %clock64;\n";
}

std::string stop_clock(const std::string& count) {
  return "\tmov.u64 %clock1, %clock64;\n"
         "\tmov.u64 %g1, %globaltimer;\n"
         "\tmov.u32 %sm, %smid;\n" +
         find_stamp() +
         fmt::format(
             "\t@%p0 st.global.b64 [%rd0], %clock0;\n"
             "\t@%p0 st.global.b64 [%rd0+8], %clock1;\n"
             "\t@%p0 st.global.b64 [%rd0+16], %g0;\n"
             "\t@%p0 st.global.b64 [%rd0+24], %g1;\n"
             "\t@%p0 st.global.b32 [%rd0+32], %sm;\n"
             "\t@%p0 st.global.b32 [%rd0+36], {};\n",
             count.empty() ? "0" : count);
}

std::string store_thread_words(const std::string& prefix, int words, int threads, int block_words) {
  std::string text = fmt::format(
      "\tmul.lo.u32 %r0, %cta, {};\n"
      "\tadd.s32 %r0, %r0, %thread;\n"
      "\tmul.wide.u32 %rd0, %r0, 4;\n"
      "\tadd.s64 %rd0, %rd0, %out;\n",
      block_words);
  for (int i = 0; i < words; ++i) {
    text += fmt::format("\tst.global.b32 [%rd0+{}], {}{};\n", 4 * threads * i, prefix, i);
  }
  return text;
}

std::string copy_to_shared(int bytes, int threads) {
  return fmt::format(
      "\tmul.lo.u32 %r0, %thread, 16;\n"
      "$copy:\n"
      "\t.pragma \"nounroll\";\n"
      "\tcvt.u64.u32 %rd0, %r0;\n"
      "\tadd.s64 %rd0, %rd0, %in;\n"
      "\tld.global.v4.b32 {{%r1, %r2, %r3, %r4}}, [%rd0];\n"
      "\tadd.s32 %r5, %r0, %smem;\n"
      "\tst.shared.v4.b32 [%r5], {{%r1, %r2, %r3, %r4}};\n"
      "\tadd.s32 %r0, %r0, {};\n"
      "\tsetp.lt.u32 %p0, %r0, {};\n"
      "\t@%p0 bra $copy;\n"
      "\tfence.proxy.async;\n"
      "\tbar.sync 0;\n",
      16 * threads, bytes);
}

}  // namespace sagegen::micro
