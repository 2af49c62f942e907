//! Users and passwords, from a file that others cannot read.

use std::fmt;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The number of bytes that are read.
const FILE_MAX: u64 = 16 << 10;

/// A user and a password.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Login {
    /// The user; `None` for the engine's default user.
    pub user: Option<String>,
    /// The password; with `None` there is no authentication.
    pub password: Option<String>,
}

/// The credentials for the engine and its Sentinels.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Credentials {
    /// For the nodes that hold sessions.
    pub engine: Login,
    /// For Sentinels.
    pub sentinel: Login,
}

// Debug output contains no password.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(..)")
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

impl Credentials {
    /// Reads a file of lines: `user NAME`, `password SECRET`, `sentinel-user NAME`,
    /// `sentinel-password SECRET`. Empty lines and lines that begin with `#` are ignored.
    ///
    /// # Errors
    /// The reason, which quotes nothing of the file: others can read or change it, or a line is invalid.
    pub fn read(path: &Path) -> Result<Self, String> {
        let cannot = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
        let file = std::fs::File::open(path).map_err(cannot)?;
        let about = file.metadata().map_err(cannot)?;
        if !about.is_file() {
            return Err(format!("{} is not a regular file", path.display()));
        }
        if about.mode() & 0o027 != 0 {
            let mode = about.mode() & 0o777;
            return Err(format!(
                "others can read or change {} (mode {mode:o}): chmod 600 or 640",
                path.display()
            ));
        }
        let mut text = String::new();
        file.take(FILE_MAX).read_to_string(&mut text).map_err(cannot)?;
        Self::parse(&text).map_err(|why| format!("{}: {why}", path.display()))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut all = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim_end_matches('\r');
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let (word, value) = line.split_once(' ').unwrap_or((line, ""));
            let place = match word {
                "user" => &mut all.engine.user,
                "password" => &mut all.engine.password,
                "sentinel-user" => &mut all.sentinel.user,
                "sentinel-password" => &mut all.sentinel.password,
                // The line may contain a password, so it is not quoted.
                _ => return Err(format!("line {number} does not begin with user or password")),
            };
            if value.is_empty() {
                return Err(format!("line {number} has no value"));
            }
            if place.replace(value.to_owned()).is_some() {
                return Err(format!("line {number} repeats an earlier one"));
            }
        }
        for login in [&all.engine, &all.sentinel] {
            if login.user.is_some() && login.password.is_none() {
                return Err("a user without a password".into());
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use distcache_testing::process::Dir;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_names_users_and_passwords() {
        let text = "# for the cluster\nuser dc\npassword a b#c\r\n\nsentinel-password s\n";
        let read = Credentials::parse(text).expect("valid");
        assert_eq!(read.engine.user.as_deref(), Some("dc"));
        assert_eq!(read.engine.password.as_deref(), Some("a b#c"));
        assert_eq!(read.sentinel.password.as_deref(), Some("s"));
        assert_eq!(format!("{read:?} {:?}", read.engine), "Credentials(..) Login(..)");
    }

    #[test]
    fn an_invalid_line_is_refused_and_not_quoted() {
        for text in
            ["hunter2", "password", "user a", "password hunter2\npassword x", "pass hunter2"]
        {
            let error = Credentials::parse(text).expect_err(text);
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let dir = Dir::new();
        let path = dir.join("login");
        std::fs::write(&path, "password hunter2\n").expect("write");
        for (mode, taken) in [
            (0o600, true),
            (0o400, true),
            (0o640, true),
            (0o644, false),
            (0o620, false),
            (0o604, false),
        ] {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&path, permissions).expect("chmod");
            let read = Credentials::read(&path);
            assert_eq!(read.is_ok(), taken, "{mode:o}");
            if let Err(error) = read {
                assert!(error.contains("chmod") && !error.contains("hunter2"), "{error}");
            }
        }
        assert!(Credentials::read(&dir.join("none")).is_err());
    }
}
