//! Pages of output: which lines fit, where the next page begins.
//!
//! Invariant: every page either moves its cursor forward or is at the end of what there is, so that no reader
//! loops for ever, however long a line is.

use std::collections::VecDeque;

use muster_proto::error::Error;
use serde_json::Value;

use crate::{
    controller::{Controller, Span},
    render::{
        Transcript, cut_middle, events, json_len,
        lines::{Line, Lines},
    },
};

/// Most bytes looked through for one page. Output that says nothing to a reader can be long.
pub(super) const SCAN_BYTES: u64 = 32 << 20;
/// How far back the first look for an end goes; further when that holds no whole line.
const TAIL_BYTES: u64 = 2 << 20;

/// What the note of a cut adds to a line, in characters at most.
const CUT_NOTE: usize = 80;

/// What lines become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    Text,
    Events,
}

/// What one line became.
#[derive(Debug)]
enum Item {
    Text(String),
    Event(Value),
}

impl Item {
    /// What it takes of a page's `max_chars`: its characters, or half its bytes as JSON where those are
    /// many, so that a page has at most twice as many bytes.
    fn weight(&self) -> usize {
        match self {
            Self::Text(text) => text.chars().count().max(json_len(text).div_ceil(2)),
            Self::Event(event) => event.to_string().len(),
        }
    }
}

/// Renders lines of either kind.
enum Renderer {
    Text(Box<Transcript>),
    Events,
}

impl Renderer {
    fn new(content: Content) -> Self {
        match content {
            Content::Text => Self::Text(Box::default()),
            Content::Events => Self::Events,
        }
    }

    fn line(&mut self, line: &Line<'_>) -> Option<Item> {
        match self {
            Self::Text(transcript) => {
                Some(transcript.line(line)).filter(|text| !text.is_empty()).map(Item::Text)
            }
            Self::Events => events::thinned(line).map(Item::Event),
        }
    }
}

/// A part of the output.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) text: String,
    pub(super) events: Vec<Value>,
    /// Offset of the first line in it.
    pub(super) start: u64,
    /// Offset the next page begins at.
    pub(super) next: u64,
    /// There is more after it.
    pub(super) more: bool,
    /// Something before it was left out.
    pub(super) omitted_before: bool,
    /// A line in it was too long for a page and is cut in its middle.
    pub(super) line_cut: bool,
    /// The session has ended and this page reaches the end of its output.
    pub(super) eof: bool,
}

/// What to read, for a page.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) controller: &'a Controller,
    pub(super) session: &'a str,
    pub(super) content: Content,
    pub(super) max_chars: usize,
    /// What the controller held when the call began.
    pub(super) end: u64,
    /// The session has ended, as far as its record says.
    pub(super) ended: bool,
}

impl<'a> Source<'a> {
    const fn span(&self, from: u64, limit: u64) -> Span<'a> {
        Span { session: self.session, from, limit, to_the_end: self.ended }
    }
}

/// The page that begins at `from`.
pub(super) async fn forward(source: Source<'_>, from: u64) -> Result<Page, Error> {
    let mut page = Page { start: from, next: from, ..Page::default() };
    let mut renderer = Renderer::new(source.content);
    let mut lines = Lines::starting_at(from);
    let mut room = source.max_chars;
    let mut take =
        |page: &mut Page, line: &Line<'_>| fill(page, &mut renderer, line, &mut room, source.max_chars);
    let read = source
        .controller
        .read(source.span(from, SCAN_BYTES), |bytes| lines.push(bytes, |line| take(&mut page, line)));
    let ended = read.await?;
    if !page.more {
        if ended {
            lines.finish(|line| take(&mut page, line));
        }
        // Lines that say nothing are behind us too; an unfinished one is not.
        page.next = page.next.max(lines.border());
        page.more = page.next < source.end && !ended && page.next - from >= SCAN_BYTES / 2;
        page.eof = ended && !page.more;
    }
    Ok(page)
}

