//! Lines and areas → an SVG figure that scales with the page. Pure.
//!
//! Colours and dashes are classes of the page's style sheet, so that a figure follows the reader's
//! light or dark theme.

use std::fmt::Write as _;

/// The figure's own units; narrow, so that its text stays readable on a phone.
const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 34.0;

/// How values lie along an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// Evenly from zero.
    Linear,
    /// By powers of ten; zero lies at the lower edge.
    Log,
    /// Fractions from 0 to below 1, by nines.
    Nines,
}

/// An axis with what it shows.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    /// The scale.
    pub scale: Scale,
    /// Name and unit.
    pub label: &'static str,
}

/// A class of the style sheet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Colour {
    Blue,
    Green,
    Orange,
    Red,
}

impl Colour {
    fn class(self) -> &'static str {
        match self {
            Colour::Blue => "blue",
            Colour::Green => "green",
            Colour::Orange => "orange",
            Colour::Red => "red",
        }
    }
}

/// One curve; areas stack in the order given.
#[derive(Clone, Debug)]
pub struct Curve {
    /// For the key.
    pub name: &'static str,
    /// Its look.
    pub colour: Colour,
    /// In order of x; a gap where y is `None`.
    pub points: Vec<(f64, Option<f64>)>,
}

/// How curves are drawn.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Draw {
    /// Each as a line.
    Lines,
    /// As areas on top of each other.
    Stack,
}

/// A figure with title and key.
pub fn figure(title: &str, axes: (Axis, Axis), draw: Draw, curves: &[Curve]) -> String {
    let stacked;
    let curves = match draw {
        Draw::Lines => curves,
        Draw::Stack => {
            stacked = stack(curves);
            &stacked
        }
    };
    let x = Placed::new(axes.0, curves.iter().flat_map(|c| c.points.iter().map(|p| p.0)));
    let y = Placed::new(axes.1, curves.iter().flat_map(|c| c.points.iter().filter_map(|p| p.1)));
    let mut out = format!("<figure><figcaption><b>{title}</b>");
    for curve in curves {
        let class = curve.colour.class();
        let mark = match draw {
            Draw::Lines => format!("<path class=\"mark {class}\" d=\"M0 5H26\"/>"),
            Draw::Stack => format!("<path class=\"area {class}\" d=\"M0 0H26V10H0Z\"/>"),
        };
        let name = curve.name;
        let _ = write!(
            out,
            "<span class=\"key\"><svg viewBox=\"0 0 26 10\" aria-hidden=\"true\">{mark}</svg>{name}</span>"
        );
    }
    let _ = write!(
        out,
        "</figcaption><svg class=\"plot\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-label=\"{title}\">"
    );
    write_axes(&mut out, &x, &y);
    // The highest area first: each next one covers its lower part.
    for curve in curves.iter().rev() {
        let class = curve.colour.class();
        let (kind, path) = match draw {
            Draw::Lines => ("mark", line(&curve.points, &x, &y)),
            Draw::Stack => ("area", area(&curve.points, &x, &y)),
        };
        let _ = write!(out, "<path class=\"{kind} {class}\" d=\"{path}\"/>");
    }
    out.push_str("</svg></figure>");
    out
}

fn stack(curves: &[Curve]) -> Vec<Curve> {
    let mut sums = vec![0.0; curves.first().map_or(0, |curve| curve.points.len())];
    curves
        .iter()
        .map(|curve| {
            let points = curve.points.iter().zip(&mut sums).map(|((x, y), sum)| {
                *sum += y.unwrap_or(0.0);
                (*x, Some(*sum))
            });
            Curve { points: points.collect(), ..curve.clone() }
        })
        .collect()
}

/// An axis with its range.
struct Placed {
    axis: Axis,
    low: f64,
    high: f64,
}

impl Placed {
    fn new(axis: Axis, values: impl Iterator<Item = f64>) -> Placed {
        let values: Vec<f64> = values.map(|value| transform(axis.scale, value)).collect();
        let high = values.iter().copied().fold(f64::MIN, f64::max);
        let low = values.iter().copied().fold(f64::MAX, f64::min);
        let (low, high) = match axis.scale {
            Scale::Linear => (0.0, if high > 0.0 { high } else { 1.0 }),
            // Whole decades, one at least.
            Scale::Log if low <= high => (low.floor(), high.ceil().max(low.floor() + 1.0)),
            Scale::Nines if low <= high => (0.0, high.max(1.0)),
            Scale::Log | Scale::Nines => (0.0, 1.0),
        };
        Placed { axis, low, high }
    }

    /// From 0 at the lower edge to 1 at the upper.
    fn place(&self, value: f64) -> f64 {
        let value = transform(self.axis.scale, value);
        ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }

    /// Places with their labels.
    fn ticks(&self) -> Vec<(f64, String)> {
        match self.axis.scale {
            Scale::Linear => {
                let step = step(self.high / 4.0);
                let count = (self.high / step + 1e-9).floor() as u32;
                (0..=count)
                    .map(|tick| (f64::from(tick) * step / self.high, label(f64::from(tick) * step)))
                    .collect()
            }
            Scale::Log => (self.low as i32..=self.high as i32)
                .map(|power| {
                    let place = (f64::from(power) - self.low) / (self.high - self.low);
                    (place, label(10_f64.powi(power)))
                })
                .collect(),
            Scale::Nines => [0.0, 0.9, 0.99, 0.999, 0.9999, 0.99999]
                .into_iter()
                .filter(|fraction| transform(Scale::Nines, *fraction) <= self.high + 1e-9)
                .map(|fraction| {
                    let percent = format!("{:.4}", fraction * 100.0);
                    let percent = percent.trim_end_matches('0').trim_end_matches('.');
                    (self.place(fraction), format!("{percent} %"))
                })
                .collect(),
        }
    }
}

