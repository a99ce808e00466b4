//! Charts as SVG, on a white ground of their own so that they can be read in light and in dark surroundings.

use std::fmt::Write;

/// Lines over a linear x axis and a logarithmic y axis.
#[derive(Clone, Debug)]
pub struct LineChart {
    pub title: String,
    pub x_label: String,
    pub y_label: String,
    /// Where the x axis begins and ends.
    pub x: (f64, f64),
    /// Where the y axis begins and ends; both above 0.
    pub y: (f64, f64),
    /// Place and text.
    pub x_ticks: Vec<(f64, String)>,
    /// Place and text.
    pub y_ticks: Vec<(f64, String)>,
    /// Name and points; at most six lines have colours of their own.
    pub lines: Vec<(String, Vec<(f64, f64)>)>,
}

/// Groups of bars over a linear y axis that begins at 0.
#[derive(Clone, Debug)]
pub struct BarChart {
    pub title: String,
    pub x_label: String,
    pub y_label: String,
    /// Where the y axis ends; above 0.
    pub top: f64,
    /// Place and text.
    pub y_ticks: Vec<(f64, String)>,
    /// The text below each group.
    pub groups: Vec<String>,
    /// Name, and the value in each group; at most six have colours of their own.
    pub series: Vec<(String, Vec<f64>)>,
}

