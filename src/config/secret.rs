//! Secrets from settings and files.

use std::path::Path;

use secrecy::SecretString;

use super::BadSettings;

/// Reads a secret from a file, without the line ending.
pub(crate) fn read_secret(file: &Path) -> Result<SecretString, BadSettings> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(text.trim_end_matches(['\r', '\n']).into()),
        Err(error) => Err(BadSettings(format!("cannot read {}: {error}", file.display()))),
    }
}

/// Returns the secret of the file if there is one, otherwise the given one.
pub(super) fn given_or_read(
    given: Option<&SecretString>,
    file: Option<&Path>,
) -> Result<Option<SecretString>, BadSettings> {
    match file {
        Some(file) => read_secret(file).map(Some),
        None => Ok(given.cloned()),
    }
}
