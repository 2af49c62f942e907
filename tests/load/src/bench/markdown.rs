//! The results as a page.

use std::fmt::Write;

use super::Results;
use super::compare::{Comparison, Contender};
use super::process::Figures;

const NONE: &str = "–";

/// Returns the page.
pub(super) fn page(results: &Results) -> String {
    let mut page = String::from("# Benchmarks\n\n");
    let _ = head(&mut page, results);
    let (proxy, direct): (Vec<_>, Vec<_>) =
        results.comparisons.iter().partition(|compare| compare.shape.is_proxy());
    page.push_str("![requests a second, and latencies](bench.svg)\n\n");
    let _ = servers(&mut page, &direct);
    let _ = proxies(&mut page, &proxy);
    let _ = alone(&mut page, results);
    page
}

fn head(page: &mut String, results: &Results) -> std::fmt::Result {
    let scale = &results.scale;
    writeln!(
        page,
        "Measured with `{}` on {}; {}.\n",
        results.command, results.machine, results.others
    )?;
    writeln!(
        page,
        "The servers run on one core, the load on another. Ids have 32 bytes, sessions 200. Of the \
         requests 90 % are GETs, the others REMOVE and ADD in turn, and every answer is checked. Each \
         figure is the median of {} rounds of {} s; in each round every server has its turn. Each \
         ratio is the median of the rounds' ratios. \"No table\" is a server that answers every GET with \
         the expected session and stores nothing, so it shows what the kernel costs.\n",
        scale.rounds, scale.seconds
    )
}

fn servers(page: &mut String, comparisons: &[&Comparison]) -> std::fmt::Result {
    let contenders = [Contender::Floor, Contender::Server, Contender::Redis, Contender::Memcached];
    writeln!(page, "## dc_server over TCP\n\nEach row: connections x requests open on each.\n")?;
    writeln!(
        page,
        "| ops/s | no table | dc_server | redis | memcached | of no table | x redis | x memcached |"
    )?;
    writeln!(page, "|---|---|---|---|---|---|---|---|")?;
    for compare in comparisons {
        write!(page, "| {} |", compare.shape.name)?;
        for contender in contenders {
            write!(page, " {} |", median(compare, contender, |figures| figures.rate))?;
        }
        for contender in [Contender::Floor, Contender::Redis, Contender::Memcached] {
            write!(
                page,
                " {} |",
                ratio(compare, Contender::Server, contender, |figures| figures.rate)
            )?;
        }
        writeln!(page)?;
    }
    writeln!(page, "\n| p99, us | no table | dc_server | redis | memcached | of no table |")?;
    writeln!(page, "|---|---|---|---|---|---|")?;
    for compare in comparisons {
        write!(page, "| {} |", compare.shape.name)?;
        for contender in contenders {
            write!(page, " {} |", median(compare, contender, |figures| figures.p99))?;
        }
        writeln!(
            page,
            " {} |",
            ratio(compare, Contender::Server, Contender::Floor, |figures| figures.p99)
        )?;
    }
    writeln!(page)
}

fn proxies(page: &mut String, comparisons: &[&Comparison]) -> std::fmt::Result {
    writeln!(
        page,
        "## dc_client in between\n\n\"Callers\" make a UNIX connection for every request, as many \
         applications do; without dc_client, the server without a table answers them. \"Kept\" \
         connections stay open; without dc_client, dc_server answers them, at a UNIX socket or over \
         TCP. dc_client and dc_server share a core.\n"
    )?;
    writeln!(
        page,
        "| | without, ops/s | dc_client, ops/s | ratio | without, p50 us | dc_client, p50 us | without, p99 us | dc_client, p99 us |"
    )?;
    writeln!(page, "|---|---|---|---|---|---|---|---|")?;
    for compare in comparisons {
        let without = compare.results.first().map_or(Contender::Floor, |(contender, _)| *contender);
        write!(page, "| {} |", compare.shape.name)?;
        for contender in [without, Contender::Proxy] {
            write!(page, " {} |", median(compare, contender, |figures| figures.rate))?;
        }
        write!(page, " {} |", ratio(compare, Contender::Proxy, without, |figures| figures.rate))?;
        for of in [|figures: &Figures| figures.p50, |figures: &Figures| figures.p99] {
            for contender in [without, Contender::Proxy] {
                write!(page, " {} |", median(compare, contender, of))?;
            }
        }
        writeln!(page)?;
    }
    writeln!(page)
}

fn alone(page: &mut String, results: &Results) -> std::fmt::Result {
    let (alone, scale) = (&results.alone, &results.scale);
    let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    let calls = alone.calls.as_ref().map_or(NONE.to_owned(), |each| {
        let sum: f64 = each.iter().map(|(_, rate)| rate).sum();
        let each: Vec<_> = each.iter().map(|(name, rate)| format!("{name} {rate:.2}")).collect();
        format!("{sum:.2} ({})", each.join(", "))
    });
    let idle = alone.idle.map_or(NONE.to_owned(), |(_, bytes)| megabytes(bytes));
    writeln!(page, "## dc_server alone\n\n| | |\n|---|---|")?;
    writeln!(page, "| system calls a request, one open (strace -c) | {calls} |")?;
    writeln!(
        page,
        "| memory (RSS) with {} sessions of 232 bytes, id included | {} |",
        scale.many,
        results.large_resident.map_or(NONE.to_owned(), megabytes)
    )?;
    writeln!(page, "| memory (RSS) for {} idle connections | {idle} |", scale.idle)?;
    writeln!(page, "| start with room for 16 M sessions | {:.1} ms |", alone.start * 1e3)?;
    let growth = alone.growth.map_or(NONE.to_owned(), |ratio| format!("{ratio:.2}"));
    writeln!(page, "| ops/s with 16 M sessions, relative to 10 k (50 x 16) | {growth} |")?;
    writeln!(
        page,
        "| ops/s of 50 busy connections among {} idle ones, relative to 10 idle ones | {:.2} |",
        scale.idle, alone.crowd
    )
}

fn median(compare: &Comparison, contender: Contender, of: impl Fn(&Figures) -> f64) -> String {
    compare.median(contender, of).map_or(NONE.to_owned(), number)
}

fn ratio(compare: &Comparison, a: Contender, b: Contender, of: impl Fn(&Figures) -> f64) -> String {
    compare.ratio(a, b, of).map_or(NONE.to_owned(), |ratio| format!("{ratio:.2}"))
}

/// Formats a number with groups of thousands, and small ones with one more digit.
pub(super) fn number(value: f64) -> String {
    if value < 1000.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_reading() {
        for (value, text) in
            [(1.25, "1.2"), (999.94, "999.9"), (1000.0, "1,000"), (1234567.0, "1,234,567")]
        {
            assert_eq!(number(value), text);
        }
    }
}