fn transform(scale: Scale, value: f64) -> f64 {
    match scale {
        Scale::Linear => value,
        Scale::Log => value.max(1e-3).log10(),
        Scale::Nines => -(1.0 - value).max(1e-9).log10(),
    }
}

/// The next of 1, 2, 5 times a power of ten.
fn step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    let times = [1.0, 2.0, 5.0].into_iter().find(|times| times * power >= least * 0.999);
    times.unwrap_or(10.0) * power
}

fn label(value: f64) -> String {
    match value {
        1e6.. => format!("{} M", value / 1e6),
        1e4.. => format!("{} k", value / 1e3),
        _ => format!("{}", (value * 1e6).round() / 1e6),
    }
}

fn write_axes(out: &mut String, x: &Placed, y: &Placed) {
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    for (place, text) in y.ticks() {
        let at = bottom - place * (bottom - TOP);
        let _ = write!(
            out,
            "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{right}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
            LEFT - 5.0,
            at + 4.0
        );
    }
    for (place, text) in x.ticks() {
        let at = LEFT + place * (right - LEFT);
        // A label in the corner would stand out of the figure by half.
        let anchor = if place > 0.97 { "end" } else { "middle" };
        let _ = write!(
            out,
            "<path class=\"grid\" d=\"M{at:.1} {bottom}v4\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{text}</text>",
            bottom + 15.0
        );
    }
    let _ = write!(
        out,
        "<text x=\"{right}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
         <text x=\"12\" y=\"{TOP}\" text-anchor=\"end\" transform=\"rotate(-90 12 {TOP})\">{}</text>",
        HEIGHT - 4.0,
        x.axis.label,
        y.axis.label
    );
}

fn point(x: &Placed, y: &Placed, (across, up): (f64, f64)) -> (f64, f64) {
    let bottom = HEIGHT - BOTTOM;
    let across = LEFT + x.place(across) * (WIDTH - RIGHT - LEFT);
    (across, bottom - y.place(up) * (bottom - TOP))
}

fn line(points: &[(f64, Option<f64>)], x: &Placed, y: &Placed) -> String {
    let mut path = String::new();
    let mut pen = 'M';
    for (across, up) in points {
        let Some(up) = up else {
            pen = 'M';
            continue;
        };
        let (across, up) = point(x, y, (*across, *up));
        let _ = write!(path, "{pen}{across:.1} {up:.1}");
        if pen == 'M' {
            // A lone point between two gaps is a dot only where its path has a length.
            path.push_str("h.1");
        }
        pen = 'L';
    }
    path
}

fn area(points: &[(f64, Option<f64>)], x: &Placed, y: &Placed) -> String {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return String::new() };
    let outline = line(points, x, y);
    let (right, bottom) = point(x, y, (last.0, 0.0));
    let (left, _) = point(x, y, (first.0, 0.0));
    format!("{outline}L{right:.1} {bottom:.1}H{left:.1}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECONDS: Axis = Axis { scale: Scale::Linear, label: "seconds" };
    const LOG: Axis = Axis { scale: Scale::Log, label: "ms" };

    fn curve(points: &[(f64, Option<f64>)]) -> Curve {
        Curve { name: "p50", colour: Colour::Blue, points: points.to_vec() }
    }

    fn ticks(axis: Axis, values: &[f64]) -> Vec<String> {
        let placed = Placed::new(axis, values.iter().copied());
        placed.ticks().into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(ticks(SECONDS, &[0.0, 10.0]), ["0", "5", "10"]);
        assert_eq!(ticks(SECONDS, &[0.0, 6000.0]), ["0", "2000", "4000", "6000"]);
        assert_eq!(ticks(SECONDS, &[0.0, 60_000.0]), ["0", "20 k", "40 k", "60 k"]);
        assert_eq!(ticks(LOG, &[0.3, 47.0]), ["0.1", "1", "10", "100"]);
        let nines = Axis { scale: Scale::Nines, label: "" };
        assert_eq!(ticks(nines, &[0.0, 0.9995]), ["0 %", "90 %", "99 %", "99.9 %"]);
        assert_eq!(ticks(SECONDS, &[]), ["0", "0.5", "1"]);
        assert_eq!(ticks(LOG, &[]), ["1", "10"]);
    }

    #[test]
    fn gaps_break_a_line() {
        let points = [(0.0, Some(1.0)), (1.0, None), (2.0, Some(10.0))];
        let drawn = figure("t", (SECONDS, LOG), Draw::Lines, &[curve(&points)]);
        let path = drawn.split("class=\"mark blue\" d=\"").nth(2).unwrap();
        let path = path.split('"').next().unwrap();
        assert_eq!(path, "M52.0 186.0h.1M410.0 8.0h.1");
    }

    #[test]
    fn areas_stack() {
        let stacked = stack(&[
            curve(&[(0.0, Some(1.0)), (1.0, Some(2.0))]),
            curve(&[(0.0, Some(3.0)), (1.0, None)]),
        ]);
        assert_eq!(stacked[1].points, [(0.0, Some(4.0)), (1.0, Some(2.0))]);
    }

    #[test]
    fn nothing_to_draw_is_still_a_figure() {
        for draw in [Draw::Lines, Draw::Stack] {
            let drawn = figure("t", (SECONDS, LOG), draw, &[curve(&[])]);
            assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
        }
    }
}