/// Puts a line into the page. False when the page is full.
fn fill(page: &mut Page, renderer: &mut Renderer, line: &Line<'_>, room: &mut usize, max: usize) -> bool {
    let Some(item) = renderer.line(line) else {
        page.next = line.end;
        return true;
    };
    let chars = item.weight();
    let empty = page.text.is_empty() && page.events.is_empty();
    if chars > *room && !empty {
        page.more = true;
        return false;
    }
    let item = if chars > *room { shortened(item, max, &mut page.line_cut) } else { item };
    *room = room.saturating_sub(chars);
    page.next = line.end;
    append(page, item);
    true
}

fn shortened(item: Item, max: usize, cut: &mut bool) -> Item {
    *cut = true;
    match item {
        Item::Text(text) => {
            let mut room = max;
            loop {
                let item = Item::Text(format!("{}\n", cut_middle(text.trim_end(), room)));
                if item.weight() <= max + CUT_NOTE || room < 8 {
                    return item;
                }
                room -= room / 4;
            }
        }
        Item::Event(mut event) => {
            let mut room = max / 4;
            // Strings are shortened until the whole fits; a handful of rounds, each a quarter of the one
            // before.
            while event.to_string().len() > max && room > 8 {
                crate::render::attention::shorten(&mut event, room);
                room /= 4;
            }
            Item::Event(event)
        }
    }
}

fn append(page: &mut Page, item: Item) {
    match item {
        Item::Text(text) => page.text.push_str(&text),
        Item::Event(event) => page.events.push(event),
    }
}

/// The last lines: as many as fit, and no more than `tail_lines` of them when that is given.
pub(super) async fn tail(source: Source<'_>, tail_lines: Option<usize>) -> Result<Page, Error> {
    let mut window = TAIL_BYTES;
    loop {
        let from = source.end.saturating_sub(window);
        let page = tail_from(source, from, tail_lines).await?;
        let found = !page.text.is_empty() || !page.events.is_empty();
        let enough =
            found && tail_lines.is_none_or(|lines| page.text.lines().count().max(page.events.len()) >= lines);
        if enough || from == 0 || window >= SCAN_BYTES || (found && page.more) {
            return Ok(page);
        }
        window *= 4;
    }
}

async fn tail_from(source: Source<'_>, from: u64, tail_lines: Option<usize>) -> Result<Page, Error> {
    let mut kept: VecDeque<(u64, Item)> = VecDeque::new();
    let mut chars = 0;
    let mut page = Page { start: from, next: from, omitted_before: from > 0, ..Page::default() };
    let mut renderer = Renderer::new(source.content);
    let mut lines = Lines::starting_at(from);
    // A window begins anywhere in a line: what is before the first border belongs to the page before.
    let mut fragment = from > 0;
    let mut take = |page: &mut Page, line: &Line<'_>| {
        page.next = line.end;
        if std::mem::take(&mut fragment) {
            page.start = line.end;
            return true;
        }
        let Some(item) = renderer.line(line) else { return true };
        let item = if item.weight() > source.max_chars {
            shortened(item, source.max_chars, &mut page.line_cut)
        } else {
            item
        };
        chars += item.weight();
        kept.push_back((line.start, item));
        while chars > source.max_chars && kept.len() > 1 {
            if let Some((_, first)) = kept.pop_front() {
                chars -= first.weight();
                page.omitted_before = true;
                page.more = true;
            }
        }
        true
    };
    let limit = source.end.saturating_sub(from) + SCAN_BYTES;
    let read = source
        .controller
        .read(source.span(from, limit), |bytes| lines.push(bytes, |line| take(&mut page, line)));
    let ended = read.await?;
    if ended {
        lines.finish(|line| take(&mut page, line));
    }
    page.eof = ended;
    if let Some((start, _)) = kept.front() {
        page.start = *start;
    }
    for (_, item) in kept {
        append(&mut page, item);
    }
    if let Some(most) = tail_lines {
        keep_last(&mut page, most);
    }
    Ok(page)
}

fn keep_last(page: &mut Page, most: usize) {
    let lines = page.text.lines().count();
    if lines > most {
        page.text = page.text.lines().skip(lines - most).flat_map(|line| [line, "\n"]).collect();
        page.omitted_before = true;
    }
    if page.events.len() > most {
        page.events.drain(..page.events.len() - most);
        page.omitted_before = true;
    }
}
