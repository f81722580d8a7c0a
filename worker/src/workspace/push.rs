//! Pushing a session's branch to a remote of its repository: only where the operator allows it, to a remote that is
//! configured, never by force, and without a prompt on anybody's terminal.

use std::path::Path;

use super::{
    QUICK, SLOW,
    changes::{QueryError, State},
    git::Git,
    mirror::Mirrors,
};

/// What the operator's way of logging in needs: an agent, a proxy, a desktop's keyring.
const PASSED: [&str; 9] = [
    "SSH_AUTH_SOCK",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
];

/// Pushes the tip of the branch to `remote` (empty: origin); returns the remote's name. Safe to repeat.
///
/// # Errors
/// [`QueryError::Remote`] when `remote` is no configured remote's name; [`QueryError::Failed`] with git's words.
pub async fn push(state: &State, project: &Path, remote: &str) -> Result<String, QueryError> {
    let remote = if remote.is_empty() { "origin" } else { remote };
    let remotes = state.git.run(QUICK, &["remote"]).await?;
    // A URL or an option is no name of a remote, and a name that looks like one is not taken either.
    let is_plain = !remote.starts_with('-') && !remote.contains(':') && !remote.starts_with('/');
    if !is_plain || !remotes.lines().any(|name| name == remote) {
        let known = if remotes.is_empty() { "there is none".to_owned() } else { remotes.replace('\n', ", ") };
        return Err(QueryError::Remote(format!("no remote named {remote:?} is configured here ({known})")));
    }
    // In the project's directory: a remote may be a path relative to it.
    let mut git = Git::new(project);
    for (name, value) in PASSED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))) {
        git = git.env(name, value);
    }
    // ssh asks on the terminal of whoever started the worker, past git's own switches.
    let git = git.env("SSH_ASKPASS", "/bin/false").env("SSH_ASKPASS_REQUIRE", "force");
    send(state, &git, remote).await?;
    Ok(remote.to_owned())
}

/// As [`push`], of a session of a declared project: to where its mirror was cloned from, called origin, and nowhere else.
///
/// # Errors
/// As [`push`].
pub async fn push_mirrored(
    state: &State,
    mirrors: &Mirrors,
    mirror: &Path,
    remote: &str,
) -> Result<String, QueryError> {
    let url = mirrors.url_of(mirror).filter(|_| remote.is_empty() || remote == "origin");
    let url = url.ok_or_else(|| {
        QueryError::Remote(format!("a declared project has one remote, origin; {remote:?} is none"))
    })?;
    send(state, &mirrors.remote_git(mirror), &url).await?;
    Ok("origin".to_owned())
}

async fn send(state: &State, git: &Git, to: &str) -> Result<(), QueryError> {
    let refspec = format!("{}:refs/heads/{}", state.head, state.branch);
    let args = [
        "push",
        "--quiet",
        "--no-force",
        "--no-signed",
        "--no-follow-tags",
        "--recurse-submodules=no",
        "--no-verify",
    ];
    let args: Vec<&str> = args.into_iter().chain(["--", to, &refspec]).collect();
    git.run(SLOW, &args).await?;
    Ok(())
}
