//! The maximum number of a server's database connections in these tests.

/// 8 for reads, 5 for each of the two writers (their flush connections and those that wait for locked spirits), and
/// one each for LISTEN, the probe, the checks of API keys and their look-ups.
pub const CONNECTIONS_MAX: i64 = 8 + 2 * 5 + 4;
