//! A line chart as SVG, and the style of the page that it is on. A simulator's report has them, too.

use std::fmt::Write as _;

/// The content of a chart. Both vertical axes begin at 0.
#[derive(Debug)]
pub struct Chart<'a> {
    /// The words above it.
    pub title: &'a str,
    /// The scale of the horizontal axis.
    pub x: Scale,
    /// Writes a value of the horizontal axis.
    pub x_unit: fn(f64) -> String,
    /// Writes a value of the left axis.
    pub left_unit: fn(f64) -> String,
    /// Writes a value of the right axis; `None`: there is none.
    pub right_unit: Option<fn(f64) -> String>,
    /// What is drawn.
    pub lines: Vec<Line>,
}

/// The scale of the horizontal axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Equal steps.
    Linear,
    /// Equal ratios.
    Logarithmic,
}

/// One line of a chart.
#[derive(Debug, Clone)]
pub struct Line {
    /// Its name in the legend.
    pub name: String,
    /// x and y, by ascending x.
    pub points: Vec<(f64, f64)>,
    /// Whether the line belongs to the right axis.
    pub right: bool,
    /// Whether the area below the line is filled.
    pub area: bool,
}

impl Chart<'_> {
    /// The chart as an HTML figure; empty without data.
    #[must_use]
    pub fn render(&self) -> String {
        let Some(horizontal) = self.horizontal() else { return String::new() };
        let left = Vertical::of(self.lines.iter().filter(|line| !line.right));
        let right = Vertical::of(self.lines.iter().filter(|line| line.right));
        let mut figure =
            format!("<figure><figcaption>{}</figcaption>\n<div class=\"keys\">", escape(self.title));
        // Writing to a String cannot fail.
        for (number, line) in self.lines.iter().enumerate() {
            let _ = write!(
                figure,
                "<span><i style=\"background:{}\"></i>{}</span>",
                color(number),
                escape(&line.name)
            );
        }
        let _ = writeln!(figure, "</div>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">");
        self.grid(&mut figure, &horizontal, &left, &right);
        for (number, line) in self.lines.iter().enumerate() {
            let vertical = if line.right { &right } else { &left };
            draw(&mut figure, line, color(number), &horizontal, vertical);
        }
        figure + "</svg></figure>\n"
    }

    fn horizontal(&self) -> Option<Horizontal> {
        let values = || self.lines.iter().flat_map(|line| &line.points).map(|(x, _)| *x);
        let (least, most) = (values().reduce(f64::min)?, values().reduce(f64::max)?);
        let end = if self.right_unit.is_some() { RIGHT_WITH_AXIS } else { RIGHT };
        Some(match self.x {
            Scale::Linear => Horizontal { scale: self.x, from: least.min(0.0), to: most.max(1e-3), end },
            Scale::Logarithmic => {
                let from = least.max(1e-4);
                Horizontal { scale: self.x, from, to: most.max(from * 2.0), end }
            }
        })
    }

    fn grid(&self, figure: &mut String, horizontal: &Horizontal, left: &Vertical, right: &Vertical) {
        let right_end = horizontal.end;
        for value in left.ticks() {
            let y = left.at(value);
            let _ = write!(figure, "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{right_end}\"/>");
            let label = (self.left_unit)(value);
            let _ = write!(
                figure,
                "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                LEFT - 8.0,
                y + 4.0
            );
        }
        if let Some(unit) = self.right_unit {
            for value in right.ticks() {
                let y = right.at(value) + 4.0;
                let _ = write!(figure, "<text x=\"{}\" y=\"{y:.1}\">{}</text>", right_end + 8.0, unit(value));
            }
        }
        for value in horizontal.ticks() {
            let x = horizontal.at(value);
            let label = (self.x_unit)(value);
            let _ = write!(figure, "<path class=\"grid\" d=\"M{x:.1} {BOTTOM}v5\"/>");
            let _ = write!(
                figure,
                "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
                BOTTOM + 19.0
            );
        }
        figure.push('\n');
    }
}

