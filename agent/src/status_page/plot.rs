//! The plots of the page, as SVG that is part of it.

use std::fmt::Write as _;

use super::html::{Text, time};
use crate::explain::overview::Identity;

/// How long each identity's SVID still lives: a bar for each, on one scale. The first of them only, since they are in the
/// order of their expiry.
pub(super) fn expiry(page: &mut String, identities: &[Identity]) {
    let living: Vec<(&Identity, f64, f64)> = identities
        .iter()
        .filter_map(|one| Some((one, one.left_seconds?.max(0.0), one.life_seconds?.max(1.0))))
        .take(BARS)
        .collect();
    let Some(longest) = living.iter().map(|(_, _, life)| *life).reduce(f64::max) else {
        page.push_str("<p>There is no SVID.</p>\n");
        return;
    };
    let height = living.len() * ROW + AXIS;
    let _ = writeln!(
        page,
        "<svg viewBox=\"0 0 800 {height}\" role=\"img\" aria-label=\"Remaining life of each SVID\">"
    );
    for (place, (identity, left, life)) in living.iter().enumerate() {
        let y = place * ROW;
        let (left_width, life_width) = (WIDTH * left / longest, WIDTH * life / longest);
        let name = name(&identity.spiffe_id);
        let _ = writeln!(
            page,
            "<text x=\"{NAMES}\" y=\"{}\" class=\"name\">{}</text>\
             <rect class=\"life\" x=\"{START}\" y=\"{}\" width=\"{life_width:.1}\" height=\"12\" rx=\"2\"/>\
             <rect class=\"{}\" x=\"{START}\" y=\"{}\" width=\"{left_width:.1}\" height=\"12\" rx=\"2\">\
             <title>{}: {} left</title></rect>",
            y + 13,
            Text(&name),
            y + 3,
            if left / life < LATE { "late" } else { "left" },
            y + 3,
            Text(&identity.spiffe_id),
            time(*left)
        );
    }
    axis(
        page,
        living.len() * ROW,
        &[(0.0, "now".to_owned()), (0.5, time(longest / 2.0)), (1.0, time(longest))],
    );
    page.push_str("</svg>\n");
    if identities.len() > living.len() {
        let _ = writeln!(page, "<p>The first {} of {}.</p>", living.len(), identities.len());
    }
}

/// How many responses were accepted within each time.
pub(super) fn acks(page: &mut String, acks: &[(Option<f64>, u64)]) {
    let most = acks.iter().map(|(_, count)| *count).max().unwrap_or_default();
    if most == 0 {
        page.push_str("<p>Nothing was pushed yet.</p>\n");
        return;
    }
    page.push_str(
        "<svg viewBox=\"0 0 800 170\" role=\"img\" aria-label=\"Responses by the time to their ACK\">\n",
    );
    #[expect(clippy::cast_precision_loss, reason = "counts are small")]
    for (place, (bound, count)) in acks.iter().enumerate() {
        let step = 760.0 / acks.len() as f64;
        let (x, height) = (20.0 + step * place as f64, 110.0 * *count as f64 / most as f64);
        let label = match bound {
            None => "more".to_owned(),
            Some(bound) if *bound >= 1.0 => format!("{bound} s"),
            Some(bound) => format!("{} ms", bound * 1000.0),
        };
        let _ = writeln!(
            page,
            "<rect class=\"left\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\"><title>{count}</title></rect>\
             <text x=\"{:.1}\" y=\"150\" class=\"tick\">{label}</text>",
            x + 3.0,
            130.0 - height,
            step - 6.0,
            x + step / 2.0
        );
        if *count > 0 {
            let _ = writeln!(
                page,
                "<text x=\"{:.1}\" y=\"{:.1}\" class=\"tick\">{count}</text>",
                x + step / 2.0,
                124.0 - height
            );
        }
    }
    page.push_str("</svg>\n");
}

fn axis(page: &mut String, y: usize, ticks: &[(f64, String)]) {
    for (place, label) in ticks {
        let x = START + WIDTH * place;
        let anchor = if *place < 0.1 {
            "start"
        } else if *place > 0.9 {
            "end"
        } else {
            "middle"
        };
        let _ = writeln!(
            page,
            "<text x=\"{x:.1}\" y=\"{}\" class=\"tick\" text-anchor=\"{anchor}\">{label}</text>",
            y + 16
        );
    }
}

/// The end of a SPIFFE ID, which tells it from its neighbours.
fn name(spiffe_id: &str) -> String {
    let count = spiffe_id.chars().count();
    if count <= LETTERS {
        return spiffe_id.to_owned();
    }
    let tail: String = spiffe_id.chars().skip(count - LETTERS + 1).collect();
    format!("…{tail}")
}

/// The most bars.
const BARS: usize = 40;
/// The height of a bar's row and of the axis, in the units of the picture.
const ROW: usize = 18;
const AXIS: usize = 24;
/// Where names end, where bars start and how long the longest is.
const NAMES: f64 = 270.0;
const START: f64 = 280.0;
const WIDTH: f64 = 510.0;
/// The letters of a name that fit.
const LETTERS: usize = 40;
/// Below this part of its life an SVID should have been renewed.
const LATE: f64 = 0.25;
