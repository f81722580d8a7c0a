//! Variables a project's policy gives its sessions. Those that are secret are read here, when the session starts, and go to the
//! shim through a pipe: they are on no disk, in no argument, log or error.

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use muster_proto::v1::{EnvironmentVariable, environment_variable::Source};

/// Most variables of a policy.
const VARIABLES: usize = 64;
/// Longest name, in bytes.
const NAME_BYTES: usize = 128;
/// Longest value given by the policy itself, in bytes.
const VALUE_BYTES: usize = 4 << 10;
/// Largest file a value is read from, in bytes.
const FILE_BYTES: u64 = 64 << 10;
/// What muster, claude's isolation or the start of any program rests on. A `*` at the end: all that begin so.
const FORBIDDEN: [&str; 46] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "TMPDIR",
    "TERM",
    "IFS",
    "ENV",
    "BASH_ENV",
    "BASH_FUNC_*",
    "SHELLOPTS",
    "BASHOPTS",
    "PS4",
    "CDPATH",
    "GLOBIGNORE",
    "PROMPT_COMMAND",
    "LD_*",
    "DYLD_*",
    "GLIBC_*",
    "GCONV_PATH",
    "MALLOC_*",
    "GIT_*",
    "SSH_*",
    "MUSTER_*",
    "CLAUDE_*",
    "CLAUDECODE",
    "ANTHROPIC_*",
    "XDG_*",
    "NODE_*",
    "BUN_*",
    "NPM_CONFIG_*",
    "npm_config_*",
    "PYTHON*",
    "PERL*",
    "RUBY*",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "DISABLE_AUTOUPDATER",
    "IS_SANDBOX",
];

/// Variables with their values.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Secrets(pub(super) BTreeMap<String, String>);

/// Names alone.
impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Secrets {
    /// A text without the values.
    pub(super) fn redact(&self, text: &str) -> String {
        let mut values: Vec<&String> = self.0.values().filter(|value| value.len() >= 4).collect();
        // One may be part of another.
        values.sort_by_key(|value| std::cmp::Reverse(value.len()));
        values.into_iter().fold(text.to_owned(), |text, value| text.replace(value.as_str(), "***"))
    }
}

/// The variables of a policy.
///
/// # Errors
/// Which variable cannot be given and why, without any value.
pub(super) fn read(variables: &[EnvironmentVariable]) -> Result<Secrets, String> {
    if variables.len() > VARIABLES {
        return Err(format!("the policy has {} variables, at most {VARIABLES} are taken", variables.len()));
    }
    let mut read = BTreeMap::new();
    for variable in variables {
        let name = &variable.name;
        check_name(name)?;
        let value = value(variable.source.as_ref()).map_err(|reason| format!("variable {name}: {reason}"))?;
        if value.contains('\0') {
            return Err(format!("variable {name}: its value holds a NUL byte"));
        }
        read.insert(name.clone(), value);
    }
    Ok(Secrets(read))
}

fn check_name(name: &str) -> Result<(), String> {
    let shown: String = name.chars().filter(|char| !char.is_control()).take(NAME_BYTES).collect();
    let first = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    let rest = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let sound = name.len() <= NAME_BYTES && name.bytes().next().is_some_and(first) && name.bytes().all(rest);
    if !sound {
        return Err(format!("{shown:?} is no name of a variable"));
    }
    let is = |forbidden: &str| match forbidden.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == forbidden,
    };
    if FORBIDDEN.iter().any(|forbidden| is(forbidden)) {
        return Err(format!(
            "variable {name} cannot be given by a policy: muster or claude's isolation rests on it"
        ));
    }
    Ok(())
}

fn value(source: Option<&Source>) -> Result<String, String> {
    match source {
        None => Err("it has no source this worker knows".to_owned()),
        Some(Source::Value(value)) if value.len() > VALUE_BYTES => {
            Err(format!("its value is longer than {VALUE_BYTES} bytes"))
        }
        Some(Source::Value(value)) => Ok(value.clone()),
        Some(Source::WorkerEnv(name)) => match std::env::var(name) {
            Ok(value) => Ok(value),
            Err(_) => Err(format!("the worker's environment has no readable variable {name:?}")),
        },
        Some(Source::WorkerFile(path)) => {
            let path = Path::new(path);
            if !path.is_absolute() {
                return Err(format!("{} is no absolute path", path.display()));
            }
            file(path)
        }
        Some(Source::WorkerCredential(name)) => {
            if name.is_empty() || name.contains('/') || name.starts_with('.') {
                return Err(format!("{name:?} is no name of a credential"));
            }
            let folder = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
            file(&folder.ok_or("the worker was given no credentials by its unit")?.join(name))
        }
    }
}

fn file(path: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(format!("{} is no file", path.display()));
    }
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(failed)?;
    file.take(FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES {
        return Err(format!("{} has more than {FILE_BYTES} bytes", path.display()));
    }
    let text = String::from_utf8(bytes).map_err(|_| format!("{} is no text", path.display()))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &str, source: Source) -> EnvironmentVariable {
        EnvironmentVariable { name: name.to_owned(), source: Some(source) }
    }

    #[test]
    fn names_that_isolation_rests_on_are_refused_and_values_never_told() {
        for name in [
            "PATH",
            "LD_PRELOAD",
            "GIT_SSH_COMMAND",
            "ANTHROPIC_BASE_URL",
            "BASH_ENV",
            "NODE_OPTIONS",
            "MUSTER_SESSION",
            "A-B",
            "",
            "1A",
            "A=B",
        ] {
            let error = read(&[variable(name, Source::Value("s3cret".to_owned()))]).expect_err(name);
            assert!(!error.contains("s3cret"), "{error}");
        }
        let much = Source::Value("s3cret".repeat(1000));
        assert!(read(&[variable("A", much)]).expect_err("too long").contains("4096 bytes"));
        assert!(read(&vec![variable("A", Source::Value(String::new())); 65]).is_err());
    }

    #[test]
    fn a_file_is_read_without_the_line_end_at_its_end() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("token");
        fs::write(&path, "s3cret\r\n").expect("written");
        let from =
            |path: &Path| read(&[variable("T", Source::WorkerFile(path.to_string_lossy().into_owned()))]);
        let read = from(&path).expect("read");
        assert_eq!(read.0["T"], "s3cret");
        assert!(!format!("{read:?}").contains("s3cret"));
        assert_eq!(read.redact("it said s3cret twice: s3cret"), "it said *** twice: ***");
        fs::write(&path, vec![b'x'; 65_537]).expect("written");
        assert!(from(&path).expect_err("too large").contains("65536 bytes"));
        assert!(from(dir.path()).expect_err("a folder").contains("no file"));
        assert!(from(&dir.path().join("none")).is_err() && from(Path::new("relative")).is_err());
    }
}
