//! Plots, as SVG that stands in a page by itself. Colors are the page's.

use std::fmt::Write;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 44.0;

/// A plot of one or more series over the same axes, which begin at zero.
#[derive(Debug, Default)]
pub(super) struct Plot<'a> {
    pub(super) title: &'a str,
    pub(super) x: &'a str,
    pub(super) y: &'a str,
    pub(super) series: Vec<Series<'a>>,
}

/// Points, in the order in which they are joined.
#[derive(Debug)]
pub(super) struct Series<'a> {
    pub(super) name: &'a str,
    pub(super) points: Vec<(f64, f64)>,
    pub(super) mark: Mark,
}

/// How points are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Mark {
    Line,
    /// A line whose points are seen: each of them was measured.
    Dots,
    /// Bars of this width, to the right of their points.
    Bars(f64),
}

impl Plot<'_> {
    /// The plot; nothing without a point.
    pub(super) fn draw(&self) -> String {
        let points = || self.series.iter().flat_map(|series| &series.points);
        if points().count() == 0 {
            return String::new();
        }
        let bar = self.series.iter().map(|series| match series.mark {
            Mark::Bars(width) => width,
            Mark::Line | Mark::Dots => 0.0,
        });
        let bar = bar.fold(0.0, f64::max);
        let most = |values: &mut dyn Iterator<Item = f64>| values.fold(1e-9, f64::max);
        let scale = Scale {
            x: most(&mut points().map(|point| point.0 + bar)),
            y: most(&mut points().map(|point| point.1)) * 1.05,
        };
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{0}\"><title>{0}</title>\
             <text class=\"title\" x=\"{LEFT}\" y=\"16\">{0}</text>",
            escape(self.title)
        );
        self.axes(&scale, &mut svg);
        for (index, series) in self.series.iter().enumerate() {
            series.draw(&scale, index, &mut svg);
        }
        svg + "</svg>\n"
    }

    fn axes(&self, scale: &Scale, svg: &mut String) {
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        // Writing into memory does not fail, here and below.
        for tick in ticks(scale.y) {
            let y = scale.y(tick);
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"tick\" text-anchor=\"end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                LEFT - 6.0,
                y + 3.5,
                number(tick)
            );
        }
        for tick in ticks(scale.x) {
            let _ = write!(
                svg,
                "<text class=\"tick\" text-anchor=\"middle\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                scale.x(tick),
                bottom + 15.0,
                number(tick)
            );
        }
        let middle = (TOP + bottom) / 2.0;
        let _ = write!(
            svg,
            "<text class=\"label\" text-anchor=\"middle\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\
             <text class=\"label\" text-anchor=\"middle\" transform=\"translate(14 {middle:.1}) \
             rotate(-90)\">{}</text>",
            (LEFT + right) / 2.0,
            HEIGHT - 8.0,
            escape(self.x),
            escape(self.y)
        );
    }
}

impl Series<'_> {
    fn draw(&self, scale: &Scale, index: usize, svg: &mut String) {
        let places = self.points.iter().map(|(x, y)| (scale.x(*x), scale.y(*y)));
        match self.mark {
            Mark::Bars(width) => {
                let width = (scale.x(width) - scale.x(0.0) - 0.5).max(0.5);
                for (x, y) in places {
                    let height = HEIGHT - BOTTOM - y;
                    let _ = write!(
                        svg,
                        "<rect class=\"fill s{index}\" x=\"{x:.1}\" y=\"{y:.1}\" \
                         width=\"{width:.1}\" height=\"{height:.1}\"/>"
                    );
                }
            }
            Mark::Line | Mark::Dots => {
                let path: Vec<_> = places.clone().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
                let _ = write!(svg, "<polyline class=\"s{index}\" points=\"{}\"/>", path.join(" "));
                if self.mark == Mark::Dots {
                    for (x, y) in places {
                        let _ = write!(
                            svg,
                            "<circle class=\"fill s{index}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>"
                        );
                    }
                }
            }
        }
        if !self.name.is_empty() {
            let x = LEFT + index as f64 * 110.0;
            let _ = write!(
                svg,
                "<rect class=\"fill s{index}\" x=\"{x:.1}\" y=\"22\" width=\"9\" height=\"9\"/>\
                 <text class=\"tick\" x=\"{:.1}\" y=\"30\">{}</text>",
                x + 13.0,
                escape(self.name)
            );
        }
    }
}

/// What the axes' ends are.
struct Scale {
    x: f64,
    y: f64,
}

impl Scale {
    fn x(&self, value: f64) -> f64 {
        LEFT + value / self.x * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - value / self.y * (HEIGHT - TOP - BOTTOM)
    }
}

/// Round numbers from zero to `end`: four to ten of them.
fn ticks(end: f64) -> Vec<f64> {
    let rough = end / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    let step = steps.into_iter().find(|step| *step >= rough).unwrap_or(rough);
    (0..=(end / step) as usize).map(|index| index as f64 * step).collect()
}

/// As few digits as tell ticks apart.
fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 1e6 => format!("{}M", value / 1e6),
        large if large >= 1e4 => format!("{}k", value / 1e3),
        _ => format!("{}", (value * 1e4).round() / 1e4),
    }
}

/// Text that is nothing but text.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within() {
        assert_eq!(ticks(10.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(ticks(7.0), [0.0, 2.0, 4.0, 6.0]);
        assert_eq!(ticks(0.05).len(), 6);
        for end in [1e-9, 0.3, 1.0, 99.0, 12_345.0, 1e9] {
            let ticks = ticks(end);
            assert!((3..=11).contains(&ticks.len()) && ticks[ticks.len() - 1] <= end, "{end}");
        }
    }

    #[test]
    fn points_lie_within_the_plot() {
        let points = vec![(0.0, 0.0), (5.0, 100.0)];
        let series = vec![Series { name: "<a>", points, mark: Mark::Dots }];
        let svg = Plot { title: "t", series, ..Plot::default() }.draw();

        assert!(svg.contains("points=\"62.0,216.0 546.0,42.7\""), "{svg}");
        assert!(svg.contains("&lt;a&gt;") && !svg.contains("<a>"));
        assert_eq!(Plot::default().draw(), "");
    }
}
