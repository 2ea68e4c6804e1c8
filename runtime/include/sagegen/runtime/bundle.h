// A bundle: texts by name in one compressed file, of which each can be read without the others.
//
// The file, all numbers little-endian:
//   char[8] "sgbundle"; u32 version = 2; u32 count; u64 FNV-1a of index and names
//   index   count times: u32 bytes of the name, u32 bytes of the frame, u32 bytes of the text, u32 base
//   names   in the order of their bytes, each once and followed by a NUL
//   frames  one Zstandard frame (RFC 8878) per text, with the size and the checksum of its content
// A base is the number of another text that the frame takes as its prefix: kernels of one kind differ in few
// places. A base may have one of its own, and so on, up to four. No base: 0xffffffff. There is nothing between the
// parts nor behind them. In version 1, which is read, too, bases have none.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sagegen::runtime {

inline constexpr std::size_t kLargestBundledText = std::size_t{64} << 20;

// Copies share their contents; one bundle may be read from many threads.
class Bundle {
 public:
  Bundle();  // without texts

  // `origin` names the bundle in messages. A view keeps no copy: the bytes have to outlive every copy of the
  // bundle. Throw ArtifactError that says what is wrong with the bytes.
  static Bundle view(std::string_view bytes, std::string origin);
  static Bundle parse(std::string bytes, std::string origin);
  static Bundle read(const std::filesystem::path& file);

  // In the order of their bytes. A NUL follows each, so that data() is a C string.
  std::span<const std::string_view> names() const;

  // The text of this name, if there is one. Throws ArtifactError if the bundle is damaged there.
  std::optional<std::string> find(std::string_view name) const;

  const std::string& origin() const;

 private:
  struct Contents;
  explicit Bundle(std::shared_ptr<const Contents> contents);
  std::shared_ptr<const Contents> contents_;
};

// What a bundle of kernels calls machine code of the PTX that is named by its key, by an assembler of this CUDA version:
// "KEY.cubin13000". It is for the target of the key.
std::string machine_code_name(std::string_view key, int cuda_version);

struct NamedText {
  std::string_view name;
  std::string_view text;
};

// The bytes of a bundle. The same texts, in whatever order, give the same bytes with the same version of zstd.
// Throws ArtifactError for names that are empty, doubled or hold a NUL, and for texts above
// kLargestBundledText. Links the compressor; reading does not.
std::string write_bundle(std::vector<NamedText> texts);

}  // namespace sagegen::runtime
