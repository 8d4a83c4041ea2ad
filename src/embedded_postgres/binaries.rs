//! Finds the programs of PostgreSQL.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::EmbeddedError;

/// The oldest supported major version.
pub(super) const OLDEST_MAJOR: u32 = 15;

/// Common install locations: parent directory, name prefix of a version's directory, subdirectory of the
/// programs.
const USUAL: [(&str, &str, &str); 4] = [
    ("/usr/lib/postgresql", "", "bin"),         // Debian, Ubuntu
    ("/usr", "pgsql-", "bin"),                  // RHEL, Fedora
    ("/opt/homebrew/opt", "postgresql", "bin"), // Homebrew on Apple silicon
    ("/usr/local/opt", "postgresql", "bin"),    // Homebrew on Intel
];

/// The programs of one installed version.
#[derive(Clone, Debug)]
pub(super) struct Binaries {
    pub(super) dir: PathBuf,
    pub(super) major: u32,
    /// Full version, such as `15.18`.
    pub(super) version: String,
}

impl Binaries {
    /// Returns the programs in `bin_dir` if it is given, otherwise the newest installed ones. If data exists,
    /// only programs of its major version qualify.
    pub(super) fn find(
        bin_dir: Option<&Path>,
        data_major: Option<u32>,
        data_dir: &Path,
    ) -> Result<Self, EmbeddedError> {
        let dirs = bin_dir.map_or_else(candidates, |dir| vec![dir.to_owned()]);
        let mut found: Vec<Self> = dirs.iter().filter_map(|dir| Self::of(dir)).collect();
        found.sort_by_key(|binaries| std::cmp::Reverse(binaries.major));
        let usable = found.iter().filter(|binaries| binaries.major >= OLDEST_MAJOR);
        let fitting = usable
            .clone()
            .find(|binaries| data_major.is_none_or(|major| major == binaries.major));
        if let Some(binaries) = fitting {
            return Ok(binaries.clone());
        }
        let versions: Vec<String> = found
            .iter()
            .map(|binaries| format!("{} in {}", binaries.version, binaries.dir.display()))
            .collect();
        match data_major {
            Some(data) if usable.count() > 0 => Err(EmbeddedError::OtherVersion {
                dir: data_dir.to_owned(),
                data,
                found: versions.join(", "),
            }),
            _ => Err(EmbeddedError::NotFound(match (bin_dir, versions.is_empty()) {
                (Some(dir), true) => format!(" in {} (PG_BIN_DIR)", dir.display()),
                (None, true) => String::new(),
                (_, false) => format!(", only {}", versions.join(", ")),
            })),
        }
    }

    fn of(dir: &Path) -> Option<Self> {
        if !["initdb", "pg_ctl"]
            .iter()
            .all(|program| dir.join(program).is_file())
        {
            return None;
        }
        let output = Command::new(dir.join("postgres"))
            .arg("--version")
            .output()
            .ok()?;
        let version = version_of(&String::from_utf8_lossy(&output.stdout))?;
        Some(Self {
            dir: dir.to_owned(),
            major: major_of(&version)?,
            version,
        })
    }
}

/// Returns the installed directories of PostgreSQL programs, without duplicates.
fn candidates() -> Vec<PathBuf> {
    let pg_config_dir = Command::new("pg_config")
        .arg("--bindir")
        .output()
        .ok()
        .and_then(|output| {
            let dir = String::from_utf8(output.stdout).ok()?;
            Some(PathBuf::from(dir.trim()))
        });
    let path = env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = pg_config_dir.into_iter().chain(env::split_paths(&path)).collect();
    for (above, prefix, below) in USUAL {
        let Ok(entries) = fs::read_dir(above) else {
            continue;
        };
        let named = entries
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
        dirs.extend(named.map(|entry| entry.path().join(below)));
    }
    dirs.retain(|dir| dir.join("postgres").is_file());
    // Several symbolic links may lead to the same programs.
    let mut dirs: Vec<PathBuf> = dirs
        .iter()
        .filter_map(|dir| Some(fs::canonicalize(dir.join("postgres")).ok()?.parent()?.to_owned()))
        .collect();
    dirs.sort();
    dirs.dedup();
    dirs
}

/// Extracts the version from the output of `postgres --version`: `15.18` from
/// `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
fn version_of(output: &str) -> Option<String> {
    let version = output.split_once("(PostgreSQL) ")?.1.split_whitespace().next()?;
    Some(version.to_owned())
}

/// Returns the major version: 15 of `15.18`, 18 of `18beta1`.
fn major_of(version: &str) -> Option<u32> {
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_extracted_from_the_output_of_the_program() {
        for (output, version, major) in [
            (
                "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n",
                "15.18",
                15,
            ),
            ("postgres (PostgreSQL) 18beta1\n", "18beta1", 18),
        ] {
            assert_eq!(version_of(output).as_deref(), Some(version));
            assert_eq!(major_of(version), Some(major));
        }
        assert_eq!(version_of("no such thing"), None);
    }
}
