//! A drill's report as one page that needs nothing beside it: no script, no font, no network.

use std::fmt::Write as _;

use holdfast_proto::admin::Drill;
use holdfast_proto::ledger::DrillReport;

use super::{figures, seconds, standing};
use crate::output;

/// Of the chart, in its own units.
const WIDTH: u64 = 960;
const HEIGHT: u64 = 200;
/// Room on the left for numbers, below for the seconds, and above for the events' numbers.
const LEFT: u64 = 40;
const ABOVE: u64 = 26;
const BELOW: u64 = 24;

const STYLE: &str = "
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5b6776;--line:#d5dbe3;--paper:#fff;--in:#2f7d5b;--out:#2b62b8;--bad:#c23b3b;--shade:#c23b3b1c}
@media(prefers-color-scheme:dark){:root{--ink:#e8ecf1;--soft:#9aa7b6;--line:#35404e;--paper:#12171e;--in:#53b78a;--out:#6ea3f2;--bad:#ef7070;--shade:#ef707026}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:62rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0}p{margin:.3rem 0}.soft{color:var(--soft)}
.verdict{font-weight:700;margin:1rem 0}.passed{color:var(--in)}.failed,.unknown{color:var(--bad)}
dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(13rem,1fr));gap:1rem;margin:1.5rem 0}
dl div{border-top:2px solid var(--line);padding-top:.4rem}dt{color:var(--soft);font-size:.85rem}dd{margin:0;font-size:1.15rem}
svg{width:100%;height:auto;font-size:11px;fill:var(--soft)}
.in{fill:var(--in)}.out{fill:none;stroke:var(--out);stroke-width:2}.shade{fill:var(--shade)}.axis{stroke:var(--line)}.mark{stroke:var(--ink);stroke-dasharray:2 3}
.key{display:inline-block;width:.8rem;height:.8rem;border-radius:2px;vertical-align:-1px;margin:0 .3rem 0 1rem}
table{border-collapse:collapse;width:100%;margin:1rem 0}td{border-top:1px solid var(--line);padding:.3rem .6rem .3rem 0;vertical-align:top}
td:first-child{width:2rem;color:var(--soft)}td:nth-child(2){width:6rem;font-variant-numeric:tabular-nums}
";

pub(super) fn page(drill: &Drill) -> String {
    let place = match (drill.region.as_str(), drill.nodes.as_slice()) {
        ("", []) => String::new(),
        ("", nodes) => format!(" of {}", nodes.join(", ")),
        (region, nodes) => format!(" of {region} ({})", nodes.join(", ")),
    };
    let title = escaped(&format!("Drill: {}{place}", drill.kind));
    let began = output::rfc3339(drill.began_at_ms / 1000 * 1000).unwrap_or_default();
    let lasted = output::span(std::time::Duration::from_millis(drill.duration_ms));
    let mut html = format!(
        "<!doctype html>\n<html lang=en>\n<meta charset=utf-8>\n<meta name=viewport content=\"width=device-width\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n<h1>{title}</h1>\n\
         <p class=soft>{began}, for {lasted}, conducted by {}. {}</p>\n",
        escaped(&drill.conductor),
        escaped(&drill.id)
    );
    let standing = standing(drill);
    let why = drill.report.as_ref().map_or("", |report| &report.why);
    let _infallible = writeln!(
        html,
        "<p class=\"verdict {standing}\">{}{}{}</p>",
        standing.to_uppercase(),
        if why.is_empty() { "" } else { ": " },
        escaped(why)
    );
    if let Some(report) = &drill.report {
        html.push_str("<dl>");
        for (name, value) in figures(report) {
            let _infallible = write!(
                html,
                "<div><dt>{name}</dt><dd>{}</dd></div>",
                escaped(&value)
            );
        }
        html.push_str("</dl>\n");
        chart(&mut html, drill, report);
    }
    html.push_str("<table>\n");
    for (number, event) in (1..).zip(&drill.events) {
        let _infallible = writeln!(
            html,
            "<tr><td>{number}<td>t+{}<td>{}",
            seconds(event.at_ms),
            escaped(&event.what)
        );
    }
    html.push_str("</table>\n</html>\n");
    html
}

