#include "templates/shared/plan_kv_cache.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <optional>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "sagegen/error.h"
#include "sagegen/runtime/argument_check.h"
#include "templates/shared/plan_pool.h"

namespace sagegen {

using runtime::ArgumentError;
using runtime::DevicePtr;

namespace {

constexpr const char* kPlan = "kv_cache";
constexpr int kMostLayers = 1024, kMostHeads = 65535, kMostExact = 1 << 20;

// The values of an option that kv_append's kernels have, too.
Values values_of_append(std::string_view name) {
  return find_field(kv_append::family().what, name)->values;
}

const Fields& option_fields() {
  using Options = KvCacheOptions;
  static const Fields fields{
      field<&Options::kv_heads>("kv_heads", "", range(1, kMostHeads)),
      field<&Options::q_heads>("q_heads", "", range(1, kMostHeads)),
      field<&Options::q_len>("q_len", "", range(1, decode::kMostQueries)),
      field<&Options::addressing>("addressing", "", values_of_append("addressing")),
      field<&Options::rope>("rope", "", values_of_append("rope")),
      flag<&Options::smooth_k>("smooth_k", "smooth_k"),
      field<&Options::rotation>("rotation", "", values_of_append("rotation")),
      flag<&Options::causal>("causal", "causal"),
      flag<&Options::gather>("gather", "gather"),
      field<&Options::sinks>("sinks", "", range(0, kMostExact)),
      field<&Options::window>("window", "", range(0, kMostExact)),
      field<&Options::unit>("unit", "", range(1, kMostExact)),
      field<&Options::taken_back>("taken_back", "", range(0, kMostExact))};
  return fields;
}

void validate(const KvCacheOptions& options) {
  const std::vector<std::string> refused = refused_values(option_fields(), &options);
  if (!refused.empty()) throw SpecError(fmt::format("{}", fmt::join(refused, "\n")));
  if (options.q_heads % options.kv_heads != 0) {
    throw SpecError(fmt::format(
        "q_heads {} is no multiple of kv_heads {}: as many query heads share each KV head",
        options.q_heads, options.kv_heads));
  }
  validate(options.exact_tokens());
  if (options.addressing == kv_append::Addressing::pages && options.exact()) {
    throw SpecError(
        "sinks or a window with addressing pages are refused: exact tokens are written where slots "
        "say; use addressing=slots");
  }
}

std::string_view trimmed(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(' ');
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(' ') - begin + 1);
}

// Takes a number off the text.
std::optional<int> take_number(std::string_view& text) {
  int number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || number < 0) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return number;
}

bool take(std::string_view& text, char c) {
  if (!text.starts_with(c)) return false;
  text.remove_prefix(1);
  return true;
}

// "K8V4", "KV8", and what stands behind it.
KvFormat format_of(std::string_view text, const KvFormat& base) {
  KvFormat format = base;
  const std::size_t end = std::min(text.find(' '), text.size());
  std::string_view pair = text.substr(0, end);
  const auto refuse = [&] {
    throw SpecError(fmt::format(
        "\"{}\" is no pair of bits that the kernels store; write K8V4, or KV8 where both are the "
        "same, of 2, 4, 8 and 16 bits (sagegen kv show --integers makes integers of other formats)",
        text.substr(0, end)));
  };
  if (!take(pair, 'K')) refuse();
  const bool same = pair.starts_with('V');
  std::optional<int> k = same ? 0 : take_number(pair);
  if (!k || !take(pair, 'V')) refuse();
  const std::optional<int> v = take_number(pair);
  if (!v || !pair.empty()) refuse();
  format.k_bits = same ? *v : *k;
  format.v_bits = *v;
  read_options(kv_format_fields(), &format, text.substr(end));
  validate(format);
  return format;
}

struct Axis {
  std::int64_t size, stride;
};

// The bytes of a page are so many runs, of which a stride of each axis leads to the next.
struct Runs {
  std::int64_t bytes;
  std::array<Axis, 2> axes;
};
Runs runs_of(const KvFormat& format, const KvStrides& strides, std::int64_t heads) {
  Runs runs{.bytes = KvBlock(format).bytes(),
            .axes = {Axis{heads, strides.head},
                     Axis{format.page_tokens / kKvBlockTokens, strides.block}}};
  std::ranges::sort(runs.axes, {}, &Axis::stride);
  for (Axis& axis : runs.axes) {
    if (axis.size > 1 && axis.stride != runs.bytes) break;
    runs.bytes *= axis.size;
    axis.size = 1;
  }
  return runs;
}

}  // namespace

KvCacheOptions kv_cache_options_of(std::string_view text) {
  KvCacheOptions options;
  read_options(option_fields(), &options, text);
  validate(options);
  return options;
}

