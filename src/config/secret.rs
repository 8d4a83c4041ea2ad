//! Values that no log, message or `--help` shows.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use super::BadSettings;

/// A value that is never shown.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Reads it from a file, without the line's end.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(file: &Path) -> Result<Self, BadSettings> {
        match std::fs::read_to_string(file) {
            Ok(text) => Ok(Self(text.trim_end_matches(['\r', '\n']).to_owned())),
            Err(error) => Err(BadSettings(format!("cannot read {}: {error}", file.display()))),
        }
    }

    /// The value, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

/// A secret, given or in a file.
pub(super) fn given_or_read(
    given: Option<&Secret>,
    file: Option<&Path>,
) -> Result<Option<Secret>, BadSettings> {
    match file {
        Some(file) => Secret::read(file).map(Some),
        None => Ok(given.cloned()),
    }
}
