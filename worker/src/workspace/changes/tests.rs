use std::process::Command;

use super::*;
use crate::workspace::{bundle, push, worktree::Order};

fn git(dir: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main"])
        .args(args)
        .current_dir(dir)
        .output()
        .expect("git runs");
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

struct Session {
    dir: tempfile::TempDir,
    repo: PathBuf,
    own: PathBuf,
    worktrees: Worktrees,
    workspace: Workspace,
    tree: PathBuf,
}

const ID: &str = "0190b2c0-0000-7000-8000-000000000001";

impl Session {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let base = dir.path().canonicalize().expect("real");
        let (repo, state) = (base.join("repo"), base.join("state"));
        let own = state.join("sessions").join(ID);
        fs::create_dir(&repo).expect("created");
        fs::create_dir_all(&own).expect("created");
        git(&repo, &["init", "-q"]);
        fs::write(repo.join("a.txt"), "one\n").expect("written");
        git(&repo, &["add", "."]);
        git(&repo, &["commit", "-q", "-m", "first"]);
        let worktrees = Worktrees::new(&state);
        let order = Order {
            session_dir: &own,
            project: &repo,
            handle: "s",
            worktree: None,
            branch: "",
            from_ref: "",
            copy: &[],
            mirrored: None,
        };
        let workspace = worktrees.create(&order).await.expect("made");
        let tree = PathBuf::from(&workspace.path);
        Self { dir, repo, own, worktrees, workspace, tree }
    }

    async fn try_state(&self) -> Result<State, QueryError> {
        let temporary = self.temporary();
        let asked = Asked {
            session: ID,
            session_dir: &self.own,
            temporary: &temporary,
            project: &self.repo,
            was: &self.workspace,
        };
        state(&self.worktrees, &asked).await
    }

    async fn state(&self) -> State {
        self.try_state().await.expect("found")
    }

    fn temporary(&self) -> PathBuf {
        self.dir.path().join("state/temporary")
    }

    fn work(&self) {
        fs::write(self.tree.join("a.txt"), "two\n").expect("written");
        git(&self.tree, &["commit", "-q", "-a", "-m", "second \u{1b}[31m"]);
        fs::write(self.tree.join("new *.txt"), "x\ny\n").expect("written");
        fs::write(self.tree.join("staged"), "s\n").expect("written");
        git(&self.tree, &["add", "staged"]);
    }
}

async fn text(state: &State, format: ChangesFormat, paths: &[&str]) -> String {
    let paths = paths.iter().map(|path| (*path).to_owned()).collect();
    let query = ChangesQuery { format: format as u32, paths, from_offset: 0, limit_bytes: 1 << 20 };
    String::from_utf8(state.text(&query).await.expect("told").bytes).expect("text")
}

#[tokio::test]
async fn committed_staged_and_untracked_work_is_told_without_touching_the_sessions_index() {
    let session = Session::new().await;
    let state = session.state().await;
    assert!(
        state.is_unchanged() && bundle::make(&state, &session.temporary()).await.expect("fine").is_none()
    );
    session.work();
    let before = git(&session.tree, &["status", "--porcelain"]);
    let state = session.state().await;
    let summary = state.summary().await.expect("told");
    assert_eq!((summary.files_changed, summary.lines_added, summary.lines_deleted), (3, 4, 1));
    assert_eq!((summary.commits, summary.branch.as_str()), (1, "muster/s"));
    assert_eq!(summary.kept_ref, format!("refs/muster/{ID}/work"));
    assert_eq!(text(&state, ChangesFormat::Stat, &[]).await, "1\t1\ta.txt\n2\t0\tnew *.txt\n1\t0\tstaged\n");
    assert_eq!(text(&state, ChangesFormat::Stat, &["new *.txt"]).await, "2\t0\tnew *.txt\n");
    assert_eq!(text(&state, ChangesFormat::Stat, &["*.txt"]).await, "", "a path is no pattern");
    assert!(text(&state, ChangesFormat::Patch, &["a.txt"]).await.ends_with("-one\n+two\n"));
    assert!(text(&state, ChangesFormat::Commits, &[]).await.contains(" second "));
    assert_eq!(git(&session.tree, &["status", "--porcelain"]), before);
    assert_eq!(session.state().await.work, state.work, "asked again, nothing new is made");
    assert_eq!(fs::read_dir(session.temporary()).expect("there").count(), 0);
    git(&session.tree, &["add", "."]);
    git(&session.tree, &["commit", "-q", "-m", "all"]);
    let state = session.state().await;
    assert_eq!((state.work.as_str(), state.kept_ref.as_str()), (state.head.as_str(), ""));
    assert_eq!(git(&session.repo, &["for-each-ref", "refs/muster"]), "", "kept no longer than needed");
}