std::vector<KvFormat> kv_layers(std::string_view text, const KvFormat& base) {
  std::vector<KvFormat> layers;
  const auto refuse = [&](std::string_view item, const std::string& why) {
    throw SpecError(fmt::format("layers \"{}\": {}", item, why));
  };
  for (std::string_view rest = text;;) {
    const std::size_t comma = std::min(rest.find(','), rest.size());
    const std::string_view item = trimmed(rest.substr(0, comma));
    std::string_view format = item;
    int first = static_cast<int>(layers.size()), last = first;
    if (const std::size_t colon = item.find(':'); colon != std::string_view::npos) {
      std::string_view range = trimmed(item.substr(0, colon));
      format = trimmed(item.substr(colon + 1));
      const std::optional<int> from = take_number(range);
      const std::optional<int> to = from && take(range, '-') ? take_number(range) : from;
      if (!from || !to || !range.empty() || *to < *from)
        refuse(item, "layers are a number or a range, as 4: or 0-3:, before the format");
      first = *from;
      last = *to;
    }
    const auto next = static_cast<int>(layers.size());
    if (first < next) refuse(item, fmt::format("layer {} stands twice", first));
    if (first > next)
      refuse(item, fmt::format("layer {} is missing before it; layers are in their order", next));
    if (last >= kMostLayers)
      refuse(item, fmt::format("a model has at most {} layers", kMostLayers));
    try {
      layers.resize(static_cast<std::size_t>(last) + 1, format_of(format, base));
    } catch (const SpecError& error) {
      refuse(item, error.what());
    }
    if (comma == rest.size()) return layers;
    rest.remove_prefix(comma + 1);
  }
}

struct KvCache::Impl {
  // Of equal formats.
  struct Plans {
    kv_append::Plan append;
    decode::Plan decode;
    std::optional<kv_gather::Plan> gather;
    bool exact, smooths;
  };
  const Plans& at(int layer) const {
    if (layer < 0 || layer >= static_cast<int>(layers.size())) {
      throw ArgumentError(
          fmt::format("{}: layer is {}; there are 0 to {}", kPlan, layer, layers.size() - 1));
    }
    return *plans[static_cast<std::size_t>(layer)];
  }
  const KvFormat& format(int layer) const {
    at(layer);
    return layers[static_cast<std::size_t>(layer)];
  }
  const Plans& need_exact(int layer) const {
    const Plans& of_layer = at(layer);
    if (!of_layer.exact) {
      throw ArgumentError(
          fmt::format("{}: layer {} has no exact tokens beside its codes: {}", kPlan, layer,
                      options.exact() ? "it has none, all of them are of 16 bits"
                                      : "the cache was made without the options sinks and window"));
    }
    return of_layer;
  }
  KvStrides strides(int layer, const KvPool& pool) const {
    const KvStrides& s = pool.strides;
    return s.page == 0 && s.head == 0 && s.block == 0 ? kv_strides(format(layer), options.kv_heads)
                                                      : s;
  }
  decode::Shape shape(int layer, decode::Shape shape) const {
    shape.q_heads = options.q_heads;
    shape.kv_heads = options.kv_heads;
    shape.page_tokens = format(layer).page_tokens;
    return shape;
  }

  runtime::Device device;
  KvCacheOptions options;
  std::vector<KvFormat> layers;
  std::vector<std::shared_ptr<const Plans>> plans = {};  // of each layer
  std::vector<std::string> names = {};
  std::string note = {};
};

namespace {

bool has_exact_beside(const KvFormat& format, const KvCacheOptions& options) {
  return options.exact() && (kv_quantized(format.k_bits) || kv_quantized(format.v_bits));
}

Kernel append_kernel(const KvFormat& format, const KvCacheOptions& options, Target target) {
  const bool coded = kv_quantized(format.k_bits);
  return {kv_append::family(),
          kv_append::Spec{.head_dim = format.head_dim,
                          .io = format.io,
                          .k_bits = format.k_bits,
                          .v_bits = format.v_bits,
                          .k_codes = format.k_codes,
                          .v_codes = format.v_codes,
                          .rope = options.rope,
                          .smooth_k = coded && options.smooth_k,
                          .rotation = coded ? options.rotation : Rotation::none,
                          .addressing = options.addressing,
                          .exact = has_exact_beside(format, options)},
          target};
}

Kernel gather_kernel(const KvFormat& format, const KvCacheOptions& options, Target target) {
  const bool coded = kv_quantized(format.k_bits);
  return {kv_gather::family(),
          kv_gather::Spec{.head_dim = format.head_dim,
                          .io = format.io,
                          .k_bits = format.k_bits,
                          .v_bits = format.v_bits,
                          .k_codes = format.k_codes,
                          .v_codes = format.v_codes,
                          .smooth_k = coded && options.smooth_k,
                          .rotation = coded ? options.rotation : Rotation::none},
          target};
}

Kernel decode_kernel(const KvFormat& format, const KvCacheOptions& options, Target target) {
  return decode::usual_kernel(
      format, options.q_heads / options.kv_heads * options.q_len, target,
      {.rotation = kv_quantized(format.k_bits) ? options.rotation : Rotation::none,
       .causal = options.causal,
       .exact = has_exact_beside(format, options)});
}

}  // namespace

