//! The figures of both, and their ratios.

use std::collections::BTreeMap;

/// Which way a figure is good.
#[derive(Clone, Copy)]
pub(crate) enum Better {
    More,
    Less,
}

#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

struct Row {
    what: String,
    better: Better,
    figures: BTreeMap<String, Vec<f64>>,
}

impl Row {
    fn median(&self, of: &str) -> f64 {
        let mut figures = self.figures.get(of).cloned().unwrap_or_default();
        figures.sort_by(f64::total_cmp);
        figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// How many times better Holdfast is: above 1 it wins.
    fn ratio(&self) -> f64 {
        let ratio = self.median("holdfast") / self.median("postfix");
        match self.better {
            Better::More => ratio,
            Better::Less => 1.0 / ratio,
        }
    }
}

impl Report {
    pub(crate) fn add(&mut self, what: &str, better: Better, of: &str, figure: f64) {
        eprintln!("  {of}: {what}: {figure:.2}");
        let at = self.rows.iter().position(|row| row.what == what);
        let at = at.unwrap_or_else(|| {
            self.rows.push(Row {
                what: what.into(),
                better,
                figures: BTreeMap::new(),
            });
            self.rows.len() - 1
        });
        self.rows[at]
            .figures
            .entry(of.into())
            .or_default()
            .push(figure);
    }

    pub(crate) fn table(&self) -> String {
        let mut lines = vec![format!(
            "{:<58} {:>10} {:>10} {:>8}",
            "median", "holdfast", "postfix", "better"
        )];
        lines.extend(self.rows.iter().map(|row| {
            let (ours, theirs) = (row.median("holdfast"), row.median("postfix"));
            format!(
                "{:<58} {ours:>10.2} {theirs:>10.2} {:>7.2}x",
                row.what,
                row.ratio()
            )
        }));
        lines.join("\n")
    }

    pub(crate) fn json(&self) -> String {
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|row| {
                serde_json::json!({
                    "what": row.what,
                    "holdfast": row.median("holdfast"),
                    "postfix": row.median("postfix"),
                    "times_better": row.ratio(),
                    "rounds": row.figures,
                })
            })
            .collect();
        serde_json::json!({"schema": "holdfast.bench/v1", "figures": rows}).to_string()
    }
}
