// A drawing as SVG 1.1 text: shapes and words at places, nothing from outside of the file. Lengths are in pixels; the
// origin is the upper left corner, y grows downwards. Source: W3C, Scalable Vector Graphics (SVG) 1.1.
#pragma once

#include <string>
#include <string_view>

namespace sagegen::pictures {

// Colours are CSS colours. Empty: none.
struct Paint {
  std::string_view fill;
  std::string_view stroke = {};
  double stroke_width = 1;
};

enum class Anchor { start, middle, end };
struct TextStyle {
  double size = 11;
  Anchor anchor = Anchor::start;
  bool bold = false;
  std::string_view fill = "#222222";
};

// What XML, and HTML, give a meaning to, as letters.
std::string escaped(std::string_view text);

// Width of a text as it is drawn: all letters of the font are equally wide.
double text_width(std::string_view text, double size);

class Svg {
 public:
  // title: of the document, for people and for screen readers.
  explicit Svg(std::string_view title);

  // tip: shown where the pointer rests; empty: none.
  void rect(double x, double y, double width, double height, const Paint& paint,
            std::string_view tip = {});
  // y is that of the baseline. Letters of any kind: what XML gives a meaning to is escaped.
  void text(double x, double y, std::string_view text, const TextStyle& style = {});
  void line(double x1, double y1, double x2, double y2, std::string_view stroke, double width = 1);

  // The document, as large as what was drawn, and a margin. May be taken once, at the end.
  std::string document() const;

 private:
  void include(double right, double bottom);

  std::string title_, body_;
  double width_ = 0, height_ = 0;
};

}  // namespace sagegen::pictures
