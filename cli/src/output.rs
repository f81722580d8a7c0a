//! Everything the process prints goes through here: tables, JSON, streams on stdout; errors and notes on
//! stderr.
//!
//! Called by every command. Invariants: what came from a session reaches a terminal only after [`show::line`]
//! or [`show::block`] took the control characters out; a reader that leaves early (`| head`) ends the command
//! in silence.

use std::io::{self, IsTerminal as _, Write as _};

use comfy_table::{Attribute, Cell as TableCell, Color, ColumnConstraint, ContentArrangement, presets};
use muster_runtime::task;
use serde_json::Value;

use crate::{
    failure::{Exit, Failure},
    show,
};

/// Width for a terminal that does not tell its own.
const DEFAULT_SIZE: (u16, u16) = (100, 24);

/// Between columns.
const PADDING: u16 = 2;
/// What the last column needs at least to say anything, in characters.
const LAST_COLUMN: usize = 24;

/// What a cell says about its row, shown as a colour where there are colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tone {
    /// Nothing to remark.
    #[default]
    Plain,
    /// Going well.
    Good,
    /// Somebody should look.
    Asks,
    /// Went wrong.
    Bad,
    /// Past or secondary.
    Faint,
}

/// One value of a table: for people on a terminal, for programs otherwise.
#[derive(Debug, Clone, Default)]
pub struct Cell {
    shown: String,
    plain: Option<String>,
    tone: Tone,
}

impl Cell {
    /// A value that looks the same to both. Control characters are taken out.
    pub fn new(text: &str) -> Self {
        Self { shown: show::line(text), plain: None, tone: Tone::Plain }
    }

    /// What programs get instead: exact where people get a summary.
    pub fn plain(mut self, text: &str) -> Self {
        self.plain = Some(show::line(text));
        self
    }

    /// What it says about its row.
    pub fn tone(mut self, tone: Tone) -> Self {
        self.tone = tone;
        self
    }
}

/// Rows under headings. The last column takes the room that is left and is cut there.
#[derive(Debug, Clone)]
pub struct Table {
    headings: &'static [&'static str],
    /// Columns a narrow screen can do without, the least wanted first.
    optional: &'static [usize],
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// An empty one.
    pub const fn new(headings: &'static [&'static str]) -> Self {
        Self { headings, optional: &[], rows: Vec::new() }
    }

    /// Columns that a narrow screen can do without, the least wanted first.
    pub const fn optional(mut self, columns: &'static [usize]) -> Self {
        self.optional = columns;
        self
    }

    /// Adds a row; it has as many cells as there are headings.
    pub fn row(&mut self, cells: Vec<Cell>) {
        debug_assert_eq!(cells.len(), self.headings.len());
        self.rows.push(cells);
    }

    /// For programs: no headings, one row a line, tabs between, nothing cut.
    pub fn to_columns(&self) -> String {
        let mut text = String::new();
        for row in &self.rows {
            let cells: Vec<&str> =
                row.iter().map(|cell| cell.plain.as_deref().unwrap_or(&cell.shown)).collect();
            text.push_str(&cells.join("\t"));
            text.push('\n');
        }
        text
    }

    /// For people: aligned, in colour when `colour`, no line longer than `width`. Columns without a
    /// value are left out, then optional ones until the last has room; that one is cut first.
    pub fn to_screen(&self, width: u16, colour: bool) -> String {
        let columns = self.columns_that_fit(width);
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING);
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        // No word ends a line early: a cell has one line, and every character of it counts.
        table.set_truncation_indicator("…").set_delimiter('\0');
        if colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        let heading = |index: &usize| style(TableCell::new(self.headings[*index]), Tone::Faint);
        table.set_header(columns.iter().map(heading));
        for row in &self.rows {
            let cell = |index: &usize| style(TableCell::new(&row[*index].shown), row[*index].tone);
            let mut cells = comfy_table::Row::from(columns.iter().map(cell).collect::<Vec<_>>());
            cells.max_height(1);
            table.add_row(cells);
        }
        let keep = self.width_of(&columns) <= usize::from(width);
        for (place, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, PADDING));
            if keep && place + 1 < columns.len() {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        let mut text = table.trim_fmt();
        text.push('\n');
        text
    }

    fn columns_that_fit(&self, width: u16) -> Vec<usize> {
        let has_value = |index: &usize| self.rows.iter().any(|row| !row[*index].shown.is_empty());
        let last = self.headings.len() - 1;
        let mut columns: Vec<usize> = (0..=last).filter(|index| *index == last || has_value(index)).collect();
        for optional in self.optional {
            if self.width_of(&columns) > usize::from(width) {
                columns.retain(|index| index != optional);
            }
        }
        columns
    }

    /// What the columns take when only the last one is cut, as far as it can be.
    fn width_of(&self, columns: &[usize]) -> usize {
        let content = |index: &usize| {
            let cells = self.rows.iter().map(|row| row[*index].shown.chars().count());
            cells.chain([self.headings[*index].chars().count()]).max().unwrap_or(0)
        };
        let Some((last, others)) = columns.split_last() else { return 0 };
        let padding = usize::from(PADDING);
        others.iter().map(|index| content(index) + padding).sum::<usize>()
            + content(last).min(LAST_COLUMN)
            + padding
    }
}

