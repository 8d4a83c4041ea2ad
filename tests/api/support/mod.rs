//! The server, the databases and the clients that the tests share. Start at [`harness`].

pub mod access;
pub mod builders;
#[path = "../../shared/certificates.rs"]
pub mod certificates;
pub mod cluster;
#[path = "../../shared/connections.rs"]
pub mod connections;
pub mod frames;
pub mod harness;
pub mod live;
pub mod load;
pub mod model;
pub mod pgbouncer;
pub mod probes;
pub mod proxy;
pub mod raw;
pub mod scrape;
pub mod watched;
