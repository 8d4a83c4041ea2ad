//! The division of spirits among the shards of a distributed database.
//!
//! Citus stores a spirit in the shard whose range contains the hash of its id. The service computes the same hash, so
//! that a flush has spirits of one shard only.

use super::ids::SpiritId;

/// Maximum number of shards. Each has a writer with connections of its own.
pub const SHARDS_MAX: usize = 64;

/// Bits of a hash.
const HASH_BITS: u32 = 32;

/// The shards of a distributed table, by the lowest hash of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardMap {
    /// Ascending; the first is `i32::MIN`.
    lowest_hashes: Vec<i32>,
}

impl ShardMap {
    /// Creates a map of this number of shards, at least one, with ranges of the same length, as Citus creates them.
    #[must_use]
    pub fn uniform(shards: u32) -> Self {
        let shards = i64::from(shards.max(1));
        let length = (1_i64 << HASH_BITS) / shards;
        let lowest = |shard| i32::try_from(i64::from(i32::MIN) + shard * length).unwrap_or(i32::MAX);
        Self {
            lowest_hashes: (0..shards).map(lowest).collect(),
        }
    }

    /// Creates a map of shards with these lowest hashes. Returns `None` unless their ranges cover all hashes.
    #[must_use]
    pub fn with_lowest_hashes(mut lowest_hashes: Vec<i32>) -> Option<Self> {
        lowest_hashes.sort_unstable();
        lowest_hashes.dedup();
        (lowest_hashes.first() == Some(&i32::MIN)).then_some(Self { lowest_hashes })
    }

    /// Returns the number of shards.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lowest_hashes.len()
    }

    /// Returns the index of the shard of a spirit.
    #[must_use]
    pub fn shard_of(&self, spirit_id: SpiritId) -> usize {
        let hash = uuid_hash(spirit_id);
        self.lowest_hashes
            .partition_point(|lowest| *lowest <= hash)
            .saturating_sub(1)
    }
}

/// Returns what PostgreSQL's function `uuid_hash` returns for the id on little-endian machines: Bob Jenkins' hash
/// lookup3 of its 16 bytes, with PostgreSQL's initial value.
#[must_use]
pub fn uuid_hash(spirit_id: SpiritId) -> i32 {
    const LENGTH: u32 = 16;
    let initial = 0x9e37_79b9_u32.wrapping_add(LENGTH).wrapping_add(3_923_095);
    let bytes = spirit_id.0.as_bytes();
    let word = |index: usize| {
        let word = &bytes[4 * index..];
        u32::from_le_bytes([word[0], word[1], word[2], word[3]])
    };
    let [a, b, c] = [0, 1, 2].map(|index| initial.wrapping_add(word(index)));
    let [a, b, c] = mixed([a, b, c]);
    finished([a.wrapping_add(word(3)), b, c]).cast_signed()
}

/// Mixes three words reversibly.
fn mixed([mut a, mut b, mut c]: [u32; 3]) -> [u32; 3] {
    for [of_c, of_a, of_b] in [[4, 6, 8], [16, 19, 4]] {
        a = a.wrapping_sub(c) ^ c.rotate_left(of_c);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(of_a);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(of_b);
        b = b.wrapping_add(a);
    }
    [a, b, c]
}

/// Mixes three words into the last one.
fn finished([mut a, mut b, mut c]: [u32; 3]) -> u32 {
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn the_hash_is_that_of_postgresql() {
        assert_eq!(uuid_hash(SpiritId(Uuid::from_u128(1))), -1_046_387_463);
    }

    #[test]
    fn a_spirit_is_in_the_shard_whose_range_contains_its_hash() {
        let uniform = ShardMap::uniform(8);
        let lowest = (-4..4).map(|eighth| eighth * (1 << 29)).collect();
        assert_eq!(ShardMap::with_lowest_hashes(lowest), Some(uniform.clone()));
        for _ in 0..1_000 {
            let spirit_id = SpiritId::generate();
            let hash = i64::from(uuid_hash(spirit_id));
            let shard = ((hash + (1 << 31)) * 8) >> 32;
            assert_eq!(Ok(uniform.shard_of(spirit_id)), usize::try_from(shard));
        }
        assert_eq!(ShardMap::uniform(1).shard_of(SpiritId::generate()), 0);
        assert_eq!(ShardMap::uniform(3).count(), 3);
        assert_eq!(ShardMap::with_lowest_hashes(vec![0]), None);
        assert_eq!(ShardMap::with_lowest_hashes(Vec::new()), None);
    }
}
