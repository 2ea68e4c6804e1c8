#include <fmt/format.h>

#include "templates/quantize_rows/params.h"
#include "templates/quantize_rows/spec.h"
#include "templates/shared/params.h"

namespace sagegen::quantize_rows {
namespace {

std::vector<Section> describe(const View& v) {
  const Spec& s = v.spec;
  Sentences lines{fmt::format("head_dim {}, input {}", s.head_dim, to_string(s.io))};
  if (s.smooth) lines.push_back("subtracts the mean over all rows, per channel");
  if (s.smooth_block) {
    lines.push_back(fmt::format(
        "subtracts the mean of each {} rows, per channel, and writes it: f32 [batch, heads, rows / "
        "{}, head_dim]",
        kMeanRows, kMeanRows));
  }
  if (s.rotate) {
    lines.push_back(
        fmt::format("rotates each {} channels by a Hadamard matrix", rotation_block(s.head_dim)));
  }
  if (s.scales == 0) {
    lines.push_back(
        fmt::format("one scale per head, f32 [batch, heads]; of {} rows at a time", s.group));
  } else if (s.scales == s.group) {
    lines.push_back(
        fmt::format("one scale per row, f32 [batch, heads, rows]; of {} rows at a time", s.group));
  } else if (s.scales == 1) {
    lines.push_back(
        fmt::format("one scale per {} rows. f32 [batch, heads, rows / {}, 1]", s.group, s.group));
  } else {
    lines.push_back(fmt::format(
        "groups of {} rows with {} scales each; row r of a group uses scale {}. f32 [batch, heads, "
        "rows / {}, {}]",
        s.group, s.scales, s.scales == 8 ? "r mod 8" : "(r mod 8) / 2", s.group, s.scales));
  }
  if (s.amax) {
    lines.push_back(fmt::format(
        "finds the largest of each thread block's rows, of which one scale of {} codes is made",
        to_string(s.codes)));
  } else {
    lines.push_back(fmt::format(
        "codes {}; scale = amax / {} over the rows that share it; codes are rounded to "
        "nearest even",
        s.codes == DType::s4 ? "s4, two in a byte, the first in the low half" : to_string(s.codes),
        largest_code(s.codes)));
  }
  if (s.fold && !s.amax) {
    lines.push_back(
        "the softmax scale and log2(e) are folded into the scale, so scores come out in base 2");
    lines.push_back(
        "on request computes q . mean(K), which corrects the LSE for the smoothing of K");
  }
  if (s.pack_gqa) {
    lines.push_back(
        "rows are those of all query heads that share a KV head, query by query; heads are those "
        "of K and V");
  }
  if (s.varlen) lines.push_back(kPackedSequences);
  lines.push_back(fmt::format("grid (padded length / {}, heads, batch)", block_rows(s)));
  return {{"what it computes", lines}};
}

}  // namespace

const FamilyOf<Spec>& family() {
  static const FamilyOf<Spec> family(FamilyDef<Spec>{
      .word = "quantrows",
      .title = "quantize_rows",
      .room = "templates/quantize_rows",
      .what = {field<&Spec::head_dim>("head_dim", "d", head_dims(), head_dim_advice),
               field<&Spec::io>("io", "", io_types(), io_advice),
               field<&Spec::codes>("codes", "", code_types(), codes_advice),
               field<&Spec::scales>("scales", "r", numbers({8, 4, 1, 0, 16, 32, 64, 128})),
               field<&Spec::group>("group", "g", groups(), group_advice),
               flag<&Spec::smooth>("smooth", "smooth"), flag<&Spec::fold>("fold", "fold"),
               flag<&Spec::smooth_block>("smooth_block", "smoothblock"),
               flag<&Spec::amax>("amax", "amax"), flag<&Spec::rotate>("rotate", "rotate"),
               flag<&Spec::pack_gqa>("pack_gqa", "packgqa"),
               later(flag<&Spec::varlen>("varlen", "varlen"))},
      .rules = {{{[](const View& v) { return v.spec.smooth && v.spec.fold; },
                  [](const View&) {
                    return std::string(
                        "smooth with fold is refused: the mean of K is subtracted, and the "
                        "softmax scale is folded into Q; choose one");
                  }},
                 {[](const View& v) { return v.spec.scales > 8 && v.spec.scales != v.spec.group; },
                  [](const View& v) {
                    return fmt::format(
                        "scales {} with group {} is refused: a group has 8, 4 or 1, or one for "
                        "each of its rows; use scales {}",
                        v.spec.scales, v.spec.group, v.spec.group);
                  }},
                 {[](const View& v) { return v.spec.amax && v.spec.scales != 0; },
                  [](const View& v) {
                    return fmt::format(
                        "amax with scales {} is refused: groups find the largest of their rows "
                        "themselves; use scales 0, or leave amax out",
                        v.spec.scales);
                  }},
                 {[](const View& v) { return v.spec.pack_gqa && !v.spec.fold; },
                  [](const View&) {
                    return std::string(
                        "pack_gqa without fold is refused: rows of several heads are packed where "
                        "they are queries, whose scales hold the softmax scale; set fold, or leave "
                        "pack_gqa out");
                  }},
                 {[](const View& v) { return v.spec.smooth_block && !v.spec.fold; },
                  [](const View&) {
                    return std::string(
                        "smooth_block without fold is refused: blocks of rows have means where the "
                        "rows are queries, whose scales hold the softmax scale; set fold, or take "
                        "smooth");
                  }},
                 {[](const View& v) {
                    return v.spec.smooth_block && room_for_mean(v.spec.codes, v.spec.head_dim) <= 0;
                  },
                  [](const View& v) {
                    return "smooth_block with codes " +
                           no_room_for_mean(v.spec.codes, v.spec.head_dim) +
                           "; use codes s4, or leave smooth_block out";
                  }}}},
      .resources =
          [](const View& v) {
            const int channels = threads(v.spec);  // one for each
            const int mean = v.spec.smooth_block ? column_table_bytes(channels)
                             : v.spec.smooth     ? 4 * channels
                                                 : 0;
            const int warp_maxima = scales_of_warps(v.spec) * 4 * channels / 32;
            return Resources{.threads = channels, .dynamic_smem = mean + warp_maxima};
          },
      .params =
          [](const View& v) {
            ParamLayout layout;
            layout.add<Params>();
            if (v.spec.smooth) layout.add<SmoothParams>();
            if (v.spec.smooth_block) layout.add<BlockMeanParams>();
            if (v.spec.scales == 0) layout.add<MaximaParams>();
            if (v.spec.fold) layout.add<FoldParams>();
            if (v.spec.pack_gqa) layout.add<PackParams>();
            if (v.spec.varlen) layout.add<RowSequences>();
            return layout;
          },
      .describe = describe,
  });
  return family;
}

const Family& any_family() { return family(); }

}  // namespace sagegen::quantize_rows
