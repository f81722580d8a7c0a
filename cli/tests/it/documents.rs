//! What the documents tell people to type can be typed.

use std::path::PathBuf;

use crate::process::User;

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("a parent").to_owned()
}

/// Lines of the shell blocks of a Markdown file, without comments.
fn shell_lines(file: &str) -> Vec<String> {
    let text = std::fs::read_to_string(repository().join(file)).expect(file);
    let (mut lines, mut shell) = (Vec::new(), false);
    for line in text.lines() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            shell = !shell && matches!(language.trim(), "sh" | "bash" | "console" | "shell");
        } else if shell {
            lines.push(line.trim_start_matches("$ ").trim().to_owned());
        }
    }
    lines
}

/// The words of a line up to the first comment, pipe or redirection, as a shell splits them.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (Some(open), c) if open == c => quote = None,
            (None, ' ') => words.extend(word.take()),
            (None, '#') if word.is_none() => break,
            (None, '|' | '>' | ';' | '&') => break,
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[test]
fn every_muster_line_of_the_documents_parses() {
    let user = User::new();
    let mut checked = 0;
    for file in ["README.md", "docs/cli.md", "CONTRIBUTING.md"] {
        for line in shell_lines(file) {
            let words = words(&line);
            if words.first().map(String::as_str) != Some("muster") {
                continue;
            }
            // --help at the end: what stands before it is parsed, and nothing is done.
            let mut args: Vec<&str> = words[1..].iter().map(String::as_str).collect();
            args.push("--help");
            let run = user.run(&args);
            assert_eq!(run.code, 0, "{file}: {line}: {}", run.stderr);
            assert!(run.stdout.contains("Usage: muster"), "{file}: {line}");
            checked += 1;
        }
    }
    assert!(checked >= 10, "only {checked} lines were found");
}

#[test]
fn every_make_target_of_the_documents_exists() {
    let makefile = std::fs::read_to_string(repository().join("Makefile")).expect("Makefile");
    let mut checked = 0;
    for file in ["README.md", "CONTRIBUTING.md"] {
        for line in shell_lines(file) {
            let words = words(&line);
            if words.first().map(String::as_str) != Some("make") {
                continue;
            }
            for target in words[1..].iter().filter(|word| !word.contains('=') && !word.starts_with('-')) {
                let rule = format!("{target}:");
                assert!(makefile.lines().any(|line| line.starts_with(&rule)), "{file}: make {target}");
                checked += 1;
            }
        }
    }
    assert!(checked >= 2, "only {checked} targets were found");
}

#[test]
fn lines_are_split_as_a_shell_splits_them() {
    assert_eq!(words("muster send X \"a b\" # c"), ["muster", "send", "X", "a b"]);
    assert_eq!(words("muster ps | head"), ["muster", "ps"]);
    assert_eq!(words("a ''"), ["a", ""]);
}
