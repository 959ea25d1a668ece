//! Money as people write it: `12.50 EUR`. Inside it is counted in the currency's smallest unit.

/// Currencies without a smaller unit, and those with one of a thousandth (ISO 4217); all others
/// have one of a hundredth.
const WITHOUT_DECIMALS: [&str; 16] = [
    "BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "VND", "VUV",
    "XAF", "XOF", "XPF",
];
const WITH_THREE_DECIMALS: [&str; 7] = ["BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Money {
    /// ISO 4217.
    pub(crate) currency: String,
    /// Smallest units.
    pub(crate) minor: u64,
}

pub(crate) fn parse(text: &str) -> Result<Money, String> {
    const WRONG: &str = "not an amount of money such as \"12.50 EUR\"";
    let amount = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let currency = text[amount.len()..].to_ascii_uppercase();
    if currency.len() != 3 {
        return Err(WRONG.to_owned());
    }
    let amount = amount.strip_suffix(' ').unwrap_or(amount);
    let (whole, part) = amount.split_once('.').unwrap_or((amount, ""));
    let decimals = decimals(&currency);
    if part.len() > decimals {
        return Err(format!("{currency} has {decimals} decimals at most"));
    }
    let digits = format!("{whole}{part:0<decimals$}");
    let is_plain = !whole.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    match digits.parse() {
        Ok(minor) if is_plain && !amount.ends_with('.') => Ok(Money { currency, minor }),
        _ => Err(WRONG.to_owned()),
    }
}

/// `12.50`
pub(crate) fn decimal(minor: u128, currency: &str) -> String {
    let decimals = decimals(currency);
    let digits = format!("{minor:0>width$}", width = decimals + 1);
    let (whole, part) = digits.split_at(digits.len() - decimals);
    if part.is_empty() {
        whole.to_owned()
    } else {
        format!("{whole}.{part}")
    }
}

/// `12.50 EUR`
pub(crate) fn amount(minor: u64, currency: &str) -> String {
    format!("{} {currency}", decimal(minor.into(), currency))
}

fn decimals(currency: &str) -> usize {
    if WITHOUT_DECIMALS.contains(&currency) {
        0
    } else if WITH_THREE_DECIMALS.contains(&currency) {
        3
    } else {
        2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_read_and_written_to_the_last_coin() {
        let cases = [
            ("12.50 EUR", 1250, "12.50 EUR"),
            ("12.5eur", 1250, "12.50 EUR"),
            ("12 EUR", 1200, "12.00 EUR"),
            ("0.07 USD", 7, "0.07 USD"),
            ("900 JPY", 900, "900 JPY"),
            ("1.005 KWD", 1005, "1.005 KWD"),
            ("0 CHF", 0, "0.00 CHF"),
        ];
        for (text, minor, written) in cases {
            let money = parse(text).unwrap();
            assert_eq!(money.minor, minor, "{text}");
            assert_eq!(amount(minor, &money.currency), written);
        }
        for text in [
            "",
            "EUR",
            "12",
            "12.505 EUR",
            "1.5 JPY",
            "-1 EUR",
            "+1 EUR",
            ".5 EUR",
            "1. EUR",
            "1,50 EUR",
            "12 EURO",
            "1 2 EUR",
            "99999999999999999999 EUR",
            "1.-5 EUR",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
