//! `import --watch`: follows growing files and new files in folders until it is stopped.
//!
//! Every second the sizes and times of all files are compared with those of the last look. A file that differs is read
//! again from its start, since transcripts can only be converted from their start; [`Watched`] leaves out what is
//! stored. So a file may also be truncated, replaced or rewritten.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use tokio::time::sleep;

use super::super::client::explain;
use super::super::retry::is_transient;
use super::super::stop;
use super::Importer;
use super::sources::{self, Absent, Source};
use super::text::Origin;
use super::watched::{Watched, WatchedSource};
use crate::config::BadSettings;

/// Pause between two looks at the files.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time without a change after which the last record of a file is taken for complete.
const SETTLED_AFTER: Duration = Duration::from_secs(5);
/// Bytes of a file that are read again for each second since it was last read, so that a large file that grows all the
/// time costs little.
const REREAD_BYTES_PER_SECOND: u64 = 5 * 1024 * 1024;

/// The files to watch, and what was last seen of them.
pub(super) struct Watch {
    paths: Vec<String>,
    name: Option<String>,
    files: HashMap<String, FileState>,
}

/// The state of a file when it was last read.
struct FileState {
    seen: Seen,
    read_at: Instant,
    has_loose_end: bool,
    is_rejected: bool,
}

/// The attributes of a file that change with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    bytes: u64,
    modified: Option<SystemTime>,
    inode: u64,
}

/// A file that is to be read.
struct Due {
    source: Source,
    seen: Seen,
    is_growing: bool,
    is_replaced: bool,
}

impl Watch {
    pub(super) fn new(paths: Vec<String>, name: Option<String>) -> anyhow::Result<Self> {
        for path in &paths {
            if path == "-" {
                return Err(
                    BadSettings("--watch follows files and folders, not standard input".to_owned()).into(),
                );
            }
            fs::metadata(path).with_context(|| format!("cannot open {path}"))?;
        }
        Ok(Self {
            paths,
            name,
            files: HashMap::new(),
        })
    }

    /// Imports what is new until SIGINT or SIGTERM. Fails only if nothing more can be stored.
    pub(super) async fn run(mut self, importer: &mut Importer) -> anyhow::Result<()> {
        let mut watched = Watched::default();
        let stopped = stop::requested();
        tokio::pin!(stopped);
        let mut problem = None;
        loop {
            let result = tokio::select! {
                stopped = &mut stopped => return self.end(importer, stopped),
                result = self.pass(importer, &mut watched) => result,
            };
            let now = match result {
                Ok(()) => None,
                Err(Problem::Passing(text)) => Some(text),
                Err(Problem::Final(error)) => return Err(error),
            };
            // A problem that lasts is named once.
            if let Some(text) = now.as_ref().filter(|_| now != problem) {
                importer.tally.note(text);
            }
            problem = now;
            tokio::select! {
                stopped = &mut stopped => return self.end(importer, stopped),
                () = sleep(INTERVAL) => {}
            }
        }
    }

    /// Names the files whose last record is incomplete.
    fn end(&self, importer: &Importer, stopped: std::io::Result<()>) -> anyhow::Result<()> {
        let mut loose: Vec<&str> = self
            .files
            .iter()
            .filter(|(_, file)| file.has_loose_end)
            .map(|(path, _)| path.as_str())
            .collect();
        loose.sort_unstable();
        for path in loose {
            importer
                .tally
                .note(&format!("{path}: its last record is incomplete and not stored"));
        }
        stopped.context("cannot wait for signals")
    }

    /// Looks at all files once and imports what is new.
    async fn pass(&mut self, importer: &mut Importer, watched: &mut Watched) -> Result<(), Problem> {
        let found = sources::find(&self.paths, self.name.clone(), Absent::Accept);
        let found = found.map_err(|error| Problem::Passing(format!("{error:#}")))?;
        let paths: HashSet<&str> = found.sources.iter().map(|source| source.path.as_str()).collect();
        self.files.retain(|path, _| paths.contains(path.as_str()));
        let due: Vec<Due> = found
            .sources
            .into_iter()
            .filter_map(|source| self.due(source))
            .collect();
        if due.is_empty() {
            return Ok(());
        }
        for file in due.iter().filter(|file| file.is_replaced) {
            let path = &file.source.path;
            importer.tally.note(&format!(
                "{path}: truncated or replaced; it is read from its start"
            ));
        }
        let of_pass = |file: &Due| WatchedSource::new(file.source.path.clone(), file.is_growing);
        watched.begin(due.iter().map(of_pass).collect());
        let sources = due.iter().map(|file| file.source.clone()).collect();
        let imported = importer.import(sources, Some(&mut *watched)).await;
        imported.map_err(|status| {
            if is_transient(&status) {
                Problem::Passing(format!("{:#}; the watch goes on", explain(status)))
            } else {
                Problem::Final(super::stopped(status))
            }
        })?;
        for (file, read) in due.into_iter().zip(watched.end()) {
            let state = FileState {
                seen: file.seen,
                read_at: Instant::now(),
                has_loose_end: read.has_loose_end,
                is_rejected: read.is_rejected,
            };
            self.files.insert(read.path, state);
        }
        Ok(())
    }

    /// Returns the file if it has to be read now.
    fn due(&self, source: Source) -> Option<Due> {
        let seen = Seen::of(&source)?;
        let Some(last) = self.files.get(&source.path) else {
            return Some(Due {
                source,
                seen,
                is_growing: seen.is_recent(),
                is_replaced: false,
            });
        };
        let since = last.read_at.elapsed();
        let is_replaced = seen.bytes < last.seen.bytes || seen.inode != last.seen.inode;
        let is_due = if seen == last.seen {
            last.has_loose_end && since >= SETTLED_AFTER
        } else {
            let is_paused = since.as_secs() < seen.bytes / REREAD_BYTES_PER_SECOND;
            is_replaced || !(is_paused || last.is_rejected)
        };
        is_due.then(|| Due {
            source,
            seen,
            is_growing: seen != last.seen && seen.is_recent(),
            is_replaced,
        })
    }
}

impl Seen {
    /// Returns the state of a file, or `None` if it is gone.
    fn of(source: &Source) -> Option<Self> {
        let Origin::File(path) = &source.origin else {
            return None;
        };
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            bytes: metadata.len(),
            modified: metadata.modified().ok(),
            inode: metadata.ino(),
        })
    }

    /// Returns whether the file has changed so recently that it may be changing now.
    fn is_recent(&self) -> bool {
        let age = self.modified.map(|modified| modified.elapsed());
        !age.is_some_and(|age| age.is_ok_and(|age| age >= SETTLED_AFTER))
    }
}

/// The reason why a pass failed.
enum Problem {
    /// The next pass may succeed.
    Passing(String),
    Final(anyhow::Error),
}