impl LineChart {
    pub fn svg(&self) -> String {
        let across = |x: f64| LEFT + (x - self.x.0) / (self.x.1 - self.x.0) * (RIGHT - LEFT);
        let (low, high) = (self.y.0.ln(), self.y.1.ln());
        let up = |y: f64| BOTTOM - (y.ln() - low) / (high - low) * (BOTTOM - TOP);
        let mut sheet = Sheet::new(&self.title, &self.x_label, &self.y_label);
        for (place, text) in &self.y_ticks {
            sheet.y_tick(up(*place), text);
        }
        for (place, text) in &self.x_ticks {
            sheet.x_tick(across(*place), text, true);
        }
        for (number, (name, points)) in self.lines.iter().enumerate() {
            let path: Vec<String> =
                points.iter().map(|(x, y)| format!("{:.1},{:.1}", across(*x), up(*y).clamp(TOP, BOTTOM))).collect();
            let (points, (colour, dashes)) = (path.join(" "), style(number));
            let stroke = format!(r#"stroke="{colour}" stroke-width="2.5" stroke-dasharray="{dashes}""#);
            sheet.add(&format!(r#"<polyline points="{points}" fill="none" {stroke}/>"#));
            sheet.legend(number, name, false);
        }
        sheet.finish()
    }
}

impl BarChart {
    pub fn svg(&self) -> String {
        let up = |y: f64| BOTTOM - (y / self.top).clamp(0.0, 1.0) * (BOTTOM - TOP);
        let mut sheet = Sheet::new(&self.title, &self.x_label, &self.y_label);
        for (place, text) in &self.y_ticks {
            sheet.y_tick(up(*place), text);
        }
        let group_width = (RIGHT - LEFT) / self.groups.len().max(1) as f64;
        let bar_width = group_width * 0.8 / self.series.len().max(1) as f64;
        for (number, text) in self.groups.iter().enumerate() {
            sheet.x_tick(LEFT + (number as f64 + 0.5) * group_width, text, false);
        }
        for (number, (name, values)) in self.series.iter().enumerate() {
            let (colour, _) = style(number);
            for (group, value) in values.iter().enumerate() {
                let left = LEFT + (group as f64 + 0.1) * group_width + number as f64 * bar_width;
                let top = up(*value);
                sheet.add(&format!(
                    r#"<rect x="{left:.1}" y="{top:.1}" width="{:.1}" height="{:.1}" fill="{colour}"/>"#,
                    bar_width - 1.0,
                    BOTTOM - top
                ));
            }
            sheet.legend(number, name, true);
        }
        sheet.finish()
    }
}

/// The frame of a chart and what has been drawn into it.
struct Sheet {
    text: String,
}

impl Sheet {
    fn new(title: &str, x_label: &str, y_label: &str) -> Self {
        let (title, x_label, y_label) = (escaped(title), escaped(x_label), escaped(y_label));
        let mut sheet = Self { text: String::new() };
        sheet
            .add(&format!(r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}""#));
        sheet.add(&format!(r#"  height="{HEIGHT}" role="img" font-family="sans-serif" font-size="13" fill="{INK}">"#));
        sheet.add(&format!("<title>{title}</title>"));
        sheet.add(&format!(r#"<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>"#));
        let (middle, half) = ((LEFT + RIGHT) / 2.0, (TOP + BOTTOM) / 2.0);
        sheet.add(&format!(
            r#"<text x="{middle:.1}" y="24" text-anchor="middle" font-size="15" font-weight="bold">{title}</text>"#
        ));
        sheet.add(&format!(r#"<text x="{middle:.1}" y="{:.1}" text-anchor="middle">{x_label}</text>"#, BOTTOM + 42.0));
        sheet.add(&format!(
            r#"<text x="18" y="{half:.1}" text-anchor="middle" transform="rotate(-90 18 {half:.1})">{y_label}</text>"#
        ));
        sheet
    }

    fn y_tick(&mut self, y: f64, text: &str) {
        self.add(&format!(r#"<line x1="{LEFT}" y1="{y:.1}" x2="{RIGHT}" y2="{y:.1}" stroke="{GRID}"/>"#));
        let (x, below, text) = (LEFT - 8.0, y + 4.5, escaped(text));
        self.add(&format!(r#"<text x="{x:.1}" y="{below:.1}" text-anchor="end">{text}</text>"#));
    }

    fn x_tick(&mut self, x: f64, text: &str, with_line: bool) {
        if with_line {
            self.add(&format!(r#"<line x1="{x:.1}" y1="{TOP}" x2="{x:.1}" y2="{BOTTOM}" stroke="{GRID}"/>"#));
        }
        self.add(&format!(
            r#"<text x="{x:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
            BOTTOM + 20.0,
            escaped(text)
        ));
    }

    /// A sample of the colour and the name, in a row below the title.
    fn legend(&mut self, number: usize, name: &str, filled: bool) {
        let (colour, dashes) = style(number);
        let x = LEFT + number as f64 * LEGEND_WIDTH;
        let sample = if filled {
            format!(r#"<rect x="{x:.1}" y="37" width="24" height="11" fill="{colour}"/>"#)
        } else {
            let stroke = format!(r#"stroke="{colour}" stroke-width="2.5" stroke-dasharray="{dashes}""#);
            format!(r#"<line x1="{x:.1}" y1="43" x2="{:.1}" y2="43" {stroke}/>"#, x + 28.0)
        };
        self.add(&format!(r#"{sample}<text x="{:.1}" y="47">{}</text>"#, x + 34.0, escaped(name)));
    }

    /// The axes go on top of what was drawn.
    fn finish(mut self) -> String {
        self.add(&format!(
            r#"<path d="M{LEFT} {TOP} V{BOTTOM} H{RIGHT}" fill="none" stroke="{INK}" stroke-width="1.5"/>"#
        ));
        self.add("</svg>");
        self.text
    }

    fn add(&mut self, line: &str) {
        writeln!(self.text, "{line}").expect("writing into a string cannot fail");
    }
}

/// Colour and dashes: told apart by everybody, in print too (palette of Okabe and Ito).
fn style(number: usize) -> (&'static str, &'static str) {
    const STYLES: [(&str, &str); 6] = [
        ("#d55e00", "8 4"),
        ("#e69f00", "2 3"),
        ("#0072b2", "12 3 2 3"),
        ("#009e73", "none"),
        ("#cc79a7", "4 4"),
        ("#56b4e9", "none"),
    ];
    STYLES[number % STYLES.len()]
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 90.0;
const RIGHT: f64 = 730.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 380.0;
const LEGEND_WIDTH: f64 = 160.0;
const INK: &str = "#222222";
const GRID: &str = "#dddddd";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_runs_from_corner_to_corner() {
        let chart = LineChart {
            title: "a < b".to_owned(),
            x_label: "load".to_owned(),
            y_label: "time".to_owned(),
            x: (0.0, 1.0),
            y: (1.0, 100.0),
            x_ticks: vec![(0.5, "half".to_owned())],
            y_ticks: vec![(10.0, "ten".to_owned())],
            lines: vec![("one".to_owned(), vec![(0.0, 1.0), (0.5, 10.0), (1.0, 100.0), (1.0, 1e9)])],
        };
        let svg = chart.svg();
        assert!(svg.contains(r#"points="90.0,380.0 410.0,222.0 730.0,64.0 730.0,64.0""#), "{svg}");
        assert!(svg.contains("<title>a &lt; b</title>") && svg.contains(">half<") && svg.contains(">one<"));
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn bars_are_as_high_as_their_values() {
        let chart = BarChart {
            title: "calls".to_owned(),
            x_label: "box".to_owned(),
            y_label: "calls".to_owned(),
            top: 100.0,
            y_ticks: vec![(100.0, "100".to_owned())],
            groups: vec!["one".to_owned(), "two".to_owned()],
            series: vec![("before".to_owned(), vec![100.0, 50.0]), ("after".to_owned(), vec![0.0, 200.0])],
        };
        let svg = chart.svg();
        let heights: Vec<&str> = svg
            .lines()
            .filter(|line| line.starts_with("<rect x=") && !line.contains("<text"))
            .filter_map(|line| line.split("height=\"").nth(1)?.split('"').next())
            .collect();
        assert_eq!(heights, ["316.0", "158.0", "0.0", "316.0"]);
    }
}
