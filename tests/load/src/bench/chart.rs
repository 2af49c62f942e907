//! The results as a chart: for each shape, a bar a server, requests a second and latencies side by
//! side, each on a scale of its own.

use std::fmt::Write;

use super::markdown::number;
use super::process::Figures;
use super::race::{Race, Racer};

const WIDTH: u32 = 900;
const ROW: u32 = 18;
const TITLE: u32 = 30;
const TOP: u32 = 44;
/// Where names end, and where the two columns of bars begin.
const NAMES: u32 = 160;
const COLUMNS: [u32; 2] = [170, 550];
const BAR: u32 = 250;

/// Colours that stand out from light and dark alike; the text's follows the reader's choice.
const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#1f2328}\
.t{font-weight:600}.n{text-anchor:end}.floor{fill:#8b949e}.server{fill:#2da44e}\
.proxy{fill:#2da44e}.redis{fill:#cf5a4b}.memcached{fill:#4b86cf}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}}";

/// The chart.
pub(super) fn draw(races: &[Race]) -> String {
    let rows: u32 = races.iter().map(|race| TITLE + ROW * race.results.len() as u32).sum();
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
    for race in races {
        y = draw_race(&mut chart, race, y);
    }
    chart.push_str("</svg>\n");
    chart
}

fn draw_race(chart: &mut String, race: &Race, top: u32) -> u32 {
    let name = &race.shape.name;
    let _ = writeln!(chart, "<text class=\"t\" x=\"10\" y=\"{}\">{name}</text>", top + 18);
    let values = [|figures: &Figures| figures.rate, |figures: &Figures| figures.p99];
    let most = values.map(|of| {
        let all = race.results.iter().filter_map(|(racer, _)| race.median(*racer, of));
        all.fold(f64::MIN_POSITIVE, f64::max)
    });
    let mut y = top + TITLE;
    for (racer, _) in &race.results {
        let text = y + ROW - 5;
        let _ =
            writeln!(chart, "<text class=\"n\" x=\"{NAMES}\" y=\"{text}\">{}</text>", racer.name());
        for ((of, most), x) in values.into_iter().zip(most).zip(COLUMNS) {
            let value = race.median(*racer, of).unwrap_or(0.0);
            let len = (value / most * f64::from(BAR)).max(1.0);
            let (bar, class, value) = (y + 2, class(*racer), number(value));
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

const fn class(racer: Racer) -> &'static str {
    match racer {
        Racer::Floor => "floor",
        Racer::Server => "server",
        Racer::Proxy => "proxy",
        Racer::Redis => "redis",
        Racer::Memcached => "memcached",
    }
}