/// Text for HTML.
#[must_use]
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn draw(figure: &mut String, line: &Line, color: &str, horizontal: &Horizontal, vertical: &Vertical) {
    let mut path = String::new();
    for (number, (x, y)) in line.points.iter().enumerate() {
        let letter = if number == 0 { 'M' } else { 'L' };
        let _ = write!(path, "{letter}{:.1} {:.1}", horizontal.at(*x), vertical.at(*y));
    }
    if let (true, Some((first, _)), Some((last, _))) = (line.area, line.points.first(), line.points.last()) {
        let (first, last) = (horizontal.at(*first), horizontal.at(*last));
        let _ = writeln!(
            figure,
            "<path class=\"area\" style=\"fill:{color}\" d=\"{path}L{last:.1} {BOTTOM}L{first:.1} {BOTTOM}Z\"/>"
        );
    }
    let class = if line.right { "line dashed" } else { "line" };
    let _ = writeln!(figure, "<path class=\"{class}\" style=\"stroke:{color}\" d=\"{path}\"/>");
}

struct Horizontal {
    scale: Scale,
    from: f64,
    to: f64,
    /// The end of the axis in the drawing's coordinates.
    end: f64,
}

impl Horizontal {
    fn at(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear => (value - self.from) / (self.to - self.from),
            Scale::Logarithmic => (value.max(self.from) / self.from).ln() / (self.to / self.from).ln(),
        };
        LEFT + share * (self.end - LEFT)
    }

    fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => ticks(self.from, self.to, 6),
            Scale::Logarithmic => self.decades(),
        }
    }

    /// The ticks: 1, 2 and 5 times each power of ten if there are few powers, or else only the powers.
    fn decades(&self) -> Vec<f64> {
        let (first, last) = (self.from.log10().floor() as i32, self.to.log10().ceil() as i32);
        let steps: &[f64] = if self.to / self.from <= 100.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let all = (first..=last).flat_map(|power| steps.iter().map(move |step| step * 10_f64.powi(power)));
        all.filter(|value| (self.from..=self.to).contains(value)).collect()
    }
}

struct Vertical {
    top: f64,
}

impl Vertical {
    fn of<'a>(lines: impl Iterator<Item = &'a Line>) -> Self {
        let most = lines.flat_map(|line| &line.points).map(|(_, y)| *y).fold(0.0, f64::max);
        let step = step(most.max(1e-9), 5);
        Self { top: (most / step).ceil().max(1.0) * step }
    }

    fn at(&self, value: f64) -> f64 {
        BOTTOM - value / self.top * (BOTTOM - TOP)
    }

    fn ticks(&self) -> Vec<f64> {
        ticks(0.0, self.top, 5)
    }
}

/// About this many round values between the two bounds.
fn ticks(from: f64, to: f64, about: u32) -> Vec<f64> {
    let step = step(to - from, about);
    let (first, last) = ((from / step).ceil() as i64, (to / step + 1e-9).floor() as i64);
    (first..=last).map(|n| n as f64 * step).collect()
}

/// A round step: 1, 2 or 5 times a power of ten.
fn step(span: f64, about: u32) -> f64 {
    let rough = span / f64::from(about);
    let power = 10_f64.powf(rough.log10().floor());
    let factor =
        [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= rough * 0.999).unwrap_or(10.0);
    factor * power
}

fn color(number: usize) -> &'static str {
    ["var(--c0)", "var(--c1)", "var(--c2)", "var(--c3)", "var(--c4)"][number % 5]
}

/// The style of a page with charts. It is light or dark, as the reader prefers.
pub const STYLE: &str = include_str!("style.css");
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 540.0;
const RIGHT_WITH_AXIS: f64 = 516.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 246.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        assert_eq!(ticks(0.0, 10.0, 5), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(ticks(0.0, 237.0, 4), [0.0, 100.0, 200.0]);
    }

    #[test]
    fn an_axis_ends_above_the_most() {
        let line = |most| Line { name: String::new(), points: vec![(0.0, most)], right: false, area: false };
        for most in [0.0, 0.3, 99.0, 100.0, 5e7] {
            let line = line(most);
            assert!(Vertical::of(std::iter::once(&line)).top >= most, "{most}");
        }
    }

    #[test]
    fn a_logarithmic_axis_has_few_ticks() {
        let ticks = |from, to| Horizontal { scale: Scale::Logarithmic, from, to, end: RIGHT }.ticks();
        assert_eq!(ticks(0.9, 20.0), [1.0, 2.0, 5.0, 10.0, 20.0]);
        assert_eq!(ticks(0.09, 2000.0), [0.1, 1.0, 10.0, 100.0, 1000.0]);
    }

    #[test]
    fn nothing_to_draw_is_no_figure() {
        let chart = Chart {
            title: "",
            x: Scale::Linear,
            x_unit: |_| String::new(),
            left_unit: |_| String::new(),
            right_unit: None,
            lines: Vec::new(),
        };
        assert_eq!(chart.render(), "");
    }
}
