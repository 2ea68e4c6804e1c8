#include "tools/reference/tensor_file.h"

#include <array>
#include <cmath>
#include <unordered_set>
#include <utility>

#include <fmt/format.h>

#include "tools/reference/printable.h"
#include "tools/reference/safetensors.h"
#include "tools/reference/tensor_bytes.h"

namespace sagegen::reference {

namespace {

constexpr std::array kNames = {"q", "k", "v"};

Bytes bytes_of(std::string_view text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}
std::string_view text_of(const std::vector<std::uint8_t>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string shape_text(const StoredTensor& t) {
  std::string text;
  for (const std::int64_t extent : t.shape)
    text += fmt::format("{}{}", text.empty() ? "" : ", ", extent);
  return "[" + text + "]";
}

// Where each axis of an attention input is in a stored shape.
struct Axes {
  std::size_t batch, heads, tokens, channels;
};
constexpr Axes axes_of(AxisOrder order) {
  return order == AxisOrder::hnd ? Axes{0, 1, 2, 3} : Axes{0, 2, 1, 3};
}
std::string_view order_text(AxisOrder order) {
  return order == AxisOrder::hnd ? "[batch, head, token, channel]"
                                 : "[batch, token, head, channel]";
}
AxisOrder other(AxisOrder order) {
  return order == AxisOrder::hnd ? AxisOrder::nhd : AxisOrder::hnd;
}

void check_values(const StoredTensor& stored, const Refuse& refuse) {
  for (std::size_t i = 0; i < stored.data.size(); ++i) {
    if (std::isfinite(stored.data[i])) continue;
    const std::vector<std::int64_t>& shape = stored.shape;
    const auto at = static_cast<std::int64_t>(i);
    throw refuse(fmt::format("the value at [{}, {}, {}, {}] is {}; attention needs finite inputs",
                             at / (shape[3] * shape[2] * shape[1]),
                             at / (shape[3] * shape[2]) % shape[1], at / shape[3] % shape[2],
                             at % shape[3], stored.data[i]));
  }
}

// A stored tensor as [batch, head, token, channel], every value finite. Takes its data.
Tensor as_attention_input(StoredTensor& stored, const std::string& file, AxisOrder order) {
  const Refuse refuse = [&](const std::string& rule) {
    return FileError(fmt::format("{}: tensor '{}': {}", file, printable(stored.name), rule));
  };
  if (stored.shape.size() != 4) {
    throw refuse(fmt::format("shape {} has {} dimensions; {} is needed", shape_text(stored),
                             stored.shape.size(), order_text(order)));
  }
  if (stored.data.empty())
    throw refuse(fmt::format("shape {} holds no values", shape_text(stored)));
  check_values(stored, refuse);
  const Axes axes = axes_of(order);
  Tensor out;
  out.batch = stored.shape[axes.batch];
  out.heads = stored.shape[axes.heads];
  out.tokens = stored.shape[axes.tokens];
  out.channels = stored.shape[axes.channels];
  if (order == AxisOrder::hnd) {
    out.data = std::move(stored.data);
    return out;
  }
  out.data.reserve(stored.data.size());
  for (std::int64_t b = 0; b < out.batch; ++b) {
    for (std::int64_t h = 0; h < out.heads; ++h) {
      for (std::int64_t n = 0; n < out.tokens; ++n) {
        const auto row =
            stored.data.begin() + ((b * out.tokens + n) * out.heads + h) * out.channels;
        out.data.insert(out.data.end(), row, row + out.channels);
      }
    }
  }
  return out;
}

// Why queries do not fit keys, or values, of these shapes; empty if they do. V may have channels of its own number.
std::string misfit(const StoredTensor& q, const StoredTensor& k, AxisOrder order, bool of_v) {
  const Axes axes = axes_of(order);
  if (q.shape[axes.batch] != k.shape[axes.batch]) return "q and k must have the same batch";
  if (!of_v && q.shape[axes.channels] != k.shape[axes.channels])
    return "q and k must have the same channels";
  const auto divides = [&](const Axes& as) { return q.shape[as.heads] % k.shape[as.heads] == 0; };
  if (divides(axes)) return {};
  std::string why =
      fmt::format("the heads of q must be a multiple of those of k, read as {}", order_text(order));
  if (divides(axes_of(other(order))))
    why += fmt::format("; as {} they are", order_text(other(order)));
  return why;
}

void check_together(const std::array<StoredTensor, 3>& qkv, const std::array<std::string, 3>& files,
                    AxisOrder order) {
  const StoredTensor *q = &qkv[0], *k = &qkv[1], *v = &qkv[2];
  const auto refuse = [&](const std::string& file, const std::string& rule) {
    return FileError(fmt::format("{}: q {}, k {}, v {}: {}", file, shape_text(*q), shape_text(*k),
                                 shape_text(*v), rule));
  };
  // Blamed is the one that fits neither of the others.
  const std::string of_k = misfit(*q, *k, order, false), of_v = misfit(*q, *v, order, true);
  if (!std::equal(k->shape.begin(), k->shape.begin() + 3, v->shape.begin())) {
    const bool either = of_k.empty() == of_v.empty() && files[1] != files[2];
    throw refuse(either         ? files[1] + " or " + files[2]
                 : of_k.empty() ? files[2]
                                : files[1],
                 "k and v must have the same batch, heads and tokens");
  }
  const bool q_fits_v = q->shape[3] == v->shape[3] && q->shape[3] != k->shape[3];
  if (!of_k.empty()) throw refuse(files[q_fits_v ? 1 : 0], of_k);
}

LoadedInputs assemble(std::array<StoredTensor, 3> qkv, const std::array<std::string, 3>& files,
                      AxisOrder order) {
  LoadedInputs out;
  out.inputs.q = as_attention_input(qkv[0], files[0], order);
  out.inputs.k = as_attention_input(qkv[1], files[1], order);
  out.inputs.v = as_attention_input(qkv[2], files[2], order);
  check_together(qkv, files, order);
  const bool same = qkv[0].type == qkv[1].type && qkv[1].type == qkv[2].type;
  out.type = same ? qkv[0].type : IoType::f32;
  return out;
}

std::string joined(const std::string& prefix, const char* name) {
  return prefix.empty() ? name : prefix + "." + name;
}

// The prefixes for which q, k and v are among the names, in the order of their q.
std::vector<std::string> prefixes_of(const std::vector<std::string_view>& names) {
  const std::unordered_set<std::string_view> there(names.begin(), names.end());
  std::vector<std::string> prefixes;
  for (const std::string_view name : names) {
    const bool bare = name == "q";
    if (!bare && !(name.size() > 2 && name.ends_with(".q"))) continue;
    const std::string prefix(bare ? std::string_view() : name.substr(0, name.size() - 2));
    if (there.contains(joined(prefix, "k")) && there.contains(joined(prefix, "v")))
      prefixes.push_back(prefix);
  }
  return prefixes;
}

// Names of prefixes for a message; a file may have thousands.
std::string prefix_list(const SafetensorsFile& file) {
  std::vector<std::string_view> names;
  for (const TensorEntry& entry : file.header().entries) names.push_back(entry.name);
  std::string list;
  for (const std::string& prefix : prefixes_of(names))
    list += fmt::format("{}{}", list.empty() ? "" : ", ",
                        prefix.empty() ? "'' (without a prefix)" : prefix);
  return list.empty() ? "not one" : printable(list, 500);
}

}  // namespace

TensorFile read_safetensors(const std::string& path) {
  const SafetensorsFile file(path);
  TensorFile out;
  out.metadata = file.header().metadata;
  for (const TensorEntry& entry : file.header().entries) out.tensors.push_back(file.read(entry));
  return out;
}
StoredTensor read_npy(const std::string& path) {
  return parse_npy(bytes_of(read_whole_file(path)), printable(path));
}
void write_safetensors(const std::string& path, const TensorFile& contents) {
  write_whole_file(path, text_of(format_safetensors(contents)));
}
void write_npy(const std::string& path, const StoredTensor& tensor) {
  write_whole_file(path, text_of(format_npy(tensor)));
}

std::vector<std::string> qkv_prefixes(const TensorFile& file) {
  std::vector<std::string_view> names;
  for (const StoredTensor& tensor : file.tensors) names.push_back(tensor.name);
  return prefixes_of(names);
}

bool looks_misordered(const Inputs& inputs) {
  return inputs.q.heads > inputs.q.tokens && inputs.k.heads > inputs.k.tokens;
}

LoadedInputs load_qkv(const std::vector<std::string>& paths, const std::string& prefix,
                      AxisOrder order) {
  std::array<StoredTensor, 3> qkv;
  if (paths.size() == 3) {
    if (!prefix.empty())
      throw FileError("a prefix chooses tensors of a safetensors file; npy files have none");
    for (std::size_t i = 0; i < 3; ++i) {
      qkv[i] = read_npy(paths[i]);
      qkv[i].name = kNames[i];
    }
    return assemble(std::move(qkv), {printable(paths[0]), printable(paths[1]), printable(paths[2])},
                    order);
  }
  if (paths.size() != 1) {
    throw FileError(
        fmt::format("{} files given; one safetensors file or three npy files (Q, K, V) are needed",
                    paths.size()));
  }
  const SafetensorsFile file(paths[0]);
  const std::string shown = printable(paths[0]);
  std::array<const TensorEntry*, 3> entries{};
  for (std::size_t i = 0; i < 3; ++i) {
    const std::string name = joined(prefix, kNames[i]);
    entries[i] = file.find(name);
    if (entries[i]) continue;
    throw FileError(fmt::format("{}: there is no tensor '{}'; prefixes with q, k and v: {}", shown,
                                printable(name), prefix_list(file)));
  }
  for (std::size_t i = 0; i < 3; ++i) qkv[i] = file.read(*entries[i]);
  return assemble(std::move(qkv), {shown, shown, shown}, order);
}

}  // namespace sagegen::reference
