// What the builder does beyond single verbs: folding, control flow, mutable registers, addresses.
#include <catch2/catch.hpp>

#include <algorithm>

#include "generator/codegen/codegen.h"
#include "sagegen/dsl/ring.h"
#include "sagegen/error.h"
#include "tests/golden/golden.h"

namespace sagegen::golden {
namespace {

using namespace dsl;
using Catch::Contains;
using Lines = std::vector<std::string>;

struct Nested {
  std::int64_t first;
  TensorParam o;
};

constexpr Target kTarget{.sm = 80};

Lines lines_of(const Build& build) { return verb_instructions(ptx_of(kTarget, build)); }

bool contains(const Lines& lines, const std::string& part) {
  return std::any_of(lines.begin(), lines.end(),
                     [&](const std::string& line) { return line.find(part) != std::string::npos; });
}

TEST_CASE("a condition known at generation time emits only the branch that is taken") {
  const auto branches = [](Kernel& t, Pred condition) {
    t.k.if_else(
        condition, [&] { t.keep(t.x + t.y); }, [&] { t.keep(t.x * t.y); });
  };
  const Lines sum{"add.rn.f32 %, %, %;"}, product{"mul.rn.f32 %, %, %;"};
  CHECK(lines_of([&](Kernel& t) { branches(t, t.k.pred(true)); }) == sum);
  CHECK(lines_of([&](Kernel& t) { branches(t, t.k.pred(false)); }) == product);
  SECTION("constants fold through arithmetic and comparisons") {
    CHECK(lines_of([&](Kernel& t) {
            const I32 six = t.k.i32(2) * 3;
            branches(t, six % 4 == 2 && !(six < 6) && (six << 2) >= 24);
          }) == sum);
  }
  SECTION("so does what the block size says about a thread's index") {
    CHECK(lines_of([&](Kernel& t) { branches(t, t.k.thread_idx() < 64); }) == sum);
    CHECK(lines_of([&](Kernel& t) { branches(t, t.k.thread_idx() >= 64); }) == product);
  }
  SECTION("without an else nothing is left") {
    CHECK(lines_of([&](Kernel& t) { t.k.if_(t.k.pred(false), [&] { t.keep(t.x); }); }).empty());
  }
  SECTION("a condition of the launch needs both") {
    const Lines lines = lines_of([&](Kernel& t) { branches(t, t.a < t.b); });
    CHECK(contains(lines, "add.rn.f32"));
    CHECK(contains(lines, "mul.rn.f32"));
  }
}

TEST_CASE("a Var joins what branches leave in it") {
  const Lines lines = lines_of([](Kernel& t) {
    const Var<I32> v = t.k.var(t.a);
    t.k.if_else(
        t.b < t.c, [&] { v = v.get() + 1; }, [&] { v = v.get() ^ t.d; });
    t.keep(v.get());
  });
  CHECK(contains(lines, "add.s32"));
  CHECK(contains(lines, "xor.b32"));
  CHECK_FALSE(contains(lines, "local"));
}

TEST_CASE("a Var holds what was written last, inside one block too") {
  const Lines lines = lines_of([](Kernel& t) {
    const Var<F32> v = t.k.var(t.x);
    t.k.if_(t.a < t.b, [&] {
      v = v.get() + t.y;
      v = v.get() * t.z;
    });
    t.keep(v.get());
  });
  CHECK(contains(lines, "add.rn.f32"));  // or the product would be of what was there before
  CHECK(contains(lines, "mul.rn.f32"));
}

TEST_CASE("what is computed twice from the same operands is computed once") {
  CHECK(lines_of([](Kernel& t) {
          t.keep((t.a * t.b) ^ t.c);
          t.keep((t.a * t.b) ^ t.d);
        }) == Lines{"mul.lo.s32 %, %, %;", "xor.b32 %, %, %;", "xor.b32 %, %, %;"});
}

TEST_CASE("a runtime loop is emitted once, behind a guard, with its test at the end") {
  const Lines lines = lines_of([](Kernel& t) {
    const Var<F32> sum = t.k.var(t.k.f32(0));
    t.k.for_range(t.a, t.b, 4, [&](I32 i) { sum = sum.get() + t.k.to_f32(i); });
    t.keep(sum.get());
  });
  CHECK(lines == Lines{"setp.ge.s32 %, %, %;", "mov.b32 %, 0f00000000;", "@% bra $L__BB0_3;",
                       "mov.b32 %, 0f00000000;", "$L__BB0_2:", "cvt.rn.f32.s32 %, %;",
                       "add.rn.f32 %, %, %;", "add.s32 %, %, 4;", "setp.lt.s32 %, %, %;",
                       "@% bra $L__BB0_2;", "$L__BB0_3:"});
}

TEST_CASE("loops whose bounds are known") {
  const auto loop = [](int begin, int end, int step) {
    return lines_of([=](Kernel& t) {
      const Var<I32> sum = t.k.var(t.a);
      t.k.for_range(t.k.i32(begin), t.k.i32(end), step,
                    [&](I32 i) { sum = sum.get() + (i ^ t.b); });
      t.keep(sum.get());
    });
  };
  SECTION("that never run vanish") {
    CHECK(loop(5, 5, 1).empty());
    CHECK(loop(5, -5, 1).empty());
  }
  SECTION("need no guard, and are not unrolled") {
    const Lines lines = loop(0, 1000, 1);
    CHECK(std::count(lines.begin(), lines.end(), "xor.b32 %, %, %;") == 1);
    CHECK(std::count_if(lines.begin(), lines.end(), [](const std::string& line) {
            return line.find("bra") != std::string::npos;
          }) == 1);
  }
}

TEST_CASE("the counter of a loop is a value like any other") {
  // 0 as the first value must not be taken for the counter's only value.
  const Lines lines = lines_of([](Kernel& t) {
    t.k.for_range(t.k.i32(0), t.a, 1, [&](I32 i) { t.k.store(t.out + i * 4, i * 3); });
  });
  CHECK(contains(lines, "mul.wide.s32"));
  CHECK(contains(lines, "mul.lo.s32 %, %, 3;"));
}

TEST_CASE("constant distances stay at the access") {
  const Lines lines = lines_of([](Kernel& t) {
    const SharedPtr s = t.k.shared(4096, 128);
    const Var<F32> sum = t.k.var(t.k.f32(0));
    t.k.for_range(t.k.i32(0), t.a, 1, [&](I32) {
      const SharedPtr row = s + t.b * 128;
      sum = sum.get() + t.k.load<F32>(row + 64) + t.k.load<F32>(row + 128);
      t.k.cp_async_16(row + 256, t.in + t.wide + 512);
      t.k.barrier();
    });
    t.keep(sum.get());
  });
  const auto loop = std::find(lines.begin(), lines.end(), "$L__BB0_2:");
  INFO(Catch::StringMaker<Lines>::convert(lines));
  REQUIRE(loop != lines.end());
  const Lines body(loop, lines.end());
  CHECK(contains(body, "[%+64]"));
  CHECK(contains(body, "[%+128]"));
  CHECK(contains(body, "cp.async.cg.shared.global [%+256], [%+512], 16;"));
}

TEST_CASE("what a loop does not need is computed again behind it, not kept in a register") {
  const Lines lines = lines_of([](Kernel& t) {
    const I32 offset = t.k.thread_idx() * 4 + t.a;  // used before and behind the loop
    const I32 sum = t.b + t.c;                      // used inside as well
    t.k.store(t.out + offset, t.x);
    t.k.for_range(t.k.i32(0), t.d, 1, [&](I32 i) { t.k.store(t.out + i * 16, sum); });
    t.k.store(t.out + offset + 8, sum);
  });
  INFO(Catch::StringMaker<Lines>::convert(lines));
  CHECK(std::count(lines.begin(), lines.end(), "mov.u32 %, %tid.x;") == 2);
  CHECK(std::count(lines.begin(), lines.end(), "shl.b32 %, %, 2;") == 2);
  CHECK(std::count(lines.begin(), lines.end(), "add.s32 %, %, %;") == 3);  // offset twice, sum once
}

TEST_CASE("what a branch inside a loop computes stays inside the branch") {
  const Lines lines = lines_of([](Kernel& t) {
    t.k.for_range(t.k.i32(0), t.d, 1, [&](I32 i) {
      t.k.if_(i == t.c, [&] { t.k.store(t.out, t.a * t.b); });
      t.k.barrier();
    });
  });
  INFO(Catch::StringMaker<Lines>::convert(lines));
  const auto product = std::find(lines.begin(), lines.end(), "mul.lo.s32 %, %, %;");
  const auto test = std::find(lines.begin(), lines.end(), "setp.ne.b32 %, %, %;");
  REQUIRE(product != lines.end());
  CHECK(test < product);
}

// What a ring of some sources emits, in one letter each: c a copy, g the end of a group, w and a number a
// wait, b a barrier, r the body's reading of a source; ( ) around the loop.
std::string ring_of(int stages, int sources) {
  std::string text;
  const Lines lines = lines_of([=](Kernel& t) {
    RingOptions options{.stages = stages,
                        .first = t.k.i32(0),
                        .end = t.a,
                        .buffers = t.k.shared(stages * sources * 1024, 128),
                        .sources = {},
                        .skipped = {}};
    for (int i = 0; i < sources; ++i) {
      options.sources.push_back(
          {1024, [&](RingPart, I32, SharedPtr to) { t.k.cp_async_16(to, t.in); }});
    }
    Ring ring(t.k, options);
    ring.walk([&](Ring::Tile& tile) {
      for (int i = 0; i < sources; ++i) {
        t.k.store(t.out, t.k.load<F32>(tile.wait(i)));
        tile.release(i);
      }
    });
  });
  for (const std::string& line : lines) {
    if (line.starts_with("cp.async.cg")) text += 'c';
    if (line.starts_with("cp.async.commit")) text += 'g';
    if (line.starts_with("cp.async.wait_group")) text += 'w' + line.substr(20, 1);
    if (line.starts_with("bar.sync")) text += 'b';
    if (line.starts_with("ld.shared")) text += 'r';
  }
  return text;
}

TEST_CASE("a ring waits for what the body reads, and copies to where nobody reads any more") {
  CHECK(ring_of(2, 1) ==
        "cg"
        "w0bcg"
        "r");
  CHECK(ring_of(2, 3) ==
        "cccg"
        "w0bcccg"
        "rrr");
  CHECK(ring_of(3, 2) ==
        "ccg"
        "ccg"
        "w1bccg"
        "rr");
  CHECK(ring_of(4, 1) ==
        "cg"
        "cg"
        "cg"
        "w2bcg"
        "r");
  // In turns: the first source of the next tile is copied as soon as this one has been read.
  CHECK(ring_of(1, 1) ==
        "cg"
        "w0b"
        "rbcg");
  CHECK(ring_of(1, 2) ==
        "cg"
        "w0bcg"
        "rbcg"
        "w1br");
  CHECK(ring_of(1, 3) ==
        "cg"
        "w0bcg"
        "rbcg"
        "w1bcgr"
        "w0br");
}

TEST_CASE("a ring refuses a body that reads its sources in another order") {
  using Body = std::function<void(Ring::Tile&)>;
  const auto walk = [](int stages, const Body& body) {
    lines_of([&](Kernel& t) {
      const RingSource source{1024,
                              [&](RingPart, I32, SharedPtr to) { t.k.cp_async_16(to, t.in); }};
      Ring ring(t.k, {.stages = stages,
                      .first = t.k.i32(0),
                      .end = t.a,
                      .buffers = t.k.shared(4096, 128),
                      .sources = {source, source},
                      .skipped = {}});
      ring.walk(body);
    });
  };
  const auto refuses = [&](const Body& body, const std::string& what) {
    for (const int stages : {1, 2}) {
      CHECK_THROWS_WITH(walk(stages, body), Contains("structure_test.cpp:") && Contains(what));
    }
  };
  refuses([](Ring::Tile& tile) { tile.wait(1); }, "wait(1) after 0 of 2 sources were waited for");
  refuses([](Ring::Tile& tile) { tile.release(0); }, "release(0) after 0 sources");
  refuses(
      [](Ring::Tile& tile) {
        tile.wait(0);
        tile.wait(1);
      },
      "wait(1) after 1 of 2 sources were waited for and 0 released");
  refuses(
      [](Ring::Tile& tile) {
        tile.wait(0);
        tile.release(0);
      },
      "the body waits for 1 and releases 1 of 2 sources");
  CHECK_THROWS_WITH(walk(0, [](Ring::Tile&) {}), Contains("0 stages and 2 sources"));
}

TEST_CASE("parameters") {
  SECTION("are read once, at their offset") {
    const Lines lines = instructions(ptx_of(kTarget, [](Kernel& t) {
      t.keep(t.p(&Params::a) + t.p(&Params::a));
      t.keep(t.p(&Params::w));
    }));
    CHECK(lines == Lines{"ld.param.b64 %, [golden_param_0+8];",
                         "ld.param.b32 %, [golden_param_0+24];",
                         "ld.param.b32 %, [golden_param_0+52];", "add.s32 %, %, %;",
                         "st.global.b32 [%], %;", "st.global.b32 [%+4], %;", "ret;"});
  }
  SECTION("of a nested tensor are found by two members") {
    KernelBuilder k("nested", kTarget, 32, sizeof(Nested));
    const auto p = k.params<Nested>();
    const GlobalPtr data = p(&Nested::o, &TensorParam::data);
    k.store(data + p(&Nested::o, &TensorParam::stride_token), k.i32(1));
    codegen::optimize(k);
    const std::string ptx = codegen::print_ptx(k);
    const std::size_t o = offsetof(Nested, o);
    const std::size_t stride = o + offsetof(TensorParam, stride_token);
    CHECK_THAT(ptx, Contains("ld.param.b64") &&
                        Contains("[nested_param_0+" + std::to_string(o) + "]") &&
                        Contains("[nested_param_0+" + std::to_string(stride) + "]"));
  }
  SECTION("choosing between two of them is not an address") {
    CHECK(lines_of([](Kernel& t) { t.keep(t.k.select(t.a < t.b, t.c, t.d)); }) ==
          Lines{"setp.lt.s32 %, %, %;", "selp.b32 %, %, %, %;"});
  }
}

TEST_CASE("the entry says target, block size, parameters and shared memory") {
  const std::string ptx = ptx_of({.sm = 89}, [](Kernel& t) {
    t.k.shared(100, 16);
    CHECK(t.k.shared_bytes() == 100);
    const SharedPtr s = t.k.shared(64, 256);
    CHECK(t.k.shared_bytes() == 256 + 64);
    t.k.store(s, t.a);
  });
  CHECK_THAT(ptx, Contains(".version 8.4\n.target sm_89\n.address_size 64\n"));
  CHECK_THAT(ptx, Contains(".extern .shared .align 256 .b8 shared_memory[];"));
  CHECK_THAT(ptx, Contains(".visible .entry golden(\n\t.param .align 8 .b8 golden_param_0[56]\n)"));
  CHECK_THAT(ptx, Contains(".reqntid 64"));
  CHECK_THAT(ptx, Contains("[shared_memory+256], %"));
}

TEST_CASE("the same kernel gives the same bytes") {
  const auto build = [](Kernel& t) {
    const Var<F32> sum = t.k.var(t.x);
    t.k.for_range(t.k.i32(0), t.a, 1, [&](I32 i) {
      t.k.if_(i < t.b, [&] { sum = t.k.fma(sum, t.y, t.k.load<F32>(t.in + i * 4)); });
    });
    t.keep(sum.get());
    t.keep(t.k.block_idx(0) + t.k.block_idx(1) + t.k.block_idx(2) + t.k.thread_idx());
  };
  for (const LineInfo line_info : {LineInfo::off, LineInfo::on}) {
    const std::string first = ptx_of(kTarget, build, line_info);
    for (int i = 0; i < 3; ++i) CHECK(ptx_of(kTarget, build, line_info) == first);
  }
}

TEST_CASE("line info names the template's lines by a path inside the repository") {
  const int line = __LINE__ + 1;
  const Build build = [](Kernel& t) { t.keep(t.k.exp2(t.x)); };
  const std::string with = ptx_of(kTarget, build, LineInfo::on);
  CHECK_THAT(with, Contains("\"tests/golden/structure_test.cpp\""));
  const std::size_t exp2 = with.find("ex2.approx");
  const std::size_t loc = with.rfind(".loc", exp2);
  REQUIRE(loc != std::string::npos);
  const std::string directive = with.substr(loc, with.find('\n', loc) - loc);
  CHECK_THAT(directive, Contains(" " + std::to_string(line) + " "));

  const int sum_line = __LINE__ + 1;
  const Build add = [](Kernel& t) { t.keep(t.x + t.y); };
  const std::string sum = ptx_of(kTarget, add, LineInfo::on);
  const std::size_t before_sum = sum.rfind(".loc", sum.find("add.rn.f32"));
  CHECK_THAT(sum.substr(before_sum, sum.find('\n', before_sum) - before_sum),
             Contains(" " + std::to_string(sum_line) + " "));

  const std::string without = ptx_of(kTarget, build);
  CHECK_THAT(without, !Contains(".loc") && !Contains(".file"));
  Lines code = instructions(with);
  std::erase_if(code, [](const std::string& text) {
    return text.starts_with("$L__func") || text.starts_with("$L__tmp");
  });
  CHECK(code == instructions(without));
}

}  // namespace
}  // namespace sagegen::golden