KvCache::KvCache(const runtime::Device& device, const KvCacheOptions& options,
                 std::vector<KvFormat> layers, const runtime::ArtifactSource& source)
    : impl_(new Impl{.device = device, .options = options, .layers = std::move(layers)}) {
  if (impl_->layers.empty()) throw ArgumentError(fmt::format("{}: there are no layers", kPlan));
  validate(options);
  const Target target = runtime::best_target(device);
  using Plans = Impl::Plans;
  // What of a format is in a kernel: pages are arguments.
  std::map<std::string, std::shared_ptr<const Plans>> known;
  for (std::size_t i = 0; i < impl_->layers.size(); ++i) {
    const KvFormat& format = impl_->layers[i];
    try {
      validate(format);
      const Kernel append = append_kernel(format, options, target);
      const Kernel decode = decode_kernel(format, options, decode::best_target(device));
      // A source that does not generate would say only that it has no such kernel.
      append.validate();
      decode.validate();
      std::shared_ptr<const Plans>& plans = known[append.key() + decode.key()];
      if (plans == nullptr) {
        plans = std::make_shared<const Plans>(
            Plans{.append = {device, append, source},
                  .decode = {device, decode, source},
                  .gather = options.gather ? std::optional<kv_gather::Plan>(
                                                 std::in_place, device,
                                                 gather_kernel(format, options, target), source)
                                           : std::nullopt,
                  .exact = has_exact_beside(format, options),
                  .smooths = append.view(kv_append::family()).spec.smooth_k});
        const auto add = [&](const auto& plan) {
          for (const std::string& name : plan.kernel_names()) {
            if (std::ranges::find(impl_->names, name) == impl_->names.end())
              impl_->names.push_back(name);
          }
          if (!plan.note().empty() && impl_->note.find(plan.note()) == std::string::npos)
            impl_->note += (impl_->note.empty() ? "" : " ") + plan.note();
        };
        add(plans->append);
        add(plans->decode);
        if (plans->gather) add(*plans->gather);
      }
      impl_->plans.push_back(plans);
    } catch (const SpecError& error) {
      throw SpecError(fmt::format("{}: layer {}: {}", kPlan, i, error.what()));
    }
  }
}
KvCache::~KvCache() = default;
KvCache::KvCache(KvCache&&) noexcept = default;

int KvCache::layers() const { return static_cast<int>(impl_->layers.size()); }
const KvCacheOptions& KvCache::options() const { return impl_->options; }
const KvFormat& KvCache::format(int layer) const { return impl_->format(layer); }
KvStrides KvCache::strides(int layer) const { return impl_->strides(layer, {}); }
std::int64_t KvCache::page_bytes(int layer) const { return strides(layer).page; }
bool KvCache::smooths(int layer) const { return impl_->at(layer).smooths; }

std::int64_t KvCache::pool_bytes(int layer, std::int64_t pages) const {
  const std::int64_t page = page_bytes(layer);
  runtime::check_sizes(kPlan, {{"pages", pages, runtime::kMaxLength / format(layer).page_tokens,
                                "places of tokens are 32-bit numbers"}});
  return runtime::scratch_bytes(kPlan, {pages, page});
}

void KvCache::append(int layer, const KvPool& pool, std::int64_t tokens,
                     const kv_append::Arguments& arguments, runtime::StreamHandle stream) const {
  const Impl::Plans& plans = impl_->at(layer);
  kv_append::Arguments all = arguments;
  all.pool = {.data = pool.data,
              .pages = pool.pages,
              .page_tokens = format(layer).page_tokens,
              .layout = format(layer).layout,
              .strides = pool.strides};
  if (!plans.smooths) all.k_mean = 0;
  if (!plans.exact && impl_->options.exact()) all.exact = {};
  plans.append.run({.tokens = tokens, .kv_heads = impl_->options.kv_heads}, all, stream);
}

bool KvCache::has_exact(int layer) const { return impl_->at(layer).exact; }

KvFormat KvCache::exact_format(int layer) const {
  impl_->need_exact(layer);
  return kv_exact_format(format(layer));
}

