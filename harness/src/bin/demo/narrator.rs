//! What the demo prints: short lines with the time since the start, a table, diffs.

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

/// stdout, as long as somebody reads it.
#[derive(Debug)]
pub struct Narrator {
    began: Instant,
    problems: Vec<String>,
}

impl Narrator {
    /// Starts the clock.
    pub fn new() -> Self {
        Self { began: Instant::now(), problems: Vec::new() }
    }

    /// One thing that happened.
    pub fn say(&self, what: &str) {
        self.plain(&format!("{:6.1}s  {what}", self.began.elapsed().as_secs_f64()));
    }

    /// Lines as they are.
    pub fn plain(&self, text: &str) {
        let _ = writeln!(std::io::stdout(), "{text}");
    }

    /// Something that should have happened and did not: the demo goes on and fails at its end.
    pub fn expect(&mut self, holds: bool, what: &str) {
        if !holds {
            self.say(&format!("NOT AS IT SHOULD BE: {what}"));
            self.problems.push(what.to_owned());
        }
    }

    /// What did not happen as it should.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// Since the start.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Columns as wide as their widest cell.
    pub fn table(&self, rows: &[Vec<String>]) {
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
        };
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        for row in rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            let line = cells.collect::<Vec<_>>().join("  ");
            self.plain(line.trim_end());
        }
    }
}
