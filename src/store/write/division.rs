//! The division of spirits among writers.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::job::Job;
use crate::domain::ids::SpiritId;
use crate::domain::shard::ShardMap;

/// The rule by which a spirit belongs to a writer, so that its events are stored in the order in which they are queued.
#[derive(Debug)]
pub(super) enum Division {
    /// By hash, among this number of writers.
    Hashed(usize),
    /// By shard, with a writer for each. A flush has spirits of one shard, so that Citus sends its statements to one worker
    /// and commits in one phase.
    Shards(ShardMap),
}

impl Division {
    /// Returns the number of writers.
    pub(super) fn writers(&self) -> usize {
        match self {
            Self::Hashed(writers) => *writers,
            Self::Shards(shards) => shards.count(),
        }
    }

    /// Returns the index of the writer of a spirit.
    pub(super) fn writer_of(&self, spirit_id: SpiritId) -> usize {
        match self {
            Self::Hashed(writers) => {
                let mut hasher = DefaultHasher::new();
                spirit_id.hash(&mut hasher);
                usize::try_from(hasher.finish() % *writers as u64).unwrap_or_default()
            }
            Self::Shards(shards) => shards.shard_of(spirit_id),
        }
    }

    /// Divides items into groups for which a statement reads one shard, in the order of the shards. Items of a group keep
    /// their order. Without shards there is one group.
    pub(super) fn by_shard<T>(
        &self,
        items: impl IntoIterator<Item = T>,
        spirit_id: impl Fn(&T) -> SpiritId,
    ) -> Vec<Vec<T>> {
        let Self::Shards(shards) = self else {
            return vec![items.into_iter().collect()];
        };
        let mut groups: BTreeMap<usize, Vec<T>> = BTreeMap::new();
        for item in items {
            let shard = shards.shard_of(spirit_id(&item));
            groups.entry(shard).or_default().push(item);
        }
        groups.into_values().collect()
    }

    /// Divides jobs into flushes, which keep the order of the jobs. A job with spirits of several shards is a flush of its
    /// own, and the others are of one shard.
    pub(super) fn flushes(&self, jobs: Vec<Job>) -> Vec<Vec<Job>> {
        let Self::Shards(shards) = self else {
            return vec![jobs];
        };
        let mut flushes: Vec<Vec<Job>> = Vec::new();
        let mut shard_of_last = None;
        for job in jobs {
            let shard = only_shard(shards, &job);
            match flushes.last_mut() {
                Some(last) if shard.is_some() && shard == shard_of_last => last.push(job),
                _ => flushes.push(vec![job]),
            }
            shard_of_last = shard;
        }
        flushes
    }
}

/// Returns the shard of the spirits of a job, `None` if there are several.
fn only_shard(shards: &ShardMap, job: &Job) -> Option<usize> {
    let mut of_items = job.items.iter().map(|item| shards.shard_of(item.spirit_id));
    let first = of_items.next()?;
    of_items.all(|shard| shard == first).then_some(first)
}