fn style(cell: TableCell, tone: Tone) -> TableCell {
    match tone {
        Tone::Plain => cell,
        Tone::Good => cell.fg(Color::Green),
        Tone::Asks => cell.fg(Color::Yellow).add_attribute(Attribute::Bold),
        Tone::Bad => cell.fg(Color::Red),
        Tone::Faint => cell.add_attribute(Attribute::Dim),
    }
}

/// Where a command's results go and how.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// Results are JSON.
    pub json: bool,
    /// stdout is a terminal.
    pub terminal: bool,
    /// Colours may be used.
    pub colour: bool,
}

impl Output {
    /// Looks at stdout and the environment.
    pub fn new(json: bool) -> Self {
        let terminal = io::stdout().is_terminal();
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { json, terminal, colour: terminal && !unwanted }
    }

    /// Columns and rows of the terminal.
    pub fn size() -> (u16, u16) {
        terminal_size::terminal_size().map_or(DEFAULT_SIZE, |(width, height)| (width.0, height.0))
    }

    /// A line of our own words. Text from a session goes through [`show::line`] first.
    pub fn line(self, text: &str) -> Result<(), Failure> {
        self.bytes(format!("{text}\n").as_bytes())
    }

    /// Bytes as they are, at once.
    pub fn bytes(self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| lost(&error))
    }

    /// The same beside the runtime: a terminal that is held (Ctrl-S, a stalled connection) takes nothing for as
    /// long as it likes, and its reader must still be able to leave.
    pub async fn write(self, text: String) -> Result<(), Failure> {
        task::spawn_blocking("stdout", move || self.bytes(text.as_bytes()))
            .await
            .unwrap_or_else(|error| Err(Failure::new(Exit::Failed, "stdout is lost").caused_by(&error)))
    }

    /// One JSON document: indented on a terminal, else on one line.
    pub fn document(self, value: &Value) -> Result<(), Failure> {
        let text = if self.terminal { format!("{value:#}") } else { value.to_string() };
        self.line(&text)
    }

    /// A table in the form that suits stdout.
    pub fn table(self, table: &Table) -> Result<(), Failure> {
        let text =
            if self.terminal { table.to_screen(Self::size().0, self.colour) } else { table.to_columns() };
        self.bytes(text.as_bytes())
    }

    /// Something a person at a terminal wants to know beside the result; programs never see it.
    pub fn note(self, text: &str) {
        if self.terminal && !self.json {
            stderr_line(text);
        }
    }
}

/// Prints a failure to stderr as `error:`, `caused by:`, `hint:`.
pub fn report(failure: &Failure) {
    if failure.what.is_empty() {
        return;
    }
    let mut text = format!("error: {}", show::block(&failure.what).trim_end());
    for cause in &failure.causes {
        text.push_str(&format!("\n  caused by: {}", show::line(cause)));
    }
    if !failure.hint.is_empty() {
        text.push_str(&format!("\n  hint: {}", show::line(&failure.hint)));
    }
    stderr_line(&text);
}

/// A line on stderr. Nobody can be told when stderr itself is gone.
pub fn stderr_line(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

fn lost(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        Failure::silent(Exit::Ok)
    } else {
        Failure::new(Exit::Failed, "stdout cannot be written").caused_by(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["SESSION", "STATUS", "LAST"]);
        let nasty = "runs \u{1b}[31mrm\u{7}\nand then something rather long that has no room";
        table.row(vec![
            Cell::new("fix-login-7k2p9x"),
            Cell::new("working").tone(Tone::Good).plain("WORKING"),
            Cell::new(nasty),
        ]);
        table
    }

    #[test]
    fn on_a_screen_no_line_is_longer_than_the_screen_and_no_control_character_passes() {
        let text = table().to_screen(50, false);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 50), "{text}");
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        assert!(text.contains('…'), "{text}");
    }

    #[test]
    fn a_narrow_screen_leaves_out_what_matters_less_before_it_cuts_a_handle() {
        let mut table = Table::new(&["SESSION", "WORKER", "COST", "WHAT"]).optional(&[1]);
        let what = "one two three four five six seven eight nine";
        table.row(vec![
            Cell::new("fix-login-7k2p9x"),
            Cell::new("build-07"),
            Cell::default(),
            Cell::new(what),
        ]);
        let wide = table.to_screen(100, false);
        assert!(wide.contains("build-07") && wide.contains("nine") && !wide.contains("COST"), "{wide}");
        let narrow = table.to_screen(48, false);
        assert!(!narrow.contains("build-07"), "{narrow}");
        assert!(narrow.contains("fix-login-7k2p9x  one two three four five si"), "{narrow}");
    }

    #[test]
    fn colours_come_only_when_asked_for() {
        assert!(table().to_screen(80, true).contains("\u{1b}["));
    }

    #[test]
    fn columns_are_whole_and_tabbed() {
        assert_eq!(
            table().to_columns(),
            "fix-login-7k2p9x\tWORKING\truns rm and then something rather long that has no room\n"
        );
    }
}
