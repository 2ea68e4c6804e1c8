#include "tools/pictures/measure/products.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <functional>

#include "templates/quantize_values/spec.h"
#include "templates/shared/params.h"
#include "tools/pictures/measure/digits.h"

namespace sagegen::pictures {

using dsl::operand_keys;

namespace {

// One launch asks for one digit of one coordinate: rows of Q and K multiply to the digit of the query, or of the key, or
// to 1; V holds the digit of the channel, or 1. What is asked for by query, or by key, has scales that say their number.
enum class Coordinate { query, key, channel };
struct Question {
  Coordinate coordinate;
  int weight;  // of the digit

  int digit(int number) const { return number / weight % kDigits; }
};

// A digit as the sum of some codes, against ones; INT4 ends at 7.
constexpr int kTerms = 3, kLargestTerm = 7;

Bytes codes_of(DType type, int rows, int row_bytes,
               const std::function<int(int row, int term)>& code) {
  Bytes bytes(static_cast<std::size_t>(rows * row_bytes), 0);
  for (int row = 0; row < rows; ++row) {
    for (int term = 0; term < kTerms; ++term) {
      if (bits(type) == 16) {  // of floating point
        const std::uint32_t one = code_of(type, code(row, term));
        std::memcpy(bytes.data() + row * row_bytes + 2 * term, &one, 2);
        continue;
      }
      const int bit = term * bits(type);
      bytes[static_cast<std::size_t>(row * row_bytes + bit / 8)] |=
          static_cast<std::uint8_t>(code(row, term) << (bit % 8));
    }
  }
  return bytes;
}

// By value and thread.
Words run_product(const runtime::Device& device, const ParamLayout& layout, const Probe& probe,
                  const Question& question) {
  const Sizes& s = probe.sizes;
  const int q_rows = std::max(s.cta_q, s.q_group),
            k_rows = std::max({s.cta_k, s.k_group, quantize_values::kKeys});
  const auto asks_for = [&](Coordinate coordinate) { return question.coordinate == coordinate; };
  const auto term_of = [](int digit, int term) {
    return std::clamp(digit - kLargestTerm * term, 0, kLargestTerm);
  };
  const Bytes q = codes_of(s.qk, q_rows, s.code_row_bytes, [&](int row, int term) {
    if (asks_for(Coordinate::key)) return 1;
    return term_of(asks_for(Coordinate::query) ? question.digit(row) : 1, term);
  });
  const Bytes k = codes_of(s.qk, k_rows, s.code_row_bytes, [&](int row, int term) {
    return asks_for(Coordinate::key) ? term_of(question.digit(row), term) : 1;
  });
  const int element_bytes = s.pv == DType::e4m3 ? 1 : 2;
  const int row_channels = s.v_quantized ? s.value_channels : s.value_dim;
  Bytes v(static_cast<std::size_t>(k_rows * row_channels * element_bytes), 0);
  for (int key = 0; key < k_rows; ++key) {
    for (int channel = 0; channel < s.value_dim; ++channel) {
      const std::uint32_t code =
          code_of(s.pv, asks_for(Coordinate::channel) ? question.digit(channel) : 1);
      const int index = s.pv == DType::e4m3 ? channel * k_rows + key : key * row_channels + channel;
      std::memcpy(v.data() + index * element_bytes, &code, static_cast<std::size_t>(element_bytes));
    }
  }
  const auto scales = [](int count, bool numbered) {
    std::vector<float> all;
    for (int i = 0; i < count; ++i) all.push_back(numbered ? static_cast<float>(i + 1) : 1.0f);
    return all;
  };
  const runtime::Buffer q_codes = upload(device, q), k_codes = upload(device, k),
                        values = upload(device, v);
  const runtime::Buffer q_scale =
      upload(device, scales(q_rows / s.q_group * s.q_scales, asks_for(Coordinate::query)));
  const runtime::Buffer k_scale =
      upload(device, scales(k_rows / s.k_group * s.k_scales, asks_for(Coordinate::key)));
  const runtime::Buffer results(device, static_cast<std::size_t>(probe.values * s.threads) * 4);

  ParamPack params(layout);
  params.set(attention::Params{.q_codes = q_codes.data(),
                               .q_scale = q_scale.data(),
                               .k_codes = k_codes.data(),
                               .k_scale = k_scale.data(),
                               .v = {.data = values.data(),
                                     .stride_batch = 0,
                                     .stride_head = 0,
                                     .stride_token = s.value_dim},
                               .v_scale = 0,
                               .o = {},
                               .lse = 0,
                               .q_len = s.cta_q,
                               .q_len_padded = q_rows,
                               .kv_len = s.cta_k,
                               .kv_len_padded = k_rows,
                               .heads_per_kv_head = 1});
  if (!s.qk_quantized) {
    const auto rows = [&](const runtime::Buffer& data) {
      return TensorParam{.data = data.data(),
                         .stride_batch = 0,
                         .stride_head = 0,
                         .stride_token = s.code_row_bytes / 2};
    };
    params.set(attention::UnquantizedParams{.q = rows(q_codes), .k = rows(k_codes), .unit = 1.0f});
  }
  if (layout.has(PackParams::kName)) params.set(PackParams::of(1));  // rows are queries
  params.set(ProbeParams{.source = 0, .thread_stride = 0, .memory = 0, .results = results.data()});
  launch(device, probe, params);
  return download<std::uint32_t>(results);
}

int whole(std::uint32_t f32_bits) {
  const float value = std::bit_cast<float>(f32_bits);
  const int result = static_cast<int>(value);
  require(static_cast<float>(result) == value, fmt::format("{} is no whole number", value));
  return result;
}

// Values of the first warp that a launch of the product probe leaves: what it says of one coordinate.
struct ProductRun {
  std::vector<int> scale;         // by lane
  std::vector<int> scores, p, o;  // by operand, lane, register and part
};

class Products {
 public:
  Products(const runtime::Device& device, const Kernel& kernel)
      : device_(device), layout_(probe_layout(kernel)), probe_(product_probe(kernel)) {}

