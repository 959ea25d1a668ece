//! What `--help` says of every command, as one text: help.txt.

use std::process::Command;

use crate::alone::text;
use crate::golden;

/// What every command takes is told once.
const GLOBAL: &str = "\nOptions for every command:\n";

#[test]
fn the_help_of_every_command_is_as_it_was_read_and_found_good() {
    let first = Page::of(&[]);
    let mut all = format!("$ holdfast --help\n{}", help(&[]));
    below(&first, &mut Vec::new(), &mut all);
    golden::is_as_in("help.txt", &all);
}

/// The commands below one, in the order in which it names them.
fn below(page: &Page, path: &mut Vec<String>, all: &mut String) {
    for name in page.commands() {
        path.push(name);
        let inner = Page::of(path);
        assert_eq!(inner.global, page.global, "{path:?}");
        all.push_str(&inner.told(path));
        below(&inner, path, all);
        path.pop();
    }
}

/// What one command says of itself.
struct Page {
    /// What is of this command alone.
    own: String,
    /// What is of every command, word by word.
    global: String,
    /// Examples.
    end: String,
}

impl Page {
    fn of(path: &[String]) -> Self {
        let help = help(path);
        let (own, rest) = help
            .split_once(GLOBAL)
            .expect("the options of every command");
        // What comes last is headed so.
        let end = ["\n\nExample", "\n\nExit codes"]
            .iter()
            .find_map(|head| rest.find(head));
        let (global, end) = rest.split_at(end.unwrap_or(rest.len()));
        Self {
            own: own.to_owned(),
            // Where there is much to say, they stand further apart.
            global: global.split_whitespace().collect::<Vec<_>>().join(" "),
            end: end.trim_start().to_owned(),
        }
    }

    fn told(&self, path: &[String]) -> String {
        let words = [path, &["--help".to_owned()]].concat().join(" ");
        let end = match self.end.as_str() {
            "" => String::new(),
            end => format!("\n{end}"),
        };
        format!("\n$ holdfast {words}\n{}{end}", self.own)
    }

    /// The names in the list that is headed so.
    fn commands(&self) -> Vec<String> {
        let list = self.own.split("\nCommands:\n").nth(1).unwrap_or_default();
        list.lines()
            .take_while(|line| !line.is_empty())
            // What goes on in a second line stands further in.
            .filter_map(|line| line.strip_prefix("  ").filter(|it| !it.starts_with(' ')))
            .filter_map(|line| line.split_whitespace().next())
            .filter(|name| *name != "help")
            .map(str::to_owned)
            .collect()
    }
}

fn help(path: &[String]) -> String {
    let ran = Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(path)
        .arg("--help")
        .env_remove("COLUMNS")
        .output()
        .expect("the binary runs");
    assert!(ran.status.success() && ran.stderr.is_empty(), "{path:?}");
    let help = text(&ran.stdout);
    let wide = help.lines().find(|line| line.chars().count() > 100);
    assert_eq!(wide, None, "{path:?}");
    help
}
