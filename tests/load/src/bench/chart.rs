//! The results as a chart: for each load, a bar a server, with requests per second and latencies
//! side by side, each with its own scale.

use std::fmt::Write;

use super::compare::{Comparison, Contender};
use super::markdown::number;
use super::process::Figures;

const WIDTH: u32 = 900;
const ROW: u32 = 18;
const TITLE: u32 = 30;
const TOP: u32 = 44;
/// Where names end, and where the two columns of bars begin.
const NAMES: u32 = 160;
const COLUMNS: [u32; 2] = [170, 550];
const BAR: u32 = 250;

/// Colours for light and dark backgrounds; the text follows the reader's choice.
const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#1f2328}\
.t{font-weight:600}.n{text-anchor:end}.floor{fill:#8b949e}.server{fill:#2da44e}\
.proxy{fill:#2da44e}.redis{fill:#cf5a4b}.memcached{fill:#4b86cf}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}}";

/// Returns the chart.
pub(super) fn draw(comparisons: &[Comparison]) -> String {
    let rows: u32 =
        comparisons.iter().map(|compare| TITLE + ROW * compare.results.len() as u32).sum();
    let height = TOP + rows + 10;
    let mut chart = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n\
         <title>Requests a second and 99th percentile of latency, by load and server</title>\n\
         <style>{STYLE}</style>\n"
    );
    for (x, title) in
        COLUMNS.into_iter().zip(["ops/s (more is better)", "p99, us (less is better)"])
    {
        let _ = writeln!(chart, "<text class=\"t\" x=\"{x}\" y=\"24\">{title}</text>");
    }
    let mut y = TOP;
    for compare in comparisons {
        y = draw_race(&mut chart, compare, y);
    }
    chart.push_str("</svg>\n");
    chart
}

fn draw_race(chart: &mut String, compare: &Comparison, top: u32) -> u32 {
    let name = &compare.shape.name;
    let _ = writeln!(chart, "<text class=\"t\" x=\"10\" y=\"{}\">{name}</text>", top + 18);
    let values = [|figures: &Figures| figures.rate, |figures: &Figures| figures.p99];
    let most = values.map(|of| {
        let all =
            compare.results.iter().filter_map(|(contender, _)| compare.median(*contender, of));
        all.fold(f64::MIN_POSITIVE, f64::max)
    });
    let mut y = top + TITLE;
    for (contender, _) in &compare.results {
        let text = y + ROW - 5;
        let _ = writeln!(
            chart,
            "<text class=\"n\" x=\"{NAMES}\" y=\"{text}\">{}</text>",
            contender.name()
        );
        for ((of, most), x) in values.into_iter().zip(most).zip(COLUMNS) {
            let value = compare.median(*contender, of).unwrap_or(0.0);
            let len = (value / most * f64::from(BAR)).max(1.0);
            let (bar, class, value) = (y + 2, class(*contender), number(value));
            let _ = writeln!(
                chart,
                "<rect class=\"{class}\" x=\"{x}\" y=\"{bar}\" width=\"{len:.1}\" height=\"{}\"/>\
                 <text x=\"{:.1}\" y=\"{text}\">{value}</text>",
                ROW - 4,
                f64::from(x) + len + 6.0
            );
        }
        y += ROW;
    }
    y
}

const fn class(contender: Contender) -> &'static str {
    match contender {
        Contender::Floor => "floor",
        Contender::Server => "server",
        Contender::Proxy => "proxy",
        Contender::Redis => "redis",
        Contender::Memcached => "memcached",
    }
}
