//! Samples, and the table they end in.

use std::{fmt, time::Duration};

/// Measurements of one thing, in milliseconds.
#[derive(Debug, Default)]
pub struct Samples {
    milliseconds: Vec<f64>,
}

impl Samples {
    /// One more.
    pub fn add(&mut self, took: Duration) {
        self.milliseconds.push(took.as_secs_f64() * 1e3);
    }
}

impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.milliseconds.clone();
        sorted.sort_by(f64::total_cmp);
        let (Some(least), Some(most)) = (sorted.first(), sorted.last()) else { return f.write_str("-") };
        let median = sorted[sorted.len() / 2];
        write!(f, "{median:.2} ms ({least:.2}-{most:.2}, {})", sorted.len())
    }
}

/// What is printed at the end.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<[String; 3]>,
}

impl Table {
    /// A figure and what it is compared with; an empty baseline where there is none.
    pub fn row(&mut self, name: &str, figure: &impl ToString, baseline: &impl ToString) {
        self.rows.push([name.to_owned(), figure.to_string(), baseline.to_string()]);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width =
            |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let (first, second) = (width(0), width(1).max("muster".len()));
        writeln!(f, "{:first$}  {:second$}  baseline, same run", "", "muster")?;
        for [name, figure, baseline] in &self.rows {
            writeln!(f, "{}", format!("{name:first$}  {figure:second$}  {baseline}").trim_end())?;
        }
        Ok(())
    }
}

/// `12/s`.
#[allow(clippy::cast_precision_loss, reason = "thousands")]
pub fn per_second(count: usize, took: Duration) -> String {
    format!("{:.0}/s", count as f64 / took.as_secs_f64())
}

/// `12 MB/s`.
#[allow(clippy::cast_precision_loss, reason = "gigabytes stay far below 2^52")]
pub fn megabytes_a_second(bytes: u64, took: Duration) -> String {
    format!("{:.0} MB/s", bytes as f64 / took.as_secs_f64() / 1e6)
}