std::int64_t KvCache::exact_pool_bytes(int layer, std::int64_t blocks) const {
  const std::int64_t block = kv_strides(exact_format(layer), impl_->options.kv_heads).page;
  runtime::check_sizes(kPlan, {{"blocks", blocks, runtime::kMaxLength / kKvBlockTokens,
                                "places of tokens are 32-bit numbers"}});
  return runtime::scratch_bytes(kPlan, {blocks, block});
}

void KvCache::decode(int layer, const KvPool& pool, const decode::Shape& shape,
                     const decode::Arguments& arguments, DevicePtr workspace,
                     std::size_t workspace_bytes, runtime::StreamHandle stream) const {
  const Impl::Plans& plans = impl_->at(layer);
  decode::Arguments all = arguments;
  all.pool = pool.data;
  all.strides = impl_->strides(layer, pool);
  all.pool_pages = pool.pages;
  if (!plans.exact && impl_->options.exact()) all.exact = {};
  if (plans.exact) {
    all.exact.tokens = impl_->options.exact_tokens();
    const KvStrides& own = all.exact.strides;
    if (own.page == 0 && own.head == 0)
      all.exact.strides = kv_strides(kv_exact_format(format(layer)), impl_->options.kv_heads);
  }
  plans.decode.run(impl_->shape(layer, shape), all, workspace, workspace_bytes, stream);
}

void KvCache::gather(int layer, const KvPool& pool, const kv_gather::Shape& shape,
                     const kv_gather::Arguments& arguments, runtime::StreamHandle stream) const {
  const Impl::Plans& plans = impl_->at(layer);
  if (!plans.gather) {
    throw ArgumentError(fmt::format(
        "{}: gather: the cache was made without the option gather, which loads its kernels",
        kPlan));
  }
  kv_gather::Shape own = shape;
  own.kv_heads = impl_->options.kv_heads;
  own.page_tokens = format(layer).page_tokens;
  kv_gather::Arguments all = arguments;
  all.pool = pool.data;
  all.strides = impl_->strides(layer, pool);
  all.pool_pages = pool.pages;
  if (!plans.smooths) all.k_mean = 0;
  plans.gather->run(own, all, stream);
}

std::size_t KvCache::workspace_bytes(int layer, const decode::Shape& shape) const {
  return impl_->at(layer).decode.workspace_bytes(impl_->shape(layer, shape));
}

void KvCache::copy_pages(int layer, const KvPool& pool, std::span<const std::int64_t> from,
                         std::span<const std::int64_t> to, runtime::StreamHandle stream) const {
  const KvStrides strides = impl_->strides(layer, pool);
  const auto refuse = [](const std::string& why) {
    throw ArgumentError(fmt::format("{}: copy_pages: {}", kPlan, why));
  };
  constexpr const char* kCall = "kv_cache: copy_pages";
  runtime::check_sizes(kCall, {{"pool.pages", pool.pages, runtime::kMaxLength,
                                "pages are counted by 32-bit numbers"}});
  runtime::ArgumentCheck check(kCall);
  check.array(
      "pool", pool.data,
      pool_span(kCall, KvBlock(format(layer)).bytes(),
                {pool.pages, impl_->options.kv_heads, format(layer).page_tokens / kKvBlockTokens},
                strides),
      16, runtime::ArgumentCheck::Access::write);
  if (from.size() != to.size())
    refuse(fmt::format("{} pages are copied to {}; each has one", from.size(), to.size()));
  for (std::size_t i = 0; i < from.size(); ++i) {
    for (const std::int64_t page : {from[i], to[i]}) {
      if (page < 0 || page >= pool.pages)
        refuse(fmt::format("page {} of copy {}; the pool has 0 to {}", page, i, pool.pages - 1));
    }
    if (from[i] == to[i]) refuse(fmt::format("copy {} is of page {} to itself", i, to[i]));
  }
  const Runs runs = runs_of(format(layer), strides, impl_->options.kv_heads);
  const auto bytes = static_cast<std::size_t>(runs.bytes);
  runtime::Device::Scope scope(impl_->device);
  runtime::DriverApi& api = impl_->device.api();
  for (std::size_t i = 0; i < from.size(); ++i) {
    for (std::int64_t outer = 0; outer < runs.axes[1].size; ++outer) {
      for (std::int64_t inner = 0; inner < runs.axes[0].size; ++inner) {
        const auto at = [&](std::int64_t page) {
          return pool.data +
                 static_cast<DevicePtr>(page * strides.page + outer * runs.axes[1].stride +
                                        inner * runs.axes[0].stride);
        };
        runtime::check(api, api.copy_on_device(at(to[i]), at(from[i]), bytes, stream),
                       "cuMemcpyDtoDAsync", "of a page of a KV cache");
      }
    }
  }
  scope.restore();
}

std::vector<std::string> KvCache::kernel_names() const { return impl_->names; }
const std::string& KvCache::note() const { return impl_->note; }

}  // namespace sagegen