  const Sizes& sizes() const { return probe_.sizes; }

  // Fragments without elements.
  Fragments scores() const {
    return {.operands = sizes().warp_rows / 16 * (sizes().cta_k / 8),
            .registers = 4,
            .parts = 1,
            .elements = {}};
  }
  Fragments p() const {
    return {.operands = sizes().warp_rows / 16 * (sizes().cta_k / operand_keys(sizes().pv)),
            .registers = 4,
            .parts = sizes().pv == DType::e4m3 ? 4 : 2,
            .elements = {}};
  }
  Fragments o() const {
    return {.operands = sizes().warp_rows / 16 * (sizes().value_dim / 8),
            .registers = 4,
            .parts = 1,
            .elements = {}};
  }

  ProductRun run(const Question& question) const {
    const Words words = run_product(device_, layout_, probe_, question);
    int value = 0;
    const auto word = [&](int of_value, int lane) {
      return words[static_cast<std::size_t>(of_value * sizes().threads + lane)];
    };
    ProductRun result;
    for (int lane = 0; lane < kLanes; ++lane) result.scale.push_back(whole(word(value, lane)));
    ++value;
    const auto read = [&](const Fragments& shape, std::vector<int>& to, const auto& decode) {
      for (int operand = 0; operand < shape.operands; ++operand) {
        for (int lane = 0; lane < kLanes; ++lane) {
          for (int reg = 0; reg < shape.registers; ++reg) {
            const std::uint32_t bits_of_register =
                word(value + operand * shape.registers + reg, lane);
            for (int part = 0; part < shape.parts; ++part)
              to.push_back(decode(bits_of_register, part));
          }
        }
      }
      value += shape.operands * shape.registers;
    };
    read(scores(), result.scores, [](std::uint32_t bits, int) { return whole(bits); });
    const int p_bits = 32 / p().parts;
    read(p(), result.p, [&](std::uint32_t bits, int part) {
      return digit_of(sizes().pv, bits >> (part * p_bits) & ((1u << p_bits) - 1));
    });
    read(o(), result.o, [](std::uint32_t bits, int) { return whole(bits); });
    require(value == probe_.values, "not all values of the probe were read");
    return result;
  }

 private:
  runtime::Device device_;
  ParamLayout layout_;
  Probe probe_;
};

}  // namespace

// Coordinates come in two digits.
Sizes measure_products(const runtime::Device& device, const Kernel& kernel, Layouts& to) {
  const Products products(device, kernel);
  const Sizes& s = products.sizes();
  to.scores = products.scores();
  to.p = products.p();
  to.o = products.o();
  const auto resize = [](Fragments& f) {
    f.elements.resize(static_cast<std::size_t>(f.operands * kLanes * f.registers * f.parts));
  };
  resize(to.scores);
  resize(to.p);
  resize(to.o);
  const auto add = [](Fragments& f, int Element::*coordinate, const std::vector<int>& digits,
                      int weight, int divisor = 1) {
    for (std::size_t i = 0; i < digits.size(); ++i) {
      require(digits[i] % divisor == 0, "a sum of equal products is no multiple of their number");
      f.elements[i].*coordinate += digits[i] / divisor * weight;
    }
  };
  std::array<int, kLanes> q_scale{}, k_scale{};  // all 0 of Q and K without scales
  for (const int weight : {1, kDigits}) {
    const ProductRun by_query = products.run({Coordinate::query, weight});
    add(to.scores, &Element::row, by_query.scores, weight);
    add(to.p, &Element::row, by_query.p, weight);
    add(to.o, &Element::row, by_query.o, weight, s.cta_k);
    const ProductRun by_key = products.run({Coordinate::key, weight});
    add(to.scores, &Element::column, by_key.scores, weight);
    add(to.p, &Element::column, by_key.p, weight);
    const ProductRun by_channel = products.run({Coordinate::channel, weight});
    add(to.o, &Element::column, by_channel.o, weight, s.cta_k);
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      q_scale[lane] = by_query.scale[lane] - 1;
      k_scale[lane] = by_key.scale[lane] - 1;
    }
  }

  // A lane has one product of two scales for all its scores, which so tell whose they are.
  to.q_scale.assign(static_cast<std::size_t>(s.warp_rows), -1);
  to.k_scale.assign(static_cast<std::size_t>(s.cta_k), -1);
  const auto set = [](std::vector<int>& scales, int index, int scale) {
    int& known = scales.at(static_cast<std::size_t>(index));
    require(known == -1 || known == scale, "scores of one row have unequal scales");
    known = scale;
  };
  for (int operand = 0; operand < to.scores.operands; ++operand) {
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int reg = 0; reg < to.scores.registers; ++reg) {
        const Element& at = to.scores.at(operand, lane, reg, 0);
        set(to.q_scale, at.row, q_scale[static_cast<std::size_t>(lane)]);
        set(to.k_scale, at.column, k_scale[static_cast<std::size_t>(lane)]);
      }
    }
  }
  return s;
}

}  // namespace sagegen::pictures
