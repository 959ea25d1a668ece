//! What differs from run to run is told by a name, so that the rest can be compared word by word.

use std::path::Path;

/// Numbers in JSON that say how fast or how large this machine is, or how far the log has come.
const NUMBERS: [&str; 14] = [
    "age_ms",
    "applied",
    "at_ms",
    "committed_entry",
    "disk_free_bytes",
    "disk_total_bytes",
    "entry",
    "from_entry",
    "last_entry",
    "last_log",
    "node_id",
    "rows",
    "rtt_micros",
    "term",
];

/// Sizes of mail, and none is none.
const SIZES: [&str; 2] = ["bytes", "held_bytes"];

/// What may be told or not, as it happens: how full this machine's disk is, and how often a primary was
/// found to be away meanwhile.
const PASSING: [&str; 3] = [
    "HoldfastDiskFilling",
    "the primary of example.org is away",
    "\"kind\":\"away\"",
];

/// Texts in JSON that are made up anew.
const TEXTS: [&str; 2] = ["password", "token"];

pub(crate) struct Masks {
    /// What is replaced wherever it stands, longest first.
    known: Vec<(String, String)>,
    /// Messages, and what is told in hexadecimal, in the order in which they were told.
    ids: Vec<String>,
    hexes: Vec<String>,
}

impl Masks {
    pub(crate) fn new(paths: &[(&Path, &str)]) -> Self {
        let known = paths
            .iter()
            .map(|(path, name)| (path.display().to_string(), (*name).to_owned()));
        Self {
            known: known.collect(),
            ids: Vec::new(),
            hexes: Vec::new(),
        }
    }

    /// What is meant by a line that names what is hidden.
    pub(crate) fn show(&self, line: &str) -> String {
        let mut line = line.to_owned();
        for (name, known) in [("ID", &self.ids), ("HEX", &self.hexes)] {
            for (at, text) in known.iter().enumerate().rev() {
                line = line.replace(&format!("{name}{}", at + 1), text);
            }
        }
        line
    }

    pub(crate) fn hide(&mut self, text: &str) -> String {
        let mut text = text.to_owned();
        for (known, name) in &self.known {
            text = text.replace(known, name);
        }
        for key in NUMBERS {
            text = after(&text, &format!("\"{key}\":"), |c| c.is_ascii_digit(), "N");
        }
        for key in SIZES {
            text = text.replace(&format!("\"{key}\":0"), &format!("\"{key}\":none"));
            text = after(&text, &format!("\"{key}\":"), |c| c.is_ascii_digit(), "N");
            text = text.replace(&format!("\"{key}\":none"), &format!("\"{key}\":0"));
        }
        for key in TEXTS {
            text = after(&text, &format!("\"{key}\":\""), |c| c != '"', "TEXT");
        }
        for word in ["entry ", "(term ", "uid "] {
            text = after(&text, word, |c| c.is_ascii_digit(), "N");
        }
        text = after(&text, "(shown once): ", |c| c != '\n', "TEXT");
        let of_token = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        text = after(&text, "\nholdfast_", of_token, "TEXT");
        text = after(&text, "holdfast1.", of_token, "TEXT");
        let is_lasting = |line: &&str| !PASSING.iter().any(|passing| line.contains(passing));
        let lines = text.lines().filter(is_lasting).map(|line| {
            let line = measured(&self.words(&somebody(line)));
            // Only data has columns.
            match line.starts_with("! ") {
                true => line.trim_end().to_owned(),
                false => spaced(&line),
            }
        });
        lines.map(|line| line + "\n").collect()
    }

    fn words(&mut self, line: &str) -> String {
        let mut hidden = String::new();
        let mut word = String::new();
        for c in line.chars() {
            if c.is_ascii_alphanumeric() || "-.:%".contains(c) {
                word.push(c);
            } else {
                hidden.push_str(&self.word(&word));
                hidden.push(c);
                word.clear();
            }
        }
        hidden + &self.word(&word)
    }

