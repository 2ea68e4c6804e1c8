#include "tools/pictures/svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace sagegen::pictures {
namespace {

constexpr double kMargin = 16;
// In font sizes: DejaVu Sans Mono has 0.602, others have less, and some programs round widths up to whole pixels.
constexpr double kLetterWidth = 0.64;

// Hundredths of a pixel are enough, and keep files small.
std::string number(double value) {
  const double rounded = std::round(value * 100) / 100;
  return fmt::format("{}", rounded == 0 ? 0.0 : rounded);
}

}  // namespace

std::string escaped(std::string_view text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '"':
        result += "&quot;";
        break;
      default:
        result += c;
    }
  }
  return result;
}

double text_width(std::string_view text, double size) {
  const auto letters =
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
  return static_cast<double>(letters) * kLetterWidth * size;
}

Svg::Svg(std::string_view title) : title_(title) {}

void Svg::include(double right, double bottom) {
  width_ = std::max(width_, right);
  height_ = std::max(height_, bottom);
}

void Svg::rect(double x, double y, double width, double height, const Paint& paint,
               std::string_view tip) {
  include(x + width, y + height);
  body_ +=
      fmt::format(R"(<rect x="{}" y="{}" width="{}" height="{}" fill="{}")", number(x), number(y),
                  number(width), number(height), paint.fill.empty() ? "none" : paint.fill);
  if (!paint.stroke.empty()) {
    body_ +=
        fmt::format(R"( stroke="{}" stroke-width="{}")", paint.stroke, number(paint.stroke_width));
  }
  body_ += tip.empty() ? "/>\n" : fmt::format("><title>{}</title></rect>\n", escaped(tip));
}

void Svg::text(double x, double y, std::string_view text, const TextStyle& style) {
  const double width = text_width(text, style.size);
  const double right = style.anchor == Anchor::start    ? x + width
                       : style.anchor == Anchor::middle ? x + width / 2
                                                        : x;
  include(right, y + 0.3 * style.size);
  constexpr std::string_view kAnchors[] = {"start", "middle", "end"};
  body_ += fmt::format(R"(<text x="{}" y="{}" font-size="{}" fill="{}")", number(x), number(y),
                       number(style.size), style.fill);
  if (style.anchor != Anchor::start)
    body_ += fmt::format(R"( text-anchor="{}")", kAnchors[static_cast<int>(style.anchor)]);
  if (style.bold) body_ += R"( font-weight="bold")";
  body_ += ">" + escaped(text) + "</text>\n";
}

void Svg::line(double x1, double y1, double x2, double y2, std::string_view stroke, double width) {
  include(std::max(x1, x2), std::max(y1, y2));
  body_ += fmt::format(R"(<line x1="{}" y1="{}" x2="{}" y2="{}" stroke="{}" stroke-width="{}"/>)"
                       "\n",
                       number(x1), number(y1), number(x2), number(y2), stroke, number(width));
}

std::string Svg::document() const {
  const std::string width = number(std::ceil(width_ + kMargin)),
                    height = number(std::ceil(height_ + kMargin));
  return fmt::format(
      R"(<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" width="{0}" height="{1}" viewBox="0 0 {0} {1}" font-family="DejaVu Sans Mono, Menlo, Consolas, monospace">
<title>{2}</title>
<rect width="{0}" height="{1}" fill="#ffffff"/>
{3}</svg>
)",
      width, height, escaped(title_), body_);
}

}  // namespace sagegen::pictures
