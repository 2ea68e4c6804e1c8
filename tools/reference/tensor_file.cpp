#include "tools/reference/tensor_file.h"

#include <array>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include <fmt/format.h>

namespace sagegen::reference {

namespace {

constexpr std::array kNames = {"q", "k", "v"};

std::vector<std::uint8_t> read_file(const std::string& path) {
  const auto refuse = [&](const std::string& why) {
    return FileError(fmt::format("{}: cannot be read: {}", path, why));
  };
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) throw refuse("is a directory");
  errno = 0;
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw refuse(std::strerror(errno));
  const auto size = std::filesystem::file_size(path, error);
  if (error) throw refuse(error.message());
  std::vector<std::uint8_t> bytes(size);
  stream.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(size));
  if (static_cast<std::uintmax_t>(stream.gcount()) != size) {
    throw FileError(fmt::format("{}: read {} of {} bytes", path, stream.gcount(), size));
  }
  return bytes;
}

void write_file(const std::string& path, const std::vector<std::uint8_t>& bytes) {
  errno = 0;
  std::ofstream stream(path, std::ios::binary | std::ios::trunc);
  stream.write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
  stream.close();
  if (!stream)
    throw FileError(fmt::format("{}: cannot be written: {}", path, std::strerror(errno)));
}

std::string shape_text(const StoredTensor& t) {
  std::string text;
  for (const std::int64_t extent : t.shape)
    text += fmt::format("{}{}", text.empty() ? "" : ", ", extent);
  return "[" + text + "]";
}

// A stored tensor as [batch, head, token, channel], every value finite.
Tensor as_attention_input(const StoredTensor& stored, const std::string& file) {
  const auto refuse = [&](const std::string& rule) {
    return FileError(fmt::format("{}: tensor '{}': {}", file, stored.name, rule));
  };
  if (stored.shape.size() != 4) {
    throw refuse(fmt::format("shape {} has {} dimensions; [batch, head, token, channel] is needed",
                             shape_text(stored), stored.shape.size()));
  }
  if (stored.data.empty())
    throw refuse(fmt::format("shape {} holds no values", shape_text(stored)));
  Tensor out;
  out.batch = stored.shape[0];
  out.heads = stored.shape[1];
  out.tokens = stored.shape[2];
  out.channels = stored.shape[3];
  out.data = stored.data;
  for (std::size_t i = 0; i < out.data.size(); ++i) {
    if (std::isfinite(out.data[i])) continue;
    const auto at = static_cast<std::int64_t>(i);
    throw refuse(fmt::format("the value at [{}, {}, {}, {}] is {}; attention needs finite inputs",
                             at / (out.channels * out.tokens * out.heads),
                             at / (out.channels * out.tokens) % out.heads,
                             at / out.channels % out.tokens, at % out.channels, out.data[i]));
  }
  return out;
}

// Why queries do not fit keys (or values) of these shapes; empty if they do.
std::string misfit(const StoredTensor& q, const StoredTensor& k) {
  if (q.shape[0] != k.shape[0]) return "q and k must have the same batch";
  if (q.shape[3] != k.shape[3]) return "q and k must have the same channels";
  if (q.shape[1] % k.shape[1] != 0) return "the heads of q must be a multiple of those of k";
  return {};
}

void check_together(const std::array<const StoredTensor*, 3>& qkv,
                    const std::array<std::string, 3>& files) {
  const StoredTensor *q = qkv[0], *k = qkv[1], *v = qkv[2];
  const auto refuse = [&](const std::string& file, const std::string& rule) {
    return FileError(fmt::format("{}: q {}, k {}, v {}: {}", file, shape_text(*q), shape_text(*k),
                                 shape_text(*v), rule));
  };
  // Blamed is the one that fits neither of the others.
  const std::string of_k = misfit(*q, *k), of_v = misfit(*q, *v);
  if (k->shape != v->shape) {
    const bool either = of_k.empty() == of_v.empty() && files[1] != files[2];
    throw refuse(either         ? files[1] + " or " + files[2]
                 : of_k.empty() ? files[2]
                                : files[1],
                 "k and v must have the same shape");
  }
  if (!of_k.empty()) throw refuse(files[0], of_k);
}

LoadedInputs assemble(const std::array<const StoredTensor*, 3>& qkv,
                      const std::array<std::string, 3>& files) {
  LoadedInputs out;
  out.inputs.q = as_attention_input(*qkv[0], files[0]);
  out.inputs.k = as_attention_input(*qkv[1], files[1]);
  out.inputs.v = as_attention_input(*qkv[2], files[2]);
  check_together(qkv, files);
  const bool same = qkv[0]->type == qkv[1]->type && qkv[1]->type == qkv[2]->type;
  out.type = same ? qkv[0]->type : IoType::f32;
  return out;
}

std::string joined(const std::string& prefix, const char* name) {
  return prefix.empty() ? name : prefix + "." + name;
}

}  // namespace

TensorFile read_safetensors(const std::string& path) {
  return parse_safetensors(read_file(path), path);
}
StoredTensor read_npy(const std::string& path) { return parse_npy(read_file(path), path); }
void write_safetensors(const std::string& path, const TensorFile& contents) {
  write_file(path, format_safetensors(contents));
}
void write_npy(const std::string& path, const StoredTensor& tensor) {
  write_file(path, format_npy(tensor));
}

std::vector<std::string> qkv_prefixes(const TensorFile& file) {
  std::vector<std::string> prefixes;
  for (const StoredTensor& tensor : file.tensors) {
    const std::string& name = tensor.name;
    const bool bare = name == "q";
    if (!bare && !(name.size() > 2 && name.ends_with(".q"))) continue;
    const std::string prefix = bare ? "" : name.substr(0, name.size() - 2);
    if (file.find(joined(prefix, "k")) && file.find(joined(prefix, "v")))
      prefixes.push_back(prefix);
  }
  return prefixes;
}

LoadedInputs load_qkv(const std::vector<std::string>& paths, const std::string& prefix) {
  if (paths.size() == 3) {
    if (!prefix.empty())
      throw FileError("a prefix chooses tensors of a safetensors file; npy files have none");
    std::array<StoredTensor, 3> qkv = {read_npy(paths[0]), read_npy(paths[1]), read_npy(paths[2])};
    for (std::size_t i = 0; i < 3; ++i) qkv[i].name = kNames[i];
    return assemble({&qkv[0], &qkv[1], &qkv[2]}, {paths[0], paths[1], paths[2]});
  }
  if (paths.size() != 1) {
    throw FileError(
        fmt::format("{} files given; one safetensors file or three npy files (Q, K, V) are needed",
                    paths.size()));
  }
  const TensorFile file = read_safetensors(paths[0]);
  std::array<const StoredTensor*, 3> qkv{};
  for (std::size_t i = 0; i < 3; ++i) {
    const std::string name = joined(prefix, kNames[i]);
    qkv[i] = file.find(name);
    if (qkv[i]) continue;
    std::string prefixes;
    for (const std::string& p : qkv_prefixes(file)) {
      prefixes += fmt::format("{}{}", prefixes.empty() ? "" : ", ", p.empty() ? "(none)" : p);
    }
    throw FileError(fmt::format("{}: there is no tensor '{}'; prefixes with q, k and v: {}",
                                paths[0], name, prefixes.empty() ? "not one" : prefixes));
  }
  return assemble(qkv, {paths[0], paths[0], paths[0]});
}

}  // namespace sagegen::reference
