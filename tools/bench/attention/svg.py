"""A line plot as SVG text: series over a logarithmic x axis, labels beside the ends of the lines."""
import math
from xml.sax.saxutils import escape

PLOT_WIDTH, HEIGHT = 600, 520
LEFT, TOP, BOTTOM = 70, 56, 60
COLORS = ("#1f6fb4", "#d1495b", "#3a923a", "#8a63b8", "#e08a1e", "#4b4b4b", "#12908e", "#b3559a", "#7a6a4f")
DASHES = ("", "7 3", "2 3")
LABEL_HEIGHT, CHARACTER_WIDTH = 16, 7.4


def nice_ceiling(value):
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is not below value."""
    if value <= 0:
        return 1.0
    magnitude = 10 ** math.floor(math.log10(value))
    return next(step * magnitude for step in (1, 2, 2.5, 5, 10) if step * magnitude >= value * (1 - 1e-12))


def _text(x, y, words, *, size=13, anchor="start", color="#222", weight="normal", extra=""):
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{color}" '
            f'font-weight="{weight}"{extra}>{escape(words)}</text>')


def _spread(positions, gap):
    """Moves label positions apart without changing their order."""
    order = sorted(range(len(positions)), key=positions.__getitem__)
    moved = list(positions)
    for before, after in zip(order, order[1:]):
        moved[after] = max(moved[after], moved[before] + gap)
    overflow = max(0.0, max(moved, default=0.0) - (HEIGHT - BOTTOM + 10))
    return [position - overflow for position in moved]


def _length(value):
    return f"{value // 1024}k" if value % 1024 == 0 else str(value)


def line_plot(series, *, title, subtitle, x_label, y_label, stamp=None):
    """series: {label: [(x, y)]}, x > 0. stamp: words printed across the plot."""
    xs = sorted({x for points in series.values() for x, _ in points})
    top = nice_ceiling(1.05 * max(y for points in series.values() for _, y in points))
    span = math.log(xs[-1] / xs[0]) or 1.0

    def at(x, y):
        across = 0.5 if xs[0] == xs[-1] else math.log(x / xs[0]) / span
        return (LEFT + PLOT_WIDTH * across, HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y / top)

    right, floor = LEFT + PLOT_WIDTH, HEIGHT - BOTTOM
    width = right + 24 + round(CHARACTER_WIDTH * max(map(len, series)))
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{HEIGHT}" '
             f'viewBox="0 0 {width} {HEIGHT}" font-family="Helvetica, Arial, sans-serif">',
             f'<rect width="{width}" height="{HEIGHT}" fill="white"/>',
             _text(LEFT, 24, title, size=17, weight="bold"), _text(LEFT, 43, subtitle, size=12, color="#555")]
    for step in range(6):
        y = at(xs[0], top * step / 5)[1]
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(_text(LEFT - 8, y + 4, f"{top * step / 5:g}", anchor="end"))
    for x in xs:
        parts.append(_text(at(x, 0)[0], floor + 20, _length(x), anchor="middle"))
    parts.append(_text((LEFT + right) / 2, HEIGHT - 14, x_label, anchor="middle"))
    parts.append(_text(18, (TOP + floor) / 2, y_label, anchor="middle",
                       extra=f' transform="rotate(-90 18 {(TOP + floor) / 2:.1f})"'))
    ends = [at(*max(points))[1] for points in series.values()]
    for index, ((label, points), label_y) in enumerate(zip(series.items(), _spread(ends, LABEL_HEIGHT))):
        color, dash = COLORS[index % len(COLORS)], DASHES[index // len(COLORS) % len(DASHES)]
        placed = [at(x, y) for x, y in sorted(points)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2.2"'
                     + (f' stroke-dasharray="{dash}"' if dash else "") + "/>")
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" fill="{color}"/>' for x, y in placed]
        parts.append(f'<line x1="{placed[-1][0]:.1f}" y1="{placed[-1][1]:.1f}" x2="{right + 8}" '
                     f'y2="{label_y:.1f}" stroke="{color}" stroke-width="0.6"/>')
        parts.append(_text(right + 12, label_y + 4, label, color=color))
    if stamp:
        parts.append(_text((LEFT + right) / 2, (TOP + floor) / 2, stamp, size=64, anchor="middle",
                           color="#c00", weight="bold", extra=' opacity="0.35"'))
    return "\n".join(parts + ["</svg>", ""])
