//! Finds the sources of an import: files, the files of folders, and standard input.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::text::Origin;
use crate::config::BadSettings;

/// Extensions of the files that are read in a folder, packed or not.
const EXTENSIONS: [&str; 3] = ["jsonl", "ndjson", "json"];
const PACKED: [&str; 2] = [".gz", ".zst"];

/// A file, or standard input.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// The name in derived dedupe keys: independent of the working directory and of packing.
    pub(super) name: String,
    /// The path as the user gave it, for messages.
    pub(super) path: String,
    pub(super) origin: Origin,
    /// Size on disk; `None` if it is not known beforehand.
    pub(super) bytes: Option<u64>,
}

/// The sources of an import in their order.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) sources: Vec<Source>,
    /// Files of folders whose extension is not that of JSON.
    pub(super) passed_over: Vec<String>,
    absent: Absent,
}

/// The treatment of paths that hold nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absent {
    /// A path that does not exist and an empty folder are errors.
    Refuse,
    /// They have no sources, since files may come later.
    Accept,
}

/// Returns the sources of the arguments. `name` replaces the name of a single source.
pub(super) fn find(paths: &[String], name: Option<String>, absent: Absent) -> anyhow::Result<Found> {
    let mut found = Found {
        sources: Vec::new(),
        passed_over: Vec::new(),
        absent,
    };
    for path in paths {
        found.add(path)?;
    }
    if let Some(name) = name.filter(|_| absent == Absent::Refuse || !found.sources.is_empty()) {
        let [source] = found.sources.as_mut_slice() else {
            let text = format!(
                "--source names one source, but {} were given",
                found.sources.len()
            );
            return Err(BadSettings(text).into());
        };
        source.name = name;
    }
    found.check_names()?;
    Ok(found)
}

impl Found {
    fn add(&mut self, path: &str) -> anyhow::Result<()> {
        if path == "-" {
            self.sources.push(Source {
                name: "-".to_owned(),
                path: "standard input".to_owned(),
                origin: Origin::Stdin,
                bytes: None,
            });
            return Ok(());
        }
        let metadata = match fs::metadata(path) {
            Err(error) if self.accepts(&error) => return Ok(()),
            metadata => metadata.with_context(|| format!("cannot open {path}"))?,
        };
        if !metadata.is_dir() {
            let name = Path::new(path).file_name().unwrap_or(path.as_ref());
            return self.add_file(Path::new(path), &name.to_string_lossy());
        }
        let before = self.sources.len();
        self.add_folder(Path::new(path), "")?;
        if self.sources.len() == before && self.absent == Absent::Refuse {
            let names = EXTENSIONS.map(|extension| format!(".{extension}")).join(", ");
            return Err(BadSettings(format!(
                "{path} holds no file whose name ends in {names}, packed or not"
            ))
            .into());
        }
        Ok(())
    }

    /// Adds a file, which must be readable. A pipe is opened only to be read, since its writer ends with its reader.
    fn add_file(&mut self, path: &Path, name: &str) -> anyhow::Result<()> {
        let shown = path.display().to_string();
        let checked = fs::metadata(path).and_then(|metadata| {
            if metadata.is_file() {
                fs::File::open(path)?;
            }
            Ok(metadata)
        });
        let metadata = match checked {
            Err(error) if self.accepts(&error) => return Ok(()),
            checked => checked.with_context(|| format!("cannot open {shown}"))?,
        };
        self.sources.push(Source {
            name: unpacked_name(name).to_owned(),
            path: shown,
            origin: Origin::File(path.to_owned()),
            bytes: metadata.is_file().then_some(metadata.len()),
        });
        Ok(())
    }

    /// Returns whether a path may be absent that could not be opened for this reason.
    fn accepts(&self, error: &io::Error) -> bool {
        self.absent == Absent::Accept && error.kind() == io::ErrorKind::NotFound
    }

    /// Adds the files below a folder in the order of their names. `below` is the path from the argument, with a slash at
    /// its end. Links to folders are not followed.
    fn add_folder(&mut self, folder: &Path, below: &str) -> anyhow::Result<()> {
        let unreadable = || format!("cannot read the folder {}", folder.display());
        let mut entries: Vec<PathBuf> = fs::read_dir(folder)
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
            .with_context(unreadable)?;
        entries.sort();
        for path in entries {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let name = format!("{below}{name}");
            let is_link = path.is_symlink();
            if path.is_dir() && !is_link {
                self.add_folder(&path, &format!("{name}/"))?;
            } else if path.is_file() && has_json_extension(&name) {
                self.add_file(&path, &name)?;
            } else {
                self.passed_over.push(path.display().to_string());
            }
        }
        Ok(())
    }

    /// Checks that no two sources have the same name, because their equal lines would get the same keys.
    fn check_names(&self) -> Result<(), BadSettings> {
        let mut paths = HashMap::new();
        for source in &self.sources {
            if let Some(other) = paths.insert(source.name.as_str(), source.path.as_str()) {
                return Err(BadSettings(format!(
                    "{other} and {} have the same name, {}; import the folder that holds both, or import them one by \
                     one with --source",
                    source.path, source.name
                )));
            }
        }
        Ok(())
    }
}

fn unpacked_name(name: &str) -> &str {
    PACKED
        .iter()
        .find_map(|extension| name.strip_suffix(extension))
        .unwrap_or(name)
}

fn has_json_extension(name: &str) -> bool {
    let extension = Path::new(unpacked_name(name)).extension();
    extension.is_some_and(|extension| EXTENSIONS.iter().any(|json| extension.eq_ignore_ascii_case(json)))
}