#[tokio::test]
async fn a_text_is_given_in_pages_of_the_length_asked() {
    let session = Session::new().await;
    fs::write(session.tree.join("big"), "0123456789\n".repeat(30_000)).expect("written");
    let state = session.state().await;
    let whole = text(&state, ChangesFormat::Patch, &[]).await;
    let (mut got, mut total) = (Vec::new(), u64::MAX);
    while (got.len() as u64) < total {
        let query =
            ChangesQuery { format: 2, from_offset: got.len() as u64, limit_bytes: 100_000, paths: vec![] };
        let page = state.text(&query).await.expect("told");
        assert!(page.bytes.len() <= 100_000 && !page.bytes.is_empty());
        total = page.total;
        got.extend(page.bytes);
    }
    assert!(got == whole.as_bytes() && total == whole.len() as u64);
    let past = ChangesQuery { format: 2, from_offset: total + 5, limit_bytes: 10, paths: vec![] };
    assert!(state.text(&past).await.expect("told").bytes.is_empty());
}

#[tokio::test]
async fn a_bundle_brings_branch_and_uncommitted_work_home_also_after_the_release() {
    let session = Session::new().await;
    let clone = session.dir.path().join("clone");
    git(session.dir.path(), &["clone", "-q", "repo", "clone"]);
    session.work();
    for released in [false, true] {
        if released {
            session.worktrees.release(&session.own, ID, &session.workspace).await.expect("released");
            assert!(!session.tree.exists());
        }
        let state = session.state().await;
        let mut file = bundle::make(&state, &session.temporary()).await.expect("made").expect("not empty");
        assert_eq!(fs::read_dir(session.temporary()).expect("there").count(), 0);
        let at = session.dir.path().join("work.bundle");
        io::copy(&mut file, &mut fs::File::create(&at).expect("made")).expect("copied");
        git(
            &clone,
            &["fetch", "-q", at.to_str().expect("text"), &format!("{}:work", state.kept_ref), "muster/s:s"],
        );
        assert_eq!(git(&clone, &["show", "work:new *.txt"]), "x\ny");
        assert_eq!(git(&clone, &["show", "s:a.txt"]), "two");
        git(&clone, &["branch", "-q", "-D", "work", "s"]);
    }
    // Not even the session's own files are needed.
    fs::remove_dir_all(&session.own).expect("removed");
    assert_eq!(session.state().await.summary().await.expect("told").files_changed, 3);
    git(&session.repo, &["branch", "-q", "-D", "muster/s"]);
    git(&session.repo, &["update-ref", "-d", &format!("refs/muster/{ID}/final")]);
    git(&session.repo, &["update-ref", "-d", &format!("refs/muster/{ID}/work")]);
    assert!(matches!(session.try_state().await, Err(QueryError::NothingKept(_))));
}

#[tokio::test]
async fn a_push_goes_to_a_configured_remote_alone_and_is_never_forced() {
    let session = Session::new().await;
    git(session.dir.path(), &["init", "-q", "--bare", "far"]);
    let far = session.dir.path().join("far");
    session.work();
    let state = session.state().await;
    for bad in ["origin", "--all", "../far", far.to_str().expect("text"), "file:///etc", "ext::sh -c id"] {
        assert!(matches!(push::push(&state, &session.repo, bad).await, Err(QueryError::Remote(_))), "{bad}");
    }
    git(&session.repo, &["remote", "add", "origin", far.to_str().expect("text")]);
    assert_eq!(push::push(&state, &session.repo, "").await.expect("pushed"), "origin");
    assert_eq!(push::push(&state, &session.repo, "origin").await.expect("again"), "origin");
    assert_eq!(git(&far, &["rev-parse", "muster/s"]), state.head);
    git(&session.tree, &["commit", "-q", "--amend", "-m", "rewritten"]);
    let rewritten = session.state().await;
    let error = push::push(&rewritten, &session.repo, "origin").await.expect_err("no fast-forward");
    assert!(error.to_string().contains("rejected"), "{error}");
    assert_eq!(git(&far, &["rev-parse", "muster/s"]), state.head);
}
