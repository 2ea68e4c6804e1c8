#include "sagegen/runtime/bundle.h"

#include <fmt/format.h>
#include <zstd.h>

#include <algorithm>
#include <cstdint>
#include <new>
#include <utility>
#include <vector>

#include "runtime/artifacts/bundle_format.h"
#include "sagegen/runtime/artifacts.h"
#include "sagegen/runtime/error.h"

namespace sagegen::runtime {
namespace {

using namespace bundle_format;

std::uint64_t number_at(std::string_view bytes, std::size_t at, int width) {
  std::uint64_t number = 0;
  for (int i = 0; i < width; ++i) {
    const auto byte = static_cast<unsigned char>(bytes[at + static_cast<std::size_t>(i)]);
    number |= std::uint64_t{byte} << (8 * i);
  }
  return number;
}

struct Entry {
  std::string_view frame;
  std::size_t text_bytes = 0;
  std::uint32_t base = kNoBase;
};

struct FreeContext {
  void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
};

}  // namespace

struct Bundle::Contents {
  std::string owned;  // what `parse` was given
  std::string origin;
  std::vector<std::string_view> names;
  std::vector<Entry> entries;

  [[noreturn]] void refuse(std::string_view why) const {
    throw ArtifactError(
        fmt::format("{}: {}; copy it again from where it was made, or make it again: `sagegen "
                    "bundle`, or of the "
                    "set in the sources of sagegen `sagegen generate`",
                    origin, why));
  }

  void read(std::string_view bytes);
  std::string text(std::size_t index) const;
};

void Bundle::Contents::read(std::string_view bytes) {
  if (bytes.size() < kHeaderBytes || !bytes.starts_with(kMagic)) refuse("it is no bundle");
  if (const auto version = number_at(bytes, kVersionAt, 4);
      version < kOldestVersion || version > kVersion) {
    refuse(fmt::format("it is a bundle of version {}, and this library reads versions {} to {}",
                       version, kOldestVersion, kVersion));
  }
  const auto count = static_cast<std::size_t>(number_at(bytes, kCountAt, 4));
  if (count > (bytes.size() - kHeaderBytes) / kIndexBytes) refuse("it ends inside its index");
  const std::size_t names_at = kHeaderBytes + count * kIndexBytes;
  const auto field = [&](std::size_t index, std::size_t which) {
    return static_cast<std::size_t>(
        number_at(bytes, kHeaderBytes + index * kIndexBytes + 4 * which, 4));
  };
  std::size_t frames_at = names_at, frame_bytes = 0;  // 2^32 numbers below 2^32: no overflow
  for (std::size_t i = 0; i < count; ++i) {
    frames_at += field(i, 0) + 1;
    frame_bytes += field(i, 1);
  }
  if (frames_at > bytes.size() || bytes.size() - frames_at != frame_bytes) {
    refuse(fmt::format("it has {} bytes, and its index describes {}", bytes.size(),
                       frames_at + frame_bytes));
  }
  if (fnv1a(bytes.substr(kHeaderBytes, frames_at - kHeaderBytes)) != number_at(bytes, kCheckAt, 8))
    refuse("its index is damaged");

  // No more than so many bases, none of them behind itself.
  const auto has_sound_base = [&](std::size_t index) {
    for (int bases = 0; bases <= kMostBases; ++bases) {
      const std::size_t base = field(index, 3);
      if (base == kNoBase) return true;
      if (base >= count) return false;
      index = base;
    }
    return false;
  };
  std::size_t name_at = names_at, frame_at = frames_at;
  for (std::size_t i = 0; i < count; ++i) {
    const std::string_view name = bytes.substr(name_at, field(i, 0));
    const auto base = static_cast<std::uint32_t>(field(i, 3));
    const bool ends = bytes[name_at + name.size()] == '\0';
    if (!ends || name.empty() || name.find('\0') != name.npos)
      refuse(fmt::format("name {} is malformed", i));
    if (i > 0 && name <= names.back()) refuse(fmt::format("its names are not in order at {}", i));
    if (field(i, 2) > kLargestBundledText)
      refuse(fmt::format("{} is said to have {} bytes", name, field(i, 2)));
    if (!has_sound_base(i)) refuse(fmt::format("the base of {} cannot be one", name));
    names.push_back(name);
    entries.push_back(
        {.frame = bytes.substr(frame_at, field(i, 1)), .text_bytes = field(i, 2), .base = base});
    name_at += name.size() + 1;
    frame_at += field(i, 1);
  }
}

std::string Bundle::Contents::text(std::size_t index) const {
  const Entry& entry = entries[index];
  const auto damaged = [&](std::string_view why) {
    refuse(fmt::format("{} is damaged ({})", names[index], why));
  };
  // libzstd may read formats of its past, too, which no bundle has; see capi/zstd_old_formats.cpp.
  if (entry.frame.size() < 4 || number_at(entry.frame, 0, 4) != ZSTD_MAGICNUMBER)
    damaged("it is no zstd frame");
  const auto size = ZSTD_getFrameContentSize(entry.frame.data(), entry.frame.size());
  const std::size_t frame = ZSTD_findFrameCompressedSize(entry.frame.data(), entry.frame.size());
  if (size != entry.text_bytes || frame != entry.frame.size()) damaged("its size");
  // Made once per thread: that takes as long as a small text.
  thread_local const std::unique_ptr<ZSTD_DCtx, FreeContext> context(ZSTD_createDCtx());
  if (!context) throw std::bad_alloc();
  const std::string prefix = entry.base == kNoBase ? std::string() : text(entry.base);
  ZSTD_DCtx_reset(context.get(), ZSTD_reset_session_and_parameters);
  if (entry.base != kNoBase)
    ZSTD_DCtx_refPrefix(context.get(), prefix.data(), prefix.size());  // for one frame
  std::string result(entry.text_bytes, '\0');
  const std::size_t written = ZSTD_decompressDCtx(context.get(), result.data(), result.size(),
                                                  entry.frame.data(), entry.frame.size());
  if (ZSTD_isError(written)) damaged(ZSTD_getErrorName(written));
  if (written != result.size()) damaged("its size");
  return result;
}

Bundle::Bundle() : contents_(std::make_shared<Contents>()) {}
Bundle::Bundle(std::shared_ptr<const Contents> contents) : contents_(std::move(contents)) {}

Bundle Bundle::view(std::string_view bytes, std::string origin) {
  auto contents = std::make_shared<Contents>();
  contents->origin = std::move(origin);
  contents->read(bytes);
  return Bundle(std::move(contents));
}

Bundle Bundle::parse(std::string bytes, std::string origin) {
  auto contents = std::make_shared<Contents>();
  contents->owned = std::move(bytes);
  contents->origin = std::move(origin);
  contents->read(contents->owned);
  return Bundle(std::move(contents));
}

Bundle Bundle::read(const std::filesystem::path& file) {
  return parse(read_artifact(file), file.string());
}

std::span<const std::string_view> Bundle::names() const { return contents_->names; }
const std::string& Bundle::origin() const { return contents_->origin; }

std::optional<std::string> Bundle::find(std::string_view name) const {
  const auto& names = contents_->names;
  const auto found = std::ranges::lower_bound(names, name);
  if (found == names.end() || *found != name) return std::nullopt;
  return contents_->text(static_cast<std::size_t>(found - names.begin()));
}

}  // namespace sagegen::runtime
