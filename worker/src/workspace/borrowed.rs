//! Workspaces of declared projects: a repository of the session's own that borrows the objects of a mirror.
//!
//! The worker makes it before any session ran in it, and runs git in it never again: a session can write its configuration,
//! hooks and attributes. What a session committed is read from the files that name it (HEAD, the branch) and brought into
//! the mirror as objects; everything else (snapshots, differences, bundles, pushes) is done there.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use super::{
    QUICK, SLOW, WorkspaceError,
    git::Git,
    io_error,
    mirror::{is_commit, sane},
};

/// Longest file of a session that names a commit, in bytes; packed refs of a large repository have megabytes.
const REF_FILE_BYTES: u64 = 64 << 20;

/// What a workspace is made of.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) mirror: &'a Path,
    pub(super) root: &'a Path,
    pub(super) branch: &'a str,
    pub(super) base_commit: &'a str,
    pub(super) url: &'a str,
}

/// Makes the session's repository and checks the branch out. The branch's name must be taken in the mirror already.
pub(super) async fn make(plan: &Plan<'_>) -> Result<(), WorkspaceError> {
    let Plan { mirror, root, branch, base_commit, url } = *plan;
    fs::create_dir_all(root).map_err(io_error(root.display().to_string()))?;
    let git = Git::strict(root);
    let full = format!("refs/heads/{branch}");
    git.run(QUICK, &["init", "--quiet", "--template=", "--initial-branch", branch]).await?;
    let dot_git = root.join(".git");
    let write = |name: &str, text: &str| {
        let path = dot_git.join(name);
        let made = path.parent().map_or(Ok(()), fs::create_dir_all);
        made.and_then(|()| fs::write(&path, text)).map_err(io_error(path.display().to_string()))
    };
    let objects = mirror.join("objects");
    write("objects/info/alternates", &format!("{}\n", objects.display()))?;
    let refs = ["for-each-ref", "--format=%(objectname) %(refname)", "refs/remotes", "refs/tags"];
    let refs = Git::strict(mirror).run(QUICK, &refs).await?;
    // Names only, in the order git wants them; what is symbolic there is a plain name here.
    let mut lines: Vec<&str> =
        refs.lines().filter(|line| !line.ends_with(" refs/remotes/origin/HEAD")).collect();
    lines.sort_by_key(|line| line.split_once(' ').map(|(_, name)| name));
    write("packed-refs", &format!("# pack-refs with: sorted \n{}\n", lines.join("\n")))?;
    for (name, value) in [
        ("gc.auto", "0"),
        ("remote.origin.url", url),
        ("remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*"),
    ] {
        git.run(QUICK, &["config", "--local", "--", name, value]).await?;
    }
    git.run(QUICK, &["update-ref", &full, base_commit]).await?;
    git.run(SLOW, &["reset", "--quiet", "--hard"]).await?;
    Ok(())
}

/// What a session's own files say is checked out and where its branch is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) head: Option<String>,
    pub(super) tip: Option<String>,
}

/// Reads them without git and without following a link.
fn read(root: &Path, branch: &str) -> Said {
    let dot_git = root.join(".git");
    let tip = read_ref(&dot_git, &format!("refs/heads/{branch}"));
    let head = read_small(&dot_git, "HEAD").and_then(|text| match text.trim().strip_prefix("ref: ") {
        Some(name) if is_sound(name) => read_ref(&dot_git, name),
        Some(_) => None,
        None => Some(text.trim().to_owned()).filter(|text| is_commit(text)),
    });
    Said { head, tip }
}

fn is_sound(name: &str) -> bool {
    name.starts_with("refs/heads/") && !name.split('/').any(|part| part.is_empty() || part.starts_with('.'))
}

fn read_ref(dot_git: &Path, name: &str) -> Option<String> {
    if let Some(text) = read_small(dot_git, name) {
        return Some(text.trim().to_owned()).filter(|text| is_commit(text));
    }
    let packed = read_small(dot_git, "packed-refs")?;
    let commit = packed.lines().find_map(|line| line.strip_suffix(name)?.strip_suffix(' '))?;
    is_commit(commit).then(|| commit.to_owned())
}

/// A file below `.git`, of which neither it nor any folder on the way is a link.
fn read_small(dot_git: &Path, name: &str) -> Option<String> {
    let mut path = PathBuf::from(dot_git);
    let is_folder = |path: &Path| path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
    for part in name.split('/') {
        if !is_folder(&path) {
            return None;
        }
        path.push(part);
    }
    let metadata = path.symlink_metadata().ok().filter(fs::Metadata::is_file)?;
    if metadata.len() > REF_FILE_BYTES {
        return None;
    }
    let mut text = String::new();
    fs::File::open(&path).ok()?.take(REF_FILE_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Brings what the session committed into the mirror and moves its branch there to where the session has it. Returns what is
/// checked out. A session that broke its own repository loses nothing that was brought before.
pub(super) async fn bring(
    mirror: &Path,
    root: &Path,
    branch: &str,
) -> Result<Option<String>, WorkspaceError> {
    sane(mirror)?;
    let Said { head, tip } = read(root, branch);
    let git = Git::strict(mirror);
    let objects = root.join(".git/objects");
    let borrowing = git.clone().env("GIT_ALTERNATE_OBJECT_DIRECTORIES", quoted(&objects));
    let mut brought = Vec::new();
    for commit in [&head, &tip].into_iter().flatten() {
        if brought.contains(commit) {
            continue;
        }
        let is = format!("{commit}^{{commit}}");
        if git.ask(QUICK, &["cat-file", "-e", &is]).await?.is_none() {
            if borrowing.ask(QUICK, &["cat-file", "-e", &is]).await?.is_none() {
                continue; // names something that is not there
            }
            let pack = mirror.join("objects/pack/pack").to_string_lossy().into_owned();
            // Only what the mirror lacks; fails when anything of it is missing.
            let known = git.run(QUICK, &["for-each-ref", "--format=^%(objectname)"]).await?;
            let revisions = format!("{commit}\n{known}\n");
            borrowing
                .run_with(
                    SLOW,
                    &["pack-objects", "--quiet", "--revs", "--delta-base-offset", &pack],
                    revisions.into(),
                )
                .await?;
        }
        brought.push(commit.clone());
    }
    let known = |commit: Option<String>| commit.filter(|commit| brought.contains(commit));
    if let Some(tip) = known(tip) {
        git.run(QUICK, &["update-ref", &format!("refs/heads/{branch}"), &tip]).await?;
    }
    Ok(known(head))
}

/// As git wants a path in a list of paths.
fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.to_string_lossy().replace('\\', "\\\\").replace('"', "\\\""))
}
