// How far a right kernel may be from the model of the quantization, element by element: derived from
// the formats and from the device's arithmetic, and from nothing that was measured.
//
// Model and kernel take the same codes, so what parts them is small and can be bounded row by row. All
// of it is taken at its worst at once; a right kernel stays well below. For query i and key j, scores
// in base 2 (octaves), s = unit * (q codes . k codes), unit = q scale * k scale * softmax scale * log2(e):
//
// 1. Codes of Q and K. A kernel divides by the scale in f32 (an inverse and a product: 2^-21 of the scaled
//    value), after it took a mean in f32 off K. The mean is off by at most
//      d = D * 2^-24 * mean |k|,   D = keys / 256 + 64 additions one after another,
//    so k / step by (d_channel + d_largest * |code| / largest code) / step. A value that lies nearer than that to
//    the middle of two codes may get the other one. Only those count: such a code of Q moves the score of
//    key j by |k code| units, one of K by |q code| units (and by what 4 d is worth).
// 2. Scores in f32: ten roundings of scale, product and maximum, 10 * 2^-24 * |s|, and d / amax of K's
//    scale. Where a unit is at most 2^-7 octave, the bias of the integer scores (1.5 * 2^23) is taken off
//    in the fma of the softmax, whose constant is off by up to its last bit, at most 1.5 units.
//    Where maxima are multiples of a step, scales have 22 significant bits, which is worth 6 roundings more, and that
//    constant is exact while a unit is less than the step; with larger units the bias is taken off before.
// 3. Exponentials: ex2.approx.f32 is within 2 ulp, 2^-22, for P and for the rescaling.
//    1 to 3 make an uncertainty r of log2 P, against the key with the largest score. The row's maximum
//    itself may be up to 1.5 units or one rounding higher than in the model, c, in each tile anew: that
//    scales all P of the tile down, before they round, and the tile as a whole up. Where the codes of a key
//    are undecided, it may be the maximum itself: c is as much higher as its score may be, without a limit.
//    Maxima that are multiples of a step are those of the model, but where a score that is as uncertain as it is
//    crosses a step: then they are higher, or lower, by c, the steps that it may cross.
// 4. Codes of P: monotone in P, so the kernel's lies between the codes of P 2^-(r+c) and P 2^r (at most
//    the largest P). Where c is large (of roundings alone, for |s| of 10^4 and more, at most log2 of the
//    largest P), both round by themselves: half a step of each, the smallest step is 2^c times as coarse,
//    and a P may be 2^c times the largest of the model.
// 5. Codes of V: an inverse and a product in f32, ties as for Q, one step of the code each.
// 6. Sums on a tensor core: a fused sum takes at most 16 products of one element and the sum so far; each
//    term, and the result, is cut 2^-F below the largest: 18 * 2^-F * max(|terms|) per 16 keys, F = 13
//    for FP8 on Ada, else 23 (MMA-Sim, arXiv 2511.10909; FP8 codes below 2^-6 have the exponent of
//    2^-6). It holds for the sum of P like for P V. Sums of tiles in f32: 2^-23 of the sum so far.
//    Accumulators of f16 round each fused sum to nearest: 2^-11 of it, or 2^-25 where that is more. A fused sum takes
//    8 keys or more, in their order, so that the sums after 8, 16, ... keys of a tile are the most that is rounded.
//    Hopper sums 32 keys of FP8 from zero in two halves of f16, and adds that to the accumulator: with s_i the sum after
//    8 i keys, |s_1 + s_3 - s_2 - s_0|, |s_4 - s_0| and |s_4| are rounded, which is less than 4 times the others'.
// 7. The quotient: O = N / S, so |dO| <= (dN + |O| dS) / (S - dS); rcp.approx and three products, 2^-20;
//    half a step of the output's format. Never more than the range of V, for both are weighted means.
// 8. LSE = maximum + log S, plus q . mean(K): -log(1 - dS / S), the error of the largest score, the
//    mean's d, and f32 roundings of the terms. Where codes are undecided, that is too much: a higher maximum
//    lowers P, and the LSE sees neither. For every shift c of a tile the sum of the codes of P 2^(+-r - c),
//    times 2^c, is tried in steps (the sum falls with c, so that steps bound what lies between them).
// 9. The row as a whole. Sums of worst cases grow with the keys, while O shrinks like their root. With o the
//    model's O, dO = sum of dP (V - o) / S, and of a key dP is at most what 1 to 4 leave it. Keys whose
//    codes fall this way or that by themselves add up like a random walk: the distance |dO| is above 6 roots of
//    the sum of squares with a chance of at most 2 exp(-6^2 / 2) = 3e-8 (Hoeffding; Pinelis for vectors). What may
//    pull many keys the same way is added as it is:
//    - a code of Q: its sum over the keys, with signs; so are roundings of scores, and of P in f16;
//    - a code of K in one channel (one mean decides them all), P at one edge between two codes, tiles under
//      one maximum: the sum over these keys, with the signs of V - o, beyond the 3 roots of their squares
//      that a random walk reaches;
//    - cuts of sums, codes of V, and the output's format, of 5 to 7.
//    Where the sum of P may be wrong by half, keys are few or huge: the elements' bounds are the row's.
// 10. Mods (mods.h). A change f of the score passes on an error e of it as |f'| e + |f''| e^2 / 2, never more than
//    max |f'| times; its own roundings (ScoreMod::rounding) and ten of the changed score are added. Of that, what
//    codes of Q and K do has the signs of 9 times f'; the rest may be the same for all keys. No bias of integer
//    scores is left for the softmax then. Where f is not a sum, K's mean is a part of the score, with d and the f32
//    roundings of q . mean(K). Hidden keys weigh nothing: tiles without any others add nothing to any bound. A
//    sink counts as a tile before the first one, that has one P, which does not round, and no V; it is known to
//    ten f32 roundings, and against smoothed scores to d.
// 11. A smoothed Q. The mean of 128 rows is off by at most 26 * 2^-24 * mean |q|, which is to codes and scales of Q
//    what the mean of K is to K's. Its score with a key is off by that, by K's d, by what is left when the mean, and the
//    key less its own, are split into two numbers of the input type (2^-22 of a product in f16, 2^-17 in bf16, for each
//    of the two and for the product of what is small), and by its sums: three of 18 * 2^-23 times the largest term, or
//    sum so far, per 16 channels. Whether it lies that near to the middle of two whole
//    units decides whether the kernel's start of the sum may be the next one: then it counts as a rounding that many
//    keys may have the same way. Starts of 2^22 units and more lose their last bits; only keys and queries that
//    are nothing but rounding errors have them.
// 12. Unquantized Q and K. There are no codes, no scales, no mean and no bias: what is left of 1 and 2 is ten roundings,
//    and what the tensor core cuts from the sum over the channels: as in 6, 18 * 2^-23 of the largest term, or sum so
//    far, per 16 channels. Cuts go towards 0: all keys may have them the same way. P in bf16 has half a step of 2^-8,
//    and is 0 below 2^-126.
// 13. A smoothed V. O gets the mean m of a channel times the share s of the weights that keys have, which is 1 without
//    a sink. m is off by d, as K's is, and in bf16 by 2^-118, which O gets too, and as much again where V is nothing but rounding errors;
//    what is left of V is to codes and scale what 1 says of K, and there are two roundings. With a sink of weight W
//    and keys of weight N in all, s = N / (N + W), so |ds| <= (1 + s) dS / (S - dS); in 9, V - o has m (1 - s) in it.
// 14. Maxima that stay while no score is above them by more than a slack are those of the model, and move where the
//    model's do, but where a score is as near to that limit as it and the maximum are uncertain: from there on the kernel's
//    maximum is higher or lower by no more than the slack and a step, for neither leaves a P above its end. P is then as
//    much below the largest P, or above.
// 15. Tiles that weigh so little that mods let a kernel leave them out (skip-softmax): of a row, those without a score that is
//    for certain as near to the largest one before as the threshold asks. Whether a warp does depends on its other rows, so each
//    of these tiles may be there or not, all its keys together: their codes of P are added to their errors. The kernel's
//    largest one before may be a step, a shift and a rounding off; it is a slack lower, never higher.
// 16. Rotated Q and K. A row of b channels goes through log2(b) additions and two roundings more: it is off by (2 + log2(b))
//    * 2^-24 of the sum of its |x|, divided by sqrt(b), which is to codes and scales what the mean of K is; and so are the
//    errors of means, of all channels together, divided by sqrt(b).
#pragma once

