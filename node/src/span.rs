//! How long something takes, for people to read.

use std::time::Duration;

/// `5d`, `1h30m`: the two largest units.
#[must_use]
pub(crate) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let units = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];
    let at = units
        .iter()
        .position(|(_, size)| seconds >= *size)
        .unwrap_or(3);
    let (name, size) = units[at];
    let rest = units
        .get(at + 1)
        .map_or(0, |(_, next)| seconds % size / next);
    match units.get(at + 1) {
        Some((next, _)) if rest > 0 => format!("{}{name}{rest}{next}", seconds / size),
        _ => format!("{}{name}", seconds / size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units_at_most() {
        for (seconds, text) in [(0, "0s"), (90, "1m30s"), (3600, "1h"), (90_061, "1d1h")] {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }
}