    fn word(&mut self, word: &str) -> String {
        let bare = word.trim_end_matches(['.', ':', '-']);
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let name = if is_message(bare) {
            format!("ID{}", known(&mut self.ids, bare))
        } else if bare.len() == 13 && digits(bare) {
            // Milliseconds since 1970.
            "TIME".to_owned()
        } else if bare.len() >= 16 && bare.bytes().all(hex) {
            format!("HEX{}", known(&mut self.hexes, bare))
        } else if is_time(bare) {
            "TIME".to_owned()
        } else if bare.len() == 7 && bare.starts_with("20") && bare.as_bytes()[4] == b'-' {
            "MONTH".to_owned()
        } else if bare.strip_suffix('%').is_some_and(digits) {
            "N%".to_owned()
        } else if is_moment(bare) {
            "SPAN".to_owned()
        } else if is_port(bare) {
            "127.0.0.1:PORT".to_owned()
        } else {
            bare.to_owned()
        };
        name + &word[bare.len()..]
    }
}

/// The number of a name among those that were told.
fn known(all: &mut Vec<String>, name: &str) -> usize {
    let at = all.iter().position(|it| it == name);
    at.unwrap_or_else(|| {
        all.push(name.to_owned());
        all.len() - 1
    }) + 1
}

/// Whoever runs this test, as a node calls them.
fn somebody(line: &str) -> String {
    let Some((before, after)) = line.split_once(" (uid ") else {
        return line.to_owned();
    };
    let name = before.rfind([' ', '(', '"']).map_or(0, |at| at + 1);
    format!("{}SOMEBODY (uid {after}", &before[..name])
}

/// Sizes differ with the date in a message's header, and times with all else.
fn measured(line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    let mut told = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let unit = words
            .get(at + 1)
            .map(|unit| unit.trim_end_matches([',', '.', ':', ';']));
        let is_size = *word != "0" && word.parse::<f64>().is_ok();
        let is_size = is_size && matches!(unit, Some("B" | "ms" | "rows"));
        told.push(if is_size { "N" } else { word });
    }
    told.join(" ")
}

/// One that was free when the node began.
fn is_port(word: &str) -> bool {
    let port = word
        .strip_prefix("127.0.0.1:")
        .and_then(|it| it.parse::<u16>().ok());
    port.is_some_and(|port| port > 1024)
}

/// Columns are as wide as what is hidden in them.
fn spaced(line: &str) -> String {
    let told = line.trim_start();
    let mut spaced = line[..line.len() - told.len()].to_owned();
    let words = told.split("  ").filter(|word| !word.is_empty());
    let words: Vec<&str> = words.map(str::trim).collect();
    spaced.push_str(&words.join("  "));
    spaced
}

/// Replaces the run of such characters behind each `before`.
fn after(text: &str, before: &str, is_of: impl Fn(char) -> bool, name: &str) -> String {
    let mut pieces = text.split(before);
    let mut told = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let rest = piece.trim_start_matches(&is_of);
        told.push_str(before);
        if rest.len() < piece.len() {
            told.push_str(name);
        }
        told.push_str(rest);
    }
    told
}

/// A ULID.
fn is_message(word: &str) -> bool {
    word.len() == 26
        && word.starts_with('0')
        && word
            .bytes()
            .all(|b| b.is_ascii_digit() || b.is_ascii_uppercase())
}

/// RFC 3339, and not the beginning of all time: that was none.
fn is_time(word: &str) -> bool {
    word.len() >= 20 && word.ends_with('Z') && word.starts_with("20") && word.as_bytes()[10] == b'T'
}

/// An age or a wait of this run, not a span that somebody set: less than five minutes.
fn is_moment(word: &str) -> bool {
    let Some(text) = word.strip_suffix('s') else {
        return word == "23h59m";
    };
    let (minutes, seconds) = text.split_once('m').unwrap_or(("0", text));
    minutes.parse::<u8>().is_ok_and(|it| it < 5) && seconds.parse::<u8>().is_ok_and(|it| it < 60)
}
