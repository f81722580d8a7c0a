//! Where a declared project may be cloned from. What passes here is given to git as a URL and can be nothing else: no option,
//! no transport that runs a program, no password.

/// Longest URL, in bytes.
const URL_BYTES: usize = 2048;

/// How a repository is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `https://host/path`.
    Https,
    /// `ssh://user@host/path` or `user@host:path`.
    Ssh,
    /// `file:///path`.
    File,
}

/// The scheme of `url`, if git is to be given it at all. `files`: whether `file` URLs are taken.
///
/// # Errors
/// Why not, for people; never quotes what could be a password.
pub fn check(url: &str, files: bool) -> Result<Scheme, String> {
    if url.is_empty() || url.len() > URL_BYTES {
        return Err(format!("the project's URL must have 1 to {URL_BYTES} bytes"));
    }
    if !url.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("the project's URL holds a space, a control character or one beyond ASCII".to_owned());
    }
    let helper =
        url.split_once("::").is_some_and(|(name, _)| name.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    if url.starts_with('-') || helper {
        return Err("the project's URL begins with '-' or names a transport that runs a program".to_owned());
    }
    let (scheme, rest) = match url.split_once("://") {
        Some(("https", rest)) => (Scheme::Https, rest),
        Some(("ssh", rest)) => (Scheme::Ssh, rest),
        Some(("file", rest)) if files => (Scheme::File, rest),
        Some(("file", _)) => return Err("this worker takes no file URLs; it may be told to".to_owned()),
        Some(_) => return Err("the project's URL is none of https, ssh or host:path".to_owned()),
        None => {
            let (host, path) =
                url.split_once(':').ok_or("the project's URL is none of https, ssh or host:path")?;
            authority(host)?;
            let sound = !host.contains('/') && !path.is_empty() && !path.starts_with('-');
            return if sound { Ok(Scheme::Ssh) } else { Err("the project's URL is no host:path".to_owned()) };
        }
    };
    let (host, path) = rest.split_once('/').ok_or("the project's URL names no path")?;
    match scheme {
        Scheme::File if !host.is_empty() => Err("a file URL has three slashes".to_owned()),
        Scheme::File => Ok(scheme),
        _ if path.is_empty() => Err("the project's URL names no path".to_owned()),
        _ => authority(host).map(|()| scheme),
    }
}

/// `user@host:port` with nothing in it that ssh could take for an option.
fn authority(text: &str) -> Result<(), String> {
    let (user, host) = text.rsplit_once('@').map_or((None, text), |(user, host)| (Some(user), host));
    if user.is_some_and(|user| user.contains(':')) {
        return Err("the project's URL holds a password; leave it out and let the worker's git have a credential helper".to_owned());
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%+[]:".contains(&byte);
    let sound = |text: &str| !text.is_empty() && !text.starts_with('-') && text.bytes().all(plain);
    if sound(host) && user.is_none_or(sound) {
        Ok(())
    } else {
        Err("the project's URL names no plain host".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_git_would_take_for_something_else_is_refused() {
        for url in [
            "https://example.com/a/b.git",
            "https://bot@example.com:8443/a",
            "ssh://git@example.com:22/a.git",
            "ssh://git@[::1]/a.git",
            "git@example.com:a/b.git",
        ] {
            check(url, false).expect(url);
        }
        assert_eq!(check("file:///srv/a.git", true), Ok(Scheme::File));
        for url in [
            "",
            "--upload-pack=touch x",
            "-oProxyCommand=x:a",
            "ext::sh -c x",
            "ext::sh",
            "git://example.com/a",
            "http://example.com/a",
            "file:///srv/a.git",
            "file://host/a",
            "ssh://-oProxyCommand=x/a",
            "ssh://-l@example.com/a",
            "git@-oProxyCommand:a",
            "host:-x",
            "/srv/a.git",
            "../a",
            "https://u:pa55@example.com/a",
            "https://example.com",
            "https:///a",
            "https://example.com/a b",
            "https://example.com/\u{7}",
            "https://ex$(x)ample.com/a",
            "fd::3",
        ] {
            let error = check(url, false).expect_err(url);
            assert!(!error.contains("pa55"), "{error}");
        }
    }
}
