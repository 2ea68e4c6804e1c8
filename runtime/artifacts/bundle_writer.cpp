#include <fmt/format.h>
#include <zstd.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "runtime/artifacts/bundle_format.h"
#include "sagegen/runtime/bundle.h"
#include "sagegen/runtime/error.h"

namespace sagegen::runtime {
namespace {

using namespace bundle_format;

// Bases are chosen by sizes at a fast level, which order the candidates as the final one does.
constexpr int kFastLevel = 3, kFinalLevel = 19;
constexpr std::size_t kCandidates =
    16;  // the latest bases; neighbours in name are neighbours in text

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

// For each text its base: the one that makes it smallest, if it at least halves it.
std::vector<std::uint32_t> choose_bases(const std::vector<NamedText>& texts) {
  Compressor compressor(kFastLevel);
  std::vector<std::uint32_t> result(texts.size(), kNoBase), bases;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    std::size_t smallest = compressor.frame(texts[i].text, {}).size() / 2;
    const std::size_t candidates = std::min(bases.size(), kCandidates);
    for (std::size_t back = 1; back <= candidates; ++back) {
      const std::uint32_t base = bases[bases.size() - back];
      const std::size_t size = compressor.frame(texts[i].text, texts[base].text).size();
      if (size >= smallest) continue;
      smallest = size;
      result[i] = base;
    }
    if (result[i] == kNoBase) bases.push_back(static_cast<std::uint32_t>(i));
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
