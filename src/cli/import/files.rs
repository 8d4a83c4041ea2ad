//! The counts and findings of an import for each file.

use std::collections::{BTreeMap, HashMap};

use super::sources::Source;

/// Numbers of lines and what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) created: u64,
    pub(super) duplicates: u64,
    /// Duplicates whose stored event has other content.
    pub(super) different: u64,
    pub(super) bad: u64,
    /// Characters that were replaced.
    pub(super) repaired: u64,
    /// Changes of the title, owner or `meta` of a session.
    pub(super) sessions: u64,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.created += other.created;
        self.duplicates += other.duplicates;
        self.different += other.different;
        self.bad += other.bad;
        self.repaired += other.repaired;
        self.sessions += other.sessions;
    }
}

/// The counts and findings of a file.
#[derive(Debug, Default)]
pub(super) struct FileTally {
    pub(super) path: String,
    pub(super) counts: Counts,
    /// The format of transcripts that was recognised.
    pub(super) format: Option<&'static str>,
    /// Number of skipped parts of transcripts by kind.
    pub(super) skipped: BTreeMap<String, u64>,
    /// The reason why the file was not read, or not to its end.
    pub(super) error: Option<String>,
}

/// The files of an import, in the order in which they were first read.
#[derive(Debug, Default)]
pub(super) struct Files {
    tallies: Vec<FileTally>,
    by_path: HashMap<String, usize>,
    /// The files of the current sources.
    sources: Vec<usize>,
}

impl Files {
    /// Begins with sources. Of files that were read before, the counts stay and the findings are made anew.
    pub(super) fn begin(&mut self, sources: &[Source]) {
        self.sources.clear();
        for source in sources {
            let next = self.tallies.len();
            let index = *self.by_path.entry(source.path.clone()).or_insert(next);
            if index == next {
                self.tallies.push(FileTally {
                    path: source.path.clone(),
                    ..FileTally::default()
                });
            }
            let file = &mut self.tallies[index];
            file.format = None;
            file.skipped.clear();
            file.error = None;
            self.sources.push(index);
        }
    }

    /// Returns the file of a current source.
    pub(super) fn of(&self, source: usize) -> &FileTally {
        &self.tallies[self.sources[source]]
    }

    /// Returns the file of a current source.
    pub(super) fn of_mut(&mut self, source: usize) -> &mut FileTally {
        &mut self.tallies[self.sources[source]]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &FileTally> {
        self.tallies.iter()
    }

    pub(super) fn totals(&self) -> Counts {
        let mut totals = Counts::default();
        for file in &self.tallies {
            totals.add(&file.counts);
        }
        totals
    }

    /// Returns the number of files by format of transcripts.
    pub(super) fn formats(&self) -> BTreeMap<&'static str, u64> {
        let mut formats = BTreeMap::new();
        for format in self.tallies.iter().filter_map(|file| file.format) {
            *formats.entry(format).or_default() += 1;
        }
        formats
    }

    /// Returns the number of skipped parts by kind.
    pub(super) fn skipped(&self) -> BTreeMap<&str, u64> {
        let mut skipped = BTreeMap::new();
        for (kind, count) in self.tallies.iter().flat_map(|file| &file.skipped) {
            *skipped.entry(kind.as_str()).or_default() += count;
        }
        skipped
    }
}
