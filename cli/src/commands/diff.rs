//! `muster diff`: what a session changed since the commit it started from, committed or not.
//!
//! Read a page at a time; a session that changes something between two pages is told apart from one that
//! stood still, so that nobody applies half of each.

use clap::Args;
use muster_proto::v1::{ChangesFormat, ChangesSummary, GetChangesRequest};

use crate::{
    args::Remote,
    client::Client,
    failure::{Exit, Failure},
    json,
    output::Output,
    show,
};

/// Bytes of a page: the most a controller gives.
const PAGE_BYTES: u32 = 1 << 20;

/// Arguments of `diff`.
#[derive(Debug, Args)]
pub struct Options {
    /// Handle, id or the beginning of either
    #[arg(add = super::completion::sessions())]
    session: String,
    /// Only these files or folders, from the root of the repository, taken literally
    #[arg(value_name = "PATH")]
    paths: Vec<String>,
    /// A line for each file
    #[arg(long, group = "format")]
    stat: bool,
    /// The whole difference, as `git apply` takes it; the default
    #[arg(long, group = "format")]
    patch: bool,
    /// A line for each commit
    #[arg(long, group = "format")]
    commits: bool,
    #[command(flatten)]
    remote: Remote,
}

impl Options {
    const fn format(&self) -> ChangesFormat {
        if self.stat {
            ChangesFormat::Stat
        } else if self.commits {
            ChangesFormat::Commits
        } else {
            ChangesFormat::Patch
        }
    }
}

/// Shows changes.
pub async fn run(options: Options) -> Result<Exit, Failure> {
    let mut client = Client::new(&options.remote)?;
    let output = Output::new(options.remote.json);
    let session = client.session(&options.session).await?;
    let format = options.format();
    let mut whole = String::new();
    let mut request = GetChangesRequest {
        session: session.session_id.clone(),
        format: format.into(),
        paths: options.paths,
        from_offset: 0,
        limit_bytes: PAGE_BYTES,
    };
    let mut first: Option<ChangesSummary> = None;
    loop {
        let result = client.sessions.get_changes(Client::worker_call(request.clone())).await;
        let page = client.result(result)?;
        let summary = page.summary.unwrap_or_default();
        let first = first.get_or_insert_with(|| summary.clone());
        if !is_same_state(first, &summary) {
            return Err(Failure::new(Exit::Failed, "the session changed something while it was read")
                .hint("what was printed is not one state; run it again"));
        }
        if output.json {
            whole.push_str(&page.text);
        } else if output.terminal {
            output.bytes(show::block(&page.text).as_bytes())?;
        } else {
            output.bytes(page.text.as_bytes())?;
        }
        if !page.truncated || page.next_offset <= request.from_offset {
            break;
        }
        request.from_offset = page.next_offset;
    }
    let summary = first.unwrap_or_default();
    if output.json {
        output.document(&json::changes(&session.handle, format, &whole, &summary))?;
    } else {
        output.note(&figures(&summary));
    }
    Ok(Exit::Ok)
}

/// By its figures, not by the commit that holds what is uncommitted: that one may be made anew for each page.
fn is_same_state(one: &ChangesSummary, other: &ChangesSummary) -> bool {
    let of = |summary: &ChangesSummary| {
        let ChangesSummary { files_changed, lines_added, lines_deleted, commits, .. } = *summary;
        (summary.head_commit.clone(), files_changed, lines_added, lines_deleted, commits)
    };
    of(one) == of(other)
}

/// Whether something of the session's work is in no commit of its branch.
pub fn is_uncommitted(summary: &ChangesSummary) -> bool {
    !summary.work_commit.is_empty() && summary.work_commit != summary.head_commit
}

fn figures(summary: &ChangesSummary) -> String {
    let ChangesSummary { files_changed, lines_added, lines_deleted, commits, .. } = *summary;
    let uncommitted = if is_uncommitted(summary) { ", some of it not committed" } else { "" };
    if files_changed == 0 && commits == 0 && uncommitted.is_empty() {
        return "it changed nothing".to_owned();
    }
    format!(
        "branch {}: {files_changed} files, +{lines_added} -{lines_deleted}, {commits} commits{uncommitted}",
        show::line(&summary.branch)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_made_anew_is_no_change_and_a_line_is() {
        let before = ChangesSummary {
            head_commit: "h".into(),
            work_commit: "w1".into(),
            lines_added: 3,
            ..Default::default()
        };
        let again = ChangesSummary { work_commit: "w2".into(), ..before.clone() };
        assert!(is_same_state(&before, &again));
        assert!(!is_same_state(&before, &ChangesSummary { lines_added: 4, ..again.clone() }));
        assert!(!is_same_state(&before, &ChangesSummary { head_commit: "i".into(), ..again }));
    }

    #[test]
    fn figures_name_what_is_not_committed() {
        assert_eq!(figures(&ChangesSummary::default()), "it changed nothing");
        let summary = ChangesSummary {
            branch: "muster/a".into(),
            work_commit: "w".into(),
            head_commit: "h".into(),
            files_changed: 2,
            ..Default::default()
        };
        assert_eq!(figures(&summary), "branch muster/a: 2 files, +0 -0, 0 commits, some of it not committed");
    }
}