#include <vector>

#include "tools/reference/reference.h"

namespace sagegen::reference {

struct DeviceArithmetic {
  int sum_bits = 23;      // F: fraction bits kept below the largest term of a tensor core's sum
  bool two_level = true;  // sums of P V start from zero in every tile, and are added up in f32
  // How often the sum after every 8 keys of a tile is rounded to f16, at most: 0 if accumulators are f32.
  int half_roundings = 0;
};

struct Allowance {
  std::vector<double> o;         // [row, channel]; absolute, against unrounded_model()
  std::vector<double> lse;       // [row]; 0 where no key is visible
  std::vector<double> distance;  // [row]; of all channels together, the root of the sum of squares
  // [row]: the sum over channels of what 1 to 5 alone may cost, which is by chance: most rows lose little,
  // one where codes are undecided much.
  std::vector<double> codes;
  // [row]: the sum over channels of what tiles that may be left out may cost; empty where mods want none left out.
  std::vector<double> light;
  // [row]: the sum over channels of |O less the mean of V|, which sums on the device are of; empty without V smoothing.
  std::vector<double> left;
};

// Of `rows`. Throws std::invalid_argument as attention() does. `model` is to have P in a format.
Allowance allowance(const Inputs& inputs, const QuantModel& model,
                    const DeviceArithmetic& arithmetic, const RowNumbers& rows, int threads = 0,
                    const Progress& progress = {});

}  // namespace sagegen::reference
