#include <fmt/format.h>
#include <zstd.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "runtime/artifacts/bundle_format.h"
#include "sagegen/runtime/bundle.h"
#include "sagegen/runtime/error.h"

namespace sagegen::runtime {
namespace {

using namespace bundle_format;

// Bases are chosen by sizes at a fast level, which order the candidates as the final one does, among
// neighbours in name: they are neighbours in text. Near enough for kernels that differ in io alone to meet.
constexpr int kFastLevel = 3, kFinalLevel = 22;
constexpr std::size_t kNeighbours = 64;  // on each side

struct FreeContext {
  void operator()(ZSTD_CCtx* context) const { ZSTD_freeCCtx(context); }
};

class Compressor {
 public:
  explicit Compressor(int level) : context_(ZSTD_createCCtx()) {
    if (!context_) throw std::bad_alloc();
    check(ZSTD_CCtx_setParameter(context_.get(), ZSTD_c_compressionLevel, level));
    check(ZSTD_CCtx_setParameter(context_.get(), ZSTD_c_checksumFlag, 1));
  }

  std::string frame(std::string_view text, std::string_view base) {
    // Holds for one frame.
    check(ZSTD_CCtx_refPrefix(context_.get(), base.data(), base.size()));
    std::string bytes(ZSTD_compressBound(text.size()), '\0');
    bytes.resize(check(
        ZSTD_compress2(context_.get(), bytes.data(), bytes.size(), text.data(), text.size())));
    return bytes;
  }

 private:
  static std::size_t check(std::size_t result) {
    if (ZSTD_isError(result))
      throw InternalError(fmt::format("compressing a bundle: {}", ZSTD_getErrorName(result)));
    return result;
  }
  std::unique_ptr<ZSTD_CCtx, FreeContext> context_;
};

// Bytes of frames without a base and with that of a neighbour.
class FrameSizes {
 public:
  explicit FrameSizes(const std::vector<NamedText>& texts) {
    Compressor compressor(kFastLevel);
    for (std::size_t i = 0; i < texts.size(); ++i) {
      alone.push_back(compressor.frame(texts[i].text, {}).size());
      const std::size_t end = std::min(i + kNeighbours + 1, texts.size());
      std::vector<std::size_t>& row = of_.emplace_back();
      for (std::size_t base = first(i); base < end; ++base) {
        row.push_back(base == i ? alone[i]
                                : compressor.frame(texts[i].text, texts[base].text).size());
      }
    }
  }
  static std::size_t first(std::size_t i) { return i - std::min(i, kNeighbours); }
  std::size_t end(std::size_t i) const { return std::min(i + kNeighbours + 1, alone.size()); }
  std::size_t with(std::size_t i, std::size_t base) const { return of_[i][base - first(i)]; }

  std::vector<std::size_t> alone;

 private:
  std::vector<std::vector<std::size_t>> of_;  // by text, from first() on
};

// For each text its base among those that have none. As long as one more base makes the whole smaller, the one
// that saves most is taken.
std::vector<std::uint32_t> choose_bases_of_one_step(const std::vector<NamedText>& texts) {
  const FrameSizes sizes(texts);
  std::vector<std::uint32_t> result(texts.size(), kNoBase);
  std::vector<std::size_t> now = sizes.alone;
  std::vector<bool> is_base(texts.size());
  const auto each_gain = [&](std::size_t base, const auto& visit) {
    for (std::size_t i = FrameSizes::first(base); i < sizes.end(base); ++i) {
      if (i != base && !is_base[i] && sizes.with(i, base) < now[i]) visit(i);
    }
  };
  for (;;) {
    std::size_t best = texts.size();
    std::ptrdiff_t most = 0;
    for (std::size_t base = 0; base < texts.size(); ++base) {
      if (is_base[base]) continue;
      auto saved =
          static_cast<std::ptrdiff_t>(now[base]) - static_cast<std::ptrdiff_t>(sizes.alone[base]);
      each_gain(base, [&](std::size_t i) {
        saved += static_cast<std::ptrdiff_t>(now[i] - sizes.with(i, base));
      });
      if (saved <= most) continue;
      most = saved;
      best = base;
    }
    if (best == texts.size()) return result;
    is_base[best] = true;
    now[best] = sizes.alone[best];
    result[best] = kNoBase;
    each_gain(best, [&](std::size_t i) {
      now[i] = sizes.with(i, best);
      result[i] = static_cast<std::uint32_t>(best);
    });
  }
}

// For each text its base, for bases theirs, and so on: kernels resemble those of their kind most, and kinds each
// other.
std::vector<std::uint32_t> choose_bases(const std::vector<NamedText>& texts) {
  std::vector<std::uint32_t> result(texts.size(), kNoBase), without(texts.size());
  std::iota(without.begin(), without.end(), 0u);
  for (int step = 0; step < kMostBases; ++step) {
    std::vector<NamedText> among;
    for (const std::uint32_t text : without) among.push_back(texts[text]);
    const std::vector<std::uint32_t> bases = choose_bases_of_one_step(among);
    std::vector<std::uint32_t> still_without;
    for (std::size_t i = 0; i < bases.size(); ++i) {
      if (bases[i] == kNoBase) {
        still_without.push_back(without[i]);
      } else {
        result[without[i]] = without[bases[i]];
      }
    }
    if (still_without.size() == without.size()) break;
    without = std::move(still_without);
  }
  return result;
}

void put(std::string& bytes, std::uint64_t number, int width) {
  for (int i = 0; i < width; ++i) bytes += static_cast<char>(number >> (8 * i) & 0xff);
}

void check_texts(const std::vector<NamedText>& sorted) {
  for (std::size_t i = 0; i < sorted.size(); ++i) {
    const auto& [name, text] = sorted[i];
    if (name.empty() || name.find('\0') != name.npos)
      throw ArtifactError(fmt::format("a bundle takes no text named \"{}\"", name));
    if (i > 0 && name == sorted[i - 1].name)
      throw ArtifactError(fmt::format("a bundle takes one text named {}, and there are two", name));
    if (text.size() > kLargestBundledText)
      throw ArtifactError(fmt::format("a bundle takes texts of up to {} bytes, and {} has {}",
                                      kLargestBundledText, name, text.size()));
  }
}

}  // namespace

std::string write_bundle(std::vector<NamedText> texts) {
  std::ranges::sort(texts, {}, &NamedText::name);
  check_texts(texts);
  const std::vector<std::uint32_t> bases = choose_bases(texts);
  Compressor compressor(kFinalLevel);
  std::string index, names, frames;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const auto& [name, text] = texts[i];
    const std::string frame =
        compressor.frame(text, bases[i] == kNoBase ? std::string_view() : texts[bases[i]].text);
    put(index, name.size(), 4);
    put(index, frame.size(), 4);
    put(index, text.size(), 4);
    put(index, bases[i], 4);
    names.append(name).append(1, '\0');
    frames += frame;
  }
  std::string bytes(kMagic);
  put(bytes, kVersion, 4);
  put(bytes, texts.size(), 4);
  put(bytes, fnv1a(index + names), 8);
  return bytes + index + names + frames;
}

}  // namespace sagegen::runtime
