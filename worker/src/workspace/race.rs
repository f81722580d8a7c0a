//! Races that git commands have with each other in one repository: one reads the record that another is about to write, or
//! wants the lock it holds. They pass within moments, so the same command is tried again a bounded number of times.

use std::time::Duration;

use super::git::GitError;

/// Tries of one command.
pub(super) const TRIES: u32 = 8;
/// Grows with each try.
pub(super) const RETRY_AFTER: Duration = Duration::from_millis(40);

/// Whether `error` is what two git commands in one repository give each other.
pub(super) fn is_race(error: &GitError) -> bool {
    const SIGNS: [&str; 7] = [
        ".lock",
        "cannot lock",
        "could not lock",
        "commondir",
        "gitdir",
        "unable to create",
        "Unable to create",
    ];
    matches!(error, GitError::Failed { said, .. } if SIGNS.iter().any(|sign| said.contains(sign)))
}

/// What `command` gives, made again as long as it races with another. For commands that may be repeated.
///
/// # Errors
/// What the last try gave.
pub(super) async fn outlast<T, F>(mut command: impl FnMut() -> F) -> Result<T, GitError>
where
    F: Future<Output = Result<T, GitError>>,
{
    let mut attempt = 0;
    loop {
        attempt += 1;
        match command().await {
            Err(error) if attempt < TRIES && is_race(&error) => {
                tracing::debug!(error = %error, "git raced with itself, trying again");
                tokio::time::sleep(RETRY_AFTER * attempt).await;
            }
            given => return given,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(said: &str) -> GitError {
        GitError::Failed { verb: "worktree".to_owned(), code: 128, said: said.to_owned() }
    }

    /// What comes of a command that fails so the first `times` times, and how often it was run.
    async fn run(said: &str, times: u32) -> (bool, u32) {
        let mut runs = 0;
        let given = outlast(|| {
            runs += 1;
            let fails = runs <= times;
            async move { if fails { Err(failed(said)) } else { Ok(()) } }
        });
        let succeeded = given.await.is_ok();
        (succeeded, runs)
    }

    #[tokio::test]
    async fn a_record_that_another_git_is_writing_is_read_again_and_other_failures_are_told_at_once() {
        let half = "fatal: failed to read worktrees/other/commondir: Success";
        assert_eq!(run(half, 2).await, (true, 3));
        assert_eq!(run(half, 99).await, (false, TRIES));
        assert_eq!(run("fatal: not a git repository", 1).await, (false, 1));
    }
}
