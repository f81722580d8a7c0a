//! The command line, as far as a worker or a person uses it. An option the real program does not have is an
//! error.

/// What was asked for.
pub enum Invocation {
    Version,
    Run(Box<Args>),
}

/// Options of a run.
#[derive(Debug, Default)]
pub struct Args {
    print: bool,
    verbose: bool,
    input_format: String,
    output_format: String,
    /// Asks go over stdin and stdout.
    pub asks: bool,
    pub replay: bool,
    pub session_id: Option<String>,
    pub resume: Option<String>,
    pub permission_mode: String,
    pub model: String,
    pub max_turns: Option<u32>,
    /// Dollars.
    pub max_budget: Option<f64>,
    /// `Tool` or `Tool(prefix *)`.
    pub allowed: Vec<String>,
    pub skip_permissions: bool,
}

/// Options with one value that change nothing here.
const ONE_IGNORED: [&str; 17] = [
    "--append-system-prompt",
    "--system-prompt",
    "--settings",
    "--setting-sources",
    "--effort",
    "--fallback-model",
    "--json-schema",
    "--agent",
    "--agents",
    "--plugin-dir",
    "--debug-file",
    "--name",
    "-n",
    "--append-system-prompt-file",
    "--system-prompt-file",
    "--managed-settings",
    "--session-mirror",
];
/// Options with any number of values that change nothing here.
const MANY_IGNORED: [&str; 6] =
    ["--mcp-config", "--disallowedTools", "--disallowed-tools", "--tools", "--add-dir", "--betas"];
/// Switches that change nothing here.
const SWITCHES_IGNORED: [&str; 10] = [
    "--include-partial-messages",
    "--include-hook-events",
    "--strict-mcp-config",
    "--allow-dangerously-skip-permissions",
    "--bare",
    "--safe-mode",
    "--no-session-persistence",
    "--disable-slash-commands",
    "--fork-session",
    "--no-chrome",
];

impl Args {
    /// Reads the arguments after the program's name.
    pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Invocation, String> {
        let mut args = Self {
            input_format: "text".to_owned(),
            output_format: "text".to_owned(),
            permission_mode: "default".to_owned(),
            model: "claude-opus-4-8".to_owned(),
            ..Self::default()
        };
        let mut words = Words { words: arguments.collect::<Vec<_>>().into_iter().peekable() };
        while let Some(word) = words.words.next() {
            if word == "--version" || word == "-v" {
                return Ok(Invocation::Version);
            }
            match word.split_once('=') {
                Some((name, value)) if name.starts_with("--") => args.option(name, &mut Words::one(value))?,
                _ => args.option(&word, &mut words)?,
            }
        }
        args.check()?;
        Ok(Invocation::Run(Box::new(args)))
    }

    fn option(&mut self, name: &str, words: &mut Words) -> Result<(), String> {
        match name {
            "-p" | "--print" => self.print = true,
            "--verbose" => self.verbose = true,
            "--replay-user-messages" => self.replay = true,
            "--dangerously-skip-permissions" => self.skip_permissions = true,
            "--input-format" => self.input_format = words.value(name)?,
            "--output-format" => self.output_format = words.value(name)?,
            "--permission-prompt-tool" => self.asks = words.value(name)? == "stdio",
            "--session-id" => self.session_id = Some(words.value(name)?),
            "-r" | "--resume" => self.resume = Some(words.value(name)?),
            "--model" => self.model = words.value(name)?,
            "--permission-mode" => self.permission_mode = permission_mode(words.value(name)?)?,
            "--max-turns" => {
                let turns = words.value(name)?;
                self.max_turns =
                    Some(turns.parse().map_err(|_| format!("error: --max-turns {turns} is no number"))?);
            }
            "--max-budget-usd" => {
                let dollars = words.value(name)?;
                self.max_budget = Some(
                    dollars.parse().map_err(|_| format!("error: --max-budget-usd {dollars} is no number"))?,
                );
            }
            "--allowedTools" | "--allowed-tools" => {
                for value in words.values() {
                    self.allowed.extend(rules(&value));
                }
            }
            name if ONE_IGNORED.contains(&name) => drop(words.value(name)?),
            name if MANY_IGNORED.contains(&name) => drop(words.values()),
            name if SWITCHES_IGNORED.contains(&name) => {}
            name if name.starts_with('-') => return Err(format!("error: unknown option '{name}'")),
            // A prompt argument beside stream-json input is silently ignored by the real program.
            _ => {}
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        if !self.print {
            return Err("Error: only --print mode is scripted".to_owned());
        }
        if self.output_format == "stream-json" && !self.verbose {
            return Err(
                "Error: When using --print, --output-format=stream-json requires --verbose".to_owned()
            );
        }
        if self.input_format == "stream-json" && self.output_format != "stream-json" {
            return Err("Error: --input-format=stream-json requires output-format=stream-json.".to_owned());
        }
        if self.input_format != "stream-json" {
            return Err("Error: only stream-json is scripted".to_owned());
        }
        Ok(())
    }
}

struct Words {
    words: std::iter::Peekable<std::vec::IntoIter<String>>,
}

impl Words {
    fn one(value: &str) -> Self {
        Self { words: vec![value.to_owned()].into_iter().peekable() }
    }

    fn value(&mut self, name: &str) -> Result<String, String> {
        self.words.next().ok_or_else(|| format!("error: option '{name}' argument missing"))
    }

    fn values(&mut self) -> Vec<String> {
        let mut values = Vec::new();
        while let Some(value) = self.words.next_if(|word| !word.starts_with('-')) {
            values.push(value);
        }
        values
    }
}

fn permission_mode(mode: String) -> Result<String, String> {
    let modes = ["acceptEdits", "auto", "bypassPermissions", "default", "dontAsk", "plan", "manual"];
    if modes.contains(&mode.as_str()) {
        return Ok(mode);
    }
    Err(format!("error: option '--permission-mode <mode>' argument '{mode}' is invalid"))
}

/// Rules separated by commas or spaces, but not inside parentheses.
fn rules(list: &str) -> Vec<String> {
    let mut depth = 0_i32;
    let parts = list.split(|letter| {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        depth == 0 && (letter == ',' || letter == ' ')
    });
    parts.filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &[&str]) -> Result<Args, String> {
        match Args::parse(line.iter().map(|word| (*word).to_owned()))? {
            Invocation::Run(args) => Ok(*args),
            Invocation::Version => Err("version".to_owned()),
        }
    }

    #[test]
    fn the_worker_s_command_line_is_understood() {
        let args = parse(&[
            "-p",
            "--input-format=stream-json",
            "--output-format",
            "stream-json",
            "--verbose",
            "--allowedTools",
            "Bash(git log:*),Read",
            "Edit",
            "--mcp-config",
            "{}",
            "--session-id",
            "s",
        ])
        .unwrap();
        assert_eq!(args.allowed, ["Bash(git log:*)", "Read", "Edit"]);
        assert_eq!(args.session_id.as_deref(), Some("s"));
    }

    #[test]
    fn what_the_real_program_refuses_is_refused() {
        assert!(parse(&["-p", "--no-such-flag"]).is_err());
        assert!(parse(&["-p", "--output-format", "stream-json"]).unwrap_err().contains("requires --verbose"));
    }
}