/// Canaries accepted (bars) and delivered (line) in each second, the failure shaded, events numbered.
fn chart(html: &mut String, drill: &Drill, report: &DrillReport) {
    let span = report
        .accepted_per_s
        .len()
        .max(report.delivered_per_s.len()) as u64;
    let last_event = drill
        .events
        .iter()
        .map(|event| event.at_ms / 1000 + 1)
        .max();
    let span = span.max(last_event.unwrap_or(0)).max(1);
    let counts = report.accepted_per_s.iter().chain(&report.delivered_per_s);
    let most = u64::from(counts.max().copied().unwrap_or(0)).max(1);
    let x = |ms: u64| LEFT as f64 + ms as f64 * (WIDTH - LEFT) as f64 / (span * 1000) as f64;
    let y = |count: u64| (ABOVE + HEIGHT) as f64 - (count * HEIGHT) as f64 / most as f64;
    let bottom = ABOVE + HEIGHT;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {}\" role=img aria-label=\"canaries accepted and delivered in each second\">",
        bottom + BELOW
    );
    let mut put = |text: String| svg.push_str(&text);
    if report.healed_ms > report.injected_ms {
        let (from, to) = (x(report.injected_ms), x(report.healed_ms));
        put(format!(
            "<rect class=shade x={from:.1} y={ABOVE} width={:.1} height={HEIGHT} />",
            to - from
        ));
    }
    for count in [0, most.div_ceil(2), most] {
        let at = y(count);
        put(format!(
            "<line class=axis x1={LEFT} x2={WIDTH} y1={at:.1} y2={at:.1} /><text x=4 y={:.1}>{count}</text>",
            at + 4.0
        ));
    }
    let step = (span / 10).max(1);
    for second in (0..=span).step_by(usize::try_from(step).unwrap_or(1)) {
        put(format!(
            "<text x={:.1} y={}>{second}s</text>",
            x(second * 1000),
            bottom + 16
        ));
    }
    for (second, count) in (0..).zip(&report.accepted_per_s) {
        let (left, right, top) = (
            x(second * 1000),
            x((second + 1) * 1000),
            y(u64::from(*count)),
        );
        put(format!(
            "<rect class=in x={left:.1} y={top:.1} width={:.1} height={:.1} />",
            (right - left - 1.0).max(0.5),
            bottom as f64 - top
        ));
    }
    let points: Vec<String> = (0..)
        .zip(&report.delivered_per_s)
        .map(|(second, count)| format!("{:.1},{:.1}", x(second * 1000 + 500), y(u64::from(*count))))
        .collect();
    put(format!(
        "<polyline class=out points=\"{}\" />",
        points.join(" ")
    ));
    for (number, event) in (1..).zip(&drill.events) {
        let at = x(event.at_ms);
        put(format!(
            "<line class=mark x1={at:.1} x2={at:.1} y1={ABOVE} y2={bottom} /><text x={:.1} y={}>{number}</text>",
            at - 3.0,
            // Two that happened at once stay apart.
            if number % 2 == 0 {
                ABOVE - 4
            } else {
                ABOVE - 15
            }
        ));
    }
    svg.push_str("</svg>\n");
    html.push_str(&svg);
    html.push_str(
        "<p class=soft><span class=key style=\"background:var(--in);margin-left:0\"></span>accepted a second\
         <span class=key style=\"background:var(--out)\"></span>delivered a second\
         <span class=key style=\"background:var(--shade)\"></span>the failure</p>\n",
    );
}

fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in output::plain(text).chars() {
        match c {
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '&' => safe.push_str("&amp;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use holdfast_proto::ledger::{DrillEvent, DrillVerdict};

    use super::*;

    #[test]
    fn a_report_is_one_page_without_scripts_and_says_what_was_measured() {
        let event = |at_ms, what: &str| DrillEvent {
            at_ms,
            what: what.to_owned(),
        };
        let drill = Drill {
            id: "01".to_owned(),
            kind: "leader-loss".to_owned(),
            nodes: vec!["<n1>".to_owned()],
            duration_ms: 3_000,
            events: vec![event(1_000, "n1: cut off"), event(2_100, "n2 leads")],
            report: Some(DrillReport {
                verdict: DrillVerdict::Passed.into(),
                why: "every canary arrived, once".to_owned(),
                injected_ms: 1_000,
                healed_ms: 4_000,
                leader_ms: Some(1_100),
                accepted_per_s: vec![5, 0, 5, 5],
                delivered_per_s: vec![5, 0, 0, 10],
                ..DrillReport::default()
            }),
            ..Drill::default()
        };
        let page = page(&drill);
        assert!(
            page.contains("PASSED: every canary arrived, once"),
            "{page}"
        );
        assert!(page.contains("of &lt;n1&gt;"), "{page}");
        assert!(page.contains("<dd>1.1s</dd>"), "{page}");
        assert_eq!(page.matches("<rect class=in").count(), 4);
        assert!(
            !page.contains("<script") && !page.contains("http"),
            "{page}"
        );
    }

    #[test]
    fn a_drill_that_measured_nothing_has_a_page_too() {
        let drill = Drill {
            report: Some(DrillReport::default()),
            ..Drill::default()
        };
        assert!(page(&drill).contains("UNKNOWN"));
    }
}
