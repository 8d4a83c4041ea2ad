//! Chooses the user that PostgreSQL runs as, because PostgreSQL refuses to run as root.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use super::EmbeddedError;

/// An operating-system user other than that of this process.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// Users to run as if this process is root, in order of preference.
const CANDIDATES: [&str; 2] = ["postgres", "nobody"];

/// Returns whether this process runs as root.
pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Returns the user to run PostgreSQL as, or `None` for the user of this process. If this process is root, it
/// is the owner of existing data, otherwise the first candidate that exists.
pub(super) fn choose(cluster_dir: &Path) -> Result<Option<Owner>, EmbeddedError> {
    if !is_root() {
        return Ok(None);
    }
    if let Ok(metadata) = fs::metadata(cluster_dir)
        && metadata.uid() != 0
    {
        let (uid, gid) = (metadata.uid(), metadata.gid());
        return Ok(Some(Owner {
            name: format!("with id {uid}"),
            uid,
            gid,
        }));
    }
    let passwd = fs::read_to_string("/etc/passwd").map_err(EmbeddedError::io("cannot read /etc/passwd"))?;
    CANDIDATES
        .iter()
        .find_map(|name| passwd.lines().find_map(|line| parse_passwd_line(line, name)))
        .map(Some)
        .ok_or_else(|| {
            EmbeddedError::io("PostgreSQL does not run as root")(io::Error::other(
                "there is neither a user postgres nor a user nobody to run it as",
            ))
        })
}

/// Parses a line of `/etc/passwd`, `name:password:uid:gid:…`. Returns `None` if it is not the line of this
/// user.
fn parse_passwd_line(line: &str, name: &str) -> Option<Owner> {
    let mut fields = line.split(':');
    if fields.next()? != name {
        return None;
    }
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(Owner {
        name: name.to_owned(),
        uid,
        gid,
    })
}

impl Owner {
    /// Fails if the user cannot pass through a parent of the directory.
    pub(super) fn check_access(&self, dir: &Path) -> Result<(), EmbeddedError> {
        const OTHERS_PASS: u32 = 0o001;
        for above in dir.ancestors().skip(1) {
            let metadata = fs::metadata(above).map_err(EmbeddedError::io(format!(
                "cannot read the metadata of {}",
                above.display()
            )))?;
            if metadata.permissions().mode() & OTHERS_PASS == 0 && metadata.uid() != self.uid {
                return Err(EmbeddedError::Unreachable {
                    dir: above.to_owned(),
                    user: self.name.clone(),
                });
            }
        }
        Ok(())
    }

    /// Makes the user the owner of a file or a directory.
    pub(super) fn take(&self, path: &Path) -> Result<(), EmbeddedError> {
        chown(path, Some(self.uid), Some(self.gid)).map_err(EmbeddedError::io(format!(
            "cannot give {} to the user {}",
            path.display(),
            self.name
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_passwd_matches_only_the_whole_user_name() {
        let line = "postgres:x:101:104:PostgreSQL administrator,,,:/var/lib/postgresql:/bin/bash";
        let owner = parse_passwd_line(line, "postgres").expect("the user of this line");
        assert_eq!((owner.uid, owner.gid), (101, 104));
        assert!(parse_passwd_line(line, "postgre").is_none());
    }
}
