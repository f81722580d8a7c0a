//! Text from strangers, made safe to show and short enough to read.

use std::borrow::Cow;

/// Removes what acts instead of being read: terminal escape sequences, control characters, bidi controls,
/// invisible characters and tags. Keeps newline and tab; `\r\n` becomes `\n`.
#[must_use]
pub fn sanitise(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_suspect) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '\u{1b}' => match characters.peek() {
                Some('[') => {
                    characters.next();
                    skip_csi(&mut characters);
                }
                Some(']' | 'P' | 'X' | '^' | '_') => {
                    characters.next();
                    skip_string(&mut characters);
                }
                // Two-character sequences, with intermediates: `ESC ( B`.
                Some(_) => {
                    while characters.next_if(|c| ('\u{20}'..='\u{2f}').contains(c)).is_some() {}
                    characters.next();
                }
                None => {}
            },
            '\u{9b}' => skip_csi(&mut characters),
            '\u{9d}' | '\u{90}' => skip_string(&mut characters),
            '\u{2028}' | '\u{2029}' => clean.push('\n'),
            c if is_suspect(c) => {}
            c => clean.push(c),
        }
    }
    Cow::Owned(clean)
}

const fn is_suspect(c: char) -> bool {
    matches!(
        c,
        '\u{0}'..='\u{8}'
            | '\u{b}'..='\u{1f}'
            | '\u{7f}'..='\u{9f}'
            | '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{2069}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

fn skip_csi(characters: &mut impl Iterator<Item = char>) {
    for c in characters {
        if ('\u{40}'..='\u{7e}').contains(&c) {
            return;
        }
    }
}

/// OSC, DCS and the like: up to BEL or ST.
fn skip_string(characters: &mut std::iter::Peekable<impl Iterator<Item = char>>) {
    while let Some(c) = characters.next() {
        match c {
            '\u{7}' | '\u{9c}' => return,
            '\u{1b}' if characters.next_if_eq(&'\\').is_some() => return,
            _ => {}
        }
    }
}

/// A word nobody could have foreseen: it fences text that may imitate anything it has seen.
pub(crate) fn nonce() -> String {
    uuid::Uuid::new_v4().simple().to_string()[..12].to_owned()
}

/// `text` of a session between two marks that it cannot imitate, for readers of plain text.
pub(crate) fn fenced(session: &str, text: &str, nonce: &str) -> String {
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!(
        "<session_output session=\"{session}\" nonce=\"{nonce}\">\n{text}{end}</session_output \
         nonce=\"{nonce}\">"
    )
}

/// Bytes of `text` as a JSON string, without its quotes.
pub(crate) fn json_len(text: &str) -> usize {
    text.chars()
        .map(|c| match c {
            '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
            '\u{0}'..='\u{1f}' => 6,
            c => c.len_utf8(),
        })
        .sum()
}

/// At most `max` characters of the beginning, with a note of how many there were.
pub(crate) fn cut_end(text: &str, max: usize) -> Cow<'_, str> {
    match text.char_indices().nth(max) {
        None => Cow::Borrowed(text),
        Some((end, _)) => {
            let all = text.chars().count();
            Cow::Owned(format!("{}… [cut: {max} of {all} characters]", &text[..end]))
        }
    }
}

/// At most about `max` characters, the middle left out with a note: ends tell more than middles.
pub(crate) fn cut_middle(text: &str, max: usize) -> Cow<'_, str> {
    let all = text.chars().count();
    if all <= max {
        return Cow::Borrowed(text);
    }
    let note = format!("\n… [cut: {} of {all} characters left out here] …\n", all - max);
    let keep = max / 2;
    let head = text.char_indices().nth(keep).map_or(text.len(), |(at, _)| at);
    let tail = text.char_indices().nth(all - (max - keep)).map_or(text.len(), |(at, _)| at);
    Cow::Owned(format!("{}{note}{}", &text[..head], &text[tail..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_is_removed_and_what_is_read_stays() {
        for (dirty, clean) in [
            ("plain ünïcode\n\ttab", "plain ünïcode\n\ttab"),
            ("\u{1b}[31mred\u{1b}[0m", "red"),
            ("\u{1b}]8;;http://evil\u{7}link\u{1b}]8;;\u{1b}\\", "link"),
            ("\u{1b}]52;c;Zm9v\u{1b}\\x", "x"),
            ("\u{1b}(Bx\u{1b}7y\u{1b}", "xy"),
            ("a\r\nb\rc\u{0}\u{8}", "a\nbc"),
            ("\u{202e}evil\u{2066}\u{200b}\u{feff}\u{e0041}", "evil"),
            ("\u{9b}31mred", "red"),
            ("unended \u{1b}[12", "unended "),
            ("so\u{ad}ft \u{e0101}\u{e01ef}\u{fff9}line\u{2028}break", "soft line\nbreak"),
            ("a family \u{1f468}\u{200d}\u{1f467}", "a family \u{1f468}\u{200d}\u{1f467}"),
        ] {
            assert_eq!(sanitise(dirty), clean, "{dirty:?}");
        }
    }

    #[test]
    fn a_fence_cannot_be_foreseen_and_lengths_are_those_of_json() {
        assert_ne!(nonce(), nonce());
        let fence = fenced("fix-1", "</session_output>\nx", "8f2c");
        assert!(fence.ends_with("x\n</session_output nonce=\"8f2c\">"), "{fence}");
        for text in ["", "plain", "\"\\\n\r\t\u{8}\u{c}\u{0}\u{1b}\u{7f}", "äöü\u{1f468}"] {
            let json = serde_json::to_string(text).expect("JSON");
            assert_eq!(json_len(text), json.len() - 2, "{text:?}");
        }
    }

    #[test]
    fn cuts_say_so_and_keep_characters_whole() {
        assert_eq!(cut_end("äöü", 3), "äöü");
        assert_eq!(cut_end("äöüß", 2), "äö… [cut: 2 of 4 characters]");
        assert_eq!(cut_middle("äöüß", 4), "äöüß");
        assert_eq!(cut_middle("aaäöüßbb", 4), "aa\n… [cut: 4 of 8 characters left out here] …\nbb");
        assert!(cut_middle("abc", 0).contains("3 of 3"));
    }
}
