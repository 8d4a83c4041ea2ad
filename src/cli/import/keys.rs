//! Dedupe keys of events that bring none, so that an import can be repeated.

use sha2::{Digest as _, Sha256};

use crate::domain::dedupe::hex;

/// Bytes of the hash in a derived key.
const KEY_BYTES: usize = 16;

/// Derives dedupe keys for the events of one source from the spirit, the source's name, the event's text and its ordinal
/// among equal texts of the source.
pub(super) struct KeyDeriver {
    spirit_id: String,
    source: String,
    seen: HashCounts,
}

impl KeyDeriver {
    pub(super) fn new(spirit_id: String, source: String) -> Self {
        Self {
            spirit_id,
            source,
            seen: HashCounts::default(),
        }
    }

    /// Returns the key of the next event with this text: a line without surrounding whitespace, or compact JSON.
    pub(super) fn key(&mut self, text: &str) -> String {
        let digest = Sha256::digest(text);
        let ordinal = self
            .seen
            .add(u64::from_be_bytes(std::array::from_fn(|i| digest[i])));
        let mut hash = Sha256::new();
        hash.update(format!("{}\0{}\0{ordinal}\0", self.spirit_id, self.source));
        hash.update(digest);
        format!("import:{}", hex(&hash.finalize()[..KEY_BYTES]))
    }

    /// Returns the key of an exported event, which its id identifies in every file and at every line.
    pub(super) fn key_of_event(&self, id: &str) -> String {
        let mut hash = Sha256::new();
        hash.update(format!("{}\0event\0{id}", self.spirit_id));
        format!("import:{}", hex(&hash.finalize()[..KEY_BYTES]))
    }
}

/// Number of vectors in a [`HashCounts`]: their bookkeeping takes 400 kB, and an insert into one of them moves a few
/// kilobytes even after a hundred million hashes.
const SHARDS: usize = 1 << 14;
/// Capacity by which a small vector grows.
const GROWTH_MIN: usize = 4;

/// A multiset of hashes in about 10 bytes a hash, where a hash map takes 20 to 40.
///
/// Different texts with the same hash count as equal. Their ordinals then differ, and so do their keys, in every
/// repetition alike.
#[derive(Default)]
struct HashCounts {
    /// Sorted hashes, by their highest bits; empty before the first hash.
    shards: Vec<Vec<u64>>,
}

impl HashCounts {
    /// Adds a hash and returns how often it has been added.
    fn add(&mut self, hash: u64) -> usize {
        if self.shards.is_empty() {
            self.shards = vec![Vec::new(); SHARDS];
        }
        let index = usize::try_from(hash >> (u64::BITS - SHARDS.trailing_zeros())).unwrap_or(0);
        let shard = &mut self.shards[index];
        if shard.len() == shard.capacity() {
            // Doubling would waste up to half of the memory.
            shard.reserve_exact(GROWTH_MIN.max(shard.len() / 8));
        }
        let start = shard.partition_point(|other| *other < hash);
        let end = start + shard[start..].partition_point(|other| *other == hash);
        shard.insert(end, hash);
        end - start + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_get_distinct_keys_which_are_the_same_in_the_next_run() {
        let keys = |source: &str| {
            let mut deriver = KeyDeriver::new("s".to_owned(), source.to_owned());
            ["x", "y", "x"].map(|text| deriver.key(text))
        };
        let [first, other, second] = keys("a");
        assert!(first != second && first != other && second != other);
        assert_eq!(keys("a"), [first.clone(), other, second]);
        assert!(!keys("b").contains(&first), "keys of another source");
    }

    #[test]
    fn hashes_are_counted_in_any_order() {
        let mut counts = HashCounts::default();
        for round in 1..=3 {
            for hash in [7, u64::MAX, 0, 1 << 63, 8] {
                assert_eq!(counts.add(hash), round);
            }
        }
    }

    #[test]
    fn a_hash_takes_at_most_16_bytes() {
        const HASHES: usize = 300_000;
        let mut counts = HashCounts::default();
        for n in 0..HASHES as u64 {
            counts.add(n.wrapping_mul(0x9E37_79B9_7F4A_7C15)); // spread over all shards
        }
        let capacity: usize = counts.shards.iter().map(Vec::capacity).sum();
        let bytes = capacity * size_of::<u64>() + SHARDS * size_of::<Vec<u64>>();
        assert!(bytes <= 16 * HASHES, "{bytes} bytes");
    }
}
