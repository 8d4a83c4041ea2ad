//! How many connections to the database a server may have.

/// Of reads; of each of two writers and those of its spirits that wait for a lock; LISTEN, the probe, keys.
pub const CONNECTIONS_MAX: i64 = 8 + 2 * 5 + 3;
